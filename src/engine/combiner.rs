//! The combiner of a batch: the caller that submits the requests of all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::engine::Engine;

/// The pending turn of a combiner.
///
/// Awaiting it lets other tasks run once, and then submits all requests of the batch. It does
/// nothing if they were submitted by then, or if another caller has become the combiner. Dropping
/// it submits at once. It depends on no other task: the requests are sent even if the combiner then
/// blocks its thread.
///
/// The other callers depend on the combiner, which is already scheduled to run. If it never runs,
/// because it was leaked or its thread is blocked, the driver submits their requests.
#[must_use = "what was asked is sent when this is awaited or dropped"]
pub(crate) struct Leading<'a> {
    engine: &'a Engine,
    number: u64,
    has_rested: bool,
    is_done: bool,
}

impl<'a> Leading<'a> {
    pub(super) fn new(engine: &'a Engine, number: u64) -> Self {
        Self {
            engine,
            number,
            has_rested: false,
            is_done: false,
        }
    }

    fn send(&mut self) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.engine.lead(self.number);
        }
    }
}

impl Future for Leading<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_rested, true) {
            self.send();
            return Poll::Ready(());
        }
        // Yields to the end of the run queue. tokio's `yield_now` would wait until the thread is
        // idle.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.send();
    }
}
