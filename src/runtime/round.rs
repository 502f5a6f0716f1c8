//! A claim of who is alone: the voters are asked one after the other, and who has answered is heard
//! meanwhile.
//!
//! Where voters share the processor with who asks, a voter that was sent a claim runs before the
//! next is sent, and has voted by then. So the socket is looked into as soon as so many were asked
//! as could make a quorum. Where they have granted the claim its caller is told at once, and the
//! rest of the round stays in the node: it leaves with what anybody says next, be it the release,
//! or an answer to the vote that comes next, and at the latest when the driver's nap is over, if it
//! can run by then. Where nobody answers as quickly all voters are asked at once.
//!
//! To a voter of the rest it is as if its claim had been long on its way. Beside the rest only
//! releases are left that repeat others: not what others ask here, nor what another node waits for.

use std::net::SocketAddr;
use std::sync::MutexGuard;

use super::core::Core;
use super::driver::DATAGRAM_BYTES;
use super::shared::Shared;
use crate::proto::event::Ticket;

/// With fewer to ask there is nothing to gain: the second is asked while the first one answers.
const ASKED_MIN: usize = 3;
/// How many datagrams are taken in on the way, for each that is to be sent: a vote, and one that
/// comes late for an earlier claim.
const OVERHEARD_MAX: usize = 2;

impl Shared {
    /// Sends what a lone request has led to, and hears meanwhile what comes.
    pub(super) fn round<'a>(&'a self, mut core: MutexGuard<'a, Core>, ticket: Ticket) {
        let asked = core.node.begin_round();
        if asked < ASKED_MIN || self.sender.is_in_memory() {
            return self.turn(core);
        }
        let mut datagrams = Vec::new();
        let mut may_try_recv = OVERHEARD_MAX * asked;
        for left in (1..=asked).rev() {
            if core.is_paused {
                return;
            }
            core.take_made(self.clock, &mut datagrams);
            if left <= asked / 2 {
                self.try_recv(&mut core, ticket, &mut may_try_recv, &mut datagrams);
                if core.rest_may_wait(ticket) {
                    let next = core.node.next_timeout();
                    return self.end_turn(core, next, &datagrams);
                }
            }
            if left == 1 || !core.is_waiting(ticket) {
                break;
            }
            core.node.pack_of_round();
            core.take_made(self.clock, &mut datagrams);
            let failed = self.send(core, &datagrams);
            datagrams.clear();
            core = self.lock();
            core.count_failed(failed);
        }
        self.turn_with(core, datagrams);
    }

    /// Takes in what has come, until the request has ended. The driver may have one in hand that
    /// came before, and takes it in after: as if they had changed places on their way.
    fn try_recv(
        &self,
        core: &mut Core,
        ticket: Ticket,
        at_most: &mut usize,
        datagrams: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) {
        let mut recv_buf = std::mem::take(&mut core.recv_buf);
        recv_buf.resize(DATAGRAM_BYTES, 0);
        while *at_most > 0 && core.is_waiting(ticket) {
            let Some((len, from)) = self.sender.receive(&mut recv_buf) else {
                break;
            };
            *at_most -= 1;
            core.try_recv(self.clock, (from, &recv_buf[..len]), datagrams);
        }
        core.recv_buf = recv_buf;
    }
}

