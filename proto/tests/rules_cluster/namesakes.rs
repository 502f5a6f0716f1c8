//! Rules 25 to 27: two processes with one name, and a process that restarts elsewhere.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{Event, Message, Start, Timing, VoterSet};

const TTL: Duration = ms(2_000);
/// Half of `max_ttl`. A twin counts as gone if it is not reported for this long.
const GONE: Duration = ms(15_000);

fn is_stopped(cluster: &Cluster, seat: usize) -> bool {
    cluster.node(seat).twin().is_some()
}

fn count(cluster: &Cluster, seat: usize, event: &Event) -> usize {
    let told = cluster
        .log
        .iter()
        .filter(|(_, by, it)| (*by, it) == (seat, event));
    told.count()
}

/// The holder keeps running, and another process of its name claims the same lock.
#[test]
fn later_incarnation_elsewhere_frees_no_held_lease() {
    let mut cluster = Cluster::new(3, 3, 2);
    let held = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", ms(30_000));
    let twin = cluster.seat_beside(3, 77);
    // The twin's datagrams reach the voters, but theirs reach no process of that name.
    cluster.lose(move |packet| packet.to == 3 || packet.to == twin);
    cluster.start(twin, Start::Recovering);
    let own = cluster.acquire(twin, "k", TTL);
    cluster.run_for(ms(15_000));
    assert!(cluster.holds(3, held), "it cannot know of the twin");
    assert_eq!(cluster.granted(4, next), None);
    assert_eq!(cluster.granted(twin, own), None);
    cluster.run_for(ms(16_000));
    assert!(!cluster.holds(3, held));
    assert!(cluster.granted(4, next).is_some(), "by the clock");
}

#[test]
fn claiming_twins_lose_leases_and_claim_nothing() {
    let mut cluster = Cluster::new(3, 3, 2);
    let held = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let twin = cluster.seat_beside(3, 77);
    cluster.start(twin, Start::Recovering);
    let own = cluster.acquire(twin, "k", TTL);
    cluster.run_for(ms(100));
    assert!(is_stopped(&cluster, 3) && is_stopped(&cluster, twin));
    assert!(!cluster.holds(3, held));
    let (mine, other) = cluster
        .node(3)
        .twin()
        .map(|it| (it.mine, it.other))
        .unwrap();
    assert_eq!((mine.port(), other.port()), (3, 77));
    let more = [
        cluster.acquire(3, "l", TTL),
        cluster.acquire(twin, "m", TTL),
    ];
    cluster.run_for(ms(120_000));
    assert_eq!(cluster.granted(twin, own), None);
    assert_eq!(cluster.granted(3, more[0]), None);
    assert_eq!(cluster.granted(twin, more[1]), None);
    assert!(is_stopped(&cluster, 3) && is_stopped(&cluster, twin));
    assert_eq!(count(&cluster, 3, &Event::TwinFound), 1);
    let first = cluster.node(3).claimant().incarnation();
    cluster.crash(twin);
    let took = cluster.run_until(GONE + ms(5_000), |cluster| {
        cluster.granted(3, more[0]).is_some()
    });
    assert!(took > GONE - ms(5_000), "{took:?}");
    assert!(cluster.node(3).claimant().incarnation() > first);
}

/// The remaining process sits out a quarantine before it votes.
#[test]
fn twins_of_voter_stop_until_one_remains() {
    let mut cluster = Cluster::new(3, 3, 1);
    let twin = cluster.seat_beside(2, 77);
    cluster.start(twin, Start::Recovering);
    cluster.run_for(ms(100));
    assert!(is_stopped(&cluster, 2) && is_stopped(&cluster, twin));
    assert!(!cluster.votes(2) && !cluster.votes(twin));
    let ticket = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, ticket));
    cluster.run_for(ms(100_000));
    assert!(!cluster.votes(2) && !cluster.votes(twin));
    assert!(cluster.holds(3, ticket), "two of three vote");
    cluster.crash(2);
    cluster.run_for(GONE + ms(500));
    assert!(!is_stopped(&cluster, twin) && !cluster.votes(twin));
    cluster.run_for(ms(32_000));
    assert!(cluster.votes(twin));
    cluster.crash(0);
    let other = cluster.acquire(3, "l", TTL);
    cluster.run_until(ms(1_000), |cluster| cluster.holds(3, other));
}

/// Its peers already know its name.
#[test]
fn twin_started_as_new_cluster_does_not_vote() {
    let mut cluster = Cluster::new(3, 3, 0);
    let twin = cluster.seat_beside(2, 77);
    cluster.start(twin, Start::NewCluster);
    cluster.run_for(ms(1_000));
    assert!(!cluster.votes(2) && !cluster.votes(twin));
}

