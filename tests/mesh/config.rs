//! Invalid settings: each error names the field, the value and the bounds.

use std::net::SocketAddr;
use std::time::Duration;

use lockmesh::{ConfigError, Mesh, MeshBuilder, Timing};
use lockmesh_proto::VoterLimits;

use crate::common::{PATIENCE, secret, until};

fn named(id: &str) -> MeshBuilder {
    MeshBuilder::single(id).secret(secret())
}

fn good() -> MeshBuilder {
    named("n0")
}

async fn refusal(builder: MeshBuilder) -> ConfigError {
    match builder.start().await {
        Err(error) => error,
        Ok(_) => panic!("a mesh started"),
    }
}

/// Asserts that each of the settings is refused with its text.
async fn are_refused<T: AsRef<str>>(cases: impl IntoIterator<Item = (MeshBuilder, T)>) {
    for (builder, expected) in cases {
        assert_eq!(refusal(builder).await.to_string(), expected.as_ref());
    }
}

#[tokio::test]
async fn invalid_names_and_voters_are_refused() {
    let three = || good().voters(["n0", "n1", "n2"]);
    let long_names = (0..1_024).map(|n| format!("{n:023}"));
    are_refused([
        (
            named(""),
            "node_id: node id is empty; it must have 1 to 64 bytes",
        ),
        (
            named(&"x".repeat(65)),
            "node_id: node id has 65 bytes; it must have 1 to 64",
        ),
        (
            named("a\nb"),
            "node_id: node id \"a\\nb\" has a control character in it",
        ),
        (
            good().voters(["n0", ""]),
            "voters: node id is empty; it must have 1 to 64 bytes",
        ),
        (good().voters(["n0", "n1", "n0"]), "voters names n0 twice"),
        (
            good().voters((0..1_025).map(|n| format!("n{n}"))),
            "voters has 1025 members; a voter set names 1 to 1024",
        ),
        (
            // Each gossip message contains the names of all voters.
            good().voters(long_names),
            "voters take 65579 bytes in each message of the gossip; at most 65350 fit: name fewer \
             voters, or give them shorter names",
        ),
        (
            three().voters_per_key(0),
            "voters_per_key is 0; it must be 1 to 3, the number of voters",
        ),
        (
            three().voters_per_key(4),
            "voters_per_key is 4; it must be 1 to 3, the number of voters",
        ),
    ])
    .await;
    named(&"x".repeat(64)).start().await.unwrap();
    let fits = Mesh::builder(format!("{:022}", 7)).secret(secret());
    let fits = fits.voters((0..1_024).map(|n| format!("{n:022}")));
    fits.listen("127.0.0.1:0").start().await.unwrap();
}

#[tokio::test]
async fn durations_and_counts_out_of_bounds_are_refused() {
    let (milli, second) = (Duration::from_millis(1), Duration::from_secs(1));
    let limits = VoterLimits {
        slots_max: 0,
        ..VoterLimits::default()
    };
    // The bounds of the other constants are tests of the rules.
    let timing = Timing {
        max_clock_skew: 61 * second,
        ..Timing::lan()
    };
    are_refused([
        (
            good().timing(timing),
            "max_clock_skew is 61s; it must be 1ms to 60s",
        ),
        (
            good().ttl(99 * milli),
            "ttl is 99ms; it must be 100ms to 60s",
        ),
        (
            good().ttl(60_001 * milli),
            "ttl is 60.001s; it must be 100ms to 60s",
        ),
        (
            good().renew_interval(6 * second),
            "renew_interval is 6s; it must be 10ms to 5s, half of ttl (10s)",
        ),
        (
            good().renew_interval(9 * milli),
            "renew_interval is 9ms; it must be 10ms to 5s, half of ttl (10s)",
        ),
        (
            good().try_timeout(Duration::ZERO),
            "try_timeout is 0ns; it must be 10ms to 3600s",
        ),
        (
            good().gossip_interval(61 * second),
            "gossip_interval is 61s; it must be 10ms to 60s",
        ),
        (
            good().max_claims(0),
            "max_claims is 0; it must be 1 to 1048576",
        ),
        (
            good().limits(limits),
            "limits.slots_max is 0; it must be 1 to 16777216",
        ),
        (
            good().cluster(""),
            "cluster (bytes) is 0; it must be 1 to 128",
        ),
        (
            good().cluster("c".repeat(129)),
            "cluster (bytes) is 129; it must be 1 to 128",
        ),
    ])
    .await;
}

#[tokio::test]
async fn invalid_addresses_are_refused() {
    are_refused([(
        good().listen("localhost"),
        "listen: \"localhost\" is not an address; it must be IP:PORT",
    )])
    .await;
    let unreachable = ["10.0.0.1", "0.0.0.0:4711", "[::]:4711", "127.0.0.1:0"];
    are_refused(unreachable.map(|nowhere| {
        let must_be = "it must be a HOST:PORT at which peers reach this node";
        let expected = format!("advertise is {nowhere}; {must_be}");
        (good().advertise(nowhere), expected)
    }))
    .await;
    are_refused(["127.0.0.1", "localhost:port", "", ":1"].map(|seed| {
        let expected = format!("seeds: {seed:?} is no address: it must be HOST:PORT");
        (good().seeds(["127.0.0.1:9", seed]), expected)
    }))
    .await;
    let unknown = good().advertise("nowhere.invalid:4711");
    let error = refusal(unknown).await;
    assert!(matches!(error, ConfigError::AdvertiseUnresolved { .. }));
    for seed in ["localhost:9", "no-such-host.invalid:1"] {
        let known = good().advertise("localhost:4711").seeds([seed]);
        known.start().await.unwrap();
    }
}

