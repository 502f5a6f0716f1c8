//! Sealing: only the cluster's nodes can read and create datagrams.
//!
//! A sealed datagram is
//!
//! ```text
//! version u8 | mode u8 | key id 4 | cluster id 4 | boot id 16 | counter u64 LE
//!     | ciphertext | tag 16
//! ```
//!
//! The ciphertext is AES-256-GCM of `kind u8 | body`. The header before it is authenticated with
//! it. The AEAD's key is HKDF-SHA256 of the cluster's secret, the sender's boot id and the
//! cluster's name. A boot id is 16 random bytes that a process draws once, when it starts. Each
//! boot id has its own key, so the sender counts its nonces instead of drawing them. It stores
//! nothing, since the next start has another boot id and hence another key. The usual alternative,
//! one key for all nodes and random nonces, is exhausted after some 2^32 datagrams.
//!
//! The key id is derived from the cluster's secret, the cluster id from the cluster's name. They
//! distinguish a node with another secret or of another cluster from a forger. Security does not
//! depend on them, since the AEAD's key differs in both cases. In plaintext only the cluster id
//! separates two clusters.
//!
//! **Several secrets.** While the secret is replaced, a node has several. It seals with the first.
//! The key id of a datagram says which of them opens it, so no other is tried. A sender that
//! changes its secret keeps its boot id and goes on counting. Its AEAD's key is another, so no
//! nonce is used twice, and its counters are still unique. The receiver therefore keeps one window
//! for each boot id, over all secrets. A datagram that was accepted is not accepted again, whatever
//! secrets were added or removed since. The receiver keeps the AEAD's key of the secret of the
//! newest datagram, and derives that of a late one.
//!
//! **Replays.** The last [`REPLAY_WINDOW`] counters of each authenticated boot id are remembered,
//! and a datagram is accepted once. The protocol does not depend on it: it is correct under any
//! delay and any duplication. The window keeps a recording from being replayed as load, or from a
//! false address. A boot id is forgotten by a restart of this node, or once datagrams of
//! [`BOOT_IDS_MAX`] other boot ids were received. A recorded datagram of it is then accepted once
//! more, as a late duplicate.
//!
//! **Limits.** Any holder of the cluster's secret can impersonate every node, so sealing does not
//! protect nodes from each other. There is no forward secrecy. Neither the source address of a
//! datagram nor the receiver of gossip is authenticated. An attacker that delays datagrams and
//! forwards them from elsewhere can make a node send to a wrong address. This lasts until the node
//! receives from the right address again, and costs time. It costs a lock only if two processes
//! have one name. Then a datagram of one, forwarded from the other's address, frees the other's
//! votes (rule 25).
//!
//! A foreign node's datagram costs at most a key derivation and a failed decryption, about a
//! microsecond, and leaves no state behind.

use std::collections::BTreeMap;
use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::Prk;

