//! The cluster of the lab, the claims of its nodes, and the commands on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockmesh::{AcquireError, Guard, Key, Note};
use lockmesh_harness::{Condition, LocalMesh, LocalMeshError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tools::millis;
use tools::page::{Kind, Shown, Time, Timeline, Tone, names};

use super::command::{Command, Refused};
use super::look::ClaimSeen;
use super::stories::{Ended, How, Stories};

/// The maximum number of claims, and of keys among them.
const MAX_CLAIMS: usize = 32;
const KEYS_MAX: usize = 6;
/// A longer key does not fit on the page.
const KEY_BYTES_MAX: usize = 40;
/// The time limit of a try.
const TRY_AT_MOST: Duration = Duration::from_secs(2);

/// A cluster and its history.
pub(super) struct Lab {
    pub(super) mesh: LocalMesh,
    pub(super) ttl: Duration,
    began: Instant,
    state: Mutex<State>,
    /// Increases with every snapshot.
    pub(super) looks: watch::Sender<u64>,
    /// Serializes the commands.
    commands: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) claims: Vec<Claim>,
    pub(super) timeline: Timeline,
    pub(super) stories: Stories,
    pub(super) loss: u8,
    pub(super) delay: u16,
    /// The last snapshot, as JSON.
    pub(super) told: Arc<str>,
    next: u64,
}

/// A node that waits for a lock or holds it.
pub(super) struct Claim {
    id: u64,
    pub(super) node: usize,
    pub(super) key: String,
    note: Option<Note>,
    /// The claim's span on the timeline.
    span: u64,
    stage: Stage,
}

enum Stage {
    Asks {
        task: AbortHandle,
        is_try: bool,
    },
    Holds {
        guard: Guard,
        epoch: Shown,
        until: Time,
    },
}

impl Lab {
    /// Starts `nodes` nodes, which all vote for every key.
    pub(super) async fn start(nodes: usize, ttl: Duration) -> Result<Arc<Self>, LocalMeshError> {
        let mesh = LocalMesh::builder()
            .nodes(nodes)
            .voters_per_key(nodes)
            .ttl(ttl)
            .seed(rand::random())
            .configure(|mesh| mesh.try_timeout(TRY_AT_MOST));
        let lab = Arc::new(Self {
            mesh: mesh.start().await?,
            ttl,
            began: Instant::now(),
            state: Mutex::default(),
            looks: watch::Sender::new(0),
            commands: tokio::sync::Mutex::default(),
        });
        lab.look();
        Ok(lab)
    }

    pub(super) fn now(&self) -> Time {
        millis(self.began.elapsed())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn say(&self, tone: Tone, text: String) {
        let now = self.now();
        self.lock().timeline.say(now, tone, text);
    }

    /// Executes a command of the user.
    pub(super) async fn perform(self: &Arc<Self>, command: Command) -> Result<(), Refused> {
        command.check(self.mesh.size())?;
        let _one = self.commands.lock().await;
        let done = match command {
            Command::Freeze { node } => self.freeze(node),
            Command::Resume { node } => self.resume(node),
            Command::Crash { node } => self.crash(node).await,
            Command::Restart { node } => self.restart(node).await,
            Command::Acquire { node, key, note } => self.claim(node, key, note, false),
            Command::Try { node, key, note } => self.claim(node, key, note, true),
            Command::Release { node, key } => self.release(node, &key),
            links => {
                self.disturb(&links);
                Ok(())
            }
        };
        self.look();
        done
    }

    fn disturb(&self, command: &Command) {
        let text = match command {
            Command::Cut { from, to, both } => {
                self.link(*from, *to, *both).cut();
                format!("the link {} is cut", arrow(*from, *to, *both))
            }
            Command::Mend { from, to, both } => {
                self.link(*from, *to, *both).mend();
                format!("the link {} is healed", arrow(*from, *to, *both))
            }
            Command::Split { side } => {
                self.mesh.every_link().mend();
                let others = (0..self.mesh.size()).filter(|n| !side.contains(n));
                let others: Vec<usize> = others.collect();
                self.mesh
                    .partition(side.iter().copied(), others.iter().copied());
                format!(
                    "the network splits: {} | {}",
                    names(others.iter().copied()),
                    names(side.iter().copied())
                )
            }
            Command::Heal => {
                self.mesh.heal();
                let mut state = self.lock();
                (state.loss, state.delay) = (0, 0);
                "all links are healed".to_owned()
            }
            Command::Loss { percent } => {
                self.mesh.every_link().loss(f64::from(*percent) / 100.0);
                self.lock().loss = *percent;
                format!("every link loses {percent} of 100 datagrams")
            }
            Command::Delay { ms } => {
                let span = Duration::from_millis((*ms).into());
                self.mesh.every_link().delay(span..span * 5 / 4);
                self.lock().delay = *ms;
                format!("every link is {ms} ms slower")
            }
            _ => return,
        };
        self.say(Tone::Calm, text);
    }

    fn link(&self, from: usize, to: usize, both: bool) -> lockmesh_harness::Link<'_> {
        if both {
            self.mesh.link(from, to)
        } else {
            self.mesh.link_one_way(from, to)
        }
    }

