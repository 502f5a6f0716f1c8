//! Journals: voters that remember their votes over restarts and power cuts, on real files.
//!
//! Quarantines last ten minutes here: a test that waits for one fails.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id as pid};
use std::time::Duration;

use lockmesh::status::{JournalStatus, RefuseReason, Standing};
use lockmesh::{ConfigError, DataDirError, Durability, Mesh, MeshBuilder};
use lockmesh_harness::LocalMesh;

use crate::common::{PATIENCE, beside, nodes, secret, settings, timing, until, waits_for, within};

const MAX_TTL: Duration = Duration::from_secs(600);
/// A key that makes a journal grow.
const LONG_KEY: usize = 250;
/// The size below which a journal is not replaced.
const REPLACED_FROM: u64 = 1 << 20;
/// The directory for the process that [`directory_in_use_is_refused`] starts.
const DIR_OF_OTHER: &str = "LOCKMESH_TEST_DATA_DIR";

/// Starts voters with journals, and two clients.
async fn with_journals(voters: usize, durability: Durability) -> LocalMesh {
    let settings = settings(voters, 2, MAX_TTL).data_dirs(durability);
    let settings = settings.configure(|mesh| mesh.try_timeout(PATIENCE));
    settings.start().await.unwrap()
}

fn journal(mesh: &Mesh) -> JournalStatus {
    mesh.status().journal.expect("a journal")
}

async fn all_are_ready(cluster: &LocalMesh) {
    let are_ready = || nodes(cluster).iter().all(|node| node.status().is_ready);
    until("all are ready", are_ready).await;
}

/// Returns an empty place for a data directory.
fn place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    dir
}

/// A cluster of one with this data directory.
fn single(dir: &Path) -> MeshBuilder {
    MeshBuilder::single("n0").secret(secret()).data_dir(dir)
}

/// Returns the error of a data directory that is refused, and its text.
async fn refusal(builder: MeshBuilder) -> (DataDirError, String) {
    let error = builder.start().await.map(drop).unwrap_err();
    let text = error.to_string();
    match error {
        ConfigError::DataDir { error, .. } => (error, text),
        error => panic!("{error}"),
    }
}

/// Locks and releases long keys until `is_so`.
async fn make_it_grow(mesh: &Mesh, is_so: impl Fn() -> bool) {
    let grow = async {
        for n in 0_u64.. {
            if is_so() {
                return;
            }
            let key = format!("{n:0>LONG_KEY$}");
            mesh.lock(key)
                .acquire()
                .await
                .unwrap()
                .release()
                .await
                .unwrap();
        }
    };
    within("it grows", grow).await;
}

