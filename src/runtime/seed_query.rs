//! Finds the members for a node that does not gossip. It queries its seeds, and the members that
//! they name, as an observer does. They keep no state for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::observe::Observer;
use super::seeds::Seeds;
use super::shared::Shared;
use lockmesh_proto::{
    Incarnation, NodeId, Peer, Survey, Surveyor, View, VoterSetTag, VoterState, quorum,
};

/// The time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The delay before the next query, if no quorum has answered. It doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The delay once a quorum has answered, since members may move.
const REFRESH: Duration = Duration::from_secs(10);

/// Discovery by queries instead of gossip.
pub(crate) struct SeedQuery {
    shared: Arc<Shared>,
    observer: Observer,
    seeds: Seeds,
}

impl SeedQuery {
    pub(crate) fn new(shared: Arc<Shared>, observer: Observer, seeds: Seeds) -> Self {
        Self {
            shared,
            observer: observer.patience(PATIENCE),
            seeds,
        }
    }

    /// Passes the reports of the members to the node, until it is aborted or `leave` becomes
    /// `true`.
    pub(crate) async fn run(mut self, mut leave: watch::Receiver<bool>) {
        tokio::select! {
            () = self.ask_again_and_again() => {}
            _ = leave.wait_for(|leave| *leave) => {}
        }
    }

    async fn ask_again_and_again(&mut self) {
        let mut retry = RETRY_MIN;
        loop {
            self.shared.going().await;
            let answered = self.ask().await;
            self.seeds.set_alone(answered == 0);
            let members = self
                .shared
                .with(|core, _| core.node.voter_set().members().len());
            let wait = if answered >= quorum(members) {
                retry = RETRY_MIN;
                REFRESH
            } else {
                let wait = retry;
                retry = (retry * 2).min(RETRY_MAX);
                wait
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.seeds.changed() => retry = RETRY_MIN,
            }
        }
    }

    /// Queries the members once. Returns the number of those that answered.
    async fn ask(&mut self) -> usize {
        let (mut peers, tag) = self.shared.with(|core, _| {
            let voter_set = core.node.voter_set().tag();
            (BTreeSet::from_iter(core.addresses_of_members()), voter_set)
        });
        peers.extend(self.seeds.addrs());
        let peers: Vec<SocketAddr> = peers.into_iter().collect();
        let (shared, mut answered) = (self.shared.clone(), 0);
        let mut last = None;
        let mut progress = |surveyor: &Surveyor| {
            let Some(survey) = surveyor.conclude() else {
                return;
            };
            let seen = look(&survey, tag);
            answered = survey.members().filter(|it| it.answer.is_some()).count();
            if last.as_ref() != Some(&seen) {
                shared.with(|core, now| {
                    core.node.handle_view(now, &seen.0);
                    core.voting.clone_from(&seen.1);
                });
                last = Some(seen);
            }
        };
        let survey = self.observer.survey_from(&peers, &mut progress).await;
        if let Err(error) = survey {
            tracing::debug!(%error, "the members were not asked");
        }
        answered
    }
}

/// Returns the addresses of the members, and those that report that they vote.
fn look(survey: &Survey, tag: VoterSetTag) -> (View, BTreeSet<NodeId>) {
    let mut view = View::default();
    let mut voting = BTreeSet::new();
    for member in survey.members() {
        let Some(addr) = member.addr else { continue };
        let answer = member.answer.as_ref();
        let peer = Peer {
            addr,
            incarnation: answer.map_or_else(Incarnation::default, |answer| answer.incarnation),
            alive: answer.is_some(),
        };
        view.peers.insert(member.node.clone(), peer);
        let votes = |overview: &VoterState| *overview == VoterState::Votes;
        if answer.is_some_and(|it| it.voter_set == tag && votes(&it.overview.voter)) {
            voting.insert(member.node.clone());
        }
    }
    (view, voting)
}
