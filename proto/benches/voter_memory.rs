//! Memory of a voter per held lock, in bytes, for 1,000,000 locks with keys of 16 bytes.
//!
//! The figure is the growth of the resident set (`VmRSS` on Linux), which includes the overhead of
//! the allocator. Each claim has its own key and node id, as if decoded from a datagram.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Claim, ClaimId, Effects, EpochClock, Incarnation, Instant, Key, NodeId, Now, Start, Timing,
    Voter, VoterLimits, VoterSet,
};

const LOCKS: u64 = 1_000_000;
/// A prime above [`LOCKS`], so that the keys come in no order.
const STRIDE: u64 = 1_000_003;
const NODES: u64 = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let me = NodeId::new("v1")?;
    let voter_set = Arc::new(VoterSet::new(1, vec![me.clone()], 1, Timing::lan())?);
    let (limits, start) = (VoterLimits::default(), Start::NewCluster);
    let mut voter = Voter::new(
        at(0),
        me,
        voter_set,
        limits,
        start,
        7,
        &mut Effects::default(),
    );
    let before = resident()?;
    for n in 0..LOCKS {
        let mut out = Effects::default();
        voter.handle_claim(at(n / 100), &claim(n)?, &mut out);
    }
    let (held, bytes) = (voter.slots() as u64, resident()? - before);
    println!(
        "{held} locks held, keys of 16 bytes: {} bytes for each",
        bytes / held
    );
    if held < LOCKS {
        return Err(format!("{held} of {LOCKS} claims have the vote").into());
    }
    Ok(())
}

fn claim(n: u64) -> Result<Claim, Box<dyn std::error::Error>> {
    let claim = ClaimId {
        node: NodeId::new(format!("node-{:02}", n % NODES))?,
        incarnation: Incarnation::new(1),
        seq: n,
    };
    Ok(Claim {
        key: Key::new(format!("key/{:012}", n * 7_919 % STRIDE))?,
        claim,
        epoch: EpochClock::first_of(1_000_000),
        ttl: Duration::from_secs(60),
        sent_at: at(n / 100).mono,
        votes_valid_since: Instant::ZERO,
        granted: true,
        is_try: false,
        join: false,
        outlives: false,
    })
}

fn at(ms: u64) -> Now {
    Now {
        mono: Instant::from_nanos(ms * 1_000_000),
        wall_ms: 1_000_000 + ms,
    }
}

/// Returns the resident set size of this process, in bytes.
fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or("no VmRSS: this is measured on Linux")?
        .parse::<u64>()?
        * 1_024)
}
