//! The state that handles, guards and the driver of one mesh share: the node behind a mutex, and
//! the socket.
//!
//! A caller locks the engine, submits its request, drains the node, takes its turn at the socket,
//! unlocks the engine and sends. There is no queue to a task in between, so there is no task switch
//! from `acquire` to the socket. No caller waits for anything else while it has the lock.
//!
//! If several callers were notified at once, they will make their next requests at about the same
//! time, and are batched. Their requests stay in the [inbox] while one of them, the
//! combiner, lets the others run once. It then submits all of them, and sends shared datagrams
//! instead of one for each. No timer is involved. Datagrams that arrive while the engine is locked
//! go the same way.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

mod combiner;
pub(crate) mod core;
pub(crate) mod driver;
pub(crate) mod inbox;
#[cfg(test)]
pub(crate) mod wakeups;

use self::combiner::Leading;
use self::core::{Core, GossipIn};
use self::inbox::{Ask, Inbox, Lead};
use crate::clock::Time;
use crate::status::Health;
use crate::transport::Transport;
use lockmesh_proto::{Instant, Node, Now, Ticket};

/// The number of callers in one turn from which callers are batched.
const COMPANY: usize = 2;
/// The number of turns with one caller after which batching stops.
const LONELY_TURNS: usize = 8;
/// The maximum number of turns that one combiner takes for others.
const TURNS_MAX: usize = 16;

pub(crate) struct Engine {
    pub(crate) clock: Time,
    transport: Arc<dyn Transport>,
    core: Mutex<Core>,
    inbox: Inbox,
    /// The number of turns for which callers are still batched.
    company: AtomicUsize,
    /// The last ticket of a claim.
    ticket: AtomicU64,
    /// The turn to send. Locked while the core is locked, never the other way around.
    turn: Mutex<()>,
    alarm: Mutex<Alarm>,
    pub(crate) health: watch::Sender<Health>,
    /// Notified if the node's next timeout is due before the driver wakes.
    pub(crate) earlier: Notify,
}

#[derive(Clone, Copy)]
struct Alarm {
    /// The next timeout of the node.
    next: Option<Instant>,
    /// The time at which the driver wakes.
    wakes_at: Instant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(
        clock: Time,
        transport: Arc<dyn Transport>,
        node: Node,
        gossip: GossipIn,
    ) -> Self {
        Self {
            clock,
            transport,
            core: Mutex::new(Core::new(node, gossip)),
            inbox: Inbox::default(),
            company: AtomicUsize::new(0),
            ticket: AtomicU64::new(0),
            turn: Mutex::new(()),
            alarm: Mutex::new(Alarm {
                next: None,
                wakes_at: Instant::ZERO,
            }),
            health: watch::Sender::new(Health::NoQuorum),
            earlier: Notify::new(),
        }
    }

