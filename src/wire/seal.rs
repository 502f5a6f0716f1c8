//! Sealing.

use super::{DropReason, Kind, PROTOCOL_VERSION};

/// The cluster's key: 32 bytes that every node has and nobody else.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

/// A key that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {}

/// Seals what goes out and opens what comes in.
#[derive(Debug)]
pub struct Seal {}

impl Seal {
    /// Datagrams that everybody can read and forge.
    #[must_use]
    pub fn insecure_plaintext() -> Self {
        Self {}
    }

    /// How many bytes a datagram has beyond its body.
    #[must_use]
    pub fn overhead(&self) -> usize {
        3
    }

    /// A datagram with this body.
    pub fn seal(&mut self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![PROTOCOL_VERSION, 0, u8::from(kind == Kind::Gossip)];
        bytes.extend_from_slice(body);
        bytes
    }

    /// The body of a datagram.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn open(&mut self, datagram: &[u8]) -> Result<(Kind, Vec<u8>), DropReason> {
        match datagram {
            [PROTOCOL_VERSION, 0, 0, body @ ..] => Ok((Kind::Votes, body.to_vec())),
            [PROTOCOL_VERSION, 0, 1, body @ ..] => Ok((Kind::Gossip, body.to_vec())),
            _ => Err(DropReason::Version),
        }
    }
}
