//! The incarnations of one peer: the highest, those proven to be over, and a pair that may be two
//! live processes (rules 25 and 26).
//!
//! A socket belongs to one process. If a higher incarnation sends from the address of a lower one,
//! it is sent a challenge. Its answer proves that the lower one is over. The datagram proves
//! nothing: an earlier process may have sent it, if the wall clock was set back.
//!
//! A higher one at another address does not prove it either: the older process may still run, and
//! its votes expire by the clock. Both incarnations are then sent the same challenge. A process has
//! one incarnation at a time, and its numbers rise. If both answer a challenge that was sent after
//! both had been received, there are two processes. A late datagram of a dead process cannot answer
//! that challenge.

use std::net::SocketAddr;
use std::ops::Range;

use crate::id::Incarnation;
use crate::time::Instant;
use crate::voter_set::Timing;

/// The most rows of earlier incarnations that are remembered. The votes of others expire by the
/// clock.
const EARLIER_MAX: usize = 4;
/// The number of times per `max_ttl` that two live processes are challenged again.
pub(super) const ASKED_AGAIN: u32 = 16;
/// The number of challenges that the highest incarnation leaves unanswered before a lower one is
/// sent `Outdated`.
const IN_VAIN: u32 = 3;
/// The number of unanswered challenges after which only a datagram of the lower incarnation
/// triggers another.
const TRIES_MAX: u32 = 8;

/// The incarnations of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Incarnations {
    highest: Option<KnownIncarnation>,
    /// The highest one before that.
    before: Incarnation,
    /// Lower incarnations that may have claims at this node's voter, and are not proven to be over.
    earlier: Vec<Earlier>,
    rivals: Option<Box<Rivals>>,
    /// The challenge to the highest one at an address of earlier ones.
    proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug)]
struct KnownIncarnation {
    number: Incarnation,
    at: SocketAddr,
    /// `true` if it was received from another address too: then no address proves that it is over.
    has_moved: bool,
}

/// Incarnations that followed one another at one address. Many are one row, so that a process that
/// ends at each start does not displace the one that had claims.
#[derive(Clone, Debug)]
struct Earlier {
    numbers: Range<Incarnation>,
    at: SocketAddr,
    /// `true` if one of them was received from another address too: then no address proves that
    /// they are over.
    has_moved: bool,
}

/// Two incarnations at two addresses, which may be two processes.
#[derive(Clone, Debug)]
struct Rivals {
    /// The lower one. The other is the highest of all.
    lower: (Incarnation, SocketAddr),
    /// `true` once this lower one was challenged.
    is_asked: bool,
    nonce: u64,
    asked_at: Option<Instant>,
    /// The number of challenges since both last answered.
    tries: u32,
    /// The number of challenges since the highest last answered.
    in_vain: u32,
    /// `true` if both have answered before. They are then challenged again at intervals.
    are_two: bool,
    highest_answered: bool,
    lower_answered: bool,
}

/// A challenge to the highest incarnation. Its answer proves that earlier ones are over.
#[derive(Clone, Copy, Debug)]
struct Proof {
    /// Unused before all earlier incarnations were received.
    nonce: u64,
    asked_at: Instant,
    tries: u32,
}

/// The consequences of a datagram of a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hearing {
    pub(crate) heard: Heard,
    /// The challenges to send.
    pub(crate) asks: Vec<Asks>,
}

impl Hearing {
    /// A datagram that causes no challenge.
    pub(crate) fn of(heard: Heard) -> Self {
        let asks = Vec::new();
        Self { heard, asks }
    }
}

/// The incarnation of a datagram, compared with those received before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// The highest that is known.
    Again,
    /// A higher one, or the first of the node.
    NewIncarnation,
    /// A lower one than `seen`. It is sent `Outdated` if `is_told`.
    Outdated { seen: Incarnation, is_told: bool },
    /// There is no capacity to remember the node.
    TooMany,
}

/// A challenge to an incarnation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Asks {
    pub(crate) nonce: u64,
    pub(crate) at: SocketAddr,
}

