//! The script of the demo: warm up, partition, heal, crash, restart.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use lockmesh::{AcquireError, Guard, Mesh};
use tokio::task::JoinHandle;

use super::cluster::{Cluster, KEYS, LEASE, MAX_TTL, NODES, WORKERS_PER_NODE};
use super::ledger::{Ledger, Who};
use super::show::{Show, span};

/// The keys that only the script locks.
const CUT_KEY: &str = "night-report";
const CRASH_KEY: &str = "nightly-billing";
const FREE_KEY: &str = "nobody-holds-this";
const PROOF_KEY: &str = "needs-three-votes";
const RETURN_KEY: &str = "after-the-restart";

/// The nodes of the minority, the one of them that holds a lock, and the one that waits for it.
const MINORITY: [usize; 2] = [3, 4];
const CUT_HOLDER: usize = 4;
const CUT_WAITER: usize = 0;
/// The node that crashes, and the one that takes over its lock.
const CRASHED: usize = 1;
const CRASH_WAITER: usize = 2;
/// A minority after the restart: the other three nodes need the restarted node's vote.
const PROOF_MINORITY: [usize; 2] = [0, 2];
const PROOF_NODE: usize = 3;

const TABLE_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);

const START_AT_MOST: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(3);
/// The time limit of a step that only takes round trips on an idle machine.
const SOON: Duration = Duration::from_secs(3);
const ASK_AT_MOST: Duration = Duration::from_millis(1_500);
/// Includes the end of a lease.
const TAKE_OVER_AT_MOST: Duration = Duration::from_secs(6);
/// Includes a quarantine.
const RETURN_AT_MOST: Duration = Duration::from_secs(7);
const CUT_ON: Duration = Duration::from_secs(1);
/// Longer than the interval of renewals.
const HOLD_BEFORE_CRASH: Duration = Duration::from_secs(1);

/// The state of the script.
#[derive(Debug)]
pub(crate) struct Story {
    show: Show,
    ledger: Arc<Ledger>,
    cluster: Cluster,
    deadline: Instant,
    takeover: Option<Duration>,
    table: Option<JoinHandle<()>>,
}

/// A granted lock, and the time of its grant.
struct Succession {
    guard: Arc<Guard>,
    granted_at: Instant,
}

impl Story {
    pub(crate) fn new(
        show: Show,
        ledger: Arc<Ledger>,
        cluster: Cluster,
        deadline: Instant,
    ) -> Self {
        Self {
            show,
            ledger,
            cluster,
            deadline,
            takeover: None,
            table: None,
        }
    }

    /// Runs all phases.
    ///
    /// # Errors
    /// If a step failed or took too long. The ledger has the violations.
    pub(crate) async fn tell(&mut self) -> anyhow::Result<()> {
        self.warm_up().await.context("warm-up")?;
        self.cut_off().await.context("cut")?;
        self.heal().await.context("heal")?;
        self.crash().await.context("crash")?;
        self.restart().await.context("restart")
    }

    /// Returns the time from the crash of a holder to the next grant.
    pub(crate) fn takeover(&self) -> Option<Duration> {
        self.takeover
    }

    /// Stops the table and the cluster.
    pub(crate) async fn stop(self) {
        if let Some(table) = self.table {
            table.abort();
        }
        self.cluster.stop().await;
    }

