//! The safety laws M1 to M5. The network panics at the first grant that breaks M1 or M2.

use std::time::Duration;

use lockmesh_proto::{Event, Message, Start, Ticket};

use super::net::*;

const TTL: Duration = ms(2_000);
/// `max_ttl` plus twice the drift, one second for replies, and a margin of 100 ms.
const RECOVERY: Duration = ms(30_600 + 1_000 + 100);

/// Loss, duplicates, delays up to 100 ms, and links that are cut from time to time.
fn storm(seed: u64, seats: u64) -> Fate {
    let mut random = Random(seed);
    let mut cut = (0, 0);
    Box::new(move |packet| {
        if random.below(200) == 0 {
            cut = (random.below(seats) as usize, random.below(seats) as usize);
        }
        if packet.is_between(cut.0, cut.1) || random.percent(8) {
            return vec![];
        }
        let copies = 1 + random.below(10) / 8;
        let slow = if random.percent(80) { 8 } else { 100 };
        (0..copies).map(|_| ms(1 + random.below(slow))).collect()
    })
}

/// Runs one seed and returns the number of grants. Idle nodes claim a key, and holders keep it for
/// a random time. Nodes pause, crash, and restart without memory.
fn stormy(seed: u64) -> usize {
    const VOTERS: usize = 5;
    const SEATS: usize = 7;
    let mut net = Net::of(
        VOTERS,
        if seed.is_multiple_of(2) { 3 } else { 5 },
        SEATS - VOTERS,
    );
    let mut random = Random(seed);
    for seat in 0..SEATS {
        // The ratio of two rates is at most 1.01.
        net.seats[seat].rate_ppm = random.below(9_800) as i64 - 4_900;
        net.seats[seat].wall_off_ms = random.below(2_000) as i64 - 1_000;
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    net.fate = storm(seed, SEATS as u64);
    let mut wanted: Vec<Option<(Ticket, Duration)>> = vec![None; SEATS];
    let mut back = [Duration::ZERO; SEATS];
    for _ in 0..1_500 {
        net.run_for(ms(20));
        let seat = random.below(SEATS as u64) as usize;
        if net.seats[seat].node.is_none() {
            if net.time >= back[seat] {
                net.start(seat, Start::Recovering);
            }
            continue;
        }
        match random.below(400) {
            0..2 => {
                net.crash(seat);
                wanted[seat] = None;
                back[seat] = net.time + ms(random.below(2_000));
                continue;
            }
            2..6 => net.sleep(seat, ms(random.below(4_000))),
            _ => {}
        }
        if !net.is_awake(seat) {
            continue;
        }
        match wanted[seat] {
            Some((ticket, until)) if net.time >= until => {
                net.release(seat, ticket);
                wanted[seat] = None;
            }
            Some(_) => {}
            None => {
                let name = format!("key/{}", random.below(2));
                let ttl = ms(200 + random.below(2_000));
                let ticket = net.acquire(seat, &name, ttl);
                let until = net.time + ms(random.below(1_500));
                wanted[seat] = Some((ticket, until));
            }
        }
    }
    net.log
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
    let mut net = Net::of(3, 3, 2);
    for seat in 0..5 {
        net.seats[seat].rate_ppm = if seat == 3 { -4_900 } else { 4_900 };
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    for _ in 0..20 {
        let holder = net.acquire(3, "k", TTL);
        net.run_until(ms(100), |net| net.holds(3, holder));
        let next = net.acquire(4, "k", TTL);
        net.run_for(ms(100));
        net.fate = losing(|packet| packet.from == 3 || packet.to == 3);
        net.run_until(TTL * 2, |net| net.granted(4, next).is_some());
        net.release(4, next);
        net.fate = straight();
        net.run_for(ms(500));
        net.log.clear();
    }
}

/// M2. If clocks break their bound, a claim made after another grant still gets the higher epoch.
/// The fenced resource can thus reject the earlier holder.
#[test]
fn later_claim_has_higher_epoch_despite_clocks() {
    let mut net = Net::of(3, 3, 2);
    for seat in 0..5 {
        net.seats[seat].rate_ppm = if seat == 3 { -400_000 } else { 0 };
        net.seats[seat].wall_off_ms = if seat == 3 { 4_000 } else { -900 };
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    let holder = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, holder));
    let (_, first) = net.granted(3, holder).unwrap();
    net.fate = losing(|packet| packet.from == 3 || packet.to == 3);
    let next = net.acquire(4, "k", TTL);
    net.watches_m1 = false;
    net.run_until(TTL * 2, |net| net.granted(4, next).is_some());
    // Two nodes hold the lock now, and the epochs show which one is later.
    assert!(net.holds(3, holder));
    assert!(net.granted(4, next).unwrap().1 > first);
}

/// Asserts that the guard is lost before a quorum of voters is free to vote for another claim.
fn watch_the_voters(net: &mut Net, seat: usize, ticket: Ticket) {
    let end = net.time + TTL * 3;
    let mut over = false;
    while net.time < end {
        net.run_for(ms(1));
        let free = (0..3).filter(|voter| {
            let report = net.with(*voter, |node, now| {
                node.voter().unwrap().report(now, 1, &key("k"))
            });
            report
                .vote
                .is_none_or(|vote| vote.claim.node != *net.node(seat).id())
        });
        let free = free.count();
        over |= !net.holds(seat, ticket);
        assert!(free < 2 || over, "at {:?}", net.time);
    }
    assert!(over);
}

/// M3.
#[test]
fn guard_is_lost_before_quorum_is_free() {
    for (holder_ppm, voters_ppm) in [(0, 0), (-4_900, 4_900), (4_900, -4_900)] {
        let mut net = Net::of(3, 3, 1);
        for seat in 0..4 {
            net.seats[seat].rate_ppm = if seat == 3 { holder_ppm } else { voters_ppm };
            net.start(seat, Start::NewCluster);
        }
        net.run_for(ms(100));
        let ticket = net.acquire(3, "k", TTL);
        net.run_for(ms(500));
        assert!(net.holds(3, ticket));
        // All further packets are lost.
        net.fate = losing(|_| true);
        watch_the_voters(&mut net, 3, ticket);
    }
}

/// M3. It checks its lease before it reads its socket.
#[test]
fn paused_process_finds_lease_lost_at_once() {
    let mut net = Net::new(3, 3, 2);
    let slept = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    let next = net.acquire(4, "k", TTL);
    net.run_for(ms(50));
    net.sleep(3, TTL * 2);
    net.run_until(TTL + ms(100), |net| net.granted(4, next).is_some());
    assert!(!net.holds(3, slept));
    net.run_for(TTL * 2);
    let lost = |(_, by, event): &(_, usize, Event)| {
        *by == 3 && matches!(event, Event::Lost { ticket, .. } if *ticket == slept)
    };
    assert!(net.log.iter().any(lost));
    assert!(net.holds(4, next));
}

/// M4. Gossip tells two of five nodes that the other three are dead. They are still no quorum.
#[test]
fn minority_is_granted_nothing_despite_gossip() {
    let mut net = Net::new(5, 5, 0);
    net.fate = losing(|packet| (packet.from < 2) != (packet.to < 2));
    let mut view = net.view();
    for (n, peer) in view.peers.values_mut().enumerate() {
        peer.alive = n < 2;
    }
    for seat in 0..2 {
        net.with(seat, |node, now| node.handle_view(now, &view));
    }
    let minority = [net.acquire(0, "k", TTL), net.attempt(1, "k", TTL)];
    net.run_for(ms(1_000));
    let quorum = net.acquire(2, "k", TTL);
    let took = net.run_until(TTL * 2, |net| net.granted(2, quorum).is_some());
    assert_eq!(took, ms(10));
    net.run_for(TTL * 5);
    assert_eq!(net.granted(0, minority[0]), None);
    assert_eq!(net.granted(1, minority[1]), None);
    // The try is not denied either, since no voter has reported another grant.
    assert!(!net.is_denied(1, minority[1]));
}

/// M4.
#[test]
fn gossip_of_dead_holder_moves_no_lock() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    let next = net.acquire(4, "k", TTL);
    for n in 0..100 {
        let mut view = net.view();
        if n % 2 == 0 {
            view.peers.clear();
        }
        for peer in view.peers.values_mut() {
            peer.alive = false;
            peer.incarnation = lockmesh_proto::Incarnation::new(99);
        }
        for seat in [0, 1, 2, 4] {
            net.with(seat, |node, now| node.handle_view(now, &view));
        }
        net.run_for(ms(100));
        assert!(net.holds(3, holder));
        assert_eq!(net.granted(4, next), None);
    }
}

