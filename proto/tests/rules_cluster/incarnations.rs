//! Section 6 in a cluster: incarnations of a node, new clusters, and voter sets that differ.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{
    DropReason, Event, Message, Node, NodeConfig, NodeId, Start, Timing, View, VoterSet,
};

const TTL: Duration = ms(2_000);
/// `max_ttl` plus twice the drift, one second for replies, and a margin of 100 ms.
const RECOVERY: Duration = ms(30_600 + 1_000 + 100);

/// It restarts long before its lease would end, and sends messages itself.
#[test]
fn restarted_node_frees_leases_of_last_incarnation() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.crash(3);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.granted(4, next), None);
    cluster.start(3, Start::Recovering);
    cluster.acquire(3, "another", TTL);
    cluster.run_until(ms(50), |cluster| cluster.granted(4, next).is_some());
}

/// Gossip of a later incarnation is no proof. A datagram of the node itself is.
#[test]
fn gossip_of_later_incarnation_frees_nothing() {
    let mut cluster = Cluster::new(3, 3, 2);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.seats[3].incarnation += 1;
    let view = cluster.view();
    for seat in [0, 1, 2, 4] {
        cluster.with(seat, |node, now| node.handle_view(now, &view));
    }
    cluster.run_for(ms(20_000));
    assert!(cluster.holds(3, holder));
    assert_eq!(cluster.granted(4, next), None);
}

/// Rule 7. A process that restarts under its id frees what its earlier incarnation held at once,
/// even if it claims nothing.
#[test]
fn restarted_idle_node_frees_its_leases() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(100));
    cluster.crash(3);
    cluster.run_for(ms(100));
    assert_eq!(cluster.granted(4, next), None);
    cluster.seats[3].incarnation += 1;
    cluster.start(3, Start::Recovering);
    cluster.run_for(ms(100));
    assert!(cluster.granted(4, next).is_some());
}

/// The same if its first datagrams are lost. It announces itself again when gossip changes.
#[test]
fn lost_announcement_of_restarted_node_is_repeated() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(100));
    cluster.crash(3);
    cluster.lose(|packet| packet.from == 3 || packet.to == 3);
    cluster.start(3, Start::Recovering);
    cluster.run_for(ms(1_000));
    names_only(&mut cluster, 3);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.granted(4, next), None);
    let view = cluster.view();
    cluster.with(3, |node, now| node.handle_view(now, &view));
    cluster.run_for(ms(50));
    assert!(cluster.granted(4, next).is_some());
}

/// The other voters learn its address first and contact it. It announces itself, though its own
/// view is empty.
#[test]
fn restarted_node_announces_itself_when_contacted() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.acquire(2, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    cluster.crash(2);
    cluster.lose(|packet| packet.from == 2);
    cluster.start(2, Start::Recovering);
    cluster.with(2, |node, now| node.handle_view(now, &View::default()));
    cluster.run_for(ms(100));
    names_only(&mut cluster, 2);
    let view = cluster.view();
    for voter in 0..2 {
        cluster.with(voter, |node, now| node.handle_view(now, &view));
    }
    cluster.run_for(ms(50));
    assert!(cluster.granted(3, next).is_some());
}

/// Loses all datagrams to and from a node that contain a message, but for challenges.
fn names_only(cluster: &mut Cluster, seat: usize) {
    let is_other = |it: &Message| !matches!(it, Message::Challenge(_) | Message::Alive(_));
    cluster.lose(move |packet| (packet.from == seat || packet.to == seat) && packet.has(is_other));
}

/// Its wall clock was set back, so its incarnation is lower than the one before. In one case it
/// also has a new address. `Outdated` goes to its current address, not to the old one.
#[test]
fn node_with_set_back_clock_raises_incarnation() {
    for port in [3, 77] {
        let mut cluster = Cluster::new(3, 3, 2);
        for seat in 3..5 {
            cluster.crash(seat);
            cluster.seats[seat].incarnation = 50 + seat as u64;
            cluster.start(seat, Start::Recovering);
        }
        cluster.acquire(3, "k", ms(30_000));
        cluster.run_for(ms(100));
        let waiter = cluster.acquire(4, "k", ms(30_000));
        cluster.run_for(ms(100));
        cluster.crash(3);
        cluster.log.clear();
        cluster.seats[3].port = port;
        cluster.seats[3].incarnation = 7;
        let config = cluster.config(3, Start::Recovering);
        cluster.start_with(3, config);
        let again = cluster.acquire(3, "other", TTL);
        cluster.run_until(ms(200), |cluster| cluster.granted(3, again).is_some());
        assert!(cluster.node(3).claimant().incarnation().get() > 53);
        // The earlier incarnation's lease is free at once if the address is the same, and otherwise
        // when it expires.
        let limit = if port == 3 { ms(200) } else { ms(31_000) };
        let took = cluster.run_until(limit, |cluster| cluster.granted(4, waiter).is_some());
        assert_eq!(took > ms(20_000), port == 77, "{took:?}");
    }
}

