//! The driver of a mesh: it receives datagrams and runs timers. Requests of the handles do not pass
//! through it.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::inbox::Ask;
use crate::obstacle::Obstacle;
use crate::status::Health;
use crate::transport::Transport;
use lockmesh_proto::Instant;

/// The maximum sleep of the loop while locks are held or awaited. Timers do not count time in which
/// the machine was suspended, but leases do.
const NAP_MAX: Duration = Duration::from_millis(250);
/// The interval at which gauges and traffic counters are refreshed.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// The intervals at which voters are queried and obstacles are looked for: normally, while this
/// node neither holds nor awaits a lock, and while it is not ready.
const LOOK_EVERY: Duration = NAP_MAX;
const LOOK_IDLE: Duration = Duration::from_secs(1);
const LOOK_SOON: Duration = Duration::from_millis(50);
/// The maximum number of datagrams handled before their output is sent. If datagrams arrive one at
/// a time, the output of each is sent before the next is received.
const BATCH: usize = 64;
/// The size of a buffer that holds any UDP datagram.
pub(super) const DATAGRAM_BYTES: usize = 65_536;
/// The pause after the socket has failed.
const REST: Duration = Duration::from_millis(10);

/// Runs until it is aborted or its runtime shuts down.
pub(crate) async fn drive(engine: Arc<Engine>) {
    let _ending = Ending(engine.clone());
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut due = Due::at(engine.clock.mono());
    let mut alarm = Instant::ZERO;
    let mut batch = BATCH;
    let mut asleep = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        let mut nap = engine.nap(&mut alarm, due.look_every);
        if nap == Some(Duration::ZERO) {
            on_tick(&engine, &mut due);
            nap = engine.nap(&mut alarm, due.look_every);
        }
        if let Some(nap) = nap {
            asleep.as_mut().reset(tokio::time::Instant::now() + nap);
        }
        let ready = tokio::select! {
            ready = poll_fn(|cx| engine.transport.poll_readable(cx)) => Some(ready),
            () = asleep.as_mut() => {
                alarm = Instant::ZERO;
                None
            }
            () = engine.earlier.notified() => None,
        };
        let taken = match ready {
            Some(Ok(())) => hear(&engine, &*engine.transport, &mut buffer, &mut batch),
            Some(Err(error)) => Err(error),
            None if engine.has_failed() => return,
            None => {
                on_tick(&engine, &mut due);
                Ok(())
            }
        };
        if let Err(error) = taken {
            if engine.has_failed() {
                return;
            }
            let error = error.to_string();
            let failed = Obstacle::SocketFailed { error };
            engine.with(|core, now| core.obstacles.note(now.mono, &failed));
            tokio::time::sleep(REST).await;
        }
    }
}

/// Drops all pending callers when the loop ends for any reason. Without the driver they would wait
/// forever.
struct Ending(Arc<Engine>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.with(|core, now| {
            core.forget_all();
            core.meter.refresh(core, now);
        });
        self.0.set_health(Health::ShutDown);
    }
}

/// The times of the driver's last periodic work.
struct Due {
    refreshed: Instant,
    looked: Option<Instant>,
    look_every: Duration,
}

impl Due {
    fn at(now: Instant) -> Self {
        Self {
            refreshed: now,
            looked: None,
            look_every: LOOK_SOON,
        }
    }
}

/// Runs due timers and periodic work. Logs after the engine lock was released.
fn on_tick(engine: &Engine, due: &mut Due) {
    let (node, lines) = engine.with(|core, now| {
        if core.has_failed {
            return (None, Vec::new());
        }
        core.node.handle_timeout(now);
        if now.mono.since(due.refreshed) >= REFRESH_EVERY {
            due.refreshed = now.mono;
            core.meter.refresh(core, now);
        }
        let looked = due.looked.map(|at| now.mono.since(at));
        if looked.is_some_and(|ago| ago < due.look_every) || core.is_shut_down {
            return (None, Vec::new());
        }
        due.looked = Some(now.mono);
        let health = core.health(now);
        due.look_every = match health {
            Health::Ready if core.is_idle() => LOOK_IDLE,
            Health::Ready => LOOK_EVERY,
            _ => LOOK_SOON,
        };
        engine.set_health(health);
        let lines = core.look(now);
        let node = (!lines.is_empty()).then(|| core.node.id().clone());
        (node, lines)
    });
    if let Some(node) = node {
        lines.iter().for_each(|line| line.log(&node));
    }
}

