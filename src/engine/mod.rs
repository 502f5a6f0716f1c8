//! The engine of one mesh, which handles, guards and the driver share: the node, and the transport.
//!
//! The thread of a caller does the work. It takes the core, which is the node with its pending
//! callers, out of the mutex, submits its command, drains the node, sends the datagrams, puts the
//! core back and notifies callers. That is a *turn*. There is no queue to a task in between, so
//! there is no task switch from `acquire` to the socket.
//!
//! # Why one mutex, and why the core is taken out of it
//! The mutex protects all state, and is held for a few instructions: no node, no send and no caller
//! runs under it. If a thread does not find the core, it leaves its command or its datagrams in the
//! [batch], and the thread that has the core takes another turn for them. No thread waits, and more
//! commands share a datagram. Only a call that needs a result at once waits for the core.
//!
//! The thread that has the core has sent its datagrams when it puts the core back. So they leave in
//! the order in which the node made them. A renewal sent after the release of the same lock would
//! get votes again. Meanwhile, a `try` request of another node would be denied.
//!
//! Rejected: a mutex that is held while the node runs. If the thread that holds it is preempted, all
//! callers stop. Beside other load, W2 of docs/performance.md had 22 % fewer cycles with it, and 4 %
//! fewer with a second mutex for the batch.
//!
//! # Beside the mutex
//! There are three ways to wake a waiter: `returned` for callers that wait for the core, `health`
//! for users that watch it, and `earlier` for the driver. There are no atomics.

use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

pub(crate) mod batch;
pub(crate) mod core;
pub(crate) mod driver;
mod readiness;
#[cfg(test)]
pub(crate) mod wakeups;

use self::batch::{Batch, Combiner, Command, Submits, Terms};
use self::core::{Core, Ended, GossipIn, Notice};
use self::driver::Alarm;
use crate::clock::Time;
use crate::journal::Journal;
use crate::status::Health;
use crate::transport::Transport;
use lockmesh_proto::{Instant, Node, NodeId, Now, Request, Ticket};

/// The maximum number of turns that one thread takes for others.
const TURNS_MAX: usize = 16;

pub(crate) struct Engine {
    pub(crate) clock: Time,
    transport: Arc<dyn Transport>,
    /// The journal of the voter, if it keeps one.
    pub(crate) journal: Option<Arc<Journal>>,
    state: Mutex<State>,
    /// Notified if the core is put back while a caller waits for it.
    returned: Condvar,
    pub(crate) health: watch::Sender<Health>,
    /// Notified if the node's next timeout is due before the driver wakes.
    earlier: Notify,
}

struct State {
    /// `None` while a thread has it.
    core: Option<Box<Core>>,
    /// The number of callers that wait for the core.
    waiting: usize,
    batch: Batch,
    alarm: Alarm,
    /// The last ticket of a claim.
    last_ticket: Ticket,
}

