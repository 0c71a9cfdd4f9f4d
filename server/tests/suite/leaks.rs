//! No secret is in any reply, in the log at debug level, or in the database: only the one reply that makes a
//! token holds it. No generated text is in log or database.

use std::sync::PoisonError;

use dandyroll_ledger::keys::{Alias, Kek};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::place::{KEK, Place};
use crate::place::{contains, dump};
use crate::served::{REPLIES, Reply};
use crate::texts::{log, start_engine};

on_both!(secrets_are_in_no_reply_and_no_log);

/// A secret in every form in which it could slip out.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let base64 = data_encoding::BASE64_NOPAD.encode(bytes);
    let list = format!("{bytes:?}");
    vec![
        bytes.to_vec(),
        data_encoding::HEXLOWER.encode(bytes).into_bytes(),
        data_encoding::HEXUPPER.encode(bytes).into_bytes(),
        base64.into_bytes(),
        data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase().into_bytes(),
        // As `Debug` shows an array.
        list.as_bytes()[1..40].to_vec(),
    ]
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// The sub-key of a master, made here from its definition (`fixtures/prf/README.md`): the library's never leaves it.
fn sub_key(master: &[u8], tokenizer: &[u8], width: u8) -> Vec<u8> {
    let mut info = Vec::new();
    for field in [b"token-words".as_slice(), &1_u32.to_be_bytes(), tokenizer, &[width], b"left"] {
        info.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
        info.extend(field);
    }
    info.push(1);
    mac(&mac(b"dandyroll", master), &info)
}

