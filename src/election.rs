//! Elections: one leader of a cluster, and who it is.
//!
//! The leader of `NAME` holds the exclusive lock `NAME#leader`. Voters keep no lists of those that
//! watch: a node with watchers asks the voters of that key, and all its watchers share the answers.
//! Rejected: voters that send changes to watchers. A message may be lost, so watchers would have to
//! ask all the same, and voters would keep what they now forget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::lease::Lease;
use crate::mesh::Inner;
use crate::metrics::LockKind;
use crate::status::{Health, LockState};
use crate::{
    AcquireError, Epoch, Guard, Key, LeaseLost, LockRequest, NameError, NodeId, ReleaseError,
};
use lockmesh_proto::{Inspection, quorum};

/// The interval at which a node with watchers asks the voters.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The shortest interval, towards the end of a lease.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
/// The number of times that the voters are asked before the leader is unknown: a datagram may be
/// lost.
const LOOKS: usize = 2;
/// The least time that the voters have to answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// An election among the nodes of a cluster, returned by [`Mesh::election`](crate::Mesh::election).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mesh = lockmesh::MeshBuilder::single("dev").insecure_plaintext().start().await?;
/// use lockmesh::Leader;
///
/// // Each node that can lead campaigns. One of them gets past the first line.
/// let election = mesh.election("scheduler");
/// let leadership = election.campaign().await?;
/// let epoch = leadership.epoch();
/// leadership.run(async { /* lead; pass the epoch with each write */ }).await?;
///
/// // Each node can watch, whether it campaigns or not.
/// let mut leader = mesh.election("scheduler").watch()?;
/// leader.wait_for(|leader| leader.known().is_some_and(|(_, known)| known == epoch)).await?;
///
/// leadership.resign().await?;
/// leader.wait_for(|leader| *leader == Leader::None).await?;
/// # Ok(())
/// # }
/// ```
///
/// # An election is a lock
/// The leader of the election `NAME` holds the lock on the key `NAME#leader`. So a leadership has
/// the promises of a [`Guard`], and the name has up to 249 bytes. `lockmesh inspect NAME#leader`
/// shows the leader and the candidates.
///
/// The next leader is elected one round trip after a leader resigns, and after a ttl if its process
/// dies. Candidates are elected in the order in which they came. A node that already leads is one
/// of the others: its second campaign waits for the first to end.
#[derive(Clone, Debug)]
pub struct Election {
    mesh: Arc<Inner>,
    name: String,
    request: LockRequest,
}

impl Election {
    pub(crate) fn new(mesh: Arc<Inner>, name: String) -> Self {
        let request = LockRequest::new(mesh.clone(), format!("{name}#leader"));
        Self {
            mesh,
            name,
            request: request.kind(LockKind::Election),
        }
    }

    /// Sets the ttl of the lease: the time after which a leader that died is replaced.
    ///
    /// It has the range of [`LockRequest::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request = self.request.ttl(ttl);
        self
    }

    /// Sets a note for people, as [`LockRequest::note`] does.
    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        self.request = self.request.note(note);
        self
    }

    /// Sets the maximum time to wait, as [`LockRequest::acquire_timeout`] does. Without it,
    /// [`campaign`](Self::campaign) waits forever.
    pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.request = self.request.acquire_timeout(acquire_timeout);
        self
    }

    /// Waits until this node is the leader.
    ///
    /// # Errors
    /// Those of [`LockRequest::acquire`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and resigns if it was elected. A later call is
    /// queued anew.
    #[tracing::instrument(level = "debug", skip_all, fields(election = %self.name))]
    pub async fn campaign(&self) -> Result<Leadership, AcquireError> {
        let guard = self.request.clone().acquire().await?;
        Ok(Leadership::new(guard, &self.mesh))
    }

    /// Becomes the leader if nobody leads. Returns `None` if another claim is granted, or may be.
    ///
    /// # Errors
    /// Those of [`LockRequest::try_acquire`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and resigns if it was elected.
    #[tracing::instrument(level = "debug", skip_all, fields(election = %self.name))]
    pub async fn try_campaign(&self) -> Result<Option<Leadership>, AcquireError> {
        let guard = self.request.clone().try_acquire().await?;
        Ok(guard.map(|guard| Leadership::new(guard, &self.mesh)))
    }

    /// Returns a receiver of the current leader, for candidates and all others.
    ///
    /// | the change | the receiver has it |
    /// | --- | --- |
    /// | this node is elected, resigns, or loses its lease | at once, without a message |
    /// | another node does | within a second |
    /// | fewer than a quorum of the voters answer | within a second |
    /// | the mesh shuts down | at once: [`Leader::Unknown`], and then the channel closes |
    ///
    /// These are the times with [`Timing::lan`](crate::Timing::lan). On slower links, up to four
    /// of its `round_trip`s replace 400 ms of the second.
    ///
    /// The value is advice, and may be outdated when it is read. Do not write on the strength of it:
    /// a leader writes with its [`epoch`](Leadership::epoch), and the resource refuses a lower one.
    ///
    /// # Cost
    /// All receivers of one election in a mesh share one task. It sends a datagram to each voter of the
    /// key every 500 ms, and each voter answers with one. A node that leads sends none. The task
    /// ends with its last receiver. The receiver does not keep the mesh running.
    ///
    /// # Errors
    /// [`NameError`] if the name is too long.
    pub fn watch(&self) -> Result<watch::Receiver<Leader>, NameError> {
        let key = Key::new(format!("{}#leader", self.name))?;
        Ok(Elections::watch(&self.mesh, key))
    }
}

