//! `kill -9` at random moments: what was acknowledged is there, the chain verifies, no key is lost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use dandyroll_ledger::audit::verify::verify;
use dandyroll_ledger::audit::{Completion, Outcome};
use dandyroll_ledger::keys::{Kek, Keys, NewRing, State, Target};
use dandyroll_ledger::node::Node;
use dandyroll_ledger::store::EntryFilter;

use crate::place::{Place, keks};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_work_survives_being_killed_on_sqlite() {
    Box::pin(acknowledged_work_survives_being_killed(Place::sqlite())).await;
}

/// With `fsync` on, as in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_work_survives_being_killed_on_postgres() {
    Box::pin(acknowledged_work_survives_being_killed(Place::postgres_synced().await)).await;
}

/// How often to kill; the issue's 200 take minutes, so the everyday run does a few.
fn kills() -> u32 {
    std::env::var("DANDYROLL_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

const CHILD: &str = "DANDYROLL_TEST_CRASH_CHILD";

/// What is killed: works without end, and prints what was acknowledged. Not a test of its own: it does nothing
/// unless the test below starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(spec) = std::env::var(CHILD) else { return };
    let (address, folder) = spec.split_once('|').unwrap();
    let place = Place { address: address.into(), folder: tempfile::tempdir_in(folder).unwrap() };
    let key = std::path::Path::new(folder);
    let audit_key = dandyroll_ledger::audit::AuditKey::load_or_create(&key.join("a.key")).unwrap();
    let file = dandyroll_ledger::audit::CheckpointFile::open(&key.join("a.checkpoints"), audit_key).unwrap();
    let node = Node::join(place.store().await, keks(), file).await.unwrap();
    let _tasks = node.run();
    let (rotating, alias) = (node.clone(), "r".parse().unwrap());
    let mut working = tokio::task::JoinSet::new();
    working.spawn(async move {
        loop {
            // As a request does it: written down before, acknowledged after.
            let operation = rotating.audit().begin(&crate::audit::intent("key.rotate")).await.unwrap();
            if let Ok(version) = rotating.keys().rotate(&alias, Target::Generate, false).await {
                let receipt = operation.complete(Completion::plain(Outcome::Ok)).await.unwrap();
                say(&format!("rotation {version} {receipt}"));
            } else {
                operation.complete(Completion::plain(Outcome::Refused)).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for _ in 0..4 {
        let node = node.clone();
        working.spawn(async move {
            loop {
                let operation = node.audit().begin(&crate::audit::intent("generate")).await.unwrap();
                let receipt = operation.complete(Completion::plain(Outcome::Ok)).await.unwrap();
                say(&format!("done {receipt}"));
            }
        });
    }
    // Whatever fails ends this process by itself, and the parent sees that it was not killed.
    working.join_next().await.unwrap().unwrap();
}

fn say(line: &str) {
    // One write a line: a killed process leaves whole lines.
    std::io::stdout().lock().write_all(format!("@{line}\n").as_bytes()).unwrap();
}

async fn acknowledged_work_survives_being_killed(place: Place) {
    let keys = Keys::new(place.store().await, keks());
    let new =
        NewRing { alias: "r".parse().unwrap(), allow_export: true, allow_destroy: true, rotate_every: None };
    keys.create_ring(new).await.unwrap();
    let (mut acknowledged, mut rotated) = (Vec::new(), Vec::new());
    let mut random = u64::from(std::process::id()) | 1;
    for _ in 0..kills() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{}|{}", place.address, place.folder.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Counted in what was acknowledged, not in time: a disk may take a second for what another does in a millisecond.
        let operations = 1 + random % 80;
        // Then within the time that four more take.
        let more = 4.0 * f64::from(u16::try_from(random >> 8 & 0xffff).unwrap()) / 65_536.0;
        let rotations = u64::from(rotated.is_empty());
        let lines = tokio::task::spawn_blocking(move || {
            let mut seen = Vec::new();
            let mut killer = None;
            let (mut done, mut turned) = (0_u32, 0);
            let began = std::time::Instant::now();
            for line in out.lines().map_while(Result::ok) {
                let Some((_, line)) = line.split_once('@') else { continue };
                done += 1;
                turned += u64::from(line.starts_with("rotation "));
                // If nothing rotates, the assertions below say so.
                let enough = u64::from(done) >= operations && turned >= rotations || done > 5000;
                if killer.is_none() && enough {
                    let moments = began.elapsed().mul_f64(more / f64::from(done));
                    let id = child.id();
                    killer = Some(std::thread::spawn(move || {
                        std::thread::sleep(moments);
                        Command::new("kill").args(["-9", &id.to_string()]).status().unwrap()
                    }));
                }
                seen.push(line.to_owned());
            }
            killer.expect("the child worked").join().unwrap();
            let status = child.wait().unwrap();
            #[cfg(unix)]
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&status),
                Some(9),
                "it failed before it was killed"
            );
            seen
        })
        .await
        .unwrap();
        for line in lines.iter().filter_map(|line| line.strip_prefix("rotation ")) {
            let (version, receipt) = line.split_once(' ').unwrap();
            rotated.push(version.parse::<u32>().unwrap());
            acknowledged.push(receipt.to_owned());
        }
        acknowledged.extend(lines.iter().filter_map(|line| line.strip_prefix("done ").map(str::to_owned)));
    }
    // Nobody is alive any more.
    place.tamper(&["DELETE FROM servers"]).await;
    let node = place.node("a").await;
    // The last one's connection may still be committing: it holds the head's lock, and this waits for it.
    let operation = node.audit().begin(&crate::audit::intent("generate")).await.unwrap();
    operation.complete(Completion::plain(Outcome::Ok)).await.unwrap();
    node.upkeep().await.unwrap();
    for receipt in &acknowledged {
        let filter = EntryFilter { receipt: Some(receipt.clone()), ..EntryFilter::default() };
        let (entries, _) = node.audit().list(&filter, None, 10).await.unwrap();
        let outcomes: Vec<_> = entries.iter().map(|entry| entry.outcome.as_deref()).collect();
        assert_eq!(outcomes, [None, Some("ok")], "{receipt}");
    }
    let (mut cursor, mut open) = (None, std::collections::BTreeSet::new());
    loop {
        let (entries, next) = node.audit().list(&EntryFilter::default(), cursor, 1000).await.unwrap();
        for entry in entries {
            if entry.kind == "begin" {
                open.insert(entry.receipt)
            } else {
                open.remove(&entry.receipt)
            };
        }
        let Some(next) = next else { break };
        cursor = Some(next);
    }
    assert!(open.is_empty(), "{} operations were never ended", open.len());
    let (path, public) = (place.checkpoint_path("a"), place.public_key("a"));
    let report = verify(node.store(), Some((&path, &public))).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let versions = keys.ring(&"r".parse().unwrap()).await.unwrap().versions;
    let transport = Kek::generate().unwrap();
    assert_eq!(versions.iter().filter(|row| row.state == State::Active).count(), 1);
    assert!(rotated.is_sorted() && !rotated.is_empty(), "{rotated:?}");
    for version in rotated {
        let row = versions.iter().find(|row| row.version.get() == version);
        let state = row.unwrap_or_else(|| panic!("version {version} was acknowledged and is lost")).state;
        // Its rotation was under way when it was acknowledged: recovery ended it, or a later one came after it.
        assert!(matches!(state, State::Active | State::VerifyOnly), "version {version} is {state}");
    }
    for row in &versions {
        let exported = keys.export(&row.alias, row.version, &transport).await.unwrap();
        assert_eq!(exported.open(&transport).unwrap().id(), row.key_id);
    }
    println!("{} kills, {} operations, {} key versions", kills(), acknowledged.len(), versions.len());
}
