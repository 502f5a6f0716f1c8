//! Resolves the names of seeds repeatedly, since their addresses change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::seq::SliceRandom;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The delay before a name is resolved again, while this node has no live peer. It doubles up to
/// `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The delay while this node has a live peer.
const REFRESH: Duration = Duration::from_secs(60);
/// The maximum pause between two contacts with seeds, for a node without live peers.
const DISCOVERY_MAX: Duration = Duration::from_secs(5);
/// The maximum number of nodes that are contacted at once. One that answers knows the others.
const ASKED_MAX: usize = 16;
/// The timeout of a resolver.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resolves the names of seeds to addresses.
///
/// The default is the system's resolver; [`MeshBuilder::resolver`](crate::MeshBuilder::resolver)
/// sets another one.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// Returns all addresses of `seed`, which is `HOST:PORT`.
    ///
    /// A node resolves each name repeatedly while it runs, and uses the last result. A call fails
    /// if it takes more than 10 s or returns no address. After a failure, the node keeps the
    /// addresses that it has and retries.
    ///
    /// # Errors
    /// Any error that prevents resolution. The node logs it.
    ///
    /// # Cancel safety
    /// The node drops the future after 10 s, or when the node ends.
    async fn resolve(&self, seed: &str) -> Result<Vec<SocketAddr>>;
}

/// The system's resolver.
#[derive(Debug)]
pub(crate) struct System;

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, seed: &str) -> Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(seed).await?.collect())
    }
}

/// Called with a seed and an error when it starts to fail, and with `None` when it resolves again.
pub(crate) type Report = Arc<dyn Fn(&str, Option<&Error>) + Send + Sync>;

/// The known addresses of all seeds. The names are resolved until this is dropped.
#[derive(Debug)]
pub(crate) struct Seeds {
    found: watch::Receiver<BTreeMap<String, Vec<SocketAddr>>>,
    is_alone: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Seeds {
    /// Starts to resolve `names`, each `HOST:PORT`. Names that are addresses are known at once.
    pub(crate) fn new(names: Vec<String>, resolver: &Arc<dyn Resolve>, report: &Report) -> Self {
        let (is_alone, alone) = watch::channel(true);
        let mut known = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for name in names {
            match name.parse() {
                Ok(addr) => drop(known.insert(name, vec![addr])),
                Err(_) => drop(unknown.insert(name)),
            }
        }
        let (tell, found) = watch::channel(known);
        let mut tasks = JoinSet::new();
        for name in unknown {
            let (resolver, report) = (resolver.clone(), report.clone());
            let (alone, tell) = (alone.clone(), tell.clone());
            tasks.spawn(follow(name, resolver, report, alone, tell));
        }
        Self {
            found,
            is_alone,
            _tasks: tasks,
        }
    }

    /// Sets whether this node has no live peer. Without one, names are resolved more often.
    pub(crate) fn set_alone(&self, is_alone: bool) {
        self.is_alone.send_if_modified(|was| {
            let is_news = *was != is_alone;
            *was = is_alone;
            is_news
        });
    }

    pub(crate) fn addrs(&self) -> BTreeSet<SocketAddr> {
        self.found.borrow().values().flatten().copied().collect()
    }

    /// Waits until an address may have changed.
    pub(crate) async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            // There are no names to resolve.
            std::future::pending().await
        }
    }
}

/// The schedule of contacts with nodes that gossip does not see: seeds, and members known from
/// votes or earlier gossip. Without it, two parts of a cluster that have forgotten each other would
/// never meet again.
#[derive(Debug)]
pub(crate) struct Discovery {
    interval: Duration,
    backoff: Duration,
    due: Instant,
}

