//! Requests for the node while another caller has the engine lock, or is about to take it.
//!
//! Concurrent callers push their requests here. One of them, the combiner, submits all of them in
//! one turn. No caller waits for the engine lock, and requests share datagrams. This is flat
//! combining: Hendler, Incze, Shavit and Tzafrir, "Flat Combining and the
//! Synchronization-Parallelism Tradeoff" (SPAA 2010). Unlike there, the combiner lets the other
//! callers run first.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::engine::core::Ended;
use lockmesh_proto::{Instant, Request, Ticket};

/// The number of requests that is submitted at once. They fill a datagram to each voter, and the
/// voters can start.
const FULL: usize = 32;
/// The maximum number of datagrams in the inbox. Further datagrams wait in the socket.
const DATAGRAMS_MAX: usize = 64;
/// The number of turns of others that leave a batch to its combiner. A combiner may never run,
/// because it was leaked or its thread is blocked, and must not delay others for long.
const PASSES_MAX: u32 = 8;
/// The maximum capacity of a buffer that is reused, so that a burst leaves no memory behind.
const SPARE_MAX: usize = 1_024;

/// A request or datagram for the node.
#[derive(Debug)]
pub(crate) enum Ask {
    Claim {
        ticket: Ticket,
        /// The time of the request.
        since: Instant,
        request: Request,
        notify: oneshot::Sender<Ended>,
    },
    /// The release of a lease that its guard has ended.
    Release {
        ticket: Ticket,
        was_held: bool,
    },
    Datagram {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
}

/// The caller that submits a request after it was pushed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lead {
    /// Another caller.
    Another,
    /// This caller, after the others have run: it calls [`Inbox::begin`] with this number.
    Later(u64),
    /// This caller, at once.
    Now,
}

/// The requests in order.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    asks: Vec<Ask>,
    /// The number of datagrams in `asks`.
    datagrams: usize,
    /// The number of combiners so far.
    leads: u64,
    leader: Option<Leader>,
    /// `true` while a caller takes turns at the node.
    is_busy: bool,
    /// `true` if another turn must follow.
    is_wanted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    number: u64,
    /// `true` if the combiner waits for a reply in any case, so that a delay costs nothing.
    waits: bool,
    passes: u32,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pushes a request. The next claim replaces a release as the combiner: a caller that releases
    /// and then claims waits once, and both leave in one datagram.
    pub(super) fn push(&self, ask: Ask) -> Lead {
        let mut state = self.lock();
        let waits = matches!(ask, Ask::Claim { .. });
        state.asks.push(ask);
        if state.asks.len() >= FULL {
            return match state.begin() {
                true => Lead::Now,
                false => Lead::Another,
            };
        }
        if state.leader.is_some_and(|leader| leader.waits || !waits) {
            return Lead::Another;
        }
        state.leads += 1;
        let number = state.leads;
        state.leader = Some(Leader {
            number,
            waits,
            passes: 0,
        });
        Lead::Later(number)
    }

    /// Pushes received datagrams. Returns `true` if the caller must submit them, as for
    /// [`Inbox::begin`].
    pub(super) fn push_datagrams(&self, datagrams: Vec<Ask>) -> bool {
        let mut state = self.lock();
        state.datagrams += datagrams.len();
        state.asks.extend(datagrams);
        state.begin()
    }

    /// Returns `true` if there is capacity for datagrams.
    pub(super) fn has_room(&self) -> bool {
        self.lock().datagrams < DATAGRAMS_MAX
    }

    /// Returns `true` if the combiner with this number must submit the inbox.
    ///
    /// It must not if the inbox was taken, if there is another combiner since, or if a caller is
    /// taking turns. The latter checks again before it stops.
    pub(super) fn begin(&self, number: u64) -> bool {
        let mut state = self.lock();
        state.leader.is_some_and(|leader| leader.number == number) && state.begin()
    }

    /// Returns `true` if the caller that takes turns must take another.
    pub(super) fn goes_on(&self) -> bool {
        let mut state = self.lock();
        state.is_busy = std::mem::take(&mut state.is_wanted);
        state.is_busy
    }

    /// Ends the turns of a caller, whatever is in the inbox.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        (state.is_busy, state.is_wanted) = (false, false);
    }

    /// Takes all requests, unless they are left to the combiner. `asks` must be empty.
    pub(super) fn take_unless_led(&self, asks: &mut Vec<Ask>) {
        let mut state = self.lock();
        let is_led = state.leader.as_mut().is_some_and(|leader| {
            leader.passes += 1;
            leader.passes <= PASSES_MAX
        });
        if !is_led {
            state.take(asks);
        }
    }

    /// Takes all requests. `asks` must be empty.
    pub(super) fn take(&self, asks: &mut Vec<Ask>) {
        self.lock().take(asks);
    }
}

impl State {
    fn take(&mut self, asks: &mut Vec<Ask>) {
        if asks.capacity() > SPARE_MAX {
            *asks = Vec::new();
        }
        std::mem::swap(&mut self.asks, asks);
        self.datagrams = 0;
        self.leader = None;
    }

