//! The figures of a measurement, its setup, and its goals.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use super::crashes::Crashes;
use super::held::{KEPT, Kept, REMEMBERED};
use super::turns::{Contended, Count};
use super::{Args, GOAL_NODES, GOAL_TASKS, SLICE};
use tools::put;

/// The figures; `None` for those that were not measured.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) one: Option<One>,
    pub(crate) five: Option<One>,
    /// The number of retransmissions of bare rounds, including warm-up.
    pub(crate) rounds_lost: u64,
    pub(crate) rounds: Option<Count>,
    /// With all tasks at one node.
    pub(crate) cycles: Option<Count>,
    /// With the tasks spread over the nodes.
    pub(crate) spread: Option<Count>,
    pub(crate) contended: Option<Contended>,
    pub(crate) crashes: Option<Crashes>,
    /// Bytes at a voter for each lock.
    pub(crate) memory: Option<f64>,
    pub(crate) kept: Option<Kept>,
}

/// Latencies of one operation at a time.
#[derive(Debug)]
pub(crate) struct One {
    pub(crate) nodes: usize,
    /// The number of replies that end a bare round.
    pub(crate) replies: u32,
    /// Bare rounds, in nanoseconds; empty if they were not measured.
    pub(crate) floor: Histogram<u64>,
    /// Acquisitions, in nanoseconds.
    pub(crate) acquire: Histogram<u64>,
}

impl One {
    fn ratio(&self) -> Option<f64> {
        (!self.floor.is_empty()).then(|| micros(&self.acquire, 0.5) / micros(&self.floor, 0.5))
    }

    fn print(&self) {
        let (nodes, peers) = (self.nodes, self.nodes - 1);
        put(&format!(
            "\n{:<45} p50 us    p99 us  p99.9 us     count",
            format!("one at a time, {nodes} voters")
        ));
        let row = |name: &str, of: &Histogram<u64>| {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| micros(of, quantile));
            let count = of.len();
            put(&format!(
                "  {name:<42} {p50:>7.1}  {p99:>8.1}  {p999:>8.1}  {count:>8}"
            ));
        };
        if !self.floor.is_empty() {
            let name = format!("bare round, done at reply {} of {peers}", self.replies);
            row(&name, &self.floor);
        }
        row("try_acquire, a fresh key each", &self.acquire);
    }
}

/// A figure and its goal.
struct Goal {
    what: &'static str,
    /// The name of the figure in JSON.
    name: &'static str,
    is: Option<f64>,
    at_least: bool,
    bound: f64,
}

impl Goal {
    fn at_most(what: &'static str, name: &'static str, bound: f64, is: Option<f64>) -> Self {
        Self {
            what,
            name,
            is,
            at_least: false,
            bound,
        }
    }

    fn at_least(what: &'static str, name: &'static str, bound: f64, is: Option<f64>) -> Self {
        Self {
            at_least: true,
            ..Self::at_most(what, name, bound, is)
        }
    }

    fn is_met(&self) -> Option<bool> {
        self.is.map(|is| {
            if self.at_least {
                is >= self.bound
            } else {
                is <= self.bound
            }
        })
    }
}

impl Figures {
    fn goals(&self) -> [Goal; 6] {
        [
            Goal::at_most(
                "W1 acquire p50 / bare round p50",
                "acquire_ratio",
                1.3,
                self.one.as_ref().and_then(One::ratio),
            ),
            Goal::at_most(
                "W1 the same with five voters",
                "acquire5_ratio",
                1.3,
                self.five.as_ref().and_then(One::ratio),
            ),
            Goal::at_least(
                "W2 cycles/s / (bare rounds/s / 2)",
                "cycles_ratio",
                3.0,
                self.cycles_ratio(self.cycles),
            ),
            Goal::at_least(
                "W3 hand-offs/s x acquire p50",
                "handoff_ratio",
                0.5,
                self.handoff_ratio(),
            ),
            Goal::at_least(
                "W3 Jain's index",
                "jain",
                0.99,
                self.contended.as_ref().map(Contended::jain),
            ),
            Goal::at_most(
                "W5 CPU of 10,000 cycles / 20,000 rounds",
                "cpu_ratio",
                1.0,
                self.cpu_ratio(),
            ),
        ]
    }

