//! The hosts that a gossip failure detector reports as alive.
//!
//! Heartbeats are relayed, so they arrive while any path of open links leads from one host to the
//! other. A host without a heartbeat for two rounds is reported as dead.

/// Rounds without a heartbeat after which a host is reported as dead.
const ROUNDS_MISSED_MAX: u8 = 2;

/// The number of rounds that each host has missed the heartbeat of each other host.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    missed: Vec<u8>,
    hosts: usize,
}

impl Heartbeats {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            missed: vec![0; hosts * hosts],
            hosts,
        }
    }

    /// Runs a round of gossip at `me`. Returns which hosts it reports as alive. `runs`: the hosts
    /// whose processes run. `is_open`: `true` if datagrams get from the first host to the second.
    pub(crate) fn round(
        &mut self,
        me: usize,
        runs: &[bool],
        is_open: impl Fn(usize, usize) -> bool,
    ) -> Vec<bool> {
        let mut arrived = vec![false; self.hosts];
        let mut frontier = vec![me];
        while let Some(to) = frontier.pop() {
            for from in 0..self.hosts {
                if from != me && !arrived[from] && runs[from] && is_open(from, to) {
                    arrived[from] = true;
                    frontier.push(from);
                }
            }
        }
        let missed = &mut self.missed[me * self.hosts..(me + 1) * self.hosts];
        for (missed, arrived) in missed.iter_mut().zip(arrived) {
            *missed = if arrived { 0 } else { missed.saturating_add(1) };
        }
        missed.iter().map(|it| *it < ROUNDS_MISSED_MAX).collect()
    }

    /// Resets `me` when its process starts: no heartbeat has arrived yet.
    pub(crate) fn forget(&mut self, me: usize) {
        self.missed[me * self.hosts..(me + 1) * self.hosts].fill(ROUNDS_MISSED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_cut_off_for_two_rounds_is_dead() {
        let mut heartbeats = Heartbeats::new(3);
        let up = [true; 3];
        let cut = |a: usize, b: usize| a != 2 && b != 2;
        assert_eq!(heartbeats.round(0, &up, cut), [true, true, true]);
        assert_eq!(heartbeats.round(0, &up, cut), [false, true, false]);
        assert_eq!(heartbeats.round(0, &up, |_, _| true)[1..], [true, true]);
    }

    #[test]
    fn heartbeats_are_relayed_by_other_hosts() {
        let mut heartbeats = Heartbeats::new(3);
        let chain = |a: usize, b: usize| a.abs_diff(b) == 1;
        for _ in 0..3 {
            assert!(heartbeats.round(0, &[true; 3], chain)[2]);
        }
        for _ in 0..2 {
            heartbeats.round(0, &[true, false, true], chain);
        }
        assert!(!heartbeats.round(0, &[true, false, true], chain)[2]);
    }
}