/// Ends and restarts voters while a client holds a lock and another waits for it.
async fn lock_survives(cluster: &LocalMesh, voters: &[usize], durability: Durability) {
    let (holder, other) = (cluster.node(3), cluster.node(4));
    let guard = within("a grant", holder.lock("k").acquire()).await.unwrap();
    let waiting = tokio::spawn(other.lock("k").acquire());
    waits_for(&other, "k", 1).await;
    for n in voters {
        match durability {
            Durability::Process => cluster.crash(*n).await,
            Durability::Machine => cluster.crash_machine(*n).await.unwrap(),
        }
    }
    for n in voters {
        cluster.restart(*n).await.unwrap();
    }
    all_are_ready(cluster).await;
    let denied = within("a try", cluster.node(0).lock("k").try_acquire()).await;
    assert!(denied.unwrap().is_none() && guard.is_held() && !waiting.is_finished());
    drop(
        within("another", other.lock("other").acquire())
            .await
            .unwrap(),
    );
    let mut left = guard.remaining();
    until("it is renewed", || {
        let before = std::mem::replace(&mut left, guard.remaining());
        left > before
    })
    .await;
    let epoch = guard.epoch();
    guard.release().await.unwrap();
    let next = within("the waiter", waiting).await.unwrap().unwrap();
    assert!(next.epoch() > epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_survive_restart_of_any_voters() {
    let cluster = with_journals(3, Durability::Process).await;
    for voters in [&[0][..], &[1, 2], &[0, 1, 2]] {
        lock_survives(&cluster, voters, Durability::Process).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synced_locks_survive_power_cuts() {
    let cluster = with_journals(3, Durability::Machine).await;
    for voters in [&[0][..], &[1, 2], &[0, 1, 2]] {
        lock_survives(&cluster, voters, Durability::Machine).await;
    }
    let JournalStatus { bytes, synced, .. } = journal(&cluster.node(0));
    assert!(0 < synced && synced <= bytes, "{synced} of {bytes}");
}

#[tokio::test]
async fn power_cut_without_sync_costs_a_quarantine() {
    let cluster = with_journals(3, Durability::Process).await;
    drop(cluster.node(3).lock("k").acquire().await.unwrap());
    let JournalStatus { bytes, synced, .. } = journal(&cluster.node(0));
    assert!(0 < synced && synced < bytes, "{synced} of {bytes}");
    cluster.crash_machine(0).await.unwrap();
    cluster.restart(0).await.unwrap();
    let left = cluster.node(0).status().quarantine.expect("a quarantine");
    assert!(left > MAX_TTL * 5 / 6, "{left:?}");
    // A restart in the quarantine does not end it.
    cluster.restart(0).await.unwrap();
    assert!(cluster.node(0).status().quarantine.is_some());
}

/// The mark of an ordered end counts once.
#[tokio::test]
async fn shutdown_syncs_for_one_power_cut() {
    let cluster = with_journals(3, Durability::Process).await;
    let guard = cluster.node(3).lock("k").acquire().await.unwrap();
    within("the shutdown", cluster.shutdown(0)).await;
    let JournalStatus { bytes, synced, .. } = journal(&cluster.node(0));
    assert_eq!(synced, bytes);
    cluster.crash_machine(0).await.unwrap();
    cluster.restart(0).await.unwrap();
    all_are_ready(&cluster).await;
    let denied = cluster.node(0).lock("k").try_acquire().await.unwrap();
    assert!(denied.is_none() && guard.is_held());
    cluster.crash_machine(0).await.unwrap();
    cluster.restart(0).await.unwrap();
    assert!(cluster.node(0).status().quarantine.is_some());
}

#[tokio::test]
async fn dropped_mesh_frees_its_data_dir() {
    let dir = place("dropped");
    let mut last = None;
    for durability in [Durability::Machine, Durability::Process] {
        for _ in 0..10 {
            let mesh = single(&dir).durability(durability).start().await.unwrap();
            let guard = within("a grant", mesh.lock("k").acquire()).await.unwrap();
            assert!(Some(guard.epoch()) > last);
            last = Some(guard.epoch());
            // The writer may still be writing the vote of this one.
            let pending = tokio::spawn(mesh.lock("l").acquire());
            tokio::task::yield_now().await;
            pending.abort();
            drop((mesh, guard));
        }
    }
}

#[tokio::test]
async fn directory_in_use_is_refused() {
    let dir = place("in_use");
    let mesh = single(&dir).start().await.unwrap();
    let (error, text) = refusal(single(&dir)).await;
    let DataDirError::InUse { pid: Some(found) } = error else {
        panic!("{error}");
    };
    assert_eq!(found, pid());
    let way_out = "uses it; stop that process, or give each node a directory of its own";
    assert!(
        text.contains(&format!("process {found} {way_out}")),
        "{text}"
    );
    drop(mesh);
    let test = "journal::other_process_uses_a_directory";
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .env(DIR_OF_OTHER, &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let their_pid = other.id().to_string();
    let has_lock = || fs::read_to_string(dir.join("lock")).unwrap().trim() == their_pid;
    until("the other process has it", has_lock).await;
    let (error, _) = refusal(single(&dir)).await;
    assert!(matches!(error, DataDirError::InUse { pid: Some(found) } if found == other.id()));
    other.kill().unwrap();
    other.wait().unwrap();
    let mesh = single(&dir).start().await.unwrap();
    drop(within("a grant", mesh.lock("k").acquire()).await.unwrap());
}

#[tokio::test]
#[ignore = "the other process of another test"]
async fn other_process_uses_a_directory() {
    let Some(dir) = std::env::var_os(DIR_OF_OTHER) else {
        return;
    };
    let mesh = single(Path::new(&dir)).start().await.unwrap();
    let _guard = mesh.lock("k").acquire().await.unwrap();
    // It ends with the process that has the other end.
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
async fn unusable_journals_are_refused() {
    let dir = place("unusable");
    drop(single(&dir).start().await.unwrap());
    let way_out = "use another directory, or delete the journal";
    let is_refused = async |builder: MeshBuilder, why: &str| {
        let (error, text) = refusal(builder).await;
        assert!(matches!(error, DataDirError::Journal(_)), "{error}");
        assert!(text.contains(why) && text.contains(way_out), "{text}");
    };
    is_refused(
        single(&dir).node_id("n1"),
        "it belongs to node n0 of cluster lockmesh",
    )
    .await;
    let other = single(&dir).cluster("other");
    is_refused(other, "it belongs to node n0 of cluster lockmesh").await;
    let file = dir.join("journal");
    let bytes = fs::read(&file).unwrap();
    let mut newer = bytes.clone();
    newer[8] = 3;
    fs::write(&file, newer).unwrap();
    is_refused(
        single(&dir),
        "its format is 3, and this version reads 1 and 2",
    )
    .await;
    fs::write(&file, "the diary of a lock").unwrap();
    is_refused(single(&dir), "it is not a journal of lockmesh").await;
    // No refusal has changed the file.
    assert_eq!(fs::read(&file).unwrap(), b"the diary of a lock");
    fs::write(&file, bytes).unwrap();
    single(&dir).start().await.unwrap();
}

#[tokio::test]
async fn unwritable_directories_are_refused() {
    let dir = place("unwritable");
    fs::write(&dir, "").unwrap();
    let inside = dir.join("inside");
    let journal_is_dir = place("journal_is_dir");
    fs::create_dir_all(journal_is_dir.join("journal")).unwrap();
    for dir in [&dir, &inside, &journal_is_dir] {
        let (error, text) = refusal(single(dir)).await;
        assert!(matches!(error, DataDirError::Io(_)), "{error}");
        let way_out = "make it a directory that this process can write";
        assert!(text.starts_with(&format!("data_dir: {}", dir.display())));
        assert!(text.ends_with(way_out), "{text}");
    }
}

#[tokio::test]
async fn damaged_journal_is_set_aside() {
    let cluster = with_journals(3, Durability::Process).await;
    let guard = cluster.node(3).lock("k").acquire().await.unwrap();
    cluster.crash(0).await;
    let dir = journal(&cluster.node(0)).dir;
    let file = dir.join("journal");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    cluster.restart(0).await.unwrap();
    assert!(cluster.node(0).status().quarantine.is_some() && guard.is_held());
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap());
    let mut aside = files.filter(|it| it.file_name().to_string_lossy().contains("damaged"));
    let aside = aside.next().expect("the damaged file").path();
    assert_eq!(fs::read(aside).unwrap(), bytes);
}

#[tokio::test]
async fn torn_end_of_a_journal_is_cut() {
    let cluster = with_journals(3, Durability::Process).await;
    let guard = cluster.node(3).lock("k").acquire().await.unwrap();
    cluster.crash(0).await;
    let file = journal(&cluster.node(0)).dir.join("journal");
    let torn = OpenOptions::new().append(true).open(&file);
    torn.unwrap().write_all(&[60, 0, 0, 0, 1, 2, 3]).unwrap();
    cluster.restart(0).await.unwrap();
    all_are_ready(&cluster).await;
    let denied = cluster.node(0).lock("k").try_acquire().await.unwrap();
    assert!(denied.is_none() && guard.is_held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grown_journal_is_replaced_and_still_remembers() {
    let cluster = with_journals(1, Durability::Process).await;
    let (voter, client) = (cluster.node(0), cluster.node(1));
    let guard = client.lock("k").acquire().await.unwrap();
    let epoch = client.lock("l").acquire().await.unwrap().epoch();
    for _ in 0..2 {
        make_it_grow(&voter, || journal(&voter).bytes > REPLACED_FROM / 2).await;
        // At rest it is small.
        make_it_grow(&voter, || journal(&voter).bytes < REPLACED_FROM / 2).await;
    }
    let JournalStatus { dir, failures, .. } = journal(&voter);
    assert_eq!(failures, 0);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["journal", "lock"]);
    drop(voter);
    cluster.restart(0).await.unwrap();
    let voter = cluster.node(0);
    within("a resume", voter.ready(PATIENCE)).await.unwrap();
    let denied = voter.lock("k").try_acquire().await.unwrap();
    assert!(denied.is_none() && guard.is_held());
    assert!(voter.lock("l").acquire().await.unwrap().epoch() > epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voter_without_storage_refuses_until_it_writes() {
    let cluster = with_journals(3, Durability::Process).await;
    let (client, voter) = (cluster.node(3), cluster.node(0));
    let held = client.lock("held").acquire().await.unwrap();
    // The journal cannot be replaced when it has grown.
    let obstacle = journal(&voter).dir.join("journal.new");
    fs::create_dir(&obstacle).unwrap();
    make_it_grow(&client, || journal(&voter).has_failed).await;
    let refuses = |seat: usize| {
        let member = &cluster.node(seat).status().members[0];
        member.standing == Standing::Refuses(RefuseReason::Storage)
    };
    until("all know", || (0..5).all(refuses)).await;
    assert!(journal(&voter).failures > 0 && !voter.status().is_ready);
    // Two of three votes are enough.
    drop(within("a grant", client.lock("k").acquire()).await.unwrap());
    cluster.crash(1).await;
    let short = client.lock("l").acquire_timeout(Duration::from_millis(500));
    let error = short.acquire().await.map(drop).unwrap_err().to_string();
    assert!(error.contains("journal"), "{error}");
    cluster.restart(1).await.unwrap();
    fs::remove_dir(&obstacle).unwrap();
    all_are_ready(&cluster).await;
    assert!(!journal(&voter).has_failed && held.is_held());
    for n in 0..3 {
        cluster.restart(n).await.unwrap();
    }
    all_are_ready(&cluster).await;
    let denied = cluster.node(0).lock("held").try_acquire().await.unwrap();
    assert!(denied.is_none() && held.is_held());
}

#[tokio::test]
async fn node_without_vote_keeps_no_journal() {
    let cluster = with_journals(1, Durability::Process).await;
    let dir = place("no_voter");
    let client = beside(&cluster, "client")
        .data_dir(&dir)
        .timing(timing(MAX_TTL));
    let client = client.start().await.unwrap();
    assert!(client.status().journal.is_none() && !dir.exists());
    assert!(cluster.node(1).status().journal.is_none());
}

#[tokio::test]
async fn data_dirs_are_removed_with_their_cluster() {
    let cluster = with_journals(1, Durability::Machine).await;
    let dir = journal(&cluster.node(0)).dir;
    assert!(dir.join("journal").exists());
    drop(cluster);
    assert!(!dir.exists());
}
