//! Wall clocks that are wrong by minutes, leap while their hosts run, and stay wrong after that.
//! They belong to a minority of the voters of each key, and to nodes that do not vote. All others
//! stay within `max_clock_skew` of each other. The laws hold whatever the wrong ones show (rule
//! 28).

use crate::cluster::{Rates, Settings, World, WorldEvent};
use crate::faults::{Cut, Fault, FaultKind, Target};
use crate::judge::HostAt;
use crate::kernel::{MILLISECOND, Rng, SECOND};
use crate::proto::{EpochClock, Now, quorum};

/// The maximum error of a wrong wall clock, in milliseconds.
const WRONG_MAX_MS: u64 = 1_800_000;

/// Draws the hosts with wrong clocks, in 40 % of the worlds whose monotonic clocks keep M1's bound.
/// Nodes need the latter to know what the others' wall clocks show.
pub(crate) fn draw(settings: &Settings) -> Option<Vec<HostAt>> {
    let mut rng = Rng::stream(settings.seed, "wrong clocks");
    // In larger worlds the queries take too many steps.
    let fits = settings.rates == Rates::Kept && settings.members <= 20;
    if !rng.chance(400_000) || settings.other_set.is_some() || !fits {
        return None;
    }
    let most = (settings.voters_per_key - 1) / 2;
    let voters = rng.between(most.min(1) as u64, most as u64) as usize;
    let mut wrong = rng.sample(settings.members, voters);
    wrong.extend((settings.members..settings.hosts()).filter(|_| rng.chance(500_000)));
    Some(wrong)
}

/// Draws the leaps of the wrong clocks.
pub(crate) fn draw_leaps(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "leaps");
    let hosts = settings.wrong_clocks.iter().flatten();
    let leaps = hosts.flat_map(|host| {
        let count = rng.between(0, 4);
        let leap = |_| Fault {
            at: rng.between(settings.max_ttl() / 4, settings.fault_span),
            kind: FaultKind::WallJump {
                host: *host,
                by_ms: draw_wrong(&mut rng, settings),
            },
        };
        (0..count).map(leap).collect::<Vec<Fault>>()
    });
    leaps.collect()
}

/// Draws a restart of a cut-off voter whose clock is far ahead. It must not leave recovery by its
/// own clock: its fence would be too high for the others, which need it after the cut.
pub(crate) fn draw_lonely(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "lonely");
    let span = settings.max_ttl() * 5 / 4 + 2 * SECOND;
    let start = settings.max_ttl() / 4;
    let wrong = settings.wrong_clocks.iter().flatten();
    let voter = wrong.copied().find(|host| *host < settings.members);
    let Some(host) = voter.filter(|_| rng.chance(400_000) && start + span < settings.fault_span)
    else {
        return Vec::new();
    };
    let at = rng.between(start, settings.fault_span - span);
    let alone = (0..settings.hosts()).map(|other| u8::from(other == host));
    let cut = Cut::Split(alone.collect());
    let by_ms = rng.between(WRONG_MAX_MS / 4, WRONG_MAX_MS) as i64;
    let kinds = [
        FaultKind::Cut { cut, span },
        FaultKind::WallJump { host, by_ms },
        FaultKind::crash(Target::Host(host), MILLISECOND),
    ];
    let faults = kinds.into_iter().zip(at..);
    faults.map(|(kind, at)| Fault { at, kind }).collect()
}

/// Draws the error or the leap of a wrong clock, in milliseconds.
pub(crate) fn draw_wrong(rng: &mut Rng, settings: &Settings) -> i64 {
    let skew = settings.timing.max_clock_skew.as_millis() as u64;
    let off = rng.spread(skew, WRONG_MAX_MS) as i64;
    if rng.chance(500_000) { off } else { -off }
}

impl World {
    /// Returns `true` if the wall clocks of most members are right for the whole run and nodes
    /// query them.
    pub(crate) fn has_right_clocks(&self) -> bool {
        self.settings.wrong_clocks.is_some()
    }

