//! Jobs over real HTTP: judged as the stream judges, resumed after a restart, ended when asked, kept in bounds.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use dandyroll_ledger::tokens::{Grant, Scope};
use serde_json::{Value, json};

use crate::place::Place;
use crate::served::{Reply, Served, grant};
use crate::texts::{again, start};

on_both!(
    a_job_says_what_the_stream_says,
    a_restarted_server_takes_up_its_jobs,
    a_job_can_be_cancelled_in_every_state,
    paths_stay_below_their_root,
    jobs_are_bounded_and_forgotten,
    a_job_is_its_token_s_alone,
    a_fault_that_may_pass_costs_no_upload_and_no_result,
    a_job_that_ends_its_server_is_given_up,
);

/// Human texts, some of them twice, as JSON lines.
fn documents(count: usize) -> String {
    let path = crate::served::root().join("fixtures/corpora/prose_heldout.jsonl");
    let human = std::fs::read_to_string(path).unwrap();
    let texts: Vec<Value> = human.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (0..count)
        .map(|at| {
            let text = format!("{} {}", texts[at % texts.len()]["text"].as_str().unwrap(), at / 3);
            format!("{}\n", json!({ "id": at.to_string(), "text": text }))
        })
        .collect()
}

async fn upload(server: &Served, id: &str, bytes: impl Into<Vec<u8>>) -> Reply {
    let request = server.request("PUT", &format!("/v1/jobs/{id}/input"));
    let request = request.header("content-type", "application/octet-stream").body(bytes.into());
    Reply::of(request.send().await.unwrap()).await
}

async fn make(server: &Served, wanted: Value) -> String {
    let reply = server.post("/v1/jobs", wanted).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json()["job"]["id"].as_str().unwrap().to_owned()
}

