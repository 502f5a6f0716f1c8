//! Rule 5: the queue of a slot.

use super::*;

/// Rule 5. The other voters granted it while it waited at this one.
#[test]
fn claim_granted_while_queued_moves_first() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears(1, &claim("c", 9, 1));
    for (sent_at, at_ms) in [(1, 2), (5, 3)] {
        let answer = booth.hears(at_ms, &granted(claim("c", 9, sent_at)));
        assert_eq!(answer[0], "c Wait a e1 no");
    }
    let served = booth.hears_release(4, &release("a", false));
    assert_eq!(served, ["c Vote 5+10001", "b Stale e9"]);
}

/// L5. The empty queue is freed as well.
#[test]
fn waiter_that_left_leaves_no_state() {
    let mut alone = Booth::new();
    alone.hears(0, &granted(claim("a", 1, 1)));
    let mut waited = Booth::new();
    waited.hears(0, &granted(claim("a", 1, 1)));
    waited.hears(1, &claim("b", 6, 1));
    assert_ne!(waited.voter, alone.voter);
    waited.hears_release(2, &release("b", false));
    assert_eq!(waited.voter, alone.voter);
}

/// Rule 5.
#[test]
fn holder_not_received_for_probe_interval_is_unheard() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    assert_eq!(booth.hears(99, &claim("b", 9, 1))[0], "b Wait a e5 no");
    assert_eq!(
        booth.hears(100, &claim("b", 9, 2))[0],
        "b Wait a e5 unheard"
    );
    booth.hears(101, &granted(claim("a", 5, 2)));
    assert_eq!(booth.hears(102, &claim("b", 9, 3))[0], "b Wait a e5 yes");
}
