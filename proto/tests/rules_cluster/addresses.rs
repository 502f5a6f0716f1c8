//! The choice among the addresses of a peer (proto/src/node/addresses.rs), in a cluster.

use std::time::Duration;

use lockmesh_proto::Message;
use lockmesh_proto::testing::*;

const TTL: Duration = ms(2_000);

/// The NAT in front of the voters has dropped their mappings. Packets to the mapped ports are lost,
/// but the advertised addresses work.
#[test]
fn lease_survives_loss_of_voters_nat_mappings() {
    let mut cluster = Cluster::new(3, 3, 1);
    for seat in 0..3 {
        cluster.seats[seat].mapped = Some(100 + seat as u16);
    }
    let held = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(5_000));
    assert!(cluster.holds(3, held));
    let before = cluster.lost;
    for seat in 0..3 {
        cluster.seats[seat].mapped = None;
    }
    cluster.run_for(ms(60_000));
    assert!(cluster.holds(3, held));
    let lost = cluster.lost - before;
    assert!(lost < 40, "{lost}");
}

/// Datagrams of the voters still come from mappings that accept nothing inbound. Lost datagrams are
/// retransmitted soon enough.
#[test]
fn lease_survives_mappings_that_pass_only_outbound() {
    let mut cluster = Cluster::new(3, 3, 1);
    let held = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(100));
    for seat in 0..3 {
        cluster.seats[seat].mapped = Some(100 + seat as u16);
    }
    cluster.run_for(ms(5_000));
    cluster.loses_mapped = true;
    cluster.run_for(ms(60_000));
    assert!(cluster.holds(3, held));
}

/// A peer has two addresses, which work in turn.
#[test]
fn peer_is_reached_at_whichever_address_works() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.crash(2);
    let held = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(1_000));
    for _ in 0..5 {
        for mapped in [Some(100), None] {
            cluster.seats[1].mapped = mapped;
            cluster.run_for(ms(10_000));
            assert!(cluster.holds(3, held));
        }
    }
}

/// Each datagram to a peer that does not answer costs at most one more datagram.
#[test]
fn dead_peer_at_most_doubles_its_datagrams() {
    let sent = |mapped| {
        let mut cluster = Cluster::new(3, 3, 1);
        cluster.seats[2].mapped = mapped;
        cluster.acquire(3, "k", TTL);
        cluster.run_for(ms(100));
        cluster.crash(2);
        cluster.seats[2].mapped = None;
        let is_claim = |message: &Message| matches!(message, Message::Claim(_));
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = count.clone();
        cluster.decide(move |packet| {
            let counts = packet.to == 2 && packet.has(is_claim);
            counted.set(counted.get() + usize::from(counts));
            vec![ONE_WAY]
        });
        let lost = cluster.lost;
        cluster.run_for(ms(60_000));
        count.get() + cluster.lost - lost
    };
    let (one, two) = (sent(None), sent(Some(100)));
    assert!(two > one && two <= 2 * one, "{one} {two}");
}
