//! Tests of wake-ups, under a paused clock that advances only while all tasks wait. A lost wake-up
//! would cost a sleep of 250 ms, which these tests detect.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant as Virtual;

use super::clock::Clock;
use super::core::Ended;
use super::core::tests::{member, only_voter};
use super::driver::drive;
use super::inbox::{Ask, Lead};
use super::lease::Lease;
use super::shared::Shared;
use super::socket::Sender;
use lockmesh_proto::{Epoch, Key, Node, Request, Ticket};

/// Longer than any test waits in virtual time.
const LONG: Duration = Duration::from_secs(60);
/// `select!` polls its branches in random order. In this many rounds all orders occur.
const ROUNDS: usize = 32;

type Change = Box<dyn FnOnce()>;
type Interjection = Box<dyn FnMut(&Shared)>;

thread_local! {
    static AFTER_A_LOOK: RefCell<Option<Change>> = const { RefCell::new(None) };
    static AFTER_A_TURN: RefCell<Option<Interjection>> = const { RefCell::new(None) };
}

/// Called after a lease was read, before the result is used.
pub(super) fn after_a_look() {
    if let Some(change) = AFTER_A_LOOK.take() {
        change();
    }
}

/// Called after each turn at the node.
pub(super) fn after_a_turn(shared: &Shared) {
    if let Some(mut ask) = AFTER_A_TURN.take() {
        ask(shared);
        AFTER_A_TURN.set(Some(ask));
    }
}

fn shared(node: impl FnOnce(Clock) -> Node) -> Arc<Shared> {
    let clock = Clock::of_tokio();
    let (gossip, _) = mpsc::channel(1);
    Arc::new(Shared::new(clock, Sender::nowhere(), node(clock), gossip))
}

fn claim(
    shared: &Shared,
    key: &str,
    wait: Option<Duration>,
) -> (Ticket, Ask, oneshot::Receiver<Ended>) {
    let (notify, notified) = oneshot::channel();
    let (ticket, since) = (shared.ticket(), shared.clock.mono());
    let request = Request {
        key: Key::new(key).unwrap(),
        ttl: Duration::from_secs(10),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: wait.map(|wait| since.after(wait)),
    };
    let ask = Ask::Claim {
        ticket,
        since,
        request,
        notify,
    };
    (ticket, ask, notified)
}

/// Makes the node batch its callers from now on.
fn make_company(shared: &Shared) {
    for _ in 0..2 {
        let ticket = shared.ticket();
        let was_held = false;
        shared.inbox.push(Ask::Release { ticket, was_held });
    }
    shared.with(|_, _| ());
}

fn is_known(shared: &Shared, ticket: Ticket) -> bool {
    shared.lock().node.claimant().epoch(ticket).is_some()
}

fn lease() -> Arc<Lease> {
    let clock = Clock::of_tokio();
    let key = Key::new("k").unwrap();
    let until = clock.mono().after(LONG);
    Arc::new(Lease::new(Ticket(1), key, Epoch::new(1), clock, until))
}

