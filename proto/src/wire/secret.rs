//! The cluster's secrets as text and bytes. [`super::seal`] derives the keys from them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Serialize, Serializer};
use thiserror::Error;
use zeroize::Zeroize;

/// The length of a [`ClusterSecret`], in bytes.
pub const CLUSTER_SECRET_BYTES: usize = 32;
/// The most secrets that a cluster can have at once: the new one, the old one, and one to spare.
pub const CLUSTER_SECRETS_MAX: usize = 3;

const SALT: &[u8] = b"lockmesh";
const KEY_ID_LABEL: &[u8] = b"lockmesh v1 key id";
/// The length of the key id in a datagram, in bytes.
pub(super) const ID_BYTES: usize = 4;

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
    /// There are no secrets, or too many.
    #[error("there are {count} cluster secrets; there must be 1 to {CLUSTER_SECRETS_MAX}")]
    Count {
        /// The number of secrets.
        count: usize,
    },
    /// Two secrets have the same fingerprint: one is there twice.
    #[error("the cluster secret {fingerprint} is there twice; remove one of the two")]
    Repeated {
        /// The fingerprint of both.
        fingerprint: Fingerprint,
    },
    /// Secrets were given to a mesh that sends plaintext. Only a restart can seal it.
    #[error("the mesh sends plaintext and cannot take a secret while it runs; restart it with one")]
    Plaintext,
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

    /// Returns the fingerprint of the secret.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.prk())
    }

    /// Returns the pseudorandom key from which all keys of this secret are derived.
    pub(super) fn prk(&self) -> Prk {
        Salt::new(HKDF_SHA256, SALT).extract(&self.0)
    }
}

/// Names a [`ClusterSecret`] in logs and status without revealing it. Prints as 8 hex digits.
///
/// It is derived from the secret by HKDF-SHA256. Each sealed datagram has it as its key id, so
/// whoever can see datagrams knows it already.
///
/// ```
/// # use lockmesh_proto::{ClusterSecret, SecretError};
/// let secret = ClusterSecret::generate()?;
/// assert_eq!(secret.fingerprint(), secret.clone().fingerprint());
/// assert_eq!(secret.fingerprint().to_string().len(), 8);
/// # Ok::<(), SecretError>(())
/// ```
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; ID_BYTES]);

impl Fingerprint {
    pub(super) fn of(prk: &Prk) -> Self {
        let mut bytes = [0; ID_BYTES];
        prk.expand(&[KEY_ID_LABEL], IdLength)
            .and_then(|okm| okm.fill(&mut bytes))
            .expect("HKDF-SHA256 gives up to 8,160 bytes");
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The length of the key id, for HKDF.
struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        ID_BYTES
    }
}

/// The secrets of a cluster: the first seals datagrams, and each of them opens datagrams.
///
/// A cluster has one secret, and several while it is replaced: 1 to [`CLUSTER_SECRETS_MAX`], each
/// once.
#[derive(Clone)]
pub struct ClusterSecrets(Vec<ClusterSecret>);

impl ClusterSecrets {
    /// Creates a list of secrets, of which the first seals.
    ///
    /// # Errors
    /// - [`SecretError::Count`] if there are none, or more than [`CLUSTER_SECRETS_MAX`].
    /// - [`SecretError::Repeated`] if two have one fingerprint.
    pub fn new(secrets: impl IntoIterator<Item = ClusterSecret>) -> Result<Self, SecretError> {
        let secrets: Vec<ClusterSecret> = secrets.into_iter().collect();
        let count = secrets.len();
        if !(1..=CLUSTER_SECRETS_MAX).contains(&count) {
            return Err(SecretError::Count { count });
        }
        let mut seen: Vec<Fingerprint> = Vec::with_capacity(count);
        for fingerprint in secrets.iter().map(ClusterSecret::fingerprint) {
            if seen.contains(&fingerprint) {
                return Err(SecretError::Repeated { fingerprint });
            }
            seen.push(fingerprint);
        }
        Ok(Self(secrets))
    }

