//! The guide, the alerts and the dashboard name the metrics that the code has.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::process::Command;

use lockmesh::metrics::{ALL, Kind, LockKind, TICK_OUTCOMES, TIMEOUT_REASONS};
use lockmesh::status::DropReason;
use serde_json::Value;

#[path = "common/table.rs"]
mod table;

use table::{code, table};

const GUIDE: &str = include_str!("../docs/observability.md");
const RULES: &str = include_str!("../docs/prometheus-rules.yml");
const DASHBOARD: &str = include_str!("../docs/grafana.json");
/// The metrics that neither an alert nor the dashboard uses, on purpose.
const UNUSED: [&str; 0] = [];

/// Returns the metrics named in `text`, without the suffixes of histograms.
///
/// # Panics
/// Panics if the code does not have one of them.
fn named(text: &str) -> BTreeSet<&'static str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_of_name(c));
    let names = words.filter(|word| word.starts_with("lockmesh_"));
    let metric = |name: &str| {
        let is_it = |metric: &&lockmesh::metrics::Metric| {
            let suffix = name.strip_prefix(metric.name);
            let is_histogram = metric.kind == Kind::Histogram;
            suffix.is_some_and(|it| {
                it.is_empty() || is_histogram && ["_bucket", "_sum", "_count"].contains(&it)
            })
        };
        let metric = ALL.iter().find(is_it);
        metric
            .unwrap_or_else(|| panic!("there is no metric {name}"))
            .name
    };
    names.map(metric).collect()
}

/// Returns the rest of the line after `key`.
fn field<'a>(rule: &'a str, key: &str) -> &'a str {
    let value = rule.lines().find_map(|line| line.trim().strip_prefix(key));
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    value.unwrap_or_else(|| panic!("no `{key}` in the rule {rule}"))
}

fn alerts() -> Vec<&'static str> {
    RULES.split("- alert: ").skip(1).collect()
}

/// Returns the expressions of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| target["expr"].as_str());
    queries.map(|query| query.unwrap().to_owned()).collect()
}

#[test]
fn guide_lists_the_metrics_of_the_code() {
    let rows = table(GUIDE, "| name | type | unit |");
    let rows: Vec<_> = rows.iter().map(|row| row[..5].join(" | ")).collect();
    let expected = ALL.iter().map(|metric| {
        let labels = metric.labels.iter().map(|label| format!("`{label}`"));
        let labels = match metric.labels {
            [] => "-".to_owned(),
            _ => labels.collect::<Vec<_>>().join(", "),
        };
        let (name, kind, unit) = (metric.name, metric.kind, metric.unit);
        format!("`{name}` | {kind} | {unit} | {labels} | {}", metric.help)
    });
    assert_eq!(rows, Vec::from_iter(expected));
}

#[test]
fn guide_lists_the_reasons_of_the_code() {
    let reasons = |header| -> Vec<&str> {
        let rows = table(GUIDE, header);
        rows.iter().map(|row| code(row[0])[0]).collect()
    };
    assert_eq!(reasons("| `reason` | the voters"), TIMEOUT_REASONS);
    assert_eq!(reasons("| `outcome` | the tick"), TICK_OUTCOMES);
    let all = DropReason::ALL.map(DropReason::as_str);
    assert_eq!(reasons("| `reason` | dropped"), all);
    let kinds = LockKind::ALL.map(LockKind::as_str);
    assert_eq!(reasons("| `kind` | the lock"), kinds);
}

#[test]
fn each_alert_says_what_to_do() {
    let mut names = BTreeSet::new();
    for rule in alerts() {
        let name = rule.lines().next().unwrap();
        assert!(name.starts_with("Lockmesh") && names.insert(name), "{name}");
        assert!(!named(field(rule, "expr:")).is_empty(), "{name}");
        let span = field(rule, "for:").trim_end_matches(['s', 'm']);
        assert!(span.parse::<u32>().is_ok(), "{name}: {span}");
        let severity = field(rule, "severity:");
        let severities = ["critical", "warning", "info"];
        assert!(severities.contains(&severity), "{name}: {severity}");
        let summary = field(rule, "summary:");
        assert!(
            summary.contains("{{ $labels.node }}"),
            "{name}: which node?"
        );
        assert_eq!(field(rule, "description:"), ">-");
        let (_, description) = rule.split_once(">-").unwrap();
        assert!(description.trim().len() > 40, "{name}: {description}");
    }
    assert!(!names.is_empty());
}

#[test]
fn every_metric_is_used_or_left_out() {
    named(RULES);
    let mut used: BTreeSet<_> = alerts()
        .iter()
        .flat_map(|it| named(field(it, "expr:")))
        .collect();
    used.extend(queries().iter().flat_map(|query| named(query)));
    let unused = ALL.iter().map(|metric| metric.name);
    let unused = unused.filter(|name| !used.contains(name));
    assert_eq!(Vec::from_iter(unused), UNUSED);
}

#[test]
fn alerts_and_dashboard_name_known_reasons() {
    let drops = DropReason::ALL.map(DropReason::as_str);
    let known = [&drops[..], &TIMEOUT_REASONS[..], &TICK_OUTCOMES[..]].concat();
    let expressions = alerts().into_iter().map(|it| field(it, "expr:").to_owned());
    let mut seen = 0;
    for expression in expressions.chain(queries()) {
        let labels = ["reason=", "outcome="].map(|label| expression.split(label).skip(1));
        for matcher in labels.into_iter().flatten() {
            let value = matcher.split('"').nth(1).unwrap();
            for reason in value.split('|') {
                assert!(known.contains(&reason), "{reason} in {expression}");
                seen += 1;
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn dashboard_panels_have_title_and_queries() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty(), "{panel}");
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        }
    }
}

#[test]
fn promtool_accepts_the_rules() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/prometheus-rules.yml");
    let output = Command::new("promtool")
        .args(["check", "rules", file])
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Not `eprintln!`, whose output is hidden if the test passes.
            let line = b"SKIPPED: the rules were not checked: there is no promtool here\n";
            std::io::stderr().write_all(line).unwrap();
        }
        Err(error) => panic!("promtool: {error}"),
    }
}
