//! Rule 28: clocks of members that died, were cut off, or are far away.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{EpochClock, NodeId, Start, Timing, VoterSet};

const TTL: Duration = ms(2_000);
const HOUR_MS: i64 = 3_600_000;

/// Runs for `span` while every running node queries standings and clocks, as its driver would.
fn tick(cluster: &mut Cluster, span: Duration) {
    let end = cluster.time + span;
    while cluster.time < end {
        for seat in 0..cluster.seats.len() {
            if cluster.is_running(seat) {
                cluster.with(seat, |node, now| node.check_voters(now));
            }
        }
        cluster.run_for(ms(250));
    }
}

/// Sets the timing of the network's voter set, before its nodes start.
fn set_timing(cluster: &mut Cluster, timing: Timing) {
    let members = cluster.voter_set.members().to_vec();
    cluster.voter_set = Arc::new(VoterSet::new(1, members, 3, timing).unwrap());
}

fn seats_of(cluster: &Cluster, name: &str) -> Vec<usize> {
    let voters = cluster.voter_set.voters_for(&key(name));
    let seat_of = |id: &NodeId| id.as_str()[1..].parse().unwrap();
    voters.iter().map(seat_of).collect()
}

/// M7. At most one of three clocks is wrong at a time. One was wrong when it was last read, and is
/// corrected while its member is cut off. Then another clock goes wrong.
#[test]
fn reading_of_partitioned_member_expires() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.seats[2].wall_off_ms = HOUR_MS;
    tick(&mut cluster, ms(10_000));
    // The member is cut off, and its clock is corrected.
    cluster.lose(|packet| packet.from == 2 || packet.to == 2);
    cluster.seats[2].wall_off_ms = 0;
    tick(&mut cluster, ms(600_000));
    // Ten minutes later another clock goes wrong, the only one at that time.
    cluster.seats[1].wall_off_ms = HOUR_MS;
    tick(&mut cluster, ms(10_000));
    let ticket = cluster.acquire(1, "k", TTL);
    tick(&mut cluster, ms(5_000));
    let granted = cluster.granted(1, ticket);
    cluster.release(1, ticket);
    // All clocks are right and all links work again.
    cluster.seats[1].wall_off_ms = 0;
    cluster.heal();
    tick(&mut cluster, ms(20_000));
    let next = cluster.acquire(3, "k", TTL);
    tick(&mut cluster, ms(60_000));
    let free = cluster.granted(3, next).is_some();
    let ahead =
        granted.map(|(at, epoch)| EpochClock::wall_ms(epoch) - WALL_MS - at.as_millis() as u64);
    assert!(
        ahead.is_none_or(|ahead| ahead <= 5_001) && free,
        "it was granted {ahead:?} ms ahead; afterwards the key can be taken: {free}"
    );
}

/// M2. At most one of three clocks is wrong at a time. Voters 0 and 1 voted for the first grant.
/// Voter 0 restarts and reads the clock of 1 while that is behind. Then 1 dies, and the clock of 0
/// is set back. Voter 0 cannot determine which clock is right, so it does not vote.
#[test]
fn reading_of_dead_voter_lowers_no_epoch() {
    let mut cluster = Cluster::new(3, 3, 2);
    tick(&mut cluster, ms(3_000));
    cluster.lose(|packet| packet.is_between(3, 2));
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(200), |cluster| cluster.holds(3, first));
    cluster.release(3, first);
    cluster.run_for(ms(100));
    cluster.crash(3);
    cluster.heal();
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.seats[1].wall_off_ms = -HOUR_MS;
    tick(&mut cluster, ms(10_000));
    // Voter 1 does not return. From now on the clock of 0 is the only wrong one.
    cluster.crash(1);
    cluster.seats[1].wall_off_ms = 0;
    cluster.seats[0].wall_off_ms = -HOUR_MS;
    tick(&mut cluster, ms(60_000));
    assert!(!cluster.votes(0));
    cluster.seats[0].wall_off_ms = 0;
    tick(&mut cluster, ms(10_000));
    assert!(cluster.votes(0));
    // Its own clock is right. The network checks that epochs rise.
    let next = cluster.acquire(4, "k", TTL);
    tick(&mut cluster, ms(20_000));
    assert!(cluster.granted(4, next).is_some());
}

