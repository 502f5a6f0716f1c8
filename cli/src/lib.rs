//! The configuration and the start of a node of the command `lockmesh`, for programs that run nodes
//! in the same way. The command itself is described in its `--help`.
#![forbid(unsafe_code)]

mod config;
pub mod node;

pub use config::{FileError, NodeConfig, NodeConfigError, Overrides};
