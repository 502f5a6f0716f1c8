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
/// The number of attempts: another process may take a port that was just free.
const STARTS: u32 = 3;
/// The TTL of the locks that test the servers.
const TTL: Duration = Duration::from_secs(10);

/// Running servers. On drop they are killed, and their files are removed.
pub(super) struct Servers {
    pub(super) service: Service,
    running: Vec<std::process::Child>,
    place: PathBuf,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Redis | Self::Redlock => "redis-server",
            Self::Etcd => "etcd",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Redis | Self::Redlock => "redis-server",
            Self::Etcd => "etcd-server",
        }
    }

    fn servers(self) -> usize {
        match self {
            Self::Redis => 1,
            Self::Redlock | Self::Etcd => 3,
        }
    }

    /// # Errors
    /// If the program does not run. The message names the package to install.
    pub(super) fn find(self) -> anyhow::Result<()> {
        let asked = Command::new(self.program()).arg("--version").output();
        asked.map(drop).with_context(|| {
            let (program, package) = (self.program(), self.package());
            format!("{program} does not run here; on Debian: apt-get install {package}")
        })
    }
}

impl Servers {
    /// Starts the servers, and waits until they serve.
    pub(super) async fn start(kind: Kind) -> anyhow::Result<Self> {
        let mut failed = Vec::new();
        for _ in 0..STARTS {
            match Self::start_once(kind).await {
                Ok(servers) => return Ok(servers),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        bail!("{} does not serve: {}", kind.program(), failed.join("; "))
    }

    async fn start_once(kind: Kind) -> anyhow::Result<Self> {
        let shm = Path::new(MEMORY);
        let memory = shm.is_dir().then(|| shm.to_owned());
        let memory = memory.unwrap_or_else(std::env::temp_dir);
        let name = format!(
            "lockmesh-compare-{}-{:016x}",
            std::process::id(),
            rand::random::<u64>()
        );
        let place = memory.join(name);
        fs::create_dir(&place).with_context(|| format!("no room in {}", memory.display()))?;
        let count = kind.servers();
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
        servers.serve().await?;
        Ok(servers)
    }

    fn spawn(&mut self, number: usize, ports: &[SocketAddr]) -> anyhow::Result<()> {
        let kind = self.service.kind;
        let place = self.place.join(number.to_string());
        fs::create_dir(&place)?;
        let mut command = Command::new(kind.program());
        match kind {
            Kind::Redis | Kind::Redlock => {
                let port = ports[number].port().to_string();
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
                command
                    .args(["--appendonly", "no", "--set-proc-title", "no", "--dir"])
                    .arg(&place);
            }
            Kind::Etcd => {
                let count = kind.servers();
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
        let log = File::create(self.log(number))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context(kind.program())?;
        self.running.push(child);
        Ok(())
    }

    fn log(&self, number: usize) -> PathBuf {
        self.place.join(format!("{number}.log"))
    }

    /// Waits until the servers grant a lock.
    async fn serve(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = tokio::time::timeout(PATIENCE, try_out(&self.service)).await;
            let tried = tried
                .context("no lock is to be had")
                .and_then(|tried| tried);
            let Err(error) = tried else { return Ok(()) };
            for number in 0..self.running.len() {
                if let Some(status) = self.running[number].try_wait()? {
                    let log = fs::read_to_string(self.log(number)).unwrap_or_default();
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

#[cfg(target_os = "linux")]
fn cpu_of(process: u32) -> Option<Duration> {
    /// The fields of user and system time, counted from the state, which follows the name in
    /// brackets.
    const FIELDS: [usize; 2] = [11, 12];
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let mut ticks = 0;
    for field in FIELDS {
        ticks += fields.get(field)?.parse::<u64>().ok()?;
    }
    let per_s = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(ticks * (1_000_000_000 / per_s.max(1))))
}

#[cfg(not(target_os = "linux"))]
fn cpu_of(_process: u32) -> Option<Duration> {
    None
}
