//! Commands and datagrams for the core while another thread runs it, or is about to.
//!
//! If several callers were notified at once, they will make their next commands at about the same
//! time, and are batched. Their commands stay here while one of them, the combiner, lets the others
//! run once. It then submits all of them, and they share datagrams. No timer is involved.
//!
//! This is flat combining: Hendler, Incze, Shavit and Tzafrir, "Flat Combining and the
//! Synchronization-Parallelism Tradeoff" (SPAA 2010). Unlike there, the combiner lets the other
//! callers run first.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::engine::core::Ended;
use crate::metrics::LockKind;
use lockmesh_proto::{Instant, Request, Ticket};

/// The number of callers in one turn from which callers are batched.
const CALLERS_MIN: usize = 2;
/// The number of turns with a solo caller after which batching stops.
const SOLO_TURNS: usize = 8;
/// The number of commands that is submitted at once. They fill a datagram to each voter, and the
/// voters can start.
const FULL: usize = 32;
/// The number of turns of the driver that leave a batch to its combiner. A combiner may never run,
/// because it was leaked or its thread is blocked, and must not delay others for long.
const PASSES_MAX: u32 = 8;

/// The maximum number of datagrams in the batch. Further datagrams wait in the socket.
const DATAGRAMS_MAX: usize = 64;
/// The maximum capacity of a buffer that is reused, so that a burst leaves no memory behind.
const SPARE_MAX: usize = 1_024;

/// The part of a request that does not concern the node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) kind: LockKind,
    /// `true` if the request fails while this node holds the key.
    pub(crate) denies_reentry: bool,
    /// `true` if the caller makes more requests at once, so that they are batched in any case.
    pub(crate) is_batched: bool,
}

/// A command or a datagram for the node.
#[derive(Debug)]
pub(super) enum Command {
    Claim {
        ticket: Ticket,
        /// The time of the request.
        since: Instant,
        request: Request,
        terms: Terms,
        notify: oneshot::Sender<Ended>,
    },
    /// The release of a lease that its guard has ended.
    Release {
        ticket: Ticket,
        was_held: bool,
    },
    Datagram {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
}

/// The thread that submits a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Submits {
    /// This one, at once.
    Now,
    /// This one, after the others have run: it is the combiner with this number.
    Later(u64),
    /// The combiner, another one.
    Another,
}

/// The commands in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of turns for which callers are still batched.
    turns: usize,
    commands: Vec<Command>,
    /// The number of datagrams in `commands`.
    datagrams: usize,
    /// The number of combiners so far.
    combiners: u64,
    combiner: Option<Pending>,
    /// `true` if the thread that runs the core must take another turn.
    is_wanted: bool,
    /// The number of batched commands since the last turn.
    batched: usize,
}

/// A combiner that has not run.
#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    /// `true` if the combiner waits for a reply in any case, so that a delay costs nothing.
    waits: bool,
    passes: u32,
}

impl Batch {
    /// Adds a command. The next claim replaces a release as the combiner: a caller that releases
    /// and then claims waits once, and both leave in one datagram.
    pub(super) fn push(&mut self, command: Command) -> Submits {
        let waits = matches!(command, Command::Claim { .. });
        let is_batched = matches!(&command, Command::Claim { terms, .. } if terms.is_batched);
        self.commands.push(command);
        if self.turns == 0 && !is_batched {
            return Submits::Now;
        }
        self.batched += 1;
        if self.commands.len() >= FULL {
            return Submits::Now;
        }
        if self.combiner.is_some_and(|other| other.waits || !waits) {
            return Submits::Another;
        }
        self.combiners += 1;
        let number = self.combiners;
        self.combiner = Some(Pending {
            number,
            waits,
            passes: 0,
        });
        Submits::Later(number)
    }

    /// Adds received datagrams, for the thread that runs the core. Returns `false` if there are too
    /// many already.
    pub(super) fn push_datagrams<'a>(
        &mut self,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> bool {
        if self.datagrams >= DATAGRAMS_MAX {
            return false;
        }
        let before = self.commands.len();
        self.commands.extend(datagrams.map(|(from, bytes)| {
            let bytes = bytes.to_vec();
            Command::Datagram { from, bytes }
        }));
        self.datagrams += self.commands.len() - before;
        self.is_wanted = true;
        true
    }