    fn freeze(&self, node: usize) -> Result<(), Refused> {
        self.must_run(node)?;
        self.mesh.pause(node);
        self.say(Tone::Calm, format!("n{node} is frozen"));
        Ok(())
    }

    fn resume(&self, node: usize) -> Result<(), Refused> {
        if self.mesh.condition(node) != Condition::Paused {
            return Err(Refused::not_now(format!("n{node} is not frozen")));
        }
        self.mesh.resume(node);
        self.say(Tone::Calm, format!("n{node} goes on"));
        Ok(())
    }

    async fn crash(&self, node: usize) -> Result<(), Refused> {
        if self.mesh.condition(node) == Condition::Down {
            return Err(Refused::not_now(format!("n{node} is down")));
        }
        self.mesh.crash(node).await;
        let now = self.now();
        let mut state = self.lock();
        let text = format!("n{node} crashes");
        state.timeline.say(now, Tone::Calm, text);
        let gone: Vec<Claim> = state.claims.extract_if(.., |it| it.node == node).collect();
        for claim in &gone {
            let why = "its node crashed";
            state.timeline.end(claim.span, now, why);
            if let Stage::Holds { epoch, .. } = &claim.stage {
                state.over(claim, epoch.rank, now, How::Crashed);
            }
        }
        drop(state);
        gone.into_iter().for_each(Claim::give_up);
        Ok(())
    }

    async fn restart(&self, node: usize) -> Result<(), Refused> {
        if self.mesh.condition(node) != Condition::Down {
            self.crash(node).await?;
        }
        let started = self.mesh.restart(node).await;
        started.map_err(|error| Refused::not_now(format!("n{node} does not start: {error}")))?;
        let text = "starts again without its memory: it does not vote yet";
        self.say(Tone::Calm, format!("n{node} {text}"));
        Ok(())
    }

    fn must_run(&self, node: usize) -> Result<(), Refused> {
        let what = match self.mesh.condition(node) {
            Condition::Running => return Ok(()),
            Condition::Paused => format!("n{node} is frozen: it does nothing until it goes on"),
            _ => format!("n{node} is down: restart it first"),
        };
        Err(Refused::not_now(what))
    }

    fn claim(
        self: &Arc<Self>,
        node: usize,
        key: String,
        note: Option<Note>,
        is_try: bool,
    ) -> Result<(), Refused> {
        self.must_run(node)?;
        let key_error = Key::new(&key).err().map(|error| error.to_string());
        let too_long = (key.len() > KEY_BYTES_MAX)
            .then(|| format!("a key of {} bytes; here at most {KEY_BYTES_MAX}", key.len()));
        if let Some(what) = key_error.or(too_long) {
            return Err(Refused::bad(what));
        }
        let now = self.now();
        let mut state = self.lock();
        state.room_for(node, &key)?;
        let word = if is_try { "tries" } else { "waits for" };
        let what = format!("n{node} {word} {key}");
        let span = state.timeline.begin(now, Kind::Waits, Some(node), what);
        span.key = Some(key.clone());
        let span = span.id;
        state.stories.touch(&key);
        state.next += 1;
        let id = state.next;
        let (lab, mut request) = (Arc::downgrade(self), self.mesh.node(node).lock(&key));
        if let Some(note) = &note {
            request = request.note(note);
        }
        let task = tokio::spawn(async move {
            let told = match is_try {
                true => request.try_acquire().await,
                false => request.acquire().await.map(Some),
            };
            if let Some(lab) = lab.upgrade() {
                lab.answered(id, told);
                lab.look();
            }
        });
        let task = task.abort_handle();
        let stage = Stage::Asks { task, is_try };
        state.claims.push(Claim {
            id,
            node,
            key,
            note,
            span,
            stage,
        });
        Ok(())
    }

