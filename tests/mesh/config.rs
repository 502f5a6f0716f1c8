//! Invalid settings: each error names the field, the value and the bounds.

use std::net::SocketAddr;
use std::time::Duration;

use lockmesh::{ClusterSecret, ConfigError, Mesh, MeshBuilder, Timing};
use lockmesh_proto::VoterLimits;

use crate::common::{PATIENCE, key, until};

fn good() -> MeshBuilder {
    MeshBuilder::single("n0").secret(key())
}

async fn refusal(builder: MeshBuilder) -> ConfigError {
    match builder.start().await {
        Err(error) => error,
        Ok(_) => panic!("a mesh started"),
    }
}

/// Returns the text of the error with which the settings are refused.
async fn words(builder: MeshBuilder) -> String {
    refusal(builder).await.to_string()
}

#[tokio::test]
async fn node_id_must_have_1_to_64_bytes() {
    let named = |id: &str| MeshBuilder::single(id).secret(key());
    assert_eq!(
        words(named("")).await,
        "node_id: node id is empty; it must have 1 to 64 bytes"
    );
    assert_eq!(
        words(named(&"x".repeat(65))).await,
        "node_id: node id has 65 bytes; it must have 1 to 64"
    );
    assert_eq!(
        words(named("a\nb")).await,
        "node_id: node id \"a\\nb\" has a control character in it"
    );
    named(&"x".repeat(64)).start().await.unwrap();
}

#[tokio::test]
async fn invalid_or_duplicate_voter_names_are_refused() {
    assert_eq!(
        words(good().voters(["n0", ""])).await,
        "voters: node id is empty; it must have 1 to 64 bytes"
    );
    assert_eq!(
        words(good().voters(["n0", "n1", "n0"])).await,
        "voters names n0 twice"
    );
    let many = (0..1_025).map(|n| format!("n{n}"));
    assert_eq!(
        words(good().voters(many)).await,
        "voters has 1025 members; a voter set names 1 to 1024"
    );
}

/// Each gossip message contains the names of all voters.
#[tokio::test]
async fn voter_names_beyond_gossip_capacity_are_refused() {
    let voters = |bytes: usize| (0..1_024).map(move |n| format!("{n:0bytes$}"));
    assert_eq!(
        words(good().voters(voters(23))).await,
        "voters take 65579 bytes in each message of the gossip; at most 65350 fit: name fewer \
         voters, or give them shorter names"
    );
    let me = format!("{:022}", 7);
    let fits = Mesh::builder(me).secret(key()).voters(voters(22));
    fits.start().await.unwrap();
}

#[tokio::test]
async fn voters_per_key_out_of_bounds_is_refused() {
    let three = || good().voters(["n0", "n1", "n2"]);
    assert_eq!(
        words(three().voters_per_key(0)).await,
        "voters_per_key is 0; it must be 1 to 3, the number of voters"
    );
    assert_eq!(
        words(three().voters_per_key(4)).await,
        "voters_per_key is 4; it must be 1 to 3, the number of voters"
    );
}

#[tokio::test]
async fn ttl_out_of_bounds_is_refused() {
    assert_eq!(
        words(good().ttl(Duration::from_millis(99))).await,
        "ttl is 99ms; it must be 100ms to 60s"
    );
    assert_eq!(
        words(good().ttl(Duration::from_millis(60_001))).await,
        "ttl is 60.001s; it must be 100ms to 60s"
    );
}

#[tokio::test]
async fn renew_interval_out_of_bounds_is_refused() {
    let error = refusal(good().renew_interval(Duration::from_secs(6))).await;
    assert!(matches!(error, ConfigError::Renewal { .. }));
    assert_eq!(
        error.to_string(),
        "renew_interval is 6s; it must be 10ms to 5s, half of ttl (10s)"
    );
    assert!(matches!(
        refusal(good().renew_interval(Duration::from_millis(9))).await,
        ConfigError::Renewal { .. }
    ));
}

