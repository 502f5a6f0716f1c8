//! Timeouts of tests that wait in real time.
//!
//! A timeout counts wake-ups of a timer instead of time. A machine that is too busy to run the
//! test wakes that timer late, so the test waits longer.

use std::time::{Duration, Instant};

/// The time between two wake-ups on an idle machine.
const TICK: Duration = Duration::from_millis(10);
/// The number of wake-ups after which a test fails.
const TICKS: u32 = 9_000;

/// A timeout, counted in wake-ups.
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

    /// Sleeps for one tick.
    ///
    /// # Panics
    /// Panics if all wake-ups are used up.
    #[allow(dead_code, reason = "some tests wait in a runtime only")]
    pub(crate) fn sleep(&mut self, what: &str) {
        let asleep = Instant::now();
        std::thread::sleep(TICK);
        self.woke(asleep.elapsed());
        assert!(!self.is_used_up(), "{what}: {self}");
    }

    /// Returns once all wake-ups are used up.
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

/// Waits for `future`. It is polled only when it was woken, so a lost wake-up is not masked.
///
/// # Panics
/// Panics with `what` if the future is not ready in time.
#[allow(dead_code, reason = "some tests wait without a runtime only")]
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    // The timer runs in a task of its own, so its wake-ups do not poll the future.
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

/// Aborts the timer task when the wait ends.
struct Watch<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