    /// Returns `true` if the combiner with this number must submit the batch. It must not if the
    /// batch was taken, or if there is another combiner since.
    pub(super) fn is_combiner(&self, number: u64) -> bool {
        self.combiner.is_some_and(|it| it.number == number)
    }

    /// Makes the thread that runs the core take another turn.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Takes all commands into `commands`, which must be empty.
    pub(super) fn take(&mut self, commands: &mut Vec<Command>) {
        if commands.capacity() > SPARE_MAX {
            *commands = Vec::new();
        }
        std::mem::swap(&mut self.commands, commands);
        self.datagrams = 0;
        self.combiner = None;
        self.is_wanted = false;
    }

    /// Takes all commands for the driver, unless it leaves them to the combiner.
    pub(super) fn take_in_passing(&mut self, commands: &mut Vec<Command>) {
        let is_left = self.combiner.as_mut().is_some_and(|combiner| {
            combiner.passes += 1;
            combiner.passes <= PASSES_MAX
        });
        if self.is_wanted || !is_left {
            self.take(commands);
        }
    }

    /// Ends a turn in which this many callers were notified. Callers are batched from now on if
    /// there were several, and are not if there was one in each of the last turns.
    pub(super) fn end_turn(&mut self, notified: usize) {
        self.turns = match notified + std::mem::take(&mut self.batched) {
            0 => self.turns,
            callers if callers < CALLERS_MIN => self.turns.saturating_sub(1),
            _ => SOLO_TURNS,
        };
    }

    /// Stops batching.
    pub(super) fn stop(&mut self) {
        self.turns = 0;
    }

    /// Batches callers from now on.
    #[cfg(test)]
    pub(super) fn start(&mut self) {
        self.turns = SOLO_TURNS;
    }
}

/// The pending turn of a combiner.
///
/// Awaiting it lets other tasks run once, and then submits all commands of the batch. It does
/// nothing if they were submitted by then, or if another caller has become the combiner. Dropping
/// it submits at once. It depends on no other task: the commands are submitted even if the combiner
/// then blocks its thread.
///
/// The other callers depend on the combiner, which is already scheduled to run. If it never runs,
/// because it was leaked or its thread is blocked, the driver submits their commands.
#[must_use = "the batch is submitted when this is awaited or dropped"]
pub(crate) struct Combiner<'a> {
    engine: &'a Engine,
    number: u64,
    has_yielded: bool,
    is_done: bool,
}

impl<'a> Combiner<'a> {
    pub(super) fn new(engine: &'a Engine, number: u64) -> Self {
        Self {
            engine,
            number,
            has_yielded: false,
            is_done: false,
        }
    }

    fn submit(&mut self) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.engine.combine(self.number);
        }
    }
}

