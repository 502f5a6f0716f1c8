//! L1 to L5.

use lockmesh_proto::event::Ticket;
use lockmesh_proto::message::Message;
use lockmesh_proto::node::Node;
use lockmesh_proto::voter::Start;

use super::net::*;

const TTL: std::time::Duration = ms(2_000);

/// One round of eight tries at one instant on a free key. Answers who was granted, and how long it
/// took.
fn round(net: &mut Net, name: &str) -> (Vec<usize>, std::time::Duration) {
    net.log.clear();
    let tickets: Vec<Ticket> = (0..8).map(|seat| net.attempt(seat, name, TTL)).collect();
    let took = net.run_until(ms(10_000), |net| {
        let decided = |seat| net.granted(seat, tickets[seat]).is_some();
        (0..8).all(|seat| decided(seat) || net.is_denied(seat, tickets[seat]))
    });
    let granted = |seat: &usize| net.granted(*seat, tickets[*seat]).is_some();
    let winners: Vec<usize> = (0..8).filter(granted).collect();
    for winner in &winners {
        net.release(*winner, tickets[*winner]);
    }
    net.run_for(ms(300));
    (winners, took)
}

#[test]
fn l1_eight_nodes_that_try_at_the_same_instant_never_all_get_false() {
    let mut net = Net::new(8, 3, 0);
    let mut granted = [0; 8];
    for n in 0..1_000 {
        // Every other time the key of the time before.
        let (winners, took) = round(&mut net, &format!("key/{}", n / 2));
        assert_eq!(winners.len(), 1, "round {n}: {winners:?}");
        assert!(took <= ms(100), "round {n}: {took:?}");
        granted[winners[0]] += 1;
    }
    assert!(granted.iter().sum::<u32>() == 1_000);
}

/// F12, F13: a lost `Release` makes one voter's word out of date.
#[test]
fn l1_f13_eight_tries_never_all_get_false_though_datagrams_are_lost_and_doubled() {
    let mut net = Net::new(8, 5, 0);
    let mut random = Random(11);
    net.fate = Box::new(move |_| {
        let delay = || ms(5);
        match random.below(100) {
            0..3 => vec![],
            3..6 => vec![delay(), delay() + ms(random.below(40))],
            _ => vec![delay() + ms(random.below(3))],
        }
    });
    for n in 0..150 {
        let (winners, _) = round(&mut net, "k");
        assert_eq!(winners.len(), 1, "round {n}: {winners:?}");
    }
}

/// F14, F8: one voter is down and each claim has one of the other two.
#[test]
fn l1_f8_claims_that_each_hold_a_voter_are_sorted_out_though_a_voter_is_down() {
    let mut net = Net::new(3, 3, 2);
    net.crash(2);
    // Each is first at another voter, with one and the same wall clock.
    net.fate = Box::new(|packet| {
        let is_far = packet.is_between(3, 1) || packet.is_between(4, 0);
        vec![if is_far { ms(20) } else { ms(5) }]
    });
    let (a, b) = (net.acquire(3, "k", TTL), net.acquire(4, "k", TTL));
    let one = |net: &Net| net.granted(3, a).is_some() || net.granted(4, b).is_some();
    let took = net.run_until(TTL * 2, one);
    assert!(took < ms(200), "{took:?}");
}

/// F14: `a` reaches one voter only, and holds it up by repeating itself.
#[test]
fn l1_f14_one_that_cannot_win_holds_up_the_other_for_two_leases_at_most() {
    let mut net = Net::new(3, 3, 2);
    net.crash(2);
    net.fate = losing(|packet| packet.is_between(3, 1));
    let a = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    let b = net.acquire(4, "k", TTL);
    net.run_until(TTL * 2, |net| net.granted(4, b).is_some());
    assert_eq!(net.granted(3, a), None);
}

#[test]
fn l2_waiters_are_served_in_the_order_of_their_epochs() {
    let mut net = Net::new(5, 3, 5);
    let first = net.acquire(9, "k", TTL);
    net.run_for(ms(50));
    // Earlier claims are further away, so that they arrive in another order.
    net.fate = Box::new(|p| vec![ms(5 + 4 * (9 - p.from.max(p.to)) as u64)]);
    let mut waiting: Vec<(usize, Ticket)> = Vec::new();
    for seat in 5..9 {
        waiting.push((seat, net.acquire(seat, "k", TTL)));
        net.run_for(ms(2));
    }
    net.run_for(ms(300));
    net.release(9, first);
    let mut epochs = Vec::new();
    for (seat, ticket) in waiting {
        net.run_until(ms(300), |net| net.granted(seat, ticket).is_some());
        epochs.push(net.granted(seat, ticket).unwrap().1);
        net.release(seat, ticket);
    }
    assert!(epochs.is_sorted(), "{epochs:?}");
}

