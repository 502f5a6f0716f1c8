//! Forged histories: an accepted one, and one for each way to be rejected.

use std::io::Cursor;
use std::path::Path;

use super::read::Reader;
use super::{Verdict, verdict};
use crate::history::FaultKind;

const BOUND: u64 = 10_000_000_000;
const S: u64 = 1_000_000_000;

fn start(node: &str, at: u64) -> String {
    format!(
        r#"{{"event":"start","at":{at},"format":1,"boot":"b","node":"{node}",
            "incarnation":{at},"max_lease_ms":3000}}"#
    )
}

fn asked(id: u64, at: u64) -> String {
    format!(r#"{{"event":"asked","at":{at},"id":{id},"key":"k","how":"acquire","wait_ms":9000}}"#)
}

fn granted(id: u64, at: u64, epoch: u64) -> String {
    let (after, until) = (at + 1, at + 2 * S);
    format!(
        r#"{{"event":"granted","id":{id},"before":{at},"after":{after},"epoch":{epoch},
            "until":[{until},{until}]}}"#
    )
}

fn held(id: u64, at: u64) -> String {
    let (after, until) = (at + 1, at + 2 * S);
    format!(
        r#"{{"event":"held","id":{id},"before":{at},"after":{after},"until":[{until},{until}]}}"#
    )
}