/// The same if it claims nothing. It receives `Outdated` and announces itself again.
#[test]
fn idle_node_with_set_back_clock_frees_leases() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(3);
    cluster.seats[3].incarnation = 50;
    cluster.start(3, Start::Recovering);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(100));
    cluster.crash(3);
    cluster.seats[3].incarnation = 7;
    let config = cluster.config(3, Start::Recovering);
    cluster.start_with(3, config);
    cluster.run_for(ms(100));
    assert!(cluster.node(3).claimant().incarnation().get() > 51);
    assert!(cluster.granted(4, next).is_some());
}

/// The wall clock of a node was set back between two starts, and no voter knows the earlier process.
/// Its late datagrams free no vote of the later one, which learns of them and loses its lease first.
#[test]
fn late_datagram_of_earlier_process_frees_no_vote() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(3);
    cluster.seats[3].incarnation = 50;
    cluster.decide(|_| vec![ms(5_000)]);
    cluster.start(3, Start::Recovering);
    cluster.acquire(3, "k", TTL);
    cluster.crash(3);
    cluster.heal();
    cluster.seats[3].incarnation = 7;
    let config = cluster.config(3, Start::Recovering);
    cluster.start_with(3, config);
    let held = cluster.acquire(3, "l", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "l", ms(30_000));
    cluster.run_for(ms(4_800));
    assert!(cluster.holds(3, held));
    // The network checks M1 when the next claim is granted.
    cluster.run_until(ms(200), |cluster| cluster.granted(4, next).is_some());
    assert!(cluster.node(3).claimant().incarnation().get() > 51);
}

#[test]
fn outdated_incarnation_loses_its_lease() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(3);
    cluster.seats[3].incarnation = 50;
    // Only voter 2 receives from that incarnation.
    cluster.lose(|packet| packet.from == 3 && packet.to != 2);
    cluster.start(3, Start::Recovering);
    cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(50));
    cluster.crash(3);
    cluster.seats[3].incarnation = 40;
    cluster.lose(|packet| packet.is_between(3, 2));
    let config = cluster.config(3, Start::Recovering);
    cluster.start_with(3, config);
    let held = cluster.acquire(3, "l", ms(30_000));
    cluster.run_until(ms(100), |cluster| cluster.holds(3, held));
    let next = cluster.acquire(4, "l", ms(30_000));
    cluster.run_for(ms(100));
    cluster.log.clear();
    cluster.heal();
    // The network checks M1 when the next claim is granted.
    cluster.run_until(ms(15_000), |cluster| cluster.granted(4, next).is_some());
    assert!(
        cluster
            .log
            .iter()
            .any(|(_, by, event)| *by == 3 && matches!(event, Event::Lost { .. }))
    );
}

#[test]
fn second_start_as_new_cluster_is_quarantined() {
    let mut cluster = Cluster::new(3, 3, 2);
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
    // The flag is still set at the second start.
    for voter in [0, 1] {
        cluster.crash(voter);
        cluster.start(voter, Start::NewCluster);
    }
    cluster.run_for(ms(100));
    assert!(!cluster.votes(0) && !cluster.votes(1));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(29_000));
    assert_eq!(cluster.granted(4, next), None);
    assert!(cluster.votes(2));
}

/// One of five nodes knows an earlier incarnation, and its messages arrive first. The three replies
/// that would be enough arrive later.
#[test]
fn new_voter_with_earlier_incarnation_does_not_vote() {
    let mut cluster = Cluster::of(5, 5, 0);
    cluster.start(4, Start::NewCluster);
    cluster.seats[0].incarnation = 50;
    cluster.start(0, Start::NewCluster);
    cluster.run_for(ms(50));
    cluster.crash(0);
    (1..4).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.seats[0].incarnation = 7;
    cluster.decide(|p| vec![if p.from == 4 { ms(5) } else { ms(8) }]);
    let config = cluster.config(0, Start::NewCluster);
    cluster.start_with(0, config);
    cluster.run_for(ms(1_000));
    assert!(cluster.node(0).claimant().incarnation().get() > 50);
    assert!(!cluster.votes(0));
    cluster.run_for(RECOVERY);
    assert!(cluster.votes(0));
}

