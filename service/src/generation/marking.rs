//! Whether a text is marked, and with what: the token's policy, the request, and what is there.

use std::sync::Arc;

use dandyroll_api::openai::WatermarkRequest;
use dandyroll_ledger::keys::{Alias, Version};
use dandyroll_ledger::node::Snapshot;
use dandyroll_ledger::tokens::{Grant, Policy};
use dandyroll_scheme::{Background, KeyId, Mark, Profile, Sha256Digest};

use super::error::{GenerationError, Obstacle};

/// What a text is marked with. It holds the sub-key: a text that was begun is finished under the version it
/// names, whatever becomes of the version meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) alias: Alias,
    pub(crate) version: Version,
    pub(crate) key_id: KeyId,
    pub(crate) profile: Profile,
    pub(crate) mark: Arc<Mark>,
}

/// What was decided, and why.
#[derive(Clone, Debug)]
pub(crate) struct Marking {
    pub(crate) mark: Option<Chosen>,
    pub(crate) reason: &'static str,
}

/// Names that stand in for those that a request leaves out.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) alias: Alias,
    pub(crate) profile: String,
}

/// The model that would generate, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) tokenizer: Sha256Digest,
    pub(crate) model: Sha256Digest,
    /// The most tokens that will be generated.
    pub(crate) max_tokens: usize,
    /// Whether the sampler takes the likeliest token, so that there is nothing to choose from.
    pub(crate) greedy: bool,
    /// The background lists that profiles may name: what a detector scores depends on them.
    pub(crate) backgrounds: &'a [Arc<Background>],
}

/// Decides by the snapshot as it is now.
///
/// What a request names and is not there is its mistake. What the defaults name and is not there leaves the text
/// unmarked, unless the request requires a mark or the policy is enforced: then nothing is generated.
pub(crate) fn decide(
    ask: &WatermarkRequest,
    grant: &Grant,
    snapshot: &Snapshot,
    target: Target<'_>,
    defaults: &Defaults,
) -> Result<Marking, GenerationError> {
    let value = |field, fault: String| GenerationError::Value { field, fault };
    let named = ask.alias.is_some() || ask.profile.is_some();
    let asked = match (ask.enabled, ask.require || named) {
        (Some(false), true) => {
            let fault = "a mark can't be required, or a ring or profile be named, with enabled: false";
            return Err(value("watermark.enabled", fault.into()));
        }
        (None, true) => Some(true),
        (enabled, _) => enabled,
    };
    if !grant.policy.decide(asked)? {
        let reason = if asked == Some(false) { "opted_out" } else { "off" };
        return Ok(Marking { mark: None, reason });
    }
    let closed = ask.require || grant.policy == Policy::Enforced;
    let unless = |obstacle: Obstacle| {
        if closed {
            Err(GenerationError::Required(obstacle))
        } else {
            Ok(Marking { mark: None, reason: obstacle.name() })
        }
    };

    let alias = match &ask.alias {
        Some(text) => text
            .parse()
            .map_err(|bad: dandyroll_ledger::keys::BadAlias| value("watermark.alias", bad.to_string()))?,
        None => default_ring(grant, &defaults.alias),
    };
    if !grant.allows(&alias) {
        return Err(GenerationError::AliasNotAllowed(alias));
    }
    let Some(ring) = snapshot.rings.get(&alias) else {
        return if ask.alias.is_some() {
            Err(GenerationError::UnknownRing(alias))
        } else {
            unless(Obstacle::UnknownAlias)
        };
    };
    let name = ask.profile.as_ref().unwrap_or(&defaults.profile);
    let Ok(profile) = snapshot.profiles.find(name) else {
        return if ask.profile.is_some() {
            Err(GenerationError::UnknownProfile(name.chars().take(64).collect()))
        } else {
            unless(Obstacle::UnknownProfile)
        };
    };
    let fits =
        profile.tokenizer() == target.tokenizer && profile.model().is_none_or(|model| model == target.model);
    if !fits {
        return if ask.profile.is_some() {
            Err(GenerationError::Required(Obstacle::OtherModel))
        } else {
            unless(Obstacle::OtherModel)
        };
    }
    let Some(key) = ring.active() else { return unless(Obstacle::NoActiveKey) };
    // A token needs h others before it. Only an explicit wish is refused: an enforced policy must let short
    // answers through, as it does those that end by themselves.
    if ask.require && target.max_tokens <= profile.recipe().width().len() {
        return Err(GenerationError::Required(Obstacle::TooShort));
    }
    let list = target
        .backgrounds
        .iter()
        .find(|list| Some(list.digest()) == profile.background() && list.width() == profile.recipe().width());
    // A list that was found by its digest and fits is the profile's.
    let mark = key.mark(profile, list.map(Arc::clone)).map_err(|_| GenerationError::Died)?;
    if target.greedy && !mark.is_raw() {
        return unless(Obstacle::NotMarkable);
    }
    let mark =
        Chosen { alias, version: key.version, key_id: key.key_id.clone(), profile: profile.clone(), mark };
    let reason = match (grant.policy, asked) {
        (Policy::Enforced, _) => "enforced",
        (_, Some(true)) => "requested",
        _ => "default_on",
    };
    Ok(Marking { mark: Some(mark), reason })
}

