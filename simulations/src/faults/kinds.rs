//! The faults of a run and their times. They are drawn before the world begins, so that a run can
//! be repeated with a prefix of its faults.

use super::{disks, handovers, namesakes, wrong_clocks};
use crate::cluster::{Rates, Settings};
use crate::judge::HostAt;
use crate::kernel::{MILLISECOND, Rng};

/// The host that a fault affects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// This host.
    Host(HostAt),
    /// A host that holds a lock at that moment, or this host if no lock is held.
    HolderOr(HostAt),
    /// A voter of a key that is held at that moment, or this host if no key is held.
    VoterOr(HostAt),
}

/// A set of links to cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Cut {
    /// The links between hosts of different groups, both ways.
    Split(Vec<u8>),
    /// The links from these hosts to all others; they still receive.
    OneWay(Vec<HostAt>),
    /// The links between two hosts, both ways.
    Between(HostAt, HostAt),
    /// These links, each one way.
    Links(Vec<(HostAt, HostAt)>),
}

impl Cut {
    /// Returns the links that it cuts, each one way.
    pub(crate) fn links(&self, hosts: usize) -> Vec<(HostAt, HostAt)> {
        let all = (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to)));
        match self {
            Self::Split(groups) => all.filter(|(a, b)| groups[*a] != groups[*b]).collect(),
            Self::OneWay(mute) => all
                .filter(|(a, b)| mute.contains(a) && !mute.contains(b))
                .collect(),
            Self::Between(a, b) => vec![(*a, *b), (*b, *a)],
            Self::Links(links) => links.clone(),
        }
    }
}

/// A kind of fault. Times are in nanoseconds of true time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum FaultKind {
    /// Links are cut.
    Cut { cut: Cut, span: u64 },
    /// Links are cut `times` times, for `half` each and `half` apart.
    Flap { cut: Cut, half: u64, times: u32 },
    /// Every datagram from and to a host is delayed by `by`.
    Slow { host: HostAt, by: u64, span: u64 },
    /// Additional datagrams are lost, per million.
    Storm { loss_ppm: u64, span: u64 },
    /// A process crashes and restarts without memory. `says_new`: the new-cluster flag was left on.
    /// `moves`: at another address.
    Crash {
        target: Target,
        down: u64,
        says_new: bool,
        moves: bool,
    },
    /// A process shuts down cleanly, and the next one starts `down` later.
    Shutdown { target: Target, down: u64 },
    /// A process is paused and resumed.
    Pause { target: Target, span: u64 },
    /// A machine is suspended and resumed. Its process keeps its memory and its incarnation;
    /// datagrams that arrive meanwhile are lost.
    Suspend { target: Target, span: u64 },
    /// A process is restarted in the other voter set, or back in the first one.
    Change {
        host: HostAt,
        is_other: bool,
        down: u64,
    },
    /// A wall clock jumps.
    WallJump { host: HostAt, by_ms: i64 },
    /// A monotonic clock changes its rate.
    Drift { host: HostAt, rate_ppm: i64 },
    /// Every datagram from one host to another is delayed by `by`; the other direction is not.
    SlowWay {
        from: HostAt,
        to: HostAt,
        by: u64,
        span: u64,
    },
    /// A process crashes, its wall clock is set back, and it restarts.
    SetBack {
        target: Target,
        back_ms: i64,
        down: u64,
    },
    /// A second process starts under the name of `host`, with the links and the clock of `on`.
    Namesake { host: HostAt, on: HostAt, span: u64 },
    /// A host's datagrams come from a NAT mapping, which also delivers datagrams to it. The mapping
    /// is dropped after `span`.
    Mapping { host: HostAt, span: u64 },
    /// A host's journal is copied and the host restarted. After `span` it crashes, and is restarted
    /// with the copy.
    OldCopy { host: HostAt, down: u64, span: u64 },
    /// All writes of a host fail.
    DiskFails { host: HostAt, span: u64 },
    /// A host's journal is replaced by a snapshot.
    Replaced { host: HostAt },
    /// The holder of a lock, or `host`, is cut off from one of its voters while another crashes.
    /// `restarts`: the holder crashes too.
    CutAndCrash {
        host: HostAt,
        down: u64,
        span: u64,
        restarts: bool,
    },
}

impl FaultKind {
    /// Returns a crash after which the process restarts as it should.
    pub(crate) fn crash(target: Target, down: u64) -> Self {
        Self::Crash {
            target,
            down,
            says_new: false,
            moves: false,
        }
    }

