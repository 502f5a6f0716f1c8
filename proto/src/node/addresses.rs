//! The addresses of a peer, and the rule that chooses among them.
//!
//! A peer has up to three addresses: the source of its last datagram, the address that it
//! advertises through gossip, and its previous source address. A datagram goes to the first of
//! these that applies:
//!
//! 1. the advertised address, if gossip knows a later incarnation than the last one received;
//! 2. the source address of the last datagram;
//! 3. the advertised address.
//!
//! If [`FEW`] datagrams stay unanswered for at least [`PATIENCE`] round trips, each further one
//! also goes to one of the other addresses, in turn. The address that the peer then answers from
//! becomes its last source address. This finds a peer behind a NAT whose mapping has expired. It
//! also reaches a peer that has an IPv4 and an IPv6 address if one of them works. The cost is one
//! extra datagram for each that is sent to a silent peer.

use std::net::SocketAddr;

use crate::id::Incarnation;
use crate::time::Instant;
use crate::voter_set::Timing;

/// The number of unanswered datagrams that go to the first address alone.
const FEW: u32 = 3;
/// The least time before other addresses are tried, in round trips since the first unanswered
/// datagram.
const PATIENCE: u32 = 2;

/// The addresses of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// The source address and the incarnation of the last datagram.
    heard: Option<(SocketAddr, Incarnation)>,
    /// The previous source address of the same incarnation.
    before: Option<SocketAddr>,
    /// The address and the incarnation that gossip reports.
    advertised: Option<(SocketAddr, Incarnation)>,
    /// The number of datagrams sent since the peer's last datagram.
    unanswered: u32,
    /// The send time of the first of them.
    since: Option<Instant>,
    /// The number of them that also went to another address.
    tried: usize,
}

/// The destinations of a datagram: the address tried first, and another one.
pub(super) type Targets = [Option<SocketAddr>; 2];

impl Addresses {
    /// Records a datagram of the peer's highest incarnation from this address.
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
        // The datagram came from the doubtful address while others were tried as well. One more
        // unanswered datagram is then enough to try the others again.
        let is_doubtful = is_same && self.tried > 0;
        self.unanswered = if is_doubtful { FEW - 1 } else { 0 };
        self.since = None;
        self.tried = 0;
    }

    /// Sets the address and the incarnation that gossip reports.
    pub(super) fn advertise(&mut self, advertised: Option<(SocketAddr, Incarnation)>) {
        self.advertised = advertised;
    }

    /// Returns the address and the incarnation that gossip reports.
    pub(super) fn advertised(&self) -> Option<(SocketAddr, Incarnation)> {
        self.advertised
    }

    /// Returns the address that is tried first.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        let advertised = self.advertised.map(|(addr, _)| addr);
        match (self.heard, self.advertised) {
            (Some((_, incarnation)), Some((_, later))) if later > incarnation => advertised,
            (Some((addr, _)), _) => Some(addr),
            (None, _) => advertised,
        }
    }

    /// Counts a datagram and returns its destinations.
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

    /// Returns the known addresses other than `first`. Gossip knows a process only by its initial
    /// incarnation, so the advertised address is tried for any incarnation.
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

    /// Sends a datagram every 20 ms and returns the ports that each goes to.
    fn sent(to: &mut Addresses, from: u64, count: u64) -> Vec<Vec<u16>> {
        let times = (0..count).map(|n| at(from + n * 20));
        let targets = times.map(|now| to.send(now, &Timing::lan()));
        targets
            .map(|targets| targets.iter().flatten().map(SocketAddr::port).collect())
            .collect()
    }

    #[test]
    fn source_address_is_tried_first() {
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
            "a later incarnation is advertised"
        );
        to.hear(addr(2), INCARNATION.next());
        assert_eq!(to.first(), Some(addr(2)));
    }

    #[test]
    fn expired_nat_mapping_falls_back_to_advertised_address() {
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
    fn burst_goes_to_one_address() {
        let mut to = Addresses::default();
        to.advertise(Some((addr(9), INCARNATION)));
        to.hear(addr(1), INCARNATION);
        for _ in 0..100 {
            assert_eq!(to.send(at(1), &Timing::lan()), [Some(addr(1)), None]);
        }
    }

    #[test]
    fn answer_from_doubtful_address_needs_a_second() {
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
    fn address_of_earlier_incarnation_is_not_tried() {
        let mut to = Addresses::default();
        to.hear(addr(1), INCARNATION);
        to.hear(addr(2), INCARNATION.next());
        assert!(sent(&mut to, 0, 9).iter().all(|ports| *ports == [2]));
        // Gossip knows the process by its initial incarnation.
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
