//! Voters without a journal that leave their memory with others when they are shut down.

use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{
    Epoch, Event, Handover, Message, Node, NodeId, Now, Start, Ticket, VoterLimits,
};

const TTL: Duration = ms(10_000);
const AT_MOST: Duration = ms(2_000);
/// The time in which a voter takes its memory up: two round trips and the first news.
const RESUME: Duration = ms(60);

/// Grants the key to the first client, and returns its request and epoch.
fn hold(cluster: &mut Cluster, name: &str) -> (Ticket, Epoch) {
    let client = cluster.voter_set.members().len();
    let ticket = cluster.acquire(client, name, TTL);
    cluster.run_for(ms(100));
    let (_, epoch) = cluster.granted(client, ticket).unwrap();
    (ticket, epoch)
}

fn hand_over(node: &mut Node, now: Now) {
    node.release_all(now);
    node.hand_over(now, AT_MOST);
}

/// Returns the voters that took the memory of a seat, of its last handover.
fn keepers(cluster: &Cluster, seat: usize) -> Option<Vec<NodeId>> {
    let mut log = cluster.log.iter().rev();
    log.find_map(|(_, by, event)| match event {
        Event::HandedOver { voters } if *by == seat => Some(voters.clone()),
        _ => None,
    })
}

fn took_up(cluster: &Cluster, seat: usize) -> bool {
    let mut log = cluster.log.iter().rev();
    let last = log.find(|(_, by, event)| {
        let is_start = matches!(
            event,
            Event::TookUp { .. } | Event::QuarantineBegan { .. } | Event::Resumed { .. }
        );
        *by == seat && is_start
    });
    last.is_some_and(|(.., event)| matches!(event, Event::TookUp { .. }))
}

/// Shuts a seat down, and returns the voters that have its memory.
fn shut_down(cluster: &mut Cluster, seat: usize) -> Vec<NodeId> {
    let logged = cluster.log.len();
    cluster.with(seat, hand_over);
    cluster.run_until(ms(2_100), move |cluster| {
        let new = cluster.log[logged..].iter();
        let mut new = new.filter(|(_, by, _)| *by == seat);
        new.any(|(.., event)| matches!(event, Event::HandedOver { .. }))
    });
    cluster.crash(seat);
    keepers(cluster, seat).unwrap()
}

fn is_handover(message: &Message) -> bool {
    matches!(message, Message::Handover(_))
}

#[test]
fn rolling_restart_loses_neither_votes_nor_locks() {
    for members in [2, 3, 4, 5, 7] {
        let mut cluster = Cluster::new(members, members, 1);
        let (ticket, epoch) = hold(&mut cluster, "k");
        for _ in 0..2 {
            for seat in 0..members {
                let keepers = shut_down(&mut cluster, seat);
                let expected = [1, 1, 1, 3, 3, 5][(members - 1).min(5)];
                assert_eq!(keepers.len(), expected, "{members}");
                cluster.run_for(ms(500));
                cluster.start(seat, Start::Recovering);
                assert!(!cluster.votes(seat));
                cluster.run_for(RESUME);
                assert!(cluster.votes(seat) && took_up(&cluster, seat), "{members}");
            }
        }
        assert!(cluster.holds(members, ticket));
        let other = cluster.try_acquire(0, "k", TTL);
        cluster.run_for(ms(1_000));
        assert!(cluster.is_denied(0, other));
        assert!(cluster.release(members, ticket));
        let next = cluster.acquire(1, "k", TTL);
        cluster.run_for(ms(1_000));
        assert!(cluster.granted(1, next).unwrap().1 > epoch);
    }
}

/// Gossip is late: it reports voters as dead for a moment after a restart.
#[test]
fn voters_that_just_restarted_are_keepers() {
    let mut cluster = Cluster::new(3, 3, 1);
    let mut view = cluster.view();
    for seat in [0, 1] {
        let id = cluster.node(seat).id().clone();
        view.peers.get_mut(&id).unwrap().alive = false;
        assert_eq!(shut_down(&mut cluster, seat).len(), 1);
        cluster.start(seat, Start::Recovering);
        cluster.run_for(RESUME);
        assert!(took_up(&cluster, seat));
    }
    cluster.with(2, |node, now| node.handle_view(now, &view));
    assert_eq!(shut_down(&mut cluster, 2).len(), 1);
    cluster.start(2, Start::Recovering);
    cluster.run_for(RESUME);
    assert!(took_up(&cluster, 2));
}

/// A shutdown does not wait for a dead voter while another has answered.
#[test]
fn dead_voter_is_not_awaited() {
    let mut cluster = Cluster::new(3, 3, 1);
    let dead = cluster.node(0).id().clone();
    cluster.crash(0);
    let mut view = cluster.view();
    view.peers.get_mut(&dead).unwrap().alive = false;
    cluster.with(2, |node, now| node.handle_view(now, &view));
    let before = cluster.time;
    assert_eq!(shut_down(&mut cluster, 2).len(), 1);
    assert!(cluster.time - before < ms(100));
}

