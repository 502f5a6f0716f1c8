//! Memory of a voter per held lock, in bytes, for 1,000,000 locks with keys of 16 bytes; and per
//! mark, for 100,000 marks of keys of 32 bytes, in the order of their keys and in none.
//!
//! Each figure is the growth of the resident set (`VmRSS` on Linux), which includes the overhead of
//! the allocator. Each claim has its own key and node id, as if decoded from a datagram.

use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Claim, ClaimId, Effects, EpochClock, Incarnation, Instant, Key, MARKS_MAX, Mark, NodeId, Now,
    Release, Start, Timing, Voter, VoterLimits, VoterSet,
};

const LOCKS: u64 = 1_000_000;
/// A prime above [`LOCKS`], so that the keys come in no order.
const STRIDE: u64 = 1_000_003;
/// A prime above [`MARKS_MAX`].
const MARKS_STRIDE: u64 = 100_003;
const NODES: u64 = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut voter = voter()?;
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
    // Both stay, or one would fill the memory that the other gave back.
    let in_order = marks("in order", |n| n)?;
    let in_none = marks("in no order", |n| n * 7_919 % MARKS_STRIDE)?;
    drop((voter, in_order, in_none));
    Ok(())
}

fn voter() -> Result<Voter, Box<dyn std::error::Error>> {
    let me = NodeId::new("v1")?;
    let voter_set = Arc::new(VoterSet::new(1, vec![me.clone()], 1, Timing::lan())?);
    let (limits, start) = (VoterLimits::default(), Start::NewCluster);
    let mut out = Effects::default();
    Ok(Voter::new(at(0), me, voter_set, limits, start, 7, &mut out))
}

/// Fills a voter with marks whose keys have these numbers.
fn marks(order: &str, number: impl Fn(u64) -> u64) -> Result<Voter, Box<dyn std::error::Error>> {
    let mut voter = voter()?;
    let before = resident()?;
    for n in 0..MARKS_MAX as u64 {
        let claim = Claim {
            key: Key::new(format!("nightly/report@2026-11-30 {:06}", number(n)))?,
            ..claim(n)?
        };
        let mark = Mark {
            key: claim.key.clone(),
            claim: claim.claim.clone(),
            sent_at: claim.sent_at,
            keep_for: Duration::from_secs(24 * 60 * 60),
        };
        let release = Release {
            key: claim.key.clone(),
            claim: claim.claim.clone(),
            granted: true,
        };
        let mut out = Effects::default();
        voter.handle_claim(at(n / 100), &claim, &mut out);
        voter.handle_mark(at(n / 100), &mark, &mut out);
        voter.handle_release(at(n / 100), &release, &mut out);
    }
    let (marks, bytes) = (voter.marks() as u64, resident()? - before);
    println!(
        "{marks} marks {order}, keys of 32 bytes: {} bytes for each",
        bytes / marks
    );
    match marks == MARKS_MAX as u64 {
        true => Ok(voter),
        false => Err(format!("{marks} of {MARKS_MAX} keys are marked").into()),
    }
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
