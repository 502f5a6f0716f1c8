//! The content of histories, in a form that can be judged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::history::{FaultKind, How, StartFrom};
use lockmesh::Durability;

/// A line of a file.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) line: usize,
}

/// A state at an instant, and the line that reports it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Seen {
    pub(crate) at: u64,
    pub(crate) place: Place,
}

/// A node, by number.
pub(crate) type NodeAt = usize;
/// A key, by number.
pub(crate) type KeyAt = usize;

/// One process of a node.
#[derive(Clone, Debug)]
pub(crate) struct ProcessIncarnation {
    pub(crate) node: NodeAt,
    /// Identifies the process, together with the node.
    pub(crate) incarnation: u64,
    pub(crate) place: Place,
    pub(crate) start: u64,
    /// The last line of the process.
    pub(crate) last: Seen,
    /// The longest lease of its cluster.
    pub(crate) max_lease: u64,
    /// The time of a clean end.
    pub(crate) ended: Option<u64>,
    /// The time by which it had certainly ended, cleanly or not; `u64::MAX` if it had not.
    pub(crate) gone: u64,
    /// `true` if another file was the first to report this node.
    pub(crate) is_twin: bool,
    /// `true` if its voter was seen to vote.
    pub(crate) has_voted: bool,
    /// The time since which its voter votes, if it was last seen to.
    pub(crate) votes_since: Option<u64>,
    /// The source of its voter's memory, if it was seen to vote.
    pub(crate) from: Option<StartFrom>,
    /// The durability of its journal, if it keeps one.
    pub(crate) durability: Option<Durability>,
    /// The time at which its voter was seen to may lack marks.
    pub(crate) may_lack_marks: Option<u64>,
}

/// The grant of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) place: Place,
    pub(crate) before: u64,
    pub(crate) epoch: u64,
}

/// A lock that was granted through the trait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    /// The report of the grant.
    pub(crate) told: Seen,
    pub(crate) ttl: u64,
}

/// A tick that ran.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ran {
    pub(crate) place: Place,
    /// The end of the work, before the tick was marked.
    pub(crate) before: u64,
    pub(crate) keep_for: u64,
}

/// The end of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Released { held: bool },
    Lost,
    Denied,
    TimedOut,
    Withdrawn,
    ShutDown,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Over {
    pub(crate) place: Place,
    pub(crate) how: End,
    pub(crate) after: u64,
}

/// One request for a lock.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) incarnation: usize,
    /// The key; of a permit the semaphore's id until it is granted, and the permit's key then.
    pub(crate) key: KeyAt,
    pub(crate) how: How,
    pub(crate) asked: Seen,
    /// The semaphore and its number of permits, if a permit is requested.
    pub(crate) semaphore: Option<(KeyAt, usize)>,
    pub(crate) grant: Option<Grant>,
    pub(crate) tick: Option<Tick>,
    /// The report that it ran its tick. The begin of its work is its grant.
    pub(crate) ran: Option<Ran>,
    /// The epoch with which the tick ran before, and the report.
    pub(crate) ran_before: Option<(u64, Place)>,
    /// The last instant at which it was certainly held: a guard that is held has been held since
    /// its grant.
    pub(crate) held: Option<Seen>,
    /// The first line that reports it as lost.
    pub(crate) lost: Option<Place>,
    pub(crate) held_after_lost: Option<Place>,
    pub(crate) extended: u64,
    pub(crate) over: Option<Over>,
}

impl Request {
    pub(crate) fn new(incarnation: usize, key: KeyAt, how: How, asked: Seen) -> Self {
        Self {
            incarnation,
            key,
            how,
            asked,
            semaphore: None,
            grant: None,
            tick: None,
            ran: None,
            ran_before: None,
            held: None,
            lost: None,
            held_after_lost: None,
            extended: 0,
            over: None,
        }
    }

    /// Returns the first and the last instant at which it was certainly held.
    pub(crate) fn certain(&self) -> Option<(Seen, Seen)> {
        let (grant, last) = (self.grant?, self.held?);
        let first = Seen {
            at: grant.before,
            place: grant.place,
        };
        Some((first, last))
    }
}

/// A fault of nodes, or the end of one.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) kind: FaultKind,
    pub(crate) nodes: Vec<NodeAt>,
}

/// The content of all files.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) nodes: Vec<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) incarnations: Vec<ProcessIncarnation>,
    pub(crate) requests: Vec<Request>,
    pub(crate) faults: Vec<Fault>,
    /// The number of incomplete lines of killed processes.
    pub(crate) torn: usize,
    /// The latest instant in any line.
    pub(crate) end: u64,
    /// The time from which all these nodes must be served again.
    pub(crate) calm: Option<(Seen, Vec<NodeAt>)>,
    /// The times at which a node became served (`true`) or unserved (`false`).
    changes: BTreeMap<NodeAt, Vec<(u64, bool)>>,
}

impl Histories {
    pub(crate) fn node(&mut self, name: &str) -> NodeAt {
        intern(&mut self.nodes, name)
    }

    pub(crate) fn key(&mut self, name: &str) -> KeyAt {
        intern(&mut self.keys, name)
    }

    pub(crate) fn see(&mut self, at: u64) {
        self.end = self.end.max(at);
    }

    pub(crate) fn serve(&mut self, node: &str, at: u64, is_served: bool) {
        self.see(at);
        let node = self.node(node);
        self.changes.entry(node).or_default().push((at, is_served));
    }

    /// Formats a position as `file:line`.
    pub(crate) fn at(&self, place: Place) -> impl fmt::Display {
        format!("{}:{}", self.files[place.file].display(), place.line)
    }

