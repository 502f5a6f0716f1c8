//! The voters of a key, the counting of votes, and the effect of drift on a lease.

use super::super::voter_set::{
    MEMBERS_MAX, Tally, Timing, VoterSet, VoterSetError, quorum_reaches,
};
use super::{Duration, Instant, Key, NodeId};

fn nodes(count: usize) -> Vec<NodeId> {
    (0..count)
        .map(|n| NodeId::new(format!("n{n:02}")).unwrap())
        .collect()
}

fn voter_set(members: usize, voters: usize) -> VoterSet {
    VoterSet::new(1, nodes(members), voters, Timing::lan()).unwrap()
}

#[test]
fn invalid_voter_set_is_refused_with_reason() {
    let new = |members, r, timing| VoterSet::new(1, members, r, timing);
    assert_eq!(new(vec![], 1, Timing::lan()), Err(VoterSetError::NoMembers));
    let twice = vec![nodes(1)[0].clone(), nodes(1)[0].clone()];
    assert!(matches!(
        new(twice, 1, Timing::lan()),
        Err(VoterSetError::Twice { .. })
    ));
    let none = new(nodes(3), 0, Timing::lan());
    assert_eq!(
        none,
        Err(VoterSetError::VotersPerKey {
            value: 0,
            members: 3
        })
    );
    assert!(new(nodes(3), 4, Timing::lan()).is_err());
    assert!(new(nodes(MEMBERS_MAX + 1), 3, Timing::lan()).is_err());
    let skewed = Timing {
        max_clock_skew: Duration::from_secs(61),
        ..Timing::lan()
    };
    let refused = new(nodes(3), 3, skewed).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "max_clock_skew is 61s; it must be 1ms to 60s"
    );
    let drift = Timing {
        max_drift_ppm: 200_001,
        ..Timing::lan()
    };
    assert!(matches!(
        new(nodes(3), 3, drift),
        Err(VoterSetError::Drift { .. })
    ));
}

#[test]
fn voters_of_key_are_same_on_every_node() {
    let mut shuffled = nodes(11);
    shuffled.reverse();
    let (a, b) = (
        voter_set(11, 5),
        VoterSet::new(1, shuffled, 5, Timing::lan()).unwrap(),
    );
    assert_eq!(a, b);
    for k in 0..200 {
        let key = Key::new(format!("key/{k}")).unwrap();
        let voters = a.voters_for(&key);
        assert_eq!(voters.len(), 5);
        for member in a.members() {
            assert_eq!(a.votes_for(member, &key), voters.contains(member));
        }
    }
    // Pinned: a later release must select the same voters.
    let key = Key::new("invoice/42").unwrap();
    let names: Vec<_> = a.voters_for(&key).iter().map(ToString::to_string).collect();
    assert_eq!(names, PINNED_VOTERS);
}

const PINNED_VOTERS: [&str; 5] = ["n03", "n05", "n06", "n07", "n08"];

#[test]
fn keys_spread_evenly_over_members() {
    let voter_set = voter_set(10, 3);
    let mut load = vec![0usize; 10];
    for k in 0..10_000 {
        for voter in voter_set.voters_for(&Key::new(format!("k{k}")).unwrap()) {
            load[voter_set
                .members()
                .iter()
                .position(|m| *m == voter)
                .unwrap()] += 1;
        }
    }
    assert!(load.iter().all(|l| (2_700..3_300).contains(l)), "{load:?}");
}

#[test]
fn any_changed_constant_changes_the_digest() {
    let tag = |timing| VoterSet::new(1, nodes(3), 3, timing).unwrap().tag();
    let lan = Timing::lan();
    let second = Duration::from_secs(1);
    let others = [
        Timing {
            max_ttl: lan.max_ttl + second,
            ..lan
        },
        Timing {
            max_drift_ppm: 1,
            ..lan
        },
        Timing {
            max_clock_skew: second,
            ..lan
        },
        Timing {
            round_trip: Duration::from_millis(11),
            ..lan
        },
        Timing {
            reservation: second,
            ..lan
        },
        Timing {
            holder_probe_interval: second,
            ..lan
        },
    ];
    for other in others {
        assert_ne!(tag(lan).digest, tag(other).digest);
    }
    assert_ne!(tag(lan), voter_set(4, 3).tag());
    assert_ne!(voter_set(4, 3).tag(), voter_set(4, 4).tag());
}

#[test]
fn tally_agrees_with_naive_count() {
    for voters in 1..8 {
        for yes in 0..=voters {
            for no in 0..=voters - yes {
                let naive = if yes * 2 > voters {
                    Tally::Granted
                } else if (voters - no) * 2 <= voters {
                    Tally::Lost
                } else {
                    Tally::Pending
                };
                assert_eq!(Tally::of(voters, yes, no), naive, "{yes}+{no} of {voters}");
            }
        }
    }
}