impl Discovery {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            backoff: RETRY_MIN,
            due: Instant::now(),
        }
    }

    /// Resets the backoff, since something may have changed.
    pub(crate) fn start_over(&mut self) {
        self.backoff = RETRY_MIN;
        self.due = Instant::now();
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// Returns when to check again.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        self.due.min(now + self.interval)
    }

    /// Returns the nodes to contact now. A node without live peers contacts up to `ASKED_MAX`, with
    /// backoff. Others contact one in each round.
    pub(crate) fn targets(
        &mut self,
        now: Instant,
        is_alone: bool,
        unseen: BTreeSet<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let mut unseen: Vec<SocketAddr> = unseen.into_iter().collect();
        unseen.shuffle(&mut rand::rng());
        if is_alone {
            let backoff_max = self.interval.clamp(RETRY_MIN, DISCOVERY_MAX);
            self.due = now + self.backoff.min(backoff_max);
            self.backoff = (self.backoff * 2).min(DISCOVERY_MAX);
            unseen.truncate(ASKED_MAX);
        } else {
            self.due = now + self.interval;
            self.backoff = RETRY_MIN;
            unseen.truncate(1);
        }
        unseen
    }
}

/// Resolves one name until the task is aborted.
async fn follow(
    name: String,
    resolver: Arc<dyn Resolve>,
    report: Report,
    mut is_alone: watch::Receiver<bool>,
    tell: watch::Sender<BTreeMap<String, Vec<SocketAddr>>>,
) {
    let mut retry = RETRY_MIN;
    let mut has_failed = false;
    loop {
        let resolved = tokio::time::timeout(PATIENCE, resolver.resolve(&name)).await;
        let resolved = resolved.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        match resolved.and_then(some) {
            Ok(addrs) => {
                if std::mem::take(&mut has_failed) {
                    report(&name, None);
                }
                tell.send_if_modified(|known| {
                    let before = known.insert(name.clone(), addrs.clone());
                    before.as_ref() != Some(&addrs)
                });
            }
            Err(error) if !has_failed => {
                has_failed = true;
                report(&name, Some(&error));
            }
            Err(_) => {}
        }
        let wait = if *is_alone.borrow_and_update() {
            let wait = retry;
            retry = (retry * 2).min(RETRY_MAX);
            wait
        } else {
            retry = RETRY_MIN;
            REFRESH
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = is_alone.changed() => if changed.is_err() { return },
        }
    }
}

/// Returns the addresses sorted and without duplicates, so that results compare equal in any order.
fn some(mut addrs: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
    if addrs.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the name has no address"));
    }
    addrs.sort();
    addrs.dedup();
    Ok(addrs)
}