    /// Returns `true` if the right clocks of the other members are a quorum. Otherwise no node can
    /// tell which clocks are right while this host is away.
    pub(crate) fn may_miss(&self, host: HostAt) -> bool {
        let members = self.settings.members;
        let right = (0..members).filter(|it| *it != host && !self.settings.is_wrong(*it));
        !self.has_right_clocks() || right.count() >= quorum(members)
    }

    /// Returns how long a voter in recovery waits for clocks if it knows a quorum's, in
    /// nanoseconds.
    pub(crate) fn clocks_wait(&self) -> u64 {
        if self.has_right_clocks() {
            10 * SECOND
        } else {
            0
        }
    }

    /// Moves a wall clock. If most clocks are to be right, it stays near true time unless it is one
    /// of the wrong ones.
    pub(crate) fn jump_wall(&mut self, host: HostAt, by_ms: i64) {
        let skew = self.settings.timing.max_clock_skew.as_millis() as i64;
        let (is_kept, is_wrong) = (self.has_right_clocks(), self.settings.is_wrong(host));
        if is_wrong {
            self.count("wrong_clocks_leap");
        }
        let clock = &mut self.hosts[host].clock;
        clock.jump_wall(by_ms);
        if is_kept && !is_wrong {
            let most = self.settings.wall_off_max_ms;
            clock.set_wall(clock.wall_off().clamp(-most, most));
        }
        let is_far_ahead = clock.wall_off() > 2 * skew;
        self.hosts[host].was_far_ahead |= is_far_ahead && !is_kept;
    }

    /// Sets all clocks right, except those that are wrong for the whole run.
    pub(crate) fn set_walls_right(&mut self) {
        for host in 0..self.hosts.len() {
            if !self.settings.is_wrong(host) {
                self.hosts[host].clock.set_wall(0);
            }
        }
    }

    /// Makes a node query the voters and their clocks, and repeats that if `asks_again`.
    pub(crate) fn check_voters(&mut self, host: HostAt, asks_again: bool) {
        if !self.has_right_clocks() {
            return;
        }
        if self.hosts[host].acts() {
            self.at_node(host, |node, now| node.check_voters(now));
        }
        if asks_again {
            let pause = (self.settings.max_ttl() / 16).max(10 * MILLISECOND);
            self.push_in(pause, WorldEvent::Check { host });
        }
    }

    /// Returns the highest epoch that the clock of a host accepts now.
    pub(crate) fn believed_by(&self, host: HostAt) -> u64 {
        // With other settings before, it may have voted for an epoch that it would refuse now.
        let skew = match self.hosts[host].has_changed {
            true => self.settings.largest_skew(),
            false => self.voter_set_of(host).timing().max_clock_skew,
        };
        EpochClock::limit(self.hosts[host].clock.now(self.time), skew).get()
    }

    /// Returns the highest epoch that the clocks of a quorum of the members accept now.
    pub(crate) fn believed_by_most(&self) -> u64 {
        let members = &self.hosts[..self.settings.members];
        let mut shown: Vec<Now> = members.iter().map(|it| it.clock.now(self.time)).collect();
        shown.sort_unstable_by_key(|it| it.wall_ms);
        let skew = self.settings.timing.max_clock_skew;
        EpochClock::limit(shown[quorum(members.len()) - 1], skew).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minority_of_each_keys_voters_is_wrong() {
        let mut count = 0;
        for seed in 0..300 {
            let settings = Settings::draw(seed, None);
            let Some(wrong) = &settings.wrong_clocks else {
                continue;
            };
            count += usize::from(!wrong.is_empty());
            let voters = wrong.iter().filter(|host| **host < settings.members);
            assert!(2 * voters.count() < settings.voters_per_key, "seed {seed}");
        }
        assert!(count > 50, "{count} worlds");
    }
}
