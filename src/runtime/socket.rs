//! The one UDP socket of a mesh.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::{PoisonError, RwLock};

use tokio::net::UdpSocket;

#[cfg(feature = "harness")]
use std::sync::Arc;

#[cfg(feature = "harness")]
use crate::harness::Links;

/// What the socket's buffers are asked to hold. The system's default of some 200 KiB overflows
/// when many peers answer at once, and UDP drops in silence.
const BUFFER_BYTES: usize = 4 << 20;

/// The sending half. It never waits: a datagram that the system does not take at once is lost,
/// as any other may be, and the protocol repeats it. So it works from any thread, from `Drop`,
/// and after the runtime is gone.
#[derive(Debug)]
pub(crate) struct Sender {
    /// `None` once the mesh is over.
    socket: RwLock<Option<StdSocket>>,
    #[cfg(feature = "harness")]
    links: Option<(Arc<Links>, SocketAddr)>,
}

impl Sender {
    /// Answers whether the system took it.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        let socket = self.socket.read().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = &*socket else {
            return false;
        };
        #[cfg(feature = "harness")]
        if let Some((links, from)) = &self.links {
            return links.pass(socket, *from, to, bytes);
        }
        socket.send_to(bytes, to).is_ok()
    }

    /// Sends nothing any more, and lets go of the socket.
    pub(crate) fn close(&self) {
        let mut socket = self.socket.write().unwrap_or_else(PoisonError::into_inner);
        *socket = None;
    }
}

/// Binds `listen`, and answers both halves and the address that it got.
pub(crate) fn bind(
    listen: SocketAddr,
    #[cfg(feature = "harness")] links: Option<Arc<Links>>,
) -> io::Result<(Sender, UdpSocket, SocketAddr)> {
    let socket = StdSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    let buffers = socket2::SockRef::from(&socket);
    // The system may grant less; it is worth a try, not an error.
    let _ = buffers.set_recv_buffer_size(BUFFER_BYTES);
    let _ = buffers.set_send_buffer_size(BUFFER_BYTES);
    let local = socket.local_addr()?;
    let receiver = UdpSocket::from_std(socket.try_clone()?)?;
    let sender = Sender {
        socket: RwLock::new(Some(socket)),
        #[cfg(feature = "harness")]
        links: links.map(|links| (links, local)),
    };
    Ok((sender, receiver, local))
}
