//! No secret is in the database in the clear, nor in what is printed for people.

use dandyroll_ledger::keys::{Kek, NewRing, Target};
use dandyroll_ledger::tokens::{Grant, Policy, Scope};
use dandyroll_scheme::MasterKey;

use crate::place::{KEK, Place, contains, dump};

on_both!(a_dump_of_the_database_holds_no_secret);

async fn a_dump_of_the_database_holds_no_secret(place: Place) {
    let node = place.node("a").await;
    let new =
        NewRing { alias: "r".parse().unwrap(), allow_export: true, allow_destroy: true, rotate_every: None };
    node.keys().create_ring(new).await.unwrap();
    node.refresh().await.unwrap();
    let secret: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7 + 3).unwrap());
    let brought = MasterKey::take(&mut secret.clone());
    let version = node.keys().import(&"r".parse().unwrap(), &brought).await.unwrap();
    node.keys().rotate(&"r".parse().unwrap(), Target::Pending(version), false).await.unwrap();
    node.refresh().await.unwrap();
    let grant = Grant {
        name: "t".into(),
        scopes: [Scope::Generate].into(),
        aliases: None,
        policy: Policy::Off,
        limit: None,
        expires_at: None,
    };
    let token = node.tokens().create(&grant).await.unwrap().expose(str::to_owned);
    node.upkeep().await.unwrap();

    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    let transport = Kek::generate().unwrap();
    for version in node.keys().ring(&"r".parse().unwrap()).await.unwrap().versions {
        let exported = node.keys().export(&"r".parse().unwrap(), version.version, &transport).await.unwrap();
        let bytes = exported.open(&transport).unwrap().expose(|bytes| bytes.to_vec());
        secrets.push((format!("master {}", version.version), bytes));
    }
    assert!(secrets.iter().any(|(_, bytes)| *bytes == secret));
    secrets.push(("key-encryption key".into(), data_encoding::HEXLOWER.decode(KEK.as_bytes()).unwrap()));
    let secret_text = &token[21..];
    let bytes = data_encoding::BASE32_NOPAD.decode(secret_text.to_ascii_uppercase().as_bytes()).unwrap();
    secrets.push(("token".into(), bytes));
    let dump = dump(&place).await;
    assert!(
        contains(&dump, b"verify_only") && contains(&dump, &token.as_bytes()[4..20]),
        "the dump is no dump"
    );
    for (name, bytes) in secrets {
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        let base64 = data_encoding::BASE64.encode(&bytes);
        for form in [&bytes[..], hex.as_bytes(), &base64.as_bytes()[..40]] {
            assert!(!contains(&dump, form), "{name} is in the database");
        }
    }
    assert!(!contains(&dump, secret_text.as_bytes()), "the token is in the database");
}
