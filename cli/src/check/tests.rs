//! Forged histories: one that is well, and one for each way in which it is not.

use std::io::Cursor;
use std::path::Path;

use super::read::Reader;
use super::wakeup::Terms;
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

/// What comes of files n0, n1 and so on.
fn judged(files: &[Vec<String>], outages: Vec<(u64, u64)>) -> Result<Verdict, String> {
    let mut reader = Reader::default();
    for (n, lines) in files.iter().enumerate() {
        let text = lines.iter().map(|line| line.replace('\n', "") + "\n");
        let text: String = text.collect();
        let read = reader.source(Path::new(&format!("n{n}")), Cursor::new(text));
        read.map_err(|error| error.to_string())?;
    }
    let histories = reader.finish().map_err(|error| error.to_string())?;
    let bound = BOUND;
    Ok(verdict(&histories, &Terms { bound, outages }))
}

fn contradictions(files: &[Vec<String>]) -> Vec<String> {
    judged(files, Vec::new()).unwrap().contradictions
}

fn error(files: &[Vec<String>]) -> String {
    judged(files, Vec::new()).unwrap_err()
}

/// n0 holds from 10 to 20, n1 waits from 11 on and is granted at `second`, with this epoch.
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

/// Whatever became of the process that had it.
#[test]
fn tick_granted_again_before_its_ttl_is_over_is_rejected() {
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
fn owners_one_after_another_with_rising_epochs_are_accepted() {
    let verdict = judged(&two(21, 101), Vec::new()).unwrap();
    assert_eq!(verdict.contradictions, Vec::<String>::new());
    assert_eq!((verdict.figures.grants, verdict.figures.released), (2, 2));
}

#[test]
fn m1_two_who_certainly_hold_at_once_are_rejected_with_both_lines() {
    let found = contradictions(&two(20, 101));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
}

#[test]
fn m1_a_holder_that_was_stopped_believes_only_what_it_looked_at() {
    let [mut first, second] = two(21, 101);
    first.truncate(4);
    first.push(lost(0, 90));
    assert_eq!(
        contradictions(&[first.clone(), second.clone()]),
        Vec::<String>::new()
    );
    // Yet one that looks later and is held has been held all along.
    first.pop();
    first.push(held(0, 90));
    let found = contradictions(&[first, second]);
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
}

#[test]
fn m2_an_epoch_that_falls_from_owner_to_owner_is_rejected() {
    let found = contradictions(&two(21, 99));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M2: n0:3 and n1:3: "), "{found:?}");
}

#[test]
fn m2_an_epoch_that_is_used_twice_is_rejected() {
    let found = contradictions(&two(21, 100));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("M2: n0:3 and n1:3: epoch 100 "),
        "{found:?}"
    );
}

#[test]
fn m3_a_guard_that_is_held_after_it_was_lost_is_rejected() {
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

/// n0 lets go at 20 ns; n1 stands in line from 11 ns until it gives up at `end`.
fn waiter(end: u64) -> [Vec<String>; 2] {
    let [first, mut second] = two(21, 101);
    second.truncate(2);
    second.push(timed_out(0, end));
    [first, second]
}

#[test]
fn a_waiter_that_is_not_woken_is_rejected_beyond_the_bound_alone() {
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
fn a_waiter_without_a_quorum_is_owed_nothing() {
    let outage = vec![(4 * S, 6 * S)];
    let files = waiter(BOUND + 5 * S);
    assert_eq!(judged(&files, Vec::new()).unwrap().contradictions.len(), 1);
    assert!(judged(&files, outage).unwrap().contradictions.is_empty());
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
fn a_dead_holder_delays_the_next_by_its_lease() {
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

#[test]
fn who_is_granted_nothing_in_the_calm_is_rejected() {
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
fn the_time_from_a_killed_holder_to_the_next_grant_is_measured() {
    let [mut first, second] = two(2 * S, 101);
    first.truncate(4);
    let killed = vec![chaos(1), fault("killed", "n0", S)];
    let verdict = judged(&[first, second, killed], Vec::new()).unwrap();
    let taken = &verdict.figures.takeovers[&FaultKind::Killed];
    assert_eq!((taken.count, taken.p50_ms), (1, 1_000.0));
    assert_eq!(verdict.figures.faults[&FaultKind::Killed], 1);
}

#[test]
fn who_died_in_line_is_nobody_that_a_takeover_is_measured_for() {
    let [mut first, mut second] = two(2 * S, 101);
    first.truncate(4);
    let dead = vec![start("n2", 1), asked(0, 12)];
    second[1] = asked(0, 2 * S - 5);
    let done = vec![
        chaos(1),
        fault("killed", "n2", 14),
        fault("killed", "n0", S),
    ];
    let verdict = judged(&[first, second, dead, done], Vec::new()).unwrap();
    assert!(verdict.figures.takeovers.is_empty());
}

#[test]
fn a_line_that_breaks_off_is_forgiven_at_the_end_of_an_incarnation_alone() {
    let [mut first, second] = two(21, 101);
    let torn = r#"{"event":"he"#.to_owned();
    first.push(torn.clone());
    let ends = judged(&[first.clone(), second.clone()], Vec::new()).unwrap();
    assert_eq!(ends.figures.torn, 1);
    first.push(start("n0", 50));
    let restarts = judged(&[first, second], Vec::new()).unwrap();
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
fn what_is_no_history_is_an_error_with_file_and_line() {
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
fn a_request_cannot_end_before_it_is_granted_nor_be_granted_twice() {
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
fn two_incarnations_of_one_node_at_once_are_an_error() {
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
        judged(&files, Vec::new()).is_ok()
    };
    assert!(noted(15, 30), "the second one was started on purpose");
    assert!(!noted(25, 30), "it was there before that");
    assert!(!noted(5, 15), "it came after that was gone");
}

/// n0 holds from 10 to 20 and lives on; its twin holds from `second` on, and is killed at 40.
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

#[test]
fn m1_twins_that_hold_at_once_are_rejected_with_both_incarnations() {
    assert_eq!(contradictions(&twins(21)), Vec::<String>::new());
    let found = contradictions(&twins(15));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("M1: n0:5 and n1:3: "), "{found:?}");
    assert!(
        found[0].contains("n0 (incarnation 1) and n0 (incarnation 8)"),
        "{found:?}"
    );
}

/// A waiter behind a twin that was killed waits for that lease, and not for the node's own end.
#[test]
fn a_killed_twin_delays_the_next_by_its_lease() {
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

/// A client that was killed in line waits no more, and one that held delays the next by its lease.
#[test]
fn killed_clients_are_gone_with_their_lease() {
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

#[test]
fn a_wrong_wall_clock_that_costs_locks_is_rejected() {
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
