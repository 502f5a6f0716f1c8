//! Datagrams that arrive later.
//!
//! A thread delivers them, since the timers of tokio have a resolution of one millisecond.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lockmesh::{Transport, UdpTransport};

/// The maximum number of delayed datagrams. Further ones are lost.
const DELAYED_MAX: usize = 65_536;

/// The delayed datagrams of all links. The thread ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct DelayLine(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// By the time of arrival, and in the order of sending.
    delayed: BTreeMap<(Instant, u64), Delayed>,
    sent: u64,
    is_running: bool,
    is_closed: bool,
}

/// It does not keep the socket open: a node that ends frees its address.
#[derive(Debug)]
struct Delayed {
    udp: Weak<UdpTransport>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl DelayLine {
    /// Sends a datagram after `delay`.
    pub(crate) fn send(
        &self,
        udp: &Arc<UdpTransport>,
        to: SocketAddr,
        bytes: &[u8],
        delay: Duration,
    ) {
        let mut queue = self.0.lock();
        if queue.is_closed || queue.delayed.len() >= DELAYED_MAX {
            return;
        }
        queue.sent += 1;
        let at = (Instant::now() + delay, queue.sent);
        let delayed = Delayed {
            udp: Arc::downgrade(udp),
            to,
            bytes: bytes.to_vec(),
        };
        queue.delayed.insert(at, delayed);
        if !std::mem::replace(&mut queue.is_running, true) {
            let shared = self.0.clone();
            thread::spawn(move || shared.deliver());
        }
        self.0.changed.notify_one();
    }

    /// Drops all delayed datagrams, now and later, and ends the thread.
    pub(crate) fn close(&self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        queue.delayed.clear();
        self.0.changed.notify_one();
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers datagrams until the line is dropped.
    fn deliver(&self) {
        let mut queue = self.lock();
        while !queue.is_closed {
            let now = Instant::now();
            let Some(next) = queue.delayed.first_entry() else {
                let waited = self.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = next.key().0.saturating_duration_since(now);
            if left.is_zero() {
                let Delayed { udp, to, bytes } = next.remove();
                if let Some(udp) = udp.upgrade() {
                    // Lost if the system does not accept it.
                    let _ = udp.try_send(to, &bytes);
                }
                continue;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
