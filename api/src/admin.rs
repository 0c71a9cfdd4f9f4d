//! Rings, key versions, profiles, tokens and servers: what administrators send and get.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Makes a ring with a first key version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RingCreate {
    /// Its name: 1 to 64 of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", max_length = 64)]
    pub alias: String,
    /// Whether masters may leave the service, wrapped.
    #[serde(default)]
    pub allow_export: bool,
    /// Whether versions may be destroyed.
    #[serde(default)]
    pub allow_destroy: bool,
    /// Rotation by the clock, in seconds: 60 s to ten years; null: only when asked.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 315_360_000)]
    pub rotate_every_s: Option<u64>,
}

/// Changes what a ring allows; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RingChange {
    /// Whether masters may leave the service, wrapped.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub allow_export: Option<bool>,
    /// Whether versions may be destroyed.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    pub allow_destroy: Option<bool>,
    /// Rotation by the clock, in seconds: 60 s to ten years; null ends it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, required = false, minimum = 60, maximum = 315_360_000)]
    pub rotate_every_s: Option<Option<u64>>,
}

/// A field that may be left out, but not be null unless its type says so.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ring {
    /// Its name.
    pub alias: String,
    /// Whether masters may leave the service, wrapped.
    pub allow_export: bool,
    /// Whether versions may be destroyed.
    pub allow_destroy: bool,
    /// Rotation by the clock, in seconds.
    pub rotate_every_s: Option<u64>,
    /// When the clock next rotates it (RFC 3339).
    pub next_rotation_at: Option<String>,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Its versions, oldest first.
    pub versions: Vec<KeyVersion>,
    /// The rotation under way.
    pub rotation: Option<Rotation>,
}

/// Rings by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingPage {
    /// The rings.
    pub rings: Vec<Ring>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// A key version. Its master is never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyVersion {
    /// Its number in the ring: 1, 2, 3, …
    pub version: u32,
    /// Its public id.
    pub key_id: String,
    /// `pending`, `active`, `verify_only`, `disabled`, `compromised`, `pending_destroy` or `destroyed`.
    pub state: String,
    /// `generated` or `imported`.
    pub origin: String,
    /// The key-encryption key that its master is wrapped under; null once destroyed.
    pub kek_id: Option<String>,
    /// When it was made or imported (RFC 3339).
    pub created_at: String,
    /// When its state last changed (RFC 3339).
    pub changed_at: String,
    /// When it will be destroyed (RFC 3339).
    pub destroy_at: Option<String>,
    /// Whether its false-positive rates were measured and found nominal; null: not measured.
    pub calibration_nominal: Option<bool>,
}

/// A rotation under way: the new version is active as soon as nobody is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// Where it leads.
    pub version: u32,
    /// When it began (RFC 3339).
    pub started_at: String,
    /// Servers that hold the new version.
    pub acknowledged: Vec<String>,
    /// Live servers that do not yet.
    pub waiting_for: Vec<String>,
}

/// Rotates a ring to a new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// A pending version to rotate to, such as an imported one; null: a new one is made.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    pub version: Option<u32>,
    /// Activate a version although its calibration failed.
    #[serde(default)]
    pub force: bool,
    /// How long to wait for the rotation's end before answering, in milliseconds.
    #[serde(default = "rotate_wait_ms")]
    #[schema(default = rotate_wait_ms, minimum = 0, maximum = 10_000)]
    pub wait_ms: u32,
}

fn rotate_wait_ms() -> u32 {
    2_000
}

impl Default for Rotate {
    fn default() -> Self {
        Self { version: None, force: false, wait_ms: rotate_wait_ms() }
    }
}

