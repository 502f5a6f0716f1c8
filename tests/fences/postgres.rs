//! PostgreSQL: a column, and a table of fences. The test starts a server of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use lockmesh::Guard;

use crate::folder::Folder;
use crate::guide::{sql, without};
use crate::late_write::{Late, Resource, late_write, start};
use crate::waits::until;

/// The user `nobody` of Debian: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// A server on a Unix socket in a folder of its own.
struct Server {
    programs: PathBuf,
    folder: Folder,
    /// Stops the server when its input ends, also if this process is killed.
    stop: Child,
}

impl Server {
    /// Returns `None` if PostgreSQL is not installed, and says so past the test harness.
    fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let must = std::env::var_os("LOCKMESH_POSTGRES_TESTS").is_some_and(|it| it == "must");
            assert!(!must, "there is no initdb here");
            let line = b"\nSKIPPED: the fence in PostgreSQL was not tested: no initdb is here\n";
            std::io::stderr().write_all(line).unwrap();
            return None;
        };
        let folder = Folder::new();
        if fs::metadata(folder.path()).unwrap().uid() == 0 {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut stop = Command::new("sh");
        stop.args(["-c", "cat; exec \"$0\" stop -D data -m immediate"]);
        stop.arg(programs.join("pg_ctl"));
        stop.current_dir(folder.path()).process_group(0);
        stop.stdin(Stdio::piped());
        stop.stdout(Stdio::null()).stderr(Stdio::null());
        if fs::metadata(folder.path()).unwrap().uid() == NOBODY {
            stop.uid(NOBODY).gid(NOBODY);
        }
        let stop = stop.spawn().unwrap();
        let server = Self {
            programs,
            folder,
            stop,
        };
        server.run(
            "initdb",
            &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        );
        let folder = server.folder.path().display();
        let options = format!("-k {folder} -c listen_addresses='' -c fsync=off");
        server.run(
            "pg_ctl",
            &["start", "-w", "-t", "300", "-l", "log", "-o", &options],
        );
        let mut session = server.psql();
        session.run(sql::<2>("A row of its own")[0]);
        session.run(sql::<3>("PostgreSQL")[0]);
        session.run("INSERT INTO account (id, balance) VALUES ('alice', 0)");
        Some(server)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(self.programs.join(program));
        command.arg("-D").arg("data").args(arguments);
        command
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if fs::metadata(folder).unwrap().uid() == NOBODY {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.folder.path().join("output");
        let output = fs::File::create(output).unwrap();
        let mut command = self.command(program, arguments);
        // A file and no pipe: the server keeps it open.
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let status = command.status().unwrap();
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        assert!(
            status.success(),
            "{program}: {}{}",
            read("output"),
            read("log")
        );
    }

    fn psql(&self) -> Session {
        let psql = "exec \"$0\" -X -A -t -h \"$1\" -U postgres -d postgres 2>&1";
        let psql = Command::new("sh")
            .args(["-c", psql])
            .arg(self.programs.join("psql"))
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut psql = psql.unwrap();
        let lines = BufReader::new(psql.stdout.take().unwrap());
        Session { psql, lines }
    }

    /// Returns a session with the statements of the guide, and those without a fence.
    fn session(&self) -> Session {
        let mut session = self.psql();
        let [_, column] = sql("A row of its own");
        let [_, write, raise] = sql("PostgreSQL");
        let unfenced_column = without(column, "AND fence <= $2");
        let unfenced = without(write, "WHERE fence.epoch <= excluded.epoch");
        for (name, statement) in [
            ("by_column", column),
            ("unfenced_column", &unfenced_column),
            ("write", write),
            ("unfenced", &unfenced),
            ("raise", raise),
        ] {
            assert_eq!(
                session.run(&format!("PREPARE {name} AS {statement}")),
                "PREPARE"
            );
        }
        session
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.stdin.take());
        let _ = self.stop.wait();
    }
}

/// Returns the folder of the programs of PostgreSQL, which Debian keeps out of the search path.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let mut folders = debian.chain(std::env::split_paths(&path));
    folders.find(|folder| folder.join("initdb").is_file())
}

/// A session of psql.
struct Session {
    psql: Child,
    lines: BufReader<ChildStdout>,
}

impl Session {
    /// Sends a statement, and does not wait for its end.
    fn send(&mut self, statement: &str) {
        let statement = format!("{statement};\n\\echo .\n");
        let stdin = self.psql.stdin.as_mut().unwrap();
        stdin.write_all(statement.as_bytes()).unwrap();
    }

