//! Histories: what processes believed of their locks, one JSON object a line. `lockmesh node
//! --workload` writes them, `lockmesh chaos` adds what it did, and `lockmesh check` judges them.
//! The format is described in `docs/chaos.md`.

mod clock;
mod line;
mod writer;

pub(crate) use clock::Clock;
pub(crate) use line::{FORMAT, FaultKind, How, Line};
pub(crate) use writer::Writer;
