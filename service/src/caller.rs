//! Who asks a service for something, as far as services need to know.

use std::time::Duration;

use dandyroll_ledger::tokens::{Grant, TokenInfo};

/// So long a result waits for its end to be written to the audit; then it is not handed out.
pub const AUDIT_WAIT: Duration = Duration::from_secs(5);

/// A caller that was let in, and the name of its request.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its token, without the secret.
    pub token: TokenInfo,
    /// The request's name, as in answers, logs and the audit.
    pub request: String,
}

impl Asker {
    /// What the token allows.
    pub fn grant(&self) -> &Grant {
        &self.token.grant
    }
}