    /// Calls `ask` on the node after the requests of others, and sends the output.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&mut Core, Now) -> T) -> T {
        let mut core = self.lock();
        let now = core.submit(&self.clock, &self.inbox);
        let answer = ask(&mut core, now);
        self.turn(core);
        answer
    }

    /// Returns a ticket for a claim.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.ticket.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Submits a request to the node. If callers are batched, it is sent with the requests of
    /// others. Returns `Some` if this caller is the combiner: it must await or drop the value.
    pub(crate) fn ask(&self, ask: Ask) -> Option<Leading<'_>> {
        if self.company.load(Ordering::Relaxed) == 0 {
            self.with(|core, now| core.take(now, ask));
            return None;
        }
        match self.inbox.push(ask) {
            Lead::Another => None,
            Lead::Later(number) => Some(Leading::new(self, number)),
            Lead::Now => {
                self.take_turns();
                None
            }
        }
    }

    /// Submits and sends all requests for the combiner with this number. Does nothing if there is
    /// another combiner, or if they were submitted already.
    fn lead(&self, number: u64) {
        if self.inbox.begin(number) {
            self.take_turns();
        }
    }

    /// Handles received datagrams. Returns `None` if the engine is locked: then they must be
    /// [left](Engine::leave) in the inbox.
    pub(crate) fn hear<T>(&self, take: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => self.stop(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if self.inbox.has_room() => return None,
            Err(TryLockError::WouldBlock) => self.lock(),
        };
        if core.has_failed {
            return None;
        }
        // Requests of callers are left to the combiner: more may come and share a datagram.
        core.submit_unless_combined(&self.clock, &self.inbox);
        let taken = take(&mut core);
        self.turn(core);
        Some(taken)
    }

    /// Returns `true` if the mesh has stopped after a panic.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Leaves datagrams to the caller that has the engine lock.
    pub(crate) fn leave(&self, datagrams: Vec<Ask>) {
        if !datagrams.is_empty() && self.inbox.push_datagrams(datagrams) {
            self.take_turns();
        }
    }

    /// Takes turns at the node while others need them. After `TURNS_MAX` turns the driver
    /// continues, if there is one.
    fn take_turns(&self) {
        for turns in 1.. {
            let mut core = self.lock();
            let has_driver = !core.is_shut_down;
            core.submit(&self.clock, &self.inbox);
            self.turn(core);
            #[cfg(test)]
            wakeups::after_a_turn(self);
            if !self.inbox.goes_on() {
                return;
            }
            if turns >= TURNS_MAX && has_driver {
                break;
            }
        }
        self.inbox.stop();
        self.earlier.notify_one();
    }

    /// Takes one turn: drains the node, records its next timeout, notifies callers and sends.
    fn turn(&self, mut core: MutexGuard<'_, Core>) {
        if core.has_failed {
            return;
        }
        let mut datagrams = Vec::new();
        let next = core.drain(&self.clock, &mut datagrams);
        let is_earlier = self.sleeps_beyond(next);
        let company = match core.callers() {
            _ if core.is_shut_down => Some(0),
            0 => None,
            callers if callers < COMPANY => {
                Some(self.company.load(Ordering::Relaxed).saturating_sub(1))
            }
            _ => Some(LONELY_TURNS),
        };
        if let Some(company) = company {
            self.company.store(company, Ordering::Relaxed);
        }
        let failed = if datagrams.is_empty() {
            notify(core);
            0
        } else {
            self.send(core, &datagrams)
        };
        if failed > 0 {
            self.lock().count_failed(failed);
        }
        if is_earlier {
            self.earlier.notify_one();
        }
    }

    /// Sends without the engine lock, but in the order in which the node made the datagrams.
    /// Returns the number that the system did not accept.
    ///
    /// A renewal sent after the release of the same lock would get votes again. Meanwhile, a `try`
    /// request of another node would be denied.
    fn send(&self, core: MutexGuard<'_, Core>, datagrams: &[(SocketAddr, Vec<u8>)]) -> usize {
        let in_turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        notify(core);
        let failed = datagrams
            .iter()
            .filter(|(to, bytes)| self.transport.try_send(*to, bytes).is_err())
            .count();
        drop(in_turn);
        failed
    }

    /// Records the next timeout of the node. Returns `true` if it is due before the driver wakes.
    fn sleeps_beyond(&self, next: Option<Instant>) -> bool {
        let mut alarm = self.alarm();
        alarm.next = next;
        let next = next.unwrap_or(Instant::FAR);
        let is_earlier = next < alarm.wakes_at;
        alarm.wakes_at = alarm.wakes_at.min(next);
        is_earlier
    }

    /// Returns how long to set the alarm of the driver for, at most `at_most`.
    ///
    /// - `None` if the alarm can stay at `alarm`: an early alarm costs less than setting one.
    /// - Zero if there is work now. Either the node's timeout is due, or `alarm` has passed and did
    ///   not fire, since a datagram came first.
    pub(crate) fn nap(&self, alarm: &mut Instant, at_most: Duration) -> Option<Duration> {
        let mut wanted = self.alarm();
        let now = self.clock.mono();
        let latest = now.after(at_most);
        let next = wanted.next.unwrap_or(latest).min(latest);
        let has_passed = *alarm != Instant::ZERO && *alarm <= now;
        if next <= now || has_passed {
            *alarm = Instant::ZERO;
            return Some(Duration::ZERO);
        }
        let is_set = now < *alarm && *alarm <= next;
        if !is_set {
            *alarm = next;
        }
        wanted.wakes_at = *alarm;
        (!is_set).then(|| next.since(now))
    }

    /// Closes the transport: no datagram leaves from now on, and the address is free.
    pub(crate) fn close(&self) {
        self.transport.close();
    }

    /// Stops batching.
    #[cfg(test)]
    fn be_alone(&self) {
        self.company.store(0, Ordering::Relaxed);
    }

    /// Publishes the health of this node. Once it is shut down, it stays so.
    pub(crate) fn set_health(&self, health: Health) {
        self.health.send_if_modified(|last| {
            let is_changed = *last != health && *last != Health::ShutDown;
            if is_changed {
                *last = health;
            }
            is_changed
        });
    }

    fn alarm(&self) -> MutexGuard<'_, Alarm> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        let core = self.core.lock();
        core.unwrap_or_else(|poisoned| self.stop(poisoned.into_inner()))
    }

    /// Stops the mesh after a panic under the lock, which is a bug of this crate. The node may be
    /// half changed, so it is not called any more: its leases end, and all requests fail.
    fn stop<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        self.core.clear_poison();
        self.close();
        core.fail();
        // The caller that panicked may have taken turns for others.
        self.company.store(0, Ordering::Relaxed);
        self.inbox.stop();
        tracing::error!(
            node = %core.node.id(),
            "the mesh has stopped after a panic; restart this process, and report the panic"
        );
        self.set_health(Health::ShutDown);
        core
    }
}

