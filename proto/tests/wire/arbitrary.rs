//! Strategies for heads and messages of every shape that their types allow.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lockmesh_proto::{
    Challenge, Claim, ClaimId, DIGEST_PARTS, DatagramHead, Digest, DigestPart, Done, Epoch,
    Handover, HolderGranted, Incarnation, Inspect, Instant, KEY_BYTES_MAX, KeepAlive, Kept,
    KeptToken, Key, MARK_KEEP_MAX, MEMORY_PART_BYTES, Mark, MarkEntry, Marked, MarksPage,
    MarksQuery, MemoryPart, MemorySize, Message, NODE_ID_BYTES_MAX, NOTE_BYTES_MAX, Namesake,
    NodeId, Note, NoteMessage, Outdated, PageEnd, REPORTED_WAITERS_MAX, RecoveryQuery,
    RecoveryReply, Refuse, RefuseReason, Release, Report, ReportedVote, ReportedWaiter, Revoke,
    Revoked, Role, SessionId, Stale, Timing, Vote, VoterQuery, VoterReply, VoterSet,
    VoterSetDescription, VoterSetTag, Wait,
};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..300_u64,
        any::<u64>(),
        Just(u64::MAX),
        any::<u64>().prop_map(|n| n >> 20),
    ]
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..40_000_u64).prop_map(Duration::from_millis),
        (number(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
        Just(Duration::MAX),
        Just(Duration::ZERO),
    ]
}

fn instant() -> impl Strategy<Value = Instant> {
    number().prop_map(Instant::from_nanos)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    number().prop_map(Epoch::new)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    number().prop_map(Incarnation::new)
}

pub(crate) fn any_node_id() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        "[abcd]",
        "[^\\p{Cc}]{1,16}",
        Just("n".repeat(NODE_ID_BYTES_MAX))
    ]
    .prop_map(|name| node_id(&name))
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof!["[kl]", "(?s).{1,64}", Just("k".repeat(KEY_BYTES_MAX))]
        .prop_map(|name| Key::new(name).unwrap())
}

pub(crate) fn any_head() -> impl Strategy<Value = DatagramHead> {
    (
        any_node_id(),
        incarnation(),
        any_node_id(),
        number(),
        number(),
    )
        .prop_map(|(from, incarnation, to, version, digest)| DatagramHead {
            from,
            incarnation,
            to,
            voter_set: VoterSetTag { version, digest },
        })
}

/// Claim ids of any node in any incarnation.
pub(crate) fn any_claim_id() -> impl Strategy<Value = ClaimId> {
    (any_node_id(), incarnation(), number()).prop_map(|(node, incarnation, seq)| ClaimId {
        node,
        incarnation,
        seq,
    })
}

fn holder_granted() -> impl Strategy<Value = HolderGranted> {
    prop::sample::select(vec![
        HolderGranted::No,
        HolderGranted::Unheard,
        HolderGranted::Yes,
        HolderGranted::Silent,
    ])
}

fn refuse_reason() -> impl Strategy<Value = RefuseReason> {
    prop::sample::select(vec![
        RefuseReason::Quarantine,
        RefuseReason::Leaving,
        RefuseReason::Storage,
        RefuseReason::VoterSet,
        RefuseReason::Skew,
        RefuseReason::Limit,
        RefuseReason::NotAVoter,
        RefuseReason::Marks,
    ])
}

fn any_report() -> impl Strategy<Value = Message> {
    let vote = (any_claim_id(), epoch(), any::<bool>(), span()).prop_map(
        |(claim, epoch, granted, remaining)| ReportedVote {
            claim,
            epoch,
            granted,
            remaining,
        },
    );
    let waiter = (any_node_id(), epoch()).prop_map(|(node, epoch)| ReportedWaiter { node, epoch });
    let waiters = vec(waiter, 0..=REPORTED_WAITERS_MAX);
    let vote = proptest::option::of(vote);
    (number(), vote, waiters, any::<u32>(), epoch()).prop_map(
        |(nonce, vote, waiters, waiting, fence)| {
            Message::Report(Report {
                nonce,
                vote,
                waiters,
                waiting,
                fence,
                is_recovering: waiting % 2 == 1,
            })
        },
    )
}

