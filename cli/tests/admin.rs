//! `keys`, `tokens`, `audit` and `migrate` from outside, on a fresh data folder.

mod common;

use common::{Bench, Ran};

fn run(bench: &Bench, arguments: &[&str]) -> Ran {
    bench.run(arguments, b"")
}

fn done(bench: &Bench, arguments: &[&str]) -> Ran {
    let ran = run(bench, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {} {}", ran.out, ran.err);
    ran
}

#[test]
fn a_rings_life_is_done_and_written_down() {
    let bench = Bench::new();
    let made = done(&bench, &["keys", "create", "prose", "--allow-destroy", "--json"]).json();
    assert_eq!((made["version"].as_i64(), made["state"].as_str()), (Some(1), Some("active")));
    let rotated = done(&bench, &["keys", "rotate", "prose", "--json"]).json();
    assert_eq!((rotated["version"].as_i64(), rotated["state"].as_str()), (Some(2), Some("active")));
    // Refusals name the state and what is allowed.
    let refused = run(&bench, &["keys", "disable", "prose", "2"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.err.contains("is active") && refused.err.contains("rotate the ring first"),
        "{}",
        refused.err
    );
    done(&bench, &["keys", "disable", "prose", "1"]);
    done(&bench, &["keys", "enable", "prose", "1"]);
    let plan = done(&bench, &["keys", "schedule-destroy", "prose", "1", "--dry-run", "--json"]).json();
    assert_eq!((plan["dry_run"].as_bool(), plan["records"].as_i64()), (Some(true), Some(0)));
    let listed = done(&bench, &["keys", "list", "--json"]).json();
    assert_eq!(listed["rings"][0]["versions"][0]["state"], "verify_only", "a dry run changes nothing");
    done(&bench, &["keys", "schedule-destroy", "prose", "1", "--days", "7"]);
    done(&bench, &["keys", "cancel-destroy", "prose", "1"]);
    done(&bench, &["keys", "compromise", "prose", "1"]);
    done(&bench, &["keys", "set", "prose", "--rotate-every", "90d"]);
    assert!(run(&bench, &["keys", "abort", "prose"]).err.contains("not rotating"));

    let report = done(&bench, &["audit", "verify", "--json"]).json();
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["sealed"].as_i64().unwrap() >= 20 && report["unsealed"] == 0, "{report}");
    let evidence = done(
        &bench,
        &["audit", "evidence", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"],
    );
    for action in ["ring.create", "key.rotate", "key.disable", "key.compromise"] {
        assert!(evidence.out.contains(action), "{action} is not written down");
    }
    assert!(evidence.out.contains("cli:"));
    let (file, key) = (bench.file("e.ndjson", &evidence.out), done(&bench, &["audit", "public-key"]).out);
    let checked = done(&bench, &["audit", "check", &file, "--public-key", key.trim(), "--json"]).json();
    assert_eq!(checked["entries"], report["sealed"]);
    let edited = bench.file("f.ndjson", evidence.out.replacen("key.disable", "key.enabled", 1));
    assert_eq!(run(&bench, &["audit", "check", &edited, "--public-key", key.trim()]).code, 2);
    assert!(run(&bench, &["audit", "accept-restore", "--reason", "x"]).err.contains("nothing to accept"));
}

#[test]
fn masters_come_in_and_go_out_wrapped() {
    let bench = Bench::new();
    let key = bench.key("mine.key");
    done(&bench, &["keys", "create", "a", "--allow-export"]);
    done(&bench, &["keys", "create", "b"]);
    let imported = done(&bench, &["keys", "import", "a", &key, "--json"]).json();
    assert_eq!((imported["version"].as_i64(), imported["state"].as_str()), (Some(2), Some("pending")));
    let again = run(&bench, &["keys", "import", "b", &key]);
    assert!(again.code == 2 && again.err.contains("is version 2 of ring a already"), "{}", again.err);
    // Another store, and the key that both hold.
    let other = bench.path("other");
    done(&bench, &["keys", "create", "a", "--data-dir", &other]);
    let shared = bench.path("other/kek");
    let refused = run(&bench, &["keys", "export", "b", "1", "--under", &shared]);
    assert!(refused.err.contains("does not allow export"), "{}", refused.err);
    let exported = done(&bench, &["keys", "export", "a", "2", "--under", &shared]);
    let master = std::fs::read_to_string(&key).unwrap();
    let master: serde_json::Value = serde_json::from_str(&master).unwrap();
    assert!(!exported.out.contains(master["master"].as_str().unwrap()));
    let file = bench.file("wrapped.json", &exported.out);
    let there =
        done(&bench, &["keys", "import", "a", &file, "--under", &shared, "--data-dir", &other, "--json"])
            .json();
    assert_eq!(there["key_id"], imported["key_id"]);
}

#[test]
fn tokens_are_shown_once() {
    let bench = Bench::new();
    let made = done(
        &bench,
        &[
            "tokens",
            "create",
            "--name",
            "pipeline",
            "--scope",
            "generate",
            "--scope",
            "keys:read",
            "--ring",
            "a",
        ],
    );
    let token = made.out.trim();
    assert!(token.starts_with("wmk_") && token.len() == 73, "{token}");
    let (id, secret) = (&token[4..20], &token[21..]);
    let listed = done(&bench, &["tokens", "list", "--json"]);
    assert!(listed.out.contains(id) && !listed.out.contains(secret));
    done(&bench, &["tokens", "revoke", id]);
    assert!(done(&bench, &["tokens", "list"]).out.contains("revoked"));
    assert!(
        run(&bench, &["tokens", "create", "--name", "x", "--scope", "everything"])
            .err
            .contains("a scope is one of")
    );
    for file in std::fs::read_dir(bench.path("dandyroll-data")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn a_new_key_encryption_key_takes_over_and_a_lost_one_is_not_replaced() {
    let bench = Bench::new();
    assert!(done(&bench, &["migrate"]).out.contains("0001_foundation"));
    assert!(done(&bench, &["migrate"]).out.contains("nothing to apply"));
    done(&bench, &["keys", "create", "a"]);
    // Another folder's key is a good new one.
    let other = bench.path("other");
    done(&bench, &["keys", "list", "--data-dir", &other]);
    let (old, new) = (bench.path("dandyroll-data/kek"), bench.path("other/kek"));
    let done_json =
        done(&bench, &["keys", "rewrap", "--kek-file", &new, "--earlier-kek-file", &old, "--json"]).json();
    assert_eq!((done_json["masters"].as_i64(), done_json["failed"].as_array().unwrap().len()), (Some(1), 0));
    std::fs::remove_file(&old).unwrap();
    let lost = run(&bench, &["keys", "list"]);
    assert!(lost.code == 2 && lost.err.contains("put it back"), "{}", lost.err);
    done(&bench, &["keys", "rotate", "a", "--kek-file", &new]);
}

#[test]
fn a_cut_checkpoint_file_is_found_and_accepted_only_for_a_reason() {
    let bench = Bench::new();
    done(&bench, &["keys", "create", "a"]);
    done(&bench, &["keys", "rotate", "a"]);
    std::fs::write(bench.path("dandyroll-data/audit.checkpoints"), "").unwrap();
    let found = run(&bench, &["audit", "verify"]);
    assert!(found.code == 1 && found.out.contains("damaged_checkpoints"), "{} {}", found.out, found.err);
    assert_eq!(run(&bench, &["audit", "accept-restore"]).code, 2, "a reason is needed");
    done(&bench, &["audit", "accept-restore", "--reason", "the disk with the checkpoints died"]);
    done(&bench, &["keys", "rotate", "a"]);
    let shown = done(&bench, &["audit", "verify"]);
    assert!(
        shown.out.contains("seam 1") && shown.out.contains("the disk with the checkpoints died"),
        "{}",
        shown.out
    );
}
