//! Profiles and their names.

use actix_web::HttpResponse;
use dandyroll_api::admin as wire;
use dandyroll_ledger::audit::{Detail, Subject};
use dandyroll_ledger::keys::Alias;
use dandyroll_ledger::profiles::{self, ProfileTable};
use dandyroll_scheme::Profile;

use super::super::call::{Call, Done, created, ok, page};
use super::super::error::{ApiError, ErrorCode};

fn shown(profile: &Profile, table: &ProfileTable) -> Result<wire::Profile, ApiError> {
    let id = profile.id();
    let names = table.names().filter(|(_, meant)| **meant == id).map(|(name, _)| name.to_string());
    let spec = serde_json::from_str(&profile.canonical_json());
    let spec = spec.map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
    Ok(wire::Profile { names: names.collect(), id: id.to_string(), profile: spec })
}

pub(in super::super) async fn list(call: Call) -> Result<HttpResponse, ApiError> {
    let limit = call.limit()?;
    let cursor: Option<String> = call.query("cursor")?;
    let after = match &cursor {
        None => "",
        Some(text) => {
            let id = text.strip_prefix('c').filter(|id| id.parse::<dandyroll_scheme::ProfileId>().is_ok());
            id.ok_or_else(|| call.invalid("cursor"))?
        }
    };
    let snapshot = call.service().node().snapshot();
    let all = snapshot.profiles.iter().filter(|profile| profile.id().as_str() > after);
    let (rows, next) = page(all, limit, |profile| format!("c{}", profile.id()));
    let rows: Result<_, _> = rows.into_iter().map(|profile| shown(profile, &snapshot.profiles)).collect();
    ok(&wire::ProfilePage { profiles: rows?, next })
}

pub(in super::super) async fn show(call: Call) -> Result<HttpResponse, ApiError> {
    let name: String = call.path("profile")?;
    let snapshot = call.service().node().snapshot();
    ok(&shown(snapshot.profiles.find(&name)?, &snapshot.profiles)?)
}

pub(in super::super) async fn create(mut call: Call) -> Result<HttpResponse, ApiError> {
    let wire::ProfileCreate { name, profile } = call.json().await?;
    // What a name means, it means for every ring.
    call.caller()?.allows_all()?;
    let text =
        serde_json::to_string(&profile).map_err(|error| ApiError::hidden(ErrorCode::Internal, error))?;
    let profile = dandyroll_files::profile::parse(&text).map_err(profiles::ProfileError::from)?;
    let name: Option<Alias> = match name {
        None => None,
        Some(text) => Some(text.parse().map_err(|error: dandyroll_ledger::keys::BadAlias| {
            ApiError::new(ErrorCode::InvalidValue, error.to_string()).parameter("name")
        })?),
    };
    let stored = put(&call, profile, name).await?;
    created(&stored)
}

pub(in super::super) async fn name(mut call: Call) -> Result<HttpResponse, ApiError> {
    let name: Alias = call.path("name")?;
    let wire::ProfileNamed { profile_id } = call.json().await?;
    call.caller()?.allows_all()?;
    let id: dandyroll_scheme::ProfileId = profile_id
        .parse()
        .map_err(|what: &str| ApiError::new(ErrorCode::InvalidValue, what).parameter("profile_id"))?;
    let profile = call.service().node().snapshot().profiles.find(id.as_str())?.clone();
    let stored = put(&call, profile, Some(name)).await?;
    ok(&stored)
}

async fn put(call: &Call, profile: Profile, name: Option<Alias>) -> Result<wire::ProfileStored, ApiError> {
    let id = profile.id().to_string();
    let subject = Subject { profile: Some(id.clone()), ..Subject::default() };
    let detail = name.iter().map(|name| ("name", name.as_str().into())).collect::<Detail>();
    let profiles = call.service().node().profiles();
    let meant = name.clone();
    let work = async move {
        profiles.put(&profile, meant.as_ref()).await?;
        Ok(Done::plain(()))
    };
    let (receipt, ()) = call.audited(subject, detail, work).await?;
    let name = name.map(|name| name.to_string());
    Ok(wire::ProfileStored { id, name, audit_receipt: receipt.to_string() })
}
