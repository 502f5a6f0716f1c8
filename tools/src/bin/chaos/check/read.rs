//! Reads history files into requests, incarnations of processes, and faults.
//!
//! A line that is not understood is an error with its file and line. The only exception is the last
//! line of an incarnation, which a kill may cut short.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::records::{
    End, Fault, Grant, Histories, NodeAt, Over, Place, ProcessIncarnation, Request, Seen, Tick,
};
use crate::history::{FORMAT, Line};

/// The maximum length of a line.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// An error in a file, and its line.
#[derive(Debug, thiserror::Error)]
#[error("{}:{} {what}", .file.display(), .line.map(|line| format!("{line}:")).unwrap_or_default())]
pub(crate) struct BadInput {
    file: PathBuf,
    line: Option<usize>,
    what: String,
}

impl BadInput {
    /// Returns the error for files without any request.
    pub(crate) fn nothing(first: &Path) -> Self {
        Self {
            file: first.to_owned(),
            line: None,
            what: "nobody asked for anything in these histories: there is nothing to judge".into(),
        }
    }
}

/// Reads files of histories.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    histories: Histories,
    /// The boot that all times count from, and the line that first named it.
    boot: Option<(String, Place)>,
}

/// The writer of the lines at this point of a file.
#[derive(Debug, Default)]
enum Speaker {
    #[default]
    Nobody,
    /// An incarnation, and its requests by id.
    ProcessIncarnation(usize, HashMap<u64, usize>),
    /// A chaos runner, and its nodes.
    Chaos(Vec<NodeAt>),
}

impl Reader {
    /// Reads one file.
    ///
    /// # Errors
    /// [`BadInput`] if the file cannot be read, is empty, or has an invalid line.
    pub(crate) fn file(&mut self, path: &Path) -> Result<(), BadInput> {
        let file = std::fs::File::open(path).map_err(|error| BadInput {
            file: path.to_owned(),
            line: None,
            what: format!("cannot be read: {error}"),
        })?;
        self.source(path, BufReader::new(file))
    }

    /// Reads the content of one file.
    ///
    /// # Errors
    /// As [`Reader::file`].
    pub(crate) fn source(&mut self, path: &Path, text: impl BufRead) -> Result<(), BadInput> {
        let file = self.histories.files.len();
        self.histories.files.push(path.to_owned());
        let error = |line, what| BadInput {
            file: path.to_owned(),
            line,
            what,
        };
        let mut speaker = Speaker::Nobody;
        let mut torn: Option<(usize, String)> = None;
        let mut count = 0;
        for (n, line) in lines(text).enumerate() {
            let (n, text) = (
                n + 1,
                line.map_err(|what| error(Some(n + 1), what.to_string()))?,
            );
            count = n;
            let line = match serde_json::from_slice::<Line>(&text) {
                Ok(line) => line,
                Err(what) if may_be_torn(&text) => {
                    torn.get_or_insert_with(|| (n, what.to_string()));
                    self.histories.torn += 1;
                    continue;
                }
                Err(what) => return Err(error(Some(n), what.to_string())),
            };
            if let Some((at, what)) = torn.take()
                && !matches!(line, Line::Start { .. } | Line::Chaos { .. })
            {
                let what = format!("breaks off, and is not the last of an incarnation: {what}");
                return Err(error(Some(at), what));
            }
            self.take(&mut speaker, Place { file, line: n }, line)
                .map_err(|what| error(Some(n), what))?;
        }
        match (count, speaker) {
            (0, _) => Err(error(
                None,
                "is empty: a process begins with a start".into(),
            )),
            (_, Speaker::Nobody) => Err(error(Some(1), "no incarnation has a whole start".into())),
            _ => Ok(()),
        }
    }

    /// Returns everything that was read.
    ///
    /// # Errors
    /// If two incarnations of one node overlap in time, and no twin of the node was recorded.
    pub(crate) fn finish(mut self) -> Result<Histories, BadInput> {
        self.histories.finish();
        let mut by_node = self.histories.incarnations_in_order();
        let histories = &self.histories;
        by_node.sort_by_key(|incarnation| {
            let incarnation = &histories.incarnations[*incarnation];
            (incarnation.node, incarnation.start)
        });
        let mut last: Option<&ProcessIncarnation> = None;
        for incarnation in by_node {
            let two = &histories.incarnations[incarnation];
            let one = last.filter(|one| one.node == two.node);
            if let Some(one) = one
                && two.start < one.last.at
                && !histories.has_twin(two.node, two.start)
            {
                return Err(BadInput {
                    file: histories.files[two.place.file].clone(),
                    line: Some(two.place.line),
                    what: format!(
                        "{} starts while its incarnation of {} still speaks; one process for each node",
                        histories.nodes[two.node],
                        histories.at(one.last.place),
                    ),
                });
            }
            if one.is_none_or(|one| two.last.at >= one.last.at) {
                last = Some(two);
            }
        }
        Ok(self.histories)
    }

