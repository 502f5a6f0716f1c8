//! The driver of a mesh: it receives datagrams and runs timers. Requests of the handles do not pass
//! through it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::inbox::Ask;
use super::obstacle::Obstacle;
use super::shared::Shared;
use lockmesh_proto::Instant;

/// The maximum sleep of the loop. Timers do not count time in which the machine was suspended, but
/// leases do.
const NAP_MAX: Duration = Duration::from_millis(250);
/// The interval at which gauges and traffic counters are refreshed.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// The intervals at which voters are queried and obstacles are looked for: normally, and while this
/// node is not ready.
const LOOK_EVERY: Duration = NAP_MAX;
const LOOK_SOON: Duration = Duration::from_millis(50);
/// The maximum number of datagrams handled before their output is sent. If datagrams arrive one at
/// a time, the output of each is sent before the next is received.
const BATCH: usize = 64;
/// The size of a buffer that holds any UDP datagram.
pub(super) const DATAGRAM_BYTES: usize = 65_536;
/// The pause after the socket has failed.
const REST: Duration = Duration::from_millis(10);

/// Runs until it is aborted or its runtime shuts down. A mesh without a socket receives its
/// datagrams from other meshes directly.
pub(crate) async fn drive(shared: Arc<Shared>, socket: Option<UdpSocket>) {
    let _ending = Ending(shared.clone());
    let mut buffer = vec![0; if socket.is_some() { DATAGRAM_BYTES } else { 0 }];
    let mut due = Due::at(shared.clock.mono());
    let mut alarm = Instant::ZERO;
    let mut batch = BATCH;
    let mut asleep = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        shared.going().await;
        let mut nap = shared.nap(&mut alarm, due.look_every);
        if nap == Some(Duration::ZERO) {
            on_tick(&shared, &mut due);
            nap = shared.nap(&mut alarm, due.look_every);
        }
        if let Some(nap) = nap {
            asleep.as_mut().reset(tokio::time::Instant::now() + nap);
        }
        let ready = tokio::select! {
            ready = readable(socket.as_ref()) => Some(ready),
            () = asleep.as_mut() => {
                alarm = Instant::ZERO;
                None
            }
            () = shared.earlier.notified() => None,
        };
        let taken = match ready {
            Some((socket, Ok(()))) => hear(&shared, socket, &mut buffer, &mut batch),
            Some((_, Err(error))) => Err(error),
            None => {
                on_tick(&shared, &mut due);
                Ok(())
            }
        };
        if let Err(error) = taken {
            let error = error.to_string();
            let failed = Obstacle::SocketFailed { error };
            shared.with(|core, now| core.obstacles.note(now.mono, &failed));
            tokio::time::sleep(REST).await;
        }
    }
}

async fn readable(socket: Option<&UdpSocket>) -> (&UdpSocket, std::io::Result<()>) {
    match socket {
        Some(socket) => (socket, socket.readable().await),
        None => std::future::pending().await,
    }
}

/// Drops all pending callers when the loop ends for any reason. Without the driver they would wait
/// forever.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.with(|core, _| core.forget_all());
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
fn on_tick(shared: &Shared, due: &mut Due) {
    let (node, lines) = shared.with(|core, now| {
        if core.is_paused {
            return (None, Vec::new());
        }
        core.node.handle_timeout(now);
        if now.mono.since(due.refreshed) >= REFRESH_EVERY {
            due.refreshed = now.mono;
            core.meter.refresh(&core.node, now);
        }
        let looked = due.looked.map(|at| now.mono.since(at));
        if looked.is_some_and(|ago| ago < due.look_every) || core.is_shut_down {
            return (None, Vec::new());
        }
        due.looked = Some(now.mono);
        due.look_every = if core.is_ready(now) {
            LOOK_EVERY
        } else {
            LOOK_SOON
        };
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
    shared: &Shared,
    socket: &UdpSocket,
    buffer: &mut [u8],
    batch: &mut usize,
) -> std::io::Result<()> {
    if shared.is_paused() {
        // Datagrams stay in the socket.
        return Ok(());
    }
    let at_most = std::mem::replace(batch, BATCH);
    let Some((mut len, mut from)) = receive(socket, buffer)? else {
        *batch = 1;
        return Ok(());
    };
    let mut submit = |handle: &mut dyn FnMut(SocketAddr, &[u8])| {
        for taken in 1.. {
            handle(from, &buffer[..len]);
            if taken >= at_most {
                break;
            }
            let Some(next) = receive(socket, buffer)? else {
                *batch = if taken > 1 { BATCH } else { 1 };
                break;
            };
            (len, from) = next;
        }
        Ok(())
    };
    let heard = shared.hear(|core| {
        submit(&mut |from, bytes| {
            core.node.handle_datagram(shared.clock.now(), from, bytes);
        })
    });
    // Another caller has the engine lock, and submits the datagrams too.
    heard.unwrap_or_else(|| {
        let mut datagrams = Vec::new();
        let taken = submit(&mut |from, bytes| {
            let bytes = bytes.to_vec();
            datagrams.push(Ask::Datagram { from, bytes });
        });
        shared.leave(datagrams);
        taken
    })
}

/// Receives the next datagram, if there is one now.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<Option<(usize, SocketAddr)>> {
    for _ in 0..BATCH {
        match socket.try_recv_from(buffer) {
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

    use tokio::sync::mpsc;

    use super::*;
    use crate::runtime::clock::Clock;
    use crate::runtime::core::tests::only_voter;
    use crate::runtime::socket::Sender;
    use lockmesh_proto::DropReason;

    fn shared() -> Shared {
        let clock = Clock::new();
        let (gossip, _) = mpsc::channel(1);
        Shared::new(clock, Sender::nowhere(), only_voter(clock), gossip)
    }

    /// Returns a socket that has received invalid datagrams.
    async fn socket_with(datagrams: usize) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let foreign_node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        for _ in 0..datagrams {
            foreign_node.send_to(b"?", to).await.unwrap();
        }
        if datagrams > 0 {
            socket.readable().await.unwrap();
        }
        socket
    }

    fn dropped(shared: &Shared) -> BTreeMap<DropReason, u64> {
        shared.with(|core, _| core.node.traffic().dropped.clone())
    }

    #[tokio::test]
    async fn single_datagrams_are_handled_one_at_a_time() {
        let shared = shared();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut batch = BATCH;
        let socket = socket_with(BATCH + 3).await;
        let mut look = |batch: &mut usize| {
            let before = dropped(&shared).values().sum::<u64>();
            hear(&shared, &socket, &mut buffer, batch).unwrap();
            dropped(&shared).values().sum::<u64>() - before
        };
        assert_eq!((look(&mut batch), batch), (BATCH as u64, BATCH));
        batch = 1;
        assert_eq!((look(&mut batch), batch), (1, BATCH));
        assert_eq!((look(&mut batch), batch), (2, BATCH));
        assert_eq!((look(&mut batch), batch), (0, 1));
    }

    #[cfg(feature = "harness")]
    #[tokio::test]
    async fn paused_node_handles_datagrams_after_resume() {
        let shared = shared();
        let counted = || dropped(&shared).values().sum::<u64>();
        shared.pause(true);
        let socket = socket_with(1).await;
        hear(&shared, &socket, &mut [0; 64], &mut 1).unwrap();
        assert_eq!(counted(), 0);
        // A datagram that was received just before the pause is not handled either.
        assert!(shared.hear(|_| ()).is_none());
        shared.pause(false);
        hear(&shared, &socket, &mut [0; 64], &mut 1).unwrap();
        assert_eq!(counted(), 1);
    }
}
