//! Reads history files into requests, incarnations of processes, and faults.
//!
//! A line that is not understood is an error with its file and line. The only exception is the last
//! line of an incarnation, which a kill may cut short.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use lockmesh_cli::FileError;

use super::records::{
    End, Fault, Grant, Histories, NodeAt, Over, Place, ProcessIncarnation, Ran, Request, Seen, Tick,
};
use crate::history::{FORMAT, Line};

/// Reads files of histories.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    histories: Histories,
    /// The boot that all times count from, and the line that first named it.
    boot: Option<(String, Place)>,
}

/// The writer of the lines at this point of a file.
#[derive(Debug)]
enum Speaker {
    /// An incarnation, and its requests by id.
    Process(usize, HashMap<u64, usize>),
    /// A chaos runner, and its nodes.
    Chaos(Vec<NodeAt>),
}

impl Reader {
    /// Reads one file.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be read, is empty, or has an invalid line.
    pub(crate) fn file(&mut self, path: &Path) -> Result<(), FileError> {
        let file = std::fs::File::open(path).map_err(|error| FileError {
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
    pub(crate) fn source(&mut self, path: &Path, text: impl BufRead) -> Result<(), FileError> {
        let file = self.histories.files.len();
        self.histories.files.push(path.to_owned());
        let error = |line, what| FileError {
            file: path.to_owned(),
            line,
            what,
        };
        let (mut speaker, mut is_empty) = (None, true);
        let mut torn: Option<(usize, String)> = None;
        for (n, text) in (1..).zip(text.split(b'\n')) {
            is_empty = false;
            let text = text.map_err(|what| error(Some(n), what.to_string()))?;
            // A line that is cut short begins with a brace and does not end with one.
            let may_be_torn = text.starts_with(b"{") && !text.ends_with(b"}");
            let line = match serde_json::from_slice::<Line>(&text) {
                Ok(line) => line,
                Err(what) if may_be_torn => {
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
        match speaker {
            Some(_) => Ok(()),
            None if is_empty => Err(error(
                None,
                "is empty: a process begins with a start".into(),
            )),
            None => Err(error(Some(1), "no incarnation has a whole start".into())),
        }
    }

    /// Returns everything that was read.
    ///
    /// # Errors
    /// If two incarnations of one node overlap in time, and no twin of the node was recorded.
    pub(crate) fn finish(mut self) -> Result<Histories, FileError> {
        self.histories.finish();
        let histories = &self.histories;
        let mut by_node: Vec<&ProcessIncarnation> = histories.incarnations.iter().collect();
        by_node.sort_by_key(|incarnation| (incarnation.node, incarnation.start));
        let mut last: Option<&ProcessIncarnation> = None;
        for two in by_node {
            let one = last.filter(|one| one.node == two.node);
            if let Some(one) = one
                && two.start < one.last.at
                && !histories.has_twin(two.node, two.start)
            {
                return Err(FileError {
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

    fn take(
        &mut self,
        speaker: &mut Option<Speaker>,
        place: Place,
        line: Line,
    ) -> Result<(), String> {
        match (line, speaker) {
            (
                Line::Start {
                    at,
                    format,
                    boot,
                    node,
                    incarnation,
                    max_lease_ms,
                    durability,
                },
                speaker,
            ) => {
                self.same_world(place, format, boot)?;
                self.histories.see(at);
                let node = self.histories.node(&node);
                self.histories.incarnations.push(ProcessIncarnation {
                    node,
                    incarnation,
                    place,
                    start: at,
                    last: Seen { at, place },
                    max_lease: max_lease_ms.saturating_mul(1_000_000),
                    ended: None,
                    gone: u64::MAX,
                    is_twin: false,
                    has_voted: false,
                    votes_since: None,
                    from: None,
                    durability,
                    may_lack_marks: None,
                });
                let incarnation = self.histories.incarnations.len() - 1;
                *speaker = Some(Speaker::Process(incarnation, HashMap::new()));
            }
            (
                Line::Chaos {
                    at,
                    format,
                    boot,
                    nodes,
                    ..
                },
                speaker,
            ) => {
                self.same_world(place, format, boot)?;
                self.histories.see(at);
                let nodes = nodes.iter().map(|node| self.histories.node(node)).collect();
                *speaker = Some(Speaker::Chaos(nodes));
            }
            (_, None) => return Err("there is no start before this line".to_owned()),
            (line, Some(Speaker::Chaos(nodes))) => self.chaos(nodes, place, line)?,
            (line, Some(Speaker::Process(incarnation, ids))) => {
                self.incarnation(*incarnation, ids, place, &line)?;
            }
        }
        Ok(())
    }

    /// Checks that the format is known, and that all times count from one boot.
    fn same_world(&mut self, place: Place, format: u32, boot: String) -> Result<(), String> {
        if format != FORMAT {
            return Err(format!(
                "the format is {format}; this command reads {FORMAT}"
            ));
        }
        let (first, at) = self.boot.get_or_insert_with(|| (boot.clone(), place));
        if *first != boot {
            return Err(format!(
                "the machine was started anew since {}: times of two starts cannot be compared",
                self.histories.at(*at)
            ));
        }
        Ok(())
    }

    fn chaos(&mut self, nodes: &[NodeAt], place: Place, line: Line) -> Result<(), String> {
        let histories = &mut self.histories;
        match line {
            Line::Fault {
                before,
                after,
                fault,
                nodes,
                ..
            } => {
                in_order(before, after)?;
                histories.see(after);
                let nodes = nodes.iter().map(|node| histories.node(node)).collect();
                let kind = fault;
                histories.faults.push(Fault {
                    before,
                    after,
                    kind,
                    nodes,
                });
            }
            Line::Unserved { at, node } => histories.serve(&node, at, false),
            Line::Served { at, node } => histories.serve(&node, at, true),
            Line::Calm { at } => {
                histories.see(at);
                histories.calm = Some((Seen { at, place }, nodes.to_vec()));
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
        line: &Line,
    ) -> Result<(), String> {
        match line {
            Line::Asked {
                at,
                id,
                key,
                how,
                permits,
                ..
            } => {
                self.speak(incarnation, place, *at);
                let key = self.histories.key(key);
                let asked = Seen { at: *at, place };
                let mut request = Request::new(incarnation, key, *how, asked);
                request.semaphore = permits.map(|permits| (key, permits));
                self.histories.requests.push(request);
                if ids.insert(*id, self.histories.requests.len() - 1).is_some() {
                    return Err(format!(
                        "request {id} was asked for before in this incarnation"
                    ));
                }
            }
            Line::Voting {
                at,
                votes,
                from,
                may_lack_marks,
            } => {
                self.speak(incarnation, place, *at);
                let of = &mut self.histories.incarnations[incarnation];
                of.has_voted |= votes;
                of.votes_since = votes.then(|| of.votes_since.unwrap_or(*at));
                of.from = from.or(of.from);
                if *may_lack_marks {
                    of.may_lack_marks.get_or_insert(*at);
                }
            }
            Line::Stopping { at, .. } => self.speak(incarnation, place, *at),
            Line::End { at } => {
                self.speak(incarnation, place, *at);
                self.histories.incarnations[incarnation].ended = Some(*at);
            }
            line => {
                let Some((id, before, after)) = line.of_request() else {
                    return Err("this line belongs to the chaos, not to a node".to_owned());
                };
                let request = ids.get(&id).copied();
                let request = request.ok_or_else(|| {
                    format!("request {id} was never asked for in this incarnation")
                })?;
                in_order(before, after)?;
                self.speak(incarnation, place, after);
                let permit = match line {
                    Line::Granted { permit, .. } => permit.as_ref(),
                    _ => None,
                };
                let permit = permit.map(|permit| self.histories.key(permit));
                let request = &mut self.histories.requests[request];
                if let Some(permit) = permit {
                    request.key = permit;
                }
                let taken = request.take(line, Seen { at: before, place }, after);
                taken.map_err(|what| format!("request {id}: {what}"))?;
            }
        }
        Ok(())
    }

    fn speak(&mut self, incarnation: usize, place: Place, at: u64) {
        self.histories.see(at);
        let last = &mut self.histories.incarnations[incarnation].last;
        let at = at.max(last.at);
        *last = Seen { at, place };
    }
}

impl Request {
    /// Takes a line of this request, which was seen at the earliest at `seen`.
    fn take(&mut self, line: &Line, seen: Seen, after: u64) -> Result<(), &'static str> {
        let Seen { at: before, place } = seen;
        let over = |how| Some(Over { place, how, after });
        let is_fresh = self.grant.is_none() && self.tick.is_none();
        match line {
            Line::Granted { .. } | Line::Ticked { .. } | Line::Attempt { .. }
                if !is_fresh || self.over.is_some() =>
            {
                return Err("it is granted though it was granted or over before");
            }
            Line::Granted { epoch, until, .. } => {
                if before < self.asked.at {
                    return Err("it is granted before it was asked for");
                }
                let epoch = *epoch;
                self.grant = Some(Grant {
                    place,
                    before,
                    epoch,
                });
                match until {
                    Some(_) => self.held = Some(seen),
                    None => self.lose(place, after),
                }
            }
            Line::Attempt { epoch, .. } => {
                self.grant = Some(Grant {
                    place,
                    before,
                    epoch: *epoch,
                });
            }
            Line::Ticked { ttl_ms, .. } => {
                let ttl = ttl_ms.saturating_mul(1_000_000);
                self.tick = Some(Tick { told: seen, ttl });
            }
            Line::AlreadyRan { epoch, .. } => {
                if !is_fresh || self.over.is_some() {
                    return Err("it ran itself, or is over");
                }
                self.ran_before = Some((*epoch, place));
                self.over = over(End::Denied);
            }
            Line::Denied { .. }
            | Line::TimedOut { .. }
            | Line::Withdrawn { .. }
            | Line::ShutDown { .. } => {
                if !is_fresh {
                    return Err("it was granted, and cannot end so");
                }
                if self.over.is_some() {
                    return Err("it is over twice");
                }
                self.over = over(match line {
                    Line::Denied { .. } => End::Denied,
                    Line::TimedOut { .. } => End::TimedOut,
                    Line::Withdrawn { .. } => End::Withdrawn,
                    _ => End::ShutDown,
                });
            }
            _ if self.grant.is_none() => return Err("it was never granted"),
            Line::Ran { .. } | Line::GaveBack { .. } if self.over.is_some() => {
                return Err("it is over twice");
            }
            Line::Ran { keep_ms, .. } => {
                self.ran = Some(Ran {
                    place,
                    before,
                    keep_for: keep_ms.saturating_mul(1_000_000),
                });
                self.over = over(End::Released { held: true });
            }
            Line::GaveBack { .. } => self.over = over(End::Released { held: true }),
            Line::Held { .. } | Line::Released { held: true, .. } if self.lost.is_some() => {
                // This is valid input, and the violation that law M3 finds.
                self.held_after_lost.get_or_insert(place);
            }
            Line::Held { .. } => self.held = self.held.max(Some(seen)),
            Line::Released { held, .. } => {
                if *held {
                    self.held = self.held.max(Some(seen));
                }
                let held = *held;
                self.over = self.over.or_else(|| over(End::Released { held }));
            }
            Line::Lost { .. } => self.lose(place, after),
            Line::Extended { error, .. } => self.extended += u64::from(error.is_none()),
            _ => {}
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
    match before <= after {
        true => Ok(()),
        false => Err(format!(
            "it begins at {before} and ends before that, at {after}"
        )),
    }
}