/// Once it is in the queues a waiter could as well be mute: its turn comes by a message.
#[test]
fn l2_a_waiter_learns_of_its_turn_without_asking() {
    let mut net = Net::new(3, 3, 2);
    let first = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    let next = net.acquire(4, "k", TTL);
    net.run_for(ms(50));
    let is_claim = |m: &Message| matches!(m, Message::Claim(claim) if !claim.granted);
    net.fate = losing(move |packet| packet.from == 4 && packet.has(is_claim));
    net.run_for(ms(1_000));
    net.release(3, first);
    let took = net.run_until(ms(100), |net| net.granted(4, next).is_some());
    assert_eq!(took, ms(10));
}

/// One voter does not hear the holder, and gives up on it seconds before the others. The first in
/// line is given that vote in vain, again and again; it must not lose its place by that.
#[test]
fn l2_one_voter_that_gives_up_on_the_holder_early_costs_nobody_its_place() {
    let mut net = Net::new(3, 3, 3);
    let holder = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    let first = net.acquire(4, "k", TTL);
    net.run_for(ms(50));
    let second = net.acquire(5, "k", TTL);
    net.run_for(ms(50));
    net.fate = losing(|packet| packet.is_between(3, 0));
    net.run_for(TTL + ms(3_000));
    assert!(net.holds(3, holder));
    net.crash(3);
    net.run_until(TTL + ms(50), |net| {
        net.granted(4, first).is_some() || net.granted(5, second).is_some()
    });
    assert_eq!(net.granted(5, second), None);
    net.release(4, first);
    let took = net.run_until(ms(100), |net| net.granted(5, second).is_some());
    assert_eq!(took, ms(10));
}

/// The same early voter and another one dead; but the first in line reaches the early one alone,
/// and cannot win. It does not hold up the second, who reaches both.
#[test]
fn l1_one_that_cannot_win_lets_its_turns_run_out() {
    let mut net = Net::new(3, 3, 3);
    let holder = net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    net.acquire(4, "k", TTL);
    net.run_for(ms(50));
    let second = net.acquire(5, "k", TTL);
    net.run_for(ms(50));
    net.crash(2);
    net.fate = losing(|packet| packet.is_between(3, 0) || packet.is_between(4, 1));
    net.run_for(ms(1_000));
    net.release(3, holder);
    net.run_until(TTL * 2, |net| net.granted(5, second).is_some());
}

/// What is not promised. A voter that comes back from its quarantine has floors that are ahead of
/// the wall clocks were: all who wait claim anew above them, in the order in which they hear of it.
#[test]
fn l2_those_who_wait_while_a_voter_comes_back_are_put_in_line_anew() {
    let mut net = Net::new(3, 3, 3);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(50));
    let first = net.acquire(5, "k", ms(30_000));
    net.run_for(ms(50));
    let second = net.acquire(4, "k", ms(30_000));
    net.run_for(ms(50));
    let before = |net: &Net| {
        let epoch = |seat: usize, ticket| net.node(seat).claimant().epoch(ticket).unwrap();
        (epoch(5, first), epoch(4, second))
    };
    let old = before(&net);
    assert!(old.0 < old.1);
    net.crash(0);
    net.start(0, Start::Recovering);
    net.fate = losing(|packet| packet.is_between(5, 0));
    net.run_for(ms(30_600 + 1_000 + 1_000));
    net.fate = straight();
    net.run_for(ms(1_000));
    let new = before(&net);
    assert!(new.0 > new.1 && new.1 > old.1, "{old:?} {new:?}");
    net.release(3, holder);
    for (seat, ticket) in [(4, second), (5, first)] {
        net.run_until(ms(100), |net| net.granted(seat, ticket).is_some());
        net.release(seat, ticket);
    }
}

/// A waiter speaks every fifty round trips, not more: here 500 ms.
#[test]
fn l2_a_waiter_does_not_poll() {
    let mut net = Net::new(3, 3, 2);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(50));
    net.acquire(4, "k", ms(30_000));
    net.run_for(ms(50));
    let before = net.node(4).traffic().messages_out;
    net.run_for(ms(10_000));
    let spoken = net.node(4).traffic().messages_out - before;
    assert!(spoken <= 3 * 27, "{spoken}");
}