    /// Returns the name that coverage counts it under.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Cut { cut, .. } => match cut {
                Cut::Split(_) => "split",
                Cut::OneWay(_) => "one_way",
                Cut::Between(..) => "bridge",
                Cut::Links(_) => "links",
            },
            Self::Flap { .. } => "flap",
            Self::Slow { .. } => "slow",
            Self::Storm { .. } => "storm",
            Self::Crash { .. } => "crash",
            Self::Shutdown { .. } => "shutdown",
            Self::Pause { .. } => "pause",
            Self::Suspend { .. } => "suspend",
            Self::Change { .. } => "change",
            Self::WallJump { .. } => "wall_jump",
            Self::Drift { .. } => "drift",
            Self::SlowWay { .. } => "slow_way",
            Self::SetBack { .. } => "set_back",
            Self::Namesake { .. } => "namesakes",
            Self::Mapping { .. } => "mappings",
            Self::OldCopy { .. } => "old_copy",
            Self::DiskFails { .. } => "disk_fails",
            Self::Replaced { .. } => "journal_replaced",
            Self::CutAndCrash { .. } => "cut_and_crash",
        }
    }
}

/// A fault and its time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) kind: FaultKind,
}

/// Draws the faults of a world, sorted by time. Each world favours some kinds over others.
pub(crate) fn draw(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "faults");
    let weight = |rng: &mut Rng| match rng.chance(500_000) {
        true => rng.between(1, 10),
        false => 0,
    };
    let mut weights = [0; 8].map(|_| weight(&mut rng));
    if weights == [0; 8] {
        weights[5] = 1;
    }
    let count = rng.between(0, 24);
    let start = settings.max_ttl() / 4;
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| Fault {
            at: rng.between(start, settings.fault_span),
            kind: draw_kind(&mut rng, &weights, settings),
        })
        .collect();
    faults.extend(draw_shutdowns(settings));
    draw_changes(settings, &mut faults);
    faults.extend(draw_more(settings));
    faults.extend(disks::draw(settings));
    faults.extend(handovers::draw(settings));
    faults.extend(wrong_clocks::draw_leaps(settings));
    faults.extend(wrong_clocks::draw_lonely(settings));
    namesakes::draw(settings, &mut faults);
    namesakes::draw_mappings(settings, &mut faults);
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// Draws deploys: in 40 % of the worlds, one to four clean shutdowns, mostly of a holder.
fn draw_shutdowns(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "shutdowns");
    let count = match rng.chance(400_000) {
        true => rng.between(1, 4),
        false => 0,
    };
    let start = settings.max_ttl() / 4;
    let host = |rng: &mut Rng| rng.below(settings.hosts() as u64) as HostAt;
    (0..count)
        .map(|_| Fault {
            at: rng.between(start, settings.fault_span),
            kind: FaultKind::Shutdown {
                target: Target::HolderOr(host(&mut rng)),
                down: rng.spread(MILLISECOND, settings.max_ttl()),
            },
        })
        .collect()
}

/// Draws restarts in the other voter set: some or all hosts, one after another, then perhaps back.
/// If the members differ, the two sets stay apart only because their voters receive each other's
/// datagrams. Faults that prevent this are removed: changing voters then is not supported.
fn draw_changes(settings: &Settings, faults: &mut Vec<Fault>) {
    let Some(other) = &settings.other_set else {
        return;
    };
    if other.is_other_members(settings) {
        faults.retain(|fault| match fault.kind {
            FaultKind::Crash { says_new, .. } => !says_new,
            FaultKind::Slow { .. } | FaultKind::Drift { .. } => true,
            _ => false,
        });
    }
    let mut rng = Rng::stream(settings.seed, "changes");
    let hosts = settings.hosts();
    let mut at = rng.between(settings.max_ttl() / 4, settings.fault_span / 2);
    for round in 0..rng.between(1, 3) {
        let count = rng.between(1, hosts as u64) as usize;
        for host in rng.sample(hosts, count) {
            let kind = FaultKind::Change {
                host,
                is_other: round % 2 == 0,
                down: rng.spread(MILLISECOND, settings.max_ttl() / 2),
            };
            faults.push(Fault { at, kind });
            at += rng.spread(settings.round_trip(), settings.max_ttl() * 2);
        }
    }
    faults.retain(|fault| fault.at < settings.fault_span);
}

