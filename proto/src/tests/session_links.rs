//! What a claimant knows of its voters over all its claims, by itself. There is no jitter here.

use super::super::backoff::{jittered, queue_interval, sweep_interval};
use super::super::link::{LinkNo, Links, News};
use super::super::rng::Jitter;
use super::session_claimant::{is_over, kept_by};
use super::*;

/// From 1,000 on a link to session 1 of voter `v1`, for a ttl of 12 seconds and asked to be kept
/// every four. It covers claim 1.
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

/// A lease is looked at in its own rounds. After a pause of five sixths of its ttl, a round
/// included, that may be too late.
#[test]
fn an_answer_is_late_where_a_round_more_would_leave_less_than_a_sixth_of_the_ttl() {
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
fn a_voter_that_can_be_reached_again_is_asked_for_what_it_did_not_answer_alone() {
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
fn a_voter_is_left_alone_until_then_and_that_is_news_once() {
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

/// A voter numbers its sessions from 1, and two voters may have one nonce.
#[test]
fn rule_20_sessions_of_one_name_at_two_voters_are_two() {
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

/// What asks for many asks more often where their ttl is short: a twelfth of it, but no sooner
/// than an answer can be there.
#[test]
fn rule_14_one_that_asks_for_many_waits_a_twelfth_of_a_short_ttl() {
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
fn those_who_began_together_are_spread_over_a_quarter_of_their_pace() {
    let mut jitter = Jitter::new(7);
    let paces: Vec<Duration> = (0..200).map(|_| jittered(ms(100), &mut jitter)).collect();
    let (least, most) = (*paces.iter().min().unwrap(), *paces.iter().max().unwrap());
    assert!(least >= ms(75) && least < ms(80), "{least:?}");
    assert!(most <= ms(100) && most > ms(95), "{most:?}");
}
