//! The liveness laws L1 to L5.

use lockmesh_proto::testing::*;
use lockmesh_proto::{Message, Node, Start, Ticket};

const TTL: std::time::Duration = ms(2_000);

/// Runs eight tries at one instant on a free key. Returns the seats that were granted, and the time
/// until all were decided.
fn round(cluster: &mut Cluster, name: &str) -> (Vec<usize>, std::time::Duration) {
    cluster.log.clear();
    let tickets: Vec<Ticket> = (0..8)
        .map(|seat| cluster.try_acquire(seat, name, TTL))
        .collect();
    let took = cluster.run_until(ms(10_000), |cluster| {
        let decided = |seat| cluster.granted(seat, tickets[seat]).is_some();
        (0..8).all(|seat| decided(seat) || cluster.is_denied(seat, tickets[seat]))
    });
    let granted = |seat: &usize| cluster.granted(*seat, tickets[*seat]).is_some();
    let winners: Vec<usize> = (0..8).filter(granted).collect();
    for winner in &winners {
        cluster.release(*winner, tickets[*winner]);
    }
    cluster.run_for(ms(300));
    (winners, took)
}

/// L1.
#[test]
fn eight_simultaneous_tries_grant_exactly_one() {
    let mut cluster = Cluster::new(8, 3, 0);
    let mut granted = [0; 8];
    for n in 0..1_000 {
        // Every second round uses the key of the round before.
        let (winners, took) = round(&mut cluster, &format!("key/{}", n / 2));
        assert_eq!(winners.len(), 1, "round {n}: {winners:?}");
        assert!(took <= ms(100), "round {n}: {took:?}");
        granted[winners[0]] += 1;
    }
    assert!(granted.iter().sum::<u32>() == 1_000);
}

/// L1. Datagrams are also duplicated. A lost `Release` leaves the report of one voter out of date.
#[test]
fn eight_tries_grant_one_despite_lost_datagrams() {
    let mut cluster = Cluster::new(8, 5, 0);
    let mut random = Random(11);
    cluster.decide(move |_| {
        let delay = || ms(5);
        match random.below(100) {
            0..3 => vec![],
            3..6 => vec![delay(), delay() + ms(random.below(40))],
            _ => vec![delay() + ms(random.below(3))],
        }
    });
    for n in 0..150 {
        let (winners, _) = round(&mut cluster, "k");
        assert_eq!(winners.len(), 1, "round {n}: {winners:?}");
    }
}

/// L1. Each claim has the vote of one of the other two voters.
#[test]
fn rival_claims_resolve_with_one_voter_down() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(2);
    // Each claim reaches another voter first, and both wall clocks are equal.
    cluster.decide(|packet| {
        let is_far = packet.is_between(3, 1) || packet.is_between(4, 0);
        vec![if is_far { ms(20) } else { ms(5) }]
    });
    let (a, b) = (cluster.acquire(3, "k", TTL), cluster.acquire(4, "k", TTL));
    let one =
        |cluster: &Cluster| cluster.granted(3, a).is_some() || cluster.granted(4, b).is_some();
    let took = cluster.run_until(TTL * 2, one);
    assert!(took < ms(200), "{took:?}");
}

/// L1. `a` reaches only one voter, and holds its vote by retransmitting.
#[test]
fn isolated_claim_delays_rival_at_most_two_leases() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(2);
    cluster.lose(|packet| packet.is_between(3, 1));
    let a = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    let b = cluster.acquire(4, "k", TTL);
    cluster.run_until(TTL * 2, |cluster| cluster.granted(4, b).is_some());
    assert_eq!(cluster.granted(3, a), None);
}

/// L2.
#[test]
fn waiters_are_served_in_epoch_order() {
    let mut cluster = Cluster::new(5, 3, 5);
    let first = cluster.acquire(9, "k", TTL);
    cluster.run_for(ms(50));
    // Earlier claims are farther away, so that they arrive in another order.
    cluster.decide(|p| vec![ms(5 + 4 * (9 - p.from.max(p.to)) as u64)]);
    let mut waiting: Vec<(usize, Ticket)> = Vec::new();
    for seat in 5..9 {
        waiting.push((seat, cluster.acquire(seat, "k", TTL)));
        cluster.run_for(ms(2));
    }
    cluster.run_for(ms(300));
    cluster.release(9, first);
    let mut epochs = Vec::new();
    for (seat, ticket) in waiting {
        cluster.run_until(ms(300), |cluster| cluster.granted(seat, ticket).is_some());
        epochs.push(cluster.granted(seat, ticket).unwrap().1);
        cluster.release(seat, ticket);
    }
    assert!(epochs.is_sorted(), "{epochs:?}");
}

