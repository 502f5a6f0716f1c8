//! The state of `top`: the last two surveys of the mesh, and the user's choices.

use std::time::Instant;

use lockmesh::NodeId;
use lockmesh::observe::{NodeSurvey, Survey};
use lockmesh::status::Inspection;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The sort order of the locks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Sort {
    #[default]
    Key,
    Holder,
    Waiting,
    Remaining,
}

/// The effect of a key press.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    GoOn,
    Quit,
}

#[derive(Debug, Default)]
pub(super) struct Top {
    pub(super) now: Option<(Survey, Instant)>,
    before: Option<(Survey, Instant)>,
    pub(super) error: Option<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) skip: usize,
}

/// Rates per second, since the previous survey.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) grants: f64,
    pub(super) datagrams_in: f64,
    pub(super) datagrams_out: f64,
}

impl Top {
    pub(super) fn take(&mut self, survey: Survey, at: Instant) {
        self.error = None;
        if !self.is_paused {
            self.before = self.now.replace((survey, at));
        }
    }

    /// Shows the error. The last survey stays on the screen.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Then {
        if key.kind == KeyEventKind::Release {
            return Then::GoOn;
        }
        let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
        if is_ctrl_c {
            return Then::Quit;
        }
        if self.is_typing {
            match key.code {
                KeyCode::Char(c) => self.filter.push(c),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                _ => {}
            }
            self.skip = 0;
            return Then::GoOn;
        }
        let last = self.locks().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Key => Sort::Holder,
                    Sort::Holder => Sort::Waiting,
                    Sort::Waiting => Sort::Remaining,
                    Sort::Remaining => Sort::Key,
                };
            }
            KeyCode::Down => self.skip = (self.skip + 1).min(last),
            KeyCode::Up => self.skip = self.skip.saturating_sub(1),
            KeyCode::PageDown => self.skip = (self.skip + 10).min(last),
            KeyCode::PageUp => self.skip = self.skip.saturating_sub(10),
            KeyCode::Home => self.skip = 0,
            KeyCode::End => self.skip = last,
            _ => {}
        }
        Then::GoOn
    }

    /// Returns the locks that pass the filter, sorted.
    pub(super) fn locks(&self) -> Vec<&Inspection> {
        let Some((survey, _)) = &self.now else {
            return Vec::new();
        };
        let holder = |lock: &Inspection| lock.owner().map(|owner| owner.node.clone());
        let passes = |lock: &&Inspection| {
            let is_of = holder(lock).is_some_and(|node| node.as_str().contains(&self.filter));
            is_of || lock.key.as_str().contains(&self.filter)
        };
        let mut locks: Vec<&Inspection> = survey.locks.iter().filter(passes).collect();
        match self.sort {
            Sort::Key => {}
            Sort::Holder => locks.sort_by_key(|lock| holder(lock)),
            Sort::Waiting => locks.sort_by_key(|lock| usize::MAX - lock.waiting),
            Sort::Remaining => {
                locks.sort_by_key(|lock| lock.owner().map(|owner| owner.remaining));
            }
        }
        locks
    }

    /// Returns the number of known locks that a node holds.
    pub(super) fn held_by(&self, node: &NodeId) -> usize {
        let locks = self.now.iter().flat_map(|(survey, _)| &survey.locks);
        let owners = locks.filter_map(|lock| lock.owner());
        owners.filter(|owner| owner.node == *node).count()
    }

    /// Returns the node's rates, if the same incarnation answered the last two surveys.
    pub(super) fn rates(&self, node: &NodeSurvey) -> Option<Rates> {
        let ((_, now), (before, earlier)) = (self.now.as_ref()?, self.before.as_ref()?);
        let old = before.nodes.iter().find(|old| old.node == node.node)?;
        let (old, new) = (old.answer.as_ref()?, node.answer.as_ref()?);
        let seconds = now.duration_since(*earlier).as_secs_f64();
        if old.incarnation != new.incarnation || seconds <= 0.0 {
            return None;
        }
        let (old, new) = (&old.overview, &new.overview);
        #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        Some(Rates {
            grants: rate(old.counts.granted, new.counts.granted),
            datagrams_in: rate(old.traffic.datagrams_in, new.traffic.datagrams_in),
            datagrams_out: rate(old.traffic.datagrams_out, new.traffic.datagrams_out),
        })
    }
}
