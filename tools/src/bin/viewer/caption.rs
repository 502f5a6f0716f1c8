//! Captions: a heading and one or two sentences that explain the current state to newcomers.

use serde::Serialize;

use super::look::{ClaimSeen, Snapshot};
use super::record::{Ended, How, Ms, Record, Story, Tone};

/// How long a takeover is news.
const NEWS_MS: Ms = 8_000;

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Caption {
    pub(super) tone: Tone,
    pub(super) head: String,
    pub(super) text: String,
}

impl Default for Caption {
    fn default() -> Self {
        said(Tone::Calm, String::new(), String::new())
    }
}

fn said(tone: Tone, head: String, text: String) -> Caption {
    Caption { tone, head, text }
}

/// Describes the key of the latest event.
pub(super) fn of(seen: &Snapshot, record: &Record) -> Caption {
    if record.broken > 0 {
        let head = "A law is broken".to_owned();
        let text = "Two nodes held one lock, or an epoch did not rise. Please report it.";
        return said(Tone::Broken, head, text.to_owned());
    }
    let Some((key, story)) = focus(seen, record) else {
        return idle(seen);
    };
    let claims: Vec<&ClaimSeen> = seen.claims.iter().filter(|it| it.key == key).collect();
    let (holders, waiters): (Vec<&ClaimSeen>, Vec<&ClaimSeen>) =
        claims.into_iter().partition(|it| it.stage == "holds");
    match holders.first() {
        Some(holder) => held(seen, story, holder, &waiters),
        None => free(seen, key, story, &waiters),
    }
}

/// Returns the key of the latest event. A key without claims is returned only while its event is
/// news.
fn focus<'a>(seen: &'a Snapshot, record: &'a Record) -> Option<(&'a str, &'a Story)> {
    let is_wanted = |key: &str| seen.claims.iter().any(|it| it.key == key);
    let last = record.focus.as_deref().and_then(|key| {
        let story = record.story(key)?;
        let ended = story
            .ended
            .as_ref()
            .filter(|ended| ended.how != How::Released);
        let is_news = ended.is_some_and(|ended| seen.at < ended.at + NEWS_MS);
        (is_wanted(key) || is_news).then_some((key, story))
    });
    last.or_else(|| {
        let wanted = seen.claims.first()?;
        Some((wanted.key.as_str(), record.story(&wanted.key)?))
    })
}

fn held(seen: &Snapshot, story: &Story, holder: &ClaimSeen, waiters: &[&ClaimSeen]) -> Caption {
    let (node, key, left) = (holder.node, &holder.key, seconds(holder.left));
    let rank = holder.epoch.as_ref().map_or(0, |epoch| epoch.rank);
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    let it = &seen.nodes[node];
    if it.condition == "frozen" {
        let head = format!("n{node} is frozen while it holds {key} at e{rank}");
        let text = format!(
            "It cannot renew, and its clock goes on: the lease is over in {left}. Until then the \
             voters keep their promise, and nobody else gets the lock."
        );
        return said(Tone::Warn, head, text);
    }
    if it.reaches < quorum {
        let reaches = it.reaches;
        let head = format!("n{node} holds {key} at e{rank}, cut off from the quorum");
        let text = format!(
            "It reaches {reaches} of {of} voters and needs {quorum}, so it cannot renew: its \
             lease is over in {left}. Until then nobody else gets the lock."
        );
        return said(Tone::Warn, head, text);
    }
    if let Some(ended) = news(seen, story) {
        let after = story.granted.unwrap_or(seen.at).saturating_sub(ended.at);
        return taken_over(node, key, rank, ended, after);
    }
    if holder.left < seen.ttl * 2 / 5 {
        let head = format!("n{node} holds {key} at e{rank}, and its renewals are late");
        let text =
            format!("Datagrams are lost. If no quorum answers within {left}, the lock is lost.");
        return said(Tone::Warn, head, text);
    }
    let head = format!("n{node} holds {key} at e{rank}");
    let every = seconds(seen.ttl / 3);
    let line = in_line(waiters);
    let text = format!("Every {every} it renews its lease with {quorum} of {of} voters. {line}");
    said(Tone::Calm, head, text)
}

