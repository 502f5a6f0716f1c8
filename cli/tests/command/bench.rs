//! `lockmesh bench`. What it measures is no test's business.

use serde_json::Value;

use crate::common::{lockmesh, stderr, stdout};

#[test]
fn a_measurement_prints_its_figures_in_json_on_its_last_line() {
    let args = ["bench", "--seconds", "0.2", "--tasks", "4", "--json"];
    let output = lockmesh(&args).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let figures = [
        "acquire_ratio",
        "acquire5_ratio",
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
fn a_measurement_of_nothing_is_refused() {
    for args in [
        ["--nodes", "2"],
        ["--tasks", "0"],
        ["--keys", "0"],
        ["--seconds", "0"],
        ["--only", "nothing"],
    ] {
        let output = lockmesh(&["bench"]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(args[0]), "{}", stderr(&output));
    }
}
