//! The UDP socket of a mesh.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
#[cfg(feature = "harness")]
use std::sync::Arc;
use std::sync::{PoisonError, RwLock};

use tokio::net::UdpSocket;

#[cfg(feature = "harness")]
use crate::harness::{Links, Port};
#[cfg(feature = "harness")]
use lockmesh_proto::NodeId;

/// The requested size of the socket's buffers. The system's default of about 200 KiB overflows if
/// many peers answer at once, and UDP drops silently.
const BUFFER_BYTES: usize = 4 << 20;

/// The sending half. It never waits: a datagram that the system does not accept at once is lost,
/// and the protocol retransmits it. It therefore works from any thread, from `Drop`, and after the
/// runtime has ended.
#[derive(Debug)]
pub(crate) struct Sender {
    /// `None` once the mesh has ended.
    way: RwLock<Option<Way>>,
    /// `true` if it sends within this process, where datagrams arrive at once.
    #[cfg(feature = "harness")]
    is_in_memory: bool,
}

/// The way by which datagrams leave.
#[derive(Debug)]
enum Way {
    Socket(StdSocket),
    #[cfg(feature = "harness")]
    Links(Arc<StdSocket>, Arc<Links>, NodeId),
    #[cfg(feature = "harness")]
    Memory(Port),
}

impl Sender {
    fn over(way: Way) -> Self {
        Self {
            #[cfg(feature = "harness")]
            is_in_memory: matches!(way, Way::Memory(_)),
            way: RwLock::new(Some(way)),
        }
    }

    /// Creates a sender that sends nothing.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let sender = Self::over(Way::Socket(StdSocket::bind("127.0.0.1:0").unwrap()));
        sender.close();
        sender
    }

    /// Creates a sender within this process, without a socket.
    #[cfg(feature = "harness")]
    pub(crate) fn in_memory(port: Port) -> Self {
        Self::over(Way::Memory(port))
    }

    /// Sends a datagram. Returns `true` if the system accepted it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        match &*self.way.read().unwrap_or_else(PoisonError::into_inner) {
            None => false,
            Some(Way::Socket(socket)) => socket.send_to(bytes, to).is_ok(),
            #[cfg(feature = "harness")]
            Some(Way::Links(socket, links, from)) => links.pass(socket, from, to, bytes),
            #[cfg(feature = "harness")]
            Some(Way::Memory(port)) => port.send(to, bytes),
        }
    }

    /// Returns `true` if it sends within this process, where datagrams arrive at once.
    #[cfg(feature = "harness")]
    pub(crate) fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Returns `false`: only the harness sends in memory.
    #[cfg(not(feature = "harness"))]
    pub(crate) fn is_in_memory(&self) -> bool {
        false
    }

    /// Delivers the datagrams that were sent in memory. The caller must not hold a lock of any
    /// mesh, since the receivers, and those that they reply to, take theirs.
    #[cfg(feature = "harness")]
    pub(crate) fn deliver(&self) {
        if !self.is_in_memory {
            return;
        }
        let port = match &*self.way.read().unwrap_or_else(PoisonError::into_inner) {
            Some(Way::Memory(port)) => port.clone(),
            _ => return,
        };
        port.deliver();
    }

    /// Stops sending, and closes the socket.
    pub(crate) fn close(&self) {
        let mut way = self.way.write().unwrap_or_else(PoisonError::into_inner);
        *way = None;
    }
}

/// Binds `listen`. Returns both halves and the local address.
pub(crate) fn bind(
    listen: SocketAddr,
    #[cfg(feature = "harness")] links: Option<(Arc<Links>, NodeId)>,
) -> io::Result<(Sender, UdpSocket, SocketAddr)> {
    let socket = StdSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    let buffers = socket2::SockRef::from(&socket);
    // The system may grant less, which is not an error.
    let _ = buffers.set_recv_buffer_size(BUFFER_BYTES);
    let _ = buffers.set_send_buffer_size(BUFFER_BYTES);
    let local = socket.local_addr()?;
    let receiver = UdpSocket::from_std(socket.try_clone()?)?;
    #[cfg(feature = "harness")]
    if let Some((links, node)) = links {
        links.register(local, &node);
        let way = Way::Links(Arc::new(socket), links, node);
        return Ok((Sender::over(way), receiver, local));
    }
    Ok((Sender::over(Way::Socket(socket)), receiver, local))
}
