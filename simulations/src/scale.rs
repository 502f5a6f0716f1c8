//! The cost of a larger cluster: the same users and the same number of voters for each key, with
//! more members and no faults. The nodes count messages and datagrams themselves; gossip is not
//! included.
//!
//! An uncontended cycle of acquire and release takes Claim, Vote and Release with each of the three
//! voters, nine messages. A voter that is the claimant itself costs none, so a cycle takes
//! 9 (1 - 1 / members) messages.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::cluster::{Habits, Settings, World};
use crate::kernel::{MILLISECOND, SECOND};
use crate::proto::Timing;

const MEMBERS: [usize; 4] = [5, 10, 20, 50];
const VOTERS: usize = 3;
const KEYS: usize = 1_000;
/// The time at which counting starts.
const START: u64 = SECOND;

/// The result of one cluster size.
#[derive(Clone, Debug, Serialize)]
struct Size {
    members: usize,
    cycles: u64,
    messages_per_cycle: f64,
    datagrams_per_cycle: f64,
    /// The share of all messages, sent and received, of the member with the most.
    busiest_share: f64,
    median_share: f64,
    violations: usize,
}

/// Runs all sizes and prints the table.
pub(crate) fn command(seconds: u64, json: bool) -> ExitCode {
    let rows = rows(seconds);
    match json {
        true => println!("{}", json!({ "rows": rows })),
        false => print!("{}", markdown(&rows)),
    }
    ExitCode::SUCCESS
}

/// Runs all sizes, each for `seconds` of simulated time.
fn rows(seconds: u64) -> Vec<Size> {
    MEMBERS
        .iter()
        .map(|members| row(*members, seconds))
        .collect()
}

/// The counters at one time.
struct Load {
    cycles: u64,
    messages: u64,
    datagrams: u64,
    /// The messages that each member sent and received.
    loads: Vec<u64>,
}

impl Load {
    fn of(world: &World) -> Self {
        let nodes = world.hosts.iter().filter_map(|host| host.process.as_ref());
        let traffic: Vec<_> = nodes.filter_map(|it| it.node.traffic()).collect();
        Self {
            cycles: world.coverage.get("released").copied().unwrap_or_default(),
            messages: traffic.iter().map(|it| it.messages_out).sum(),
            datagrams: traffic.iter().map(|it| it.datagrams_out).sum(),
            loads: traffic
                .iter()
                .map(|it| it.messages_out + it.messages_in)
                .collect(),
        }
    }
}

fn row(members: usize, seconds: u64) -> Size {
    let settings = settings(members, START + seconds * SECOND);
    let mut world = World::new(settings.into(), false);
    // Messages among voters at the start of the cluster belong to no cycle.
    world.run_until(START, |_| false);
    let before = Load::of(&world);
    world.run_until(START + seconds * SECOND, |_| false);
    let after = Load::of(&world);
    let cycles = after.cycles - before.cycles;
    let per_cycle = |count: u64| count as f64 / cycles.max(1) as f64;
    let mut loads: Vec<u64> = after
        .loads
        .iter()
        .zip(&before.loads)
        .map(|(after, before)| after - before)
        .collect();
    loads.sort_unstable();
    let all = loads.iter().sum::<u64>().max(1) as f64;
    let share = |at: usize| loads.get(at).copied().unwrap_or_default() as f64 / all;
    Size {
        members,
        cycles,
        messages_per_cycle: per_cycle(after.messages - before.messages),
        datagrams_per_cycle: per_cycle(after.datagrams - before.datagrams),
        busiest_share: share(loads.len().saturating_sub(1)),
        median_share: share(loads.len() / 2),
        violations: world.laws.violations.len(),
    }
}

fn settings(members: usize, span: u64) -> Settings {
    let timing = Timing {
        max_ttl: Duration::from_secs(10),
        max_drift_ppm: 5_000,
        max_clock_skew: Duration::from_millis(500),
        round_trip: Duration::from_millis(10),
        reservation: Duration::from_millis(250),
        holder_probe_interval: Duration::from_millis(250),
    };
    let habits = Habits {
        clients: 100,
        keys: KEYS,
        rest_max: 400 * MILLISECOND,
        hold_max: 20 * MILLISECOND,
        renew_ppm: 1_000_000,
        ..Habits::default()
    };
    Settings {
        seed: 1,
        fault_span: span,
        ..Settings::quiet(members, VOTERS, timing, habits)
    }
}

/// Formats the table as Markdown.
fn markdown(rows: &[Size]) -> String {
    let head = "| members | cycles | messages per cycle | datagrams per cycle | busiest member | \
                median member | 1/members |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    let lines = rows.iter().map(|row| {
        format!(
            "| {} | {} | {:.2} | {:.2} | {:.1} % | {:.1} % | {:.1} % |\n",
            row.members,
            row.cycles,
            row.messages_per_cycle,
            row.datagrams_per_cycle,
            row.busiest_share * 100.0,
            row.median_share * 100.0,
            100.0 / row.members as f64,
        )
    });
    head.to_owned() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_per_cycle_does_not_grow_with_members() {
        for row in rows(5) {
            assert_eq!(row.violations, 0);
            assert!(row.cycles > 1_500, "{row:?}");
            let fair = 1.0 / row.members as f64;
            // Three messages with each voter that is another node, and some for contention.
            let plain = 9.0 * (1.0 - fair);
            let over = row.messages_per_cycle / plain;
            assert!((0.9..1.2).contains(&over), "{row:?}");
            assert!(row.busiest_share < 3.0 * fair, "{row:?}");
            assert!((0.5..1.5).contains(&(row.median_share / fair)), "{row:?}");
        }
    }
}