async fn secrets_are_in_no_reply_and_no_log(place: Place) {
    log();
    let server = start_engine(&place).await;
    let ring: Alias = "r".parse().unwrap();
    server.post("/v1/admin/rings", json!({ "alias": "r", "allow_export": true })).await.good();
    server.post("/v1/admin/rings/r/rotate", json!({})).await.good();

    // A token, made twice under one key, used well and badly.
    let body = json!({ "name": "t", "scopes": ["keys:read"], "aliases": ["r"] });
    let make = || server.request("POST", "/v1/admin/tokens").header("idempotency-key", "k").json(&body);
    let made = Reply::of_secret(make().send().await.unwrap()).await.good();
    let again = Reply::of_secret(make().send().await.unwrap()).await.good();
    assert_eq!(made, again);
    let token = made["token"].as_str().unwrap().to_owned();
    let id = made["info"]["id"].as_str().unwrap().to_owned();
    let known = || {
        let now = dandyroll_ledger::Timestamp::now();
        server.service.node().snapshot().tokens.authenticate(&token, now).is_ok()
    };
    server.until(known).await;
    server.get_as(&token, "/v1/admin/rings").await.good();
    server.get_as(&token, "/v1/admin/tokens").await.good();
    server.get_as(&token, "/v1/audit/entries").await;
    server.get_as(&format!("{token}a"), "/v1/admin/rings").await;
    server.get_as(&token.to_uppercase(), "/v1/admin/rings").await;
    // In places where a token does not belong.
    server.post("/v1/admin/rings", json!({ "alias": token })).await;
    server.post("/v1/admin/rings", json!({ token.as_str(): 1 })).await;
    server.get(&format!("/v1/admin/rings?{token}=1")).await;
    server.get(&format!("/v1/{token}")).await;
    server.post(&format!("/v1/admin/tokens/{token}/revoke"), json!({})).await;

    // A text, marked and detected under the ring, so that its sub-keys are in use. Its own reply may hold it.
    let mut text = String::new();
    for seed in 0..40 {
        let order = json!({
            "model": "model", "prompt": "def read_lines(path):\n", "max_tokens": 60, "seed": seed,
            "watermark": { "alias": "r", "require": true },
        });
        let made = server.request("POST", "/v1/completions").json(&order).send().await.unwrap();
        let made = Reply::of_secret(made).await.good();
        assert_eq!(made["watermark"]["applied"], true);
        text = made["choices"][0]["text"].as_str().unwrap().to_owned();
        if text.len() > 100 {
            break;
        }
    }
    server.post("/v1/detect", json!({ "text": text, "keys": ["r"], "spans": true })).await.good();

    // Calibrated by it: generated text in the place of human text, to be looked for below.
    let profile = "/v1/admin/rings/r/versions/2/calibration?profile=prose-v1";
    let texts = server.request("POST", profile).header("content-type", "application/x-ndjson");
    let texts = texts.body(json!({ "text": text }).to_string() + "\n{\"text\":7}");
    assert_eq!(Reply::of(texts.send().await.unwrap()).await.code(), "invalid_value");

    // Out, in again, damaged, elsewhere.
    let exported = server.post("/v1/admin/rings/r/versions/1/export", json!({})).await.good()["key"].clone();
    server.post("/v1/admin/rings/r/import", exported.clone()).await;
    let mut bad = exported;
    bad["wrapped"] = json!("A".repeat(96));
    server.post("/v1/admin/rings/r/import", bad).await;
    server.post("/v1/admin/rewrap", json!({})).await.good();
    for path in [
        "/readyz",
        "/metrics",
        "/v1/admin/servers",
        "/v1/admin/rings",
        "/v1/audit/verify",
        "/v1/audit/evidence",
        "/v1/audit/checkpoints",
        "/v1/audit/public-key",
    ] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.post(&format!("/v1/admin/tokens/{id}/revoke"), json!({})).await.good();

    let mut secrets: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    let transport = Kek::generate().unwrap();
    let keys = server.service.node().keys();
    let tokenizer = std::fs::read(crate::served::root().join("fixtures/model/tokenizer.json")).unwrap();
    let tokenizer = sha2::Digest::finalize(<Sha256 as sha2::Digest>::new_with_prefix(tokenizer));
    let known = "23a33a509851ade72b827cd1b792521cdde2ae887809920782dc1a1dc64e5ce3";
    assert_eq!(
        data_encoding::HEXLOWER.encode(&sub_key(&[0; 32], &[0; 32], 0)),
        known,
        "fixtures/prf/v1.jsonl"
    );
    for row in keys.ring(&ring).await.unwrap().versions {
        let master = keys.export(&ring, row.version, &transport).await.unwrap().open(&transport).unwrap();
        secrets.push((format!("master {}", row.version), master.expose(|bytes| forms(bytes))));
        for width in [1, 2] {
            let key = master.expose(|bytes| sub_key(bytes, &tokenizer, width));
            secrets.push((format!("sub-key {} of width {width}", row.version), forms(&key)));
        }
    }
    secrets
        .push(("key-encryption key".into(), forms(&data_encoding::HEXLOWER.decode(KEK.as_bytes()).unwrap())));
    for (name, token) in [("token", &token), ("administrator's token", &server.admin)] {
        let bytes = data_encoding::BASE32_NOPAD.decode(token[21..].to_ascii_uppercase().as_bytes()).unwrap();
        secrets.push((name.into(), forms(&bytes)));
    }
    let signing = std::fs::read_to_string(place.folder.path().join("a.key")).unwrap();
    let signing = data_encoding::HEXLOWER.decode(signing.trim().as_bytes()).unwrap();
    secrets.push(("audit signing key".into(), forms(&signing)));
    let dump = dump(&place).await;
    server.stop().await;

    // What others' tests logged and were answered counts, too.
    let log = log().lock().unwrap_or_else(PoisonError::into_inner).clone();
    let replies = REPLIES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(contains(&log, b"/v1/admin/rings/{alias}/import"), "nothing was logged");
    assert!(contains(&replies, b"wrapped_key_refused") && contains(&dump, id.as_bytes()));
    for (name, forms) in secrets {
        for form in forms {
            // A caller that puts a token into the path or a name reads it again in the refusal, and only there.
            for (what, place) in [("log", &log), ("database", &dump), ("replies", &replies)] {
                assert!(!contains(place, &form), "{name} is in the {what}");
            }
        }
    }
    let line = text.lines().map(str::trim).max_by_key(|line| line.len()).unwrap();
    assert!(line.len() > 12, "{text}");
    for (what, place) in [("log", &log), ("database", &dump)] {
        assert!(!contains(place, line.as_bytes()), "generated text is in the {what}");
    }
    let _: Value = made;
}
