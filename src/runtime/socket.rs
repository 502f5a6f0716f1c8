//! The one UDP socket of a mesh.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
#[cfg(feature = "harness")]
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::UdpSocket;

#[cfg(feature = "harness")]
use crate::harness::{Links, Port};
#[cfg(feature = "harness")]
use crate::proto::id::NodeId;

/// What the socket's buffers are asked to hold. The system's default of some 200 KiB overflows
/// when many peers answer at once, and UDP drops in silence.
const BUFFER_BYTES: usize = 4 << 20;

/// The sending half. It never waits: a datagram that the system does not take at once is lost,
/// as any other may be, and the protocol repeats it. So it works from any thread, from `Drop`,
/// and after the runtime is gone.
#[derive(Debug)]
pub(crate) struct Sender {
    #[cfg(not(feature = "harness"))]
    socket: StdSocket,
    /// `None` once the mesh has crashed.
    #[cfg(feature = "harness")]
    way: RwLock<Option<Way>>,
}

#[cfg(not(feature = "harness"))]
impl Sender {
    fn new(socket: StdSocket) -> Self {
        Self { socket }
    }

    /// Answers whether the system took it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.socket.send_to(bytes, to).is_ok()
    }
}

/// Where datagrams leave.
#[cfg(feature = "harness")]
#[derive(Debug)]
enum Way {
    Socket(Arc<StdSocket>),
    Links(Arc<StdSocket>, Arc<Links>, NodeId),
    Memory(Port),
}

#[cfg(feature = "harness")]
impl Sender {
    fn new(socket: StdSocket, links: Option<(Arc<Links>, NodeId)>) -> Self {
        let socket = Arc::new(socket);
        Self::over(match links {
            Some((links, node)) => Way::Links(socket, links, node),
            None => Way::Socket(socket),
        })
    }

    /// Sends within this process, without a socket.
    pub(crate) fn in_memory(port: Port) -> Self {
        Self::over(Way::Memory(port))
    }

    fn over(way: Way) -> Self {
        let way = RwLock::new(Some(way));
        Self { way }
    }

    /// Answers whether the system took it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        let way = self.way.read().unwrap_or_else(PoisonError::into_inner);
        match &*way {
            None => false,
            Some(Way::Socket(socket)) => socket.send_to(bytes, to).is_ok(),
            Some(Way::Links(socket, links, from)) => links.pass(socket, from, to, bytes),
            Some(Way::Memory(port)) => port.send(to, bytes),
        }
    }

    /// Hands over what was sent, where that is within this process. The receivers answer within
    /// this call, and this node may answer them in turn: no lock may be held.
    pub(crate) fn deliver(&self) {
        let way = self.way.read().unwrap_or_else(PoisonError::into_inner);
        let port = match &*way {
            Some(Way::Memory(port)) => Some(port.clone()),
            _ => None,
        };
        drop(way);
        if let Some(port) = port {
            port.deliver();
        }
    }

    /// Nothing is sent once this has returned.
    pub(crate) fn close(&self) {
        let mut way = self.way.write().unwrap_or_else(PoisonError::into_inner);
        *way = None;
    }
}

/// Binds `listen`, and answers both halves and the address that it got.
pub(crate) fn bind(
    listen: SocketAddr,
    #[cfg(feature = "harness")] links: Option<(Arc<Links>, NodeId)>,
) -> io::Result<(Sender, UdpSocket, SocketAddr)> {
    let socket = StdSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    let buffers = socket2::SockRef::from(&socket);
    // The system may grant less; it is worth a try, not an error.
    let _ = buffers.set_recv_buffer_size(BUFFER_BYTES);
    let _ = buffers.set_send_buffer_size(BUFFER_BYTES);
    let local = socket.local_addr()?;
    let receiver = UdpSocket::from_std(socket.try_clone()?)?;
    #[cfg(feature = "harness")]
    if let Some((links, node)) = &links {
        links.register(local, node);
    }
    let sender = Sender::new(
        socket,
        #[cfg(feature = "harness")]
        links,
    );
    Ok((sender, receiver, local))
}