/// The leadership of this node, returned by [`Election::campaign`]. Dropping it resigns, without
/// blocking and without a runtime.
///
/// If its lease cannot be renewed, the leadership ends by the local clock, before any other node
/// can be elected. No message is needed for that. A process that is paused between a check and a
/// write cannot detect the end in time: pass the [`epoch`](Self::epoch) with each write.
#[derive(Debug)]
#[must_use = "a leadership that is dropped ends at once"]
pub struct Leadership {
    guard: Guard,
    _noted: Noted,
}

impl Leadership {
    fn new(guard: Guard, mesh: &Arc<Inner>) -> Self {
        let _noted = Elections::note(mesh, guard.lease().clone());
        Self { guard, _noted }
    }

    /// Returns the fencing token. It is higher than the epoch of every earlier leader.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.guard.epoch()
    }

    /// Returns `true` if this node leads now. Once it returns `false`, it always does.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.guard.is_held()
    }

    /// Waits until the leadership has ended: its lease was lost, or the mesh has shut down. See
    /// [`Guard::lost`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn lost(&self) {
        self.guard.lost().await;
    }

    /// Runs `work` while this node leads. If the lease is lost first, `work` is dropped at its
    /// current `.await`, and the rest of it does not run.
    ///
    /// # Errors
    /// [`LeaseLost`] if the lease ended before `work` was done.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`. This node still leads.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LeaseLost> {
        self.guard.run(work).await
    }

    /// Ends the leadership. The next candidate is elected about one round trip later.
    ///
    /// # Errors
    /// [`ReleaseError`] if the lease had ended before. Another node may have led since.
    ///
    /// # Cancel safety
    /// The leadership ends even if the future is dropped before it completes.
    pub async fn resign(self) -> Result<(), ReleaseError> {
        self.guard.release().await
    }

    /// Returns the guard of the lock that the leader holds, such as to
    /// [extend](Guard::extend) its lease.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Returns the guard by itself. Its holder leads until the guard is dropped.
    pub fn into_guard(self) -> Guard {
        self.guard
    }
}

/// The leader of an election, from [`Election::watch`].
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Leader {
    /// A node leads.
    Known {
        /// The id of the node.
        node: NodeId,
        /// Its fencing token.
        epoch: Epoch,
    },
    /// Nobody leads, as a quorum of the voters reports. Or this node has just resigned.
    None,
    /// It is unknown who leads: too few voters answer, the first answers are still to come, or this
    /// node has just lost its own lease.
    Unknown,
}