/// What came of a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotated {
    /// The ring.
    pub alias: String,
    /// The version that it rotates to.
    pub version: u32,
    /// That version's state now: `active` when the rotation has ended, `pending` while servers are waited for.
    pub state: String,
    /// The rotation, if it is still under way.
    pub rotation: Option<Rotation>,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// A rotation was ended without activating anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotationAborted {
    /// The ring.
    pub alias: String,
    /// The version that it was rotating to; it stays pending.
    pub version: u32,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// A key version after a step, with the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionChanged {
    /// The ring.
    pub alias: String,
    /// The version.
    pub version: KeyVersion,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// Orders the destruction of a version: its text becomes undetectable for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDestroy {
    /// In how many days; until then it can be called off.
    #[schema(minimum = 7, maximum = 30)]
    pub days: u32,
    /// Only say what it would mean.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a destruction means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DestroyPlan {
    /// The ring.
    pub alias: String,
    /// The version.
    pub version: u32,
    /// The key.
    pub key_id: String,
    /// How many rows of the audit name the key: their text would become undetectable.
    pub records: u64,
    /// When (RFC 3339).
    pub destroy_at: String,
    /// Whether it was only asked for, not ordered.
    pub dry_run: bool,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// A master on its way between two services, wrapped under a key-encryption key that both hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// Always `dandyroll-wrapped-key-1`.
    #[schema(pattern = "^dandyroll-wrapped-key-1$")]
    pub format: String,
    /// The ring that it comes from.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", max_length = 64)]
    pub alias: String,
    /// Its number there.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    pub version: u32,
    /// Its public id.
    #[schema(pattern = "^wk_[a-z2-7]{16}$")]
    pub key_id: String,
    /// The key-encryption key.
    #[schema(pattern = "^kek_[a-z2-7]{16}$")]
    pub kek_id: String,
    /// Nonce and ciphertext, base 64: 72 bytes.
    #[schema(pattern = "^[A-Za-z0-9+/]{96}$")]
    pub wrapped: String,
}

/// Takes a version's master out, wrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportKey {
    /// The key-encryption key to wrap it under, one that this service holds; null: the one in use.
    #[serde(default)]
    #[schema(pattern = "^kek_[a-z2-7]{16}$")]
    pub kek_id: Option<String>,
}

/// A version's master, wrapped, with the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportedKey {
    /// The wrapped master.
    pub key: WrappedKey,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// What wrapping everything under the key-encryption key in use did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rewrapped {
    /// Masters wrapped anew.
    pub masters: u64,
    /// Secrets of the service's own wrapped anew.
    pub secrets: u64,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// What generation and detection must agree on, member for member as in the profile's canonical form. Which members
/// there are, the algorithm says: the service's OpenAPI document has a form for each.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ProfileSpec(pub serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for ProfileSpec {
    /// An object that has each member once.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = ProfileSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<ProfileSpec, A::Error> {
                let mut members = serde_json::Map::new();
                while let Some(name) = input.next_key::<String>()? {
                    if members.contains_key(&name) {
                        return Err(serde::de::Error::custom("a member of the profile is given twice"));
                    }
                    members.insert(name, input.next_value()?);
                }
                Ok(ProfileSpec(members))
            }
        }

        input.deserialize_map(Members)
    }
}

impl utoipa::PartialSchema for ProfileSpec {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        let description = "What generation and detection must agree on, as in the profile's canonical form.";
        utoipa::openapi::ObjectBuilder::new().description(Some(description)).into()
    }
}

impl ToSchema for ProfileSpec {}

/// Stores a profile, and lets a name mean it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileCreate {
    /// What the name means from now on; null: the profile gets no name.
    #[serde(default)]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", max_length = 64)]
    pub name: Option<String>,
    /// The profile.
    pub profile: ProfileSpec,
}

/// Lets a name mean a stored profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileNamed {
    /// The profile's id.
    #[schema(pattern = "^wp_[a-z2-7]{52}$")]
    pub profile_id: String,
}

/// A stored profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Its content address.
    #[schema(pattern = "^wp_[a-z2-7]{52}$")]
    pub id: String,
    /// The names that mean it.
    pub names: Vec<String>,
    /// What it says.
    pub profile: ProfileSpec,
}

