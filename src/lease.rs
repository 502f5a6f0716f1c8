//! The lease of a lock, as its holder sees it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Time;
use crate::metrics::LockKind;
use lockmesh_proto::{Epoch, Instant, Key, Note, Ticket};

/// The maximum sleep of a wait for the end of a lease. Timers do not count time in which the
/// machine was suspended, but leases do.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The value of a lease that has ended.
const OVER: Instant = Instant::ZERO;

/// The validity of one lease, shared by its guard and the driver. Once either has seen its end, it
/// has ended for both, whatever reply is still in flight (M3).
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) ticket: Ticket,
    pub(crate) key: Key,
    pub(crate) epoch: Epoch,
    pub(crate) granted_at: Instant,
    pub(crate) kind: LockKind,
    clock: Time,
    /// Nanoseconds, as in [`Instant`]. A single value, since a separate flag could disagree with
    /// it.
    valid_until: AtomicU64,
    /// `true` if the guard ended the lease while it was held. Such a lease does not count as lost,
    /// and a late renewal does not release it again.
    was_released: AtomicBool,
    /// The operator who freed the lock by hand, if any. Set before the lease ends.
    revoked_by: OnceLock<Note>,
    /// Notified at every change.
    changed: Notify,
}

impl Lease {
    pub(crate) fn new(
        ticket: Ticket,
        key: Key,
        epoch: Epoch,
        clock: Time,
        valid_until: Instant,
    ) -> Self {
        Self {
            ticket,
            key,
            epoch,
            granted_at: clock.mono(),
            kind: LockKind::Lock,
            clock,
            valid_until: AtomicU64::new(valid_until.as_nanos()),
            was_released: AtomicBool::new(false),
            revoked_by: OnceLock::new(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn of_kind(mut self, kind: LockKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns `true` if the lease is held. It needs no message, no lock and no runtime.
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
            // The lease may have been renewed between the two reads.
            self.change(|until| (now >= until).then_some(OVER));
            return self.valid_until().since(now);
        }
        Duration::ZERO
    }

    /// Extends the lease after a quorum has promised it. Returns `true` if the lease was still
    /// valid.
    pub(crate) fn renew(&self, valid_until: Instant) -> bool {
        if !self.is_held() {
            return false;
        }
        self.change(|until| (valid_until > until).then_some(valid_until));
        self.is_held()
    }

    /// Ends the lease for its guard. Returns `true` if it was held until now.
    pub(crate) fn release(&self) -> bool {
        let was_held = self.is_held();
        self.was_released.store(was_held, Ordering::Relaxed);
        self.end();
        was_held
    }

    pub(crate) fn was_released(&self) -> bool {
        self.was_released.load(Ordering::Relaxed)
    }

    /// Ends the lease, since its lock was freed by hand.
    pub(crate) fn revoke(&self, by: Note) {
        if self.is_held() {
            // The first to do it counts.
            let _ = self.revoked_by.set(by);
        }
        self.end();
    }

    pub(crate) fn revoked_by(&self) -> Option<&Note> {
        self.revoked_by.get()
    }

    /// Ends the lease.
    pub(crate) fn end(&self) {
        self.change(|_| Some(OVER));
    }

    /// Waits until the lease has ended.
    pub(crate) async fn lost(&self) {
        loop {
            // Created before the check, so that no later change is missed.
            let changed = self.changed.notified();
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            // At least one millisecond, the resolution of the timer.
            let nap = remaining.min(LOOK_EVERY).max(Duration::from_millis(1));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Waits until the lease is valid for another `span`. Returns `false` if it ends first.
    pub(crate) async fn lasts(&self, span: Duration) -> bool {
        self.reaches(self.clock.mono().after(span)).await
    }

    /// Waits until the lease reaches `goal`. Returns `false` if it ends first.
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
        #[cfg(test)]
        crate::engine::wakeups::after_a_look();
        until
    }

    /// Changes the end of the lease, unless it has ended.
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
        let clock = Time::system();
        let key = Key::new("k").unwrap();
        Lease::new(
            Ticket(1),
            key,
            Epoch::new(1),
            clock.clone(),
            clock.mono().after(valid_for),
        )
    }

    /// M3.
    #[test]
    fn expired_lease_is_never_renewed() {
        let lease = lease(Duration::ZERO);
        let far = lease.clock.mono().after(Duration::from_secs(60));
        assert!(!lease.is_held());
        assert!(!lease.renew(far));
        assert!(!lease.is_held());
        assert_eq!(lease.remaining(), Duration::ZERO);
    }

    #[test]
    fn renewal_extends_and_never_shortens_lease() {
        let lease = lease(Duration::from_secs(60));
        assert!(lease.renew(lease.clock.mono().after(Duration::from_secs(90))));
        assert!(lease.remaining() > Duration::from_secs(60));
        assert!(lease.renew(lease.clock.mono().after(Duration::from_secs(1))));
        assert!(lease.remaining() > Duration::from_secs(60));
        lease.end();
        assert!(!lease.is_held());
    }

    #[test]
    fn revoked_lease_names_who_did_it() {
        let ann = || Note::new("ann").unwrap();
        let held = lease(Duration::from_secs(60));
        held.revoke(ann());
        assert!(!held.is_held());
        assert_eq!(held.revoked_by(), Some(&ann()));
        // One that had ended before was not.
        let over = lease(Duration::ZERO);
        over.revoke(ann());
        assert_eq!(over.revoked_by(), None);
    }

    #[tokio::test]
    async fn lost_returns_once_lease_has_ended() {
        let lease = std::sync::Arc::new(lease(Duration::from_secs(3_600)));
        let other = lease.clone();
        let waiting = tokio::spawn(async move { other.lost().await });
        lease.end();
        waiting.await.unwrap();
        assert!(!lease.reaches(Instant::from_nanos(1)).await);
    }
}