#[test]
fn l3_a_dead_holder_delays_the_next_by_at_most_its_lease() {
    let mut net = Net::new(3, 3, 2);
    let first = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, first));
    let next = net.acquire(4, "k", TTL);
    net.run_for(ms(1_000));
    net.crash(3);
    net.run_until(TTL + ms(50), |net| net.granted(4, next).is_some());
}

#[test]
fn l3_f9_dead_waiters_cost_a_reservation_each() {
    let mut net = Net::new(3, 3, 4);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(50));
    for seat in [4, 5] {
        net.acquire(seat, "k", ms(30_000));
        net.run_for(ms(20));
    }
    let last = net.acquire(6, "k", ms(30_000));
    net.run_for(ms(50));
    net.crash(4);
    net.crash(5);
    net.release(3, holder);
    let took = net.run_until(ms(30_000), |net| net.granted(6, last).is_some());
    assert!(took <= ms(2 * 250 + 50), "{took:?}");
}

/// F12: and a lost `Release` costs a `holder_probe_interval`.
#[test]
fn l3_f12_a_lost_release_delays_the_next_by_a_holder_probe_interval() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(50));
    net.fate = losing(|packet| packet.has(|m| matches!(m, Message::Release(_))));
    net.release(3, holder);
    net.run_for(ms(200));
    net.fate = straight();
    let next = net.acquire(4, "k", ms(30_000));
    let took = net.run_until(ms(30_000), |net| net.granted(4, next).is_some());
    assert!(took <= ms(120), "{took:?}");
    // The same for a ghost: the claim comes after the release.
    net.release(4, next);
    net.run_for(ms(50));
    let is_claim = |m: &Message| matches!(m, Message::Claim(_));
    net.fate = Box::new(move |p| vec![if p.has(is_claim) { ms(50) } else { ms(5) }]);
    let ghost = net.acquire(3, "k", ms(30_000));
    net.release(3, ghost);
    net.fate = straight();
    net.run_for(ms(200));
    let next = net.acquire(4, "k", ms(30_000));
    let took = net.run_until(ms(30_000), |net| net.granted(4, next).is_some());
    assert!(took <= ms(120), "{took:?}");
}

/// And nine datagrams: `Claim`, `Vote`, `Release` with each of three voters.
#[test]
fn l4_a_free_key_is_owned_after_one_round_trip() {
    let mut net = Net::new(5, 3, 1);
    for n in 0..50 {
        let before = net.datagrams;
        let ticket = net.acquire(5, &format!("key/{n}"), TTL);
        let took = net.run_until(ms(100), |net| net.granted(5, ticket).is_some());
        assert_eq!(took, ms(10));
        net.run_for(ms(100));
        net.release(5, ticket);
        net.run_for(ms(100));
        assert_eq!(net.datagrams - before, 9);
    }
}

/// F18: also where the next is below the holder, since it is told `Stale` in time.
#[test]
fn l4_f18_the_next_owns_the_key_one_round_trip_after_the_release() {
    for (holder_off, next_off) in [(0, 0), (0, 300), (300, 0)] {
        let mut net = Net::of(3, 3, 2);
        net.seats[3].wall_off_ms = holder_off;
        net.seats[4].wall_off_ms = next_off;
        for seat in 0..5 {
            net.start(seat, Start::NewCluster);
        }
        net.run_for(ms(100));
        let holder = net.acquire(3, "k", TTL);
        let next = net.acquire(4, "k", TTL);
        net.run_for(ms(200));
        let (mut a, mut b) = ((3, holder), (4, next));
        if net.granted(3, holder).is_none() {
            (a, b) = (b, a);
        }
        assert!(net.holds(a.0, a.1));
        net.release(a.0, a.1);
        let took = net.run_until(TTL, |net| net.granted(b.0, b.1).is_some());
        assert_eq!(took, ms(10), "{holder_off} {next_off}");
    }
}

