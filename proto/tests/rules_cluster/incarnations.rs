//! Section 6 as several nodes see it: lives of a node, new clusters, and voter sets that differ.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::event::Event;
use lockmesh_proto::id::NodeId;
use lockmesh_proto::node::Node;
use lockmesh_proto::view::View;
use lockmesh_proto::voter::Start;
use lockmesh_proto::voter_set::{Timing, VoterSet};
use lockmesh_proto::wire::DropReason;

use super::net::*;

const TTL: Duration = ms(2_000);
/// `max_ttl`, twice the drift, the second of waiting for answers, and a little.
const RECOVERY: Duration = ms(30_600 + 1_000 + 100);

fn is_quarantined(net: &Net, seat: usize) -> bool {
    net.node(seat).voter().unwrap().quarantine().is_some()
}

/// It comes back long before its lease would be over, and says so itself.
#[test]
fn a_node_that_comes_back_frees_what_its_last_incarnation_held() {
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

/// F24: gossip that tells of a later incarnation is no proof; the node itself must be heard.
#[test]
fn f24_gossip_of_a_later_incarnation_frees_nothing() {
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

/// Rule 7: a process that comes back under its id frees what its former incarnation held at once,
/// also where it asks for nothing.
#[test]
fn a_node_that_comes_back_and_asks_for_nothing_frees_what_it_held() {
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

/// The same where its first words are lost, as any datagram may be: it says them again when gossip
/// has other news.
#[test]
fn a_node_that_comes_back_is_heard_though_its_first_words_are_lost() {
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

/// The other voters learn first where it is, and speak to it: it answers with its name, though
/// gossip has told it nothing.
#[test]
fn a_node_that_comes_back_answers_those_that_find_it_first() {
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

/// Of what goes to a node and comes from it, only datagrams without a message arrive.
fn names_only(net: &mut Net, seat: usize) {
    net.fate =
        losing(move |packet| (packet.from == seat || packet.to == seat) && packet.has(|_| true));
}

/// F24: its wall clock was set back, so its incarnation has a lower number than the one before; and
/// it has another address. It is told where it is now, not where it was.
#[test]
fn f24_a_node_whose_wall_clock_was_set_back_goes_on_under_a_higher_incarnation() {
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
        // What the incarnation before held is free at once if it was there, and else by the clock.
        let limit = if port == 3 { ms(200) } else { ms(31_000) };
        let took = net.run_until(limit, |net| net.granted(4, waiter).is_some());
        assert_eq!(took > ms(20_000), port == 77, "{took:?}");
    }
}

/// F24: the same where it asks for nothing. It is told so, and says its name again.
#[test]
fn f24_a_node_whose_wall_clock_was_set_back_and_that_asks_for_nothing_frees_what_it_held() {
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
fn a_lease_is_lost_when_its_node_learns_that_its_incarnation_has_too_low_a_number() {
    let mut net = Net::new(3, 3, 2);
    net.crash(3);
    net.seats[3].incarnation = 50;
    // Only voter 2 hears of that incarnation.
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
    // The net looks for two holders when the next one gets it.
    net.run_until(ms(15_000), |net| net.granted(4, next).is_some());
    assert!(
        net.log
            .iter()
            .any(|(_, by, event)| *by == 3 && matches!(event, Event::Lost { .. }))
    );
}

#[test]
fn a_new_cluster_votes_at_once_and_one_that_is_told_so_again_does_not() {
    let mut net = Net::new(3, 3, 2);
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, holder));
    // F27: the flag stays set.
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

/// One of five remembers an earlier incarnation of it, and tells it so by the way; the three
/// answers that would be enough come later.
#[test]
fn a_new_voter_that_is_told_of_an_earlier_incarnation_of_its_own_does_not_vote() {
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

/// Nobody has forgotten anything, but one of three is not there to say so.
#[test]
fn a_new_cluster_waits_for_nearly_all_of_its_members() {
    let mut net = Net::of(3, 3, 0);
    net.start(0, Start::NewCluster);
    net.start(1, Start::NewCluster);
    net.run_for(ms(5_000));
    assert!(is_quarantined(&net, 0) && is_quarantined(&net, 1));
    net.start(2, Start::NewCluster);
    net.run_for(ms(1_000));
    assert!((0..3).all(|seat| !is_quarantined(&net, seat)));
    // Of five with five voters each, one may be missing.
    let mut net = Net::of(5, 5, 0);
    (0..4).for_each(|seat| net.start(seat, Start::NewCluster));
    net.run_for(ms(1_000));
    assert!((0..4).all(|seat| !is_quarantined(&net, seat)));
    // It comes late, and others already have something to remember.
    let ticket = net.acquire(0, "k", TTL);
    net.run_until(ms(100), |net| net.holds(0, ticket));
    net.start(4, Start::NewCluster);
    net.run_for(ms(1_000));
    assert!(is_quarantined(&net, 4));
}

/// A voter in quarantine for its own sake first hears of another that forgot. What it "knew" then
/// proves nothing, and it must not say later that it did.
#[test]
fn m5_a_voter_that_forgot_does_not_vouch_for_another_that_forgot() {
    let mut net = Net::new(3, 3, 2);
    // Voters 0 and 1 vote for a lease of 30 s, the third is cut off.
    net.fate = losing(|packet| packet.is_between(3, 2));
    let holder = net.acquire(3, "k", ms(30_000));
    net.run_until(ms(100), |net| net.holds(3, holder));
    // The third forgets, and hears of the others' next lives while it is in quarantine; its
    // answers are lost.
    net.crash(2);
    net.start(2, Start::Recovering);
    net.run_for(ms(3_000));
    net.fate = losing(|packet| packet.from == 2 || packet.from == 3);
    for voter in [0, 1] {
        net.crash(voter);
        net.start(voter, Start::NewCluster);
    }
    // Both tell each other that they knew of nothing. Now the third votes, and is heard.
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

/// F25: a node with another voter set is refused, and both say so; the lock goes on without it.
#[test]
fn f25_a_node_with_another_voter_set_is_refused_and_named() {
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

/// A voter that was restarted with a shorter `max_ttl` may have promised more before; and two voter
/// sets share no quorum.
#[test]
fn voters_restarted_with_a_shorter_max_ttl_give_no_second_lease() {
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
    // The first one speaks for the other set, and could vote there.
    net.run_for(ms(100_000));
    assert_eq!(net.granted(1, rival), None);
    restart_with(&mut net, 0, ms(5_000));
    let took = net.run_until(ms(60_000), |net| net.granted(1, rival).is_some());
    assert!(took > ms(30_000), "{took:?}");
}

/// One that went silent holds nobody up for ever.
#[test]
fn a_voter_waits_for_one_of_another_set_until_its_votes_are_over() {
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

/// A voter that has its memory goes on: claims of another set are refused, and those of its own set
/// lose nothing by one that has other settings.
#[test]
fn a_voter_with_its_memory_goes_on_beside_another_set() {
    let mut net = Net::new(3, 3, 1);
    restart_with(&mut net, 2, ms(5_000));
    net.run_for(ms(1_000));
    let ticket = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, ticket));
    net.run_for(ms(120_000));
    assert!(net.holds(3, ticket) && is_quarantined(&net, 2));
}

#[test]
fn what_an_earlier_incarnation_sent_is_dropped_when_a_later_one_was_heard() {
    let mut net = Net::new(3, 3, 2);
    // The first incarnation's claims are long under way.
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

/// F29: a restart costs a key one voter for `max_ttl`; two at a time cost it all new grants.
#[test]
fn f29_two_restarts_within_max_ttl_stop_new_grants_until_the_first_is_back() {
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
    // Nor does a lease live through it.
    assert!(!net.holds(3, one));
    net.run_until(ms(10_000), |net| net.granted(3, two).is_some());
}
