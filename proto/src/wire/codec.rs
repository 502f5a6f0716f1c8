//! The head of a datagram and its messages, as bytes.
//!
//! A body is the head and then message after message, without counts or lengths, in bincode's
//! variable-length integers. It is taken apart until no byte is left; a byte that belongs to
//! nothing makes the whole body undecodable, so that damage is never half believed.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Deserialize, Serialize};

use super::DropReason;
use crate::id::{Incarnation, NodeId, NodeName};
use crate::message::Message;
use crate::voter_set::VoterSetTag;

/// What the messages of one datagram have in common.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// Who sends it.
    pub from: NodeId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// For whom it is: an address may meanwhile belong to another node.
    pub to: NodeId,
    /// The sender's voter set.
    pub voter_set: VoterSetTag,
}

/// A head where it was read: its names are mostly those of nodes that are known.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadHead<'a> {
    #[serde(borrow)]
    pub(crate) from: NodeName<'a>,
    pub(crate) incarnation: Incarnation,
    #[serde(borrow)]
    pub(crate) to: NodeName<'a>,
    pub(crate) voter_set: VoterSetTag,
}

/// Messages for one peer, packed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Packed {
    /// The bodies in order, and how many messages are in each.
    pub bodies: Vec<(Vec<u8>, usize)>,
    /// How many messages are in none of them: with the head, each alone is over the budget.
    pub too_large: usize,
}

const BODY_BYTES_MAX: usize = super::DATAGRAM_BYTES_MAX;
/// The decoder counts what a value takes in memory, up to eight bytes for one on the wire, so no
/// honest body comes near this. It also bounds what a false length can make it allocate.
const DECODED_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;
/// The most messages in one body: what a datagram asks of its receiver is bounded, too.
pub const MESSAGES_MAX: usize = 128;
/// Most datagrams have one or two messages.
const BODY_BYTES_USUAL: usize = 256;

type Config = Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Packs messages for one peer into as few bodies as hold them in order, none over `budget`
/// bytes.
#[must_use]
pub fn pack(head: &Head, messages: &[Message], budget: usize) -> Packed {
    let mut packed = Packed::default();
    let mut body = Vec::with_capacity(BODY_BYTES_USUAL);
    packed.too_large = pack_into(&mut body, head, messages, budget, |body, count| {
        packed.bodies.push((body.to_vec(), count));
    });
    packed
}

/// The same, with one body after another in the room of `body`. Answers how many messages are in
/// none of them.
pub(crate) fn pack_into(
    body: &mut Vec<u8>,
    head: &Head,
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
        } else if body.len() <= budget && count < MESSAGES_MAX {
            count += 1;
        } else {
            take(&body[..before], count);
            body.drain(head_len..before);
            count = 1;
        }
    }
    if count > 0 {
        take(body, count);
    }
    too_large
}

/// A body without any message: who it is from, in which incarnation.
#[must_use]
pub fn pack_head(head: &Head) -> Packed {
    let mut body = Vec::with_capacity(BODY_BYTES_USUAL);
    match append(&mut body, head) {
        Some(_) => Packed {
            bodies: vec![(body, 0)],
            too_large: 0,
        },
        None => Packed::default(),
    }
}

/// Takes a body apart.
///
/// # Errors
/// [`DropReason::Undecodable`] unless every byte of it belongs to a head or to one of at most
/// [`MESSAGES_MAX`] messages.
pub fn unpack(body: &[u8]) -> Result<(Head, Vec<Message>), DropReason> {
    let mut messages = Vec::new();
    let head = unpack_into(body, &mut messages)?;
    let head = Head {
        from: head.from.to_id(),
        incarnation: head.incarnation,
        to: head.to.to_id(),
        voter_set: head.voter_set,
    };
    Ok((head, messages))
}

/// The same, with the messages put into `messages` instead of whatever is there. Where the body is
/// no body, some may be in it.
pub(crate) fn unpack_into<'a>(
    body: &'a [u8],
    messages: &mut Vec<Message>,
) -> Result<ReadHead<'a>, DropReason> {
    messages.clear();
    if body.len() > BODY_BYTES_MAX {
        return Err(DropReason::Undecodable);
    }
    let (head, mut rest) = take(body)?;
    while !rest.is_empty() {
        if messages.len() == MESSAGES_MAX {
            return Err(DropReason::Undecodable);
        }
        let (message, after) = take(rest)?;
        messages.push(message);
        rest = after;
    }
    Ok(head)
}

pub(super) fn append(body: &mut Vec<u8>, value: &impl Serialize) -> Option<usize> {
    bincode::serde::encode_into_std_write(value, body, CONFIG).ok()
}

/// One value, and the bytes after it. No value is of no bytes, so the rest is shorter.
pub(super) fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), DropReason> {
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
    fn a_body_asks_for_no_more_than_it_may() {
        let node = |name| NodeId::new(name).unwrap();
        let head = Head {
            from: node("a"),
            incarnation: Incarnation::new(1),
            to: node("b"),
            voter_set: VoterSetTag::default(),
        };
        let query = Message::RecoveryQuery(crate::message::RecoveryQuery { nonce: 1 });
        let many = vec![query; MESSAGES_MAX + 1];
        let packed = pack(&head, &many, BODY_BYTES_MAX);
        let counts: Vec<usize> = packed.bodies.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [MESSAGES_MAX, 1]);
        let mut body = packed.bodies[0].0.clone();
        assert_eq!(unpack(&body).unwrap().1.len(), MESSAGES_MAX);
        append(&mut body, &many[0]).unwrap();
        assert_eq!(unpack(&body), Err(DropReason::Undecodable));
    }

    /// A variable-length integer, as long as it can be.
    fn length_prefix(len: u64) -> Vec<u8> {
        [&[253], len.to_le_bytes().as_slice()].concat()
    }

    #[test]
    fn a_false_length_is_refused_before_there_is_room_for_it() {
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
    fn no_value_takes_more_than_eight_bytes_of_the_limit_for_one_on_the_wire() {
        // The widest that one byte can stand for: a `u64` or a length below 251.
        let numbers = [250; 1_199];
        type Numbers = Vec<u64>;
        let bytes = [&[251, 175, 4], numbers.as_slice()].concat();
        assert_eq!(bytes[1..3], 1_199_u16.to_le_bytes());
        let read = bincode::serde::decode_from_slice::<Numbers, _>(&bytes, CONFIG);
        assert!(matches!(read, Ok((numbers, 1_202)) if numbers.len() == 1_199));
    }
}
