//! `bench`. No test checks the measured values.

use serde_json::Value;

use crate::common::{bench, stderr, stdout};

#[test]
fn bench_prints_figures_in_json_on_last_line() {
    let args = ["--seconds", "0.2", "--tasks", "4", "--json"];
    let only = ["--only", "w1,w1-five,w1-link,w2,w3,w5"];
    let output = bench(&args).args(only).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let figures = [
        "acquire_ratio",
        "acquire5_ratio",
        "link_ratio",
        "link5_ratio",
        "cycles_ratio",
        "handoff_ratio",
        "jain",
        "cpu_ratio",
        "acquire_p50_us",
        "acquire_p99_us",
        "floor_p50_us",
        "cycles_per_s",
        "handoffs_per_s",
        "floor_rounds_per_s",
    ];
    for figure in figures {
        assert!(last[figure].as_f64().unwrap() > 0.0, "{figure}: {told}");
    }
}

#[test]
fn bench_w4_reports_crashes_and_omits_other_figures() {
    let args = ["--only", "w4", "--json"];
    let output = bench(&args).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    for figure in ["takeover_ms", "return_ms"] {
        assert!(last[figure].is_f64(), "{figure}: {told}");
    }
    for figure in ["acquire_ratio", "cycles_ratio", "jain", "lock_bytes"] {
        assert!(last.get(figure).is_none(), "{figure}: {told}");
    }
}

#[test]
fn bench_keep_measures_each_kind_of_memory() {
    let args = ["--seconds", "0.2", "--tasks", "4", "--json"];
    let keep = ["--only", "w1", "--keep", "memory,process,machine"];
    let output = bench(&args).args(keep).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let columns = last["compare"].as_array().unwrap();
    assert_eq!(columns.len(), 3, "{told}");
    for column in columns {
        assert!(column["acquire_p50_us"].as_f64().unwrap() > 0.0, "{told}");
        let has_synced = column["name"] == "with Machine";
        assert_eq!(column["fdatasync_p50_us"].is_f64(), has_synced, "{told}");
    }
}

#[test]
fn bench_kinds_reports_cost_of_each_kind() {
    let args = ["--seconds", "0.2", "--json", "--only", "kinds"];
    let output = bench(&args).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let kinds = last["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), 9, "{told}");
    for kind in kinds {
        assert!(kind["datagrams_out"].as_f64().unwrap() >= 2.0, "{told}");
    }
}

#[test]
fn bench_rejects_arguments_that_measure_nothing() {
    for args in [["--tasks", "0"], ["--seconds", "0"], ["--only", "nothing"]] {
        let output = bench(&[]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(args[0]), "{}", stderr(&output));
    }
}

#[cfg(not(feature = "compare"))]
#[test]
fn compare_without_feature_names_the_feature() {
    let output = bench(&["--compare", "redis"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("--features compare"), "{said}");
}
