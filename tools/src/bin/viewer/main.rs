//! The viewer: a cluster on this machine, and a page that shows it and injects faults.
#![forbid(unsafe_code)]

mod caption;
mod command;
mod look;
mod server;
mod stories;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;

use lockmesh_cli::node::Signals;
use world::Lab;

/// Run several nodes and serve a web page on 127.0.0.1 that shows them and injects faults.
#[derive(Debug, Parser)]
#[command(name = "viewer")]
struct Args {
    /// Port of the page on 127.0.0.1; 0 picks a free port.
    #[arg(long, default_value_t = 7410)]
    port: u16,
    /// Number of nodes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// Lease of each lock, in milliseconds.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u16).range(500..=30_000))]
    ttl_ms: u16,
}

/// Runs until ctrl-c or SIGTERM.
#[tokio::main]
async fn main() -> ExitCode {
    match show(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("viewer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::new(false)?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    // Bind the port first: if it is taken, nothing has been started.
    let listener = TcpListener::bind(addr).await;
    let listener = listener.with_context(|| format!("{addr} cannot be bound; try --port 0"))?;
    let addr = listener.local_addr().context("no local address")?;
    let started = Lab::start(args.nodes.into(), Duration::from_millis(args.ttl_ms.into()));
    let lab = tokio::select! {
        lab = started => lab.context("the cluster did not start")?,
        _ = signals.next() => return Ok(()),
    };
    tools::put(&format!(
        "viewer: {} nodes, see http://{addr}/ (ctrl-c ends it)",
        args.nodes
    ));
    let watch = tokio::spawn(look::watch(Arc::downgrade(&lab)));
    tokio::select! {
        served = server::serve(listener, addr, lab.clone()) => served?,
        _ = signals.next() => {}
    }
    watch.abort();
    lab.end();
    Ok(())
}
