//! The thread that writes what must be synced, and replaces journals.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::{Durability, Journal, REPLACEMENT, State, install, len_max, replacement};
use crate::engine::Engine;
use lockmesh_proto::{Node, SnapshotPart};

/// The pauses before a journal that could not be written is replaced: the first and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The next thing to do.
enum Work {
    /// Write these records, up to the write with this number.
    Write(Vec<u8>, u64),
    /// Replace the journal.
    Replace,
    /// Close the journal in order.
    Finish,
}

/// Runs until the journal is closed.
pub(crate) fn run(journal: &Journal, engine: &Weak<Engine>) {
    let mut pause = RETRY_FIRST;
    while let Some((work, _lock)) = journal.next(pause) {
        match work {
            Work::Write(bytes, number) => journal.write_queued(engine, &bytes, number),
            Work::Replace => {
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                match journal.replace(&engine) {
                    Ok(()) => pause = RETRY_FIRST,
                    Err(error) => {
                        tracing::debug!(%error, ?pause, "the journal is not replaced");
                        pause = (pause * 2).min(RETRY_MAX);
                        journal.fail(&engine);
                    }
                }
            }
            Work::Finish => journal.end_in_order(),
        }
    }
}

impl Journal {
    /// Waits for work. A journal that has failed is replaced after `pause`. Returns `None` once the
    /// journal is closed.
    ///
    /// The work comes with the lock of the directory: until it is done, no other process may have
    /// the files.
    fn next(&self, pause: Duration) -> Option<(Work, Arc<File>)> {
        let mut state = self.state();
        let work = loop {
            let files = state.files.as_ref()?;
            if !state.queue.is_empty() {
                break state.take_queue();
            }
            if state.closes {
                break Work::Finish;
            }
            if state.has_failed {
                let goes_on = |state: &mut State| state.files.is_some() && !state.closes;
                let waited = self.work.wait_timeout_while(state, pause, goes_on);
                let (waited, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = waited;
                if timeout.timed_out() {
                    break Work::Replace;
                }
                continue;
            }
            if state.len > files.len_max {
                break Work::Replace;
            }
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        };
        let lock = state.files.as_ref()?.lock.clone();
        Some((work, lock))
    }

    /// Writes and syncs records that were queued, and reports it to the node.
    fn write_queued(&self, engine: &Weak<Engine>, bytes: &[u8], number: u64) {
        let written = self.write_and_sync(bytes);
        self.end_writing(written.is_ok());
        let Some(engine) = engine.upgrade() else {
            return;
        };
        match written {
            Ok(()) => engine.with(|core, now| core.node.persisted(now, number)),
            Err(error) => {
                tracing::debug!(%error, "the journal is not written");
                engine.with(|core, now| core.node.persist_failed(now));
            }
        }
    }

    /// Ends writing what was queued. A failure counts from the same instant: a later write that
    /// succeeds would stand for this one, too.
    fn end_writing(&self, is_written: bool) {
        let mut state = self.state();
        state.is_writing = false;
        if !is_written {
            state.fail();
        }
    }

    fn write_and_sync(&self, bytes: &[u8]) -> io::Result<()> {
        // The state is not locked meanwhile: callers queue what they have.
        let (mut file, len) = {
            let mut state = self.state();
            let state = &mut *state;
            let files = state.files.as_mut().ok_or(ErrorKind::NotFound)?;
            files.write_replacement(bytes);
            state.len += bytes.len() as u64;
            (files.journal.try_clone()?, state.len)
        };
        file.write_all(bytes)?;
        if self.durability == Durability::Machine {
            file.sync_data()?;
            self.state().synced = len;
        }
        Ok(())
    }

    /// Replaces the journal by a snapshot of the node. The node goes on meanwhile, and its new
    /// records go to both.
    fn replace(&self, engine: &Arc<Engine>) -> io::Result<()> {
        let file = replacement(&self.dir)?;
        let mut part = None;
        loop {
            let (rest, written) = engine.with(|core, _| self.write_part(&core.node, part, &file));
            written?;
            match rest {
                None => break,
                rest => part = rest,
            }
            self.write_what_is_queued(engine);
        }
        let synced = file.metadata()?.len();
        file.sync_all()?;
        engine.with(|core, now| {
            let number = self.install(&file, synced)?;
            core.node.journal_replaced(now, number);
            Ok(())
        })
    }

    /// Ends writing, and voting, until the journal is replaced.
    fn fail(&self, engine: &Engine) {
        self.state().fail();
        engine.with(|core, now| core.node.persist_failed(now));
    }

    fn write_what_is_queued(&self, engine: &Arc<Engine>) {
        let mut state = self.state();
        if !state.queue.is_empty()
            && let Work::Write(bytes, number) = state.take_queue()
        {
            drop(state);
            self.write_queued(&Arc::downgrade(engine), &bytes, number);
        }
    }

    /// Writes one part of a snapshot.
    fn write_part(
        &self,
        node: &Node,
        part: Option<SnapshotPart>,
        file: &File,
    ) -> (Option<SnapshotPart>, io::Result<()>) {
        let is_first = part.is_none();
        let (bytes, rest) = node.snapshot(part);
        let mut state = self.state();
        let written = state.files.as_mut().ok_or(ErrorKind::NotFound);
        let written = written.map_err(Into::into).and_then(|files| {
            if is_first {
                files.replacement = Some(file.try_clone()?);
            }
            files.write_replacement(&bytes);
            files
                .replacement
                .as_ref()
                .map(|_| ())
                .ok_or_else(|| ErrorKind::WriteZero.into())
        });
        (rest, written)
    }

    /// Puts the replacement, of which so many bytes are synced, in the place of the journal. Returns
    /// the number of the last write that the node no longer waits for.
    fn install(&self, file: &File, synced: u64) -> io::Result<u64> {
        let mut state = self.state();
        let state = &mut *state;
        let files = state.files.as_mut().ok_or(ErrorKind::NotFound)?;
        // A record that is missing there would be missing for ever.
        let replacement = files.replacement.take().ok_or(ErrorKind::WriteZero)?;
        let syncs = state.has_failed || self.durability == Durability::Machine;
        if syncs {
            replacement.sync_data()?;
        }
        install(&self.dir)?;
        state.len = file.metadata()?.len();
        state.synced = if syncs { state.len } else { synced };
        files.len_max = len_max(state.len);
        files.journal = replacement;
        Ok(match std::mem::take(&mut state.has_failed) {
            true => state.last,
            false => 0,
        })
    }

    /// Appends the mark of an ordered end, syncs everything, and closes the files.
    fn end_in_order(&self) {
        let closed = self.state().write_end();
        if let Err(error) = closed {
            tracing::debug!(%error, "the journal is not closed in order");
        }
        let _ = std::fs::remove_file(self.dir.join(REPLACEMENT));
        self.close();
    }
}

impl State {
    fn write_end(&mut self) -> io::Result<()> {
        let files = self.files.as_mut().ok_or(ErrorKind::NotFound)?;
        if self.has_failed {
            // The last record may be torn, and is cut off only if nothing follows it.
            return Err(ErrorKind::WriteZero.into());
        }
        let end = Node::closing_record();
        files.journal.write_all(&end)?;
        files.journal.sync_all()?;
        self.len += end.len() as u64;
        self.synced = self.len;
        Ok(())
    }

