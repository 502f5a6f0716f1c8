//! The network of the nodes: a namespace for each, and one for the bridge between them. Nothing is
//! added to the machine's own network, so several worlds can exist at once.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// The prefix of the names of all namespaces; the process id follows.
const PREFIX: &str = "lockmesh";
/// The port that nodes listen on.
pub(crate) const PORT: u16 = 7400;

/// The faults of one node's links, applied by its own firewall.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Rules {
    /// Nodes whose datagrams are dropped on arrival.
    pub(crate) deaf_to: BTreeSet<usize>,
    /// Nodes to which sends fail with an error.
    pub(crate) mute_to: BTreeSet<usize>,
    /// How many of 1000 arriving datagrams are dropped.
    pub(crate) loss_permille: u32,
}

/// The effects of `tc netem` on all packets that leave a node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Netem {
    pub(crate) delay_ms: u32,
    pub(crate) jitter_ms: u32,
    pub(crate) duplicate_percent: u32,
    pub(crate) reorder_percent: u32,
}

/// Namespaces, a bridge and links. They are removed on drop.
#[derive(Debug)]
pub(crate) struct World {
    pid: u32,
    nodes: usize,
    /// Nodes whose interface has its second address.
    moved: BTreeSet<usize>,
}

impl World {
    /// Returns the reason why no world can be built here, if there is one.
    pub(crate) fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("it needs root, to make network namespaces".to_owned());
        }
        for (tool, package) in [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")] {
            let found = Command::new(tool)
                .arg(if tool == "nft" { "--version" } else { "-V" })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if let Err(error) = found {
                return Some(format!("{tool} (Debian's {package}) does not run: {error}"));
            }
        }
        let tried = Self::build(1).and_then(|world| {
            let rules = Rules {
                deaf_to: BTreeSet::from([1]),
                mute_to: BTreeSet::from([1]),
                loss_permille: 1,
            };
            world.filter(0, &rules)
        });
        tried.err().map(|error| format!("{error:#}"))
    }

    /// Builds a world of `nodes` nodes, numbered from 0. Removes the worlds of runners that were
    /// killed.
    pub(crate) fn build(nodes: usize) -> anyhow::Result<Self> {
        sweep();
        let world = Self {
            pid: std::process::id(),
            nodes,
            moved: BTreeSet::new(),
        };
        world
            .lay()
            .context("the network namespaces cannot be made")?;
        Ok(world)
    }

    fn lay(&self) -> anyhow::Result<()> {
        let hub = self.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for n in 0..self.nodes {
            let (name, addr) = (self.namespace(n), address(n));
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "-n {hub} link add n{n} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("-n {hub} link set n{n} master br0 up"))?;
            ip(&format!("-n {name} addr add {addr}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// Replaces the address of a node's interface by its second one, or restores the first one. In
    /// between the interface has no address.
    pub(crate) fn readdress(&mut self, n: usize, moved: bool) -> anyhow::Result<()> {
        let (name, old) = (self.namespace(n), self.address(n));
        if moved {
            self.moved.insert(n);
        } else {
            self.moved.remove(&n);
        }
        let new = self.address(n);
        ip(&format!("-n {name} addr del {old}/24 dev eth0"))?;
        ip(&format!("-n {name} addr add {new}/24 dev eth0"))
    }

    /// Returns the current address of a node's interface.
    pub(crate) fn address(&self, n: usize) -> String {
        if self.moved.contains(&n) {
            second_address(n)
        } else {
            address(n)
        }
    }

    /// Returns a command that runs a program in the namespace of a node.
    pub(crate) fn enter(&self, n: usize, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(n)])
            .arg(program);
        command
    }

    /// Replaces the firewall of a node atomically.
    pub(crate) fn filter(&self, n: usize, rules: &Rules) -> anyhow::Result<()> {
        let addresses = |nodes: &BTreeSet<usize>| {
            let nodes = nodes.iter().flat_map(|n| [address(*n), second_address(*n)]);
            nodes.collect::<Vec<String>>().join(", ")
        };
        let (mut input, mut output) = (String::new(), String::new());
        if !rules.deaf_to.is_empty() {
            input += &format!("ip saddr {{ {} }} drop\n", addresses(&rules.deaf_to));
        }
        if rules.loss_permille > 0 {
            let loss = rules.loss_permille;
            input += &format!("iifname \"eth0\" numgen random mod 1000 < {loss} drop\n");
        }
        if !rules.mute_to.is_empty() {
            output += &format!("ip daddr {{ {} }} drop\n", addresses(&rules.mute_to));
        }
        // Declare the table first: deleting one that does not exist is an error.
        let script = format!(
            "table inet lockmesh_chaos\ndelete table inet lockmesh_chaos\n\
             table inet lockmesh_chaos {{\n\
             chain input {{\ntype filter hook input priority 0; policy accept;\n{input}}}\n\
             chain output {{\ntype filter hook output priority 0; policy accept;\n{output}}}\n}}\n"
        );
        let name = self.namespace(n);
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nft does not run")?;
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        succeeded("nft", &nft.wait_with_output()?)
    }

    /// Sets the effects on all packets that leave a node.
    pub(crate) fn queue(&self, n: usize, netem: Netem) -> anyhow::Result<()> {
        let name = self.namespace(n);
        if netem == Netem::default() {
            // Deleting fails if there is no queue, which is the desired state.
            let _ = tool("tc", &format!("-n {name} qdisc del dev eth0 root"));
            return Ok(());
        }
        let Netem {
            delay_ms,
            jitter_ms,
            duplicate_percent,
            reorder_percent,
        } = netem;
        let effects = format!(
            "delay {delay_ms}ms {jitter_ms}ms duplicate {duplicate_percent}% reorder \
             {reorder_percent}%"
        );
        let queue = format!("-n {name} qdisc replace dev eth0 root netem {effects}");
        tool("tc", &queue)
    }

    /// Returns the reason why the kernel cannot delay, duplicate and reorder, if there is one.
    pub(crate) fn netem_missing(&self) -> Option<String> {
        let netem = Netem {
            delay_ms: 1,
            jitter_ms: 1,
            duplicate_percent: 1,
            reorder_percent: 1,
        };
        let error = self.queue(0, netem).err();
        let _ = self.queue(0, Netem::default());
        error.map(|error| format!("{error:#}"))
    }

    fn namespace(&self, n: usize) -> String {
        format!("{PREFIX}-{}-n{n}", self.pid)
    }

    fn hub(&self) -> String {
        format!("{PREFIX}-{}-hub", self.pid)
    }
}

impl Drop for World {
    /// A namespace is removed with its links, firewall and queue, once its processes are killed.
    fn drop(&mut self) {
        for n in 0..self.nodes {
            remove(&self.namespace(n));
        }
        remove(&self.hub());
    }
}

/// Returns the second address of a node.
fn second_address(n: usize) -> String {
    format!("10.77.0.{}", n + 101)
}

/// Returns the first address of a node, in a network that exists only in its world.
pub(crate) fn address(n: usize) -> String {
    format!("10.77.0.{}", n + 1)
}

/// Kills the processes of a namespace, and removes it.
fn remove(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        let pids = String::from_utf8_lossy(&output.stdout).into_owned();
        for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    let _ = ip(&format!("netns del {name}"));
}

/// Removes the worlds of runners that have ended.
fn sweep() {
    let Ok(names) = Command::new("ip").args(["netns", "list"]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&names.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let mut parts = name.split('-');
        let (prefix, pid) = (parts.next(), parts.next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        if prefix == Some(PREFIX)
            && pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        {
            remove(name);
        }
    }
}

fn ip(args: &str) -> anyhow::Result<()> {
    tool("ip", args)
}

fn tool(name: &str, args: &str) -> anyhow::Result<()> {
    let output = Command::new(name).args(args.split(' ')).output();
    let output = output.with_context(|| format!("{name} does not run"))?;
    succeeded(&format!("{name} {args}"), &output)
}

fn succeeded(what: &str, output: &Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{what}: {}", said.trim().replace('\n', "; "))
}
