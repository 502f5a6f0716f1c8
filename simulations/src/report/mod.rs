//! A page that shows one run.

mod record;

pub(crate) use record::{Condition, Links, Note, Record};