#[tokio::test]
async fn durations_and_counts_out_of_bounds_are_refused() {
    let second = Duration::from_secs(1);
    let limits = VoterLimits {
        slots_max: 0,
        ..VoterLimits::default()
    };
    let cases = [
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
    ];
    for (builder, expected) in cases {
        let error = refusal(builder).await;
        assert!(matches!(error, ConfigError::OutOfBounds { .. }));
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn timing_out_of_bounds_is_refused() {
    let lan = Timing::lan();
    let cases = [
        (
            Timing {
                max_clock_skew: Duration::from_secs(61),
                ..lan
            },
            "max_clock_skew is 61s; it must be 1ms to 60s",
        ),
        (
            Timing {
                round_trip: Duration::from_secs(7),
                ..lan
            },
            "round_trip is 7s; it must be 1µs to 6s",
        ),
        (
            Timing {
                max_ttl: Duration::from_secs(86_401),
                ..lan
            },
            "max_ttl is 86401s; it must be 1ms to 86400s",
        ),
        (
            Timing {
                reservation: Duration::ZERO,
                ..lan
            },
            "reservation is 0ns; it must be 26.25ms to 60s",
        ),
        (
            Timing {
                max_drift_ppm: 200_001,
                ..lan
            },
            "max_drift_ppm is 200001; it must be 0 to 200000",
        ),
    ];
    for (timing, expected) in cases {
        let error = refusal(good().timing(timing)).await;
        assert!(matches!(error, ConfigError::VoterSet(_)));
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn listen_address_in_use_is_refused() {
    let first = good().start().await.unwrap();
    let taken = first.local_addr();
    let error = refusal(good().listen(taken.to_string())).await;
    let ConfigError::Bind {
        listen,
        error: cause,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*listen, taken);
    assert_eq!(cause.kind(), std::io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("listen: {taken} cannot be bound:")),
        "{text}"
    );
}

#[tokio::test]
async fn address_without_ip_or_port_is_refused() {
    assert_eq!(
        words(good().listen("localhost")).await,
        "listen: \"localhost\" is not an address; it must be IP:PORT"
    );
    assert_eq!(
        words(good().advertise("10.0.0.1")).await,
        "advertise is 10.0.0.1; it must be a HOST:PORT at which peers reach this node"
    );
}

#[tokio::test]
async fn wildcard_listen_address_advertises_its_route() {
    for listen in ["0.0.0.0:0", "127.0.0.1:0"] {
        let (seed, name) = (good().start().await.unwrap(), "n1");
        let node = Mesh::builder(name).secret(key()).listen(listen);
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
async fn advertised_name_is_resolved() {
    good().advertise("localhost:4711").start().await.unwrap();
    let error = refusal(good().advertise("nowhere.invalid:4711")).await;
    assert!(
        matches!(error, ConfigError::AdvertiseUnresolved { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn mesh_without_voters_is_refused() {
    let error = refusal(Mesh::builder("n0").secret(key())).await;
    assert!(matches!(error, ConfigError::NoVoters), "{error}");
}

#[tokio::test]
async fn unreachable_advertise_address_is_refused() {
    for nowhere in ["0.0.0.0:4711", "[::]:4711", "127.0.0.1:0"] {
        let error = refusal(good().advertise(nowhere)).await;
        assert!(matches!(error, ConfigError::Advertise { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("advertise is {nowhere}")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn seed_without_host_or_port_is_refused() {
    for seed in ["127.0.0.1", "localhost:port", "", ":1"] {
        let error = refusal(good().seeds(["127.0.0.1:9", seed])).await;
        assert!(matches!(error, ConfigError::Seed { .. }), "{error}");
        let text = error.to_string();
        let expected = format!("seeds: {seed:?} is no address: it must be HOST:PORT");
        assert_eq!(text, expected);
    }
    for seed in ["localhost:9", "no-such-host.invalid:1"] {
        good().seeds([seed]).start().await.unwrap();
    }
}

#[tokio::test]
async fn builder_without_secret_is_refused() {
    let error = refusal(MeshBuilder::single("n0")).await;
    assert!(matches!(error, ConfigError::NoSecret));
    let text = error.to_string();
    assert!(
        text.starts_with("secret: the mesh has no cluster secret"),
        "{text}"
    );
    assert!(text.contains("insecure_plaintext()"), "{text}");
    let plain = MeshBuilder::single("n0").insecure_plaintext();
    plain.start().await.unwrap();
}

#[tokio::test]
async fn invalid_secret_is_refused_and_debug_hides_secrets() {
    let text = |key: &str| MeshBuilder::single("n0").secret_text(key);
    assert_eq!(
        words(text("not base64!")).await,
        "secret: the cluster secret is neither base64 nor 64 hex digits"
    );
    assert_eq!(
        words(text("c2hvcnQ=")).await,
        "secret: the cluster secret has 5 bytes; it must have 32"
    );
    assert_eq!(
        words(text(&"0".repeat(64))).await,
        "secret: the cluster secret is all zeros; draw 32 random bytes"
    );
    text(&key().to_base64()).start().await.unwrap();
    let builder = format!("{:?}", text(&key().to_base64()));
    assert!(!builder.contains(&key().to_base64()), "{builder}");
}

/// Set when the test below runs itself again in a child process.
const SECRET_VARIABLE: &str = "LOCKMESH_TEST_KEY_OF_A_CHILD";

#[tokio::test]
async fn a_key_may_come_from_an_environment_variable() {
    let from_env = |name: &str| MeshBuilder::single("n0").secret_from_env(name);
    if std::env::var_os(SECRET_VARIABLE).is_some() {
        from_env(SECRET_VARIABLE).start().await.unwrap();
        return;
    }
    assert_eq!(
        words(from_env(SECRET_VARIABLE)).await,
        format!("secret: the environment variable {SECRET_VARIABLE} is not set, or is not Unicode")
    );
    // All tests of this process share its environment, so the rest runs in a child process.
    let name = "config::a_key_may_come_from_an_environment_variable";
    let child = |key: &str| {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", name]).env(SECRET_VARIABLE, key);
        test.output().unwrap()
    };
    let output = child(&key().to_base64());
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
        MeshBuilder::single("n0"),
    ] {
        let mesh = builder.secret(ClusterSecret::from_bytes([1; 32]).unwrap());
        mesh.start().await.unwrap();
    }
    let mesh = MeshBuilder::single("n0")
        .secret(key())
        .start()
        .await
        .unwrap();
    mesh.ready(PATIENCE).await.unwrap();
    let guard = mesh.lock("k").try_acquire().await.unwrap().unwrap();
    assert!(guard.is_held());
}
