//! lockmesh
#[cfg(not(feature = "mutants"))]
#[macro_use]
mod mutants;
#[cfg(feature = "mutants")]
#[macro_use]
pub mod mutants;

pub mod node;
pub mod proto;
pub mod wire;
