//! An acquisition over links with a delay of 200 us each way, beside the round trip over the same
//! links. All nodes run in this process.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use lockmesh::Transport;
use lockmesh_harness::{Fault, LinkedTransport, Links, LocalMesh};

use crate::dirs::Keep;
use crate::turns::Single;

const DELAY: Duration = Duration::from_micros(200);

/// Measures round trips, and acquisitions with `nodes` voters, for `span` each.
pub(crate) async fn measure(nodes: usize, span: Duration, keep: Keep) -> anyhow::Result<Single> {
    Ok(Single {
        rounds: rounds(span).await?,
        acquires: acquires(nodes, span, keep).await?,
    })
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

async fn rounds(span: Duration) -> anyhow::Result<Histogram<u64>> {
    let links = Links::new(0);
    links.everywhere(Fault {
        delay: Some((DELAY, DELAY)),
        ..Fault::default()
    });
    let bind = |name| links.bind(name, ([127, 0, 0, 1], 0).into());
    let (near, far) = (bind("near")?, Arc::new(bind("far")?));
    let echo = tokio::spawn({
        let far = far.clone();
        async move {
            let mut buf = [0; 64];
            while let Ok((len, from)) = receive(&far, &mut buf).await {
                let _ = far.try_send(from, &buf[..len]);
            }
        }
    });
    let (mut rounds, mut buf) = (histogram()?, [0; 64]);
    let end = Instant::now() + span;
    while Instant::now() < end {
        let since = Instant::now();
        near.try_send(far.local_addr(), b"?")?;
        let answer = tokio::time::timeout(Duration::from_secs(1), receive(&near, &mut buf));
        answer.await.context("no echo")??;
        rounds.record(nanos(since))?;
    }
    echo.abort();
    Ok(rounds)
}

async fn receive(
    transport: &LinkedTransport,
    buf: &mut [u8],
) -> std::io::Result<(usize, std::net::SocketAddr)> {
    loop {
        poll_fn(|cx| transport.poll_readable(cx)).await?;
        match transport.try_recv(buf) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

async fn acquires(nodes: usize, span: Duration, keep: Keep) -> anyhow::Result<Histogram<u64>> {
    let mut builder = LocalMesh::builder().nodes(nodes);
    if let Some(durability) = keep.durability() {
        builder = builder.data_dirs(durability);
    }
    let mesh = builder.start().await?;
    mesh.every_link().delay(DELAY..DELAY);
    let node = mesh.node(0);
    let mut acquires = histogram()?;
    let end = Instant::now() + span;
    for key in 0.. {
        let since = Instant::now();
        let guard = node.lock(format!("k{key}")).acquire().await?;
        acquires.record(nanos(since))?;
        guard.release().await?;
        if Instant::now() >= end {
            break;
        }
    }
    Ok(acquires)
}
