//! The loop that keeps a mesh going: datagrams in, timers due. What the handles ask of the node
//! does not pass through here.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::inbox::Ask;
use super::obstacle::Obstacle;
use super::shared::Shared;
use lockmesh_proto::time::Instant;

/// How long the loop sleeps at the most: timers do not count the time that the machine was
/// suspended, leases do.
const NAP_MAX: Duration = Duration::from_millis(250);
/// The gauges and the traffic are brought up to date so often.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// The voters are asked, and what keeps this node from getting locks is looked for, so often; and
/// so often while this node is not ready.
const LOOK_EVERY: Duration = NAP_MAX;
const LOOK_SOON: Duration = Duration::from_millis(50);
/// How many datagrams are taken in before what they lead to is sent; where they come one by one,
/// that is sent after each, and only then the socket is asked for more.
const BATCH: usize = 64;
/// What UDP can carry.
pub(super) const DATAGRAM_BYTES: usize = 65_536;
/// How long the loop rests where the socket fails for no reason of ours.
const REST: Duration = Duration::from_millis(10);

/// Runs until it is aborted, or its runtime is gone. A mesh without a socket is handed its
/// datagrams by others.
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

/// However the loop ends: without it nobody would be told anything any more, and those that wait
/// would wait for ever.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.with(|core, _| core.forget_all());
    }
}

/// When what the driver does by itself was last done.
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

/// Does what is due, and says what is to be said, once the engine is let go.
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

/// Takes in what is there, at most `batch`, and sets that for the next time. All of it is handled
/// before what comes of it is sent: many answers to one peer leave in one datagram. Mostly a socket
/// that had one datagram has no second, and that costs nobody's lock.
fn hear(
    shared: &Shared,
    socket: &UdpSocket,
    buffer: &mut [u8],
    batch: &mut usize,
) -> std::io::Result<()> {
    if shared.is_paused() {
        // What it is sent stays in the socket.
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
    // Somebody else is at the node, and does this too.
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

/// The next datagram, where there is one now.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<Option<(usize, SocketAddr)>> {
    for _ in 0..BATCH {
        match socket.try_recv_from(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(None),
                // Word of something that was sent earlier; nothing to do about it.
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
    use lockmesh_proto::wire::DropReason;

    fn shared() -> Shared {
        let clock = Clock::new();
        let (gossip, _) = mpsc::channel(1);
        Shared::new(clock, Sender::nowhere(), only_voter(clock), gossip)
    }

    /// A socket with so many datagrams in it that are none.
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
    async fn one_is_handled_alone_where_they_come_one_by_one() {
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
    async fn what_a_node_that_stands_still_is_sent_waits_until_it_goes_on() {
        let shared = shared();
        let counted = || dropped(&shared).values().sum::<u64>();
        shared.pause(true);
        let socket = socket_with(1).await;
        hear(&shared, &socket, &mut [0; 64], &mut 1).unwrap();
        assert_eq!(counted(), 0);
        // Nor may what was received just before be handled.
        assert!(shared.hear(|_| ()).is_none());
        shared.pause(false);
        hear(&shared, &socket, &mut [0; 64], &mut 1).unwrap();
        assert_eq!(counted(), 1);
    }
}
