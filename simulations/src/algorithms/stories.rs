//! The worlds in which the algorithms are compared: five members and one kind of fault.

use std::time::Duration;

use super::Algorithm;
use crate::cluster::{Gossip, Habits, Plan, Settings};
use crate::faults::{Cut, Fault, FaultKind, Target};
use crate::kernel::{LinkFaults, MILLISECOND, SECOND};
use crate::proto::Timing;

const MEMBERS: usize = 5;
const SPAN: u64 = 24 * SECOND;

/// A named world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    /// The faults, in a short phrase.
    pub(crate) what: &'static str,
    faults: fn() -> Vec<Fault>,
}

/// All stories, in the order of the table.
pub(crate) const STORIES: [Story; 11] = [
    Story {
        name: "settled",
        what: "nothing goes wrong",
        faults: Vec::new,
    },
    Story {
        name: "split",
        what: "3 members here, 2 there, for 8 s",
        faults: split,
    },
    Story {
        name: "flapping-split",
        what: "the same, five times for 2 s",
        faults: flapping_split,
    },
    Story {
        name: "one-way",
        what: "2 members hear the others but do not reach them, for 8 s",
        faults: one_way,
    },
    Story {
        name: "bridge",
        what: "two pairs of members meet only over the fifth, for 8 s",
        faults: bridge,
    },
    Story {
        name: "frozen-holder",
        what: "whoever holds a lock is frozen for 5 s, four times",
        faults: frozen_holder,
    },
    Story {
        name: "dead-holder",
        what: "whoever holds a lock crashes, four times",
        faults: dead_holder,
    },
    Story {
        name: "rolling-restart",
        what: "the members restart empty, 4 s apart",
        faults: rolling_restart,
    },
    Story {
        name: "restart-of-three",
        what: "three members restart empty within 30 ms, twice",
        faults: restart_of_three,
    },
    Story {
        name: "slow-member",
        what: "two members answer 1 s late, for 8 s",
        faults: slow_members,
    },
    Story {
        name: "storm",
        what: "six of ten datagrams are lost, for 8 s",
        faults: storm,
    },
];

impl Story {
    /// Creates its world for this seed.
    pub(crate) fn world(&self, seed: u64, algorithm: Algorithm) -> Plan {
        Plan {
            settings: settings(seed, algorithm),
            faults: (self.faults)(),
            requests: Vec::new(),
        }
    }
}

fn settings(seed: u64, algorithm: Algorithm) -> Settings {
    let timing = Timing {
        max_ttl: Duration::from_secs(3),
        max_drift_ppm: 5_000,
        max_clock_skew: Duration::from_millis(500),
        round_trip: Duration::from_millis(10),
        reservation: Duration::from_millis(100),
        holder_probe_interval: Duration::from_millis(100),
    };
    let habits = Habits {
        clients: 8,
        keys: 1,
        rest_max: SECOND,
        hold_max: 4 * SECOND,
        work_max: 300 * MILLISECOND,
        try_ppm: 100_000,
        renew_ppm: 1_000_000,
        ..Habits::default()
    };
    Settings {
        seed,
        algorithm,
        is_recorded: true,
        wall_off_max_ms: 100,
        link_faults: LinkFaults {
            loss_ppm: 1_000,
            late_max: 50 * MILLISECOND,
            jitter: MILLISECOND,
            ..LinkFaults::default()
        },
        delay: (MILLISECOND, 4 * MILLISECOND),
        gossip: Gossip::Heartbeats,
        fault_span: SPAN,
        ..Settings::quiet(MEMBERS, MEMBERS, timing, habits)
    }
}

fn at(ms: u64, kind: FaultKind) -> Fault {
    Fault {
        at: ms * MILLISECOND,
        kind,
    }
}

fn halves() -> Cut {
    Cut::Split(vec![0, 0, 0, 1, 1])
}

fn split() -> Vec<Fault> {
    let (cut, span) = (halves(), 8 * SECOND);
    vec![at(6_000, FaultKind::Cut { cut, span })]
}

fn flapping_split() -> Vec<Fault> {
    let (cut, half, times) = (halves(), 2 * SECOND, 5);
    vec![at(3_000, FaultKind::Flap { cut, half, times })]
}

fn one_way() -> Vec<Fault> {
    let (cut, span) = (Cut::OneWay(vec![3, 4]), 8 * SECOND);
    vec![at(6_000, FaultKind::Cut { cut, span })]
}

fn bridge() -> Vec<Fault> {
    let pairs = [(0, 3), (0, 4), (1, 3), (1, 4)];
    let links = pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]);
    let (cut, span) = (Cut::Links(links.collect()), 8 * SECOND);
    vec![at(6_000, FaultKind::Cut { cut, span })]
}

fn frozen_holder() -> Vec<Fault> {
    let freeze = |n: u64| {
        let kind = FaultKind::Pause {
            target: Target::HolderOr(n as usize),
            span: 5 * SECOND,
        };
        at(3_000 + n * 5_000, kind)
    };
    (0..4).map(freeze).collect()
}

fn crash(ms: u64, target: Target, down: u64) -> Fault {
    at(ms, FaultKind::crash(target, down))
}

fn dead_holder() -> Vec<Fault> {
    let holder = |n: u64| crash(3_000 + n * 5_000, Target::HolderOr(n as usize), SECOND);
    (0..4).map(holder).collect()
}

fn rolling_restart() -> Vec<Fault> {
    let host = |n: usize| {
        let ms = 2_000 + n as u64 * 4_000;
        crash(ms, Target::Host(n), 50 * MILLISECOND)
    };
    (0..MEMBERS).map(host).collect()
}

fn restart_of_three() -> Vec<Fault> {
    let one = |first: u64, n: usize| {
        let ms = first + n as u64 * 10;
        crash(ms, Target::Host(n), 20 * MILLISECOND)
    };
    let firsts = [5_000, 14_000];
    let all = firsts
        .into_iter()
        .flat_map(|ms| (0..3).map(move |n| one(ms, n)));
    all.collect()
}

fn slow_members() -> Vec<Fault> {
    let slow = |host| {
        let (by, span) = (SECOND, 8 * SECOND);
        at(6_000, FaultKind::Slow { host, by, span })
    };
    vec![slow(0), slow(1)]
}

fn storm() -> Vec<Fault> {
    let (loss_ppm, span) = (600_000, 8 * SECOND);
    vec![at(6_000, FaultKind::Storm { loss_ppm, span })]
}