    /// Records the result of a request.
    fn answered(&self, id: u64, told: Result<Option<Guard>, AcquireError>) {
        let now = self.now();
        let mut state = self.lock();
        // If the request was withdrawn, a guard is dropped and thereby released.
        let Some(at) = state.claims.iter().position(|claim| claim.id == id) else {
            return;
        };
        let claim = state.claims.remove(at);
        let (node, key) = (claim.node, claim.key.clone());
        let (why, result) = match told {
            Ok(Some(guard)) => return state.granted(claim, guard, now),
            Ok(None) => ("another holds it", "another holds it".to_owned()),
            Err(AcquireError::ShutDown) => {
                return state.timeline.end(claim.span, now, "its node is down");
            }
            Err(error) => ("no quorum answered", error.to_string()),
        };
        let text = format!("n{node} tries {key}: {result}");
        state.timeline.end(claim.span, now, why);
        state.timeline.say(now, Tone::Calm, text);
    }

    fn release(&self, node: usize, key: &str) -> Result<(), Refused> {
        self.must_run(node)?;
        let now = self.now();
        let mut state = self.lock();
        let mut claims = state.claims.iter();
        let Some(at) = claims.position(|claim| claim.node == node && claim.key == key) else {
            let what = format!("n{node} neither holds {key} nor waits for it");
            return Err(Refused::not_now(what));
        };
        let claim = state.claims.remove(at);
        match &claim.stage {
            Stage::Asks { .. } => {
                state.timeline.end(claim.span, now, "it was withdrawn");
                let text = format!("n{node} no longer waits for {key}");
                state.timeline.say(now, Tone::Calm, text);
                state.stories.touch(key);
            }
            Stage::Holds { .. } if claim.is_over() => state.lost(&claim, now),
            Stage::Holds { epoch, .. } => {
                state.timeline.end(claim.span, now, "it was released");
                state.over(&claim, epoch.rank, now, How::Released);
                let text = format!("n{node} releases {key}");
                state.timeline.say(now, Tone::Calm, text);
            }
        }
        drop(state);
        claim.give_up();
        Ok(())
    }

    /// Ends all claims.
    pub(super) fn end(&self) {
        let claims = std::mem::take(&mut self.lock().claims);
        claims.into_iter().for_each(Claim::give_up);
    }
}

impl Claim {
    /// Returns what the page shows of it.
    pub(super) fn seen(&self, now: Time) -> ClaimSeen {
        let (stage, epoch, left) = match &self.stage {
            Stage::Asks { is_try: false, .. } => ("waits", None, 0),
            Stage::Asks { is_try: true, .. } => ("tries", None, 0),
            Stage::Holds { epoch, until, .. } => {
                ("holds", Some(epoch.clone()), until.saturating_sub(now))
            }
        };
        ClaimSeen {
            node: self.node,
            key: self.key.clone(),
            note: self.note.clone(),
            stage,
            epoch,
            left,
        }
    }

    /// Returns `true` if the claim was granted and its guard is no longer held.
    fn is_over(&self) -> bool {
        matches!(&self.stage, Stage::Holds { guard, .. } if !guard.is_held())
    }

    /// Withdraws the request or releases the lock.
    fn give_up(self) {
        if let Stage::Asks { task, .. } = self.stage {
            task.abort();
        }
    }
}

