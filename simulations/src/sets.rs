//! Worlds with two voter sets: which host runs in which.

use std::sync::Arc;

use lockmesh_proto::{Key, NodeId, VoterSet};

use crate::invariants::{Host as HostAt, KeyAt};
use crate::settings::Settings;
use crate::twins::CLUSTER;
use crate::world::World;

impl World {
    /// Returns the voter set in which a host runs.
    pub(crate) fn voter_set_of(&self, host: HostAt) -> &Arc<VoterSet> {
        match self.hosts[host].is_other {
            true => &self.other_voter_set,
            false => &self.voter_set,
        }
    }

    /// Returns the keys that a host votes for, in the voter set in which it runs.
    pub(crate) fn keys_voted_by(&self, host: HostAt) -> &[KeyAt] {
        &self.voter_keys[usize::from(self.hosts[host].is_other)][host]
    }
}

pub(crate) fn other_voter_set(settings: &Settings, ids: &[NodeId]) -> Option<Arc<VoterSet>> {
    let other = settings.other_set.as_ref()?;
    let members = other.members.iter().map(|host| ids[*host].clone());
    let voter_set = VoterSet::new(1, members.collect(), other.voters_per_key, other.timing);
    let voter_set = voter_set.expect("settings that were drawn are valid");
    Some(Arc::new(voter_set.of_cluster(CLUSTER)))
}

pub(crate) fn voters_of(
    voter_set: &VoterSet,
    keys: &[Key],
    at: impl Fn(&NodeId) -> HostAt,
) -> Vec<Vec<HostAt>> {
    let of = |key| voter_set.voters_for(key).iter().map(&at).collect();
    keys.iter().map(of).collect()
}
