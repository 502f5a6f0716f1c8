//! A gate in front of data of this process, with and without a store.

use std::io;
use std::sync::Mutex;

use lockmesh::fence::{AdmitError, FenceStore, Gate, SavedFences};
use lockmesh::{Epoch, Guard, Key};
use rusqlite::Connection;

use crate::folder::Folder;
use crate::guide::{assert_shows, sql};
use crate::late_write::{Late, Resource, late_write, start};

/// The fences of a gate. The row with the empty key is the fence of all forgotten keys.
struct SqliteFences(Connection);

impl FenceStore for SqliteFences {
    fn load(&mut self) -> io::Result<SavedFences> {
        let mut saved = SavedFences::default();
        let rows = self.0.prepare("SELECT key, epoch FROM fence");
        let mut rows = rows.map_err(io::Error::other)?;
        let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
        for row in rows.map_err(io::Error::other)? {
            let (key, epoch): (String, i64) = row.map_err(io::Error::other)?;
            let epoch = Epoch::try_from(epoch).map_err(io::Error::other)?;
            if key.is_empty() {
                saved.forgotten = epoch;
            } else {
                let key = Key::new(key).map_err(io::Error::other)?;
                saved.keys.push((key, epoch));
            }
        }
        Ok(saved)
    }

    fn save(&mut self, key: &Key, epoch: Epoch) -> io::Result<()> {
        put(&self.0, key.as_str(), epoch)
    }

    fn forget(&mut self, keys: &[Key], forgotten: Epoch) -> io::Result<()> {
        let transaction = self.0.transaction().map_err(io::Error::other)?;
        put(&transaction, "", forgotten)?;
        for key in keys {
            let delete = "DELETE FROM fence WHERE key = ?1";
            let deleted = transaction.execute(delete, [key.as_str()]);
            deleted.map_err(io::Error::other)?;
        }
        transaction.commit().map_err(io::Error::other)
    }
}

fn put(db: &Connection, key: &str, epoch: Epoch) -> io::Result<()> {
    let epoch = i64::try_from(epoch).map_err(io::Error::other)?;
    let put = "INSERT OR REPLACE INTO fence (key, epoch) VALUES (?1, ?2)";
    let done = db.execute(put, (key, epoch));
    done.map(drop).map_err(io::Error::other)
}

fn open(folder: &Folder, capacity: usize) -> Gate {
    let path = folder.path().join("fences.db");
    let is_new = !path.exists();
    let db = Connection::open(path).unwrap();
    if is_new {
        db.execute(sql::<2>("SQLite")[0], ()).unwrap();
    }
    Gate::open(capacity, SqliteFences(db)).unwrap()
}

struct Data<F> {
    gate: Option<Mutex<Gate>>,
    /// Returns the gate of the next process, which is started before each write.
    restart: F,
    balance: Mutex<i64>,
}

impl<F: Fn(&mut Gate)> Resource for Data<F> {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let mut balance = self.balance.lock().unwrap();
        if let Some(gate) = &self.gate {
            let mut gate = gate.lock().unwrap();
            (self.restart)(&mut gate);
            let key = Key::new(guard.key()).unwrap();
            match gate.admit(&key, guard.epoch()) {
                Ok(()) => {}
                Err(AdmitError::Stale { epoch, seen }) => {
                    assert!(epoch == guard.epoch() && seen > epoch);
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
        *balance = to;
        true
    }

    async fn read(&self) -> i64 {
        *self.balance.lock().unwrap()
    }
}

fn data<F: Fn(&mut Gate)>(gate: Option<Gate>, restart: F) -> Data<F> {
    Data {
        gate: gate.map(Mutex::new),
        restart,
        balance: Mutex::new(0),
    }
}

#[tokio::test]
async fn late_write_past_gate_is_refused() {
    let cluster = start().await;
    let fenced = data(Some(Gate::new()), |_| {});
    assert_eq!(late_write(&cluster, &fenced).await, Late::Refused);
    let unfenced = data(None, |_| {});
    assert_eq!(late_write(&cluster, &unfenced).await, Late::Landed);
}

#[tokio::test]
async fn late_write_after_restart_needs_store() {
    assert_shows("A service of your own", include_str!("gate.rs"));
    let cluster = start().await;
    let folder = Folder::new();
    let stored = data(Some(open(&folder, 8)), |gate| {
        *gate = Gate::new();
        *gate = open(&folder, 8);
    });
    assert_eq!(late_write(&cluster, &stored).await, Late::Refused);
    let forgetful = data(Some(Gate::new()), |gate| *gate = Gate::new());
    assert_eq!(late_write(&cluster, &forgetful).await, Late::Landed);
}

#[test]
fn forgotten_keys_stay_fenced_over_restart() {
    let folder = Folder::new();
    let key = |n: u64| Key::new(format!("k{n}")).unwrap();
    let gate = open(&folder, 2);
    for n in 1..=9 {
        gate.admit(&key(n), Epoch::new(n)).unwrap();
    }
    drop(gate);
    let gate = open(&folder, 2);
    for n in 2..=9 {
        let refused = gate.admit(&key(n), Epoch::new(n - 1));
        assert!(refused.is_err(), "{n}");
    }
    gate.admit(&key(9), Epoch::new(9)).unwrap();
    gate.admit(&key(1), Epoch::new(10)).unwrap();
}
