//! Small clusters of real nodes on a network of this process's own, with virtual time: the laws
//! of section 1, and what it takes several nodes to see.

mod laws_of_liveness;
mod laws_of_safety;
mod lives;
mod net;