/// What an answer to a challenge proves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Proven {
    /// The incarnations that are over.
    pub(crate) over: Vec<Range<Incarnation>>,
    /// Two processes that are alive.
    pub(crate) two: Option<Two>,
}

/// Two processes of one name: the incarnation and the address of each.
pub(crate) type Two = [(Incarnation, SocketAddr); 2];

impl Incarnations {
    /// Returns the highest incarnation received.
    pub(super) fn highest(&self) -> Option<Incarnation> {
        self.highest.map(|incarnation| incarnation.number)
    }

    /// Returns the highest incarnation received before that one.
    pub(super) fn before(&self) -> Incarnation {
        self.before
    }

    /// Records a datagram of this incarnation from this address. The two nonces must be unused.
    /// `has_claims` returns `true` if the peer may have claims at this node's voter. It is called only
    /// if a proof is missing.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        (number, at): (Incarnation, SocketAddr),
        (nonce, proof_nonce): (u64, u64),
        timing: &Timing,
        has_claims: impl FnOnce() -> bool,
    ) -> Hearing {
        let has_moved = false;
        let new = KnownIncarnation {
            number,
            at,
            has_moved,
        };
        let heard = match &mut self.highest {
            Some(highest) if number < highest.number => {
                let (seen, home) = (highest.number, highest.at);
                self.note_lower(number, at, home, nonce);
                let is_told = self.tells(at, home);
                Heard::Outdated { seen, is_told }
            }
            Some(highest) if number == highest.number => {
                highest.has_moved |= highest.at != at;
                highest.at = at;
                Heard::Again
            }
            _ => {
                self.begin(new, nonce);
                Heard::NewIncarnation
            }
        };
        let is_lower = matches!(heard, Heard::Outdated { .. });
        let mut asks = Vec::new();
        if !is_lower {
            asks.extend(self.ask_for_proof(now, at, proof_nonce, timing, has_claims));
        }
        if let Some((nonce, at)) = self.ask(now, is_lower, nonce, timing) {
            asks.extend(at.map(|at| Asks { nonce, at }));
        }
        Hearing { heard, asks }
    }

    /// Records a higher incarnation than any before.
    fn begin(&mut self, new: KnownIncarnation, nonce: u64) {
        let Some(before) = self.highest.replace(new) else {
            return;
        };
        self.before = before.number;
        self.proof = None;
        match self.earlier.last_mut() {
            Some(last) if last.continues_with(before) => last.numbers.end = before.number.next(),
            _ => {
                if self.earlier.len() == EARLIER_MAX {
                    self.earlier.remove(0);
                }
                self.earlier.push(Earlier::new(before));
            }
        }
        let lower = match &self.rivals {
            _ if before.at != new.at => Some((before.number, before.at)),
            Some(rivals) if rivals.lower.1 != new.at => Some(rivals.lower),
            _ => None,
        };
        self.rivals = lower.map(|lower| Box::new(Rivals::new(lower, nonce)));
    }

    /// Records that a lower incarnation sends from `at`. The highest was last received from `home`.
    fn note_lower(&mut self, number: Incarnation, at: SocketAddr, home: SocketAddr, nonce: u64) {
        let known = self.earlier.iter_mut();
        for earlier in known.filter(|earlier| earlier.numbers.contains(&number)) {
            earlier.has_moved |= earlier.at != at;
        }
        if at == home {
            return;
        }
        match &mut self.rivals {
            Some(rivals) if rivals.lower.0 == number => rivals.lower.1 = at,
            // One that sends often must not displace one that sent once.
            Some(rivals) if !rivals.is_asked => {}
            rivals => {
                let mut new = Rivals::new((number, at), nonce);
                if let Some(before) = rivals {
                    // Several lower incarnations share one backoff. `in_vain` carries over, since
                    // the highest answers the challenges of all of them or of none.
                    new.asked_at = before.asked_at;
                    new.tries = before.tries.min(IN_VAIN);
                    new.in_vain = before.in_vain;
                }
                *rivals = Some(Box::new(new));
            }
        }
    }

    /// Returns `true` if a lower incarnation is sent `Outdated`. It is not if the highest may be
    /// alive at another address.
    fn tells(&self, at: SocketAddr, home: SocketAddr) -> bool {
        let is_silent = |it: &Rivals| it.in_vain >= IN_VAIN;
        at == home || self.rivals.as_deref().is_none_or(is_silent)
    }

    /// Returns a challenge to the highest incarnation, if one is due. The highest sent from `at`.
    fn ask_for_proof(
        &mut self,
        now: Instant,
        at: SocketAddr,
        nonce: u64,
        timing: &Timing,
        has_claims: impl FnOnce() -> bool,
    ) -> Option<Asks> {
        if !self.earlier.iter().any(|earlier| earlier.ends_at(at)) {
            return None;
        }
        if self.rivals.as_ref().is_some_and(|it| it.lower.1 == at) {
            self.rivals = None;
        }
        let most = timing.max_ttl / ASKED_AGAIN;
        let pause = |tries: u32| (timing.round_trip * (1 << tries.min(TRIES_MAX))).min(most);
        let (nonce, tries) = match self.proof {
            Some(proof) if now < proof.asked_at.after(pause(proof.tries)) => return None,
            Some(proof) => (proof.nonce, proof.tries.saturating_add(1)),
            None => (nonce, 1),
        };
        if !has_claims() {
            self.earlier.clear();
            return None;
        }
        let asked_at = now;
        self.proof = Some(Proof {
            nonce,
            asked_at,
            tries,
        });
        Some(Asks { nonce, at })
    }

    /// Removes and returns the earlier incarnations at `at`. They are over, since the highest has
    /// answered a challenge from there.
    fn end_earlier(&mut self, at: SocketAddr) -> Vec<Range<Incarnation>> {
        let over = self.earlier.extract_if(.., |earlier| earlier.ends_at(at));
        let over: Vec<Range<Incarnation>> = over.map(|earlier| earlier.numbers).collect();
        if !over.is_empty() {
            self.proof = None;
        }
        over
    }

    /// Returns the nonce of a challenge to both incarnations and their addresses, if one is due.
    fn ask(
        &mut self,
        now: Instant,
        is_lower: bool,
        nonce: u64,
        timing: &Timing,
    ) -> Option<(u64, [SocketAddr; 2])> {
        let (highest, rivals) = (self.highest?, self.rivals.as_deref_mut()?);
        let most = timing.max_ttl / ASKED_AGAIN;
        let pause = match rivals.tries {
            0 if rivals.are_two => most,
            TRIES_MAX.. => most,
            tries => (timing.round_trip * (1 << tries)).min(most),
        };
        let is_due = rivals.asked_at.is_none_or(|at| now >= at.after(pause));
        if !is_due || rivals.tries >= TRIES_MAX && !is_lower {
            return None;
        }
        if rivals.asked_at.is_some_and(|at| now >= at.after(most)) {
            // An incarnation that answered the old challenge may have ended since.
            rivals.nonce = nonce;
            (rivals.highest_answered, rivals.lower_answered) = (false, false);
        }
        rivals.asked_at = Some(now);
        rivals.is_asked = true;
        rivals.tries = (rivals.tries + 1).min(TRIES_MAX);
        rivals.in_vain = rivals.in_vain.saturating_add(1);
        Some((rivals.nonce, [highest.at, rivals.lower.1]))
    }

    /// Records an answer to a challenge.
    pub(super) fn answer(
        &mut self,
        (number, at): (Incarnation, SocketAddr),
        nonce: u64,
        next_nonce: u64,
    ) -> Proven {
        let is_proof = self.proof.is_some_and(|proof| proof.nonce == nonce);
        let is_highest = Some(number) == self.highest() || mistaken!(AnyAnswerProves);
        let over = match is_proof && is_highest {
            true => self.end_earlier(at),
            false => Vec::new(),
        };
        let two = self.answer_of_rival((number, at), nonce, next_nonce);
        Proven { over, two }
    }

    /// Records an answer of one of the rivals. Returns both if both have answered.
    fn answer_of_rival(
        &mut self,
        (number, at): (Incarnation, SocketAddr),
        nonce: u64,
        next_nonce: u64,
    ) -> Option<Two> {
        let (highest, rivals) = (self.highest?, self.rivals.as_deref_mut()?);
        if nonce != rivals.nonce {
            return None;
        }
        if number == highest.number {
            rivals.highest_answered = true;
            rivals.in_vain = 0;
        } else if number == rivals.lower.0 {
            rivals.lower.1 = at;
            rivals.lower_answered = true;
        }
        if !rivals.highest_answered || !rivals.lower_answered {
            return None;
        }
        let asked_at = rivals.asked_at;
        *rivals = Rivals::new(rivals.lower, next_nonce);
        rivals.asked_at = asked_at;
        rivals.is_asked = true;
        rivals.are_two = true;
        Some([(highest.number, highest.at), rivals.lower])
    }
}

