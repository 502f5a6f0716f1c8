//! Object stores: a conditional put by etag, and versions that are only created.

use std::sync::Arc;

use lockmesh::{Epoch, Guard};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};

use crate::folder::Folder;
use crate::guide::assert_shows;
use crate::late_write::{Late, Resource, late_write, start};

#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error("{seen} has written")]
    Stale { seen: Epoch },
    #[error("the object does not begin with an epoch")]
    NoEpoch,
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Returns the epoch and the body of an object.
fn parse(content: &[u8]) -> Result<(Epoch, &str), PutError> {
    let text = std::str::from_utf8(content).ok();
    let (epoch, body) = text
        .and_then(|it| it.split_once('\n'))
        .ok_or(PutError::NoEpoch)?;
    Ok((epoch.parse().map_err(|_| PutError::NoEpoch)?, body))
}

fn refuse_below(seen: Epoch, epoch: Epoch) -> Result<(), PutError> {
    match epoch < seen {
        true => Err(PutError::Stale { seen }),
        false => Ok(()),
    }
}

/// Replaces an object unless a later holder has written it.
async fn put_by_etag(
    store: &dyn ObjectStore,
    path: &Path,
    epoch: Epoch,
    body: &str,
) -> Result<(), PutError> {
    loop {
        let mode = match store.get(path).await {
            Ok(object) => {
                let (e_tag, version) = (object.meta.e_tag.clone(), object.meta.version.clone());
                let (seen, _) = parse(&object.bytes().await?)?;
                refuse_below(seen, epoch)?;
                PutMode::Update(UpdateVersion { e_tag, version })
            }
            Err(object_store::Error::NotFound { .. }) => PutMode::Create,
            Err(error) => return Err(error.into()),
        };
        let content = PutPayload::from(format!("{epoch}\n{body}"));
        match store.put_opts(path, content, mode.into()).await {
            // Another has written since: read who.
            Err(object_store::Error::Precondition { .. })
            | Err(object_store::Error::AlreadyExists { .. }) => {}
            written => return Ok(written.map(drop)?),
        }
    }
}

/// Returns the number and the content of the newest version.
async fn newest_version(
    store: &dyn ObjectStore,
    folder: &Path,
) -> Result<Option<(u64, Vec<u8>)>, PutError> {
    let versions = store.list_with_delimiter(Some(folder)).await?.objects;
    let numbered = versions.into_iter().filter_map(|version| {
        let number = version.location.filename()?.parse().ok()?;
        Some((number, version.location))
    });
    let Some((number, path)): Option<(u64, _)> = numbered.max() else {
        return Ok(None);
    };
    let content = store.get(&path).await?.bytes().await?;
    Ok(Some((number, content.to_vec())))
}

