//! Voters that keep a journal: they resume, or go into quarantine if the journal may lack votes.

use std::time::Duration;

use lockmesh_proto::testing::*;
use lockmesh_proto::{Epoch, Event, NotMemory, Start, Ticket};

const TTL: Duration = ms(10_000);
/// The time in which a voter resumes: a round trip to the others.
const RESUME: Duration = ms(30);

fn cluster(syncs: bool) -> Cluster {
    Cluster::with_journals(3, 3, 1, syncs)
}

/// Grants the key to the client, and returns its request and epoch.
fn hold(cluster: &mut Cluster, name: &str) -> (Ticket, Epoch) {
    let ticket = cluster.acquire(3, name, TTL);
    cluster.run_for(ms(100));
    let (_, epoch) = cluster.granted(3, ticket).unwrap();
    (ticket, epoch)
}

fn restart(cluster: &mut Cluster, seat: usize) {
    cluster.crash(seat);
    cluster.start(seat, Start::Recovering);
}

fn resumed(cluster: &Cluster) -> usize {
    let is_it = |event: &Event| {
        matches!(
            event,
            Event::Resumed {
                is_confirmed: true,
                ..
            }
        )
    };
    cluster.log.iter().filter(|(_, _, it)| is_it(it)).count()
}

#[test]
fn restarted_voters_vote_after_one_round_trip() {
    let mut cluster = cluster(false);
    let (ticket, _) = hold(&mut cluster, "k");
    for seat in 0..3 {
        restart(&mut cluster, seat);
        assert!(!cluster.votes(seat));
        cluster.run_for(RESUME);
        assert!(cluster.votes(seat));
    }
    assert_eq!(resumed(&cluster), 3);
    cluster.run_for(ms(60_000));
    assert!(cluster.holds(3, ticket), "the lease is renewed throughout");
    let (key, epoch) = (key("k"), cluster.granted(3, ticket).unwrap().1);
    assert!(cluster.release(3, ticket));
    cluster.run_for(ms(100));
    assert!((0..3).all(|seat| cluster.node(seat).voter().unwrap().fence(&key) == epoch));
}

/// All processes end at once, and all votes are on the disks.
#[test]
fn whole_cluster_resumes_at_once_and_keeps_the_lock() {
    let mut cluster = cluster(false);
    let (ticket, first) = hold(&mut cluster, "k");
    (0..3).for_each(|seat| cluster.crash(seat));
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    let other = cluster.try_acquire(0, "k", TTL);
    cluster.run_for(ms(2_000));
    assert!(cluster.holds(3, ticket));
    assert!(cluster.is_denied(0, other));
    cluster.release(3, ticket);
    let next = cluster.acquire(1, "k", TTL);
    cluster.run_for(ms(1_000));
    assert!(cluster.granted(1, next).unwrap().1 > first);
}

/// A restored vote lasts its whole ttl from the resume, since no clock is compared.
#[test]
fn vote_of_dead_holder_lasts_its_ttl_again() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    cluster.run_for(ms(2_000));
    (0..4).for_each(|seat| cluster.crash(seat));
    cluster.run_for(ms(6_000));
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    let next = cluster.acquire(0, "k", TTL);
    let resumed_at = cluster.time;
    let is_granted = move |cluster: &Cluster| cluster.holds(0, next);
    cluster.run_until(ms(30_000), is_granted);
    let waited = cluster.time - resumed_at;
    assert!(waited >= TTL && waited <= TTL + ms(1_500), "{waited:?}");
}

/// Without a sync, only a boot of the same machine proves that the last votes are in the file.
#[test]
fn power_cut_costs_a_quarantine_unless_records_are_synced() {
    for syncs in [false, true] {
        let mut cluster = cluster(syncs);
        let (_, epoch) = hold(&mut cluster, "k");
        cluster.crash(0);
        cluster.seats[0].disk.as_mut().unwrap().cut_power(0, 0);
        cluster.start(0, Start::Recovering);
        cluster.run_for(ms(1_100));
        assert_eq!(cluster.votes(0), syncs);
        let fence = |cluster: &Cluster| cluster.node(0).voter().unwrap().fence(&key("k"));
        // The epochs of votes that may be out are lower bounds of the fences in quarantine.
        assert!(syncs || fence(&cluster) == epoch);
        if !syncs {
            // A second restart does not take the file of a quarantine for memory.
            restart(&mut cluster, 0);
            cluster.run_for(ms(1_100));
            assert!(!cluster.votes(0));
            cluster.run_for(ms(32_000));
            assert!(cluster.votes(0));
            // Its file is memory again.
            restart(&mut cluster, 0);
            cluster.run_for(RESUME);
            assert!(cluster.votes(0));
        }
    }
}

