//! Fences: the resource refuses the writes of a holder that was overtaken.
//!
//! No lock service can stop a process that is paused between its check and its write. The resource
//! can: it keeps the highest [`Epoch`](crate::Epoch) that it has admitted for a key, and refuses a
//! lower one. Check and write must be one step for the resource.
//!
//! | the resource | its fence |
//! | --- | --- |
//! | PostgreSQL, SQLite | a condition of the statement, or a table of fences in the transaction |
//! | an object store | a conditional put, with the epoch in the object |
//! | a file | an epoch in a second file, which is locked until the rename |
//! | a service over HTTP | the layer of `fence::http` (feature `tower`) |
//! | a service over anything else | a [`Gate`] |
//!
//! The guide [docs/fences.md][guide] has the statements and functions, each of which is tested.
//!
//! A holder sends the epoch of its guard with each write, and the service asks its gate:
//!
//! ```
//! use lockmesh::fence::Gate;
//! use lockmesh::{Epoch, Key};
//! use std::sync::Mutex;
//!
//! struct Accounts {
//!     gate: Gate,
//!     balance: Mutex<i64>,
//! }
//!
//! impl Accounts {
//!     fn write(&self, key: &Key, epoch: Epoch, to: i64) -> Result<(), lockmesh::fence::AdmitError> {
//!         let mut balance = self.balance.lock().unwrap();
//!         // Under the lock of the data: no write comes between the check and this one.
//!         self.gate.admit(key, epoch)?;
//!         *balance = to;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let accounts = Accounts { gate: Gate::new(), balance: Mutex::new(100) };
//! let key = Key::new("account/alice")?;
//! let (paused, next) = (Epoch::new(7), Epoch::new(8)); // of two guards
//! accounts.write(&key, next, 150)?;
//! assert!(accounts.write(&key, paused, 90).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! [guide]: https://docs.rs/crate/lockmesh/latest/source/docs/fences.md

mod fences;
mod gate;
#[cfg(feature = "tower")]
pub mod http;
mod store;
#[cfg(test)]
mod tests;

pub use gate::{AdmitError, Gate, Pass};
pub use store::{FenceStore, SavedFences};
