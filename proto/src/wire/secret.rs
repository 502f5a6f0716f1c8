//! The cluster's secret as text and bytes. [`super::seal`] derives the keys from it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use zeroize::Zeroize;

/// The length of a [`ClusterSecret`], in bytes.
pub const CLUSTER_SECRET_BYTES: usize = 32;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// The cluster's secret: 32 bytes that only the cluster's nodes have.
///
/// Anyone who has it can impersonate any node. Draw it from the operating system's randomness,
/// never from a passphrase: `lockmesh keygen`, or `head -c 32 /dev/urandom | base64`. The bytes are
/// zeroed when it is dropped.
#[derive(Clone)]
pub struct ClusterSecret([u8; CLUSTER_SECRET_BYTES]);

/// A secret that cannot be used. No variant contains the input, since it may be almost the secret.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SecretError {
    /// The text is neither base64 nor 64 hex digits.
    #[error("the cluster secret is neither base64 nor 64 hex digits")]
    Encoding,
    /// The text encodes more or fewer than 32 bytes.
    #[error("the cluster secret has {len} bytes; it must have {CLUSTER_SECRET_BYTES}")]
    Length {
        /// The number of bytes that it encodes.
        len: usize,
    },
    /// All bytes are zero: a placeholder, or memory that was not initialized.
    #[error("the cluster secret is all zeros; draw 32 random bytes")]
    Weak,
    /// The operating system has no randomness to generate a secret from.
    #[error("the operating system has no randomness for a cluster secret")]
    Randomness,
}

impl ClusterSecret {
    /// Generates a secret from the operating system's randomness.
    ///
    /// # Errors
    /// [`SecretError::Randomness`] if the operating system has none.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; CLUSTER_SECRET_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| SecretError::Randomness)?;
        Self::from_bytes(bytes)
    }

    /// Creates the secret with these bytes.
    ///
    /// # Errors
    /// [`SecretError::Weak`] if all bytes are zero.
    pub fn from_bytes(bytes: [u8; CLUSTER_SECRET_BYTES]) -> Result<Self, SecretError> {
        if bytes == [0; CLUSTER_SECRET_BYTES] {
            return Err(SecretError::Weak);
        }
        Ok(Self(bytes))
    }

    /// Parses a secret from base64, standard or URL-safe, padded or not, or from 64 hex digits.
    /// Surrounding white space is ignored.
    ///
    /// # Errors
    /// - [`SecretError::Encoding`] if the text is neither base64 nor 64 hex digits.
    /// - [`SecretError::Length`] if it does not encode 32 bytes.
    /// - [`SecretError::Weak`] if all bytes are zero.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if let Some(bytes) = from_hex(text) {
            return Self::from_bytes(bytes);
        }
        let is_url_safe = text.contains(['-', '_']);
        let engine = if is_url_safe { &BASE64_URL } else { &BASE64 };
        let bytes = engine.decode(text).map_err(|_| SecretError::Encoding)?;
        let len = bytes.len();
        Self::from_bytes(bytes.try_into().map_err(|_| SecretError::Length { len })?)
    }

    /// Returns the secret in padded standard base64: 44 characters that [`ClusterSecret::parse`]
    /// accepts. Protect them like the secret.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8; CLUSTER_SECRET_BYTES] {
        &self.0
    }
}

impl FromStr for ClusterSecret {
    type Err = SecretError;

    /// Parses a secret, as [`parse`](ClusterSecret::parse) does.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        Self::parse(text)
    }
}

impl Drop for ClusterSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(redacted)")
    }
}

/// Decodes 64 hex digits. They are valid base64 too, but of 48 bytes, so no secret is ambiguous.
fn from_hex(text: &str) -> Option<[u8; CLUSTER_SECRET_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * CLUSTER_SECRET_BYTES {
        return None;
    }
    let mut bytes = [0; CLUSTER_SECRET_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_bytes() -> [u8; CLUSTER_SECRET_BYTES] {
        std::array::from_fn(|n| 0xe0 | n as u8)
    }

    fn parsed(text: &str) -> Result<[u8; CLUSTER_SECRET_BYTES], SecretError> {
        ClusterSecret::parse(text).map(|key| *key.as_bytes())
    }

    #[test]
    fn secret_is_parsed_from_every_usual_encoding() {
        let key = ClusterSecret::from_bytes(some_bytes()).unwrap();
        let padded = key.to_base64();
        assert_eq!(padded.len(), 44);
        assert!(padded.contains(['+', '/']), "{padded} tells no alphabet");
        let url_safe = padded.replace('+', "-").replace('/', "_");
        let hex: String = some_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let spellings = [
            padded.clone(),
            padded.trim_end_matches('=').to_owned(),
            url_safe.clone(),
            url_safe.trim_end_matches('=').to_owned(),
            hex.clone(),
            hex.to_uppercase(),
            format!(" \t{padded}\r\n"),
        ];
        for text in spellings {
            assert_eq!(parsed(&text), Ok(some_bytes()), "{text:?}");
        }
    }

    #[test]
    fn invalid_text_returns_the_reason() {
        assert_eq!(parsed("not base64!"), Err(SecretError::Encoding));
        assert_eq!(parsed("ä"), Err(SecretError::Encoding));
        assert_eq!(parsed("+_+_"), Err(SecretError::Encoding));
        assert_eq!(parsed(""), Err(SecretError::Length { len: 0 }));
        assert_eq!(parsed("AAAA"), Err(SecretError::Length { len: 3 }));
        let hex_of_48 = "ab".repeat(48);
        assert_eq!(parsed(&hex_of_48), Err(SecretError::Length { len: 72 }));
        // 64 characters, one of which is no hex digit, are base64 of 48 bytes.
        let nearly_hex = format!("{}g", "a".repeat(63));
        assert_eq!(parsed(&nearly_hex), Err(SecretError::Length { len: 48 }));
        let message = SecretError::Length { len: 3 }.to_string();
        assert_eq!(message, "the cluster secret has 3 bytes; it must have 32");
    }

    #[test]
    fn secret_of_zeros_is_refused() {
        let zeros = [0; CLUSTER_SECRET_BYTES];
        assert_eq!(
            ClusterSecret::from_bytes(zeros).err(),
            Some(SecretError::Weak)
        );
        assert_eq!(parsed(&BASE64.encode(zeros)), Err(SecretError::Weak));
        assert_eq!(parsed(&"0".repeat(64)), Err(SecretError::Weak));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let key = ClusterSecret::from_bytes(some_bytes()).unwrap();
        assert_eq!(format!("{key:?}"), "ClusterSecret(redacted)");
    }
}
