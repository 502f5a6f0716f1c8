//! A model of which nodes reach a quorum of voters that vote.

use std::collections::BTreeSet;

use super::command::Setup;

/// The state of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    is_up: bool,
    is_frozen: bool,
    /// Its process does not belong to the cluster, or is not the only one under its name. Neither
    /// its grants nor its vote can be relied on.
    is_foreign: bool,
    /// Its voter set differs from that of its peers.
    has_other_set: bool,
    /// `true` if its next process will remember its votes.
    has_memory: bool,
    /// The end of its recovery, in nanoseconds of the boot clock.
    votes_at: u64,
}

/// The state of all nodes and links, and which nodes can be served.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The voters, and a last entry without a vote for the network of the clients.
    nodes: Vec<Node>,
    voters: usize,
    /// The longest recovery of a voter without memory, in nanoseconds.
    quarantine: u64,
    /// Those of the voters as long as they have their memory.
    recoveries: Vec<u64>,
    cuts: BTreeSet<(usize, usize)>,
    served: Vec<bool>,
}

impl Model {
    /// Returns a model in which no voter is up. All nodes count as served until the first
    /// `changes`.
    pub(crate) fn new(quarantine: u64, recoveries: Vec<u64>) -> Self {
        let voters = recoveries.len();
        let mut nodes = vec![Node::default(); voters];
        nodes.push(Node {
            is_up: true,
            ..Node::default()
        });
        Self {
            nodes,
            voters,
            quarantine,
            recoveries,
            cuts: BTreeSet::new(),
            served: vec![true; voters + 1],
        }
    }

    /// Returns the number of the entry for all clients.
    pub(crate) fn clients(&self) -> usize {
        self.voters
    }

    /// Records that a process starts at `now`.
    pub(crate) fn start(&mut self, n: usize, now: u64, setup: Setup) {
        let recovery = match self.nodes[n].has_memory {
            true => self.recoveries[n],
            false => self.quarantine,
        };
        self.nodes[n] = Node {
            is_up: true,
            is_frozen: false,
            is_foreign: !setup.is_of_cluster(),
            has_other_set: setup == Setup::ShortMaxTtl,
            has_memory: false,
            votes_at: now.saturating_add(recovery),
        };
    }

    /// Records that a second process starts under the name of a node. The node's vote does not
    /// count until it is restarted.
    pub(crate) fn twin(&mut self, n: usize) {
        self.nodes[n].is_foreign = true;
    }

    pub(crate) fn is_served(&self, n: usize) -> bool {
        self.served[n]
    }

    /// Records that a process ends at `now`. It leaves its memory if it had begun to vote and was
    /// the only one under its name.
    pub(crate) fn end(&mut self, n: usize, now: u64) {
        let node = &mut self.nodes[n];
        node.is_up = false;
        node.has_memory = !node.is_foreign && now >= node.votes_at;
    }

    /// Records that the memory which the last process of a node left is lost.
    pub(crate) fn forget(&mut self, n: usize) {
        self.nodes[n].has_memory = false;
    }

    pub(crate) fn freeze(&mut self, n: usize, is_frozen: bool) {
        self.nodes[n].is_frozen = is_frozen;
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.nodes[n].is_up
    }

    pub(crate) fn is_frozen(&self, n: usize) -> bool {
        self.nodes[n].is_frozen
    }

