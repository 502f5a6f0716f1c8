//! The patience of tests that wait in real time.
//!
//! An event that a test waits for may be late because it never happens, or because the machine
//! has other work. Patience is therefore counted in wake-ups of a timer, and not by the clock: a
//! machine that is too busy to run the test wakes that timer late, and the test waits for longer.

use std::time::{Duration, Instant};

/// The span between two wake-ups on a machine that has time.
const TICK: Duration = Duration::from_millis(10);
/// So many wake-ups are enough for anything that happens at all.
const TICKS: u32 = 9_000;

/// Counts wake-ups.
#[derive(Debug)]
pub(crate) struct Patience {
    began: Instant,
    ticks: u32,
    latest: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            ticks: 0,
            latest: Duration::ZERO,
        }
    }

    /// Sleeps for a moment.
    ///
    /// # Panics
    /// If the patience is used up.
    #[allow(dead_code, reason = "some tests wait in a runtime only")]
    pub(crate) fn sleep(&mut self, what: &str) {
        let asleep = Instant::now();
        std::thread::sleep(TICK);
        self.woke(asleep.elapsed());
        assert!(!self.is_used_up(), "{what}: {self}");
    }

    /// Returns once the patience is used up.
    #[allow(dead_code, reason = "some tests wait without a runtime only")]
    pub(crate) async fn used_up(mut self) -> Self {
        while !self.is_used_up() {
            let asleep = Instant::now();
            tokio::time::sleep(TICK).await;
            self.woke(asleep.elapsed());
        }
        self
    }

    fn woke(&mut self, slept: Duration) {
        self.ticks += 1;
        self.latest = self.latest.max(slept.saturating_sub(TICK));
    }

    fn is_used_up(&self) -> bool {
        self.ticks >= TICKS
    }
}

impl std::fmt::Display for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            began,
            ticks,
            latest,
        } = self;
        let took = began.elapsed();
        write!(
            f,
            "not in {ticks} wake-ups {TICK:?} apart; they took {took:?}, one was {latest:?} late"
        )
    }
}

/// Waits for `what`. The future is polled only if it was woken, so a wake-up that is lost stays
/// lost.
///
/// # Panics
/// If it does not come.
#[allow(dead_code, reason = "some tests wait without a runtime only")]
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    // A task of its own: its wake-ups are none of the future's.
    let watch = Watch(tokio::spawn(Patience::new().used_up()));
    let mut watch = std::pin::pin!(watch);
    tokio::select! {
        output = future => output,
        patience = &mut watch.as_mut().0 => match patience {
            Ok(patience) => panic!("{what}: {patience}"),
            Err(error) => panic!("{what}: the patience ended with {error}"),
        },
    }
}

/// Ends with the wait.
struct Watch<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
