//! The content of the file system: what processes observe, what a power cut leaves, and the
//! difference. Without a mount.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::IgnoredSyncs;

/// The number of a file or directory. No number is used for two. Each file has another after a cut.
pub(super) type Ino = u64;
/// The number of the root directory.
pub(super) const ROOT: Ino = 1;
/// The longest file.
const FILE_MAX: usize = 1 << 30;

/// The content of a file or directory.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Content {
    File(Vec<u8>),
    Dir(BTreeMap<OsString, Ino>),
}

/// One operation on a file or directory.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
    Insert(OsString, Ino),
    Remove(OsString),
    Rename(OsString, OsString),
}

/// A file or directory.
#[derive(Debug)]
struct Inode {
    now: Content,
    synced: Content,
    /// The operations that lead from `synced` to `now`.
    unsynced: Vec<Change>,
}

/// What `stat` returns of a file or directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Attr {
    pub(super) ino: Ino,
    pub(super) is_dir: bool,
    pub(super) len: u64,
}

/// All files and directories.
#[derive(Debug)]
pub(super) struct Disk {
    inodes: BTreeMap<Ino, Inode>,
    last: Ino,
    ignored: IgnoredSyncs,
}

impl Content {
    fn apply(&mut self, change: Change) {
        match (self, change) {
            (Self::File(file), Change::Write { at, bytes }) => {
                let end = at + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(&bytes);
            }
            (Self::File(file), Change::SetLen(len)) => file.resize(len, 0),
            (Self::Dir(names), Change::Insert(name, ino)) => {
                names.insert(name, ino);
            }
            (Self::Dir(names), Change::Remove(name)) => {
                names.remove(&name);
            }
            (Self::Dir(names), Change::Rename(from, to)) => {
                if let Some(ino) = names.remove(&from) {
                    names.insert(to, ino);
                }
            }
            // `Inode::change` is called for neither.
            (Self::File(_) | Self::Dir(_), _) => {}
        }
    }
}

impl Inode {
    fn new(content: Content) -> Self {
        Self {
            synced: content.clone(),
            now: content,
            unsynced: Vec::new(),
        }
    }

    fn change(&mut self, change: Change) {
        self.now.apply(change.clone());
        // Appended bytes are one write, so that many small ones take no more memory.
        if let (
            Some(Change::Write { at, bytes }),
            Change::Write {
                at: next,
                bytes: more,
            },
        ) = (self.unsynced.last_mut(), &change)
            && *at + bytes.len() == *next
        {
            bytes.extend(more);
        } else {
            self.unsynced.push(change);
        }
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.synced.apply(change);
        }
    }

    /// Loses what is not synced, apart from what a torn cut leaves.
    fn cut(&mut self, torn: Option<&mut StdRng>) {
        let mut changes = std::mem::take(&mut self.unsynced).into_iter();
        if let Some(rng) = torn {
            let whole = rng.random_range(0..=changes.len());
            for change in changes.by_ref().take(whole) {
                self.synced.apply(change);
            }
            if let Some(Change::Write { at, mut bytes }) = changes.next() {
                bytes.truncate(rng.random_range(0..=bytes.len()));
                if rng.random_bool(0.3) {
                    // The length was written, and not all of the bytes.
                    let written = rng.random_range(0..=bytes.len());
                    bytes[written..].fill(0);
                }
                self.synced.apply(Change::Write { at, bytes });
            }
        }
        self.now = self.synced.clone();
    }

    fn attr(&self, ino: Ino) -> Attr {
        let (is_dir, len) = match &self.now {
            Content::File(file) => (false, file.len() as u64),
            Content::Dir(_) => (true, 0),
        };
        Attr { ino, is_dir, len }
    }

    fn names(&self) -> impl Iterator<Item = Ino> {
        let names = [&self.now, &self.synced].map(|content| match content {
            Content::Dir(names) => Some(names.values().copied()),
            Content::File(_) => None,
        });
        names.into_iter().flatten().flatten()
    }
}

