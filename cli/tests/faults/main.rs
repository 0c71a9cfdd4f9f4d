//! The service under faults, from outside: killed at random moments, its database taken away, its key rotated
//! under load. Real processes, a real model, real databases.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

mod load;
#[path = "../../../ledger/tests/suite/postgres.rs"]
mod postgres;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::{Acknowledged, Load};
use crate::service::{Client, Place, Service};

/// Each test has the machine to itself: two servers that rotate beside one that is killed again and again would
/// measure patience, not faults.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How often to kill, for each store: 200 in `x.py faults`, a few in the everyday run.
fn kills() -> u32 {
    std::env::var("DANDYROLL_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn sqlite(folder: &Path) -> Place {
    Place { folder: folder.join("data"), database: None, kek: None }
}

fn on_postgres(folder: &Path, name: &str, address: &str) -> Place {
    let database = folder.join("database-url");
    std::fs::write(&database, address).unwrap();
    private(&database);
    let kek = folder.join("kek");
    if !kek.exists() {
        // Servers that share a database share the key, so it is made beforehand.
        std::fs::write(&kek, format!("{:064x}\n", std::process::id())).unwrap();
        private(&kek);
    }
    Place { folder: folder.join(name), database: Some(database), kek: Some(kek) }
}

fn private(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A reproducible order of random moments: the seed is printed with a failure.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % below)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_sqlite() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    Box::pin(killed_at_random_moments(sqlite(folder.path()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_postgres() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let address = postgres::database(true).await;
    Box::pin(killed_at_random_moments(on_postgres(folder.path(), "data", &address))).await;
}

/// After each kill and restart: every acknowledged operation has its completed row, the chain verifies, at most
/// one version is active, every master opens. At the end: what was generated is detected as its reply said.
async fn killed_at_random_moments(place: Place) {
    let seed = u64::from(std::process::id()) | 1;
    let mut moments = Moments(seed);
    let mut token = None;
    let mut all = Vec::new();
    for kill in 0..kills() {
        let mut service = Service::start(&place);
        token = token.or(service.token.take());
        let client = Client::new(&service.url, token.as_ref().expect("the first start prints a token"));
        client.ready().await;
        if kill == 0 {
            client.prepare().await;
        }
        let load = Load::start(&client, kill % 10 == 0);
        tokio::time::sleep(moments.next(900)).await;
        service.kill();
        let acknowledged = load.stop().await;
        let where_ = format!("kill {kill} of seed {seed}");
        assert!(acknowledged.refused.is_empty(), "{where_}: {:?}", acknowledged.refused);
        all.extend(acknowledged.done);
        check_offline(&place, &where_);
    }
    let service = Service::start(&place);
    let client = Client::new(&service.url, token.as_ref().unwrap());
    client.ready().await;
    let entries = completed(&client, &all).await;
    let (_, ring) = client.get("/v1/admin/rings/default").await.unwrap();
    let versions = ring["versions"].as_array().unwrap();
    let active = versions.iter().filter(|version| version["state"] == "active").count();
    assert_eq!(active, 1, "{ring}");
    let known: BTreeSet<u64> = versions.iter().map(|version| version["version"].as_u64().unwrap()).collect();
    let mut detected = 0;
    for done in &all {
        match done {
            Acknowledged::Generated { version, text, tokens, .. } => {
                assert!(known.contains(version), "version {version} is lost");
                if *tokens >= 200 {
                    detected += u32::from(names_its_version(&client, text, *version).await);
                }
            }
            Acknowledged::Rotated { version, .. } => {
                assert!(known.contains(version), "version {version} is lost");
            }
            Acknowledged::Detected { .. } => {}
        }
    }
    let count = |what: fn(&Acknowledged) -> bool| all.iter().filter(|done| what(done)).count();
    println!(
        "{} kills, seed {seed}: {} generations ({detected} long ones detected), {} detections, {} rotations \
         acknowledged; {} rows verify",
        kills(),
        count(|done| matches!(done, Acknowledged::Generated { .. })),
        count(|done| matches!(done, Acknowledged::Detected { .. })),
        count(|done| matches!(done, Acknowledged::Rotated { .. })),
        entries.len()
    );
    let long =
        |done: &&Acknowledged| matches!(done, Acknowledged::Generated { tokens, .. } if *tokens >= 200);
    let long = all.iter().filter(long).count();
    assert!(detected > 0 || long < 5, "none of {long} long texts could be judged");
    assert!(all.len() > 5, "only {} operations were acknowledged", all.len());
    drop(service);
    check_offline(&place, "the end");
}

/// Waits until the service says that it can't serve.
async fn not_ready(client: &Client) {
    let begin = Instant::now();
    loop {
        let (status, body) = client.get("/readyz").await.expect("it answers");
        if status == 503 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(15), "still ready: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until everything that was begun is ended (what the dead left open, once they are taken for dead), and
/// holds that everything acknowledged has its completed row. Gives all rows.
async fn completed(client: &Client, acknowledged: &[Acknowledged]) -> Vec<Value> {
    let begin = Instant::now();
    let entries = loop {
        let entries = client.entries().await;
        let open = open(&entries);
        if open.is_empty() {
            break entries;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "never ended: {open:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let ends = ends(&entries);
    for done in acknowledged {
        assert_eq!(ends.get(done.receipt()).map(String::as_str), Some("ok"), "{done:?}");
    }
    entries
}

/// The chain verifies, with nobody running.
fn check_offline(place: &Place, when: &str) {
    let output = place.command(&["audit", "verify"]).output().unwrap();
    assert!(
        output.status.success(),
        "{when}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Holds that a text is detected as marked by this version; false for one of too few distinct pairs to say
/// anything (a small model that repeats itself), whatever their colours.
///
/// At δ 6 about nine pairs in ten are green. A text of 60 or more is missed at 1e-6 if no more than 32 are: with a
/// share of 0.8 that has probability below 1e-6.
async fn names_its_version(client: &Client, text: &str, version: u64) -> bool {
    let (status, found) = client.detect(text).await.unwrap();
    assert_eq!(status, 200, "{found}");
    if found["findings"][0]["scored"].as_u64().unwrap() < 60 {
        return false;
    }
    assert_eq!(found["verdict"], "detected", "{found}");
    let best = &found["findings"][0]["key"];
    assert_eq!(
        (best["alias"].as_str(), best["version"].as_u64()),
        (Some("default"), Some(version)),
        "{found}"
    );
    true
}

/// Receipts that were begun and not ended.
fn open(entries: &[Value]) -> BTreeSet<String> {
    let of = |kind: &str| -> BTreeSet<String> {
        let rows = entries.iter().filter(|entry| entry["kind"] == kind);
        rows.map(|entry| entry["receipt"].as_str().unwrap().to_owned()).collect()
    };
    of("begin").difference(&of("end")).cloned().collect()
}

fn ends(entries: &[Value]) -> BTreeMap<String, String> {
    let rows = entries.iter().filter(|entry| entry["kind"] == "end");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.map(|entry| (text(&entry["receipt"]), text(&entry["outcome"]))).collect()
}

/// Two servers on one PostgreSQL, two clients that generate and detect through both, ten rotations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rotations_under_two_servers_and_two_clients() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let address = postgres::database(false).await;
    let (first, second) =
        (on_postgres(folder.path(), "a", &address), on_postgres(folder.path(), "b", &address));
    let mut a = Service::start(&first);
    let token = a.token.take().expect("the first start prints a token");
    let mut b = Service::start(&second);
    assert_eq!(b.token, None, "one first token for a store");
    let clients = [Client::new(&a.url, &token), Client::new(&b.url, &token)];
    for client in &clients {
        client.ready().await;
    }
    clients[0].prepare().await;
    clients[1].knows().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let running: Vec<_> = [(0, 1), (1, 0)]
        .map(|(mine, other)| {
            let (mine, other) = (clients[mine].clone(), clients[other].clone());
            let stop = std::sync::Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut marked, mut judged) = (Vec::new(), 0_u32);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (status, made) = mine.generate(220).await.expect("an answer");
                    assert_eq!(status, 200, "{made}");
                    let version = made["watermark"]["version"].as_u64().unwrap();
                    let text = made["choices"][0]["text"].as_str().unwrap();
                    if made["usage"]["completion_tokens"].as_u64().unwrap() >= 200 {
                        // At once, on the server that did not make it.
                        judged += u32::from(names_its_version(&other, text, version).await);
                    }
                    marked.push((made["watermark"]["receipt"].as_str().unwrap().to_owned(), version));
                }
                (marked, judged)
            })
        })
        .into();
    for turn in 0..10_u64 {
        let begin = Instant::now();
        let client = &clients[usize::from(turn % 2 == 1)];
        let (status, rotated) = client.rotate().await.expect("an answer");
        assert!(status == 200 || status == 202, "{rotated}");
        let version = rotated["version"].as_u64().unwrap();
        loop {
            let (_, ring) = client.get("/v1/admin/rings/default").await.unwrap();
            let versions = ring["versions"].as_array().unwrap();
            if versions.iter().any(|row| row["version"] == version && row["state"] == "active") {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "rotation to {version} hangs: {ring}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Some text under each version.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut marked, mut judged) = (Vec::new(), 0);
    for client in running {
        let (more, of_them) = client.await.unwrap();
        marked.extend(more);
        judged += of_them;
    }
    // No text carries a version that was not yet active: its row came after the activation's.
    let entries = clients[0].entries().await;
    // The servers activate once all have acknowledged, or the rotation itself, where they were that quick.
    let ends = ends(&entries);
    let begin_of = |action: &str, version: u64| {
        let done = entries.iter().filter(|entry| {
            let receipt = entry["receipt"].as_str().unwrap_or_default();
            entry["action"] == action
                && entry["version"] == version
                && ends.get(receipt).is_some_and(|outcome| outcome == "ok")
        });
        let receipts: BTreeSet<_> = done.filter_map(|entry| entry["receipt"].as_str()).collect();
        let mut begins = entries.iter().filter(|entry| entry["kind"] == "begin");
        let begin = begins.find(|entry| entry["receipt"].as_str().is_some_and(|it| receipts.contains(it)));
        begin.and_then(|entry| entry["seq"].as_i64())
    };
    let activation = |version| begin_of("key.activate", version).or_else(|| begin_of("key.rotate", version));
    let mut versions = BTreeSet::new();
    for (receipt, version) in &marked {
        let row =
            entries.iter().find(|entry| entry["kind"] == "begin" && entry["receipt"] == receipt.as_str());
        let seq = row.expect("every generation has its row")["seq"].as_i64().unwrap();
        if let Some(activated) = activation(*version) {
            assert!(activated < seq, "version {version} marked before it was active");
        } else {
            assert_eq!(*version, 1, "version {version} was never activated");
        }
        versions.insert(*version);
    }
    println!("{} texts under versions {versions:?}, {judged} of them long enough and detected", marked.len());
    assert!(versions.len() >= 8 && judged >= 8, "{judged} {versions:?}");
    assert!(a.terminate() && b.terminate(), "both end in order");
    check_offline(&first, "the end");
}

/// PostgreSQL is stopped and started under load: 503 meanwhile, recovery by itself, nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_goes_and_comes_back() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = tokio::task::spawn_blocking(postgres::Private::start).await.unwrap().unwrap();
    let place = on_postgres(folder.path(), "data", &cluster.address);
    let mut service = Service::start(&place);
    let client = Client::new(&service.url, &service.token.take().unwrap());
    client.ready().await;
    client.prepare().await;
    let mut done = Vec::new();
    for _ in 0..3 {
        let load = Load::start(&client, false);
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.stop().unwrap();
        not_ready(&client).await;
        let (status, refused) = client.generate(8).await.expect("it answers");
        assert_eq!(status, 503, "a text whose row can't be written is not made: {refused}");
        cluster.start_again().unwrap();
        client.ready().await;
        let acknowledged = load.stop().await;
        for (status, code) in &acknowledged.refused {
            assert_eq!(*status, 503, "{code}");
        }
        done.extend(acknowledged.done);
    }
    completed(&client, &done).await;
    println!("{} acknowledged operations over three outages", done.len());
    assert!(done.len() > 5);
    assert!(service.terminate());
    check_offline(&place, "the end");
}

/// A file system of its own, of a few megabytes; gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.into()))
    }

    /// Takes all the room that is left; a byte at the end, as a disk fills in life.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [65_536, 4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// The disk with database, audit key and checkpoints fills up under load and is freed again: 503 meanwhile, no text
/// without its row, recovery by itself, nothing acknowledged is lost, and the chain and its checkpoints verify.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_fills_up() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let place = sqlite(folder.path());
    let Some(disk) = SmallDisk::mount(&place.folder) else {
        println!("not run: it takes a user who may mount a small file system");
        return;
    };
    let mut service = Service::start(&place);
    let client = Client::new(&service.url, &service.token.take().unwrap());
    client.ready().await;
    client.prepare().await;
    let mut done = Vec::new();
    for _ in 0..3 {
        let load = Load::start(&client, false);
        tokio::time::sleep(Duration::from_millis(500)).await;
        disk.fill();
        not_ready(&client).await;
        let (status, refused) = client.generate(8).await.expect("it answers");
        assert_eq!(status, 503, "a text whose row can't be written is not made: {refused}");
        disk.free();
        client.ready().await;
        let acknowledged = load.stop().await;
        for (status, code) in &acknowledged.refused {
            assert_eq!(*status, 503, "{code}");
        }
        done.extend(acknowledged.done);
    }
    completed(&client, &done).await;
    println!("{} acknowledged operations, the disk full three times", done.len());
    assert!(done.len() > 5);
    assert!(service.terminate());
    check_offline(&place, "the end");
    drop(disk);
}
