//! The first start on an empty store: a token for the administrator, a ring, the built-in profiles.

use dandyroll_scheme::{Recipe, Sha256Digest, built_in_names};

use crate::audit::{Action, AuditError, Completion, Detail, Intent, Outcome, Subject};
use crate::keys::{Alias, KeyError, NewRing};
use crate::node::Node;
use crate::profiles::ProfileError;
use crate::store::StoreError;
use crate::tokens::{Grant, Policy, Scope, Token, TokenError};

/// The ring that a fresh store gets, and that requests mean which name none.
pub const DEFAULT_RING: &str = "default";

/// Why it did not happen.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The audit: nothing was done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Profiles.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives a store without tokens its first one, with every scope, and a store without rings the ring
/// [`DEFAULT_RING`]. The token is returned once and never again.
pub async fn administrator(node: &Node) -> Result<Option<Token>, BootstrapError> {
    // Looked at before the audit is written: a later start leaves no rows.
    if node.keys().rings().await?.is_empty() {
        let Ok(alias) = DEFAULT_RING.parse::<Alias>() else { return Ok(None) };
        let new = NewRing { alias, allow_export: false, allow_destroy: false, rotate_every: None };
        let subject = Subject { alias: Some(new.alias.clone()), ..Subject::default() };
        let keys = node.keys();
        // On the heap: futures of the database's driver are large.
        let made = Box::pin(keys.create_ring(new));
        match Box::pin(recorded(node, Action::RingCreate, subject, Detail::new(), made)).await? {
            // Another server was first.
            Ok(_) | Err(KeyError::RingExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !node.tokens().list().await?.is_empty() {
        return Ok(None);
    }
    let grant = Grant {
        name: "first administrator".into(),
        scopes: Scope::ALL.into(),
        aliases: None,
        policy: Policy::DefaultOn,
        limit: None,
        expires_at: None,
    };
    let tokens = node.tokens();
    let made = Box::pin(tokens.create_first(&grant));
    Ok(recorded(node, Action::TokenCreate, Subject::default(), Detail::from([("first", true.into())]), made)
        .await??)
}

/// Stores the built-in profiles for a tokenizer and, those with an entropy threshold, for a model. A name that
/// means something already keeps its meaning.
pub async fn built_in_profiles(
    node: &Node,
    tokenizer: Sha256Digest,
    model: Option<Sha256Digest>,
) -> Result<(), BootstrapError> {
    for name in built_in_names() {
        let (Some(recipe), Ok(alias)) = (Recipe::built_in(name), name.parse::<Alias>()) else { continue };
        // Without a model there is nothing that the threshold's entropies could belong to.
        let Ok(profile) = recipe.bind(tokenizer, model) else { continue };
        let id = profile.id();
        let snapshot = node.snapshot();
        let taken = snapshot.profiles.names().any(|(name, _)| *name == alias);
        let stored = snapshot.profiles.find(id.as_str()).is_ok();
        if stored && taken {
            continue;
        }
        let subject = Subject { profile: Some(id.to_string()), ..Subject::default() };
        let detail = Detail::from([("name", if taken { "".into() } else { name.into() })]);
        let profiles = node.profiles();
        let put = Box::pin(profiles.put(&profile, (!taken).then_some(&alias)));
        Box::pin(recorded(node, Action::ProfileCreate, subject, detail, put)).await??;
    }
    Ok(())
}

/// Does what nobody asked for but an empty store needs, and writes it down.
async fn recorded<T, E: std::fmt::Display>(
    node: &Node,
    action: Action,
    subject: Subject,
    detail: Detail,
    work: impl Future<Output = Result<T, E>>,
) -> Result<Result<T, E>, AuditError> {
    let intent = Intent { action: action.name(), actor: "system".into(), subject, detail };
    let tell = |result: &Result<T, E>| match result {
        Ok(_) => Completion::plain(Outcome::Ok),
        Err(error) => Completion {
            detail: Detail::from([("error", error.to_string().as_str().into())]),
            ..Completion::plain(Outcome::Failed)
        },
    };
    let (_, result) = node.audit().around(&intent, work, tell).await?;
    Ok(result)
}
