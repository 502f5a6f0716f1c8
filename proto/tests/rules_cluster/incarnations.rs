//! Section 6 in a cluster: incarnations of a node, new clusters, and voter sets that differ.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{DropReason, Event, Node, NodeId, Start, Timing, View, VoterSet};

use super::net::*;

const TTL: Duration = ms(2_000);
/// `max_ttl` plus twice the drift, one second for replies, and a margin of 100 ms.
const RECOVERY: Duration = ms(30_600 + 1_000 + 100);

fn is_quarantined(net: &Net, seat: usize) -> bool {
    net.node(seat).voter().unwrap().quarantine().is_some()
}

/// It restarts long before its lease would end, and sends messages itself.
#[test]
fn restarted_node_frees_leases_of_last_incarnation() {
    let mut net = Net::new(3, 3, 2);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    net.crash(3);
    net.run_for(ms(1_000));
    assert_eq!(net.granted(4, next), None);
    net.start(3, Start::Recovering);
    net.acquire(3, "another", TTL);
    net.run_until(ms(50), |net| net.granted(4, next).is_some());
}

/// Gossip of a later incarnation is no proof. A datagram of the node itself is.
#[test]
fn gossip_of_later_incarnation_frees_nothing() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    net.seats[3].incarnation += 1;
    let view = net.view();
    for seat in [0, 1, 2, 4] {
        net.with(seat, |node, now| node.handle_view(now, &view));
    }
    net.run_for(ms(20_000));
    assert!(net.holds(3, holder));
    assert_eq!(net.granted(4, next), None);
}

/// Rule 7. A process that restarts under its id frees what its earlier incarnation held at once,
/// even if it claims nothing.
#[test]
fn restarted_idle_node_frees_its_leases() {
    let mut net = Net::new(3, 3, 2);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    net.run_for(ms(100));
    net.crash(3);
    net.run_for(ms(100));
    assert_eq!(net.granted(4, next), None);
    net.seats[3].incarnation += 1;
    net.start(3, Start::Recovering);
    net.run_for(ms(100));
    assert!(net.granted(4, next).is_some());
}

/// The same if its first datagrams are lost. It announces itself again when gossip changes.
#[test]
fn lost_announcement_of_restarted_node_is_repeated() {
    let mut net = Net::new(3, 3, 2);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    net.run_for(ms(100));
    net.crash(3);
    net.fate = losing(|packet| packet.from == 3 || packet.to == 3);
    net.start(3, Start::Recovering);
    net.run_for(ms(1_000));
    names_only(&mut net, 3);
    net.run_for(ms(1_000));
    assert_eq!(net.granted(4, next), None);
    let view = net.view();
    net.with(3, |node, now| node.handle_view(now, &view));
    net.run_for(ms(50));
    assert!(net.granted(4, next).is_some());
}