    /// Returns the node of a request.
    pub(crate) fn node_of(&self, request: &Request) -> NodeAt {
        self.incarnations[request.incarnation].node
    }

    /// Returns the spans in which a node could not reach a quorum, in order.
    pub(crate) fn unserved(&self, node: NodeAt) -> Vec<(u64, u64)> {
        let mut changes = self.changes.get(&node).cloned().unwrap_or_default();
        changes.sort_unstable();
        let mut spans = Vec::new();
        let mut since = None;
        for (at, is_served) in changes {
            match (since, is_served) {
                (None, false) => since = Some(at),
                (Some(from), true) => {
                    spans.push((from, at));
                    since = None;
                }
                _ => {}
            }
        }
        spans.extend(since.map(|from| (from, u64::MAX)));
        spans
    }

    /// Describes the process of a request.
    pub(crate) fn process(&self, request: &Request) -> String {
        let incarnation = &self.incarnations[request.incarnation];
        format!(
            "{} (incarnation {})",
            self.nodes[incarnation.node], incarnation.incarnation
        )
    }

    /// Returns `true` if a recorded twin of the node was running at `at`.
    pub(crate) fn has_twin(&self, node: NodeAt, at: u64) -> bool {
        let of_node = |kind| {
            let faults = self.faults.iter();
            faults.filter(move |fault| fault.kind == kind && fault.nodes.contains(&node))
        };
        let begin = of_node(FaultKind::Twin).map(|fault| fault.before);
        let begin = begin.filter(|begin| *begin <= at).max();
        begin.is_some_and(|begin| {
            let end = of_node(FaultKind::TwinGone).map(|fault| fault.after);
            end.filter(|end| *end >= begin).min() >= Some(at)
        })
    }

    /// Returns the processes that ended by power cuts, each with the next one of its node.
    pub(crate) fn power_cuts(
        &self,
    ) -> impl Iterator<Item = (&ProcessIncarnation, &ProcessIncarnation)> {
        let cuts = self.faults.iter();
        let cuts = cuts.filter(|fault| fault.kind == FaultKind::PowerCut);
        let nodes = cuts.flat_map(|cut| cut.nodes.iter().map(|node| (*node, cut.before)));
        nodes.filter_map(|(node, at)| {
            let own = self.incarnations.iter();
            let own = own.filter(move |it| it.node == node && !it.is_twin);
            let before = own.clone().filter(|it| it.start < at);
            let after = own.filter(|it| it.start >= at);
            let last = before.max_by_key(|it| it.start)?;
            Some((last, after.min_by_key(|it| it.start)?))
        })
    }

    /// Returns the requests for each key.
    pub(crate) fn by_key(&self) -> Vec<Vec<&Request>> {
        let mut keys = vec![Vec::new(); self.keys.len()];
        for request in &self.requests {
            keys[request.key].push(request);
        }
        keys
    }

    /// Returns the requests for each semaphore, with its number of permits: the largest that was
    /// given.
    pub(crate) fn by_semaphore(&self) -> BTreeMap<KeyAt, (usize, Vec<&Request>)> {
        let mut semaphores = BTreeMap::<_, (usize, Vec<_>)>::new();
        for request in &self.requests {
            if let Some((semaphore, permits)) = request.semaphore {
                let (most, requests) = semaphores.entry(semaphore).or_default();
                *most = permits.max(*most);
                requests.push(request);
            }
        }
        semaphores
    }

    /// Determines which incarnations are twins, and when each had ended. The end is a clean one, a
    /// recorded kill, or at the latest the next start in the same file.
    pub(crate) fn finish(&mut self) {
        let mut first: BTreeMap<NodeAt, (u64, usize)> = BTreeMap::new();
        for incarnation in &self.incarnations {
            let of_node = first.entry(incarnation.node).or_insert((u64::MAX, 0));
            *of_node = (*of_node).min((incarnation.start, incarnation.place.file));
        }
        // Incarnations in one file follow each other.
        let mut order: Vec<usize> = (0..self.incarnations.len()).collect();
        order.sort_by_key(|it| {
            let it = &self.incarnations[*it];
            (it.node, it.place.file, it.start)
        });
        for (n, incarnation) in order.iter().enumerate() {
            let next = order.get(n + 1).map(|next| &self.incarnations[*next]);
            let ProcessIncarnation {
                node, place, start, ..
            } = self.incarnations[*incarnation];
            let next = next.filter(|next| (next.node, next.place.file) == (node, place.file));
            let next = next.map_or(u64::MAX, |next| next.start);
            let is_twin = first
                .get(&node)
                .is_some_and(|(_, file)| *file != place.file);
            let kinds: &[FaultKind] = if is_twin {
                &[FaultKind::TwinGone]
            } else {
                &[
                    FaultKind::Killed,
                    FaultKind::KilledAndRestarted,
                    FaultKind::ClientKilled,
                    FaultKind::PowerCut,
                ]
            };
            let faults = self.faults.iter();
            let kill = faults
                .filter(|fault| kinds.contains(&fault.kind) && fault.nodes.contains(&node))
                .map(|fault| fault.after)
                .filter(|at| (start..next).contains(at))
                .min();
            let incarnation = &mut self.incarnations[*incarnation];
            incarnation.is_twin = is_twin;
            incarnation.gone = incarnation.ended.or(kill).unwrap_or(next);
        }
    }
}

fn intern(names: &mut Vec<String>, name: &str) -> usize {
    names
        .iter()
        .position(|known| known == name)
        .unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        })
}