/// M5. The only voter that two quorums share has forgotten its first vote.
#[test]
fn voter_without_memory_joins_no_quorum_early() {
    let mut net = Net::new(3, 3, 2);
    net.fate = losing(|packet| packet.to == 2 || packet.from == 2);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, holder));
    // Voter 1 loses its memory, and the holder is cut off. Voters 1 and 2 would be a quorum.
    net.crash(1);
    net.start(1, Start::Recovering);
    let forgot = net.time;
    net.fate = losing(|packet| packet.from == 3 || packet.to == 3 || packet.is_between(0, 4));
    let next = net.acquire(4, "k", ms(30_000));
    let took = net.run_until(RECOVERY * 2, |net| net.granted(4, next).is_some());
    let at = forgot + took;
    assert!(at >= forgot + ms(30_600), "{took:?}");
    assert!(!net.holds(3, holder));
}

/// M2 and M5. A peer knows the epoch of the first grant. The recovered fence reaches it unless the
/// voter's wall clock was set back by more than the skew.
#[test]
fn recovered_fence_reaches_epoch_known_to_peer() {
    let mut net = Net::new(3, 3, 2);
    net.fate = losing(|packet| packet.to == 2 || packet.from == 2);
    let holder = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, holder));
    let (_, first) = net.granted(3, holder).unwrap();
    net.release(3, holder);
    net.run_for(ms(100));
    net.fate = straight();
    net.crash(1);
    net.seats[1].wall_off_ms = -3_600_000;
    net.start(1, Start::Recovering);
    net.run_for(RECOVERY);
    let seat = |n: usize| net.node(n).voter().unwrap();
    assert_eq!(seat(1).quarantine(), None);
    // The reply is capped at the wall clock that was set back, so the fence is below the first
    // epoch. With the clock within the skew, the fence reaches it.
    assert!(seat(1).fence(&key("k")) < first);
    net.crash(1);
    net.seats[1].wall_off_ms = -4_000;
    net.start(1, Start::Recovering);
    net.run_for(RECOVERY);
    assert!(net.node(1).voter().unwrap().fence(&key("k")) >= first);
}