/// The other voters learn its address first and contact it. It announces itself, though its own
/// view is empty.
#[test]
fn restarted_node_announces_itself_when_contacted() {
    let mut net = Net::new(3, 3, 1);
    net.acquire(2, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    net.crash(2);
    net.fate = losing(|packet| packet.from == 2);
    net.start(2, Start::Recovering);
    net.with(2, |node, now| node.handle_view(now, &View::default()));
    net.run_for(ms(100));
    names_only(&mut net, 2);
    let view = net.view();
    for voter in 0..2 {
        net.with(voter, |node, now| node.handle_view(now, &view));
    }
    net.run_for(ms(50));
    assert!(net.granted(3, next).is_some());
}

/// Loses all datagrams to and from a node that contain a message.
fn names_only(net: &mut Net, seat: usize) {
    net.fate =
        losing(move |packet| (packet.from == seat || packet.to == seat) && packet.has(|_| true));
}

/// Its wall clock was set back, so its incarnation is lower than the one before. In one case it
/// also has a new address. `Outdated` goes to its current address, not to the old one.
#[test]
fn node_with_set_back_clock_raises_incarnation() {
    for port in [3, 77] {
        let mut net = Net::new(3, 3, 2);
        for seat in 3..5 {
            net.crash(seat);
            net.seats[seat].incarnation = 50 + seat as u64;
            net.start(seat, Start::Recovering);
        }
        net.acquire(3, "k", ms(30_000));
        net.run_for(ms(100));
        let waiter = net.acquire(4, "k", ms(30_000));
        net.run_for(ms(100));
        net.crash(3);
        net.log.clear();
        net.seats[3].port = port;
        net.seats[3].incarnation = 7;
        let voter_set = net.voter_set.clone();
        net.start_in(3, Start::Recovering, voter_set);
        let again = net.acquire(3, "other", TTL);
        net.run_until(ms(200), |net| net.granted(3, again).is_some());
        assert!(net.node(3).claimant().incarnation().get() > 53);
        // The earlier incarnation's lease is free at once if the address is the same, and otherwise
        // when it expires.
        let limit = if port == 3 { ms(200) } else { ms(31_000) };
        let took = net.run_until(limit, |net| net.granted(4, waiter).is_some());
        assert_eq!(took > ms(20_000), port == 77, "{took:?}");
    }
}

/// The same if it claims nothing. It receives `Outdated` and announces itself again.
#[test]
fn idle_node_with_set_back_clock_frees_leases() {
    let mut net = Net::new(3, 3, 2);
    net.crash(3);
    net.seats[3].incarnation = 50;
    net.start(3, Start::Recovering);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    net.run_for(ms(100));
    net.crash(3);
    net.seats[3].incarnation = 7;
    let voter_set = net.voter_set.clone();
    net.start_in(3, Start::Recovering, voter_set);
    net.run_for(ms(100));
    assert!(net.node(3).claimant().incarnation().get() > 51);
    assert!(net.granted(4, next).is_some());
}

#[test]
fn outdated_incarnation_loses_its_lease() {
    let mut net = Net::new(3, 3, 2);
    net.crash(3);
    net.seats[3].incarnation = 50;
    // Only voter 2 receives from that incarnation.
    net.fate = losing(|packet| packet.from == 3 && packet.to != 2);
    net.start(3, Start::Recovering);
    net.acquire(3, "k", TTL);
    net.run_for(ms(50));
    net.crash(3);
    net.seats[3].incarnation = 40;
    let voter_set = net.voter_set.clone();
    net.fate = losing(|packet| packet.is_between(3, 2));
    net.start_in(3, Start::Recovering, voter_set);
    let held = net.acquire(3, "l", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, held));
    let next = net.acquire(4, "l", ms(30_000));
    net.run_for(ms(100));
    net.log.clear();
    net.fate = straight();
    // The network checks M1 when the next claim is granted.
    net.run_until(ms(15_000), |net| net.granted(4, next).is_some());
    assert!(
        net.log
            .iter()
            .any(|(_, by, event)| *by == 3 && matches!(event, Event::Lost { .. }))
    );
}

#[test]
fn second_start_as_new_cluster_is_quarantined() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, holder));
    // The flag is still set at the second start.
    for voter in [0, 1] {
        net.crash(voter);
        net.start(voter, Start::NewCluster);
    }
    net.run_for(ms(100));
    assert!(is_quarantined(&net, 0) && is_quarantined(&net, 1));
    let next = net.acquire(4, "k", ms(30_000));
    net.run_for(ms(29_000));
    assert_eq!(net.granted(4, next), None);
    assert!(!is_quarantined(&net, 2));
}

/// One of five nodes knows an earlier incarnation, and its messages arrive first. The three replies
/// that would be enough arrive later.
#[test]
fn new_voter_with_earlier_incarnation_does_not_vote() {
    let mut net = Net::of(5, 5, 0);
    net.start(4, Start::NewCluster);
    net.seats[0].incarnation = 50;
    net.start(0, Start::NewCluster);
    net.run_for(ms(50));
    net.crash(0);
    (1..4).for_each(|seat| net.start(seat, Start::NewCluster));
    net.seats[0].incarnation = 7;
    net.fate = Box::new(|p| vec![if p.from == 4 { ms(5) } else { ms(8) }]);
    let voter_set = net.voter_set.clone();
    net.start_in(0, Start::NewCluster, voter_set);
    net.run_for(ms(1_000));
    assert!(net.node(0).claimant().incarnation().get() > 50);
    assert!(is_quarantined(&net, 0));
    net.run_for(RECOVERY);
    assert!(!is_quarantined(&net, 0));
}

