//! The head of a datagram and its messages, as bytes.
//!
//! A body is the head and then its messages, without counts or lengths, in bincode's
//! variable-length integers. It is decoded until no byte is left. A byte that belongs to no message
//! makes the whole body undecodable, so no part of a damaged body is used.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Deserialize, Serialize};

use super::{DropReason, PROTOCOL_VERSION};
use crate::id::{Incarnation, NodeId, NodeName};
use crate::message::Message;
use crate::voter_set::VoterSetTag;

/// The common part of all messages of one datagram. A received head borrows its names from the
/// body, since most are those of known nodes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DatagramHead<N = NodeId> {
    /// The sender.
    pub from: N,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// The receiver. Its address may meanwhile belong to another node.
    pub to: N,
    /// The sender's voter set.
    pub voter_set: VoterSetTag,
}

/// The packed messages for one peer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Packed {
    /// The bodies in order, and the number of messages in each.
    pub bodies: Vec<(Vec<u8>, usize)>,
    /// The number of messages in none of them, since each exceeds the budget alone with the head.
    pub too_large: usize,
}

const BODY_BYTES_MAX: usize = super::DATAGRAM_BYTES_MAX;
/// The decoder counts the bytes of a value in memory, at most eight for one on the wire, so no
/// valid body exceeds this limit. It also bounds the memory that a false length can allocate.
const DECODED_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;
/// The most messages in one body. It bounds the work that a datagram causes at its receiver.
pub const DATAGRAM_MESSAGES_MAX: usize = 128;
/// The initial capacity of a body. Most datagrams have one or two messages.
const BODY_BYTES_USUAL: usize = 256;

type Config = Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Packs messages for one peer, in order, into as few bodies as possible of at most `budget` bytes.
/// Without messages, one body announces the sender and its incarnation.
#[must_use]
pub fn pack_messages(head: &DatagramHead, messages: &[Message], budget: usize) -> Packed {
    let mut packed = Packed::default();
    let mut body = Vec::with_capacity(BODY_BYTES_USUAL);
    packed.too_large = pack_into(&mut body, head, messages, budget, |body, count| {
        packed.bodies.push((body.to_vec(), count));
    });
    packed
}

/// Packs like [`pack_messages`], with one body after another in the buffer `body`. Returns the number of
/// messages in none of them.
pub(crate) fn pack_into(
    body: &mut Vec<u8>,
    head: &DatagramHead,
    messages: &[Message],
    budget: usize,
    mut take: impl FnMut(&[u8], usize),
) -> usize {
    body.clear();
    if append(body, head).is_none() {
        return messages.len();
    }
    let head_len = body.len();
    let mut count = 0;
    let mut too_large = 0;
    for message in messages {
        let before = body.len();
        let is_whole = append(body, message).is_some();
        if !is_whole || head_len + (body.len() - before) > budget {
            body.truncate(before);
            too_large += 1;
        } else if body.len() <= budget && count < DATAGRAM_MESSAGES_MAX {
            count += 1;
        } else {
            take(&body[..before], count);
            body.drain(head_len..before);
            count = 1;
        }
    }
    if count > 0 || messages.is_empty() {
        take(body, count);
    }
    too_large
}

/// Unpacks a body of the newest version into its head and its messages.
///
/// # Errors
/// [`DropReason::Undecodable`] unless every byte belongs to the head or to one of at most
/// [`DATAGRAM_MESSAGES_MAX`] messages. The same if the body is longer than
/// [`DATAGRAM_BYTES_MAX`](super::DATAGRAM_BYTES_MAX).
pub fn unpack_messages(body: &[u8]) -> Result<(DatagramHead, Vec<Message>), DropReason> {
    let mut messages = Vec::new();
    let head = unpack_into(PROTOCOL_VERSION, body, &mut messages)?;
    let head = DatagramHead {
        from: head.from.to_id(),
        incarnation: head.incarnation,
        to: head.to.to_id(),
        voter_set: head.voter_set,
    };
    Ok((head, messages))
}