    /// Parses secrets from text: one on each line, or with commas between them. Each is parsed like
    /// [`ClusterSecret::parse`]; empty lines are ignored.
    ///
    /// ```
    /// # use lockmesh_proto::{ClusterSecret, ClusterSecrets, SecretError};
    /// let [new, old] = [ClusterSecret::generate()?, ClusterSecret::generate()?];
    /// let file = format!("{}\n{}\n", new.to_base64(), old.to_base64());
    /// let secrets = ClusterSecrets::parse(&file)?;
    /// assert_eq!(secrets.fingerprints(), [new.fingerprint(), old.fingerprint()]);
    /// # Ok::<(), SecretError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`ClusterSecret::parse`] and of [`ClusterSecrets::new`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let parts = text.split(['\n', ',']).map(str::trim);
        let secrets = parts.filter(|part| !part.is_empty());
        let secrets: Result<Vec<_>, _> = secrets.map(ClusterSecret::parse).collect();
        Self::new(secrets?)
    }

    /// Returns the fingerprints of the secrets, in order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().map(ClusterSecret::fingerprint).collect()
    }

    pub(super) fn as_slice(&self) -> &[ClusterSecret] {
        &self.0
    }
}

impl From<ClusterSecret> for ClusterSecrets {
    fn from(secret: ClusterSecret) -> Self {
        Self(vec![secret])
    }
}

impl IntoIterator for ClusterSecrets {
    type Item = ClusterSecret;
    type IntoIter = std::vec::IntoIter<ClusterSecret>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterSecrets")
            .field(&self.fingerprints())
            .finish()
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
        ClusterSecret::parse(text).map(|key| key.0)
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
        let fingerprint = key.fingerprint();
        let secrets = ClusterSecrets::from(key);
        let text = format!("ClusterSecrets([{fingerprint}])");
        assert_eq!(format!("{secrets:?}"), text);
    }

    fn secret(byte: u8) -> ClusterSecret {
        ClusterSecret::from_bytes([byte; CLUSTER_SECRET_BYTES]).unwrap()
    }

    #[test]
    fn fingerprint_is_eight_hex_digits() {
        // The key id of the datagrams of this secret, which another implementation has computed.
        assert_eq!(secret(1).fingerprint().to_string(), "4b295bd2");
    }

    #[test]
    fn secrets_are_one_to_three_different_ones() {
        let listed = |bytes: &[u8]| ClusterSecrets::new(bytes.iter().copied().map(secret));
        assert_eq!(listed(&[]).err(), Some(SecretError::Count { count: 0 }));
        assert_eq!(listed(&[2, 1, 3]).unwrap().into_iter().count(), 3);
        let four = listed(&[1, 2, 3, 4]).err();
        assert_eq!(four, Some(SecretError::Count { count: 4 }));
        let text = "there are 4 cluster secrets; there must be 1 to 3";
        assert_eq!(four.unwrap().to_string(), text);
        let fingerprint = secret(1).fingerprint();
        let twice = Some(SecretError::Repeated { fingerprint });
        assert_eq!(listed(&[1, 2, 1]).err(), twice);
    }

    #[test]
    fn secrets_are_parsed_from_lines_and_commas() {
        let [new, old] = [2, 1].map(|byte| secret(byte).to_base64());
        let order = [2, 1].map(|byte| secret(byte).fingerprint());
        for text in [
            format!("{new}\n{old}\n"),
            format!("\r\n{new}\r\n\r\n  {old}"),
            format!("{new}, {old},"),
        ] {
            let secrets = ClusterSecrets::parse(&text).unwrap();
            assert_eq!(secrets.fingerprints(), order, "{text:?}");
        }
        let parsed = |text: &str| ClusterSecrets::parse(text).err();
        assert_eq!(parsed(" \n"), Some(SecretError::Count { count: 0 }));
        // A file without a final line break, to which a secret was appended.
        let glued = format!("{old}{new}");
        assert_eq!(parsed(&glued), Some(SecretError::Encoding));
        assert_eq!(
            parsed(&format!("{new}\nAAAA")),
            Some(SecretError::Length { len: 3 })
        );
    }
}
