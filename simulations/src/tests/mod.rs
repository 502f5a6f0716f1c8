//! Bugs that seeds found, and runs with large numbers.

mod long;
mod regressions;
