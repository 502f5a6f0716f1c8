//! The sessions of the nodes at a voter: one message lengthens all votes that a session covers.
//!
//! A vote is covered by a number. It expires no sooner than the session with that number, so a
//! session is lengthened without touching its votes. A number that was used never comes back,
//! neither in a voter's incarnation nor, with the nonce of its start, after it: what was ever said
//! of a session stays true of all votes that it was said to cover.
//!
//! The alternative that was rejected is a range of claims in each message: then the voter would
//! touch every vote, and both sides would have to agree on what the ranges hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::digest::{Digest, Parts};
use super::id::{ClaimId, Incarnation, NodeId};
use super::message::{KeepAlive, Kept, SessionId};
use super::slots::SlotAt;
use super::time::{Instant, Now};

/// The most sessions that a node has at a voter: one for each ttl that it uses.
pub(crate) const SESSIONS_MAX: usize = 8;

/// Names a session for a voter's incarnation; zero is none.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SessionNo(u32);

impl SessionNo {
    pub(crate) const NONE: Self = Self(0);
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Session {
    node: NodeId,
    incarnation: Incarnation,
    ttl: Duration,
    /// The newest send time of a `KeepAlive`; zero: there was none yet.
    sent_at: Instant,
    /// The voter's clock when `sent_at` came.
    heard: Instant,
    /// Until when it covers. It never moves back.
    expires: Instant,
    /// The claims whose votes it covers.
    covered: Digest,
    /// Where the claimant's word differed from that, the last time.
    differed: Parts,
    /// Where to go on with telling the claimant what it covers.
    cursor: SlotAt,
}

/// What came of a `KeepAlive`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KeptAlive {
    pub(crate) answer: Kept,
    /// The claimant and the voter have not agreed, for two times now, about the claims in these.
    pub(crate) disputed: Option<(SessionNo, Parts)>,
}

/// All sessions at a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Sessions {
    /// Different for every start.
    nonce: u64,
    last: u32,
    living: BTreeMap<SessionNo, Session>,
    by_node: BTreeMap<NodeId, Vec<SessionNo>>,
    due: BTreeSet<(Instant, SessionNo)>,
}

