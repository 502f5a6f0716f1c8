//! Observation of a mesh from outside: the sockets and clocks of
//! [`lockmesh_proto::Observer`](lockmesh_proto::Observer).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::config::CLUSTER_DEFAULT;
use lockmesh_proto::{
    ClusterSecret, Inspection, Key, NameError, QuestionId, Seal, Survey, Surveyor, Wanted,
};

/// The default time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time after which a question is first retransmitted. It doubles with each retransmission.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// The maximum number of open questions. The socket must have capacity for all answers.
const OPEN_MAX: usize = 64;
/// The divisor of the patience for nodes that others report as dead.
const DOUBT: u32 = 4;
/// The size of a buffer that holds any UDP datagram.
const DATAGRAM_BYTES: usize = 65_536;

/// An observer of a running mesh. It queries nodes over their UDP port, is neither a voter nor a
/// client, and never changes a lock.
///
/// It needs the address of at least one node, from which it learns the members.
///
/// ```no_run
/// use lockmesh::observe::Observer;
///
/// # async fn look(key: lockmesh::ClusterSecret) -> Result<(), Box<dyn std::error::Error>> {
/// let mut observer = Observer::sealed(["10.0.0.1:7400"], key);
/// let survey = observer.survey().await?;
/// println!("{} of {} vote", survey.voting(), survey.voter_set.members().len());
/// let seen = observer.inspect("invoice/42").await?;
/// println!("held by {:?}", seen.owner().map(|owner| &owner.node));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Observer {
    peers: Vec<String>,
    /// The nodes that answered last. They are asked before the peers are resolved again.
    known: Vec<SocketAddr>,
    is_sealed: bool,
    patience: Duration,
    asker: lockmesh_proto::Observer,
    cluster: String,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

/// The error returned if an observation has no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// No peer was given.
    #[error("there is no peer to ask")]
    NoPeer,
    /// A peer is not `HOST:PORT` or does not resolve, and no other peer resolves either.
    #[error("{peer:?} does not resolve: {source}")]
    Resolve {
        /// The peer.
        peer: String,
        /// The error of the resolver.
        source: io::Error,
    },
    /// No socket could be opened.
    #[error("no socket: {0}")]
    Socket(#[from] io::Error),
    /// No peer answered in time.
    ///
    /// The cause cannot be determined from outside: a node does not answer if the secret or the
    /// cluster name differs.
    #[error(
        "no answer from {} within {waited:?}: is {}, is it up?",
        list(.peers),
        match *.is_sealed {
            true => "the secret right, the cluster's name right and the mesh sealed",
            false => "the mesh plaintext and the cluster's name right",
        }
    )]
    NoAnswer {
        /// The addresses that were asked.
        peers: Vec<SocketAddr>,
        /// The time waited for each answer.
        waited: Duration,
        /// `true` if the questions were sealed.
        is_sealed: bool,
    },
    /// The key to inspect is empty or too long.
    #[error(transparent)]
    Key(#[from] NameError),
}

fn list(peers: &[SocketAddr]) -> String {
    let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
    peers.join(", ")
}

/// A question that was sent and not answered yet.
struct Open {
    talk: usize,
    to: SocketAddr,
    since: Instant,
    again_at: Instant,
    repeats: u32,
}

impl Observer {
    /// The maximum patience: one hour.
    pub const PATIENCE_MAX: Duration = Duration::from_secs(60 * 60);

    /// Creates an observer of a mesh that is sealed with this secret. Each peer is `HOST:PORT`; one
    /// that is up is enough.
    #[must_use]
    pub fn sealed<S: Into<String>>(peers: impl IntoIterator<Item = S>, key: ClusterSecret) -> Self {
        Self::new(peers, Seal::sealed(key, rand::random()), true)
    }

    /// Creates an observer of a mesh with plaintext datagrams. Anyone on the network can forge the
    /// answers.
    #[must_use]
    pub fn insecure_plaintext<S: Into<String>>(peers: impl IntoIterator<Item = S>) -> Self {
        Self::new(peers, Seal::insecure_plaintext(), false)
    }

    fn new<S: Into<String>>(
        peers: impl IntoIterator<Item = S>,
        seal: Seal,
        is_sealed: bool,
    ) -> Self {
        Self {
            peers: peers.into_iter().map(Into::into).collect(),
            known: Vec::new(),
            is_sealed,
            patience: PATIENCE,
            asker: lockmesh_proto::Observer::new(seal.of_cluster(CLUSTER_DEFAULT), rand::random()),
            cluster: CLUSTER_DEFAULT.to_owned(),
            v4: None,
            v6: None,
        }
    }

