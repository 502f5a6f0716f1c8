//! Restarts of voters: for how long no lock is granted, and whether a held lock survives.
//!
//! Three voters have a process each. Of the two clients in this process, one asks for a fresh key
//! every 20 ms, and the other holds one lock all along.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use lockmesh::{AcquireError, ClusterSecret, Mesh};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tools::put;

use crate::child::{Child, NodeOrder, clock};
use crate::crashes::ms;
use crate::dirs::{Dirs, Keep};
use crate::locks::{builder, ready, start_node};

const VOTERS: usize = 3;
/// The interval between two requests, each for a key of its own.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// The longest wait of a request. It is longer than a quarantine.
const ASK_AT_MOST: Duration = Duration::from_secs(100);
/// The time before the first restart, and after the last one: longer than the lease of the lock
/// that is held, so that a loss is observed.
const CALM: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(12);
/// The time that a grant may come later than the processes, with a directory.
const LATER_MS: f64 = 100.0;
/// The longest span without a grant, without a directory.
const HANDOVER_MS: f64 = 500.0;

/// A series of restarts. All voters of one restart are ended at once, and started again at once.
struct Scenario {
    what: &'static str,
    signal: Signal,
    restarts: &'static [&'static [usize]],
    /// The time from one restart to the next.
    apart: Duration,
    has_dirs: bool,
}

const EACH: &[&[usize]] = &[&[0], &[1], &[2]];
const ONE: &[usize] = &[0];
const TWO: &[usize] = &[0, 1];
const ALL: &[usize] = &[0, 1, 2];

const SCENARIOS: [Scenario; 9] = [
    Scenario::of("SIGTERM of each, 1 s apart", Signal::TERM, EACH, 1),
    Scenario::of("SIGTERM of each, 5 s apart", Signal::TERM, EACH, 5),
    Scenario::of("SIGTERM of each, 20 s apart", Signal::TERM, EACH, 20),
    Scenario::of("kill -9 of one, five times", Signal::KILL, &[ONE; 5], 3),
    Scenario::of("kill -9 of two, five times", Signal::KILL, &[TWO; 5], 3),
    Scenario::of("kill -9 of all, five times", Signal::KILL, &[ALL; 5], 3),
    Scenario::of("SIGTERM of each, 1 s apart", Signal::TERM, EACH, 1).without_dirs(),
    Scenario::of("SIGTERM of each, 5 s apart", Signal::TERM, EACH, 5).without_dirs(),
    Scenario::of("SIGTERM of each, 20 s apart", Signal::TERM, EACH, 20).without_dirs(),
];

impl Scenario {
    const fn of(
        what: &'static str,
        signal: Signal,
        restarts: &'static [&'static [usize]],
        apart_s: u64,
    ) -> Self {
        Self {
            what,
            signal,
            restarts,
            apart: Duration::from_secs(apart_s),
            has_dirs: true,
        }
    }

    /// The voters have no directory: they hand their memory over.
    const fn without_dirs(self) -> Self {
        Self {
            has_dirs: false,
            ..self
        }
    }
}

/// The cost of restarts. All times are in milliseconds.
#[derive(Debug)]
pub(crate) struct Restarts {
    what: &'static str,
    has_dirs: bool,
    /// Of the restart that delayed grants the longest beyond the absence of its processes: the time
    /// until the last of them ran again, and the longest span without a grant.
    away: f64,
    gap: f64,
    /// The longest time that one request waited.
    wait: f64,
    is_held: bool,
}

impl Restarts {
    fn is_met(&self) -> bool {
        let most = match self.has_dirs {
            true => self.away + LATER_MS,
            false => HANDOVER_MS,
        };
        self.is_held && self.gap <= most
    }

    pub(crate) fn json(&self) -> Value {
        let [away, gap, wait] = [self.away, self.gap, self.wait].map(f64::round);
        json!({
            "what": self.what,
            "has_directories": self.has_dirs,
            "away_ms": away,
            "no_grant_ms": gap,
            "longest_wait_ms": wait,
            "lock_lost": !self.is_held,
        })
    }
}

/// Measures all scenarios, each with processes of its own.
pub(crate) async fn measure() -> anyhow::Result<Vec<Restarts>> {
    let mut measured = Vec::new();
    for scenario in &SCENARIOS {
        let keep = match scenario.has_dirs {
            true => Keep::Process,
            false => Keep::Memory,
        };
        let dirs = Dirs::new(keep)?;
        let restarts = of(scenario, dirs.as_ref()).await;
        measured.push(restarts.context(scenario.what)?);
    }
    Ok(measured)
}

/// Prints a table.
pub(crate) fn print(measured: &[Restarts]) {
    put(&format!(
        "{:<44}{:>10}{:>14}{:>18}{:>10}",
        "restarts", "away, ms", "no grant, ms", "longest wait, ms", "lock"
    ));
    for restarts in measured {
        let Restarts {
            what,
            away,
            gap,
            wait,
            ..
        } = restarts;
        let lock = if restarts.is_held { "held" } else { "lost" };
        let met = match restarts.is_met() {
            true => "  met",
            false => "  NOT MET",
        };
        let without = if restarts.has_dirs {
            ""
        } else {
            ", no directory"
        };
        let what = format!("{what}{without}");
        put(&format!(
            "{what:<44}{away:>10.0}{gap:>14.0}{wait:>18.0}{lock:>10}{met}"
        ));
    }
}