impl Sessions {
    pub(crate) fn new(nonce: u64) -> Self {
        let nonce = if mistaken!(SessionNamesComeBack) {
            0
        } else {
            nonce
        };
        Self {
            nonce,
            last: 0,
            living: BTreeMap::new(),
            by_node: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Until when a vote is covered; [`Instant::ZERO`] where it is not.
    pub(crate) fn covers_until(&self, number: SessionNo) -> Instant {
        let session = self.living.get(&number);
        session.map_or(Instant::ZERO, |session| session.expires)
    }

    /// What claimants call it, while it lives.
    pub(crate) fn name_of(&self, now: Now, number: SessionNo) -> Option<SessionId> {
        let session = self.living.get(&number)?;
        (now.mono < session.expires).then_some(SessionId {
            nonce: self.nonce,
            number: number.0,
        })
    }

    /// Covers the vote of a claim by its node's session for this ttl. Returns by which: none where
    /// the node has too many.
    pub(crate) fn cover(&mut self, now: Now, claim: &ClaimId, ttl: Duration) -> SessionNo {
        let own = self.by_node.get(&claim.node).map_or(&[][..], Vec::as_slice);
        let of_ttl = own.iter().copied().find(|number| {
            let session = self.living.get(number);
            session.is_some_and(|s| s.ttl == ttl && s.incarnation == claim.incarnation)
        });
        let living = of_ttl.filter(|number| now.mono < self.covers_until(*number));
        if living.is_none() {
            of_ttl.into_iter().for_each(|number| self.end(number));
        }
        let Some(number) = living.or_else(|| self.begin(now, claim, ttl)) else {
            return SessionNo::NONE;
        };
        if let Some(session) = self.living.get_mut(&number) {
            session.covered.add(claim.seq);
        }
        number
    }

    /// The vote of a claim that it covered is over. A session that covers nothing is, too.
    pub(crate) fn uncover(&mut self, number: SessionNo, claim: &ClaimId) {
        let Some(session) = self.living.get_mut(&number) else {
            return;
        };
        session.covered.remove(claim.seq);
        if session.covered.is_empty() && !mistaken!(SessionsRevive) {
            self.end(number);
        }
    }

    /// Rule 19: lengthens a session, unless it is over.
    pub(crate) fn handle_keep_alive(
        &mut self,
        now: Now,
        from: &NodeId,
        incarnation: Incarnation,
        msg: &KeepAlive,
    ) -> KeptAlive {
        let number = SessionNo(msg.session.number);
        let is_over = |s: &Session| now.mono >= s.expires && !mistaken!(SessionsRevive);
        if self.living.get(&number).is_some_and(is_over) {
            self.end(number);
        }
        let is_own = |s: &&mut Session| s.node == *from && s.incarnation == incarnation;
        let found = self.living.get_mut(&number).filter(is_own);
        let Some(session) = found.filter(|_| msg.session.nonce == self.nonce) else {
            let answer = Kept {
                session: msg.session,
                sent_at: msg.sent_at,
                ttl: None,
                lacks: 0,
            };
            return KeptAlive {
                answer,
                disputed: None,
            };
        };
        let mut disputed = 0;
        let mut lacks = 0;
        if msg.sent_at > session.sent_at {
            session.sent_at = msg.sent_at;
            session.heard = now.mono;
            let expires = session.expires.max(now.mono.after(session.ttl));
            let was_due = std::mem::replace(&mut session.expires, expires);
            self.due.remove(&(was_due, number));
            self.due.insert((expires, number));
            let differs = session.covered.differing(&msg.covered);
            disputed = differs & session.differed;
            lacks = disputed & session.covered.lacking(&msg.covered);
            session.differed = differs;
        }
        let answer = Kept {
            session: msg.session,
            sent_at: session.sent_at,
            ttl: Some(session.expires.since(session.heard)),
            lacks,
        };
        let is_disputed = disputed != 0 && !mistaken!(DigestIgnored);
        KeptAlive {
            answer,
            disputed: is_disputed.then_some((number, disputed)),
        }
    }

    /// Where to go on with telling the claimant what is covered.
    pub(crate) fn cursor(&mut self, number: SessionNo) -> Option<&mut SlotAt> {
        Some(&mut self.living.get_mut(&number)?.cursor)
    }

    /// These lives of a node are over, and their sessions with them.
    pub(crate) fn end_incarnations(
        &mut self,
        node: &NodeId,
        is_over: impl Fn(Incarnation) -> bool,
    ) {
        let own = self.by_node.get(node).cloned().unwrap_or_default();
        for number in own {
            let session = self.living.get(&number);
            if session.is_some_and(|session| is_over(session.incarnation)) {
                self.end(number);
            }
        }
    }

    /// Ends those that nobody has lengthened.
    pub(crate) fn end_those_due(&mut self, now: Now) {
        while let Some((due, number)) = self.due.first().copied()
            && due <= now.mono
            && !mistaken!(SessionsRevive)
        {
            self.end(number);
        }
    }

    /// When the next one ends.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(crate) fn len(&self) -> usize {
        self.living.len()
    }

    /// How many entries each of its maps has, by name.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 3] {
        [
            ("sessions", self.living.len()),
            ("nodes with sessions", self.by_node.len()),
            ("expiries of sessions", self.due.len()),
        ]
    }

    fn begin(&mut self, now: Now, claim: &ClaimId, ttl: Duration) -> Option<SessionNo> {
        let own = self.by_node.get(&claim.node).map_or(0, Vec::len);
        if own >= SESSIONS_MAX {
            return None;
        }
        // Once all numbers are used up there are no sessions any more, and all is renewed singly.
        self.last = self.last.checked_add(1)?;
        let number = SessionNo(self.last);
        let expires = now.mono.after(ttl);
        let session = Session {
            node: claim.node.clone(),
            incarnation: claim.incarnation,
            ttl,
            sent_at: Instant::ZERO,
            heard: now.mono,
            expires,
            covered: Digest::default(),
            differed: 0,
            cursor: SlotAt::FIRST,
        };
        self.by_node
            .entry(claim.node.clone())
            .or_default()
            .push(number);
        self.due.insert((expires, number));
        self.living.insert(number, session);
        Some(number)
    }

    fn end(&mut self, number: SessionNo) {
        let Some(session) = self.living.remove(&number) else {
            return;
        };
        self.due.remove(&(session.expires, number));
        if let Some(own) = self.by_node.get_mut(&session.node) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.by_node.remove(&session.node);
            }
        }
    }
}
