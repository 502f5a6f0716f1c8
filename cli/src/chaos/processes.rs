//! The processes of the nodes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::command::Setup;
use super::world::{PORT, World, address};

/// The longest time that a process may take to stop.
const STOP_AT_MOST: Duration = Duration::from_secs(20);
/// The lease of all locks. It is nearly the longest lease, so that it outlasts a quarantine that is
/// too short.
const LEASE: Duration = Duration::from_millis(2_800);
/// The lease of all locks in a measurement.
const LEASE_OF_HOLDS: Duration = Duration::from_secs(2);
/// The longest lease, and thus the shortest recovery of a restarted voter.
const MAX_LEASE: Duration = Duration::from_secs(3);
/// The longest lease of a node that differs from its peers, and the lease of its locks.
const SHORT_MAX_LEASE: Duration = Duration::from_millis(500);
const SHORT_LEASE: Duration = Duration::from_millis(400);
/// The files of the cluster's secret, and of another one.
const SECRETS: [&str; 2] = ["cluster.secret", "other.secret"];
/// The time after which a restarted voter votes again. It covers its quarantine, the answers to its
/// recovery queries, and the start of a process on a busy machine.
pub(crate) const QUARANTINE: Duration = Duration::from_millis(5_500);

/// The workload of the nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Load {
    /// Every act of a workload.
    Everything,
    /// Long holds of many keys, with waiters in line.
    Holds,
}

/// The processes of the nodes, of a twin and of the clients. A node that is down has none.
#[derive(Debug)]
pub(crate) struct Processes {
    dir: PathBuf,
    program: PathBuf,
    seed: u64,
    load: Load,
    nodes: Vec<Option<Child>>,
    /// `true` for nodes that were started before: the cluster is no longer new to them.
    has_lived: Vec<bool>,
    /// A second process under the name of a node.
    twin: Option<Child>,
    /// The clients by number: processes that acquire one lock and stop.
    clients: BTreeMap<u32, Child>,
    /// The histories of twins and clients.
    others: Vec<PathBuf>,
}

