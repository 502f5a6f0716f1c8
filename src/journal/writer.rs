//! The thread that writes what must be synced, and replaces journals.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::{
    Durability, Journal, REPLACED_FROM, REPLACEMENT, State, install, len_max, replacement,
};
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
                        journal.put_off_replacement();
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

    /// Goes on with the present journal, as far as it can be written, and replaces it later.
    fn put_off_replacement(&self) {
        let mut state = self.state();
        let State { files, len, .. } = &mut *state;
        if let Some(files) = files {
            files.replacement = None;
            files.len_max = *len + REPLACED_FROM;
        }
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
        let (bytes, rest) = node.snapshot(part);
        let mut state = self.state();
        let written = state.files.as_mut().ok_or(ErrorKind::NotFound);
        let written = written.map_err(Into::into).and_then(|files| {
            if part.is_none() {
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
