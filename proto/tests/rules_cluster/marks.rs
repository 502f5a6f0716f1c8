//! Keys that are marked: they are granted to nobody, whatever the voters forget.

use std::collections::BTreeMap;
use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{Event, Key, Message, Request, Start, Ticket, VoterLimits};

const TTL: Duration = ms(10_000);
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// A quarantine, the recovery after it, and the first news.
const FORGET: Duration = ms(33_000);

pub(crate) fn once(name: &str) -> Request {
    Request {
        is_once: true,
        note: None,
        ..Cluster::request(name, TTL)
    }
}

/// Returns the events of a request of a seat.
fn events(cluster: &Cluster, seat: usize, of: Ticket) -> Vec<Event> {
    events_since(0, cluster, seat, of)
}

fn events_since(logged: usize, cluster: &Cluster, seat: usize, of: Ticket) -> Vec<Event> {
    let is_its = |event: &Event| match event {
        Event::Granted { ticket, .. }
        | Event::Denied { ticket }
        | Event::Done { ticket, .. }
        | Event::Marked { ticket }
        | Event::NotMarked { ticket }
        | Event::Lost { ticket, .. } => *ticket == of,
        _ => false,
    };
    let log = cluster.log[logged..].iter();
    let its = log.filter(|(_, by, event)| *by == seat && is_its(event));
    its.map(|(.., event)| event.clone()).collect()
}

/// Runs a tick at a seat: takes its key, marks it, and gives it back.
pub(crate) fn run_tick(cluster: &mut Cluster, seat: usize, name: &str) {
    let ticket = cluster.claim(seat, once(name));
    cluster.run_until(ms(5_000), |cluster| cluster.holds(seat, ticket));
    cluster
        .with(seat, |node, now| node.mark(now, ticket, KEEP))
        .unwrap();
    let marked = Event::Marked { ticket };
    cluster.run_until(ms(5_000), |cluster| {
        events(cluster, seat, ticket).contains(&marked)
    });
    assert!(cluster.release(seat, ticket));
    cluster.run_for(ms(50));
}

/// Asks for a marked key in every way at every node that runs. All are told that it is done.
fn all_are_told(cluster: &mut Cluster, name: &str, with_plain: bool) {
    let (mut tickets, logged) = (Vec::new(), cluster.log.len());
    for seat in 0..cluster.seats.len() {
        for (is_once, is_try) in [(true, false), (true, true), (false, false), (false, true)] {
            if is_once || with_plain {
                let request = Request {
                    is_once,
                    is_try,
                    ..once(name)
                };
                tickets.push((seat, cluster.claim(seat, request)));
            }
        }
    }
    cluster.run_for(ms(3_000));
    for (seat, ticket) in tickets {
        let events = events_since(logged, cluster, seat, ticket);
        assert!(
            matches!(events[..], [Event::Done { .. }]),
            "{seat}: {events:?}"
        );
    }
}

fn reads_marks(cluster: &Cluster, seat: usize) -> bool {
    cluster.node(seat).voter().unwrap().reads_marks()
}

/// Returns `may_lack` of the last reading of a seat.
fn may_lack(cluster: &Cluster, seat: usize) -> Option<bool> {
    let mut log = cluster.log.iter().rev();
    log.find_map(|(_, by, event)| match event {
        Event::MarksRead { may_lack, .. } if *by == seat => Some(*may_lack),
        _ => None,
    })
}

#[test]
fn marked_tick_survives_restarts_with_journals() {
    let mut cluster = Cluster::with_journals(3, 3, 1, false);
    run_tick(&mut cluster, 3, "tick");
    all_are_told(&mut cluster, "tick", true);
    for seat in 0..3 {
        cluster.crash(seat);
        cluster.start(seat, Start::Recovering);
        cluster.run_for(ms(30));
        assert!(cluster.votes(seat) && !reads_marks(&cluster, seat));
    }
    all_are_told(&mut cluster, "tick", true);
    (0..3).for_each(|seat| cluster.replace_journal(seat));
    (0..3).for_each(|seat| cluster.crash(seat));
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    all_are_told(&mut cluster, "tick", true);
    assert!(
        (0..3).all(|seat| may_lack(&cluster, seat).is_none()),
        "nothing was read"
    );
}

