//! Clients of other lock services, as users of those services write them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

use super::etcd::{Etcd, Lease};
use crate::child::clock;
use crate::locks::Locks;

/// The longest pause before a retry after Redis refused a lock. It is the default of rslock.
const RETRY_WITHIN: Duration = Duration::from_millis(200);
/// Deletes a key only if it has the caller's token.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then \
     return redis.call('del', KEYS[1]) else return 0 end";

/// A kind of lock service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Kind {
    /// One Redis server: `SET NX PX`, and a script for the release.
    Redis,
    /// Three Redis servers, by the crate rslock.
    Redlock,
    /// Three members of etcd, by etcd's own locks.
    Etcd,
}

/// A running lock service.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) addrs: Vec<SocketAddr>,
}

/// The state that the tasks of one client node share.
#[derive(Clone)]
pub(crate) enum Client {
    Redis(MultiplexedConnection, Box<redis::Script>),
    Redlock(rslock::LockManager),
    Etcd(Etcd),
}

/// A task that locks.
pub(crate) struct Contender {
    client: Client,
    ttl: Duration,
    /// The session of the task, if the service has sessions.
    lease: Option<Lease>,
}

/// A held lock.
pub(crate) enum Held {
    Redis(String, u64, Duration),
    Redlock(rslock::Lock, Duration),
    Etcd(Vec<u8>),
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis, one",
            Self::Redlock => "redlock, three",
            Self::Etcd => "etcd, three",
        }
    }
}

impl Client {
    /// Connects the client node of this number.
    pub(crate) async fn connect(service: &Service, number: usize) -> anyhow::Result<Self> {
        let url = |addr: &SocketAddr| format!("redis://{addr}/");
        let addrs = &service.addrs;
        let own = addrs
            .get(number % addrs.len().max(1))
            .context("no server")?;
        Ok(match service.kind {
            Kind::Redis => {
                let client = redis::Client::open(url(own))?;
                let connection = client.get_multiplexed_async_connection().await?;
                Self::Redis(connection, Box::new(redis::Script::new(RELEASE)))
            }
            Kind::Redlock => {
                Self::Redlock(rslock::LockManager::new(addrs.iter().map(url).collect()))
            }
            Kind::Etcd => Self::Etcd(Etcd::connect(*own).await?),
        })
    }

    /// Returns a task of this node, whose locks have this `ttl`.
    pub(crate) async fn contender(&self, ttl: Duration) -> anyhow::Result<Contender> {
        let lease = match self {
            Self::Etcd(etcd) => Some(etcd.lease(ttl).await?),
            Self::Redis(..) | Self::Redlock(_) => None,
        };
        let client = self.clone();
        Ok(Contender { client, ttl, lease })
    }
}

impl Locks for Contender {
    type Held = Held;

    async fn acquire(&mut self, key: String) -> anyhow::Result<Held> {
        match &mut self.client {
            Client::Redis(connection, _) => loop {
                let (token, sent): (u64, _) = (rand::random(), clock());
                let mut set = redis::cmd("SET");
                let ttl = u64::try_from(self.ttl.as_millis())?;
                set.arg(&key).arg(token).arg("NX").arg("PX").arg(ttl);
                let set: Option<String> = set.query_async(connection).await?;
                if set.is_some() {
                    return Ok(Held::Redis(key, token, sent + self.ttl));
                }
                tokio::time::sleep(RETRY_WITHIN.mul_f64(rand::random())).await;
            },
            Client::Redlock(manager) => {
                let lock = manager.acquire_no_guard(key.as_bytes(), self.ttl).await?;
                let valid = Duration::from_millis(u64::try_from(lock.validity_time)?);
                Ok(Held::Redlock(lock, clock() + valid))
            }
            Client::Etcd(etcd) => {
                let lease = self.lease.as_ref().context("no lease")?;
                Ok(Held::Etcd(etcd.lock(&key, lease).await?))
            }
        }
    }

    async fn release(&mut self, held: Held) -> anyhow::Result<()> {
        match (&mut self.client, held) {
            (Client::Redis(connection, script), Held::Redis(key, token, _)) => {
                let released: u32 = script.key(key).arg(token).invoke_async(connection).await?;
                if released == 0 {
                    bail!("Redis lost a lock before its time");
                }
                Ok(())
            }
            (Client::Redlock(manager), Held::Redlock(lock, _)) => {
                manager.unlock(&lock).await;
                Ok(())
            }
            (Client::Etcd(etcd), Held::Etcd(key)) => etcd.unlock(key).await,
            _ => bail!("a lock of another service"),
        }
    }
}

impl Contender {
    /// Returns the end of the lease if it is not renewed, by [`clock`].
    pub(crate) fn ends(&self, held: &Held) -> anyhow::Result<Duration> {
        match held {
            Held::Redis(_, _, ends) | Held::Redlock(_, ends) => Ok(*ends),
            Held::Etcd(_) => Ok(self.lease.as_ref().context("no lease")?.ends()),
        }
    }
}