/// Returns how the last holder ended, if that is news and was not a release.
fn news<'a>(seen: &Snapshot, story: &'a Story) -> Option<&'a Ended> {
    let granted = story.granted.filter(|at| seen.at < at + NEWS_MS)?;
    let ended = story.ended.as_ref()?;
    (ended.how != How::Released && ended.at <= granted).then_some(ended)
}

fn taken_over(node: usize, key: &str, rank: u64, ended: &Ended, after: Ms) -> Caption {
    let (from, before) = (ended.node, ended.rank);
    let after = if after < 1_000 {
        format!("{after} ms")
    } else {
        seconds(after)
    };
    let head = format!("n{node} took over {key} at e{rank}");
    let fence = format!("e{rank} is above e{before}: a fenced resource refuses a late write of");
    let text = match ended.how {
        How::Crashed => format!(
            "n{from} crashed {after} before: the voters kept their promise to the end of its \
             lease, or until it came back. {fence} n{from}."
        ),
        _ => format!(
            "n{from} had lost it {after} before: at no instant did both hold it. {fence} n{from}."
        ),
    };
    said(Tone::Good, head, text)
}

fn free(seen: &Snapshot, key: &str, story: &Story, waiters: &[&ClaimSeen]) -> Caption {
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    let can = waiters.iter().find(|it| {
        let node = &seen.nodes[it.node];
        node.condition == "running" && node.reaches >= quorum
    });
    let is_news = |ended: &&Ended| ended.how != How::Released && seen.at < ended.at + NEWS_MS;
    if let Some(ended) = story.ended.as_ref().filter(is_news) {
        let next = match (can, waiters.is_empty()) {
            (Some(_), _) => "then the next in line has its turn",
            (None, true) => "then any node of the quorum may acquire it",
            (None, false) => "but nobody in line reaches a quorum",
        };
        let (node, rank) = (ended.node, ended.rank);
        return match ended.how {
            How::Crashed => said(
                Tone::Lost,
                format!("n{node} crashed while it held {key} at e{rank}"),
                format!("The voters keep their promise to the end of its lease; {next}."),
            ),
            _ => said(
                Tone::Lost,
                format!("lost: n{node} no longer holds {key}"),
                format!(
                    "It could not renew, and knows by its own clock that its lease (e{rank}) is \
                     over. The voters' promises end a moment later; {next}."
                ),
            ),
        };
    }
    if waiters.is_empty() {
        return idle(seen);
    }
    let who = listed(waiters);
    if can.is_none() {
        let most = waiters.iter().map(|it| seen.nodes[it.node].reaches).max();
        let most = most.unwrap_or_default();
        let head = format!("Nobody gets {key} now");
        let text = format!(
            "{who} asks for it, but reaches {most} of {of} voters, and a lock takes {quorum}. A \
             minority gives nothing: that is what keeps two holders apart."
        );
        return said(Tone::Warn, head, text);
    }
    let head = format!("{who} asks for {key}");
    let text = format!("It has the lock once {quorum} of {of} voters have promised their votes.");
    said(Tone::Calm, head, text)
}

fn idle(seen: &Snapshot) -> Caption {
    let (quorum, of) = (seen.quorum, seen.nodes.len());
    let best = seen.nodes.iter().map(|node| node.reaches).max();
    if best.unwrap_or_default() < quorum {
        let head = "No side has a quorum".to_owned();
        let text = format!("A lock takes {quorum} of {of} voters: nobody can get one now.");
        return said(Tone::Warn, head, text);
    }
    if !seen.sides.is_empty() {
        let head = "The network is split".to_owned();
        let text = format!("Only the side with {quorum} of {of} voters can give locks.");
        return said(Tone::Calm, head, text);
    }
    let head = "Nobody holds a lock".to_owned();
    let text = "Acquire one at a node, then cut the links around it and watch: it is lost there \
                first, and only then taken over. Or press \u{201c}play a split brain\u{201d}.";
    said(Tone::Calm, head, text.to_owned())
}

fn in_line(waiters: &[&ClaimSeen]) -> String {
    match waiters {
        [] => "Nobody waits for it.".to_owned(),
        [one] => format!("n{} waits for its turn.", one.node),
        _ => format!("{} wait in line.", listed(waiters)),
    }
}

fn listed(waiters: &[&ClaimSeen]) -> String {
    let names: Vec<String> = waiters.iter().map(|it| format!("n{}", it.node)).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn seconds(ms: Ms) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
