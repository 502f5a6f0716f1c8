//! The processes of the nodes.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::world::{PORT, World, address};

/// A node that was told to stop is gone by then.
const STOP_AT_MOST: Duration = Duration::from_secs(20);
/// The lease of all locks.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// The longest lease, and so how long a voter abstains that was restarted.
const MAX_LEASE: Duration = Duration::from_secs(3);
/// After so long a restarted voter votes again: its quarantine, the answers that it waits for,
/// and the start of a process on a busy machine.
pub(crate) const QUARANTINE: Duration = Duration::from_millis(5_500);

/// What the nodes do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Load {
    /// All that a workload can do.
    Everything,
    /// Long holds of many keys, with others in line.
    Holds,
}

/// The nodes n0 and up, each a process, or none while it is away.
#[derive(Debug)]
pub(crate) struct Crew {
    dir: PathBuf,
    program: PathBuf,
    seed: u64,
    load: Load,
    nodes: Vec<Option<Child>>,
    /// Which nodes were started before: the cluster is no longer new to them.
    has_lived: Vec<bool>,
}

impl Crew {
    /// Finds the program and makes a key. None of the nodes runs yet.
    pub(crate) fn hire(dir: &Path, nodes: usize, seed: u64, load: Load) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let key = dir.join("cluster.key");
        fs::write(&key, crate::keygen::fresh()?.to_base64())
            .with_context(|| key.display().to_string())?;
        Ok(Self {
            dir: dir.to_owned(),
            program,
            seed,
            load,
            nodes: (0..nodes).map(|_| None).collect(),
            has_lived: vec![false; nodes],
        })
    }

    /// The files that the nodes write their histories to.
    pub(crate) fn histories(&self) -> Vec<PathBuf> {
        let file = |n| self.dir.join(format!("n{n}.jsonl"));
        (0..self.nodes.len()).map(file).collect()
    }

    /// Starts the process of a node.
    pub(crate) fn start(&mut self, world: &World, n: usize) -> anyhow::Result<()> {
        let is_new = !std::mem::replace(&mut self.has_lived[n], true);
        let file = self.dir.join(format!("n{n}.toml"));
        let text = configuration(n, self.nodes.len(), is_new, self.seed, self.load);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("n{n}.log")))
            .context("the log of a node")?;
        let child = world
            .enter(n, &self.program)
            .args(["node", "--workload", "--config"])
            .arg(&file)
            .arg("--history")
            .arg(self.dir.join(format!("n{n}.jsonl")))
            .env_remove("LOCKMESH_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("n{n} does not start"))?;
        self.nodes[n] = Some(child);
        Ok(())
    }

    /// Kills the process of a node; it is gone when this returns.
    pub(crate) async fn kill(&mut self, n: usize) -> anyhow::Result<()> {
        let mut child = self.take(n)?;
        child
            .kill()
            .await
            .with_context(|| format!("n{n} cannot be killed"))
    }

    /// Tells the process of a node to stop, without waiting for it.
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

    /// Whether all that should run do.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (n, child) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = child
                && let Some(status) = child.try_wait()?
            {
                bail!("n{n} ended by itself, with {status}; see its log");
            }
        }
        Ok(())
    }

    /// Tells all to stop, and waits until they have.
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

/// A node that was told to stop.
#[derive(Debug)]
pub(crate) struct Leaving {
    node: usize,
    child: Child,
}

impl Leaving {
    /// Waits until it is gone, in order.
    pub(crate) async fn gone(mut self) -> anyhow::Result<()> {
        let node = self.node;
        let status = tokio::time::timeout(STOP_AT_MOST, self.child.wait()).await;
        let status = status.with_context(|| format!("n{node} did not stop on SIGTERM"))??;
        if !status.success() {
            bail!("n{node} ended on SIGTERM with {status}; see its log");
        }
        Ok(())
    }
}

fn configuration(n: usize, nodes: usize, is_new: bool, seed: u64, load: Load) -> String {
    let list = |item: &dyn Fn(usize) -> String| {
        let items: Vec<String> = (0..nodes).map(|n| format!("{:?}", item(n))).collect();
        items.join(", ")
    };
    let seeds = list(&|n| format!("{}:{PORT}", address(n)));
    let voters = list(&|n| format!("n{n}"));
    let workload = match load {
        Load::Everything => "keys = 4\ntasks = 4\nlook_every_ms = 20\n",
        Load::Holds => {
            "keys = 8\ntasks = 6\nmix = \"hold\"\nhold_ms = [6000, 12000]\nlook_every_ms = 20\n\
             wait_at_most_ms = [60000, 60000]\n"
        }
    };
    let (lease, max_lease) = (LEASE.as_millis(), MAX_LEASE.as_millis());
    // Each node of a seed does something else, and every life of it the same again.
    let seed = seed.wrapping_mul(1_000).wrapping_add(n as u64) >> 1;
    format!(
        "node_id = \"n{n}\"\ncluster = \"chaos\"\nlisten = \"{}:{PORT}\"\nseeds = [{seeds}]\n\
         voters = [{voters}]\nvoters_per_key = {nodes}\nkey_file = \"cluster.key\"\n\
         new_cluster = {is_new}\nttl_ms = {lease}\ngossip_every_ms = 100\n\n\
         [timing]\nmax_ttl_ms = {max_lease}\nmax_clock_skew_ms = 500\n\n\
         [workload]\n{workload}seed = {seed}\n",
        address(n)
    )
}
