//! Section 2: epochs that are drawn, observed, accepted and rejected.

use super::*;
use crate::epoch::EpochClock;

const SKEW_MS: u64 = 5_000;

fn near_wall(name: &str, ahead_ms: u64) -> Claim {
    let epoch = EpochClock::first_of(WALL + ahead_ms);
    Claim {
        epoch,
        ..claim(name, 0, 1)
    }
}

/// The epoch of the last claim that was sent.
fn drawn(said: &[String]) -> String {
    let last = said
        .iter()
        .rev()
        .find(|line| line.contains("Claim"))
        .unwrap();
    last.split(' ').nth(3).unwrap().to_owned()
}

#[test]
fn claim_beyond_skew_is_refused_unless_granted() {
    let mut booth = Booth::new();
    assert_eq!(
        booth.hears(0, &near_wall("a", SKEW_MS + 1)),
        ["a Refuse Skew"]
    );
    assert_eq!(booth.voter.slots(), 0);
    assert_eq!(booth.hears(0, &near_wall("a", SKEW_MS)), ["a Vote 1+10000"]);
    // The voter's wall clock is set back by a minute. This does not affect the lease.
    let set_back = Now {
        mono: instant(10),
        wall_ms: WALL - 60_000,
    };
    let sent_at = instant(9);
    let renewal = Claim {
        sent_at,
        ..granted(near_wall("a", SKEW_MS))
    };
    let answer = booth.does(|voter, out| voter.handle_claim(set_back, &renewal, out));
    assert_eq!(answer, ["a Vote 9+10000"]);
    let answer = booth.does(|voter, out| voter.handle_claim(set_back, &near_wall("b", 0), out));
    assert_eq!(answer, ["b Refuse Skew"]);
}

#[test]
fn epochs_rise_though_wall_clock_is_set_back() {
    let mut asker = Asker::new(1);
    assert_eq!(drawn(&asker.asks(100, Asker::request())), "w100");
    assert_eq!(drawn(&asker.asks(100, Asker::request())), "w100.1");
    let set_back = Now {
        mono: instant(200),
        wall_ms: WALL - 4_000,
    };
    let said = asker.does(|c, out| {
        c.request(set_back, Asker::request(), out).unwrap();
    });
    assert_eq!(drawn(&said), "w100.2");
}

/// So do nodes that claim above one fence. With equal epochs, one grant would make the other claims
/// stale. The node whose name sorts first would then be granted most often.
#[test]
fn nodes_claiming_at_once_draw_different_epochs() {
    let mut drawn = std::collections::BTreeSet::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        let incarnation = Incarnation::new(1);
        let mut claimant = Claimant::new(node(name), incarnation, voter_set(1, 1), 100, seed);
        let mut out = Effects::default();
        let ticket = claimant
            .request(at(100), Asker::request(), &mut out)
            .unwrap();
        let epoch = claimant.epoch(ticket).unwrap();
        assert_eq!(EpochClock::wall_ms(epoch), WALL + 100);
        let stale = Message::Stale(Stale {
            claim: id(name),
            fence: EpochClock::first_of(WALL + 200),
        });
        claimant.handle(at(101), &node("v1"), &stale, &mut out);
        let anew = claimant.epoch(ticket).unwrap();
        assert!(EpochClock::wall_ms(anew) > WALL + 200);
        drawn.extend([epoch, anew]);
    }
    assert_eq!(drawn.len(), 6);
}

#[test]
fn clock_moves_past_every_epoch_within_skew() {
    let believed = EpochClock::first_of(WALL + 100 + SKEW_MS);
    let broken = EpochClock::first_of(WALL + 100 + SKEW_MS + 1);
    let mut asker = Asker::new(1);
    assert!(asker.claimant.observe(at(100), believed));
    assert_eq!(drawn(&asker.asks(200, Asker::request())), "w5100.1");
    let mut asker = Asker::new(1);
    assert!(!asker.claimant.observe(at(100), broken));
    assert_eq!(drawn(&asker.asks(200, Asker::request())), "w200");
}

