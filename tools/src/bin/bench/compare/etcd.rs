//! The part of etcd's API that a lock needs: leases, and locks with a queue.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::child::clock;

/// `LeaseGrantRequest` with a TTL in seconds, and `LeaseKeepAliveRequest` with a lease.
#[derive(Clone, PartialEq, Message)]
struct LeaseRequest {
    #[prost(int64, tag = "1")]
    ttl_or_id: i64,
}

/// `LeaseGrantResponse` and `LeaseKeepAliveResponse`.
#[derive(Clone, PartialEq, Message)]
struct LeaseResponse {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LockResponse {
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// A client of one member of etcd.
#[derive(Clone)]
pub(crate) struct Etcd {
    grpc: Grpc<Channel>,
}

impl Etcd {
    /// Connects to one member.
    pub(super) async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{addr}"))?;
        let channel = channel.tcp_nodelay(true).connect().await;
        let channel = channel.with_context(|| format!("no etcd at {addr}"))?;
        Ok(Self {
            grpc: Grpc::new(channel),
        })
    }

    async fn call<Q, A>(&mut self, path: &'static str, question: Q) -> anyhow::Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
        let answer = self.grpc.unary(Request::new(question), path, codec).await?;
        Ok(answer.into_inner())
    }

    /// Returns a lease that is renewed every third of its TTL until it is dropped.
    pub(super) async fn lease(&self, ttl: Duration) -> anyhow::Result<Lease> {
        let mut etcd = self.clone();
        let sent = clock();
        let ttl_or_id = i64::try_from(ttl.as_secs())?;
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let granted: LeaseResponse = etcd.call(path, LeaseRequest { ttl_or_id }).await?;
        let ends = sent + Duration::from_secs(u64::try_from(granted.ttl)?);
        let (tell, ends) = tokio::sync::watch::channel(ends);
        let (id, every) = (granted.id, ttl / 3);
        let keeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                match etcd.keep(id).await {
                    Ok(ends) => drop(tell.send_replace(ends)),
                    Err(error) => eprintln!("bench: a lease of etcd is not kept: {error:#}"),
                }
            }
        });
        Ok(Lease { id, ends, keeper })
    }

    /// Renews a lease, and returns its new end.
    async fn keep(&mut self, id: i64) -> anyhow::Result<Duration> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let question = futures_util::stream::iter([LeaseRequest { ttl_or_id: id }]);
        let (sent, codec) = (clock(), ProstCodec::default());
        let question = Request::new(question);
        let mut answers = self
            .grpc
            .streaming(question, path, codec)
            .await?
            .into_inner();
        let answer: Option<LeaseResponse> = answers.message().await?;
        match answer.context("no answer")?.ttl {
            ttl if ttl > 0 => Ok(sent + Duration::from_secs(u64::try_from(ttl)?)),
            _ => bail!("it is over"),
        }
    }

    /// Waits in etcd's queue for a key. Returns the name by which the lock is released.
    pub(super) async fn lock(&mut self, name: &str, lease: &Lease) -> anyhow::Result<Vec<u8>> {
        let (name, lease) = (name.as_bytes().to_vec(), lease.id);
        let question = LockRequest { name, lease };
        let held: LockResponse = self.call("/v3lockpb.Lock/Lock", question).await?;
        Ok(held.key)
    }

    /// Releases the lock of this name.
    pub(super) async fn unlock(&mut self, key: Vec<u8>) -> anyhow::Result<()> {
        let question = UnlockRequest { key };
        self.call("/v3lockpb.Lock/Unlock", question).await
    }
}

/// A lease, and the task that renews it.
pub(crate) struct Lease {
    id: i64,
    ends: tokio::sync::watch::Receiver<Duration>,
    keeper: JoinHandle<()>,
}

impl Lease {
    /// Returns the end of the lease by [`clock`], counted from its last renewal.
    pub(super) fn ends(&self) -> Duration {
        *self.ends.borrow()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