#[cfg(test)]
#[cfg(feature = "harness")]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::node::{Node, Output};
    use crate::proto::claimant::Request;
    use crate::proto::id::{ClaimId, Incarnation, Key, NodeId};
    use crate::proto::message::{Message, Vote};
    use crate::proto::time::Instant;
    use crate::proto::view::{Peer, View};
    use crate::runtime::clock::Clock;
    use crate::runtime::core::Ended;
    use crate::runtime::core::tests::member;
    use crate::runtime::inbox::Ask;
    use crate::runtime::socket::bind;
    use crate::wire::codec::{pack, pack_head};
    use crate::wire::{Head, Kind, Seal};

    const MEMBERS: usize = 5;

    /// One of five nodes has its socket; the others are here, and their sockets. The clock stands
    /// still: so a twin of the first one tells what it will ask, and what others will answer is
    /// there before they are asked.
    struct Scene {
        clock: Clock,
        shared: Shared,
        /// The driver's half.
        _receiver: tokio::net::UdpSocket,
        addr: SocketAddr,
        others: Vec<(Node, UdpSocket)>,
        claims: Vec<(SocketAddr, Vec<u8>)>,
    }

    impl Scene {
        fn new() -> Self {
            Self::after(&[])
        }

        /// Where it asks for these keys first.
        fn after(keys: &[&str]) -> Self {
            let clock = Clock::of_tokio();
            let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let (sender, receiver, addr) = bind(local, None).unwrap();
            let mut others: Vec<_> = (1..MEMBERS)
                .map(|number| {
                    let socket = UdpSocket::bind(local).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    (member(clock, number, MEMBERS), socket)
                })
                .collect();
            let view = view(addr, &others);
            let (mut first, mut twin) = (member(clock, 0, MEMBERS), member(clock, 0, MEMBERS));
            first.handle_view(clock.now(), &view);
            twin.handle_view(clock.now(), &view);
            for (other, _) in &mut others {
                other.handle_view(clock.now(), &view);
            }
            acquaint(clock, addr, [&mut first, &mut twin], &mut others);
            for key in keys {
                twin.claim(clock.now(), request(key)).unwrap();
            }
            said(&mut twin);
            twin.claim(clock.now(), request("k")).unwrap();
            let (gossip, _) = mpsc::channel(1);
            Self {
                clock,
                shared: Shared::new(clock, sender, first, gossip),
                _receiver: receiver,
                addr,
                others,
                claims: said(&mut twin),
            }
        }

        /// These nodes answer what they will be asked.
        fn answer(&mut self, numbers: &[usize]) {
            for &number in numbers {
                let (voter, socket) = &mut self.others[number - 1];
                let addr = socket.local_addr().unwrap();
                let (_, claim) = self.claims.iter().find(|(to, _)| *to == addr).unwrap();
                voter.handle_datagram(self.clock.now(), self.addr, claim);
                for (to, bytes) in said(voter) {
                    assert_eq!(to, self.addr);
                    socket.send_to(&bytes, to).unwrap();
                }
            }
        }

        fn claim(&self, ticket: u64, key: &str) -> (Ask, oneshot::Receiver<Ended>) {
            let (notify, notified) = oneshot::channel();
            let ask = Ask::Claim {
                ticket: Ticket(ticket),
                since: self.clock.mono(),
                request: request(key),
                notify,
            };
            (ask, notified)
        }

        fn ask(&self) -> oneshot::Receiver<Ended> {
            let (ask, notified) = self.claim(1, "k");
            let leading = self.shared.ask(ask);
            assert!(leading.is_none(), "nobody else is here");
            notified
        }

        /// How many datagrams each of the others was sent since the last look.
        fn arrived(&self) -> Vec<usize> {
            let count = |(_, socket): &(Node, UdpSocket)| {
                let taken = std::iter::from_fn(|| socket.recv(&mut [0; 2_048]).ok());
                taken.count()
            };
            self.others.iter().map(count).collect()
        }
    }

    fn request(key: &str) -> Request {
        Request {
            key: Key::new(key).unwrap(),
            ttl: Duration::from_secs(10),
            is_try: true,
            renews: true,
            outlives: false,
            deadline: None,
        }
    }

    /// Where all nodes are.
    fn view(first: SocketAddr, others: &[(Node, UdpSocket)]) -> View {
        let others = others
            .iter()
            .map(|(_, socket)| socket.local_addr().unwrap());
        let addrs = std::iter::once(first).chain(others);
        let peers = addrs.enumerate().map(|(number, addr)| {
            let peer = Peer {
                addr,
                incarnation: Incarnation::new(1),
                alive: true,
            };
            (NodeId::new(format!("n{number}")).unwrap(), peer)
        });
        View {
            peers: peers.collect(),
        }
    }

    /// Lets all say what they have to say, until they know that the cluster is new.
    fn acquaint(
        clock: Clock,
        addr: SocketAddr,
        mut firsts: [&mut Node; 2],
        others: &mut [(Node, UdpSocket)],
    ) {
        loop {
            let mut datagrams: Vec<_> = said(firsts[0]).into_iter().map(|d| (addr, d)).collect();
            assert_eq!(said(firsts[1]).len(), datagrams.len(), "the same");
            for (other, socket) in &mut *others {
                let from = socket.local_addr().unwrap();
                datagrams.extend(said(other).into_iter().map(|d| (from, d)));
            }
            if datagrams.is_empty() {
                return;
            }
            for (from, (to, bytes)) in datagrams {
                let other = others
                    .iter_mut()
                    .find(|(_, socket)| socket.local_addr().unwrap() == to);
                match other {
                    Some((other, _)) => other.handle_datagram(clock.now(), from, &bytes),
                    None => {
                        for first in &mut firsts {
                            first.handle_datagram(clock.now(), from, &bytes);
                        }
                    }
                }
            }
        }
    }

    fn said(node: &mut Node) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut datagrams = Vec::new();
        loop {
            match node.poll_output() {
                Output::Transmit { to, bytes } => datagrams.push((to, bytes)),
                Output::Timeout(_) => return datagrams,
                _ => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_quorum_is_told_before_the_rest_is_asked() {
        let mut scene = Scene::new();
        scene.answer(&[1, 4]);
        let mut notified = scene.ask();
        assert!(matches!(notified.try_recv(), Ok(Ended::Granted(_))));
        assert_eq!(scene.arrived(), [1, 1, 0, 0]);
        // The driver knows when the lease is to be renewed.
        let (mut alarm, at_most) = (Instant::ZERO, Duration::from_secs(60));
        let nap = scene.shared.nap(&mut alarm, at_most);
        assert!(
            nap.is_some_and(|nap| nap < Duration::from_secs(10)),
            "{nap:?}"
        );
        // Whoever says something next says the rest too.
        scene.shared.with(|_, _| ());
        assert_eq!(scene.arrived(), [0, 0, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_and_the_release_share_a_datagram() {
        let mut scene = Scene::new();
        scene.answer(&[2, 3]);
        let mut notified = scene.ask();
        assert!(notified.try_recv().is_ok());
        let release = Ask::Release {
            ticket: Ticket(1),
            was_held: true,
        };
        assert!(scene.shared.ask(release).is_none());
        assert_eq!(scene.arrived(), [2, 2, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_asked_where_too_few_have_answered() {
        let mut scene = Scene::new();
        scene.answer(&[3]);
        let mut notified = scene.ask();
        assert!(notified.try_recv().is_err());
        assert_eq!(scene.arrived(), [1, 1, 1, 1]);
        // The vote was heard meanwhile: one more is enough.
        scene.answer(&[1]);
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let (len, from) = scene.shared.sender.receive(&mut buffer).unwrap();
        let heard = scene.shared.hear(|core| {
            core.node
                .handle_datagram(scene.clock.now(), from, &buffer[..len])
        });
        assert!(heard.is_some());
        assert!(matches!(notified.try_recv(), Ok(Ended::Granted(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_where_another_node_waits_for_an_answer() {
        let mut scene = Scene::new();
        let (other, socket) = &mut scene.others[1];
        let now = scene.clock.now();
        other.claim_as(now, Ticket(9), request("another")).unwrap();
        let claims = said(other);
        let (to, claim) = claims.iter().find(|(to, _)| *to == scene.addr).unwrap();
        socket.send_to(claim, to).unwrap();
        scene.answer(&[1, 4]);
        let mut notified = scene.ask();
        assert!(matches!(notified.try_recv(), Ok(Ended::Granted(_))));
        assert_eq!(scene.arrived(), [1, 2, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_vote_may_wait_for_its_release_unless_its_voter_asks_or_is_new() {
        let scene = Scene::new();
        let addr = scene.others[0].1.local_addr().unwrap();
        let may_wait = |incarnation, ask, back| {
            let mut core = scene.shared.lock();
            let node = |number: usize| NodeId::new(format!("n{number}")).unwrap();
            let head = Head {
                from: node(1),
                incarnation: Incarnation::new(incarnation),
                to: node(0),
                voter_set: core.node.voter_set().tag(),
            };
            let claim = ClaimId {
                node: node(0),
                incarnation: Incarnation::new(1),
                seq: 9,
            };
            let vote = Message::Vote(Vote {
                key: Key::new("over").unwrap(),
                claim,
                sent_at: Instant::ZERO,
                ttl: Duration::from_secs(1),
                yield_requested: back,
                probe: ask,
                covered: None,
            });
            let packed = pack(&head, &[vote], DATAGRAM_BYTES);
            let bytes = Seal::insecure_plaintext().seal(Kind::Votes, &packed.bodies[0].0);
            assert!(core.node.has_nothing_to_say());
            core.node.begin_round();
            core.node.handle_datagram(scene.clock.now(), addr, &bytes);
            assert!(!core.node.has_nothing_to_say(), "a release");
            let may_wait = core.node.rest_may_wait();
            scene.shared.turn(core);
            may_wait
        };
        assert!(may_wait(1, false, false));
        assert!(!may_wait(1, true, false));
        assert!(!may_wait(1, false, true));
        // It is announced (rule 7), by whatever is sent.
        assert!(!may_wait(2, false, false));
        assert!(may_wait(2, false, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_overheard_of_a_incarnation_that_is_over_is_answered() {
        let mut scene = Scene::new();
        let addr = scene.others[0].1.local_addr().unwrap();
        let head = Head {
            from: NodeId::new("n1").unwrap(),
            incarnation: Incarnation::new(2),
            to: NodeId::new("n0").unwrap(),
            voter_set: scene.shared.lock().node.voter_set().tag(),
        };
        let body = &pack_head(&head).bodies[0].0;
        let word = Seal::insecure_plaintext().seal(Kind::Votes, body);
        let now = scene.clock.now();
        scene
            .shared
            .with(|core, _| core.node.handle_datagram(now, addr, &word));
        scene.arrived();
        scene.answer(&[1, 2, 3]);
        let mut notified = scene.ask();
        assert!(matches!(notified.try_recv(), Ok(Ended::Granted(_))));
        assert_eq!(scene.arrived(), [2, 1, 1, 1]);
    }

    /// Its releases repeat none.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_found_over_does_not_wait() {
        let mut scene = Scene::new();
        scene.answer(&[1, 4]);
        let mut notified = scene.ask();
        assert!(matches!(notified.try_recv(), Ok(Ended::Granted(_))));
        scene.shared.with(|_, _| ());
        scene.answer(&[2]);
        tokio::time::advance(Duration::from_secs(11)).await;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let (len, from) = scene.shared.sender.receive(&mut buffer).unwrap();
        let mut core = scene.shared.lock();
        assert!(core.node.has_nothing_to_say());
        core.node.begin_round();
        core.node
            .handle_datagram(scene.clock.now(), from, &buffer[..len]);
        assert!(!core.node.has_nothing_to_say(), "releases");
        assert!(!core.node.rest_may_wait());
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_asked_is_not_left() {
        let mut scene = Scene::after(&["another"]);
        let (ask, mut other) = scene.claim(2, "another");
        scene.shared.inbox.push(ask);
        scene.answer(&[1, 4]);
        let mut notified = scene.ask();
        assert!(matches!(notified.try_recv(), Err(TryRecvError::Empty)));
        assert!(matches!(other.try_recv(), Err(TryRecvError::Empty)));
        assert_eq!(scene.arrived(), [1, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stands_still_neither_asks_nor_hears() {
        let mut scene = Scene::new();
        scene.answer(&[1, 4]);
        scene.shared.pause(true);
        let mut notified = scene.ask();
        assert!(notified.try_recv().is_err());
        assert_eq!(scene.arrived(), [0, 0, 0, 0]);
        scene.shared.pause(false);
        assert!(notified.try_recv().is_err(), "that is in the socket");
        assert_eq!(scene.arrived(), [1, 1, 1, 1]);
    }
}
