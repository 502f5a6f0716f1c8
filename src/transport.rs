//! The seam to the network: the trait, and UDP.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::UdpSocket;

/// The requested size of the socket's buffers. The system's default of about 200 KiB overflows if
/// many peers answer at once, and UDP drops silently.
const BUFFER_BYTES: usize = 4 << 20;

/// The way in which a [`Mesh`](crate::Mesh) exchanges datagrams with its peers.
///
/// [`UdpTransport`] is used unless [`MeshBuilder::transport`](crate::MeshBuilder::transport) sets
/// another one. `examples/transport.rs` implements one.
///
/// # What the mesh expects
/// - **Loss, duplication, reordering and delay** are allowed, for any datagram. The protocol
///   retransmits. A datagram must arrive whole and unchanged, or not at all; with a cluster secret,
///   a changed one is dropped.
/// - **Size**: datagrams of up to 1,200 bytes must pass. Gossip sends up to 65,507 bytes in
///   clusters of many nodes.
/// - **Addresses**: `from` of a received datagram must reach its sender. Peers take the address of
///   a node from it.
///
/// # Who calls when
/// - [`try_send`](Transport::try_send) is called from any thread, by several at once, from
///   destructors, and outside the runtime. It must not block.
/// - [`poll_readable`](Transport::poll_readable) and [`try_recv`](Transport::try_recv) are called
///   by one task of the mesh.
/// - [`close`](Transport::close) is called when the mesh ends, possibly more than once.
/// - Any of them may be called while the mesh is busy, so none may call into the mesh. A panic in
///   one of them stops the mesh.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Returns the local address. It does not change.
    fn local_addr(&self) -> SocketAddr;

    /// Sends a datagram, or fails at once. A datagram that was accepted may still be lost.
    ///
    /// # Errors
    /// Any error means that the datagram is lost, which the mesh counts.
    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()>;

    /// Returns `Ready` if [`try_recv`](Transport::try_recv) may have a datagram. Otherwise the task
    /// of `cx` must be woken when there is one.
    ///
    /// # Errors
    /// An error is logged, and the mesh calls again after 10 ms.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Receives a datagram into `buf`, which holds 65,536 bytes. Returns its length and its sender.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none. `ConnectionRefused` and
    /// `ConnectionReset` belong to an earlier send, and are ignored. Any other error is logged.
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Closes the transport and frees the address. Later sends fail; nothing is received any more.
    /// A pending [`poll_readable`](Transport::poll_readable) need not be woken.
    fn close(&self);
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn local_addr(&self) -> SocketAddr {
        (**self).local_addr()
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        (**self).try_send(to, bytes)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_readable(cx)
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        (**self).try_recv(buf)
    }

    fn close(&self) {
        (**self).close();
    }
}

/// A UDP socket.
#[derive(Debug)]
pub struct UdpTransport {
    addr: SocketAddr,
    /// `None` once it is closed.
    socket: RwLock<Option<UdpSocket>>,
}

impl UdpTransport {
    /// Binds a socket to `listen`. Port 0 selects a free port.
    ///
    /// # Errors
    /// - [`AddrInUse`](io::ErrorKind::AddrInUse) if another socket has the address.
    /// - [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable) if it does not belong to this
    ///   machine.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the system reserves the port.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(listen)?;
        socket.set_nonblocking(true)?;
        let buffers = SockRef::from(&socket);
        // The system may grant less, which is not an error.
        let _ = buffers.set_recv_buffer_size(BUFFER_BYTES);
        let _ = buffers.set_send_buffer_size(BUFFER_BYTES);
        Ok(Self {
            addr: socket.local_addr()?,
            socket: RwLock::new(Some(UdpSocket::from_std(socket)?)),
        })
    }

    fn with<T>(&self, call: impl FnOnce(&UdpSocket) -> io::Result<T>) -> io::Result<T> {
        let socket = self.socket.read().unwrap_or_else(PoisonError::into_inner);
        call(socket.as_ref().ok_or(io::ErrorKind::NotConnected)?)
    }
}

impl Transport for UdpTransport {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn try_send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        // Not `UdpSocket::try_send_to`: it needs the runtime's reactor to have run.
        self.with(|socket| SockRef::from(socket).send_to(bytes, &to.into()))
            .map(|_| ())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.with(|socket| Ok(socket.poll_recv_ready(cx)));
        polled.unwrap_or_else(|closed| Poll::Ready(Err(closed)))
    }

    fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.with(|socket| socket.try_recv_from(buf))
    }

    fn close(&self) {
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Returns the local address of the route to `peer`, or of the default route. Sends nothing.
pub(crate) fn route(local: SocketAddr, peer: Option<SocketAddr>) -> io::Result<IpAddr> {
    // Addresses that are reserved for documentation (RFC 5737 and RFC 3849).
    let (any, far): (SocketAddr, SocketAddr) = match local {
        SocketAddr::V4(_) => (
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        ),
        SocketAddr::V6(_) => (
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        ),
    };
    let peer = peer.filter(|peer| peer.is_ipv4() == local.is_ipv4());
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(peer.unwrap_or(far))?;
    Ok(socket.local_addr()?.ip())
}

/// A transport without a network: every send fails, and nothing arrives.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Nowhere;

#[cfg(test)]
impl Transport for Nowhere {
    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn try_send(&self, _to: SocketAddr, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn try_recv(&self, _buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn close(&self) {}
}
