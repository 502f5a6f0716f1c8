//! A child process, as its parent sees it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::protocol::{Order, Reply};
use super::{Flavour, PATIENCE};

/// A child process, which is killed on drop. It also ends with its standard input, and thus however
/// the parent ends.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    protocol: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program as a child.
    pub(crate) fn start(flavour: Flavour) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut process = Command::new(program)
            .args(["child", "--runtime", flavour.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("no child process")?;
        let protocol = process.stdin.take().context("a child without input")?;
        let replies = process.stdout.take().context("a child without output")?;
        Ok(Self {
            process,
            protocol,
            replies: BufReader::new(replies).lines(),
        })
    }

    /// Kills the process, with SIGKILL on Unix.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("a child lives on")
    }

    /// Sends an order and waits for the reply.
    pub(crate) async fn ask(&mut self, order: &Order, at_most: Duration) -> anyhow::Result<Reply> {
        self.tell(order).await?;
        self.reply(at_most).await
    }

    /// Returns the processor time that it has used.
    pub(crate) async fn cpu(&mut self) -> anyhow::Result<Duration> {
        match self.ask(&Order::Cpu, PATIENCE).await? {
            Reply::Cpu(cpu) => Ok(cpu),
            other => bail!("a child answered {other:?}"),
        }
    }

    /// Sends an order.
    pub(crate) async fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        let told = self.protocol.write_all(line.as_bytes()).await;
        told.context("a child is gone")
    }

    /// Waits for the reply to the earliest order without one.
    pub(crate) async fn reply(&mut self, at_most: Duration) -> anyhow::Result<Reply> {
        let line = tokio::time::timeout(at_most, self.replies.next_line());
        let line = line.await.context("a child does not answer")??;
        let line = line.context("a child is gone")?;
        match serde_json::from_str(&line)? {
            Reply::Failed(why) => bail!("a child failed: {why}"),
            reply => Ok(reply),
        }
    }
}

/// Returns the processor time of this process and of these children.
pub(crate) async fn cpu_with(children: Vec<&mut Child>) -> anyhow::Result<Duration> {
    let mut sum = super::protocol::cpu();
    for child in children {
        sum += child.cpu().await?;
    }
    Ok(sum)
}