fn roles() -> Vec<Role> {
    vec![Role::Client, Role::Recovering, Role::Votes]
}

fn any_voter_set() -> impl Strategy<Value = Message> {
    let role = prop::sample::select(roles());
    let members = vec(any_node_id(), 0..6);
    (role, any::<u32>(), any::<u32>(), span(), members).prop_map(
        |(role, voters_per_key, members, max_ttl, listed)| {
            let listed: BTreeSet<_> = listed.into_iter().collect();
            let timing = Timing {
                max_ttl,
                ..Timing::lan()
            };
            Message::Described(Box::new(VoterSetDescription {
                role,
                voters_per_key,
                timing,
                members,
                listed: listed.into_iter().collect(),
            }))
        },
    )
}

fn session_id() -> impl Strategy<Value = SessionId> {
    (number(), any::<u32>()).prop_map(|(nonce, number)| SessionId { nonce, number })
}

fn any_digest() -> impl Strategy<Value = Digest> {
    let part = (any::<u32>(), any::<u32>()).prop_map(|(count, sum)| DigestPart { count, sum });
    prop::array::uniform::<_, DIGEST_PARTS>(part).prop_map(|parts| Digest { parts })
}

fn any_keep_alive() -> impl Strategy<Value = Message> {
    (session_id(), instant(), any_digest()).prop_map(|(session, sent_at, covered)| {
        Message::KeepAlive(Box::new(KeepAlive {
            session,
            sent_at,
            covered,
        }))
    })
}

fn any_kept() -> impl Strategy<Value = Message> {
    let ttl = proptest::option::of(span());
    (session_id(), instant(), ttl, any::<u16>()).prop_map(|(session, sent_at, ttl, lacks)| {
        Message::Kept(Kept {
            session,
            sent_at,
            ttl,
            lacks,
        })
    })
}

fn any_claim(claims: impl Strategy<Value = ClaimId> + 'static) -> impl Strategy<Value = Message> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (
        any_key(),
        claims,
        epoch(),
        span(),
        instant(),
        instant(),
        flags,
    )
        .prop_map(
            |(key, claim, epoch, ttl, sent_at, since, (granted, is_try, join, outlives))| {
                Message::Claim(Claim {
                    key,
                    claim,
                    epoch,
                    ttl,
                    sent_at,
                    votes_valid_since: since,
                    granted,
                    is_try,
                    join,
                    outlives,
                })
            },
        )
}

fn any_vote(claims: impl Strategy<Value = ClaimId> + 'static) -> impl Strategy<Value = Message> {
    let flags = (any::<bool>(), any::<bool>());
    let covered = proptest::option::of(session_id());
    (any_key(), claims, instant(), span(), flags, covered).prop_map(
        |(key, claim, sent_at, ttl, (yield_requested, probe), covered)| {
            Message::Vote(Vote {
                key,
                claim,
                sent_at,
                ttl,
                yield_requested,
                probe,
                covered,
            })
        },
    )
}