use super::secret::ID_BYTES;
pub use super::secret::{
    CLUSTER_SECRET_BYTES, CLUSTER_SECRETS_MAX, ClusterSecret, ClusterSecrets, Fingerprint,
    SecretError,
};
pub use super::window::REPLAY_WINDOW;
use super::window::Window;
use super::{DatagramKind, DropReason, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::voter_set::hash_of_name;

/// The most boot ids whose keys and counters are remembered, each in less than 1 KiB. One more
/// evicts the one that was silent for longest.
pub const BOOT_IDS_MAX: usize = 4_096;
const _: () = assert!(size_of::<Sender>() < 1_024);
/// The length of a boot id, in bytes.
pub const BOOT_ID_BYTES: usize = 16;

const MODE_PLAINTEXT: u8 = 0;
const MODE_SEALED: u8 = 1;

const TAG_BYTES: usize = 16;
const CLUSTER_AT: usize = 2 + ID_BYTES;
const BOOT_AT: usize = CLUSTER_AT + ID_BYTES;
const COUNTER_AT: usize = BOOT_AT + BOOT_ID_BYTES;
const HEADER_BYTES: usize = COUNTER_AT + size_of::<u64>();
/// The bytes that sealing adds to a body: header, kind and tag.
pub const SEALED_OVERHEAD: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// The bytes that plaintext adds to a body: version, mode, cluster id and kind.
const PLAINTEXT_OVERHEAD: usize = 3 + ID_BYTES;

const SUBKEY_LABEL: &[u8] = b"lockmesh v1 datagrams of ";

/// A boot id as a number, since numbers are compared faster than bytes.
pub(crate) type BootId = u128;
type Id = [u8; ID_BYTES];
/// A header and a kind.
type Head = [u8; HEADER_BYTES + 1];

/// Seals outgoing datagrams and opens received ones.
///
/// The cipher is AES-256-GCM (RFC 5116), and HKDF-SHA256 (RFC 5869) derives its keys. A window of
/// [`REPLAY_WINDOW`] counters for each sender rejects replays, as in IPsec (RFC 4303).
pub struct Seal {
    /// Derived from the cluster's name.
    cluster_id: Id,
    /// `None` for plaintext.
    sealed: Option<Box<Sealed>>,
}

/// The state of a seal that is not plaintext.
struct Sealed {
    /// The secret that seals.
    secret: Secret,
    /// The further secrets that open.
    others: Vec<Secret>,
    /// The cluster's name.
    cluster: String,
    boot_id: BootId,
    /// The header and the kind of its last datagram.
    head: Head,
    /// Derived from `secret`.
    key: LessSafeKey,
    /// The counter of the next datagram; `None` once all are used. It is never set back.
    counter: Option<u64>,
    peers: BTreeMap<BootId, Sender>,
    /// The number of datagrams accepted, as the clock of [`Sender::heard`].
    taken: u64,
    /// The sender of the last datagram that was opened.
    opened: BootId,
    /// `true` if the last datagram that was opened has another secret than those of its sender
    /// before it.
    is_changed: bool,
}

/// A cluster secret.
struct Secret {
    /// The subkeys are derived from it.
    prk: Prk,
    fingerprint: Fingerprint,
}

/// One start of another node.
struct Sender {
    /// The secret of its newest datagram.
    secret: Fingerprint,
    /// Derived from that secret; `None` if this node no longer has it.
    key: Option<LessSafeKey>,
    window: Window,
    /// The value of [`Sealed::taken`] at its last datagram.
    heard: u64,
}

impl Seal {
    /// Creates a seal for plaintext datagrams, which anyone can read and forge.
    #[must_use]
    pub fn insecure_plaintext() -> Self {
        Self {
            cluster_id: id_of_name(""),
            sealed: None,
        }
    }

    /// Creates a seal for datagrams that only nodes with these secrets can read and create. The
    /// first seals, and each opens.
    ///
    /// `boot_id` must be drawn from the operating system's randomness at every start. Two starts
    /// under one boot id would reuse nonces, which breaks the encryption and the authentication of
    /// AES-GCM.
    ///
    /// # Panics
    /// Never: HKDF-SHA256 can always supply 32 bytes.
    #[must_use]
    pub fn sealed(secrets: impl Into<ClusterSecrets>, boot_id: [u8; BOOT_ID_BYTES]) -> Self {
        let (boot_id, cluster_id) = (BootId::from_ne_bytes(boot_id), id_of_name(""));
        let (secret, others) = derived(&secrets.into());
        let sealed = Sealed {
            head: head(&secret, cluster_id, boot_id),
            key: sealing_key(&secret, boot_id, ""),
            secret,
            others,
            cluster: String::new(),
            boot_id,
            counter: Some(0),
            peers: BTreeMap::new(),
            taken: 0,
            opened: boot_id,
            is_changed: false,
        };
        Self {
            cluster_id,
            sealed: Some(Box::new(sealed)),
        }
    }

    /// Replaces the secrets: the first seals from now on, and each opens.
    ///
    /// No datagram that was accepted is accepted again.
    ///
    /// # Errors
    /// [`SecretError::Plaintext`] if the datagrams are plaintext.
    ///
    /// # Panics
    /// Never, like [`Seal::sealed`].
    pub fn rotate(&mut self, secrets: &ClusterSecrets) -> Result<(), SecretError> {
        let sealed = self.sealed.as_mut().ok_or(SecretError::Plaintext)?;
        (sealed.secret, sealed.others) = derived(secrets);
        sealed.head = head(&sealed.secret, self.cluster_id, sealed.boot_id);
        sealed.key = sealing_key(&sealed.secret, sealed.boot_id, &sealed.cluster);
        let Sealed {
            secret,
            others,
            peers,
            ..
        } = &mut **sealed;
        let has = |it: Fingerprint| {
            secret.fingerprint == it || others.iter().any(|other| other.fingerprint == it)
        };
        // Their windows stay, since a removed secret may come back.
        for peer in peers.values_mut().filter(|peer| !has(peer.secret)) {
            peer.key = None;
        }
        Ok(())
    }

    /// Returns the fingerprints of the secrets. The first seals. Empty in plaintext.
    #[must_use]
    pub fn secrets(&self) -> Vec<Fingerprint> {
        let sealed = self.sealed.iter();
        let all = sealed.flat_map(|it| std::iter::once(&it.secret).chain(&it.others));
        all.map(|secret| secret.fingerprint).collect()
    }

    /// Returns the fingerprint of the secret that seals; `None` in plaintext.
    #[must_use]
    pub fn secret(&self) -> Option<Fingerprint> {
        Some(self.sealed.as_ref()?.secret.fingerprint)
    }

    /// Returns the secret of the newest datagram of a sender. `None` in plaintext, or if no
    /// datagram of it is remembered.
    pub(crate) fn secret_of(&self, boot_id: BootId) -> Option<Fingerprint> {
        let peer = self.sealed.as_ref()?.peers.get(&boot_id)?;
        Some(peer.secret)
    }

    /// Returns the secret of the newest datagram of the sender whose datagram was opened last.
    /// `None` in plaintext, or if none was opened.
    #[must_use]
    pub fn last_secret(&self) -> Option<Fingerprint> {
        self.secret_of(self.last_sender()?)
    }

    /// Returns the sender of the last datagram that was opened; `None` in plaintext.
    pub(crate) fn last_sender(&self) -> Option<BootId> {
        Some(self.sealed.as_ref()?.opened)
    }

    /// Returns the sender of the last datagram that was opened, if that datagram is its first with
    /// another secret.
    pub(crate) fn take_change(&mut self) -> Option<BootId> {
        let sealed = self.sealed.as_mut().filter(|sealed| sealed.is_changed)?;
        sealed.is_changed = false;
        Some(sealed.opened)
    }

    /// Sets the cluster's name, which is empty by default. Clusters with one secret and different
    /// names cannot open each other's datagrams.
    ///
    /// # Panics
    /// Never, like [`Seal::sealed`].
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        if mistaken!(ClusterNotSealed) {
            return self;
        }
        self.cluster_id = id_of_name(name);
        if let Some(sealed) = &mut self.sealed {
            name.clone_into(&mut sealed.cluster);
            sealed.head = head(&sealed.secret, self.cluster_id, sealed.boot_id);
            sealed.key = sealing_key(&sealed.secret, sealed.boot_id, name);
        }
        self
    }

    /// Returns `false` if the datagrams are plaintext.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Returns the number of bytes by which a datagram is longer than its body.
    #[must_use]
    pub fn overhead(&self) -> usize {
        match self.sealed {
            Some(_) => SEALED_OVERHEAD,
            None => PLAINTEXT_OVERHEAD,
        }
    }

    /// Returns the number of boot ids remembered, at most [`BOOT_IDS_MAX`]. Zero in plaintext.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.sealed.as_ref().map_or(0, |sealed| sealed.peers.len())
    }

    /// Returns a datagram of the oldest version with this body.
    ///
    /// No counter is used twice: after 2^64 datagrams, or some centuries, the result is an empty
    /// datagram. Every receiver drops it as [`DropReason::Short`].
    pub fn seal(&mut self, kind: DatagramKind, body: &[u8]) -> Vec<u8> {
        self.seal_as(PROTOCOL_VERSION_MIN, kind, body)
    }

    /// Seals like [`Seal::seal`], as a datagram of this version.
    pub(crate) fn seal_as(&mut self, version: u8, kind: DatagramKind, body: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(self.overhead() + body.len());
        let Some(sealed) = &mut self.sealed else {
            datagram.extend([version, MODE_PLAINTEXT]);
            datagram.extend(self.cluster_id);
            datagram.push(kind.to_byte());
            datagram.extend(body);
            return datagram;
        };
        match sealed.seal((version, kind), body, &mut datagram) {
            Ok(()) => datagram,
            Err(Unspecified) => Vec::new(),
        }
    }

    /// Opens a datagram. Returns its kind and its body.
    ///
    /// # Errors
    /// - [`DropReason::Short`] if it is too short.
    /// - [`DropReason::Version`] if its protocol version or its mode is unknown.
    /// - [`DropReason::Sealed`] or [`Plaintext`](DropReason::Plaintext) if this seal has the other
    ///   mode.
    /// - [`DropReason::Key`] or [`Cluster`](DropReason::Cluster) if the secret or the cluster's
    ///   name differs.
    /// - [`DropReason::FromMyself`] if it has this seal's boot id.
    /// - [`DropReason::Forged`] if it is not authentic.
    /// - [`DropReason::Replayed`] if its counter was used, or is older than the replay window.
    /// - [`DropReason::Undecodable`] if its kind is unknown.
    pub fn open(&mut self, datagram: &[u8]) -> Result<(DatagramKind, Vec<u8>), DropReason> {
        let mut body = Vec::new();
        let kind = self.open_into(datagram, &mut body)?;
        body.remove(0);
        Ok((kind, body))
    }

    /// Opens like [`Seal::open`], and replaces the content of `frame` by the byte of the kind and
    /// the body. After an error, the content of `frame` is unspecified.
    pub(crate) fn open_into(
        &mut self,
        datagram: &[u8],
        frame: &mut Vec<u8>,
    ) -> Result<DatagramKind, DropReason> {
        frame.clear();
        let (mode, rest) = match datagram {
            [PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION, mode, rest @ ..] => (*mode, rest),
            [PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION] | [] => return Err(DropReason::Short),
            _ => return Err(DropReason::Version),
        };
        match (mode, &mut self.sealed) {
            (MODE_PLAINTEXT, None) => {
                let (id, rest) = rest.split_at_checked(ID_BYTES).ok_or(DropReason::Short)?;
                let kind = rest.first().ok_or(DropReason::Short)?;
                if id != self.cluster_id {
                    return Err(DropReason::Cluster);
                }
                frame.extend_from_slice(rest);
                DatagramKind::from_byte(*kind)
            }
            (MODE_SEALED, Some(sealed)) => sealed.open(datagram, frame),
            (MODE_PLAINTEXT, Some(_)) => Err(DropReason::Plaintext),
            (MODE_SEALED, None) => Err(DropReason::Sealed),
            _ => Err(DropReason::Version),
        }
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(sealed) = &self.sealed else {
            return f.write_str("Seal(plaintext)");
        };
        f.debug_struct("Seal")
            .field("secrets", &self.secrets())
            .field("cluster", &sealed.cluster)
            .field("counter", &sealed.counter)
            .field("peers", &sealed.peers.len())
            .finish_non_exhaustive()
    }
}