/// The ring of who names none: the server's, or the token's own if it may use only one.
fn default_ring(grant: &Grant, default: &Alias) -> Alias {
    match &grant.aliases {
        Some(aliases) if !aliases.contains(default) && aliases.len() == 1 => {
            aliases.first().unwrap_or(default).clone()
        }
        _ => default.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_ledger::tokens::Scope;

    fn grant(policy: Policy, aliases: Option<&[&str]>) -> Grant {
        Grant {
            name: "t".into(),
            scopes: [Scope::Generate].into(),
            aliases: aliases.map(|all| all.iter().map(|a| a.parse().unwrap()).collect()),
            policy,
            limit: None,
            expires_at: None,
        }
    }

    fn run(ask: &WatermarkRequest, grant: &Grant) -> Result<Marking, GenerationError> {
        let digest = Sha256Digest([1; 32]);
        let target =
            Target { tokenizer: digest, model: digest, max_tokens: 16, greedy: false, backgrounds: &[] };
        let defaults = Defaults { alias: "default".parse().unwrap(), profile: "prose-v1".into() };
        decide(ask, grant, &Snapshot::default(), target, &defaults)
    }

    #[test]
    fn an_empty_store_marks_nothing_and_says_so_or_generates_nothing() {
        let plain = WatermarkRequest::default();
        let required = WatermarkRequest { require: true, ..plain.clone() };
        let named = WatermarkRequest { alias: Some("x".into()), ..plain.clone() };
        let opted_out = WatermarkRequest { enabled: Some(false), ..plain.clone() };
        let reason = |ask: &WatermarkRequest, policy| match run(ask, &grant(policy, None)) {
            Ok(marking) => marking.reason,
            Err(error) => error.code(),
        };
        use Policy as P;
        for (ask, policy, expected) in [
            (&plain, P::Off, "off"),
            (&plain, P::DefaultOn, "unknown_alias"),
            (&plain, P::Enforced, "watermark_required"),
            (&opted_out, P::Off, "opted_out"),
            (&opted_out, P::DefaultOn, "opted_out"),
            (&opted_out, P::Enforced, "opt_out_refused"),
            (&required, P::Off, "watermark_required"),
            (&required, P::DefaultOn, "watermark_required"),
            (&named, P::Off, "unknown_alias"),
        ] {
            assert_eq!(reason(ask, policy), expected, "{ask:?} {policy:?}");
        }
        let both = WatermarkRequest { enabled: Some(false), ..required };
        assert_eq!(reason(&both, P::Off), "invalid_value");
    }

    #[test]
    fn a_token_of_one_ring_uses_it() {
        let default: Alias = "default".parse().unwrap();
        let ring =
            |aliases: Option<&[&str]>| default_ring(&grant(Policy::Off, aliases), &default).to_string();
        assert_eq!(ring(None), "default");
        assert_eq!(ring(Some(&["a"])), "a");
        assert_eq!(ring(Some(&["a", "default"])), "default");
        assert_eq!(ring(Some(&["a", "b"])), "default");
        let error =
            run(&WatermarkRequest::default(), &grant(Policy::Enforced, Some(&["a", "b"]))).unwrap_err();
        assert_eq!(error.code(), "alias_not_allowed");
    }
}