/// The processes of the voters.
struct Voters {
    running: Vec<(Child, NodeOrder)>,
}

impl Voters {
    /// Starts the voters of a new cluster.
    async fn start(secret: &ClusterSecret, dirs: Option<&Dirs>) -> anyhow::Result<Self> {
        let mut running: Vec<(Child, NodeOrder)> = Vec::new();
        for number in 0..VOTERS {
            let mut order = NodeOrder {
                number,
                nodes: VOTERS,
                seeds: running.iter().filter_map(|(_, it)| it.listen).collect(),
                secret: secret.to_base64(),
                listen: None,
                is_new: true,
                data_dir: dirs.map(|dirs| dirs.of(number)),
            };
            let (child, addr, _) = start_node(&order).await?;
            order.listen = Some(addr);
            running.push((child, order));
        }
        let mut voters = Self { running };
        let seeds = voters.addrs();
        for (_, order) in &mut voters.running {
            order.seeds.clone_from(&seeds);
            order.is_new = false;
        }
        Ok(voters)
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        let addrs = self.running.iter().filter_map(|(_, order)| order.listen);
        addrs.collect()
    }

    /// Ends some voters and starts each again. Returns the time until all run again.
    async fn restart(&mut self, numbers: &[usize], signal: Signal) -> anyhow::Result<f64> {
        let ended = clock();
        let chosen = self.running.iter_mut().enumerate();
        let chosen = chosen.filter(|(number, _)| numbers.contains(number));
        let mut ends = Vec::new();
        for (_, (child, order)) in chosen {
            child.signal(signal)?;
            ends.push(async move {
                child.ended().await?;
                (*child, ..) = start_node(order).await?;
                anyhow::Ok(())
            });
        }
        futures_util::future::try_join_all(ends).await?;
        Ok(ms(ended, clock()))
    }
}

async fn of(scenario: &Scenario, dirs: Option<&Dirs>) -> anyhow::Result<Restarts> {
    let secret = ClusterSecret::generate()?;
    let mut voters = Voters::start(&secret, dirs).await?;
    let seeds = voters.addrs();
    let client = |number| builder(number, VOTERS, &seeds, secret.clone()).start();
    let [asks, holds] = [client(VOTERS).await?, client(VOTERS + 1).await?];
    ready(&asks, VOTERS).await?;
    ready(&holds, VOTERS).await?;
    let guard = holds.lock("held").acquire().await?;
    let (stop, stopped) = oneshot::channel();
    let asking = tokio::spawn(ask(asks.clone(), stopped));
    sleep(CALM).await;

    let mut next = Instant::now();
    let mut restarts = Vec::new();
    for numbers in scenario.restarts {
        sleep_until(next).await;
        next += scenario.apart;
        let at = clock();
        restarts.push((at, voters.restart(numbers, scenario.signal).await?));
    }
    sleep(REST).await;
    let _ = stop.send(());
    let asked = asking.await.context("the client broke off")??;
    let is_held = guard.is_held();
    let end = clock();

    let mut grants: Vec<Duration> = asked.iter().filter_map(|(_, granted)| *granted).collect();
    grants.push(end);
    grants.sort_unstable();
    let ends = restarts.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let rounds = restarts.iter().zip(ends).map(|((begin, away), end)| {
        let spans = grants.windows(2).map(|pair| (pair[0], pair[1]));
        let spans = spans.filter(|(from, to)| *from < end && to > begin);
        let gap = spans.map(|(from, to)| ms(from, to)).fold(0.0, f64::max);
        (*away, gap)
    });
    let worst = rounds.max_by(|(away, gap), (away2, gap2)| (gap - away).total_cmp(&(gap2 - away2)));
    let (away, gap) = worst.context("there was no restart")?;
    let waits = asked
        .iter()
        .map(|(asked, at)| ms(*asked, at.unwrap_or(end)));
    asks.shutdown().await;
    holds.shutdown().await;
    Ok(Restarts {
        what: scenario.what,
        has_dirs: scenario.has_dirs,
        away,
        gap,
        wait: waits.fold(0.0, f64::max),
        is_held,
    })
}

/// The times of a request and of its grant, if it was granted.
type Asked = (Duration, Option<Duration>);

/// Asks for fresh keys until it is stopped, whether the earlier ones are granted or not.
async fn ask(mesh: Mesh, mut stopped: oneshot::Receiver<()>) -> anyhow::Result<Vec<Asked>> {
    let mut running = JoinSet::new();
    let mut every = tokio::time::interval(ASK_EVERY);
    for number in 0_u64.. {
        tokio::select! {
            _ = every.tick() => {}
            _ = &mut stopped => break,
        }
        let request = mesh.lock(format!("fresh/{number}"));
        running.spawn(async move {
            let asked = clock();
            match request.acquire_timeout(ASK_AT_MOST).acquire().await {
                Ok(guard) => {
                    let granted = clock();
                    drop(guard);
                    Ok((asked, Some(granted)))
                }
                Err(AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. }) => {
                    Ok((asked, None))
                }
                Err(error) => Err(error),
            }
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}