    fn begin(&mut self) -> bool {
        let begins = !self.is_busy;
        self.is_busy = true;
        self.is_wanted |= !begins;
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(ticket: u64) -> Ask {
        Ask::Release {
            ticket: Ticket(ticket),
            was_held: true,
        }
    }

    fn claim(ticket: u64) -> Ask {
        Ask::Claim {
            ticket: Ticket(ticket),
            since: Instant::ZERO,
            request: Request {
                key: lockmesh_proto::Key::new("k").unwrap(),
                ttl: std::time::Duration::from_secs(1),
                is_try: false,
                renews: true,
                outlives: false,
                deadline: None,
            },
            notify: oneshot::channel().0,
        }
    }

    fn datagrams(many: usize) -> Vec<Ask> {
        let from = "127.0.0.1:1".parse().unwrap();
        let datagram = || Ask::Datagram {
            from,
            bytes: Vec::new(),
        };
        std::iter::repeat_with(datagram).take(many).collect()
    }

    fn taken(inbox: &Inbox) -> usize {
        let mut asks = Vec::new();
        inbox.take(&mut asks);
        asks.len()
    }

    #[test]
    fn claim_replaces_release_as_combiner() {
        let inbox = Inbox::default();
        assert_eq!(inbox.push(release(1)), Lead::Later(1));
        assert_eq!(inbox.push(release(2)), Lead::Another);
        assert_eq!(inbox.push(claim(3)), Lead::Later(2));
        assert_eq!(inbox.push(claim(4)), Lead::Another);
        assert!(!inbox.begin(1), "there is another combiner");
        assert!(inbox.begin(2));
        assert_eq!(taken(&inbox), 4);
        assert!(!inbox.begin(2), "it was taken");
        // The next request has a new combiner.
        assert_eq!(inbox.push(claim(5)), Lead::Later(3));
    }

    #[test]
    fn request_during_turns_is_served_before_stop() {
        let inbox = Inbox::default();
        inbox.push(claim(1));
        assert!(inbox.begin(1));
        assert_eq!(taken(&inbox), 1);
        assert_eq!(inbox.push(claim(2)), Lead::Later(2));
        assert!(!inbox.begin(2));
        assert!(inbox.goes_on());
        assert_eq!(taken(&inbox), 1);
        assert!(!inbox.goes_on());
        // No caller is taking turns now.
        assert_eq!(inbox.push(claim(3)), Lead::Later(3));
        assert!(inbox.begin(3));
        inbox.stop();
        assert!(inbox.begin(3), "the next may begin");
    }

    #[test]
    fn full_batch_is_submitted_at_once() {
        let inbox = Inbox::default();
        let pushed: Vec<Lead> = (0..FULL as u64).map(|n| inbox.push(claim(n))).collect();
        assert_eq!(pushed[0], Lead::Later(1));
        let (last, between) = pushed[1..].split_last().unwrap();
        assert!(between.iter().all(|lead| *lead == Lead::Another));
        assert_eq!(*last, Lead::Now);
        // The caller that takes turns checks again.
        assert_eq!(inbox.push(claim(99)), Lead::Another);
        assert_eq!(taken(&inbox), FULL + 1);
        assert!(inbox.goes_on());
    }

    #[test]
    fn datagrams_are_bounded_and_submitted_at_once() {
        let inbox = Inbox::default();
        assert!(inbox.push_datagrams(datagrams(DATAGRAMS_MAX - 1)));
        assert!(inbox.has_room());
        assert!(!inbox.push_datagrams(datagrams(1)), "a caller takes turns");
        assert!(!inbox.has_room());
        assert_eq!(taken(&inbox), DATAGRAMS_MAX);
        assert!(inbox.has_room());
    }

    #[test]
    fn absent_combiner_is_bypassed_after_bounded_turns() {
        let inbox = Inbox::default();
        let mut asks = Vec::new();
        let mut taken_in_passing = || {
            inbox.take_unless_led(&mut asks);
            asks.drain(..).count()
        };
        for n in 0..2 {
            inbox.push(claim(n));
            assert!((0..PASSES_MAX).all(|_| taken_in_passing() == 0));
            assert_eq!(taken_in_passing(), 1);
        }
        // Without a combiner, nothing is left in the inbox.
        inbox.push_datagrams(datagrams(1));
        assert_eq!(taken_in_passing(), 1);
    }

    #[test]
    fn burst_leaves_no_large_buffer() {
        let inbox = Inbox::default();
        let mut asks = Vec::with_capacity(SPARE_MAX);
        inbox.take(&mut asks);
        inbox.take(&mut asks);
        assert_eq!(asks.capacity(), SPARE_MAX, "used again");
        let mut asks = Vec::with_capacity(SPARE_MAX + 1);
        inbox.take(&mut asks);
        inbox.take(&mut asks);
        assert!(asks.capacity() <= SPARE_MAX);
    }
}