impl Sealed {
    fn seal(
        &mut self,
        (version, kind): (u8, DatagramKind),
        body: &[u8],
        datagram: &mut Vec<u8>,
    ) -> Result<(), Unspecified> {
        let counter = self.counter.ok_or(Unspecified)?;
        self.counter = counter.checked_add(1);
        self.head[0] = version;
        self.head[COUNTER_AT..HEADER_BYTES].copy_from_slice(&counter.to_le_bytes());
        self.head[HEADER_BYTES] = kind.to_byte();
        datagram.extend_from_slice(&self.head);
        datagram.extend_from_slice(body);
        let (header, plaintext) = datagram.split_at_mut(HEADER_BYTES);
        let aad = Aad::from(&*header);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), aad, plaintext)?;
        datagram.extend(tag.as_ref());
        Ok(())
    }

    /// Opens a datagram whose version and mode are checked. The replay check comes last, so that a
    /// forged counter is counted as forged.
    fn open(&mut self, datagram: &[u8], frame: &mut Vec<u8>) -> Result<DatagramKind, DropReason> {
        let Some((header, sealed)) = datagram.split_at_checked(HEADER_BYTES) else {
            return Err(DropReason::Short);
        };
        if sealed.len() <= TAG_BYTES {
            return Err(DropReason::Short);
        }
        let secret = match header[2..BOOT_AT] == self.head[2..BOOT_AT] {
            true => &self.secret,
            false => other_secret(&self.others, &self.head, header)?,
        };
        let boot_id = BootId::from_ne_bytes(field(&header[BOOT_AT..COUNTER_AT])?);
        if boot_id == self.boot_id {
            return Err(DropReason::FromMyself);
        }
        let counter = u64::from_le_bytes(field(&header[COUNTER_AT..])?);
        let derive = || subkey(&secret.prk, boot_id, &self.cluster).map_err(|_| DropReason::Forged);
        let kind = match self.peers.get_mut(&boot_id) {
            Some(peer) => {
                let kept = peer.key.as_ref();
                let (kind, derived) = match kept.filter(|_| peer.secret == secret.fingerprint) {
                    Some(key) => (decrypt(key, counter, header, sealed, frame)?, None),
                    None => {
                        let key = derive()?;
                        let kind = decrypt(&key, counter, header, sealed, frame)?;
                        (kind, Some(key))
                    }
                };
                let is_newest = derived.is_some() && peer.window.is_newest(counter);
                if !peer.window.admit(counter) {
                    return Err(DropReason::Replayed);
                }
                if let Some(key) = derived.filter(|_| is_newest) {
                    self.is_changed = peer.secret != secret.fingerprint;
                    (peer.secret, peer.key) = (secret.fingerprint, Some(key));
                }
                self.taken += 1;
                peer.heard = self.taken;
                kind
            }
            None => {
                let (key, secret) = (derive()?, secret.fingerprint);
                let kind = decrypt(&key, counter, header, sealed, frame)?;
                self.remember(boot_id, (secret, key), counter);
                kind
            }
        };
        self.opened = boot_id;
        DatagramKind::from_byte(kind)
    }

    /// Remembers a boot id that is authentic.
    fn remember(
        &mut self,
        boot_id: BootId,
        (secret, key): (Fingerprint, LessSafeKey),
        counter: u64,
    ) {
        if self.peers.len() >= BOOT_IDS_MAX {
            let longest_silent = self.peers.iter().min_by_key(|(_, peer)| peer.heard);
            if let Some(evicted) = longest_silent.map(|(boot_id, _)| *boot_id) {
                self.peers.remove(&evicted);
            }
        }
        self.taken += 1;
        let peer = Sender {
            secret,
            key: Some(key),
            window: Window::starting_at(counter),
            heard: self.taken,
        };
        self.peers.insert(boot_id, peer);
    }
}

