//! Real nodes with different settings: another `max_ttl` after a restart, another cluster, another
//! secret.

use std::fs;
use std::time::Duration;

use crate::common::{place, until};
use crate::worker::{Node, Setup, quoted};

const OTHER_KEY: &str = "abababababababababababababababababababababababababababababababab";

/// The two restarted voters are a quorum by themselves, long before the end of the lease that they
/// voted for.
#[test]
fn restart_with_shorter_max_ttl_grants_nothing_twice() {
    let place = place("settings-max-ttl");
    let first = Node::start(&place, "n1", &Setup::default().holding());
    let seeds = &quoted(&first.addr());
    let long = Setup {
        seeds,
        ..Setup::default()
    };
    let second = Node::start(&place, "n2", &long);
    let third = Node::start(&place, "n3", &long);
    until("a lock", || first.last("held"));

    let short = Setup {
        seeds,
        max_ttl_ms: 2_000,
        is_new: false,
        ..Setup::default()
    };
    third.kill();
    let third = Node::start(&place, "n3", &short);
    third.says("its max_ttl is 12 s, mine 2 s");
    first.says("its max_ttl is 2 s, mine 12 s");
    // Longer than its quarantine and its wait for recovery replies.
    std::thread::sleep(Duration::from_secs(4));
    second.kill();
    let second = Node::start(&place, "n2", &short.holding());
    let last = until("its asking", || second.last("asked"));
    until("the end of the lease", || first.last("lost"));
    assert!(second.last("granted").is_none(), "{last}");
    std::thread::sleep(Duration::from_secs(4));
    assert!(second.last("granted").is_none());
    assert!(!second.is_ready() && !third.is_ready());
    third.says("does not vote while n1 speaks for another voter set");

    // Now all settings are the same: a lock is granted once the longest lease is over.
    first.kill();
    let (two, three) = (quoted(&second.addr()), quoted(&third.addr()));
    let seeds = &format!("{two}, {three}");
    let short = Setup { seeds, ..short };
    let first = Node::start(&place, "n1", &short);
    until("a lock", || second.last("granted"));
    until("all ready", || {
        (first.is_ready() && second.is_ready() && third.is_ready()).then_some(())
    });
}

/// Both clusters have the same secret and the same names, and now the same addresses.
#[test]
fn foreign_voters_at_old_addresses_do_not_vote() {
    let place = place("settings-cluster");
    let first = Node::start(&place, "n1", &Setup::default());
    let seeds = &quoted(&first.addr());
    let prod = Setup {
        seeds,
        ..Setup::default()
    };
    let dead = ["n2", "n3"].map(|name| Node::start(&place, name, &prod));
    let addrs = dead.each_ref().map(Node::addr);
    until("prod is ready", || first.is_ready().then_some(()));
    dead.into_iter().for_each(Node::kill);
    let other = Node::start(
        &place,
        "n1",
        &Setup {
            cluster: "staging",
            ..Setup::default()
        },
    );
    let seeds = &quoted(&other.addr());
    let staging = ["n2", "n3"].iter().zip(&addrs).map(|(name, listen)| {
        let setup = Setup {
            listen,
            seeds,
            cluster: "staging",
            ..Setup::default()
        };
        Node::start(&place, name, &setup)
    });
    let staging: Vec<Node> = staging.collect();
    until("staging is ready", || {
        staging.iter().all(Node::is_ready).then_some(())
    });
    // A claimant that knows all three addresses.
    let (one, two, three) = (quoted(&first.addr()), quoted(&addrs[0]), quoted(&addrs[1]));
    let seeds = &format!("{one}, {two}, {three}");
    let asks = Setup {
        seeds,
        ..Setup::default()
    };
    let client = Node::start(&place, "client", &asks.holding());
    until("its asking", || client.last("asked"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(client.last("granted").is_none());
    for node in &staging {
        node.says("is of another cluster");
    }
}

#[test]
fn wrong_secret_is_logged_on_both_sides() {
    let place = place("settings-secret");
    let first = Node::start(&place, "n1", &Setup::default());
    let seeds = &quoted(&first.addr());
    let wrong = Setup {
        seeds,
        key: OTHER_KEY,
        ..Setup::default()
    };
    let second = Node::start(&place, "n2", &wrong);
    let is = "is not sealed with our secret";
    first.says(&format!("a datagram from {} {is}", second.addr()));
    let seeds = &quoted(&second.addr());
    let right = Setup {
        seeds,
        ..Setup::default()
    };
    let third = Node::start(&place, "n3", &right);
    second.says(&format!("a datagram from {} {is}", third.addr()));
    // The message is not repeated for each datagram.
    std::thread::sleep(Duration::from_secs(3));
    let told = first.said().matches(is).count();
    assert_eq!(told, 1, "{}", first.said());
}

/// Both request one lock, like two pods that were given one name.
#[test]
fn processes_of_one_name_never_hold_at_once() {
    let place = place("settings-one-name");
    let twin_place = place.join("twin");
    fs::create_dir_all(&twin_place).unwrap();
    let short = Setup {
        max_ttl_ms: 4_000,
        ..Setup::default()
    };
    let first = Node::start(&place, "n1", &short);
    let seeds = &quoted(&first.addr());
    let short = Setup { seeds, ..short };
    let second = Node::start(&place, "n2", &short.holding());
    let _third = Node::start(&place, "n3", &short);
    until("a lock", || second.last("held"));

    let twin = Node::start(&twin_place, "n2", &short.holding());
    let is = "another process runs under this node's name";
    let (mine, other) = (second.addr(), twin.addr());
    second.says(&format!("{is}: it is at {other}, this one at {mine}"));
    twin.says(&format!("{is}: it is at {mine}, this one at {other}"));
    until("its loss", || second.last("lost"));
    assert!(second.said().contains("ERROR"), "{}", second.said());
    std::thread::sleep(Duration::from_secs(6));
    assert!(twin.last("granted").is_none() && !twin.is_ready());
    second.kill();
    until("a lock", || twin.last("granted"));
}
