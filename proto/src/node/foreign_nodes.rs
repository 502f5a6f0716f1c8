//! Datagrams that cannot be opened, reported by source address at a limited rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::{Instant, Now};
use crate::wire::DropReason;

/// The interval between two reports of one address.
pub const FOREIGN_NODE_INTERVAL: Duration = Duration::from_secs(15);
/// The most addresses reported within that interval. Datagrams from others are only counted, since
/// source addresses may be forged.
const ADDRESSES_MAX: usize = 16;
/// The time without an opened datagram after which [`ForeignNodes::nobody`] returns a reason.
const NOBODY_AFTER: Duration = Duration::from_secs(1);

/// Datagrams from one address that could not be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForeignNode {
    /// The source address.
    pub from: SocketAddr,
    /// The reason why the last one could not be opened.
    pub reason: DropReason,
    /// The number of datagrams since the last report.
    pub count: u64,
}

/// Recent datagrams that could not be opened.
#[derive(Debug)]
pub(super) struct ForeignNodes {
    by_addr: BTreeMap<SocketAddr, Seen>,
    opened_at: Instant,
    /// The reason of the last unopened datagram after `opened_at`.
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

    /// Records that a datagram was opened.
    pub(super) fn opened(&mut self, now: Now) {
        self.opened_at = now.mono;
        self.since = None;
    }

    /// Records a dropped datagram. Returns the report of its source address, if one is due.
    pub(super) fn dropped(
        &mut self,
        now: Now,
        from: SocketAddr,
        reason: DropReason,
    ) -> Option<ForeignNode> {
        reason.as_unopened()?;
        self.since = Some(reason);
        let is_over = |seen: &Seen| now.mono >= seen.told_at.after(FOREIGN_NODE_INTERVAL);
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

    /// Returns the reason of the last unopened datagram, if no datagram was opened after it or
    /// within the last [`NOBODY_AFTER`].
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
    fn address_is_reported_immediately_then_every_15_s() {
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
    fn reports_of_many_addresses_are_bounded() {
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
    fn second_without_opened_datagram_returns_the_reason() {
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