/// No node has lost its memory, but one of three is not there to confirm this.
#[test]
fn new_cluster_waits_for_nearly_all_members() {
    let mut net = Net::of(3, 3, 0);
    net.start(0, Start::NewCluster);
    net.start(1, Start::NewCluster);
    net.run_for(ms(5_000));
    assert!(is_quarantined(&net, 0) && is_quarantined(&net, 1));
    net.start(2, Start::NewCluster);
    net.run_for(ms(1_000));
    assert!((0..3).all(|seat| !is_quarantined(&net, seat)));
    // Of five members that all vote for each key, one may be missing.
    let mut net = Net::of(5, 5, 0);
    (0..4).for_each(|seat| net.start(seat, Start::NewCluster));
    net.run_for(ms(1_000));
    assert!((0..4).all(|seat| !is_quarantined(&net, seat)));
    // It starts late, when others already have memory.
    let ticket = net.acquire(0, "k", TTL);
    net.run_until(ms(100), |net| net.holds(0, ticket));
    net.start(4, Start::NewCluster);
    net.run_for(ms(1_000));
    assert!(is_quarantined(&net, 4));
}

/// M5. A voter in quarantine first receives from another that lost its memory. What it knew then
/// proves nothing, so it must not vouch for it later.
#[test]
fn voter_without_memory_does_not_vouch_for_another() {
    let mut net = Net::new(3, 3, 2);
    // Voters 0 and 1 vote for a lease of 30 s, the third is cut off.
    net.fate = losing(|packet| packet.is_between(3, 2));
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, holder));
    // The third loses its memory. During its quarantine it receives from the others' next
    // incarnations, and its answers are lost.
    net.crash(2);
    net.start(2, Start::Recovering);
    net.run_for(ms(3_000));
    net.fate = losing(|packet| packet.from == 2 || packet.from == 3);
    for voter in [0, 1] {
        net.crash(voter);
        net.start(voter, Start::NewCluster);
    }
    // Voters 0 and 1 reply to each other that they know nothing. Then the third votes, and its
    // datagrams arrive.
    net.run_until(RECOVERY, |net| !is_quarantined(net, 2));
    net.fate = losing(|packet| packet.from == 3);
    net.run_for(ms(1_000));
    assert!(is_quarantined(&net, 0) && is_quarantined(&net, 1));
    net.run_for(ms(3_000));
    let first = net.granted(3, holder).unwrap().1;
    for seat in [0, 1] {
        assert!(net.node(seat).voter().unwrap().fence(&key("k")) >= first);
    }
}

/// Both sides report the difference, and the lock works without that node.
#[test]
fn node_with_other_voter_set_is_refused() {
    let mut net = Net::new(3, 3, 2);
    let members: Vec<NodeId> = net.voter_set.members().to_vec();
    let shorter = Timing {
        max_ttl: ms(20_000),
        ..timing()
    };
    let other = Arc::new(VoterSet::new(1, members, 3, shorter).unwrap());
    net.crash(4);
    net.seats[4].incarnation += 1;
    net.start_in(4, Start::Recovering, other);
    let never = net.acquire(4, "k", TTL);
    net.run_for(ms(2_000));
    assert_eq!(net.granted(4, never), None);
    let named = net
        .log
        .iter()
        .filter(|(_, _, event)| matches!(event, Event::VoterSetMismatch { .. }));
    assert_eq!(named.count(), 6);
    let ticket = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, ticket));
}

fn restart_with(net: &mut Net, seat: usize, max_ttl: Duration) {
    let members: Vec<NodeId> = net.voter_set.members().to_vec();
    let timing = Timing {
        max_ttl,
        ..timing()
    };
    let other = VoterSet::new(1, members, 3, timing).unwrap();
    net.crash(seat);
    net.seats[seat].incarnation += 1;
    net.start_in(seat, Start::Recovering, Arc::new(other));
}