/// Waits until a job is in a state; fails if it ends in another.
async fn reach(server: &Served, id: &str, state: &str) -> Value {
    for _ in 0..3000 {
        let job = server.get(&format!("/v1/jobs/{id}")).await.good();
        if job["state"] == state {
            return job;
        }
        assert!(job["finished_at"].is_null(), "{job}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not become {state}");
}

async fn rows(server: &Served, id: &str, query: &str) -> Vec<Value> {
    let reply = server.get(&format!("/v1/jobs/{id}/result{query}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-length"), reply.text.len().to_string());
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn a_job_says_what_the_stream_says(place: Place) {
    let server = start(&place, &[]).await;
    server.post("/v1/admin/rings/default/rotate", json!({})).await.good();
    let marked = server
        .post(
            "/v1/completions",
            json!({ "model": "model", "prompt": "def f(", "max_tokens": 300, "seed": 3 }),
        )
        .await
        .good()["choices"][0]["text"]
        .clone();
    let mut body = documents(200);
    body += &format!("{}\n", json!({ "id": "m", "text": marked }));
    let look = json!({ "keys": ["default"], "profiles": ["prose-v1"], "alpha": 1e-4 });
    let wanted = json!({ "upload": "docs.jsonl.gz", "look": look });
    let made = server.post("/v1/jobs", wanted).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json()["job"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&made.json()["job"]["state"], &made.json()["job"]["here"]),
        (&json!("waiting"), &json!(true))
    );
    let mut file = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    file.write_all(body.as_bytes()).unwrap();
    assert_eq!(upload(&server, &id, file.finish().unwrap()).await.status, 200);
    let job = reach(&server, &id, "done").await;
    assert_eq!((&job["progress"]["documents"], &job["progress"]["faults"]), (&json!(201), &json!(0)));
    assert_eq!(job["keys"].as_array().unwrap().len(), 2);

    let request = server
        .request("POST", "/v1/detect/stream?keys=default&profiles=prose-v1&modes=model-free&alpha=0.0001")
        .header("content-type", "application/x-ndjson")
        .body(body);
    let stream = Reply::of(request.send().await.unwrap()).await;
    let stream: Vec<Value> = stream.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = rows(&server, &id, "").await;
    assert_eq!((rows.len(), stream.len()), (201, 201));
    for (row, line) in rows.iter().zip(&stream) {
        let found = &line["result"];
        assert_eq!((&row["id"], &row["verdict"]), (&line["id"], &found["verdict"]));
        assert_eq!(row["log10_p_adjusted"], found["log10_p_adjusted"]);
        let (mine, theirs) = (row["findings"].as_array().unwrap(), found["findings"].as_array().unwrap());
        assert_eq!((mine.len(), theirs.len()), (2, 2));
        for (mine, theirs) in mine.iter().zip(theirs) {
            assert_eq!(mine["key_id"], theirs["key"]["key_id"]);
            assert_eq!(mine["profile"], theirs["profiles"][0]["id"]);
            assert_eq!(row["tokens"], theirs["tokens"]);
            for name in
                ["verdict", "mode", "scored", "green", "z", "log10_p", "hypotheses", "log10_p_adjusted"]
            {
                assert_eq!(mine[name], theirs[name], "{name}");
            }
        }
    }
    let summary = server.get(&format!("/v1/jobs/{id}/summary")).await.good();
    assert_eq!((&summary["documents"], &summary["alpha"]), (&json!(201), &json!(1e-4)));
    let files = server.get(&format!("/v1/jobs/{id}/results")).await.good();
    assert_eq!(files["files"][0]["name"], "docs.jsonl.gz.jsonl");
    assert_eq!(files["files"].as_array().unwrap().len(), 1);
    for bad in ["docs.jsonl.gz.jsonl.done.json", "../summary.json", "../../place", "/etc/passwd", "x"] {
        let reply = server.get(&format!("/v1/jobs/{id}/result?file={bad}")).await;
        assert_eq!(reply.code(), "unknown_result", "{bad}");
    }
    // The audit has a row before and one after, with counts and without texts.
    let entries = server.entries("action=job.run").await;
    assert_eq!((entries.len(), &entries[0]["detail"]["job"]), (2, &json!(id)));
    assert_eq!((&entries[1]["outcome"], &entries[1]["detail"]["texts"]), (&json!("ok"), &json!(201)));
    for action in ["job.create", "job.upload"] {
        let entries = server.entries(&format!("action={action}")).await;
        assert_eq!((entries.len(), &entries[1]["outcome"]), (2, &json!("ok")), "{action}");
    }
    server.stop().await;
}

/// A folder of inputs that takes seconds to judge.
fn dump(place: &Place, files: usize, each: usize) -> PathBuf {
    let root = place.folder.path().join("inputs");
    std::fs::create_dir_all(root.join("crawl/sub")).unwrap();
    let all = documents(files * each);
    let lines: Vec<&str> = all.lines().collect();
    for (at, part) in lines.chunks(each).enumerate() {
        let folder = if at % 2 == 0 { "crawl" } else { "crawl/sub" };
        std::fs::write(root.join(folder).join(format!("{at:03}.jsonl")), part.join("\n")).unwrap();
    }
    root
}

async fn results(server: &Served, id: &str) -> Vec<(String, String)> {
    let files = server.get(&format!("/v1/jobs/{id}/results")).await.good();
    let mut all = Vec::new();
    for file in files["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap();
        let reply = server.get(&format!("/v1/jobs/{id}/result?file={name}")).await;
        assert_eq!((reply.status, &file["bytes"]), (200, &json!(reply.text.len())));
        all.push((name.to_owned(), reply.text));
    }
    all
}

async fn a_restarted_server_takes_up_its_jobs(place: Place) {
    let root = dump(&place, 72, 160).display().to_string();
    let more = [("jobs.root", root.as_str()), ("jobs.threads", "1"), ("jobs.memory_bytes", "1048576")];
    let server = start(&place, &more).await;
    let wanted = json!({ "path": "crawl", "look": { "profiles": ["prose-v1"] } });
    let undisturbed = make(&server, wanted.clone()).await;
    reach(&server, &undisturbed, "done").await;
    let expected = results(&server, &undisturbed).await;
    assert_eq!(expected.len(), 72);

    let (id, later) = (make(&server, wanted.clone()).await, make(&server, wanted).await);
    reach(&server, &id, "running").await;
    let results_folder = place.folder.path().join("a.jobs").join(&id).join("results/sub");
    server.until(|| results_folder.join("001.jsonl.jsonl.done.json").exists()).await;
    let token = server.admin.clone();
    server.stop().await;
    assert!(!results_folder.join("071.jsonl.jsonl.done.json").exists(), "it was stopped too late to tell");
    let first = std::fs::metadata(results_folder.join("001.jsonl.jsonl")).unwrap().modified().unwrap();

    let mut server = again(&place, &more).await;
    server.admin = token;
    for job in [&id, &later] {
        let job = reach(&server, job, "done").await;
        assert_eq!(job["progress"]["documents"], 72 * 160);
    }
    assert!(results(&server, &id).await == expected && results(&server, &later).await == expected);
    let again = std::fs::metadata(results_folder.join("001.jsonl.jsonl")).unwrap().modified().unwrap();
    assert_eq!(first, again, "a finished shard was judged again");
    let runs = server.entries("action=job.run").await;
    let of = |outcome: &str| runs.iter().filter(|row| row["outcome"] == outcome).count();
    assert_eq!((of("ok"), of("interrupted")), (3, 1), "{runs:?}");
    server.stop().await;
}

async fn a_job_can_be_cancelled_in_every_state(place: Place) {
    let root = dump(&place, 8, 600).display().to_string();
    let server = start(&place, &[("jobs.root", &root), ("jobs.threads", "1")]).await;
    let waiting = make(&server, json!({ "upload": "a.jsonl" })).await;
    let running = make(&server, json!({ "path": "crawl" })).await;
    let queued = make(&server, json!({ "path": "crawl/sub" })).await;
    reach(&server, &running, "running").await;
    let folder = |id: &str| place.folder.path().join("a.jobs").join(id);
    server.until(|| folder(&running).join("results").exists()).await;
    for id in [&waiting, &queued] {
        let job = server.post(&format!("/v1/jobs/{id}/cancel"), json!({})).await.good();
        assert_eq!(job["job"]["state"], "cancelled", "{job}");
    }
    server.post(&format!("/v1/jobs/{running}/cancel"), json!({})).await.good();
    let job = reach(&server, &running, "cancelled").await;
    assert!(job["error"].is_null() && !job["finished_at"].is_null(), "{job}");
    for id in [&waiting, &queued, &running] {
        assert!(!folder(id).exists(), "files of a cancelled job");
        let again = server.post(&format!("/v1/jobs/{id}/cancel"), json!({})).await;
        assert_eq!((again.status, again.code()), (409, "job_state".into()));
        let result = server.get(&format!("/v1/jobs/{id}/result")).await;
        assert_eq!((result.status, result.code()), (409, "job_state".into()));
    }
    assert_eq!(upload(&server, &waiting, "{}").await.code(), "job_state");
    let runs = server.entries("action=job.run").await;
    assert_eq!((runs.len(), &runs[1]["outcome"]), (2, &json!("interrupted")));
    assert_eq!(runs[1]["detail"]["code"], "cancelled");
    server.stop().await;
}

async fn paths_stay_below_their_root(place: Place) {
    let root = dump(&place, 2, 3);
    let outside = place.folder.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret.jsonl"), documents(1)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(&outside, root.join("folder-link")).unwrap();
        symlink(outside.join("secret.jsonl"), root.join("file-link.jsonl")).unwrap();
        std::fs::create_dir(root.join("mixed")).unwrap();
        std::fs::write(root.join("mixed/a.jsonl"), documents(1)).unwrap();
        symlink(outside.join("secret.jsonl"), root.join("mixed/b.jsonl")).unwrap();
        symlink(root.join("crawl"), root.join("inner-link")).unwrap();
    }
    let bare = start(&place, &[]).await;
    let reply = bare.post("/v1/jobs", json!({ "path": "crawl" })).await;
    assert_eq!((reply.status, reply.code()), (404, "unknown_input".into()));
    assert!(reply.text.contains("jobs.root is not set"), "{}", reply.text);
    bare.stop().await;

    let shown = root.display().to_string();
    let server = again(&place, &[("jobs.root", &shown)]).await;
    let absolute = outside.join("secret.jsonl").display().to_string();
    for (path, why) in [
        ("../outside/secret.jsonl", "leads out"),
        ("crawl/../../outside", "leads out"),
        ("crawl/../crawl", "leads out"),
        (absolute.as_str(), "leads out"),
        ("/", "leads out"),
        ("folder-link", "leads out"),
        ("folder-link/secret.jsonl", "leads out"),
        ("file-link.jsonl", "leads out"),
        ("mixed", "leads out"),
        ("nothing.jsonl", "no such file"),
        ("crawl/*.jsonl", "no such file"),
        ("", "1 to 1024"),
        ("crawl\u{0}", "1 to 1024"),
    ] {
        let reply = server.post("/v1/jobs", json!({ "path": path })).await;
        let expected = if why == "1 to 1024" { (422, "invalid_value") } else { (404, "unknown_input") };
        assert_eq!((reply.status, reply.code().as_str()), expected, "{path}: {}", reply.text);
        assert!(reply.text.contains(why), "{path}: {}", reply.text);
        assert!(!reply.text.contains(&shown) && !reply.text.contains("secret\""), "{}", reply.text);
    }
    // A link that stays inside is one of the folder's own.
    #[cfg(unix)]
    reach(&server, &make(&server, json!({ "path": "inner-link" })).await, "done").await;
    // What was inside when the job was made and is not when it begins.
    let held = server.post("/v1/jobs", json!({ "path": "mixed/a.jsonl" })).await.good();
    reach(&server, held["job"]["id"].as_str().unwrap(), "done").await;
    // A dump that cannot be read to its end says so without the server's own folders.
    std::fs::write(root.join("bad.jsonl"), "{broken\n").unwrap();
    let strict = make(&server, json!({ "path": "bad.jsonl", "strict": true })).await;
    let job = reach(&server, &strict, "failed").await;
    let error = job["error"].as_str().unwrap();
    assert!(error.contains("bad.jsonl, line 1") && !error.contains(&shown), "{error}");
    server.stop().await;
}

