//! Nodes of two versions of the protocol in one cluster.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{DropReason, Event, Message, Note, Request, Start};

use super::marks::{once, run_tick};

const TTL: Duration = ms(10_000);
/// The longest interval between two probes: half a `max_ttl`.
const PROBE: Duration = ms(15_000);

/// A datagram: its time is that of its step.
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: usize,
    to: usize,
    version: u8,
    /// The newest version that has all of its messages.
    needs: u8,
    /// `true` if it asks for an answer, and nothing else.
    is_probe: bool,
}

/// Records all datagrams from now on.
fn watch(cluster: &mut Cluster) -> Rc<RefCell<Vec<Seen>>> {
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let records = seen.clone();
    cluster.decide(move |packet| {
        let messages = packet.messages();
        records.borrow_mut().push(Seen {
            from: packet.from,
            to: packet.to,
            version: packet.bytes[0],
            needs: messages.iter().map(Message::version).max().unwrap_or(1),
            is_probe: matches!(&messages[..], [Message::Challenge(_)]),
        });
        vec![ONE_WAY]
    });
    seen
}

fn slots(cluster: &Cluster, seat: usize) -> usize {
    cluster.node(seat).voter().unwrap().slots()
}

/// Starts three voters with journals and a client. Those at `old` speak version 1.
fn mixed(old: &[usize], announces: bool) -> (Cluster, Rc<RefCell<Vec<Seen>>>) {
    let mut cluster = Cluster::of(3, 3, 1);
    cluster.announces_versions = announces;
    for seat in 0..4 {
        cluster.seats[seat].disk = (seat < 3).then(|| Disk::new(false));
        cluster.seats[seat].speaks = if old.contains(&seat) { 1 } else { 2 };
    }
    let seen = watch(&mut cluster);
    (0..4).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.run_for(ms(100));
    assert!((0..3).all(|seat| cluster.votes(seat)));
    (cluster, seen)
}

/// No datagram to or from an old node is of a version that it does not read.
fn check_old(seen: &[Seen], old: usize) {
    for it in seen.iter().filter(|it| it.to == old || it.from == old) {
        assert_eq!((it.version, it.needs), (1, 1), "{it:?}");
    }
}

fn check_readable(seen: &[Seen]) {
    assert!(seen.iter().all(|it| it.needs <= it.version));
}

#[test]
fn locks_work_both_ways_with_an_old_voter() {
    let (mut cluster, seen) = mixed(&[0], true);
    for seat in [0, 1, 3] {
        let ticket = cluster.acquire(seat, "k", TTL);
        cluster.run_for(ms(20_000));
        assert!(cluster.holds(seat, ticket), "{seat}");
        assert_eq!(slots(&cluster, 0), 1);
        let denied = cluster.try_acquire((seat + 2) % 4, "k", TTL);
        cluster.run_for(ms(1_000));
        assert!(cluster.is_denied((seat + 2) % 4, denied));
        cluster.release(seat, ticket);
        cluster.run_for(ms(100));
    }
    check_old(&seen.borrow(), 0);
    check_readable(&seen.borrow());
    let both = seen.borrow().iter().any(|it| it.version == 2);
    assert!(both, "the others speak version 2");
}

/// A note is advice: an old voter is sent none, and a voter that has none votes all the same.
#[test]
fn notes_pass_by_old_voters() {
    let (mut cluster, seen) = mixed(&[0], true);
    let note = Note::new("deploy 812").unwrap();
    let request = Request {
        note: Some(note.clone()),
        ..Cluster::request("k", TTL)
    };
    let ticket = cluster.claim(3, request);
    cluster.run_for(ms(1_000));
    assert!(cluster.holds(3, ticket));
    let deadline = cluster.with(1, |_, now| Some(now.mono.after(ms(5_000))));
    let waits = cluster.claim(
        1,
        Request {
            deadline,
            ..Cluster::request("k", TTL)
        },
    );
    cluster.run_for(ms(6_000));
    let named = cluster.log.iter().find_map(|(_, _, event)| match event {
        Event::TimedOut { ticket, holder, .. } if *ticket == waits => holder.clone(),
        _ => None,
    });
    let named = named.unwrap();
    assert_eq!(named.note, Some(note));
    assert!(named.held_for > ms(5_900), "{named:?}");
    // A note that is not sent is no datagram that was lost.
    let unsent = |seat| {
        cluster
            .node(seat)
            .traffic()
            .dropped_for(DropReason::Version)
    };
    assert_eq!([0, 1, 2, 3].map(unsent), [0; 4]);
    check_old(&seen.borrow(), 0);
    check_readable(&seen.borrow());
}

#[test]
fn once_claims_get_no_vote_from_an_old_voter() {
    let (mut cluster, seen) = mixed(&[0], true);
    run_tick(&mut cluster, 3, "first");
    let ticket = cluster.claim(3, once("tick"));
    cluster.run_for(ms(1_000));
    assert!(cluster.holds(3, ticket), "two of three are enough");
    assert_eq!((slots(&cluster, 0), slots(&cluster, 1)), (0, 1));
    assert_eq!(cluster.node(0).voter().unwrap().marks(), 0);
    check_old(&seen.borrow(), 0);
    // It is replaced by a new version, and takes part.
    cluster.crash(0);
    cluster.seats[0].speaks = 2;
    cluster.start(0, Start::Recovering);
    let view = cluster.view();
    (1..4).for_each(|seat| cluster.with(seat, |node, now| node.handle_view(now, &view)));
    cluster.run_for(ms(10_000));
    assert!(cluster.holds(3, ticket));
    assert_eq!(slots(&cluster, 0), 1);
    cluster
        .with(3, |node, now| node.mark(now, ticket, TTL))
        .unwrap();
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.node(0).voter().unwrap().marks(), 1);
    check_readable(&seen.borrow());
}

