//! The disk as a file system of the kernel's FUSE.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno as SystemError;

use super::disk::{Attr, Disk};
use super::lock;

/// The kernel caches nothing: a cut would leave it wrong.
const TTL: Duration = Duration::ZERO;
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;
/// Each file has the handle zero: its number is enough.
const HANDLE: FileHandle = FileHandle(0);
const GENERATION: Generation = Generation(0);

/// A disk that the kernel can ask.
#[derive(Debug)]
pub(super) struct Fuse(pub(super) Arc<Mutex<Disk>>);

fn errno(error: SystemError) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn attr(attr: Attr) -> FileAttr {
    let time = UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.len,
        blocks: attr.len.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: match attr.is_dir {
            true => FileType::Directory,
            false => FileType::RegularFile,
        },
        perm: if attr.is_dir { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(found: Result<Attr, SystemError>, reply: ReplyEntry) {
    match found {
        Ok(found) => reply.entry(&TTL, &attr(found), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

fn attributes(found: Result<Attr, SystemError>, reply: ReplyAttr) {
    match found {
        Ok(found) => reply.attr(&TTL, &attr(found)),
        Err(error) => reply.error(errno(error)),
    }
}

fn empty(done: Result<(), SystemError>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(lock(&self.0).lookup(parent.0, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(lock(&self.0).attr(ino.0), reply);
    }

    /// Sets the length. Files have neither owners, permissions nor times.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = lock(&self.0);
        let done = size.map_or(Ok(()), |size| disk.set_len(ino.0, size));
        attributes(done.and_then(|()| disk.attr(ino.0)), reply);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(lock(&self.0).mkdir(parent.0, name), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match lock(&self.0).create(parent.0, name) {
            Ok(new) => reply.created(&TTL, &attr(new), GENERATION, HANDLE, OPENED),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match lock(&self.0).attr(ino.0) {
            Ok(_) => reply.opened(HANDLE, OPENED),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(ino.0, offset, size) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(ino.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        empty(lock(&self.0).sync(ino.0, datasync), reply);
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(lock(&self.0).sync(ino.0, datasync), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(lock(&self.0).unlink(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = match parent == newparent && flags.is_empty() {
            true => lock(&self.0).rename(parent.0, name, newname),
            false => Err(SystemError::NOSYS),
        };
        empty(done, reply);
    }
}