/// One after the other, until nobody is left who was there.
#[test]
fn marked_tick_survives_restarts_without_memory() {
    for (members, voters) in [(3, 3), (5, 3), (5, 5), (4, 4)] {
        let mut cluster = Cluster::new(members, voters, 1);
        for n in 0..40 {
            run_tick(&mut cluster, members, &format!("tick {n}"));
        }
        for seat in 0..members {
            cluster.crash(seat);
            cluster.start(seat, Start::Recovering);
            cluster.run_for(FORGET);
            assert!(
                cluster.votes(seat) && !reads_marks(&cluster, seat),
                "{members} {seat}"
            );
            assert_eq!(may_lack(&cluster, seat), Some(false));
        }
        for n in [0, 7, 39] {
            all_are_told(&mut cluster, &format!("tick {n}"), true);
        }
    }
}

#[test]
fn marked_tick_survives_handovers() {
    let mut cluster = Cluster::new(3, 3, 1);
    run_tick(&mut cluster, 3, "tick");
    for seat in 0..3 {
        cluster.with(seat, |node, now| {
            node.release_all(now);
            node.hand_over(now, ms(2_000));
        });
        cluster.run_for(ms(500));
        cluster.crash(seat);
        cluster.start(seat, Start::Recovering);
        cluster.run_for(ms(100));
        assert!(cluster.votes(seat) && !reads_marks(&cluster, seat));
        let voter = cluster.node(seat).voter().unwrap();
        assert_eq!(voter.marks(), 1);
    }
    assert!(
        (0..3).all(|seat| may_lack(&cluster, seat).is_none()),
        "nothing was read"
    );
    all_are_told(&mut cluster, "tick", true);
}

/// Returns a cluster whose voters hand over this many votes and marks at most.
fn handing_over(handover_votes_max: usize) -> Cluster {
    let mut cluster = Cluster::of(3, 3, 1);
    for seat in 0..4 {
        cluster.seats[seat].incarnation += 1;
        let mut config = cluster.config(seat, Start::NewCluster);
        config.limits = VoterLimits {
            handover_votes_max,
            ..config.limits
        };
        cluster.start_with(seat, config);
    }
    cluster.run_for(ms(100));
    cluster
}

/// Shuts a voter down and starts it again. It takes its memory up.
fn redeploy(cluster: &mut Cluster, seat: usize) {
    cluster.with(seat, |node, now| node.hand_over(now, ms(2_000)));
    cluster.run_for(ms(100));
    cluster.crash(seat);
    cluster.start(seat, Start::Recovering);
    cluster.run_for(ms(100));
    assert!(cluster.votes(seat));
}

/// The limit of a handover counts votes and marks. If both are too many, the votes alone are handed
/// over, and the voter reads the marks of the others after a quarantine.
#[test]
fn votes_are_handed_over_without_too_many_marks() {
    for (ticks, has_marks) in [(1, true), (3, false)] {
        let mut cluster = handing_over(2);
        for n in 0..ticks {
            run_tick(&mut cluster, 3, &format!("tick {n}"));
        }
        let held = cluster.acquire(3, "k", TTL);
        cluster.run_for(ms(100));
        redeploy(&mut cluster, 0);
        let marks = |cluster: &Cluster| cluster.node(0).voter().unwrap().marks();
        assert_eq!(cluster.node(0).voter().unwrap().slots(), 1);
        assert_eq!(reads_marks(&cluster, 0), !has_marks);
        if !has_marks {
            cluster.run_for(ms(30_000));
            assert_eq!((marks(&cluster), may_lack(&cluster, 0)), (0, None));
            cluster.run_for(ms(1_000));
            assert_eq!(may_lack(&cluster, 0), Some(false));
        }
        assert_eq!(marks(&cluster), ticks);
        assert!(cluster.holds(3, held));
        all_are_told(&mut cluster, "tick 0", true);
    }
}

