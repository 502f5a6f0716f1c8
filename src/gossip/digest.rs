//! The digests in the datagrams of the gossip library, as bytes. The library does not expose them,
//! but its encoding is public.
//!
//! A message starts with two bytes of magic number, a version and a kind. The first two kinds
//! continue with a digest, which names every incarnation of a node that the sender knows. The
//! library creates a record for each incarnation in a digest, and for no other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The length of magic number, version and kind.
const HEAD_BYTES: usize = 4;
/// The kinds that continue with a digest: a request and its reply.
const SYN: u8 = 0;
const SYN_ACK: u8 = 1;
/// The last message of a handshake. It has the changes that the sender of the reply lacks.
const ACK: u8 = 2;
/// The byte that ends a list of changes.
const NO_MORE: u8 = 0;

/// One incarnation of a node.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Identity {
    pub(super) node: String,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
}

/// An entry of a digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) id: Identity,
    /// A counter that rises while the node runs.
    pub(super) heartbeat: u64,
    pub(super) gc_version: u64,
    /// The version up to which the sender knows the state of the node.
    pub(super) max_version: u64,
}

/// A message with a digest.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Message<'a> {
    head: [u8; HEAD_BYTES],
    pub(super) entries: Vec<Entry>,
    /// The bytes after the digest.
    rest: &'a [u8],
}

impl Identity {
    /// Returns the length of its entry in a digest, in bytes.
    pub(super) fn entry_bytes(&self) -> usize {
        let ip = if self.addr.is_ipv4() { 4 } else { 16 };
        2 + self.node.len() + 8 + 1 + ip + 2 + 3 * 8
    }
}

impl<'a> Message<'a> {
    /// Parses a message. Returns `None` if it has no digest, or an invalid one.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let head: [u8; HEAD_BYTES] = take(&mut rest)?;
        if head[3] != SYN && head[3] != SYN_ACK {
            return None;
        }
        let count = u16::from_le_bytes(take(&mut rest)?);
        let entries = (0..count).map(|_| Entry::read(&mut rest));
        let entries = entries.collect::<Option<_>>()?;
        Some(Self {
            head,
            entries,
            rest,
        })
    }

    /// Returns `true` if it is the first message of a handshake.
    pub(super) fn is_syn(&self) -> bool {
        self.head[3] == SYN
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        bytes.extend(count.to_le_bytes());
        for entry in self.entries.iter().take(count.into()) {
            entry.write(&mut bytes);
        }
        bytes.extend(self.rest);
        bytes
    }
}

impl Entry {
    fn read(rest: &mut &[u8]) -> Option<Self> {
        let len = u16::from_le_bytes(take(rest)?);
        let (name, after) = rest.split_at_checked(len.into())?;
        *rest = after;
        let node = std::str::from_utf8(name).ok()?.to_owned();
        let generation = u64::from_le_bytes(take(rest)?);
        let ip = match take(rest)? {
            [4u8] => IpAddr::V4(Ipv4Addr::from(take::<4>(rest)?)),
            [6] => IpAddr::V6(Ipv6Addr::from(take::<16>(rest)?)),
            _ => return None,
        };
        let addr = SocketAddr::new(ip, u16::from_le_bytes(take(rest)?));
        let [heartbeat, gc_version, max_version] = [take(rest)?, take(rest)?, take(rest)?];
        Some(Self {
            id: Identity {
                node,
                generation,
                addr,
            },
            heartbeat: u64::from_le_bytes(heartbeat),
            gc_version: u64::from_le_bytes(gc_version),
            max_version: u64::from_le_bytes(max_version),
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let id = &self.id;
        let len = u16::try_from(id.node.len()).unwrap_or(u16::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(&id.node.as_bytes()[..len.into()]);
        bytes.extend(id.generation.to_le_bytes());
        match id.addr.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(6);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(id.addr.port().to_le_bytes());
        for number in [self.heartbeat, self.gc_version, self.max_version] {
            bytes.extend(number.to_le_bytes());
        }
    }
}

/// Returns `true` if a message is an acknowledgement without changes, which has no effect on its
/// receiver.
pub(super) fn has_no_effect(message: &[u8]) -> bool {
    matches!(message, [_, _, _, ACK, NO_MORE])
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
pub(super) mod tests {
    use chitchat::{ChitchatMessage, Deserializable, Serializable};

    use super::*;

    pub(crate) fn identity(node: &str, generation: u64) -> Identity {
        Identity {
            node: node.to_owned(),
            generation,
            addr: SocketAddr::from(([127, 0, 0, 1], 7_400)),
        }
    }

    pub(crate) fn entry(node: &str, generation: u64, heartbeat: u64) -> Entry {
        Entry {
            id: identity(node, generation),
            heartbeat,
            gc_version: 0,
            max_version: 1,
        }
    }

    fn message(kind: u8) -> Vec<u8> {
        let mut six = entry("n2", 9, 3);
        six.id.addr = "[::1]:7400".parse().unwrap();
        let message = Message {
            head: [1, 2, 0, kind],
            entries: vec![entry("n1", 7, 5), six],
            rest: b"the rest",
        };
        message.to_bytes()
    }

    #[test]
    fn message_with_a_digest_round_trips() {
        for kind in [SYN, SYN_ACK] {
            let bytes = message(kind);
            let read = Message::read(&bytes).unwrap();
            assert_eq!(read.is_syn(), kind == SYN);
            assert_eq!(read.entries.len(), 2);
            assert_eq!(read.to_bytes(), bytes);
            let lens = read.entries.iter().map(|entry| entry.id.entry_bytes());
            assert_eq!(HEAD_BYTES + 2 + lens.sum::<usize>() + 8, bytes.len());
        }
    }

    /// Pins the encoding of the library.
    #[test]
    fn acknowledgement_without_changes_has_no_effect() {
        let head = |kind| [&45_139_u16.to_le_bytes()[..], &[0, kind]].concat();
        let empty = [head(ACK), vec![NO_MORE]].concat();
        let read = ChitchatMessage::deserialize(&mut empty.as_slice()).unwrap();
        assert!(matches!(read, ChitchatMessage::Ack { .. }));
        assert_eq!(read.serialize_to_vec(), empty);
        assert!(has_no_effect(&empty));
        // One change: a block of one byte or more comes before the end.
        let change = [head(ACK), vec![2, 1, 0, 0, NO_MORE]].concat();
        assert!(!has_no_effect(&change));
        // Another kind, of a node of another cluster.
        assert!(!has_no_effect(&head(3)));
        for kind in [SYN, SYN_ACK] {
            assert!(!has_no_effect(&message(kind)));
        }
    }

    #[test]
    fn truncated_message_reads_as_none() {
        let bytes = message(SYN);
        let digest = bytes.len() - "the rest".len();
        for len in 0..digest {
            assert_eq!(Message::read(&bytes[..len]), None, "{len}");
        }
        assert!(Message::read(&message(2)).is_none(), "it has no digest");
    }
}
