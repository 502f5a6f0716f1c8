//! Tests of single rules, on a voter or a claimant that the test drives by hand.
//!
//! Outputs are compared as text, one line for each event and message. Times are in milliseconds;
//! `5'1` is one nanosecond after 5 ms. The lease of a vote prints as `sent_at+ttl`. An epoch near
//! the wall clock of these tests prints as `w`, its milliseconds since [`WALL`], and its counter
//! unless that is zero. A smaller epoch prints as `e` and its number.

mod claimant_rules;
mod epochs;
mod golden;
mod incarnations;
mod limits;
mod marks_journal;
mod marks_rules;
mod notes;
mod outliving;
mod printed;
mod queue_rules;
mod recovery_rules;
mod reports;
mod requests;
mod revoked_rules;
mod session_claimant;
mod session_links;
mod session_voter;
mod voter_rules;
mod voter_sets;
mod waiting_rules;

use std::sync::Arc;
use std::time::Duration;

use super::claimant::{Claimant, Request};
use super::digest::Digest;
use super::epoch::{Epoch, EpochClock};
use super::event::View;
use super::event::{Effects, Event, Ticket};
use super::id::{ClaimId, Incarnation, Key, NodeId};
use super::message::{
    Claim, HolderGranted, KeepAlive, Kept, Message, NoteMessage, Refuse, RefuseReason, Release,
    SessionId, Stale, Vote, Wait,
};
use super::time::{Instant, Now, nanos};
use super::voter::{Start, Voter, VoterLimits};
use super::voter_set::{Timing, VoterSet};

/// The wall clock at instant zero, in milliseconds.
const WALL: u64 = 1_000_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn instant(at_ms: u64) -> Instant {
    Instant::from_nanos(at_ms * 1_000_000)
}