/// A voter restarted with a shorter `max_ttl` may have given longer votes before. Quorums of two
/// voter sets need not overlap.
#[test]
fn restart_with_shorter_max_ttl_grants_nothing_twice() {
    let mut net = Net::new(3, 3, 0);
    let held = net.acquire(0, "k", ms(25_000));
    net.run_until(ms(100), |net| net.holds(0, held));
    for seat in [2, 1] {
        restart_with(&mut net, seat, ms(5_000));
        net.run_for(ms(6_500));
        assert!(is_quarantined(&net, seat));
    }
    let rival = net.acquire(1, "k", ms(3_000));
    while net.holds(0, held) {
        net.run_for(ms(100));
        assert_eq!(net.granted(1, rival), None);
    }
    // Node 0 has the other set and could vote there.
    net.run_for(ms(100_000));
    assert_eq!(net.granted(1, rival), None);
    restart_with(&mut net, 0, ms(5_000));
    let took = net.run_until(ms(60_000), |net| net.granted(1, rival).is_some());
    assert!(took > ms(30_000), "{took:?}");
}

/// A node of another set that went silent delays no voter for ever.
#[test]
fn voter_waits_until_other_sets_votes_end() {
    let mut net = Net::new(3, 3, 0);
    for seat in [2, 1] {
        restart_with(&mut net, seat, ms(5_000));
    }
    net.run_for(ms(60_000));
    assert!(is_quarantined(&net, 1) && is_quarantined(&net, 2));
    net.crash(0);
    net.run_for(ms(30_000));
    assert!(is_quarantined(&net, 1) && is_quarantined(&net, 2));
    net.run_until(ms(10_000), |net| {
        !is_quarantined(net, 1) && !is_quarantined(net, 2)
    });
    let ticket = net.acquire(1, "k", ms(3_000));
    net.run_until(ms(5_000), |net| net.holds(1, ticket));
}

/// A voter with its memory refuses the claims of another set. Leases of its own set are unaffected
/// by nodes with other settings.
#[test]
fn voter_with_memory_continues_beside_another_set() {
    let mut net = Net::new(3, 3, 1);
    restart_with(&mut net, 2, ms(5_000));
    net.run_for(ms(1_000));
    let ticket = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, ticket));
    net.run_for(ms(120_000));
    assert!(net.holds(3, ticket) && is_quarantined(&net, 2));
}

#[test]
fn datagrams_of_outdated_incarnation_are_dropped() {
    let mut net = Net::new(3, 3, 2);
    // The claims of the first incarnation take 500 ms to arrive.
    net.fate = Box::new(|_| vec![ms(500)]);
    net.acquire(3, "k", ms(30_000));
    net.run_for(ms(10));
    net.crash(3);
    net.fate = straight();
    net.start(3, Start::Recovering);
    net.acquire(3, "another", TTL);
    net.run_for(ms(1_000));
    let dropped = |node: &Node| node.traffic().dropped_for(DropReason::OutdatedIncarnation);
    assert!((0..3).all(|seat| dropped(net.node(seat)) == 1));
    let ticket = net.acquire(4, "k", TTL);
    let took = net.run_until(ms(100), |net| net.holds(4, ticket));
    assert_eq!(took, ms(10));
}

/// A restart costs a key one voter for `max_ttl`. Two within that time stop all new grants.
#[test]
fn two_restarts_within_max_ttl_stop_grants() {
    let mut net = Net::new(3, 3, 1);
    net.crash(0);
    net.start(0, Start::Recovering);
    let one = net.acquire(3, "one", TTL);
    net.run_until(ms(100), |net| net.holds(3, one));
    net.run_for(ms(5_000));
    net.crash(1);
    net.start(1, Start::Recovering);
    net.run_for(ms(50));
    let two = net.acquire(3, "two", TTL);
    net.run_for(ms(25_000));
    assert_eq!(net.granted(3, two), None);
    // The lease does not survive it either.
    assert!(!net.holds(3, one));
    net.run_until(ms(10_000), |net| net.granted(3, two).is_some());
}
