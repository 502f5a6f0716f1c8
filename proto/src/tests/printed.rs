//! The text of types in logs, errors and traces.

use super::*;
use crate::voter_set::VoterSetTag;

#[test]
fn ids_epochs_and_tags_print_short_forms() {
    let claim = ClaimId {
        incarnation: Incarnation::new(4),
        ..own(7)
    };
    assert_eq!(claim.to_string(), "a/i4#7");
    assert_eq!(Incarnation::new(12).to_string(), "i12");
    assert_eq!(Epoch::new(1_048_577).to_string(), "e1048577");
    let tag = VoterSetTag {
        version: 3,
        digest: 0x1234_abcd_ffff_ffff,
    };
    assert_eq!(tag.to_string(), "r3-1234abcd");
    assert_eq!(instant(5).to_string(), "5.000000ms");
    assert_eq!(Instant::from_nanos(5_000_001).to_string(), "5.000001ms");
}

#[test]
fn names_display_bare_and_debug_quoted() {
    assert_eq!(
        (node("a").to_string(), format!("{:?}", node("a"))),
        ("a".into(), "\"a\"".into())
    );
    assert_eq!(
        (key().to_string(), format!("{:?}", key())),
        ("k".into(), "\"k\"".into())
    );
    assert_eq!((node("a").as_str(), key().as_str()), ("a", "k"));
    assert_eq!((node("a").as_ref(), key().as_ref()), ("a", "k"));
}
