//! The clock that all processes of one machine share, whichever network they are in.

/// Reads the system's boot clock, `CLOCK_BOOTTIME`: never set, and it also counts the time that
/// the machine was suspended.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    boot: String,
}

impl Clock {
    /// # Errors
    /// A sentence, where the system has no such clock.
    #[cfg(target_os = "linux")]
    pub(crate) fn open() -> Result<Self, String> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT_ID)
            .map_err(|error| format!("{BOOT_ID} cannot be read: {error}"))?;
        let boot = boot.trim().to_owned();
        Ok(Self { boot })
    }

    /// # Errors
    /// Always: only Linux has the clock.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn open() -> Result<Self, String> {
        Err("histories need the boot clock of Linux".to_owned())
    }

    /// Which start of the machine the clock counts from.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Nanoseconds since the machine started.
    #[cfg(target_os = "linux")]
    #[expect(
        clippy::unused_self,
        reason = "who has no clock that is open reads none"
    )]
    pub(crate) fn now(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(
        clippy::unused_self,
        reason = "who has no clock that is open reads none"
    )]
    pub(crate) fn now(&self) -> u64 {
        0
    }
}
