//! `lockmesh chaos`. A run of some length is the gate's business; here is what must hold anywhere.

use crate::common::{lockmesh, stdout};

#[test]
fn a_plan_is_printed_without_being_played_and_repeats() {
    let plan = |seed: &str| {
        let output = lockmesh(&["chaos", "--plan", "--seed", seed])
            .output()
            .unwrap();
        assert!(output.status.success());
        stdout(&output)
    };
    assert!(plan("3").contains("kill -9 n"), "{}", plan("3"));
    assert_eq!(plan("3"), plan("3"));
    assert_ne!(plan("3"), plan("4"));
}

/// Whoever has no `ip` cannot run it, and is told so instead of being told that all is well.
#[test]
fn where_it_cannot_run_it_is_skipped_and_never_passed() {
    let output = lockmesh(&["chaos", "--json"])
        .env("PATH", "")
        .output()
        .unwrap();
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(
        said.contains("SKIPPED: it needs root") || said.contains("SKIPPED: ip "),
        "{said}"
    );
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["outcome"], "skipped");
}
