//! Marks: rules 36 and 37, on a voter or a claimant that the test drives by hand.

use std::collections::{BTreeSet, VecDeque};

use super::claimant_rules::{holding, trying};
use super::recovery_rules::{QUARANTINE_MS, in_query, remembers};
use super::*;
use crate::claimant::MarkError;
use crate::message::{Done, Mark, MarkEntry, Marked, MarksPage, MarksQuery, PageEnd};
use crate::voter::MARK_KEEP_MAX;

const NOTHING: [&str; 0] = [];
const KEEP_MS: u64 = 60_000;
/// [`KEEP_MS`] plus twice the drift of 1 %.
const KEPT_MS: u64 = 61_200;
/// The time for which an answer to a mark counts: `max_ttl` less the drift.
const COUNTS_MS: u64 = 29_700;

pub(super) fn named(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub(super) fn mark(name: &str, sent_at_ms: u64) -> Mark {
    Mark {
        key: key(),
        claim: id(name),
        sent_at: instant(sent_at_ms),
        keep_for: ms(KEEP_MS),
    }
}

impl Booth {
    fn effects(&mut self, act: impl FnOnce(&mut Voter, &mut Effects)) -> Effects {
        let mut out = Effects::default();
        act(&mut self.voter, &mut out);
        out
    }

    fn hears_once(&mut self, at_ms: u64, claim: &Claim) -> Vec<String> {
        self.does(|voter, out| voter.handle_once_claim(at(at_ms), claim, out))
    }

    pub(super) fn hears_mark(&mut self, at_ms: u64, mark: &Mark) -> Vec<String> {
        self.does(|voter, out| voter.handle_mark(at(at_ms), mark, out))
    }

    /// Grants the key to a claim of node `a`, marks it, and releases it.
    pub(super) fn marks(&mut self, at_ms: u64, name: &str) {
        // Above the fence of any key before it.
        let epoch = 5 + self.voter.marks() as u64;
        let claim = Claim {
            key: named(name),
            ..claim("a", epoch, at_ms)
        };
        let mark = Mark {
            key: named(name),
            ..mark("a", at_ms)
        };
        let release = Release {
            key: named(name),
            ..release("a", true)
        };
        self.does(|voter, out| {
            voter.handle_claim(at(at_ms), &claim, out);
            voter.handle_mark(at(at_ms), &mark, out);
            voter.handle_release(at(at_ms), &release, out);
        });
        assert!(self.voter.is_marked(at(at_ms), &named(name)), "{name}");
    }

    /// Returns the pages with which it replies to a query.
    fn pages(&self, at_ms: u64, query: &MarksQuery) -> Vec<MarksPage> {
        let mut out = Effects::default();
        self.voter
            .handle_marks_query(at(at_ms), &node("v9"), query, &mut out);
        let pages = out.messages.into_iter().map(|(to, message)| {
            assert_eq!(to, node("v9"));
            match message {
                Message::MarksPage(page) => *page,
                other => panic!("{other:?}"),
            }
        });
        pages.collect()
    }

    fn reads(&mut self, at_ms: u64, from: &str, page: &MarksPage) -> Effects {
        self.effects(|voter, out| voter.handle_marks_page(at(at_ms), &node(from), page, out))
    }
}

/// Returns the queries for marks, with their receivers.
fn queries(out: &Effects) -> Vec<(String, MarksQuery)> {
    let messages = out.messages.iter();
    let queries = messages.filter_map(|(to, message)| match message {
        Message::MarksQuery(query) => Some((to.to_string(), query.clone())),
        _ => None,
    });
    queries.collect()
}

/// Returns the number of marks and `may_lack`, if the reading is over.
fn read(out: &Effects) -> Option<(usize, bool)> {
    out.events.iter().find_map(|event| match event {
        Event::MarksRead { marks, may_lack } => Some((*marks, *may_lack)),
        _ => None,
    })
}

/// Returns `v1` of this many members when its quarantine has just ended, with its queries.
fn in_reading(members: usize, voters: usize) -> (Booth, Vec<(String, MarksQuery)>) {
    let mut booth = in_query(members, voters);
    for other in 2..=members {
        let from = node(&format!("v{other}"));
        let out = booth.effects(|voter, out| {
            voter.handle_recovery_reply(at(QUARANTINE_MS), &from, &remembers(WALL), out);
        });
        if booth.voter.quarantine().is_none() {
            let queries = queries(&out);
            assert_eq!(queries.len(), members - 1);
            return (booth, queries);
        }
    }
    panic!("still in quarantine");
}

fn entry(name: &str, epoch: u64) -> MarkEntry {
    MarkEntry {
        key: named(name),
        by: node("a"),
        epoch: Epoch::new(epoch),
        remaining: ms(KEEP_MS),
    }
}

/// The only page of a voter that has all of its marks.
fn page(nonce: u64, marks: Vec<MarkEntry>) -> MarksPage {
    MarksPage {
        nonce,
        after: None,
        marks,
        end: PageEnd::Last,
        is_whole: true,
    }
}

/// An epoch that a voter accepts after its quarantine.
fn late(name: &str, sent_at_ms: u64) -> Claim {
    Claim {
        epoch: EpochClock::first_of(WALL + QUARANTINE_MS),
        ..claim(name, 0, sent_at_ms)
    }
}

#[test]
fn voter_takes_mark_only_from_claim_with_its_vote() {
    let mut booth = Booth::new();
    assert_eq!(booth.hears_mark(0, &mark("a", 0)), NOTHING);
    booth.hears(1, &granted(claim("a", 5, 1)));
    booth.hears(2, &claim("b", 6, 2));
    assert_eq!(booth.hears_mark(3, &mark("b", 3)), NOTHING);
    let later = Mark {
        claim: ClaimId { seq: 2, ..id("a") },
        ..mark("a", 3)
    };
    assert_eq!(booth.hears_mark(3, &later), NOTHING);
    assert!(!booth.voter.is_marked(at(3), &key()));
    let answer = format!("b Done by a e5 for {KEPT_MS}");
    assert_eq!(
        booth.hears_mark(4, &mark("a", 3)),
        ["a Marked 3 kept".to_owned(), answer]
    );
    // The vote of the holder may have run out.
    assert_eq!(booth.hears_mark(10_002, &mark("a", 10_002)), NOTHING);
}

#[test]
fn marked_key_is_reserved_for_no_waiter() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 0)));
    for (name, epoch) in [("b", 6), ("c", 7)] {
        booth.hears(1, &claim(name, epoch, 1));
    }
    assert_eq!(booth.voter.waiters(), 2);
    assert_eq!(booth.hears_mark(2, &mark("a", 2)).len(), 3);
    assert_eq!(booth.voter.waiters(), 0);
    assert_eq!(booth.hears_release(3, &release("a", true)), NOTHING);
    assert_eq!(booth.voter.slots(), 0);
    assert_eq!(booth.fence(), 5);
}

