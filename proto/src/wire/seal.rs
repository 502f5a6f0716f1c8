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
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

pub use super::secret::{CLUSTER_SECRET_BYTES, ClusterSecret, SecretError};
pub use super::window::REPLAY_WINDOW;
use super::window::Window;
use super::{DatagramKind, DropReason, PROTOCOL_VERSION};
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
const ID_BYTES: usize = 4;
const CLUSTER_AT: usize = 2 + ID_BYTES;
const BOOT_AT: usize = CLUSTER_AT + ID_BYTES;
const COUNTER_AT: usize = BOOT_AT + BOOT_ID_BYTES;
const HEADER_BYTES: usize = COUNTER_AT + size_of::<u64>();
/// The bytes that sealing adds to a body: header, kind and tag.
pub const SEALED_OVERHEAD: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// The bytes that plaintext adds to a body: version, mode, cluster id and kind.
const PLAINTEXT_OVERHEAD: usize = 3 + ID_BYTES;

const SALT: &[u8] = b"lockmesh";
const SUBKEY_LABEL: &[u8] = b"lockmesh v1 datagrams of ";
const KEY_ID_LABEL: &[u8] = b"lockmesh v1 key id";

type BootId = [u8; BOOT_ID_BYTES];
type Id = [u8; ID_BYTES];

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
    /// Derived from the cluster's secret. The subkeys are derived from it.
    prk: Prk,
    key_id: Id,
    /// The cluster's name.
    cluster: String,
    boot_id: BootId,
    key: LessSafeKey,
    /// The counter of the next datagram; `None` once all are used.
    counter: Option<u64>,
    peers: BTreeMap<BootId, Sender>,
    /// The number of datagrams accepted, as the clock of [`Sender::heard`].
    taken: u64,
}

/// One start of another node.
struct Sender {
    key: LessSafeKey,
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

