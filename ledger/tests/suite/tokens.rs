//! Tokens: presented, refused, revoked, on every server.

use std::collections::BTreeSet;
use std::time::Duration;

use dandyroll_ledger::Timestamp;
use dandyroll_ledger::tokens::{AuthError, Grant, Policy, RateLimit, Scope, Token, TokenError};
use dandyroll_scheme::Sha256Digest;
use dandyroll_scheme::schemes::green_list;

use crate::place::Place;

on_both!(
    a_token_is_known_until_revoked_or_expired,
    the_first_token_is_made_once,
    what_is_granted_reads_back,
    profiles_are_stored_once_and_found_by_name_and_id,
);

fn grant() -> Grant {
    Grant {
        name: "tests".into(),
        scopes: BTreeSet::from([Scope::Generate, Scope::DetectPublic]),
        aliases: None,
        policy: Policy::DefaultOn,
        limit: None,
        expires_at: None,
    }
}

async fn a_token_is_known_until_revoked_or_expired(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let now = Timestamp::now();
    let token = a.tokens().create(&grant()).await.unwrap();
    let short = Grant { expires_at: Some(now.plus(Duration::from_secs(60))), ..grant() };
    let short = a.tokens().create(&short).await.unwrap();
    b.refresh().await.unwrap();
    let text = token.expose(str::to_owned);
    assert_eq!(b.snapshot().tokens.authenticate(&text, now).unwrap().id, *token.id());
    let short = short.expose(str::to_owned);
    let check = |text: &str, now| b.snapshot().tokens.authenticate(text, now).map(drop);
    assert_eq!(check(&short, now.plus(Duration::from_secs(59))), Ok(()));
    assert_eq!(check(&short, now.plus(Duration::from_secs(60))), Err(AuthError::Expired));
    let other = Token::generate().unwrap();
    assert_eq!(other.expose(|text| check(text, now)), Err(AuthError::Unknown));
    // The right id with another secret.
    let forged = format!("{}{}", &text[..21], &other.expose(str::to_owned)[21..]);
    assert_eq!(check(&forged, now), Err(AuthError::Unknown));
    a.tokens().revoke(token.id()).await.unwrap();
    a.tokens().revoke(token.id()).await.unwrap();
    b.refresh().await.unwrap();
    assert_eq!(check(&text, now), Err(AuthError::Revoked));
    assert!(matches!(a.tokens().revoke(other.id()).await, Err(TokenError::Unknown(_))));
}

async fn the_first_token_is_made_once(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let (a, b, grant) = (a.tokens(), b.tokens(), grant());
    let (one, two) = tokio::join!(a.create_first(&grant), b.create_first(&grant));
    assert_eq!([one.unwrap(), two.unwrap()].iter().flatten().count(), 1);
    assert!(a.create_first(&grant).await.unwrap().is_none());
}

async fn what_is_granted_reads_back(place: Place) {
    let node = place.node("a").await;
    let full = Grant {
        name: "Überprüfer №1".into(),
        scopes: Scope::ALL.into(),
        aliases: Some(BTreeSet::from(["a".parse().unwrap(), "b-1".parse().unwrap()])),
        policy: Policy::Enforced,
        limit: RateLimit::new(60, 5),
        expires_at: Some(Timestamp::from_micros(2_000_000_000_000_000).unwrap()),
    };
    let none = Grant { aliases: Some(BTreeSet::new()), ..grant() };
    for grant in [&full, &none] {
        node.tokens().create(grant).await.unwrap();
    }
    let listed: Vec<_> = node.tokens().list().await.unwrap().into_iter().map(|info| info.grant).collect();
    assert_eq!(listed, [full.clone(), none.clone()]);
    assert!(full.allows(&"a".parse().unwrap()) && !full.allows(&"c".parse().unwrap()));
    assert!(!none.allows(&"a".parse().unwrap()) && grant().allows(&"a".parse().unwrap()));
    for bad in [
        Grant { name: String::new(), ..grant() },
        Grant { name: "a\nb".into(), ..grant() },
        Grant { scopes: BTreeSet::new(), ..grant() },
    ] {
        assert!(node.tokens().create(&bad).await.is_err(), "{bad:?}");
    }
}

async fn profiles_are_stored_once_and_found_by_name_and_id(place: Place) {
    let (a, b) = (place.node("a").await, place.node("b").await);
    let prose = green_list::prose_v1().bind(Sha256Digest([1; 32]), None).unwrap();
    let code = green_list::code_v1().bind(Sha256Digest([1; 32]), Some(Sha256Digest([2; 32]))).unwrap();
    let name = "default".parse().unwrap();
    for _ in 0..2 {
        a.profiles().put(&prose, Some(&name)).await.unwrap();
    }
    a.profiles().put(&code, None).await.unwrap();
    b.refresh().await.unwrap();
    let snapshot = b.snapshot();
    assert_eq!(snapshot.profiles.iter().count(), 2);
    assert_eq!(*snapshot.profiles.find("default").unwrap(), prose);
    assert_eq!(*snapshot.profiles.find(code.id().as_str()).unwrap(), code);
    assert!(snapshot.profiles.find("other").is_err());
    a.profiles().put(&code, Some(&name)).await.unwrap();
    b.refresh().await.unwrap();
    assert_eq!(*b.snapshot().profiles.find("default").unwrap(), code);
}