#[test]
fn claims_get_done_until_mark_ends() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 0)));
    booth.hears_mark(2, &mark("a", 2));
    // The holder renews as before, and nobody else gets a vote.
    let renewed = booth.hears(3, &granted(claim("a", 5, 3)));
    assert_eq!(renewed, ["a Vote 3+10000"]);
    let again = booth.hears(
        4,
        &Claim {
            is_try: true,
            ..claim("b", 9, 4)
        },
    );
    assert_eq!(again, [format!("b Done by a e5 for {}", KEPT_MS - 2)]);
    booth.hears_release(5, &release("a", true));
    let end = 2 + KEPT_MS;
    assert_eq!(
        booth.hears(end - 1, &claim("b", 9, 5)),
        ["b Done by a e5 for 1"]
    );
    assert_eq!(
        booth.hears_once(end - 1, &claim("b", 9, 6)),
        ["b Done by a e5 for 1"]
    );
    // An earlier incarnation of the holder has no part in it.
    assert_eq!(
        booth.hears(end - 1, &claim("a", 5, 7)),
        ["a Done by a e5 for 1"]
    );
    assert_eq!(booth.hears_once(end, &claim("b", 9, 8)), ["b Vote 8+10000"]);
}

/// A later `Mark` of the same claim may ask for more time, and is answered as if it were the first.
#[test]
fn later_mark_of_same_claim_never_shortens() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 0)));
    booth.hears_mark(0, &mark("a", 0));
    let shorter = Mark {
        keep_for: ms(1_000),
        ..mark("a", 1)
    };
    assert_eq!(booth.hears_mark(1, &shorter), ["a Marked 1 kept"]);
    assert!(booth.voter.is_marked(at(KEPT_MS - 1), &key()));
    assert!(!booth.voter.is_marked(at(KEPT_MS), &key()));
    let longer = Mark {
        keep_for: ms(2 * KEEP_MS),
        ..mark("a", 2)
    };
    assert_eq!(booth.hears_mark(2, &longer), ["a Marked 2 kept"]);
    assert!(booth.voter.is_marked(at(2 + 2 * KEPT_MS - 1), &key()));
    assert!(!booth.voter.is_marked(at(2 + 2 * KEPT_MS), &key()));
    assert_eq!(booth.voter.marks(), 1);
}

#[test]
fn full_voter_keeps_no_mark_until_others_end() {
    let limits = VoterLimits {
        marks_max: 1,
        ..VoterLimits::default()
    };
    let mut booth = Booth::with(limits);
    booth.marks(0, "first");
    booth.hears(1, &granted(claim("a", 5, 1)));
    booth.hears(1, &claim("b", 6, 1));
    assert_eq!(booth.hears_mark(2, &mark("a", 2)), ["a Marked 2 full"]);
    assert!(!booth.voter.is_marked(at(2), &key()));
    assert_eq!(booth.voter.waiters(), 1, "the next in turn stays");
    let end = KEPT_MS;
    booth.hears(end, &granted(claim("c", 9, end)));
    let answers = booth.hears_mark(end, &mark("c", end));
    assert_eq!(answers, [format!("c Marked {end} kept")]);
    assert_eq!(booth.voter.marks(), 1);
}

