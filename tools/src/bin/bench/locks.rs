//! The meshes that are measured: sealed nodes, of which the first runs in this process. The others
//! run in children, or in this process as well.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::{ClusterSecret, Mesh, MeshBuilder};
use tokio::task::JoinHandle;

use super::child::{Child, cpu_with};
use super::protocol::{NodeOrder, Order, Reply};
use super::{Flavour, PATIENCE, Setup, work, worker};

const TRY_AT_MOST: Duration = Duration::from_secs(5);

/// Nodes that all vote for every key, sealed with a new secret.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The first node, in this process. All that one client observes is measured there.
    pub(crate) mesh: Mesh,
    /// All nodes, including the first.
    nodes: Vec<Node>,
    /// The order that started the last node.
    last: Option<NodeOrder>,
}

/// A node, and the place where it runs.
#[derive(Debug)]
enum Node {
    Here(Mesh, Option<JoinHandle<anyhow::Result<Reply>>>),
    There(Box<Child>),
}

impl Cluster {
    /// Starts `nodes` nodes, and waits until they have found each other.
    pub(crate) async fn start(setup: Setup, nodes: usize) -> anyhow::Result<Self> {
        let secret = lockmesh_cli::fresh_secret()?;
        let mesh = builder(0, nodes, &[], secret.clone()).start().await?;
        let seeds = vec![mesh.local_addr()];
        let mut cluster = Self {
            nodes: vec![Node::Here(mesh.clone(), None)],
            last: None,
            mesh,
        };
        for number in 1..nodes {
            let node = if setup.in_process {
                let builder = builder(number, nodes, &seeds, secret.clone());
                Node::Here(builder.start().await?, None)
            } else {
                let mut child = Child::start(setup.flavour)?;
                let order = NodeOrder {
                    number,
                    nodes,
                    seeds: seeds.clone(),
                    secret: secret.to_base64(),
                    listen: None,
                    is_new: true,
                };
                let reply = child.ask(&Order::Node(order.clone()), PATIENCE).await?;
                let Reply::Runs(addr, _) = reply else {
                    bail!("a node answered {reply:?}");
                };
                let listen = Some(addr);
                cluster.last = Some(NodeOrder { listen, ..order });
                Node::There(Box::new(child))
            };
            cluster.nodes.push(node);
        }
        cluster.ready(nodes).await?;
        Ok(cluster)
    }

    /// Waits until all nodes have found each other, and `voting` of them vote.
    pub(crate) async fn ready(&mut self, voting: usize) -> anyhow::Result<()> {
        let protocol = vec![Order::Ready { voting }; self.nodes.len()];
        self.all(protocol, PATIENCE).await.map(drop)
    }

    /// Makes the last node acquire a key and keep it.
    pub(crate) async fn hold(&mut self, key: &str, ttl: Duration) -> anyhow::Result<()> {
        let key = key.to_owned();
        let order = Order::Hold { key, ttl };
        self.last_child()?.ask(&order, PATIENCE).await.map(drop)
    }

