//! Rules 25 to 27: two processes with one name, and a process that restarts elsewhere.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{Event, Message, Start, Timing, VoterSet};

use super::net::*;

const TTL: Duration = ms(2_000);
/// Half of `max_ttl`. A twin counts as gone if it is not reported for this long.
const GONE: Duration = ms(15_000);

fn is_stopped(net: &Net, seat: usize) -> bool {
    net.node(seat).twin().is_some()
}

fn votes(net: &Net, seat: usize) -> bool {
    net.node(seat).voter().unwrap().quarantine().is_none()
}

fn count(net: &Net, seat: usize, event: &Event) -> usize {
    let told = net
        .log
        .iter()
        .filter(|(_, by, it)| (*by, it) == (seat, event));
    told.count()
}

/// The holder keeps running, and another process of its name claims the same lock.
#[test]
fn later_incarnation_elsewhere_frees_no_held_lease() {
    let mut net = Net::new(3, 3, 2);
    let held = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", ms(30_000));
    let twin = net.seat_beside(3, 77);
    // The twin's datagrams reach the voters, but theirs reach no process of that name.
    net.fate = losing(move |packet| packet.to == 3 || packet.to == twin);
    net.start(twin, Start::Recovering);
    let own = net.acquire(twin, "k", TTL);
    net.run_for(ms(15_000));
    assert!(net.holds(3, held), "it cannot know of the twin");
    assert_eq!(net.granted(4, next), None);
    assert_eq!(net.granted(twin, own), None);
    net.run_for(ms(16_000));
    assert!(!net.holds(3, held));
    assert!(net.granted(4, next).is_some(), "by the clock");
}

#[test]
fn claiming_twins_lose_leases_and_claim_nothing() {
    let mut net = Net::new(3, 3, 2);
    let held = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let twin = net.seat_beside(3, 77);
    net.start(twin, Start::Recovering);
    let own = net.acquire(twin, "k", TTL);
    net.run_for(ms(100));
    assert!(is_stopped(&net, 3) && is_stopped(&net, twin));
    assert!(!net.holds(3, held));
    let (mine, other) = net.node(3).twin().map(|it| (it.mine, it.other)).unwrap();
    assert_eq!((mine.port(), other.port()), (3, 77));
    let more = [net.acquire(3, "l", TTL), net.acquire(twin, "m", TTL)];
    net.run_for(ms(120_000));
    assert_eq!(net.granted(twin, own), None);
    assert_eq!(net.granted(3, more[0]), None);
    assert_eq!(net.granted(twin, more[1]), None);
    assert!(is_stopped(&net, 3) && is_stopped(&net, twin));
    assert_eq!(count(&net, 3, &Event::TwinFound), 1);
    let first = net.node(3).claimant().incarnation();
    net.crash(twin);
    let took = net.run_until(GONE + ms(5_000), |net| net.granted(3, more[0]).is_some());
    assert!(took > GONE - ms(5_000), "{took:?}");
    assert!(net.node(3).claimant().incarnation() > first);
}

/// The remaining process sits out a quarantine before it votes.
#[test]
fn twins_of_voter_stop_until_one_remains() {
    let mut net = Net::new(3, 3, 1);
    let twin = net.seat_beside(2, 77);
    net.start(twin, Start::Recovering);
    net.run_for(ms(100));
    assert!(is_stopped(&net, 2) && is_stopped(&net, twin));
    assert!(!votes(&net, 2) && !votes(&net, twin));
    let ticket = net.acquire(3, "k", TTL);
    net.run_until(ms(100), |net| net.holds(3, ticket));
    net.run_for(ms(100_000));
    assert!(!votes(&net, 2) && !votes(&net, twin));
    assert!(net.holds(3, ticket), "two of three vote");
    net.crash(2);
    net.run_for(GONE + ms(500));
    assert!(!is_stopped(&net, twin) && !votes(&net, twin));
    net.run_for(ms(32_000));
    assert!(votes(&net, twin));
    net.crash(0);
    let other = net.acquire(3, "l", TTL);
    net.run_until(ms(1_000), |net| net.holds(3, other));
}

/// Its peers already know its name.
#[test]
fn twin_started_as_new_cluster_does_not_vote() {
    let mut net = Net::new(3, 3, 0);
    let twin = net.seat_beside(2, 77);
    net.start(twin, Start::NewCluster);
    net.run_for(ms(1_000));
    assert!(!votes(&net, 2) && !votes(&net, twin));
}

