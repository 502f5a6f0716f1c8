//! The meshes that are measured: sealed nodes, of which the first runs in this process and each
//! other in a child.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::{ClusterSecret, Durability, Guard, Mesh, MeshBuilder};

use crate::PATIENCE;
use crate::child::{Child, NodeOrder, Order, Reply, cpu_with};
use crate::dirs::{Dirs, Keep};
use crate::turns::Processes;
use crate::worker::contend;

const TRY_AT_MOST: Duration = Duration::from_secs(5);

/// A task that locks, at a mesh or at another lock service.
pub(crate) trait Locks: Send + 'static {
    /// A held lock.
    type Held: Send;

    /// Waits until it holds the key.
    fn acquire(&mut self, key: String) -> impl Future<Output = anyhow::Result<Self::Held>> + Send;

    /// Acquires a key that no other holds.
    fn acquire_free(
        &mut self,
        key: String,
    ) -> impl Future<Output = anyhow::Result<Self::Held>> + Send {
        self.acquire(key)
    }

    /// Releases the lock, and waits for the response.
    fn release(&mut self, held: Self::Held) -> impl Future<Output = anyhow::Result<()>> + Send;
}

impl Locks for Mesh {
    type Held = Guard;

    async fn acquire(&mut self, key: String) -> anyhow::Result<Guard> {
        Ok(self.lock(key).acquire().await?)
    }

    async fn acquire_free(&mut self, key: String) -> anyhow::Result<Guard> {
        let guard = self.lock(key).try_acquire().await?;
        guard.context("a free key was denied")
    }

    async fn release(&mut self, held: Guard) -> anyhow::Result<()> {
        Ok(held.release().await?)
    }
}

/// Nodes that all vote for every key, sealed with a new secret.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The first node, in this process. All that one client observes is measured there.
    pub(crate) mesh: Mesh,
    /// The other nodes.
    children: Vec<Child>,
    /// The order that restarts the last node.
    last: NodeOrder,
    dirs: Option<Dirs>,
}

impl Cluster {
    /// Starts `nodes` nodes, and waits until they have found each other.
    pub(crate) async fn start(nodes: usize, keep: Keep) -> anyhow::Result<Self> {
        let secret = ClusterSecret::generate()?;
        let dirs = Dirs::new(keep)?;
        let mesh = builder(0, nodes, &[], secret.clone());
        let mesh = keeping(mesh, dirs.as_ref().map(|dirs| dirs.of(0)));
        let mesh = mesh.bootstrap().start().await?;
        let mut cluster = Self {
            children: Vec::new(),
            last: NodeOrder {
                number: 0,
                nodes,
                seeds: vec![mesh.local_addr()],
                secret: secret.to_base64(),
                listen: None,
                is_new: true,
                data_dir: None,
            },
            mesh,
            dirs,
        };
        for number in 1..nodes {
            cluster.last.number = number;
            cluster.last.data_dir = cluster.dirs.as_ref().map(|dirs| dirs.of(number));
            let (child, addr, _) = start_node(&cluster.last).await?;
            cluster.children.push(child);
            if number == nodes - 1 {
                cluster.last.listen = Some(addr);
            }
        }
        cluster.last.is_new = false;
        cluster.ready(nodes).await?;
        Ok(cluster)
    }

    /// Waits until all nodes have found each other, and `voting` of them vote.
    pub(crate) async fn ready(&mut self, voting: usize) -> anyhow::Result<()> {
        for child in &mut self.children {
            child.ask(&Order::Ready { voting }).await?;
        }
        ready(&self.mesh, voting).await
    }

    /// Makes the last node acquire a key and keep it.
    pub(crate) async fn hold(&mut self, key: &str, ttl: Duration) -> anyhow::Result<()> {
        let key = key.to_owned();
        self.last()?.ask(&Order::Hold { key, ttl }).await.map(drop)
    }