#[test]
fn once_claims_are_granted_to_nobody_by_old_voters() {
    let (mut cluster, seen) = mixed(&[0, 1], true);
    let ticket = cluster.claim(3, once("tick"));
    cluster.run_for(ms(60_000));
    assert!(!cluster.holds(3, ticket));
    assert_eq!((slots(&cluster, 0), slots(&cluster, 1)), (0, 0));
    check_old(&seen.borrow(), 0);
    check_old(&seen.borrow(), 1);
}

/// An old claimant asks for a key that is marked. It gets no vote, and nothing that it cannot read.
#[test]
fn old_claimant_is_not_granted_a_marked_key() {
    let (mut cluster, seen) = mixed(&[0], true);
    run_tick(&mut cluster, 3, "tick");
    let request = Request {
        deadline: Some(lockmesh_proto::Instant::from_nanos(8_000_000_000)),
        ..Cluster::request("tick", TTL)
    };
    let ticket = cluster.claim(0, request);
    cluster.run_for(ms(20_000));
    assert_eq!(cluster.granted(0, ticket), None);
    let timed_out =
        |event: &Event| matches!(event, Event::TimedOut { ticket: it, .. } if *it == ticket);
    assert!(
        cluster
            .log
            .iter()
            .any(|(_, by, it)| *by == 0 && timed_out(it))
    );
    check_old(&seen.borrow(), 0);
}

/// If gossip does not tell, for example before it begins, nodes find out.
#[test]
fn versions_are_found_out_by_probing() {
    let (mut cluster, seen) = mixed(&[], false);
    run_tick(&mut cluster, 3, "first");
    check_readable(&seen.borrow());
    // The first probes of all are lost.
    let mut cluster = Cluster::of(3, 3, 1);
    cluster.announces_versions = false;
    cluster.lose(|packet| packet.bytes[0] == 2);
    (0..4).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.run_for(ms(1_000));
    let ticket = cluster.claim(3, once("tick"));
    let plain = cluster.acquire(3, "plain", TTL);
    cluster.run_for(ms(5_000));
    assert!(!cluster.holds(3, ticket) && cluster.holds(3, plain));
    cluster.heal();
    let took = cluster.run_until(PROBE + ms(1_000), |cluster| cluster.holds(3, ticket));
    assert!(took > Duration::ZERO);
}

/// An old node drops a probe, and nothing is lost by it.
#[test]
fn old_node_is_probed_at_most_every_half_max_ttl() {
    let (mut cluster, seen) = mixed(&[0], false);
    let ticket = cluster.acquire(3, "k", TTL);
    cluster.run_for(ms(100));
    assert!(cluster.holds(3, ticket));
    seen.borrow_mut().clear();
    cluster.run_for(PROBE * 10);
    assert!(cluster.holds(3, ticket));
    for from in 1..4 {
        let seen = seen.borrow();
        let to_old = seen.iter().filter(|it| (it.from, it.to) == (from, 0));
        let probes: Vec<_> = to_old.clone().filter(|it| it.version == 2).collect();
        assert!(
            probes.iter().all(|it| it.is_probe),
            "{from}: a probe is alone"
        );
        assert!(probes.len() <= 10, "{from}: {}", probes.len());
        assert!(from != 3 || probes.len() >= 8, "{from}: {}", probes.len());
        let others = to_old.filter(|it| it.version == 1).count();
        assert!(from != 3 || others > probes.len(), "{from}: {others}");
    }
    assert!(
        seen.borrow()
            .iter()
            .filter(|it| it.from == 0)
            .all(|it| it.version == 1)
    );
    // It is replaced, and found out.
    cluster.crash(0);
    cluster.seats[0].speaks = 2;
    cluster.start(0, Start::Recovering);
    seen.borrow_mut().clear();
    cluster.run_for(PROBE + ms(1_000));
    let is_new = |it: &&Seen| it.to == 0 && it.from == 3 && it.version == 2 && !it.is_probe;
    assert!(seen.borrow().iter().any(|it| is_new(&it)));
}

/// A node that is rolled back is spoken to in its version from its first datagram on.
#[test]
fn node_that_falls_back_is_spoken_to_in_its_version() {
    for announces in [true, false] {
        let (mut cluster, seen) = mixed(&[], announces);
        let ticket = cluster.acquire(3, "k", TTL);
        cluster.run_for(ms(1_000));
        assert!(seen.borrow().iter().any(|it| it.to == 0 && it.version == 2));
        cluster.crash(0);
        cluster.seats[0].speaks = 1;
        // A journal of the newer version is of no use to it.
        cluster.seats[0].disk = None;
        cluster.start(0, Start::Recovering);
        cluster.run_for(ms(500));
        seen.borrow_mut().clear();
        cluster.run_for(ms(40_000));
        assert!(cluster.holds(3, ticket) && cluster.votes(0), "{announces}");
        assert_eq!(slots(&cluster, 0), 1);
        let to_it = seen.borrow();
        let to_it = to_it.iter().filter(|it| it.to == 0 && it.version == 2);
        assert!(to_it.clone().all(|it| it.is_probe), "{announces}");
        // Gossip is silent on its new incarnation here, so it is probed.
        assert!(to_it.count() <= 9, "{announces}");
    }
}
