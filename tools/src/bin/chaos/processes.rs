//! The processes of the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use lockmesh::Durability;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::command::Setup;
use super::plan::Recoveries;
use super::world::{PORT, World, address};
use tools::power::{IgnoredSyncs, PowerFs};

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

/// The time after which a restarted voter with a journal votes again. It covers the second in which
/// it asks the others, and the start of a process on a busy machine.
const RESUME: Duration = Duration::from_millis(2_500);

/// Returns the longest recoveries of nodes with these journals.
pub(crate) fn recoveries(journals: &[Option<Durability>], has_cuts: bool) -> Recoveries {
    let of_cuts = journals.iter().map(|journal| match journal {
        Some(Durability::Machine) => RESUME,
        _ => QUARANTINE,
    });
    let of_nodes = journals.iter().map(|journal| match journal {
        Some(_) => RESUME,
        None => QUARANTINE,
    });
    Recoveries {
        quarantine: QUARANTINE,
        of_nodes: of_nodes.collect(),
        of_cuts: has_cuts.then(|| of_cuts.collect()),
    }
}

/// The workload of the nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Load {
    /// Every act of a workload.
    Everything,
    /// Long holds of many keys, with waiters in line.
    Holds,
}

/// The disk of a node whose power can be cut.
#[derive(Debug)]
struct Disk {
    fs: PowerFs,
    /// The id of the present boot of its machine.
    boot: u64,
}

/// The processes of the nodes, of their twins and of the clients.
#[derive(Debug)]
pub(crate) struct Processes {
    dir: PathBuf,
    program: PathBuf,
    /// The program of an earlier version.
    earlier: Option<PathBuf>,
    /// The number of starts of each node.
    starts: BTreeMap<usize, usize>,
    seed: u64,
    load: Load,
    nodes: usize,
    /// The durability of the journals of the nodes.
    journals: Vec<Option<Durability>>,
    /// The nodes that were started before: the cluster is no longer new to them.
    has_lived: BTreeSet<usize>,
    running: BTreeMap<String, Child>,
    /// The files of all processes, without extension.
    files: BTreeSet<PathBuf>,
    /// The disks of the nodes, if their power is cut.
    disks: Vec<Disk>,
}