/// Marks that have ended are removed by a timer, so that they take no memory.
#[test]
fn ended_marks_are_swept() {
    let mut booth = Booth::new();
    for n in 0..100 {
        booth.marks(n, &format!("tick {n}"));
    }
    assert_eq!(booth.voter.marks(), 100);
    let mut wakes = 0;
    while let Some(due) = booth.voter.next_timeout() {
        wakes += 1;
        assert!(wakes < 5, "{due:?}");
        booth.effects(|voter, out| {
            let now = Now {
                mono: due,
                wall_ms: WALL,
            };
            voter.handle_timeout(now, out);
        });
    }
    assert_eq!(booth.voter.marks(), 0);
}

#[test]
fn voter_in_quarantine_or_closed_takes_no_mark() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    booth.hears(0, &granted(claim("a", 5, 0)));
    assert_eq!(booth.hears_mark(1, &mark("a", 1)), NOTHING);
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 0)));
    booth.voter.close(Some(RefuseReason::Leaving));
    assert_eq!(booth.hears_mark(1, &mark("a", 1)), NOTHING);
}

/// Rule 37.
#[test]
fn voter_without_memory_refuses_once_claims_until_it_has_read() {
    let (mut booth, queries) = in_reading(3, 3);
    let nonce = queries[0].1.nonce;
    assert!(
        queries
            .iter()
            .all(|(_, it)| it.nonce == nonce && it.after.is_none())
    );
    let now = QUARANTINE_MS + 1;
    assert!(booth.voter.reads_marks());
    assert_eq!(booth.hears_once(now, &late("b", now)), ["b Refuse Marks"]);
    let other = Claim {
        key: named("other"),
        ..late("b", now)
    };
    assert_eq!(booth.hears(now, &other), [format!("b Vote {now}+10000")]);
    let out = booth.reads(now, "v2", &page(nonce, vec![entry("k", 3)]));
    assert_eq!(read(&out), None);
    assert_eq!(booth.hears_once(now, &late("b", now)), ["b Refuse Marks"]);
    // A node that is not a voter, a reply to another query and a second reply do not count.
    booth.reads(now, "v9", &page(nonce, vec![]));
    booth.reads(now, "v3", &page(nonce - 1, vec![]));
    booth.reads(now, "v2", &page(nonce, vec![]));
    assert!(booth.voter.reads_marks());
    let out = booth.reads(now, "v3", &page(nonce, vec![]));
    assert_eq!(read(&out), Some((1, false)));
    let done = booth.hears_once(now, &late("b", now));
    assert_eq!(done, [format!("b Done by a e3 for {KEPT_MS}")]);
    let once = Claim {
        key: named("another"),
        ..late("b", now)
    };
    assert_eq!(
        booth.hears_once(now, &once),
        [format!("b Vote {now}+10000")]
    );
}

#[test]
fn replies_needed_depend_on_quorum() {
    // Members, voters for each key, and the others that must be read.
    let cases = [
        (2, 2, 1),
        (3, 3, 2),
        (4, 4, 2),
        (5, 5, 3),
        (5, 3, 4),
        (7, 5, 5),
        (7, 7, 4),
    ];
    for (members, voters, needed) in cases {
        let (mut booth, queries) = in_reading(members, voters);
        for other in 2..=members {
            let page = page(queries[0].1.nonce, vec![]);
            let out = booth.reads(QUARANTINE_MS, &format!("v{other}"), &page);
            let is_read = other > needed;
            assert_eq!(
                read(&out),
                is_read.then_some((0, false)),
                "{members} {voters} {other}"
            );
            if is_read {
                break;
            }
        }
        assert!(!booth.voter.reads_marks());
    }
}

/// No other voter has the marks that a quorum of one made.
#[test]
fn only_voter_goes_on_at_once_without_its_marks() {
    let (mut booth, _) = Booth::of(1, 1, Start::Recovering);
    let out = booth.effects(|voter, out| voter.handle_timeout(at(QUARANTINE_MS + 1_000), out));
    assert_eq!(read(&out), Some((0, true)));
    let (mut booth, queries) = {
        let mut booth = in_query(3, 1);
        let out = booth.effects(|voter, out| {
            for other in ["v2", "v3"] {
                voter.handle_recovery_reply(at(QUARANTINE_MS), &node(other), &remembers(WALL), out);
            }
        });
        assert_eq!(read(&out), Some((0, true)));
        (booth, queries(&out))
    };
    assert_eq!(queries.len(), 0);
    assert!(!booth.voter.reads_marks());
    assert_eq!(booth.wakes(QUARANTINE_MS + 1), NOTHING);
}

#[test]
fn new_cluster_reads_no_marks() {
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    let out = booth.effects(|voter, out| {
        for other in ["v2", "v3"] {
            let memory = recovery_rules::memory(7, Epoch::ZERO, false, false);
            voter.handle_recovery_reply(at(10), &node(other), &memory, out);
        }
    });
    assert_eq!(booth.voter.quarantine(), None);
    assert!(!booth.voter.reads_marks());
    assert_eq!((read(&out), queries(&out)), (None, vec![]));
    assert_eq!(
        booth.hears_once(11, &claim("b", 5, 11)),
        ["b Vote 11+10000"]
    );
}

/// Returns `v2` with this many marks, and their keys in order.
fn marked(count: usize) -> (Booth, Vec<Key>) {
    let mut booth = Booth::new();
    let names = (0..count).map(|n| format!("report@2026-11-30 {n:05}"));
    let names: Vec<String> = names.collect();
    names.iter().for_each(|name| booth.marks(0, name));
    (booth, names.iter().map(|name| named(name)).collect())
}

