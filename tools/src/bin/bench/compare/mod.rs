//! `bench --compare`: other lock services and the mesh, in one run on one machine.

mod client;
mod etcd;
mod hold;
mod measure;
mod servers;
mod table;

use std::future::Future;

use anyhow::{Context, bail};
use client::Kind;
pub(crate) use client::Service;
pub(super) use hold::hold;

use super::report::Figures;
use super::turns::Load;
use super::{Other, Row, Setup};

impl Other {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Redis => &[Kind::Redis, Kind::Redlock],
            Self::Etcd => &[Kind::Etcd],
        }
    }
}

/// Returns the rows that other services have too.
pub(super) fn rows(only: &[Row]) -> Vec<Row> {
    let shared = [Row::W1, Row::W2, Row::W3, Row::W4, Row::W5];
    only.iter()
        .filter(|row| shared.contains(row))
        .copied()
        .collect()
}

/// Checks that all programs are installed, before anything is measured.
pub(super) fn find(others: &[Other]) -> anyhow::Result<()> {
    let mut kinds = others.iter().flat_map(|other| other.kinds());
    kinds.try_for_each(|kind| kind.find())
}

/// Measures the others, one after another, and prints the table.
pub(super) async fn run(
    others: &[Other],
    setup: Setup,
    load: &Load,
    mesh: &Figures,
    json: bool,
) -> anyhow::Result<()> {
    let mut rows = vec![table::Line::of_mesh(mesh)];
    for kind in others.iter().flat_map(|other| other.kinds()) {
        let measured = measure::measure(*kind, setup, load).await;
        let measured = measured.with_context(|| kind.name())?;
        rows.push(table::Line::of(*kind, &measured));
    }
    table::print(&rows, json);
    Ok(())
}

/// Runs `work`, unless a signal to stop arrives first. Dropping it stops all that it started.
pub(super) async fn unless_stopped<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        name = stopped() => bail!("{} came; the servers are ended", name?),
    }
}

#[cfg(unix)]
async fn stopped() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    })
}

#[cfg(not(unix))]
async fn stopped() -> std::io::Result<&'static str> {
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}