#[test]
fn snapshot_of_a_quarantine_denies_a_new_cluster() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    (0..4).for_each(|seat| cluster.crash(seat));
    cluster.seats[0].disk.as_mut().unwrap().cut_power(0, 0);
    cluster.start(0, Start::Recovering);
    cluster.replace_journal(0);
    cluster.crash(0);
    cluster.start(0, Start::NewCluster);
    assert!(cluster.node(0).voter().unwrap().quarantine().is_some());
}

#[test]
fn closed_journal_survives_a_boot_once() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    cluster.with(0, |node, now| node.hand_over(now, Duration::ZERO));
    hold(&mut cluster, "late");
    let slots = |cluster: &Cluster, seat| cluster.node(seat).voter().unwrap().slots();
    assert_eq!((slots(&cluster, 0), slots(&cluster, 1)), (1, 2));
    cluster.crash(0);
    let disk = cluster.seats[0].disk.as_mut().unwrap();
    disk.close();
    disk.cut_power(0, 0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(RESUME);
    assert!(cluster.votes(0));
    cluster.crash(0);
    cluster.seats[0].disk.as_mut().unwrap().cut_power(0, 0);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(1_100));
    assert!(!cluster.votes(0), "the mark of the first end is gone");
}

/// A copy of the directory was put back.
#[test]
fn old_copy_of_a_journal_is_not_memory() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "a");
    let copy = cluster.seats[0].disk.as_ref().unwrap().bytes().to_vec();
    restart(&mut cluster, 0);
    cluster.run_for(RESUME);
    hold(&mut cluster, "b");
    cluster.crash(0);
    cluster.seats[0].disk.as_mut().unwrap().put_back(copy);
    cluster.seats[0].incarnation += 5;
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(1_100));
    assert!(!cluster.votes(0));
    let is_outdated = |event: &Event| matches!(event, Event::JournalOutdated { .. });
    assert!(
        cluster
            .log
            .iter()
            .any(|(_, seat, it)| *seat == 0 && is_outdated(it))
    );
    // The quarantine is written: a restart within it does not find memory.
    restart(&mut cluster, 0);
    cluster.run_for(ms(1_100));
    assert!(!cluster.votes(0));
}

/// Without an answer the voter resumes after a second: nobody may be there to confirm.
#[test]
fn lone_voter_resumes_after_a_second() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    (0..4).for_each(|seat| cluster.crash(seat));
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(999));
    assert!(!cluster.votes(0));
    cluster.run_for(ms(2));
    assert!(cluster.votes(0));
    assert_eq!(resumed(&cluster), 0);
}

/// The next incarnation is above that of the journal, whatever the wall clock says.
#[test]
fn incarnation_follows_from_the_journal() {
    let mut cluster = cluster(false);
    cluster.seats[0].incarnation = 70;
    restart(&mut cluster, 0);
    cluster.crash(0);
    cluster.seats[0].incarnation = 3;
    cluster.start(0, Start::Recovering);
    assert_eq!(
        cluster.seats[0].incarnation, 76,
        "it differs for another clock"
    );
}

/// A wall clock was ahead, was set right, and the disk was lost. The others have restarted too, so
/// only their journals name the higher incarnation.
#[test]
fn new_journal_after_the_clock_was_set_back_rises_above_the_lost_one() {
    let mut cluster = Cluster::with_journals(3, 3, 0, false);
    cluster.seats[0].incarnation = 1_000;
    restart(&mut cluster, 0);
    cluster.run_for(RESUME);
    (0..3).for_each(|seat| cluster.crash(seat));
    // No datagram of it is on its way any more.
    cluster.run_for(ms(1_000));
    let lost = cluster.seats[0].disk.replace(Disk::new(false)).unwrap();
    cluster.seats[0].incarnation = 5;
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    cluster.run_for(ms(33_000));
    assert!(cluster.votes(0), "the quarantine is over");
    let incarnation = cluster.node(0).claimant().incarnation();
    assert!(incarnation.get() > 1_001, "{incarnation:?}");
    (0..3).for_each(|seat| restart(&mut cluster, seat));
    cluster.run_for(RESUME);
    assert!(cluster.votes(0), "its journal is the newest");
    // The lost journal is found and put back.
    cluster.crash(0);
    let bytes = lost.bytes().to_vec();
    cluster.seats[0].disk.as_mut().unwrap().put_back(bytes);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(1_100));
    assert!(!cluster.votes(0));
}

