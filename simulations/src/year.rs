//! A simulated year of hourly ticks on five nodes, with a wrong clock, two rolling deploys a day,
//! crashes without memory, and partitions. Each tick must run once, and be told once that it ran.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use lockmesh_proto::testing::{Cluster, Random, ms};

use crate::campaign::Failure;
use crate::proto::{Event, Request, Start, Ticket};

const NODES: usize = 5;
const QUORUM: usize = 3;
const TTL: Duration = ms(10_000);
const KEEP_FOR: Duration = minutes(120);
const HOUR: Duration = minutes(60);
/// The pause after a request that ended without an outcome.
const AGAIN: Duration = minutes(1);

const fn minutes(n: u64) -> Duration {
    ms(n * 60_000)
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Action {
    /// A node's clock says that a tick is due.
    Due {
        node: usize,
        tick: u64,
    },
    /// The work of a granted tick is done.
    Done {
        node: usize,
        ticket: Ticket,
    },
    Deploy {
        node: usize,
    },
    Start {
        node: usize,
    },
    Crash {
        node: usize,
    },
    /// Divides the nodes into groups: each node has a bit in both masks.
    Cut {
        masks: [u8; 2],
    },
    Heal,
}

/// The outcomes of the requests for a tick.
#[derive(Debug, Default)]
struct Told {
    /// The number of attempts, and of those that were told that the tick is marked.
    attempts: u32,
    ran: u32,
    /// The number of nodes that were told that it ran before. A mark that reached one voter is enough
    /// for that, and the work was done before it was marked.
    done: u32,
}

struct Year {
    cluster: Cluster,
    random: Random,
    actions: BTreeSet<(Duration, Action)>,
    wants: BTreeMap<(usize, Ticket), u64>,
    told: BTreeMap<u64, Told>,
    /// The ticks of which each node knows the outcome.
    known: BTreeSet<(usize, u64)>,
    down: BTreeSet<usize>,
    cut: [u8; 2],
    /// The last time at which no quorum was up and connected.
    no_quorum: Duration,
    may_lack: u32,
    /// The last time at which a voter reported that.
    lacked: Duration,
    deploys: u32,
    crashes: u32,
    cuts: u32,
}

impl Year {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::of(NODES, NODES, 0);
        let mut random = Random(seed);
        for (node, seat) in cluster.seats.iter_mut().enumerate() {
            seat.rate_ppm = random.below(8_000) as i64 - 4_000;
            // Right clocks differ by a second; that of the last node is ten minutes ahead.
            seat.wall_off_ms = random.below(1_000) as i64;
            if node == NODES - 1 {
                seat.wall_off_ms = 600_000;
            }
        }
        for node in 0..NODES {
            cluster.start(node, Start::NewCluster);
        }
        cluster.run_for(ms(2_000));
        Self {
            cluster,
            random,
            actions: BTreeSet::new(),
            wants: BTreeMap::new(),
            told: BTreeMap::new(),
            known: BTreeSet::new(),
            down: BTreeSet::new(),
            cut: [0; 2],
            no_quorum: Duration::ZERO,
            may_lack: 0,
            lacked: Duration::ZERO,
            deploys: 0,
            crashes: 0,
            cuts: 0,
        }
    }

    fn plan(&mut self, at: Duration, action: Action) {
        self.actions.insert((at, action));
    }

    /// Plans the ticks and the faults of one hour.
    fn plan_hour(&mut self, hour: u64) {
        let begin = HOUR * hour as u32;
        for node in 0..NODES {
            let late = ms(self.random.below(2_000));
            let off = ms(self.cluster.seats[node].wall_off_ms.unsigned_abs());
            let at = (begin + late).saturating_sub(off);
            self.plan(at, Action::Due { node, tick: hour });
        }
        // Half of the faults come while a tick runs.
        let anywhere = |random: &mut Random| {
            let span = if random.percent(50) {
                40_000
            } else {
                3_600_000
            };
            begin + ms(random.below(span))
        };
        if hour % 12 == 3 {
            let first = anywhere(&mut self.random);
            for node in 0..NODES {
                let at = first + ms(5_000) * node as u32;
                self.plan(at, Action::Deploy { node });
            }
        }
        if self.random.percent(10) {
            let node = self.random.below(NODES as u64) as usize;
            let at = anywhere(&mut self.random);
            self.plan(at, Action::Crash { node });
        }
        if self.random.percent(8) {
            // Usually one node is alone. Sometimes no group has a quorum.
            let alone = 1 << self.random.below(NODES as u64);
            let masks = match self.random.percent(60) {
                true => [alone, 0],
                false => {
                    let mut mask = || self.random.below(32) as u8;
                    [alone | mask(), mask()]
                }
            };
            let at = anywhere(&mut self.random);
            self.plan(at, Action::Cut { masks });
            let healed = at + minutes(1 + self.random.below(59));
            self.plan(healed, Action::Heal);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Due { node, tick } => self.ask(node, tick),
            Action::Done { node, ticket } => {
                if self.wants.contains_key(&(node, ticket)) && !self.down.contains(&node) {
                    self.cluster.with(node, |it, now| {
                        // If the lease is over, that is told by an event.
                        it.mark(now, ticket, KEEP_FOR).ok();
                    });
                }
            }
            Action::Deploy { node } if !self.down.contains(&node) => {
                self.deploys += 1;
                self.cluster.with(node, |it, now| {
                    it.release_all(now);
                    it.hand_over(now, ms(2_000));
                });
                self.wants.retain(|(of, _), _| *of != node);
                self.down.insert(node);
                let at = self.cluster.time + ms(2_500);
                self.plan(at, Action::Start { node });
            }
            Action::Crash { node } if !self.down.contains(&node) => {
                self.crashes += 1;
                self.cluster.crash(node);
                self.wants.retain(|(of, _), _| *of != node);
                self.down.insert(node);
                let at = self.cluster.time + ms(self.random.below(20_000));
                self.plan(at, Action::Start { node });
            }
            Action::Start { node } => {
                self.cluster.crash(node);
                self.cluster.start(node, Start::Recovering);
                self.down.remove(&node);
                let tick = (self.cluster.time.as_secs() + 600) / 3_600;
                for tick in tick.saturating_sub(1)..=tick {
                    self.ask_again(node, tick);
                }
            }
            Action::Cut { masks } => {
                self.cuts += 1;
                self.cut = masks;
                self.cluster.lose(move |packet| {
                    let pairs = (0..NODES).flat_map(|a| (0..a).map(move |b| (a, b)));
                    let mut apart = pairs.filter(|(a, b)| group(masks, *a) != group(masks, *b));
                    apart.any(|(a, b)| packet.is_between(a, b))
                });
            }
            Action::Heal => {
                self.cut = [0; 2];
                self.cluster.heal();
            }
            Action::Deploy { .. } | Action::Crash { .. } => {}
        }
    }

    fn ask_again(&mut self, node: usize, tick: u64) {
        if self.told.contains_key(&tick) || self.cluster.time >= HOUR * tick as u32 {
            self.ask(node, tick);
        }
    }

    /// Requests a tick, unless the node knows its outcome.
    fn ask(&mut self, node: usize, tick: u64) {
        let asks = self
            .wants
            .iter()
            .any(|((of, _), it)| *of == node && *it == tick);
        if self.down.contains(&node) || asks || self.known.contains(&(node, tick)) {
            return;
        }
        self.told.entry(tick).or_default();
        let deadline = TTL * 2;
        let ticket = self.cluster.with(node, |it, now| {
            let request = Request {
                is_once: true,
                note: None,
                deadline: Some(now.mono.after(deadline)),
                ..Cluster::request(&format!("report@{tick}"), TTL)
            };
            it.claim(now, request)
        });
        // The ttl fits, and a node has few requests.
        if let Ok(ticket) = ticket {
            self.wants.insert((node, ticket), tick);
        }
    }

    fn follow(&mut self) {
        for (_, node, event) in std::mem::take(&mut self.cluster.log) {
            let (ticket, is_told) = match event {
                Event::Granted { ticket, .. } => {
                    let Some(tick) = self.wants.get(&(node, ticket)) else {
                        continue;
                    };
                    self.told.entry(*tick).or_default().attempts += 1;
                    // Most of the work is short. Some takes longer than a lease.
                    let span = match self.random.percent(60) {
                        true => self.random.below(1_000),
                        false => self.random.below(60_000),
                    };
                    let at = self.cluster.time + ms(span);
                    self.plan(at, Action::Done { node, ticket });
                    continue;
                }
                Event::Marked { ticket } => {
                    if let Some(tick) = self.wants.get(&(node, ticket)) {
                        self.told.entry(*tick).or_default().ran += 1;
                    }
                    self.cluster.release(node, ticket);
                    (ticket, true)
                }
                Event::Done { ticket, .. } => {
                    if let Some(tick) = self.wants.get(&(node, ticket)) {
                        self.told.entry(*tick).or_default().done += 1;
                    }
                    (ticket, true)
                }
                Event::TimedOut { ticket, .. } | Event::Lost { ticket, .. } => (ticket, false),
                Event::MarksRead { may_lack, .. } => {
                    if may_lack {
                        self.may_lack += 1;
                        self.lacked = self.cluster.time;
                    }
                    continue;
                }
                _ => continue,
            };
            let Some(tick) = self.wants.remove(&(node, ticket)) else {
                continue;
            };
            if is_told {
                self.known.insert((node, tick));
            } else {
                let at = self.cluster.time + AGAIN;
                self.plan(at, Action::Due { node, tick });
            }
        }
        let votes = |node: &usize| !self.down.contains(node) && self.cluster.votes(*node);
        let mut groups = [0; 4];
        for node in (0..NODES).filter(votes) {
            groups[group(self.cut, node)] += 1;
        }
        if groups.iter().all(|size| *size < QUORUM) {
            self.no_quorum = self.cluster.time;
        }
    }

    /// Runs until `end`.
    fn run_to(&mut self, end: Duration) {
        loop {
            let next = self.actions.first().copied().filter(|(at, _)| *at <= end);
            let until = next.map_or(end, |(at, _)| at);
            while self.cluster.log.is_empty() && self.cluster.step(until) {}
            let has_news = !self.cluster.log.is_empty();
            if !has_news {
                self.cluster.time = until.max(self.cluster.time);
            }
            self.follow();
            if has_news {
                continue;
            }
            let Some((at, action)) = next else {
                return;
            };
            self.actions.remove(&(at, action));
            self.act(action);
        }
    }
}

