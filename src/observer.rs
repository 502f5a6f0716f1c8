//! Observation of a mesh from outside: the sockets of a [`Surveyor`].

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UdpSocket;

use crate::config::CLUSTER_DEFAULT;
use lockmesh_proto::{
    Answer, ClusterSecrets, DATAGRAM_BYTES_MAX, DatagramKind, Fingerprint, Inspection, Instant,
    Key, NameError, Seal, Survey, Surveyor, Wanted,
};

/// The default time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// The nodes that answered last.
    known: Vec<SocketAddr>,
    patience: Duration,
    seal: Seal,
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

impl Observer {
    /// The maximum patience: one hour.
    pub const PATIENCE_MAX: Duration = Duration::from_secs(60 * 60);

    /// Creates an observer of a mesh that is sealed with this [`ClusterSecret`], or with these
    /// [`ClusterSecrets`]. Each peer is `HOST:PORT`; one that is up is enough.
    ///
    /// Questions are sealed with the first secret, so only nodes that have it answer.
    /// [`NodeSurvey::secret`] is the one with which a node seals.
    ///
    /// [`ClusterSecret`]: crate::ClusterSecret
    /// [`NodeSurvey::secret`]: lockmesh_proto::NodeSurvey::secret
    #[must_use]
    pub fn sealed<S: Into<String>>(
        peers: impl IntoIterator<Item = S>,
        secrets: impl Into<ClusterSecrets>,
    ) -> Self {
        Self::new(peers, Seal::sealed(secrets, rand::random()))
    }

    /// Creates an observer of a mesh with plaintext datagrams. Anyone on the network can forge the
    /// answers.
    #[must_use]
    pub fn insecure_plaintext<S: Into<String>>(peers: impl IntoIterator<Item = S>) -> Self {
        Self::new(peers, Seal::insecure_plaintext())
    }

    fn new<S: Into<String>>(peers: impl IntoIterator<Item = S>, seal: Seal) -> Self {
        Self {
            peers: peers.into_iter().map(Into::into).collect(),
            known: Vec::new(),
            patience: PATIENCE,
            seal: seal.of_cluster(CLUSTER_DEFAULT),
            cluster: CLUSTER_DEFAULT.to_owned(),
            v4: None,
            v6: None,
        }
    }

    /// Sets the name of the cluster, `lockmesh` by default. Nodes of another cluster do not answer.
    #[must_use]
    pub fn cluster(mut self, name: impl AsRef<str>) -> Self {
        self.seal = self.seal.of_cluster(name.as_ref());
        name.as_ref().clone_into(&mut self.cluster);
        self
    }

    /// Returns the fingerprints of the observer's secrets. Questions are sealed with the first. Empty
    /// in plaintext.
    #[must_use]
    pub fn secrets(&self) -> Vec<Fingerprint> {
        self.seal.secrets()
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
    /// A member that does not answer is not an error: the survey reports it.
    /// - [`ObserveError::NoPeer`] if the observer has no peer.
    /// - [`ObserveError::Resolve`] if no peer resolves, and no earlier call found a node.
    /// - [`ObserveError::Socket`] if the system opens no socket.
    /// - [`ObserveError::NoAnswer`] if no peer answered within the [`patience`](Self::patience).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O and timers.
    ///
    /// # Cancel safety
    /// Dropping the future ends the survey. A later call discards answers to its questions.
    pub async fn survey(&mut self) -> Result<Survey, ObserveError> {
        self.look(Wanted::Overview).await
    }

    /// Returns the nodes of the mesh and their state, with the keys that are held or waited for.
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
        self.look(Wanted::Locks { max: locks_max }).await
    }

    /// Returns the holder of `key`, as its voters report it.
    ///
    /// The result may be outdated when it is read. Use it for diagnostics, not for decisions. If
    /// fewer than a quorum of the voters answered, the holder is unknown.
    ///
    /// # Errors
    /// [`ObserveError::Key`] if the key is empty or has more than 256 bytes. For all others, see
    /// [`survey`](Self::survey).
    ///
    /// # Panics
    /// See [`survey`](Self::survey).
    ///
    /// # Cancel safety
    /// See [`survey`](Self::survey).
    pub async fn inspect(&mut self, key: impl AsRef<str>) -> Result<Inspection, ObserveError> {
        let key = Key::new(key)?;
        let mut survey = self.look(Wanted::Key { key }).await?;
        survey.locks.pop().ok_or(ObserveError::NoPeer)
    }

    async fn look(&mut self, wanted: Wanted) -> Result<Survey, ObserveError> {
        let mut peers = self.resolve().await?;
        peers.extend(&self.known);
        peers.sort();
        peers.dedup();
        let (cluster, seed, asked) = (&self.cluster, rand::random(), peers.iter().copied());
        let mut surveyor = Surveyor::new(cluster, asked, wanted, self.patience, seed);
        let began = tokio::time::Instant::now();
        let now = || Instant::ZERO.after(began.elapsed());
        let mut secrets = BTreeMap::new();
        loop {
            while let Some((to, question)) = surveyor.poll(now()) {
                let bytes = question.seal(&mut self.seal);
                self.send(to, &bytes).await?;
            }
            let Some(wake) = surveyor.next_timeout() else {
                break;
            };
            let datagram = tokio::select! {
                datagram = receive(self.v4.as_ref()) => datagram,
                datagram = receive(self.v6.as_ref()) => datagram,
                () = tokio::time::sleep(wake.since(now())) => continue,
            };
            if let Ok((DatagramKind::Answer, body)) = self.seal.open(&datagram)
                && let Ok(answer) = Answer::from_body(&body)
            {
                let node = answer.node.clone();
                match surveyor.handle_answer(answer) {
                    Ok(()) => drop(secrets.insert(node, self.seal.last_secret())),
                    Err(reason) => tracing::debug!(%reason, "an answer was dropped"),
                }
            }
        }
        let mut survey = surveyor.conclude().ok_or_else(|| ObserveError::NoAnswer {
            peers,
            waited: self.patience,
            is_sealed: self.seal.is_sealed(),
        })?;
        for node in &mut survey.nodes {
            node.secret = secrets.remove(&node.node).flatten();
        }
        let answered = survey.nodes.iter().filter(|node| node.answer.is_some());
        self.known = answered.filter_map(|node| node.addr).collect();
        Ok(survey)
    }

    /// Returns the addresses of all peers that resolve. None has to if nodes are known.
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
        match found.is_empty() && self.known.is_empty() {
            true => Err(failed.unwrap_or(ObserveError::NoPeer)),
            false => Ok(found),
        }
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

/// Receives the next datagram. A socket that does not exist receives none.
async fn receive(socket: Option<&UdpSocket>) -> Vec<u8> {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    // A longer datagram is cut, and cannot be opened.
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
    loop {
        // An error belongs to an earlier send.
        if let Ok((len, _)) = socket.recv_from(&mut buffer).await {
            buffer.truncate(len);
            return buffer;
        }
    }
}