impl Processes {
    /// Finds the program and creates the secrets. Starts no node.
    pub(crate) fn hire(dir: &Path, nodes: usize, seed: u64, load: Load) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        let clients = dir.join("clients");
        fs::create_dir_all(&clients).with_context(|| clients.display().to_string())?;
        for name in SECRETS {
            let file = dir.join(name);
            fs::write(&file, crate::keygen::fresh()?.to_base64())
                .with_context(|| file.display().to_string())?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            program,
            seed,
            load,
            nodes: (0..nodes).map(|_| None).collect(),
            has_lived: vec![false; nodes],
            twin: None,
            clients: BTreeMap::new(),
            others: Vec::new(),
        })
    }

    /// Returns the files of all histories. Twins and clients that wrote no whole line are left out.
    pub(crate) fn histories(&self) -> Vec<PathBuf> {
        let file = |n| self.dir.join(format!("n{n}.jsonl"));
        let has_line = |file: &PathBuf| fs::read(file).is_ok_and(|text| text.contains(&b'\n'));
        let others = self.others.iter().filter(|file| has_line(file)).cloned();
        (0..self.nodes.len()).map(file).chain(others).collect()
    }

    /// Starts the process of a node.
    pub(crate) fn start(&mut self, world: &World, n: usize, setup: Setup) -> anyhow::Result<()> {
        let is_new = !std::mem::replace(&mut self.has_lived[n], true);
        let text = self.node(n, setup, &world.address(n), is_new);
        let more = match setup {
            Setup::WallClock { offset_ms } => vec![format!("--wall-offset-ms={offset_ms}")],
            _ => Vec::new(),
        };
        let child = self.spawn(world, n, &format!("n{n}"), &text, &more)?;
        self.nodes[n] = Some(child);
        Ok(())
    }

    /// Starts a second process under the name of a node, in the namespace after those of the nodes.
    pub(crate) fn start_twin(&mut self, world: &World, n: usize) -> anyhow::Result<()> {
        let place = self.nodes.len();
        let text = self.node(n, Setup::Usual, &world.address(place), false);
        let name = format!("n{n}-twin");
        let file = self.dir.join(format!("{name}.jsonl"));
        if !self.others.contains(&file) {
            self.others.push(file);
        }
        self.twin = Some(self.spawn(world, place, &name, &text, &[])?);
        Ok(())
    }

    /// Kills the twin. It is gone when this returns.
    pub(crate) async fn kill_twin(&mut self) -> anyhow::Result<()> {
        let mut twin = self.twin.take().context("there is no twin")?;
        twin.kill().await.context("a twin cannot be killed")
    }

    /// Starts a process that does not vote, acquires one lock and stops.
    pub(crate) fn start_client(&mut self, world: &World, number: u32) -> anyhow::Result<()> {
        let place = self.nodes.len() + 1;
        let name = format!("clients/{number:06}");
        let text = self.client(number, &world.address(place));
        self.others.push(self.dir.join(format!("{name}.jsonl")));
        let child = self.spawn(world, place, &name, &text, &[])?;
        self.clients.insert(number, child);
        Ok(())
    }

    /// Kills a client. Returns `false` if it had already stopped.
    pub(crate) async fn kill_client(&mut self, number: u32) -> anyhow::Result<bool> {
        let Some(mut client) = self.clients.remove(&number) else {
            return Ok(false);
        };
        if let Some(status) = client.try_wait()? {
            in_order(&client_id(number), status)?;
            return Ok(false);
        }
        let killed = client.kill().await;
        killed.with_context(|| format!("client {number} cannot be killed"))?;
        Ok(true)
    }

    /// Returns the names of all clients that may still run.
    pub(crate) fn clients(&self) -> Vec<String> {
        self.clients.keys().copied().map(client_id).collect()
    }

    fn spawn(
        &self,
        world: &World,
        place: usize,
        name: &str,
        configuration: &str,
        more: &[String],
    ) -> anyhow::Result<Child> {
        let file = self.dir.join(format!("{name}.toml"));
        fs::write(&file, configuration).with_context(|| file.display().to_string())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{name}.log")))
            .context("the log of a process")?;
        let mut command = world.enter(place, &self.program);
        command.args(["node", "--workload", "--config"]).arg(&file);
        command
            .args(more)
            .arg("--history")
            .arg(self.dir.join(format!("{name}.jsonl")))
            .env_remove("LOCKMESH_SECRET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))
    }

    /// Kills the process of a node. It is gone when this returns.
    pub(crate) async fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let mut child = self.take(n)?;
        child
            .kill()
            .await
            .with_context(|| format!("n{n} cannot be killed"))
    }

    /// Sends SIGTERM to the process of a node, without waiting for its end.
    pub(crate) fn terminate(&mut self, n: usize) -> anyhow::Result<Leaving> {
        self.signal(n, Signal::TERM)?;
        Ok(Leaving {
            node: n,
            child: self.take(n)?,
        })
    }

    /// Sends a signal to the process of a node.
    pub(crate) fn signal(&mut self, n: usize, signal: Signal) -> anyhow::Result<()> {
        let id = self.nodes[n].as_ref().and_then(Child::id);
        let pid = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("n{n} is not there"))?;
        kill_process(pid, signal).map_err(io::Error::from)?;
        Ok(())
    }

    /// Checks that all nodes run, and that all stopped clients did so cleanly.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (n, child) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = child
                && let Some(status) = child.try_wait()?
            {
                bail!("n{n} ended by itself, with {status}; see its log");
            }
        }
        let mut stopped = Vec::new();
        for (number, client) in &mut self.clients {
            if let Some(status) = client.try_wait()? {
                in_order(&client_id(*number), status)?;
                stopped.push(*number);
            }
        }
        self.clients.retain(|number, _| !stopped.contains(number));
        Ok(())
    }

    /// Waits until all clients have stopped.
    pub(crate) async fn clients_gone(&mut self) -> anyhow::Result<()> {
        while let Some((number, mut client)) = self.clients.pop_first() {
            let status = tokio::time::timeout(STOP_AT_MOST, client.wait()).await;
            let status = status.with_context(|| format!("client {number} does not stop"))??;
            in_order(&client_id(number), status)?;
        }
        Ok(())
    }

    /// Sends SIGTERM to all nodes, and waits until they have stopped.
    pub(crate) async fn dismiss(&mut self) -> anyhow::Result<()> {
        let there: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].is_some())
            .collect();
        let mut leaving = Vec::new();
        for n in there {
            leaving.push(self.terminate(n)?);
        }
        for one in leaving {
            one.gone().await?;
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> anyhow::Result<Child> {
        self.nodes[n]
            .take()
            .with_context(|| format!("n{n} is not there"))
    }
}

