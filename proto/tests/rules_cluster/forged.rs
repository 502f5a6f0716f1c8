//! Forged datagrams with durations that no voter set can have.

use std::net::SocketAddr;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{
    DatagramHead, DatagramKind, Incarnation, Message, NodeId, Role, Seal, Start, Timing,
    VoterSetDescription, VoterSetTag, pack_messages,
};

/// A datagram with this message from a node of another voter set.
fn forged(from: &str, to: &str, message: Message) -> Vec<u8> {
    let head = DatagramHead {
        from: NodeId::new(from).unwrap(),
        incarnation: Incarnation::new(9),
        to: NodeId::new(to).unwrap(),
        voter_set: VoterSetTag {
            version: 7,
            digest: 7,
        },
    };
    let packed = pack_messages(&head, &[message], 1_200);
    let (body, _) = &packed.bodies[0];
    Seal::insecure_plaintext().seal(DatagramKind::Votes, body)
}

fn described(timing: Timing, role: Role, listed: &str) -> Message {
    Message::Described(Box::new(VoterSetDescription {
        role,
        voters_per_key: 1,
        timing,
        members: 1,
        listed: vec![NodeId::new(listed).unwrap()],
    }))
}

fn inject(cluster: &mut Cluster, to: usize, bytes: &[u8]) {
    let from = SocketAddr::from(([127, 0, 0, 9], 9));
    cluster.with(to, |node, now| node.handle_datagram(now, from, bytes));
}

/// Twice that skew overflows a `Duration`.
#[test]
fn voter_set_with_maximal_skew_is_dropped() {
    let mut cluster = Cluster::of(3, 3, 0);
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    cluster.run_for(ms(100));
    let timing = Timing {
        max_clock_skew: Duration::MAX,
        ..timing()
    };
    let bytes = forged("x", "n0", described(timing, Role::Votes, "x"));
    inject(&mut cluster, 0, &bytes);
    cluster.run_for(ms(60_000));
    assert!(cluster.votes(0));
}

/// It delays neither the voter in quarantine that received it nor one that restarts later.
#[test]
fn voter_set_with_endless_max_ttl_is_dropped() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(100));
    let timing = Timing {
        max_ttl: Duration::from_secs(400 * 365 * 24 * 3_600),
        ..timing()
    };
    let bytes = forged("x", "n0", described(timing, Role::Client, "n0"));
    inject(&mut cluster, 0, &bytes);
    let to_other = forged("x", "n2", described(timing, Role::Client, "n1"));
    inject(&mut cluster, 2, &to_other);
    cluster.run_for(ms(120_000));
    // Voter 1 received no forged datagram, and restarts later.
    cluster.crash(1);
    cluster.start(1, Start::Recovering);
    cluster.run_for(ms(120_000));
    assert!(
        cluster.votes(0) && cluster.votes(1),
        "{} {}",
        cluster.votes(0),
        cluster.votes(1)
    );
}