/// Three of five members are dead, but only one of the key's three voters. Its clock was wrong when
/// it was read.
#[test]
fn wrong_clock_of_dead_member_expires() {
    let run = |wrong_ms: i64, is_read: bool| {
        let mut cluster = Cluster::new(5, 3, 1);
        let name = "k";
        let of_key = seats_of(&cluster, name);
        let (back, dies) = (of_key[0], of_key[2]);
        for seat in (0..5).filter(|seat| !of_key.contains(seat)) {
            cluster.crash(seat);
        }
        cluster.seats[dies].wall_off_ms = wrong_ms;
        if !is_read {
            cluster.crash(dies);
        }
        cluster.crash(back);
        cluster.start(back, Start::Recovering);
        tick(&mut cluster, ms(25_000));
        if is_read {
            cluster.crash(dies);
        }
        tick(&mut cluster, ms(3_600_000));
        let next = cluster.acquire(5, name, TTL);
        tick(&mut cluster, ms(10_000));
        cluster.granted(5, next).is_some()
    };
    assert!(run(HOUR_MS, false), "control: never read");
    assert!(run(0, true), "control: a right clock");
    assert!(
        run(HOUR_MS, true),
        "an hour after it died its clock is still disputed"
    );
}

/// The interval of a dead member's clock widens with time. Here the quarantine is ten minutes.
#[test]
fn dead_member_does_not_block_long_quarantine() {
    let run = |is_read: bool| {
        let mut cluster = Cluster::of(4, 3, 1);
        let timing = Timing {
            max_ttl: Duration::from_secs(600),
            ..timing()
        };
        set_timing(&mut cluster, timing);
        (0..5).for_each(|seat| cluster.start(seat, Start::NewCluster));
        cluster.run_for(ms(1_000));
        let of_key = seats_of(&cluster, "k");
        let (back, dies) = (of_key[0], of_key[2]);
        for seat in (0..4).filter(|seat| !of_key.contains(seat)) {
            cluster.crash(seat);
        }
        cluster.crash(back);
        if !is_read {
            cluster.crash(dies);
        }
        cluster.start(back, Start::Recovering);
        tick(&mut cluster, ms(10_000));
        if is_read {
            cluster.crash(dies);
        }
        tick(&mut cluster, ms(2_000_000));
        let next = cluster.acquire(4, "k", TTL);
        tick(&mut cluster, ms(10_000));
        cluster.granted(4, next).is_some()
    };
    assert!(run(false), "control: never read");
    assert!(
        run(true),
        "two of the key's three voters are up, all clocks are right"
    );
}

/// The interval of a clock is as wide as the round trip.
#[test]
fn round_trip_above_skew_disputes_no_clock() {
    let run = |skew: Duration| {
        let mut cluster = Cluster::of(3, 3, 0);
        let timing = Timing {
            max_ttl: Duration::from_secs(30),
            max_clock_skew: skew,
            ..Timing::wan()
        };
        set_timing(&mut cluster, timing);
        cluster.decide(|_| vec![ms(140)]);
        (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
        tick(&mut cluster, ms(300_000));
        (0..3).all(|seat| cluster.votes(seat))
    };
    assert!(run(ms(1_000)), "control");
    assert!(run(ms(200)), "ten times the quarantine");
}

/// The fence of one key is an hour ahead. Its voter forgets its votes because of a twin.
#[test]
fn twin_leaves_high_fence_to_its_key_alone() {
    let run = |has_twin: bool| {
        let mut cluster = Cluster::new(3, 3, 2);
        // A voter and a client share one wrong clock, and are cut off from the others.
        let is_there = |seat: usize| seat == 2 || seat == 3;
        cluster.lose(move |packet| is_there(packet.from) != is_there(packet.to));
        cluster.seats[2].wall_off_ms = HOUR_MS;
        cluster.seats[3].wall_off_ms = HOUR_MS;
        cluster.acquire(3, "k", TTL);
        cluster.run_for(ms(500));
        cluster.crash(3);
        cluster.run_for(ms(5_000));
        cluster.seats[2].wall_off_ms = 0;
        cluster.heal();
        tick(&mut cluster, ms(10_000));
        if has_twin {
            let twin = cluster.seat_beside(2, 77);
            cluster.start(twin, Start::Recovering);
            tick(&mut cluster, ms(1_000));
            cluster.crash(twin);
        } else {
            cluster.crash(2);
            cluster.start(2, Start::Recovering);
        }
        tick(&mut cluster, ms(60_000));
        assert!(cluster.votes(2));
        cluster.crash(0);
        let next = cluster.acquire(4, "another", TTL);
        tick(&mut cluster, ms(60_000));
        cluster.granted(4, next).is_some()
    };
    assert!(run(false), "control: a restart cuts it");
    assert!(run(true), "no key can be taken though two of three vote");
}
