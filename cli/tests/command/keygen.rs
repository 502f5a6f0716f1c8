//! `lockmesh keygen`.

use lockmesh::ClusterSecret;

use crate::common::{lockmesh, stdout};

fn fresh() -> String {
    let output = lockmesh(&["keygen"]).output().unwrap();
    assert!(output.status.success());
    stdout(&output)
}

#[test]
fn keygen_prints_one_line_with_new_secret() {
    let (one, other) = (fresh(), fresh());
    assert_eq!(one.lines().count(), 1);
    assert!(ClusterSecret::parse(&one).is_ok());
    assert!(ClusterSecret::parse(&other).is_ok());
    assert_ne!(one, other);
}
