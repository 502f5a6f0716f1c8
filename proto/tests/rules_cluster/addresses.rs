//! The choice among the addresses of a peer (proto/src/node/addresses.rs), in a cluster.

use std::time::Duration;

use lockmesh_proto::Message;

use super::net::*;

const TTL: Duration = ms(2_000);

/// The NAT in front of the voters has dropped their mappings. Packets to the mapped ports are lost,
/// but the advertised addresses work.
#[test]
fn lease_survives_loss_of_voters_nat_mappings() {
    let mut net = Net::new(3, 3, 1);
    for seat in 0..3 {
        net.seats[seat].mapped = Some(100 + seat as u16);
    }
    let held = net.acquire(3, "k", TTL);
    net.run_for(ms(5_000));
    assert!(net.holds(3, held));
    let before = net.lost;
    for seat in 0..3 {
        net.seats[seat].mapped = None;
    }
    net.run_for(ms(60_000));
    assert!(net.holds(3, held));
    let lost = net.lost - before;
    assert!(lost < 40, "{lost}");
}

/// Datagrams of the voters still come from mappings that accept nothing inbound. Lost datagrams are
/// retransmitted soon enough.
#[test]
fn lease_survives_mappings_that_pass_only_outbound() {
    let mut net = Net::new(3, 3, 1);
    let held = net.acquire(3, "k", TTL);
    net.run_for(ms(100));
    for seat in 0..3 {
        net.seats[seat].mapped = Some(100 + seat as u16);
    }
    net.run_for(ms(5_000));
    net.deaf_mappings = true;
    net.run_for(ms(60_000));
    assert!(net.holds(3, held));
}

/// A peer has two addresses, which work in turn.
#[test]
fn peer_is_reached_at_whichever_address_works() {
    let mut net = Net::new(3, 3, 1);
    net.crash(2);
    let held = net.acquire(3, "k", TTL);
    net.run_for(ms(1_000));
    for _ in 0..5 {
        for mapped in [Some(100), None] {
            net.seats[1].mapped = mapped;
            net.run_for(ms(10_000));
            assert!(net.holds(3, held));
        }
    }
}

/// Each datagram to a peer that does not answer costs at most one more datagram.
#[test]
fn dead_peer_at_most_doubles_its_datagrams() {
    let sent = |mapped| {
        let mut net = Net::new(3, 3, 1);
        net.seats[2].mapped = mapped;
        net.acquire(3, "k", TTL);
        net.run_for(ms(100));
        net.crash(2);
        net.seats[2].mapped = None;
        let is_claim = |message: &Message| matches!(message, Message::Claim(_));
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = count.clone();
        net.fate = Box::new(move |packet| {
            let counts = packet.to == 2 && packet.has(is_claim);
            counted.set(counted.get() + usize::from(counts));
            vec![ONE_WAY]
        });
        let lost = net.lost;
        net.run_for(ms(60_000));
        count.get() + net.lost - lost
    };
    let (one, two) = (sent(None), sent(Some(100)));
    assert!(two > one && two <= 2 * one, "{one} {two}");
}