#[test]
fn crash_without_handover_costs_a_quarantine() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(20_000));
    assert!(!cluster.votes(0) && !took_up(&cluster, 0));
}

#[test]
fn memory_of_many_votes_arrives_despite_loss() {
    let mut cluster = Cluster::new(3, 3, 1);
    let tickets: Vec<Ticket> = (0..2_000)
        .map(|n| cluster.acquire(3, &format!("key number {n}"), TTL))
        .collect();
    cluster.run_for(ms(500));
    let mut random = Random(1);
    cluster.decide(move |packet| {
        let is_part = packet.has(is_handover);
        match random.below(10) {
            0..2 if is_part => vec![],
            2..4 if is_part => vec![ms(5), ms(40)],
            _ => vec![ms(5)],
        }
    });
    assert_eq!(shut_down(&mut cluster, 0).len(), 1);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(2_000));
    assert!(took_up(&cluster, 0));
    assert_eq!(cluster.node(0).voter().unwrap().slots(), 2_000);
    assert!(tickets.iter().all(|ticket| cluster.holds(3, *ticket)));
}

#[test]
fn too_many_votes_are_not_handed_over() {
    let mut cluster = Cluster::of(3, 3, 1);
    for seat in 0..4 {
        cluster.seats[seat].incarnation += 1;
        let mut config = cluster.config(seat, Start::NewCluster);
        config.limits = VoterLimits {
            handover_votes_max: 1,
            ..config.limits
        };
        cluster.start_with(seat, config);
    }
    cluster.run_for(ms(100));
    hold(&mut cluster, "a");
    assert_eq!(shut_down(&mut cluster, 0).len(), 1);
    hold(&mut cluster, "b");
    assert_eq!(shut_down(&mut cluster, 1), []);
}

#[test]
fn leaving_voter_gives_no_vote() {
    let mut cluster = Cluster::new(3, 3, 1);
    cluster.lose(|packet| packet.has(is_handover));
    cluster.with(0, hand_over);
    let other = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(500));
    assert!(cluster.granted(3, other).is_some(), "by the other two");
    assert_eq!(cluster.node(0).voter().unwrap().slots(), 0);
    assert_eq!(keepers(&cluster, 0), None);
    cluster.run_for(ms(2_000));
    assert_eq!(keepers(&cluster, 0), Some(vec![]));
}

/// The keeper drops the memory at the second incarnation, so that nobody takes it twice.
#[test]
fn second_incarnation_gets_nothing() {
    let mut cluster = Cluster::new(3, 3, 1);
    hold(&mut cluster, "k");
    shut_down(&mut cluster, 0);
    cluster.lose(|packet| packet.has(is_handover));
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(500));
    cluster.crash(0);
    cluster.heal();
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(2_000));
    assert!(!cluster.votes(0));
}

#[test]
fn keeper_that_restarts_forgets_the_memory() {
    let mut cluster = Cluster::new(3, 3, 1);
    hold(&mut cluster, "k");
    let kept = shut_down(&mut cluster, 0);
    let ids: Vec<NodeId> = cluster.voter_set.members().to_vec();
    let keeper = ids.iter().position(|id| *id == kept[0]).unwrap();
    cluster.crash(keeper);
    cluster.start(keeper, Start::Recovering);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(2_000));
    assert!(!cluster.votes(0));
}

#[test]
fn memory_is_kept_for_less_than_a_quarantine() {
    for (waits, takes) in [(29_000, true), (29_800, false)] {
        let mut cluster = Cluster::new(3, 3, 1);
        shut_down(&mut cluster, 0);
        cluster.run_for(ms(waits));
        cluster.start(0, Start::Recovering);
        cluster.run_for(RESUME);
        assert_eq!(cluster.votes(0), takes, "after {waits} ms");
    }
}

#[test]
fn nobody_to_keep_the_memory_ends_the_handover() {
    let mut cluster = Cluster::new(3, 3, 1);
    (1..3).for_each(|seat| cluster.crash(seat));
    let began = cluster.time;
    assert_eq!(shut_down(&mut cluster, 0), []);
    assert!(cluster.time - began <= ms(1_100));
    let mut alone = Cluster::new(1, 1, 1);
    let began = alone.time;
    assert_eq!(shut_down(&mut alone, 0), []);
    assert_eq!(alone.time, began);
}

