//! Callers in company: who of them takes to the node what all have asked.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::shared::Shared;

/// Of a caller that leads. Awaiting this lets the others run once, and then takes what all have
/// asked to the node, unless that was done by then or another leads; dropping it does so at once.
/// It leans on no other task: who leads and blocks a thread of the runtime still gets it sent.
///
/// Those who are led lean on who leads, which is already in line to run. Where it never does, since
/// it was forgotten or its thread is blocked, the driver takes along what they have asked.
#[must_use = "what was asked is sent when this is awaited or dropped"]
pub(crate) struct Leading<'a> {
    shared: &'a Shared,
    number: u64,
    has_rested: bool,
    is_done: bool,
}

impl<'a> Leading<'a> {
    pub(super) fn new(shared: &'a Shared, number: u64) -> Self {
        Self {
            shared,
            number,
            has_rested: false,
            is_done: false,
        }
    }

    fn send(&mut self) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.shared.lead(self.number);
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
        // To the end of the line. `yield_now` of tokio would wait until the thread is idle.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.send();
    }
}