/// A profile that was stored or named, with the receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProfileStored {
    /// Its content address.
    #[schema(pattern = "^wp_[a-z2-7]{52}$")]
    pub id: String,
    /// The name that now means it.
    pub name: Option<String>,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// Profiles by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProfilePage {
    /// The profiles.
    pub profiles: Vec<Profile>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Generation.
    #[serde(rename = "generate")]
    Generate,
    /// Verdict and coarse band only.
    #[serde(rename = "detect:public")]
    DetectPublic,
    /// z, p, key and spans.
    #[serde(rename = "detect:full")]
    DetectFull,
    /// The colour of every token.
    #[serde(rename = "detect:tokens")]
    DetectTokens,
    /// Rings, versions, profiles, tokens, servers: looking.
    #[serde(rename = "keys:read")]
    KeysRead,
    /// Rings, versions, profiles, tokens: changing.
    #[serde(rename = "keys:write")]
    KeysWrite,
    /// The audit.
    #[serde(rename = "audit:read")]
    AuditRead,
}

/// Whether what a token generates is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Only when asked.
    Off,
    /// Unless opted out.
    DefaultOn,
    /// Always; opting out is refused.
    Enforced,
}

/// How often a token may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests a minute, in the long run, to each server.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub per_minute: u32,
    /// Requests at once.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: u32,
}

/// Makes a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What it is called: 1 to 128 characters, no control characters.
    #[schema(pattern = r"^[^\x00-\x1F\x7F-\x9F]{1,128}$", min_length = 1, max_length = 128)]
    pub name: String,
    /// For what.
    #[schema(min_items = 1, max_items = 7)]
    pub scopes: Vec<Scope>,
    /// With which rings; null: with all.
    #[serde(default)]
    #[schema(max_items = 256, value_type = Option<Vec<AliasText>>)]
    pub aliases: Option<Vec<String>>,
    /// Whether its text is marked.
    #[serde(default = "default_policy")]
    #[schema(default = "default_on")]
    pub policy: Policy,
    /// How often it may call; null: as often as it likes.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub rate_limit: Option<RateLimit>,
    /// For how long, in seconds, up to ten years; null: until it is revoked.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub expires_in_s: Option<u64>,
}

/// A ring's name: 1 to 64 of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", max_length = 64)]
pub struct AliasText(pub String);

fn default_policy() -> Policy {
    Policy::DefaultOn
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Its public part.
    #[schema(pattern = "^[a-z2-7]{16}$")]
    pub id: String,
    /// What it is called.
    pub name: String,
    /// For what.
    pub scopes: Vec<Scope>,
    /// With which rings; null: with all.
    pub aliases: Option<Vec<String>>,
    /// Whether its text is marked.
    pub policy: Policy,
    /// How often it may call.
    pub rate_limit: Option<RateLimit>,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it expires (RFC 3339).
    pub expires_at: Option<String>,
    /// When it was revoked (RFC 3339).
    pub revoked_at: Option<String>,
}

/// A new token with its secret: it is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// The token, to be sent as `Authorization: Bearer …`. It cannot be shown again.
    pub token: String,
    /// What it allows.
    pub info: TokenInfo,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// A token was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRevoked {
    /// The token.
    pub id: String,
    /// The audit's receipt.
    pub audit_receipt: String,
}

/// Tokens in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenPage {
    /// The tokens.
    pub tokens: Vec<TokenInfo>,
    /// Give this as `cursor` to read on; null at the end.
    pub next: Option<String>,
}

/// A server that shares the database and was heard of in the last seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Its name.
    pub id: String,
    /// When it began (RFC 3339).
    pub started_at: String,
    /// When it last said that it lives (RFC 3339).
    pub heartbeat_at: String,
    /// Whether it is the one that answers.
    pub this: bool,
}

/// The servers that live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerList {
    /// The servers.
    pub servers: Vec<Server>,
}
