//! Whom a failure detector of gossip believes to be alive.
//!
//! Heartbeats travel from node to node, so a node hears of another as long as there is some way
//! from there to here. Who was not heard of for two rounds is believed to be dead.

/// Rounds without a heartbeat after which a node is believed to be dead.
const ROUNDS_MISSED_MAX: u8 = 2;

/// For how many rounds each host has not heard of each other.
#[derive(Debug)]
pub(crate) struct Hearing {
    missed: Vec<u8>,
    hosts: usize,
}

impl Hearing {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            missed: vec![0; hosts * hosts],
            hosts,
        }
    }

    /// A round of gossip at `me`: which hosts it believes to be alive. `speaks`: the hosts whose
    /// processes run; `is_open`: whether datagrams get from one to the other.
    pub(crate) fn round(
        &mut self,
        me: usize,
        speaks: &[bool],
        is_open: impl Fn(usize, usize) -> bool,
    ) -> Vec<bool> {
        let mut heard = vec![false; self.hosts];
        let mut frontier = vec![me];
        while let Some(to) = frontier.pop() {
            for from in 0..self.hosts {
                if from != me && !heard[from] && speaks[from] && is_open(from, to) {
                    heard[from] = true;
                    frontier.push(from);
                }
            }
        }
        let missed = &mut self.missed[me * self.hosts..(me + 1) * self.hosts];
        for (missed, heard) in missed.iter_mut().zip(heard) {
            *missed = if heard { 0 } else { missed.saturating_add(1) };
        }
        missed.iter().map(|it| *it < ROUNDS_MISSED_MAX).collect()
    }

    /// A process starts at `me`: it has heard of nobody.
    pub(crate) fn forget(&mut self, me: usize) {
        self.missed[me * self.hosts..(me + 1) * self.hosts].fill(ROUNDS_MISSED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_is_dead_after_two_rounds_and_lives_at_the_next_heartbeat() {
        let mut hearing = Hearing::new(3);
        let up = [true; 3];
        let cut = |a: usize, b: usize| a != 2 && b != 2;
        assert_eq!(hearing.round(0, &up, cut), [true, true, true]);
        assert_eq!(hearing.round(0, &up, cut), [false, true, false]);
        assert_eq!(hearing.round(0, &up, |_, _| true)[1..], [true, true]);
    }

    #[test]
    fn news_travels_over_others() {
        let mut hearing = Hearing::new(3);
        let chain = |a: usize, b: usize| a.abs_diff(b) == 1;
        for _ in 0..3 {
            assert!(hearing.round(0, &[true; 3], chain)[2]);
        }
        for _ in 0..2 {
            hearing.round(0, &[true, false, true], chain);
        }
        assert!(!hearing.round(0, &[true, false, true], chain)[2]);
    }
}
