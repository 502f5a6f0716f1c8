//! `lockmesh status`: shows the members and whether locks can be granted, as text or as JSON.

use std::process::ExitCode;

use lockmesh::observe::{NodeSurvey, Survey, SurveyHealth, VoterState};
use lockmesh::status::{Fingerprint, Inspection, NoSpareVoter, WallClock};
use serde_json::{Value, json};

use super::inspect;
use super::{DEGRADED, Failure, NO_QUORUM, Target, millis, no_answer, shown, with_colon};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object on one line.
    #[arg(long)]
    json: bool,
    /// Also list the keys that are held or waited for.
    #[arg(long)]
    locks: bool,
    /// Maximum number of keys to list for each voter.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "locks",
          value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Probe of one node, that of --config or the only --peer, and one line of text: can it acquire
    /// locks? Exit code: 0 the node votes or is a client, and a quorum of the members votes; 3 the
    /// node does not vote or is silent; 4 no quorum votes; 1 no answer. Before you restart the next
    /// voter, use the command without --ready.
    #[arg(long, conflicts_with_all = ["json", "locks"])]
    ready: bool,
}

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let own = match args.ready {
        true => Some(args.target.own().await?),
        false => None,
    };
    let locks = if args.locks { args.limit } else { 0 };
    let locks = usize::try_from(locks).unwrap_or(usize::MAX);
    let mut observer = args.target.observer()?;
    let secrets = observer.secrets();
    let survey = observer.survey_with_locks(locks).await;
    let survey = survey.map_err(no_answer)?;
    if let Some(own) = own {
        let (code, text) = readiness(&survey, own.of(&survey));
        println!("{text}");
        return Ok(code);
    }
    match args.json {
        true => println!("{}", to_json(&survey, &secrets, args.locks)),
        false => print!("{}", to_text(&survey, &secrets, args.locks)),
    }
    Ok(exit_code(&survey))
}

/// Returns the exit code of every command that surveys all members.
pub(crate) fn exit_code(survey: &Survey) -> ExitCode {
    match survey.health() {
        SurveyHealth::Ok => ExitCode::SUCCESS,
        SurveyHealth::Degraded => ExitCode::from(DEGRADED),
        _ => ExitCode::from(NO_QUORUM),
    }
}

/// Returns the result of a readiness probe of `own`. A node is ready if it can acquire locks, as for
/// `Health::can_lock`, so one dead member leaves the others ready.
fn readiness(survey: &Survey, own: Option<&NodeSurvey>) -> (ExitCode, String) {
    let members = survey.voter_set.members().len();
    let voting = survey.voting() - survey.disputed();
    let (name, (word, state)) = match own {
        Some(own) => (own.node.as_str(), state(survey, own)),
        None => ("this node", ("silent", "no answer".to_owned())),
    };
    let text = format!("{name}: {state}; {voting} of {members} members vote");
    if voting <= members / 2 {
        (ExitCode::from(NO_QUORUM), format!("not ready: {text}"))
    } else if !matches!(word, "votes" | "client") {
        (ExitCode::from(DEGRADED), format!("not ready: {text}"))
    } else {
        (ExitCode::SUCCESS, format!("ready: {text}"))
    }
}

fn to_json(survey: &Survey, secrets: &[Fingerprint], with_locks: bool) -> Value {
    let (voter_set, restart) = (&survey.voter_set, survey.check_restart());
    let nodes: Vec<Value> = survey
        .nodes
        .iter()
        .map(|node| node_json(survey, node))
        .collect();
    let mut status = json!({
        "schema": 2,
        "health": survey.health(),
        "voting": survey.voting(),
        "safe_to_restart": restart.is_ok(),
        "because": restart.err().map(|why| why.to_string()),
        "voter_set": {
            "version": voter_set.tag().version,
            "digest": format!("{:016x}", voter_set.tag().digest),
            "members": voter_set.members().len(),
            "voters_per_key": voter_set.voters_per_key(),
            "max_ttl_ms": millis(voter_set.timing().max_ttl),
        },
        "secrets": secrets,
        "nodes": nodes,
    });
    if with_locks {
        let locks = survey.locks.iter().map(inspect::to_json);
        status["locks"] = locks.collect();
        status["has_all_locks"] = json!(survey.has_all_locks);
    }
    status
}

