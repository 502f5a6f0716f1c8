//! Rule 28: clocks of members that died, were cut off, or are far away.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::id::NodeId;
use lockmesh_proto::voter::Start;
use lockmesh_proto::voter_set::{Timing, VoterSet};

use super::net::*;

const TTL: Duration = ms(2_000);
const HOUR_MS: i64 = 3_600_000;

fn votes(net: &Net, seat: usize) -> bool {
    net.node(seat).voter().unwrap().quarantine().is_none()
}

/// All nodes ask the voters for their standing and their clocks, as a driver makes them do.
fn tick(net: &mut Net, span: Duration) {
    let end = net.time + span;
    while net.time < end {
        for seat in 0..net.seats.len() {
            if net.is_awake(seat) {
                net.with(seat, |node, now| node.check_voters(now));
            }
        }
        net.run_for(ms(250));
    }
}

/// Other timing than the net has, before its nodes start.
fn set_timing(net: &mut Net, timing: Timing) {
    let members = net.voter_set.members().to_vec();
    net.voter_set = Arc::new(VoterSet::new(1, members, 3, timing).unwrap());
}

fn seats_of(net: &Net, name: &str) -> Vec<usize> {
    let voters = net.voter_set.voters_for(&key(name));
    let seat_of = |id: &NodeId| id.as_str()[1..].parse().unwrap();
    voters.iter().map(seat_of).collect()
}

/// M7: never more than one of three clocks is wrong. One was when it was last read, and was set
/// right while it was cut off; then another goes wrong.
#[test]
fn reading_of_member_that_is_cut_off_does_not_count_for_long() {
    let mut net = Net::new(3, 3, 1);
    net.seats[2].wall_off_ms = HOUR_MS;
    tick(&mut net, ms(10_000));
    // It is cut off, and its clock is set right.
    net.fate = losing(|packet| packet.from == 2 || packet.to == 2);
    net.seats[2].wall_off_ms = 0;
    tick(&mut net, ms(600_000));
    // Ten minutes later another clock goes wrong, and it is the only one.
    net.seats[1].wall_off_ms = HOUR_MS;
    tick(&mut net, ms(10_000));
    let ticket = net.acquire(1, "k", TTL);
    tick(&mut net, ms(5_000));
    let granted = net.granted(1, ticket);
    net.release(1, ticket);
    // All is well again.
    net.seats[1].wall_off_ms = 0;
    net.fate = straight();
    tick(&mut net, ms(20_000));
    let next = net.acquire(3, "k", TTL);
    tick(&mut net, ms(60_000));
    let free = net.granted(3, next).is_some();
    let ahead = granted.map(|(at, epoch)| epoch.wall_ms() - WALL_MS - at.as_millis() as u64);
    assert!(
        ahead.is_none_or(|ahead| ahead <= 5_001) && free,
        "it was granted {ahead:?} ms ahead; afterwards the key can be taken: {free}"
    );
}

/// M2: never more than one of three clocks is wrong; that of the dead voter was when it was last
/// read. 0 and 1 voted for the first owner. 0 restarts, reads the clock of 1 while that is behind,
/// and 1 dies; then the clock of 0 is set back. It cannot tell which is right, and does not vote.
#[test]
fn epoch_does_not_fall_by_the_reading_of_a_dead_voter() {
    let mut net = Net::new(3, 3, 2);
    tick(&mut net, ms(3_000));
    net.fate = losing(|packet| packet.is_between(3, 2));
    let first = net.acquire(3, "k", TTL);
    net.run_until(ms(200), |net| net.holds(3, first));
    net.release(3, first);
    net.run_for(ms(100));
    net.crash(3);
    net.fate = straight();
    net.crash(0);
    net.start(0, Start::Recovering);
    net.seats[1].wall_off_ms = -HOUR_MS;
    tick(&mut net, ms(10_000));
    // It dies for good; from now on the clock of 0 is the only wrong one.
    net.crash(1);
    net.seats[1].wall_off_ms = 0;
    net.seats[0].wall_off_ms = -HOUR_MS;
    tick(&mut net, ms(60_000));
    assert!(!votes(&net, 0));
    net.seats[0].wall_off_ms = 0;
    tick(&mut net, ms(10_000));
    assert!(votes(&net, 0));
    // Its own clock is right. The net looks for epochs that fall.
    let next = net.acquire(4, "k", TTL);
    tick(&mut net, ms(20_000));
    assert!(net.granted(4, next).is_some());
}