#[test]
fn lease_ends_when_quorum_of_votes_ends() {
    let at = Instant::from_nanos;
    let reach = |n, promises: &[u64]| {
        quorum_reaches(n, promises.iter().copied().map(at)).map(Instant::as_nanos)
    };
    assert_eq!(reach(3, &[]), None);
    assert_eq!(reach(3, &[9]), None);
    assert_eq!(reach(3, &[9, 5]), Some(5));
    assert_eq!(reach(3, &[1, 9, 5]), Some(5));
    assert_eq!(reach(4, &[1, 9, 5]), Some(1));
    assert_eq!(reach(1, &[7]), Some(7));
}

#[test]
fn recovery_needs_replies_of_nearly_all_peers() {
    assert_eq!(voter_set(1, 1).recovery_replies(), 0);
    assert_eq!(voter_set(3, 3).recovery_replies(), 2);
    assert_eq!(voter_set(5, 3).recovery_replies(), 4);
    assert_eq!(voter_set(5, 5).recovery_replies(), 3);
    assert_eq!(voter_set(7, 7).recovery_replies(), 4);
}

#[test]
fn drift_shortens_leases_and_extends_quarantine() {
    let timing = Timing {
        max_drift_ppm: 10_000,
        ..Timing::lan()
    };
    assert_eq!(
        timing.at_least(Duration::from_secs(1)),
        Duration::from_millis(990)
    );
    assert_eq!(timing.at_least(Duration::from_nanos(1)), Duration::ZERO);
    assert_eq!(timing.quarantine(), Duration::from_millis(61_200));
}

#[test]
fn extreme_round_trip_does_not_overflow() {
    let round_trip = Duration::MAX;
    let timing = Timing {
        round_trip,
        ..Timing::lan()
    };
    assert_eq!(timing.min_ttl(), Duration::MAX);
}

#[test]
fn constants_are_accepted_exactly_within_bounds() {
    let lan = Timing {
        max_ttl: Duration::from_secs(100),
        ..Timing::lan()
    };
    let takes = |timing| VoterSet::new(1, nodes(3), 3, timing).is_ok();
    let nano = Duration::from_nanos(1);
    type Set = fn(&mut Timing, Duration);
    let (sec, milli) = (Duration::from_secs, Duration::from_millis);
    // With a drift of 0.5 % a reservation must last 2.625 round trips.
    let reservation = Duration::from_micros(26_250);
    let bounds: [(Set, Duration, Duration); 4] = [
        (|t, to| t.round_trip = to, Duration::from_micros(1), sec(10)),
        (|t, to| t.max_clock_skew = to, milli(1), sec(100)),
        (|t, to| t.reservation = to, reservation, sec(100)),
        (|t, to| t.holder_probe_interval = to, milli(10), sec(100)),
    ];
    for (set, min, max) in bounds {
        let with = |value| {
            let mut timing = lan;
            set(&mut timing, value);
            if timing.round_trip > lan.round_trip {
                (timing.reservation, timing.holder_probe_interval) = (sec(50), sec(50));
            }
            takes(timing)
        };
        let edges = [min, max, min - nano, max + nano].map(with);
        assert_eq!(edges, [true, true, false, false], "{min:?} {max:?}");
    }
    // `max_ttl` is at most a day and at least a millisecond.
    let day = sec(86_400);
    let short = Timing {
        max_clock_skew: milli(1),
        round_trip: Duration::from_micros(1),
        reservation: milli(1),
        holder_probe_interval: milli(1),
        ..lan
    };
    for (max_ttl, is_taken) in [
        (day, true),
        (day + nano, false),
        (milli(1), true),
        (milli(1) - nano, false),
    ] {
        assert_eq!(takes(Timing { max_ttl, ..short }), is_taken, "{max_ttl:?}");
    }
}

#[test]
fn drift_of_a_fifth_needs_longer_reservations() {
    let takes = |max_drift_ppm, reservation| {
        let timing = Timing {
            max_drift_ppm,
            reservation: Duration::from_micros(reservation),
            ..Timing::lan()
        };
        VoterSet::new(1, nodes(3), 3, timing).is_ok()
    };
    assert!(takes(0, 20_000) && !takes(0, 19_999));
    // 2 round trips, plus 125 round trips times the drift.
    assert!(takes(200_000, 270_000) && !takes(200_000, 269_999));
    assert!(!takes(200_001, 1_000_000));
}

#[test]
fn non_member_votes_for_no_key() {
    for voter_set in [voter_set(11, 5), voter_set(5, 5), voter_set(11, 1)] {
        for k in 0..50 {
            let key = Key::new(format!("key/{k}")).unwrap();
            let foreign_node = NodeId::new(format!("foreign_node/{k}")).unwrap();
            assert!(!voter_set.votes_for(&foreign_node, &key));
            assert!(!voter_set.voters_for(&key).contains(&foreign_node));
        }
    }
    assert!(voter_set(11, 5).has_member(&nodes(1)[0]));
}

#[test]
fn voter_set_returns_its_parameters() {
    let voter_set = VoterSet::new(7, nodes(5), 3, Timing::wan()).unwrap();
    assert_eq!(voter_set.tag().version, 7);
    assert_eq!(voter_set.members(), nodes(5));
    assert_eq!((voter_set.voters_per_key(), voter_set.quorum()), (3, 2));
    assert_eq!(*voter_set.timing(), Timing::wan());
}
