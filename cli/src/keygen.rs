//! `lockmesh keygen`: a fresh cluster key.

use std::process::ExitCode;

use lockmesh::ClusterKey;
use rand::TryRng;
use rand::rngs::SysRng;

pub(crate) fn run() -> ExitCode {
    match fresh() {
        Ok(key) => {
            println!("{}", key.to_base64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lockmesh: no key: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A key of the operating system's randomness.
pub(crate) fn fresh() -> anyhow::Result<ClusterKey> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(ClusterKey::from_bytes(bytes)?)
}