fn node_json(survey: &Survey, node: &NodeSurvey) -> Value {
    let mut value = json!({
        "node": node.node,
        "is_member": node.is_member,
        "addr": node.addr,
        "answered": node.answer.is_some(),
        "state": state(survey, node).0,
        "secret": node.secret,
        "alive_by": node.alive_by,
        "dead_by": node.dead_by,
        "silent_for_ms": node.silent_for.map(millis),
    });
    if let Some(answer) = &node.answer {
        let (told, traffic) = (&answer.overview, &answer.overview.traffic);
        value["incarnation"] = json!(answer.incarnation.get());
        value["keys"] = json!(told.keys);
        value["claims"] = json!(told.claims);
        value["counts"] = json!(told.counts);
        if let VoterState::Recovering { remaining } = told.voter {
            value["recovering_for_ms"] = json!(millis(remaining));
        }
        value["wall_clock"] = wall_clock_json(told.wall_clock);
        value["traffic"] = json!({
            "datagrams_in": traffic.datagrams_in,
            "datagrams_out": traffic.datagrams_out,
            "messages_in": traffic.messages_in,
            "messages_out": traffic.messages_out,
            "answers": traffic.answers,
            "dropped": traffic.dropped,
        });
    }
    value
}

fn wall_clock_json(clock: WallClock) -> Value {
    match clock {
        WallClock::Unknown => json!({"state": "unknown"}),
        WallClock::Right => json!({"state": "right"}),
        WallClock::Skewed { ahead_ms } => json!({"state": "skewed", "ahead_ms": ahead_ms}),
        WallClock::Disputed { by_ms } => json!({"state": "disputed", "by_ms": by_ms}),
    }
}

/// Describes a wall clock that is skewed or disputed.
#[expect(
    clippy::cast_precision_loss,
    reason = "of interest are the first few digits"
)]
fn wall_clock_text(clock: WallClock) -> Option<String> {
    match clock {
        WallClock::Unknown | WallClock::Right => None,
        WallClock::Skewed { ahead_ms } => {
            let way = if ahead_ms < 0 { "behind" } else { "ahead" };
            let by = ahead_ms.unsigned_abs() as f64 / 1_000.0;
            Some(format!("wall clock {by:.1} s {way}"))
        }
        WallClock::Disputed { by_ms } => {
            let by = by_ms as f64 / 1_000.0;
            Some(format!("wall clocks differ by {by:.1} s"))
        }
    }
}

/// Returns the node's state as one word for scripts, and as text for people.
pub(crate) fn state(survey: &Survey, node: &NodeSurvey) -> (&'static str, String) {
    let plain = |word: &'static str, said: &str| (word, said.to_owned());
    match &node.answer {
        None if node.is_member => plain("silent", "no answer"),
        None if node.alive_by.is_empty() && !node.dead_by.is_empty() => {
            let silent_for = node.silent_for.unwrap_or_default();
            ("silent", format!("silent since {} s", silent_for.as_secs()))
        }
        None => plain("not_asked", "client"),
        Some(answer) if answer.voter_set != survey.voter_set.tag() => {
            plain("other_voter_set", "other voter set")
        }
        Some(answer) => match answer.overview.voter {
            VoterState::Votes => plain("votes", "votes"),
            VoterState::NotAMember => plain("client", "client"),
            VoterState::Recovering { remaining } => (
                "recovering",
                format!("in recovery {} s", remaining.as_secs() + 1),
            ),
        },
    }
}