/// One clock set to the year 2100 must not move the others forward.
#[test]
fn answer_beyond_skew_counts_as_refusal() {
    let far = EpochClock::first_of(WALL + 100_000);
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    assert_eq!(asker.hears(110, "v1", stale(1, far)), [""; 0]);
    let wait = Wait {
        key: key(),
        claim: own(1),
        holder: id("b"),
        epoch: far,
        granted: HolderGranted::Yes,
        ahead: 0,
    };
    for voter in ["v1", "v2", "v3"] {
        assert_eq!(
            asker.hears(110, voter, Message::Wait(wait.clone())),
            [""; 0]
        );
    }
    assert_eq!(drawn(&asker.asks(120, Asker::request())), "w120");
    // Such an answer does not report a grant, so it denies no `try`.
    let mut asker = Asker::new(3);
    asker.asks(
        100,
        Request {
            is_try: true,
            ..Asker::request()
        },
    );
    for voter in ["v1", "v2", "v3"] {
        let said = asker.hears(110, voter, Message::Wait(wait.clone()));
        assert_eq!(said, [""; 0]);
    }
    assert!(asker.runs(5_000).iter().all(|(_, line)| line != "Denied"));
}

/// A second `Stale`, for the claim that was just abandoned, has the higher fence.
#[test]
fn clock_moves_past_epochs_in_late_answers() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", stale(1, EpochClock::first_of(WALL + 500)));
    asker.hears(111, "v2", stale(1, EpochClock::first_of(WALL + 900)));
    assert_eq!(drawn(&asker.asks(120, Asker::request())), "w900.1");
    let late = Wait {
        key: key(),
        claim: own(1),
        holder: id("b"),
        epoch: EpochClock::first_of(WALL + 1_000),
        granted: HolderGranted::No,
        ahead: 0,
    };
    asker.hears(130, "v3", Message::Wait(late));
    assert_eq!(drawn(&asker.asks(140, Asker::request())), "w1000.1");
}

/// The fence may have moved on by the time the new claim arrives.
#[test]
fn each_further_stale_doubles_the_leap() {
    let mut asker = Asker::new(1);
    asker.asks(100, Asker::request());
    let mut fence = WALL + 500;
    for k in 1..=12 {
        let said = asker.hears(110, "v1", stale(k, EpochClock::first_of(fence)));
        fence += 1 << (k - 1);
        assert_eq!(drawn(&said), format!("w{}", fence - WALL));
    }
    // Never beyond `max_clock_skew`, but always above the fence.
    let said = asker.hears(110, "v1", stale(13, EpochClock::first_of(fence)));
    assert_eq!(drawn(&said), "w5110.1048575");
    // Another request starts with the shortest leap again.
    let mut asker = Asker::new(1);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", stale(1, EpochClock::first_of(WALL + 500)));
    asker.asks(110, Asker::request());
    let said = asker.hears(110, "v1", stale(3, EpochClock::first_of(WALL + 600)));
    assert_eq!(drawn(&said), "w601");
}

/// A node with other constants is thus detected before it weakens a lease.
#[test]
fn voter_set_tag_depends_on_its_constants() {
    let members = vec![node("v1")];
    let tag = |timing| VoterSet::new(1, members.clone(), 1, timing).unwrap().tag();
    let shorter = Timing {
        max_ttl: ms(20_000),
        ..timing()
    };
    let drift = Timing {
        max_drift_ppm: 1,
        ..timing()
    };
    let skew = Timing {
        max_clock_skew: ms(100),
        ..timing()
    };
    for other in [shorter, drift, skew] {
        assert_ne!(tag(other), tag(timing()));
    }
}

/// While it is valid no other claim can be granted, whatever the wall clocks show.
#[test]
fn granted_claim_beyond_skew_is_accepted() {
    let mut booth = Booth::new();
    let far = near_wall("a", SKEW_MS + 60_000);
    assert_eq!(booth.hears(0, &granted(far)), ["a Vote 1+10000"]);
    // The same if it waits and an earlier message of it arrives late.
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("x", 5, 1)));
    let far = near_wall("a", SKEW_MS + 60_000);
    assert_eq!(booth.hears(1, &granted(far.clone())), ["a Wait x e5 yes"]);
    assert_eq!(booth.hears(2, &far), ["a Wait x e5 yes"]);
}

