//! The timeline of a page, taken from the record of a run. Times are nanoseconds of true time.

use std::collections::BTreeSet;

use super::record::{Condition, Note, Record};
use crate::algorithms::{Lease, UserView};
use crate::judge::{End, Fact, HostAt, Violation};
use crate::kernel::MILLISECOND;
use crate::page::{Kind, Links, Shown, Timeline, Tone};

/// Collects what happened to hosts and links, and what users saw.
pub(super) fn timeline(
    record: &Record,
    hosts: usize,
    view: &UserView,
    violations: &[Violation],
) -> Timeline {
    let mut timeline = Timeline::default();
    let mut follow = |at, kind, host: HostAt, is: bool, what: &str| {
        let what = if is {
            format!("n{host} {what}")
        } else {
            String::new()
        };
        timeline.follow(at, kind, Some(host), &what, &[]);
    };
    for (at, note) in &record.notes {
        match note {
            Note::Host(host, condition) => {
                let is_frozen = matches!(condition, Condition::Frozen(_));
                follow(*at, Kind::Frozen, *host, is_frozen, "was paused");
                let is_down = *condition == Condition::Down;
                follow(*at, Kind::Down, *host, is_down, "was down");
            }
            Note::Fact(Fact::Forgot { voter }) => {
                let what = "had lost its memory and did not vote";
                follow(*at, Kind::Quarantine, *voter, true, what);
            }
            Note::Fact(Fact::Returned { voter, .. }) => {
                follow(*at, Kind::Quarantine, *voter, false, "");
            }
            Note::Links(links) => {
                for host in 0..hosts {
                    let what = "was slow: every datagram from and to it took longer";
                    follow(*at, Kind::Slow, host, links.slow.contains_key(&host), what);
                }
            }
            Note::Fact(_) => {}
        }
    }
    for (at, note) in &record.notes {
        let Note::Links(links) = note else { continue };
        let cut: BTreeSet<(HostAt, HostAt)> = links.cut.iter().copied().collect();
        let Links { sides, mut what } = Links::of(hosts, |from, to| cut.contains(&(from, to)));
        if links.storm_ppm > 0 {
            let sep = if what.is_empty() { "" } else { "; " };
            let percent = links.storm_ppm / 10_000;
            what += &format!("{sep}{percent} % of all datagrams lost");
        }
        timeline.follow(*at, Kind::Network, None, &what, &sides);
    }
    // A crash that ends in the same instant leaves no span.
    timeline.spans.retain(|it| it.to != Some(it.from));
    for (at, what) in Vec::from_iter(timeline.spans.iter().map(|it| (it.from, it.what.clone()))) {
        timeline.say(at, Tone::Calm, what);
    }
    add_view(&mut timeline, view);
    // Two holders break a law at every renewal.
    let mut known = BTreeSet::new();
    for Violation { law, what, at, .. } in violations {
        if known.insert((law, what)) {
            timeline.say(*at, Tone::Broken, format!("{law} broken: {what}"));
        }
    }
    if let Some(at) = record.healed {
        let what = "all healed, users stop".to_owned();
        timeline.add(at, at, Kind::Healed, None, what);
    }
    timeline
}

fn add_view(timeline: &mut Timeline, view: &UserView) {
    let mut add = |[from, to]: [u64; 2], kind, host: HostAt, key, what: &str, why, epoch| {
        let what = format!("n{host} {what} key {key}");
        let span = timeline.add(from, to, kind, Some(host), what);
        (span.key, span.epoch, span.why) = (Some(format!("key {key}")), epoch, why);
    };
    for it in &view.leases {
        let (time, epoch) = ([it.from, it.until], Shown::of(it.epoch));
        add(time, Kind::Holds, it.host, it.key, "held", story(it), epoch);
    }
    for it in &view.waits {
        let why = ended(it.how, "it was granted, or the run was over").to_owned();
        let time = [it.from, it.until];
        add(time, Kind::Waits, it.host, it.key, "waited for", why, None);
    }
    for it in &view.writes {
        let (kind, why) = match (it.taken, it.is_stale) {
            (false, _) => (Kind::Refused, "refused, too low an epoch"),
            (true, true) => (Kind::Stale, "taken after a later holder's"),
            (true, false) => (Kind::Taken, "taken"),
        };
        let (time, epoch) = ([it.at; 2], Shown::of(it.epoch));
        add(
            time,
            kind,
            it.host,
            it.key,
            "wrote under",
            why.to_owned(),
            epoch,
        );
    }
}

fn story(it: &Lease) -> String {
    format!(
        "request {}, made at {} ms, renewed {} times; {}",
        it.request.0,
        it.asked / MILLISECOND,
        it.renewals,
        ended(it.how, "the run was over")
    )
}

/// Describes the way in which a request ended, or says `other` if it did not end.
fn ended(how: Option<End>, other: &'static str) -> &'static str {
    match how {
        None => other,
        Some(End::Released) => "it was released or withdrawn",
        Some(End::Lost) => "its lease was over and not renewed in time: lost",
        Some(End::TimedOut) => "its deadline passed",
        Some(End::Denied) => "it was only a try, and another had been granted",
        Some(End::Done) => "its key was marked",
        Some(End::Crashed) => "its process crashed",
        Some(End::ShutDown) => "its process was shut down",
        Some(End::Revoked) => "an operator freed its lock",
    }
}
