//! Scenario files that cannot be played: the command names the wrong line and a valid value, and
//! exits with 2.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOOD: &str = r#"story = "Two of five are cut off."
[cluster]
members = 5
voters_per_key = 5
span_ms = 4000
[timing]
round_trip_ms = 10
max_ttl_ms = 2000
max_clock_skew_ms = 500
reservation_ms = 100
holder_probe_interval_ms = 100
[network]
loss_percent = 2
delay_us_min = 1000
[workload]
clients = 3
hold_max_ms = 100
[[ask]]
at_ms = 100
hosts = [0]
ttl_ms = 2000
hold_ms = 50
[[fault]]
kind = "split"
at_ms = 500
for_ms = 1000
groups = [[0, 1, 2], [3, 4]]
[[fault]]
kind = "pause"
at_ms = 600
for_ms = 100
host = "holder"
[[fault]]
kind = "flap"
at_ms = 700
every_ms = 10
times = 3
hosts = [0, 1]
[[expect]]
what = "grants"
from_ms = 100
to_ms = 3000
min = 1
"#;

/// The text to replace in the good file, its replacement, the line of the error, and words of the
/// hint.
const BAD: [(&str, &str, usize, &str); 34] = [
    ("members = 5", "membres = 5", 3, "expected one of `members`"),
    (
        "members = 5",
        "members = \"five\"",
        3,
        "invalid type: string",
    ),
    ("members = 5", "members = 0", 3, "members must be 1 to 101"),
    ("members = 5", "members = 99999999999", 3, "1 to 101"),
    (
        "members = 5",
        "members = 99999999999999999999",
        3,
        "integer",
    ),
    (
        "members = 5",
        "members = 5\nmembers = 5",
        4,
        "duplicate key",
    ),
    (
        "voters_per_key = 5",
        "voters_per_key = 6",
        4,
        "1 to 5, the number of voters",
    ),
    (
        "voters_per_key = 5",
        "voters_per_key = 0",
        4,
        "1 to 5, the number of voters",
    ),
    ("span_ms = 4000", "span_ms = 0", 5, "1 to 3600000"),
    (
        "round_trip_ms = 10",
        "round_trip_ms = 999",
        8,
        "max_ttl_ms is 2000; it must be 9990",
    ),
    (
        "max_ttl_ms = 2000",
        "max_ttl_ms = 0",
        8,
        "max_ttl_ms is 0; it must be 100",
    ),
    (
        "max_clock_skew_ms = 500",
        "max_clock_skew_ms = 5000",
        9,
        "1 to 2000",
    ),
    (
        "reservation_ms = 100",
        "reservation_ms = 1",
        10,
        "reservation is 1ms; it must be",
    ),
    (
        "loss_percent = 2",
        "loss_percent = 2.0",
        13,
        "a whole number of per cent",
    ),
    ("loss_percent = 2", "loss_percent = 101", 13, "0 to 100"),
    (
        "delay_us_min = 1000",
        "delay_us_min = 4000",
        14,
        "not be above delay_us_max, 3000",
    ),
    (
        "delay_us_min = 1000",
        "jitter_us = 9223372036854775807",
        14,
        "0 to 10000000",
    ),
    (
        "clients = 3",
        "clients = 100000",
        16,
        "clients is 100000; it must be 0 to 1000",
    ),
    (
        "hold_max_ms = 100",
        "hold_max_ms = 9223372036854775807",
        17,
        "0 to 3600000",
    ),
    ("at_ms = 100\n", "at_ms = 4001\n", 19, "after span_ms"),
    ("hosts = [0]", "hosts = []", 20, "name those that ask"),
    (
        "\nttl_ms = 2000",
        "\nttl_ms = 0",
        21,
        "it must be 100ms to 2s",
    ),
    (
        "\"split\"",
        "\"spilt\"",
        24,
        "expected one of `split`, `one_way`",
    ),
    ("at_ms = 500", "at_ms = 4001", 25, "after span_ms"),
    (
        "for_ms = 1000",
        "for_ms = 0",
        26,
        "for_ms is 0; it must be 1 to 3600000",
    ),
    (
        "for_ms = 1000",
        "for_ms = 9223372036854775807",
        26,
        "1 to 3600000",
    ),
    ("[3, 4]", "[3, 9]", 23, "there is no host 9, the last is 4"),
    ("[3, 4]", "[2, 4]", 23, "host 2 is in two groups"),
    (
        "[[0, 1, 2], [3, 4]]",
        "[[0, 1, 2]]",
        27,
        "groups must be two at least",
    ),
    (
        "\"holder\"",
        "\"hodler\"",
        28,
        "a host's number, or \"holder\"",
    ),
    ("times = 3", "times = 0", 37, "1 to 10000"),
    (
        "hosts = [0, 1]",
        "hosts = [1, 1]",
        38,
        "a link has two ends",
    ),
    (
        "\"grants\"",
        "\"grunts\"",
        40,
        "expected one of `grants`, `denied`",
    ),
    ("to_ms = 3000", "to_ms = 50", 42, "no part of 0 to span_ms"),
];

fn play(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulations"))
        .arg("--scenario")
        .arg(file)
        .output()
        .expect("it was built with this test")
}

fn write(name: &str, text: &[u8]) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    std::fs::write(&file, text).expect("the directory is cargo's");
    file
}

/// Plays a file that must be refused. Returns the error output.
fn refusal(file: &Path) -> String {
    let output = play(file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
    assert!(
        output.stdout.is_empty() && !said.contains("panic"),
        "{said}"
    );
    said
}

#[test]
fn good_file_is_played() {
    let output = play(&write("good", GOOD.as_bytes()));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn invalid_values_are_errors_with_line_and_hint() {
    for (number, (from, to, line, hint)) in BAD.into_iter().enumerate() {
        assert!(GOOD.contains(from), "{from}");
        let file = write(
            &format!("bad-{number}"),
            GOOD.replacen(from, to, 1).as_bytes(),
        );
        let said = refusal(&file);
        let names_line = said.contains(&format!("line {line}:"))
            || said.contains(&format!("line {line}, column"));
        assert!(names_line && said.contains(hint), "{to}: {said}");
    }
}

#[test]
fn files_that_are_no_scenario_are_refused() {
    let said = refusal(&write("empty", b""));
    assert!(said.contains("missing field `story`"), "{said}");
    let said = refusal(&write("prose", b"story = \"x\"\nthis is not TOML\n"));
    assert!(said.contains("line 2"), "{said}");
    let said = refusal(&write("bytes", &[0xff, 0xfe, 0]));
    assert!(said.contains("UTF-8"), "{said}");
    let said = refusal(Path::new("no_such_scenario"));
    assert!(said.contains("scenarios: split_brain, "), "{said}");
}