/// Lets `v1` read the marks of `v2`. `fate` says how often each page arrives, and when. Returns the
/// number of queries.
fn exchange(
    booth: &mut Booth,
    other: &Booth,
    first: MarksQuery,
    mut fate: impl FnMut(usize) -> Vec<u64>,
) -> usize {
    let (mut now, mut sent, mut count) = (QUARANTINE_MS, 0, 1);
    let mut asked = VecDeque::from([first]);
    let mut flying: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut pages = Vec::new();
    loop {
        for query in asked.drain(..) {
            for page in other.pages(now, &query) {
                sent += 1;
                flying.extend(fate(sent).iter().map(|delay| (now + delay, pages.len())));
                pages.push(page);
            }
        }
        let timer = booth.voter.next_timeout().unwrap();
        let timer_ms = timer.as_nanos().div_ceil(1_000_000);
        let out = match flying.first().copied().filter(|(at, _)| *at <= timer_ms) {
            Some((at, page)) => {
                flying.pop_first();
                now = now.max(at);
                booth.reads(now, "v2", &pages[page])
            }
            None => {
                now = now.max(timer_ms);
                assert!(now < QUARANTINE_MS + 10_000, "it has not read all");
                booth.effects(|voter, out| voter.handle_timeout(at(now), out))
            }
        };
        for (to, query) in queries(&out) {
            if to == "v2" {
                count += 1;
                asked.push_back(query);
            }
        }
        if read(&out).is_some() {
            return count;
        }
    }
}

#[test]
fn marks_of_many_pages_are_read_whatever_the_network_does() {
    let (other, keys) = marked(1_000);
    type Fate = Box<dyn FnMut(usize) -> Vec<u64>>;
    let mut random = crate::testing::Random(3);
    let fates: [(&str, Fate); 5] = [
        ("in order", Box::new(|_| vec![5])),
        ("each twice", Box::new(|_| vec![5, 7])),
        (
            "every tenth lost",
            Box::new(|n| if n % 10 == 3 { vec![] } else { vec![5] }),
        ),
        (
            "every fifth late",
            Box::new(|n| vec![if n % 5 == 0 { 9 } else { 5 }]),
        ),
        (
            "anything",
            Box::new(move |_| (0..random.below(3)).map(|_| random.below(15)).collect()),
        ),
    ];
    for (what, fate) in fates {
        // One other voter is enough, since it is the only one.
        let (mut booth, queries) = in_reading(2, 2);
        let count = exchange(&mut booth, &other, queries[0].1.clone(), fate);
        assert!(count > 1, "{what}");
        assert_eq!(booth.voter.marks(), 1_000, "{what}");
        let now = at(QUARANTINE_MS + 10_000);
        assert!(
            keys.iter().all(|key| booth.voter.is_marked(now, key)),
            "{what}"
        );
    }
}

/// A query is answered with few datagrams, each of which fits.
#[test]
fn pages_are_few_and_fit_into_datagrams() {
    use crate::wire::codec::{DatagramHead, pack_messages};
    let long = |n: usize, bytes: usize| format!("{n:03}{}", "x".repeat(bytes - 3));
    for bytes in [3, 32, 200, 256] {
        let mut booth = Booth::new();
        let name = node(&"n".repeat(64));
        for n in 0..600 {
            let key = named(&long(n, bytes));
            let claim_id = ClaimId {
                node: name.clone(),
                ..id("a")
            };
            let claim = Claim {
                key: key.clone(),
                claim: claim_id.clone(),
                epoch: Epoch::new(u64::MAX >> 1),
                ..claim("a", 5, 0)
            };
            let mark = Mark {
                key,
                claim: claim_id,
                keep_for: MARK_KEEP_MAX - Duration::from_nanos(1),
                ..mark("a", 0)
            };
            let now = Now {
                wall_ms: u64::MAX >> 21,
                ..at(0)
            };
            booth.does(|voter, out| {
                voter.handle_claim(now, &claim, out);
                voter.handle_mark(now, &mark, out);
            });
        }
        assert_eq!(booth.voter.marks(), 600);
        let query = MarksQuery {
            nonce: u64::MAX,
            after: Some(named(&long(0, bytes))),
        };
        let pages = booth.pages(1, &query);
        assert!((1..=16).contains(&pages.len()), "{}", pages.len());
        let head = DatagramHead {
            from: name.clone(),
            incarnation: Incarnation::new(u64::MAX),
            to: name.clone(),
            voter_set: voter_set(3, 3).tag(),
        };
        for page in pages {
            let budget = crate::DATAGRAM_BYTES_MAX - crate::SEALED_OVERHEAD;
            let packed = pack_messages(&head, &[Message::MarksPage(Box::new(page))], budget);
            assert_eq!((packed.bodies.len(), packed.too_large), (1, 0));
        }
    }
}