/// A voter answers that it keeps a mark, and leaves it out of its memory. The mark comes to the other
/// voter of the quorum after the first has returned, while the answer still counts.
#[test]
fn mark_left_out_of_a_handover_is_read_later() {
    let mut cluster = handing_over(1);
    let first = cluster.claim(3, once("tick"));
    cluster.run_until(ms(5_000), |cluster| cluster.holds(3, first));
    let is_mark = |message: &Message| matches!(message, Message::Mark(_));
    cluster.lose(move |packet| packet.to != 0 && packet.has(is_mark));
    cluster
        .with(3, |node, now| node.mark(now, first, KEEP))
        .unwrap();
    cluster.run_for(ms(100));
    redeploy(&mut cluster, 0);
    cluster.run_for(ms(1_000));
    cluster.lose(move |packet| packet.to == 2 && packet.has(is_mark));
    let marked = Event::Marked { ticket: first };
    cluster.run_until(ms(5_000), |cluster| {
        events(cluster, 3, first).contains(&marked)
    });
    assert!(cluster.release(3, first));
    cluster.run_for(ms(100));
    let marks = |seat| cluster.node(seat).voter().unwrap().marks();
    assert_eq!([0, 1, 2].map(marks), [0, 1, 0]);
    // The voters 0 and 2 would be a quorum.
    cluster.lose(|packet| packet.is_between(1, 3));
    let next = cluster.claim(3, once("tick"));
    cluster.run_for(ms(35_000));
    let events = events(&cluster, 3, next);
    assert!(matches!(events[..], [Event::Done { .. }]), "{events:?}");
}

/// Nobody remembers: the voters say so after ten seconds, and go on.
#[test]
fn whole_cluster_without_memory_goes_on() {
    let mut cluster = Cluster::new(3, 3, 1);
    run_tick(&mut cluster, 3, "tick");
    (0..3).for_each(|seat| cluster.crash(seat));
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    cluster.run_until(FORGET, |cluster| (0..3).all(|seat| cluster.votes(seat)));
    let waits = cluster.claim(3, once("other"));
    let plain = cluster.acquire(3, "plain", TTL);
    cluster.run_for(ms(5_000));
    assert!(cluster.holds(3, plain), "other locks are granted meanwhile");
    assert_eq!(events(&cluster, 3, waits), []);
    cluster.run_for(ms(7_000));
    assert!((0..3).all(|seat| may_lack(&cluster, seat) == Some(true)));
    assert!(cluster.holds(3, waits));
}

/// Two of five may forget together.
#[test]
fn minority_without_memory_reads_from_the_others() {
    let mut cluster = Cluster::new(5, 5, 1);
    run_tick(&mut cluster, 5, "tick");
    [0, 1].into_iter().for_each(|seat| cluster.crash(seat));
    [0, 1]
        .into_iter()
        .for_each(|seat| cluster.start(seat, Start::Recovering));
    cluster.run_for(FORGET);
    for seat in [0, 1] {
        assert_eq!(may_lack(&cluster, seat), Some(false));
        assert_eq!(cluster.node(seat).voter().unwrap().marks(), 1);
    }
    all_are_told(&mut cluster, "tick", true);
}

/// A holder crashes in the middle: the tick may run again, by another claim.
#[test]
fn tick_of_dead_holder_runs_again() {
    let mut cluster = Cluster::new(3, 3, 2);
    let first = cluster.claim(3, once("tick"));
    cluster.run_until(ms(1_000), |cluster| cluster.holds(3, first));
    let next = cluster.claim(4, once("tick"));
    cluster.run_for(ms(1_000));
    assert_eq!(events(&cluster, 4, next), []);
    cluster.crash(3);
    cluster.run_until(TTL * 2, |cluster| cluster.holds(4, next));
    cluster
        .with(4, |node, now| node.mark(now, next, KEEP))
        .unwrap();
    cluster.run_for(ms(100));
    assert!(events(&cluster, 4, next).contains(&Event::Marked { ticket: next }));
}