impl State {
    /// Takes the core, and the commands for its next turn.
    fn take_core(&mut self) -> Option<Box<Core>> {
        let mut core = self.core.take()?;
        self.batch.take(&mut core.commands);
        Some(core)
    }
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
        (node, journal): (Node, Option<Arc<Journal>>),
        gossip: GossipIn,
    ) -> Self {
        let mut core = Core::new(node, gossip);
        core.journal.clone_from(&journal);
        Self {
            clock,
            transport,
            journal,
            state: Mutex::new(State {
                core: Some(Box::new(core)),
                waiting: 0,
                batch: Batch::default(),
                alarm: Alarm::default(),
                last_ticket: Ticket(0),
            }),
            returned: Condvar::new(),
            health: watch::Sender::new(Health::NoQuorum),
            earlier: Notify::new(),
        }
    }

    /// Takes a turn in which `call` follows the commands of the batch. Waits for the core.
    pub(crate) fn with<T>(&self, call: impl FnOnce(&mut Core, Now) -> T) -> T {
        let mut state = self.lock();
        let core = loop {
            if let Some(core) = state.take_core() {
                break core;
            }
            state.waiting += 1;
            let woken = self.returned.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        };
        drop(state);
        self.take_turns(core, call)
    }

    /// Submits a claim of the time `since`. Returns its ticket, the channel of its outcome, and the
    /// combiner if this caller is it.
    pub(crate) fn claim(
        &self,
        since: Instant,
        request: Request,
        terms: Terms,
    ) -> (Ticket, oneshot::Receiver<Ended>, Option<Combiner<'_>>) {
        let (notify, ended) = oneshot::channel();
        let mut state = self.lock();
        state.last_ticket.0 += 1;
        let ticket = state.last_ticket;
        let claim = Command::Claim {
            ticket,
            since,
            request,
            terms,
            notify,
        };
        (ticket, ended, self.submit(state, claim))
    }

    /// Submits the release of a lease that its guard has ended. Returns the combiner if this caller
    /// is it.
    pub(crate) fn release(&self, ticket: Ticket, was_held: bool) -> Option<Combiner<'_>> {
        self.submit(self.lock(), Command::Release { ticket, was_held })
    }

    fn submit(&self, mut state: MutexGuard<'_, State>, command: Command) -> Option<Combiner<'_>> {
        match state.batch.push(command) {
            Submits::Now => self.submit_batch(state),
            Submits::Later(number) => return Some(Combiner::new(self, number)),
            Submits::Another => {}
        }
        None
    }

    /// Submits the batch for the combiner with this number.
    fn combine(&self, number: u64) {
        let state = self.lock();
        if state.batch.is_combiner(number) {
            self.submit_batch(state);
        }
    }

    /// Submits the batch, or leaves that to the thread that has the core.
    fn submit_batch(&self, mut state: MutexGuard<'_, State>) {
        match state.take_core() {
            Some(core) => {
                drop(state);
                self.take_turns(core, |_, _| ());
            }
            None => state.batch.want(),
        }
    }

    /// Handles received datagrams, or leaves them to the thread that has the core.
    ///
    /// A batch is left to its combiner: more commands may come and share a datagram.
    fn receive<'a>(&self, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])> + Clone) {
        let handle = |core: &mut Core, now| {
            for (from, bytes) in datagrams.clone() {
                core.handle_datagram(now, from, bytes);
            }
        };
        let mut state = self.lock();
        let State { core, batch, .. } = &mut *state;
        if let Some(mut core) = core.take() {
            batch.take_in_passing(&mut core.commands);
            drop(state);
            self.take_turns(core, handle);
        } else if !batch.push_datagrams(datagrams.clone()) {
            drop(state);
            self.with(handle);
        }
    }

    /// Takes a turn, and then turns for others that have left commands meanwhile. After
    /// `TURNS_MAX` turns the driver continues, if there is one.
    fn take_turns<T>(&self, core: Box<Core>, call: impl FnOnce(&mut Core, Now) -> T) -> T {
        let (result, mut is_wanted) = self.turn(core, call);
        let mut turns = 1;
        while is_wanted {
            let mut state = self.lock();
            let has_driver = state.core.as_ref().is_some_and(|core| !core.is_shut_down);
            if turns >= TURNS_MAX && has_driver {
                self.earlier.notify_one();
                break;
            }
            // Another thread that took the core took the commands, too.
            let Some(core) = state.take_core() else { break };
            drop(state);
            ((), is_wanted) = self.turn(core, |_, _| ());
            turns += 1;
        }
        result
    }

    /// Takes one turn: submits the commands, calls `call`, carries out the outputs of the node, puts
    /// the core back and notifies callers. Returns `true` if another turn must follow.
    ///
    /// After a panic the core may be half changed. The mesh stops, and the panic continues.
    fn turn<T>(&self, mut core: Box<Core>, call: impl FnOnce(&mut Core, Now) -> T) -> (T, bool) {
        let done = panic::catch_unwind(AssertUnwindSafe(|| {
            // Read after the commands were taken: a vote must not be counted from before the
            // sending of its claim.
            let now = self.clock.now();
            core.submit_all(now);
            let result = call(&mut core, now);
            (result, self.carry_out(&mut core))
        }));
        if done.is_err() {
            self.stop(&mut core);
        }
        #[cfg(test)]
        wakeups::within_a_turn(self);
        let notices = core.notices();
        let outcomes = notices.iter().filter(|notice| notice.is_outcome()).count();
        let mut state = self.lock();
        let failed_batch = done.is_err().then(|| std::mem::take(&mut state.batch));
        state.batch.end_turn(outcomes);
        if core.is_shut_down {
            state.batch.stop();
        }
        let next = done.as_ref().map_or(None, |(_, next)| *next);
        let is_earlier = state.alarm.set_next(next);
        state.core = Some(core);
        let is_wanted = state.batch.is_wanted() && state.waiting == 0;
        if state.waiting > 0 {
            // It takes the commands, too.
            self.returned.notify_one();
        }
        drop(state);
        // Callers are notified last: they may run at once, and call the engine.
        drop(failed_batch);
        notices.into_iter().for_each(Notice::send);
        if is_earlier {
            self.earlier.notify_one();
        }
        match done {
            Ok((result, _)) => (result, is_wanted),
            Err(panic) => panic::resume_unwind(panic),
        }
    }

    /// Drains the node and carries out its outputs. Returns the time of its next timeout.
    ///
    /// Outputs leave the node here alone. All outputs of a drain are taken before the first is
    /// carried out.
    fn carry_out(&self, core: &mut Core) -> Option<Instant> {
        while !core.has_failed {
            let (outputs, next) = core.drain();
            if outputs.is_empty() {
                return next;
            }
            for output in outputs {
                core.handle_output(&self.clock, &*self.transport, output);
            }
        }
        None
    }

    /// Returns `true` if the mesh has stopped after a panic.
    pub(crate) fn has_failed(&self) -> bool {
        self.with(|core, _| core.has_failed)
    }

    /// Closes the transport and the journal: no datagram leaves from now on, and the address and
    /// the data directory are free.
    pub(crate) fn close(&self) {
        self.transport.close();
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    /// Stops voting. A voter without a journal leaves its memory with others, for at most `at_most`.
    /// Returns the voters that have it.
    pub(crate) async fn hand_over(&self, at_most: Duration) -> Vec<NodeId> {
        let notified = self.with(|core, now| core.hand_over(now, at_most));
        notified.await.unwrap_or_default()
    }

    /// Ends the journal in order: everything is synced. The voter has stopped voting.
    pub(crate) async fn end_journal(&self) {
        if let Some(journal) = &self.journal {
            journal.finish().await;
        }
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the mesh after a panic in a turn, which is a bug of this crate. The node may be half
    /// changed, so it is not called any more: its leases end, and all requests fail.
    fn stop(&self, core: &mut Core) {
        self.close();
        core.fail();
        tracing::error!(
            node = %core.node.id(),
            "the mesh has stopped after a panic; restart this process, and report the panic"
        );
        self.set_health(Health::ShutDown);
    }
}

impl Drop for Engine {
    /// For a start that failed or was cancelled.
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{OnceLock, Weak};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use tokio::sync::mpsc;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::clock::Clock;
    use crate::engine::core::tests::{only_voter, request};
    use crate::engine::driver::drive;
    use crate::transport::{Nowhere, UdpTransport};

    const THREADS: usize = 4;
    const EACH: u64 = 2_000;

    fn engine(transport: Arc<dyn Transport>) -> Engine {
        let clock = Time::system();
        let (gossip, _) = mpsc::channel(1);
        let node = only_voter(&clock);
        Engine::new(clock, transport, (node, None), gossip)
    }

    #[tokio::test]
    async fn datagrams_are_sent_in_the_order_made() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let to = receiver.local_addr().unwrap();
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
                let len = receiver.recv(&mut buffer).unwrap();
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

    /// Requests the lock on `k`.
    fn claim(engine: &Engine) -> (Ticket, oneshot::Receiver<Ended>, Option<Combiner<'_>>) {
        engine.claim(engine.clock.mono(), request("k"), Terms::default())
    }

    fn dropped(engine: &Engine) -> u64 {
        engine.with(|core, _| core.node.traffic().dropped.values().sum())
    }

    /// The thread that has the core handles them.
    #[test]
    fn datagrams_during_a_turn_are_handled_after_it() {
        let engine = engine(Arc::new(Nowhere));
        let garbage = [("127.0.0.1:1".parse().unwrap(), &b"?"[..])];
        let before = engine.with(|core, _| {
            engine.receive(garbage.into_iter());
            core.node.traffic().dropped.len()
        });
        assert_eq!(before, 0);
        assert!(!engine.lock().batch.is_wanted());
        assert_eq!(dropped(&engine), 1);
    }

    #[test]
    fn call_waits_for_the_core() {
        let engine = engine(Arc::new(Nowhere));
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            engine.with(|_, _| {
                scope.spawn(|| engine.with(|_, _| order.lock().unwrap().push("second")));
                while engine.lock().waiting == 0 {
                    std::thread::yield_now();
                }
                // The caller that waits takes the next turn.
                engine.release(Ticket(1), false);
                order.lock().unwrap().push("first");
            });
        });
        assert_eq!(order.into_inner().unwrap(), ["first", "second"]);
        assert!(!engine.lock().batch.is_wanted());
    }

    /// A clock that records if it was read outside a turn.
    #[derive(Debug, Default)]
    struct Watched {
        engine: OnceLock<Weak<Engine>>,
        was_outside: AtomicBool,
    }

    impl Clock for Watched {
        fn monotonic(&self) -> Duration {
            let engine = self.engine.get().and_then(Weak::upgrade);
            if engine.is_some_and(|engine| engine.lock().core.is_some()) {
                self.was_outside.store(true, Ordering::Relaxed);
            }
            Duration::from_secs(1)
        }

        fn wall(&self) -> SystemTime {
            UNIX_EPOCH
        }
    }

    /// A vote counted from before the sending of its claim would end before the lease of the claim.
    #[test]
    fn clock_is_read_within_the_turn() {
        let watched = Arc::new(Watched::default());
        let clock = Time::of(watched.clone());
        let node = only_voter(&clock);
        let (gossip, _) = mpsc::channel(1);
        let engine = Arc::new(Engine::new(clock, Arc::new(Nowhere), (node, None), gossip));
        watched.engine.set(Arc::downgrade(&engine)).unwrap();
        let claim = || {
            engine
                .claim(Instant::ZERO, request("k"), Terms::default())
                .2
        };
        assert!(claim().is_none(), "a solo caller");
        engine.lock().batch.start();
        drop(claim());
        engine.lock().batch.start();
        std::mem::forget(claim());
        engine.with(|_, _| ());
        engine.receive(std::iter::empty());
        assert!(!watched.was_outside.load(Ordering::Relaxed));
        engine.clock.mono();
        assert!(watched.was_outside.load(Ordering::Relaxed));
    }

    /// Panics in a turn, after `before`.
    fn panic_in_a_turn(engine: &Arc<Engine>, before: impl FnOnce(&Engine) + Send) {
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                engine.with(|_, _| {
                    before(engine);
                    panic!("a bug");
                });
            });
            caller.join().unwrap_err();
        });
    }

    #[tokio::test]
    async fn panic_in_a_turn_stops_the_mesh() {
        let engine = Arc::new(engine(Arc::new(Nowhere)));
        let (ticket, granted, combiner) = claim(&engine);
        assert!(combiner.is_none());
        let Ok(Ended::Granted(lease)) = granted.await else {
            panic!("the only voter grants");
        };
        panic_in_a_turn(&engine, |_| ());
        let (_, ended, combiner) = claim(&engine);
        assert!(combiner.is_none());
        assert!(ended.await.is_err() && !lease.is_held());
        assert_eq!(*engine.health.borrow(), Health::ShutDown);
        // The driver ends by itself.
        drive(engine.clone()).await;
        assert!(!engine.with(|core, now| core.release(now, ticket)));
    }

    #[tokio::test]
    async fn batched_callers_end_after_a_panic() {
        let engine = Arc::new(engine(Arc::new(Nowhere)));
        engine.lock().batch.start();
        let (_, mut batched, combiner) = claim(&engine);
        let mut meanwhile = None;
        panic_in_a_turn(&engine, |engine| {
            engine.lock().batch.stop();
            meanwhile = Some(claim(engine).1);
        });
        for ended in [&mut batched, &mut meanwhile.unwrap()] {
            assert_eq!(ended.try_recv().unwrap_err(), TryRecvError::Closed);
        }
        let (_, later, solo) = claim(&engine);
        assert!(solo.is_none(), "nobody is batched any more");
        assert!(later.await.is_err());
        combiner.unwrap().await;
    }

    #[test]
    fn nobody_is_batched_after_the_shutdown() {
        let engine = engine(Arc::new(Nowhere));
        engine.lock().batch.start();
        engine.with(|core, _| core.forget_all());
        let (_, mut ended, combiner) = claim(&engine);
        assert!(combiner.is_none());
        assert!(matches!(ended.try_recv(), Ok(Ended::ShutDown)));
    }
}
