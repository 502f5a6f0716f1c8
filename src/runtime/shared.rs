//! What the handles, the guards and the driver of one mesh share: the node behind a lock, and
//! the socket.
//!
//! Whoever has something to ask of the node takes the lock, asks, drains the node, takes its turn
//! at the socket, lets go of the lock and sends: there is no queue to a task in between, and so no
//! task switch on the way from `acquire` to the socket. Nothing waits while the lock is held.
//!
//! Where several callers were told something at once they are in company, and will ask again at
//! about the same time: what they ask stays in the [inbox](super::inbox) while one of them, who
//! leads, lets the others run once. Then it takes all of that to the node and sends it, in a few
//! datagrams instead of one for each. There is no timer behind that. What comes from other nodes
//! while somebody is at the node goes the same way.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::sync::Notify;
#[cfg(feature = "harness")]
use tokio::sync::watch;

use super::clock::Clock;
use super::company::Leading;
use super::core::{Core, GossipIn};
use super::inbox::{Ask, Inbox, Lead};
use super::socket::Sender;
use lockmesh_proto::event::Ticket;
use lockmesh_proto::node::Node;
use lockmesh_proto::time::{Instant, Now};

/// So many callers make company.
const COMPANY: usize = 2;
/// Who was in company is so for this many turns in which there was one caller.
const LONELY_TURNS: usize = 8;
/// How many turns one who leads takes where others ask meanwhile.
const TURNS_MAX: usize = 16;

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(super) sender: Sender,
    core: Mutex<Core>,
    pub(super) inbox: Inbox,
    /// For how many turns callers count as in company yet.
    company: AtomicUsize,
    /// The last that was given to a claim.
    ticket: AtomicU64,
    /// Whose turn it is to send. Taken while the core is locked, never the other way about.
    turn: Mutex<()>,
    alarm: Mutex<Alarm>,
    /// The node wants to be woken earlier than the driver sleeps.
    pub(crate) earlier: Notify,
    /// Whether the node stands still.
    #[cfg(feature = "harness")]
    paused: watch::Sender<bool>,
}

#[derive(Clone, Copy)]
struct Alarm {
    /// When the node wants to be woken.
    next: Option<Instant>,
    /// When the driver wakes up.
    wakes_at: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(clock: Clock, sender: Sender, node: Node, gossip: GossipIn) -> Self {
        Self {
            clock,
            sender,
            core: Mutex::new(Core::new(node, gossip)),
            inbox: Inbox::default(),
            company: AtomicUsize::new(0),
            ticket: AtomicU64::new(0),
            turn: Mutex::new(()),
            alarm: Mutex::new(Alarm {
                next: None,
                wakes_at: Instant::ZERO,
            }),
            earlier: Notify::new(),
            #[cfg(feature = "harness")]
            paused: watch::Sender::new(false),
        }
    }

