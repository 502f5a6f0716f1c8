//! Which of a peer's addresses is tried when (proto/src/node/addresses.rs), as nodes see it.

use std::time::Duration;

use lockmesh_proto::message::Message;

use super::net::*;

const TTL: Duration = ms(2_000);

/// The voters of a holder are behind a NAT, which has forgotten them: what goes to the mapping that
/// they were heard from is lost, and the address that they advertise works.
#[test]
fn lease_lives_through_the_death_of_its_voters_mappings() {
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

/// The same where what a voter sends still comes from the mapping that takes nothing in: what is
/// lost is sent again soon enough.
#[test]
fn lease_lives_through_mappings_that_only_let_out() {
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

/// A peer with two addresses, of which one dies, and then the other one.
#[test]
fn peer_is_reached_by_whichever_of_its_addresses_works() {
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

/// Whoever does not answer costs a datagram more for each that is sent to it, and no more.
#[test]
fn dead_peer_costs_no_more_than_twice_as_much() {
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