/// Messages of every kind. Those that name a claim take its id from `claims`.
pub(crate) fn any_message_about(
    claims: impl Strategy<Value = ClaimId> + Clone + 'static,
) -> impl Strategy<Value = Message> {
    let flags = (any::<bool>(), any::<bool>());
    let (marking, revoking) = (claims.clone(), claims.clone());
    let holder = (any_claim_id(), epoch(), holder_granted(), any::<u32>());
    let wait = (any_key(), claims.clone(), holder);
    let memory = (number(), epoch(), flags, incarnation(), span(), span());
    prop_oneof![
        any_claim(claims.clone()),
        any_vote(claims.clone()),
        wait.prop_map(|(key, claim, (holder, epoch, granted, ahead))| {
            Message::Wait(Wait {
                key,
                claim,
                holder,
                epoch,
                granted,
                ahead,
            })
        }),
        (claims.clone(), epoch()).prop_map(|(claim, fence)| Message::Stale(Stale { claim, fence })),
        (claims.clone(), refuse_reason())
            .prop_map(|(claim, reason)| Message::Refuse(Refuse { claim, reason })),
        (any_key(), claims, any::<bool>()).prop_map(|(key, claim, granted)| Message::Release(
            Release {
                key,
                claim,
                granted
            }
        )),
        number().prop_map(|nonce| Message::RecoveryQuery(RecoveryQuery { nonce })),
        prop::sample::select(roles()).prop_map(Message::Describe),
        any_voter_set(),
        memory.prop_map(|(nonce, highest, (votes, knew), seen, quarantine, skew)| {
            Message::RecoveryReply(RecoveryReply {
                nonce,
                highest,
                votes,
                knew,
                seen,
                before: seen,
                remembers: knew,
                quarantine,
                skew,
            })
        }),
        incarnation().prop_map(|seen| Message::Outdated(Outdated { seen })),
        number().prop_map(|nonce| Message::Challenge(Challenge { nonce })),
        number().prop_map(|nonce| Message::Alive(Challenge { nonce })),
        any_namesake(),
        (number(), any_key()).prop_map(|(nonce, key)| Message::Inspect(Inspect { nonce, key })),
        any_report(),
        any_keep_alive(),
        any_kept(),
        any_voter_reply(),
        (instant(), epoch())
            .prop_map(|(sent_at, epoch)| { Message::VoterQuery(VoterQuery { sent_at, epoch }) }),
        any_handover().prop_map(|it| Message::Handover(Box::new(it))),
        any_mark(marking.clone()),
        any_note(marking),
        any_revoke(revoking),
    ]
}

fn any_note(
    claims: impl Strategy<Value = ClaimId> + Clone + 'static,
) -> impl Strategy<Value = Message> {
    let note = || {
        prop_oneof!["[^\\p{Cc}]{1,16}", Just("n".repeat(NOTE_BYTES_MAX))]
            .prop_map(|text| Note::new(text).unwrap())
    };
    let of_holder = (claims.clone(), any_node_id(), epoch(), span(), note());
    let of_reported = (number(), any_node_id(), epoch(), note());
    let notes = prop_oneof![
        (any_key(), claims, note()).prop_map(|(key, claim, note)| NoteMessage::OfClaim {
            key,
            claim,
            note
        }),
        of_holder.prop_map(
            |(claim, node, epoch, held_for, note)| NoteMessage::OfHolder {
                claim,
                node,
                epoch,
                held_for,
                note,
            }
        ),
        of_reported.prop_map(|(nonce, node, epoch, note)| NoteMessage::OfReported {
            nonce,
            node,
            epoch,
            note,
        }),
    ];
    notes.prop_map(|it| Message::Note(Box::new(it)))
}

fn any_revoke(
    claims: impl Strategy<Value = ClaimId> + Clone + 'static,
) -> impl Strategy<Value = Message> {
    let revoke = (number(), any_key(), claims.clone(), any_node_id());
    let revoke = revoke.prop_map(|(nonce, key, claim, through)| {
        let by = Note::new(through.as_str()).unwrap();
        Message::Revoke(Box::new(Revoke {
            nonce,
            key,
            claim,
            by,
            through,
        }))
    });
    let flags = (any::<bool>(), any::<bool>());
    let revoked = (number(), any_key(), claims, span(), flags);
    let revoked = revoked.prop_map(|(nonce, key, claim, remaining, flags)| {
        Message::Revoked(Box::new(Revoked {
            nonce,
            key,
            claim,
            is_kept: flags.0,
            remaining,
            is_over: flags.1,
        }))
    });
    prop_oneof![revoke, revoked]
}