/// Checks that a seed is `HOST:PORT`, without resolving it.
pub(crate) fn check(seed: &str) -> Result<()> {
    let is_host_and_port = seed.parse::<SocketAddr>().is_ok()
        || seed.rsplit_once(':').is_some_and(|(host, port)| {
            let is_host = !host.is_empty()
                && !host.contains([':', '/'])
                && !host.contains(char::is_whitespace);
            is_host && port.parse::<u16>().is_ok()
        });
    if is_host_and_port {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "it must be HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Fails until `from`, then resolves to another port each minute. Records when it was called.
    #[derive(Debug)]
    struct Late {
        since: Instant,
        from: Duration,
        asked: Mutex<Vec<Duration>>,
    }

    impl Late {
        fn new(from: Duration) -> Arc<Self> {
            Arc::new(Self {
                since: Instant::now(),
                from,
                asked: Mutex::default(),
            })
        }
    }

    #[async_trait]
    impl Resolve for Late {
        async fn resolve(&self, _: &str) -> Result<Vec<SocketAddr>> {
            let at = self.since.elapsed();
            self.asked.lock().unwrap().push(at);
            if at < self.from {
                return Err(ErrorKind::NotFound.into());
            }
            let port = u16::try_from(at.as_secs() / 60).unwrap();
            Ok(vec![addr(2, port), addr(1, port)])
        }
    }

    fn addr(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], port))
    }

    fn unreported() -> Report {
        Arc::new(|_, _| {})
    }

    fn seeds(names: &[&str], resolver: &Arc<Late>) -> Seeds {
        let resolver: Arc<dyn Resolve> = resolver.clone();
        let names = names.iter().map(ToString::to_string).collect();
        Seeds::new(names, &resolver, &unreported())
    }

    #[tokio::test(start_paused = true)]
    async fn late_name_resolves_within_a_second() {
        let late = Late::new(Duration::from_secs(5));
        let mut seeds = seeds(&["late:1", "10.0.0.9:9"], &late);
        assert_eq!(seeds.addrs(), BTreeSet::from([addr(9, 9)]));
        seeds.changed().await;
        let took = late.since.elapsed();
        assert!(took <= late.from + RETRY_MAX, "{took:?}");
        // The name has two addresses.
        let all = [addr(9, 9), addr(1, 0), addr(2, 0)];
        assert_eq!(seeds.addrs(), BTreeSet::from(all));
        let asked = late.asked.lock().unwrap().clone();
        assert_eq!(asked[1] - asked[0], RETRY_MIN);
        assert!(asked.len() < 12, "with backoff: {asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_address_is_followed_within_two_minutes() {
        let late = Late::new(Duration::ZERO);
        let mut seeds = seeds(&["name:1"], &late);
        seeds.changed().await;
        seeds.set_alone(false);
        seeds.changed().await;
        assert!(late.since.elapsed() <= 2 * REFRESH);
        assert_eq!(seeds.addrs(), BTreeSet::from([addr(1, 1), addr(2, 1)]));
        let asked = late.asked.lock().unwrap().len();
        assert!(asked <= 4, "{asked} times");
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_becomes_alone_resolves_at_once() {
        let late = Late::new(Duration::from_secs(30));
        let mut seeds = seeds(&["late:1"], &late);
        seeds.set_alone(false);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(seeds.addrs(), BTreeSet::new());
        let since = Instant::now();
        seeds.set_alone(true);
        seeds.changed().await;
        assert!(since.elapsed() < RETRY_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn address_is_kept_while_its_name_fails() {
        let once = Late::new(Duration::ZERO);
        let mut seeds = seeds(&["once:1"], &once);
        seeds.changed().await;
        let before = seeds.addrs();
        let failing = Arc::new(Late {
            since: Instant::now(),
            from: Duration::MAX,
            asked: Mutex::default(),
        });
        let resolver: Arc<dyn Resolve> = failing.clone();
        let (tell, _) = watch::channel(seeds.found.borrow().clone());
        let task = follow(
            "once:1".to_owned(),
            resolver,
            unreported(),
            watch::channel(true).1,
            tell.clone(),
        );
        let _ = tokio::time::timeout(RETRY_MAX, task).await;
        assert!(!failing.asked.lock().unwrap().is_empty());
        assert_eq!(
            tell.borrow()
                .values()
                .flatten()
                .copied()
                .collect::<BTreeSet<_>>(),
            before
        );
    }

    #[tokio::test(start_paused = true)]
    async fn isolated_node_contacts_many_and_others_one() {
        let mut discovery = Discovery::new(Duration::from_secs(60));
        let many: BTreeSet<SocketAddr> = (0..40).map(|port| addr(1, port)).collect();
        let now = Instant::now();
        assert!(discovery.is_due(now));
        assert_eq!(discovery.targets(now, true, many.clone()).len(), ASKED_MAX);
        assert_eq!(discovery.next(now) - now, RETRY_MIN);
        let mut pause = RETRY_MIN;
        for _ in 0..10 {
            discovery.targets(now, true, many.clone());
            assert!(discovery.next(now) - now >= pause);
            pause = discovery.next(now) - now;
        }
        assert_eq!(pause, DISCOVERY_MAX);
        assert_eq!(discovery.targets(now, false, many.clone()).len(), 1);
        assert_eq!(discovery.next(now) - now, Duration::from_secs(60));
        discovery.start_over();
        assert!(discovery.is_due(now));
        // A short gossip interval bounds the backoff.
        let mut discovery = Discovery::new(Duration::from_millis(200));
        for _ in 0..10 {
            discovery.targets(now, true, many.clone());
        }
        assert_eq!(discovery.next(now) - now, Duration::from_millis(200));
    }

    #[test]
    fn seed_without_host_or_port_is_refused() {
        for seed in ["h:1", "127.0.0.1:9", "[::1]:9", "no-such-host.invalid:1"] {
            assert!(check(seed).is_ok(), "{seed}");
        }
        for seed in [
            "127.0.0.1",
            "localhost:port",
            "",
            ":1",
            "::1:x",
            "a b:1",
            "h:65536",
            "h:",
        ] {
            assert!(check(seed).is_err(), "{seed}");
        }
    }
}
