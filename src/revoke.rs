//! A lock that is freed by hand, from `mesh.revoke(key, by)` to the outcome.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::RevokeError;
use crate::mesh::Inner;
use lockmesh_proto::{Epoch, Key, Note, RevokedClaim, quorum};

/// The default longest wait for voters and holder.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request to free a lock by hand, returned by [`Mesh::revoke`](crate::Mesh::revoke). Nothing is
/// sent before it is awaited.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before it is awaited"]
pub struct RevokeRequest {
    mesh: Arc<Inner>,
    key: String,
    by: String,
    epoch: Option<Epoch>,
    patience: Duration,
}

impl RevokeRequest {
    pub(crate) fn new(mesh: Arc<Inner>, key: String, by: String) -> Self {
        Self {
            mesh,
            key,
            by,
            epoch: None,
            patience: PATIENCE,
        }
    }

    /// Frees the lock only if it is held under this epoch.
    pub fn epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Sets the longest wait for the voters and the holder: 5 s by default, and at most `max_ttl`.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    async fn send(self) -> Result<RevokedClaim, RevokeError> {
        let (key, by) = (Key::new(&self.key)?, Note::new(&self.by)?);
        let notified = self.mesh.engine.with(|core, now| {
            if core.is_shut_down {
                return None;
            }
            let what = (&key, self.epoch);
            let id = core.node.revoke(now, what, by, self.patience);
            Some(core.expect_revocation(id))
        });
        let notified = notified.ok_or(RevokeError::ShutDown)?.await;
        let revocation = notified.map_err(|_| RevokeError::ShutDown)?;
        let (voters, has_quorum) = (revocation.voters, revocation.has_quorum());
        match revocation.claim {
            Some(claim) if has_quorum || claim.is_holder_notified => Ok(claim),
            None if revocation.answered >= quorum(voters) => Err(RevokeError::NotHeld {
                key: self.key,
                epoch: self.epoch,
            }),
            claim => Err(RevokeError::NoQuorum {
                confirmed: claim.map_or(0, |claim| claim.confirmed.len()),
                voters,
            }),
        }
    }
}

impl IntoFuture for RevokeRequest {
    type Output = Result<RevokedClaim, RevokeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Frees the lock.
    ///
    /// # Errors
    /// See [`Mesh::revoke`](crate::Mesh::revoke).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
