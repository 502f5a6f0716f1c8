//! `lockmesh inspect KEY`: shows who holds one lock and who waits for it.

use std::process::ExitCode;

use lockmesh::observe::ObserveError;
use lockmesh::status::{Inspection, LockState};
use serde_json::{Value, json};

use super::{Failure, NO_QUORUM, Target, bad_usage, millis, no_answer, shown, with_colon};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Key of the lock.
    #[arg(value_name = "KEY")]
    lock: String,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object on one line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let seen = args.target.observer()?.inspect(&args.lock).await;
    let seen = seen.map_err(|error| match error {
        ObserveError::Key(_) => bad_usage(error),
        _ => no_answer(error),
    })?;
    match args.json {
        true => println!("{}", to_json(&seen)),
        false => print!("{}", to_text(&seen)),
    }
    Ok(match seen.state {
        LockState::Held(_) | LockState::Free => ExitCode::SUCCESS,
        _ => ExitCode::from(NO_QUORUM),
    })
}

fn has_quorum(seen: &Inspection) -> bool {
    seen.answered > seen.voters / 2
}

/// Epochs are text, since many JSON parsers round numbers above 2^53.
pub(crate) fn to_json(seen: &Inspection) -> Value {
    let owner = seen.owner().map(|owner| {
        json!({
            "node": owner.node,
            "epoch": owner.epoch.get().to_string(),
            "confirmed": owner.confirmed,
            "remaining_ms": millis(owner.remaining),
            "note": owner.note,
        })
    });
    let waiters = seen.waiters.iter();
    let waiters: Vec<Value> = waiters
        .map(|it| {
            let epoch = it.epoch.get().to_string();
            json!({ "node": it.node, "epoch": epoch, "note": it.note })
        })
        .collect();
    let votes = seen.votes.iter();
    let votes: Vec<Value> = votes
        .map(|it| {
            json!({
                "node": it.node,
                "epoch": it.epoch.get().to_string(),
                "votes": it.votes,
                "remaining_ms": millis(it.remaining),
                "note": it.note,
            })
        })
        .collect();
    json!({
        "key": seen.key,
        "voters": seen.voters,
        "answered": seen.answered,
        "recovering": seen.recovering,
        "state": match seen.state {
            LockState::Held(_) => "held",
            LockState::Free => "free",
            _ => "unknown",
        },
        "unknown_because": seen.unknown_because(),
        "votes": votes,
        "has_quorum": has_quorum(seen),
        "owner": owner,
        "fence": seen.fence.get().to_string(),
        "waiting": seen.waiting,
        "waiters": waiters,
    })
}

fn to_text(seen: &Inspection) -> String {
    let key = shown(seen.key.as_str());
    let mut text = match seen.owner() {
        Some(owner) => format!(
            "{key}: held by {} at epoch {}, {} ms left{}\n",
            owner.node,
            owner.epoch.get(),
            millis(owner.remaining),
            with_colon(owner.note.as_ref())
        ),
        None => match seen.unknown_because() {
            None => format!("{key}: held by nobody\n"),
            Some(because) => format!("{key}: unknown: {because}\n"),
        },
    };
    if seen.state == LockState::Unknown {
        for it in &seen.votes {
            text += &format!(
                "  {} has {} of {} votes at epoch {}, {} ms left{}\n",
                it.node,
                it.votes,
                seen.voters,
                it.epoch.get(),
                millis(it.remaining),
                with_colon(it.note.as_ref())
            );
        }
    }
    text += &format!("  {} of {} voters answered\n", seen.answered, seen.voters);
    text += &format!("  fence {}\n", seen.fence.get());
    text += &format!("  {} wait\n", seen.waiting);
    for waiter in &seen.waiters {
        let note = with_colon(waiter.note.as_ref());
        text += &format!(
            "    {} at epoch {}{note}\n",
            waiter.node,
            waiter.epoch.get()
        );
    }
    text
}
