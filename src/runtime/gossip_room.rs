//! Whether gossip can carry the names of all voters: each of its messages names every node.
//!
//! The numbers are those of chitchat 0.11.2. A message that has no room left for what has changed
//! panics there, and one that is larger than a datagram cannot be sent.

use std::net::SocketAddr;

use crate::config::Checked;
use crate::error::ConfigError;
use lockmesh_proto::id::NodeId;
use lockmesh_proto::wire::GOSSIP_BYTES_MAX;
use lockmesh_proto::wire::seal::SEALED_OVERHEAD;

/// The bytes of a node beside its name and its address: the length of the name, its generation,
/// heartbeat and two versions.
const ENTRY_BYTES: usize = 2 + 8 + 8 + 8 + 8;
/// The bytes of an address.
const V4_BYTES: usize = 1 + 4 + 2;
const V6_BYTES: usize = 1 + 16 + 2;
/// The bytes of a message of its own: magic number, version, type, and the number of nodes.
const MESSAGE_BYTES: usize = 2 + 1 + 1 + 2;
/// The least that the library wants to have left for what has changed.
const CHANGES_BYTES_MIN: usize = 100;
/// The bytes that are left for the nodes.
const NODES_BYTES_MAX: usize =
    GOSSIP_BYTES_MAX - SEALED_OVERHEAD - MESSAGE_BYTES - CHANGES_BYTES_MIN;

/// Checks that gossip has room for all voters and this node. All are taken to have addresses of the
/// kind that this one has.
pub(super) fn check(checked: &Checked) -> Result<(), ConfigError> {
    let (voter_set, me) = (&checked.voter_set, &checked.id);
    let client = Some(me).filter(|me| !voter_set.has_member(me));
    let addr = checked.advertise.unwrap_or(checked.listen);
    let bytes = bytes_of(voter_set.members().iter().chain(client), addr);
    let max = NODES_BYTES_MAX;
    match bytes <= max {
        true => Ok(()),
        false => Err(ConfigError::GossipRoom { bytes, max }),
    }
}

/// How many bytes these nodes take, if all have addresses like this one.
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
    use lockmesh_proto::voter_set::MEMBERS_MAX;

    fn names(bytes: usize) -> Vec<NodeId> {
        let names = (0..MEMBERS_MAX).map(|n| format!("{n:0bytes$}"));
        names.map(|name| NodeId::new(name).unwrap()).collect()
    }

    /// The bytes that the library sends of these nodes, beside their changes.
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
        // Nothing has changed.
        bytes.push(0);
        bytes
    }

    #[test]
    fn names_within_the_bound_fit_into_a_datagram() {
        for (addr, fits) in [("127.0.0.1:1", 22), ("[::1]:1", 10)] {
            let addr: SocketAddr = addr.parse().unwrap();
            for (bytes, is_within) in [(fits, true), (fits + 1, false)] {
                let nodes = names(bytes);
                let told = bytes_of(nodes.iter(), addr);
                assert_eq!(told <= NODES_BYTES_MAX, is_within, "{bytes} {told}");
                let message = syn_ack(&nodes, addr);
                let mut rest = message.as_slice();
                let read = ChitchatMessage::deserialize(&mut rest).unwrap();
                assert!(matches!(read, ChitchatMessage::SynAck { .. }));
                assert!(rest.is_empty());
                assert_eq!(read.serialize_to_vec(), message);
                assert_eq!(message.len(), told + MESSAGE_BYTES + 1);
                let sent = message.len() - 1 + CHANGES_BYTES_MIN + SEALED_OVERHEAD;
                assert_eq!(sent <= GOSSIP_BYTES_MAX, is_within, "{bytes}");
            }
        }
    }
}