    fn take_queue(&mut self) -> Work {
        self.is_writing = true;
        Work::Write(std::mem::take(&mut self.queue), self.last)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, remove_dir_all};
    use std::path::PathBuf;

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::clock::Time;
    use crate::engine::batch::Terms;
    use crate::engine::core::Ended;
    use crate::engine::core::tests::{config, request};
    use crate::journal::{JOURNAL, LOCK, Opened, Opening, Written};
    use crate::transport::Nowhere;
    use lockmesh_proto::{Epoch, JournalOwner, NodeConfig, RefuseReason, Started};

    /// A cluster of one with a journal. Its writer works when the test says so.
    struct Scene {
        dir: PathBuf,
        engine: Arc<Engine>,
        journal: Arc<Journal>,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.engine.close();
            let _ = remove_dir_all(&self.dir);
        }
    }

    fn open(dir: &std::path::Path, durability: Durability) -> Opened {
        let config = config(0, 1);
        let opening = Opening {
            owner: JournalOwner {
                node: config.id,
                cluster: "cluster".to_owned(),
                buckets: config.limits.fence_buckets,
            },
            durability,
            started: Started::new(config.incarnation, Some(1), false, &config.voter_set),
        };
        Journal::open(dir, opening).unwrap()
    }

    fn start(name: &str, durability: Durability) -> Scene {
        let pid = std::process::id();
        let dir = std::env::temp_dir().join(format!("lockmesh-{pid}-{name}-{durability:?}"));
        let Opened { journal, node, .. } = open(&dir, durability);
        let clock = Time::system();
        let config = NodeConfig {
            max_claims: 2,
            ..config(0, 1)
        };
        let node = Node::with_journal(clock.now(), config, node);
        let journal = Arc::new(journal);
        let (gossip, _) = mpsc::channel(1);
        let node = (node, Some(journal.clone()));
        let engine = Arc::new(Engine::new(clock, Arc::new(Nowhere), node, gossip));
        Scene {
            dir,
            engine,
            journal,
        }
    }

    impl Scene {
        fn claim(&self, key: &str) -> oneshot::Receiver<Ended> {
            let since = self.engine.clock.mono();
            self.engine.claim(since, request(key), Terms::default()).1
        }

