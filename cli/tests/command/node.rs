//! `lockmesh node`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, SystemTime};

use lockmesh::{Clock, MeshConfig};

use crate::common::{lockmesh, state_home, stderr};

const EXAMPLE: &str = include_str!("../../node.example.toml");
const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// Writes a file with this content, in a directory of the test's own.
pub(crate) fn file(name: &str, text: &str) -> PathBuf {
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

/// The log of a process.
pub(crate) struct Log(BufReader<ChildStderr>);

impl Log {
    /// Returns what the process logs up to the line with `what`.
    pub(crate) fn until(&mut self, what: &str) -> String {
        let mut said = String::new();
        while !said.contains(what) {
            assert!(self.0.read_line(&mut said).unwrap() > 0, "{said}");
        }
        said
    }
}

/// Starts a node, and waits until it logs that it is ready.
fn ready(command: &mut Command) -> (Child, Log) {
    let (child, log, _) = says(" ready node=", command);
    (child, log)
}

/// Starts a node, and waits until it logs `what`. Returns what it has logged until then.
pub(crate) fn says(what: &str, command: &mut Command) -> (Child, Log, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = Log(BufReader::new(child.stderr.take().unwrap()));
    let said = log.until(what);
    (child, log, said)
}

#[cfg(unix)]
pub(crate) fn stops_on(signal: &str, mut child: Child, mut log: Log) {
    let kill = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    log.0.read_to_string(&mut rest).unwrap();
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

/// Returns the example with its commented settings.
fn uncommented() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if is_setting(setting) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(unix)]
#[test]
fn commented_settings_of_example_are_valid() {
    let text = uncommented()
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
        .replace("insecure_plaintext = true", "")
        .replace("/var/lib/lockmesh/n1", "journal");
    let path = file("uncommented", &text);
    fs::write(path.with_file_name("cluster.secret"), format!("{KEY}\n")).unwrap();
    let (child, log) = ready(lockmesh(&["node", "--config"]).arg(path));
    stops_on("-TERM", child, log);
}

/// A clock whose `Debug` is always the same.
#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

#[test]
fn commented_settings_of_example_are_the_defaults() {
    let parsed = |text: &str| -> MeshConfig {
        let mut table: toml::Table = toml::from_str(text).unwrap();
        for source in ["secret", "secret_env", "secret_file"] {
            table.remove(source);
        }
        table.insert("insecure_plaintext".to_owned(), true.into());
        table.try_into().unwrap()
    };
    let built = |config: MeshConfig| {
        let builder = config.into_builder().unwrap().clock(NoClock);
        format!("{builder:#?}")
    };
    let (defaults, mut shown) = (parsed(EXAMPLE), parsed(&uncommented()));
    // These depend on other settings, on the network or on the command.
    let third = shown.ttl.unwrap() / 3;
    let renew_interval = shown.renew_interval.take().unwrap();
    assert_eq!(renew_interval.as_millis(), third.as_millis());
    let voters = shown.voters.as_ref().unwrap().len();
    assert_eq!(shown.voters_per_key.take(), Some(voters));
    assert!(shown.advertise.take().is_some());
    assert!(shown.data_dir.take().is_some());
    assert_eq!(built(shown), built(defaults));
}

#[test]
fn example_shows_every_setting() {
    let text = uncommented();
    for table in ["", "[limits]\n", "[timing]\n"] {
        // The error lists all fields of the table.
        let error = toml::from_str::<MeshConfig>(&format!("{table}no_field = 1\n")).unwrap_err();
        let (_, fields) = error.message().split_once("expected one of ").unwrap();
        for field in fields.split(", ").map(|field| field.trim_matches('`')) {
            let is_shown = text.contains(&format!("\n{field} = "));
            assert!(
                is_shown || text.contains(&format!("\n[{field}]\n")),
                "{field}"
            );
        }
    }
}

fn is_setting(text: &str) -> bool {
    let name = text.split(" = ").next().unwrap_or_default();
    text.contains(" = ") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn out_of_range_value_is_refused_with_line() {
    let text = "node_id = \"n1\"\ninsecure_plaintext = true\nvoters = [\"n1\"]\nttl = \"5ms\"\n";
    let said = refusal("ttl", text);
    assert!(
        said.contains("node.toml:4: ttl is 5ms; it must be 100ms to 60s"),
        "{said}"
    );

    let text = "node_id = \"n1\"\ninsecure_plaintext = true\nvoters = [\"n1\"]\n[timing]\nreservation = \"1ms\"\n";
    let said = refusal("reservation", text);
    assert!(
        said.contains("node.toml:5: reservation is 1ms; it must be 26.25ms to 60s"),
        "{said}"
    );

    let text =
        "node_id = \"n1\"\ninsecure_plaintext = true\nvoters = [\"n1\"]\nrenew_interval = \"9s\"\n";
    let said = refusal("renewal", text);
    assert!(
        said.contains("node.toml:4: renew_interval is 9s; it must be 10ms to 5s"),
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
    assert!(said.contains("node_id: there is none"), "{said}");
    let said = refusal("no-unit", "node_id = \"n1\"\nttl = \"10\"\n");
    assert!(
        said.contains("node.toml:2: invalid value: string \"10\", expected a duration such as 10s"),
        "{said}"
    );
    let said = refusal(
        "in-table",
        "node_id = \"n1\"\n[timing]\n\nmax_ttl_ms = 10\n",
    );
    assert!(
        said.contains("node.toml:4: unknown field `max_ttl_ms`"),
        "{said}"
    );
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

#[test]
fn unknown_variable_is_refused_with_its_line() {
    let text = "insecure_plaintext = true\nnode_id = \"${LOCKMESH_TEST_NO_SUCH}\"\n";
    let said = refusal("no-variable", text);
    assert!(
        said.contains(
            "node.toml:2: node_id: the environment variable LOCKMESH_TEST_NO_SUCH is not set"
        ),
        "{said}"
    );
}

#[cfg(unix)]
#[test]
fn options_replace_environment_and_environment_replaces_file() {
    let text = "node_id = \"${POD_NAME}\"\nvoters = [\"billing-1\"]\nlisten = \"nowhere\"\n\
                secret_file = \"no.such.file\"\nttl = \"1s\"\n";
    let path = file("overlay", text);
    let mut command = lockmesh(&["node", "--listen", "127.0.0.1:0", "--bootstrap", "--config"]);
    command.arg(&path).env("POD_NAME", "billing-0");
    command.env("LOCKMESH_NODE_ID", "billing-1");
    command.env("LOCKMESH_LISTEN", "nowhere-else");
    command.env("LOCKMESH_SECRET", KEY);
    let (child, log) = ready(&mut command);
    stops_on("-TERM", child, log);

    let refused = |command: &mut Command, what: &str| {
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what), "{said}");
    };
    command.env("LOCKMESH_TTL", "5ms");
    refused(
        &mut command,
        "lockmesh: LOCKMESH_TTL: ttl is 5ms; it must be",
    );
    command.env("LOCKMESH_TTL", "5");
    refused(
        &mut command,
        "lockmesh: LOCKMESH_TTL is \"5\"; it must be a duration",
    );
    let mut command = lockmesh(&["node", "--listen", "here", "--config"]);
    command
        .arg(&path)
        .env("POD_NAME", "billing-0")
        .env("LOCKMESH_SECRET", KEY);
    refused(
        &mut command,
        "lockmesh: --listen: listen: \"here\" is not an address",
    );
}

#[cfg(unix)]
#[test]
fn node_runs_from_the_environment_alone() {
    let mut command = lockmesh(&["node"]);
    command.env("LOCKMESH_NODE_ID", "n1");
    command.env("LOCKMESH_PRESET", "single");
    command.env("LOCKMESH_INSECURE_PLAINTEXT", "true");
    let (child, log) = ready(&mut command);
    stops_on("-TERM", child, log);
}

/// A configuration of one voter, with these other settings.
#[cfg(unix)]
fn voter(name: &str, settings: &str) -> PathBuf {
    let text = "node_id = \"a/1\"\npreset = \"single\"\ninsecure_plaintext = true\n";
    file(name, &format!("{text}{settings}"))
}

/// Starts a node, stops it when it is ready, and returns its log.
#[cfg(unix)]
fn log_of(command: &mut Command) -> String {
    let (child, log, said) = says(" ready node=", command);
    stops_on("-TERM", child, log);
    said
}

#[cfg(unix)]
#[test]
fn voter_resumes_from_its_default_directory() {
    let path = voter("default-dir", "");
    let start = || log_of(lockmesh(&["node", "--config"]).arg(&path));
    let journal = state_home().join("lockmesh/a%2f1/journal");
    let said = start();
    let dir = journal.parent().unwrap().display();
    assert!(
        said.contains(&format!("journal begun node=a/1 dir={dir}")),
        "{said}"
    );
    assert!(journal.exists());
    let said = start();
    assert!(said.contains("voter resumed from its journal"), "{said}");
}

#[cfg(unix)]
#[test]
fn directory_in_use_is_an_error() {
    let path = voter("default-in-use", "");
    let command = || {
        let mut command = lockmesh(&["node", "--config"]);
        command.arg(&path);
        command
    };
    let (child, log) = ready(&mut command());
    let pid = child.id();
    let dir = state_home().join("lockmesh/a%2f1");
    let mut asked = command();
    asked.arg("--data-dir").arg(&dir);
    for mut command in [command(), asked] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let expected = format!("data_dir: {}: process {pid} uses it", dir.display());
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
    stops_on("-TERM", child, log);
}

#[test]
fn default_directory_that_cannot_be_made_is_a_warning() {
    let path = voter("default-no-dir", "");
    let mut command = lockmesh(&["node", "--config"]);
    let said = log_of(command.arg(&path).env("XDG_STATE_HOME", &path));
    assert!(said.contains(" WARN "), "{said}");
    assert!(said.contains("no journal is kept"), "{said}");
    assert!(said.contains("--data-dir DIR"), "{said}");
}

#[cfg(unix)]
#[test]
fn directory_is_that_of_the_strongest_source() {
    let path = voter("dir-sources", "data_dir = \"of-file\"\n");
    let command = || {
        let mut command = lockmesh(&["node", "--config"]);
        command.arg(&path);
        command
    };
    let begun = |command: &mut Command| {
        let said = log_of(command);
        let (_, rest) = said.split_once("dir=")?;
        rest.lines().next().map(PathBuf::from)
    };
    let _ = fs::remove_dir_all(path.with_file_name("of-file"));
    assert_eq!(begun(&mut command()), Some(path.with_file_name("of-file")));
    let of = |name: &str| state_home().join(name);
    let mut with_env = command();
    with_env.env("LOCKMESH_DATA_DIR", of("env"));
    assert_eq!(begun(&mut with_env), Some(of("env")));
    assert_eq!(
        begun(with_env.arg("--data-dir").arg(of("option"))),
        Some(of("option"))
    );
    assert_eq!(begun(command().args(["--data-dir", ""])), None);
    assert!(!of("lockmesh").exists());
}

#[cfg(unix)]
#[test]
fn client_creates_no_directory() {
    let text = "node_id = \"c\"\nvoters = [\"n1\"]\nlisten = \"127.0.0.1:0\"\n\
                insecure_plaintext = true\n";
    let path = file("client-dir", text);
    let mut command = lockmesh(&["node", "--config"]);
    let (child, log, said) = says("mesh started", command.arg(path));
    stops_on("-TERM", child, log);
    assert!(!said.contains("dir=") && !said.contains("WARN"), "{said}");
    assert!(!state_home().exists());
}
