//! The other nodes: where they are, and which of their incarnations was last heard of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::addresses::{Addresses, Targets};
use super::incarnations::{Heard, Hearing, Incarnations, Two};
use crate::id::{Incarnation, NodeId, NodeName};
use crate::time::Instant;
use crate::view::View;
use crate::voter_set::VoterSet;

/// The most nodes that are remembered, members of the voter set aside.
pub(crate) const NODES_MAX: usize = 8_192;

#[derive(Clone, Debug, Default)]
struct Known {
    /// The lives that themselves were heard of, not by gossip.
    incarnations: Incarnations,
    /// Whether this node remembered anything of an incarnation of the cluster before the highest of
    /// them, when it first heard of that one.
    knew: bool,
    addresses: Addresses,
    /// When it was last heard, in datagrams heard.
    heard: u64,
}

/// All other nodes that this one has heard of.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    me: NodeId,
    voter_set: Arc<VoterSet>,
    known: BTreeMap<NodeId, Known>,
    /// Counts the datagrams that were heard: the clock of [`Known::heard`].
    heard: u64,
    /// Different for every start: what incarnations are asked is told apart by it.
    seed: u64,
}

impl Peers {
    pub(crate) fn new(me: NodeId, voter_set: Arc<VoterSet>, seed: u64) -> Self {
        Self {
            me,
            voter_set,
            known: BTreeMap::new(),
            heard: 0,
            seed,
        }
    }

    /// How many nodes are remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The id of a node that speaks. One that is known has one already.
    pub(crate) fn id_of(&self, name: NodeName<'_>) -> NodeId {
        let known = self.known.get_key_value(name.as_str());
        known.map_or_else(|| name.to_id(), |(node, _)| node.clone())
    }

