//! Histories: the events that processes observed of their locks, one JSON object a line. `lockmesh
//! node --workload` writes them, `lockmesh chaos` adds its faults, and `lockmesh check` judges
//! them. `docs/chaos.md` describes the format.

mod clock;
mod line;
mod writer;

pub(crate) use clock::Clock;
pub(crate) use line::{FORMAT, FaultKind, How, Line};
pub(crate) use writer::Writer;
