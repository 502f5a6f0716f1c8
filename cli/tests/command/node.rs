//! `lockmesh node`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::{lockmesh, stderr};

const EXAMPLE: &str = include_str!("../../node.example.toml");
const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// Writes a file with this content, in a directory of the test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("node.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Returns the error output of a node that refuses this configuration.
fn refusal(name: &str, text: &str) -> String {
    let path = file(name, text);
    let output = lockmesh(&["node", "--config"]).arg(&path).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    said
}

/// Starts a node, and waits until it logs that it is ready.
fn ready(command: &mut Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(" ready node=") {
        assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
    }
    (child, log)
}

#[cfg(unix)]
fn stops_on(signal: &str, mut child: Child, mut log: BufReader<std::process::ChildStderr>) {
    let kill = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    while log.read_line(&mut rest).unwrap() > 0 {}
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("mesh shut down"), "{rest}");
}

#[cfg(unix)]
#[test]
fn node_runs_until_signal_and_exits_with_zero() {
    for signal in ["-TERM", "-INT"] {
        let text = "node_id = \"n1\"\npreset = \"single\"\ninsecure_plaintext = true\n";
        let path = file(&format!("signal{signal}"), text);
        let (child, log) = ready(lockmesh(&["node", "--config"]).arg(path));
        stops_on(signal, child, log);
    }
}

/// Starts the example, except for its port, which may be taken, and its peers, which do not exist.
#[cfg(unix)]
#[test]
fn example_configuration_starts() {
    let text = EXAMPLE
        .replace("127.0.0.1:7401\"\n", "127.0.0.1:0\"\n")
        .replace("[\"n1\", \"n2\", \"n3\"]", "[\"n1\"]")
        .replace("# bootstrap = false", "bootstrap = true");
    let path = file("example", &text);
    let (child, log) = ready(
        lockmesh(&["node", "--config"])
            .arg(path)
            .env("LOCKMESH_SECRET", KEY),
    );
    stops_on("-TERM", child, log);
}

/// Every setting that the example shows in a comment is valid.
#[cfg(unix)]
#[test]
fn commented_settings_of_example_are_valid() {
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting,
            _ => line,
        })
        .collect();
    let text = uncommented
        .join("\n")
        .replace("127.0.0.1:7401\"\n", "127.0.0.1:0\"\n")
        .replace(
            "advertise = \"192.0.2.1:7401\"",
            "advertise = \"127.0.0.1:7401\"",
        )
        .replace("[\"n1\", \"n2\", \"n3\"]", "[\"n1\"]")
        .replace("voters_per_key = 3", "voters_per_key = 1")
        .replace("bootstrap = false", "bootstrap = true")
        .replace("secret_env = \"LOCKMESH_SECRET\"", "")
        .replace("secret = \"...\"", "")
        .replace("insecure_plaintext = true", "");
    let path = file("uncommented", &text);
    fs::write(path.with_file_name("cluster.secret"), format!("{KEY}\n")).unwrap();
    let (child, log) = ready(lockmesh(&["node", "--config"]).arg(path));
    stops_on("-TERM", child, log);
}

fn is_setting(text: &str) -> bool {
    let name = text.split(" = ").next().unwrap_or_default();
    text.contains(" = ") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn out_of_range_value_is_refused_with_line() {
    let text = "node_id = \"n1\"\ninsecure_plaintext = true\n\nttl_ms = 5\n";
    let said = refusal("ttl", text);
    assert!(
        said.contains("node.toml:4: ttl is 5ms; it must be 100ms to 60s"),
        "{said}"
    );

    let text = "node_id = \"n1\"\ninsecure_plaintext = true\n[timing]\nreservation_ms = 1\n";
    let said = refusal("reservation", text);
    assert!(
        said.contains("node.toml:4: reservation is 1ms; it must be 26.25ms to 60s"),
        "{said}"
    );

    let text = "node_id = \"n1\"\ninsecure_plaintext = true\nrenew_interval_ms = 9000\n";
    let said = refusal("renewal", text);
    assert!(
        said.contains("node.toml:3: renew_interval is 9s; it must be 10ms to 5s"),
        "{said}"
    );

    let text = "node_id = \"n1\"\nvoters = [\"n1\", \"n1\"]\ninsecure_plaintext = true\n";
    let said = refusal("voters", text);
    assert!(
        said.contains("node.toml:2: voters names n1 twice"),
        "{said}"
    );
}

#[test]
fn invalid_configuration_file_is_refused_with_its_line() {
    let said = refusal("unknown", "node_id = \"n1\"\nlisten_on = \"127.0.0.1:0\"\n");
    assert!(
        said.contains("node.toml:2: unknown field `listen_on`"),
        "{said}"
    );
    let said = refusal("type", "node_id = \"n1\"\nvoters_per_key = \"three\"\n");
    assert!(
        said.contains("node.toml:2: invalid type: string \"three\""),
        "{said}"
    );
    let said = refusal("missing", "insecure_plaintext = true\n");
    assert!(said.contains("missing field `node_id`"), "{said}");
    let said = refusal("preset", "node_id = \"n1\"\npreset = \"moon\"\n");
    assert!(
        said.contains("node.toml:2: unknown variant `moon`"),
        "{said}"
    );

    let output = lockmesh(&["node", "--config", "/no/such/file"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/no/such/file: cannot be read"));
}

#[test]
fn secret_has_one_source_and_is_never_shown() {
    let said = refusal("no-key", "node_id = \"n1\"\n");
    assert!(
        said.contains("exactly one of secret, secret_env, secret_file"),
        "{said}"
    );
    let text = format!("node_id = \"n1\"\nsecret = \"{KEY}\"\ninsecure_plaintext = true\n");
    let said = refusal("two-keys", &text);
    assert!(
        said.contains("node.toml:2: secret: there must be exactly one"),
        "{said}"
    );
    let said = refusal(
        "unset",
        "node_id = \"n1\"\nsecret_env = \"LOCKMESH_SECRET\"\n",
    );
    assert!(
        said.contains("node.toml:2: secret: the environment variable LOCKMESH_SECRET"),
        "{said}"
    );
    let said = refusal("bad-key", "node_id = \"n1\"\nsecret = \"c2VjcmV0\"\n");
    assert!(said.contains("node.toml:2: secret: "), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
    let said = refusal(
        "no-file",
        "node_id = \"n1\"\nsecret_file = \"nothing.here\"\n",
    );
    assert!(said.contains("node.toml:2: secret_file: "), "{said}");
}