/// A voter that reads marks itself, or has lost its memory, may lack what it is asked for.
#[test]
fn marks_of_partial_voter_are_taken_but_not_all() {
    let (mut booth, queries) = in_reading(3, 3);
    let nonce = queries[0].1.nonce;
    let partial = MarksPage {
        is_whole: false,
        ..page(nonce, vec![entry("k", 3)])
    };
    let now = QUARANTINE_MS;
    booth.reads(now, "v2", &page(nonce, vec![]));
    assert_eq!(read(&booth.reads(now, "v3", &partial)), None);
    assert!(
        booth.voter.is_marked(at(now), &key()),
        "it is true all the same"
    );
    assert_eq!(booth.wakes(now + 999), NOTHING);
    let out = booth.effects(|voter, out| voter.handle_timeout(at(now + 1_000), out));
    let again = queries_to(&out, "v3");
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].after, None, "from the first key");
    let out = booth.reads(now + 1_001, "v3", &page(nonce, vec![]));
    assert_eq!(read(&out), Some((1, false)));
}

fn queries_to(out: &Effects, to: &str) -> Vec<MarksQuery> {
    let queries = queries(out).into_iter();
    queries.filter(|it| it.0 == to).map(|it| it.1).collect()
}

/// A reading voter tells others so.
#[test]
fn voter_is_whole_only_once_it_has_read() {
    let (mut booth, queries) = in_reading(3, 3);
    let nonce = queries[0].1.nonce;
    let query = MarksQuery {
        nonce: 1,
        after: None,
    };
    let is_whole = |booth: &Booth| booth.pages(QUARANTINE_MS, &query)[0].is_whole;
    assert!(!is_whole(&booth));
    booth.reads(QUARANTINE_MS, "v2", &page(nonce, vec![]));
    assert!(!is_whole(&booth));
    booth.reads(QUARANTINE_MS, "v3", &page(nonce, vec![]));
    assert!(is_whole(&booth));
    let (booth, _) = Booth::of(3, 3, Start::Recovering);
    assert!(!booth.pages(0, &query)[0].is_whole);
}

/// Two of three voters that lost their memory can never read enough.
#[test]
fn voter_goes_on_after_ten_seconds() {
    let (mut booth, queries) = in_reading(3, 3);
    booth.reads(
        QUARANTINE_MS,
        "v2",
        &page(queries[0].1.nonce, vec![entry("k", 3)]),
    );
    let end = QUARANTINE_MS + 10_000;
    let mut asked = 0;
    loop {
        let due = booth.voter.next_timeout().unwrap();
        let due_ms = due.as_nanos().div_ceil(1_000_000);
        let out = booth.effects(|voter, out| voter.handle_timeout(at(due_ms), out));
        assert_eq!(queries_to(&out, "v2").len(), 0, "it is read");
        asked += queries_to(&out, "v3").len();
        if due_ms >= end {
            assert_eq!((due_ms, read(&out)), (end, Some((1, true))));
            break;
        }
        assert_eq!(read(&out), None);
    }
    assert!((100..1_000).contains(&asked), "{asked}");
    let once = Claim {
        key: named("other"),
        ..late("b", end)
    };
    assert_eq!(
        booth.hears_once(end, &once),
        [format!("b Vote {end}+10000")]
    );
}

/// Another process of the name was found, for example.
#[test]
fn restarted_voter_keeps_marks_and_reads_again() {
    let (mut booth, queries) = in_reading(2, 2);
    let first = queries[0].1.nonce;
    booth.reads(QUARANTINE_MS, "v2", &page(first, vec![entry("k", 3)]));
    assert!(!booth.voter.reads_marks());
    booth.does(|voter, out| voter.restart(at(QUARANTINE_MS), 70, out));
    let again = 2 * QUARANTINE_MS;
    assert!(booth.voter.is_marked(at(again - 1), &key()));
    booth.wakes(again);
    let out = booth.effects(|voter, out| {
        let memory = recovery_rules::memory(71, Epoch::ZERO, true, true);
        voter.handle_recovery_reply(at(again), &node("v2"), &memory, out);
    });
    let queries = self::queries(&out);
    assert_eq!(queries.len(), 1);
    assert_ne!(queries[0].1.nonce, first);
    // The pages of the first reading no longer count.
    booth.reads(again, "v2", &page(first, vec![]));
    assert!(booth.voter.reads_marks());
    assert_eq!(
        booth.hears_once(again, &late("b", again)),
        ["b Refuse Marks"]
    );
    let out = booth.reads(again, "v2", &page(queries[0].1.nonce, vec![]));
    assert!(matches!(read(&out), Some((_, false))));
}

/// If a claim got the vote before its key was known to be marked, its own mark is added.
#[test]
fn mark_of_another_claim_lengthens() {
    let (mut booth, queries) = in_reading(3, 3);
    let now = QUARANTINE_MS;
    booth.hears(now, &late("b", now));
    let mut read_mark = entry("k", 3);
    read_mark.remaining = ms(KEEP_MS / 2);
    booth.reads(now, "v2", &page(queries[0].1.nonce, vec![read_mark]));
    let end = now + KEPT_MS / 2;
    assert!(booth.voter.is_marked(at(end - 1), &key()));
    assert!(!booth.voter.is_marked(at(end), &key()));
    assert_eq!(
        booth.hears_mark(now, &mark("b", now)),
        [format!("b Marked {now} kept")]
    );
    assert!(booth.voter.is_marked(at(now + KEPT_MS - 1), &key()));
    let done = booth.hears(now, &late("c", now));
    assert_eq!(done, [format!("c Done by b w{now} for {KEPT_MS}")]);
}

