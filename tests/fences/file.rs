//! A file with a fence file beside it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

use lockmesh::{Epoch, Guard};

use crate::folder::Folder;
use crate::guide::assert_shows;
use crate::late_write::{Late, Resource, late_write, start};

#[derive(Debug, thiserror::Error)]
enum ReplaceError {
    #[error("{seen} has written")]
    Stale { seen: Epoch },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Replaces a file unless a later holder has. Its fence file is locked until the rename.
fn replace(folder: &Path, name: &str, epoch: Epoch, body: &[u8]) -> Result<(), ReplaceError> {
    let path = folder.join(name);
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let fence = options.open(path.with_added_extension("fence"))?;
    fence.lock()?;
    let mut bytes = [0; 8];
    // An empty fence file is new. One with fewer bytes than a number is damaged: an error.
    if fence.metadata()?.len() > 0 {
        fence.read_exact_at(&mut bytes, 0)?;
    }
    let seen = Epoch::new(u64::from_be_bytes(bytes));
    if epoch < seen {
        return Err(ReplaceError::Stale { seen });
    }
    fence.write_all_at(&epoch.get().to_be_bytes(), 0)?;
    fence.sync_all()?;
    let new = path.with_added_extension("new");
    fs::write(&new, body)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, &path)?;
    Ok(File::open(folder)?.sync_all()?)
}

struct Balance {
    folder: Folder,
    is_fenced: bool,
}

impl Resource for Balance {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let (folder, body) = (self.folder.path(), to.to_string());
        if !self.is_fenced {
            return fs::write(folder.join("balance"), body).is_ok();
        }
        match replace(folder, "balance", guard.epoch(), body.as_bytes()) {
            Ok(()) => true,
            Err(ReplaceError::Stale { seen }) => {
                assert!(seen > guard.epoch());
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn read(&self) -> i64 {
        let text = fs::read_to_string(self.folder.path().join("balance"));
        text.unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn late_rename_is_refused() {
    assert_shows("A file", include_str!("file.rs"));
    let cluster = start().await;
    let balance = |is_fenced| Balance {
        folder: Folder::new(),
        is_fenced,
    };
    assert_eq!(late_write(&cluster, &balance(true)).await, Late::Refused);
    assert_eq!(late_write(&cluster, &balance(false)).await, Late::Landed);
}

#[test]
fn holders_at_once_leave_the_highest_epoch() {
    let folder = Folder::new();
    let all = Barrier::new(8);
    std::thread::scope(|threads| {
        for epoch in 1..=8_u64 {
            let (folder, all) = (folder.path(), &all);
            threads.spawn(move || {
                let body = epoch.to_string().repeat(1_000);
                all.wait();
                for _ in 0..20 {
                    match replace(folder, "f", Epoch::new(epoch), body.as_bytes()) {
                        Ok(()) => {}
                        Err(ReplaceError::Stale { .. }) if epoch < 8 => {}
                        Err(error) => panic!("{epoch}: {error}"),
                    }
                }
            });
        }
    });
    let left = fs::read_to_string(folder.path().join("f")).unwrap();
    assert_eq!(left, "8".repeat(1_000));
}

#[test]
fn damaged_fence_file_is_an_error() {
    let folder = Folder::new();
    fs::write(folder.path().join("f.fence"), [0; 7]).unwrap();
    let error = replace(folder.path(), "f", Epoch::new(7), b"").unwrap_err();
    assert!(matches!(error, ReplaceError::Io(_)), "{error}");
}
