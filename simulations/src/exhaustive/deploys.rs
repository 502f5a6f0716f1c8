//! A search of every interleaving of deploys: one voter is shut down and started again and again,
//! and the others keep its memory. The state machines are those of production.
//!
//! A message may be read at any later point, several times or never. The voter's process may end at
//! any point, and its peers may restart. Time passes in steps of half a quarantine. In each state an
//! incarnation that resumes must have the memory of the one that voted last.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use stateright::{Model, Property};

use super::parts::Kept;
use super::{LEASE, Mistake, ROUND_TRIP, STEP, timing};
use crate::proto::{
    Effects, Handover, Incarnation, Instant, Keeper, Leaver, Message, NodeId, Taker,
};

/// The limits of one search.
#[derive(Clone, Debug)]
pub(crate) struct DeployScope {
    pub(crate) name: &'static str,
    /// The number of other voters.
    peers: usize,
    /// The number of processes that the voter may have.
    incarnations: u64,
    /// The number of times that a peer may restart.
    restarts: u8,
    steps: u64,
    /// `true` if all peers have the memory of the first process, which has ended. Its words may
    /// still come late.
    has_left: bool,
    pub(super) mistake: Mistake,
}

/// Returns the scopes of the search for the real rules.
pub(crate) fn deploy_scopes() -> Vec<DeployScope> {
    let scopes = [
        // name, peers, incarnations, restarts, steps, has_left
        ("deploys, late words", 3, 3, 2, 0, true),
        ("deploys, late steps", 2, 3, 1, 4, true),
        ("deploys, three voters", 2, 4, 1, 4, false),
        ("deploys, four voters", 3, 3, 2, 2, false),
    ];
    let scopes = scopes.map(
        |(name, peers, incarnations, restarts, steps, has_left)| DeployScope {
            name,
            peers,
            incarnations,
            restarts,
            steps,
            has_left,
            mistake: Mistake::default(),
        },
    );
    scopes.into()
}

/// A message between the voter and a peer. It names the incarnation of the voter if that sent it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Letter {
    peer: usize,
    from: Option<u64>,
    message: Arc<Handover>,
}

/// An action of the search.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum DeployAction {
    Start,
    Leave,
    End,
    Restart(usize),
    Read(Letter),
    /// A peer reads this letter, and then both read each other's replies. It leads nowhere where
    /// single reads do not lead, but sooner.
    Talk(Letter),
    Step,
}

/// A process of the voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Process {
    incarnation: u64,
    started: u64,
    votes: bool,
    leaver: Option<Leaver>,
    taker: Option<Taker>,
}

/// Another voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Peer {
    keeper: Keeper,
    /// The highest incarnation of the voter that it has received.
    heard: u64,
    starts: u64,
}

/// A state of the search.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct DeployState {
    time: u64,
    process: Option<Kept<Process>>,
    /// The number of processes so far.
    incarnations: u64,
    peers: Vec<Kept<Peer>>,
    network: BTreeSet<Letter>,
    /// The last incarnation that voted.
    voted: u64,
    restarts: u8,
    resumed: u8,
    pub(crate) broken: Option<&'static str>,
}

/// The search: everything that does not change.
#[derive(Clone, Debug)]
pub(crate) struct Deploys {
    scope: DeployScope,
    voter: NodeId,
    peers: Vec<NodeId>,
}

impl Deploys {
    pub(crate) fn new(scope: DeployScope) -> Self {
        let id = |name: String| NodeId::new(name).expect("a short name");
        Self {
            voter: id("voter".to_owned()),
            peers: (0..scope.peers).map(|at| id(format!("p{at}"))).collect(),
            scope,
        }
    }

    fn now(state: &DeployState) -> Instant {
        Instant::ZERO.after(LEASE + STEP * state.time as u32)
    }

    fn peer(at: usize, starts: u64) -> Kept<Peer> {
        let keeper = Keeper::new(&timing(), (at as u64 + 1) << 8 | starts);
        Kept::new(Peer {
            keeper,
            heard: 0,
            starts,
        })
    }