#[test]
fn highest_accepted_epoch_is_last_of_its_millisecond() {
    let limit = EpochClock::limit(at(0), ms(SKEW_MS));
    for (epoch, answer) in [(limit, "a Vote 1+10000"), (limit.next(), "a Refuse Skew")] {
        let claim = Claim {
            epoch,
            ..claim("a", 0, 1)
        };
        assert_eq!(Booth::new().hears(0, &claim), [answer]);
    }
}

/// Sends a claim with a wall clock that is `ahead_ms` ahead, corrects the clock, and delivers this
/// message of one voter. Returns the outputs.
fn set_right(ahead_ms: u64, message: &Message) -> Vec<String> {
    let mut asker = Asker::new(3);
    let ahead = Now {
        mono: instant(100),
        wall_ms: WALL + ahead_ms,
    };
    asker.does(|c, out| {
        c.request(ahead, Asker::request(), out).unwrap();
    });
    asker.hears(110, "v2", message.clone())
}

/// With its old epoch it would be refused for as long as the clock was ahead.
#[test]
fn refused_claim_is_redrawn_after_clock_is_corrected() {
    let skew = refused(RefuseReason::Skew);
    let soon = 110 + SKEW_MS + 1;
    let anew = set_right(soon + 1, &skew);
    let releases = ["v1", "v2", "v3"].map(|v| format!("{v} Release #1"));
    let claims = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #2 w110 110+10000"));
    assert_eq!(anew, [releases, claims].concat());
    // The voter will accept this epoch in one millisecond. Another reason has no bearing on the
    // epoch.
    assert_eq!(set_right(soon, &skew), [""; 0]);
    assert_eq!(set_right(soon + 1, &refused(RefuseReason::Limit)), [""; 0]);
}

#[test]
fn granted_claim_continues_if_voter_refuses_epoch() {
    let mut asker = Asker::new(3);
    let ahead = Now {
        mono: instant(100),
        wall_ms: WALL + 60_000,
    };
    asker.does(|c, out| {
        c.request(ahead, Asker::request(), out).unwrap();
    });
    asker.hears(110, "v1", voted(100, 10_000));
    let granted = asker.hears(110, "v3", voted(100, 10_000));
    assert_eq!(granted, ["Granted w60000 until 10000"]);
    assert_eq!(asker.hears(111, "v2", refused(RefuseReason::Skew)), [""; 0]);
    assert_eq!(asker.held(111).as_deref(), Some("10000"));
}

#[test]
fn wall_clock_beyond_epoch_range_saturates() {
    let last = (1 << 44) - 1;
    let end = EpochClock::first_of(last);
    assert_eq!(EpochClock::wall_ms(end), last);
    assert!(end > EpochClock::first_of(last - 1));
    for beyond in [1 << 44, (1 << 44) + 1, u64::MAX] {
        assert_eq!(EpochClock::first_of(beyond), end);
    }
}

/// The highest accepted epoch does not indicate a wrong clock.
#[test]
fn clock_draws_above_highest_accepted_epoch() {
    let mut clock = EpochClock::default();
    let limit = EpochClock::limit(at(0), ms(SKEW_MS));
    assert!(clock.observe(at(0), limit, ms(SKEW_MS)));
    assert_eq!(clock.draw(at(0), ms(SKEW_MS)), limit.next());
    // The epoch just drawn does: it is above the limit, so the clock drops it.
    assert_eq!(clock.draw(at(0), ms(SKEW_MS)), EpochClock::first_of(WALL));
}

#[test]
fn epoch_converts_without_loss() {
    for number in [0, 1, u64::MAX] {
        let epoch = Epoch::from(number);
        assert_eq!(u64::from(epoch), number);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert_eq!(number.to_string().parse(), Ok(epoch));
    }
    for wrong in ["", "e", "E1", "+1", "e-1", "18446744073709551616"] {
        assert!(wrong.parse::<Epoch>().is_err(), "{wrong}");
    }
    assert_eq!(i64::try_from(Epoch::new(7)), Ok(7));
    assert!(i64::try_from(Epoch::new(u64::MAX)).is_err());
    assert_eq!(Epoch::try_from(7_i64), Ok(Epoch::new(7)));
    assert!(Epoch::try_from(-1_i64).is_err());
}