impl Disk {
    pub(super) fn new(ignored: IgnoredSyncs) -> Self {
        let root = Inode::new(Content::Dir(BTreeMap::new()));
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            last: ROOT,
            ignored,
        }
    }

    /// Loses what was not synced. If the cut is torn, a part of it survives.
    pub(super) fn cut(&mut self, mut torn: Option<&mut StdRng>) {
        for inode in self.inodes.values_mut() {
            inode.cut(torn.as_deref_mut());
        }
        self.drop_nameless();
        // Whoever still has a number from before the cut finds nothing.
        let mut numbers = BTreeMap::from([(ROOT, ROOT)]);
        for ino in self.inodes.keys().filter(|ino| **ino != ROOT) {
            self.last += 1;
            numbers.insert(*ino, self.last);
        }
        let inodes = std::mem::take(&mut self.inodes).into_iter();
        let renumbered = inodes.map(|(ino, mut inode)| {
            if let Content::Dir(names) = &mut inode.now {
                names.values_mut().for_each(|it| *it = numbers[it]);
            }
            (numbers[&ino], Inode::new(inode.now))
        });
        self.inodes = renumbered.collect();
    }

    /// Drops what has no name, neither now nor after a cut.
    fn drop_nameless(&mut self) {
        let mut named = std::collections::BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(ino) = next.pop() {
            let names = self.inodes.get(&ino).into_iter().flat_map(Inode::names);
            next.extend(names.filter(|ino| named.insert(*ino)));
        }
        self.inodes.retain(|ino, _| named.contains(ino));
    }

    pub(super) fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        let ino = *self.dir(parent)?.get(name).ok_or(Errno::NOENT)?;
        self.attr(ino)
    }

    pub(super) fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        Ok(self.inode(ino)?.attr(ino))
    }

    pub(super) fn create(&mut self, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        self.insert(parent, name, Content::File(Vec::new()))
    }

    pub(super) fn mkdir(&mut self, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        self.insert(parent, name, Content::Dir(BTreeMap::new()))
    }

    fn insert(&mut self, parent: Ino, name: &OsStr, content: Content) -> Result<Attr, Errno> {
        if self.dir(parent)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.last += 1;
        let ino = self.last;
        let change = Change::Insert(name.to_owned(), ino);
        self.inode_mut(parent)?.change(change);
        self.inodes.insert(ino, Inode::new(content));
        self.attr(ino)
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &OsStr) -> Result<(), Errno> {
        if self.lookup(parent, name)?.is_dir {
            return Err(Errno::ISDIR);
        }
        let change = Change::Remove(name.to_owned());
        self.inode_mut(parent)?.change(change);
        Ok(())
    }

    pub(super) fn rename(&mut self, parent: Ino, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        self.lookup(parent, from)?;
        let change = Change::Rename(from.to_owned(), to.to_owned());
        self.inode_mut(parent)?.change(change);
        Ok(())
    }

    /// Returns up to `len` bytes of a file.
    pub(super) fn read(&self, ino: Ino, at: u64, len: u32) -> Result<&[u8], Errno> {
        let file = self.file(ino)?;
        let at = position(at)?.min(file.len());
        let len = (len as usize).min(file.len() - at);
        Ok(&file[at..at + len])
    }

    pub(super) fn write(&mut self, ino: Ino, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file(ino)?;
        let (at, bytes) = (position(at)?, bytes.to_vec());
        position((at + bytes.len()) as u64)?;
        self.inode_mut(ino)?.change(Change::Write { at, bytes });
        Ok(())
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: u64) -> Result<(), Errno> {
        self.file(ino)?;
        let change = Change::SetLen(position(len)?);
        self.inode_mut(ino)?.change(change);
        Ok(())
    }

    /// Syncs a file or the names in a directory. `is_data`: by `fdatasync`.
    pub(super) fn sync(&mut self, ino: Ino, is_data: bool) -> Result<(), Errno> {
        let is_ignored = match self.ignored {
            IgnoredSyncs::None => false,
            IgnoredSyncs::Data => is_data,
            IgnoredSyncs::All => true,
        };
        let inode = self.inode_mut(ino)?;
        if is_ignored {
            return Ok(());
        }
        inode.sync();
        if matches!(inode.now, Content::Dir(_)) {
            self.drop_nameless();
        }
        Ok(())
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::STALE)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)
    }

    fn dir(&self, ino: Ino) -> Result<&BTreeMap<OsString, Ino>, Errno> {
        match &self.inode(ino)?.now {
            Content::Dir(names) => Ok(names),
            Content::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn file(&self, ino: Ino) -> Result<&[u8], Errno> {
        match &self.inode(ino)?.now {
            Content::File(file) => Ok(file),
            Content::Dir(_) => Err(Errno::ISDIR),
        }
    }
}

/// Returns a position in a file.
fn position(at: u64) -> Result<usize, Errno> {
    let at = usize::try_from(at).ok().filter(|at| *at <= FILE_MAX);
    at.ok_or(Errno::FBIG)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn disk() -> Disk {
        Disk::new(IgnoredSyncs::None)
    }

    fn create(disk: &mut Disk, name: &str) -> Ino {
        disk.create(ROOT, OsStr::new(name)).unwrap().ino
    }

    fn rename(disk: &mut Disk, from: &str, to: &str) {
        disk.rename(ROOT, OsStr::new(from), OsStr::new(to)).unwrap();
    }

    fn append(disk: &mut Disk, ino: Ino, text: &str) {
        let at = disk.attr(ino).unwrap().len;
        disk.write(ino, at, text.as_bytes()).unwrap();
    }

    /// Returns the content of a file, or `None` if there is none of this name.
    fn content(disk: &Disk, name: &str) -> Option<String> {
        let file = disk.lookup(ROOT, OsStr::new(name)).ok()?;
        let bytes = disk.read(file.ino, 0, u32::MAX).unwrap();
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Returns a disk with the synced file `a`.
    fn with_synced(text: &str) -> (Disk, Ino) {
        let mut disk = disk();
        let ino = create(&mut disk, "a");
        append(&mut disk, ino, text);
        disk.sync(ino, true).unwrap();
        disk.sync(ROOT, false).unwrap();
        (disk, ino)
    }

    #[test]
    fn cut_loses_what_was_not_synced() {
        let (mut disk, ino) = with_synced("one");
        append(&mut disk, ino, "two");
        disk.set_len(ino, 4).unwrap();
        assert_eq!(content(&disk, "a").as_deref(), Some("onet"));
        disk.cut(None);
        assert_eq!(content(&disk, "a").as_deref(), Some("one"));
    }

    #[test]
    fn synced_file_without_synced_name_is_lost() {
        let mut disk = disk();
        let ino = create(&mut disk, "a");
        append(&mut disk, ino, "one");
        disk.sync(ino, false).unwrap();
        disk.cut(None);
        assert_eq!(content(&disk, "a"), None);
    }

    #[test]
    fn synced_name_without_synced_file_is_empty() {
        let mut disk = disk();
        let ino = create(&mut disk, "a");
        append(&mut disk, ino, "one");
        disk.sync(ROOT, false).unwrap();
        disk.cut(None);
        assert_eq!(content(&disk, "a").as_deref(), Some(""));
    }

    #[test]
    fn rename_survives_with_sync_of_directory() {
        for is_synced in [false, true] {
            let (mut disk, _) = with_synced("one");
            let new = create(&mut disk, "b");
            append(&mut disk, new, "two");
            disk.sync(new, false).unwrap();
            rename(&mut disk, "b", "a");
            assert_eq!(content(&disk, "a").as_deref(), Some("two"));
            if is_synced {
                disk.sync(ROOT, false).unwrap();
            }
            disk.cut(None);
            let left = if is_synced { "two" } else { "one" };
            assert_eq!(content(&disk, "a").as_deref(), Some(left));
            assert_eq!(content(&disk, "b"), None);
        }
    }

    #[test]
    fn removed_name_returns_unless_synced() {
        let (mut disk, _) = with_synced("one");
        disk.unlink(ROOT, OsStr::new("a")).unwrap();
        assert_eq!(content(&disk, "a"), None);
        disk.cut(None);
        assert_eq!(content(&disk, "a").as_deref(), Some("one"));
        disk.unlink(ROOT, OsStr::new("a")).unwrap();
        disk.sync(ROOT, false).unwrap();
        disk.cut(None);
        assert_eq!(content(&disk, "a"), None);
        assert_eq!(disk.inodes.len(), 1);
    }

    #[test]
    fn new_directory_is_lost_with_its_files() {
        for is_synced in [false, true] {
            let mut disk = disk();
            let dir = disk.mkdir(ROOT, OsStr::new("d")).unwrap().ino;
            let file = disk.create(dir, OsStr::new("a")).unwrap().ino;
            disk.sync(file, false).unwrap();
            disk.sync(dir, false).unwrap();
            if is_synced {
                disk.sync(ROOT, false).unwrap();
            }
            disk.cut(None);
            let left = disk.lookup(ROOT, OsStr::new("d"));
            let left = left.and_then(|dir| disk.lookup(dir.ino, OsStr::new("a")));
            assert_eq!(left.is_ok(), is_synced);
        }
    }

    #[test]
    fn torn_cut_leaves_prefix_or_zeros() {
        let mut left = BTreeSet::new();
        for seed in 0..500 {
            let (mut disk, ino) = with_synced("one");
            append(&mut disk, ino, "two");
            append(&mut disk, ino, "three");
            disk.cut(Some(&mut StdRng::seed_from_u64(seed)));
            left.insert(content(&disk, "a").unwrap());
        }
        let whole = "onetwothree";
        for text in &left {
            let written = text.trim_end_matches('\0');
            assert!(whole.starts_with(written), "{text:?}");
            assert!((3..=whole.len()).contains(&text.len()), "{text:?}");
        }
        for text in ["one", "onetwoth", "onetwothree", "onet\0\0"] {
            assert!(left.contains(text), "{text:?} of {left:?}");
        }
    }

    /// Otherwise a rename could not survive before the content of the file.
    #[test]
    fn torn_cut_is_drawn_for_each_file() {
        let mut left = BTreeSet::new();
        for seed in 0..500 {
            let (mut disk, _) = with_synced("one");
            let new = create(&mut disk, "b");
            append(&mut disk, new, "2");
            rename(&mut disk, "b", "a");
            disk.cut(Some(&mut StdRng::seed_from_u64(seed)));
            left.insert((content(&disk, "a").unwrap(), content(&disk, "b").is_some()));
        }
        for (text, has_other) in [("one", false), ("one", true), ("", false), ("2", false)] {
            let it = (text.to_owned(), has_other);
            assert!(left.contains(&it), "{it:?} of {left:?}");
        }
    }

    #[test]
    fn ignored_syncs_keep_nothing() {
        use IgnoredSyncs::{All, Data, None};
        for (ignored, left) in [(None, "datameta"), (Data, "datameta"), (All, "")] {
            let mut disk = disk();
            let ino = create(&mut disk, "a");
            disk.sync(ROOT, false).unwrap();
            disk.ignored = ignored;
            append(&mut disk, ino, "data");
            disk.sync(ino, true).unwrap();
            append(&mut disk, ino, "meta");
            disk.sync(ino, false).unwrap();
            append(&mut disk, ino, "more");
            disk.sync(ino, true).unwrap();
            disk.cut(Option::None);
            let more = if ignored == None { "more" } else { "" };
            assert_eq!(content(&disk, "a"), Some(format!("{left}{more}")));
        }
    }

    #[test]
    fn handles_from_before_the_cut_are_stale() {
        let (mut disk, ino) = with_synced("one");
        disk.cut(None);
        assert_eq!(disk.write(ino, 0, b"late"), Err(Errno::STALE));
        assert_eq!(content(&disk, "a").as_deref(), Some("one"));
    }
}