    fn take(&mut self, speaker: &mut Speaker, place: Place, line: Line) -> Result<(), String> {
        match line {
            Line::Start {
                at,
                format,
                boot,
                node,
                incarnation,
                max_lease_ms,
            } => {
                self.same_world(place, format, boot)?;
                self.histories.see(at);
                let node = self.histories.node(&node);
                let last = Seen { at, place };
                let max_lease = max_lease_ms.saturating_mul(1_000_000);
                self.histories.incarnations.push(ProcessIncarnation {
                    node,
                    incarnation,
                    place,
                    start: at,
                    last,
                    max_lease,
                    ended: None,
                    gone: u64::MAX,
                    is_twin: false,
                });
                *speaker = Speaker::ProcessIncarnation(
                    self.histories.incarnations.len() - 1,
                    HashMap::new(),
                );
                Ok(())
            }
            Line::Chaos {
                at,
                format,
                boot,
                nodes,
                ..
            } => {
                self.same_world(place, format, boot)?;
                self.histories.see(at);
                let nodes = nodes.iter().map(|node| self.histories.node(node)).collect();
                *speaker = Speaker::Chaos(nodes);
                Ok(())
            }
            line => match speaker {
                Speaker::Nobody => Err("there is no start before this line".to_owned()),
                Speaker::Chaos(nodes) => self.chaos(nodes, place, line),
                Speaker::ProcessIncarnation(incarnation, ids) => {
                    self.incarnation(*incarnation, ids, place, line)
                }
            },
        }
    }

    /// Checks that the format is known, and that all times count from one boot.
    fn same_world(&mut self, place: Place, format: u32, boot: String) -> Result<(), String> {
        if format != FORMAT {
            return Err(format!(
                "the format is {format}; this command reads {FORMAT}"
            ));
        }
        match &self.boot {
            Some((first, at)) if *first != boot => Err(format!(
                "the machine was started anew since {}: times of two starts cannot be compared",
                self.histories.at(*at)
            )),
            Some(_) => Ok(()),
            None => {
                self.boot = Some((boot, place));
                Ok(())
            }
        }
    }

    fn chaos(&mut self, nodes: &[NodeAt], place: Place, line: Line) -> Result<(), String> {
        match line {
            Line::Fault {
                before,
                after,
                fault,
                nodes,
                ..
            } => {
                in_order(before, after)?;
                self.histories.see(after);
                let nodes = nodes.iter().map(|node| self.histories.node(node));
                let nodes = nodes.collect();
                self.histories.faults.push(Fault {
                    before,
                    after,
                    kind: fault,
                    nodes,
                });
            }
            Line::Unserved { at, node } => {
                let node = self.histories.node(&node);
                self.histories.serve(node, at, false);
            }
            Line::Served { at, node } => {
                let node = self.histories.node(&node);
                self.histories.serve(node, at, true);
            }
            Line::Calm { at } => {
                self.histories.see(at);
                let calm = Seen { at, place };
                self.histories.calm = Some((calm, nodes.to_vec()));
            }
            _ => return Err("this line belongs to a node, not to the chaos".to_owned()),
        }
        Ok(())
    }

    fn incarnation(
        &mut self,
        incarnation: usize,
        ids: &mut HashMap<u64, usize>,
        place: Place,
        line: Line,
    ) -> Result<(), String> {
        let known = |ids: &HashMap<u64, usize>, id: u64| {
            let request = ids.get(&id).copied();
            request.ok_or_else(|| format!("request {id} was never asked for in this incarnation"))
        };
        let (id, event) = match line {
            Line::Asked {
                at, id, key, how, ..
            } => {
                self.speak(incarnation, place, at);
                let key = self.histories.key(&key);
                self.histories.requests.push(Request::new(
                    incarnation,
                    key,
                    how,
                    Seen { at, place },
                ));
                return match ids.insert(id, self.histories.requests.len() - 1) {
                    None => Ok(()),
                    Some(_) => Err(format!(
                        "request {id} was asked for before in this incarnation"
                    )),
                };
            }
            Line::Voting { at, .. } | Line::Stopping { at, .. } => {
                self.speak(incarnation, place, at);
                return Ok(());
            }
            Line::End { at } => {
                self.speak(incarnation, place, at);
                self.histories.incarnations[incarnation].ended = Some(at);
                return Ok(());
            }
            line => Event::of(line)?,
        };
        let request = known(ids, id)?;
        in_order(event.before, event.after)?;
        self.speak(incarnation, place, event.after);
        self.histories.requests[request]
            .take(place, &event)
            .map_err(|what| format!("request {id}: {what}"))
    }

