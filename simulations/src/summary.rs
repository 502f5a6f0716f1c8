//! Prints the results of many seeds.

use crate::campaign::Summary;
use crate::judge::LAWS;

/// The counters in the summary, by group.
const COVERED: [(&str, &[&str]); 5] = [
    (
        "faults",
        &[
            "split",
            "one_way",
            "bridge",
            "flap",
            "slow",
            "storm",
            "crash",
            "shutdown",
            "pause",
            "suspend",
            "wall_jump",
            "drift",
            "slow_way",
            "set_back",
            "knot",
            "maimed",
            "namesakes",
            "mappings",
        ],
    ),
    (
        "corners",
        &[
            "datagrams_too_large",
            "datagrams_overflowed",
            "timers_late",
            "adoptions",
            "adoptions_under_a_lease",
            "adoptions_while_waiting",
            "lapses",
            "twins_found",
            "namesakes_judged",
            "grants_of_namesakes",
        ],
    ),
    (
        "network",
        &[
            "messages",
            "datagrams",
            "datagrams_lost",
            "datagrams_cut",
            "datagrams_doubled",
            "datagrams_late",
            "datagrams_damaged",
            "sealed_worlds",
            "tight_worlds",
            "datagrams_at_twins",
            "views",
        ],
    ),
    (
        "locks",
        &[
            "tries",
            "waits",
            "claims",
            "grants",
            "renewals",
            "sessions_kept",
            "sessions_over",
            "extends",
            "released",
            "lost",
            "denied",
            "timed_out",
            "crashed_with_a_request",
            "shut_down_with_a_request",
            "ticks",
        ],
    ),
    (
        "voters and ledger",
        &[
            "restarts",
            "restarts_told_new",
            "crashes_under_a_lease",
            "quarantines",
            "voters_returned",
            "leans_on_wall_clock",
            "change",
            "quarantines_extended",
            "leans_on_settings",
            "writes_taken",
            "writes_refused",
        ],
    ),
];

pub(crate) fn tell(summary: &Summary) {
    println!(
        "{} seeds, {} steps in {:.1} s ({} a second), {} facts judged by {} laws",
        summary.seeds,
        summary.steps,
        summary.took.as_secs_f64(),
        summary.steps_per_second(),
        summary.facts,
        LAWS,
    );
    for (group, names) in COVERED {
        let counts: Vec<String> = names
            .iter()
            .map(|name| {
                let count = summary.coverage.get(name).copied().unwrap_or_default();
                format!("{count} {}", name.replace('_', " "))
            })
            .collect();
        println!("  {group}: {}", counts.join(", "));
    }
    println!("{} violations", summary.violations);
    for failed in &summary.failed {
        println!(
            "seed {} failed ({:?}): {}\n  with its first {} faults; replay: {}",
            failed.seed, failed.failure, failed.what, failed.faults, failed.replay
        );
    }
}
