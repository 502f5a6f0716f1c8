//! The driver of a mesh: it receives datagrams and runs timers. Requests of the handles do not pass
//! through it.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
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
/// The maximum number of datagrams handled before their output is sent.
const RECEIVED_MAX: usize = 64;
/// The size of a buffer that holds any UDP datagram.
pub(super) const DATAGRAM_BYTES: usize = 65_536;
/// The pause after the socket has failed.
const REST: Duration = Duration::from_millis(10);

/// Runs until it is aborted or its runtime shuts down.
pub(crate) async fn drive(engine: Arc<Engine>) {
    let _ending = Ending(engine.clone());
    let mut received = Received::new();
    let mut due = Due::at(engine.clock.mono());
    let mut timer = Instant::ZERO;
    let mut asleep = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        let mut nap = set_alarm(&engine, &mut timer, &due);
        if nap == Some(Duration::ZERO) {
            on_tick(&engine, &mut due);
            nap = set_alarm(&engine, &mut timer, &due);
        }
        if let Some(nap) = nap {
            asleep.as_mut().reset(tokio::time::Instant::now() + nap);
        }
        let ready = tokio::select! {
            ready = poll_fn(|cx| engine.transport.poll_readable(cx)) => Some(ready),
            () = asleep.as_mut() => {
                timer = Instant::ZERO;
                None
            }
            () = engine.earlier.notified() => None,
        };
        let handled = match ready {
            Some(Ok(())) => receive(&engine, &*engine.transport, &mut received),
            Some(Err(error)) => Err(error),
            None if engine.has_failed() => return,
            None => {
                on_tick(&engine, &mut due);
                Ok(())
            }
        };
        if let Err(error) = handled {
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

/// The time at which the driver wakes.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// The next timeout of the node.
    next: Option<Instant>,
    wakes_at: Instant,
}

impl Alarm {
    /// Sets the next timeout of the node. Returns `true` if it is due before the driver wakes.
    pub(super) fn set_next(&mut self, next: Option<Instant>) -> bool {
        self.next = next;
        let next = next.unwrap_or(Instant::FAR);
        let is_earlier = next < self.wakes_at;
        self.wakes_at = self.wakes_at.min(next);
        is_earlier
    }

    /// Returns how long to set the driver's timer for, at most `at_most`.
    ///
    /// - `None` if it can stay at `timer`: an early timer costs less than setting one.
    /// - Zero if there is work now. Either the node's timeout is due, or `timer` has passed and did
    ///   not fire, since a datagram came first.
    fn nap(&mut self, now: Instant, timer: &mut Instant, at_most: Duration) -> Option<Duration> {
        let latest = now.after(at_most);
        let next = self.next.unwrap_or(latest).min(latest);
        let has_passed = *timer != Instant::ZERO && *timer <= now;
        if next <= now || has_passed {
            *timer = Instant::ZERO;
            return Some(Duration::ZERO);
        }
        let is_set = now < *timer && *timer <= next;
        if !is_set {
            *timer = next;
        }
        self.wakes_at = *timer;
        (!is_set).then(|| next.since(now))
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

/// Returns how long to set the driver's timer for; see [`Alarm::nap`].
fn set_alarm(engine: &Engine, timer: &mut Instant, due: &Due) -> Option<Duration> {
    let mut state = engine.lock();
    state.alarm.nap(engine.clock.mono(), timer, due.look_every)
}

/// Runs due timers and periodic work. Publishes and logs after the turn.
fn on_tick(engine: &Engine, due: &mut Due) {
    let looked = engine.with(|core, now| {
        if core.has_failed {
            return None;
        }
        core.node.handle_timeout(now);
        if now.mono.since(due.refreshed) >= REFRESH_EVERY {
            due.refreshed = now.mono;
            core.meter.refresh(core, now);
        }
        let looked = due.looked.map(|at| now.mono.since(at));
        if looked.is_some_and(|ago| ago < due.look_every) || core.is_shut_down {
            return None;
        }
        due.looked = Some(now.mono);
        let health = core.observe_health(now);
        due.look_every = match health {
            Health::Ready if core.is_idle() => LOOK_IDLE,
            Health::Ready => LOOK_EVERY,
            _ => LOOK_SOON,
        };
        Some((health, core.node.id().clone(), core.look(now)))
    });
    if let Some((health, node, lines)) = looked {
        engine.set_health(health);
        lines.iter().for_each(|line| line.log(&node));
    }
}

/// Datagrams that were received and not handled yet.
struct Received {
    /// The datagrams, one after the other.
    buffer: Vec<u8>,
    datagrams: Vec<(SocketAddr, Range<usize>)>,
    /// The maximum number of datagrams to receive next.
    at_most: usize,
}

impl Received {
    fn new() -> Self {
        Self {
            buffer: vec![0; 2 * DATAGRAM_BYTES],
            datagrams: Vec::new(),
            at_most: RECEIVED_MAX,
        }
    }

    /// Receives the datagrams that are there now, as far as the buffer can hold more.
    ///
    /// A socket that had one datagram mostly has no second. The next datagram is then handled
    /// before the socket is checked for a second.
    fn fill(&mut self, transport: &dyn Transport) -> std::io::Result<()> {
        self.datagrams.clear();
        let at_most = std::mem::replace(&mut self.at_most, RECEIVED_MAX);
        let mut filled = 0;
        while self.datagrams.len() < at_most {
            let Some(free) = self.buffer[filled..].get_mut(..DATAGRAM_BYTES) else {
                break;
            };
            let Some((len, from)) = receive_one(transport, free)? else {
                if self.datagrams.len() <= 1 {
                    self.at_most = 1;
                }
                break;
            };
            let end = filled + len.min(DATAGRAM_BYTES);
            self.datagrams.push((from, filled..end));
            filled = end;
        }
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> + Clone {
        let datagrams = self.datagrams.iter().cloned();
        datagrams.map(|(from, range)| (from, &self.buffer[range]))
    }
}

/// Receives datagrams, and handles them in one turn, so that replies to one peer share a datagram.
fn receive(
    engine: &Engine,
    transport: &dyn Transport,
    received: &mut Received,
) -> std::io::Result<()> {
    let filled = received.fill(transport);
    if !received.datagrams.is_empty() {
        engine.receive(received.iter());
    }
    filled
}

/// Receives the next datagram, if there is one now.
fn receive_one(
    transport: &dyn Transport,
    buffer: &mut [u8],
) -> std::io::Result<Option<(usize, SocketAddr)>> {
    for _ in 0..RECEIVED_MAX {
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
        Engine::new(clock, Arc::new(Nowhere), (node, None), gossip)
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
        let mut received = Received::new();
        let udp = transport_with(RECEIVED_MAX + 3).await;
        let handled = |received: &mut Received| {
            let before = dropped(&engine).values().sum::<u64>();
            receive(&engine, &udp, received).unwrap();
            let handled = dropped(&engine).values().sum::<u64>() - before;
            (handled, received.at_most)
        };
        let most = RECEIVED_MAX as u64;
        assert_eq!(handled(&mut received), (most, RECEIVED_MAX));
        received.at_most = 1;
        assert_eq!(handled(&mut received), (1, RECEIVED_MAX));
        assert_eq!(handled(&mut received), (2, RECEIVED_MAX));
        assert_eq!(handled(&mut received), (0, 1));
    }

    /// Otherwise, only a timer of the node would refresh the gauges.
    #[test]
    fn timer_passed_during_receive_is_due_at_once() {
        let at_most = Duration::from_millis(250);
        let (mut alarm, mut timer) = (Alarm::default(), Instant::ZERO);
        let mut now = Instant::from_nanos(1);
        assert_eq!(alarm.nap(now, &mut timer, at_most), Some(at_most));
        now = now.after(at_most / 2);
        assert_eq!(alarm.nap(now, &mut timer, at_most), None);
        now = now.after(at_most);
        assert_eq!(alarm.nap(now, &mut timer, at_most), Some(Duration::ZERO));
        assert_eq!(alarm.nap(now, &mut timer, at_most), Some(at_most));
        // The node has a timeout that is due, and then none.
        assert!(alarm.set_next(Some(now)));
        assert_eq!(alarm.nap(now, &mut timer, at_most), Some(Duration::ZERO));
        assert!(!alarm.set_next(None));
        assert_eq!(alarm.nap(now, &mut timer, at_most), Some(at_most));
    }
}