#[test]
fn failed_write_ends_voting_until_the_journal_is_replaced() {
    let mut cluster = cluster(false);
    let (ticket, _) = hold(&mut cluster, "k");
    cluster.seats[0].disk.as_mut().unwrap().fails = true;
    let other = cluster.acquire(3, "other", TTL);
    cluster.run_for(ms(60_000));
    // The other two voters are a quorum.
    assert!(cluster.holds(3, ticket) && cluster.holds(3, other));
    let voter = |cluster: &Cluster| cluster.node(0).voter().unwrap().closed();
    assert!(voter(&cluster).is_some());
    let failures = |cluster: &Cluster| {
        let failed = (0, &Event::JournalFailed);
        cluster
            .log
            .iter()
            .filter(|(_, seat, it)| (*seat, it) == failed)
            .count()
    };
    assert_eq!(failures(&cluster), 1);
    let disk = cluster.seats[0].disk.as_mut().unwrap();
    disk.fails = false;
    cluster.replace_journal(0);
    assert_eq!(voter(&cluster), None);
    cluster.run_for(ms(10_000));
    // Both locks have a vote of this voter again, which survives its process.
    restart(&mut cluster, 0);
    cluster.run_for(RESUME);
    assert_eq!(cluster.node(0).voter().unwrap().slots(), 2);
}

/// A snapshot has the votes of all slots, and what was written while it was made.
#[test]
fn snapshot_in_parts_has_what_changed_between_them() {
    const LOCKS: usize = 2_500;
    let mut cluster = cluster(false);
    let name = |n: usize| format!("key/{n}");
    let tickets: Vec<Ticket> = (0..LOCKS)
        .map(|n| cluster.acquire(3, &name(n), TTL))
        .collect();
    cluster.run_for(ms(1_000));
    let mut part = None;
    for round in 0.. {
        let (bytes, rest) = cluster.node(0).snapshot(part);
        let disk = cluster.seats[0].disk.as_mut().unwrap();
        disk.replace(&bytes, rest.is_none());
        part = rest;
        if part.is_none() {
            assert!(round > 1);
            break;
        }
        // One of those that were visited, and one of those that were not.
        for n in [round, LOCKS - 1 - round] {
            cluster.release(3, tickets[n]);
        }
        cluster.acquire(3, &format!("new/{round}"), TTL);
        cluster.run_for(ms(50));
    }
    let has = cluster.node(0).voter().unwrap().clone();
    restart(&mut cluster, 0);
    cluster.run_for(RESUME);
    let voter = cluster.node(0).voter().unwrap();
    assert_eq!(voter.slots(), has.slots());
    for n in 0..LOCKS {
        let key = key(&name(n));
        assert!(voter.fence(&key) >= has.fence(&key), "{key}");
    }
}

/// The last record was written in part when the power was cut.
#[test]
fn torn_tail_is_cut_and_damage_before_it_is_not_memory() {
    let mut cluster = cluster(true);
    hold(&mut cluster, "k");
    let whole = cluster.seats[0].disk.as_ref().unwrap().bytes().to_vec();
    let config = cluster.config(0, Start::Recovering);
    let now = lockmesh_proto::Now::default();
    let open = |bytes: Vec<u8>| {
        let mut disk = Disk::new(true);
        disk.put_back(bytes);
        let config = lockmesh_proto::NodeConfig {
            id: config.id.clone(),
            voter_set: config.voter_set.clone(),
            seal: lockmesh_proto::Seal::insecure_plaintext(),
            ..cluster.config(0, Start::Recovering)
        };
        disk.start(now, config, "test").map(|(_, opened)| opened)
    };
    let opened = open(whole.clone()).unwrap();
    assert_eq!((opened.why, opened.torn), (None, 0));
    for cut in 1..20 {
        let opened = open(whole[..whole.len() - cut].to_vec()).unwrap();
        assert_eq!(opened.why, None, "{cut}");
        assert!(opened.torn > 0);
    }
    // Every byte before the last record counts.
    for at in 10..whole.len() - 100 {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let why = open(damaged).map(|opened| opened.why);
        assert_eq!(why, Ok(Some(NotMemory::Damaged)), "{at} of {}", whole.len());
    }
    let mut no_record = whole.clone();
    no_record[10..].fill(0);
    for damaged in [no_record, whole[..9].to_vec()] {
        let why = open(damaged).map(|opened| opened.why);
        assert_eq!(why, Ok(Some(NotMemory::Damaged)));
    }
}

