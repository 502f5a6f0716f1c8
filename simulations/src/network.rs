//! The links between the hosts: they lose, double, delay and reorder, and can be cut one way.

use std::collections::BTreeMap;

use crate::report::Links;
use crate::rng::Rng;

/// How the links behave while faults are allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Weather {
    pub(crate) loss_ppm: u64,
    pub(crate) double_ppm: u64,
    /// How many datagrams per million arrive damaged.
    pub(crate) damage_ppm: u64,
    /// How many datagrams per million are late beyond all reason.
    pub(crate) late_ppm: u64,
    /// How late those are at the most, in nanoseconds.
    pub(crate) late_max: u64,
    /// The most that is added to a link's own delay, in nanoseconds.
    pub(crate) jitter: u64,
}

/// What became of datagrams.
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

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Rng,
    /// Of its own, so that damage changes nothing else.
    damage_rng: Rng,
    hosts: usize,
    /// Each link's own delay, in nanoseconds.
    delays: Vec<u64>,
    /// How many faults cut each link now.
    cuts: Vec<u16>,
    /// What slow hosts add to each of their links, in nanoseconds.
    slow: BTreeMap<usize, u64>,
    /// The delay that slow links add one way, in nanoseconds.
    slow_ways: BTreeMap<(usize, usize), u64>,
    /// Of how many bytes a datagram is large, and how many per million of those are lost.
    large: (usize, u64),
    /// Of its own, so that it changes nothing else.
    large_rng: Rng,
    pub(crate) weather: Weather,
    /// Loss that a fault adds for a while.
    storm_ppm: u64,
    pub(crate) fates: Fates,
    /// How often a fault changed something here.
    pub(crate) changes: u64,
}

impl Network {
    /// Links whose own delays are between the two bounds, in nanoseconds.
    pub(crate) fn new(mut rng: Rng, hosts: usize, delay: (u64, u64), weather: Weather) -> Self {
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
            weather,
            storm_ppm: 0,
            fates: Fates::default(),
            changes: 0,
        }
    }

    /// When the copies of a datagram of so many bytes arrive that leaves now: none, one or two
    /// spans.
    pub(crate) fn send(&mut self, from: usize, to: usize, bytes: usize) -> [Option<u64>; 2] {
        self.fates.sent += 1;
        let link = from * self.hosts + to;
        if self.cuts[link] > 0 {
            self.fates.cut += 1;
            return [None, None];
        }
        if self.rng.chance(self.weather.loss_ppm + self.storm_ppm) {
            self.fates.lost += 1;
            return [None, None];
        }
        if bytes >= self.large.0 && self.large_rng.chance(self.large.1) {
            self.fates.too_large += 1;
            return [None, None];
        }
        let first = self.delay(from, to);
        let second = self.rng.chance(self.weather.double_ppm).then(|| {
            self.fates.doubled += 1;
            self.delay(from, to)
        });
        [Some(first), second]
    }

    /// Whether a copy that arrives is damaged on the way, and what its damage is drawn from.
    pub(crate) fn damages(&mut self) -> Option<&mut Rng> {
        let ppm = self.weather.damage_ppm;
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
        let late = if self.rng.chance(self.weather.late_ppm) {
            self.fates.late += 1;
            self.rng.spread(own, self.weather.late_max)
        } else {
            0
        };
        own + slow + late + self.rng.below(self.weather.jitter + 1)
    }

    /// The longest that a datagram takes on this link in fair weather, in nanoseconds.
    pub(crate) fn longest(&self, from: usize, to: usize) -> u64 {
        self.delays[from * self.hosts + to] + self.weather.jitter
    }

    /// Whether datagrams get from one host to another.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] == 0
    }

    /// How the links are now.
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

    /// Adds to every delay from and to `host`; zero ends it.
    pub(crate) fn set_slow(&mut self, host: usize, by: u64) {
        self.changes += 1;
        if by == 0 {
            self.slow.remove(&host);
        } else {
            self.slow.insert(host, by);
        }
    }

    /// Adds to every delay from one host to another; zero ends it.
    pub(crate) fn set_slow_way(&mut self, from: usize, to: usize, by: u64) {
        self.changes += 1;
        if by == 0 {
            self.slow_ways.remove(&(from, to));
        } else {
            self.slow_ways.insert((from, to), by);
        }
    }

    /// From now on so many per million of the datagrams with so many bytes are lost.
    pub(crate) fn set_large(&mut self, bytes: usize, loss_ppm: u64) {
        self.large = (bytes, loss_ppm);
    }

    /// `true` if every datagram from one host arrives at the other soon.
    pub(crate) fn is_steady(&self, from: usize, to: usize) -> bool {
        let slow = |host| self.slow.contains_key(&host);
        let is_slow = slow(from) || slow(to) || self.slow_ways.contains_key(&(from, to));
        let weather = &self.weather;
        let bad = [weather.loss_ppm, weather.late_ppm, weather.damage_ppm];
        let is_fair = bad == [0; 3] && self.storm_ppm == 0 && self.large.1 == 0;
        is_fair && !is_slow && self.is_open(from, to)
    }

    /// All links work from now on. What is already on its way stays as late as it is.
    pub(crate) fn heal(&mut self) {
        self.changes += 1;
        self.cuts.fill(0);
        self.slow.clear();
        self.slow_ways.clear();
        self.large.1 = 0;
        self.storm_ppm = 0;
        self.weather.loss_ppm = 0;
        self.weather.double_ppm = 0;
        self.weather.damage_ppm = 0;
        self.weather.late_ppm = 0;
        // Fair weather also keeps the order: a renewal that a release overtakes leaves a ghost at
        // the voter for a round trip, and then nothing could be timed.
        self.weather.jitter = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAIR: Weather = Weather {
        loss_ppm: 0,
        double_ppm: 0,
        damage_ppm: 0,
        late_ppm: 0,
        late_max: 0,
        jitter: 10,
    };

    #[test]
    fn a_cut_is_one_way_and_counts_how_many_faults_made_it() {
        let mut network = Network::new(Rng::stream(1, "n"), 3, (5, 5), FAIR);
        network.cut(&[(0, 1)]);
        network.cut(&[(0, 1)]);
        network.mend(&[(0, 1)]);
        assert_eq!(network.send(0, 1, 9), [None, None]);
        assert!(network.send(1, 0, 9)[0].is_some());
        network.mend(&[(0, 1)]);
        assert!(network.send(0, 1, 9)[0].is_some());
    }

    #[test]
    fn delays_stay_within_what_is_told() {
        let mut network = Network::new(Rng::stream(1, "n"), 2, (5, 50), FAIR);
        for _ in 0..1_000 {
            let delay = network.send(0, 1, 9)[0].unwrap();
            assert!((5..=network.longest(0, 1)).contains(&delay));
        }
    }
}