/// The wall clock of the second process is behind, so its incarnation is lower.
#[test]
fn twin_with_lower_incarnation_is_found() {
    let mut net = Net::new(3, 3, 2);
    net.crash(3);
    net.seats[3].incarnation = 50;
    net.start(3, Start::Recovering);
    let held = net.acquire(3, "k", ms(30_000));
    net.run_for(ms(100));
    let twin = net.seat_beside(3, 77);
    net.seats[twin].incarnation = 7;
    let voter_set = net.voter_set.clone();
    net.start_in(twin, Start::Recovering, voter_set);
    net.acquire(twin, "k", TTL);
    net.run_for(ms(500));
    assert!(is_stopped(&net, 3) && is_stopped(&net, twin));
    assert!(!net.holds(3, held));
    assert!(net.holders(&key("k")).is_empty());
}

/// The process was replaced while it was paused, and resumes.
#[test]
fn replaced_paused_process_stops_with_its_successor() {
    let mut net = Net::new(3, 3, 2);
    let held = net.acquire(3, "k", ms(10_000));
    net.run_for(ms(100));
    net.sleep(3, ms(60_000));
    let twin = net.seat_beside(3, 77);
    net.start(twin, Start::Recovering);
    let own = net.acquire(twin, "k", TTL);
    net.run_until(ms(11_000), |net| net.holds(twin, own));
    net.run_for(ms(40_000));
    assert!(net.holds(twin, own));
    net.run_for(ms(20_000));
    assert!(is_stopped(&net, 3) && is_stopped(&net, twin));
    assert!(!net.holds(3, held) && !net.holds(twin, own));
}

/// No process stops, and the lease of its earlier incarnation ends by the clock.
#[test]
fn process_restarted_elsewhere_keeps_running() {
    let mut net = Net::new(3, 3, 2);
    net.acquire(3, "k", ms(10_000));
    net.run_for(ms(100));
    let next = net.acquire(4, "k", TTL);
    net.crash(3);
    net.seats[3].port = 77;
    net.start(3, Start::Recovering);
    let own = net.acquire(3, "l", TTL);
    net.run_until(ms(100), |net| net.holds(3, own));
    net.run_for(ms(5_000));
    assert_eq!(net.granted(4, next), None);
    net.run_until(ms(6_000), |net| net.granted(4, next).is_some());
    net.run_for(ms(100_000));
    assert!(net.holds(3, own) && !is_stopped(&net, 3));
    assert_eq!(count(&net, 3, &Event::TwinFound), 0);
}

/// They arrive late and repeatedly, and answer no challenge.
#[test]
fn late_datagrams_of_dead_incarnation_stop_nobody() {
    let mut net = Net::new(3, 3, 1);
    let is_claim = |message: &Message| matches!(message, Message::Claim(_));
    net.fate = Box::new(
        move |packet| match packet.from == 3 && packet.has(is_claim) {
            true => (0..20).map(|n| ms(5 + n * 1_000)).collect(),
            false => vec![ONE_WAY],
        },
    );
    net.acquire(3, "k", TTL);
    net.run_for(ms(10));
    net.crash(3);
    net.seats[3].port = 77;
    net.fate = straight();
    net.start(3, Start::Recovering);
    let own = net.acquire(3, "l", TTL);
    net.run_until(ms(100), |net| net.holds(3, own));
    net.run_for(ms(30_000));
    assert!(net.holds(3, own));
    assert_eq!(count(&net, 3, &Event::TwinFound), 0);
}

/// The network interface changes while the process runs.
#[test]
fn same_incarnation_from_another_address_is_no_twin() {
    let mut net = Net::new(3, 3, 1);
    let held = net.acquire(3, "k", TTL);
    net.run_for(ms(100));
    for port in [77, 78, 3] {
        net.seats[3].port = port;
        net.run_for(ms(10_000));
        assert!(net.holds(3, held), "{port}");
    }
    // A voter that only answers is contacted at the address that gossip reports.
    net.seats[1].port = 79;
    let view = net.view();
    net.with(3, |node, now| node.handle_view(now, &view));
    net.run_for(ms(10_000));
    net.crash(2);
    net.run_for(ms(10_000));
    assert!(net.holds(3, held), "the voter that moved counts");
    assert_eq!(count(&net, 3, &Event::TwinFound), 0);
}

/// The second `Namesake` arrives when the process has a later incarnation.
#[test]
fn namesake_for_another_incarnation_is_ignored() {
    let mut net = Net::new(3, 3, 1);
    let twin = net.seat_beside(3, 77);
    let is_word = |message: &Message| matches!(message, Message::Namesake(_));
    net.fate = Box::new(move |packet| match packet.has(is_word) {
        true => vec![ONE_WAY, ms(60_000)],
        false => vec![ONE_WAY],
    });
    net.start(twin, Start::Recovering);
    net.run_for(ms(100));
    net.crash(twin);
    net.run_for(ms(20_000));
    assert!(!is_stopped(&net, 3));
    let held = net.acquire(3, "k", TTL);
    net.run_for(ms(60_000));
    assert!(net.holds(3, held));
    assert_eq!(count(&net, 3, &Event::TwinFound), 1);
}

