//! The contract of ticks that run once, tested over each backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockmesh::{Mesh, OnceError, Outcome};
use tokio::sync::oneshot;

use crate::common::{Backend, over_all_backends, waits_for, within};

/// Longer than any of these tests: an event before it elapses did not wait for the lease to end.
const LONG: Duration = Duration::from_secs(50);

over_all_backends! {
    one_of_five_runs_a_tick,
    failed_work_gives_the_tick_back,
    tick_that_runs_is_running_for_others,
    dropped_work_gives_the_tick_back,
    tick_is_forgotten_after_keep_for,
    tick_with_separator_is_an_error,
}

async fn one_of_five_runs_a_tick(Backend { a, b, .. }: Backend) {
    let runs = Arc::new(AtomicU32::new(0));
    let calls = [&a, &b, &a, &b, &a].map(|mesh| {
        let (request, runs) = (mesh.once("report", 7).ttl(LONG), runs.clone());
        tokio::spawn(request.run(move |epoch| async move {
            runs.fetch_add(1, Ordering::SeqCst);
            epoch
        }))
    });
    let mut ran = Vec::new();
    let mut others = Vec::new();
    for call in calls {
        match within("an outcome", call).await.unwrap().unwrap() {
            Outcome::Ran(epoch) => ran.push(epoch),
            Outcome::AlreadyRan { epoch, .. } => others.push(epoch),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ran.len(), runs.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(others, [ran[0]; 4]);
    // Later calls and those without a wait learn it too, and other ticks and jobs are free.
    for mesh in [&a, &b] {
        for wait in [LONG, Duration::ZERO] {
            let again = mesh.once("report", 7).wait(wait).run(async |_| ()).await;
            assert!(matches!(again, Ok(Outcome::AlreadyRan { .. })), "{again:?}");
        }
    }
    for (job, tick) in [("report", 8), ("other", 7)] {
        let free = b.once(job, tick).run(async |_| ()).await;
        assert_eq!(free, Ok(Outcome::Ran(())));
    }
}

async fn failed_work_gives_the_tick_back(Backend { a, b, .. }: Backend) {
    let once = |mesh: &Mesh| mesh.once("report", 1).ttl(LONG);
    let mut first = None;
    let failed = once(&a).try_run(async |epoch| {
        first = Some(epoch);
        Err::<(), _>("no disk")
    });
    assert_eq!(failed.await, Ok(Outcome::Failed("no disk")));
    let ran = once(&b).try_run(async |epoch| Ok::<_, ()>(epoch));
    let ran = within("the next attempt", ran).await.unwrap();
    assert!(
        matches!(ran, Outcome::Ran(epoch) if Some(epoch) > first),
        "{ran:?}"
    );
    let again = once(&a).try_run(async |_| Ok::<_, ()>(())).await;
    assert!(matches!(again, Ok(Outcome::AlreadyRan { .. })), "{again:?}");
}

async fn tick_that_runs_is_running_for_others(Backend { a, b, .. }: Backend) {
    let (tell, told) = oneshot::channel::<()>();
    let (began, begins) = oneshot::channel();
    let runs = a.once("report", 1).ttl(LONG).run(|epoch| async move {
        began.send(epoch).unwrap();
        told.await
    });
    let runs = tokio::spawn(runs);
    let epoch = within("the work begins", begins).await.unwrap();
    let running = b.once("report", 1).wait(Duration::ZERO).run(async |_| ());
    let running = within("the answer", running).await.unwrap();
    assert!(matches!(running, Outcome::Running { .. }), "{running:?}");
    // A call that waits learns the end.
    let waits = b.once("report", 1).ttl(LONG).run(async |_| ());
    let waits = tokio::spawn(waits);
    waits_for(&b, "report@1", 1).await;
    tell.send(()).unwrap();
    assert_eq!(
        within("the run", runs).await.unwrap(),
        Ok(Outcome::Ran(Ok(())))
    );
    let told = within("the wait ends", waits).await.unwrap();
    let by = a.id().to_string();
    assert_eq!(told, Ok(Outcome::AlreadyRan { by, epoch }));
}

async fn dropped_work_gives_the_tick_back(Backend { a, b, .. }: Backend) {
    let (began, begins) = oneshot::channel();
    let request = a.once("report", 1).ttl(LONG);
    let runs = tokio::spawn(request.run(|_| async move {
        began.send(()).unwrap();
        std::future::pending::<()>().await;
    }));
    within("the work begins", begins).await.unwrap();
    runs.abort();
    let next = b.once("report", 1).ttl(LONG).run(async |_| ());
    assert_eq!(within("the next attempt", next).await, Ok(Outcome::Ran(())));
}

async fn tick_is_forgotten_after_keep_for(Backend { a, b, .. }: Backend) {
    let once = |mesh: &Mesh| mesh.once("report", 1).keep_for(Duration::from_millis(500));
    assert_eq!(once(&a).run(async |_| ()).await, Ok(Outcome::Ran(())));
    let forgotten = async {
        while once(&b).run(async |_| ()).await != Ok(Outcome::Ran(())) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the tick is forgotten", forgotten).await;
}

async fn tick_with_separator_is_an_error(Backend { a, .. }: Backend) {
    let error = a.once("report", "1@2").run(async |_| ()).await;
    let tick = "1@2".to_owned();
    assert_eq!(error, Err(OnceError::Tick { tick }));
}