/// Returns the group of a node.
fn group(masks: [u8; 2], node: usize) -> usize {
    let bit = |mask: u8| usize::from(mask >> node & 1);
    bit(masks[0]) + 2 * bit(masks[1])
}

/// Runs a year of `hours` ticks, and prints the result.
pub(crate) fn command(seed: u64, hours: u64) -> ExitCode {
    match run(seed, hours) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(line) => {
            println!("seed {seed}: {line}");
            Failure::Safety.into()
        }
    }
}

fn run(seed: u64, hours: u64) -> Result<String, String> {
    let mut year = Year::new(seed);
    year.plan_hour(1);
    let (mut excused, mut repeated, mut untold) = (0, 0, 0);
    for hour in 1..=hours {
        year.plan_hour(hour + 1);
        // The clock that is ten minutes ahead asks before the hour.
        year.run_to(HOUR * hour as u32 + minutes(45));
        let told = year.told.remove(&hour).unwrap_or_default();
        year.known.retain(|(_, tick)| *tick > hour);
        let lacks = year.may_lack > 0 && year.cluster.time <= year.lacked + KEEP_FOR;
        if told.ran > 1 && !lacks {
            return Err(format!("tick {hour} was told twice that it ran: {told:?}"));
        }
        repeated += u64::from(told.attempts > 1);
        untold += u64::from(told.ran == 0 && told.done > 0);
        if told.ran + told.done == 0 {
            // The last requests began a minute ago at most, and a lease has to end before.
            let span = AGAIN + TTL * 3 + minutes(2);
            if year.cluster.time.saturating_sub(year.no_quorum) > span {
                return Err(format!("tick {hour} did not run: {told:?}"));
            }
            excused += 1;
        }
    }
    let Year {
        may_lack,
        deploys,
        crashes,
        cuts,
        ..
    } = year;
    Ok(format!(
        "{hours} ticks, each told once that it ran, but {excused} without a quorum, and {untold} whose \
         holder lost its lease while it marked them; {repeated} with \
         more than one attempt; {deploys} restarts by deploys, {crashes} crashes, {cuts} partitions; \
         {may_lack} times a voter may lack marks"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tick_of_a_month_runs_once() {
        let result = run(7, 30 * 24);
        assert!(result.is_ok(), "{result:?}");
    }
}
