//! A lease as its holder sees it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::clock::Clock;
use lockmesh_proto::epoch::Epoch;
use lockmesh_proto::event::Ticket;
use lockmesh_proto::id::Key;
use lockmesh_proto::time::Instant;

/// The longest that a wait for the end of a lease sleeps at a time: timers do not count the time
/// that the machine was suspended, leases do.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The instant that stands for a lease that is over.
const OVER: Instant = Instant::ZERO;

/// What a guard and the driver share of one lease: until when it is valid. Once anybody has seen
/// it over, it is over for everybody and for good, whatever answer is still on its way.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) ticket: Ticket,
    pub(crate) key: Key,
    pub(crate) epoch: Epoch,
    clock: Clock,
    /// In nanoseconds, as an [`Instant`]. One value: a flag beside it could disagree.
    valid_until: AtomicU64,
    /// Its guard has ended it while it was held. Decides nothing: for the count of those that were
    /// lost.
    was_released: AtomicBool,
    /// Rung at every change.
    changed: Notify,
}

impl Lease {
    pub(crate) fn new(
        ticket: Ticket,
        key: Key,
        epoch: Epoch,
        clock: Clock,
        valid_until: Instant,
    ) -> Self {
        Self {
            ticket,
            key,
            epoch,
            clock,
            valid_until: AtomicU64::new(valid_until.as_nanos()),
            was_released: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Needs no message, no lock and no runtime.
    pub(crate) fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    pub(crate) fn remaining(&self) -> Duration {
        let valid_until = self.valid_until();
        let now = self.clock.mono();
        if now < valid_until {
            return valid_until.since(now);
        }
        if valid_until != OVER {
            // It may have been renewed between the two looks.
            self.change(|until| (now >= until).then_some(OVER));
            return self.valid_until().since(now);
        }
        Duration::ZERO
    }

    /// A quorum has promised more. Answers whether the lease was still valid.
    pub(crate) fn renew(&self, valid_until: Instant) -> bool {
        if !self.is_held() {
            return false;
        }
        self.change(|until| (valid_until > until).then_some(valid_until));
        self.is_held()
    }

    /// Its guard ends it. Answers whether it was held until now.
    pub(crate) fn release(&self) -> bool {
        let was_held = self.is_held();
        self.was_released.store(was_held, Ordering::Relaxed);
        self.end();
        was_held
    }

    pub(crate) fn was_released(&self) -> bool {
        self.was_released.load(Ordering::Relaxed)
    }

    /// It is over.
    pub(crate) fn end(&self) {
        self.change(|_| Some(OVER));
    }

    /// Returns once it is over.
    pub(crate) async fn lost(&self) {
        loop {
            // Before the look: a change after it is not missed.
            let changed = self.changed.notified();
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            // A step of a millisecond: the timer's own resolution.
            let nap = remaining.min(LOOK_EVERY).max(Duration::from_millis(1));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Returns `true` if it was valid for `span` more before it was over.
    pub(crate) async fn lasts(&self, span: Duration) -> bool {
        self.reaches(self.clock.mono().after(span)).await
    }

    /// Returns `true` if it reached `goal` before it was over.
    pub(crate) async fn reaches(&self, goal: Instant) -> bool {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                let until = self.valid_until();
                if until == OVER || until >= goal {
                    return until >= goal;
                }
                changed.await;
            }
        };
        tokio::select! {
            reached = reached => reached,
            () = self.lost() => false,
        }
    }

    fn valid_until(&self) -> Instant {
        let until = Instant::from_nanos(self.valid_until.load(Ordering::SeqCst));
        #[cfg(all(test, feature = "harness"))]
        super::wakeups::after_a_look();
        until
    }

    /// Changes it, unless it is over.
    fn change(&self, to: impl Fn(Instant) -> Option<Instant>) {
        let changed = self
            .valid_until
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |until| {
                let until = Instant::from_nanos(until);
                let to = if until == OVER { None } else { to(until) };
                to.map(Instant::as_nanos)
            });
        if changed.is_ok() {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(valid_for: Duration) -> Lease {
        let clock = Clock::new();
        let key = Key::new("k").unwrap();
        Lease::new(
            Ticket(1),
            key,
            Epoch::new(1),
            clock,
            clock.mono().after(valid_for),
        )
    }

    #[test]
    fn m3_a_lease_that_was_seen_over_stays_over() {
        let lease = lease(Duration::ZERO);
        let far = lease.clock.mono().after(Duration::from_secs(60));
        assert!(!lease.is_held());
        assert!(!lease.renew(far));
        assert!(!lease.is_held());
        assert_eq!(lease.remaining(), Duration::ZERO);
    }

    #[test]
    fn a_renewal_that_comes_in_time_lengthens_and_never_shortens() {
        let lease = lease(Duration::from_secs(60));
        assert!(lease.renew(lease.clock.mono().after(Duration::from_secs(90))));
        assert!(lease.remaining() > Duration::from_secs(60));
        assert!(lease.renew(lease.clock.mono().after(Duration::from_secs(1))));
        assert!(lease.remaining() > Duration::from_secs(60));
        lease.end();
        assert!(!lease.is_held());
    }

    #[tokio::test]
    async fn waiting_for_the_end_returns_once_it_is_over() {
        let lease = std::sync::Arc::new(lease(Duration::from_secs(3_600)));
        let other = lease.clone();
        let waiting = tokio::spawn(async move { other.lost().await });
        lease.end();
        waiting.await.unwrap();
        assert!(!lease.reaches(Instant::from_nanos(1)).await);
    }
}
