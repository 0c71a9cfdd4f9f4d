//! Small encodings that several modules share: length-prefixed labels, random names, keyed digests.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The system's random source failed: nothing that needs a secret can be done.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub struct RandomFailed(getrandom::Error);

/// Fresh random bytes, erased when dropped.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, RandomFailed> {
    let mut bytes = Zeroizing::new([0_u8; N]);
    getrandom::fill(&mut *bytes).map_err(RandomFailed)?;
    Ok(bytes)
}

/// Lower-case base 32 without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// A name that will not be met twice: a prefix and 26 base-32 characters (130 bits' room for 128).
pub fn fresh_name(prefix: &str) -> Result<String, RandomFailed> {
    let bytes = random::<16>()?;
    Ok(format!("{prefix}{}", base32(&*bytes)))
}

/// Length-prefixed (u32, big-endian) concatenation, so that no two lists of fields share bytes.
pub(crate) fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        // Fields are names, numbers and digests; one of 4 GiB would be a bug that changes nothing but itself.
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// HMAC-SHA256.
pub(crate) fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut bytes = [0_u8; 32];
    // An HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(message);
        bytes.copy_from_slice(&mac.finalize().into_bytes());
    }
    bytes
}