    /// Kills the process of the last node. Returns the end of the lease that it held.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Duration> {
        let child = self.last()?;
        let ends = child.time(&Order::Ends).await?;
        child.kill().await?;
        Ok(ends)
    }

    /// Restarts the last node in a new process, with the same id and address. Returns the time at
    /// which it began to start.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        let (child, _, began) = start_node(&self.last).await?;
        *self.last()? = child;
        Ok(began)
    }

    fn last(&mut self) -> anyhow::Result<&mut Child> {
        self.children.last_mut().context("there is no child")
    }

    /// Contends for one key, with the tasks spread over the nodes. Returns the task of each grant,
    /// in the order of the grants.
    pub(crate) async fn contend(&mut self, tasks: u16, span: Duration) -> anyhow::Result<Vec<u16>> {
        let nodes = self.children.len() + 1;
        let tasks: Vec<u16> = (0..tasks).collect();
        let share = |node: usize| tasks.iter().copied().skip(node).step_by(nodes).collect();
        for (node, child) in self.children.iter_mut().enumerate() {
            let (key, tasks) = ("one".to_owned(), share(node + 1));
            child.send(&Order::Contend { key, tasks, span }).await?;
        }
        let own: Vec<u16> = share(0);
        // Read while this node contends: a node whose reply does not fit into its pipe is blocked.
        let replies = async {
            let mut grants = Vec::new();
            for child in &mut self.children {
                match child.reply(span + PATIENCE).await? {
                    Reply::Grants(more) => grants.extend(more),
                    other => bail!("a node replied {other:?}"),
                }
            }
            Ok(grants)
        };
        let own = contend(&self.mesh, "one", &own, span);
        let (mut grants, more) = tokio::try_join!(own, replies)?;
        grants.extend(more);
        grants.sort_unstable();
        if let Some(pair) = grants.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            bail!("two owners had one epoch: {pair:?}");
        }
        Ok(grants.into_iter().map(|(_, task)| task).collect())
    }
}

impl Processes for Cluster {
    async fn cpu(&mut self) -> anyhow::Result<Duration> {
        cpu_with(&mut self.children).await
    }
}

/// Starts a node in a new process. Returns the process, its address, and the time at which it began
/// to start its node.
pub(crate) async fn start_node(order: &NodeOrder) -> anyhow::Result<(Child, SocketAddr, Duration)> {
    let mut child = Child::start()?;
    match child.ask(&Order::Node(order.clone())).await? {
        Reply::Runs(addr, began) => Ok((child, addr, began)),
        other => bail!("a node replied {other:?}"),
    }
}

/// Returns a node of a cluster in which the first `nodes` nodes vote.
pub(crate) fn builder(
    number: usize,
    nodes: usize,
    seeds: &[SocketAddr],
    secret: ClusterSecret,
) -> MeshBuilder {
    Mesh::builder(format!("n{number}"))
        .listen("127.0.0.1:0")
        .voters((0..nodes).map(|n| format!("n{n}")))
        .voters_per_key(nodes)
        .seeds(seeds.iter().map(ToString::to_string))
        .secret(secret)
        .cluster("bench")
        .try_timeout(TRY_AT_MOST)
}

/// Lets a node keep its journal in a directory, if it has one.
pub(crate) fn keeping(
    builder: MeshBuilder,
    data_dir: Option<(PathBuf, Durability)>,
) -> MeshBuilder {
    match data_dir {
        Some((dir, durability)) => builder.data_dir(dir).durability(durability),
        None => builder,
    }
}

/// Returns once a node reaches all others, and `voting` members vote.
pub(crate) async fn ready(mesh: &Mesh, voting: usize) -> anyhow::Result<()> {
    let look = async {
        loop {
            let members = mesh.status().members;
            let votes = members.iter().filter(|member| member.votes).count();
            if votes >= voting && members.iter().all(|member| member.is_reachable) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ready = tokio::time::timeout(PATIENCE, look).await;
    ready.context("the nodes did not find each other")
}