    /// Returns the goals of the figures that have no floor.
    fn goals_alone(&self) -> [Goal; 4] {
        let crashes = self.crashes.as_ref();
        [
            Goal::at_most(
                "W4 take-over after the lease's end, ms",
                "takeover_ms",
                20.0,
                crashes.map(|of| median(&of.after_end)),
            ),
            Goal::at_most(
                "W4 grant after the holder's return, ms",
                "return_ms",
                20.0,
                crashes.map(|of| median(&of.after_return)),
            ),
            Goal::at_most(
                "memory at a voter for each lock, bytes",
                "lock_bytes",
                200.0,
                self.memory,
            ),
            Goal::at_most(
                "datagrams/s to a voter for 100,000 locks",
                "keep_datagrams_per_s",
                50.0,
                self.kept.and_then(|kept| kept.datagrams_per_s()),
            ),
        ]
    }

    pub(crate) fn print(&self, args: &Args) {
        print_setup(args);
        for one in [&self.one, &self.five].into_iter().flatten() {
            one.print();
        }
        self.print_many(args);
        if let Some(contended) = &self.contended {
            put(&format!(
                "\none key, {} waiters on {} nodes, no work inside\n  hand-offs to another task \
                 {:>24.0}/s\n  of {} grants",
                contended.grants.len(),
                args.nodes,
                contended.handoffs.per_s(),
                contended.grants.iter().sum::<u64>(),
            ));
        }
        self.print_alone();
        if self.rounds.is_some() || self.one.is_some() {
            put(&format!(
                "\n{} bare rounds were lost and asked again.",
                self.rounds_lost
            ));
        }
        self.print_goals(args);
        if args.json {
            put(&Value::Object(self.json(args)).to_string());
        }
    }

    fn print_many(&self, args: &Args) {
        let (Some(rounds), Some(cycles)) = (&self.rounds, &self.cycles) else {
            return;
        };
        put(&format!(
            "\n{:<46} per s   CPU s/10,000",
            format!("{} at once", args.tasks)
        ));
        let row = |name: &str, of: &Count| {
            put(&format!(
                "  {name:<40} {:>9.0}  {:>13.3}",
                of.per_s(),
                of.cpu_each() * 1e4
            ));
        };
        row("bare rounds, a socket for each", rounds);
        row("acquire + release, all at one node", cycles);
        if let Some(spread) = &self.spread {
            put(&format!(
                "  {:<40} {:>9.0}",
                "acquire + release, spread over the nodes",
                spread.per_s()
            ));
        }
    }

    fn print_alone(&self) {
        if let Some(crashes) = &self.crashes {
            put("\na holder's process is killed; ttl 2 s, ms until the waiter has the lock");
            for (name, of) in [
                ("from the lease's end", &crashes.after_end),
                ("from the return of the holder", &crashes.after_return),
            ] {
                let each: Vec<String> = of.iter().map(|ms| format!("{ms:>8.1}")).collect();
                put(&format!("  {name:<32}{}", each.concat()));
            }
        }
        if let Some(bytes) = self.memory {
            put(&format!(
                "\n{bytes:.0} bytes at a voter for each of {REMEMBERED} locks with keys of 16 bytes"
            ));
        }
        match self.kept.map(|kept| (kept.datagrams_per_s(), kept.lost)) {
            Some((Some(kept), _)) => put(&format!(
                "\n{kept:.0} datagrams/s to each voter keep {KEPT} locks of one node, ttl 10 s"
            )),
            Some((None, lost)) => put(&format!(
                "\n{lost} of {KEPT} locks of one node were lost while it was to keep them: the \
                 goal for its datagrams is not met"
            )),
            None => {}
        }
    }