impl Processes {
    /// Creates the secrets. Starts no node.
    pub(crate) fn new(
        dir: &Path,
        journals: &[Option<Durability>],
        seed: u64,
        load: Load,
    ) -> anyhow::Result<Self> {
        let clients = dir.join("clients");
        fs::create_dir_all(&clients).with_context(|| clients.display().to_string())?;
        for name in SECRETS {
            let file = dir.join(name);
            fs::write(&file, lockmesh::ClusterSecret::generate()?.to_base64())
                .with_context(|| file.display().to_string())?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            program: std::env::current_exe().context("the path of this program")?,
            earlier: None,
            starts: BTreeMap::new(),
            seed,
            load,
            nodes: journals.len(),
            journals: journals.to_vec(),
            has_lived: BTreeSet::new(),
            running: BTreeMap::new(),
            files: BTreeSet::new(),
            disks: Vec::new(),
        })
    }

    /// Gives each node a disk whose power can be cut.
    pub(crate) fn mount_disks(&mut self, ignored: IgnoredSyncs) -> anyhow::Result<()> {
        for n in 0..self.nodes {
            let dir = self.dir.join(format!("{}.disk", name(n)));
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let fs = PowerFs::mount(&dir, ignored)?;
            self.disks.push(Disk { fs, boot: 1 });
        }
        Ok(())
    }

    /// Starts nodes with the program of an earlier version, too.
    #[must_use]
    pub(crate) fn mixed_with(self, earlier: Option<PathBuf>) -> Self {
        Self { earlier, ..self }
    }

    /// Returns the program of the next process of a node.
    fn next_program(&mut self, n: usize) -> PathBuf {
        let starts = self.starts.entry(n).or_default();
        *starts += 1;
        let is_earlier = match self.journals.get(n) {
            // The earlier version cannot read a journal that this one has written.
            Some(Some(_)) => *starts == 1,
            _ => (*starts + n).is_multiple_of(2),
        };
        let earlier = self.earlier.as_ref().filter(|_| is_earlier);
        earlier.unwrap_or(&self.program).clone()
    }

    /// Returns the files of all histories. A process that wrote no whole line has none.
    pub(crate) fn histories(&self) -> Vec<PathBuf> {
        let files = self.files.iter().map(|file| file.with_extension("jsonl"));
        let has_line = |file: &PathBuf| fs::read(file).is_ok_and(|text| text.contains(&b'\n'));
        files.filter(has_line).collect()
    }

    /// Starts the process of a node.
    pub(crate) fn start(&mut self, world: &World, n: usize, setup: Setup) -> anyhow::Result<()> {
        let is_new = self.has_lived.insert(n);
        let text = self.journal(n) + &self.node(n, setup, &world.address(n), is_new);
        let mut load = self.load_of(n);
        if let Setup::WallClock { offset_ms } = setup {
            load += &format!(" --wall-offset-ms={offset_ms}");
        }
        if let Some(disk) = self.disks.get(n) {
            load += &format!(" --boot-id={}", disk.boot);
        }
        let program = self.next_program(n);
        self.spawn(world, n, (&program, name(n)), &name(n), (&text, &load))
    }

    /// Starts a second process under the name of a node, in the namespace after those of the nodes.
    pub(crate) fn start_twin(&mut self, world: &World, n: usize) -> anyhow::Result<()> {
        let place = self.nodes;
        let text = self.node(n, Setup::Usual, &world.address(place), false);
        let load = self.load_of(n);
        let program = self.program.clone();
        self.spawn(world, place, (&program, twin(n)), &twin(n), (&text, &load))
    }

    /// Starts a process that does not vote, acquires one lock and stops.
    pub(crate) fn start_client(&mut self, world: &World, number: u32) -> anyhow::Result<()> {
        let place = self.nodes + 1;
        let text = self.client(number, &world.address(place));
        let seed = self.seed.wrapping_mul(1_000_000);
        let seed = seed.wrapping_add(number.into()) >> 1;
        let load = "--keys 6 --tasks 1 --requests 1 --acquire-timeout-ms 1000..5000";
        let (load, file) = (
            format!("{load} --seed {seed}"),
            format!("clients/{number:06}"),
        );
        let program = self.program.clone();
        let who = (program.as_path(), client(number));
        self.spawn(world, place, who, &file, (&text, &load))
    }

    fn spawn(
        &mut self,
        world: &World,
        place: usize,
        (program, name): (&Path, String),
        file: &str,
        (configuration, load): (&str, &str),
    ) -> anyhow::Result<()> {
        let path = self.dir.join(file);
        let config = path.with_extension("toml");
        fs::write(&config, configuration).with_context(|| config.display().to_string())?;
        let mut log = OpenOptions::new();
        let log = log
            .create(true)
            .append(true)
            .open(path.with_extension("log"));
        let mut command = world.enter(place, program);
        command.args(["worker", "--config"]).arg(config);
        command.arg("--history").arg(path.with_extension("jsonl"));
        command.args(load.split(' ')).env_remove("LOCKMESH_SECRET");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.context("the log of a process")?);
        let child = command.kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("{name} does not start"))?;
        self.files.insert(path);
        self.running.insert(name, child);
        Ok(())
    }

    /// Returns the names of all clients that may still run.
    pub(crate) fn clients(&self) -> Vec<String> {
        let names = self.running.keys().filter(|name| is_client(name));
        names.cloned().collect()
    }

    /// Kills a process, which is gone when this returns. Returns `false` if it is a client that had
    /// already stopped.
    pub(crate) async fn kill(&mut self, name: &str) -> anyhow::Result<bool> {
        self.check()?;
        let Some(mut child) = self.running.remove(name) else {
            ensure!(is_client(name), "{name} does not run");
            return Ok(false);
        };
        let killed = child.kill().await;
        killed.with_context(|| format!("{name} cannot be killed"))?;
        Ok(true)
    }

    /// Returns `true` if the journal of a node survives a power cut.
    pub(crate) fn survives_power_cuts(&self, n: usize) -> bool {
        self.journals.get(n) == Some(&Some(Durability::Machine))
    }

    /// Kills the processes of nodes at once, and then cuts the power of their disks.
    pub(crate) async fn cut_power(
        &mut self,
        nodes: &[usize],
        torn: Option<u64>,
    ) -> anyhow::Result<()> {
        self.check()?;
        let mut ending = Vec::new();
        for n in nodes {
            let name = name(*n);
            let child = self.running.remove(&name);
            let mut child = child.with_context(|| format!("{name} does not run"))?;
            let killed = child.start_kill();
            killed.with_context(|| format!("{name} cannot be killed"))?;
            ending.push((*n, child));
        }
        for (n, mut child) in ending {
            child.wait().await?;
            if let Some(disk) = self.disks.get_mut(n) {
                disk.fs.cut(torn.map(|seed| seed.wrapping_add(n as u64)));
                disk.boot += 1;
            }
        }
        Ok(())
    }

    /// Sends SIGTERM to a process. The returned future waits for its end, which must be clean.
    pub(crate) fn terminate(
        &mut self,
        name: String,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
        self.signal(&name, Signal::TERM)?;
        let child = self.running.remove(&name);
        Ok(stopped(name, child))
    }

    /// Sends a signal to a process.
    pub(crate) fn signal(&mut self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let id = self.running.get(name).and_then(Child::id);
        let pid = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} does not run"))?;
        kill_process(pid, signal).map_err(io::Error::from)?;
        Ok(())
    }

    /// Checks that all nodes run, and that all stopped clients did so cleanly.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let mut stopped = Vec::new();
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                ensure!(
                    is_client(name),
                    "{name} ended by itself, with {status}; see its log"
                );
                in_order(name, status)?;
                stopped.push(name.clone());
            }
        }
        self.running.retain(|name, _| !stopped.contains(name));
        Ok(())
    }

    /// Waits until all clients have stopped, and then stops all nodes.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.check()?;
        for name in self.clients() {
            let client = self.running.remove(&name);
            stopped(name, client).await?;
        }
        let nodes: Vec<String> = self.running.keys().cloned().collect();
        let mut leaving = Vec::new();
        for name in nodes {
            leaving.push(self.terminate(name)?);
        }
        for one in leaving {
            one.await?;
        }
        Ok(())
    }
}

