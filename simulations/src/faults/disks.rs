//! Journals and the faults of their disks.

use super::{Fault, FaultKind};
use crate::cluster::Settings;
use crate::judge::HostAt;
use crate::kernel::{MILLISECOND, Rng};

/// Draws which members keep a journal, and which of them sync every record: in half of the worlds
/// none, in a quarter all, in the others some.
pub(crate) fn draw_journals(seed: u64, members: usize) -> Vec<Option<bool>> {
    let mut rng = Rng::stream(seed, "journals");
    let most = *rng.pick(&[0, 0, 1_000_000, 600_000]);
    let syncs = *rng.pick(&[0, 1_000_000, 500_000]);
    (0..members)
        .map(|_| rng.chance(most).then(|| rng.chance(syncs)))
        .collect()
}

/// Draws old copies that are put back, and disks that fail for a while: up to three in a third of
/// the worlds with journals.
pub(super) fn draw(settings: &Settings) -> Vec<Fault> {
    let mut rng = Rng::stream(settings.seed, "disk faults");
    let keepers: Vec<HostAt> = (0..settings.journals.len())
        .filter(|host| settings.journals[*host].is_some())
        .collect();
    if keepers.is_empty() || !rng.chance(333_000) {
        return Vec::new();
    }
    let count = rng.between(1, 3);
    let max_ttl = settings.max_ttl();
    let faults = (0..count).map(|_| {
        let host = *rng.pick(&keepers);
        let at = rng.between(max_ttl / 4, settings.fault_span);
        let span = rng.spread(MILLISECOND, max_ttl * 2);
        let down = rng.spread(MILLISECOND, max_ttl / 2);
        let kind = match rng.below(3) {
            0 => FaultKind::OldCopy { host, down, span },
            1 => FaultKind::DiskFails { host, span },
            _ => FaultKind::Replaced { host },
        };
        Fault { at, kind }
    });
    faults.collect()
}