/// A mark that is read ends the wait of all claims for its key.
#[test]
fn mark_that_is_read_ends_the_queue() {
    let (mut booth, queries) = in_reading(3, 3);
    let now = QUARANTINE_MS;
    booth.hears(now, &granted(late("b", now)));
    let next = Claim {
        epoch: EpochClock::first_of(WALL + now + 1),
        ..late("c", now)
    };
    assert_eq!(booth.hears(now, &next), [format!("c Wait b w{now} yes")]);
    let page = page(queries[0].1.nonce, vec![entry("k", 3)]);
    let out = booth.reads(now, "v2", &page);
    let done = format!("c Done by a e3 for {KEPT_MS}");
    assert_eq!(lines(&out), [done]);
    assert_eq!(booth.hears_release(now, &release("b", true)), NOTHING);
}

/// With fewer voters for each key than members, others have marks that this one never needs.
#[test]
fn voter_reads_only_marks_of_its_keys() {
    let set = voter_set(5, 3);
    let names: Vec<String> = (0..100).map(|n| format!("tick {n}")).collect();
    let own = |name: &&String| set.votes_for(&node("v1"), &named(name));
    let expected = names.iter().filter(own).count();
    assert!((1..100).contains(&expected));
    let (mut booth, queries) = in_reading(5, 3);
    for name in &names {
        let page = MarksPage {
            end: PageEnd::More,
            ..page(queries[0].1.nonce, vec![entry(name, 3)])
        };
        for other in ["v2", "v3", "v4", "v5"] {
            // Each of them has one mark.
            booth.reads(QUARANTINE_MS, other, &page);
        }
    }
    let first = u64::from(own(&&names[0]));
    assert_eq!(
        booth.voter.marks() as u64,
        first,
        "later pages are out of order"
    );
    let (mut booth, queries) = in_reading(5, 3);
    let mut sorted = names.clone();
    sorted.sort();
    let entries = sorted.iter().map(|name| entry(name, 3)).collect();
    booth.reads(QUARANTINE_MS, "v2", &page(queries[0].1.nonce, entries));
    assert_eq!(booth.voter.marks(), expected);
}

/// The time that a mark is lengthened at each reading is bounded, or others would drop its page.
#[test]
fn mark_that_is_read_again_and_again_can_still_be_read() {
    let longest = MARK_KEEP_MAX * 2;
    let (mut booth, queries) = in_reading(3, 3);
    let mut long = entry("k", 3);
    long.remaining = longest;
    booth.reads(QUARANTINE_MS, "v2", &page(queries[0].1.nonce, vec![long]));
    let pages = booth.pages(
        QUARANTINE_MS,
        &MarksQuery {
            nonce: 1,
            after: None,
        },
    );
    assert_eq!(pages[0].marks.len(), 1);
    assert!(pages[0].marks[0].remaining <= longest);
}

// The claimant.

fn marked_by(sent_at_ms: u64, is_kept: bool) -> Message {
    Message::Marked(Marked {
        claim: own(1),
        sent_at: instant(sent_at_ms),
        is_kept,
    })
}

fn done() -> Message {
    Message::Done(Done {
        claim: own(1),
        by: node("b"),
        epoch: EpochClock::first_of(WALL),
        remaining: ms(1_000),
    })
}

fn once() -> Request {
    Request {
        is_once: true,
        note: None,
        ..Asker::request()
    }
}

impl Asker {
    fn begins_mark(&mut self, at_ms: u64, keep_ms: u64) -> Vec<String> {
        self.does(|c, out| c.mark(at(at_ms), Ticket(1), ms(keep_ms), out).unwrap())
    }

    /// Runs until `until_ms`. All voters vote at once, and `answer` says how they answer a mark.
    /// Returns the outputs other than claims and renewals, with their times.
    fn lives(
        &mut self,
        until_ms: u64,
        answer: impl Fn(u64, &str) -> Option<bool>,
    ) -> Vec<(u64, String)> {
        let mut said = Vec::new();
        while let Some(due) = self.claimant.next_timeout() {
            if due > instant(until_ms) {
                break;
            }
            let now = due.as_nanos().div_ceil(1_000_000);
            let mut out = Effects::default();
            self.claimant.handle_timeout(at(now), &mut out);
            while !out.messages.is_empty() || !out.events.is_empty() {
                let events = out.events.iter();
                let events = events.filter(|it| !matches!(it, Event::Renewed { .. }));
                said.extend(events.map(|it| (now, event_line(it))));
                let mut next = Effects::default();
                for (to, message) in &out.messages {
                    let reply = match message {
                        Message::Claim(claim) | Message::OnceClaim(claim) => {
                            Some(Message::Vote(Vote {
                                ttl: claim.ttl,
                                ..vote(claim.claim.seq, claim.sent_at, 0)
                            }))
                        }
                        Message::Mark(mark) => {
                            said.push((now, line(to, message)));
                            answer(now, to.as_str()).map(|is_kept| {
                                Message::Marked(Marked {
                                    claim: mark.claim.clone(),
                                    sent_at: mark.sent_at,
                                    is_kept,
                                })
                            })
                        }
                        _ => None,
                    };
                    if let Some(reply) = reply {
                        self.claimant.handle(at(now), to, &reply, &mut next);
                    }
                }
                out = next;
            }
        }
        said
    }
}

