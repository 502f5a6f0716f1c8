//! The cluster secret of running processes is replaced by SIGHUP.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use lockmesh::{ClusterSecret, Mesh};
use serde_json::Value;

use super::common::{lockmesh, stdout, within};
use super::node::{Log, file, says, stops_on};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A process of `lockmesh node`, its log and the file of its secrets. It ends with the test.
struct Process {
    /// `None` once it is stopped.
    running: Option<(Child, Log)>,
    addr: String,
    secrets: PathBuf,
}

fn hang_up(child: &Child) {
    let mut kill = Command::new("kill");
    let killed = kill.args(["-HUP", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
}

impl Process {
    fn start(name: &str, seed: Option<&str>, secret: &ClusterSecret) -> Self {
        let seeds = seed.map_or_else(String::new, |seed| format!("seeds = [\"{seed}\"]\n"));
        let text = format!(
            "node_id = \"{name}\"\nlisten = \"127.0.0.1:0\"\nvoters = [\"n1\", \"n2\", \"n3\"]\n\
             secret_file = \"secrets\"\n{seeds}"
        );
        let config = file(&format!("rotation-{name}"), &text);
        let secrets = config.with_file_name("secrets");
        fs::write(&secrets, secret.to_base64() + "\n").unwrap();
        let mut command = lockmesh(&["node", "--bootstrap", "--data-dir", "", "--config"]);
        let (child, log, said) = says("mesh started", command.arg(config));
        let (_, rest) = said.split_once(" addr=").unwrap();
        let addr = rest.split(' ').next().unwrap().to_owned();
        Self {
            running: Some((child, log)),
            addr,
            secrets,
        }
    }

    /// Writes the file of the secrets, sends SIGHUP, and returns what the node logs up to `what`.
    fn reloads(&mut self, text: &str, what: &str) -> String {
        fs::write(&self.secrets, text).unwrap();
        hang_up(&self.running().0);
        self.running().1.until(what)
    }

    fn running(&mut self) -> &mut (Child, Log) {
        self.running.as_mut().unwrap()
    }

    fn stop(mut self) {
        let (child, log) = self.running.take().unwrap();
        stops_on("-TERM", child, log);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lines(secrets: &[&ClusterSecret]) -> String {
    secrets.iter().map(|it| it.to_base64() + "\n").collect()
}

/// Runs `lockmesh status` with these secrets.
fn status(peer: &str, secrets: &[&ClusterSecret], args: &[&str]) -> (String, Option<i32>) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rotation-status");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("secrets");
    fs::write(&path, lines(secrets)).unwrap();
    let mut command = lockmesh(&["status", "--peer", peer, "--secret-file"]);
    let output = command.arg(path).args(args).output().unwrap();
    (stdout(&output), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_replaces_secrets_and_keeps_locks() {
    let [old, new] = [1, 2].map(|byte| ClusterSecret::from_bytes([byte; 32]).unwrap());
    let first = Process::start(NODES[0], None, &old);
    let seed = first.addr.clone();
    let mut nodes = vec![first];
    nodes.extend(
        NODES[1..]
            .iter()
            .map(|name| Process::start(name, Some(&seed), &old)),
    );
    for node in &mut nodes {
        node.running().1.until(" ready node=");
    }
    let client = Mesh::builder("client").listen("127.0.0.1:0").voters(NODES);
    let client = client.seeds([seed.clone()]).secret(old.clone());
    let client = client.start().await.unwrap();
    let guard = within("a lock", client.lock("held").acquire())
        .await
        .unwrap();

    // The first three leave the node as it is.
    for (text, why) in [
        ("rubbish\n".to_owned(), "neither base64 nor 64 hex digits"),
        (lines(&[&new, &old, &new]), "is there twice"),
        (String::new(), "there are 0 cluster secrets"),
    ] {
        let said = nodes[0].reloads(&text, "the secrets are not replaced");
        assert!(said.contains(" ERROR ") && said.contains(why), "{said}");
    }
    let steps = [vec![&old, &new], vec![&new, &old], vec![&new]];
    for secrets in steps {
        let fingerprint = secrets[0].fingerprint();
        let replaced = format!("secrets={} secret={fingerprint}", secrets.len());
        for node in &mut nodes {
            let said = node.reloads(&lines(&secrets), &replaced);
            assert!(said.contains("secrets replaced"), "{said}");
            assert!(!said.contains(&new.to_base64()) && !said.contains(&old.to_base64()));
            assert!(guard.is_held());
            let other = client.lock("other").acquire();
            drop(within("another lock", other).await.unwrap());
        }
        let own = secrets.iter().map(|secret| (*secret).clone());
        client.rotate_secrets(own).unwrap();
        // Questions are sealed with the new secret: who answers has it.
        let (text, code) = status(&seed, &[&new, &old], &["--json"]);
        assert_eq!(code, Some(0), "{text}");
        let seen: Value = serde_json::from_str(&text).unwrap();
        let own = [&new, &old].map(|secret| secret.fingerprint().to_string());
        assert_eq!(seen["secrets"], serde_json::json!(own));
        for node in &seen["nodes"].as_array().unwrap()[..3] {
            assert_eq!(node["secret"], fingerprint.to_string(), "{text}");
        }
        let (text, _) = status(&seed, &[&new, &old], &[]);
        let count = if secrets[0].fingerprint() == new.fingerprint() {
            3
        } else {
            0
        };
        let line = format!(
            "secret {}: {count} of 3 nodes that answered seal with it",
            new.fingerprint()
        );
        assert!(text.contains(&line), "{text}");
    }
    assert_eq!(status(&seed, &[&old], &["--patience-ms", "500"]).1, Some(1));
    let (text, code) = status(&seed, &[&new], &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("secret"), "{text}");
    guard.release().await.unwrap();
    client.shutdown().await;
    nodes.into_iter().for_each(Process::stop);
}

#[test]
fn hangup_of_plaintext_node_changes_nothing() {
    let text = "node_id = \"n1\"\npreset = \"single\"\ninsecure_plaintext = true\n";
    let config = file("rotation-plaintext", text);
    let mut command = lockmesh(&["node", "--data-dir", "", "--config"]);
    let (child, mut log, _) = says(" ready node=", command.arg(&config));
    hang_up(&child);
    // At once: the node may read the file now, for the first signal.
    let next = config.with_extension("next");
    let text = text.replace("insecure_plaintext = true", "secret = \"AA\"");
    fs::write(&next, text).unwrap();
    fs::rename(&next, &config).unwrap();
    hang_up(&child);
    let said = log.until("the secrets are not replaced");
    assert!(
        said.contains("node.toml:3: secret: the cluster secret has 1 bytes"),
        "{said}"
    );
    stops_on("-TERM", child, log);
}