async fn jobs_are_bounded_and_forgotten(place: Place) {
    let root = dump(&place, 4, 40).display().to_string();
    let more = [
        ("jobs.open", "2"),
        ("jobs.kept", "4"),
        ("jobs.upload_limit_bytes", "2048"),
        ("jobs.disk_limit_bytes", "20000"),
        ("jobs.root", root.as_str()),
    ];
    let server = start(&place, &more).await;
    let wanted = json!({ "upload": "a.jsonl" });
    let (first, second) = (make(&server, wanted.clone()).await, make(&server, wanted.clone()).await);
    let over = server.post("/v1/jobs", wanted.clone()).await;
    assert_eq!((over.status, over.code()), (429, "overloaded".into()));
    assert!(over.header("retry-after").parse::<u64>().unwrap() >= 1);

    // Larger than an upload may be: refused, nothing stays, and the job goes on waiting.
    let large = upload(&server, &first, vec![b' '; 4096]).await;
    assert_eq!((large.status, large.code()), (413, "body_too_large".into()));
    let folder = place.folder.path().join("a.jobs").join(&first);
    assert_eq!(std::fs::read_dir(folder.join("input")).unwrap().count(), 0);
    assert_eq!(upload(&server, &first, "{\"text\":\"a\"}\n").await.status, 200);
    reach(&server, &first, "done").await;
    assert_eq!(upload(&server, &first, "{}").await.code(), "job_state");
    server.post(&format!("/v1/jobs/{second}/cancel"), json!({})).await.good();

    // More results than a job's files may take.
    let third = make(&server, json!({ "path": "crawl" })).await;
    let job = reach(&server, &third, "failed").await;
    assert!(job["error"].as_str().unwrap().contains("20000 bytes at most"), "{job}");
    assert!(!place.folder.path().join("a.jobs").join(&third).exists());
    make(&server, wanted.clone()).await;
    let over = server.post("/v1/jobs", wanted).await;
    assert_eq!((over.status, over.code()), (429, "overloaded".into()));
    assert!(over.text.contains("4 jobs are kept"), "{}", over.text);

    // By the clock: ended jobs are forgotten, those without an upload fail.
    let week = Duration::from_secs(8 * 24 * 3600).as_micros();
    let earlier =
        format!("UPDATE jobs SET created_at = created_at - {week}, finished_at = finished_at - {week}");
    place.execute(&earlier).await.unwrap();
    let gone = || async {
        let page = server.get("/v1/jobs").await.good();
        let states = page["jobs"].as_array().unwrap().iter().map(|job| job["state"].clone());
        states.collect::<Vec<_>>() == [json!("failed")]
    };
    for _ in 0..200 {
        if gone().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gone().await, "{}", server.get("/v1/jobs").await.text);
    assert!(!folder.exists());
    assert_eq!(server.get(&format!("/v1/jobs/{first}")).await.code(), "unknown_job");
    server.stop().await;
}

