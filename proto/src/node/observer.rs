//! The asking side of [`wire::observe`](crate::wire::observe), without its sockets and clocks:
//! questions are sealed, answers are opened and matched.

use std::collections::BTreeMap;

use crate::id::Key;
use crate::listing::Place;
use crate::wire::observe::{Answer, Answered, Asked, Question};
use crate::wire::{DATAGRAM_BYTES_MAX, DropReason, Kind, Seal};

/// Names one question that was asked and not answered yet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QuestionId(u64);

/// Somebody who looks at a mesh and takes no part in it.
#[derive(Debug)]
pub struct Observer {
    seal: Seal,
    next: u64,
    /// By nonce.
    open: BTreeMap<u64, Question>,
}

impl Observer {
    /// An observer that seals as the mesh does. `seed` must differ from start to start, and be hard
    /// to guess: an answer counts if it knows the number that the question was given.
    #[must_use]
    pub fn new(seal: Seal, seed: u64) -> Self {
        Self {
            seal,
            next: seed,
            open: BTreeMap::new(),
        }
    }

    /// The same for the cluster of this name.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        self.seal = self.seal.of_cluster(name);
        self
    }

    /// A question, and the datagram to send to a node.
    pub fn ask(&mut self, question: Question) -> (QuestionId, Vec<u8>) {
        self.next = self.next.wrapping_add(1);
        let id = QuestionId(self.next);
        let bytes = self.sealed(id, question.clone());
        self.open.insert(id.0, question);
        (id, bytes)
    }

    /// The datagram of a question that may have been lost; `None` once it was answered or dropped.
    pub fn repeat(&mut self, id: QuestionId) -> Option<Vec<u8>> {
        let question = self.open.get(&id.0)?.clone();
        Some(self.sealed(id, question))
    }

    /// Waits for no answer to this question any more.
    pub fn drop_question(&mut self, id: QuestionId) {
        self.open.remove(&id.0);
    }

    /// Waits for no answer any more.
    pub fn drop_all(&mut self) {
        self.open.clear();
    }

    /// A datagram came in. The question that it answers counts as answered.
    ///
    /// # Errors
    /// Why it is dropped: those of [`Seal::open`], [`DropReason::Undecodable`], or
    /// [`DropReason::Misaddressed`] where it answers no question that is open.
    pub fn handle_datagram(&mut self, bytes: &[u8]) -> Result<(QuestionId, Answered), DropReason> {
        let (kind, body) = self.seal.open(bytes)?;
        if kind != Kind::Answer {
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

    /// As long as any answer may be.
    fn sealed(&mut self, id: QuestionId, question: Question) -> Vec<u8> {
        let nonce = id.0;
        let len = DATAGRAM_BYTES_MAX - self.seal.overhead();
        let body = Asked { nonce, question }.to_body(len);
        self.seal.seal(Kind::Question, &body)
    }
}

/// Whether it is of the kind that was asked for, and what a page has follows what was known. A node
/// that goes back in its lists would be asked for ever.
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
