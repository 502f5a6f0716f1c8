//! The other nodes: their addresses and their incarnations.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::addresses::{Addresses, Targets};
use super::incarnations::{Heard, Hearing, Incarnations, Proven};
use crate::event::View;
use crate::id::{Incarnation, NodeId, NodeName};
use crate::journal::HeardIncarnations;
use crate::time::Instant;
use crate::voter_set::VoterSet;
use crate::wire::seal::BootId;
use crate::wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

/// The most nodes that are remembered. Members of the voter set are remembered beyond it.
pub(crate) const NODES_MAX: usize = 8_192;

#[derive(Clone, Debug, Default)]
struct Known {
    /// The incarnations received in datagrams, not through gossip.
    incarnations: Incarnations,
    /// `true` if this node knew anything of an earlier incarnation of the peer or of the cluster,
    /// when it first received the highest one.
    knew: bool,
    addresses: Addresses,
    /// The boot id of the first datagram of its highest incarnation; `None` in plaintext.
    boot_id: Option<BootId>,
    /// The value of [`Peers::heard`] at its last datagram.
    heard: u64,
    /// The newest version that an incarnation is known to read, by its datagrams or by gossip. Zero
    /// if none is known.
    reads: (Incarnation, u8),
    /// `true` if gossip does not tell the peer's version.
    is_untold: bool,
    /// The next time at which the peer is sent a datagram of the newest version, to find out whether
    /// it reads it. `None` if that is known.
    probe: Option<Instant>,
}

impl Known {
    /// Records that an incarnation reads this version. What is known of a later one stays.
    fn note_version(&mut self, incarnation: Incarnation, version: u8) {
        if incarnation > self.reads.0 {
            self.reads = (incarnation, version);
        } else if incarnation == self.reads.0 {
            self.reads.1 = version.max(self.reads.1);
        }
    }

    /// Returns the newest version that the highest incarnation is known to read.
    fn version(&self) -> Option<u8> {
        let advertised = self.addresses.advertised();
        let highest = self.incarnations.highest();
        let highest = highest.max(advertised.map(|(_, incarnation)| incarnation));
        let is_of_highest = highest <= Some(self.reads.0);
        Some(self.reads.1).filter(|version| is_of_highest && *version > 0)
    }

    /// Returns `true` if the peer is to be sent a datagram of the newest version now, although it is
    /// not known to read it. Gossip tells the version of the incarnation with which a process began,
    /// and the process may have taken a higher one.
    fn probes_version(&mut self, now: Instant, max_ttl: Duration) -> bool {
        if self.version().is_some() {
            self.probe = None;
            return false;
        }
        // Usually gossip tells soon.
        let patience = if self.is_untold {
            Duration::ZERO
        } else {
            max_ttl / 8
        };
        let due = self.probe.get_or_insert_with(|| now.after(patience));
        let is_due = *due <= now;
        if is_due {
            *due = now.after(max_ttl / 2);
        }
        is_due
    }
}

/// How a datagram is sent to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) targets: Targets,
    /// The newest version that the node is known to read.
    pub(crate) version: u8,
    /// `true` if a probe of the newest version is due.
    pub(crate) probes: bool,
}

/// All other nodes that this node knows.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    me: NodeId,
    voter_set: Arc<VoterSet>,
    known: BTreeMap<NodeId, Known>,
    /// The incarnations of other members that the journal names.
    remembered: BTreeMap<NodeId, HeardIncarnations>,
    /// The number of datagrams received, as the clock of [`Known::heard`].
    heard: u64,
    /// The nonce of the next challenge. It begins with a number that differs for every start.
    next_nonce: u64,
}

impl Peers {
    pub(crate) fn new(me: NodeId, voter_set: Arc<VoterSet>, seed: u64) -> Self {
        Self {
            me,
            voter_set,
            known: BTreeMap::new(),
            remembered: BTreeMap::new(),
            heard: 0,
            next_nonce: seed,
        }
    }

    /// Adds the incarnations of other members that the journal names.
    pub(crate) fn with_remembered(self, remembered: BTreeMap<NodeId, HeardIncarnations>) -> Self {
        Self { remembered, ..self }
    }

    /// Adds the incarnations of other members that a memory names.
    pub(crate) fn remember(&mut self, memory: &BTreeMap<NodeId, HeardIncarnations>) {
        for (node, heard) in memory {
            let known = self.remembered.entry(node.clone()).or_default();
            known.before = known.before.max(heard.before);
            known.highest = known.highest.max(heard.highest);
        }
    }

    /// Returns the other members of which an incarnation is known, with the two highest of each.
    pub(crate) fn heard_members(&self) -> impl Iterator<Item = (&NodeId, HeardIncarnations)> {
        let members = self.voter_set.members().iter();
        let heard = members.map(|member| (member, self.heard_of(member)));
        heard.filter(|(_, heard)| heard.highest > Incarnation::default())
    }

