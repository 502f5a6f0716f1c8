//! The client of [`wire::observe`](crate::wire::observe), without sockets and clocks. It seals
//! questions, and opens and matches answers.

use std::collections::BTreeMap;

use crate::id::Key;
use crate::listing::Place;
use crate::wire::observe::{Answer, Answered, Asked, Question};
use crate::wire::{DATAGRAM_BYTES_MAX, DatagramKind, DropReason, Seal};

/// Identifies one open question.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QuestionId(u64);

/// A client that observes a mesh without being part of it.
#[derive(Debug)]
pub struct Observer {
    seal: Seal,
    next: u64,
    /// The open questions, by nonce.
    open: BTreeMap<u64, Question>,
}

impl Observer {
    /// Creates an observer with the seal of the mesh.
    ///
    /// `seed` must differ from start to start and be hard to guess, since an answer is accepted if
    /// it has the question's nonce.
    #[must_use]
    pub fn new(seal: Seal, seed: u64) -> Self {
        Self {
            seal,
            next: seed,
            open: BTreeMap::new(),
        }
    }

    /// Sets the cluster's name.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        self.seal = self.seal.of_cluster(name);
        self
    }

    /// Opens a question. Returns its id and the datagram to send to a node.
    pub fn ask(&mut self, question: Question) -> (QuestionId, Vec<u8>) {
        self.next = self.next.wrapping_add(1);
        let id = QuestionId(self.next);
        let bytes = self.sealed(id, question.clone());
        self.open.insert(id.0, question);
        (id, bytes)
    }

    /// Returns a new datagram of an open question, for a retransmit. `None` if the question was
    /// answered or dropped.
    pub fn repeat(&mut self, id: QuestionId) -> Option<Vec<u8>> {
        let question = self.open.get(&id.0)?.clone();
        Some(self.sealed(id, question))
    }

    /// Drops a question. Its answer is no longer accepted.
    pub fn drop_question(&mut self, id: QuestionId) {
        self.open.remove(&id.0);
    }

    /// Drops all open questions.
    pub fn drop_all(&mut self) {
        self.open.clear();
    }

    /// Handles a received datagram. Returns the answer and the id of its question, which is then
    /// closed.
    ///
    /// # Errors
    /// - An error of [`Seal::open`] if it cannot be opened.
    /// - [`DropReason::Undecodable`] if its body is not an answer.
    /// - [`DropReason::Misaddressed`] if it does not answer an open question.
    pub fn handle_datagram(&mut self, bytes: &[u8]) -> Result<(QuestionId, Answered), DropReason> {
        let (kind, body) = self.seal.open(bytes)?;
        if kind != DatagramKind::Answer {
            return Err(DropReason::Misaddressed);
        }
        let answered = Answered::from_body(&body)?;
        let id = QuestionId(answered.nonce);
        let question = self.open.get(&id.0);
        let fits = question.is_some_and(|question| answers(question, &answered.answer));
        if !fits {
            return Err(DropReason::Misaddressed);
        }
        self.drop_question(id);
        Ok((id, answered))
    }

    /// Seals a question, padded to the length of the longest possible answer.
    fn sealed(&mut self, id: QuestionId, question: Question) -> Vec<u8> {
        let nonce = id.0;
        let len = DATAGRAM_BYTES_MAX - self.seal.overhead();
        let body = Asked { nonce, question }.to_body(len);
        self.seal.seal(DatagramKind::Question, &body)
    }
}

/// Returns `true` if an answer fits its question. A page must also continue in order after the last
/// known entry, or the list might never end.
fn answers(question: &Question, answer: &Answer) -> bool {
    fn follows<T: Ord>(
        after: Option<&T>,
        mut entries: impl Iterator<Item = T>,
        more: bool,
    ) -> bool {
        let mut last: Option<T> = None;
        let is_ordered = entries.all(|entry| {
            let before = last.as_ref().or(after);
            let rises = before.is_none_or(|before| *before < entry);
            last = Some(entry);
            rises
        });
        is_ordered && (last.is_some() || !more)
    }
    match (question, answer) {
        (Question::Overview, Answer::Overview(_)) | (Question::Key { .. }, Answer::Key(_)) => true,
        (Question::Nodes { after }, Answer::Nodes(page)) => {
            let nodes = page.entries.iter().map(|seen| seen.node.clone());
            follows(after.as_ref(), nodes, page.more)
        }
        (Question::Locks { after }, Answer::Locks(page)) => {
            let place = |key: &Key| Place::of(key.clone());
            let places = page.entries.iter().map(|seen| place(&seen.key));
            follows(after.as_ref().map(place).as_ref(), places, page.more)
        }
        _ => false,
    }
}