/// The wall clock of the second process is behind, so its incarnation is lower.
#[test]
fn twin_with_lower_incarnation_is_found() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.crash(3);
    cluster.seats[3].incarnation = 50;
    cluster.start(3, Start::Recovering);
    let held = cluster.acquire(3, "k", ms(30_000));
    cluster.run_for(ms(100));
    let twin = cluster.seat_beside(3, 77);
    cluster.seats[twin].incarnation = 7;
    let config = cluster.config(twin, Start::Recovering);
    cluster.start_with(twin, config);
    cluster.acquire(twin, "k", TTL);
    cluster.run_for(ms(500));
    assert!(is_stopped(&cluster, 3) && is_stopped(&cluster, twin));
    assert!(!cluster.holds(3, held));
    assert!(cluster.holders(&key("k")).is_empty());
}

/// The process was replaced while it was paused, and resumes.
#[test]
fn replaced_paused_process_stops_with_its_successor() {
    let mut cluster = Cluster::new(3, 3, 2);
    let held = cluster.acquire(3, "k", ms(10_000));
    cluster.run_for(ms(100));
    cluster.pause(3, ms(60_000));
    let twin = cluster.seat_beside(3, 77);
    cluster.start(twin, Start::Recovering);
    let own = cluster.acquire(twin, "k", TTL);
    cluster.run_until(ms(11_000), |cluster| cluster.holds(twin, own));
    cluster.run_for(ms(40_000));
    assert!(cluster.holds(twin, own));
    cluster.run_for(ms(20_000));
    assert!(is_stopped(&cluster, 3) && is_stopped(&cluster, twin));
    assert!(!cluster.holds(3, held) && !cluster.holds(twin, own));
}

/// No process stops, and the lease of its earlier incarnation ends by the clock.
#[test]
fn process_restarted_elsewhere_keeps_running() {
    let mut cluster = Cluster::new(3, 3, 2);
    cluster.acquire(3, "k", ms(10_000));
    cluster.run_for(ms(100));
    let next = cluster.acquire(4, "k", TTL);
    cluster.crash(3);
    cluster.seats[3].port = 77;
    cluster.start(3, Start::Recovering);
    let own = cluster.acquire(3, "l", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, own));
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.granted(4, next), None);
    cluster.run_until(ms(6_000), |cluster| cluster.granted(4, next).is_some());
    cluster.run_for(ms(100_000));
    assert!(cluster.holds(3, own) && !is_stopped(&cluster, 3));
    assert_eq!(count(&cluster, 3, &Event::TwinFound), 0);
}

/// They arrive late and repeatedly, and answer no challenge.
#[test]
fn late_datagrams_of_dead_incarnation_stop_nobody() {
    let mut cluster = Cluster::new(3, 3, 1);
    let is_claim = |message: &Message| matches!(message, Message::Claim(_));
    cluster.decide(
        move |packet| match packet.from == 3 && packet.has(is_claim) {
            true => (0..20).map(|n| ms(5 + n * 1_000)).collect(),
            false => vec![ONE_WAY],
        },
    );
    cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(10));
    cluster.crash(3);
    cluster.seats[3].port = 77;
    cluster.heal();
    cluster.start(3, Start::Recovering);
    let own = cluster.acquire(3, "l", TTL);
    cluster.run_until(ms(100), |cluster| cluster.holds(3, own));
    cluster.run_for(ms(30_000));
    assert!(cluster.holds(3, own));
    assert_eq!(count(&cluster, 3, &Event::TwinFound), 0);
}

/// The network interface changes while the process runs.
#[test]
fn same_incarnation_from_another_address_is_no_twin() {
    let mut cluster = Cluster::new(3, 3, 1);
    let held = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(100));
    for port in [77, 78, 3] {
        cluster.seats[3].port = port;
        cluster.run_for(ms(10_000));
        assert!(cluster.holds(3, held), "{port}");
    }
    // A voter that only answers is contacted at the address that gossip reports.
    cluster.seats[1].port = 79;
    let view = cluster.view();
    cluster.with(3, |node, now| node.handle_view(now, &view));
    cluster.run_for(ms(10_000));
    cluster.crash(2);
    cluster.run_for(ms(10_000));
    assert!(cluster.holds(3, held), "the voter that moved counts");
    assert_eq!(count(&cluster, 3, &Event::TwinFound), 0);
}