impl Future for Combiner<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_yielded, true) {
            self.submit();
            return Poll::Ready(());
        }
        // Yields to the end of the run queue. tokio's `yield_now` would wait until the thread is
        // idle.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Combiner<'_> {
    fn drop(&mut self) {
        self.submit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(ticket: u64) -> Command {
        Command::Release {
            ticket: Ticket(ticket),
            was_held: true,
        }
    }

    fn claim(ticket: u64) -> Command {
        Command::Claim {
            ticket: Ticket(ticket),
            since: Instant::ZERO,
            request: crate::engine::core::tests::request("k"),
            terms: Terms::default(),
            notify: oneshot::channel().0,
        }
    }

    #[test]
    fn batched_claims_share_turn_of_solo_caller() {
        let mut batch = Batch::default();
        let mut push = |ticket| {
            let mut command = claim(ticket);
            if let Command::Claim { terms, .. } = &mut command {
                terms.is_batched = true;
            }
            batch.push(command)
        };
        assert_eq!(push(1), Submits::Later(1));
        assert_eq!([push(2), push(3)], [Submits::Another; 2]);
        assert!(batch.is_combiner(1));
        // A solo caller takes them along.
        assert_eq!(batch.push(claim(4)), Submits::Now);
        assert_eq!(taken(&mut batch), 4);
    }

    fn batching() -> Batch {
        let mut batch = Batch::default();
        batch.start();
        batch
    }

    fn taken(batch: &mut Batch) -> usize {
        let mut commands = Vec::new();
        batch.take(&mut commands);
        commands.len()
    }

    #[test]
    fn claim_replaces_release_as_combiner() {
        let mut batch = batching();
        assert_eq!(batch.push(release(1)), Submits::Later(1));
        assert_eq!(batch.push(release(2)), Submits::Another);
        assert_eq!(batch.push(claim(3)), Submits::Later(2));
        assert_eq!(batch.push(claim(4)), Submits::Another);
        assert!(!batch.is_combiner(1), "there is another combiner");
        assert!(batch.is_combiner(2));
        assert_eq!(taken(&mut batch), 4);
        assert!(!batch.is_combiner(2), "it was taken");
        // The next command has a new combiner.
        assert_eq!(batch.push(claim(5)), Submits::Later(3));
    }

    #[test]
    fn full_batch_is_submitted_at_once() {
        let mut batch = batching();
        let pushed: Vec<_> = (0..FULL as u64).map(|n| batch.push(claim(n))).collect();
        assert_eq!(pushed[0], Submits::Later(1));
        let (last, between) = pushed[1..].split_last().unwrap();
        assert!(between.iter().all(|submits| *submits == Submits::Another));
        assert_eq!(*last, Submits::Now);
        assert_eq!(taken(&mut batch), FULL);
    }

    #[test]
    fn datagrams_are_bounded() {
        let mut batch = Batch::default();
        let from = "127.0.0.1:1".parse().unwrap();
        let push = |batch: &mut Batch, many| {
            let datagrams = std::iter::repeat_n((from, &b"?"[..]), many);
            batch.push_datagrams(datagrams)
        };
        assert!(push(&mut batch, DATAGRAMS_MAX - 1));
        assert!(push(&mut batch, 1));
        assert!(!push(&mut batch, 1));
        assert!(batch.is_wanted());
        assert_eq!(taken(&mut batch), DATAGRAMS_MAX);
        assert!(!batch.is_wanted());
        assert!(push(&mut batch, 1));
    }

    #[test]
    fn absent_combiner_is_bypassed_after_bounded_turns() {
        let mut batch = batching();
        let taken = |batch: &mut Batch| {
            let mut commands = Vec::new();
            batch.take_in_passing(&mut commands);
            commands.len()
        };
        for n in 0..2 {
            batch.push(claim(n));
            assert!((0..PASSES_MAX).all(|_| taken(&mut batch) == 0));
            assert_eq!(taken(&mut batch), 1);
        }
        // The combiner has run, and has left the rest to the thread that runs the core.
        batch.push(claim(2));
        batch.want();
        assert_eq!(taken(&mut batch), 1);
        // There is no combiner.
        batch.stop();
        batch.push(claim(3));
        assert_eq!(taken(&mut batch), 1);
    }

    #[test]
    fn batching_stops_after_solo_turns() {
        let mut batch = Batch::default();
        let mut after = |notified, commands| {
            for n in 0..commands {
                batch.push(claim(n));
            }
            batch.end_turn(notified);
            batch.turns
        };
        assert_eq!([after(0, 0), after(1, 1), after(0, 2)], [0; 3]);
        assert_eq!(after(CALLERS_MIN, 0), SOLO_TURNS);
        assert_eq!(after(0, 0), SOLO_TURNS, "no callers: no change");
        let solo: Vec<usize> = (0..3).map(|n| after(n % 2, (n as u64 + 1) % 2)).collect();
        assert_eq!(solo, [SOLO_TURNS - 1, SOLO_TURNS - 2, SOLO_TURNS - 3]);
        assert_eq!(after(1, 1), SOLO_TURNS);
        let solo: Vec<usize> = (0..=SOLO_TURNS).map(|_| after(1, 0)).collect();
        let expected: Vec<usize> = (0..SOLO_TURNS).rev().chain([0]).collect();
        assert_eq!(solo, expected);
    }

    #[test]
    fn burst_leaves_no_large_buffer() {
        let mut batch = Batch::default();
        for (capacity, is_kept) in [(SPARE_MAX, true), (SPARE_MAX + 1, false)] {
            let mut commands = Vec::with_capacity(capacity);
            batch.take(&mut commands);
            batch.take(&mut commands);
            assert_eq!(commands.capacity() == capacity, is_kept);
        }
    }
}