    pub(crate) fn cut(&mut self, pairs: &[(usize, usize)]) {
        self.cuts.extend(pairs);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Returns each node that became served or unserved by `now`, with its new state.
    pub(crate) fn changes(&mut self, now: u64) -> Vec<(usize, bool)> {
        self.put_recoveries_off(now);
        let served: Vec<bool> = (0..self.nodes.len()).map(|n| self.serves(n, now)).collect();
        let changed = (0..served.len()).filter(|n| served[*n] != self.served[*n]);
        let changes = changed.map(|n| (n, served[n])).collect();
        self.served = served;
        changes
    }

    /// Extends each recovery: a recovering voter does not vote while a peer has another voter set.
    fn put_recoveries_off(&mut self, now: u64) {
        if self
            .nodes
            .iter()
            .any(|node| node.is_up && node.has_other_set)
        {
            let recovering = self.nodes.iter_mut().filter(|node| node.votes_at > now);
            recovering.for_each(|node| node.votes_at = now.saturating_add(self.quarantine));
        }
    }

    fn serves(&self, n: usize, now: u64) -> bool {
        let goes = |n: usize| {
            let node = &self.nodes[n];
            node.is_up && !node.is_frozen && !node.is_foreign
        };
        let talk =
            |one, other| !self.cuts.contains(&(one, other)) && !self.cuts.contains(&(other, one));
        let voters = (0..self.voters)
            .filter(|voter| goes(*voter) && now >= self.nodes[*voter].votes_at && talk(n, *voter));
        goes(n) && voters.count() > self.voters / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARANTINE: u64 = 10;

    fn five() -> Model {
        let mut model = Model::new(QUARANTINE, vec![QUARANTINE; 5]);
        (0..5).for_each(|n| model.start(n, 0, Setup::Usual));
        let clients = model.clients();
        assert_eq!(model.changes(0).len(), clients + 1);
        assert_eq!(model.changes(QUARANTINE).len(), clients + 1);
        model
    }

    #[test]
    fn node_reaching_quorum_both_ways_is_served() {
        let mut model = five();
        model.cut(&[(0, 1), (0, 2)]);
        assert!(model.changes(QUARANTINE).is_empty());
        model.cut(&[(3, 0)]);
        assert_eq!(model.changes(QUARANTINE), vec![(0, false)]);
        model.heal();
        assert_eq!(model.changes(QUARANTINE), vec![(0, true)]);
    }

    #[test]
    fn voters_down_paused_or_recovering_do_not_count() {
        let mut model = five();
        model.end(0, QUARANTINE);
        assert_eq!(model.changes(QUARANTINE), vec![(0, false)]);
        model.freeze(1, true);
        assert_eq!(model.changes(QUARANTINE), vec![(1, false)]);
        model.end(2, QUARANTINE);
        model.start(2, 11, Setup::Usual);
        let served = |is_served| [2, 3, 4, 5].map(|n| (n, is_served)).to_vec();
        assert_eq!(model.changes(20), served(false));
        assert_eq!(model.changes(21), served(true));
    }

    #[test]
    fn node_with_twin_counts_again_after_restart() {
        let mut model = five();
        model.twin(0);
        assert_eq!(model.changes(QUARANTINE), vec![(0, false)]);
        model.end(0, 20);
        model.start(0, 20, Setup::Usual);
        assert_eq!(model.changes(21), vec![(0, true)]);
    }

    #[test]
    fn voter_with_memory_counts_after_its_resume() {
        let mut model = five();
        model.recoveries = vec![1; 5];
        (0..3).for_each(|n| model.end(n, 20));
        (0..3).for_each(|n| model.start(n, 20, Setup::Usual));
        let served = |is_served| (0..6).map(|n| (n, is_served)).collect::<Vec<_>>();
        assert_eq!(model.changes(20), served(false));
        assert_eq!(model.changes(21), served(true));
        // The power of these was cut.
        (0..3).for_each(|n| model.end(n, 21));
        (0..3).for_each(|n| model.forget(n));
        (0..3).for_each(|n| model.start(n, 21, Setup::Usual));
        assert_eq!(model.changes(22), served(false));
        assert_eq!(model.changes(21 + QUARANTINE), served(true));
        // These were killed before they voted, so they may have lost their memory.
        (0..3).for_each(|n| model.end(n, 40));
        (0..3).for_each(|n| model.start(n, 40, Setup::Usual));
        (0..3).for_each(|n| model.end(n, 40));
        (0..3).for_each(|n| model.start(n, 40, Setup::Usual));
        assert_eq!(model.changes(41), served(false));
        assert_eq!(model.changes(40 + QUARANTINE), served(true));
    }

    #[test]
    fn another_voter_set_extends_recoveries() {
        let mut model = five();
        for n in 0..3 {
            model.end(n, 20);
            model.start(
                n,
                20,
                if n == 0 {
                    Setup::ShortMaxTtl
                } else {
                    Setup::Usual
                },
            );
        }
        let served = |is_served| [1, 2, 3, 4, 5].map(|n| (n, is_served)).to_vec();
        let mut lost = served(false);
        lost.insert(0, (0, false));
        assert_eq!(model.changes(20), lost);
        assert!(model.changes(29).is_empty());
        model.end(0, 38);
        assert!(model.changes(38).is_empty());
        assert_eq!(model.changes(39), served(true));
    }
}