fn to_text(survey: &Survey, secrets: &[Fingerprint], with_locks: bool) -> String {
    let voter_set = &survey.voter_set;
    let (members, voting) = (voter_set.members().len(), survey.voting());
    let mut text = format!(
        "voter set {}: {members} members, {} of them vote for each key\n",
        voter_set.tag(),
        voter_set.voters_per_key(),
    );
    for node in &survey.nodes {
        let addr = node
            .addr
            .map_or_else(|| "-".to_owned(), |addr| addr.to_string());
        let (alive, dead) = (node.alive_by.len(), node.dead_by.len());
        let told = node.answer.as_ref().map(|answer| &answer.overview);
        let told = told.map(|it| {
            let clock = wall_clock_text(it.wall_clock).map(|it| format!(", {it}"));
            let clock = clock.unwrap_or_default();
            format!(", {} keys, {} claims{clock}", it.keys, it.claims)
        });
        let secret = node.secret.filter(|_| secrets.len() > 1);
        text += &format!(
            "  {:<12} {addr:<21} {:<14} alive by {alive}, dead by {dead}{}{}\n",
            node.node.as_str(),
            state(survey, node).1,
            told.unwrap_or_default(),
            secret.map_or_else(String::new, |it| format!(", secret {it}")),
        );
    }
    if let [first, _, ..] = secrets {
        let seal = survey.nodes.iter().filter(|it| it.secret == Some(*first));
        text += &format!(
            "secret {first}: {} of {} nodes that answered seal with it\n",
            seal.count(),
            survey.answered(),
        );
    }
    if with_locks {
        for lock in &survey.locks {
            text += &format!("  {}\n", lock_line(lock));
        }
        if !survey.has_all_locks {
            text += "  ... and more: see --limit\n";
        }
    }
    text += &format!("safe to restart one voter: {}\n", restart_text(survey));
    text + &match survey.health() {
        SurveyHealth::Ok => "ok: every member votes\n".to_owned(),
        SurveyHealth::Degraded => {
            format!("degraded: {voting} of {members} members vote; every key has a quorum\n")
        }
        _ if survey.disputed() > 0 => format!(
            "blocked: {voting} of {members} members vote, and {} of them cannot tell which wall \
             clocks are right; some keys, or all, cannot be locked\n",
            survey.disputed()
        ),
        _ => format!(
            "blocked: {voting} of {members} members vote; some keys, or all, cannot be locked\n"
        ),
    }
}

/// Returns `yes`, or why no voter may be restarted.
fn restart_text(survey: &Survey) -> String {
    match survey.check_restart() {
        Ok(()) => "yes".to_owned(),
        Err(why @ NoSpareVoter::Never { .. }) => {
            format!("no, because {why}: a restart always costs a quorum")
        }
        Err(why) => format!("no, because {why}"),
    }
}

pub(crate) fn lock_line(lock: &Inspection) -> String {
    let key = shown(lock.key.as_str());
    let holder = match lock.owner() {
        Some(owner) => format!(
            "{} {} for {} ms",
            owner.node,
            owner.epoch,
            millis(owner.remaining)
        ),
        None => match lock.unknown_because() {
            None => "nobody".to_owned(),
            Some(because) => format!("unknown, {because}"),
        },
    };
    let note = with_colon(lock.owner().and_then(|owner| owner.note.as_ref()));
    format!("{key}: {holder}, {} wait{note}", lock.waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_names_skew_and_dispute() {
        let skewed = WallClock::Skewed { ahead_ms: -1_500 };
        let json = json!({"state": "skewed", "ahead_ms": -1_500});
        assert_eq!(wall_clock_json(skewed), json);
        let text = wall_clock_text(skewed);
        assert_eq!(text.as_deref(), Some("wall clock 1.5 s behind"));
        let disputed = WallClock::Disputed { by_ms: 2_000 };
        let json = json!({"state": "disputed", "by_ms": 2_000});
        assert_eq!(wall_clock_json(disputed), json);
        assert_eq!(wall_clock_text(WallClock::Right), None);
    }
}
