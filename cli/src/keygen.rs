use std::io;

use lockmesh::ClusterSecret;
use rand::TryRng;
use rand::rngs::SysRng;

/// Returns a secret from the operating system's source of randomness.
///
/// # Errors
/// An error of the operating system if that source fails.
pub fn fresh_secret() -> io::Result<ClusterSecret> {
    let mut bytes = [0; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(io::Error::other)?;
    ClusterSecret::from_bytes(bytes).map_err(io::Error::other)
}