impl Leader {
    /// Returns the leader and its epoch if they are known.
    #[must_use]
    pub fn known(&self) -> Option<(&NodeId, Epoch)> {
        match self {
            Self::Known { node, epoch } => Some((node, *epoch)),
            Self::None | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { node, epoch } => write!(f, "{node} at epoch {epoch}"),
            Self::None => f.write_str("none"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The elections that this node leads, or that are watched here, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Elections(Mutex<BTreeMap<Key, Entry>>);

#[derive(Debug)]
struct Entry {
    seen: Arc<Seen>,
    /// `true` while a task follows the leader.
    is_followed: bool,
}

/// The state of one election here.
#[derive(Debug)]
struct Seen {
    leader: watch::Sender<Leader>,
    /// The last lease of this node.
    own: watch::Sender<Option<Arc<Lease>>>,
}

impl Elections {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a receiver, and starts the task that follows the leader unless there is one.
    fn watch(mesh: &Arc<Inner>, key: Key) -> watch::Receiver<Leader> {
        let round_trip = mesh
            .engine
            .with(|core, _| core.node.voter_set().timing().round_trip);
        let mut entries = mesh.elections.entries();
        let entry = entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(None));
        let leader = entry.seen.leader.subscribe();
        if !std::mem::replace(&mut entry.is_followed, true) {
            let follower = Follower {
                mesh: Arc::downgrade(mesh),
                key,
                seen: entry.seen.clone(),
                me: mesh.id.clone(),
                patience: PATIENCE.max(round_trip * 2),
            };
            let health = mesh.engine.health.subscribe();
            mesh.runtime.spawn(follower.follow(health));
        }
        leader
    }

    /// Notes a lease of this node until the result is dropped, or longer while it is watched.
    fn note(mesh: &Arc<Inner>, lease: Arc<Lease>) -> Noted {
        let mut entries = mesh.elections.entries();
        let entry = entries
            .entry(lease.key.clone())
            .or_insert_with(|| Entry::new(None));
        // A caller may be late, and another of this node have been elected since.
        entry.seen.own.send_if_modified(|own| {
            let is_newer = own.as_ref().is_none_or(|own| own.epoch < lease.epoch);
            if is_newer {
                *own = Some(lease.clone());
            }
            is_newer
        });
        Noted {
            mesh: Arc::downgrade(mesh),
            lease,
        }
    }
}

impl Entry {
    fn new(own: Option<Arc<Lease>>) -> Self {
        let seen = Seen {
            leader: watch::Sender::new(Leader::Unknown),
            own: watch::Sender::new(own),
        };
        Self {
            seen: Arc::new(seen),
            is_followed: false,
        }
    }
}

/// A lease that [`Elections`] has. It is removed with the leadership.
#[derive(Debug)]
struct Noted {
    mesh: Weak<Inner>,
    lease: Arc<Lease>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let Some(mesh) = self.mesh.upgrade() else {
            return;
        };
        let mut entries = mesh.elections.entries();
        let is_unused = entries.get(&self.lease.key).is_some_and(|entry| {
            let own = entry.seen.own.borrow();
            let is_own = own
                .as_ref()
                .is_some_and(|own| own.epoch == self.lease.epoch);
            is_own && !entry.is_followed
        });
        if is_unused {
            entries.remove(&self.lease.key);
        }
    }
}

/// The task that follows the leader of one election, for all receivers of this mesh.
struct Follower {
    mesh: Weak<Inner>,
    key: Key,
    seen: Arc<Seen>,
    me: NodeId,
    /// The time that the voters have to answer.
    patience: Duration,
}

impl Follower {
    async fn follow(self, mut health: watch::Receiver<Health>) {
        let is_over = async {
            let _ = health.wait_for(|health| *health == Health::ShutDown).await;
        };
        tokio::select! {
            () = is_over => {}
            () = self.until_unwatched() => {}
        }
    }

    async fn until_unwatched(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.seen.leader.closed() => {}
                () = self.until_shut_down() => return,
            }
            if self.is_removed_unless_watched() {
                return;
            }
        }
    }

    /// Returns `true` if there are no receivers. They are created and counted under one mutex.
    fn is_removed_unless_watched(&self) -> bool {
        let Some(mesh) = self.mesh.upgrade() else {
            return true;
        };
        let mut entries = mesh.elections.entries();
        let is_unwatched = self.seen.leader.receiver_count() == 0;
        if is_unwatched {
            self.end(&mut entries);
        }
        is_unwatched
    }

    /// Ends the entry. A leadership of this node gets one of its own, so that a later task has
    /// nothing in common with this one.
    fn end(&self, entries: &mut BTreeMap<Key, Entry>) {
        let is_mine = |entry: &Entry| Arc::ptr_eq(&entry.seen, &self.seen);
        if !entries.get(&self.key).is_some_and(is_mine) {
            return;
        }
        let own = self.seen.own.borrow().clone();
        match own.filter(|own| own.is_held()) {
            Some(own) => drop(entries.insert(self.key.clone(), Entry::new(Some(own)))),
            None => drop(entries.remove(&self.key)),
        }
    }

