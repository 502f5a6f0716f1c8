//! What is asked of the node while somebody else is at it, or about to be.
//!
//! Callers in company leave what they ask here, and one of them, who leads, takes all of it to the
//! node in one turn: no caller waits for the node's lock, and many share a datagram. It is the
//! combining of Hendler, Incze, Shavit and Tzafrir, "Flat Combining and the
//! Synchronization-Parallelism Tradeoff" (SPAA 2010), but that whoever leads lets the others run
//! first.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::core::Ended;
use lockmesh_proto::claimant::Request;
use lockmesh_proto::event::Ticket;
use lockmesh_proto::time::Instant;

/// With so much in it, it is taken to the node at once: that fills a datagram to each voter, and
/// the voters can begin.
const FULL: usize = 32;
/// So many datagrams may wait here. Those that follow wait in the socket.
const DATAGRAMS_MAX: usize = 64;
/// So often other turns pass by what somebody leads. One who leads and never comes, since its
/// future was forgotten or its thread is blocked, holds up nobody for long.
const PASSES_MAX: u32 = 8;
/// For how much a list is kept to be used again: a storm leaves no memory behind.
const SPARE_MAX: usize = 1_024;

/// Something for the node.
#[derive(Debug)]
pub(crate) enum Ask {
    Claim {
        ticket: Ticket,
        /// When it was asked.
        since: Instant,
        request: Request,
        notify: oneshot::Sender<Ended>,
    },
    /// Of a lease that its guard has ended.
    Release {
        ticket: Ticket,
        was_held: bool,
    },
    Datagram {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
}

/// Who takes to the node what was just left here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lead {
    /// Another caller.
    Another,
    /// Who has asked, after the others have run: [`Inbox::begin`] with this number.
    Later(u64),
    /// Who has asked, at once.
    Now,
}

/// What was asked, in order.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    asks: Vec<Ask>,
    /// How many of them are datagrams.
    datagrams: usize,
    /// How often somebody took the lead.
    leads: u64,
    leader: Option<Leader>,
    /// Somebody is taking turns at the node.
    is_busy: bool,
    /// Another turn is to follow.
    is_wanted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    number: u64,
    /// It waits for an answer in any case, so it costs nothing to let it wait.
    waits: bool,
    passes: u32,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves what a caller asks. A release is led by whoever claims next: so who releases and
    /// then claims waits once for both, and they leave in one datagram.
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

    /// Leaves what the socket had. Answers whether who left it is to take it to the node, as
    /// [`Inbox::begin`] does.
    pub(super) fn push_datagrams(&self, datagrams: Vec<Ask>) -> bool {
        let mut state = self.lock();
        state.datagrams += datagrams.len();
        state.asks.extend(datagrams);
        state.begin()
    }

    /// Whether datagrams may be left here.
    pub(super) fn has_room(&self) -> bool {
        self.lock().datagrams < DATAGRAMS_MAX
    }

    /// Whether who took the lead with this number is to take to the node what is here. It is not
    /// where that was taken, where another leads since, or where somebody is at it: that one looks
    /// again before it stops.
    pub(super) fn begin(&self, number: u64) -> bool {
        let mut state = self.lock();
        state.leader.is_some_and(|leader| leader.number == number) && state.begin()
    }

    /// Whether who is taking turns is to take another.
    pub(super) fn goes_on(&self) -> bool {
        let mut state = self.lock();
        state.is_busy = std::mem::take(&mut state.is_wanted);
        state.is_busy
    }

    /// Who was taking turns takes no more, whatever is here.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        (state.is_busy, state.is_wanted) = (false, false);
    }

    /// Takes all that is here, unless it is left to whoever leads. `asks` is empty before.
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

    /// Takes all that is here. `asks` is empty before.
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
                key: lockmesh_proto::id::Key::new("k").unwrap(),
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
    fn the_first_leads_and_a_claim_takes_the_lead_from_a_release() {
        let inbox = Inbox::default();
        assert_eq!(inbox.push(release(1)), Lead::Later(1));
        assert_eq!(inbox.push(release(2)), Lead::Another);
        assert_eq!(inbox.push(claim(3)), Lead::Later(2));
        assert_eq!(inbox.push(claim(4)), Lead::Another);
        assert!(!inbox.begin(1), "another leads");
        assert!(inbox.begin(2));
        assert_eq!(taken(&inbox), 4);
        assert!(!inbox.begin(2), "it was taken");
        // What comes after that is led anew.
        assert_eq!(inbox.push(claim(5)), Lead::Later(3));
    }

    #[test]
    fn who_comes_while_another_is_at_it_is_served_before_that_one_stops() {
        let inbox = Inbox::default();
        inbox.push(claim(1));
        assert!(inbox.begin(1));
        assert_eq!(taken(&inbox), 1);
        assert_eq!(inbox.push(claim(2)), Lead::Later(2));
        assert!(!inbox.begin(2));
        assert!(inbox.goes_on());
        assert_eq!(taken(&inbox), 1);
        assert!(!inbox.goes_on());
        // Nobody is at it now.
        assert_eq!(inbox.push(claim(3)), Lead::Later(3));
        assert!(inbox.begin(3));
        inbox.stop();
        assert!(inbox.begin(3), "the next may begin");
    }

    #[test]
    fn what_fills_a_datagram_waits_for_nobody() {
        let inbox = Inbox::default();
        let pushed: Vec<Lead> = (0..FULL as u64).map(|n| inbox.push(claim(n))).collect();
        assert_eq!(pushed[0], Lead::Later(1));
        let (last, between) = pushed[1..].split_last().unwrap();
        assert!(between.iter().all(|lead| *lead == Lead::Another));
        assert_eq!(*last, Lead::Now);
        // One is at it, and looks again.
        assert_eq!(inbox.push(claim(99)), Lead::Another);
        assert_eq!(taken(&inbox), FULL + 1);
        assert!(inbox.goes_on());
    }

    #[test]
    fn datagrams_are_bounded_and_wait_for_nobody() {
        let inbox = Inbox::default();
        assert!(inbox.push_datagrams(datagrams(DATAGRAMS_MAX - 1)));
        assert!(inbox.has_room());
        assert!(!inbox.push_datagrams(datagrams(1)), "one is at it");
        assert!(!inbox.has_room());
        assert_eq!(taken(&inbox), DATAGRAMS_MAX);
        assert!(inbox.has_room());
    }

    #[test]
    fn a_leader_that_never_comes_is_passed_by_so_often_and_no_more() {
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
        // What nobody leads is left to nobody.
        inbox.push_datagrams(datagrams(1));
        assert_eq!(taken_in_passing(), 1);
    }

    #[test]
    fn a_storm_leaves_no_memory_behind() {
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
