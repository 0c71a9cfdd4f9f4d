//! From what was asked to the hypotheses that are tried: keys × profiles × modes, each distinct test once.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use dandyroll_api::detect::{KeyRef, Look, ModeName, ProfileRef};
use dandyroll_detector::{Correction, Hypothesis, Mode, ModeError, Policy};
use dandyroll_dumps::{Judge, Wanted};
use dandyroll_ledger::keys::{Alias, LoadedKey, State, Version};
use dandyroll_ledger::node::Snapshot;
use dandyroll_ledger::tokens::{Grant, Scope};
use dandyroll_scheme::{Background, KeyId, Mark, Nats, Profile, Sha256Digest, TokenId};
use dandyroll_vocab::Vocabulary;

use super::DetectionError;

/// Entropies as they come from a model.
pub type Entropies = Result<Vec<Option<Nats>>, DetectionError>;

/// What gives the entropy before each token of a text: a loaded model.
pub trait Reader: fmt::Debug + Send + Sync {
    /// SHA-256 of the model.
    fn model(&self) -> Sha256Digest;

    /// The entropy before each of `ids`, given the prompt; a prompt that is not known is empty.
    fn entropies(
        &self,
        prompt: Vec<TokenId>,
        ids: Vec<TokenId>,
    ) -> Pin<Box<dyn Future<Output = Entropies> + Send + '_>>;
}

/// A tokenizer that texts can be read with, and the model over it if one is loaded.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The tokenizer.
    pub vocabulary: Arc<Vocabulary>,
    /// The model.
    pub reader: Option<Arc<dyn Reader>>,
    /// The background lists for it that profiles may name.
    pub backgrounds: Vec<Arc<Background>>,
}

impl Tokenizer {
    /// The list that a profile names, if it names one; its digest if it is not there or does not fit.
    pub(super) fn background(&self, profile: &Profile) -> Result<Option<Arc<Background>>, Sha256Digest> {
        let Some(named) = profile.background() else { return Ok(None) };
        let fits = |list: &&Arc<Background>| {
            list.digest() == named
                && list.tokenizer() == profile.tokenizer()
                && list.width() == profile.recipe().width()
        };
        self.backgrounds.iter().find(fits).map(|list| Some(Arc::clone(list))).ok_or(named)
    }
}

/// What a caller may see of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Verdict and a coarse band.
    Public,
    /// And z, p, key, spans.
    Full,
    /// And the colour of every token.
    Tokens,
}

impl Tier {
    /// The highest that a token's scopes give.
    pub fn of(grant: &Grant) -> Option<Self> {
        let tiers = [
            (Scope::DetectTokens, Self::Tokens),
            (Scope::DetectFull, Self::Full),
            (Scope::DetectPublic, Self::Public),
        ];
        tiers.into_iter().find(|(scope, _)| grant.scopes.contains(scope)).map(|(_, tier)| tier)
    }
}

/// One test of a text.
pub(crate) struct Planned {
    pub(crate) key: KeyRef,
    pub(crate) compromised: bool,
    pub(crate) profiles: Vec<ProfileRef>,
    pub(crate) mark: Arc<Mark>,
    pub(crate) mode: Mode,
}

/// Tests that share a tokenizer, and so a tokenised text.
pub(crate) struct Group {
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// Set if any of the tests reads entropies.
    pub(crate) reader: Option<Arc<dyn Reader>>,
    /// By their places in [`Plan::tests`].
    pub(crate) tests: Vec<usize>,
}