impl Drop for Engine {
    /// For a start that failed or was cancelled.
    fn drop(&mut self) {
        self.close();
    }
}

/// Unlocks the engine, and only then notifies callers: they may run at once on another thread, and
/// take the lock. A caller that is gone withdraws its claim itself.
fn notify(mut core: MutexGuard<'_, Core>) {
    let notifies = core.notifies();
    drop(core);
    for (notify, ended) in notifies {
        let _ = notify.send(ended);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::TokioClock;
    use crate::engine::core::Ended;
    use crate::engine::core::tests::{claim, only_voter};
    use crate::engine::driver::drive;
    use crate::transport::{Nowhere, UdpTransport};

    const THREADS: usize = 4;
    const EACH: u64 = 2_000;

    fn engine(transport: Arc<dyn Transport>) -> Engine {
        let clock = Time::system();
        let (gossip, _) = mpsc::channel(1);
        let node = only_voter(&clock);
        Engine::new(clock, transport, node, gossip)
    }

    #[tokio::test]
    async fn datagrams_are_sent_in_the_order_made() {
        let hears = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        hears
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let to = hears.local_addr().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let udp = UdpTransport::bind(listen).unwrap();
        let (engine, made) = (engine(Arc::new(udp)), AtomicU64::new(0));
        let make = || {
            engine.with(|core, _| {
                let n = made.fetch_add(1, Ordering::SeqCst);
                core.node.send_gossip(to, &n.to_be_bytes());
            });
        };
        let listen = || {
            let (mut buffer, mut last) = ([0; 64], None);
            // The system may drop datagrams, but those that arrive are in order.
            while last < Some(THREADS as u64 * EACH) {
                let len = hears.recv(&mut buffer).unwrap();
                let n = buffer[..len].last_chunk().map(|n| u64::from_be_bytes(*n));
                assert!(n > last, "{n:?} after {last:?}");
                last = n;
            }
        };
        std::thread::scope(|scope| {
            let listener = scope.spawn(listen);
            let makers: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| (0..EACH).for_each(|_| make())))
                .collect();
            for maker in makers {
                maker.join().unwrap();
            }
            // Repeats the last one until it is received.
            while !listener.is_finished() {
                make();
                std::thread::sleep(Duration::from_millis(1));
            }
            listener.join().unwrap();
        });
    }

    fn dropped(engine: &Engine) -> u64 {
        engine.with(|core, _| core.node.traffic().dropped.values().sum())
    }

    #[test]
    fn datagrams_during_a_turn_go_to_the_inbox() {
        let engine = engine(Arc::new(Nowhere));
        let garbage = || {
            vec![Ask::Datagram {
                from: "127.0.0.1:1".parse().unwrap(),
                bytes: vec![0; 3],
            }]
        };
        let (is_at_it, begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        std::thread::scope(|scope| {
            let engine = &engine;
            let other = scope.spawn(move || {
                engine.with(|_, _| {
                    is_at_it.send(()).unwrap();
                    may_go_on.recv().unwrap();
                });
            });
            begun.recv().unwrap();
            assert!(engine.hear(|_| ()).is_none());
            let leaves = scope.spawn(|| engine.leave(garbage()));
            go_on.send(()).unwrap();
            leaves.join().unwrap();
            other.join().unwrap();
        });
        assert!(engine.hear(|_| ()).is_some());
        assert_eq!(dropped(&engine), 1);
        // If the engine is not locked, they are submitted at once.
        engine.leave(garbage());
        assert_eq!(dropped(&engine), 2);
    }

    /// Otherwise, only a timer of the node would refresh the gauges.
    #[tokio::test(start_paused = true)]
    async fn alarm_passed_during_receive_is_due_at_once() {
        let clock = TokioClock::time();
        let (gossip, _) = mpsc::channel(1);
        let node = only_voter(&clock);
        let engine = Engine::new(clock.clone(), Arc::new(Nowhere), node, gossip);
        let at_most = Duration::from_millis(250);
        let mut alarm = Instant::ZERO;
        assert_eq!(engine.nap(&mut alarm, at_most), Some(at_most));
        tokio::time::advance(at_most / 2).await;
        assert_eq!(engine.nap(&mut alarm, at_most), None);
        tokio::time::advance(at_most).await;
        assert_eq!(engine.nap(&mut alarm, at_most), Some(Duration::ZERO));
        assert_eq!(engine.nap(&mut alarm, at_most), Some(at_most));
        // The node has a timeout that is due, and then none.
        engine.sleeps_beyond(Some(clock.mono()));
        assert_eq!(engine.nap(&mut alarm, at_most), Some(Duration::ZERO));
        engine.sleeps_beyond(None);
        assert_eq!(engine.nap(&mut alarm, at_most), Some(at_most));
    }

    fn panic_under_the_lock(engine: &Arc<Engine>) {
        let engine = engine.clone();
        let caller = std::thread::spawn(move || engine.with(|_, _| panic!("a bug")));
        caller.join().unwrap_err();
    }

    #[tokio::test]
    async fn panic_under_the_lock_stops_the_mesh() {
        let engine = Arc::new(engine(Arc::new(Nowhere)));
        let (ask, granted) = claim(1);
        assert!(engine.ask(ask).is_none());
        let Ok(Ended::Granted(lease)) = granted.await else {
            panic!("the only voter grants");
        };
        panic_under_the_lock(&engine);
        let (ask, ended) = claim(2);
        assert!(engine.ask(ask).is_none());
        assert!(ended.await.is_err() && !lease.is_held());
        assert_eq!(*engine.health.borrow(), Health::ShutDown);
        // The driver ends by itself.
        drive(engine.clone()).await;
        assert!(!engine.with(|core, now| core.release(now, lease.ticket)));
    }

    /// The caller that panicked was taking turns for others.
    #[tokio::test]
    async fn batched_callers_end_after_a_panic() {
        let engine = Arc::new(engine(Arc::new(Nowhere)));
        engine.company.store(LONELY_TURNS, Ordering::Relaxed);
        let (ask, batched) = claim(1);
        let Lead::Later(number) = engine.inbox.push(ask) else {
            panic!("there is no other combiner");
        };
        assert!(engine.inbox.begin(number));
        panic_under_the_lock(&engine);
        // The driver is the first that sees it.
        assert!(engine.hear(|_| ()).is_none());
        let (ask, later) = claim(2);
        assert!(engine.ask(ask).is_none(), "nobody is batched any more");
        assert!(batched.await.is_err() && later.await.is_err());
    }

    #[test]
    fn batching_stops_after_solo_turns() {
        let engine = engine(Arc::new(Nowhere));
        let company = || engine.company.load(Ordering::Relaxed);
        let callers = |callers| {
            for _ in 0..callers {
                let ticket = engine.ticket();
                engine.inbox.push(Ask::Release {
                    ticket,
                    was_held: true,
                });
            }
            engine.with(|_, _| ());
            company()
        };
        assert_eq!([callers(0), callers(1)], [0, 0]);
        assert_eq!(callers(COMPANY), LONELY_TURNS);
        assert_eq!(callers(0), LONELY_TURNS, "no callers: no change");
        let alone: Vec<usize> = (0..=LONELY_TURNS).map(|_| callers(1)).collect();
        let expected: Vec<usize> = (0..LONELY_TURNS).rev().chain([0]).collect();
        assert_eq!(alone, expected);
        callers(COMPANY);
        engine.with(|core, _| core.forget_all());
        assert_eq!(company(), 0, "batching has stopped");
    }
}