    fn print_goals(&self, args: &Args) {
        put(&format!(
            "\n{:<44} {:>9} {:>10}  met",
            "what", "goal", "measured"
        ));
        // The goals apply to one load. For any other load there is only the figure.
        let is_theirs = args.nodes == GOAL_NODES && args.tasks == GOAL_TASKS && args.keys.is_none();
        for goal in self.goals().into_iter().chain(self.goals_alone()) {
            let Some(is) = goal.is else { continue };
            let sign = if goal.at_least { ">=" } else { "<=" };
            let met = match goal.is_met() {
                _ if !is_theirs => "(another load)",
                Some(true) => "yes",
                _ => "no",
            };
            let bound = format!("{sign} {}", goal.bound);
            put(&format!("{:<44} {bound:>9} {is:>10.2}  {met}", goal.what));
        }
    }

    fn cycles_ratio(&self, cycles: Option<Count>) -> Option<f64> {
        Some(cycles?.per_s() / (self.rounds?.per_s() / 2.0))
    }

    fn cpu_ratio(&self) -> Option<f64> {
        Some(self.cycles?.cpu_each() / (2.0 * self.rounds?.cpu_each()))
    }

    /// Returns the number of hand-offs in the time of an uncontended acquisition.
    fn handoff_ratio(&self) -> Option<f64> {
        let acquire = micros(&self.one.as_ref()?.acquire, 0.5) / 1e6;
        Some(self.contended.as_ref()?.handoffs.per_s() * acquire)
    }

    fn json(&self, args: &Args) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("nodes".to_owned(), args.nodes.into());
        json.insert("tasks".to_owned(), args.tasks.into());
        let keys = args.keys.unwrap_or_else(|| args.tasks.into());
        json.insert("keys".to_owned(), keys.into());
        json.insert("in_process".to_owned(), args.in_process.into());
        json.insert("runtime".to_owned(), args.runtime.name().into());
        let mut put = |name: &str, figure: Option<f64>| {
            if let Some(figure) = figure {
                let thousandths = (figure * 1e3).round() / 1e3;
                json.insert(name.to_owned(), thousandths.into());
            }
        };
        for goal in self.goals().into_iter().chain(self.goals_alone()) {
            put(goal.name, goal.is);
        }
        for (one, five) in [(&self.one, ""), (&self.five, "5")] {
            let Some(one) = one else { continue };
            for (quantile, p) in [(0.5, "p50"), (0.99, "p99")] {
                let us = |of| micros(of, quantile);
                put(&format!("acquire{five}_{p}_us"), Some(us(&one.acquire)));
                if !one.floor.is_empty() {
                    put(&format!("floor{five}_{p}_us"), Some(us(&one.floor)));
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count, for show")]
        put("keep_lost", self.kept.map(|kept| kept.lost as f64));
        let per_s = |of: Option<Count>| of.map(|of| of.per_s().round());
        put("floor_rounds_per_s", per_s(self.rounds));
        put("cycles_per_s", per_s(self.cycles));
        put("cycles_spread_per_s", per_s(self.spread));
        put("cycles_spread_ratio", self.cycles_ratio(self.spread));
        let handoffs = self.contended.as_ref().map(|of| of.handoffs);
        put("handoffs_per_s", per_s(handoffs));
        let cpu = |of: Option<Count>, n: f64| of.map(|of| of.cpu_each() * n);
        put("cpu_s_per_10k_cycles", cpu(self.cycles, 1e4));
        put("cpu_s_per_20k_rounds", cpu(self.rounds, 2e4));
        json
    }
}

fn print_setup(args: &Args) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let span = Duration::from_secs_f64(args.seconds);
    let place = if args.in_process {
        "tasks of one process"
    } else {
        "a process each, the first of them this one"
    };
    put(&format!(
        "{} sealed nodes, and as many bare peers that echo: {place}; {} runtime, {cores} cores, \
         loopback UDP.\nEach measurement {span:?}, in slices of {:?} that take turns with those \
         of its floor.",
        args.nodes,
        args.runtime.name(),
        SLICE.min(span),
    ));
}

/// Returns the median of an odd number of figures.
pub(super) fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(super) fn micros(of: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(of.value_at_quantile(quantile)).as_secs_f64() * 1e6
}