    /// Asks something of the node, after what others have asked, and sends what comes of it, once
    /// it no longer stands still.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&mut Core, Now) -> T) -> T {
        let mut core = self.lock();
        let now = core.submit(self.clock, &self.inbox);
        let answer = ask(&mut core, now);
        self.turn(core);
        answer
    }

    /// A ticket for a claim.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.ticket.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Asks something of the node. Where the caller is in company that is sent together with what
    /// the others ask; where it leads them, once what this answers was awaited or dropped.
    pub(crate) fn ask(&self, ask: Ask) -> Option<Leading<'_>> {
        if self.company.load(Ordering::Relaxed) == 0 || self.sender.is_in_memory() {
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

    /// Takes to the node what all have asked, and sends. For who took the lead with this number:
    /// where another leads, or has taken it, nothing is left to do.
    pub(super) fn lead(&self, number: u64) {
        if self.inbox.begin(number) {
            self.take_turns();
        }
    }

    /// What came from other nodes. `None` where somebody else is at the node, or where it stands
    /// still: then it is to be [left](Shared::leave) in the inbox.
    pub(crate) fn hear<T>(&self, take: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if self.inbox.has_room() => return None,
            Err(TryLockError::WouldBlock) => self.lock(),
        };
        if core.is_paused {
            return None;
        }
        // What callers ask is left to who leads them: more may come, and share a datagram.
        core.submit_unless_combined(self.clock, &self.inbox);
        let taken = take(&mut core);
        self.turn(core);
        Some(taken)
    }

    /// Leaves datagrams to who is at the node.
    pub(crate) fn leave(&self, datagrams: Vec<Ask>) {
        if !datagrams.is_empty() && self.inbox.push_datagrams(datagrams) {
            self.take_turns();
        }
    }

    /// For who has begun with the inbox, and for as long as others want it. After some turns the
    /// driver goes on, while there is one.
    fn take_turns(&self) {
        for turns in 1.. {
            let mut core = self.lock();
            let has_driver = !core.is_shut_down;
            if !core.is_paused {
                core.submit(self.clock, &self.inbox);
            }
            self.turn(core);
            #[cfg(all(test, feature = "harness"))]
            super::wakeups::after_a_turn(self);
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

    /// Drains the node, notes when it wants to be woken, tells who is to be told something, and
    /// sends; unless the node stands still.
    pub(super) fn turn(&self, mut core: MutexGuard<'_, Core>) {
        if core.is_paused {
            return;
        }
        let mut datagrams = Vec::new();
        let next = core.drain(self.clock, &mut datagrams);
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
        #[cfg(feature = "harness")]
        self.sender.deliver();
    }

    /// Sends, without the lock, though in the order in which the node made what there is to send:
    /// a renewal that left after the release of the same lock would get it votes again, and those
    /// who try for it meanwhile would be told that it is held. Answers how many were not taken.
    pub(super) fn send(
        &self,
        core: MutexGuard<'_, Core>,
        datagrams: &[(SocketAddr, Vec<u8>)],
    ) -> usize {
        let in_turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        notify(core);
        let failed = datagrams
            .iter()
            .filter(|(to, bytes)| !self.sender.send(*to, bytes))
            .count();
        drop(in_turn);
        failed
    }

    /// Notes when the node wants to be woken. Answers whether the driver sleeps longer.
    fn sleeps_beyond(&self, next: Option<Instant>) -> bool {
        let mut alarm = self.alarm();
        alarm.next = next;
        let next = next.unwrap_or(Instant::FAR);
        let is_earlier = next < alarm.wakes_at;
        alarm.wakes_at = alarm.wakes_at.min(next);
        is_earlier
    }

    /// For how long the driver is to set its alarm anew, at most `at_most`; `None` where it may
    /// leave it at `alarm`. An alarm that is early costs less than setting one. Zero where there is
    /// something to do now: the node wanted to be woken, or `alarm` has passed and did not go off,
    /// since a datagram came first.
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

    /// From here on no datagram leaves.
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    /// The node stands still from now on, or goes on.
    #[cfg(feature = "harness")]
    pub(crate) fn pause(&self, is_paused: bool) {
        let mut core = self.lock();
        core.is_paused = is_paused;
        self.paused.send_replace(is_paused);
        drop(core);
        if !is_paused {
            // What was asked of it meanwhile leaves now, and what is over is over before that.
            self.with(|core, now| core.node.handle_timeout(now));
        }
    }

    /// Whether the node stands still. Asked with each datagram.
    #[cfg(feature = "harness")]
    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Never: only a test can make a node stand still.
    #[cfg(not(feature = "harness"))]
    pub(crate) fn is_paused(&self) -> bool {
        false
    }

    /// Returns once the node does not stand still.
    #[cfg(feature = "harness")]
    pub(crate) async fn going(&self) {
        // A receiver costs more than a look.
        if !self.is_paused() {
            return;
        }
        // The sending half is here: it cannot be gone.
        let _ = self.paused.subscribe().wait_for(|paused| !paused).await;
    }

    /// Returns at once: only a test can make a node stand still.
    #[cfg(not(feature = "harness"))]
    pub(crate) async fn going(&self) {}

    /// Callers no longer count as in company.
    #[cfg(all(test, feature = "harness"))]
    pub(super) fn be_alone(&self) {
        self.company.store(0, Ordering::Relaxed);
    }

    fn alarm(&self) -> MutexGuard<'_, Alarm> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic while the lock was held is a bug of ours; the node behind it still answers, and
        // its leases end by themselves.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the lock, and only then tells those who are to be told something: they run at once,
/// perhaps beside this, and take the lock. One who is gone withdraws by itself.
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
    use crate::runtime::core::tests::only_voter;

    const THREADS: usize = 4;
    const EACH: u64 = 2_000;

    fn shared(sender: Sender) -> Shared {
        let clock = Clock::new();
        let (gossip, _) = mpsc::channel(1);
        Shared::new(clock, sender, only_voter(clock), gossip)
    }

    #[tokio::test]
    async fn datagrams_leave_in_the_order_in_which_the_node_made_them() {
        let hears = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        hears
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let to = hears.local_addr().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        #[cfg(feature = "harness")]
        let (sender, _receiver, _) = crate::runtime::socket::bind(listen, None).unwrap();
        #[cfg(not(feature = "harness"))]
        let (sender, _receiver, _) = crate::runtime::socket::bind(listen).unwrap();
        let (shared, made) = (shared(sender), AtomicU64::new(0));
        let make = || {
            shared.with(|core, _| {
                let n = made.fetch_add(1, Ordering::SeqCst);
                core.node.send_gossip(to, &n.to_be_bytes());
            });
        };
        let listen = || {
            let (mut buffer, mut last) = ([0; 64], None);
            // The system may drop what comes too fast; what comes, comes in order.
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
            // The last one, again and again until it is heard.
            while !listener.is_finished() {
                make();
                std::thread::sleep(Duration::from_millis(1));
            }
            listener.join().unwrap();
        });
    }

    fn dropped(shared: &Shared) -> u64 {
        shared.with(|core, _| core.node.traffic().dropped.values().sum())
    }

    #[test]
    fn what_is_heard_while_another_is_at_the_node_is_left_to_it() {
        let shared = shared(Sender::nowhere());
        let garbage = || {
            vec![Ask::Datagram {
                from: "127.0.0.1:1".parse().unwrap(),
                bytes: vec![0; 3],
            }]
        };
        let (is_at_it, begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        std::thread::scope(|scope| {
            let shared = &shared;
            let other = scope.spawn(move || {
                shared.with(|_, _| {
                    is_at_it.send(()).unwrap();
                    may_go_on.recv().unwrap();
                });
            });
            begun.recv().unwrap();
            assert!(shared.hear(|_| ()).is_none());
            let leaves = scope.spawn(|| shared.leave(garbage()));
            go_on.send(()).unwrap();
            leaves.join().unwrap();
            other.join().unwrap();
        });
        assert!(shared.hear(|_| ()).is_some());
        assert_eq!(dropped(&shared), 1);
        // With nobody there it is taken to the node at once.
        shared.leave(garbage());
        assert_eq!(dropped(&shared), 2);
    }

    /// Else only a timer of the node's would bring the gauges up to date.
    #[cfg(feature = "harness")]
    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_passed_while_datagrams_came_is_not_set_anew_unheard() {
        let clock = Clock::of_tokio();
        let (gossip, _) = mpsc::channel(1);
        let shared = Shared::new(clock, Sender::nowhere(), only_voter(clock), gossip);
        let at_most = Duration::from_millis(250);
        let mut alarm = Instant::ZERO;
        assert_eq!(shared.nap(&mut alarm, at_most), Some(at_most));
        tokio::time::advance(at_most / 2).await;
        assert_eq!(shared.nap(&mut alarm, at_most), None);
        tokio::time::advance(at_most).await;
        assert_eq!(shared.nap(&mut alarm, at_most), Some(Duration::ZERO));
        assert_eq!(shared.nap(&mut alarm, at_most), Some(at_most));
        // The node is done with what is due, or asks again.
        shared.sleeps_beyond(Some(clock.mono()));
        assert_eq!(shared.nap(&mut alarm, at_most), Some(Duration::ZERO));
        shared.sleeps_beyond(None);
        assert_eq!(shared.nap(&mut alarm, at_most), Some(at_most));
    }

    #[test]
    fn callers_are_in_company_until_they_were_alone_for_some_turns() {
        let shared = shared(Sender::nowhere());
        let company = || shared.company.load(Ordering::Relaxed);
        let callers = |callers| {
            for _ in 0..callers {
                let ticket = shared.ticket();
                shared.inbox.push(Ask::Release {
                    ticket,
                    was_held: true,
                });
            }
            shared.with(|_, _| ());
            company()
        };
        assert_eq!([callers(0), callers(1)], [0, 0]);
        assert_eq!(callers(COMPANY), LONELY_TURNS);
        assert_eq!(callers(0), LONELY_TURNS, "that tells nothing");
        let alone: Vec<usize> = (0..=LONELY_TURNS).map(|_| callers(1)).collect();
        let expected: Vec<usize> = (0..LONELY_TURNS).rev().chain([0]).collect();
        assert_eq!(alone, expected);
        callers(COMPANY);
        shared.with(|core, _| core.forget_all());
        assert_eq!(company(), 0, "nobody waits for others any more");
    }
}