/// No node has lost its memory, but one of three is not there to confirm this.
#[test]
fn new_cluster_waits_for_nearly_all_members() {
    let mut cluster = Cluster::of(3, 3, 0);
    cluster.start(0, Start::NewCluster);
    cluster.start(1, Start::NewCluster);
    cluster.run_for(ms(5_000));
    assert!(!cluster.votes(0) && !cluster.votes(1));
    cluster.start(2, Start::NewCluster);
    cluster.run_for(ms(1_000));
    assert!((0..3).all(|seat| cluster.votes(seat)));
    // Of five members that all vote for each key, one may be missing.
    let mut cluster = Cluster::of(5, 5, 0);
    (0..4).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.run_for(ms(1_000));
    assert!((0..4).all(|seat| cluster.votes(seat)));
    // It starts late, when others already have memory.
    let ticket = cluster.acquire(0, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(0, ticket));
    cluster.start(4, Start::NewCluster);
    cluster.run_for(ms(1_000));
    assert!(!cluster.votes(4));
}

/// M5. A voter in quarantine first receives from another that lost its memory. What it knew then
/// proves nothing, so it must not vouch for it later.
#[test]
fn voter_without_memory_does_not_vouch_for_another() {
    let mut cluster = Cluster::new(3, 3, 2);
    // Voters 0 and 1 vote for a lease of 30 s, the third is cut off.
    cluster.lose(|packet| packet.is_between(3, 2));
    let holder = cluster.acquire(3, "k", ms(30_000));
    cluster.run_until(ms(100), |cluster| cluster.holds(3, holder));
    // The third loses its memory. During its quarantine it receives from the others' next
    // incarnations, and its answers are lost.
    cluster.crash(2);
    cluster.start(2, Start::Recovering);
    cluster.run_for(ms(3_000));
    cluster.lose(|packet| packet.from == 2 || packet.from == 3);
    for voter in [0, 1] {
        cluster.crash(voter);
        cluster.start(voter, Start::NewCluster);
    }
    // Voters 0 and 1 reply to each other that they know nothing. Then the third votes, and its
    // datagrams arrive.
    cluster.run_until(RECOVERY, |cluster| cluster.votes(2));
    cluster.lose(|packet| packet.from == 3);
    cluster.run_for(ms(1_000));
    assert!(!cluster.votes(0) && !cluster.votes(1));
    cluster.run_for(ms(3_000));
    let first = cluster.granted(3, holder).unwrap().1;
    for seat in [0, 1] {
        assert!(cluster.node(seat).voter().unwrap().fence(&key("k")) >= first);
    }
}

/// Both sides report the difference, and the lock works without that node.
#[test]
fn node_with_other_voter_set_is_refused() {
    let mut cluster = Cluster::new(3, 3, 2);
    let members: Vec<NodeId> = cluster.voter_set.members().to_vec();
    let shorter = Timing {
        max_ttl: ms(20_000),
        ..timing()
    };
    let other = Arc::new(VoterSet::new(1, members, 3, shorter).unwrap());
    cluster.crash(4);
    cluster.seats[4].incarnation += 1;
    let config = NodeConfig {
        voter_set: other,
        ..cluster.config(4, Start::Recovering)
    };
    cluster.start_with(4, config);
    let never = cluster.acquire(4, "k", TTL);
    cluster.run_for(ms(2_000));
    assert_eq!(cluster.granted(4, never), None);
    let named = cluster
        .log
        .iter()
        .filter(|(_, _, event)| matches!(event, Event::VoterSetMismatch { .. }));
    assert_eq!(named.count(), 6);
    let ticket = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, ticket));
}

fn restart_with(cluster: &mut Cluster, seat: usize, max_ttl: Duration) {
    let members: Vec<NodeId> = cluster.voter_set.members().to_vec();
    let timing = Timing {
        max_ttl,
        ..timing()
    };
    let other = VoterSet::new(1, members, 3, timing).unwrap();
    cluster.crash(seat);
    cluster.seats[seat].incarnation += 1;
    let config = NodeConfig {
        voter_set: Arc::new(other),
        ..cluster.config(seat, Start::Recovering)
    };
    cluster.start_with(seat, config);
}

/// A voter restarted with a shorter `max_ttl` may have given longer votes before. Quorums of two
/// voter sets need not overlap.
#[test]
fn restart_with_shorter_max_ttl_grants_nothing_twice() {
    let mut cluster = Cluster::new(3, 3, 0);
    let held = cluster.acquire(0, "k", ms(25_000));
    cluster.run_until(ms(100), |cluster| cluster.holds(0, held));
    for seat in [2, 1] {
        restart_with(&mut cluster, seat, ms(5_000));
        cluster.run_for(ms(6_500));
        assert!(!cluster.votes(seat));
    }
    let rival = cluster.acquire(1, "k", ms(3_000));
    while cluster.holds(0, held) {
        cluster.run_for(ms(100));
        assert_eq!(cluster.granted(1, rival), None);
    }
    // Node 0 has the other set and could vote there.
    cluster.run_for(ms(100_000));
    assert_eq!(cluster.granted(1, rival), None);
    restart_with(&mut cluster, 0, ms(5_000));
    let took = cluster.run_until(ms(60_000), |cluster| cluster.granted(1, rival).is_some());
    assert!(took > ms(30_000), "{took:?}");
}