async fn a_job_is_its_token_s_alone(place: Place) {
    let root = dump(&place, 8, 600).display().to_string();
    let server = start(&place, &[("jobs.root", &root), ("jobs.threads", "1")]).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(make(&server, json!({ "upload": "a.jsonl" })).await);
    }
    // By cursor, in order.
    let page = server.get("/v1/jobs?limit=2").await.good();
    let next = page["next"].as_str().unwrap().to_owned();
    let last = server.get(&format!("/v1/jobs?limit=2&cursor={next}")).await.good();
    let all = [page["jobs"].as_array().unwrap().as_slice(), last["jobs"].as_array().unwrap()].concat();
    assert_eq!(all.iter().map(|job| job["id"].as_str().unwrap()).collect::<Vec<_>>(), made);
    assert!(last["next"].is_null());
    assert_eq!(server.get("/v1/jobs?cursor=c1").await.code(), "invalid_parameter");

    let other = server.token(&grant(&[Scope::DetectFull])).await;
    let id = &made[0];
    for path in ["", "/results", "/result", "/summary"] {
        let reply = server.get_as(&other, &format!("/v1/jobs/{id}{path}")).await;
        assert_eq!((reply.status, reply.code()), (404, "unknown_job".into()), "{path}");
    }
    assert_eq!(server.post_as(&other, &format!("/v1/jobs/{id}/cancel"), json!({})).await.status, 404);
    assert_eq!(server.get_as(&other, "/v1/jobs").await.good()["jobs"], json!([]));
    // Results hold what detect:public may not see, and a ring that a token may not use is refused at once.
    let public = server.token(&grant(&[Scope::DetectPublic])).await;
    assert_eq!(server.get_as(&public, "/v1/jobs").await.code(), "forbidden_scope");
    let aliases = Some(["other".parse().unwrap()].into());
    let narrow = server.token(&Grant { aliases, ..grant(&[Scope::DetectFull]) }).await;
    let wanted = json!({ "upload": "a.jsonl", "look": { "keys": ["default"] } });
    assert_eq!(server.post_as(&narrow, "/v1/jobs", wanted).await.code(), "alias_not_allowed");

    // Whoever takes the token away takes the job: it waits behind another one, and is not begun.
    let first = make(&server, json!({ "path": "crawl" })).await;
    reach(&server, &first, "running").await;
    server.post_as(&other, "/v1/jobs", json!({ "path": "crawl/sub" })).await.good();
    let public_part = other.split('_').nth(1).unwrap().to_owned();
    server.post(&format!("/v1/admin/tokens/{public_part}/revoke"), json!({})).await.good();
    server.post(&format!("/v1/jobs/{first}/cancel"), json!({})).await.good();
    let failed = "UPDATE jobs SET error = error WHERE state = 'failed' AND error LIKE '%revoked%'";
    for _ in 0..500 {
        if place.execute(failed).await.unwrap() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(place.execute(failed).await.unwrap(), 1);
    // A key that is disabled between the order and its turn: it is opened when the job begins, and not before.
    let late = make(&server, json!({ "upload": "b.jsonl", "look": { "keys": ["default@1"] } })).await;
    server.post("/v1/admin/rings/default/rotate", json!({})).await.good();
    let active = || {
        let snapshot = server.service.node().snapshot();
        let ring = snapshot.rings.get(&"default".parse().unwrap()).unwrap().clone();
        ring.active().is_some_and(|key| key.version.get() == 2)
    };
    server.until(active).await;
    server.post("/v1/admin/rings/default/versions/1/disable", json!({})).await.good();
    assert_eq!(upload(&server, &late, documents(3)).await.status, 200);
    let job = reach(&server, &late, "failed").await;
    assert!(job["error"].as_str().unwrap().contains("there is no key"), "{job}");
    server.stop().await;
}

