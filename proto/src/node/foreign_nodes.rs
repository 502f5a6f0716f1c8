//! Datagrams that cannot be opened: from where they come, told once in a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::{Instant, Now};
use crate::wire::DropReason;

/// How often the datagrams of one address are told.
pub const TOLD_EVERY: Duration = Duration::from_secs(15);
/// Of how many addresses is told within that span. What comes from others is only counted: an
/// address may be forged.
const ADDRESSES_MAX: usize = 16;
/// A node that opened nothing for so long hears nobody.
const NOBODY_AFTER: Duration = Duration::from_secs(1);

/// Datagrams of one address that could not be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForeignNode {
    /// The address that they came from.
    pub from: SocketAddr,
    /// Why the last one could not be opened.
    pub reason: DropReason,
    /// How many came since this was last told.
    pub count: u64,
}

/// Datagrams that came lately and could not be opened.
#[derive(Debug)]
pub(super) struct ForeignNodes {
    by_addr: BTreeMap<SocketAddr, Seen>,
    opened_at: Instant,
    /// Why the last datagram could not be opened that came after that.
    since: Option<DropReason>,
}

#[derive(Debug)]
struct Seen {
    count: u64,
    told_at: Instant,
}

impl ForeignNodes {
    pub(super) fn new(now: Now) -> Self {
        Self {
            by_addr: BTreeMap::new(),
            opened_at: now.mono,
            since: None,
        }
    }

    /// A datagram was opened.
    pub(super) fn opened(&mut self, now: Now) {
        self.opened_at = now.mono;
        self.since = None;
    }

    /// A datagram was dropped. Returns what is to be told of its sender now.
    pub(super) fn dropped(
        &mut self,
        now: Now,
        from: SocketAddr,
        reason: DropReason,
    ) -> Option<ForeignNode> {
        reason.as_unopened()?;
        self.since = Some(reason);
        let is_over = |seen: &Seen| now.mono >= seen.told_at.after(TOLD_EVERY);
        if let Some(seen) = self.by_addr.get_mut(&from) {
            seen.count += 1;
            if !is_over(seen) {
                return None;
            }
        } else if self.by_addr.len() >= ADDRESSES_MAX {
            self.by_addr.retain(|_, seen| !is_over(seen));
            if self.by_addr.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        let told_at = now.mono;
        let before = self.by_addr.insert(from, Seen { count: 0, told_at });
        let count = before.map_or(1, |seen| seen.count);
        Some(ForeignNode {
            from,
            reason,
            count,
        })
    }

    /// Why no datagram can be opened, where some came lately and none could.
    pub(super) fn nobody(&self, now: Now) -> Option<DropReason> {
        let is_long = now.mono >= self.opened_at.after(NOBODY_AFTER);
        self.since.filter(|_| is_long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now {
            mono: Instant::ZERO.after(Duration::from_millis(ms)),
            wall_ms: 0,
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn one_address_is_told_at_once_and_then_every_15_s() {
        let mut foreign_nodes = ForeignNodes::new(at(0));
        let told: Vec<(u64, u64)> = (0..40)
            .filter_map(|s| {
                let told = foreign_nodes.dropped(at(s * 1_000), addr(1), DropReason::Key)?;
                Some((s, told.count))
            })
            .collect();
        assert_eq!(told, [(0, 1), (15, 15), (30, 15)]);
        let other = foreign_nodes.dropped(at(40_000), addr(2), DropReason::Cluster);
        let (from, reason, count) = (addr(2), DropReason::Cluster, 1);
        assert_eq!(
            other,
            Some(ForeignNode {
                from,
                reason,
                count
            })
        );
        let replay = foreign_nodes.dropped(at(40_000), addr(3), DropReason::Replayed);
        assert_eq!(replay, None, "it was opened");
    }

    #[test]
    fn many_addresses_are_told_of_no_more_than_some() {
        let mut foreign_nodes = ForeignNodes::new(at(0));
        let mut told = |ms| {
            let addrs = (0..1_000).map(|n| addr(n + ms as u16));
            addrs
                .filter_map(|from| foreign_nodes.dropped(at(ms), from, DropReason::Key))
                .count()
        };
        assert_eq!([told(0), told(14_999), told(15_000)], [16, 0, 16]);
        assert_eq!(foreign_nodes.by_addr.len(), ADDRESSES_MAX);
    }

    #[test]
    fn nobody_is_heard_if_nothing_was_opened_for_a_second() {
        let mut foreign_nodes = ForeignNodes::new(at(0));
        assert_eq!(foreign_nodes.nobody(at(5_000)), None, "nothing came");
        foreign_nodes.dropped(at(5_000), addr(1), DropReason::Key);
        assert_eq!(foreign_nodes.nobody(at(5_000)), Some(DropReason::Key));
        foreign_nodes.opened(at(6_000));
        assert_eq!(foreign_nodes.nobody(at(9_000)), None);
        foreign_nodes.dropped(at(6_900), addr(1), DropReason::Key);
        assert_eq!(foreign_nodes.nobody(at(6_999)), None);
        assert_eq!(foreign_nodes.nobody(at(7_000)), Some(DropReason::Key));
    }
}
