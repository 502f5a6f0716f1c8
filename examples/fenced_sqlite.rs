//! The epoch as a fence in SQL: a write by a paused holder is refused.
//!
//! `cargo run --example fenced_sqlite`
//!
//! A lock alone cannot protect a resource from a holder that was paused during its work, for
//! example by garbage collection, a suspended machine or a debugger. The holder may resume after
//! its lease is over and write before it checks its guard. The resource must refuse that write: it
//! stores the highest epoch so far and rejects lower ones. In SQL that is one more condition.

mod common;

use std::time::Duration;

use lockmesh::Epoch;
use rusqlite::Connection;

/// Writes the balance unless a holder with a higher epoch has written before. Returns `true` if
/// it was written.
fn write(db: &Connection, balance: i64, epoch: Epoch) -> Result<bool, Box<dyn std::error::Error>> {
    let fence = i64::try_from(epoch.get())?;
    let rows = db.execute(
        "UPDATE account SET balance = ?1, fence = ?2 WHERE id = 'alice' AND fence <= ?2",
        (balance, fence),
    )?;
    Ok(rows == 1)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(
        "CREATE TABLE account (id TEXT PRIMARY KEY, balance INTEGER, fence INTEGER NOT NULL);
         INSERT INTO account VALUES ('alice', 100, 0);",
    )?;
    let [a, b, c] = common::three_nodes().await?;

    // Node a acquires the lock, reads the balance, and pauses: nothing renews its lease.
    let lease = Duration::from_millis(500);
    let paused = a
        .lock("account/alice")
        .ttl(lease)
        .auto_renew(false)
        .acquire()
        .await?;
    println!("a holds the lock at {}, and freezes", paused.epoch());

    // Node b is granted the lock when the lease of a is over, and writes.
    let next = b.lock("account/alice").acquire().await?;
    println!("b holds the lock at {}", next.epoch());
    assert!(!paused.is_held(), "a was over before b began");
    assert!(write(&db, 150, next.epoch())?, "b writes");
    next.release().await?;

    // Node a resumes and writes before it checks its guard. The fence refuses the write.
    let written = write(&db, 90, paused.epoch())?;
    println!(
        "a wakes up and writes: {}",
        if written {
            "taken"
        } else {
            "refused by the fence"
        }
    );
    assert!(!written, "the paused holder is refused");
    let balance: i64 = db.query_row("SELECT balance FROM account", (), |row| row.get(0))?;
    assert_eq!(balance, 150);

    for node in [a, b, c] {
        node.shutdown().await;
    }
    Ok(())
}