/// L2. Once a waiter is in the queues its own claims no longer matter: its turn comes by a message.
#[test]
fn waiter_learns_of_its_turn_without_retransmission() {
    let mut cluster = Cluster::new(3, 3, 2);
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    let next = cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(50));
    let is_claim = |m: &Message| matches!(m, Message::Claim(claim) if !claim.granted);
    cluster.lose(move |packet| packet.from == 4 && packet.has(is_claim));
    cluster.run_for(ms(1_000));
    cluster.release(3, first);
    let took = cluster.run_until(ms(100), |cluster| cluster.granted(4, next).is_some());
    assert_eq!(took, ms(10));
}

/// L2. One voter misses the holder's renewals, and its vote expires seconds before the others. The
/// first waiter repeatedly gets this vote in vain. It must not lose its place by that.
#[test]
fn early_expiry_at_one_voter_keeps_order() {
    let mut cluster = Cluster::new(3, 3, 3);
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    let first = cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(50));
    let second = cluster.acquire(5, "k", TTL);
    cluster.run_for(ms(50));
    cluster.lose(|packet| packet.is_between(3, 0));
    cluster.run_for(TTL + ms(3_000));
    assert!(cluster.holds(3, holder));
    cluster.crash(3);
    cluster.run_until(TTL + ms(50), |cluster| {
        cluster.granted(4, first).is_some() || cluster.granted(5, second).is_some()
    });
    assert_eq!(cluster.granted(5, second), None);
    cluster.release(4, first);
    let took = cluster.run_until(ms(100), |cluster| cluster.granted(5, second).is_some());
    assert_eq!(took, ms(10));
}

/// L1. One voter's vote expires early, and another voter is dead. The first waiter reaches only the
/// early voter, so it cannot be granted. It must not delay the second waiter, which reaches both.
#[test]
fn claim_without_quorum_lets_reservation_expire() {
    let mut cluster = Cluster::new(3, 3, 3);
    let holder = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(50));
    let second = cluster.acquire(5, "k", TTL);
    cluster.run_for(ms(50));
    cluster.crash(2);
    cluster.lose(|packet| packet.is_between(3, 0) || packet.is_between(4, 1));
    cluster.run_for(ms(1_000));
    cluster.release(3, holder);
    cluster.run_until(TTL * 2, |cluster| cluster.granted(5, second).is_some());
}

/// A limit of L2. The recovered fence of a voter is above the epochs of all waiters. They claim
/// again above it, in the order in which `Stale` reaches them.
#[test]
fn waiters_are_reordered_when_voter_recovers() {
    let mut cluster = Cluster::new(3, 3, 3);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(50));
    let first = cluster.acquire(5, "k", ms(30_000));
    cluster.run_for(ms(50));
    let second = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(50));
    let before = |cluster: &Cluster| {
        let epoch = |seat: usize, ticket| cluster.node(seat).claimant().epoch(ticket).unwrap();
        (epoch(5, first), epoch(4, second))
    };
    let old = before(&cluster);
    assert!(old.0 < old.1);
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.lose(|packet| packet.is_between(5, 0));
    cluster.run_for(ms(30_600 + 1_000 + 1_000));
    cluster.heal();
    cluster.run_for(ms(1_000));
    let new = before(&cluster);
    assert!(new.0 > new.1 && new.1 > old.1, "{old:?} {new:?}");
    cluster.release(3, holder);
    for (seat, ticket) in [(4, second), (5, first)] {
        cluster.run_until(ms(100), |cluster| cluster.granted(seat, ticket).is_some());
        cluster.release(seat, ticket);
    }
}

/// L2. A waiter retransmits every fifty round trips less jitter, here every 375 to 500 ms.
#[test]
fn waiter_does_not_poll() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(50));
    cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(50));
    let before = cluster.node(4).traffic().messages_out;
    cluster.run_for(ms(10_000));
    let spoken = cluster.node(4).traffic().messages_out - before;
    assert!(spoken <= 3 * 27, "{spoken}");
}

/// L3.
#[test]
fn dead_holder_delays_next_by_its_lease() {
    let mut cluster = Cluster::new(3, 3, 2);
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, first));
    let next = cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(1_000));
    cluster.crash(3);
    cluster.run_until(TTL + ms(50), |cluster| cluster.granted(4, next).is_some());
}