#[test]
fn quorum_of_answers_marks_once() {
    let mut asker = holding(Asker::request());
    let sent = asker.begins_mark(200, KEEP_MS);
    assert_eq!(
        sent,
        ["v1", "v2", "v3"].map(|v| format!("{v} Mark #1 200+{KEEP_MS}"))
    );
    assert_eq!(asker.hears(210, "v1", marked_by(200, true)), NOTHING);
    assert_eq!(asker.hears(211, "v1", marked_by(200, true)), NOTHING);
    assert_eq!(asker.hears(212, "v9", marked_by(200, true)), NOTHING);
    assert_eq!(asker.hears(213, "v3", marked_by(200, true)), ["Marked"]);
    assert_eq!(asker.hears(214, "v2", marked_by(200, true)), NOTHING);
    let later = asker.lives(5_000, |_, _| None);
    assert_eq!(later, [], "no further mark, and the lease goes on");
    assert!(asker.held(5_000).is_some());
}

#[test]
fn marks_are_sent_again_until_a_quorum_has_them() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, KEEP_MS);
    let said = asker.lives(8_000, |now, _| (now > 3_000).then_some(true));
    let (at, last) = said.last().unwrap();
    assert_eq!(last, "Marked");
    assert!((3_001..4_000).contains(at), "{at}");
    let marks = said.iter().filter(|(_, line)| line.contains("Mark #1"));
    assert!((15..60).contains(&marks.count()));
}

#[test]
fn full_voters_end_a_mark() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, KEEP_MS);
    assert_eq!(asker.hears(210, "v1", marked_by(200, true)), NOTHING);
    assert_eq!(asker.hears(211, "v2", marked_by(200, false)), NOTHING);
    assert_eq!(asker.hears(212, "v3", marked_by(200, false)), ["NotMarked"]);
    assert!(asker.held(213).is_some());
    // A later call begins anew, and room may have been made.
    asker.begins_mark(300, KEEP_MS);
    asker.hears(310, "v2", marked_by(300, true));
    assert_eq!(asker.hears(311, "v3", marked_by(300, true)), ["Marked"]);
}

/// A voter may lose its memory and read the marks of the others after its quarantine. So the answers
/// of a quorum must be within a `max_ttl`.
#[test]
fn old_answers_do_not_count() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, KEEP_MS);
    asker.hears(210, "v1", marked_by(200, true));
    let said = asker.lives(200 + COUNTS_MS, |_, _| None);
    assert!(said.iter().all(|(_, line)| line.contains("Mark #1")));
    let again = said.iter().filter(|(_, line)| line.starts_with("v1"));
    let (first, _) = again.clone().min().unwrap();
    assert!(
        (15_200..16_000).contains(first),
        "asked again after half a max_ttl: {first}"
    );
    assert!(asker.held(200 + COUNTS_MS).is_some());
    let late = marked_by(said.last().unwrap().0, true);
    assert_eq!(asker.hears(200 + COUNTS_MS, "v2", late), NOTHING);
    let said = asker.lives(40_000, |_, voter| (voter == "v1").then_some(true));
    assert_eq!(said.last().unwrap().1, "Marked");
}

#[test]
fn lease_that_ends_while_marking_is_only_lost() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, KEEP_MS);
    asker.hears(210, "v1", marked_by(200, true));
    let said = asker.hears(10_000, "v2", marked_by(200, true));
    assert_eq!(said[0], "Lost w100");
    assert!(said.iter().all(|line| line != "Marked"));
    assert_eq!(asker.hears(10_001, "v3", marked_by(200, true)), NOTHING);
    let error = |asker: &mut Asker| {
        let mut error = None;
        asker.does(|c, out| error = c.mark(at(10_002), Ticket(1), ms(1), out).err());
        error
    };
    assert_eq!(error(&mut asker), Some(MarkError::NotHeld));
    let said = asker.lives(60_000, |_, _| Some(true));
    assert_eq!(said, []);
}

#[test]
fn mark_is_refused_without_lock_or_out_of_bounds() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let mut error = |at_ms, keep_for| {
        let mut error = None;
        asker.does(|c, out| error = c.mark(at(at_ms), Ticket(1), keep_for, out).err());
        error
    };
    assert_eq!(error(101, ms(1)), Some(MarkError::NotHeld));
    for keep_for in [Duration::ZERO, MARK_KEEP_MAX + Duration::from_nanos(1)] {
        assert_eq!(error(101, keep_for), Some(MarkError::KeepFor { keep_for }));
    }
    let mut asker = holding(Asker::request());
    asker.does(|c, out| c.mark(at(200), Ticket(1), MARK_KEEP_MAX, out).unwrap());
}

