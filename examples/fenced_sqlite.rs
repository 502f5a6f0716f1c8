//! A write that refuses the paused holder: the epoch as a fence, in SQL.
//!
//! `cargo run --example fenced_sqlite`
//!
//! A lock alone cannot protect a resource from a holder that was frozen in the middle of its work
//! (a long collection of garbage, a suspended machine, a debugger), wakes up after its lease is
//! over, and writes before it looks. The resource must refuse it: it keeps the highest epoch that
//! it has seen, and takes no write with a lower one. In SQL that is one more condition.

mod common;

use std::time::Duration;

use lockmesh::Epoch;
use rusqlite::Connection;

/// Writes the balance unless a holder with a higher epoch has written before. Answers whether it
/// was written.
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

    // Node a takes the lock, reads the balance, and is frozen: nothing renews its lease.
    let lease = Duration::from_millis(500);
    let paused = a
        .lock("account/alice")
        .ttl(lease)
        .auto_renew(false)
        .acquire()
        .await?;
    println!("a holds the lock at {}, and freezes", paused.epoch());

    // Node b waits for its turn, which comes when the lease of a is over, and writes.
    let next = b.lock("account/alice").acquire().await?;
    println!("b holds the lock at {}", next.epoch());
    assert!(!paused.is_held(), "a was over before b began");
    assert!(write(&db, 150, next.epoch())?, "b writes");
    next.release().await?;

    // Node a wakes up and writes before it looks at its guard. The fence refuses it.
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