fn any_mark(
    claims: impl Strategy<Value = ClaimId> + Clone + 'static,
) -> impl Strategy<Value = Message> {
    let keep_for = prop_oneof![span(), Just(Duration::from_secs(60)), Just(MARK_KEEP_MAX)];
    let entry =
        (any_key(), any_node_id(), epoch(), span()).prop_map(|(key, by, epoch, remaining)| {
            MarkEntry {
                key,
                by,
                epoch,
                remaining,
            }
        });
    let end = prop::sample::select(vec![PageEnd::More, PageEnd::Query, PageEnd::Last]);
    let after = || proptest::option::of(any_key());
    let page = (number(), after(), vec(entry, 0..3), end, any::<bool>());
    let once = any_claim(claims.clone()).prop_map(|message| match message {
        Message::Claim(claim) => Message::OnceClaim(claim),
        other => other,
    });
    prop_oneof![
        once,
        (any_key(), claims.clone(), instant(), keep_for).prop_map(
            |(key, claim, sent_at, keep_for)| Message::Mark(Mark {
                key,
                claim,
                sent_at,
                keep_for
            })
        ),
        (claims.clone(), instant(), any::<bool>()).prop_map(|(claim, sent_at, is_kept)| {
            Message::Marked(Marked {
                claim,
                sent_at,
                is_kept,
            })
        }),
        (claims, any_node_id(), epoch(), span()).prop_map(|(claim, by, epoch, remaining)| {
            Message::Done(Done {
                claim,
                by,
                epoch,
                remaining,
            })
        }),
        (number(), after())
            .prop_map(|(nonce, after)| Message::MarksQuery(MarksQuery { nonce, after })),
        page.prop_map(|(nonce, after, marks, end, is_whole)| {
            Message::MarksPage(Box::new(MarksPage {
                nonce,
                after,
                marks,
                end,
                is_whole,
            }))
        }),
    ]
}

fn any_handover() -> impl Strategy<Value = Handover> {
    let size = || (any::<u32>(), number()).prop_map(|(parts, digest)| MemorySize { parts, digest });
    let kept = (incarnation(), number(), proptest::option::of(size())).prop_map(
        |(incarnation, token, memory)| KeptToken {
            incarnation,
            token,
            memory,
        },
    );
    let part = (number(), any::<u32>(), size(), vec(any::<u8>(), 0..600)).prop_map(
        |(token, number, size, bytes)| MemoryPart {
            token,
            number,
            size,
            bytes,
        },
    );
    prop_oneof![
        incarnation().prop_map(|incarnation| Handover::Entrust { incarnation }),
        (incarnation(), proptest::option::of(number()))
            .prop_map(|(incarnation, token)| Handover::Token { incarnation, token }),
        part.prop_map(Handover::Part),
        (number(), any::<u32>(), any::<bool>()).prop_map(|(token, number, is_whole)| {
            Handover::PartKept {
                token,
                number,
                is_whole,
            }
        }),
        number().prop_map(|nonce| Handover::Ask { nonce }),
        (number(), proptest::option::of(kept))
            .prop_map(|(nonce, kept)| Handover::Told { nonce, kept }),
        (number(), any::<u32>()).prop_map(|(token, number)| Handover::Fetch { token, number }),
    ]
}

fn any_namesake() -> impl Strategy<Value = Message> {
    let addr = || any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    (incarnation(), addr(), incarnation(), addr()).prop_map(|(yours, yours_at, other, other_at)| {
        Message::Namesake(Box::new(Namesake {
            yours,
            yours_at,
            other,
            other_at,
        }))
    })
}

fn any_voter_reply() -> impl Strategy<Value = Message> {
    let refuses = proptest::option::of(refuse_reason());
    (instant(), refuses, span(), any::<u64>()).prop_map(|(sent_at, refuses, remaining, wall_ms)| {
        Message::VoterReply(VoterReply {
            sent_at,
            refuses,
            remaining,
            wall_ms,
        })
    })
}

pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    any_message_about(any_claim_id().boxed())
}

/// The head with the longest encoding.
pub(crate) fn largest_head() -> DatagramHead {
    DatagramHead {
        from: node_id(&"n".repeat(NODE_ID_BYTES_MAX)),
        incarnation: Incarnation::new(u64::MAX),
        to: node_id(&"m".repeat(NODE_ID_BYTES_MAX)),
        voter_set: VoterSetTag {
            version: u64::MAX,
            digest: u64::MAX,
        },
    }
}

