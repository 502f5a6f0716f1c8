//! The servers of other lock services, which run for one measurement.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::client::{Client, Kind, Service};
use crate::PATIENCE;
use crate::child::cpu;
use crate::locks::Locks;
use crate::turns::Processes;

/// A directory that is in memory.
const MEMORY: &str = "/dev/shm";
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The TTL of the locks that test the servers.
const TTL: Duration = Duration::from_secs(10);

/// Running servers. On drop they are killed, and their files are removed.
pub(super) struct Servers {
    pub(super) service: Service,
    running: Vec<std::process::Child>,
    place: PathBuf,
}

impl Kind {
    /// Returns the program, its package in Debian, and the number of servers.
    fn server(self) -> (&'static str, &'static str, usize) {
        match self {
            Self::Redis => ("redis-server", "redis-server", 1),
            Self::Redlock => ("redis-server", "redis-server", 3),
            Self::Etcd => ("etcd", "etcd-server", 3),
        }
    }

    /// # Errors
    /// If the program does not run. The message names the package to install.
    pub(super) fn find(self) -> anyhow::Result<()> {
        let (program, package, _) = self.server();
        let asked = Command::new(program).arg("--version").output();
        asked.map(drop).with_context(|| {
            format!("{program} does not run here; on Debian: apt-get install {package}")
        })
    }
}

impl Servers {
    /// Starts the servers, and waits until they serve. Their files are in memory if there is such a
    /// directory, unless they belong on the disk.
    pub(super) async fn start(kind: Kind, on_disk: bool) -> anyhow::Result<Self> {
        let memory = Some(Path::new(MEMORY)).filter(|shm| !on_disk && shm.is_dir());
        let parent = memory.map_or_else(std::env::temp_dir, Path::to_owned);
        let (pid, random) = (std::process::id(), rand::random::<u64>());
        let place = parent.join(format!("lockmesh-compare-{pid}-{random:016x}"));
        fs::create_dir(&place).with_context(|| place.display().to_string())?;
        let (program, _, count) = kind.server();
        let ports = free_ports(2 * count)?;
        let addrs = ports[..count].to_vec();
        let mut servers = Self {
            service: Service { kind, addrs },
            running: Vec::new(),
            place,
        };
        for number in 0..count {
            servers.spawn(number, &ports)?;
        }
        let serve = servers.serve().await;
        serve.with_context(|| format!("{program} does not serve"))?;
        Ok(servers)
    }

    fn spawn(&mut self, number: usize, ports: &[SocketAddr]) -> anyhow::Result<()> {
        let (program, _, count) = self.service.kind.server();
        let place = self.place.join(number.to_string());
        fs::create_dir(&place)?;
        let mut command = Command::new(program);
        match self.service.kind {
            Kind::Redis | Kind::Redlock => {
                let port = ports[number].port().to_string();
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
                command
                    .args(["--appendonly", "no", "--set-proc-title", "no", "--dir"])
                    .arg(&place);
            }
            Kind::Etcd => {
                let (own, peer) = (ports[number], ports[count + number]);
                let members = ports[count..].iter().enumerate();
                let members = members.map(|(number, peer)| format!("m{number}=http://{peer}"));
                let members: Vec<_> = members.collect();
                command.arg("--name").arg(format!("m{number}"));
                command.arg("--data-dir").arg(&place);
                for (option, addr) in [
                    ("--listen-client-urls", own),
                    ("--advertise-client-urls", own),
                    ("--listen-peer-urls", peer),
                    ("--initial-advertise-peer-urls", peer),
                ] {
                    command.arg(option).arg(format!("http://{addr}"));
                }
                command.arg("--initial-cluster").arg(members.join(","));
                command.args(["--initial-cluster-state", "new", "--log-level", "error"]);
            }
        }
        let log = File::create(self.place.join(format!("{number}.log")))?;
        command.stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context(program)?;
        self.running.push(child);
        Ok(())
    }

    /// Waits until the servers grant a lock.
    async fn serve(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = tokio::time::timeout(PATIENCE, try_out(&self.service)).await;
            let tried = tried.context("no lock is to be had").flatten();
            let Err(error) = tried else { return Ok(()) };
            for (number, server) in self.running.iter_mut().enumerate() {
                if let Some(status) = server.try_wait()? {
                    let log = self.place.join(format!("{number}.log"));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let last = log.lines().last().unwrap_or_default().to_owned();
                    bail!("it ended with {status}: {last}");
                }
            }
            if Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Processes for Servers {
    /// Returns the processor time of all servers and of this process, which is the client.
    async fn cpu(&mut self) -> anyhow::Result<Duration> {
        let servers: Option<Duration> = self.running.iter().map(|it| cpu_of(it.id())).sum();
        Ok(cpu() + servers.context("the processor time of a server is unknown")?)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.place) {
            eprintln!("bench: {} stays: {error}", self.place.display());
        }
    }
}

/// Checks that every server grants a lock to the client node that connects to it.
async fn try_out(service: &Service) -> anyhow::Result<()> {
    for number in 0..service.addrs.len() {
        let client = Client::connect(service, number).await?;
        let mut contender = client.contender(TTL).await?;
        let held = contender.acquire(format!("try/{number}")).await?;
        contender.release(held).await?;
    }
    Ok(())
}

/// Returns different free ports: all are bound at the same time.
fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let bound: Vec<_> = (0..count).map(bind).collect::<Result<_, _>>()?;
    let addrs = bound.iter().map(TcpListener::local_addr);
    Ok(addrs.collect::<Result<_, _>>()?)
}

/// Returns the processor time of a process, or `None` if the system does not report it.
fn cpu_of(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // User and system time are fields 11 and 12, counted from the state, which follows the name in
    // brackets.
    let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2);
    let ticks: Option<u64> = fields.map(|field| field.parse::<u64>().ok()).sum();
    let per_s = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(
        ticks? * (1_000_000_000 / per_s.max(1)),
    ))
}
