//! The command of lockmesh.
fn main() {}