/// The message with the longest encoding, for each kind.
pub(crate) fn largest_messages() -> Vec<Message> {
    let key = Key::new("k".repeat(KEY_BYTES_MAX)).unwrap();
    let node = node_id(&"n".repeat(NODE_ID_BYTES_MAX));
    let incarnation = Incarnation::new(u64::MAX);
    let claim = ClaimId {
        node: node.clone(),
        incarnation,
        seq: u64::MAX,
    };
    let (epoch, sent_at, nonce) = (Epoch::new(u64::MAX), Instant::FAR, u64::MAX);
    let (ttl, number) = (Duration::MAX, u32::MAX);
    let session = SessionId { nonce, number };
    vec![
        Message::Claim(Claim {
            key: key.clone(),
            claim: claim.clone(),
            epoch,
            ttl,
            sent_at,
            votes_valid_since: sent_at,
            granted: true,
            is_try: true,
            join: true,
            outlives: true,
        }),
        Message::Vote(Vote {
            key: key.clone(),
            claim: claim.clone(),
            sent_at,
            ttl,
            yield_requested: true,
            probe: true,
            covered: Some(session),
        }),
        Message::Wait(Wait {
            key: key.clone(),
            claim: claim.clone(),
            holder: claim.clone(),
            epoch,
            granted: HolderGranted::Silent,
            ahead: u32::MAX,
        }),
        Message::Stale(Stale {
            claim: claim.clone(),
            fence: epoch,
        }),
        Message::Refuse(Refuse {
            claim: claim.clone(),
            reason: RefuseReason::NotAVoter,
        }),
        Message::Release(Release {
            key: key.clone(),
            claim: claim.clone(),
            granted: true,
        }),
        Message::RecoveryQuery(RecoveryQuery { nonce }),
        largest_memory(epoch, incarnation),
        Message::Outdated(Outdated { seen: incarnation }),
        Message::Inspect(Inspect {
            nonce,
            key: key.clone(),
        }),
        largest_report(claim.clone(), epoch),
        largest_keep_alive(session),
        largest_kept(session),
        largest_query(epoch),
        largest_reply(),
        Message::Describe(Role::Votes),
        largest_voter_set(),
        Message::Challenge(Challenge { nonce }),
        Message::Alive(Challenge { nonce }),
        largest_namesake(incarnation),
        largest_part(),
        Message::OnceClaim(Claim {
            key: key.clone(),
            claim: claim.clone(),
            epoch,
            ttl,
            sent_at,
            votes_valid_since: sent_at,
            granted: true,
            is_try: true,
            join: true,
            outlives: true,
        }),
        Message::Mark(Mark {
            key: key.clone(),
            claim: claim.clone(),
            sent_at,
            keep_for: ttl,
        }),
        Message::Marked(Marked {
            claim: claim.clone(),
            sent_at,
            is_kept: true,
        }),
        Message::Done(Done {
            claim: claim.clone(),
            by: node.clone(),
            epoch,
            remaining: ttl,
        }),
        Message::Revoke(Box::new(Revoke {
            nonce,
            key: key.clone(),
            claim: claim.clone(),
            by: Note::new("n".repeat(NOTE_BYTES_MAX)).unwrap(),
            through: node.clone(),
        })),
        Message::Revoked(Box::new(Revoked {
            nonce,
            key: key.clone(),
            claim: claim.clone(),
            is_kept: true,
            remaining: ttl,
            is_over: true,
        })),
        Message::MarksQuery(MarksQuery {
            nonce,
            after: Some(key.clone()),
        }),
        largest_marks_page(&key, &node),
        largest_note(key, claim),
    ]
}

fn largest_note(key: Key, claim: ClaimId) -> Message {
    let note = Note::new("n".repeat(NOTE_BYTES_MAX)).unwrap();
    Message::Note(Box::new(NoteMessage::OfClaim { key, claim, note }))
}

fn largest_part() -> Message {
    let part = MemoryPart {
        token: u64::MAX,
        number: u32::MAX,
        size: MemorySize {
            parts: u32::MAX,
            digest: u64::MAX,
        },
        bytes: vec![u8::MAX; MEMORY_PART_BYTES],
    };
    Message::Handover(Box::new(Handover::Part(part)))
}

