//! The links between hosts: they lose, duplicate, delay and reorder datagrams, and can be cut one
//! way.

use std::collections::BTreeMap;

use crate::kernel::Rng;
use crate::report::Links;

/// The behaviour of the links while faults occur.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct LinkFaults {
    pub(crate) loss_ppm: u64,
    pub(crate) double_ppm: u64,
    /// Damaged datagrams per million.
    pub(crate) damage_ppm: u64,
    /// Datagrams per million with an extreme delay.
    pub(crate) late_ppm: u64,
    /// The maximum of that delay, in nanoseconds.
    pub(crate) late_max: u64,
    /// The maximum random addition to a link's base delay, in nanoseconds.
    pub(crate) jitter: u64,
}

impl LinkFaults {
    /// Makes every datagram arrive whole and in time.
    pub(crate) fn lose_nothing(&mut self) {
        (self.loss_ppm, self.late_ppm, self.damage_ppm) = (0, 0, 0);
    }
}

/// Counts of datagrams by fate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fates {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) cut: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    pub(crate) damaged: u64,
    pub(crate) too_large: u64,
}

/// All links, in both directions.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Rng,
    /// A separate stream, so that damage changes no other draw.
    damage_rng: Rng,
    hosts: usize,
    /// The base delay of each link, in nanoseconds.
    delays: Vec<u64>,
    /// The number of faults that cut each link now.
    cuts: Vec<u16>,
    /// The delay that each slow host adds to its links, in nanoseconds.
    slow: BTreeMap<usize, u64>,
    /// The delay that is added in one direction, in nanoseconds.
    slow_ways: BTreeMap<(usize, usize), u64>,
    /// The size in bytes from which datagrams are large, and the large ones lost per million.
    large: (usize, u64),
    /// A separate stream, so that this loss changes no other draw.
    large_rng: Rng,
    pub(crate) link_faults: LinkFaults,
    /// Additional loss by a storm, per million.
    storm_ppm: u64,
    pub(crate) fates: Fates,
    /// The number of changes by faults and by healing.
    pub(crate) changes: u64,
}

impl Network {
    /// Creates links with base delays between the two bounds, in nanoseconds.
    pub(crate) fn new(
        mut rng: Rng,
        hosts: usize,
        delay: (u64, u64),
        link_faults: LinkFaults,
    ) -> Self {
        let links = hosts * hosts;
        let delays = (0..links).map(|_| rng.between(delay.0, delay.1)).collect();
        Self {
            damage_rng: rng.clone().child(),
            large_rng: Rng::stream(rng.clone().draw(), "large"),
            rng,
            hosts,
            delays,
            cuts: vec![0; links],
            slow: BTreeMap::new(),
            slow_ways: BTreeMap::new(),
            large: (usize::MAX, 0),
            link_faults,
            storm_ppm: 0,
            fates: Fates::default(),
            changes: 0,
        }
    }

    /// Sends a datagram of `bytes` bytes. Returns the delay of each copy that arrives, in
    /// nanoseconds: none, one or two.
    pub(crate) fn send(&mut self, from: usize, to: usize, bytes: usize) -> [Option<u64>; 2] {
        self.fates.sent += 1;
        let link = from * self.hosts + to;
        if self.cuts[link] > 0 {
            self.fates.cut += 1;
            return [None, None];
        }
        if self.rng.chance(self.link_faults.loss_ppm + self.storm_ppm) {
            self.fates.lost += 1;
            return [None, None];
        }
        if bytes >= self.large.0 && self.large_rng.chance(self.large.1) {
            self.fates.too_large += 1;
            return [None, None];
        }
        let first = self.delay(from, to);
        let second = self.rng.chance(self.link_faults.double_ppm).then(|| {
            self.fates.doubled += 1;
            self.delay(from, to)
        });
        [Some(first), second]
    }

    /// Returns the stream to draw damage from, if the next copy is damaged.
    pub(crate) fn damages(&mut self) -> Option<&mut Rng> {
        let ppm = self.link_faults.damage_ppm;
        if ppm == 0 || !self.damage_rng.chance(ppm) {
            return None;
        }
        self.fates.damaged += 1;
        Some(&mut self.damage_rng)
    }

    fn delay(&mut self, from: usize, to: usize) -> u64 {
        let own = self.delays[from * self.hosts + to];
        let slow = |host: usize| self.slow.get(&host).copied().unwrap_or_default();
        let way = self.slow_ways.get(&(from, to)).copied();
        let slow = slow(from) + slow(to) + way.unwrap_or_default();
        let late = if self.rng.chance(self.link_faults.late_ppm) {
            self.fates.late += 1;
            self.rng.spread(own, self.link_faults.late_max)
        } else {
            0
        };
        own + slow + late + self.rng.below(self.link_faults.jitter + 1)
    }

