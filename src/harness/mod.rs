//! For tests with several meshes on one machine (feature `harness`).

mod links;

pub use links::{Fault, Links};