/// A node of another set that went silent delays no voter for ever.
#[test]
fn voter_waits_until_other_sets_votes_end() {
    let mut cluster = Cluster::new(3, 3, 0);
    for seat in [2, 1] {
        restart_with(&mut cluster, seat, ms(5_000));
    }
    cluster.run_for(ms(60_000));
    assert!(!cluster.votes(1) && !cluster.votes(2));
    cluster.crash(0);
    cluster.run_for(ms(30_000));
    assert!(!cluster.votes(1) && !cluster.votes(2));
    cluster.run_until(ms(10_000), |cluster| cluster.votes(1) && cluster.votes(2));
    let ticket = cluster.acquire(1, "k", ms(3_000));
    cluster.run_until(ms(5_000), |cluster| cluster.holds(1, ticket));
}

/// A voter with its memory refuses the claims of another set. Leases of its own set are unaffected
/// by nodes with other settings.
#[test]
fn voter_with_memory_continues_beside_another_set() {
    let mut cluster = Cluster::new(3, 3, 1);
    restart_with(&mut cluster, 2, ms(5_000));
    cluster.run_for(ms(1_000));
    let ticket = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, ticket));
    cluster.run_for(ms(120_000));
    assert!(cluster.holds(3, ticket) && !cluster.votes(2));
}

#[test]
fn datagrams_of_outdated_incarnation_are_dropped() {
    let mut cluster = Cluster::new(3, 3, 2);
    // The claims of the first incarnation take 500 ms to arrive.
    cluster.decide(|_| vec![ms(500)]);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(10));
    cluster.crash(3);
    cluster.heal();
    cluster.start(3, Start::Recovering);
    cluster.acquire(3, "another", TTL);
    cluster.run_for(ms(1_000));
    let dropped = |node: &Node| node.traffic().dropped_for(DropReason::OutdatedIncarnation);
    assert!((0..3).all(|seat| dropped(cluster.node(seat)) == 1));
    let ticket = cluster.acquire(4, "k", TTL);
    let took = cluster.run_until(ms(100), |cluster| cluster.holds(4, ticket));
    assert_eq!(took, ms(10));
}

/// A restart costs a key one voter for `max_ttl`. Two within that time stop all new grants.
#[test]
fn two_restarts_within_max_ttl_stop_grants() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    let one = cluster.acquire(3, "one", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, one));
    cluster.run_for(ms(5_000));
    cluster.crash(1);
    cluster.start(1, Start::Recovering);
    cluster.run_for(ms(50));
    let two = cluster.acquire(3, "two", TTL);
    cluster.run_for(ms(25_000));
    assert_eq!(cluster.granted(3, two), None);
    // The lease does not survive it either.
    assert!(!cluster.holds(3, one));
    cluster.run_until(ms(10_000), |cluster| cluster.granted(3, two).is_some());
}

/// A later incarnation may claim before it has proven that the earlier one is over.
#[test]
fn try_of_restarted_holder_is_not_denied_by_its_earlier_incarnation() {
    for since_grant in (0..200).step_by(10) {
        let mut cluster = Cluster::new(3, 3, 1);
        cluster.acquire(3, "k", ms(30_000));
        cluster.run_for(ms(100 + since_grant));
        cluster.crash(3);
        cluster.start(3, Start::Recovering);
        let again = cluster.try_acquire(3, "k", ms(30_000));
        cluster.run_for(ms(200));
        assert!(!cluster.is_denied(3, again), "{since_grant} ms");
        assert!(cluster.holds(3, again), "{since_grant} ms");
    }
}

/// A lease that outlives its process denies a `try` of the next process.
#[test]
fn try_of_restarted_holder_is_denied_by_lease_that_outlives_it() {
    let mut cluster = Cluster::new(3, 3, 1);
    let mut request = Cluster::request("k", ms(20_000));
    (request.renews, request.outlives) = (false, true);
    let held = cluster.claim(3, request);
    cluster.run_for(ms(100));
    assert!(cluster.holds(3, held));
    cluster.crash(3);
    cluster.start(3, Start::Recovering);
    let again = cluster.try_acquire(3, "k", ms(20_000));
    cluster.run_for(ms(300));
    assert!(cluster.is_denied(3, again));
}

/// Each process sends a datagram and ends before it answers the challenge.
#[test]
fn holder_that_ends_at_each_start_holds_up_nobody_after_the_last() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    cluster.run_for(ms(100));
    cluster.crash(3);
    for _ in 0..8 {
        cluster.start(3, Start::Recovering);
        cluster.run_for(ms(7));
        cluster.crash(3);
        cluster.run_for(ms(50));
    }
    cluster.start(3, Start::Recovering);
    cluster.run_for(ms(100));
    assert!(cluster.granted(4, next).is_some());
}