/// What is done to each text of a request.
pub struct Plan {
    pub(crate) tier: Tier,
    pub(crate) tests: Vec<Planned>,
    pub(crate) groups: Vec<Group>,
    pub(crate) policy: Policy,
    pub(crate) alpha: f64,
    pub(crate) spans: bool,
    pub(crate) tokens: bool,
    /// The only ring, if there is only one.
    pub(crate) alias: Option<Alias>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("tier", &self.tier)
            .field("tests", &self.tests.len())
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// The detector's form of a group's tests.
    pub(crate) fn hypotheses(&self, group: &Group) -> Vec<Hypothesis<'_>> {
        let tests = group.tests.iter().filter_map(|test| self.tests.get(*test));
        tests.map(|test| Hypothesis { mark: &test.mark, mode: test.mode }).collect()
    }

    /// Whether any test needs the model.
    pub(crate) fn needs_model(&self) -> bool {
        self.groups.iter().any(|group| group.reader.is_some())
    }

    /// Ids of the keys and of the profiles that are looked for, each once, in order.
    pub(crate) fn names(&self) -> (Vec<String>, Vec<String>) {
        let (mut keys, mut profiles) = (Vec::<String>::new(), Vec::<String>::new());
        for test in &self.tests {
            if !keys.contains(&test.key.key_id) {
                keys.push(test.key.key_id.clone());
            }
            for profile in &test.profiles {
                if !profiles.contains(&profile.id) {
                    profiles.push(profile.id.clone());
                }
            }
        }
        (keys, profiles)
    }

    /// The same tests for documents of a dump: without a model, under one tokenizer.
    pub(crate) fn judge(&self) -> Result<Judge, DetectionError> {
        let [group] = self.groups.as_slice() else {
            return Err(value("profiles", "they are of several tokenizers: ask for one after the other"));
        };
        if self.needs_model() {
            return Err(value("modes", "dumps are judged without a model: model-free"));
        }
        let wanted = self.tests.iter().map(|test| {
            Ok(Wanted {
                key: test.key.key_id.parse().map_err(|_| DetectionError::Died)?,
                profile: test.profiles.first().map(|profile| profile.id.clone()).unwrap_or_default(),
                mark: Arc::clone(&test.mark),
            })
        });
        let wanted = wanted.collect::<Result<Vec<Wanted>, DetectionError>>()?;
        Ok(Judge::new(Arc::clone(&group.vocabulary), wanted, self.policy, self.spans))
    }

    /// m.
    pub fn hypotheses_tried(&self) -> usize {
        self.tests.len()
    }
}

/// [`Policy::STANDARD`]'s α.
const ALPHA: f64 = 1e-5;
/// [`Policy::STANDARD`]'s bound for inconclusive.
const INCONCLUSIVE: f64 = 1e-3;

/// What plans are made with.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) profiles: Vec<String>,
    pub(crate) most_tests: usize,
}

fn value(field: &'static str, fault: impl Into<String>) -> DetectionError {
    DetectionError::Value { field, fault: fault.into() }
}

/// What `detect:public` may not ask for: with it, it could find out what it may not see.
fn check_tier(look: &Look, tier: Tier) -> Result<(), DetectionError> {
    let full = Scope::DetectFull;
    let asked = [
        (look.keys.is_some(), "keys", Tier::Full, full),
        (look.modes.is_some(), "modes", Tier::Full, full),
        (look.alpha.is_some(), "alpha", Tier::Full, full),
        (look.spans, "spans", Tier::Full, full),
        (look.include_compromised, "include_compromised", Tier::Full, full),
        (look.tokens, "tokens", Tier::Tokens, Scope::DetectTokens),
    ];
    match asked.into_iter().find(|(asked, _, needed, _)| *asked && tier < *needed) {
        Some((_, what, _, scope)) => Err(DetectionError::Scope { what, scope }),
        None => Ok(()),
    }
}

/// Makes the plan for a request.
pub(crate) fn plan(
    look: &Look,
    grant: &Grant,
    snapshot: &Snapshot,
    tokenizers: &[Tokenizer],
    defaults: &Defaults,
) -> Result<Plan, DetectionError> {
    let tier =
        Tier::of(grant).ok_or(DetectionError::Scope { what: "detection", scope: Scope::DetectPublic })?;
    check_tier(look, tier)?;
    for (what, found, most) in [
        ("keys", look.keys.as_ref().map_or(0, Vec::len), 64),
        ("profiles", look.profiles.as_ref().map_or(0, Vec::len), 16),
        ("modes", look.modes.as_ref().map_or(0, Vec::len), 4),
    ] {
        if found > most {
            return Err(DetectionError::TooMany { what, found, most });
        }
    }
    assemble(look, tier, grant, snapshot, tokenizers, defaults)
}