/// Of five members three are dead, but of the three voters of the key only one, whose clock was
/// wrong when it was read.
#[test]
fn wrong_clock_of_dead_member_is_not_disputed_for_long() {
    let run = |wrong_ms: i64, is_read: bool| {
        let mut net = Net::new(5, 3, 1);
        let name = "k";
        let of_key = seats_of(&net, name);
        let (back, dies) = (of_key[0], of_key[2]);
        for seat in (0..5).filter(|seat| !of_key.contains(seat)) {
            net.crash(seat);
        }
        net.seats[dies].wall_off_ms = wrong_ms;
        if !is_read {
            net.crash(dies);
        }
        net.crash(back);
        net.start(back, Start::Recovering);
        tick(&mut net, ms(25_000));
        if is_read {
            net.crash(dies);
        }
        tick(&mut net, ms(3_600_000));
        let next = net.acquire(5, name, TTL);
        tick(&mut net, ms(10_000));
        net.granted(5, next).is_some()
    };
    assert!(run(HOUR_MS, false), "control: never read");
    assert!(run(0, true), "control: a right clock");
    assert!(
        run(HOUR_MS, true),
        "an hour after it died its clock is still disputed"
    );
}

/// The interval of a dead member's clock widens with time; here the quarantine is ten minutes.
#[test]
fn right_clock_of_dead_member_is_not_disputed_in_a_long_quarantine() {
    let run = |is_read: bool| {
        let mut net = Net::of(4, 3, 1);
        let timing = Timing {
            max_ttl: Duration::from_secs(600),
            ..timing()
        };
        set_timing(&mut net, timing);
        (0..5).for_each(|seat| net.start(seat, Start::NewCluster));
        net.run_for(ms(1_000));
        let of_key = seats_of(&net, "k");
        let (back, dies) = (of_key[0], of_key[2]);
        for seat in (0..4).filter(|seat| !of_key.contains(seat)) {
            net.crash(seat);
        }
        net.crash(back);
        if !is_read {
            net.crash(dies);
        }
        net.start(back, Start::Recovering);
        tick(&mut net, ms(10_000));
        if is_read {
            net.crash(dies);
        }
        tick(&mut net, ms(2_000_000));
        let next = net.acquire(4, "k", TTL);
        tick(&mut net, ms(10_000));
        net.granted(4, next).is_some()
    };
    assert!(run(false), "control: never read");
    assert!(
        run(true),
        "two of the key's three voters are up, all clocks are right"
    );
}

/// The interval of a clock is as wide as the round trip.
#[test]
fn clocks_are_not_disputed_if_a_round_trip_is_longer_than_the_skew() {
    let run = |skew: Duration| {
        let mut net = Net::of(3, 3, 0);
        let timing = Timing {
            max_ttl: Duration::from_secs(30),
            max_clock_skew: skew,
            ..Timing::wan()
        };
        set_timing(&mut net, timing);
        net.fate = Box::new(|_| vec![ms(140)]);
        (0..3).for_each(|seat| net.start(seat, Start::Recovering));
        tick(&mut net, ms(300_000));
        (0..3).all(|seat| votes(&net, seat))
    };
    assert!(run(ms(1_000)), "control");
    assert!(run(ms(200)), "ten times the quarantine");
}

/// The fence of one key is an hour ahead. The voter that has it forgets all for a twin.
#[test]
fn voter_that_had_a_twin_keeps_a_fence_for_its_key_alone() {
    let run = |has_twin: bool| {
        let mut net = Net::new(3, 3, 2);
        // A voter and a client in one rack, with one wrong clock, cut off from the others.
        let is_there = |seat: usize| seat == 2 || seat == 3;
        net.fate = losing(move |packet| is_there(packet.from) != is_there(packet.to));
        net.seats[2].wall_off_ms = HOUR_MS;
        net.seats[3].wall_off_ms = HOUR_MS;
        net.acquire(3, "k", TTL);
        net.run_for(ms(500));
        net.crash(3);
        net.run_for(ms(5_000));
        net.seats[2].wall_off_ms = 0;
        net.fate = straight();
        tick(&mut net, ms(10_000));
        if has_twin {
            let twin = net.seat_beside(2, 77);
            net.start(twin, Start::Recovering);
            tick(&mut net, ms(1_000));
            net.crash(twin);
        } else {
            net.crash(2);
            net.start(2, Start::Recovering);
        }
        tick(&mut net, ms(60_000));
        assert!(votes(&net, 2));
        net.crash(0);
        let next = net.acquire(4, "another", TTL);
        tick(&mut net, ms(60_000));
        net.granted(4, next).is_some()
    };
    assert!(run(false), "control: a restart cuts it");
    assert!(run(true), "no key can be taken though two of three vote");
}