/// A mark ends by the slowest clock of all, and not much later.
#[test]
fn mark_lasts_by_every_clock() {
    let mut cluster = Cluster::of(3, 3, 1);
    for (seat, ppm) in [(0, 10_000), (1, -10_000), (2, 9_000), (3, -10_000)] {
        cluster.seats[seat].rate_ppm = ppm;
    }
    (0..4).for_each(|seat| cluster.start(seat, Start::NewCluster));
    cluster.run_for(ms(1_000));
    let ticket = cluster.claim(3, once("tick"));
    cluster.run_until(ms(5_000), |cluster| cluster.holds(3, ticket));
    let keep = ms(1_000_000);
    cluster
        .with(3, |node, now| node.mark(now, ticket, keep))
        .unwrap();
    cluster.run_for(ms(1_000));
    cluster.release(3, ticket);
    // By the slow clock of the holder, `keep` takes longer.
    cluster.run_for(ms(1_008_000));
    all_are_told(&mut cluster, "tick", true);
    cluster.run_for(ms(30_000));
    let next = cluster.claim(3, once("tick"));
    cluster.run_for(ms(1_000));
    assert!(cluster.holds(3, next));
}

/// Many ticks at a lossy network, with voters that forget one after the other, and holders that are
/// paused or crash. Whoever is told that it marked a tick is the last that was granted it.
#[test]
fn no_tick_is_granted_after_it_was_marked() {
    let mut all_marked = 0;
    for seed in 0..12 {
        let mut random = Random(seed);
        let journals = seed % 2 == 1;
        let mut cluster = match journals {
            true => Cluster::with_journals(3, 3, 3, false),
            false => Cluster::new(3, 3, 3),
        };
        let mut fate = Random(seed + 100);
        cluster.decide(move |_| match fate.below(10) {
            0 => vec![],
            1 => vec![ms(5), ms(60)],
            2 => vec![ms(5 + fate.below(40))],
            _ => vec![ms(5)],
        });
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        let mut down = None;
        for step in 0u64..240 {
            let name = format!("tick {}", step / 8 % 10);
            let seat = 3 + random.below(3) as usize;
            tickets.push((seat, cluster.claim(seat, once(&name))));
            for (seat, ticket) in &tickets {
                if cluster.holds(*seat, *ticket) && random.percent(40) {
                    cluster
                        .with(*seat, |node, now| node.mark(now, *ticket, KEEP))
                        .unwrap();
                }
                if random.percent(10) {
                    cluster.release(*seat, *ticket);
                }
            }
            if random.percent(5) {
                cluster.pause(seat, ms(11_000));
            }
            match down {
                None => {
                    let seat = random.below(3) as usize;
                    cluster.crash(seat);
                    cluster.start(seat, Start::Recovering);
                    down = Some(seat);
                }
                Some(seat) => {
                    if cluster.votes(seat) && !reads_marks(&cluster, seat) {
                        assert_ne!(may_lack(&cluster, seat), Some(true));
                        down = None;
                    }
                }
            }
            cluster.run_for(ms(1_000 + random.below(1_000)));
        }
        let mut keys = BTreeMap::new();
        let mut marked: BTreeMap<Key, (usize, Ticket)> = BTreeMap::new();
        for (at, seat, event) in &cluster.log {
            match event {
                Event::Granted { ticket, key, .. } => {
                    assert_eq!(marked.get(key), None, "{seed}: {key} again at {at:?}");
                    keys.insert((*seat, *ticket), key.clone());
                }
                Event::Marked { ticket } => {
                    let key = keys[&(*seat, *ticket)].clone();
                    let before = marked.insert(key, (*seat, *ticket));
                    assert!(before.is_none_or(|it| it == (*seat, *ticket)));
                }
                _ => {}
            }
        }
        all_marked += marked.len();
        assert!(marked.len() >= 3, "{seed}: {}", marked.len());
    }
    assert!(all_marked >= 72, "{all_marked}");
}
