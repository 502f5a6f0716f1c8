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
use crate::engine::batch::{Combiner, Terms};
use crate::engine::core::Ended;
use crate::engine::core::tests::{member, only_voter, request};
use crate::engine::driver::drive;
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
    static WITHIN_A_TURN: RefCell<Option<Interjection>> = const { RefCell::new(None) };
}

/// Called after a lease was read, before the result is used.
pub(crate) fn after_a_look() {
    if let Some(change) = AFTER_A_LOOK.take() {
        change();
    }
}

/// Called in each turn, after its commands were submitted.
pub(super) fn within_a_turn(engine: &Engine) {
    if let Some(mut interject) = WITHIN_A_TURN.take() {
        interject(engine);
        WITHIN_A_TURN.set(Some(interject));
    }
}

fn engine(node: impl FnOnce(&Time) -> Node) -> Arc<Engine> {
    let clock = TokioClock::time();
    let (gossip, _) = mpsc::channel(1);
    Arc::new(Engine::new(
        clock.clone(),
        Arc::new(Nowhere),
        (node(&clock), None),
        gossip,
    ))
}

/// Requests a lock, with a timeout if `wait` is one.
fn claim(
    engine: &Engine,
    wait: Option<Duration>,
) -> (Ticket, oneshot::Receiver<Ended>, Option<Combiner<'_>>) {
    let since = engine.clock.mono();
    let request = Request {
        deadline: wait.map(|wait| since.after(wait)),
        ..request("k")
    };
    engine.claim(since, request, Terms::default())
}

fn is_known(engine: &Engine, ticket: Ticket) -> bool {
    let state = engine.lock();
    let core = state.core.as_ref().unwrap();
    core.node.claimant().epoch(ticket).is_some()
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
    for is_batched in [false, true] {
        let engine = engine(|clock| member(clock, 0, 3));
        let driver = tokio::spawn(drive(engine.clone()));
        // The voter has timers of its own until it votes.
        tokio::time::sleep(LONG).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            if is_batched {
                engine.lock().batch.start();
            }
            let began = Virtual::now();
            let (_, ended, combiner) = claim(&engine, Some(wait));
            assert_eq!(combiner.is_some(), is_batched);
            if let Some(combiner) = combiner {
                combiner.await;
            }
            assert!(matches!(ended.await, Ok(Ended::TimedOut { .. })));
            let took = began.elapsed();
            assert!(
                took >= wait && took <= wait + Duration::from_millis(2),
                "{took:?}"
            );
        }
        driver.abort();
    }
}

/// A thread takes some turns for others, and leaves the rest to the driver, which sleeps.
#[tokio::test(start_paused = true)]
async fn commands_after_last_turn_are_served_at_once() {
    let engine = engine(only_voter);
    let driver = tokio::spawn(drive(engine.clone()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let all = Arc::new(std::sync::Mutex::new(VecDeque::new()));
    let (claims, began) = (all.clone(), Virtual::now());
    WITHIN_A_TURN.set(Some(Box::new(move |engine| {
        engine.lock().batch.stop();
        let (_, ended, _) = claim(engine, None);
        claims.lock().unwrap().push_back(ended);
    })));
    let (_, first, _) = claim(&engine, None);
    WITHIN_A_TURN.take();
    assert!(matches!(first.await, Ok(Ended::Granted(_))));
    let mut all = std::mem::take(&mut *all.lock().unwrap());
    let mut last = all.pop_back().unwrap();
    assert!(last.try_recv().is_err(), "it was served within the turns");
    assert!(matches!(last.await, Ok(Ended::Refused(_))));
    assert!(all.iter_mut().all(|ended| ended.try_recv().is_ok()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    driver.abort();
}

/// The holder ends its lease, and drops the future before the release was sent.
#[tokio::test(start_paused = true)]
async fn batched_release_whose_future_is_dropped_is_sent() {
    for is_polled in [false, true] {
        let engine = engine(only_voter);
        let (ticket, ended, combiner) = claim(&engine, None);
        assert!(combiner.is_none());
        assert!(matches!(ended.await, Ok(Ended::Granted(_))));
        engine.lock().batch.start();
        let mut combiner = engine.release(ticket, true).unwrap();
        if is_polled {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let polled = std::pin::Pin::new(&mut combiner).poll(&mut context);
            assert!(polled.is_pending());
        }
        assert!(is_known(&engine, ticket), "more commands may come");
        drop(combiner);
        assert!(!is_known(&engine, ticket));
    }
}

/// The claim is batched when its request is withdrawn, or released by a solo caller.
#[tokio::test(start_paused = true)]
async fn release_does_not_overtake_the_batched_claim() {
    for is_withdrawn in [false, true] {
        let engine = engine(only_voter);
        engine.lock().batch.start();
        let (ticket, _ended, combiner) = claim(&engine, None);
        assert!(!is_known(&engine, ticket), "it is batched");
        if is_withdrawn {
            engine.with(|core, now| core.withdraw(now, ticket));
        } else {
            engine.lock().batch.stop();
            assert!(engine.release(ticket, false).is_none());
        }
        combiner.unwrap().await;
        assert!(!is_known(&engine, ticket));
    }
}
