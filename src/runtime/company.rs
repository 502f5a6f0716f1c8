//! Callers in company: what they leave in the node until it is sent for all of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::shared::Shared;

/// Something that a caller has left in the node. Awaiting it lets the others run once, and then
/// sends it unless one of them has; dropping it sends it at once. It leans on no other task: who
/// blocks a thread of the runtime with it still gets it sent.
#[must_use = "what is left is sent when this is awaited or dropped"]
pub(crate) struct Left<'a> {
    shared: &'a Shared,
    turn: u64,
    has_rested: bool,
    is_sent: bool,
}

impl<'a> Left<'a> {
    /// What is sent with this turn.
    pub(super) fn new(shared: &'a Shared, turn: u64) -> Self {
        Self {
            shared,
            turn,
            has_rested: false,
            is_sent: false,
        }
    }

    fn send(&mut self) {
        if !std::mem::replace(&mut self.is_sent, true) && !self.shared.has_left(self.turn) {
            self.shared.send_left(self.turn);
        }
    }
}

impl Future for Left<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_rested, true) {
            self.send();
            return Poll::Ready(());
        }
        // To the end of the line. `yield_now` of tokio would wait until the thread is idle.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.send();
    }
}