/// M5. One guard is held while all voters restart without memory, one after the other.
#[test]
fn lease_survives_rolling_restart_of_voters() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", TTL);
    net.run_for(ms(100));
    let waiter = net.acquire(4, "k", TTL);
    for voter in [0, 1, 2, 0, 1, 2] {
        net.crash(voter);
        net.run_for(ms(500));
        net.start(voter, Start::Recovering);
        net.run_for(RECOVERY);
        assert_eq!(net.node(voter).voter().unwrap().quarantine(), None);
        net.run_for(ms(1_000));
        assert!(net.holds(3, holder));
    }
    assert_eq!(net.granted(4, waiter), None);
    net.release(3, holder);
    net.run_until(ms(2_000), |net| net.granted(4, waiter).is_some());
}

/// M2. The release reaches only one voter, and the other one requests its vote back.
#[test]
fn ended_granted_claim_yields_to_no_lower_epoch() {
    let mut net = Net::of(3, 3, 2);
    net.seats[4].wall_off_ms = -1_000;
    for seat in 0..5 {
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    let mut is_first = true;
    net.fate = losing(move |packet| {
        let is_release = |m: &Message| matches!(m, Message::Release(_));
        let is_lost = is_first && packet.is_between(3, 1) && packet.has(is_release);
        is_first &= !is_lost;
        is_lost || packet.is_between(3, 2) || packet.is_between(4, 0)
    });
    let first = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, first));
    net.release(3, first);
    // The second claim has a lower epoch and reaches voters 1 and 2. The network checks that it is
    // not granted with that epoch.
    let second = net.acquire(4, "k", TTL);
    let took = net.run_until(TTL * 2, |net| net.granted(4, second).is_some());
    assert!(took < ms(200), "{took:?}");
}