#[tokio::test]
async fn listen_address_in_use_is_refused() {
    let first = good().start().await.unwrap();
    let taken = first.local_addr();
    let error = refusal(good().listen(taken.to_string())).await;
    let text = error.to_string();
    let begin = format!("listen: {taken} cannot be bound:");
    assert!(text.starts_with(&begin), "{text}");
    let ConfigError::Bind { listen, error } = error else {
        panic!("{text}")
    };
    assert_eq!(listen, taken);
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn wildcard_listen_address_advertises_its_route() {
    for listen in ["0.0.0.0:0", "127.0.0.1:0"] {
        let (seed, name) = (good().start().await.unwrap(), "n1");
        let node = Mesh::builder(name).secret(secret()).listen(listen);
        let node = node.seeds([seed.local_addr().to_string()]).voters(["n0"]);
        let node = node.start().await.unwrap();
        let advertised = || {
            let others = seed.status().others;
            others
                .iter()
                .find(|other| other.node.as_str() == name)
                .map(|other| other.addr)
        };
        until("it is seen", || advertised().is_some()).await;
        let loopback = SocketAddr::from(([127, 0, 0, 1], node.local_addr().port()));
        assert_eq!(advertised(), Some(loopback));
    }
}

#[tokio::test]
async fn missing_or_invalid_secret_is_refused() {
    let text = |secret: &str| MeshBuilder::single("n0").secret_text(secret);
    are_refused([
        (
            text("not base64!"),
            "secret: the cluster secret is neither base64 nor 64 hex digits",
        ),
        (
            text("c2hvcnQ="),
            "secret: the cluster secret has 5 bytes; it must have 32",
        ),
        (
            text(&"0".repeat(64)),
            "secret: the cluster secret is all zeros; draw 32 random bytes",
        ),
    ])
    .await;
    let error = refusal(MeshBuilder::single("n0")).await.to_string();
    let begin = "secret: the mesh has no cluster secret";
    assert!(error.starts_with(begin), "{error}");
    assert!(error.contains("insecure_plaintext()"), "{error}");
    let given = text(&secret().to_base64());
    let debug = format!("{given:?}");
    assert!(!debug.contains(&secret().to_base64()), "{debug}");
    let plaintext = MeshBuilder::single("n0").insecure_plaintext();
    for builder in [given, plaintext] {
        builder.start().await.unwrap();
    }
}

#[tokio::test]
async fn missing_or_short_lived_voters_are_refused() {
    let node = || Mesh::builder("n0").secret(secret());
    let error = refusal(node()).await;
    assert!(matches!(error, ConfigError::NoVoters), "{error}");
    let error = refusal(node().voters(["n0"]).short_lived(true)).await;
    assert!(matches!(error, ConfigError::ShortLivedVoter), "{error}");
}

/// Set when the test below runs itself again in a child process.
const SECRET_VARIABLE: &str = "LOCKMESH_TEST_KEY_OF_A_CHILD";

#[tokio::test]
async fn secret_is_read_from_an_environment_variable() {
    let from_env = |name: &str| MeshBuilder::single("n0").secret_from_env(name);
    if std::env::var_os(SECRET_VARIABLE).is_some() {
        from_env(SECRET_VARIABLE).start().await.unwrap();
        return;
    }
    let expected =
        format!("secret: the environment variable {SECRET_VARIABLE} is not set, or is not Unicode");
    are_refused([(from_env(SECRET_VARIABLE), expected)]).await;
    // All tests of this process share its environment, so the rest runs in a child process.
    let name = "config::secret_is_read_from_an_environment_variable";
    let child = |secret: &str| {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", name]).env(SECRET_VARIABLE, secret);
        test.output().unwrap()
    };
    let output = child(&secret().to_base64());
    assert!(output.status.success(), "{output:?}");
    assert!(!child("not base64!").status.success());
}

#[test]
fn start_outside_a_runtime_is_an_error() {
    let start = std::pin::pin!(good().start());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(started) = start.poll(&mut context) else {
        panic!("it waits for something")
    };
    assert!(matches!(started, Err(ConfigError::NoRuntime)));
    let text = started.unwrap_err().to_string();
    assert_eq!(text, "a mesh must be started within a tokio runtime");
}

#[test]
fn start_on_runtime_without_io_or_timers_panics() {
    for (io, timers) in [(true, false), (false, true), (false, false)] {
        let start = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            if io {
                runtime.enable_io();
            }
            if timers {
                runtime.enable_time();
            }
            runtime.build().unwrap().block_on(good().start()).map(drop)
        });
        assert!(start.join().is_err(), "io {io}, timers {timers}");
    }
}

#[tokio::test]
async fn refused_mesh_leaves_its_address_free() {
    let first = good().start().await.unwrap();
    let addr = first.local_addr().to_string();
    first.shutdown().await;
    drop(first);
    let bad_seed = good().listen(addr.clone()).seeds(["no-port"]);
    assert!(matches!(refusal(bad_seed).await, ConfigError::Seed { .. }));
    good().listen(addr).start().await.unwrap();
}

#[tokio::test]
async fn presets_start_unchanged() {
    for builder in [
        MeshBuilder::lan("n0").voters(["n0"]).listen("127.0.0.1:0"),
        MeshBuilder::wan("n0").voters(["n0"]).listen("127.0.0.1:0"),
    ] {
        builder.secret(secret()).start().await.unwrap();
    }
    let mesh = good().start().await.unwrap();
    mesh.ready(PATIENCE).await.unwrap();
    let guard = mesh.lock("k").try_acquire().await.unwrap().unwrap();
    assert!(guard.is_held());
}
