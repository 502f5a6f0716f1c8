//! Datagrams on their way: out of a node, over a link that may damage them, into another node.
//!
//! A damaged datagram must be dropped and counted, and have no other effect. If the cluster seals,
//! any bits may flip and any end may be missing. In plaintext such damage could make another valid
//! datagram. There, damage breaks the format: one byte short, cut off in the head, or of an unknown
//! version.

use std::net::SocketAddr;

use crate::cluster::{SOCKET_DATAGRAMS_MAX, World, WorldEvent};
use crate::faults::CLUSTER;
use crate::judge::{Fact, HostAt};
use crate::kernel::Rng;
use crate::proto::{ClusterSecret, PROTOCOL_VERSION, Seal};

/// Version, mode and kind of a plaintext datagram.
const PLAINTEXT_HEAD_BYTES: u64 = 3;

/// A datagram on its way, or in the buffer of a socket.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_damaged: bool,
}

/// Draws the secret of a cluster that seals.
pub(crate) fn draw_secret(rng: &mut Rng) -> ClusterSecret {
    ClusterSecret::from_bytes(draw_bytes(rng)).expect("not all of them are zero")
}

fn draw_bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(size_of::<u64>()) {
        let drawn = rng.draw().to_le_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
    bytes
}

/// Damages a datagram, as a broken path does.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, is_sealed: bool) {
    let len = bytes.len() as u64;
    match (is_sealed, rng.below(3)) {
        (true, 0) => bytes.truncate(rng.below(len) as usize),
        (true, _) => {
            // A second flip of the first bit would undo the damage.
            let first = rng.below(len * 8);
            flip(bytes, first);
            for _ in 0..rng.below(8) {
                let other = rng.below(len * 8);
                if other != first {
                    flip(bytes, other);
                }
            }
        }
        // The last byte belongs to a message, which is incomplete without it.
        (false, 0) => bytes.truncate(bytes.len().saturating_sub(1)),
        (false, 1) => bytes.truncate(rng.below(PLAINTEXT_HEAD_BYTES) as usize),
        (false, _) => {
            if let Some(version) = bytes.first_mut() {
                *version = PROTOCOL_VERSION + 1 + rng.below(200) as u8;
            }
        }
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

impl World {
    /// Creates the seal of the next process, with the cluster's secret and a unique boot id.
    pub(crate) fn next_seal(&mut self) -> Seal {
        let boot_id = match self.cluster_secret {
            Some(_) => draw_bytes(&mut self.seal_rng),
            None => [0; 16],
        };
        self.seal_of(CLUSTER, boot_id)
    }

    /// Creates the seal of a process of this cluster.
    pub(crate) fn seal_of(&self, cluster: &str, boot_id: [u8; 16]) -> Seal {
        let seal = match &self.cluster_secret {
            Some(key) => Seal::sealed(key.clone(), boot_id),
            None => Seal::insecure_plaintext(),
        };
        seal.of_cluster(cluster)
    }

    /// Creates the seal that opens datagrams for the trace, under a boot id that no node has.
    pub(crate) fn opener(&self) -> Seal {
        self.seal_of(CLUSTER, [0xff; 16])
    }

    /// Sends a datagram of a host: none, one or two copies will arrive.
    pub(crate) fn transmit(&mut self, from: HostAt, to: SocketAddr, bytes: Vec<u8>) {
        let machine = &mut self.hosts[from];
        let addr = machine.mapped.unwrap_or(machine.addr);
        if let Some(process) = machine.process.as_mut() {
            process.note_sent(addr);
        }
        self.transmit_from(from, addr, to, bytes);
    }

    /// Sends a datagram from an address over the links of a host.
    pub(crate) fn transmit_from(
        &mut self,
        links: HostAt,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) {
        self.trace.fold_bytes(&bytes);
        let Some(host) = self.links_of(to) else {
            return;
        };
        let [first, second] = self.network.send(links, host, bytes.len());
        if let Some(delay) = second {
            self.send_one(from, to, bytes.clone(), delay);
        }
        if let Some(delay) = first {
            self.send_one(from, to, bytes, delay);
        }
    }

    fn send_one(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>, delay: u64) {
        let is_damaged = match self.network.damages() {
            Some(rng) => {
                damage(rng, &mut bytes, self.settings.is_sealed);
                true
            }
            None => false,
        };
        let datagram = Datagram {
            from,
            bytes,
            is_damaged,
        };
        self.push_in(delay, WorldEvent::Arrive { to, datagram });
    }

    /// Delivers a datagram to an address.
    pub(crate) fn arrive(&mut self, to: SocketAddr, datagram: Datagram) {
        let Some(host) = self.by_addr.get(&to).copied() else {
            return self.arrive_at_namesake(to, &datagram);
        };
        let machine = &mut self.hosts[host];
        if machine.process.is_none() {
            return self.arrive_at_foreign_node(host, &datagram);
        }
        if machine.addr != to && machine.mapped != Some(to) {
            return;
        }
        if machine.is_paused() {
            if !machine.is_suspended {
                self.keep(host, datagram);
            }
            return;
        }
        let reading = self.settings.lasting.reading;
        if reading == 0 || self.is_settled && machine.inbox.is_empty() {
            return self.receive(host, &datagram);
        }
        let was_reading = std::mem::replace(&mut machine.is_reading, true);
        self.keep(host, datagram);
        if !was_reading {
            self.push_in(reading, WorldEvent::Read { host });
        }
    }

    /// Buffers a datagram for a process that does not read it, or drops it.
    fn keep(&mut self, host: HostAt, datagram: Datagram) {
        let most = match self.settings.lasting.socket_max {
            0 => SOCKET_DATAGRAMS_MAX,
            few => few,
        };
        let inbox = &mut self.hosts[host].inbox;
        if inbox.len() < most {
            inbox.push(datagram);
        } else {
            self.count("datagrams_overflowed");
            self.note_host(host);
        }
    }

    /// Makes a process read its next buffered datagram.
    pub(crate) fn read_next(&mut self, host: HostAt) {
        let machine = &mut self.hosts[host];
        if !machine.acts() || machine.inbox.is_empty() {
            machine.is_reading = false;
            return;
        }
        let datagram = machine.inbox.remove(0);
        self.push_in(self.settings.lasting.reading, WorldEvent::Read { host });
        self.receive(host, &datagram);
    }

    /// Makes a process read a datagram.
    pub(crate) fn receive(&mut self, host: HostAt, datagram: &Datagram) {
        let Datagram {
            from,
            bytes,
            is_damaged,
        } = datagram;
        if self.trace.keeps_lines() {
            self.trace_datagram(host, bytes);
        }
        if !is_damaged {
            self.note_received(host, *from);
        }
        let before = is_damaged.then(|| self.counted(host)).flatten();
        self.at_node(host, |node, now| node.handle_datagram(now, *from, bytes));
        if let (Some(before), Some(after)) = (before, self.counted(host)) {
            let is_dropped = after == (before.0, before.1 + 1);
            self.see(&Fact::Damaged { host, is_dropped });
        }
    }

    /// Returns how many datagrams a node has accepted, and how many it has dropped.
    fn counted(&self, host: HostAt) -> Option<(u64, u64)> {
        let traffic = self.process(host)?.node.traffic()?;
        Some((traffic.datagrams_in, traffic.dropped.values().sum()))
    }

    /// Adds the messages of a datagram to the trace.
    fn trace_datagram(&mut self, host: HostAt, bytes: &[u8]) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let opened = process.opener.as_mut().map(|opener| opener.open(bytes));
        self.trace.datagram(self.time, host, bytes, opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_always_changes_the_bytes() {
        let mut rng = Rng::stream(1, "damage");
        let whole: Vec<u8> = (0..60)
            .map(|n| if n == 0 { PROTOCOL_VERSION } else { n })
            .collect();
        for round in 0..10_000 {
            let mut bytes = whole.clone();
            damage(&mut rng, &mut bytes, round % 2 == 0);
            assert_ne!(bytes, whole);
        }
    }
}
