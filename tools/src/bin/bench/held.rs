//! The cost of many held locks: the memory of a voter, and the datagrams that renew them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh_proto::{
    Claim, ClaimId, DATAGRAM_BYTES_MAX, DatagramHead, Epoch, EpochClock, Incarnation, Instant, Key,
    Message, Node, NodeConfig, NodeId, Now, Output, Seal, Start, Timing, VoterLimits, VoterSet,
    pack_messages,
};
use tokio::task::JoinSet;

use tools::as_f64;

use crate::NODES;
use crate::child::{Child, Order, Reply};
use crate::dirs::Keep;
use crate::locks::Cluster;

/// The number of locks at the voter whose memory is measured.
const REMEMBERED: u32 = 1_000_000;
/// The number of locks that one node renews.
const KEPT: u32 = 100_000;
const TTL: Duration = Duration::from_secs(10);
/// Long enough for a debug build.
const AT_MOST: Duration = Duration::from_secs(120);
/// The number of tasks that acquire these locks.
const TASKS: u32 = 64;
const MESSAGES_AT_ONCE: u32 = 8;

/// Returns the growth of a process in bytes, for each lock at its voter. Returns `None` if the
/// system does not report the size of a process.
pub(crate) async fn memory() -> anyhow::Result<Option<f64>> {
    let mut child = Child::start()?;
    child.send(&Order::Remember { locks: REMEMBERED }).await?;
    match child.reply(AT_MOST).await? {
        Reply::Grew(bytes) => Ok(bytes.map(|bytes| as_f64(bytes) / f64::from(REMEMBERED))),
        other => bail!("a voter answered {other:?}"),
    }
}

/// Sends a voter `locks` claims of three nodes, in datagrams. Returns the growth of this process in
/// bytes.
pub(crate) fn remember(locks: u32) -> anyhow::Result<Option<u64>> {
    let now = Now {
        mono: Instant::ZERO.after(Duration::from_secs(1_000)),
        wall_ms: 1_700_000_000_000,
    };
    let mut node = alone(now)?;
    let before = resident()?;
    for first in (0..locks).step_by(MESSAGES_AT_ONCE as usize) {
        let from = first / MESSAGES_AT_ONCE % 3;
        let numbers = first..(first + MESSAGES_AT_ONCE).min(locks);
        let (addr, bytes) = claims(&node, now, from, numbers)?;
        node.handle_datagram(now, addr, &bytes);
        while !matches!(node.poll_output(), Output::Timeout(_)) {}
    }
    let grew = resident()?
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    let remembered = node.voter().context("it is no voter")?.slots();
    if remembered != usize::try_from(locks)? {
        bail!(
            "the voter remembers {remembered} of {locks}: {:?}",
            node.traffic()
        );
    }
    Ok(grew)
}

/// Returns a node that is the only voter, and has no peer to recover from.
fn alone(now: Now) -> anyhow::Result<Node> {
    let id = NodeId::new("n0")?;
    let config = NodeConfig {
        id: id.clone(),
        incarnation: Incarnation::new(1),
        voter_set: Arc::new(VoterSet::new(1, vec![id], 1, Timing::lan())?),
        start: Start::NewCluster,
        limits: VoterLimits::default(),
        max_claims: 1,
        renew_interval: None,
        seed: 1,
        seal: Seal::insecure_plaintext(),
    };
    let born = Now {
        mono: Instant::ZERO,
        ..now
    };
    let mut node = Node::new(born, config);
    node.handle_timeout(now);
    Ok(node)
}

/// Returns a datagram with claims for keys of 16 bytes, and the address of its sender.
fn claims(
    node: &Node,
    now: Now,
    from: u32,
    numbers: std::ops::Range<u32>,
) -> anyhow::Result<(SocketAddr, Vec<u8>)> {
    let claimant = NodeId::new(format!("c{from}"))?;
    let incarnation = Incarnation::new(1);
    let mut messages = Vec::new();
    for number in numbers {
        messages.push(Message::Claim(Claim {
            key: Key::new(format!("key/{number:012}"))?,
            claim: ClaimId {
                node: claimant.clone(),
                incarnation,
                seq: number.into(),
            },
            epoch: Epoch::new(EpochClock::limit(now, Duration::ZERO).get() + u64::from(number)),
            ttl: TTL,
            sent_at: now.mono,
            votes_valid_since: Instant::ZERO,
            granted: false,
            is_try: false,
            join: false,
            outlives: false,
        }));
    }
    let head = DatagramHead {
        from: claimant,
        incarnation,
        to: node.id().clone(),
        voter_set: node.voter_set().tag(),
    };
    let mut seal = Seal::insecure_plaintext();
    let packed = pack_messages(&head, &messages, DATAGRAM_BYTES_MAX - seal.overhead());
    let [(body, _)] = packed.bodies.as_slice() else {
        bail!("{MESSAGES_AT_ONCE} claims do not fit into a datagram");
    };
    let bytes = seal.seal(lockmesh_proto::DatagramKind::Votes, body);
    let port = 4000 + u16::try_from(from)?;
    Ok(((Ipv4Addr::LOCALHOST, port).into(), bytes))
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> anyhow::Result<Option<u64>> {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return Ok(None);
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.context("the system does not say VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(Some(kib * 1_024))
}

/// Returns the datagrams a second that one node sends to each other voter while it only renews its
/// locks, and the number of locks that were lost meanwhile.
pub(crate) async fn kept() -> anyhow::Result<(f64, usize)> {
    let cluster = Cluster::start(NODES, Keep::Memory).await?;
    let mut running = JoinSet::new();
    for task in 0..TASKS {
        let mesh = cluster.mesh.clone();
        running.spawn(async move {
            let mut guards = Vec::new();
            for number in (task..KEPT).step_by(TASKS as usize) {
                let request = mesh.lock(format!("key/{number:012}")).ttl(TTL);
                guards.push(request.acquire_timeout(AT_MOST).acquire().await?);
            }
            anyhow::Ok(guards)
        });
    }
    let mut guards = Vec::new();
    while let Some(ended) = running.join_next().await {
        guards.extend(ended??);
    }
    // The first renewal of each lock is sent separately. After this time all are past it.
    tokio::time::sleep(TTL).await;
    let sent = || cluster.mesh.status().traffic.datagrams_out;
    let (before, began) = (sent(), std::time::Instant::now());
    // Every lease is renewed several times meanwhile.
    tokio::time::sleep(TTL).await;
    let (after, took) = (sent(), began.elapsed());
    let held = guards.iter().filter(|guard| guard.is_held()).count();
    cluster.mesh.shutdown().await;
    let each = as_f64(after - before) / as_f64(NODES as u64 - 1);
    Ok((each / took.as_secs_f64(), guards.len() - held))
}