/// All leave at once: nobody keeps anything, and nobody waits for long.
#[test]
fn leaving_voters_refuse_each_other() {
    let mut cluster = Cluster::new(3, 3, 1);
    let began = cluster.time;
    (0..3).for_each(|seat| cluster.with(seat, hand_over));
    let all_done =
        |cluster: &Cluster| (0..3).all(|seat| keepers(cluster, seat) == Some(Vec::new()));
    cluster.run_until(ms(100), all_done);
    assert!(cluster.time - began <= ms(20));
}

/// A late word of the incarnation that left makes a restarted keeper draw another token.
#[test]
fn late_entrust_at_restarted_keeper_counts_for_nothing() {
    let mut cluster = Cluster::new(5, 5, 1);
    hold(&mut cluster, "k");
    let mut late = None;
    let kept = {
        let caught = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let catches = caught.clone();
        cluster.decide(move |packet| {
            if packet.from == 0 && packet.has(is_handover) {
                catches.borrow_mut().push(packet.clone());
            }
            vec![ms(5)]
        });
        let kept = shut_down(&mut cluster, 0);
        late.replace(caught.borrow().clone());
        cluster.heal();
        kept
    };
    assert_eq!(kept.len(), 3);
    let ids: Vec<NodeId> = cluster.voter_set.members().to_vec();
    let keepers = ids.iter().enumerate().filter(|(_, id)| kept.contains(id));
    let keepers: Vec<usize> = keepers.map(|(seat, _)| seat).collect();
    for seat in &keepers[1..] {
        cluster.crash(*seat);
        cluster.start(*seat, Start::Recovering);
    }
    cluster.run_for(ms(100));
    // Everything that was sent arrives once more.
    for packet in late.iter().flatten() {
        let from = std::net::SocketAddr::from(([127, 0, 0, 1], packet.from_port));
        cluster.with(packet.to, |node, now| {
            node.handle_datagram(now, from, &packet.bytes);
        });
    }
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(2_000));
    assert!(!cluster.votes(0), "one of three keepers has not restarted");
}

/// The keepers of an incarnation are fixed once.
#[test]
fn second_call_hands_nothing_over() {
    let mut cluster = Cluster::new(3, 3, 1);
    hold(&mut cluster, "k");
    cluster.with(0, hand_over);
    cluster.run_for(ms(8));
    cluster.with(0, hand_over);
    cluster.run_for(ms(100));
    assert_eq!(keepers(&cluster, 0).map(|them| them.len()), Some(1));
    let logged = cluster.log.len();
    cluster.with(0, hand_over);
    assert_eq!(cluster.log.len(), logged + 1);
    assert_eq!(keepers(&cluster, 0), Some(vec![]));
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(RESUME);
    assert!(took_up(&cluster, 0), "from the first call");
}

/// A voter that is told that it is new takes a handover first.
#[test]
fn bootstrap_takes_the_handover() {
    let mut cluster = Cluster::new(3, 3, 1);
    let (ticket, _) = hold(&mut cluster, "k");
    for seat in 0..3 {
        shut_down(&mut cluster, seat);
        cluster.start(seat, Start::NewCluster);
        cluster.run_for(RESUME);
        assert!(cluster.votes(seat) && took_up(&cluster, seat));
    }
    assert!(cluster.holds(3, ticket));
}

/// A voter that gets a disk writes the memory into its new journal.
#[test]
fn new_journal_has_the_memory_that_was_taken_up() {
    let mut cluster = Cluster::new(3, 3, 1);
    let (ticket, _) = hold(&mut cluster, "k");
    shut_down(&mut cluster, 0);
    cluster.seats[0].disk = Some(Disk::new(false));
    cluster.start(0, Start::Recovering);
    cluster.run_for(RESUME);
    assert!(took_up(&cluster, 0));
    cluster.crash(0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(RESUME);
    assert!(cluster.votes(0) && !took_up(&cluster, 0), "from its disk");
    assert_eq!(cluster.node(0).voter().unwrap().slots(), 1);
    assert!(cluster.holds(3, ticket));
}

/// A voter with a journal has its memory there, and leaves none with others.
#[test]
fn voter_with_journal_hands_nothing_over() {
    let mut cluster = Cluster::with_journals(3, 3, 1, false);
    assert_eq!(shut_down(&mut cluster, 0), []);
}

#[test]
fn token_is_the_same_for_a_question_asked_twice() {
    let mut cluster = Cluster::new(3, 3, 1);
    let tokens = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = tokens.clone();
    cluster.decide(move |packet| {
        for message in packet.messages() {
            if let Message::Handover(it) = message
                && let Handover::Token { token, .. } = *it
            {
                seen.borrow_mut().push((packet.from, token));
            }
        }
        // Every datagram is doubled.
        vec![ms(5), ms(9)]
    });
    assert_eq!(shut_down(&mut cluster, 0).len(), 1);
    let mut tokens = tokens.borrow().clone();
    assert!(tokens.len() > 2, "{tokens:?}");
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 2, "one of each: {tokens:?}");
}