fn largest_namesake(incarnation: Incarnation) -> Message {
    let addr = SocketAddr::from(([u16::MAX; 8], u16::MAX));
    Message::Namesake(Box::new(Namesake {
        yours: incarnation,
        yours_at: addr,
        other: incarnation,
        other_at: addr,
    }))
}

fn largest_memory(highest: Epoch, seen: Incarnation) -> Message {
    Message::RecoveryReply(RecoveryReply {
        nonce: u64::MAX,
        highest,
        votes: true,
        knew: true,
        seen,
        before: seen,
        remembers: true,
        quarantine: Duration::MAX,
        skew: Duration::MAX,
    })
}

fn largest_query(epoch: Epoch) -> Message {
    let sent_at = Instant::FAR;
    Message::VoterQuery(VoterQuery { sent_at, epoch })
}

fn largest_reply() -> Message {
    Message::VoterReply(VoterReply {
        sent_at: Instant::FAR,
        refuses: Some(RefuseReason::NotAVoter),
        remaining: Duration::MAX,
        wall_ms: u64::MAX,
    })
}

/// The maximal number of listed names, each of maximal length.
fn largest_voter_set() -> Message {
    let name = |n: usize| format!("{n:02}{}", "x".repeat(NODE_ID_BYTES_MAX - 2));
    let members = (0..50).map(|n| node_id(&name(n))).collect();
    let voter_set = VoterSet::new(1, members, 3, Timing::lan()).unwrap();
    let set = VoterSetDescription::of(&voter_set, Role::Recovering);
    assert!((5..50).contains(&set.listed.len()));
    let longest = Duration::MAX;
    let timing = Timing {
        max_ttl: longest,
        max_drift_ppm: u32::MAX,
        max_clock_skew: longest,
        round_trip: longest,
        reservation: longest,
        holder_probe_interval: longest,
    };
    Message::Described(Box::new(VoterSetDescription {
        voters_per_key: u32::MAX,
        timing,
        members: u32::MAX,
        ..set
    }))
}

fn largest_kept(session: SessionId) -> Message {
    Message::Kept(Kept {
        session,
        sent_at: Instant::FAR,
        ttl: Some(Duration::MAX),
        lacks: u16::MAX,
    })
}

fn largest_keep_alive(session: SessionId) -> Message {
    let part = DigestPart {
        count: u32::MAX,
        sum: u32::MAX,
    };
    let sent_at = Instant::FAR;
    let covered = Digest {
        parts: [part; DIGEST_PARTS],
    };
    Message::KeepAlive(Box::new(KeepAlive {
        session,
        sent_at,
        covered,
    }))
}

fn largest_report(claim: ClaimId, epoch: Epoch) -> Message {
    let waiter = ReportedWaiter {
        node: claim.node.clone(),
        epoch,
    };
    let vote = ReportedVote {
        claim,
        epoch,
        granted: true,
        remaining: Duration::MAX,
    };
    Message::Report(Report {
        nonce: u64::MAX,
        vote: Some(vote),
        waiters: vec![waiter; REPORTED_WAITERS_MAX],
        waiting: u32::MAX,
        fence: epoch,
        is_recovering: true,
    })
}

/// A voter fills a page up to 640 bytes, counted as 32 bytes for each mark beside its names.
fn largest_marks_page(key: &Key, node: &NodeId) -> Message {
    let entry = |key: Key, by: &str| MarkEntry {
        key,
        by: node_id(by),
        epoch: Epoch::new(u64::MAX),
        remaining: Duration::MAX,
    };
    let small = (0..7).map(|_| entry(Key::new("k").unwrap(), "n"));
    let marks = [entry(key.clone(), node.as_str())].into_iter().chain(small);
    Message::MarksPage(Box::new(MarksPage {
        nonce: u64::MAX,
        after: Some(key.clone()),
        marks: marks.collect(),
        end: PageEnd::Last,
        is_whole: true,
    }))
}