        /// Takes the next work of the writer, and does it if it is a write.
        fn work(&self) {
            if let Some((Work::Write(bytes, number), _)) = self.journal.next(Duration::ZERO) {
                let engine = Arc::downgrade(&self.engine);
                self.journal.write_queued(&engine, &bytes, number);
            }
        }

        /// Lets all writes to the journal fail.
        fn fail_writes(&self) {
            let read_only = File::open(self.dir.join(JOURNAL)).unwrap();
            self.journal.state().files.as_mut().unwrap().journal = read_only;
        }

        fn refuses(&self) -> Option<RefuseReason> {
            self.engine
                .with(|core, _| core.node.voter().unwrap().closed())
        }

        /// Ends the process, and opens the journal for the next.
        fn reopen(&self) -> Opened {
            self.engine.close();
            open(&self.dir, self.journal.durability)
        }
    }

    fn is_granted(outcome: &mut oneshot::Receiver<Ended>) -> bool {
        matches!(outcome.try_recv(), Ok(Ended::Granted(_)))
    }

    #[test]
    fn vote_counts_once_it_is_synced() {
        let scene = start("synced", Durability::Machine);
        let mut outcome = scene.claim("k");
        let before = scene.journal.status();
        assert!(!is_granted(&mut outcome));
        assert_eq!(before.synced, before.bytes);
        scene.work();
        assert!(is_granted(&mut outcome));
        let after = scene.journal.status();
        let written = scene.dir.join(JOURNAL).metadata().unwrap().len();
        assert!(after.synced > before.synced);
        assert_eq!((after.synced, after.bytes), (written, written));
    }

    #[test]
    fn failed_write_stops_voting_until_replaced() {
        for durability in [Durability::Process, Durability::Machine] {
            let scene = start("failed", durability);
            scene.fail_writes();
            let mut outcome = scene.claim("k");
            if durability == Durability::Machine {
                scene.work();
            }
            let status = scene.journal.status();
            assert!(status.has_failed && status.failures == 1);
            assert_eq!(scene.refuses(), Some(RefuseReason::Storage));
            assert!(!is_granted(&mut outcome));
            scene.journal.replace(&scene.engine).unwrap();
            assert!(!scene.journal.status().has_failed);
            assert_eq!(scene.refuses(), None);
            let mut outcome = scene.claim("l");
            if durability == Durability::Machine {
                scene.work();
            }
            assert!(is_granted(&mut outcome));
            let opened = scene.reopen();
            assert_eq!(opened.why, None);
            // The vote whose write failed is out as well, and a retransmit may tell it.
            assert_eq!(opened.node.memory.votes(), 2);
        }
    }

    /// Its record is neither in the snapshot nor among those that follow.
    #[test]
    fn replacement_without_a_failed_write_is_given_up() {
        let scene = start("given_up", Durability::Process);
        let file = replacement(&scene.dir).unwrap();
        let part = |core: &Node| scene.journal.write_part(core, None, &file).1;
        scene.engine.with(|core, _| part(&core.node)).unwrap();
        scene.fail_writes();
        drop(scene.claim("k"));
        let installed = scene
            .engine
            .with(|_, _| scene.journal.install(&file, 0).map(drop));
        installed.unwrap_err();
    }

    /// A later write that succeeds would vouch for the one that failed.
    #[test]
    fn queued_write_that_fails_ends_writing_at_once() {
        let scene = start("queued", Durability::Process);
        scene.journal.end_writing(false);
        assert_eq!(scene.journal.write(1, b""), Written::Failed);
    }

    /// Otherwise it could append to the journal of the next process.
    #[test]
    fn directory_is_locked_until_the_write_is_done() {
        let scene = start("locked", Durability::Machine);
        drop(scene.claim("k"));
        let (work, lock) = scene.journal.next(Duration::ZERO).unwrap();
        assert!(matches!(work, Work::Write(..)));
        scene.engine.close();
        let of_next = File::open(scene.dir.join(LOCK)).unwrap();
        of_next.try_lock().unwrap_err();
        drop(lock);
        of_next.try_lock().unwrap();
    }

    #[test]
    fn nothing_follows_a_record_that_may_be_torn() {
        let scene = start("torn", Durability::Process);
        assert!(is_granted(&mut scene.claim("k")));
        let torn = [60, 0, 0, 0, 1, 2, 3];
        let file = OpenOptions::new()
            .append(true)
            .open(scene.dir.join(JOURNAL));
        file.unwrap().write_all(&torn).unwrap();
        scene.journal.state().fail();
        scene.journal.end_in_order();
        let opened = scene.reopen();
        assert_eq!((opened.why, opened.torn), (None, torn.len()));
        let vote = opened.node.memory.vote(&request("k").key);
        assert!(vote.unwrap().epoch > Epoch::ZERO);
    }
}