    /// Creates a seal for datagrams that only nodes with this secret can read and create.
    ///
    /// `boot_id` must be drawn from the operating system's randomness at every start. Two starts
    /// under one boot id would reuse nonces, which breaks the encryption and the authentication of
    /// AES-GCM.
    ///
    /// # Panics
    /// Never: HKDF-SHA256 can always supply 32 bytes.
    #[must_use]
    pub fn sealed(key: ClusterSecret, boot_id: [u8; BOOT_ID_BYTES]) -> Self {
        let prk = Salt::new(HKDF_SHA256, SALT).extract(key.as_bytes());
        let mut key_id = [0; ID_BYTES];
        prk.expand(&[KEY_ID_LABEL], IdLength)
            .and_then(|okm| okm.fill(&mut key_id))
            .expect("HKDF-SHA256 gives up to 8,160 bytes");
        let key = subkey(&prk, &boot_id, "").expect("HKDF-SHA256 gives up to 8,160 bytes");
        let sealed = Sealed {
            prk,
            key_id,
            cluster: String::new(),
            boot_id,
            key,
            counter: Some(0),
            peers: BTreeMap::new(),
            taken: 0,
        };
        Self {
            cluster_id: id_of_name(""),
            sealed: Some(Box::new(sealed)),
        }
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
            sealed.key = subkey(&sealed.prk, &sealed.boot_id, name)
                .expect("HKDF-SHA256 gives up to 8,160 bytes");
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

    /// Returns a datagram with this body.
    ///
    /// No counter is used twice: after 2^64 datagrams, or some centuries, the result is an empty
    /// datagram. Every receiver drops it as [`DropReason::Short`].
    pub fn seal(&mut self, kind: DatagramKind, body: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(self.overhead() + body.len());
        let Some(sealed) = &mut self.sealed else {
            datagram.extend([PROTOCOL_VERSION, MODE_PLAINTEXT]);
            datagram.extend(self.cluster_id);
            datagram.push(kind.to_byte());
            datagram.extend(body);
            return datagram;
        };
        match sealed.seal(self.cluster_id, kind, body, &mut datagram) {
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
        Ok((kind, body))
    }

    /// Opens like [`Seal::open`], and replaces the content of `body`. After an error, the content
    /// of `body` is unspecified.
    pub(crate) fn open_into(
        &mut self,
        datagram: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<DatagramKind, DropReason> {
        body.clear();
        let (mode, rest) = match datagram {
            [PROTOCOL_VERSION, mode, rest @ ..] => (*mode, rest),
            [PROTOCOL_VERSION] | [] => return Err(DropReason::Short),
            _ => return Err(DropReason::Version),
        };
        match (mode, &mut self.sealed) {
            (MODE_PLAINTEXT, None) => {
                let (id, rest) = rest.split_at_checked(ID_BYTES).ok_or(DropReason::Short)?;
                let (kind, rest) = rest.split_first().ok_or(DropReason::Short)?;
                if id != self.cluster_id {
                    return Err(DropReason::Cluster);
                }
                body.extend_from_slice(rest);
                DatagramKind::from_byte(*kind)
            }
            (MODE_SEALED, Some(sealed)) => sealed.open(self.cluster_id, datagram, body),
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
            .field("key_id", &u32::from_be_bytes(sealed.key_id))
            .field("cluster", &sealed.cluster)
            .field("counter", &sealed.counter)
            .field("peers", &sealed.peers.len())
            .finish_non_exhaustive()
    }
}

impl Sealed {
    fn seal(
        &mut self,
        cluster_id: Id,
        kind: DatagramKind,
        body: &[u8],
        datagram: &mut Vec<u8>,
    ) -> Result<(), Unspecified> {
        let counter = self.counter.ok_or(Unspecified)?;
        self.counter = counter.checked_add(1);
        datagram.extend([PROTOCOL_VERSION, MODE_SEALED]);
        datagram.extend(self.key_id);
        datagram.extend(cluster_id);
        datagram.extend(self.boot_id);
        datagram.extend(counter.to_le_bytes());
        datagram.push(kind.to_byte());
        datagram.extend(body);
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
    fn open(
        &mut self,
        cluster_id: Id,
        datagram: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<DatagramKind, DropReason> {
        let Some((header, sealed)) = datagram.split_at_checked(HEADER_BYTES) else {
            return Err(DropReason::Short);
        };
        if sealed.len() <= TAG_BYTES {
            return Err(DropReason::Short);
        }
        if header[2..CLUSTER_AT] != self.key_id {
            return Err(DropReason::Key);
        }
        if header[CLUSTER_AT..BOOT_AT] != cluster_id {
            return Err(DropReason::Cluster);
        }
        let boot_id: BootId = field(&header[BOOT_AT..COUNTER_AT])?;
        if boot_id == self.boot_id {
            return Err(DropReason::FromMyself);
        }
        let counter = u64::from_le_bytes(field(&header[COUNTER_AT..])?);
        let kind = match self.peers.get_mut(&boot_id) {
            Some(peer) => {
                let kind = decrypt(&peer.key, counter, header, sealed, body)?;
                if !peer.window.admit(counter) {
                    return Err(DropReason::Replayed);
                }
                self.taken += 1;
                peer.heard = self.taken;
                kind
            }
            None => {
                let key =
                    subkey(&self.prk, &boot_id, &self.cluster).map_err(|_| DropReason::Forged)?;
                let kind = decrypt(&key, counter, header, sealed, body)?;
                self.remember(boot_id, key, counter);
                kind
            }
        };
        DatagramKind::from_byte(kind)
    }

    /// Remembers a boot id that is authentic.
    fn remember(&mut self, boot_id: BootId, key: LessSafeKey, counter: u64) {
        if self.peers.len() >= BOOT_IDS_MAX {
            let longest_silent = self.peers.iter().min_by_key(|(_, peer)| peer.heard);
            if let Some(evicted) = longest_silent.map(|(boot_id, _)| *boot_id) {
                self.peers.remove(&evicted);
            }
        }
        self.taken += 1;
        let peer = Sender {
            key,
            window: Window::starting_at(counter),
            heard: self.taken,
        };
        self.peers.insert(boot_id, peer);
    }
}

/// The length of the key id, for HKDF.
struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        ID_BYTES
    }
}

/// Returns the id of a cluster's name. It is not secret: it separates two clusters, and a name from
/// no name.
fn id_of_name(name: &str) -> Id {
    let [a, b, c, d, ..] = hash_of_name(name).to_be_bytes();
    [a, b, c, d]
}

fn subkey(prk: &Prk, boot_id: &BootId, cluster: &str) -> Result<LessSafeKey, Unspecified> {
    let info = [SUBKEY_LABEL, boot_id, cluster.as_bytes()];
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

/// Decrypts a datagram. Returns the kind byte and puts the body into `body`, which must be empty.
fn decrypt(
    key: &LessSafeKey,
    counter: u64,
    header: &[u8],
    sealed: &[u8],
    body: &mut Vec<u8>,
) -> Result<u8, DropReason> {
    let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
    let tag = field::<TAG_BYTES>(tag)?.into();
    let (nonce, aad) = (nonce(counter), Aad::from(header));
    body.extend_from_slice(ciphertext);
    key.open_in_place_separate_tag(nonce, aad, tag, body, 0..)
        .map_err(|_| DropReason::Forged)?;
    let kind = body.first().copied().ok_or(DropReason::Short)?;
    body.remove(0);
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"a body of some thirty bytes here";

    fn key(byte: u8) -> ClusterSecret {
        ClusterSecret::from_bytes([byte; CLUSTER_SECRET_BYTES]).unwrap()
    }

    fn seal_of(boot: u16) -> Seal {
        let mut boot_id = [0; BOOT_ID_BYTES];
        boot_id[..2].copy_from_slice(&boot.to_be_bytes());
        Seal::sealed(key(1), boot_id)
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
        assert_eq!(datagram[..2], [PROTOCOL_VERSION, MODE_PLAINTEXT]);
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
            "Seal { key_id: 231090869, cluster: \"\", counter: Some(0), peers: 0, .. }"
        );
        fn is_send<T: Send>() {}
        is_send::<Seal>();
    }
}