/// Adds a version of an object unless a later holder has.
async fn put_version(
    store: &dyn ObjectStore,
    folder: &Path,
    epoch: Epoch,
    body: &str,
) -> Result<(), PutError> {
    loop {
        let newest = newest_version(store, folder).await?;
        let number = match &newest {
            Some((number, content)) => {
                refuse_below(parse(content)?.0, epoch)?;
                number + 1
            }
            None => 1,
        };
        let path = folder.clone().join(format!("{number:020}"));
        let content = PutPayload::from(format!("{epoch}\n{body}"));
        match store.put_opts(&path, content, PutMode::Create.into()).await {
            // Another has taken the number: read who.
            Err(object_store::Error::AlreadyExists { .. }) => {}
            written => return Ok(written.map(drop)?),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum By {
    Etag,
    Version,
    /// No fence.
    Overwrite,
}

struct Object {
    store: Arc<dyn ObjectStore>,
    by: By,
}

impl Object {
    async fn put(&self, epoch: Epoch, body: &str) -> Result<(), PutError> {
        let (store, path) = (&*self.store, Path::from("balance"));
        match self.by {
            By::Etag => put_by_etag(store, &path, epoch, body).await,
            By::Version => put_version(store, &path, epoch, body).await,
            By::Overwrite => {
                let content = PutPayload::from(format!("{epoch}\n{body}"));
                Ok(store.put(&path, content).await.map(drop)?)
            }
        }
    }

    async fn get(&self) -> (Epoch, String) {
        let path = Path::from("balance");
        let content = match self.by {
            By::Version => {
                newest_version(&*self.store, &path)
                    .await
                    .unwrap()
                    .unwrap()
                    .1
            }
            _ => self
                .store
                .get(&path)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap()
                .to_vec(),
        };
        let (epoch, body) = parse(&content).unwrap();
        (epoch, body.to_owned())
    }
}

impl Resource for Object {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        match self.put(guard.epoch(), &to.to_string()).await {
            Ok(()) => true,
            Err(PutError::Stale { seen }) => {
                assert!(seen > guard.epoch());
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn read(&self) -> i64 {
        self.get().await.1.parse().unwrap()
    }
}

fn in_memory(by: By) -> Object {
    let store = Arc::new(InMemory::new());
    Object { store, by }
}

fn on_disk(by: By, folder: &Folder) -> Object {
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let store = Arc::new(store);
    Object { store, by }
}

#[tokio::test]
async fn late_put_in_memory_is_refused() {
    assert_shows("An object store", include_str!("object_store.rs"));
    let cluster = start().await;
    for by in [By::Etag, By::Version] {
        assert_eq!(late_write(&cluster, &in_memory(by)).await, Late::Refused);
    }
    let unfenced = in_memory(By::Overwrite);
    assert_eq!(late_write(&cluster, &unfenced).await, Late::Landed);
}

#[tokio::test]
async fn late_put_on_disk_is_refused() {
    let cluster = start().await;
    let (fenced, unfenced) = (Folder::new(), Folder::new());
    let fenced = on_disk(By::Version, &fenced);
    assert_eq!(late_write(&cluster, &fenced).await, Late::Refused);
    let unfenced = on_disk(By::Overwrite, &unfenced);
    assert_eq!(late_write(&cluster, &unfenced).await, Late::Landed);
}

/// Lets eight holders put at once. The highest epoch must be left.
async fn puts_at_once(object: Object) {
    let object = Arc::new(object);
    let puts = (1..=8_u64).map(|number| {
        let object = object.clone();
        tokio::spawn(async move {
            for _ in 0..8 {
                match object.put(Epoch::new(number), &number.to_string()).await {
                    Ok(()) => {}
                    Err(PutError::Stale { seen }) => assert!(seen > Epoch::new(number)),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    assert_eq!(object.get().await, (Epoch::new(8), "8".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_at_once_leave_the_highest_epoch() {
    puts_at_once(in_memory(By::Etag)).await;
    puts_at_once(in_memory(By::Version)).await;
    let folder = Folder::new();
    puts_at_once(on_disk(By::Version, &folder)).await;
    // The epochs of the versions never fall.
    let mut names: Vec<_> = std::fs::read_dir(folder.path().join("balance"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let contents = names.iter().map(|name| std::fs::read(name).unwrap());
    let epochs: Vec<_> = contents.map(|it| parse(&it).unwrap().0).collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
}

/// The reason why the guide keeps the epoch in the object: an etag that was read again passes.
#[tokio::test]
async fn etag_alone_is_no_fence() {
    let object = in_memory(By::Etag);
    object.put(Epoch::new(8), "8").await.unwrap();
    let path = Path::from("balance");
    let read_again = object.store.get(&path).await.unwrap().meta;
    let (e_tag, version) = (read_again.e_tag, read_again.version);
    let mode = PutMode::Update(UpdateVersion { e_tag, version });
    let late = PutPayload::from_static(b"e7\n7");
    object
        .store
        .put_opts(&path, late, mode.into())
        .await
        .unwrap();
    assert_eq!(object.get().await.0, Epoch::new(7));
}