    /// Sends the messages of the voter's process.
    fn send(&self, state: &mut DeployState, incarnation: u64, out: Effects) {
        for (to, message) in out.messages {
            let peer = self.peers.iter().position(|id| *id == to);
            if let (Some(peer), Message::Handover(message)) = (peer, message) {
                state.network.insert(Letter {
                    peer,
                    from: Some(incarnation),
                    message: Arc::new(*message),
                });
            }
        }
    }

    /// Changes the voter's process, and draws the consequences.
    fn at_process(
        &self,
        state: &mut DeployState,
        change: impl FnOnce(&mut Process, Instant, &mut Effects),
    ) {
        let now = Self::now(state);
        let Some(mut kept) = state.process.take() else {
            return;
        };
        let mut out = Effects::default();
        let (time, voted) = (state.time, state.voted);
        let (mut resumed, mut broken) = (false, None);
        let (incarnation, votes) = kept.change(|it| {
            change(it, now, &mut out);
            if let Some(leaver) = &mut it.leaver
                && leaver.wants_memory().is_some()
            {
                leaver.send_memory(now, Some(&[it.incarnation as u8]), &mut out);
            }
            let confirmed = it.taker.as_ref().and_then(Taker::confirmed);
            if let Some(memory) = confirmed {
                resumed = true;
                let left = memory.head.incarnation.get();
                if left != voted || memory.journal != [left as u8] {
                    broken = Some("M9");
                }
            }
            if resumed || !it.votes && time >= it.started + 2 {
                (it.votes, it.taker) = (true, None);
            }
            (it.incarnation, it.votes)
        });
        if votes {
            state.voted = incarnation;
        }
        state.resumed += u8::from(resumed);
        state.broken = state.broken.or(broken);
        state.process = Some(kept);
        self.send(state, incarnation, out);
    }

    fn start(&self, state: &mut DeployState) {
        state.incarnations += 1;
        let incarnation = state.incarnations;
        let mut out = Effects::default();
        let others = self.peers.clone();
        let taker = Taker::new(Self::now(state), others, ROUND_TRIP, incarnation, &mut out);
        state.process = Some(Kept::new(Process {
            incarnation,
            started: state.time,
            votes: false,
            leaver: None,
            taker: Some(taker),
        }));
        self.send(state, incarnation, out);
    }

    fn leave(&self, state: &mut DeployState) {
        self.at_process(state, |it, now, out| {
            let incarnation = Incarnation::new(it.incarnation);
            let deadline = now.after(STEP);
            let peers = self.peers.clone();
            let leaver = Leaver::new(
                now,
                incarnation,
                peers.into_iter().map(|it| (it, true)).collect(),
                ROUND_TRIP,
                deadline,
                out,
            );
            it.leaver = Some(leaver);
        });
    }

    fn read(&self, state: &mut DeployState, letter: &Letter) {
        let message = (*letter.message).clone();
        let Some(incarnation) = letter.from else {
            let from = &self.peers[letter.peer];
            return self.at_process(state, |it, now, out| match &mut it.taker {
                Some(taker) => taker.handle(now, from, message, out),
                None => {
                    if let Some(leaver) = &mut it.leaver {
                        leaver.handle(now, from, &message, out);
                    }
                }
            });
        };
        let now = Self::now(state);
        let mut out = Effects::default();
        state.peers[letter.peer].change(|peer| {
            peer.keeper.hear(&self.voter, Incarnation::new(incarnation));
            // The node drops what an earlier incarnation sent.
            if incarnation >= peer.heard {
                peer.heard = incarnation;
                let from = (&self.voter, Incarnation::new(incarnation));
                peer.keeper.handle(now, from, message, &mut out);
            }
        });
        let runs = state.process.as_ref().map(|it| it.it.incarnation);
        for (_, message) in out.messages {
            // A later process does nothing with the reply.
            if let Message::Handover(message) = message
                && runs == letter.from
            {
                state.network.insert(Letter {
                    peer: letter.peer,
                    from: None,
                    message: Arc::new(*message),
                });
            }
        }
    }