    /// Returns the maximum delay of a datagram on this link without faults, in nanoseconds.
    pub(crate) fn longest(&self, from: usize, to: usize) -> u64 {
        self.delays[from * self.hosts + to] + self.link_faults.jitter
    }

    /// Returns `true` if no fault cuts the link.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] == 0
    }

    /// Returns the current state of the links.
    pub(crate) fn links(&self) -> Links {
        let all = (0..self.cuts.len()).filter(|link| self.cuts[*link] > 0);
        Links {
            cut: all
                .map(|link| (link / self.hosts, link % self.hosts))
                .collect(),
            slow: self.slow.clone(),
            storm_ppm: self.storm_ppm,
        }
    }

    pub(crate) fn set_storm(&mut self, ppm: u64) {
        self.changes += 1;
        self.storm_ppm = ppm;
    }

    pub(crate) fn cut(&mut self, links: &[(usize, usize)]) {
        self.changes += 1;
        for (from, to) in links {
            self.cuts[from * self.hosts + to] += 1;
        }
    }

    pub(crate) fn mend(&mut self, links: &[(usize, usize)]) {
        self.changes += 1;
        for (from, to) in links {
            let cuts = &mut self.cuts[from * self.hosts + to];
            *cuts = cuts.saturating_sub(1);
        }
    }

    /// Sets the delay added to all links of `host`, in nanoseconds; zero removes it.
    pub(crate) fn set_slow(&mut self, host: usize, by: u64) {
        self.changes += 1;
        if by == 0 {
            self.slow.remove(&host);
        } else {
            self.slow.insert(host, by);
        }
    }

    /// Sets the delay added from one host to another, in nanoseconds; zero removes it.
    pub(crate) fn set_slow_way(&mut self, from: usize, to: usize, by: u64) {
        self.changes += 1;
        if by == 0 {
            self.slow_ways.remove(&(from, to));
        } else {
            self.slow_ways.insert((from, to), by);
        }
    }

    /// Sets the loss per million of datagrams of at least `bytes` bytes.
    pub(crate) fn set_large(&mut self, bytes: usize, loss_ppm: u64) {
        self.large = (bytes, loss_ppm);
    }

    /// Returns `true` if no fault cuts the link or loses, delays or damages its datagrams.
    pub(crate) fn is_steady(&self, from: usize, to: usize) -> bool {
        let slow = |host| self.slow.contains_key(&host);
        let is_slow = slow(from) || slow(to) || self.slow_ways.contains_key(&(from, to));
        let link_faults = &self.link_faults;
        let bad = [
            link_faults.loss_ppm,
            link_faults.late_ppm,
            link_faults.damage_ppm,
        ];
        let is_fair = bad == [0; 3] && self.storm_ppm == 0 && self.large.1 == 0;
        is_fair && !is_slow && self.is_open(from, to)
    }

    /// Removes all faults. Datagrams already on their way keep their delays.
    pub(crate) fn heal(&mut self) {
        self.changes += 1;
        self.cuts.fill(0);
        self.slow.clear();
        self.slow_ways.clear();
        self.large.1 = 0;
        self.storm_ppm = 0;
        self.link_faults.loss_ppm = 0;
        self.link_faults.double_ppm = 0;
        self.link_faults.damage_ppm = 0;
        self.link_faults.late_ppm = 0;
        // Without jitter the links keep the order. A renewal overtaken by a release would occupy
        // the voter for a round trip, and no story could be timed.
        self.link_faults.jitter = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fair() -> LinkFaults {
        LinkFaults {
            jitter: 10,
            ..LinkFaults::default()
        }
    }

    #[test]
    fn cut_is_one_way_and_counted_per_fault() {
        let mut network = Network::new(Rng::stream(1, "n"), 3, (5, 5), fair());
        network.cut(&[(0, 1)]);
        network.cut(&[(0, 1)]);
        network.mend(&[(0, 1)]);
        assert_eq!(network.send(0, 1, 9), [None, None]);
        assert!(network.send(1, 0, 9)[0].is_some());
        network.mend(&[(0, 1)]);
        assert!(network.send(0, 1, 9)[0].is_some());
    }

    #[test]
    fn delays_stay_within_longest() {
        let mut network = Network::new(Rng::stream(1, "n"), 2, (5, 50), fair());
        for _ in 0..1_000 {
            let delay = network.send(0, 1, 9)[0].unwrap();
            assert!((5..=network.longest(0, 1)).contains(&delay));
        }
    }
}