/// The second `Namesake` arrives when the process has a later incarnation.
#[test]
fn namesake_for_another_incarnation_is_ignored() {
    let mut cluster = Cluster::new(3, 3, 1);
    let twin = cluster.seat_beside(3, 77);
    let is_word = |message: &Message| matches!(message, Message::Namesake(_));
    cluster.decide(move |packet| match packet.has(is_word) {
        true => vec![ONE_WAY, ms(60_000)],
        false => vec![ONE_WAY],
    });
    cluster.start(twin, Start::Recovering);
    cluster.run_for(ms(100));
    cluster.crash(twin);
    cluster.run_for(ms(20_000));
    assert!(!is_stopped(&cluster, 3));
    let held = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(60_000));
    assert!(cluster.holds(3, held));
    assert_eq!(count(&cluster, 3, &Event::TwinFound), 1);
}

/// Returns the datagrams sent per second while a voter has a twin, with `guests` clients.
fn sent_beside_twin(guests: usize) -> usize {
    let mut cluster = Cluster::new(3, 3, guests);
    let twin = cluster.seat_beside(2, 7_777);
    cluster.start(twin, Start::Recovering);
    cluster.run_for(ms(5_000));
    let before = cluster.datagrams;
    cluster.run_for(ms(20_000));
    (cluster.datagrams - before) / 20
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
    let mut cluster = Cluster::new(3, 3, 1);
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(100));
    cluster.release(3, first);
    cluster.pause(3, ms(600_000));
    let later = cluster.seat_beside(3, 77);
    // Packets to the paused process are lost until shortly before the end.
    cluster.lose(|packet| packet.to == 3);
    cluster.start(later, Start::Recovering);
    let own = cluster.acquire(later, "k", TTL);
    cluster.run_for(ms(20_000));
    assert!(cluster.holds(later, own));
    cluster.with(later, |node, now| node.release_all(now));
    cluster.run_for(ms(1_000));
    cluster.crash(later);
    cluster.run_for(ms(600_000));
    cluster.heal();
    let again = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(2_000));
    let twin = cluster.node(3).twin();
    assert!(
        twin.is_none(),
        "{twin:?}; holds: {}",
        cluster.holds(3, again)
    );
}

/// The wall clock of a process was set back, and it starts twice, each time at a new address.
#[test]
fn lower_incarnation_restarted_elsewhere_is_accepted_soon() {
    let mut cluster = Cluster::of(3, 3, 1);
    let timing = Timing {
        max_ttl: Duration::from_secs(3_600),
        ..timing()
    };
    let members = cluster.voter_set.members().to_vec();
    cluster.voter_set = Arc::new(VoterSet::new(1, members, 3, timing).unwrap());
    (0..3).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.run_for(ms(1_000));
    cluster.seats[3].incarnation = 1_000_000;
    cluster.start(3, Start::Recovering);
    let first = cluster.acquire(3, "k0", TTL);
    cluster.run_until(ms(1_000), |cluster| cluster.holds(3, first));
    for start in 1..=2_u64 {
        cluster.crash(3);
        cluster.seats[3].port = 70 + start as u16;
        cluster.seats[3].incarnation = 100 + start;
        let config = cluster.config(3, Start::Recovering);
        cluster.start_with(3, config);
        let ticket = cluster.acquire(3, &format!("k{start}"), TTL);
        let began = cluster.time;
        while !cluster.holds(3, ticket) && cluster.time < began + ms(300_000) {
            cluster.run_for(ms(100));
        }
        let took = cluster.time - began;
        assert!(took < ms(5_000), "start {start}: {took:?} for a free key");
        cluster.run_for(ms(500));
    }
}

/// Datagrams of one twin arrive between the challenges to the other.
#[test]
fn twins_below_dead_incarnation_are_notified() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.crash(3);
    cluster.seats[3].incarnation = 1_000_000;
    cluster.start(3, Start::Recovering);
    let first = cluster.acquire(3, "k", TTL);
    cluster.run_until(ms(1_000), |cluster| cluster.holds(3, first));
    cluster.crash(3);
    cluster.seats[3].port = 71;
    cluster.seats[3].incarnation = 101;
    let twin = cluster.seat_beside(3, 72);
    cluster.seats[twin].incarnation = 102;
    for seat in [3, twin] {
        let config = cluster.config(seat, Start::Recovering);
        cluster.start_with(seat, config);
        cluster.acquire(seat, "l", TTL);
        cluster.run_for(ms(7));
    }
    cluster.run_for(ms(600_000));
    let told = [3, twin].map(|seat| {
        let node = cluster.node(seat);
        node.twin().is_some() || node.claimant().incarnation().get() > 1_000_000
    });
    assert_ne!(
        told,
        [false, false],
        "ten minutes, and neither is told of anything"
    );
}
