//! The links of a claimant to the sessions at its voters, tested alone.

use super::super::claimant::backoff::{Jitter, queue_interval, sweep_interval};
use super::super::claimant::link::{LinkNo, Links, News};
use super::session_claimant::{is_over, kept_by};
use super::*;

/// A link, made at 1,000, to session 1 of voter `v1`. The ttl is 12 s and the renewal interval 4 s.
/// It covers claim 1.
fn linked() -> (Links, LinkNo) {
    let mut links = Links::default();
    let paces = (ms(12_000), ms(4_000));
    let link = links
        .meet(at(1_000), &node("v1"), session(1), paces)
        .unwrap();
    links.join(link, 1, None);
    (links, link)
}

fn sends(links: &mut Links, at_ms: u64) -> Vec<String> {
    let mut out = Effects::default();
    links.send_what_is_due(at(at_ms), &voter_set(1, 1), &mut Jitter::new(0), &mut out);
    lines(&out)
}

fn is_told(links: &mut Links, at_ms: u64, kept: Kept) -> News {
    links.handle_kept(at(at_ms), &node("v1"), &kept)
}

/// A lease is recomputed in its own rounds. `Kept` is late if one more round would leave less than
/// a sixth of the ttl.
#[test]
fn kept_shortly_before_session_end_is_late() {
    let (mut links, _) = linked();
    assert_eq!(sends(&mut links, 1_000), ["v1 KeepAlive S1 1000 of 1"]);
    assert_eq!(
        is_told(&mut links, 1_010, kept_by(1, 1_000, 12_000)),
        News::None
    );
    assert_eq!(sends(&mut links, 5_000), ["v1 KeepAlive S1 5000 of 1"]);
    for (at_ms, news) in [
        (5_010, News::None),
        (7_000, News::None),
        (7_001, News::Late),
        (12_000, News::Late),
    ] {
        let told = is_told(&mut links.clone(), at_ms, kept_by(1, 5_000, 12_000));
        assert_eq!(told, news, "{at_ms}");
    }
}

#[test]
fn reachable_voter_receives_unanswered_keep_alives_only() {
    let (mut links, _) = linked();
    sends(&mut links, 1_000);
    let mut silent = links.clone();
    silent.ask_again(at(1_001), &node("v2"));
    assert_eq!(sends(&mut silent, 1_001), [""; 0]);
    silent.ask_again(at(1_001), &node("v1"));
    assert_eq!(sends(&mut silent, 1_001), ["v1 KeepAlive S1 1001 of 1"]);
    is_told(&mut links, 1_001, kept_by(1, 1_000, 12_000));
    links.ask_again(at(1_002), &node("v1"));
    assert_eq!(links.next_timeout(), Some(instant(5_000)));
}

#[test]
fn suppression_is_reported_once_until_it_ends() {
    let mut links = Links::default();
    let (v1, v2) = (node("v1"), node("v2"));
    assert!(links.suppress_until(at(100), &v1, instant(200)));
    assert!(!links.suppress_until(at(150), &v1, instant(300)));
    assert!(links.is_quiet(at(199), &v1) && !links.is_quiet(at(199), &v2));
    assert!(!links.is_quiet(at(200), &v1));
    assert!(links.suppress_until(at(200), &v1, instant(300)));
    assert!(!links.note_voice(&v2) && links.is_quiet(at(201), &v1));
    assert!(links.note_voice(&v1) && !links.is_quiet(at(201), &v1));
    assert!(!links.note_voice(&v1));
}

/// Rule 20. A voter numbers its sessions from 1, and two voters may have the same nonce.
#[test]
fn equal_session_ids_of_two_voters_differ() {
    let (mut links, link) = linked();
    let paces = (ms(12_000), ms(4_000));
    let other = links.meet(at(1_000), &node("v2"), session(1), paces);
    links.join(other.unwrap(), 1, None);
    assert_ne!(other, Some(link));
    assert_eq!(
        links.meet(at(1_000), &node("v1"), session(1), paces),
        Some(link)
    );
    assert_eq!(is_told(&mut links, 1_010, is_over(1)), News::Over);
    assert!(!links.is_live(link) && links.is_live(other.unwrap()));
}

/// Rules 14 and 23. A message sent for many claims is repeated after a twelfth of a short ttl, but
/// not before a round trip.
#[test]
fn sweep_interval_is_twelfth_of_short_ttl() {
    let voter_set = voter_set(1, 1);
    let paces = [30_000, 2_400, 1_200, 120, 100].map(|ttl| {
        let ttl = ms(ttl);
        (
            span(queue_interval(ttl, &voter_set)),
            span(sweep_interval(ttl, &voter_set)),
        )
    });
    let paces = paces
        .each_ref()
        .map(|(slow, common)| (&slow[..], &common[..]));
    assert_eq!(
        paces,
        [
            ("500", "500"),
            ("500", "200"),
            ("300", "100"),
            ("30", "10"),
            ("25", "10")
        ]
    );
}

#[test]
fn jitter_spreads_over_quarter_of_interval() {
    let mut jitter = Jitter::new(7);
    let paces: Vec<Duration> = (0..200).map(|_| jitter.shorten(ms(100))).collect();
    let (least, most) = (*paces.iter().min().unwrap(), *paces.iter().max().unwrap());
    assert!(least >= ms(75) && least < ms(80), "{least:?}");
    assert!(most <= ms(100) && most > ms(95), "{most:?}");
}