    /// Publishes each change of the leader.
    async fn until_shut_down(&self) {
        let mut changes = self.seen.own.subscribe();
        let mut valid_until = None;
        // Watchers that begin together do not go on asking together.
        let mut longest = LOOK_EVERY.mul_f64(rand::random()).max(LOOK_EVERY_MIN);
        loop {
            let own = changes.borrow_and_update().clone();
            if let Some(own) = own.as_ref().filter(|own| own.is_held()) {
                self.publish(self.leads(own.epoch));
                own.lost().await;
                // Nobody was elected before a leader resigned. If the lease was lost, this process
                // may have been paused.
                self.publish(match own.was_released() {
                    true => Leader::None,
                    false => Leader::Unknown,
                });
                valid_until = None;
            }
            let began = Instant::now();
            let looks = self.look(valid_until);
            let seen = tokio::select! {
                biased;
                _ = changes.changed() => continue,
                seen = looks => seen,
            };
            let Some(seen) = seen else { return };
            let (leader, remaining) = self.judge(seen, own.as_deref());
            self.publish(leader);
            // A lease that was not renewed since lasts that long, from the first question at least.
            valid_until = remaining.map(|remaining| began + remaining);
            let pause = remaining.map_or(LOOK_EVERY, |remaining| remaining * 2 / 3);
            let pause = pause.clamp(LOOK_EVERY_MIN, longest);
            longest = LOOK_EVERY;
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks the voters, again if they do not know the leader. After `valid_until`, the leader is
    /// unknown meanwhile. Returns `None` if the mesh has shut down, and the last answers otherwise.
    async fn look(&self, valid_until: Option<Instant>) -> Option<Option<Inspection>> {
        let looks = async {
            let mut seen = None;
            for _ in 0..LOOKS {
                let answers = self.mesh.upgrade()?.inspection(&self.key, self.patience)?;
                // The node ends the inspection itself, at that time at the latest.
                seen = answers.await.ok();
                let is_conclusive = |seen: &Inspection| {
                    seen.answered >= quorum(seen.voters) && seen.state != LockState::Unknown
                };
                if seen.as_ref().is_some_and(is_conclusive) {
                    return Some(seen);
                }
            }
            Some(seen.filter(|seen| seen.answered >= quorum(seen.voters)))
        };
        let Some(valid_until) = valid_until else {
            return looks.await;
        };
        let mut looks = std::pin::pin!(looks);
        tokio::select! {
            biased;
            seen = &mut looks => seen,
            () = sleep_until(valid_until) => {
                self.publish(Leader::Unknown);
                looks.await
            }
        }
    }

    /// Returns the leader, and the time for which a quorum of its votes still runs.
    fn judge(&self, seen: Option<Inspection>, own: Option<&Lease>) -> (Leader, Option<Duration>) {
        let owner = match seen.map(|seen| seen.state) {
            Some(LockState::Held(owner)) => owner,
            Some(LockState::Free) => return (Leader::None, None),
            _ => return (Leader::Unknown, None),
        };
        // Voters may still have votes out for a lease of this node that has ended.
        if owner.node == self.me && own.is_some_and(|own| own.epoch == owner.epoch) {
            return (Leader::None, None);
        }
        let (node, epoch) = (owner.node, owner.epoch);
        (Leader::Known { node, epoch }, Some(owner.remaining))
    }

    fn leads(&self, epoch: Epoch) -> Leader {
        let node = self.me.clone();
        Leader::Known { node, epoch }
    }

    fn publish(&self, leader: Leader) {
        self.seen.leader.send_if_modified(|last| {
            let is_changed = *last != leader;
            if is_changed {
                tracing::debug!(node = %self.me, key = %self.key, %leader, "leader changed");
                *last = leader;
            }
            is_changed
        });
    }
}

impl Drop for Follower {
    /// Also if the runtime ends.
    fn drop(&mut self) {
        self.publish(Leader::Unknown);
        if let Some(mesh) = self.mesh.upgrade() {
            self.end(&mut mesh.elections.entries());
        }
    }
}
