//! The one UDP socket of a mesh.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
#[cfg(feature = "harness")]
use std::sync::Arc;
use std::sync::{PoisonError, RwLock};

use tokio::net::UdpSocket;

#[cfg(feature = "harness")]
use crate::harness::{Links, Port};
#[cfg(feature = "harness")]
use lockmesh_proto::id::NodeId;

/// What the socket's buffers are asked to hold. The system's default of some 200 KiB overflows
/// when many peers answer at once, and UDP drops in silence.
const BUFFER_BYTES: usize = 4 << 20;

/// The sending half. It never waits: a datagram that the system does not take at once is lost,
/// as any other may be, and the protocol repeats it. So it works from any thread, from `Drop`,
/// and after the runtime is gone.
#[derive(Debug)]
pub(crate) struct Sender {
    /// `None` once the mesh is over.
    way: RwLock<Option<Way>>,
    /// It sends within this process, to who is there at once.
    #[cfg(feature = "harness")]
    is_in_memory: bool,
}

/// Where datagrams leave.
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

    /// Sends nothing.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let sender = Self::over(Way::Socket(StdSocket::bind("127.0.0.1:0").unwrap()));
        sender.close();
        sender
    }

    /// Sends within this process, without a socket.
    #[cfg(feature = "harness")]
    pub(crate) fn in_memory(port: Port) -> Self {
        Self::over(Way::Memory(port))
    }

    /// Answers whether the system took it.
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

    /// Whether it sends within this process, to who is there at once.
    #[cfg(feature = "harness")]
    pub(crate) fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Only the harness sends in memory.
    #[cfg(not(feature = "harness"))]
    pub(crate) fn is_in_memory(&self) -> bool {
        false
    }

    /// Delivers what was sent in memory. Not while any lock of a mesh is held: its receivers, and
    /// those that they answer, take theirs.
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

    /// Sends nothing any more, and lets go of the socket.
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
    if let Some((links, node)) = links {
        links.register(local, &node);
        let way = Way::Links(Arc::new(socket), links, node);
        return Ok((Sender::over(way), receiver, local));
    }
    Ok((Sender::over(Way::Socket(socket)), receiver, local))
}