fn lost(id: u64, at: u64) -> String {
    let after = at + 1;
    format!(r#"{{"event":"lost","id":{id},"before":{at},"after":{after}}}"#)
}

fn released(id: u64, at: u64) -> String {
    let after = at + 1;
    format!(r#"{{"event":"released","id":{id},"before":{at},"after":{after},"held":true}}"#)
}

fn timed_out(id: u64, at: u64) -> String {
    format!(r#"{{"event":"timed_out","id":{id},"at":{at}}}"#)
}

fn chaos(at: u64) -> String {
    format!(r#"{{"event":"chaos","at":{at},"format":1,"boot":"b","seed":1,"nodes":["n0","n1"]}}"#)
}

fn fault(kind: &str, node: &str, at: u64) -> String {
    let after = at + 1;
    format!(
        r#"{{"event":"fault","before":{at},"after":{after},"fault":"{kind}",
            "nodes":["{node}"],"what":"-"}}"#
    )
}

fn note(event: &str, node: &str, at: u64) -> String {
    format!(r#"{{"event":"{event}","at":{at},"node":"{node}"}}"#)
}

/// Returns the verdict on files n0, n1 and so on.
fn judged(files: &[Vec<String>]) -> Result<Verdict, String> {
    let mut reader = Reader::default();
    for (n, lines) in files.iter().enumerate() {
        let text = lines.iter().map(|line| line.replace('\n', "") + "\n");
        let text: String = text.collect();
        let read = reader.source(Path::new(&format!("n{n}")), Cursor::new(text));
        read.map_err(|error| error.to_string())?;
    }
    let histories = reader.finish().map_err(|error| error.to_string())?;
    Ok(verdict(&histories, BOUND))
}

fn contradictions(files: &[Vec<String>]) -> Vec<String> {
    judged(files).unwrap().contradictions
}

fn error(files: &[Vec<String>]) -> String {
    judged(files).unwrap_err()
}

/// n0 holds from 10 to 20. n1 waits from 11 on, and is granted at `second` with this epoch.
fn two(second: u64, epoch: u64) -> [Vec<String>; 2] {
    let first = vec![
        start("n0", 1),
        asked(0, 5),
        granted(0, 10, 100),
        held(0, 15),
        released(0, 20),
    ];
    let second = vec![
        start("n1", 1),
        asked(0, 11),
        granted(0, second, epoch),
        held(0, second + 5),
        released(0, second + 10),
    ];
    [first, second]
}

fn tried(id: u64, at: u64) -> String {
    asked(id, at).replace("acquire", "try")
}

fn ticked(id: u64, at: u64) -> String {
    format!(r#"{{"event":"ticked","id":{id},"at":{at},"ttl_ms":3000}}"#)
}

/// M6. The result does not depend on the end of the first process.
#[test]
fn tick_granted_again_within_ttl_is_rejected() {
    let first = |ends: bool| {
        let mut lines = vec![start("n0", 0), tried(0, S), ticked(0, S + 5)];
        lines.extend(ends.then(|| r#"{"event":"end","at":2000000000}"#.to_owned()));
        lines
    };
    let again = |at: u64| vec![start("n1", 0), tried(0, at - 5), ticked(0, at)];
    let taken = |at: u64| vec![start("n1", 0), asked(0, at - 5), granted(0, at, 9)];
    for ends in [false, true] {
        for (second, is_well) in [
            (again(3 * S), false),
            (taken(3 * S), false),
            (again(4 * S + 5), true),
            (taken(4 * S + 5), true),
        ] {
            let found = contradictions(&[first(ends), second]);
            assert_eq!(found.is_empty(), is_well, "{found:?}");
            assert!(
                found.iter().all(|it| it.starts_with("M6: n0:3 and n1:3")),
                "{found:?}"
            );
        }
    }
}

#[test]
fn consecutive_holders_with_rising_epochs_are_accepted() {
    let verdict = judged(&two(21, 101)).unwrap();
    assert_eq!(verdict.contradictions, Vec::<String>::new());
    assert_eq!((verdict.figures.grants, verdict.figures.released), (2, 2));
}

/// M1.
#[test]
fn overlapping_holders_are_rejected_with_both_lines() {
    let found = contradictions(&two(20, 101));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
}

/// M1.
#[test]
fn paused_holder_counts_until_its_last_observation() {
    let [mut first, second] = two(21, 101);
    first.truncate(4);
    first.push(lost(0, 90));
    assert_eq!(
        contradictions(&[first.clone(), second.clone()]),
        Vec::<String>::new()
    );
    // A guard that is held at a later observation has been held all along.
    first.pop();
    first.push(held(0, 90));
    let found = contradictions(&[first, second]);
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
}

/// M2.
#[test]
fn epoch_below_previous_holder_is_rejected() {
    let found = contradictions(&two(21, 99));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M2: n0:3 and n1:3: "), "{found:?}");
}

/// M2.
#[test]
fn epoch_granted_twice_is_rejected() {
    let found = contradictions(&two(21, 100));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("M2: n0:3 and n1:3: epoch 100 "),
        "{found:?}"
    );
}

/// M3.
#[test]
fn guard_held_after_loss_is_rejected() {
    let lines = vec![
        start("n0", 1),
        asked(0, 5),
        granted(0, 10, 100),
        lost(0, 12),
        held(0, 14),
    ];
    let found = contradictions(&[lines]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M3: n0:4 and n0:5: "), "{found:?}");
}

/// n0 releases at 20 ns. n1 waits in line from 11 ns until it times out at `end`.
fn waiter(end: u64) -> [Vec<String>; 2] {
    let [first, mut second] = two(21, 101);
    second.truncate(2);
    second.push(timed_out(0, end));
    [first, second]
}

#[test]
fn wait_beyond_bound_for_free_key_is_rejected() {
    assert_eq!(contradictions(&waiter(BOUND + 20)), Vec::<String>::new());
    let found = contradictions(&waiter(BOUND + 22));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("no lost wake-up: n1:2 and n1:3: "),
        "{found:?}"
    );
    assert!(found[0].contains("free since n0:5"), "{found:?}");
}

#[test]
fn wait_without_quorum_is_not_counted() {
    let files = waiter(BOUND + 5 * S);
    assert_eq!(judged(&files).unwrap().contradictions.len(), 1);
    let [first, second] = files;
    let told = |node: &str| {
        vec![
            chaos(1),
            note("unserved", node, 4 * S),
            note("served", node, 6 * S),
        ]
    };
    let found = contradictions(&[first.clone(), second.clone(), told("n1")]);
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(contradictions(&[first, second, told("n0")]).len(), 1);
}

#[test]
fn killed_holder_delays_next_by_its_lease() {
    let [mut first, second] = waiter(BOUND + 3 * S);
    first.truncate(4);
    let killed = vec![chaos(1), fault("killed", "n0", 18)];
    assert_eq!(
        contradictions(&[first.clone(), second, killed.clone()]),
        Vec::<String>::new()
    );
    let [_, second] = waiter(BOUND + 4 * S);
    assert_eq!(contradictions(&[first, second, killed]).len(), 1);
}

/// L1.
#[test]
fn node_without_grant_after_faults_is_rejected() {
    let [first, second] = two(21, 101);
    let calm = |at: u64| vec![chaos(1), format!(r#"{{"event":"calm","at":{at}}}"#)];
    assert_eq!(
        contradictions(&[first.clone(), second.clone(), calm(9)]),
        Vec::<String>::new()
    );
    let found = contradictions(&[first, second, calm(15)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("L1: n2:2 and n0:5: n0 "), "{found:?}");
}

#[test]
fn takeover_from_killed_holder_is_measured() {
    let [mut first, second] = two(2 * S, 101);
    first.truncate(4);
    let killed = vec![chaos(1), fault("killed", "n0", S)];
    let verdict = judged(&[first, second, killed]).unwrap();
    let taken = &verdict.figures.takeovers[&FaultKind::Killed];
    assert_eq!((taken.count, taken.p50_ms), (1, 1_000.0));
    assert_eq!(verdict.figures.faults[&FaultKind::Killed], 1);
}

#[test]
fn takeover_ignores_waiter_killed_in_line() {
    let [mut first, mut second] = two(2 * S, 101);
    first.truncate(4);
    let dead = vec![start("n2", 1), asked(0, 12)];
    second[1] = asked(0, 2 * S - 5);
    let done = vec![
        chaos(1),
        fault("killed", "n2", 14),
        fault("killed", "n0", S),
    ];
    let verdict = judged(&[first, second, dead, done]).unwrap();
    assert!(verdict.figures.takeovers.is_empty());
}

#[test]
fn torn_line_is_accepted_only_at_incarnation_end() {
    let [mut first, second] = two(21, 101);
    let torn = r#"{"event":"he"#.to_owned();
    first.push(torn.clone());
    let ends = judged(&[first.clone(), second.clone()]).unwrap();
    assert_eq!(ends.figures.torn, 1);
    first.push(start("n0", 50));
    let restarts = judged(&[first, second]).unwrap();
    assert_eq!(
        (restarts.figures.torn, restarts.figures.incarnations),
        (1, 3)
    );
    let [mut first, second] = two(21, 101);
    first.insert(3, torn);
    let said = error(&[first, second]);
    assert!(
        said.starts_with("n0:4: breaks off, and is not the last"),
        "{said}"
    );
}

#[test]
fn invalid_history_is_error_with_file_and_line() {
    let lines = |more: &str| vec![start("n0", 1), more.to_owned()];
    let cases = [
        (vec![], "n0: is empty"),
        (vec![asked(0, 1)], "n0:1: there is no start"),
        (lines("rubbish"), "n0:2: expected value"),
        (lines(""), "n0:2: EOF"),
        (
            lines(r#"{"event":"sung","at":1}"#),
            "n0:2: unknown variant `sung`",
        ),
        (
            lines(r#"{"event":"end","at":1,"x":2}"#),
            "n0:2: unknown field `x`",
        ),
        (lines(r#"{"event":"end"}"#), "n0:2: missing field `at`"),
        (lines(&held(7, 9)), "n0:2: request 7 was never asked for"),
        (
            lines(r#"{"event":"calm","at":1}"#),
            "n0:2: this line belongs to the chaos",
        ),
        (
            lines(&start("n0", 9).replace("\"format\":1", "\"format\":2")),
            "n0:2: the format is 2",
        ),
        (
            lines(&start("n0", 9).replace("\"b\"", "\"c\"")),
            "n0:2: the machine was started anew since n0:1",
        ),
    ];
    for (lines, expected) in cases {
        let said = error(&[lines]);
        assert!(said.starts_with(expected), "{said} instead of {expected}");
    }
}

#[test]
fn request_events_out_of_order_are_errors() {
    let begin = || vec![start("n0", 1), asked(0, 5)];
    let cases = [
        (released(0, 9), "n0:3: request 0: it was never granted"),
        (
            granted(0, 4, 9),
            "n0:3: request 0: it is granted before it was asked for",
        ),
        (asked(0, 9), "n0:3: request 0 was asked for before"),
    ];
    for (line, expected) in cases {
        let mut lines = begin();
        lines.push(line);
        let said = error(&[lines]);
        assert!(said.starts_with(expected), "{said} instead of {expected}");
    }
    let mut lines = begin();
    lines.extend([granted(0, 9, 9), granted(0, 10, 10)]);
    let said = error(&[lines]);
    assert!(said.contains("though it was granted"), "{said}");
}

#[test]
fn overlapping_incarnations_are_error_without_recorded_twin() {
    let one = vec![start("n0", 1), asked(0, 50)];
    let other = vec![start("n0", 20)];
    let said = error(&[one.clone(), other.clone()]);
    assert!(
        said.starts_with("n1:1: n0 starts while its incarnation of n0:2"),
        "{said}"
    );
    let noted = |begin, end| {
        let (begin, end) = (fault("twin", "n0", begin), fault("twin_gone", "n0", end));
        let files = [one.clone(), other.clone(), vec![chaos(1), begin, end]];
        judged(&files).is_ok()
    };
    assert!(noted(15, 30), "the second one was started on purpose");
    assert!(!noted(25, 30), "it was there before that");
    assert!(!noted(5, 15), "it came after that was gone");
}

/// n0 holds from 10 to 20 and runs on. Its twin holds from `second` on, and is killed at 40.
fn twins(second: u64) -> [Vec<String>; 3] {
    let [mut own, twin] = two(second, 101);
    own.extend([asked(1, 60), timed_out(1, 70)]);
    let twin = vec![
        start("n0", 8),
        twin[1].clone(),
        twin[2].clone(),
        twin[3].clone(),
    ];
    let noted = vec![
        chaos(1),
        fault("twin", "n0", 7),
        fault("twin_gone", "n0", 40),
    ];
    [own, twin, noted]
}

/// M1.
#[test]
fn overlapping_twins_are_rejected_with_both_incarnations() {
    assert_eq!(contradictions(&twins(21)), Vec::<String>::new());
    let found = contradictions(&twins(15));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
    assert!(
        found[0].contains("n0 (incarnation 1) and n0 (incarnation 8)"),
        "{found:?}"
    );
}

/// A waiter behind a killed twin waits for the twin's lease, and not for the end of the node.
#[test]
fn killed_twin_delays_next_by_its_lease() {
    let judge = |end: u64| {
        let [own, twin, mut noted] = twins(21);
        let waiter = vec![start("n2", 1), asked(0, 30), timed_out(0, end)];
        noted[2] = fault("twin_gone", "n0", S);
        contradictions(&[own, twin, waiter, noted])
    };
    assert_eq!(judge(BOUND + 4 * S), Vec::<String>::new());
    let found = judge(BOUND + 4 * S + 10);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("no lost wake-up: n2:2 "), "{found:?}");
}

/// A client killed in line no longer waits. A client killed as a holder delays the next by its
/// lease.
#[test]
fn killed_clients_no_longer_wait_or_hold() {
    let judge = |noted: Vec<String>| {
        let [mut first, mut second] = two(21, 101);
        first[0] = start("c0", 1);
        first.truncate(4);
        second[0] = start("c1", 1);
        second.truncate(2);
        let other = vec![start("n2", 1), asked(0, 2 * BOUND)];
        contradictions(&[first, second, other, noted])
    };
    let killed = |node: &str, at| fault("client_killed", node, at);
    let noted = vec![chaos(1), killed("c0", 18), killed("c1", 30)];
    assert_eq!(judge(noted), Vec::<String>::new());
    assert_eq!(judge(vec![chaos(1), killed("c0", 18)]).len(), 1);
}

/// L1.
#[test]
fn wrong_wall_clock_without_grants_is_rejected() {
    let judge = |end: u64, is_granted: bool, noted: &[String]| {
        let mut lines = vec![start("n0", 2), asked(0, 3)];
        if is_granted {
            lines.extend([granted(0, 5, 7), released(0, 6)]);
        }
        lines.push(format!(r#"{{"event":"end","at":{end}}}"#));
        let mut chaos = vec![chaos(1), fault("wall_clock", "n0", 1)];
        chaos.extend_from_slice(noted);
        contradictions(&[lines, chaos])
    };
    let found = judge(7 * S, false, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("L1: n0:1 and n0:3: n0 "), "{found:?}");
    assert_eq!(judge(7 * S, true, &[]), Vec::<String>::new());
    assert_eq!(judge(5 * S, false, &[]), Vec::<String>::new(), "too short");
    let cut = [note("unserved", "n0", S), note("served", "n0", 3 * S)];
    assert_eq!(judge(7 * S, false, &cut), Vec::<String>::new());
}

/// Returns a node that runs a tick from `at` on, marks it at `at + 10`, and keeps it for a second.
fn ran(node: &str, at: u64, epoch: u64) -> Vec<String> {
    let (end, told) = (at + 9, at + 11);
    vec![
        start(node, 1),
        asked(0, at - 1).replace("acquire", "once"),
        format!(r#"{{"event":"attempt","id":0,"at":{at},"epoch":{epoch}}}"#),
        format!(r#"{{"event":"ran","id":0,"before":{end},"after":{told},"keep_ms":1000}}"#),
    ]
}

fn voting(at: u64, may_lack: bool) -> String {
    format!(r#"{{"event":"voting","at":{at},"votes":true,"may_lack_marks":{may_lack}}}"#)
}

#[test]
fn tick_that_runs_twice_is_rejected() {
    let judge = |at, epoch, third: Vec<String>| {
        let mut files = [ran("n0", 10, 5), ran("n1", at, epoch), third];
        for file in &mut files {
            file.push(voting(2 * S, false));
        }
        contradictions(&files)
    };
    let other = || vec![start("n2", 2)];
    let found = judge(30, 6, other());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("ticks: n0:4 and n1:3: "), "{found:?}");
    // The keep_for is over.
    assert_eq!(judge(2 * S, 6, other()), [""; 0]);
    // A voter may have lacked marks, from then on.
    let lacks = |at| vec![start("n2", at), voting(at, true)];
    assert_eq!(judge(30, 6, lacks(25)), [""; 0]);
    assert_eq!(judge(30, 6, lacks(35)).len(), 1);
    let found = judge(30, 5, other());
    assert!(found[0].starts_with("M2"), "{found:?}");
}

#[test]
fn attempts_of_a_tick_have_rising_epochs() {
    let failed = |epoch| {
        let mut lines = ran("n0", 10, epoch);
        lines[3] = r#"{"event":"gave_back","id":0,"at":20}"#.to_owned();
        lines.push(voting(S, false));
        lines
    };
    let judge = |epoch| {
        let mut second = ran("n1", 30, 6);
        second.push(voting(S, false));
        contradictions(&[failed(epoch), second])
    };
    assert_eq!(judge(5), [""; 0]);
    let found = judge(7);
    assert!(found[0].starts_with("M2"), "{found:?}");
}

#[test]
fn tick_that_ran_without_an_attempt_is_rejected() {
    let judge = |epoch| {
        let told = format!(r#"{{"event":"already_ran","id":0,"at":40,"epoch":{epoch}}}"#);
        let second = vec![
            start("n1", 1),
            asked(0, 30).replace("acquire", "once"),
            told,
        ];
        contradictions(&[ran("n0", 10, 5), second])
    };
    assert_eq!(judge(5), [""; 0]);
    let found = judge(4);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("ticks: n1:2 and n1:3: "), "{found:?}");
}

/// Returns a request for a permit of a semaphore that has two.
/// n0 may have voted by the power cut at 1 s, and starts at 2 s with this memory.
fn cut(durability: &str, votes: bool, from: &str) -> Vec<Vec<String>> {
    let voting = |at, votes, from: &str| {
        format!(r#"{{"event":"voting","at":{at},"votes":{votes},"from":"{from}"}}"#)
    };
    let durability = format!("\"durability\":\"{durability}\",\"max_lease_ms\"");
    let first = start("n0", 1).replace("\"max_lease_ms\"", &durability);
    let second = vec![
        start("n0", 2 * S),
        asked(1, 2 * S + 1),
        voting(2 * S + 2, true, from),
    ];
    let first = vec![first, asked(0, 5), voting(10, votes, "nothing")];
    vec![
        [first, second].concat(),
        vec![chaos(1), fault("power_cut", "n0", S)],
    ]
}

#[test]
fn synced_journal_lost_by_power_cut_is_rejected() {
    let found = contradictions(&cut("machine", true, "nothing"));
    assert!(found[0].starts_with("resume: n0:3 and n0:4: "), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
    for (durability, votes, from) in [
        ("machine", true, "journal"),
        ("machine", false, "nothing"),
        ("process", true, "nothing"),
    ] {
        let verdict = judged(&cut(durability, votes, from)).unwrap();
        assert!(verdict.contradictions.is_empty(), "{verdict:?}");
        assert_eq!(verdict.figures.power_cuts, 1);
        let starts = verdict.figures.starts_after_power_cuts;
        assert_eq!(serde_json::json!(starts), serde_json::json!({ from: 1 }));
    }
}

fn asked_permit(id: u64, at: u64) -> String {
    asked(id, at).replace(r#""wait_ms""#, r#""permits":2,"wait_ms""#)
}

fn granted_permit(id: u64, at: u64, permit: u64) -> String {
    granted(id, at, at).replace(r#""until""#, &format!(r#""permit":"k#{permit}","until""#))
}

/// Returns three holders of a permit, one after another or at once.
fn permits(numbers: [u64; 3]) -> Vec<Vec<String>> {
    let files = numbers.iter().enumerate().map(|(n, number)| {
        let at = S + n as u64;
        vec![
            start(&format!("n{n}"), 0),
            asked_permit(1, 1),
            granted_permit(1, at, *number),
            held(1, 2 * S),
            released(1, 3 * S),
        ]
    });
    files.collect()
}

#[test]
fn more_holders_than_permits_are_rejected() {
    assert_eq!(contradictions(&permits([0, 1, 2])[..2]), [""; 0]);
    let found = contradictions(&permits([0, 1, 2]));
    assert_eq!(found.len(), 1, "{found:?}");
    let what = "permits: n0:5 and n2:3: 3 permits of \"k\" were held";
    assert!(found[0].starts_with(what), "{found:?}");
    // Each permit has one holder.
    let found = contradictions(&permits([0, 0, 0])[..2]);
    assert!(found[0].starts_with("M1"), "{found:?}");
}

#[test]
fn wait_beyond_bound_for_free_permit_is_rejected() {
    let waits = |end| vec![start("n9", 0), asked_permit(1, S), timed_out(1, end)];
    let mut files = permits([0, 1, 2])[..1].to_vec();
    files.push(waits(S + BOUND - 1));
    assert_eq!(contradictions(&files), [""; 0]);
    files[1] = waits(S + BOUND + 1);
    let found = contradictions(&files);
    assert!(found[0].contains("stood in line for \"k\""), "{found:?}");
    // While both are out, none is free.
    let mut files = permits([0, 1, 2])[..2].to_vec();
    files.push(waits(3 * S + BOUND - 1));
    assert_eq!(contradictions(&files), [""; 0]);
    files[2] = waits(4 * S + BOUND);
    assert_eq!(contradictions(&files).len(), 1);
}

#[test]
fn request_for_several_may_hold_each() {
    let together = asked(1, 1).replace("acquire", "together");
    let waits = |end| vec![start("n1", 0), asked(1, S), timed_out(1, end)];
    let files = |end| {
        [
            vec![start("n0", 0), together.clone(), timed_out(1, 9 * S)],
            waits(end),
        ]
    };
    assert_eq!(contradictions(&files(9 * S + BOUND)), [""; 0]);
    assert_eq!(contradictions(&files(9 * S + BOUND + 2)).len(), 1);
}