#[tokio::test(start_paused = true)]
async fn lease_ended_after_check_wakes_at_once() {
    for _ in 0..ROUNDS {
        let (lease, began) = (lease(), Virtual::now());
        let ends = lease.clone();
        AFTER_A_LOOK.set(Some(Box::new(move || ends.end())));
        lease.lost().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_extended_after_check_wakes_at_once() {
    for _ in 0..ROUNDS {
        let (lease, began) = (lease(), Virtual::now());
        let grows = lease.clone();
        let goal = Clock::of_tokio().mono().after(LONG * 2);
        AFTER_A_LOOK.set(Some(Box::new(move || assert!(grows.renew(goal)))));
        assert!(lease.reaches(goal).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

/// The driver sleeps for up to 250 ms when a request arrives that times out before. The rest of the
/// sleep differs in each round.
#[tokio::test(start_paused = true)]
async fn sleeping_driver_wakes_for_an_earlier_timer() {
    let wait = Duration::from_millis(30);
    for in_company in [false, true] {
        let shared = shared(|clock| member(clock, 0, 3));
        let driver = tokio::spawn(drive(shared.clone(), None));
        // The voter has timers of its own until it votes.
        tokio::time::sleep(LONG).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            if in_company {
                make_company(&shared);
            }
            let (_, ask, notified) = claim(&shared, "k", Some(wait));
            let began = Virtual::now();
            let leading = shared.ask(ask);
            assert_eq!(leading.is_some(), in_company);
            if let Some(leading) = leading {
                leading.await;
            }
            assert!(matches!(notified.await, Ok(Ended::TimedOut { .. })));
            let took = began.elapsed();
            assert!(
                took >= wait && took <= wait + Duration::from_millis(2),
                "{took:?}"
            );
        }
        driver.abort();
    }
}

/// The combiner leaves the rest to the driver, which sleeps.
#[tokio::test(start_paused = true)]
async fn requests_after_last_turn_are_served_at_once() {
    let shared = shared(only_voter);
    let driver = tokio::spawn(drive(shared.clone(), None));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let all = Arc::new(std::sync::Mutex::new(VecDeque::new()));
    let (asks, began) = (all.clone(), Virtual::now());
    AFTER_A_TURN.set(Some(Box::new(move |shared| {
        let (_, ask, notified) = claim(shared, "k", None);
        asks.lock().unwrap().push_back(notified);
        // If a caller takes turns, it checks again.
        if let Lead::Later(number) = shared.inbox.push(ask) {
            shared.lead(number);
        }
    })));
    let (_, ask, first) = claim(&shared, "k", None);
    let Lead::Later(number) = shared.inbox.push(ask) else {
        panic!("there is no other combiner");
    };
    shared.lead(number);
    AFTER_A_TURN.take();
    assert!(matches!(first.await, Ok(Ended::Granted(_))));
    let mut all = std::mem::take(&mut *all.lock().unwrap());
    let mut last = all.pop_back().unwrap();
    assert!(last.try_recv().is_err(), "it was served within the turns");
    assert!(matches!(last.await, Ok(Ended::Refused(_))));
    assert!(all.iter_mut().all(|notified| notified.try_recv().is_ok()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    driver.abort();
}

/// The holder ends its lease, and drops the future before the release was sent.
#[tokio::test(start_paused = true)]
async fn batched_release_whose_future_is_dropped_is_sent() {
    for is_polled in [false, true] {
        let shared = shared(only_voter);
        let (ticket, ask, notified) = claim(&shared, "k", None);
        assert!(shared.ask(ask).is_none());
        assert!(matches!(notified.await, Ok(Ended::Granted(_))));
        make_company(&shared);
        let was_held = true;
        let mut leading = shared.ask(Ask::Release { ticket, was_held }).unwrap();
        if is_polled {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let polled = std::pin::Pin::new(&mut leading).poll(&mut context);
            assert!(polled.is_pending());
        }
        assert!(is_known(&shared, ticket), "more requests may come");
        drop(leading);
        assert!(!is_known(&shared, ticket));
    }
}

/// The claim is batched when its request is withdrawn, or released by a solo caller.
#[tokio::test(start_paused = true)]
async fn release_does_not_overtake_the_batched_claim() {
    for is_withdrawn in [false, true] {
        let shared = shared(only_voter);
        make_company(&shared);
        let (ticket, ask, _told) = claim(&shared, "k", None);
        let leading = shared.ask(ask).unwrap();
        assert!(!is_known(&shared, ticket), "it is batched");
        if is_withdrawn {
            shared.with(|core, now| core.withdraw(now, ticket));
        } else {
            shared.be_alone();
            let was_held = false;
            assert!(shared.ask(Ask::Release { ticket, was_held }).is_none());
        }
        leading.await;
        assert!(!is_known(&shared, ticket));
    }
}
