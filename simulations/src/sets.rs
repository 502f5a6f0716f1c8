//! Worlds with two voter sets: which host runs in which.

use std::sync::Arc;

use lockmesh::proto::id::{Key, NodeId};
use lockmesh::proto::roster::Roster;

use crate::invariants::{Host as HostAt, KeyAt};
use crate::settings::Settings;
use crate::twins::CLUSTER;
use crate::world::World;

impl World {
    /// The voter set in which a host runs.
    pub(crate) fn roster_of(&self, host: HostAt) -> &Arc<Roster> {
        match self.hosts[host].is_other {
            true => &self.other_roster,
            false => &self.roster,
        }
    }

    /// The keys that a host votes for, in the voter set in which it runs.
    pub(crate) fn keys_voted_by(&self, host: HostAt) -> &[KeyAt] {
        &self.voter_keys[usize::from(self.hosts[host].is_other)][host]
    }
}

pub(crate) fn other_roster(settings: &Settings, ids: &[NodeId]) -> Option<Arc<Roster>> {
    let other = settings.other_set.as_ref()?;
    let members = other.members.iter().map(|host| ids[*host].clone());
    let roster = Roster::new(1, members.collect(), other.voters_per_key, other.timing);
    let roster = roster.expect("settings that were drawn are valid");
    Some(Arc::new(roster.of_cluster(CLUSTER)))
}

pub(crate) fn voters_of(
    roster: &Roster,
    keys: &[Key],
    at: impl Fn(&NodeId) -> HostAt,
) -> Vec<Vec<HostAt>> {
    let of = |key| roster.voters_for(key).iter().map(&at).collect();
    keys.iter().map(of).collect()
}
