//! `bench --compare`. No test checks the measured values.
#![cfg(all(feature = "compare", target_os = "linux"))]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Patience, bench, stderr, stdout};

/// Returns the directories in memory of the servers that a process started.
fn left(process: u32) -> Vec<PathBuf> {
    let begins = format!("lockmesh-compare-{process}-");
    let all = std::fs::read_dir("/dev/shm").unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&begins)
    };
    all.filter(is_its).collect()
}

/// Returns `true` if such a directory is on the command line of any process.
fn is_served(process: u32) -> bool {
    let begins = format!("lockmesh-compare-{process}-");
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut commands = processes.filter_map(|entry| {
        let command = entry.ok()?.path().join("cmdline");
        std::fs::read_to_string(command).ok()
    });
    commands.any(|command| command.contains(&begins))
}

#[test]
fn missing_server_is_named_with_its_package() {
    for (other, package) in [("redis", "redis-server"), ("etcd", "etcd-server")] {
        let output = bench(&["--compare", other])
            .env("PATH", env!("CARGO_TARGET_TMPDIR"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        let hint = format!("apt-get install {package}");
        assert!(said.contains(&hint), "{said}");
    }
}

#[test]
#[ignore = "needs Debian's packages redis-server and etcd-server"]
fn others_are_measured_and_leave_nothing_behind() {
    let child = bench(&["--compare", "redis,etcd", "--json"])
        .args(["--seconds", "0.5", "--tasks", "4"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let process = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stdout(&output);
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let lines = last["compare"].as_array().unwrap();
    assert_eq!(lines.len(), 4, "{told}");
    for line in lines {
        let figures = [
            "acquire_ratio",
            "cycles_ratio",
            "handoff_ratio",
            "cpu_ratio",
        ];
        for figure in figures {
            assert!(line[figure].as_f64().unwrap() > 0.0, "{figure}: {told}");
        }
        assert!(line["takeover_ms"].is_f64(), "{told}");
        let overlaps = line["overlaps"].as_f64();
        assert!(overlaps.is_none_or(|it| it == 0.0), "{told}");
    }
    assert_eq!(left(process), Vec::<PathBuf>::new());
    assert!(!is_served(process));
}

#[test]
#[ignore = "needs Debian's package etcd-server"]
fn servers_end_when_measurement_is_interrupted() {
    let mut child = bench(&["--compare", "etcd", "--only", "w3"])
        .args(["--seconds", "2"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = child.id();
    let mut patience = Patience::new();
    while left(process).is_empty() || !is_served(process) {
        patience.sleep("the start of etcd");
    }
    let mut kill = Command::new("kill");
    let killed = kill.args(["-INT", &process.to_string()]).status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(left(process), Vec::<PathBuf>::new());
    assert!(!is_served(process));
}