/// Returns the secret that seals, and the others.
fn derived(secrets: &ClusterSecrets) -> (Secret, Vec<Secret>) {
    let mut secrets = secrets.as_slice().iter().map(|secret| {
        let prk = secret.prk();
        let fingerprint = Fingerprint::of(&prk);
        Secret { prk, fingerprint }
    });
    let first = secrets.next().expect("there is at least one secret");
    (first, secrets.collect())
}

/// Returns the secret of a datagram whose key id or cluster id is not that of `mine`.
fn other_secret<'a>(
    others: &'a [Secret],
    mine: &Head,
    header: &[u8],
) -> Result<&'a Secret, DropReason> {
    let (id, cluster_id) = (&header[2..CLUSTER_AT], &header[CLUSTER_AT..BOOT_AT]);
    let other = others.iter().find(|it| it.fingerprint.as_bytes() == id);
    if other.is_none() && *id != mine[2..CLUSTER_AT] {
        return Err(DropReason::Key);
    }
    let is_mine = *cluster_id == mine[CLUSTER_AT..BOOT_AT];
    other.filter(|_| is_mine).ok_or(DropReason::Cluster)
}

/// Returns the header of a datagram, without its counter and its kind.
fn head(secret: &Secret, cluster_id: Id, boot_id: BootId) -> Head {
    let mut head = [0; HEADER_BYTES + 1];
    head[..2].copy_from_slice(&[PROTOCOL_VERSION_MIN, MODE_SEALED]);
    head[2..CLUSTER_AT].copy_from_slice(secret.fingerprint.as_bytes());
    head[CLUSTER_AT..BOOT_AT].copy_from_slice(&cluster_id);
    head[BOOT_AT..COUNTER_AT].copy_from_slice(&boot_id.to_ne_bytes());
    head
}

