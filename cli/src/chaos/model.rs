//! Who can be served: which nodes reach a majority of voters that vote.

use std::collections::BTreeSet;

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    is_up: bool,
    is_frozen: bool,
    /// Before this it may be in quarantine, in nanoseconds of the boot clock.
    votes_at: u64,
}

/// What was done to the nodes, and what that means for those who wait.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    nodes: Vec<Node>,
    cuts: BTreeSet<(usize, usize)>,
    served: Vec<bool>,
}

impl Model {
    /// Nodes none of which is up; nobody was told yet that they are not served.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![Node::default(); nodes],
            cuts: BTreeSet::new(),
            served: vec![true; nodes],
        }
    }

    pub(crate) fn start(&mut self, n: usize, votes_at: u64) {
        self.nodes[n] = Node {
            is_up: true,
            is_frozen: false,
            votes_at,
        };
    }

    pub(crate) fn end(&mut self, n: usize) {
        self.nodes[n].is_up = false;
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

    /// Nodes for which it changed whether they are served, by what is so at `now`.
    pub(crate) fn changes(&mut self, now: u64) -> Vec<(usize, bool)> {
        let served: Vec<bool> = (0..self.nodes.len()).map(|n| self.serves(n, now)).collect();
        let changed = (0..served.len()).filter(|n| served[*n] != self.served[*n]);
        let changes = changed.map(|n| (n, served[n])).collect();
        self.served = served;
        changes
    }

    fn serves(&self, n: usize, now: u64) -> bool {
        let goes = |n: usize| self.nodes[n].is_up && !self.nodes[n].is_frozen;
        let talk =
            |one, other| !self.cuts.contains(&(one, other)) && !self.cuts.contains(&(other, one));
        let voters = (0..self.nodes.len())
            .filter(|voter| goes(*voter) && now >= self.nodes[*voter].votes_at && talk(n, *voter));
        goes(n) && voters.count() > self.nodes.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five() -> Model {
        let mut model = Model::new(5);
        (0..5).for_each(|n| model.start(n, 0));
        assert!(model.changes(0).is_empty());
        model
    }

    #[test]
    fn a_node_is_served_where_it_reaches_a_majority_both_ways() {
        let mut model = five();
        model.cut(&[(0, 1), (0, 2)]);
        assert!(model.changes(0).is_empty());
        model.cut(&[(3, 0)]);
        assert_eq!(model.changes(0), vec![(0, false)]);
        model.heal();
        assert_eq!(model.changes(0), vec![(0, true)]);
    }

    #[test]
    fn voters_that_are_away_or_stand_still_or_do_not_vote_yet_do_not_count() {
        let mut model = five();
        model.end(0);
        assert_eq!(model.changes(0), vec![(0, false)]);
        model.freeze(1, true);
        assert_eq!(model.changes(0), vec![(1, false)]);
        model.end(2);
        model.start(2, 10);
        assert_eq!(model.changes(9), vec![(2, false), (3, false), (4, false)]);
        assert_eq!(model.changes(10), vec![(2, true), (3, true), (4, true)]);
    }
}
