//! Links between the meshes of one process that can be cut and made lossy.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What is wrong with a link, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// Nothing passes.
    pub cut: bool,
    /// The share of datagrams that are lost: 0.0 to 1.0.
    pub loss: f64,
    /// The share of datagrams that come twice: 0.0 to 1.0.
    pub duplicate: f64,
    /// Datagrams come so much later, each by a span drawn evenly between the two. Datagrams that
    /// are delayed overtake each other.
    pub delay: Option<(Duration, Duration)>,
}

/// The links between meshes that were built with the same `Links`: real UDP, with faults laid
/// over it at the sending side. Meshes are told apart by the address that they listen on.
pub struct Links {
    state: Mutex<State>,
}

struct State {
    rng: SmallRng,
    everywhere: Fault,
    faults: BTreeMap<(SocketAddr, SocketAddr), Fault>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Links")
            .field("everywhere", &state.everywhere)
            .field("faults", &state.faults)
            .finish_non_exhaustive()
    }
}

impl Links {
    /// Links without faults. What is lost and doubled later is drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        let state = State {
            rng,
            everywhere: Fault::default(),
            faults: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Lays a fault over every link that has none of its own.
    pub fn everywhere(&self, fault: Fault) {
        self.lock().everywhere = fault;
    }

    /// Lays a fault over the link from `from` to `to`, in that direction only.
    pub fn one_way(&self, from: SocketAddr, to: SocketAddr, fault: Fault) {
        self.lock().faults.insert((from, to), fault);
    }

    /// Cuts all links between nodes of one side and nodes of the other, both ways.
    pub fn partition(&self, one: &[SocketAddr], other: &[SocketAddr]) {
        let mut state = self.lock();
        let cut = Fault {
            cut: true,
            ..Fault::default()
        };
        for a in one {
            for b in other {
                state.faults.insert((*a, *b), cut);
                state.faults.insert((*b, *a), cut);
            }
        }
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.everywhere = Fault::default();
        state.faults.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often, and how much later, a datagram comes.
    fn fate(&self, from: SocketAddr, to: SocketAddr) -> Vec<Duration> {
        let mut state = self.lock();
        let fault = state
            .faults
            .get(&(from, to))
            .copied()
            .unwrap_or(state.everywhere);
        let rng = &mut state.rng;
        if fault.cut || (fault.loss > 0.0 && rng.random::<f64>() < fault.loss) {
            return Vec::new();
        }
        let twice = fault.duplicate > 0.0 && rng.random::<f64>() < fault.duplicate;
        let mut delay = || match fault.delay {
            Some((from, to)) if to > from => from + (to - from).mul_f64(rng.random::<f64>()),
            Some((from, _)) => from,
            None => Duration::ZERO,
        };
        (0..=usize::from(twice)).map(|_| delay()).collect()
    }

    /// Sends, as far as the faults let it. Answers whether the system took it: what a fault eats
    /// has left the node like any datagram that is lost on the way.
    pub(crate) fn pass(
        &self,
        socket: &UdpSocket,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> bool {
        let mut taken = true;
        for delay in self.fate(from, to) {
            if delay.is_zero() {
                taken &= socket.send_to(bytes, to).is_ok();
            } else {
                taken &= send_later(socket, to, bytes, delay).is_ok();
            }
        }
        taken
    }
}

fn send_later(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], delay: Duration) -> io::Result<()> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return socket.send_to(bytes, to).map(drop);
    };
    let (socket, bytes) = (socket.try_clone()?, bytes.to_vec());
    runtime.spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = socket.send_to(&bytes, to);
    });
    Ok(())
}