/// F15: many free keys at once, with wall clocks apart: nobody is told `Stale` for another key.
#[test]
fn l4_f15_free_keys_do_not_stand_in_each_others_way() {
    let mut net = Net::of(3, 3, 4);
    for seat in 3..7 {
        net.seats[seat].wall_off_ms = seat as i64 * 20 - 100;
    }
    for seat in 0..7 {
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    let mut slow = 0;
    for n in 0..100 {
        let mut tickets = Vec::new();
        for seat in 3..7 {
            tickets.push((seat, net.acquire(seat, &format!("{n}/{seat}"), TTL)));
        }
        net.run_for(ms(10));
        for (seat, ticket) in tickets {
            slow += usize::from(net.granted(seat, ticket).is_none());
            net.release(seat, ticket);
        }
        net.log.clear();
    }
    // Two of 400 keys may share one of 4,096 floors.
    assert!(slow <= 8, "{slow}");
}

/// How often each of two near claimants and one far one get a key of so many grants.
fn shares(of: usize, far: std::time::Duration, far_off_ms: i64) -> [usize; 3] {
    let mut net = Net::of(3, 3, 3);
    net.seats[5].wall_off_ms = far_off_ms;
    for seat in 0..6 {
        net.start(seat, Start::NewCluster);
    }
    net.run_for(ms(100));
    net.fate = Box::new(move |p| vec![if p.from.max(p.to) == 5 { far } else { ms(1) }]);
    let mut grants = [0; 3];
    let mut tickets: Vec<Ticket> = (3..6).map(|seat| net.acquire(seat, "k", TTL)).collect();
    for _ in 0..of {
        let holder = |net: &Net| (0..3).find(|n| net.holds(n + 3, tickets[*n]));
        net.run_until(ms(5_000), |net| holder(net).is_some());
        let n = holder(&net).unwrap();
        grants[n] += 1;
        net.release(n + 3, tickets[n]);
        tickets[n] = net.acquire(n + 3, "k", TTL);
        net.log.clear();
    }
    grants
}

/// F16: a node that is far away, or has a slow clock, is not passed over for ever.
#[test]
fn l1_f16_a_far_claimant_or_one_with_a_slow_clock_gets_its_share() {
    let [_, _, far] = shares(300, ms(5), 0);
    assert!(far >= 40, "{far}");
    let [_, _, slow] = shares(300, ms(1), -500);
    assert!(slow >= 40, "{slow}");
    // Some ten rounds of twenty grants each until it has leapt as far as its clock is slow.
    let [_, _, both] = shares(1_200, ms(20), -500);
    assert!(both >= 4, "{both}");
}

/// Gossip that is wrong costs nobody a turn: these waiters are well, and called dead.
#[test]
fn l2_waiters_that_gossip_calls_dead_keep_their_turn() {
    let mut net = Net::new(3, 3, 3);
    let mut view = net.view();
    for peer in view.peers.values_mut() {
        peer.alive = false;
    }
    for seat in 0..6 {
        net.with(seat, |node, now| node.handle_view(now, &view));
    }
    let mut holder = (3, net.acquire(3, "k", TTL));
    net.run_for(ms(1_000));
    let mut waiting = vec![(4, net.acquire(4, "k", TTL))];
    net.run_for(ms(100));
    waiting.push((5, net.acquire(5, "k", TTL)));
    for next in waiting {
        net.run_for(ms(1_400));
        net.release(holder.0, holder.1);
        let took = net.run_until(ms(100), |net| net.holds(next.0, next.1));
        assert_eq!(took, ms(10));
        holder = next;
    }
}

#[test]
fn l5_memory_goes_back_to_nothing_after_many_keys() {
    let mut net = Net::new(5, 3, 3);
    for n in 0..500 {
        let name = format!("key/{n}");
        let tickets: Vec<Ticket> = (5..8).map(|seat| net.acquire(seat, &name, TTL)).collect();
        net.run_for(ms(10));
        let mut asked: Vec<(usize, Ticket)> = (5..8).zip(tickets).collect();
        // Holders, waiters, and of one key in ten each is served in its turn.
        while n % 10 == 0 && !asked.is_empty() {
            let holder =
                |net: &Net| (asked.iter()).position(|(seat, ticket)| net.holds(*seat, *ticket));
            net.run_until(TTL * 4, |net| holder(net).is_some());
            let (seat, ticket) = asked.remove(holder(&net).unwrap());
            net.release(seat, ticket);
        }
        for (seat, ticket) in asked {
            net.release(seat, ticket);
        }
        net.log.clear();
    }
    net.run_for(TTL * 2);
    for seat in 0..8 {
        let node: &Node = net.node(seat);
        assert_eq!(node.claimant().len(), 0);
        if let Some(voter) = node.voter() {
            assert_eq!((voter.slots(), voter.waiters()), (0, 0));
            assert_eq!(voter.next_timeout(), None);
        }
    }
}
