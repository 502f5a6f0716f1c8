//! What is played: scenarios from files, and the stories of a world that has settled.

mod bounds;
mod file;
mod format;
mod outliving;
mod restarts;
mod settled;

pub(crate) use file::{AskAt, NAMED, Scenario, play, read};
pub(crate) use format::Counted;