/// Returns the datagrams sent per second while a voter has a twin, with `guests` clients.
fn sent_beside_twin(guests: usize) -> usize {
    let mut net = Net::new(3, 3, guests);
    let twin = net.seat_beside(2, 7_777);
    net.start(twin, Start::Recovering);
    net.run_for(ms(5_000));
    let before = net.datagrams;
    net.run_for(ms(20_000));
    (net.datagrams - before) / 20
}

/// Each node that receives from both sends `Namesake` to both, and each of these makes the voter
/// forget. The voter does not query all peers each time.
#[test]
fn cost_of_voter_twin_per_node_is_constant() {
    let (few, many) = (sent_beside_twin(10), sent_beside_twin(80));
    assert!(
        many <= few * 12,
        "per second: {few} with 10 clients, {many} with 80"
    );
}

/// Rule 26. The higher incarnation answered and ended long ago. The lower one was paused, and
/// resumes.
#[test]
fn answer_of_ended_process_does_not_count() {
    let mut net = Net::new(3, 3, 1);
    let first = net.acquire(3, "k", TTL);
    net.run_for(ms(100));
    net.release(3, first);
    net.sleep(3, ms(600_000));
    let later = net.seat_beside(3, 77);
    // Packets to the paused process are lost until shortly before the end.
    net.fate = losing(|packet| packet.to == 3);
    net.start(later, Start::Recovering);
    let own = net.acquire(later, "k", TTL);
    net.run_for(ms(20_000));
    assert!(net.holds(later, own));
    net.with(later, |node, now| node.release_all(now));
    net.run_for(ms(1_000));
    net.crash(later);
    net.run_for(ms(600_000));
    net.fate = straight();
    let again = net.acquire(3, "k", TTL);
    net.run_for(ms(2_000));
    let twin = net.node(3).twin();
    assert!(twin.is_none(), "{twin:?}; holds: {}", net.holds(3, again));
}

/// The wall clock of a process was set back, and it starts twice, each time at a new address.
#[test]
fn lower_incarnation_restarted_elsewhere_is_accepted_soon() {
    let mut net = Net::of(3, 3, 1);
    let timing = Timing {
        max_ttl: Duration::from_secs(3_600),
        ..timing()
    };
    let members = net.voter_set.members().to_vec();
    net.voter_set = Arc::new(VoterSet::new(1, members, 3, timing).unwrap());
    (0..3).for_each(|seat| net.start(seat, Start::NewCluster));
    net.run_for(ms(1_000));
    net.seats[3].incarnation = 1_000_000;
    net.start(3, Start::Recovering);
    let first = net.acquire(3, "k0", TTL);
    net.run_until(ms(1_000), |net| net.holds(3, first));
    let voter_set = net.voter_set.clone();
    for start in 1..=2_u64 {
        net.crash(3);
        net.seats[3].port = 70 + start as u16;
        net.seats[3].incarnation = 100 + start;
        net.start_in(3, Start::Recovering, voter_set.clone());
        let ticket = net.acquire(3, &format!("k{start}"), TTL);
        let began = net.time;
        while !net.holds(3, ticket) && net.time < began + ms(300_000) {
            net.run_for(ms(100));
        }
        let took = net.time - began;
        assert!(took < ms(5_000), "start {start}: {took:?} for a free key");
        net.run_for(ms(500));
    }
}

/// Datagrams of one twin arrive between the challenges to the other.
#[test]
fn twins_below_dead_incarnation_are_notified() {
    let mut net = Net::new(3, 3, 1);
    net.crash(3);
    net.seats[3].incarnation = 1_000_000;
    net.start(3, Start::Recovering);
    let first = net.acquire(3, "k", TTL);
    net.run_until(ms(1_000), |net| net.holds(3, first));
    net.crash(3);
    let voter_set = net.voter_set.clone();
    net.seats[3].port = 71;
    net.seats[3].incarnation = 101;
    let twin = net.seat_beside(3, 72);
    net.seats[twin].incarnation = 102;
    for seat in [3, twin] {
        net.start_in(seat, Start::Recovering, voter_set.clone());
        net.acquire(seat, "l", TTL);
        net.run_for(ms(7));
    }
    net.run_for(ms(600_000));
    let told = [3, twin].map(|seat| {
        let node = net.node(seat);
        node.twin().is_some() || node.claimant().incarnation().get() > 1_000_000
    });
    assert_ne!(
        told,
        [false, false],
        "ten minutes, and neither is told of anything"
    );
}
