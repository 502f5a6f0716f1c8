//! Captions: a heading and one or two sentences that explain the current state to newcomers.

use serde::Serialize;
use tools::page::{Time, Tone, names};

use super::look::{ClaimSeen, Snapshot};
use super::stories::{Ended, How, Stories, Story};

/// How long a takeover is news.
const NEWS_MS: Time = 8_000;

#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Caption {
    pub(super) tone: Tone,
    pub(super) head: String,
    pub(super) text: String,
}

fn said(tone: Tone, head: String, text: String) -> Caption {
    Caption { tone, head, text }
}

/// Describes the key of the latest event.
pub(super) fn of(seen: &Snapshot, stories: &Stories) -> Caption {
    if stories.broken > 0 {
        let head = "A law is broken".to_owned();
        let text = "Two nodes held one lock, or an epoch did not rise. Please report it.";
        return said(Tone::Broken, head, text.to_owned());
    }
    let Some((key, story)) = focus(seen, stories) else {
        return idle(seen);
    };
    let claims = seen.claims.iter().filter(|it| it.key == key);
    let (holders, waiters): (Vec<_>, Vec<_>) = claims.partition(|it| it.stage == "holds");
    match holders.first() {
        Some(holder) => held(seen, story, holder, &waiters),
        None => free(seen, key, story, &waiters),
    }
}

/// Returns the key of the latest event, if it is claimed or its last holder is news, or else any
/// claimed key.
fn focus<'a>(seen: &'a Snapshot, stories: &'a Stories) -> Option<(&'a str, &'a Story)> {
    let is_claimed = |key: &str| seen.claims.iter().any(|it| it.key == key);
    let last = stories.focus.as_deref();
    let last = last.and_then(|key| Some((key, stories.story(key)?)));
    let last = last.filter(|(key, story)| is_claimed(key) || lost_lately(seen, story).is_some());
    last.or_else(|| {
        let claim = seen.claims.first()?;
        Some((claim.key.as_str(), stories.story(&claim.key)?))
    })
}

/// Returns the end of the last holder, if it was not a release and is news.
fn lost_lately<'a>(seen: &Snapshot, story: &'a Story) -> Option<&'a Ended> {
    let ended = story.ended.as_ref()?;
    (ended.how != How::Released && seen.at < ended.at + NEWS_MS).then_some(ended)
}

fn held(seen: &Snapshot, story: &Story, holder: &ClaimSeen, waiters: &[&ClaimSeen]) -> Caption {
    let (node, key, left) = (holder.node, &holder.key, seconds(holder.left));
    let rank = holder.epoch.as_ref().map_or(0, |epoch| epoch.rank);
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    let it = &seen.nodes[node];
    let head = format!("n{node} holds {key} at e{rank}");
    if it.condition == "frozen" || it.reaches < quorum {
        let why = match it.condition {
            "frozen" => format!("n{node} is frozen, and its clock goes on"),
            _ => format!(
                "n{node} reaches {} of {of} voters and needs {quorum}",
                it.reaches
            ),
        };
        let text = format!("{why}: the lease is over in {left}. Until then nobody else gets it.");
        return said(Tone::Warn, format!("{head}, and cannot renew"), text);
    }
    let taken = story.granted.filter(|at| seen.at < at + NEWS_MS);
    let taken = taken.zip(story.ended.as_ref());
    if let Some((granted, ended)) = taken.filter(|(_, ended)| ended.how != How::Released) {
        let (from, before) = (ended.node, ended.rank);
        let after = granted.saturating_sub(ended.at);
        let how = match ended.how {
            How::Crashed => "crashed",
            _ => "had lost it",
        };
        let text = format!(
            "n{from} {how} {after} ms before: at no instant did both hold it. e{rank} is above \
             e{before}: a fenced resource refuses a late write of n{from}."
        );
        return said(
            Tone::Good,
            format!("n{node} took over {key} at e{rank}"),
            text,
        );
    }
    if holder.left < seen.ttl * 2 / 5 {
        let text = format!("Datagrams are lost. If no quorum answers in {left}, the lock is lost.");
        return said(
            Tone::Warn,
            format!("{head}, and its renewals are late"),
            text,
        );
    }
    let every = seconds(seen.ttl / 3);
    let line = match waiters {
        [] => "Nobody waits for it.".to_owned(),
        _ => format!("In line: {}.", listed(waiters)),
    };
    let text = format!("Every {every} it renews its lease with {quorum} of {of} voters. {line}");
    said(Tone::Calm, head, text)
}

fn free(seen: &Snapshot, key: &str, story: &Story, waiters: &[&ClaimSeen]) -> Caption {
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    let can = waiters.iter().any(|it| {
        let node = &seen.nodes[it.node];
        node.condition == "running" && node.reaches >= quorum
    });
    if let Some(ended) = lost_lately(seen, story) {
        let next = match (can, waiters.is_empty()) {
            (true, _) => "then the next in line has its turn",
            (false, true) => "then any node of the quorum may acquire it",
            (false, false) => "but nobody in line reaches a quorum",
        };
        let (node, rank) = (ended.node, ended.rank);
        let head = match ended.how {
            How::Crashed => format!("n{node} crashed while it held {key} at e{rank}"),
            _ => format!("lost: n{node} no longer holds {key}"),
        };
        let text = format!("The voters keep their promise to the end of the lease; {next}.");
        return said(Tone::Lost, head, text);
    }
    if waiters.is_empty() {
        return idle(seen);
    }
    let head = format!("{} asks for {key}", listed(waiters));
    if can {
        let text = format!("It has the lock once {quorum} of {of} voters voted for it.");
        return said(Tone::Calm, head, text);
    }
    let most = waiters.iter().map(|it| seen.nodes[it.node].reaches).max();
    let text = format!(
        "It reaches {} of {of} voters, and a lock takes {quorum}. A minority gives nothing: that \
         is what keeps two holders apart.",
        most.unwrap_or_default()
    );
    said(Tone::Warn, format!("{head}, and cannot get it"), text)
}

fn idle(seen: &Snapshot) -> Caption {
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    if seen.nodes.iter().all(|node| node.reaches < quorum) {
        let text = format!("A lock takes {quorum} of {of} voters: nobody can get one now.");
        return said(Tone::Warn, "No side has a quorum".to_owned(), text);
    }
    let text = "Acquire one at a node, then cut the links around it and watch: it is lost there \
                first, and only then taken over. Or press \u{201c}play a split brain\u{201d}.";
    said(
        Tone::Calm,
        "Nobody holds a lock".to_owned(),
        text.to_owned(),
    )
}

/// Names the nodes of claims.
fn listed(claims: &[&ClaimSeen]) -> String {
    names(claims.iter().map(|it| it.node))
}

fn seconds(ms: Time) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
