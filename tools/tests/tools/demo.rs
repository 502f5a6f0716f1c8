//! The demo.

use serde_json::Value;

use crate::common::{demo, stderr, stdout};

#[test]
fn demo_succeeds_and_prints_json_on_last_line() {
    let output = demo(&["--json"]).output().unwrap();
    let told = stdout(&output);
    assert!(output.status.success(), "{told}\n{}", stderr(&output));
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["nodes"], 5);
    for none in ["minority_grants", "overlaps", "epoch_regressions"] {
        assert_eq!(last[none], 0, "{told}");
    }
    assert!(last["grants"].as_u64().unwrap() > 0);
    assert!(last["takeover_ms"].as_f64().unwrap() > 0.0);
}
