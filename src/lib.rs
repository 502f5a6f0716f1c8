//! lockmesh
pub mod node;
pub mod proto;
pub mod wire;
