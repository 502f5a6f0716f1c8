//! Finds the members for a node that does not gossip. It asks its seeds, and the members that they
//! name, as an observer does, through its own socket. They keep no state for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::engine::Engine;
use crate::engine::core::Core;
use crate::seeds::Seeds;
use lockmesh_proto::{Answer, Incarnation, Now, Peer, Surveyor, View, VoterState, Wanted, quorum};

/// The time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The delay before the next query, if no quorum has answered. It doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The delay once a quorum has answered, since members may move.
const REFRESH: Duration = Duration::from_secs(10);

/// The maximum number of answers that wait.
const QUEUE: usize = 64;

/// Discovery by queries instead of gossip.
pub(crate) struct SeedQuery {
    engine: Arc<Engine>,
    cluster: String,
    seeds: Seeds,
    answers: mpsc::Receiver<Vec<u8>>,
}

impl SeedQuery {
    pub(crate) fn new(engine: Arc<Engine>, cluster: String, seeds: Seeds) -> Self {
        let (tell, answers) = mpsc::channel(QUEUE);
        engine.with(|core, _| core.answers = Some(tell));
        Self {
            engine,
            cluster,
            seeds,
            answers,
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
            let answered = self.ask().await;
            self.seeds.set_alone(answered == 0);
            let members = self
                .engine
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
        let mut peers = self.seeds.addrs();
        peers.extend(self.engine.with(|core, _| core.addresses_of_members()));
        let (cluster, seed) = (&self.cluster, rand::random());
        let mut surveyor = Surveyor::new(cluster, peers, Wanted::Overview, PATIENCE, seed);
        let mut answered = 0;
        loop {
            let wake = self.engine.with(|core, now| {
                while let Some((to, question)) = surveyor.poll(now.mono) {
                    core.node.ask(to, &question);
                }
                let wake = surveyor.next_timeout();
                wake.map(|wake| wake.since(now.mono))
            });
            let Some(wake) = wake else { return answered };
            let body = tokio::select! {
                Some(body) = self.answers.recv() => body,
                () = tokio::time::sleep(wake) => continue,
            };
            answered = self.engine.with(|core, now| {
                let answer = Answer::from_body(&body);
                match answer.and_then(|answer| surveyor.handle_answer(answer)) {
                    Ok(()) => learn(core, now, &surveyor),
                    Err(reason) => {
                        core.node.count_drop(reason);
                        answered
                    }
                }
            });
        }
    }
}

/// Passes the addresses of the members to the node, and those that report that they vote. Returns
/// the number of members that answered.
fn learn(core: &mut Core, now: Now, surveyor: &Surveyor) -> usize {
    let voter_set = core.node.voter_set().clone();
    let mut view = View::default();
    core.voting.clear();
    let members = voter_set.members().iter();
    for member in members.filter_map(|member| surveyor.node(member)) {
        let Some(addr) = member.addr else { continue };
        let answer = member.answer.as_ref();
        let peer = Peer {
            addr,
            incarnation: answer.map_or_else(Incarnation::default, |answer| answer.incarnation),
            alive: answer.is_some(),
            version: None,
        };
        view.peers.insert(member.node.clone(), peer);
        if answer.is_some_and(|answer| {
            answer.voter_set == voter_set.tag() && answer.overview.voter == VoterState::Votes
        }) {
            core.voting.insert(member.node.clone());
        }
    }
    if *core.node.view() != view {
        core.node.handle_view(now, &view);
    }
    let peers = view.peers.values();
    peers.filter(|peer| peer.alive).count()
}