impl Earlier {
    fn new(incarnation: KnownIncarnation) -> Self {
        Self {
            numbers: incarnation.number..incarnation.number.next(),
            at: incarnation.at,
            has_moved: incarnation.has_moved,
        }
    }

    /// Returns `true` if `next`, which was received after these, belongs to them.
    fn continues_with(&self, next: KnownIncarnation) -> bool {
        self.at == next.at && !self.has_moved && !next.has_moved
    }

    /// Returns `true` if they are over once a higher one answers from `at`.
    fn ends_at(&self, at: SocketAddr) -> bool {
        self.at == at && !self.has_moved || mistaken!(AnyPlaceProves)
    }
}

impl Rivals {
    fn new(lower: (Incarnation, SocketAddr), nonce: u64) -> Self {
        Self {
            lower,
            is_asked: false,
            nonce,
            asked_at: None,
            tries: 0,
            in_vain: 0,
            are_two: false,
            highest_answered: false,
            lower_answered: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    fn incarnation(number: u64) -> Incarnation {
        Incarnation::new(number)
    }

    fn hear(incarnations: &mut Incarnations, ms: u64, number: u64, port: u16) -> Hearing {
        let from = (incarnation(number), addr(port));
        let nonces = (ms + 1_000, ms + 1_000_000);
        incarnations.hear(at(ms), from, nonces, &Timing::lan(), || true)
    }

    /// A datagram whose sender answers all challenges. Returns the incarnations that are over.
    fn hear_and_ask(incarnations: &mut Incarnations, ms: u64, number: u64, port: u16) -> Vec<u64> {
        let asks = hear(incarnations, ms, number, port).asks;
        let asks = asks.into_iter().filter(|asks| asks.at == addr(port));
        let from = (incarnation(number), addr(port));
        let proven = asks.map(|asks| incarnations.answer(from, asks.nonce, ms + 2_000));
        proven.flat_map(|proven| numbers(&proven)).collect()
    }

    /// The incarnations that are over.
    fn numbers(proven: &Proven) -> Vec<u64> {
        let over = proven.over.iter();
        over.flat_map(|it| it.start.get()..it.end.get()).collect()
    }

    /// The port of the lower of two incarnations that are challenged.
    fn rival_of(word: &Hearing) -> Option<SocketAddr> {
        assert!(word.asks.is_empty() || word.asks.len() == 2);
        word.asks.last().map(|asks| asks.at)
    }

    #[test]
    fn answer_of_higher_incarnation_ends_the_one_at_its_address() {
        let mut incarnations = Incarnations::default();
        assert_eq!(
            hear(&mut incarnations, 0, 5, 1).heard,
            Heard::NewIncarnation
        );
        let word = hear(&mut incarnations, 1, 6, 1);
        assert_eq!(word.heard, Heard::NewIncarnation);
        let [asks] = word.asks[..] else { panic!() };
        assert_eq!(asks.at, addr(1));
        let mut over = |number, port, nonce| {
            let from = (incarnation(number), addr(port));
            numbers(&incarnations.answer(from, nonce, 7))
        };
        // The datagram may be late, and 5 the one that is alive.
        assert!(over(5, 1, asks.nonce).is_empty());
        assert!(over(6, 2, asks.nonce).is_empty(), "from elsewhere");
        assert!(over(6, 1, asks.nonce - 1).is_empty(), "an old challenge");
        assert_eq!(over(6, 1, asks.nonce), [5]);
        assert!(hear(&mut incarnations, 500, 6, 1).asks.is_empty());
    }

    #[test]
    fn incarnation_without_claims_needs_no_proof() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let from = (incarnation(6), addr(1));
        let word = incarnations.hear(at(1), from, (7, 8), &Timing::lan(), || false);
        assert_eq!(word, Hearing::of(Heard::NewIncarnation));
        assert!(hear(&mut incarnations, 2, 6, 1).asks.is_empty());
    }

    /// The challenge or its answer may be lost.
    #[test]
    fn proof_is_asked_for_until_it_comes() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let mut asked = Vec::new();
        for ms in 1..10_000 {
            for asks in hear(&mut incarnations, ms, 6, 1).asks {
                asked.push((ms, asks.nonce));
            }
        }
        let times: Vec<u64> = asked.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(times[..5], [1, 21, 61, 141, 301]);
        assert!(times.len() < 16, "{times:?}");
        let from = (incarnation(6), addr(1));
        let proven = incarnations.answer(from, asked[3].1, 7);
        assert_eq!(numbers(&proven), [5]);
    }

