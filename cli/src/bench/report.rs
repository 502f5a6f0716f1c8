//! What came of a measurement, and how it was made.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) nodes: usize,
    pub(crate) tasks: usize,
    pub(crate) keys: usize,
    /// How many replies ended a bare round.
    pub(crate) replies: u32,
    pub(crate) span: Duration,
    pub(crate) slice: Duration,
    /// A bare round, in nanoseconds.
    pub(crate) floor: Histogram<u64>,
    /// An acquisition, in nanoseconds.
    pub(crate) acquire: Histogram<u64>,
    /// How many bare rounds had to ask again, warm-up included.
    pub(crate) rounds_lost: u64,
    pub(crate) rounds_per_s: f64,
    pub(crate) cycles_per_s: f64,
}

impl Figures {
    pub(crate) fn print(&self, json: bool) {
        use crate::demo::put;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        put(&format!(
            "{} sealed nodes, and {} bare echoing peers, as tasks of one process on {cores} cores, \
             loopback UDP.\nEach measurement {:?}, in slices of {:?} that take turns with those of \
             its floor.\n",
            self.nodes,
            self.nodes - 1,
            self.span,
            self.slice,
        ));
        put("one at a time                           p50 us    p99 us     count");
        let row = |name: &str, of: &Histogram<u64>| {
            let (p50, p99) = (micros(of, 0.5), micros(of, 0.99));
            put(&format!(
                "  {name:<36} {p50:>7.1}  {p99:>8.1}  {:>8}",
                of.len()
            ));
        };
        let peers = self.nodes - 1;
        row(
            &format!("bare round, done at reply {} of {peers}", self.replies),
            &self.floor,
        );
        row("try_acquire, a fresh key each", &self.acquire);
        put(&format!(
            "  acquire p50 / bare round p50         {:>7.2}\n",
            self.acquire_ratio()
        ));
        put(&format!(
            "{} at once                                per s",
            self.tasks
        ));
        put(&format!(
            "  bare rounds, a socket for each       {:>9.0}",
            self.rounds_per_s
        ));
        put(&format!(
            "  {:<36} {:>9.0}",
            format!("acquire + release, on {} keys", self.keys),
            self.cycles_per_s
        ));
        put(&format!(
            "  cycles / (bare rounds / 2)           {:>9.2}",
            self.cycles_ratio()
        ));
        put(&format!(
            "\n{} bare rounds were lost and asked again.",
            self.rounds_lost
        ));
        if json {
            put(&self.json().to_string());
        }
    }

    fn acquire_ratio(&self) -> f64 {
        micros(&self.acquire, 0.5) / micros(&self.floor, 0.5)
    }

    fn cycles_ratio(&self) -> f64 {
        self.cycles_per_s / (self.rounds_per_s / 2.0)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "nodes": self.nodes,
            "tasks": self.tasks,
            "keys": self.keys,
            "acquire_ratio": hundredths(self.acquire_ratio()),
            "cycles_ratio": hundredths(self.cycles_ratio()),
            "acquire_p50_us": hundredths(micros(&self.acquire, 0.5)),
            "acquire_p99_us": hundredths(micros(&self.acquire, 0.99)),
            "floor_p50_us": hundredths(micros(&self.floor, 0.5)),
            "floor_p99_us": hundredths(micros(&self.floor, 0.99)),
            "cycles_per_s": self.cycles_per_s.round(),
            "floor_rounds_per_s": self.rounds_per_s.round(),
        })
    }
}

fn micros(of: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(of.value_at_quantile(quantile)).as_secs_f64() * 1e6
}

fn hundredths(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}
