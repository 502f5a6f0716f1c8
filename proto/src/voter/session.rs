//! The sessions of nodes at a voter: one `KeepAlive` extends all votes that a session covers.
//!
//! A vote names its session by number and expires no sooner than that session. So a session is
//! extended without touching its votes. Numbers are never reused within a start of the voter, and
//! the nonce differs from start to start. So each `Kept` of a session holds for every vote that the
//! session was ever named to cover.
//!
//! Rejected: a range of claims in each message. Then the voter would touch every vote, and both
//! sides would have to agree on the content of each range.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::SlotAt;
use crate::deadlines::Deadlines;
use crate::digest::{Digest, DigestParts};
use crate::id::{ClaimId, Incarnation, NodeId};
use crate::message::{KeepAlive, Kept, SessionId};
use crate::time::{Instant, Now};

/// The most sessions of a node at a voter. A node has one session for each ttl that it uses.
pub(crate) const SESSIONS_MAX: usize = 8;

/// The number of a session within one start of a voter. Zero is no session.
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
    /// The newest send time of a `KeepAlive`, or zero before the first.
    sent_at: Instant,
    /// The voter's clock when it received `sent_at`, or when the session began.
    heard: Instant,
    /// When the session ends. Never moves back.
    expires: Instant,
    /// A digest of the claims whose votes the session covers.
    covered: Digest,
    /// The parts in which the digest of the last `KeepAlive` differed from `covered`.
    differed: DigestParts,
    /// Where the next search for covered votes starts (rule 21).
    cursor: SlotAt,
    /// `true` once it covers a revoked vote. It is not extended any more, and keeps its votes until
    /// it ends.
    is_closed: bool,
}

/// All sessions at a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Sessions {
    /// Differs from that of every other start.
    nonce: u64,
    last: u32,
    living: BTreeMap<SessionNo, Session>,
    by_node: BTreeMap<NodeId, Vec<SessionNo>>,
    due: Deadlines<SessionNo>,
}

impl Sessions {
    pub(crate) fn new(nonce: u64) -> Self {
        Self {
            nonce: if mistaken!(SessionNamesComeBack) {
                0
            } else {
                nonce
            },
            last: 0,
            living: BTreeMap::new(),
            by_node: BTreeMap::new(),
            due: Deadlines::default(),
        }
    }

    /// Returns when a session ends, or [`Instant::ZERO`] if there is none with this number.
    pub(crate) fn covers_until(&self, number: SessionNo) -> Instant {
        let session = self.living.get(&number);
        session.map_or(Instant::ZERO, |session| session.expires)
    }

    /// Returns the name that claimants use for a session, unless it is over.
    pub(crate) fn name_of(&self, now: Now, number: SessionNo) -> Option<SessionId> {
        let session = self.living.get(&number)?;
        (now.mono < session.expires && !session.is_closed).then_some(SessionId {
            nonce: self.nonce,
            number: number.0,
        })
    }

    /// Covers the vote of a claim by its node's session for this ttl. Returns the session, or
    /// [`SessionNo::NONE`] if no further session can begin.
    pub(crate) fn cover(&mut self, now: Now, claim: &ClaimId, ttl: Duration) -> SessionNo {
        let own = self.by_node.get(&claim.node).map_or(&[][..], Vec::as_slice);
        let of_ttl = own.iter().copied().find(|number| {
            let session = self.living.get(number);
            let is_of_ttl = |s: &Session| s.ttl == ttl && s.incarnation == claim.incarnation;
            session.is_some_and(|s| is_of_ttl(s) && !s.is_closed)
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

    /// Removes a claim from its session. A session that covers no vote ends.
    pub(crate) fn uncover(&mut self, number: SessionNo, claim: &ClaimId) {
        let Some(session) = self.living.get_mut(&number) else {
            return;
        };
        session.covered.remove(claim.seq);
        if session.covered.is_empty() && !mistaken!(SessionsRevive) {
            self.end(number);
        }
    }

    /// Rule 38: no answer extends the session any more. It keeps its votes until it ends, since each
    /// `Kept` so far holds for all of them.
    pub(crate) fn close(&mut self, number: SessionNo) {
        if let Some(session) = self.living.get_mut(&number) {
            session.is_closed = true;
        }
    }

    /// Rule 19: extends a session, unless it is over. Returns the answer, and the parts in which the
    /// digests have differed twice in a row.
    pub(crate) fn handle_keep_alive(
        &mut self,
        now: Now,
        from: &NodeId,
        incarnation: Incarnation,
        msg: &KeepAlive,
    ) -> (Kept, Option<(SessionNo, DigestParts)>) {
        let number = SessionNo(msg.session.number);
        let is_over = |s: &Session| now.mono >= s.expires && !mistaken!(SessionsRevive);
        if self.living.get(&number).is_some_and(is_over) {
            self.end(number);
        }
        let is_own =
            |s: &&mut Session| s.node == *from && s.incarnation == incarnation && !s.is_closed;
        let found = self.living.get_mut(&number).filter(is_own);
        let Some(session) = found.filter(|_| msg.session.nonce == self.nonce) else {
            let is_over = Kept {
                session: msg.session,
                sent_at: msg.sent_at,
                ttl: None,
                lacks: 0,
            };
            return (is_over, None);
        };
        let mut disputed = 0;
        let mut lacks = 0;
        if msg.sent_at > session.sent_at {
            session.sent_at = msg.sent_at;
            session.heard = now.mono;
            let expires = session.expires.max(now.mono.after(session.ttl));
            self.due.reset(number, &mut session.expires, expires);
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
        (answer, is_disputed.then_some((number, disputed)))
    }

    /// Returns where the next search for votes covered by a session starts.
    pub(crate) fn cursor(&mut self, number: SessionNo) -> Option<&mut SlotAt> {
        Some(&mut self.living.get_mut(&number)?.cursor)
    }

    /// Ends the sessions of all incarnations of `node` for which `is_over` returns `true`.
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

    /// Ends the sessions that have expired.
    pub(crate) fn end_those_due(&mut self, now: Now) {
        while let Some(number) = self
            .due
            .due(now.mono)
            .filter(|_| !mistaken!(SessionsRevive))
        {
            self.end(number);
        }
    }

    /// Returns the earliest expiry of a session.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| due)
    }

    pub(crate) fn len(&self) -> usize {
        self.living.len()
    }

    /// Returns the name and the length of each map.
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
        // When all numbers are used up, no session begins and each vote is renewed singly.
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
            is_closed: false,
        };
        self.by_node
            .entry(claim.node.clone())
            .or_default()
            .push(number);
        self.due.insert(expires, number);
        self.living.insert(number, session);
        Some(number)
    }

    fn end(&mut self, number: SessionNo) {
        let Some(session) = self.living.remove(&number) else {
            return;
        };
        self.due.remove(session.expires, number);
        if let Some(own) = self.by_node.get_mut(&session.node) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.by_node.remove(&session.node);
            }
        }
    }
}
