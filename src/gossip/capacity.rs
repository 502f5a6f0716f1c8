//! Checks that gossip can carry the names of all voters: each of its messages names every node.
//!
//! The numbers are those of chitchat 0.11.2. It panics if a message has no space left for changes.
//! A message that is larger than a datagram cannot be sent.

use std::net::SocketAddr;

use crate::config::{Advertise, Checked};
use crate::error::ConfigError;
use lockmesh_proto::{GOSSIP_BYTES_MAX, NodeId, SEALED_OVERHEAD};

/// The size of a node's entry without its name and address: length of the name, generation,
/// heartbeat and two versions.
const ENTRY_BYTES: usize = 2 + 8 + 8 + 8 + 8;
/// The sizes of an address.
const V4_BYTES: usize = 1 + 4 + 2;
const V6_BYTES: usize = 1 + 16 + 2;
/// The size of the head of a message: magic number, version, type and number of nodes.
const MESSAGE_BYTES: usize = 2 + 1 + 1 + 2;
/// The space that the library requires for changes.
const CHANGES_BYTES_MIN: usize = 100;
/// The space that is left for the nodes.
const NODES_BYTES_MAX: usize =
    GOSSIP_BYTES_MAX - SEALED_OVERHEAD - MESSAGE_BYTES - CHANGES_BYTES_MIN;

/// Checks that the names of all voters and this node fit. Assumes that all addresses are of the
/// same family as this node's.
pub(crate) fn check(checked: &Checked) -> Result<(), ConfigError> {
    let (voter_set, me) = (&checked.voter_set, &checked.id);
    let client = Some(me).filter(|me| !voter_set.has_member(me));
    let addr = match checked.advertise {
        Advertise::At(addr) => addr,
        Advertise::Name(_) | Advertise::Default => checked.listen,
    };
    let bytes = bytes_of(voter_set.members().iter().chain(client), addr);
    let max = NODES_BYTES_MAX;
    match bytes <= max {
        true => Ok(()),
        false => Err(ConfigError::GossipRoom { bytes, max }),
    }
}

/// Returns the size of the entries of `nodes` if all have addresses of the family of `addr`.
fn bytes_of<'a>(nodes: impl Iterator<Item = &'a NodeId>, addr: SocketAddr) -> usize {
    let addr_bytes = if addr.is_ipv6() { V6_BYTES } else { V4_BYTES };
    nodes
        .map(|node| ENTRY_BYTES + addr_bytes + node.as_str().len())
        .sum()
}

#[cfg(test)]
mod tests {
    use chitchat::{ChitchatMessage, Deserializable, Serializable};

    use super::*;
    use lockmesh_proto::MEMBERS_MAX;

    fn names(bytes: usize) -> Vec<NodeId> {
        let names = (0..MEMBERS_MAX).map(|n| format!("{n:0bytes$}"));
        names.map(|name| NodeId::new(name).unwrap()).collect()
    }

    /// Returns a message of the library that names `nodes` and has no changes.
    fn syn_ack(nodes: &[NodeId], addr: SocketAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(45_139_u16.to_le_bytes());
        bytes.extend([0, 1]);
        bytes.extend((nodes.len() as u16).to_le_bytes());
        for node in nodes {
            bytes.extend((node.as_str().len() as u16).to_le_bytes());
            bytes.extend(node.as_str().bytes());
            bytes.extend([0; 8]);
            match addr {
                SocketAddr::V4(v4) => {
                    bytes.push(4);
                    bytes.extend(v4.ip().octets());
                }
                SocketAddr::V6(v6) => {
                    bytes.push(6);
                    bytes.extend(v6.ip().octets());
                }
            }
            bytes.extend(addr.port().to_le_bytes());
            bytes.extend([0; 24]);
        }
        // No changes.
        bytes.push(0);
        bytes
    }

    #[test]
    fn names_within_the_bound_fit_into_a_datagram() {
        for (addr, fits) in [("127.0.0.1:1", 22), ("[::1]:1", 10)] {
            let addr: SocketAddr = addr.parse().unwrap();
            for (bytes, is_within) in [(fits, true), (fits + 1, false)] {
                let nodes = names(bytes);
                let listed = bytes_of(nodes.iter(), addr);
                assert_eq!(listed <= NODES_BYTES_MAX, is_within, "{bytes} {listed}");
                let message = syn_ack(&nodes, addr);
                let mut rest = message.as_slice();
                let read = ChitchatMessage::deserialize(&mut rest).unwrap();
                assert!(matches!(read, ChitchatMessage::SynAck { .. }));
                assert!(rest.is_empty());
                assert_eq!(read.serialize_to_vec(), message);
                assert_eq!(message.len(), listed + MESSAGE_BYTES + 1);
                let sent = message.len() - 1 + CHANGES_BYTES_MIN + SEALED_OVERHEAD;
                assert_eq!(sent <= GOSSIP_BYTES_MAX, is_within, "{bytes}");
            }
        }
    }
}