    /// Returns the two highest incarnations of a node that were received, or that the journal
    /// names.
    fn heard_of(&self, node: &NodeId) -> HeardIncarnations {
        let remembered = self.remembered.get(node).copied().unwrap_or_default();
        let incarnations = self.known.get(node).map(|known| &known.incarnations);
        let Some(incarnations) = incarnations.filter(|it| it.highest().is_some()) else {
            return remembered;
        };
        let highest = incarnations.highest().unwrap_or_default();
        let earlier = match remembered.highest == highest {
            true => remembered.before,
            false => remembered.highest,
        };
        HeardIncarnations {
            highest,
            before: incarnations.before().max(earlier),
        }
    }

    /// Returns the number of remembered nodes.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the id of a sender. The id of a known node is shared.
    pub(crate) fn id_of(&self, name: NodeName<'_>) -> NodeId {
        let known = self.known.get_key_value(name.as_str());
        known.map_or_else(|| name.to_id(), |(node, _)| node.clone())
    }

    /// Records a datagram of `node` in this version and incarnation, and from this address. `knew`
    /// returns `true` if this node has leases or a memory of votes. It is called only for the first
    /// datagram of `node`. `has_claims` returns `true` if `node` may have claims at this node's voter.
    /// It is called only if a proof is missing that an incarnation of `node` is over.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        node: &NodeId,
        (version, incarnation, addr): (u8, Incarnation, SocketAddr),
        knew: impl FnOnce() -> bool,
        has_claims: impl FnOnce() -> bool,
    ) -> Hearing {
        if !self.has_room_for(node) {
            return Hearing::of(Heard::TooMany);
        }
        self.heard += 1;
        let nonces = (self.draw_nonce(), self.draw_nonce());
        let known = self.known.entry(node.clone()).or_default();
        known.heard = self.heard;
        let earlier = known.incarnations.highest();
        if mistaken!(EarlierIncarnationsHeard) && earlier.is_some_and(|it| incarnation < it) {
            return Hearing::of(Heard::Again);
        }
        let timing = self.voter_set.timing();
        let word = known
            .incarnations
            .hear(now, (incarnation, addr), nonces, timing, has_claims);
        match word.heard {
            Heard::NewIncarnation => known.knew = earlier.is_some() || knew(),
            Heard::Again => {}
            Heard::Outdated { .. } | Heard::TooMany => return word,
        }
        known.addresses.hear(addr, incarnation);
        // A peer that speaks the oldest version may read a newer one.
        if version > PROTOCOL_VERSION_MIN {
            known.note_version(incarnation, version);
        }
        word
    }

    /// Records an answer of `node` to a challenge.
    pub(crate) fn answer(
        &mut self,
        node: &NodeId,
        incarnation: (Incarnation, SocketAddr),
        nonce: u64,
    ) -> Proven {
        let next = self.draw_nonce();
        let known = self.known.get_mut(node);
        known.map_or_else(Proven::default, |known| {
            known.incarnations.answer(incarnation, nonce, next)
        })
    }

    fn draw_nonce(&mut self) -> u64 {
        self.next_nonce = self.next_nonce.wrapping_add(1);
        self.next_nonce
    }

    /// Records the boot id of a new incarnation. Returns that of the one before.
    pub(crate) fn boot(&mut self, node: &NodeId, boot_id: Option<BootId>) -> Option<BootId> {
        let known = self.known.get_mut(node)?;
        std::mem::replace(&mut known.boot_id, boot_id)
    }

    /// Returns the boot id of the highest incarnation received of `node`.
    pub(crate) fn boot_id_of(&self, node: &NodeId) -> Option<BootId> {
        self.known.get(node)?.boot_id
    }

    /// Returns the node with this boot id.
    pub(crate) fn node_of(&self, boot_id: BootId) -> Option<&NodeId> {
        let mut known = self.known.iter();
        let found = known.find(|(_, known)| known.boot_id == Some(boot_id));
        found.map(|(node, _)| node)
    }

    /// Returns [`Known::knew`] and the highest incarnation received of `node`.
    pub(crate) fn memory_of(&self, node: &NodeId) -> (bool, Incarnation) {
        let known = self.known.get(node);
        let seen = known.and_then(|known| known.incarnations.highest());
        let seen = seen.unwrap_or_default();
        (known.is_some_and(|known| known.knew), seen)
    }

    /// Returns the highest incarnation of `node` that was received before the present one, or that
    /// the journal names.
    pub(crate) fn before(&self, node: &NodeId) -> Incarnation {
        self.heard_of(node).before
    }

    /// Applies a view of gossip. Returns the nodes whose first address is new or has changed.
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
            known.is_untold = peer.version.is_none();
            if let Some(version) = peer.version {
                known.note_version(peer.incarnation, version);
            }
            if before != known.addresses.first() {
                reachable.push(node.clone());
            }
        }
        reachable
    }

    /// Returns the members that gossip knows in a higher incarnation than was received of them.
    pub(crate) fn unheard_members(&self) -> impl Iterator<Item = &NodeId> {
        let known = self.known.iter().filter(|(node, known)| {
            let advertised = known.addresses.advertised();
            let gossiped = advertised.map(|(_, incarnation)| incarnation);
            known.incarnations.highest() < gossiped && self.voter_set.has_member(node)
        });
        known.map(|(node, _)| node)
    }

    /// Returns `true` if `node` is remembered or can be.
    ///
    /// Clients come and go under new names. If the table is full, the node that was silent for
    /// longest is evicted, of those that gossip does not know. Its claims at the voter expire by
    /// the clock. Members stay, since a voter in recovery queries what is known of it.
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

    /// Returns the address that is tried first for a node.
    pub(crate) fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.known.get(node)?.addresses.first()
    }

    /// Counts a datagram to a node and returns how to send it. `None` if the node is not known.
    pub(crate) fn send(&mut self, now: Instant, node: &NodeId) -> Option<Way> {
        let timing = self.voter_set.timing();
        let known = self.known.get_mut(node)?;
        let version = known.version().unwrap_or(PROTOCOL_VERSION_MIN);
        Some(Way {
            targets: known.addresses.send(now, timing),
            version: version.clamp(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
            probes: known.probes_version(now, timing.max_ttl),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Peer;
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

    /// Records a datagram of a node in an incarnation, from a port.
    fn hear(peers: &mut Peers, name: &str, incarnation: u64, port: u16, knew: bool) -> Heard {
        let from = (
            PROTOCOL_VERSION_MIN,
            Incarnation::new(incarnation),
            addr(port),
        );
        peers
            .hear(Instant::ZERO, &node(name), from, || knew, || false)
            .heard
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
                    version: Some(PROTOCOL_VERSION_MIN),
                },
            )
        });
        View {
            peers: peers.collect(),
        }
    }

    #[test]
    fn earlier_incarnation_after_a_later_one_is_outdated() {
        let mut peers = peers();
        let seen = Incarnation::new(5);
        assert_eq!(hear(&mut peers, "a", 5, 1, false), Heard::NewIncarnation);
        assert_eq!(hear(&mut peers, "a", 5, 2, true), Heard::Again);
        let is_told = true;
        let outdated = Heard::Outdated { seen, is_told };
        assert_eq!(hear(&mut peers, "a", 4, 2, true), outdated);
        assert_eq!(peers.address_of(&node("a")), Some(addr(2)));
        // `knew` counts only at the first datagram of an incarnation.
        assert_eq!(peers.memory_of(&node("a")), (false, seen));
        assert_eq!(hear(&mut peers, "a", 6, 4, false), Heard::NewIncarnation);
        assert_eq!(peers.memory_of(&node("a")), (true, seen.next()));
    }

    #[test]
    fn later_incarnation_of_gossip_changes_the_address() {
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
    fn node_becomes_reachable_once() {
        let mut peers = peers();
        let seen = view(&[("a", 9, 5, true)]);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
        assert!(peers.handle_view(&seen).is_empty());
        assert!(peers.handle_view(&View::default()).is_empty());
        assert_eq!(peers.address_of(&node("a")), None);
        assert_eq!(peers.handle_view(&seen), vec![node("a")]);
    }

    #[test]
    fn member_is_unheard_until_its_gossiped_incarnation_sends() {
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
    fn departed_clients_are_evicted_for_new_ones() {
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
        // A member stays, and so do a node that gossip knows and a recent sender.
        for name in ["voter", "n0", "n1"] {
            assert_eq!(hears(&mut peers, name), Heard::Again, "{name}");
        }
        assert_eq!(hears(&mut peers, "n2"), Heard::NewIncarnation);
    }

    #[test]
    fn nodes_known_to_gossip_are_bounded() {
        let mut peers = peers();
        let names: Vec<String> = (0..NODES_MAX + 10).map(|n| format!("n{n}")).collect();
        let all: Vec<_> = names.iter().map(|n| (n.as_str(), 9, 1, true)).collect();
        assert_eq!(peers.handle_view(&view(&all)).len(), NODES_MAX);
        assert_eq!(peers.known.len(), NODES_MAX);
        assert_eq!(hears(&mut peers, "late"), Heard::TooMany);
        // A voter is remembered although the table is full.
        assert_eq!(hears(&mut peers, "voter"), Heard::NewIncarnation);
    }
}