/// The folder of results cannot be made (as on a full disk): the job is tried again, keeps its upload, and is done once
/// the fault has passed; one whose fault never passes fails in the end.
async fn a_fault_that_may_pass_costs_no_upload_and_no_result(place: Place) {
    let more = [("jobs.retry_after_ms", "50")];
    let server = start(&place, &more).await;
    let wanted = json!({ "upload": "docs.jsonl", "look": { "profiles": ["prose-v1"] } });
    let (passes, stays) = (make(&server, wanted.clone()).await, make(&server, wanted).await);
    let folder = |id: &str| place.folder.path().join("a.jobs").join(id);
    let block = |id: &str| {
        std::fs::create_dir_all(folder(id)).unwrap();
        std::fs::write(folder(id).join("results"), "in the way").unwrap();
    };
    block(&passes);
    assert_eq!(upload(&server, &passes, documents(20)).await.status, 200);
    let ends = || async {
        let rows = server.entries("action=job.run").await;
        rows.iter().filter(|row| row["kind"] == "end" && row["outcome"] == "failed").count()
    };
    for _ in 0..500 {
        if ends().await >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ends().await >= 2, "it was not tried again");
    assert!(folder(&passes).join("input/docs.jsonl").exists(), "the upload is lost");
    std::fs::remove_file(folder(&passes).join("results")).unwrap();
    let job = reach(&server, &passes, "done").await;
    assert_eq!(job["progress"]["documents"], 20);

    block(&stays);
    assert_eq!(upload(&server, &stays, documents(20)).await.status, 200);
    let job = reach(&server, &stays, "failed").await;
    assert!(job["error"].as_str().unwrap().contains("its log says why"), "{job}");
    server.stop().await;
}

/// What ran three times when its server died is not begun a fourth time; twice is.
async fn a_job_that_ends_its_server_is_given_up(place: Place) {
    let root = dump(&place, 2, 5).display().to_string();
    let more = [("jobs.root", root.as_str())];
    let server = start(&place, &more).await;
    let wanted = json!({ "path": "crawl", "look": { "profiles": ["prose-v1"] } });
    let (often, twice) = (make(&server, wanted.clone()).await, make(&server, wanted).await);
    for id in [&often, &twice] {
        reach(&server, id, "done").await;
    }
    let token = server.admin.clone();
    server.stop().await;
    let died = |id: &str, runs: u32| {
        format!("UPDATE jobs SET state = 'running', finished_at = NULL, runs = {runs} WHERE id = '{id}'")
    };
    place.tamper(&[&died(&often, 3), &died(&twice, 2)]).await;
    let mut server = again(&place, &more).await;
    server.admin = token;
    let job = reach(&server, &often, "failed").await;
    assert_eq!(job["error"], "its server ended 3 times while it ran");
    reach(&server, &twice, "done").await;
    server.stop().await;
}