impl State {
    fn room_for(&self, node: usize, key: &str) -> Result<(), Refused> {
        let mut claims = self.claims.iter();
        if let Some(claim) = claims.find(|it| it.node == node && it.key == key) {
            let word = match claim.stage {
                Stage::Asks { .. } => "waits for",
                Stage::Holds { .. } => "holds",
            };
            return Err(Refused::not_now(format!("n{node} {word} {key} already")));
        }
        if self.claims.len() >= MAX_CLAIMS {
            let what = format!("{MAX_CLAIMS} locks are held or waited for; release some first");
            return Err(Refused::too_many(what));
        }
        let mut keys: Vec<&str> = self.claims.iter().map(|claim| claim.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() >= KEYS_MAX && !keys.contains(&key) {
            let what = format!("{KEYS_MAX} keys are in use; release one first");
            return Err(Refused::too_many(what));
        }
        Ok(())
    }

    /// Records a grant.
    fn granted(&mut self, mut claim: Claim, guard: Guard, now: Time) {
        let (node, key) = (claim.node, claim.key.clone());
        // Check the new guard first: a guard that is held at a later check was held at this one,
        // too.
        if !guard.is_held() {
            let why = "its lease was over before it could be seen";
            self.timeline.end(claim.span, now, why);
            let text = format!("n{node} was given {key} for too short a time to be seen");
            self.timeline.say(now, Tone::Calm, text);
            return;
        }
        self.drop_the_lost(now);
        let mut others = self.claims.iter().filter(|other| other.key == key);
        let other = others.find(|other| matches!(other.stage, Stage::Holds { .. }));
        if let Some(other) = other.map(|other| other.node) {
            let text = format!("n{other} and n{node} both hold {key}: mutual exclusion is broken");
            self.broken(now, text);
        }
        let from = self.stories.story(&key);
        let from = from.and_then(|story| story.ended.clone());
        let (epoch, has_risen) = self.stories.owner(now, &key, guard.epoch());
        if !has_risen {
            let text = format!("n{node} has {key} at an epoch that is not above the last");
            self.broken(now, text);
        }
        let rank = epoch.rank;
        let (tone, text) = match from {
            Some(from) if from.how != How::Released => {
                (Tone::Good, format!("n{node} takes over {key} at e{rank}"))
            }
            _ => (Tone::Calm, format!("n{node} holds {key} at e{rank}")),
        };
        self.timeline.say(now, tone, text);
        self.timeline.end(claim.span, now, "it was granted");
        let span =
            self.timeline
                .begin(now, Kind::Holds, Some(node), format!("n{node} holds {key}"));
        (span.key, span.epoch) = (Some(key), Some(epoch.clone()));
        claim.span = span.id;
        let until = now + millis(guard.remaining());
        claim.stage = Stage::Holds {
            guard,
            epoch,
            until,
        };
        self.claims.push(claim);
    }

    /// Updates the end of each lease, and removes claims whose guard is no longer held.
    pub(super) fn drop_the_lost(&mut self, now: Time) {
        for claim in &mut self.claims {
            if let Stage::Holds { guard, until, .. } = &mut claim.stage
                && guard.is_held()
            {
                *until = now + millis(guard.remaining());
            }
        }
        let lost: Vec<Claim> = self.claims.extract_if(.., |it| it.is_over()).collect();
        for claim in &lost {
            self.lost(claim, now);
        }
    }

    fn lost(&mut self, claim: &Claim, now: Time) {
        if let Stage::Holds { epoch, until, .. } = &claim.stage {
            // The lock was lost when its lease ended, not when this was observed.
            let at = now.min(*until);
            self.timeline
                .end(claim.span, at, "its lease was over: lost");
            self.over(claim, epoch.rank, at, How::Lost);
            let (node, key, rank) = (claim.node, &claim.key, epoch.rank);
            let text = format!("n{node} lost {key} (e{rank}): its lease is over");
            self.timeline.say(at, Tone::Lost, text);
        }
    }

    fn over(&mut self, claim: &Claim, rank: u64, at: Time, how: How) {
        let node = claim.node;
        self.stories.ended(
            &claim.key,
            Ended {
                node,
                rank,
                at,
                how,
            },
        );
    }

    fn broken(&mut self, now: Time, text: String) {
        self.stories.broken += 1;
        self.timeline.say(now, Tone::Broken, text);
    }
}

fn arrow(from: usize, to: usize, both: bool) -> String {
    let sign = if both { "–" } else { "→" };
    format!("n{from} {sign} n{to}")
}