/// Draws faults from a separate stream: one kind in three of eight worlds, none in the others.
fn draw_more(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "more faults");
    let kind = rng.below(8);
    let count = if kind < 3 { rng.between(1, 4) } else { 0 };
    let (max_ttl, hosts) = (settings.max_ttl(), settings.hosts());
    let faults = (0..count).map(|_| {
        let at = rng.between(max_ttl / 4, settings.fault_span);
        let host = rng.below(hosts as u64) as HostAt;
        let (down, span) = (
            rng.spread(MILLISECOND, max_ttl / 4),
            rng.spread(max_ttl / 4, max_ttl * 4),
        );
        let kind = match kind {
            0 => FaultKind::SlowWay {
                from: host,
                to: (host + 1 + rng.below(hosts as u64) as HostAt) % hosts,
                by: rng.spread(settings.round_trip(), max_ttl * 2),
                span,
            },
            1 => FaultKind::SetBack {
                target: Target::HolderOr(host),
                back_ms: rng.between(1, max_ttl / MILLISECOND * 2) as i64,
                down,
            },
            _ => FaultKind::CutAndCrash {
                host,
                down,
                span,
                restarts: rng.chance(300_000),
            },
        };
        Fault { at, kind }
    });
    faults.collect()
}

fn draw_kind(rng: &mut Rng, weights: &[u64], settings: &Settings) -> FaultKind {
    let mut at = rng.below(weights.iter().sum());
    let mut kind = 0;
    while at >= weights[kind] {
        at -= weights[kind];
        kind += 1;
    }
    let hosts = settings.hosts();
    let host = rng.below(hosts as u64) as HostAt;
    let span = rng.spread(settings.round_trip(), settings.max_ttl() * 3);
    let target = match rng.below(4) {
        0 => Target::Host(host),
        1 => Target::VoterOr(host),
        _ => Target::HolderOr(host),
    };
    match kind {
        0 => FaultKind::Cut {
            cut: draw_cut(rng, hosts),
            span,
        },
        1 => FaultKind::Flap {
            cut: draw_cut(rng, hosts),
            half: rng.spread(settings.round_trip(), settings.max_ttl()),
            times: rng.between(2, 6) as u32,
        },
        2 => FaultKind::Slow {
            host,
            by: rng.spread(settings.round_trip(), settings.max_ttl()),
            span,
        },
        3 => FaultKind::Storm {
            loss_ppm: *rng.pick(&[300_000, 600_000, 900_000]),
            span: span / 2,
        },
        4 => FaultKind::Crash {
            target,
            down: rng.spread(MILLISECOND, settings.max_ttl()),
            says_new: rng.chance(300_000),
            moves: rng.chance(300_000),
        },
        5 if rng.chance(300_000) => FaultKind::Suspend { target, span },
        5 => FaultKind::Pause { target, span },
        6 => draw_wall_jump(rng, host, settings),
        _ => FaultKind::Drift {
            host,
            rate_ppm: draw_rate(rng, settings),
        },
    }
}

fn draw_cut(rng: &mut Rng, hosts: usize) -> Cut {
    match rng.below(3) {
        0 => {
            let groups = rng.between(2, 3);
            Cut::Split((0..hosts).map(|_| rng.below(groups) as u8).collect())
        }
        1 => {
            let count = rng.between(1, (hosts as u64 / 2).max(1)) as usize;
            Cut::OneWay(rng.sample(hosts, count))
        }
        _ => match rng.sample(hosts, 2)[..] {
            [a, b] => Cut::Between(a, b),
            _ => Cut::Links(Vec::new()),
        },
    }
}

fn draw_wall_jump(rng: &mut Rng, host: HostAt, settings: &Settings) -> FaultKind {
    let skew = settings.timing.max_clock_skew.as_millis() as u64;
    let by = match rng.below(10) {
        0..6 => rng.between(1, skew),
        6..8 => rng.between(skew, settings.max_ttl() / MILLISECOND * 2),
        _ => rng.spread(skew, 10_000_000),
    } as i64;
    let back = rng.chance(500_000);
    FaultKind::WallJump {
        host,
        by_ms: if back { -by } else { by },
    }
}

/// Draws the rate of a monotonic clock, in parts per million relative to true time.
pub(crate) fn draw_rate(rng: &mut Rng, settings: &Settings) -> i64 {
    match settings.rates {
        // The ratio of the fastest rate to the slowest is then at most 1 + max_drift.
        Rates::Kept => rng.between(0, u64::from(settings.timing.max_drift_ppm)) as i64,
        Rates::Wild(most) => rng.between(0, 2 * most.unsigned_abs()) as i64 - most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_links_match_its_kind() {
        let links = |cut: Cut| cut.links(3);
        assert_eq!(links(Cut::OneWay(vec![0])), [(0, 1), (0, 2)]);
        assert_eq!(links(Cut::Between(0, 2)), [(0, 2), (2, 0)]);
        assert_eq!(links(Cut::Split(vec![0, 0, 1])).len(), 4);
    }
}
