//! The safety laws M1 to M5. The network panics at the first grant that breaks M1 or M2.

use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{Event, Message, Start, Ticket};

const TTL: Duration = ms(2_000);
/// `max_ttl` plus twice the drift, one second for replies, and a margin of 100 ms.
const RECOVERY: Duration = ms(30_600 + 1_000 + 100);

/// Loss, duplicates, delays up to 100 ms, and links that are cut from time to time.
fn storm(seed: u64, seats: u64) -> impl FnMut(&Packet) -> Vec<Duration> {
    let mut random = Random(seed);
    let mut cut = (0, 0);
    move |packet| {
        if random.below(200) == 0 {
            cut = (random.below(seats) as usize, random.below(seats) as usize);
        }
        if packet.is_between(cut.0, cut.1) || random.percent(8) {
            return vec![];
        }
        let copies = 1 + random.below(10) / 8;
        let slow = if random.percent(80) { 8 } else { 100 };
        (0..copies).map(|_| ms(1 + random.below(slow))).collect()
    }
}

/// Runs one seed and returns the number of grants. Idle nodes claim a key, and holders keep it for
/// a random time. Nodes pause, crash, and restart without memory.
fn stormy(seed: u64) -> usize {
    const VOTERS: usize = 5;
    const SEATS: usize = 7;
    let mut cluster = Cluster::of(
        VOTERS,
        if seed.is_multiple_of(2) { 3 } else { 5 },
        SEATS - VOTERS,
    );
    let mut random = Random(seed);
    for seat in 0..SEATS {
        // The ratio of two rates is at most 1.01.
        cluster.seats[seat].rate_ppm = random.below(9_800) as i64 - 4_900;
        cluster.seats[seat].wall_off_ms = random.below(2_000) as i64 - 1_000;
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    cluster.decide(storm(seed, SEATS as u64));
    let mut wanted: Vec<Option<(Ticket, Duration)>> = vec![None; SEATS];
    let mut back = [Duration::ZERO; SEATS];
    for _ in 0..1_500 {
        cluster.run_for(ms(20));
        let seat = random.below(SEATS as u64) as usize;
        if cluster.seats[seat].node.is_none() {
            if cluster.time >= back[seat] {
                cluster.start(seat, Start::Recovering);
            }
            continue;
        }
        match random.below(400) {
            0..2 => {
                cluster.crash(seat);
                wanted[seat] = None;
                back[seat] = cluster.time + ms(random.below(2_000));
                continue;
            }
            2..6 => cluster.pause(seat, ms(random.below(4_000))),
            _ => {}
        }
        if !cluster.is_running(seat) {
            continue;
        }
        match wanted[seat] {
            Some((ticket, until)) if cluster.time >= until => {
                cluster.release(seat, ticket);
                wanted[seat] = None;
            }
            Some(_) => {}
            None => {
                let name = format!("key/{}", random.below(2));
                let ttl = ms(200 + random.below(2_000));
                let ticket = cluster.acquire(seat, &name, ttl);
                let until = cluster.time + ms(random.below(1_500));
                wanted[seat] = Some((ticket, until));
            }
        }
    }
    cluster
        .log
        .iter()
        .filter(|(_, _, event)| matches!(event, Event::Granted { .. }))
        .count()
}

/// M1 and M2.
#[test]
fn storm_breaks_neither_exclusion_nor_fencing() {
    let grants: usize = (0..12).map(stormy).sum();
    assert!(grants > 500, "{grants}");
}

/// M1. The clocks are at both ends of the allowed range: the holder's is slow, the voters' are
/// fast.
#[test]
fn exclusion_holds_at_limit_of_drift() {
    let mut cluster = Cluster::of(3, 3, 2);
    for seat in 0..5 {
        cluster.seats[seat].rate_ppm = if seat == 3 { -4_900 } else { 4_900 };
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    for _ in 0..20 {
        let holder = cluster.acquire(3, "k", TTL);
        cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
        let next = cluster.acquire(4, "k", TTL);
        cluster.run_for(ms(100));
        cluster.lose(|packet| packet.from == 3 || packet.to == 3);
        cluster.run_until(TTL * 2, |cluster| cluster.granted(4, next).is_some());
        cluster.release(4, next);
        cluster.heal();
        cluster.run_for(ms(500));
        cluster.log.clear();
    }
}

/// M2. If clocks break their bound, a claim made after another grant still gets the higher epoch.
/// The fenced resource can thus reject the earlier holder.
#[test]
fn later_claim_has_higher_epoch_despite_clocks() {
    let mut cluster = Cluster::of(3, 3, 2);
    for seat in 0..5 {
        cluster.seats[seat].rate_ppm = if seat == 3 { -400_000 } else { 0 };
        cluster.seats[seat].wall_off_ms = if seat == 3 { 4_000 } else { -900 };
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
    let (_, first) = cluster.granted(3, holder).unwrap();
    cluster.lose(|packet| packet.from == 3 || packet.to == 3);
    let next = cluster.acquire(4, "k", TTL);
    cluster.checks_exclusion = false;
    cluster.run_until(TTL * 2, |cluster| cluster.granted(4, next).is_some());
    // Two nodes hold the lock now, and the epochs show which one is later.
    assert!(cluster.holds(3, holder));
    assert!(cluster.granted(4, next).unwrap().1 > first);
}

/// Asserts that the guard is lost before a quorum of voters is free to vote for another claim.
fn watch_the_voters(cluster: &mut Cluster, seat: usize, ticket: Ticket) {
    let end = cluster.time + TTL * 3;
    let mut over = false;
    while cluster.time < end {
        cluster.run_for(ms(1));
        let free = (0..3).filter(|voter| {
            let report = cluster.with(*voter, |node, now| {
                node.voter().unwrap().report(now, 1, &key("k"))
            });
            report
                .vote
                .is_none_or(|vote| vote.claim.node != *cluster.node(seat).id())
        });
        let free = free.count();
        over |= !cluster.holds(seat, ticket);
        assert!(free < 2 || over, "at {:?}", cluster.time);
    }
    assert!(over);
}

/// M3.
#[test]
fn guard_is_lost_before_quorum_is_free() {
    for (holder_ppm, voters_ppm) in [(0, 0), (-4_900, 4_900), (4_900, -4_900)] {
        let mut cluster = Cluster::of(3, 3, 1);
        for seat in 0..4 {
            cluster.seats[seat].rate_ppm = if seat == 3 { holder_ppm } else { voters_ppm };
            cluster.start(seat, Start::NewCluster);
        }
        cluster.run_for(ms(100));
        let ticket = cluster.acquire(3, "k", TTL);
        cluster.run_for(ms(500));
        assert!(cluster.holds(3, ticket));
        // All further packets are lost.
        cluster.lose(|_| true);
        watch_the_voters(&mut cluster, 3, ticket);
    }
}

/// M3. It checks its lease before it reads its socket.
#[test]
fn paused_process_finds_lease_lost_at_once() {
    let mut cluster = Cluster::new(3, 3, 2);
    let slept = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    let next = cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(50));
    cluster.pause(3, TTL * 2);
    cluster.run_until(TTL + ms(100), |cluster| cluster.granted(4, next).is_some());
    assert!(!cluster.holds(3, slept));
    cluster.run_for(TTL * 2);
    let lost = |(_, by, event): &(_, usize, Event)| {
        *by == 3 && matches!(event, Event::Lost { ticket, .. } if *ticket == slept)
    };
    assert!(cluster.log.iter().any(lost));
    assert!(cluster.holds(4, next));
}

/// M4. Gossip tells two of five nodes that the other three are dead. They are still no quorum.
#[test]
fn minority_is_granted_nothing_despite_gossip() {
    let mut cluster = Cluster::new(5, 5, 0);
    cluster.lose(|packet| (packet.from < 2) != (packet.to < 2));
    let mut view = cluster.view();
    for (n, peer) in view.peers.values_mut().enumerate() {
        peer.alive = n < 2;
    }
    for seat in 0..2 {
        cluster.with(seat, |node, now| node.handle_view(now, &view));
    }
    let minority = [
        cluster.acquire(0, "k", TTL),
        cluster.try_acquire(1, "k", TTL),
    ];
    cluster.run_for(ms(1_000));
    let quorum = cluster.acquire(2, "k", TTL);
    let took = cluster.run_until(TTL * 2, |cluster| cluster.granted(2, quorum).is_some());
    assert_eq!(took, ms(10));
    cluster.run_for(TTL * 5);
    assert_eq!(cluster.granted(0, minority[0]), None);
    assert_eq!(cluster.granted(1, minority[1]), None);
    // The try is not denied either, since no voter has reported another grant.
    assert!(!cluster.is_denied(1, minority[1]));
}

/// M4.
#[test]
fn gossip_of_dead_holder_moves_no_lock() {
    let mut cluster = Cluster::new(3, 3, 2);
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    let next = cluster.acquire(4, "k", TTL);
    for n in 0..100 {
        let mut view = cluster.view();
        if n % 2 == 0 {
            view.peers.clear();
        }
        for peer in view.peers.values_mut() {
            peer.alive = false;
            peer.incarnation = lockmesh_proto::Incarnation::new(99);
        }
        for seat in [0, 1, 2, 4] {
            cluster.with(seat, |node, now| node.handle_view(now, &view));
        }
        cluster.run_for(ms(100));
        assert!(cluster.holds(3, holder));
        assert_eq!(cluster.granted(4, next), None);
    }
}

/// M5. The only voter that two quorums share has forgotten its first vote.
#[test]
fn voter_without_memory_joins_no_quorum_early() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.lose(|packet| packet.to == 2 || packet.from == 2);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
    // Voter 1 loses its memory, and the holder is cut off. Voters 1 and 2 would be a quorum.
    cluster.crash(1);
    cluster.start(1, Start::Recovering);
    let forgot = cluster.time;
    cluster.lose(|packet| packet.from == 3 || packet.to == 3 || packet.is_between(0, 4));
    let next = cluster.acquire(4, "k", ms(30_000));
    let took = cluster.run_until(RECOVERY * 2, |cluster| cluster.granted(4, next).is_some());
    let at = forgot + took;
    assert!(at >= forgot + ms(30_600), "{took:?}");
    assert!(!cluster.holds(3, holder));
}

/// M2 and M5. A peer knows the epoch of the first grant. The recovered fence reaches it unless the
/// voter's wall clock was set back by more than the skew.
#[test]
fn recovered_fence_reaches_epoch_known_to_peer() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.lose(|packet| packet.to == 2 || packet.from == 2);
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
    let (_, first) = cluster.granted(3, holder).unwrap();
    cluster.release(3, holder);
    cluster.run_for(ms(100));
    cluster.heal();
    cluster.crash(1);
    cluster.seats[1].wall_off_ms = -3_600_000;
    cluster.start(1, Start::Recovering);
    cluster.run_for(RECOVERY);
    let seat = |n: usize| cluster.node(n).voter().unwrap();
    assert_eq!(seat(1).quarantine(), None);
    // The reply is capped at the wall clock that was set back, so the fence is below the first
    // epoch. With the clock within the skew, the fence reaches it.
    assert!(seat(1).fence(&key("k")) < first);
    cluster.crash(1);
    cluster.seats[1].wall_off_ms = -4_000;
    cluster.start(1, Start::Recovering);
    cluster.run_for(RECOVERY);
    assert!(cluster.node(1).voter().unwrap().fence(&key("k")) >= first);
}

