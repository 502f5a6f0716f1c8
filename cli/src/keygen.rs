//! `lockmesh keygen`: prints a new cluster secret.

use std::process::ExitCode;

use lockmesh::ClusterSecret;
use rand::TryRng;
use rand::rngs::SysRng;

pub(crate) fn run() -> ExitCode {
    match fresh() {
        Ok(secret) => {
            println!("{}", secret.to_base64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lockmesh: no secret: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns a secret from the operating system's source of randomness.
pub(crate) fn fresh() -> anyhow::Result<ClusterSecret> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(ClusterSecret::from_bytes(bytes)?)
}
