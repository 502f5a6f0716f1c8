//! The cost of each kind of lock for a solo caller: time, and datagrams of its node.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use lockmesh::{Mesh, Outcome};
use serde_json::{Value, json};
use tools::{as_f64, put};

use crate::SLICE;
use crate::report::micros;

/// The time for which voters remember a tick: longer than the measurement.
const KEEP_FOR: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Lock,
    Try,
    Once,
    OnceAgain,
    Permit,
    ThreePermits,
    Keys(u64),
    Election,
}

const KINDS: [(&str, Kind); 9] = [
    ("lock: acquire, release", Kind::Lock),
    ("lock: try_acquire, release", Kind::Try),
    ("once: run a tick", Kind::Once),
    ("once: a tick that has run", Kind::OnceAgain),
    ("semaphore: one permit of five", Kind::Permit),
    ("semaphore: three permits of five", Kind::ThreePermits),
    ("lock_all: two keys", Kind::Keys(2)),
    ("lock_all: eight keys", Kind::Keys(8)),
    ("election: campaign, resign", Kind::Election),
];

/// The cost of one kind, from the request to the response to its release.
#[derive(Debug)]
pub(crate) struct Cost {
    what: &'static str,
    took: Histogram<u64>,
    datagrams_out: u64,
    datagrams_in: u64,
}

impl Cost {
    /// Returns the datagrams for each use, sent and received.
    fn datagrams(&self) -> [f64; 2] {
        [self.datagrams_out, self.datagrams_in].map(|all| as_f64(all) / as_f64(self.took.len()))
    }

    pub(crate) fn json(&self) -> Value {
        let [sent, received] = self.datagrams().map(|it| (it * 100.0).round() / 100.0);
        json!({
            "what": self.what,
            "p50_us": micros(&self.took, 0.5),
            "datagrams_out": sent,
            "datagrams_in": received,
        })
    }
}

/// Measures all kinds for `span` each, in slices that take turns.
pub(crate) async fn measure(mesh: &Mesh, span: Duration) -> anyhow::Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for (what, _) in KINDS {
        costs.push(Cost {
            what,
            took: Histogram::new(3)?,
            datagrams_out: 0,
            datagrams_in: 0,
        });
    }
    let (mut number, began) = (0_u64, Instant::now());
    let all = span * u32::try_from(KINDS.len())?;
    while began.elapsed() < all {
        for ((what, kind), cost) in KINDS.iter().zip(&mut costs) {
            // What came before still answers for a moment.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let before = mesh.status().traffic;
            let end = Instant::now() + SLICE.min(span);
            while Instant::now() < end {
                number += 1;
                let since = Instant::now();
                turn(mesh, *kind, number).await.context(*what)?;
                cost.took
                    .record(u64::try_from(since.elapsed().as_nanos())?)?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            let after = mesh.status().traffic;
            cost.datagrams_out += after.datagrams_out - before.datagrams_out;
            cost.datagrams_in += after.datagrams_in - before.datagrams_in;
        }
    }
    Ok(costs)
}

async fn turn(mesh: &Mesh, kind: Kind, number: u64) -> anyhow::Result<()> {
    match kind {
        Kind::Lock => {
            mesh.lock(format!("k{number}"))
                .acquire()
                .await?
                .release()
                .await?
        }
        Kind::Try => {
            let guard = mesh.lock(format!("k{number}")).try_acquire().await?;
            guard.context("a free key was denied")?.release().await?;
        }
        Kind::Once => {
            let request = mesh.once("job", number).keep_for(KEEP_FOR);
            match request.run(|_| std::future::ready(())).await? {
                Outcome::Ran(()) => {}
                other => bail!("a fresh tick: {other:?}"),
            }
        }
        Kind::OnceAgain => {
            let request = mesh.once("job", "noon").keep_for(KEEP_FOR);
            let _ = request.run(|_| std::future::ready(())).await?;
        }
        Kind::Permit => mesh.semaphore("pool", 5).acquire().await?.release().await?,
        Kind::ThreePermits => {
            let guards = mesh.semaphore("many", 5).acquire_many(3).await?;
            guards.release().await?;
        }
        Kind::Keys(keys) => {
            let keys = (0..keys).map(|key| format!("k{number}/{key}"));
            mesh.lock_all(keys).acquire().await?.release().await?;
        }
        Kind::Election => mesh.election("leader").campaign().await?.resign().await?,
    }
    Ok(())
}

/// Prints a table.
pub(crate) fn print(costs: &[Cost]) {
    put(&format!(
        "{:<44}{:>10}{:>10}{:>12}",
        "kinds, of a solo caller", "p50, us", "sent", "received"
    ));
    for cost in costs {
        let ([sent, received], us) = (cost.datagrams(), micros(&cost.took, 0.5));
        let what = cost.what;
        put(&format!("{what:<44}{us:>10.1}{sent:>10.2}{received:>12.2}"));
    }
}
