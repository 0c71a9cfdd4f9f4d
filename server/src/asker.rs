//! Who asks a service for something, as far as services need to know.

use crate::tokens::{Grant, TokenInfo};

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