    /// A datagram of `node` has come, in this incarnation and from this address. `knew` answers
    /// whether this node has anything to remember now; it is only asked where the incarnation is
    /// new.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        node: &NodeId,
        (incarnation, addr): (Incarnation, SocketAddr),
        knew: impl FnOnce() -> bool,
    ) -> Hearing {
        if !self.has_room_for(node) {
            return Hearing {
                heard: Heard::TooMany,
                over: Vec::new(),
                asks: None,
            };
        }
        self.heard += 1;
        let nonce = self.seed.wrapping_add(self.heard);
        let known = self.known.entry(node.clone()).or_default();
        known.heard = self.heard;
        let earlier = known.incarnations.highest();
        if mistaken!(EarlierIncarnationsHeard) && earlier.is_some_and(|it| incarnation < it) {
            return Hearing {
                heard: Heard::Again,
                over: Vec::new(),
                asks: None,
            };
        }
        let timing = self.voter_set.timing();
        let word = known
            .incarnations
            .hear(now, (incarnation, addr), nonce, timing);
        match word.heard {
            Heard::NewIncarnation => known.knew = earlier.is_some() || knew(),
            Heard::Again => {}
            Heard::Outdated { .. } | Heard::TooMany => return word,
        }
        known.addresses.hear(addr, incarnation);
        word
    }

    /// An incarnation of `node` has answered what two were asked. Returns both if both have.
    pub(crate) fn answer(
        &mut self,
        node: &NodeId,
        incarnation: (Incarnation, SocketAddr),
        nonce: u64,
    ) -> Option<Two> {
        let next = self.seed.wrapping_add(self.heard);
        self.known
            .get_mut(node)?
            .incarnations
            .answer(incarnation, nonce, next)
    }

    /// Whether anything was known of an incarnation before the present one of `node`, and which was
    /// the highest that was heard of.
    pub(crate) fn memory_of(&self, node: &NodeId) -> (bool, Incarnation) {
        let known = self.known.get(node);
        let seen = known.and_then(|known| known.incarnations.highest());
        let seen = seen.unwrap_or_default();
        (known.is_some_and(|known| known.knew), seen)
    }

    /// Takes over what gossip says. Answers the nodes that can be reached now and could not.
    pub(crate) fn handle_view(&mut self, view: &View) -> Vec<NodeId> {
        let mut reachable = Vec::new();
        for (node, known) in &mut self.known {
            if !view.peers.contains_key(node) {
                known.addresses.advertise(None);
            }
        }
        for (node, peer) in &view.peers {
            if *node == self.me || !self.has_room_for(node) {
                continue;
            }
            let known = self.known.entry(node.clone()).or_default();
            let before = known.addresses.first();
            let advertised = Some((peer.addr, peer.incarnation));
            known.addresses.advertise(advertised);
            if before != known.addresses.first() {
                reachable.push(node.clone());
            }
        }
        reachable
    }

    /// The members that gossip knows in an incarnation in which they were not heard themselves.
    pub(crate) fn unheard_members(&self) -> impl Iterator<Item = &NodeId> {
        let known = self.known.iter().filter(|(node, known)| {
            let advertised = known.addresses.advertised();
            let gossiped = advertised.map(|(_, incarnation)| incarnation);
            known.incarnations.highest() < gossiped && self.voter_set.has_member(node)
        });
        known.map(|(node, _)| node)
    }

    /// Whether it is known, or may be. Clients come and go under new names: where there are as
    /// many nodes as may be, the one goes that was silent for longest. Gossip does not know it any
    /// more, and what it has at the voter runs out by itself. Members stay: a voter that lost its
    /// memory asks what is known of it.
    fn has_room_for(&mut self, node: &NodeId) -> bool {
        if self.known.len() < NODES_MAX
            || self.known.contains_key(node)
            || self.voter_set.has_member(node)
        {
            return true;
        }
        let voter_set = &self.voter_set;
        let is_unknown = |known: &Known| known.addresses.advertised().is_none();
        let gone = self
            .known
            .iter()
            .filter(|(node, known)| is_unknown(known) && !voter_set.has_member(node))
            .min_by_key(|(_, known)| known.heard)
            .map(|(node, _)| node.clone());
        gone.is_some_and(|gone| self.known.remove(&gone).is_some())
    }

    /// The address that is tried first for a node.
    pub(crate) fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.known.get(node)?.addresses.first()
    }

    /// A datagram is sent to a node: to which of its addresses.
    pub(crate) fn send(&mut self, now: Instant, node: &NodeId) -> Targets {
        let timing = self.voter_set.timing();
        let known = self.known.get_mut(node);
        known.map_or([None; 2], |known| known.addresses.send(now, timing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Peer;
    use crate::voter_set::Timing;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn peers() -> Peers {
        let voter_set = VoterSet::new(1, vec![node("me"), node("voter")], 2, Timing::lan());
        Peers::new(node("me"), Arc::new(voter_set.unwrap()), 1)
    }

    /// Hears a node in an incarnation, from a port.
    fn hear(peers: &mut Peers, name: &str, incarnation: u64, port: u16, knew: bool) -> Heard {
        let from = (Incarnation::new(incarnation), addr(port));
        peers.hear(Instant::ZERO, &node(name), from, || knew).heard
    }

    fn view(peers: &[(&str, u16, u64, bool)]) -> View {
        let peers = peers.iter().map(|(name, port, incarnation, alive)| {
            let incarnation = Incarnation::new(*incarnation);
            (
                node(name),
                Peer {
                    addr: addr(*port),
                    incarnation,
                    alive: *alive,
                },
            )
        });
        View {
            peers: peers.collect(),
        }
    }

    #[test]
    fn an_earlier_incarnation_is_not_heard_after_a_later_one() {
        let mut peers = peers();
        let seen = Incarnation::new(5);
        assert_eq!(hear(&mut peers, "a", 5, 1, false), Heard::NewIncarnation);
        assert_eq!(hear(&mut peers, "a", 5, 2, true), Heard::Again);
        let is_told = true;
        let outdated = Heard::Outdated { seen, is_told };
        assert_eq!(hear(&mut peers, "a", 4, 2, true), outdated);
        assert_eq!(peers.address_of(&node("a")), Some(addr(2)));
        // What was known when this incarnation was first heard of is what counts.
        assert_eq!(peers.memory_of(&node("a")), (false, seen));
        assert_eq!(hear(&mut peers, "a", 6, 4, false), Heard::NewIncarnation);
        assert_eq!(peers.memory_of(&node("a")), (true, seen.next()));
    }

    #[test]
    fn a_later_incarnation_that_gossip_knows_has_the_address() {
        let mut peers = peers();
        hear(&mut peers, "a", 5, 1, false);
        assert!(peers.handle_view(&view(&[("a", 9, 5, true)])).is_empty());
        assert_eq!(peers.address_of(&node("a")), Some(addr(1)));
        assert_eq!(
            peers.handle_view(&view(&[("a", 9, 6, true)])),
            vec![node("a")]
        );
        assert_eq!(peers.address_of(&node("a")), Some(addr(9)));
    }

    #[test]
    fn a_node_becomes_reachable_once() {
        let mut peers = peers();
        let seen = view(&[("a", 9, 5, true)]);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
        assert!(peers.handle_view(&seen).is_empty());
        assert!(peers.handle_view(&View::default()).is_empty());
        assert_eq!(peers.address_of(&node("a")), None);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
    }

    #[test]
    fn a_member_is_unheard_until_it_speaks_in_the_incarnation_that_gossip_knows() {
        let mut peers = peers();
        let incarnation = |incarnation| {
            view(&[
                ("client", 8, incarnation, true),
                ("voter", 9, incarnation, true),
            ])
        };
        let unheard = |peers: &Peers| peers.unheard_members().cloned().collect::<Vec<_>>();
        peers.handle_view(&incarnation(5));
        assert_eq!(unheard(&peers), [node("voter")]);
        hear(&mut peers, "voter", 5, 9, false);
        assert_eq!(unheard(&peers), []);
        peers.handle_view(&incarnation(5));
        assert_eq!(unheard(&peers), []);
        peers.handle_view(&incarnation(6));
        assert_eq!(unheard(&peers), [node("voter")]);
    }

    fn hears(peers: &mut Peers, name: &str) -> Heard {
        hear(peers, name, 1, 1, false)
    }

    #[test]
    fn clients_that_came_and_went_leave_room_for_others() {
        let mut peers = peers();
        assert_eq!(hears(&mut peers, "voter"), Heard::NewIncarnation);
        assert!(
            peers
                .handle_view(&view(&[("n0", 9, 1, true)]))
                .contains(&node("n0"))
        );
        for n in 0..NODES_MAX + 10 {
            let heard = hears(&mut peers, &format!("n{n}"));
            assert!(heard == Heard::NewIncarnation || n == 1, "n{n}: {heard:?}");
            hears(&mut peers, "n1");
        }
        assert_eq!(peers.known.len(), NODES_MAX);
        // A member stays, one that gossip knows, and one that was heard of lately.
        for name in ["voter", "n0", "n1"] {
            assert_eq!(hears(&mut peers, name), Heard::Again, "{name}");
        }
        assert_eq!(hears(&mut peers, "n2"), Heard::NewIncarnation);
    }

    #[test]
    fn memory_is_bounded_whatever_gossip_says() {
        let mut peers = peers();
        let names: Vec<String> = (0..NODES_MAX + 10).map(|n| format!("n{n}")).collect();
        let all: Vec<_> = names.iter().map(|n| (n.as_str(), 9, 1, true)).collect();
        assert_eq!(peers.handle_view(&view(&all)).len(), NODES_MAX);
        assert_eq!(peers.known.len(), NODES_MAX);
        assert_eq!(hears(&mut peers, "late"), Heard::TooMany);
        // A voter is heard though the rest of the world is too large.
        assert_eq!(hears(&mut peers, "voter"), Heard::NewIncarnation);
    }
}
