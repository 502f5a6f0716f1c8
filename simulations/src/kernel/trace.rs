//! The trace of a run: one line for each step, and one digest of all.

use std::fmt::{self, Write as _};

use crate::kernel::mix;
use crate::proto::{DropReason, Kind, unpack};

/// A digest of a run, and its lines if they are kept.
///
/// A line is `time what`: true time in milliseconds since the world began, and what happened.
#[derive(Debug)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
    digest: u64,
}

impl Trace {
    pub(crate) fn new(keeps_lines: bool) -> Self {
        Self {
            lines: keeps_lines.then(Vec::new),
            digest: 0,
        }
    }

    /// Adds numbers to the digest.
    pub(crate) fn fold(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.digest = mix(self.digest.rotate_left(7) ^ number).wrapping_add(*number);
        }
    }

    /// Adds bytes to the digest.
    pub(crate) fn fold_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.digest = (self.digest.rotate_left(5) ^ u64::from_le_bytes(word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// Returns `true` if lines are kept. Building them costs more than a step.
    pub(crate) fn keeps_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line, if lines are kept.
    pub(crate) fn line(&mut self, at: u64, what: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            let mut line = String::new();
            // Writing to a string does not fail.
            let _ = write!(
                line,
                "{:>9}.{:03} {what}",
                at / 1_000_000,
                at / 1_000 % 1_000
            );
            lines.push(line);
        }
    }

    /// Adds a line for each message of a datagram that a host reads, or the reason why it is
    /// dropped. `opened` is `None` if the format is not that of lockmesh.
    pub(crate) fn datagram(
        &mut self,
        at: u64,
        host: usize,
        bytes: &[u8],
        opened: Option<Result<(Kind, Vec<u8>), DropReason>>,
    ) {
        let len = bytes.len();
        let unpacked = match opened {
            None => return self.line(at, format_args!("n{host} reads {len} bytes")),
            Some(opened) => opened.and_then(|(_, body)| unpack(&body)),
        };
        match unpacked {
            Ok((head, messages)) => {
                for message in messages {
                    self.line(at, format_args!("n{host} <- {} {message:?}", head.from));
                }
            }
            Err(reason) => self.line(at, format_args!("n{host} drops {len} bytes: {reason}")),
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