/// L3.
#[test]
fn dead_waiters_cost_one_reservation_each() {
    let mut cluster = Cluster::new(3, 3, 4);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(50));
    for seat in [4, 5] {
        cluster.acquire(seat, "k", ms(30_000));
        cluster.run_for(ms(20));
    }
    let last = cluster.acquire(6, "k", ms(30_000));
    cluster.run_for(ms(50));
    cluster.crash(4);
    cluster.crash(5);
    cluster.release(3, holder);
    let took = cluster.run_until(ms(30_000), |cluster| cluster.granted(6, last).is_some());
    assert!(took <= ms(2 * 250 + 50), "{took:?}");
}

/// L3.
#[test]
fn lost_release_delays_next_by_probe_interval() {
    let mut cluster = Cluster::new(3, 3, 2);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(50));
    cluster.lose(|packet| packet.has(|m| matches!(m, Message::Release(_))));
    cluster.release(3, holder);
    cluster.run_for(ms(200));
    cluster.heal();
    let next = cluster.acquire(4, "k", ms(30_000));
    let took = cluster.run_until(ms(30_000), |cluster| cluster.granted(4, next).is_some());
    assert!(took <= ms(120), "{took:?}");
    // The same for a claim that arrives after its release.
    cluster.release(4, next);
    cluster.run_for(ms(50));
    let is_claim = |m: &Message| matches!(m, Message::Claim(_));
    cluster.decide(move |p| vec![if p.has(is_claim) { ms(50) } else { ms(5) }]);
    let ghost = cluster.acquire(3, "k", ms(30_000));
    cluster.release(3, ghost);
    cluster.heal();
    cluster.run_for(ms(200));
    let next = cluster.acquire(4, "k", ms(30_000));
    let took = cluster.run_until(ms(30_000), |cluster| cluster.granted(4, next).is_some());
    assert!(took <= ms(120), "{took:?}");
}

/// L4. It takes nine datagrams: `Claim`, `Vote` and `Release` for each of three voters.
#[test]
fn free_key_is_granted_after_one_round_trip() {
    let mut cluster = Cluster::new(5, 3, 1);
    for n in 0..50 {
        let before = cluster.datagrams;
        let ticket = cluster.acquire(5, &format!("key/{n}"), TTL);
        let took = cluster.run_until(ms(100), |cluster| cluster.granted(5, ticket).is_some());
        assert_eq!(took, ms(10));
        cluster.run_for(ms(100));
        cluster.release(5, ticket);
        cluster.run_for(ms(100));
        assert_eq!(cluster.datagrams - before, 9);
    }
}

/// L4. This also holds if the next claim is below the holder, since it receives `Stale` in time.
#[test]
fn next_waiter_is_granted_one_round_trip_later() {
    for (holder_off, next_off) in [(0, 0), (0, 300), (300, 0)] {
        let mut cluster = Cluster::of(3, 3, 2);
        cluster.seats[3].wall_off_ms = holder_off;
        cluster.seats[4].wall_off_ms = next_off;
        for seat in 0..5 {
            cluster.start(seat, Start::NewCluster);
        }
        cluster.run_for(ms(100));
        let holder = cluster.acquire(3, "k", TTL);
        let next = cluster.acquire(4, "k", TTL);
        cluster.run_for(ms(200));
        let (mut a, mut b) = ((3, holder), (4, next));
        if cluster.granted(3, holder).is_none() {
            (a, b) = (b, a);
        }
        assert!(cluster.holds(a.0, a.1));
        cluster.release(a.0, a.1);
        let took = cluster.run_until(TTL, |cluster| cluster.granted(b.0, b.1).is_some());
        assert_eq!(took, ms(10), "{holder_off} {next_off}");
    }
}

