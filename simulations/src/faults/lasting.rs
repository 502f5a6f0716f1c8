//! Hazards that last for the whole fault phase of some worlds: late timers, small socket buffers,
//! paths that lose large datagrams, and hosts that never come back.
//!
//! All are drawn from a separate stream, so that the other draws of a world stay the same.

use crate::cluster::{Settings, World};
use crate::kernel::{MILLISECOND, Rng};

/// The hazards of a world. The default has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hazards {
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
    pub(crate) maims: bool,
}

/// Draws the hazards of a world. Some of them change its weather.
pub(crate) fn draw(settings: &mut Settings) {
    let mut rng = Rng::stream(settings.seed, "hazards");
    let max_ttl = settings.max_ttl();
    let hazards = &mut settings.hazards;
    match rng.below(10) {
        0 => hazards.timers_late_max = rng.spread(MILLISECOND, 250 * MILLISECOND),
        1 => {
            hazards.socket_max = rng.between(1, 16) as usize;
            hazards.reading = rng.spread(MILLISECOND / 100, MILLISECOND);
        }
        2 => {
            hazards.large_bytes = rng.between(80, 250) as usize;
            hazards.large_loss_ppm = *rng.pick(&[500_000, 1_000_000]);
        }
        3 => {
            // Longer than two quarantines.
            settings.weather.late_max = max_ttl * rng.between(4, 10);
            settings.weather.late_ppm = *rng.pick(&[2_000, 20_000]);
        }
        // A lease is only promised to survive faults if every datagram arrives.
        4 | 5 => {
            let weather = &mut settings.weather;
            (weather.loss_ppm, weather.late_ppm, weather.damage_ppm) = (0, 0, 0);
        }
        _ => {}
    }
    settings.hazards.maims = settings.voters_per_key >= 3 && rng.chance(200_000);
}

impl World {
    /// Draws how late the next timer fires, in nanoseconds.
    pub(crate) fn lateness(&mut self) -> u64 {
        let most = self.settings.hazards.timers_late_max;
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
    fn hazards_repeat_with_the_seed() {
        for seed in 0..200 {
            let drawn = || Settings::draw(seed, None).hazards;
            assert_eq!(drawn(), drawn());
        }
    }

    #[test]
    fn every_hazard_is_drawn_by_some_seed() {
        let drawn: Vec<Hazards> = (0..200)
            .map(|seed| Settings::draw(seed, None).hazards)
            .collect();
        let is_drawn = |is: fn(&Hazards) -> bool| drawn.iter().any(is);
        assert!(is_drawn(|it| it.timers_late_max > 0));
        assert!(is_drawn(|it| it.socket_max > 0 && it.reading > 0));
        assert!(is_drawn(|it| it.large_loss_ppm > 0));
        assert!(is_drawn(|it| it.maims));
        assert!(drawn.contains(&Hazards::default()));
    }
}
