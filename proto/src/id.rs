//! Who and what: nodes, their incarnations, keys and claims.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

/// The longest [`NodeId`], in bytes.
pub const NODE_ID_BYTES_MAX: usize = 64;
/// The longest [`Key`], in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// A name that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// The name has no bytes at all.
    #[error("{what} is empty; it must have 1 to {max} bytes")]
    Empty {
        /// What the name was meant for: `node id` or `key`.
        what: &'static str,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// The name has too many bytes.
    #[error("{what} has {len} bytes; it must have 1 to {max}")]
    TooLong {
        /// What the name was meant for: `node id` or `key`.
        what: &'static str,
        /// How many bytes it has.
        len: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// A node id has a control character in it, which would garble logs.
    #[error("{what} {name:?} has a control character in it")]
    Control {
        /// What the name was meant for.
        what: &'static str,
        /// The name as it was given.
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

/// The lasting name of a node: the same before and after a restart. One live process for each
/// `NodeId` is assumed.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// A node id of 1 to [`NODE_ID_BYTES_MAX`] bytes without control characters.
    ///
    /// # Errors
    /// [`NameError`] where the name is empty, too long, or has a control character.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        NodeName::new(name.as_ref()).map(|name| name.to_id())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// In a map by node ids a name is found without an id of its own.
impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The name of a node where it was read: held to the same bounds as a [`NodeId`], and without
/// memory of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NodeName<'a>(&'a str);

impl<'a> NodeName<'a> {
    fn new(name: &'a str) -> Result<Self, NameError> {
        check("node id", name, NODE_ID_BYTES_MAX)?;
        if name.chars().any(char::is_control) {
            return Err(NameError::Control {
                what: "node id",
                name: name.to_owned(),
            });
        }
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

/// What a lock is on: any UTF-8 name, such as `invoice/42`. One of up to 23 bytes needs no memory
/// of its own.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Key(SmolStr);

impl Key {
    /// A key of 1 to [`KEY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`NameError`] where the key is empty or too long.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        check("key", name, KEY_BYTES_MAX)?;
        Ok(Self(name.into()))
    }

    /// The key's name.
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

                // A string of its own would only be copied from.
                from.deserialize_str(Name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
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

/// One incarnation of a node: it rises at every start, also where the wall clock was set back.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next higher one.
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

/// One attempt of one node to own one key. Never used twice.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ClaimId {
    /// The node that claims.
    pub node: NodeId,
    /// The incarnation of that node in which it claims.
    pub incarnation: Incarnation,
    /// The attempt's number within that incarnation.
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
    fn names_are_bounded_and_say_so() {
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
        assert!(matches!(Key::new(""), Err(NameError::Empty { .. })));
        assert!(Key::new("k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(Key::new("k".repeat(KEY_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_name_that_is_read_is_held_to_the_same_bounds() {
        let read = |text: &str| serde_json::from_str::<NodeId>(text);
        assert_eq!(read("\"n1\"").unwrap(), NodeId::new("n1").unwrap());
        // With an escape in it there is nothing to borrow.
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