    fn speak(&mut self, incarnation: usize, place: Place, at: u64) {
        self.histories.see(at);
        let last = &mut self.histories.incarnations[incarnation].last;
        *last = Seen {
            at: at.max(last.at),
            place,
        };
    }
}

/// An event of a request.
#[derive(Debug)]
struct Event {
    before: u64,
    after: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Granted { epoch: u64, held: bool },
    Ticked { ttl: u64 },
    Held,
    Lost,
    Extended { done: bool },
    Released { held: bool },
    Over(End),
}

impl Event {
    fn of(line: Line) -> Result<(u64, Self), String> {
        let (id, before, after, what) = match line {
            Line::Granted {
                id,
                before,
                after,
                epoch,
                until,
            } => {
                let held = until.is_some();
                (id, before, after, What::Granted { epoch, held })
            }
            Line::Held {
                id, before, after, ..
            } => (id, before, after, What::Held),
            Line::Lost { id, before, after } => (id, before, after, What::Lost),
            Line::Extended {
                id,
                before,
                after,
                error,
                ..
            } => {
                let done = error.is_none();
                (id, before, after, What::Extended { done })
            }
            Line::Released {
                id,
                before,
                after,
                held,
            } => (id, before, after, What::Released { held }),
            Line::Ticked { id, at, ttl_ms } => {
                let ttl = ttl_ms.saturating_mul(1_000_000);
                (id, at, at, What::Ticked { ttl })
            }
            Line::Denied { id, at } => (id, at, at, What::Over(End::Denied)),
            Line::TimedOut { id, at } => (id, at, at, What::Over(End::TimedOut)),
            Line::Withdrawn { id, at } => (id, at, at, What::Over(End::Withdrawn)),
            Line::ShutDown { id, at } => (id, at, at, What::Over(End::ShutDown)),
            _ => return Err("this line belongs to the chaos, not to a node".to_owned()),
        };
        Ok((
            id,
            Self {
                before,
                after,
                what,
            },
        ))
    }
}

impl Request {
    fn take(&mut self, place: Place, event: &Event) -> Result<(), String> {
        let Event { before, after, .. } = *event;
        let seen = Seen { at: before, place };
        match event.what {
            What::Granted { epoch, held } => {
                if self.grant.is_some() || self.over.is_some() {
                    return Err("it is granted though it was granted or over before".to_owned());
                }
                if before < self.asked.at {
                    return Err("it is granted before it was asked for".to_owned());
                }
                self.grant = Some(Grant {
                    place,
                    before,
                    epoch,
                });
                if held {
                    self.held = Some(seen);
                } else {
                    self.lose(place, after);
                }
                return Ok(());
            }
            What::Ticked { ttl } => {
                if self.grant.is_some() || self.tick.is_some() || self.over.is_some() {
                    return Err("it ticks though it was granted or over before".to_owned());
                }
                self.tick = Some(Tick { told: seen, ttl });
                return Ok(());
            }
            What::Over(how) if self.grant.is_none() && self.tick.is_none() => {
                if self.over.is_some() {
                    return Err("it is over twice".to_owned());
                }
                self.over = Some(Over { place, how, after });
                return Ok(());
            }
            _ => {}
        }
        if self.grant.is_none() {
            return Err("it was never granted".to_owned());
        }
        match event.what {
            What::Held | What::Released { held: true } if self.lost.is_some() => {
                // This is valid input, and the violation that law M3 finds.
                self.held_after_lost.get_or_insert(place);
            }
            What::Held => self.held = self.held.max(Some(seen)),
            What::Released { held } => {
                if held {
                    self.held = self.held.max(Some(seen));
                }
                let how = End::Released { held };
                if self.over.is_none() {
                    self.over = Some(Over { place, how, after });
                }
            }
            What::Lost => self.lose(place, after),
            What::Extended { done } => self.extended += u64::from(done),
            What::Granted { .. } | What::Ticked { .. } | What::Over(_) => {
                return Err("it was granted, and cannot end so".to_owned());
            }
        }
        Ok(())
    }

    fn lose(&mut self, place: Place, after: u64) {
        self.lost.get_or_insert(place);
        let how = End::Lost;
        self.over.get_or_insert(Over { place, how, after });
    }
}

fn in_order(before: u64, after: u64) -> Result<(), String> {
    if before <= after {
        Ok(())
    } else {
        Err(format!(
            "it begins at {before} and ends before that, at {after}"
        ))
    }
}

/// Returns `true` if a line may be cut short: it begins with a brace and does not end with one.
fn may_be_torn(text: &[u8]) -> bool {
    !text.ends_with(b"}") && text.starts_with(b"{")
}

fn lines(mut text: impl BufRead) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let mut line = move || -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut most = io::Read::take(&mut text, LINE_BYTES_MAX as u64 + 1);
        if most.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.len() > LINE_BYTES_MAX {
            let what = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Some(bytes))
    };
    std::iter::from_fn(move || line().transpose())
}