/// [`plan`] for what was planned before and is asked for by ids, of which there may be more than a request may name.
pub(crate) fn plan_again(
    look: &Look,
    grant: &Grant,
    snapshot: &Snapshot,
    tokenizers: &[Tokenizer],
    defaults: &Defaults,
) -> Result<Plan, DetectionError> {
    let tier =
        Tier::of(grant).ok_or(DetectionError::Scope { what: "detection", scope: Scope::DetectPublic })?;
    check_tier(look, tier)?;
    assemble(look, tier, grant, snapshot, tokenizers, defaults)
}

fn assemble(
    look: &Look,
    tier: Tier,
    grant: &Grant,
    snapshot: &Snapshot,
    tokenizers: &[Tokenizer],
    defaults: &Defaults,
) -> Result<Plan, DetectionError> {
    let keys = keys(look, grant, snapshot)?;
    let profiles = profiles(look, snapshot, tokenizers, defaults)?;
    let names = names(snapshot);

    let asked = look.modes.as_deref().unwrap_or(&[ModeName::Auto]);
    if asked.is_empty() {
        return Err(value("modes", "name at least one, or leave it out"));
    }
    let mut kinds: Vec<(usize, &Profile, Mode)> = Vec::new();
    for (named, profile, place) in &profiles {
        let reader = tokenizers.get(*place).and_then(|tokenizer| tokenizer.reader.as_ref());
        for mode in asked {
            let mode = mode_of(*mode, named, profile, reader.map(|reader| reader.model()))?;
            kinds.push((*place, profile, mode));
        }
    }
    // Checked before anything is derived.
    let found = keys.len().saturating_mul(kinds.len());
    if found > defaults.most_tests {
        return Err(DetectionError::TooMany { what: "hypotheses", found, most: defaults.most_tests });
    }

    let (mut tests, mut groups) = (Vec::<Planned>::new(), BTreeMap::<usize, Group>::new());
    for key in &keys {
        // The tests of this key begin here: only they can be the same.
        let first = tests.len();
        for (place, profile, mode) in &kinds {
            let Some(tokenizer) = tokenizers.get(*place) else { continue };
            // Profiles whose list is not there were refused.
            let background = tokenizer.background(profile).ok().flatten();
            let mark = key.mark(profile, background).map_err(|error| value("profiles", error.to_string()))?;
            let reference = ProfileRef {
                id: profile.id().to_string(),
                names: names.get(profile.id().as_str()).cloned().unwrap_or_default(),
            };
            let same = tests
                .iter_mut()
                .skip(first)
                .find(|test| test.mark.test() == mark.test() && test.mode == *mode);
            if let Some(same) = same {
                if !same.profiles.contains(&reference) {
                    same.profiles.push(reference);
                }
                continue;
            }
            let group = groups.entry(*place).or_insert_with(|| Group {
                vocabulary: Arc::clone(&tokenizer.vocabulary),
                reader: None,
                tests: Vec::new(),
            });
            if mode.needs_entropies() {
                group.reader.clone_from(&tokenizer.reader);
            }
            group.tests.push(tests.len());
            tests.push(Planned {
                key: KeyRef {
                    alias: key.alias.to_string(),
                    version: key.version.get(),
                    key_id: key.key_id.to_string(),
                    state: key.state.name().into(),
                },
                compromised: key.state == State::Compromised,
                profiles: vec![reference],
                mark,
                mode: *mode,
            });
        }
    }
    let groups: Vec<Group> = groups.into_values().collect();
    if look.spans && groups.len() > 1 {
        return Err(value("spans", "the profiles have several tokenizers; ask for one after the other"));
    }
    let alpha = look.alpha.unwrap_or(ALPHA);
    // Several keys may truly be in one text: Holm's correction loses nothing there.
    let correction = if keys.len() > 1 { Correction::Holm } else { Correction::Bonferroni };
    let policy = Policy::new(alpha, INCONCLUSIVE.max(alpha), Policy::STANDARD.min_scored(), correction)?;
    let alias = keys.first().map(|key| key.alias.clone());
    let alias = alias.filter(|alias| keys.iter().all(|key| key.alias == *alias));
    Ok(Plan { tier, tests, groups, policy, alpha, spans: look.spans, tokens: look.tokens, alias })
}