#[test]
fn journal_of_another_owner_is_refused() {
    let cluster = cluster(false);
    let bytes = cluster.seats[0].disk.as_ref().unwrap().bytes().to_vec();
    let mut disk = Disk::new(false);
    disk.put_back(bytes.clone());
    let now = lockmesh_proto::Now::default();
    let start = |disk: &mut Disk, seat, name| {
        let config = cluster.config(seat, Start::Recovering);
        disk.start(now, config, name).map(|_| ())
    };
    let error = start(&mut disk, 1, "test").unwrap_err();
    assert_eq!(error.to_string(), "it belongs to node n0 of cluster test");
    assert!(start(&mut disk, 0, "other").is_err());
    assert_eq!(start(&mut disk, 0, "test"), Ok(()));
    let mut newer = bytes;
    newer[8] = 3;
    disk.put_back(newer);
    let error = start(&mut disk, 0, "test").unwrap_err();
    assert_eq!(
        error.to_string(),
        "its format is 3, and this version reads 1 and 2"
    );
    disk.put_back(b"#!/bin/sh".to_vec());
    assert!(start(&mut disk, 0, "test").is_err());
}

/// The settings had a longer `max_ttl` when the votes were given, and the voter is restarted in its
/// quarantine.
#[test]
fn quarantine_of_earlier_settings_survives_restarts() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    let longest = cluster.voter_set.timing().quarantine();
    cluster.crash(0);
    cluster.seats[0].disk.as_mut().unwrap().cut_power(0, 0);
    let members = cluster.voter_set.members().to_vec();
    let shorter = lockmesh_proto::Timing {
        max_ttl: ms(2_000),
        max_clock_skew: ms(1_000),
        ..*cluster.voter_set.timing()
    };
    let voter_set = lockmesh_proto::VoterSet::new(1, members, 3, shorter).unwrap();
    cluster.voter_set = std::sync::Arc::new(voter_set);
    // The others do not tell it of the longer one.
    cluster.lose(|_| true);
    for _ in 0..3 {
        cluster.start(0, Start::Recovering);
        let until = cluster.node(0).voter().unwrap().quarantine().unwrap();
        let began = cluster.with(0, |_, at| at.mono);
        assert!(until.since(began) >= longest - ms(1), "{until} {began}");
        cluster.crash(0);
    }
}

/// A voter that restarts in another voter set with the same voters keeps its memory.
#[test]
fn other_voters_are_not_remembered_and_other_timing_is() {
    let cluster = cluster(false);
    let disk = cluster.seats[0].disk.clone().unwrap();
    let why = |members: usize, timing: lockmesh_proto::Timing| {
        let members = cluster.voter_set.members()[..members].to_vec();
        let r = members.len();
        let voter_set = lockmesh_proto::VoterSet::new(2, members, r, timing).unwrap();
        let config = lockmesh_proto::NodeConfig {
            voter_set: std::sync::Arc::new(voter_set),
            ..cluster.config(0, Start::Recovering)
        };
        let opened = disk
            .clone()
            .start(lockmesh_proto::Now::default(), config, "test");
        opened.map(|(_, opened)| opened.why).unwrap()
    };
    let timing = *cluster.voter_set.timing();
    assert_eq!(why(2, timing), Some(NotMemory::OtherVoters));
    let max_ttl = ms(20_000);
    let shorter = lockmesh_proto::Timing { max_ttl, ..timing };
    assert_eq!(why(3, shorter), None);
}

/// Voters without memory cannot tell whether a journal is the newest.
#[test]
fn voters_without_memory_do_not_confirm() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "k");
    (0..4).for_each(|seat| cluster.crash(seat));
    for seat in [1, 2] {
        cluster.seats[seat].disk.as_mut().unwrap().cut_power(0, 0);
    }
    (0..3).for_each(|seat| cluster.start(seat, Start::Recovering));
    cluster.run_for(ms(900));
    assert!(!cluster.votes(0));
    cluster.run_for(ms(200));
    assert!(cluster.votes(0));
    assert_eq!(resumed(&cluster), 0);
}

/// The others know it from their own journals.
#[test]
fn old_copy_is_known_by_voters_that_restarted_since() {
    let mut cluster = cluster(false);
    hold(&mut cluster, "a");
    let copy = cluster.seats[0].disk.as_ref().unwrap().bytes().to_vec();
    restart(&mut cluster, 0);
    cluster.run_for(RESUME);
    cluster.crash(0);
    for seat in [1, 2] {
        restart(&mut cluster, seat);
    }
    cluster.run_for(ms(1_100));
    cluster.seats[0].disk.as_mut().unwrap().put_back(copy);
    cluster.start(0, Start::Recovering);
    cluster.run_for(ms(1_100));
    assert!(!cluster.votes(0));
}