/// M5. One guard is held while all voters restart without memory, one after the other.
#[test]
fn lease_survives_rolling_restart_of_voters() {
    let mut cluster = Cluster::new(3, 3, 2);
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(100));
    let waiter = cluster.acquire(4, "k", TTL);
    for voter in [0, 1, 2, 0, 1, 2] {
        cluster.crash(voter);
        cluster.run_for(ms(500));
        cluster.start(voter, Start::Recovering);
        cluster.run_for(RECOVERY);
        assert_eq!(cluster.node(voter).voter().unwrap().quarantine(), None);
        cluster.run_for(ms(1_000));
        assert!(cluster.holds(3, holder));
    }
    assert_eq!(cluster.granted(4, waiter), None);
    cluster.release(3, holder);
    cluster.run_until(ms(2_000), |cluster| cluster.granted(4, waiter).is_some());
}

/// M2. The release reaches only one voter, and the other one requests its vote back.
#[test]
fn ended_granted_claim_yields_to_no_lower_epoch() {
    let mut cluster = Cluster::of(3, 3, 2);
    cluster.seats[4].wall_off_ms = -1_000;
    for seat in 0..5 {
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    let mut is_first = true;
    cluster.lose(move |packet| {
        let is_release = |m: &Message| matches!(m, Message::Release(_));
        let is_lost = is_first && packet.is_between(3, 1) && packet.has(is_release);
        is_first &= !is_lost;
        is_lost || packet.is_between(3, 2) || packet.is_between(4, 0)
    });
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, first));
    cluster.release(3, first);
    // The second claim has a lower epoch and reaches voters 1 and 2. The network checks that it is
    // not granted with that epoch.
    let second = cluster.acquire(4, "k", TTL);
    let took = cluster.run_until(TTL * 2, |cluster| cluster.granted(4, second).is_some());
    assert!(took < ms(200), "{took:?}");
}