/// Every profile's names, by its id.
fn names(snapshot: &Snapshot) -> BTreeMap<&str, Vec<String>> {
    let mut names = BTreeMap::<&str, Vec<String>>::new();
    for (name, id) in snapshot.profiles.names() {
        names.entry(id.as_str()).or_default().push(name.to_string());
    }
    names
}

/// The keys that are looked for, each once.
fn keys(look: &Look, grant: &Grant, snapshot: &Snapshot) -> Result<Vec<LoadedKey>, DetectionError> {
    let compromised = look.include_compromised;
    let mut keys: Vec<LoadedKey> = Vec::new();
    let mut add = |key: &LoadedKey| {
        if !keys.iter().any(|known| known.key_id == key.key_id) {
            keys.push(key.clone());
        }
    };
    let all = [String::from("all")];
    let asked = look.keys.as_deref().unwrap_or(&all);
    if asked.is_empty() {
        return Err(value("keys", "name at least one, or leave it out for all"));
    }
    for text in asked {
        if text == "all" {
            let rings = snapshot.rings.iter().filter(|(alias, _)| grant.allows(alias));
            rings.flat_map(|(_, ring)| ring.detecting(compromised)).for_each(&mut add);
        } else if let Ok(id) = text.parse::<KeyId>() {
            let rings = snapshot.rings.iter().filter(|(alias, _)| grant.allows(alias));
            let key = rings.flat_map(|(_, ring)| ring.keys()).find(|key| key.key_id == id);
            add(usable(key.ok_or(DetectionError::UnknownKey(id))?, compromised)?);
        } else {
            let (alias, version) = name(text)?;
            if !grant.allows(&alias) {
                return Err(DetectionError::AliasNotAllowed(alias));
            }
            let ring = snapshot.rings.get(&alias);
            let ring = ring.ok_or_else(|| DetectionError::UnknownRing(alias.clone()))?;
            match version {
                None => ring.detecting(compromised).for_each(&mut add),
                Some(version) => {
                    let key = ring.keys().iter().find(|key| key.version == version);
                    let key = key.ok_or(DetectionError::UnknownVersion { alias, version })?;
                    add(usable(key, compromised)?);
                }
            }
        }
    }
    if keys.is_empty() { Err(DetectionError::NoKeys) } else { Ok(keys) }
}

fn usable(key: &LoadedKey, compromised: bool) -> Result<&LoadedKey, DetectionError> {
    if key.state.detects() || (compromised && key.state == State::Compromised) {
        return Ok(key);
    }
    let LoadedKey { alias, version, state, .. } = key;
    Err(DetectionError::NotDetecting { alias: alias.clone(), version: *version, state: *state })
}

/// `alias`, or `alias@version`.
fn name(text: &str) -> Result<(Alias, Option<Version>), DetectionError> {
    let bad = || {
        let shown: String = text.chars().take(80).collect();
        value("keys", format!("{shown:?} is neither \"all\", nor alias, alias@version, or key id"))
    };
    let (alias, version) = match text.split_once('@') {
        Some((alias, version)) => {
            let plain = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
            let number = version.parse().ok().filter(|_| plain).and_then(Version::new);
            (alias, Some(number.ok_or_else(bad)?))
        }
        None => (text, None),
    };
    Ok((alias.parse().map_err(|_| bad())?, version))
}

/// The profiles that are looked for, each once: as named, itself, and the place of its tokenizer.
fn profiles(
    look: &Look,
    snapshot: &Snapshot,
    tokenizers: &[Tokenizer],
    defaults: &Defaults,
) -> Result<Vec<(String, Profile, usize)>, DetectionError> {
    let asked = look.profiles.as_ref().unwrap_or(&defaults.profiles);
    if asked.is_empty() {
        return Err(value("profiles", "name at least one, or leave it out"));
    }
    let mut profiles: Vec<(String, Profile, usize)> = Vec::new();
    for text in asked {
        let (shown, profile, (place, _)) = profile_of(text, snapshot, tokenizers)?;
        if !profiles.iter().any(|(_, known, _)| *known == profile) {
            profiles.push((shown, profile, place));
        }
    }
    Ok(profiles)
}