    /// An answer to an earlier challenge does not prove that a later one is over.
    #[test]
    fn proof_names_only_incarnations_before_its_challenge() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let first = hear(&mut incarnations, 1, 7, 1).asks[0];
        let second = hear(&mut incarnations, 2, 8, 1).asks[0];
        let mut over = |number, nonce| {
            let from = (incarnation(number), addr(1));
            numbers(&incarnations.answer(from, nonce, 9))
        };
        assert!(over(7, first.nonce).is_empty());
        assert!(over(8, first.nonce).is_empty());
        assert_eq!(over(8, second.nonce), [5, 6, 7]);
    }

    /// Processes that end before they answer do not displace the one that had claims.
    #[test]
    fn many_earlier_incarnations_of_one_address_are_over_at_once() {
        let mut incarnations = Incarnations::default();
        for number in 5..100 {
            hear(&mut incarnations, number, number, 1);
        }
        assert_eq!(incarnations.earlier.len(), 1);
        let over = hear_and_ask(&mut incarnations, 100, 100, 1);
        assert_eq!(over, (5..100).collect::<Vec<_>>());
    }

    #[test]
    fn proof_is_not_asked_for_once_the_claims_are_over() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        assert_eq!(hear(&mut incarnations, 1, 6, 1).asks.len(), 1);
        let mut hear = |ms, has_claims: bool| {
            let from = (incarnation(6), addr(1));
            let nonces = (ms, ms + 1);
            incarnations.hear(at(ms), from, nonces, &Timing::lan(), || has_claims)
        };
        assert_eq!(hear(100, true).asks.len(), 1);
        assert!(hear(1_000, false).asks.is_empty());
        assert!(hear(10_000, true).asks.is_empty());
    }

    #[test]
    fn lower_incarnation_that_moves_is_not_ended_by_an_address() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        hear(&mut incarnations, 1, 6, 2);
        hear(&mut incarnations, 2, 5, 3);
        assert!(hear_and_ask(&mut incarnations, 100, 7, 1).is_empty());
    }

    #[test]
    fn higher_incarnation_from_elsewhere_ends_nothing() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        assert!(hear_and_ask(&mut incarnations, 1, 6, 2).is_empty());
        assert_eq!(hear_and_ask(&mut incarnations, 2, 7, 2), [6], "not 5");
        assert_eq!(hear_and_ask(&mut incarnations, 3, 8, 1), [5], "not 7");
    }

    #[test]
    fn moved_incarnation_is_not_ended_by_an_address() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        assert_eq!(hear(&mut incarnations, 1, 5, 2).heard, Heard::Again);
        for port in [1, 2] {
            let mut incarnations = incarnations.clone();
            assert!(hear_and_ask(&mut incarnations, 2, 6, port).is_empty());
        }
    }

    #[test]
    fn both_incarnations_are_challenged_and_must_answer() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let asks = hear(&mut incarnations, 1, 6, 2).asks;
        assert_eq!(
            asks.iter().map(|it| it.at).collect::<Vec<_>>(),
            [addr(2), addr(1)]
        );
        let mut answer = |number, port| {
            let from = (incarnation(number), addr(port));
            incarnations.answer(from, asks[0].nonce, 7).two
        };
        assert_eq!(answer(6, 2), None);
        assert_eq!(answer(6, 2), None, "doubled");
        assert_eq!(answer(4, 3), None, "a third one");
        let two = [(incarnation(6), addr(2)), (incarnation(5), addr(1))];
        assert_eq!(answer(5, 1), Some(two));
        assert_eq!(answer(5, 1), None, "an old challenge");
    }

    /// A third process sends often and answers nothing. The second sends once.
    #[test]
    fn each_lower_incarnation_is_challenged() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 9, 3);
        let with = |word: Hearing| rival_of(&word);
        assert_eq!(with(hear(&mut incarnations, 1, 5, 1)), Some(addr(1)));
        assert_eq!(with(hear(&mut incarnations, 2, 6, 2)), None, "too soon");
        let mut asked = (3..100).filter_map(|ms| with(hear(&mut incarnations, ms, 5, 1)));
        assert_eq!(asked.next(), Some(addr(2)));
        assert_eq!(asked.next(), Some(addr(1)), "and then the other again");
    }

    #[test]
    fn silent_incarnation_is_challenged_eight_times() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let asked = (1..200_000).step_by(5);
        let asked = asked.filter(|ms| rival_of(&hear(&mut incarnations, *ms, 6, 2)).is_some());
        assert_eq!(asked.count(), TRIES_MAX as usize);
        // A late datagram of it only triggers another challenge.
        let word = hear(&mut incarnations, 300_000, 5, 1);
        assert!(rival_of(&word).is_some());
        assert!(matches!(word.heard, Heard::Outdated { .. }));
    }

    #[test]
    fn rivals_are_challenged_16_times_per_max_ttl() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 5, 1);
        let mut told = 0;
        for ms in (1..60_000).step_by(5) {
            for (number, port) in [(6, 2), (5, 1)] {
                if let [asks, _] = hear(&mut incarnations, ms, number, port).asks[..] {
                    incarnations.answer((incarnation(6), addr(2)), asks.nonce, ms);
                    let proven = incarnations.answer((incarnation(5), addr(1)), asks.nonce, ms);
                    told += u32::from(proven.two.is_some());
                }
            }
        }
        assert_eq!(told, ASKED_AGAIN);
    }

    #[test]
    fn lower_incarnation_elsewhere_is_told_after_three_challenges() {
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 6, 2);
        let told = |word: Hearing| matches!(word.heard, Heard::Outdated { is_told: true, .. });
        assert!(told(hear(&mut incarnations, 1, 5, 2)));
        let times: Vec<u64> = (2..200)
            .filter(|ms| told(hear(&mut incarnations, *ms, 5, 1)))
            .collect();
        assert_eq!(
            times[0], 63,
            "after three challenges with doubling intervals"
        );
        let mut incarnations = Incarnations::default();
        hear(&mut incarnations, 0, 6, 2);
        for ms in 2..200 {
            let word = hear(&mut incarnations, ms, 5, 1);
            for asks in &word.asks {
                incarnations.answer((incarnation(6), addr(2)), asks.nonce, ms);
            }
            assert!(!told(word), "the higher one answers");
        }
    }
}
