//! Where a peer is: the one rule for which of its addresses is tried when.
//!
//! A peer has up to three addresses: the one it was last heard from, the one that it advertises
//! (gossip tells it), and the one that it was heard from before. A datagram goes to the first of
//! these that there is:
//!
//! 1. the advertised one, if gossip knows a later incarnation than the one that was heard;
//! 2. the one that it was last heard from;
//! 3. the advertised one.
//!
//! If [`FEW`] datagrams were not answered, for [`PATIENCE`] round trips at least, each further one
//! goes to one of the other addresses too, to each in turn. The one that the peer is then heard
//! from becomes the one that it was last heard from. So a peer behind a NAT whose mapping has died
//! is found at the address that it advertises, and a peer that is reached on IPv4 and on IPv6 is
//! reached if one of the two works. It costs one more datagram for each that is sent to a peer that
//! does not answer.

use std::net::SocketAddr;

use crate::id::Incarnation;
use crate::time::Instant;
use crate::voter_set::Timing;

/// How many datagrams go to the first address alone before others are tried.
const FEW: u32 = 3;
/// For how many round trips none of them was answered by then.
const PATIENCE: u32 = 2;

/// The addresses of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// The incarnation that was heard, and the address that it was last heard from.
    heard: Option<(SocketAddr, Incarnation)>,
    /// The address that the same incarnation was heard from before.
    before: Option<SocketAddr>,
    /// The address that gossip tells, and of which incarnation.
    advertised: Option<(SocketAddr, Incarnation)>,
    /// How many datagrams were sent since the peer was last heard, and when the first of them.
    unanswered: u32,
    since: Option<Instant>,
    /// How many of them went to another address too.
    tried: usize,
}

/// Where a datagram goes: to the first, and to the second too.
pub(super) type Targets = [Option<SocketAddr>; 2];

impl Addresses {
    /// The peer was heard, in its highest incarnation, from this address.
    pub(super) fn hear(&mut self, addr: SocketAddr, incarnation: Incarnation) {
        let before = self.heard.replace((addr, incarnation));
        let is_same = before == self.heard;
        match before {
            Some((other, same)) if same == incarnation && other != addr => {
                self.before = Some(other)
            }
            Some((_, same)) if same == incarnation => {}
            _ => self.before = None,
        }
        // If the answer to one of several addresses comes from the one that may be dead, the next
        // datagram that is not answered goes to the others again.
        let is_doubtful = is_same && self.tried > 0;
        self.unanswered = if is_doubtful { FEW - 1 } else { 0 };
        self.since = None;
        self.tried = 0;
    }

    /// Takes over what gossip says.
    pub(super) fn advertise(&mut self, advertised: Option<(SocketAddr, Incarnation)>) {
        self.advertised = advertised;
    }

    /// The address that gossip tells, and of which incarnation.
    pub(super) fn advertised(&self) -> Option<(SocketAddr, Incarnation)> {
        self.advertised
    }

    /// The address that is tried first.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        let advertised = self.advertised.map(|(addr, _)| addr);
        match (self.heard, self.advertised) {
            (Some((_, incarnation)), Some((_, later))) if later > incarnation => advertised,
            (Some((addr, _)), _) => Some(addr),
            (None, _) => advertised,
        }
    }

    /// A datagram is sent: where to.
    pub(super) fn send(&mut self, now: Instant, timing: &Timing) -> Targets {
        let first = self.first();
        self.unanswered = self.unanswered.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        let patience = timing.round_trip * PATIENCE;
        if self.unanswered <= FEW || now < since.after(patience) || mistaken!(HeardIsKept) {
            return [first, None];
        }
        let others = self.others(first);
        let others: Vec<SocketAddr> = others.into_iter().flatten().collect();
        if others.is_empty() {
            return [first, None];
        }
        let other = others[self.tried % others.len()];
        self.tried += 1;
        [first, Some(other)]
    }

    /// All others that there are. Gossip knows each process by the number that it began with, so
    /// the advertised one is tried whichever incarnation it is of.
    fn others(&self, first: Option<SocketAddr>) -> [Option<SocketAddr>; 3] {
        let heard = self.heard.map(|(addr, _)| addr);
        let advertised = self.advertised.map(|(addr, _)| addr);
        let before = self.before.filter(|it| Some(*it) != advertised);
        [heard, advertised, before].map(|addr| addr.filter(|_| addr != first))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INCARNATION: Incarnation = Incarnation::new(5);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    /// The ports that datagrams go to, one each 20 ms.
    fn sent(to: &mut Addresses, from: u64, count: u64) -> Vec<Vec<u16>> {
        let times = (0..count).map(|n| at(from + n * 20));
        let targets = times.map(|now| to.send(now, &Timing::lan()));
        targets
            .map(|targets| targets.iter().flatten().map(SocketAddr::port).collect())
            .collect()
    }

    #[test]
    fn address_heard_from_is_first() {
        let mut to = Addresses::default();
        assert_eq!(to.first(), None);
        to.advertise(Some((addr(9), INCARNATION)));
        assert_eq!(to.first(), Some(addr(9)));
        to.hear(addr(1), INCARNATION);
        assert_eq!(to.first(), Some(addr(1)));
        to.advertise(Some((addr(9), INCARNATION.next())));
        assert_eq!(
            to.first(),
            Some(addr(9)),
            "it has a later incarnation there"
        );
        to.hear(addr(2), INCARNATION.next());
        assert_eq!(to.first(), Some(addr(2)));
    }

    #[test]
    fn dead_mapping_is_given_up_for_the_advertised_address() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(9), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        let all = [vec![1], vec![1], vec![1], vec![1, 9], vec![1, 9]];
        assert_eq!(sent(&mut to, 0, 5), all);
        to.hear(addr(9), INCARNATION);
        assert_eq!(sent(&mut to, 200, 1), [vec![9]]);
    }

    #[test]
    fn other_addresses_are_tried_in_turn() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(9), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        to.hear(addr(2), INCARNATION);
        let tried = sent(&mut to, 0, 7).split_off(3);
        assert_eq!(tried, [[2, 9], [2, 1], [2, 9], [2, 1]]);
    }

    #[test]
    fn burst_is_not_unanswered() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(9), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        for _ in 0..100 {
            assert_eq!(to.send(at(1), &Timing::lan()), [Some(addr(1)), None]);
        }
    }

    #[test]
    fn answer_from_a_doubtful_address_is_not_trusted_at_once() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(9), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        sent(&mut to, 0, 4);
        to.hear(addr(1), INCARNATION);
        let all = [vec![1], vec![1, 9]];
        assert_eq!(sent(&mut to, 100, 2), all);
        to.hear(addr(1), INCARNATION);
        sent(&mut to, 200, 1);
        to.hear(addr(1), INCARNATION);
        assert_eq!(sent(&mut to, 300, 3), [[1], [1], [1]], "it answers");
    }

    #[test]
    fn what_an_earlier_incarnation_was_heard_from_is_not_tried() {
        let mut to = Addresses::default();
        to.hear(addr(1), INCARNATION);
        to.hear(addr(2), INCARNATION.next());
        assert!(sent(&mut to, 0, 9).iter().all(|ports| *ports == [2]));
        // It goes on under a number that gossip does not know.
        to.advertise(Some((addr(9), INCARNATION)));
        assert_eq!(sent(&mut to, 200, 1), [[2, 9]]);
    }

    #[test]
    fn peer_without_another_address_costs_one_datagram() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(1), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        assert!(sent(&mut to, 0, 9).iter().all(|ports| *ports == [1]));
    }
}