/// A profile by its id or name: as named, itself, and its tokenizer with its place. Refused unless tokenizer and
/// background list are loaded.
pub(super) fn profile_of<'t>(
    text: &str,
    snapshot: &Snapshot,
    tokenizers: &'t [Tokenizer],
) -> Result<(String, Profile, (usize, &'t Tokenizer)), DetectionError> {
    let shown = || text.chars().take(64).collect::<String>();
    let profile = snapshot.profiles.find(text).map_err(|_| DetectionError::UnknownProfile(shown()))?;
    let tokenizer = profile.tokenizer();
    let found = tokenizers.iter().enumerate().find(|(_, known)| known.vocabulary.digest() == tokenizer);
    let found = found.ok_or_else(|| DetectionError::TokenizerNotLoaded { profile: shown(), tokenizer })?;
    if let Err(list) = found.1.background(profile) {
        return Err(DetectionError::BackgroundNotLoaded { profile: shown(), list });
    }
    Ok((shown(), profile.clone(), found))
}

/// A mode as asked for, with a profile and the model that is loaded over its tokenizer.
pub(super) fn mode_of(
    asked: ModeName,
    named: &str,
    profile: &Profile,
    model: Option<Sha256Digest>,
) -> Result<Mode, DetectionError> {
    let fault = |mode: ModeName, why: String| DetectionError::Mode {
        mode: mode.name(),
        profile: named.to_owned(),
        why,
    };
    let null = profile.recipe().scheme().null();
    let of = |mode: ModeName| {
        let found = Mode::named(mode.name(), profile.threshold(), null);
        found.map_err(|error: ModeError| fault(mode, error.to_string()))
    };
    let gate_model = model.is_some() && profile.model() == model;
    match asked {
        ModeName::Auto if gate_model && profile.threshold().is_some() => of(ModeName::EntropyGated),
        ModeName::Auto => of(ModeName::ModelFree),
        ModeName::EntropyGated => {
            let mode = of(asked)?;
            if gate_model { Ok(mode) } else { Err(fault(asked, "its model is not loaded here".into())) }
        }
        _ => {
            let mode = of(asked)?;
            if mode.needs_entropies() && model.is_none() {
                return Err(fault(asked, "no model is loaded here over its tokenizer".into()));
            }
            Ok(mode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys_are_read_or_refused() {
        let alias = |text: &str| text.parse::<Alias>().unwrap();
        assert_eq!(name("prose").unwrap(), (alias("prose"), None));
        assert_eq!(name("prose@12").unwrap(), (alias("prose"), Version::new(12)));
        for bad in ["", "@", "a@", "a@0", "a@-1", "a@+1", "a@1@2", "A", "a@4294967296", "@1"] {
            let error = name(bad).unwrap_err().to_string();
            assert!(error.starts_with("keys: "), "{bad}: {error}");
        }
    }

    #[test]
    fn the_default_policy_is_the_library_s() {
        let policy = Policy::new(ALPHA, INCONCLUSIVE, Policy::STANDARD.min_scored(), Correction::Bonferroni);
        assert_eq!(policy.unwrap(), Policy::STANDARD);
    }

    #[test]
    fn the_public_may_set_profiles_only() {
        let fields: [fn(&mut Look); 6] = [
            |look| look.keys = Some(Vec::new()),
            |look| look.modes = Some(Vec::new()),
            |look| look.alpha = Some(0.01),
            |look| look.spans = true,
            |look| look.tokens = true,
            |look| look.include_compromised = true,
        ];
        for (place, set) in fields.into_iter().enumerate() {
            let mut look = Look::default();
            set(&mut look);
            assert!(check_tier(&look, Tier::Public).is_err(), "{look:?}");
            assert_eq!(check_tier(&look, Tier::Full).is_err(), place == 4, "{look:?}");
            assert!(check_tier(&look, Tier::Tokens).is_ok());
        }
        let profiles = Look { profiles: Some(vec!["prose-v1".into()]), ..Look::default() };
        assert!(check_tier(&profiles, Tier::Public).is_ok());
    }
}