    async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.show.say(&format!(
            "{NODES} nodes on loopback UDP, sealed with a fresh key; every key needs 3 of 5 votes"
        ));
        self.within(
            "all nodes find each other",
            START_AT_MOST,
            self.cluster.all_ready(),
        )
        .await?;
        for n in 0..NODES {
            self.cluster.employ(n);
        }
        let workers = NODES * WORKERS_PER_NODE;
        self.say(format!(
            "n0 to n4 found each other; {workers} workers fight for {} keys, leases of {LEASE:?}",
            KEYS.len()
        ));
        self.say("an epoch reads: milliseconds since the start, and a counter".to_owned());
        self.table = Some(tokio::spawn(table(self.show, self.ledger.clone())));
        let (began, before) = (Instant::now(), self.ledger.tally().grants);
        tokio::time::sleep(WARM_UP).await;
        let rate = rate(self.ledger.tally().grants - before, began.elapsed());
        self.say(format!(
            "warm: {rate:.0} grants/s, each worker holds for a millisecond"
        ));
        Ok(())
    }

    async fn cut_off(&mut self) -> anyhow::Result<()> {
        let held = self.hold(CUT_HOLDER, CUT_KEY).await?;
        let epoch = self.show.epoch(held.epoch());
        let renewed = held.remaining();
        self.cluster.cut(&MINORITY);
        let cut_at = Instant::now();
        self.show
            .phase("CUT: n3 and n4 reach each other, and nobody else");
        self.say(format!(
            "n4 holds {CUT_KEY} at {epoch}, lease {}",
            span(renewed)
        ));
        let watch = tokio::spawn(watch_end(held.clone()));
        let next = self.succeed(CUT_WAITER, CUT_KEY);
        let before = self.ledger.tally();
        self.ask_in_the_minority().await?;
        let next = self
            .within("a take-over from the minority", TAKE_OVER_AT_MOST, next)
            .await???;
        let lost_at = self.within("a guard that says lost", SOON, watch).await??;
        self.judge_order(cut_at, lost_at, &next);
        let by_then = self.ledger.tally().grants;
        tokio::time::sleep(CUT_ON).await;
        let tally = self.ledger.tally();
        self.say(format!(
            "quorum: {} grants since the cut, {:.0}/s by now; minority: {} requests ended, \
             {} granted",
            tally.grants - before.grants,
            rate(tally.grants - by_then, CUT_ON),
            tally.minority_refusals - before.minority_refusals,
            tally.minority_grants,
        ));
        self.done(CUT_WAITER, CUT_KEY, next.guard).await
    }

    /// Requests a free key on a node that reaches only two voters.
    async fn ask_in_the_minority(&self) -> anyhow::Result<()> {
        let who = story(MINORITY[0]);
        let asked = self.ledger.ask(who.node);
        let request = self
            .cluster
            .node(who.node)
            .lock(FREE_KEY)
            .acquire_timeout(ASK_AT_MOST);
        let answer = self
            .within("an answer in the minority", SOON, request.acquire())
            .await?;
        match answer {
            Ok(guard) => {
                let guard = Arc::new(guard);
                self.ledger
                    .enter(asked, who, FREE_KEY, guard.epoch(), guard.clone());
                bail!("{who} was granted a lock in the minority")
            }
            Err(error @ AcquireError::TimedOut { .. }) => {
                self.ledger.refused(asked);
                self.say(format!("{who} asks for {FREE_KEY}: {error}"));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Checks that the guard in the minority was lost before its key was granted to another node.
    fn judge_order(&self, cut_at: Instant, lost_at: Instant, next: &Succession) {
        let after = |at: Instant| span(at.saturating_duration_since(cut_at));
        self.say(format!(
            "n4's guard says lost {} after the cut; n0 is granted {CUT_KEY} {} after it, at {}",
            after(lost_at),
            after(next.granted_at),
            self.show.epoch(next.guard.epoch())
        ));
        match next.granted_at.checked_duration_since(lost_at) {
            Some(gap) if !gap.is_zero() => {
                self.say(format!(
                    "lost {} before it was granted to another",
                    span(gap)
                ));
            }
            _ => self
                .ledger
                .violation(format!("{CUT_KEY} was granted before it was lost")),
        }
    }

    async fn heal(&mut self) -> anyhow::Result<()> {
        self.show.phase("HEAL: all links are back");
        let before = MINORITY.map(|n| self.ledger.grants_of(n));
        let healed_at = Instant::now();
        self.cluster.heal();
        let granted = async {
            for (n, before) in MINORITY.into_iter().zip(before) {
                while self.ledger.grants_of(n) == before {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        self.within("locks for n3 and n4", SOON, granted).await?;
        self.say(format!(
            "n3 and n4 are granted locks again, {}",
            span(healed_at.elapsed())
        ));
        tokio::time::sleep(CUT_ON).await;
        Ok(())
    }

    async fn crash(&mut self) -> anyhow::Result<()> {
        let held = self.hold(CRASHED, CRASH_KEY).await?;
        let next = self.succeed(CRASH_WAITER, CRASH_KEY);
        tokio::time::sleep(HOLD_BEFORE_CRASH).await;
        if !held.is_held() {
            bail!("n1 lost {CRASH_KEY} before it crashed; is the machine overloaded?");
        }
        let (crashed_at, left) = (Instant::now(), held.remaining());
        self.cluster.crash(CRASHED).await;
        self.show.phase("CRASH: n1 is gone, without a word");
        self.say(format!(
            "it held {CRASH_KEY} at {}, and its lease has {} left; n2 waits for it",
            self.show.epoch(held.epoch()),
            span(left)
        ));
        let next = self.within("a take-over from a crashed holder", TAKE_OVER_AT_MOST, next);
        let next = next.await???;
        let takeover = next.granted_at.saturating_duration_since(crashed_at);
        self.takeover = Some(takeover);
        self.say(format!(
            "n2 takes over {} after the crash, {} after the end of the lease, at {}",
            span(takeover),
            span(takeover.saturating_sub(left)),
            self.show.epoch(next.guard.epoch())
        ));
        self.done(CRASH_WAITER, CRASH_KEY, next.guard).await
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.show
            .phase("RESTART: n1 is back under its id, without its memory");
        let began = Instant::now();
        self.cluster.restart(CRASHED).await?;
        let mesh = self.cluster.node(CRASHED);
        match mesh.status().quarantine {
            Some(left) => self.say(format!(
                "it may have voted before (leases of up to {MAX_TTL:?}): it is in recovery for {}",
                span(left)
            )),
            None => bail!("n1 votes at once, and may have voted before"),
        }
        self.cluster.employ(CRASHED);
        let first = self.take(CRASHED, RETURN_KEY);
        self.within("a lock for n1", SOON, first).await??;
        self.say(format!(
            "by the votes of the others it has a lock, {}",
            span(began.elapsed())
        ));
        self.within("n1 votes again", RETURN_AT_MOST, votes(&mesh))
            .await?;
        self.say(format!("its quarantine is over, {}", span(began.elapsed())));
        self.within("all nodes find each other", SOON, self.cluster.all_ready())
            .await?;
        self.cluster.cut(&PROOF_MINORITY);
        let proof = self.take(PROOF_NODE, PROOF_KEY);
        let proof = self.within("a lock by the vote of n1", SOON, proof).await;
        self.cluster.heal();
        proof??;
        self.say(
            "with n0 and n2 cut off, n3 is granted a lock: n1's was the third vote".to_owned(),
        );
        Ok(())
    }

    /// Acquires `key` on node `n` and keeps it.
    async fn hold(&self, n: usize, key: &'static str) -> anyhow::Result<Arc<Guard>> {
        let taken = acquire(self.cluster.node(n), self.ledger.clone(), n, key);
        let taken = self
            .within(&format!("n{n} acquires {key}"), SOON, taken)
            .await??;
        Ok(taken.guard)
    }

    /// Acquires `key` on node `n` and releases it.
    async fn take(&self, n: usize, key: &'static str) -> anyhow::Result<()> {
        let taken = acquire(self.cluster.node(n), self.ledger.clone(), n, key).await?;
        self.done(n, key, taken.guard).await
    }

    /// Acquires `key` on node `n` in the background.
    fn succeed(&self, n: usize, key: &'static str) -> JoinHandle<anyhow::Result<Succession>> {
        tokio::spawn(acquire(self.cluster.node(n), self.ledger.clone(), n, key))
    }

    async fn done(&self, n: usize, key: &'static str, guard: Arc<Guard>) -> anyhow::Result<()> {
        self.ledger.leave(story(n), key, guard.epoch());
        let guard = Arc::into_inner(guard).ok_or_else(|| anyhow!("the ledger kept a guard"))?;
        guard
            .release()
            .await
            .with_context(|| format!("n{n} releases {key}"))
    }

    async fn within<F: Future>(
        &self,
        what: &str,
        at_most: Duration,
        step: F,
    ) -> anyhow::Result<F::Output> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let at_most = at_most.min(left);
        let done = tokio::time::timeout(at_most, step).await;
        done.map_err(|_| anyhow!("{what}: not done in {}", span(at_most)))
    }

    fn say(&self, text: String) {
        self.show.say(&format!("  {text}"));
    }
}

/// Returns the script on a node, as a requester.
fn story(node: usize) -> Who {
    Who { node, worker: None }
}

async fn acquire(
    mesh: Mesh,
    ledger: Arc<Ledger>,
    n: usize,
    key: &'static str,
) -> anyhow::Result<Succession> {
    let asked = ledger.ask(n);
    let guard = Arc::new(mesh.lock(key).acquire().await?);
    let granted_at = Instant::now();
    ledger.enter(asked, story(n), key, guard.epoch(), guard.clone());
    Ok(Succession { guard, granted_at })
}

async fn votes(mesh: &Mesh) {
    while mesh.status().quarantine.is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns the instant from which the guard is lost. On a busy machine the check is late, so the
/// end is also computed from the remaining lease. Its upper bound is the time after a reading plus
/// the remaining lease.
async fn watch_end(guard: Arc<Guard>) -> Instant {
    let mut end: Option<Instant> = None;
    loop {
        let before = Instant::now();
        let remaining = guard.remaining();
        let after = Instant::now();
        if remaining.is_zero() {
            return end.map_or(after, |end| end.min(after));
        }
        // If the lease ends later than before, it has been renewed.
        let is_renewed = end.is_some_and(|end| before + remaining > end);
        let latest = after + remaining;
        end = Some(
            end.filter(|_| !is_renewed)
                .map_or(latest, |end| end.min(latest)),
        );
        tokio::time::sleep(LOOK_EVERY.min(remaining)).await;
    }
}

/// Prints the holders once a second.
async fn table(show: Show, ledger: Arc<Ledger>) {
    let mut grants = ledger.tally().grants;
    loop {
        let since = Instant::now();
        tokio::time::sleep(TABLE_EVERY).await;
        let now = ledger.tally().grants;
        show.table(rate(now - grants, since.elapsed()), &ledger.rows(&KEYS));
        grants = now;
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of grants, for show")]
    let count = count as f64;
    count / elapsed.as_secs_f64()
}