    /// Kills the process of the last node. Returns the end of the lease that it held.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Duration> {
        let child = self.last_child()?;
        let ends = match child.ask(&Order::Ends, PATIENCE).await? {
            Reply::Ends(ends) => ends,
            other => bail!("a holder answered {other:?}"),
        };
        child.kill().await?;
        Ok(ends)
    }

    /// Restarts the last node in a new process, with the same id and address. Returns the time at
    /// which it began to start.
    pub(crate) async fn restart(&mut self, flavour: Flavour) -> anyhow::Result<Duration> {
        let mut order = self.last.clone().context("no node is a child")?;
        order.is_new = false;
        let mut child = Child::start(flavour)?;
        let began = match child.ask(&Order::Node(order), PATIENCE).await? {
            Reply::Runs(_, began) => began,
            other => bail!("a node answered {other:?}"),
        };
        *self.last_child()? = child;
        Ok(began)
    }

    fn last_child(&mut self) -> anyhow::Result<&mut Child> {
        match self.nodes.last_mut() {
            Some(Node::There(child)) => Ok(child),
            _ => bail!("the last node is not a child"),
        }
    }

    /// Returns the processor time of all processes of the cluster.
    pub(crate) async fn cpu(&mut self) -> anyhow::Result<Duration> {
        let children = self.nodes.iter_mut().filter_map(|node| match node {
            Node::Here(..) => None,
            Node::There(child) => Some(child.as_mut()),
        });
        cpu_with(children.collect()).await
    }

    /// Acquires and releases, with the tasks spread over the nodes. Returns the number of cycles.
    pub(crate) async fn cycles(
        &mut self,
        keys: &[Vec<String>],
        span: Duration,
    ) -> anyhow::Result<u64> {
        let shares = shares(keys, self.nodes.len()).into_iter();
        let protocol = shares.map(|keys| Order::Cycles { keys, span }).collect();
        let mut sum = 0;
        for reply in self.all(protocol, span + PATIENCE).await? {
            match reply {
                Reply::Cycles(done) => sum += done,
                other => bail!("a node answered {other:?}"),
            }
        }
        Ok(sum)
    }

    /// Acquires and releases, with all tasks at the first node. Returns the number of cycles.
    pub(crate) async fn cycles_here(
        &self,
        keys: &[Vec<String>],
        span: Duration,
    ) -> anyhow::Result<u64> {
        let done = work::cycles(&self.mesh, keys, span);
        let done = tokio::time::timeout(span + PATIENCE, done);
        done.await.context("a cycle never ended")?
    }

    /// Contends for one key, with the tasks spread over the nodes. Returns the task of each grant,
    /// in the order of the grants.
    pub(crate) async fn contend(
        &mut self,
        key: &str,
        tasks: u16,
        span: Duration,
    ) -> anyhow::Result<Vec<u16>> {
        let tasks: Vec<u16> = (0..tasks).collect();
        let shares = shares(&tasks, self.nodes.len()).into_iter();
        let protocol = shares.map(|tasks| Order::Contend {
            key: key.to_owned(),
            tasks,
            span,
        });
        let mut grants = Vec::new();
        for reply in self.all(protocol.collect(), span + PATIENCE).await? {
            match reply {
                Reply::Grants(more) => grants.extend(more),
                other => bail!("a node answered {other:?}"),
            }
        }
        grants.sort_unstable();
        if let Some(pair) = grants.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            bail!("two owners had one epoch: {pair:?}");
        }
        Ok(grants.into_iter().map(|(_, task)| task).collect())
    }

    /// Sends each node its order, and waits for all replies.
    async fn all(&mut self, protocol: Vec<Order>, at_most: Duration) -> anyhow::Result<Vec<Reply>> {
        for (node, order) in self.nodes.iter_mut().zip(protocol) {
            match node {
                Node::Here(mesh, doing) => {
                    let mesh = mesh.clone();
                    *doing = Some(tokio::spawn(
                        async move { worker::worker(&mesh, order).await },
                    ));
                }
                Node::There(child) => child.tell(&order).await?,
            }
        }
        let mut replies = Vec::new();
        for node in &mut self.nodes {
            replies.push(match node {
                Node::Here(_, doing) => {
                    let done = doing.take().context("a node without an order")?;
                    let done = tokio::time::timeout(at_most, done);
                    done.await.context("a node does not answer")???
                }
                Node::There(child) => child.reply(at_most).await?,
            });
        }
        Ok(replies)
    }

    /// Shuts down the nodes in this process. The others end with their processes, on drop.
    pub(crate) async fn stop(self) {
        for node in &self.nodes {
            if let Node::Here(mesh, _) = node {
                mesh.shutdown().await;
            }
        }
    }
}

/// Distributes `all` over `hands` lists, in turn.
fn shares<T: Clone>(all: &[T], hands: usize) -> Vec<Vec<T>> {
    (0..hands)
        .map(|hand| all.iter().skip(hand).step_by(hands).cloned().collect())
        .collect()
}

/// Returns a node of a cluster in which all nodes vote.
pub(crate) fn builder(
    number: usize,
    nodes: usize,
    seeds: &[SocketAddr],
    secret: ClusterSecret,
) -> MeshBuilder {
    Mesh::builder(format!("n{number}"))
        .voters((0..nodes).map(|n| format!("n{n}")))
        .voters_per_key(nodes)
        .seeds(seeds.iter().map(ToString::to_string))
        .secret(secret)
        .cluster("bench")
        .new_cluster(true)
        .try_timeout(TRY_AT_MOST)
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
    tokio::time::timeout(PATIENCE, look)
        .await
        .context("the nodes did not find each other")
}

/// Acquires a free key, and returns the time that it took. The release is not timed.
pub(crate) async fn acquire(mesh: &Mesh, key: String) -> anyhow::Result<Duration> {
    let request = mesh.lock(key);
    let began = std::time::Instant::now();
    let guard = request.try_acquire().await?;
    let took = began.elapsed();
    match guard {
        Some(guard) => guard.release().await?,
        None => bail!("a key that nobody holds was denied"),
    }
    Ok(took)
}
