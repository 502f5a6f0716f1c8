//! Identifiers of nodes, incarnations, keys and claims.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

/// The longest [`NodeId`], in bytes.
pub const NODE_ID_BYTES_MAX: usize = 64;
/// The longest [`Key`], in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The longest [`Note`], in bytes.
pub const NOTE_BYTES_MAX: usize = 128;

/// An invalid node id, key or note.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("{what} is empty; it must have 1 to {max} bytes")]
    Empty {
        /// The purpose of the name: `node id`, `key` or `note`.
        what: &'static str,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// The name has too many bytes.
    #[error("{what} has {len} bytes; it must have 1 to {max}")]
    TooLong {
        /// The purpose of the name: `node id`, `key` or `note`.
        what: &'static str,
        /// The length of the name, in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// The node id or note contains a control character, which would garble logs.
    #[error("{what} {name:?} has a control character in it")]
    Control {
        /// The purpose of the name: `node id` or `note`.
        what: &'static str,
        /// The name.
        name: String,
    },
}

fn check(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty { what, max }),
        len if len > max => Err(NameError::TooLong { what, len, max }),
        _ => Ok(()),
    }
}

#[inline]
fn check_printable(what: &'static str, name: &str) -> Result<(), NameError> {
    // Names are mostly ASCII, and decoding characters costs more than looking at bytes.
    let may_be_control = |byte: &u8| byte.is_ascii_control() || !byte.is_ascii();
    if name.as_bytes().iter().any(may_be_control) && name.chars().any(char::is_control) {
        return Err(NameError::Control {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// The name of a node. It stays the same across restarts, and one process at a time should use it.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Creates a node id of 1 to [`NODE_ID_BYTES_MAX`] bytes without control characters.
    ///
    /// # Errors
    /// - [`NameError::Empty`] or [`NameError::TooLong`] if the length is out of bounds.
    /// - [`NameError::Control`] if the name contains a control character.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        NodeName::new(name.as_ref()).map(|name| name.to_id())
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows look-ups by `&str` in maps that have node ids as keys.
impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A node id that borrows its name from a decoded message. It has the bounds of a [`NodeId`] and
/// allocates nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NodeName<'a>(&'a str);

impl<'a> NodeName<'a> {
    #[inline]
    fn new(name: &'a str) -> Result<Self, NameError> {
        check("node id", name, NODE_ID_BYTES_MAX)?;
        check_printable("node id", name)?;
        Ok(Self(name))
    }

    pub(crate) fn as_str(&self) -> &'a str {
        self.0
    }

    pub(crate) fn to_id(self) -> NodeId {
        NodeId(self.0.into())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for NodeName<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(Deserialize::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// The name of a lock: any UTF-8 string, such as `invoice/42`. A key of up to 23 bytes is stored
/// inline.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Key(SmolStr);

impl Key {
    /// Creates a key of 1 to [`KEY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`NameError::Empty`] or [`NameError::TooLong`] if the length is out of bounds.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        check("key", name, KEY_BYTES_MAX)?;
        Ok(Self(name.into()))
    }

    /// Returns the key as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text for people that a request or an operator gives: any UTF-8 string without control
/// characters, such as `deploy 812 by ci`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Note(Arc<str>);

impl Note {
    /// Creates a note of 1 to [`NOTE_BYTES_MAX`] bytes without control characters.
    ///
    /// # Errors
    /// - [`NameError::Empty`] or [`NameError::TooLong`] if the length is out of bounds.
    /// - [`NameError::Control`] if the text contains a control character.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        check("note", text, NOTE_BYTES_MAX)?;
        check_printable("note", text)?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! name_traits {
    ($name:ident, $what:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Name;

                impl Visitor<'_> for Name {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: de::Error>(self, name: &str) -> Result<$name, E> {
                        $name::new(name).map_err(E::custom)
                    }
                }

                // Not `String::deserialize`: its allocation would only be copied.
                from.deserialize_str(Name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_traits!(NodeId, "a node id");
name_traits!(Key, "a key");
name_traits!(Note, "a note");

/// The number of an incarnation of a node. It rises at every start, even if the wall clock was set
/// back.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Incarnation(u64);

impl Incarnation {
    /// Creates the incarnation with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next higher incarnation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

/// The id of a claim: one attempt of one node to hold one key. Ids are never reused.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ClaimId {
    /// The claimant's node.
    pub node: NodeId,
    /// The incarnation of that node.
    pub incarnation: Incarnation,
    /// The number of the claim within that incarnation.
    pub seq: u64,
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.node, self.incarnation, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_out_of_bounds_are_rejected() {
        assert!(matches!(NodeId::new(""), Err(NameError::Empty { .. })));
        assert!(NodeId::new("n".repeat(NODE_ID_BYTES_MAX)).is_ok());
        let long = NodeId::new("n".repeat(NODE_ID_BYTES_MAX + 1));
        assert!(matches!(
            long,
            Err(NameError::TooLong {
                len: 65,
                max: 64,
                ..
            })
        ));
        assert!(matches!(
            NodeId::new("a\nb"),
            Err(NameError::Control { .. })
        ));
        // A control character beyond ASCII, and a letter.
        assert!(NodeId::new("a\u{85}").is_err());
        assert!(NodeId::new("\u{e4}").is_ok());
        assert!(matches!(Key::new(""), Err(NameError::Empty { .. })));
        assert!(Key::new("k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(Key::new("k".repeat(KEY_BYTES_MAX + 1)).is_err());
        assert!(Note::new("n".repeat(NOTE_BYTES_MAX)).is_ok());
        assert!(Note::new("n".repeat(NOTE_BYTES_MAX + 1)).is_err());
        assert!(matches!(
            Note::new("a\u{1b}[2J"),
            Err(NameError::Control { .. })
        ));
    }

    #[test]
    fn decoded_names_out_of_bounds_are_rejected() {
        let read = |text: &str| serde_json::from_str::<NodeId>(text);
        assert_eq!(read("\"n1\"").unwrap(), NodeId::new("n1").unwrap());
        // A string with an escape cannot be borrowed from the input.
        assert_eq!(read("\"n\\u0031\"").unwrap(), NodeId::new("n1").unwrap());
        assert!(read("\"\"").unwrap_err().to_string().contains("is empty"));
        assert!(
            read("\"a\\nb\"")
                .unwrap_err()
                .to_string()
                .contains("control")
        );
        assert!(read("1").unwrap_err().to_string().contains("a node id"));
        let long = format!("\"{}\"", "k".repeat(KEY_BYTES_MAX + 1));
        assert!(serde_json::from_str::<Key>(&long).is_err());
    }
}
