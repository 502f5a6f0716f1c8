//! `chaos`. Long runs are part of the gate; these tests run on any machine.

use crate::common::{chaos, stdout};

#[test]
fn plan_is_printed_without_running_and_repeats() {
    let plan = |seed: &str| {
        let output = chaos(&["--plan", "--seed", seed]).output().unwrap();
        assert!(output.status.success());
        stdout(&output)
    };
    assert!(plan("3").contains("Kill { node: "), "{}", plan("3"));
    assert_eq!(plan("3"), plan("3"));
    assert_ne!(plan("3"), plan("4"));
}

/// Without `ip` chaos cannot run. It must report a skip, not success.
#[test]
fn chaos_that_cannot_run_is_skipped_not_passed() {
    let output = chaos(&["--json"]).env("PATH", "").output().unwrap();
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(
        said.contains("SKIPPED: it needs root") || said.contains("SKIPPED: ip "),
        "{said}"
    );
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["outcome"], "skipped");
}