    fn talk(&self, state: &mut DeployState, letter: &Letter) {
        let before = state.network.clone();
        self.read(state, letter);
        let news = |state: &DeployState, before: &BTreeSet<Letter>| {
            let new = state.network.difference(before);
            let new = new.filter(|it| it.peer == letter.peer);
            new.cloned().collect::<Vec<_>>()
        };
        for reply in news(state, &before) {
            let before = state.network.clone();
            self.read(state, &reply);
            for next in news(state, &before) {
                self.talk(state, &next);
            }
        }
    }

    /// Ends the process. What is on its way to it, or only asks for parts, has no effect any more.
    fn end(state: &mut DeployState) {
        state.process = None;
        let is_fetch = |it: &Letter| matches!(*it.message, Handover::Fetch { .. });
        state
            .network
            .retain(|it| it.from.is_some() && !is_fetch(it));
    }

    fn step(&self, state: &mut DeployState) {
        state.time += 1;
        let now = Self::now(state);
        for peer in &mut state.peers {
            peer.change(|it| it.keeper.handle_timeout(now));
        }
        self.at_process(state, |it, now, out| {
            if let Some(leaver) = &mut it.leaver {
                leaver.handle_timeout(now, out);
            }
        });
    }
}

impl Model for Deploys {
    type State = DeployState;
    type Action = DeployAction;

    fn init_states(&self) -> Vec<DeployState> {
        self.scope.mistake.make();
        let process = Process {
            incarnation: 1,
            started: 0,
            votes: true,
            leaver: None,
            taker: None,
        };
        let mut state = DeployState {
            time: 0,
            process: Some(Kept::new(process)),
            incarnations: 1,
            peers: (0..self.scope.peers).map(|at| Self::peer(at, 0)).collect(),
            network: BTreeSet::new(),
            voted: 1,
            restarts: 0,
            resumed: 0,
            broken: None,
        };
        self.leave(&mut state);
        if self.scope.has_left {
            for letter in state.network.clone() {
                self.talk(&mut state, &letter);
            }
            Self::end(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &DeployState, actions: &mut Vec<DeployAction>) {
        if state.broken.is_some() {
            return;
        }
        // The last process need not end.
        let goes_on = state.incarnations < self.scope.incarnations;
        match &state.process {
            None if goes_on => actions.push(DeployAction::Start),
            Some(process) if goes_on => {
                actions.push(DeployAction::End);
                if process.it.votes && process.it.leaver.is_none() {
                    actions.push(DeployAction::Leave);
                }
            }
            _ => {}
        }
        if state.restarts < self.scope.restarts {
            actions.extend((0..self.scope.peers).map(DeployAction::Restart));
        }
        actions.extend(state.network.iter().cloned().map(DeployAction::Read));
        let runs = state.process.as_ref().map(|it| it.it.incarnation);
        let own = state
            .network
            .iter()
            .filter(|it| runs.is_some() && it.from == runs);
        actions.extend(own.cloned().map(DeployAction::Talk));
        if state.time < self.scope.steps {
            actions.push(DeployAction::Step);
        }
    }

    fn next_state(&self, last: &DeployState, action: DeployAction) -> Option<DeployState> {
        self.scope.mistake.make();
        let mut state = last.clone();
        match action {
            DeployAction::Start => self.start(&mut state),
            DeployAction::Leave => self.leave(&mut state),
            DeployAction::End => Self::end(&mut state),
            DeployAction::Restart(at) => {
                let starts = state.peers[at].it.starts + 1;
                state.peers[at] = Self::peer(at, starts);
                state.restarts += 1;
            }
            DeployAction::Read(letter) => self.read(&mut state, &letter),
            DeployAction::Talk(letter) => self.talk(&mut state, &letter),
            DeployAction::Step => self.step(&mut state),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("M9", |_, state: &DeployState| state.broken.is_none()),
            Property::sometimes("one resumes", |_, state: &DeployState| state.resumed > 0),
        ]
    }
}