    /// Sets the name of the cluster, `lockmesh` by default. Nodes of another cluster do not answer.
    #[must_use]
    pub fn cluster(mut self, name: impl AsRef<str>) -> Self {
        self.asker = self.asker.of_cluster(name.as_ref());
        name.as_ref().clone_into(&mut self.cluster);
        self
    }

    /// Creates an observer for a node, which passes the addresses itself.
    pub(super) fn of_node(seal: Seal) -> Self {
        Self::new([""; 0], seal, true)
    }

    /// Surveys the members, starting at `peers`. Calls `progress` after each answer.
    pub(super) async fn survey_from(
        &mut self,
        peers: &[SocketAddr],
        progress: &mut (dyn FnMut(&Surveyor) + Send),
    ) -> Result<Option<Survey>, ObserveError> {
        self.ask(peers, Wanted::default(), progress).await
    }

    /// Sets how long to wait for each answer: 2 s by default, at most
    /// [`PATIENCE_MAX`](Self::PATIENCE_MAX). Nodes that others report as dead get a quarter of it.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(Self::PATIENCE_MAX);
        self
    }

    /// Returns the nodes of the mesh and their state.
    ///
    /// # Errors
    /// [`ObserveError`] if no peer answered, or none could be asked. A member that does not answer
    /// is not an error: the survey reports it.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O and timers.
    ///
    /// # Cancel safety
    /// Dropping the future ends the survey. A later call discards answers to its questions.
    pub async fn survey(&mut self) -> Result<Survey, ObserveError> {
        self.look(Wanted::default()).await
    }

    /// Like [`survey`](Self::survey), with the keys that are held or waited for.
    ///
    /// Each voter is asked for pages of keys until it has listed `locks_max` of them, so the last
    /// page may exceed that number.
    ///
    /// # Errors
    /// See [`survey`](Self::survey).
    ///
    /// # Panics
    /// See [`survey`](Self::survey).
    ///
    /// # Cancel safety
    /// See [`survey`](Self::survey).
    pub async fn survey_with_locks(&mut self, locks_max: usize) -> Result<Survey, ObserveError> {
        let key = None;
        self.look(Wanted { locks_max, key }).await
    }

    /// Returns the holder of `key`, as its voters report it.
    ///
    /// The result may be outdated when it is read. Use it for diagnostics, not for decisions. If
    /// fewer than a quorum of the voters answered, the holder is unknown.
    ///
    /// # Errors
    /// [`ObserveError::Key`] if the key is empty or too long. For all others, see
    /// [`survey`](Self::survey).
    ///
    /// # Panics
    /// See [`survey`](Self::survey).
    ///
    /// # Cancel safety
    /// See [`survey`](Self::survey).
    pub async fn inspect(&mut self, key: impl AsRef<str>) -> Result<Inspection, ObserveError> {
        let key = Some(Key::new(key)?);
        let locks_max = 0;
        let survey = self.look(Wanted { locks_max, key }).await?;
        survey.key.ok_or(ObserveError::NoPeer)
    }

    async fn look(&mut self, wanted: Wanted) -> Result<Survey, ObserveError> {
        if !self.known.is_empty()
            && let Some(survey) = self
                .ask(&self.known.clone(), wanted.clone(), &mut |_| ())
                .await?
        {
            return Ok(survey);
        }
        let peers = self.resolve().await?;
        let survey = self.ask(&peers, wanted, &mut |_| ()).await?;
        survey.ok_or(ObserveError::NoAnswer {
            peers,
            waited: self.patience,
            is_sealed: self.is_sealed,
        })
    }

    /// Returns the addresses of all peers that resolve.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, ObserveError> {
        let (mut found, mut failed) = (Vec::new(), None);
        for peer in &self.peers {
            match tokio::net::lookup_host(peer).await {
                Ok(addrs) => found.extend(addrs),
                Err(source) => {
                    let peer = peer.clone();
                    failed = Some(ObserveError::Resolve { peer, source });
                }
            }
        }
        found.dedup();
        match found.is_empty() {
            true => Err(failed.unwrap_or(ObserveError::NoPeer)),
            false => Ok(found),
        }
    }

    async fn ask(
        &mut self,
        peers: &[SocketAddr],
        wanted: Wanted,
        progress: &mut (dyn FnMut(&Surveyor) + Send),
    ) -> Result<Option<Survey>, ObserveError> {
        let mut surveyor = Surveyor::new(peers.iter().copied(), wanted);
        surveyor = surveyor.of_cluster(&self.cluster);
        // Drops the questions of an abandoned survey.
        self.asker.drop_all();
        let mut open: BTreeMap<QuestionId, Open> = BTreeMap::new();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            while open.len() < OPEN_MAX
                && let Some(ask) = surveyor.next_question()
            {
                let (id, bytes) = self.asker.ask(ask.question);
                let now = Instant::now();
                let (talk, to, repeats) = (ask.talk, ask.to, 0);
                let (since, again_at) = (now, now + REPEAT_AFTER);
                open.insert(
                    id,
                    Open {
                        talk,
                        to,
                        since,
                        again_at,
                        repeats,
                    },
                );
                self.send(to, &bytes).await?;
            }
            if surveyor.is_done() || open.is_empty() {
                break;
            }
            let wake = self.wake(&surveyor, &open);
            let len = tokio::select! {
                len = receive(&self.v4, &self.v6, &mut buffer) => Some(len),
                () = tokio::time::sleep_until(wake) => None,
            };
            if let Some(len) = len
                && let Ok((id, answered)) = self.asker.handle_datagram(&buffer[..len])
                && let Some(asked) = open.remove(&id)
            {
                surveyor.handle_answer(asked.talk, answered);
                progress(&surveyor);
            }
            self.retransmit_due(&mut surveyor, &mut open).await?;
        }
        let survey = surveyor.conclude();
        if let Some(survey) = &survey {
            let answered = survey.nodes.iter().filter(|node| node.answer.is_some());
            self.known = answered.filter_map(|node| node.addr).collect();
        }
        Ok(survey)
    }

    fn deadline(&self, surveyor: &Surveyor, asked: &Open) -> Instant {
        let patience = match surveyor.is_doubtful(asked.talk) {
            true => self.patience / DOUBT,
            false => self.patience,
        };
        asked.since + patience
    }

    fn wake(&self, surveyor: &Surveyor, open: &BTreeMap<QuestionId, Open>) -> Instant {
        let due = open
            .values()
            .map(|asked| asked.again_at.min(self.deadline(surveyor, asked)));
        due.min().unwrap_or_else(Instant::now)
    }

    /// Retransmits unanswered questions, and gives up those that are too old.
    async fn retransmit_due(
        &mut self,
        surveyor: &mut Surveyor,
        open: &mut BTreeMap<QuestionId, Open>,
    ) -> Result<(), ObserveError> {
        let now = Instant::now();
        let is_late = |asked: &Open| now >= self.deadline(surveyor, asked);
        let late: Vec<QuestionId> = open
            .iter()
            .filter_map(|(id, asked)| is_late(asked).then_some(*id))
            .collect();
        for id in late {
            self.asker.drop_question(id);
            if let Some(asked) = open.remove(&id) {
                surveyor.handle_silence(asked.talk);
            }
        }
        for (id, asked) in open.iter_mut().filter(|(_, asked)| now >= asked.again_at) {
            asked.repeats += 1;
            asked.again_at = now + REPEAT_AFTER * (1 << asked.repeats.min(8));
            if let Some(bytes) = self.asker.repeat(*id) {
                self.send(asked.to, &bytes).await?;
            }
        }
        Ok(())
    }

    /// Sends a datagram. One that the system does not accept is lost, as any datagram may be.
    async fn send(&mut self, to: SocketAddr, bytes: &[u8]) -> Result<(), ObserveError> {
        let (socket, any) = match to {
            SocketAddr::V4(_) => (&mut self.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut self.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let socket = match socket {
            Some(socket) => socket,
            None => socket.insert(UdpSocket::bind(any).await?),
        };
        if let Err(error) = socket.send_to(bytes, to).await {
            tracing::debug!(%to, %error, "a question was not sent");
        }
        Ok(())
    }
}

/// Receives the next datagram of either socket.
async fn receive(v4: &Option<UdpSocket>, v6: &Option<UdpSocket>, buffer: &mut [u8]) -> usize {
    async fn ready(socket: &Option<UdpSocket>) -> &UdpSocket {
        match socket {
            Some(socket) if socket.readable().await.is_ok() => socket,
            _ => std::future::pending().await,
        }
    }
    loop {
        let socket = tokio::select! {
            socket = ready(v4) => socket,
            socket = ready(v6) => socket,
        };
        // An error belongs to an earlier send.
        if let Ok((len, _)) = socket.try_recv_from(buffer) {
            return len;
        }
    }
}