/// Receives and handles up to `batch` datagrams, and sets `batch` for the next call.
///
/// All are handled before their output is sent, so that replies to one peer share a datagram. A
/// socket that had one datagram mostly has no second. With a `batch` of 1, that is checked without
/// the engine lock.
fn hear(
    engine: &Engine,
    transport: &dyn Transport,
    buffer: &mut [u8],
    batch: &mut usize,
) -> std::io::Result<()> {
    let at_most = std::mem::replace(batch, BATCH);
    let Some((mut len, mut from)) = receive(transport, buffer)? else {
        *batch = 1;
        return Ok(());
    };
    let mut submit = |handle: &mut dyn FnMut(SocketAddr, &[u8])| {
        for taken in 1.. {
            handle(from, &buffer[..len]);
            if taken >= at_most {
                break;
            }
            let Some(next) = receive(transport, buffer)? else {
                *batch = if taken > 1 { BATCH } else { 1 };
                break;
            };
            (len, from) = next;
        }
        Ok(())
    };
    let heard = engine.hear(|core| {
        submit(&mut |from, bytes| {
            core.node.handle_datagram(engine.clock.now(), from, bytes);
        })
    });
    // Another caller has the engine lock, and submits the datagrams too.
    heard.unwrap_or_else(|| {
        let mut datagrams = Vec::new();
        let taken = submit(&mut |from, bytes| {
            let bytes = bytes.to_vec();
            datagrams.push(Ask::Datagram { from, bytes });
        });
        engine.leave(datagrams);
        taken
    })
}

/// Receives the next datagram, if there is one now.
fn receive(
    transport: &dyn Transport,
    buffer: &mut [u8],
) -> std::io::Result<Option<(usize, SocketAddr)>> {
    for _ in 0..BATCH {
        match transport.try_recv(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(None),
                // The error belongs to an earlier send.
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {}
                _ => return Err(error),
            },
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::net::UdpSocket;
    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::Time;
    use crate::engine::core::tests::only_voter;
    use crate::transport::{Nowhere, UdpTransport};
    use lockmesh_proto::DropReason;

    fn engine() -> Engine {
        let clock = Time::system();
        let (gossip, _) = mpsc::channel(1);
        let node = only_voter(&clock);
        Engine::new(clock, Arc::new(Nowhere), node, gossip)
    }

    /// Returns a transport that has received invalid datagrams.
    async fn transport_with(datagrams: usize) -> UdpTransport {
        let udp = UdpTransport::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let foreign_node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..datagrams {
            foreign_node.send_to(b"?", udp.local_addr()).await.unwrap();
        }
        if datagrams > 0 {
            poll_fn(|cx| udp.poll_readable(cx)).await.unwrap();
        }
        udp
    }

    fn dropped(engine: &Engine) -> BTreeMap<DropReason, u64> {
        engine.with(|core, _| core.node.traffic().dropped.clone())
    }

    #[tokio::test]
    async fn single_datagrams_are_handled_one_at_a_time() {
        let engine = engine();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut batch = BATCH;
        let udp = transport_with(BATCH + 3).await;
        let mut look = |batch: &mut usize| {
            let before = dropped(&engine).values().sum::<u64>();
            hear(&engine, &udp, &mut buffer, batch).unwrap();
            dropped(&engine).values().sum::<u64>() - before
        };
        assert_eq!((look(&mut batch), batch), (BATCH as u64, BATCH));
        batch = 1;
        assert_eq!((look(&mut batch), batch), (1, BATCH));
        assert_eq!((look(&mut batch), batch), (2, BATCH));
        assert_eq!((look(&mut batch), batch), (0, 1));
    }
}
