//! Faults that last for the whole fault phase of some worlds: late timers, small socket buffers,
//! paths that lose large datagrams. And whether some hosts stay broken after that.
//!
//! All are drawn from a separate stream, so that the other draws of a world stay the same.

use crate::cluster::{Settings, World};
use crate::kernel::{MILLISECOND, Rng};

/// The lasting faults of a world. The default has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct LastingFaults {
    /// The maximum delay of a node's timer, in nanoseconds. Datagrams that arrive meanwhile are
    /// read first.
    pub(crate) timers_late_max: u64,
    /// The time in which a process reads a datagram, in nanoseconds.
    pub(crate) reading: u64,
    /// The datagrams that a socket buffers for a process that does not read them; zero: the
    /// default.
    pub(crate) socket_max: usize,
    /// The size in bytes from which a datagram is large.
    pub(crate) large_bytes: usize,
    /// Large datagrams lost per million.
    pub(crate) large_loss_ppm: u64,
    /// `true` if a minority of the voters stays broken after the world has settled.
    pub(crate) breaks_minority: bool,
}

/// Draws the lasting faults of a world. Some of them are those of its links. The name of the stream
/// is part of every seed, so it stays.
pub(crate) fn draw(settings: &mut Settings) {
    let mut rng = Rng::stream(settings.seed, "hazards");
    let max_ttl = settings.max_ttl();
    let lasting = &mut settings.lasting;
    match rng.below(10) {
        0 => lasting.timers_late_max = rng.spread(MILLISECOND, 250 * MILLISECOND),
        1 => {
            lasting.socket_max = rng.between(1, 16) as usize;
            lasting.reading = rng.spread(MILLISECOND / 100, MILLISECOND);
        }
        2 => {
            lasting.large_bytes = rng.between(80, 250) as usize;
            lasting.large_loss_ppm = *rng.pick(&[500_000, 1_000_000]);
        }
        3 => {
            // Longer than two quarantines.
            settings.link_faults.late_max = max_ttl * rng.between(4, 10);
            settings.link_faults.late_ppm = *rng.pick(&[2_000, 20_000]);
        }
        // A lease is only promised to survive faults if every datagram arrives.
        4 | 5 => settings.link_faults.lose_nothing(),
        _ => {}
    }
    settings.lasting.breaks_minority = settings.voters_per_key >= 3 && rng.chance(200_000);
}

impl World {
    /// Draws how late the next timer fires, in nanoseconds.
    pub(crate) fn lateness(&mut self) -> u64 {
        let most = self.settings.lasting.timers_late_max;
        if most == 0 || self.is_settled {
            return 0;
        }
        self.count("timers_late");
        self.late_rng.below(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lasting_fault_is_drawn_by_some_seed() {
        let drawn: Vec<LastingFaults> = (0..200)
            .map(|seed| Settings::draw(seed, None).lasting)
            .collect();
        let is_drawn = |is: fn(&LastingFaults) -> bool| drawn.iter().any(is);
        assert!(is_drawn(|it| it.timers_late_max > 0));
        assert!(is_drawn(|it| it.socket_max > 0 && it.reading > 0));
        assert!(is_drawn(|it| it.large_loss_ppm > 0));
        assert!(is_drawn(|it| it.breaks_minority));
        assert!(drawn.contains(&LastingFaults::default()));
    }
}