fn sealing_key(secret: &Secret, boot_id: BootId, cluster: &str) -> LessSafeKey {
    subkey(&secret.prk, boot_id, cluster).expect("HKDF-SHA256 gives up to 8,160 bytes")
}

/// Returns the id of a cluster's name. It is not secret: it separates two clusters, and a name from
/// no name.
fn id_of_name(name: &str) -> Id {
    let [a, b, c, d, ..] = hash_of_name(name).to_be_bytes();
    [a, b, c, d]
}

fn subkey(prk: &Prk, boot_id: BootId, cluster: &str) -> Result<LessSafeKey, Unspecified> {
    let info = [SUBKEY_LABEL, &boot_id.to_ne_bytes(), cluster.as_bytes()];
    let key = UnboundKey::from(prk.expand(&info, &AES_256_GCM)?);
    Ok(LessSafeKey::new(key))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - size_of::<u64>()..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn field<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DropReason> {
    bytes.try_into().map_err(|_| DropReason::Short)
}

/// Decrypts a datagram. Returns the kind byte, and puts it and the body into `frame`, which must be
/// empty.
fn decrypt(
    key: &LessSafeKey,
    counter: u64,
    header: &[u8],
    sealed: &[u8],
    frame: &mut Vec<u8>,
) -> Result<u8, DropReason> {
    let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
    let tag = field::<TAG_BYTES>(tag)?.into();
    let (nonce, aad) = (nonce(counter), Aad::from(header));
    frame.extend_from_slice(ciphertext);
    key.open_in_place_separate_tag(nonce, aad, tag, frame, 0..)
        .map_err(|_| DropReason::Forged)?;
    frame.first().copied().ok_or(DropReason::Short)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"a body of some thirty bytes here";

    fn key(byte: u8) -> ClusterSecret {
        ClusterSecret::from_bytes([byte; CLUSTER_SECRET_BYTES]).unwrap()
    }

    fn seal_of(boot: u16) -> Seal {
        Seal::sealed(key(1), boot_id(boot))
    }

    fn boot_id(boot: u16) -> [u8; BOOT_ID_BYTES] {
        let mut boot_id = [0; BOOT_ID_BYTES];
        boot_id[..2].copy_from_slice(&boot.to_be_bytes());
        boot_id
    }

    fn secrets(bytes: &[u8]) -> ClusterSecrets {
        ClusterSecrets::new(bytes.iter().copied().map(key)).unwrap()
    }

    fn seal_with(bytes: &[u8], boot: u16) -> Seal {
        Seal::sealed(secrets(bytes), boot_id(boot))
    }

    /// Returns the secret of the newest datagram of a start.
    fn spoken(seal: &Seal, boot: u16) -> Option<Fingerprint> {
        seal.secret_of(BootId::from_ne_bytes(boot_id(boot)))
    }

    #[test]
    fn sealed_datagram_opens_once() {
        let (mut a, mut b) = (seal_of(1), seal_of(2));
        for kind in [DatagramKind::Votes, DatagramKind::Gossip] {
            for body in [BODY, b""] {
                let datagram = a.seal(kind, body);
                assert_eq!(datagram.len(), body.len() + a.overhead());
                assert_eq!(b.open(&datagram), Ok((kind, body.to_vec())));
                assert_eq!(b.open(&datagram), Err(DropReason::Replayed));
            }
        }
        assert_eq!(b.peers(), 1);
        assert_eq!(a.peers(), 0);
    }

    #[test]
    fn plaintext_datagram_has_the_documented_layout() {
        let mut seal = Seal::insecure_plaintext();
        let datagram = seal.seal(DatagramKind::Gossip, BODY);
        assert_eq!(datagram.len(), BODY.len() + seal.overhead());
        assert_eq!(datagram[..2], [PROTOCOL_VERSION_MIN, MODE_PLAINTEXT]);
        assert_eq!(datagram[2..7], [id_of_name("").as_slice(), &[1]].concat());
        assert_eq!(
            seal.open(&datagram),
            Ok((DatagramKind::Gossip, BODY.to_vec()))
        );
        let mut no_kind = datagram[..7].to_vec();
        no_kind[6] = 4;
        assert_eq!(seal.open(&no_kind), Err(DropReason::Undecodable));
    }

    #[test]
    fn clusters_with_one_secret_cannot_open_each_other() {
        let named = |name: &str, boot| seal_of(boot).of_cluster(name);
        let datagram = named("prod", 1).seal(DatagramKind::Votes, BODY);
        assert!(named("prod", 2).open(&datagram).is_ok());
        for mut other in [named("staging", 2), seal_of(2)] {
            assert_eq!(other.open(&datagram), Err(DropReason::Cluster));
            // A forged cluster id does not help.
            let mut relabelled = datagram.clone();
            relabelled[CLUSTER_AT..BOOT_AT].copy_from_slice(&other.cluster_id);
            assert_eq!(other.open(&relabelled), Err(DropReason::Forged));
            assert_eq!(other.peers(), 0);
        }
        let plain = |name: &str| Seal::insecure_plaintext().of_cluster(name);
        let datagram = plain("prod").seal(DatagramKind::Votes, BODY);
        assert!(plain("prod").open(&datagram).is_ok());
        assert_eq!(plain("staging").open(&datagram), Err(DropReason::Cluster));
    }

    #[test]
    fn plaintext_and_sealed_meshes_drop_each_other() {
        let (mut open, mut sealed) = (Seal::insecure_plaintext(), seal_of(1));
        let plain = open.seal(DatagramKind::Votes, BODY);
        assert_eq!(sealed.open(&plain), Err(DropReason::Plaintext));
        let closed = sealed.seal(DatagramKind::Votes, BODY);
        assert_eq!(open.open(&closed), Err(DropReason::Sealed));
    }

    #[test]
    fn another_secret_is_distinguished_from_a_forgery() {
        let mut foreign_node = Seal::sealed(key(2), [9; BOOT_ID_BYTES]);
        let mut node = seal_of(1);
        let datagram = foreign_node.seal(DatagramKind::Votes, BODY);
        assert_eq!(node.open(&datagram), Err(DropReason::Key));
        let mut relabelled = datagram;
        relabelled[2..CLUSTER_AT]
            .copy_from_slice(&seal_of(2).seal(DatagramKind::Votes, b"")[2..CLUSTER_AT]);
        assert_eq!(node.open(&relabelled), Err(DropReason::Forged));
        assert_eq!(node.peers(), 0);
    }

    /// Two nodes go from secret 1 to 2 over both. Every datagram opens once, in any state.
    #[test]
    fn rotation_drops_no_datagram_and_accepts_none_twice() {
        let steps: [&[u8]; 3] = [&[1, 2], &[2, 1], &[2]];
        let (mut a, mut b) = (seal_with(&[1], 1), seal_with(&[1], 2));
        let mut recorded = Vec::new();
        for step in steps {
            for is_b in [false, true] {
                let node = if is_b { &mut b } else { &mut a };
                node.rotate(&secrets(step)).unwrap();
                assert_eq!(node.secrets(), secrets(step).fingerprints());
                let datagram = a.seal(DatagramKind::Votes, BODY);
                assert!(b.open(&datagram).is_ok(), "{step:?} {is_b}");
                recorded.push(datagram);
                assert!(a.open(&b.seal(DatagramKind::Gossip, BODY)).is_ok());
                assert_eq!(spoken(&b, 1), a.secret());
                assert_eq!((a.peers(), b.peers()), (1, 1));
            }
        }
        // Also not if an old secret comes back.
        for bytes in [vec![2], vec![2, 1], vec![1, 2], vec![1]] {
            b.rotate(&secrets(&bytes)).unwrap();
            for datagram in &recorded {
                let opened = b.open(datagram).unwrap_err();
                let is_dropped = matches!(opened, DropReason::Replayed | DropReason::Key);
                assert!(is_dropped, "{opened:?}");
            }
        }
    }

    #[test]
    fn late_datagram_of_old_secret_opens_once() {
        let (mut a, mut b) = (seal_with(&[1, 2], 1), seal_with(&[2, 1], 2));
        let first = a.seal(DatagramKind::Votes, b"1");
        let late = a.seal(DatagramKind::Votes, b"2");
        a.rotate(&secrets(&[2, 1])).unwrap();
        let newest = a.seal(DatagramKind::Votes, b"3");
        assert!(b.open(&first).is_ok());
        assert_eq!((b.take_change(), b.last_secret()), (None, spoken(&b, 1)));
        assert!(b.open(&newest).is_ok());
        assert_eq!(b.take_change(), b.last_sender());
        assert_eq!(b.take_change(), None);
        assert!(b.open(&late).is_ok());
        // The late one does not change what the sender speaks.
        assert_eq!((b.take_change(), spoken(&b, 1)), (None, a.secret()));
        for datagram in [&first, &late, &newest] {
            assert_eq!(b.open(datagram), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn forged_key_id_of_other_secret_changes_nothing() {
        let (mut a, mut b) = (seal_with(&[1, 2], 1), seal_with(&[1, 2], 2));
        assert!(b.open(&a.seal(DatagramKind::Votes, BODY)).is_ok());
        let mut forged = a.seal(DatagramKind::Votes, BODY);
        let genuine = forged.clone();
        forged[2..CLUSTER_AT].copy_from_slice(b.secrets()[1].as_bytes());
        assert_eq!(b.open(&forged), Err(DropReason::Forged));
        assert_eq!((b.take_change(), spoken(&b, 1)), (None, a.secret()));
        assert!(b.open(&genuine).is_ok());
    }

    #[test]
    fn removed_secret_opens_nothing_until_it_returns() {
        let (mut a, mut b) = (seal_with(&[1], 1), seal_with(&[2, 1], 2));
        assert!(b.open(&a.seal(DatagramKind::Votes, BODY)).is_ok());
        b.rotate(&secrets(&[2])).unwrap();
        let datagram = a.seal(DatagramKind::Votes, BODY);
        assert_eq!(b.open(&datagram), Err(DropReason::Key));
        // What it spoke last is still known.
        assert_eq!(spoken(&b, 1), a.secret());
        b.rotate(&secrets(&[2, 1])).unwrap();
        assert!(b.open(&datagram).is_ok());
        assert_eq!(b.take_change(), None);
        assert!(b.open(&a.seal(DatagramKind::Votes, BODY)).is_ok());
    }

    #[test]
    fn counters_go_on_after_a_rotation() {
        let mut a = seal_with(&[1], 1);
        a.seal(DatagramKind::Votes, BODY);
        a.rotate(&secrets(&[2])).unwrap();
        a.rotate(&secrets(&[1])).unwrap();
        let datagram = a.seal(DatagramKind::Votes, BODY);
        assert_eq!(datagram[COUNTER_AT..HEADER_BYTES], 1_u64.to_le_bytes());
    }

    #[test]
    fn plaintext_seal_takes_no_secret() {
        let mut plain = Seal::insecure_plaintext();
        assert_eq!(plain.rotate(&secrets(&[1])), Err(SecretError::Plaintext));
        assert!(!plain.is_sealed());
        assert_eq!((plain.secret(), plain.secrets()), (None, Vec::new()));
    }

    #[test]
    fn rotated_seal_keeps_its_cluster() {
        let mut a = seal_of(1).of_cluster("prod");
        a.rotate(&secrets(&[2])).unwrap();
        let mut b = seal_with(&[1, 2], 2).of_cluster("prod");
        let datagram = a.seal(DatagramKind::Votes, BODY);
        assert!(b.open(&datagram).is_ok());
        // The cluster of each secret is checked.
        let mut other = seal_with(&[1, 2], 3).of_cluster("staging");
        assert_eq!(other.open(&datagram), Err(DropReason::Cluster));
    }

    #[test]
    fn own_datagram_is_dropped() {
        let mut node = seal_of(1);
        let datagram = node.seal(DatagramKind::Gossip, BODY);
        assert_eq!(node.open(&datagram), Err(DropReason::FromMyself));
        assert_eq!(node.peers(), 0);
    }

    #[test]
    fn every_start_seals_under_another_key() {
        let (mut first, mut second) = (seal_of(1), seal_of(2));
        let (a, b) = (
            first.seal(DatagramKind::Votes, BODY),
            second.seal(DatagramKind::Votes, BODY),
        );
        assert_eq!(a[COUNTER_AT..HEADER_BYTES], b[COUNTER_AT..HEADER_BYTES]);
        assert_ne!(a[HEADER_BYTES..], b[HEADER_BYTES..]);
        // A datagram with the boot id of another start does not open.
        let mut moved = a;
        moved[BOOT_AT..COUNTER_AT].copy_from_slice(&b[BOOT_AT..COUNTER_AT]);
        assert_eq!(seal_of(3).open(&moved), Err(DropReason::Forged));
    }

    #[test]
    fn counters_at_their_end_are_not_reused() {
        let (mut a, mut b) = (seal_of(1), seal_of(2));
        a.sealed.as_mut().unwrap().counter = Some(u64::MAX - 1);
        let last_two = [
            a.seal(DatagramKind::Votes, b"1"),
            a.seal(DatagramKind::Votes, b"2"),
        ];
        for datagram in &last_two {
            assert!(b.open(datagram).is_ok());
        }
        for _ in 0..3 {
            let none = a.seal(DatagramKind::Votes, b"3");
            assert_eq!(none, b"");
            assert_eq!(b.open(&none), Err(DropReason::Short));
        }
    }

    #[test]
    fn longest_silent_boot_id_is_evicted_first() {
        let mut node = Seal::sealed(key(1), [0xff; BOOT_ID_BYTES]);
        let full = u16::try_from(BOOT_IDS_MAX).unwrap();
        let recorded: Vec<Vec<u8>> = (0..=full)
            .map(|boot| seal_of(boot).seal(DatagramKind::Votes, BODY))
            .collect();
        for datagram in &recorded[..BOOT_IDS_MAX] {
            assert!(node.open(datagram).is_ok());
        }
        assert_eq!(node.peers(), BOOT_IDS_MAX);
        // A replay does not refresh a boot id. A new datagram does.
        assert_eq!(node.open(&recorded[1]), Err(DropReason::Replayed));
        let mut oldest = seal_of(0);
        oldest.seal(DatagramKind::Votes, BODY);
        assert!(node.open(&oldest.seal(DatagramKind::Votes, BODY)).is_ok());
        assert!(node.open(&recorded[BOOT_IDS_MAX]).is_ok());
        assert_eq!(node.peers(), BOOT_IDS_MAX);
        assert_eq!(node.open(&recorded[0]), Err(DropReason::Replayed));
        assert_eq!(node.open(&recorded[2]), Err(DropReason::Replayed));
        // Its boot id was evicted, so the recording is accepted once more, as a late duplicate.
        assert!(node.open(&recorded[1]).is_ok());
        assert_eq!(node.open(&recorded[1]), Err(DropReason::Replayed));
    }

    #[test]
    fn sealed_bytes_match_another_implementation() {
        // Computed with another implementation of HKDF and AES-GCM.
        let ids = "01014b295bd27a3ab57b".to_owned();
        let header = ids + "00010000000000000000000000000000" + "0000000000000000";
        let rest = "b86609ff3eaa84549c6ea5e6c249349a8526e66365";
        let datagram = seal_of(1)
            .of_cluster("prod")
            .seal(DatagramKind::Votes, b"ping");
        let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, header + rest);
    }

    #[test]
    fn debug_output_hides_secret_and_boot_id() {
        let text = format!("{:?}", Seal::sealed(key(0xab), [0xcd; BOOT_ID_BYTES]));
        assert_eq!(
            text,
            "Seal { secrets: [0dc62ab5], cluster: \"\", counter: Some(0), peers: 0, .. }"
        );
        fn is_send<T: Send>() {}
        is_send::<Seal>();
    }
}
