//! The boot clock, which all processes of a machine share in any network namespace.

/// The system's boot clock, `CLOCK_BOOTTIME`. It is never set, and it includes time spent in
/// suspend.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    boot: String,
}

impl Clock {
    /// # Errors
    /// If the machine's boot id cannot be read.
    #[cfg(target_os = "linux")]
    pub(crate) fn open() -> Result<Self, String> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT_ID)
            .map_err(|error| format!("{BOOT_ID} cannot be read: {error}"))?;
        let boot = boot.trim().to_owned();
        Ok(Self { boot })
    }

    /// # Errors
    /// Always: only Linux has this clock.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn open() -> Result<Self, String> {
        Err("histories need the boot clock of Linux".to_owned())
    }

    /// Returns the id of the boot that the clock counts from.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Returns the nanoseconds since boot.
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