/// The outcome of a mark is that of its time: answers to a shorter one do not count.
#[test]
fn longer_mark_needs_answers_of_its_own() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, KEEP_MS);
    assert_eq!(
        asker.begins_mark(201, KEEP_MS),
        NOTHING,
        "it is being marked"
    );
    assert_eq!(asker.begins_mark(202, KEEP_MS / 2), NOTHING);
    let sent = asker.begins_mark(203, 2 * KEEP_MS);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], format!("v1 Mark #1 203+{}", 2 * KEEP_MS));
    asker.hears(210, "v1", marked_by(200, true));
    assert_eq!(asker.hears(210, "v2", marked_by(200, true)), NOTHING);
    asker.hears(211, "v1", marked_by(203, true));
    assert_eq!(asker.hears(211, "v2", marked_by(203, true)), ["Marked"]);
    // And once more, after it is marked.
    assert_eq!(asker.begins_mark(300, 3 * KEEP_MS).len(), 3);
    asker.hears(310, "v1", marked_by(203, true));
    assert_eq!(asker.hears(310, "v3", marked_by(203, true)), NOTHING);
    asker.hears(311, "v1", marked_by(300, true));
    assert_eq!(asker.hears(311, "v3", marked_by(300, true)), ["Marked"]);
}

#[test]
fn done_ends_claims_without_a_lease() {
    for request in [Asker::request(), trying(), once()] {
        let mut asker = Asker::new(3);
        asker.asks(100, request);
        asker.hears(110, "v1", voted(100, 10_000));
        let said = asker.hears(111, "v2", done());
        assert_eq!(said[0], "Done by b w0");
        let releases = ["v1", "v2", "v3"].map(|v| format!("{v} Release #1"));
        assert_eq!(said[1..], releases);
        assert_eq!(asker.hears(112, "v3", done()), NOTHING);
        assert_eq!(
            asker.hears(113, "v3", voted(100, 10_000)),
            ["v3 Release #1"]
        );
        assert_eq!(asker.runs(60_000), []);
    }
    let mut asker = holding(Asker::request());
    assert_eq!(asker.hears(120, "v3", done()), NOTHING);
    assert!(asker.held(121).is_some());
}

#[test]
fn once_request_claims_anew_as_once() {
    let mut asker = Asker::new(3);
    let sent = asker.asks(100, once());
    assert_eq!(sent[0], "v1 OnceClaim #1 w100 100+10000");
    let fence = EpochClock::first_of(WALL + 500);
    let anew = asker.hears(110, "v1", stale(1, fence));
    let claims: Vec<_> = anew.iter().filter(|line| line.contains("Claim")).collect();
    assert!(
        claims.iter().all(|line| line.contains("OnceClaim #2")),
        "{anew:?}"
    );
    assert_eq!(claims.len(), 3, "{anew:?}");
    // The renewals of its lease too.
    for voter in ["v1", "v2"] {
        asker.hears(120, voter, Message::Vote(vote(2, instant(110), 10_000)));
    }
    let renewals = asker.runs(6_000);
    assert!(
        renewals
            .iter()
            .any(|(_, line)| line.contains(" OnceClaim #2"))
    );
    assert!(!renewals.iter().any(|(_, line)| line.contains(" Claim #2")));
}

/// Voters that read marks do so for seconds only: the claim waits.
#[test]
fn claim_waits_for_voters_that_read_marks() {
    let mut asker = Asker::new(3);
    asker.asks(100, once());
    for voter in ["v1", "v2", "v3"] {
        assert_eq!(
            asker.hears(110, voter, refused(RefuseReason::Marks)),
            NOTHING
        );
    }
    let said = asker.lives(2_000, |_, _| None);
    assert!(said[0].1.starts_with("Granted"), "{said:?}");
}

/// A lease of a quorum is no new grant, so a voter that reads marks renews it.
#[test]
fn reading_voter_votes_for_granted_once_claims() {
    let (mut booth, _) = in_reading(3, 3);
    let now = QUARANTINE_MS + 1;
    assert_eq!(booth.hears_once(now, &late("b", now)), ["b Refuse Marks"]);
    let held = granted(late("a", now));
    assert_eq!(
        booth.hears_once(now, &held),
        [format!("a Vote {now}+10000")]
    );
}

/// Its work would be done, and could not be marked.
#[test]
fn full_voter_refuses_once_claims_until_a_mark_ends() {
    let mut booth = Booth::with(VoterLimits {
        marks_max: 1,
        ..VoterLimits::default()
    });
    booth.marks(0, "first");
    assert_eq!(booth.hears_once(1, &claim("b", 6, 1)), ["b Refuse Limit"]);
    assert_eq!(booth.hears(1, &claim("c", 7, 1)), ["c Vote 1+10000"]);
    let end = KEPT_MS;
    let other = Claim {
        key: named("other"),
        ..claim("b", 8, end)
    };
    assert_eq!(
        booth.hears_once(end, &other),
        [format!("b Vote {end}+10000")]
    );
}

/// The mark of the first voter has ended when the second voter answers.
#[test]
fn answer_counts_no_longer_than_its_mark_lasts() {
    let mut asker = holding(Asker::request());
    asker.begins_mark(200, 1_000);
    asker.hears(210, "v1", marked_by(200, true));
    let said = asker.lives(1_400, |_, _| None);
    let (last, _) = said.last().unwrap();
    assert_eq!(asker.hears(1_400, "v2", marked_by(*last, true)), NOTHING);
}