fn at(at_ms: u64) -> Now {
    Now {
        mono: instant(at_ms),
        wall_ms: WALL + at_ms,
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn key() -> Key {
    Key::new("k").unwrap()
}

/// A round trip of 10 ms, a `holder_probe_interval` of 100 ms, and reservations of 250 ms.
/// `max_ttl` is 30 s, the skew 5 s, and the drift 1 %. A ttl of 10,000 ms thus counts for 9,900 ms.
fn timing() -> Timing {
    Timing {
        max_drift_ppm: 10_000,
        max_ttl: Duration::from_secs(30),
        ..Timing::lan()
    }
}

/// The members are `v1`, `v2` and so on.
fn voter_set(members: usize, voters: usize) -> Arc<VoterSet> {
    let names = (1..=members).map(|n| node(&format!("v{n}"))).collect();
    Arc::new(VoterSet::new(1, names, voters, timing()).unwrap())
}

fn id(name: &str) -> ClaimId {
    ClaimId {
        node: node(name),
        incarnation: Incarnation::new(1),
        seq: 1,
    }
}

/// The first claim of a node, with a ttl of ten seconds.
fn claim(name: &str, epoch: u64, sent_at_ms: u64) -> Claim {
    Claim {
        key: key(),
        claim: id(name),
        epoch: Epoch::new(epoch),
        ttl: ms(10_000),
        sent_at: instant(sent_at_ms),
        votes_valid_since: Instant::ZERO,
        granted: false,
        is_try: false,
        join: false,
        outlives: false,
    }
}

fn granted(claim: Claim) -> Claim {
    Claim {
        granted: true,
        ..claim
    }
}

/// A renewal that requests a session.
fn joining(claim: Claim) -> Claim {
    Claim {
        join: true,
        ..granted(claim)
    }
}

/// The session with this number at a voter with the nonce 7, as in [`Booth`].
fn session(number: u32) -> SessionId {
    SessionId { nonce: 7, number }
}

/// The digest of the claims with these numbers.
fn digest(seqs: impl IntoIterator<Item = u64>) -> Digest {
    let mut digest = Digest::default();
    seqs.into_iter().for_each(|seq| digest.add(seq));
    digest
}

fn release(name: &str, granted: bool) -> Release {
    Release {
        key: key(),
        claim: id(name),
        granted,
    }
}

fn span(duration: Duration) -> String {
    let nanos = nanos(duration);
    match nanos % 1_000_000 {
        0 => format!("{}", nanos / 1_000_000),
        rest => format!("{}'{rest}", nanos / 1_000_000),
    }
}

fn reading(instant: Instant) -> String {
    match instant {
        Instant::FAR => "far".to_owned(),
        _ => span(instant.since(Instant::ZERO)),
    }
}

fn number(epoch: Epoch) -> String {
    match EpochClock::wall_ms(epoch).checked_sub(WALL) {
        None => format!("e{}", epoch.get()),
        Some(since) => match epoch.get() - EpochClock::first_of(EpochClock::wall_ms(epoch)).get() {
            0 => format!("w{since}"),
            counter => format!("w{since}.{counter}"),
        },
    }
}

/// One message as text.
fn line(to: &NodeId, message: &Message) -> String {
    let flag = |is: bool, word: &str| {
        if is {
            format!(" {word}")
        } else {
            String::new()
        }
    };
    match message {
        Message::Claim(m) | Message::OnceClaim(m) => {
            let kind = match message {
                Message::OnceClaim(_) => "OnceClaim",
                _ => "Claim",
            };
            let (epoch, ttl) = (number(m.epoch), span(m.ttl));
            let since = match m.votes_valid_since {
                Instant::ZERO => String::new(),
                since => format!(" since {}", reading(since)),
            };
            let flags = [
                flag(m.granted, "granted"),
                flag(m.is_try, "try"),
                flag(m.join, "join"),
                flag(m.outlives, "outlives"),
            ]
            .concat();
            let (seq, sent_at) = (m.claim.seq, reading(m.sent_at));
            format!("{to} {kind} #{seq} {epoch} {sent_at}+{ttl}{since}{flags}")
        }
        Message::Vote(m) => {
            let flags = [flag(m.yield_requested, "back"), flag(m.probe, "ask")].concat();
            let covered = m.covered.map(|by| format!(" by S{}", by.number));
            let covered = covered.unwrap_or_default();
            format!(
                "{to} Vote {}+{}{flags}{covered}",
                reading(m.sent_at),
                span(m.ttl)
            )
        }
        Message::Wait(m) => {
            let granted = match m.granted {
                HolderGranted::No => "no",
                HolderGranted::Unheard => "unheard",
                HolderGranted::Yes => "yes",
                HolderGranted::Silent => "silent",
            };
            format!("{to} Wait {} {} {granted}", m.holder.node, number(m.epoch))
        }
        Message::Stale(m) => format!("{to} Stale {}", number(m.fence)),
        Message::Refuse(m) => format!("{to} Refuse {:?}", m.reason),
        Message::Release(m) => format!(
            "{to} Release #{}{}",
            m.claim.seq,
            flag(m.granted, "granted")
        ),
        Message::RecoveryQuery(_) => format!("{to} Recovery query"),
        Message::Describe(_) => format!("{to} Describe"),
        Message::KeepAlive(m) => {
            let covered: u32 = m.covered.parts.iter().map(|part| part.count).sum();
            let (number, sent_at) = (m.session.number, reading(m.sent_at));
            format!("{to} KeepAlive S{number} {sent_at} of {covered}")
        }
        Message::Kept(m) => {
            let lasts = m
                .ttl
                .map(|ttl| format!("{}+{}", reading(m.sent_at), span(ttl)));
            let lasts = lasts.unwrap_or_else(|| "over".to_owned());
            format!("{to} Kept S{} {lasts}", m.session.number)
        }
        Message::Mark(m) => format!(
            "{to} Mark #{} {}+{}",
            m.claim.seq,
            reading(m.sent_at),
            span(m.keep_for)
        ),
        Message::Marked(m) => {
            let kept = if m.is_kept { "kept" } else { "full" };
            format!("{to} Marked {} {kept}", reading(m.sent_at))
        }
        Message::Done(m) => {
            let (epoch, remaining) = (number(m.epoch), span(m.remaining));
            format!("{to} Done by {} {epoch} for {remaining}", m.by)
        }
        Message::Note(m) => match &**m {
            NoteMessage::OfClaim { claim, note, .. } => format!("{to} Note #{}: {note}", claim.seq),
            NoteMessage::OfHolder {
                node,
                held_for,
                note,
                ..
            } => format!("{to} Note of {node} for {}: {note}", span(*held_for)),
            NoteMessage::OfReported { node, note, .. } => format!("{to} Note of {node}: {note}"),
        },
        Message::Revoke(m) => format!("{to} Revoke #{} by {}", m.claim.seq, m.by.as_str()),
        other => format!("{to} {other:?}"),
    }
}

fn event_line(event: &Event) -> String {
    match event {
        Event::Granted {
            epoch, valid_until, ..
        } => format!("Granted {} until {}", number(*epoch), reading(*valid_until)),
        Event::Renewed { valid_until, .. } => format!("Renewed until {}", reading(*valid_until)),
        Event::Lost { epoch, .. } => format!("Lost {}", number(*epoch)),
        Event::Revoked { epoch, by, .. } => {
            format!("Revoked {} by {}", number(*epoch), by.as_str())
        }
        Event::VoteRevoked { holder, epoch, .. } => {
            format!("VoteRevoked {holder} {}", number(*epoch))
        }
        Event::Denied { .. } => "Denied".to_owned(),
        Event::TimedOut { .. } => "TimedOut".to_owned(),
        Event::Done { by, epoch, .. } => format!("Done by {by} {}", number(*epoch)),
        Event::Marked { .. } => "Marked".to_owned(),
        Event::NotMarked { .. } => "NotMarked".to_owned(),
        Event::MarksRead { marks, may_lack } => format!("MarksRead {marks} may lack {may_lack}"),
        Event::Resumed {
            votes,
            answers,
            is_confirmed,
        } => format!("Resumed {votes} of {answers} confirmed {is_confirmed}"),
        Event::JournalOutdated { node } => format!("JournalOutdated {node}"),
        Event::JournalFailed => "JournalFailed".to_owned(),
        Event::JournalRestored => "JournalRestored".to_owned(),
        Event::QuarantineBegan { until } => format!("QuarantineBegan {}", reading(*until)),
        Event::QuarantineEnded {
            answers,
            leans_on_wall_clock,
            ..
        } => format!("QuarantineEnded {answers} leans {leans_on_wall_clock}"),
        Event::QuarantineExtended {
            until,
            node,
            votes_elsewhere,
        } => format!(
            "QuarantineExtended {} {node} {votes_elsewhere}",
            reading(*until)
        ),
        Event::VoterSetMismatch { node, differences } => {
            format!("RosterMismatch {node}: {differences}")
        }
        Event::VoterSetMatch { node } => format!("RosterMatch {node}"),
        Event::TwinFound => "TwinFound".to_owned(),
        Event::TwinGone => "TwinGone".to_owned(),
        Event::TookUp { from, votes, .. } => format!("TookUp {votes} of {from}"),
        Event::HandedOver { voters } => format!("HandedOver to {}", voters.len()),
        Event::SecretChanged { node, secret } => format!("SecretChanged {node} {secret}"),
    }
}

/// Returns all events, then all messages, each in order of emission, except those by which a voter
/// reads the marks of others (`marks_rules`).
fn lines(out: &Effects) -> Vec<String> {
    let events = out.events.iter();
    let events = events.filter(|it| !matches!(it, Event::MarksRead { .. }));
    let messages = out.messages.iter();
    let messages = messages.filter(|(_, it)| !matches!(it, Message::MarksQuery(_)));
    let messages = messages.map(|(to, m)| line(to, m));
    events.map(event_line).chain(messages).collect()
}

/// A voter under test. Its methods return its outputs as [`lines`].
struct Booth {
    voter: Voter,
}

impl Booth {
    /// Returns `v1`, the only voter of a new cluster. It votes at once.
    fn new() -> Self {
        Self::with(VoterLimits::default())
    }

    fn with(limits: VoterLimits) -> Self {
        let mut out = Effects::default();
        let (me, voter_set) = (node("v1"), voter_set(1, 1));
        let voter = Voter::new(at(0), me, voter_set, limits, Start::NewCluster, 7, &mut out);
        assert_eq!(voter.quarantine(), None);
        Self { voter }
    }

    /// Returns voter `v1` of `members`, with the outputs of its start.
    fn of(members: usize, voters: usize, start: Start) -> (Self, Vec<String>) {
        Self::born(at(0), members, voters, start)
    }

    fn born(now: Now, members: usize, voters: usize, start: Start) -> (Self, Vec<String>) {
        let mut out = Effects::default();
        let (me, voter_set) = (node("v1"), voter_set(members, voters));
        let voter = Voter::new(
            now,
            me,
            voter_set,
            VoterLimits::default(),
            start,
            7,
            &mut out,
        );
        (Self { voter }, lines(&out))
    }

    fn does(&mut self, act: impl FnOnce(&mut Voter, &mut Effects)) -> Vec<String> {
        let mut out = Effects::default();
        act(&mut self.voter, &mut out);
        lines(&out)
    }

    fn hears(&mut self, at_ms: u64, claim: &Claim) -> Vec<String> {
        self.does(|voter, out| voter.handle_claim(at(at_ms), claim, out))
    }

    fn hears_release(&mut self, at_ms: u64, release: &Release) -> Vec<String> {
        self.does(|voter, out| voter.handle_release(at(at_ms), release, out))
    }

    fn wakes(&mut self, at_ms: u64) -> Vec<String> {
        self.does(|voter, out| voter.handle_timeout(at(at_ms), out))
    }

    /// Delivers a `KeepAlive` of node `from` for the session, with this digest of covered claims.
    fn is_kept(&mut self, at_ms: u64, from: &str, number: u32, covered: Digest) -> Vec<String> {
        let keep = KeepAlive {
            session: session(number),
            sent_at: instant(at_ms),
            covered,
        };
        let (from, incarnation) = (node(from), Incarnation::new(1));
        self.does(|voter, out| voter.handle_keep_alive(at(at_ms), &from, incarnation, &keep, out))
    }

    fn fence(&self) -> u64 {
        self.voter.fence(&key()).get()
    }

    /// The next timeout of the voter, usually the expiry of its vote.
    fn expires(&self) -> String {
        self.voter
            .next_timeout()
            .map_or_else(|| "never".to_owned(), reading)
    }
}

/// The claimant of node `a` under test. Its methods return its outputs as [`lines`].
struct Asker {
    claimant: Claimant,
}

impl Asker {
    /// Its keys have the voters `v1`, `v2` and so on.
    fn new(voters: usize) -> Self {
        let voter_set = voter_set(voters, voters);
        let claimant = Claimant::new(node("a"), Incarnation::new(1), voter_set, 100, 7);
        Self {
            claimant: claimant.with_lowest_epochs(),
        }
    }

    fn request() -> Request {
        Request {
            key: key(),
            ttl: ms(10_000),
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
            is_once: false,
            note: None,
        }
    }

    fn does(&mut self, act: impl FnOnce(&mut Claimant, &mut Effects)) -> Vec<String> {
        let mut out = Effects::default();
        act(&mut self.claimant, &mut out);
        lines(&out)
    }

    fn asks(&mut self, at_ms: u64, request: Request) -> Vec<String> {
        self.does(|c, out| {
            c.request(at(at_ms), request, out).unwrap();
        })
    }

    fn hears(&mut self, at_ms: u64, from: &str, message: Message) -> Vec<String> {
        self.does(|c, out| c.handle(at(at_ms), &node(from), &message, out))
    }

    fn wakes(&mut self, at_ms: u64) -> Vec<String> {
        self.does(|c, out| c.handle_timeout(at(at_ms), out))
    }

    /// Runs every timer that is due up to `until_ms`. Returns the outputs with their times.
    fn runs(&mut self, until_ms: u64) -> Vec<(u64, String)> {
        let mut said = Vec::new();
        while let Some(due) = self.claimant.next_timeout() {
            if due > instant(until_ms) {
                break;
            }
            let due_ms = due.as_nanos().div_ceil(1_000_000);
            let lines = self.wakes(due_ms);
            said.extend(lines.into_iter().map(|line| (due_ms, line)));
        }
        said
    }

    fn releases(&mut self, at_ms: u64) -> Vec<String> {
        self.does(|c, out| {
            c.release(at(at_ms), Ticket(1), out);
        })
    }

    /// The end of the first request's lease, if it is held at `at_ms`.
    fn held(&self, at_ms: u64) -> Option<String> {
        let valid_until = self.claimant.valid_until(at(at_ms), Ticket(1));
        valid_until.map(reading)
    }
}

/// The id of claim `seq` of node `a`.
fn own(seq: u64) -> ClaimId {
    ClaimId { seq, ..id("a") }
}

fn vote(seq: u64, sent_at: Instant, ttl_ms: u64) -> Vote {
    Vote {
        key: key(),
        claim: own(seq),
        sent_at,
        ttl: ms(ttl_ms),
        yield_requested: false,
        probe: false,
        covered: None,
    }
}

/// A vote for the first claim, with a send time in milliseconds.
fn voted(sent_at_ms: u64, ttl_ms: u64) -> Message {
    Message::Vote(vote(1, instant(sent_at_ms), ttl_ms))
}

fn asked(sent_at_ms: u64, ttl_ms: u64) -> Message {
    let vote = vote(1, instant(sent_at_ms), ttl_ms);
    Message::Vote(Vote {
        probe: true,
        ..vote
    })
}

fn wanted_back(sent_at_ms: u64, ttl_ms: u64) -> Message {
    let (yield_requested, probe) = (true, true);
    let vote = vote(1, instant(sent_at_ms), ttl_ms);
    Message::Vote(Vote {
        yield_requested,
        probe,
        ..vote
    })
}

/// A `Wait` for the first claim, with node `b` as the holder.
fn waits(granted: HolderGranted) -> Message {
    Message::Wait(Wait {
        key: key(),
        claim: own(1),
        holder: id("b"),
        epoch: EpochClock::first_of(WALL),
        granted,
        ahead: 0,
    })
}

fn stale(seq: u64, fence: Epoch) -> Message {
    let claim = own(seq);
    Message::Stale(Stale { claim, fence })
}

fn refused(reason: RefuseReason) -> Message {
    let claim = own(1);
    Message::Refuse(Refuse { claim, reason })
}
