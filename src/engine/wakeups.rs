//! Tests of wake-ups, under a paused clock that advances only while all tasks wait. A lost wake-up
//! would cost a sleep of 250 ms, which these tests detect.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant as Virtual;

use crate::clock::{Time, TokioClock};
use crate::engine::Engine;
use crate::engine::core::Ended;
use crate::engine::core::tests::{member, only_voter};
use crate::engine::driver::drive;
use crate::engine::inbox::{Ask, Lead};
use crate::lease::Lease;
use crate::transport::Nowhere;
use lockmesh_proto::{Epoch, Key, Node, Request, Ticket};

/// Longer than any test waits in virtual time.
const LONG: Duration = Duration::from_secs(60);
/// `select!` polls its branches in random order. In this many rounds all orders occur.
const ROUNDS: usize = 32;

type Change = Box<dyn FnOnce()>;
type Interjection = Box<dyn FnMut(&Engine)>;

thread_local! {
    static AFTER_A_LOOK: RefCell<Option<Change>> = const { RefCell::new(None) };
    static AFTER_A_TURN: RefCell<Option<Interjection>> = const { RefCell::new(None) };
}

/// Called after a lease was read, before the result is used.
pub(crate) fn after_a_look() {
    if let Some(change) = AFTER_A_LOOK.take() {
        change();
    }
}

/// Called after each turn at the node.
pub(super) fn after_a_turn(engine: &Engine) {
    if let Some(mut ask) = AFTER_A_TURN.take() {
        ask(engine);
        AFTER_A_TURN.set(Some(ask));
    }
}

fn engine(node: impl FnOnce(&Time) -> Node) -> Arc<Engine> {
    let clock = TokioClock::time();
    let (gossip, _) = mpsc::channel(1);
    Arc::new(Engine::new(
        clock.clone(),
        Arc::new(Nowhere),
        node(&clock),
        gossip,
    ))
}

fn claim(
    engine: &Engine,
    key: &str,
    wait: Option<Duration>,
) -> (Ticket, Ask, oneshot::Receiver<Ended>) {
    let (notify, notified) = oneshot::channel();
    let (ticket, since) = (engine.ticket(), engine.clock.mono());
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
fn make_company(engine: &Engine) {
    for _ in 0..2 {
        let ticket = engine.ticket();
        let was_held = false;
        engine.inbox.push(Ask::Release { ticket, was_held });
    }
    engine.with(|_, _| ());
}

fn is_known(engine: &Engine, ticket: Ticket) -> bool {
    engine.lock().node.claimant().epoch(ticket).is_some()
}

fn lease() -> Arc<Lease> {
    let clock = TokioClock::time();
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
        let goal = TokioClock::time().mono().after(LONG * 2);
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
        let engine = engine(|clock| member(clock, 0, 3));
        let driver = tokio::spawn(drive(engine.clone()));
        // The voter has timers of its own until it votes.
        tokio::time::sleep(LONG).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            if in_company {
                make_company(&engine);
            }
            let (_, ask, notified) = claim(&engine, "k", Some(wait));
            let began = Virtual::now();
            let leading = engine.ask(ask);
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
    let engine = engine(only_voter);
    let driver = tokio::spawn(drive(engine.clone()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let all = Arc::new(std::sync::Mutex::new(VecDeque::new()));
    let (asks, began) = (all.clone(), Virtual::now());
    AFTER_A_TURN.set(Some(Box::new(move |engine| {
        let (_, ask, notified) = claim(engine, "k", None);
        asks.lock().unwrap().push_back(notified);
        // If a caller takes turns, it checks again.
        if let Lead::Later(number) = engine.inbox.push(ask) {
            engine.lead(number);
        }
    })));
    let (_, ask, first) = claim(&engine, "k", None);
    let Lead::Later(number) = engine.inbox.push(ask) else {
        panic!("there is no other combiner");
    };
    engine.lead(number);
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
        let engine = engine(only_voter);
        let (ticket, ask, notified) = claim(&engine, "k", None);
        assert!(engine.ask(ask).is_none());
        assert!(matches!(notified.await, Ok(Ended::Granted(_))));
        make_company(&engine);
        let was_held = true;
        let mut leading = engine.ask(Ask::Release { ticket, was_held }).unwrap();
        if is_polled {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let polled = std::pin::Pin::new(&mut leading).poll(&mut context);
            assert!(polled.is_pending());
        }
        assert!(is_known(&engine, ticket), "more requests may come");
        drop(leading);
        assert!(!is_known(&engine, ticket));
    }
}

/// The claim is batched when its request is withdrawn, or released by a solo caller.
#[tokio::test(start_paused = true)]
async fn release_does_not_overtake_the_batched_claim() {
    for is_withdrawn in [false, true] {
        let engine = engine(only_voter);
        make_company(&engine);
        let (ticket, ask, _told) = claim(&engine, "k", None);
        let leading = engine.ask(ask).unwrap();
        assert!(!is_known(&engine, ticket), "it is batched");
        if is_withdrawn {
            engine.with(|core, now| core.withdraw(now, ticket));
        } else {
            engine.be_alone();
            let was_held = false;
            assert!(engine.ask(Ask::Release { ticket, was_held }).is_none());
        }
        leading.await;
        assert!(!is_known(&engine, ticket));
    }
}
