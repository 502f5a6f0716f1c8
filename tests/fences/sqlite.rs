//! SQLite: a column, and a table of fences.

use std::sync::{LazyLock, Mutex};

use lockmesh::{Epoch, Guard};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::guide::{assert_shows, sql, without};
use crate::late_write::{Late, Resource, late_write, start};

static RAISE: LazyLock<&str> = LazyLock::new(|| sql::<2>("SQLite")[1]);

/// Runs `write` in a transaction if no later holder has written. Returns `false` if one has.
fn fenced(
    db: &mut Connection,
    (key, epoch): (&str, Epoch),
    write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<bool, Box<dyn std::error::Error>> {
    // Immediate: it waits for other writers here, and sees what they have written.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.execute(&RAISE, (key, i64::try_from(epoch)?))? == 0 {
        return Ok(false);
    }
    write(&transaction)?;
    transaction.commit()?;
    Ok(true)
}

/// Returns a database with both kinds of fences.
fn database() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    let [account, _] = sql("A row of its own");
    let [fence, _] = sql("SQLite");
    db.execute_batch(account).unwrap();
    db.execute_batch(fence).unwrap();
    let insert = "INSERT INTO account (id, balance) VALUES ('alice', 0)";
    db.execute(insert, ()).unwrap();
    db
}

fn balance(db: &Connection) -> i64 {
    let select = "SELECT balance FROM account";
    db.query_row(select, (), |row| row.get(0)).unwrap()
}

/// One statement, with the number, the epoch and the id as parameters.
struct Row {
    db: Mutex<Connection>,
    write: String,
}

impl Resource for Row {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let epoch = i64::try_from(guard.epoch()).unwrap();
        let db = self.db.lock().unwrap();
        db.execute(&self.write, (to, epoch, "alice")).unwrap() == 1
    }

    async fn read(&self) -> i64 {
        balance(&self.db.lock().unwrap())
    }
}

struct Table {
    db: Mutex<Connection>,
    is_fenced: bool,
}

impl Resource for Table {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let mut db = self.db.lock().unwrap();
        let write = |db: &Connection| {
            let update = "UPDATE account SET balance = ?1 WHERE id = 'alice'";
            db.execute(update, [to]).map(drop)
        };
        match self.is_fenced {
            true => {
                let holder = (guard.key(), guard.epoch());
                fenced(&mut db, holder, |transaction| write(transaction)).unwrap()
            }
            false => write(&db).is_ok(),
        }
    }

    async fn read(&self) -> i64 {
        balance(&self.db.lock().unwrap())
    }
}

#[tokio::test]
async fn late_write_of_row_is_refused() {
    let cluster = start().await;
    let [_, write] = sql("A row of its own");
    let fenced = write.replace('$', "?");
    let unfenced = without(&fenced, "AND fence <= ?2");
    let row = |write| Row {
        db: Mutex::new(database()),
        write,
    };
    assert_eq!(late_write(&cluster, &row(fenced)).await, Late::Refused);
    assert_eq!(late_write(&cluster, &row(unfenced)).await, Late::Landed);
}

#[tokio::test]
async fn late_transaction_is_refused() {
    assert_shows("SQLite", include_str!("sqlite.rs"));
    let cluster = start().await;
    let table = |is_fenced| Table {
        db: Mutex::new(database()),
        is_fenced,
    };
    assert_eq!(late_write(&cluster, &table(true)).await, Late::Refused);
    assert_eq!(late_write(&cluster, &table(false)).await, Late::Landed);
}

#[test]
fn raised_fence_without_write_refuses_earlier_holders() {
    let mut db = database();
    // The later holder raises the fence before it reads, and has written nothing yet.
    assert!(fenced(&mut db, ("k", Epoch::new(8)), |_| Ok(())).unwrap());
    let late = fenced(&mut db, ("k", Epoch::new(7)), |_| unreachable!());
    assert!(!late.unwrap());
    assert!(fenced(&mut db, ("another", Epoch::new(7)), |_| Ok(())).unwrap());
}

#[test]
fn failed_write_rolls_fence_back() {
    let mut db = database();
    let fail = |_: &Transaction<'_>| Err(rusqlite::Error::InvalidQuery);
    assert!(fenced(&mut db, ("k", Epoch::new(8)), fail).is_err());
    assert!(fenced(&mut db, ("k", Epoch::new(7)), |_| Ok(())).unwrap());
}

#[test]
fn epoch_that_no_grant_has_is_an_error() {
    let mut db = database();
    for epoch in [Epoch::ZERO, Epoch::new(u64::MAX)] {
        assert!(fenced(&mut db, ("k", epoch), |_| unreachable!()).is_err());
    }
    // What `as i64` makes of an epoch from the year 2248.
    assert!(db.execute(&RAISE, ("k", i64::MIN)).is_err());
}