/// A node that was sent SIGTERM.
#[derive(Debug)]
pub(crate) struct Leaving {
    node: usize,
    child: Child,
}

impl Leaving {
    /// Waits for the end of the process, and checks that it is clean.
    pub(crate) async fn gone(mut self) -> anyhow::Result<()> {
        let node = self.node;
        let status = tokio::time::timeout(STOP_AT_MOST, self.child.wait()).await;
        let status = status.with_context(|| format!("n{node} did not stop on SIGTERM"))??;
        in_order(&format!("n{node}"), status)
    }
}

fn in_order(name: &str, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{name} was to stop and ended with {status}; see its log");
    }
    Ok(())
}

/// Returns the id of a client. It is as long as the name of a pod.
pub(crate) fn client_id(number: u32) -> String {
    format!("a-client-that-lives-for-seconds-{number:06}")
}

/// The configurations of the processes.
impl Processes {
    /// Returns the settings that all processes of the cluster share.
    fn common(&self) -> String {
        let nodes = self.nodes.len();
        let list = |item: &dyn Fn(usize) -> String| {
            let items: Vec<String> = (0..nodes).map(|n| format!("{:?}", item(n))).collect();
            items.join(", ")
        };
        let seeds = list(&|n| format!("{}:{PORT}", address(n)));
        let voters = list(&|n| format!("n{n}"));
        format!(
            "cluster = \"chaos\"\nseeds = [{seeds}]\nvoters = [{voters}]\n\
             voters_per_key = {nodes}\n"
        )
    }

    fn node(&self, n: usize, setup: Setup, address: &str, is_new: bool) -> String {
        let workload = match self.load {
            // Some holds outlast their lease; others end before the first renewal.
            Load::Everything if n % 2 == 1 => {
                "keys = 6\ntasks = 4\nlook_every_ms = 20\nhold_ms = [500, 4000]\n"
            }
            Load::Everything => "keys = 6\ntasks = 4\nlook_every_ms = 20\n",
            Load::Holds => {
                "keys = 8\ntasks = 6\nmix = \"hold\"\nhold_ms = [6000, 12000]\n\
                 look_every_ms = 20\nacquire_timeout_ms = [60000, 60000]\n"
            }
        };
        let (lease, max_lease) = match setup {
            Setup::ShortMaxTtl => (SHORT_LEASE, SHORT_MAX_LEASE),
            _ if self.load == Load::Holds => (LEASE_OF_HOLDS, MAX_LEASE),
            _ => (LEASE, MAX_LEASE),
        };
        let (lease, max_lease) = (lease.as_millis(), max_lease.as_millis());
        let secret = SECRETS[usize::from(setup == Setup::OtherSecret)];
        // The workload differs for each node, and repeats for each incarnation of a node.
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(n as u64) >> 1;
        let common = self.common();
        // Listen on all addresses, so that the process survives a change of its interface's
        // address.
        format!(
            "node_id = \"n{n}\"\n{common}listen = \"0.0.0.0:{PORT}\"\n\
             advertise = \"{address}:{PORT}\"\nsecret_file = \"{secret}\"\n\
             bootstrap = {is_new}\nttl = \"{lease}ms\"\ngossip_interval = \"100ms\"\n\n\
             [timing]\nmax_ttl = \"{max_lease}ms\"\nmax_clock_skew = \"500ms\"\n\n\
             [workload]\n{workload}seed = {seed}\n"
        )
    }

    fn client(&self, number: u32, address: &str) -> String {
        let (lease, max_lease) = (LEASE.as_millis(), MAX_LEASE.as_millis());
        let seed = self
            .seed
            .wrapping_mul(1_000_000)
            .wrapping_add(number.into())
            >> 1;
        let (id, common, secret) = (client_id(number), self.common(), SECRETS[0]);
        format!(
            "node_id = \"{id}\"\n{common}listen = \"{address}:0\"\n\
             secret_file = \"../{secret}\"\nttl = \"{lease}ms\"\n\n\
             [timing]\nmax_ttl = \"{max_lease}ms\"\nmax_clock_skew = \"500ms\"\n\n\
             [workload]\nkeys = 6\ntasks = 1\nrequests = 1\nacquire_timeout_ms = [1000, 5000]\n\
             seed = {seed}\n"
        )
    }
}
