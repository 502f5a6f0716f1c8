//! The head of a datagram and its messages, as bytes.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Deserialize, Serialize};

use super::DropReason;
use crate::proto::id::{Incarnation, NodeId};
use crate::proto::message::Message;
use crate::proto::roster::RosterTag;

/// What the messages of one datagram have in common.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// Who sends it.
    pub from: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
    /// For whom it is: an address may meanwhile belong to another node.
    pub to: NodeId,
    /// The sender's roster.
    pub roster: RosterTag,
}

const BODY_BYTES_MAX: usize = super::DATAGRAM_BYTES_MAX;

fn config() -> Configuration<LittleEndian, Varint, Limit<BODY_BYTES_MAX>> {
    bincode::config::standard().with_limit::<BODY_BYTES_MAX>()
}

/// Packs messages for one peer into as few bodies as hold them, none over `budget` bytes, in
/// order. Answers each body with the number of messages in it.
#[must_use]
pub fn pack(head: &Head, messages: &[Message], budget: usize) -> Vec<(Vec<u8>, usize)> {
    let mut bodies: Vec<(Vec<u8>, usize)> = Vec::new();
    let Ok(start) = bincode::serde::encode_to_vec(head, config()) else {
        return bodies;
    };
    for message in messages {
        let Ok(bytes) = bincode::serde::encode_to_vec(message, config()) else {
            continue;
        };
        match bodies.last_mut() {
            Some((body, count)) if body.len() + bytes.len() <= budget => {
                body.extend_from_slice(&bytes);
                *count += 1;
            }
            _ if start.len() + bytes.len() <= budget => {
                bodies.push(([start.as_slice(), &bytes].concat(), 1));
            }
            _ => {}
        }
    }
    bodies
}

/// Takes a body apart.
///
/// # Errors
/// [`DropReason::Undecodable`] unless every byte of it belongs to a head or a message.
pub fn unpack(body: &[u8]) -> Result<(Head, Vec<Message>), DropReason> {
    if body.len() > BODY_BYTES_MAX {
        return Err(DropReason::Undecodable);
    }
    let decode = |_| DropReason::Undecodable;
    let (head, mut at) =
        bincode::serde::decode_from_slice::<Head, _>(body, config()).map_err(decode)?;
    let mut messages = Vec::new();
    while at < body.len() {
        let (message, taken) =
            bincode::serde::decode_from_slice::<Message, _>(&body[at..], config())
                .map_err(decode)?;
        if taken == 0 {
            return Err(DropReason::Undecodable);
        }
        at += taken;
        messages.push(message);
    }
    Ok((head, messages))
}