async fn stopped(name: String, child: Option<Child>) -> anyhow::Result<()> {
    let mut child = child.with_context(|| format!("{name} does not run"))?;
    let status = tokio::time::timeout(STOP_AT_MOST, child.wait()).await;
    in_order(
        &name,
        status.with_context(|| format!("{name} does not stop"))??,
    )
}

fn in_order(name: &str, status: ExitStatus) -> anyhow::Result<()> {
    ensure!(
        status.success(),
        "{name} was to stop and ended with {status}; see its log"
    );
    Ok(())
}

pub(crate) fn name(n: usize) -> String {
    format!("n{n}")
}

pub(crate) fn twin(n: usize) -> String {
    format!("n{n}-twin")
}

/// Returns the id of a client. It is as long as the name of a pod.
pub(crate) fn client(number: u32) -> String {
    format!("a-client-that-lives-for-seconds-{number:06}")
}

fn is_client(name: &str) -> bool {
    name.starts_with("a-client-")
}

/// The configurations and the workloads of the processes.
impl Processes {
    fn load_of(&self, n: usize) -> String {
        let load = match self.load {
            // Some holds outlast their lease; others end before the first renewal.
            Load::Everything if n % 2 == 1 => "--keys 6 --hold-ms 500..4000",
            Load::Everything => "--keys 6",
            Load::Holds => {
                "--keys 8 --tasks 6 --mix hold --hold-ms 6000..12000 --acquire-timeout-ms 60000"
            }
        };
        // The workload differs for each node, and repeats for each incarnation of a node.
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(n as u64) >> 1;
        format!("{load} --seed {seed}")
    }

    /// Returns the settings that all processes of the cluster share.
    fn common(&self) -> String {
        let nodes = self.nodes;
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

    /// Returns the settings of a node's journal. A twin has none.
    fn journal(&self, n: usize) -> String {
        let name = |durability| match durability {
            Durability::Process => "process",
            Durability::Machine => "machine",
        };
        let durability = self.journals.get(n).copied().flatten().map(name);
        let dir = match self.disks.is_empty() {
            true => format!("n{n}.data"),
            // Its name has to survive, too.
            false => format!("n{n}.disk/data"),
        };
        durability.map_or_else(String::new, |durability| {
            format!("data_dir = \"{dir}\"\ndurability = \"{durability}\"\n")
        })
    }

    fn node(&self, n: usize, setup: Setup, address: &str, is_new: bool) -> String {
        let (lease, max_lease) = match setup {
            Setup::ShortMaxTtl => (SHORT_LEASE, SHORT_MAX_LEASE),
            _ if self.load == Load::Holds => (LEASE_OF_HOLDS, MAX_LEASE),
            _ => (LEASE, MAX_LEASE),
        };
        let (lease, max_lease) = (lease.as_millis(), max_lease.as_millis());
        let secret = SECRETS[usize::from(setup == Setup::OtherSecret)];
        let common = self.common();
        // Listen on all addresses, so that the process survives a change of its interface's
        // address.
        format!(
            "node_id = \"n{n}\"\n{common}listen = \"0.0.0.0:{PORT}\"\n\
             advertise = \"{address}:{PORT}\"\nsecret_file = \"{secret}\"\n\
             bootstrap = {is_new}\nttl = \"{lease}ms\"\ngossip_interval = \"100ms\"\n\n\
             [timing]\nmax_ttl = \"{max_lease}ms\"\nmax_clock_skew = \"500ms\"\n"
        )
    }

    fn client(&self, number: u32, address: &str) -> String {
        let (lease, max_lease) = (LEASE.as_millis(), MAX_LEASE.as_millis());
        let (id, common, secret) = (client(number), self.common(), SECRETS[0]);
        format!(
            "node_id = \"{id}\"\n{common}listen = \"{address}:0\"\n\
             secret_file = \"../{secret}\"\nttl = \"{lease}ms\"\n\n\
             [timing]\nmax_ttl = \"{max_lease}ms\"\nmax_clock_skew = \"500ms\"\n"
        )
    }
}