/// Unpacks a body of this version like [`unpack_messages`], and replaces the content of `messages`.
/// A message of a newer version is undecodable. After an error, `messages` may have some of the
/// messages.
pub(crate) fn unpack_into<'a>(
    version: u8,
    body: &'a [u8],
    messages: &mut Vec<Message>,
) -> Result<DatagramHead<NodeName<'a>>, DropReason> {
    messages.clear();
    if body.len() > BODY_BYTES_MAX {
        return Err(DropReason::Undecodable);
    }
    let (head, mut rest) = take(body)?;
    while !rest.is_empty() {
        if messages.len() == DATAGRAM_MESSAGES_MAX {
            return Err(DropReason::Undecodable);
        }
        let (message, after): (Message, _) = take(rest)?;
        if message.version() > version {
            return Err(DropReason::Undecodable);
        }
        messages.push(message);
        rest = after;
    }
    Ok(head)
}

pub(crate) fn append(body: &mut Vec<u8>, value: &impl Serialize) -> Option<usize> {
    bincode::serde::encode_into_std_write(value, body, CONFIG).ok()
}

/// Returns the number of bytes of an encoded value; `None` if it cannot be encoded.
pub(crate) fn encoded_len(value: &impl Serialize) -> Option<usize> {
    append(&mut Vec::new(), value)
}

/// Decodes one value that takes all bytes.
pub(crate) fn decode_whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    take(bytes)
        .ok()
        .filter(|(_, rest)| rest.is_empty())
        .map(|(value, _)| value)
}

/// Decodes one value, and returns it with the bytes after it. No value is empty, so the rest is
/// shorter.
pub(crate) fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), DropReason> {
    let (value, len) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|_| DropReason::Undecodable)?;
    match bytes.get(len..) {
        Some(rest) if len > 0 => Ok((value, rest)),
        _ => Err(DropReason::Undecodable),
    }
}

#[cfg(test)]
mod tests {
    use bincode::error::DecodeError;

    use super::*;
    use crate::id::Key;

    #[test]
    fn body_over_the_message_limit_is_undecodable() {
        let node = |name| NodeId::new(name).unwrap();
        let head = DatagramHead {
            from: node("a"),
            incarnation: Incarnation::new(1),
            to: node("b"),
            voter_set: VoterSetTag::default(),
        };
        let query = Message::RecoveryQuery(crate::message::RecoveryQuery { nonce: 1 });
        let many = vec![query; DATAGRAM_MESSAGES_MAX + 1];
        let packed = pack_messages(&head, &many, BODY_BYTES_MAX);
        let counts: Vec<usize> = packed.bodies.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [DATAGRAM_MESSAGES_MAX, 1]);
        let mut body = packed.bodies[0].0.clone();
        assert_eq!(
            unpack_messages(&body).unwrap().1.len(),
            DATAGRAM_MESSAGES_MAX
        );
        append(&mut body, &many[0]).unwrap();
        assert_eq!(unpack_messages(&body), Err(DropReason::Undecodable));
    }

    /// A length prefix in the longest form of a variable-length integer.
    fn length_prefix(len: u64) -> Vec<u8> {
        [&[253], len.to_le_bytes().as_slice()].concat()
    }

    #[test]
    fn false_length_is_refused_before_allocation() {
        let too_long = DECODED_BYTES_MAX as u64 + 1;
        for len in [too_long, 1 << 20, 1 << 32, 1 << 63, u64::MAX] {
            let bytes = [length_prefix(len).as_slice(), &[b'x'; 64]].concat();
            let node = bincode::serde::decode_from_slice::<NodeId, _>(&bytes, CONFIG);
            assert!(matches!(node, Err(DecodeError::LimitExceeded)), "{node:?}");
            let key = bincode::serde::decode_from_slice::<Key, _>(&bytes, CONFIG);
            assert!(matches!(key, Err(DecodeError::LimitExceeded)), "{key:?}");
        }
    }

    #[test]
    fn decoder_counts_at_most_eight_bytes_per_byte() {
        // The widest value of one byte on the wire: a `u64` or a length below 251.
        let numbers = [250; 1_199];
        type Numbers = Vec<u64>;
        let bytes = [&[251, 175, 4], numbers.as_slice()].concat();
        assert_eq!(bytes[1..3], 1_199_u16.to_le_bytes());
        let read = bincode::serde::decode_from_slice::<Numbers, _>(&bytes, CONFIG);
        assert!(matches!(read, Ok((numbers, 1_202)) if numbers.len() == 1_199));
    }
}