    /// Returns the output of the statement that was sent.
    fn output(&mut self) -> String {
        let mut output = String::new();
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "psql has ended: {output}");
            if line == ".\n" {
                return output.trim_end().to_owned();
            }
            output += &line;
        }
    }

    fn run(&mut self, statement: &str) -> String {
        self.send(statement);
        self.output()
    }

    fn balance(&mut self) -> i64 {
        self.run("SELECT balance FROM account").parse().unwrap()
    }

    /// Waits until one session waits for a lock.
    async fn until_one_waits(&mut self) {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until("a session waits", || self.run(count) == "1").await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// The account, written by a statement whose parameters are in the order of `arguments`.
struct Account<F> {
    session: Mutex<Session>,
    execute: F,
}

impl<F: Fn(&Guard, i64) -> String> Resource for Account<F> {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let execute = (self.execute)(guard, to);
        match self.session.lock().unwrap().run(&execute).as_str() {
            "UPDATE 1" => true,
            "UPDATE 0" => false,
            output => panic!("{output}"),
        }
    }

    async fn read(&self) -> i64 {
        self.session.lock().unwrap().balance()
    }
}

#[tokio::test]
async fn late_statement_is_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let cluster = start().await;
    let by_column = |name: &'static str| Account {
        session: Mutex::new(server.session()),
        execute: move |guard: &Guard, to| {
            format!("EXECUTE {name} ({to}, {}, 'alice')", guard.epoch().get())
        },
    };
    let by_table = |name: &'static str| Account {
        session: Mutex::new(server.session()),
        execute: move |guard: &Guard, to| {
            let (key, epoch) = (guard.key(), guard.epoch().get());
            format!("EXECUTE {name} ('{key}', {epoch}, {to}, 'alice')")
        },
    };
    let column = late_write(&cluster, &by_column("by_column")).await;
    assert_eq!(column, Late::Refused);
    let unfenced = late_write(&cluster, &by_column("unfenced_column")).await;
    assert_eq!(unfenced, Late::Landed);
    let table = late_write(&cluster, &by_table("write")).await;
    assert_eq!(table, Late::Refused);
    let unfenced = late_write(&cluster, &by_table("unfenced")).await;
    assert_eq!(unfenced, Late::Landed);
}

#[tokio::test]
async fn holders_at_once_are_ordered_by_epoch() {
    let Some(server) = Server::start() else {
        return;
    };
    let [mut one, mut other, mut watch] = [server.session(), server.session(), server.session()];

    // The earlier holder is in a transaction: the later one waits for its end, and then writes.
    one.run("BEGIN");
    assert_eq!(one.run("EXECUTE raise ('k', 7)"), "INSERT 0 1");
    other.send("EXECUTE write ('k', 8, 80, 'alice')");
    watch.until_one_waits().await;
    assert_eq!(one.run("UPDATE account SET balance = 70"), "UPDATE 1");
    one.run("COMMIT");
    assert_eq!(other.output(), "UPDATE 1");
    assert_eq!(watch.balance(), 80);
    assert_eq!(one.run("EXECUTE write ('k', 7, 71, 'alice')"), "UPDATE 0");

    // The later holder is in a transaction: the earlier one waits, and is refused.
    one.run("BEGIN");
    assert_eq!(one.run("EXECUTE raise ('k', 10)"), "INSERT 0 1");
    other.send("EXECUTE write ('k', 9, 90, 'alice')");
    watch.until_one_waits().await;
    one.run("COMMIT");
    assert_eq!(other.output(), "UPDATE 0");
    assert_eq!(other.run("EXECUTE raise ('k', 9)"), "INSERT 0 0");

    // It is rolled back: the fence is as it was, and the earlier one writes.
    one.run("BEGIN");
    assert_eq!(one.run("EXECUTE raise ('k', 12)"), "INSERT 0 1");
    other.send("EXECUTE write ('k', 11, 110, 'alice')");
    watch.until_one_waits().await;
    one.run("ROLLBACK");
    assert_eq!(other.output(), "UPDATE 1");

    // Two writes of one holder: both are admitted.
    one.run("BEGIN");
    assert_eq!(one.run("EXECUTE write ('k', 11, 111, 'alice')"), "UPDATE 1");
    other.send("EXECUTE write ('k', 11, 112, 'alice')");
    watch.until_one_waits().await;
    one.run("COMMIT");
    assert_eq!(other.output(), "UPDATE 1");
    assert_eq!(watch.balance(), 112);

    // The same at the levels that fail one of the two.
    one.run("BEGIN");
    assert_eq!(one.run("EXECUTE raise ('k', 13)"), "INSERT 0 1");
    other.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    other.send("EXECUTE write ('k', 12, 120, 'alice')");
    watch.until_one_waits().await;
    one.run("COMMIT");
    let output = other.output();
    assert!(output.contains("could not serialize access"), "{output}");
    other.run("ROLLBACK");
    assert_eq!(watch.balance(), 112);

    // Epochs that no grant has.
    for epoch in ["0", "-1", "'-9223372036854775808'"] {
        let output = one.run(&format!("EXECUTE write ('another', {epoch}, 1, 'alice')"));
        assert!(output.contains("violates check constraint"), "{output}");
    }
    assert_eq!(watch.balance(), 112);
}
