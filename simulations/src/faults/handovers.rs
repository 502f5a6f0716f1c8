//! Voters that are shut down, leave their memory with others, and follow each other quickly.

use super::{Fault, FaultKind, Target};
use crate::cluster::Settings;
use crate::judge::HostAt;
use crate::kernel::{MILLISECOND, Rng, SECOND};

/// Draws the longest time of a handover, if voters without a journal hand their memory over: in two
/// thirds of the worlds.
pub(crate) fn draw_span(seed: u64, round_trip: u64) -> Option<u64> {
    let mut rng = Rng::stream(seed, "handovers");
    rng.chance(667_000)
        .then(|| rng.spread(4 * round_trip, (2 * SECOND).max(5 * round_trip)))
}

/// Draws deploys: in a third of these worlds the members are shut down one after the other, and in
/// another third, one is shut down, started, and ends again, while others restart.
pub(super) fn draw(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "deploys");
    let members = settings.members;
    if settings.handover_span.is_none() {
        return Vec::new();
    }
    let max_ttl = settings.max_ttl();
    let start = rng.between(max_ttl / 4, settings.fault_span);
    match rng.below(3) {
        0 => {
            let gap = rng.spread(MILLISECOND, max_ttl);
            let down = rng.spread(MILLISECOND, max_ttl / 2);
            let order = rng.sample(members, members);
            let deploy = (0_u64..).zip(order).map(|(n, host)| Fault {
                at: start + n * gap,
                kind: shutdown(host, down),
            });
            deploy.collect()
        }
        1 => draw_burst(&mut rng, (members, start), max_ttl),
        _ => Vec::new(),
    }
}

fn shutdown(host: HostAt, down: u64) -> FaultKind {
    let target = Target::Host(host);
    FaultKind::Shutdown { target, down }
}

/// Draws ends of one voter that follow each other within moments, and ends of others among them.
fn draw_burst(rng: &mut Rng, (members, start): (usize, u64), max_ttl: u64) -> Vec<Fault> {
    let host = rng.below(members as u64) as HostAt;
    let count = rng.between(2, 7);
    let mut at = start;
    let faults = (0..count).map(|_| {
        at += rng.spread(MILLISECOND, max_ttl);
        let down = rng.spread(MILLISECOND, max_ttl / 2);
        let other = rng.below(members as u64) as HostAt;
        let kind = match rng.below(5) {
            0 | 1 => shutdown(host, down),
            2 => FaultKind::crash(Target::Host(host), down),
            3 => shutdown(other, down),
            _ => FaultKind::crash(Target::Host(other), down),
        };
        Fault { at, kind }
    });
    faults.collect()
}