/// L4. Many free keys are claimed at once, with differing wall clocks. Hardly any claim is stale
/// because of another key.
#[test]
fn free_keys_do_not_delay_each_other() {
    let mut cluster = Cluster::of(3, 3, 4);
    for seat in 3..7 {
        cluster.seats[seat].wall_off_ms = seat as i64 * 20 - 100;
    }
    for seat in 0..7 {
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    let mut slow = 0;
    for n in 0..100 {
        let mut tickets = Vec::new();
        for seat in 3..7 {
            tickets.push((seat, cluster.acquire(seat, &format!("{n}/{seat}"), TTL)));
        }
        cluster.run_for(ms(10));
        for (seat, ticket) in tickets {
            slow += usize::from(cluster.granted(seat, ticket).is_none());
            cluster.release(seat, ticket);
        }
        cluster.log.clear();
    }
    // Two of the 400 keys may share one of the 4,096 fence buckets.
    assert!(slow <= 8, "{slow}");
}

/// Returns how many of `of` grants each of two near claimants and a far one receive.
fn shares(of: usize, far: std::time::Duration, far_off_ms: i64) -> [usize; 3] {
    let mut cluster = Cluster::of(3, 3, 3);
    cluster.seats[5].wall_off_ms = far_off_ms;
    for seat in 0..6 {
        cluster.start(seat, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    cluster.decide(move |p| vec![if p.from.max(p.to) == 5 { far } else { ms(1) }]);
    let mut grants = [0; 3];
    let mut tickets: Vec<Ticket> = (3..6).map(|seat| cluster.acquire(seat, "k", TTL)).collect();
    for _ in 0..of {
        let holder = |cluster: &Cluster| (0..3).find(|n| cluster.holds(n + 3, tickets[*n]));
        cluster.run_until(ms(5_000), |cluster| holder(cluster).is_some());
        let n = holder(&cluster).unwrap();
        grants[n] += 1;
        cluster.release(n + 3, tickets[n]);
        tickets[n] = cluster.acquire(n + 3, "k", TTL);
        cluster.log.clear();
    }
    grants
}

/// L1. A node that is far away, or has a slow clock, is not passed over for ever.
#[test]
fn far_or_slow_clock_claimant_gets_its_share() {
    let [_, _, far] = shares(300, ms(5), 0);
    assert!(far >= 40, "{far}");
    let [_, _, slow] = shares(300, ms(1), -500);
    assert!(slow >= 40, "{slow}");
    // It takes about ten rounds of twenty grants each until its leap exceeds the offset of its
    // clock.
    let [_, _, both] = shares(1_200, ms(20), -500);
    assert!(both >= 4, "{both}");
}

/// L2. Wrong gossip costs no waiter its turn: these waiters run, and gossip calls them dead.
#[test]
fn waiters_dead_in_gossip_keep_their_turn() {
    let mut cluster = Cluster::new(3, 3, 3);
    let mut view = cluster.view();
    for peer in view.peers.values_mut() {
        peer.alive = false;
    }
    for seat in 0..6 {
        cluster.with(seat, |node, now| node.handle_view(now, &view));
    }
    let mut holder = (3, cluster.acquire(3, "k", TTL));
    cluster.run_for(ms(1_000));
    let mut waiting = vec![(4, cluster.acquire(4, "k", TTL))];
    cluster.run_for(ms(100));
    waiting.push((5, cluster.acquire(5, "k", TTL)));
    for next in waiting {
        cluster.run_for(ms(1_400));
        cluster.release(holder.0, holder.1);
        let took = cluster.run_until(ms(100), |cluster| cluster.holds(next.0, next.1));
        assert_eq!(took, ms(10));
        holder = next;
    }
}

/// L5.
#[test]
fn memory_is_empty_after_many_keys() {
    let mut cluster = Cluster::new(5, 3, 3);
    for n in 0..500 {
        let name = format!("key/{n}");
        let tickets: Vec<Ticket> = (5..8)
            .map(|seat| cluster.acquire(seat, &name, TTL))
            .collect();
        cluster.run_for(ms(10));
        let mut asked: Vec<(usize, Ticket)> = (5..8).zip(tickets).collect();
        // For one key in ten, each claim is granted in its turn. For the others, holder and waiters
        // release at once.
        while n % 10 == 0 && !asked.is_empty() {
            let holder = |cluster: &Cluster| {
                (asked.iter()).position(|(seat, ticket)| cluster.holds(*seat, *ticket))
            };
            cluster.run_until(TTL * 4, |cluster| holder(cluster).is_some());
            let (seat, ticket) = asked.remove(holder(&cluster).unwrap());
            cluster.release(seat, ticket);
        }
        for (seat, ticket) in asked {
            cluster.release(seat, ticket);
        }
        cluster.log.clear();
    }
    cluster.run_for(TTL * 2);
    for seat in 0..8 {
        let node: &Node = cluster.node(seat);
        assert_eq!(node.claimant().len(), 0);
        if let Some(voter) = node.voter() {
            assert_eq!((voter.slots(), voter.waiters()), (0, 0));
            assert_eq!(voter.next_timeout(), None);
        }
    }
}
