//! Journals of real processes on a file system that loses what was not synced.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use lockmesh_proto::{
    Epoch, Incarnation, JournalOwner, Key, NodeId, Started, Timing, VoterLimits, VoterSet,
    open_journal,
};
use serde_json::Value;
use tools::power::{IgnoredSyncs, PowerFs};

use crate::common::{chaos, place, stderr, stdout, until};
use crate::worker::{Node, Setup};

/// The grants that a process is told between two power cuts.
const GRANTS: usize = 20;

/// A voter whose data directory lies on such a file system.
struct Voter {
    place: PathBuf,
    fs: PowerFs,
    durability: &'static str,
    boots: u32,
    history: PathBuf,
}

/// A process that was killed.
struct Killed {
    /// The highest epoch of each key that any process was told so far.
    told: BTreeMap<String, u64>,
    /// The source of its voter's memory.
    from: Value,
}

impl Voter {
    /// Returns `None` if no file system can be mounted. Then writes a message that the test harness
    /// does not capture.
    fn new(name: &str, durability: &'static str, ignored: IgnoredSyncs) -> Option<Self> {
        if let Some(why) = PowerFs::missing() {
            let words = format!("\nSKIPPED: {name} was not tested: {why}\n");
            std::io::stderr().write_all(words.as_bytes()).unwrap();
            return None;
        }
        let place = place(name);
        let disk = place.join("disk");
        fs::create_dir(&disk).unwrap();
        let fs = PowerFs::mount(&disk, ignored).unwrap();
        Some(Self {
            place,
            fs,
            durability,
            boots: 0,
            history: PathBuf::new(),
        })
    }

    fn start(&mut self) -> Node {
        self.boots += 1;
        let durability = self.durability;
        let more = format!("data_dir = \"disk/data\"\ndurability = \"{durability}\"\n");
        let load = format!(
            "--boot-id {} --mix hold --hold-ms 1..20 --pause-ms 1..5",
            self.boots
        );
        let node = Node::start(
            &self.place,
            "n1",
            &Setup {
                voters: "\"n1\"",
                is_new: self.boots == 1,
                more: &more,
                load: &load,
                ..Setup::default()
            },
        );
        self.history.clone_from(&node.history);
        node
    }

    /// Starts a process and kills it under load, without a power cut.
    fn kill_under_load(&mut self) -> Killed {
        let mut node = self.start();
        let own = |node: &Node, starts| {
            let lines = node.lines();
            let mut of = lines.split(|line| line["event"] == "start");
            of.nth(starts).map(<[Value]>::to_vec)
        };
        let starts = self.boots as usize;
        until("grants", || {
            let own = own(&node, starts)?;
            let granted = own.iter().filter(|line| line["event"] == "granted");
            (granted.count() >= GRANTS).then_some(())
        });
        node.ends("-KILL");
        let own = own(&node, starts).unwrap_or_default();
        let from = own.iter().rfind(|line| line["event"] == "voting");
        Killed {
            told: told(&node.lines()),
            from: from.unwrap()["from"].clone(),
        }
    }

    /// Returns the keys whose told epoch is neither that of a vote in the journal nor below its
    /// fence.
    fn missing(&self, told: &BTreeMap<String, u64>) -> Vec<String> {
        let journal = fs::read(self.fs.dir().join("data/journal")).unwrap_or_default();
        let name = NodeId::new("n1").unwrap();
        let owner = JournalOwner {
            node: name.clone(),
            cluster: "prod".to_owned(),
            buckets: VoterLimits::default().fence_buckets,
        };
        let voter_set = VoterSet::new(1, vec![name], 1, Timing::lan()).unwrap();
        let started = Started::new(Incarnation::new(1), None, true, &voter_set);
        let memory = open_journal(&journal, &owner, started).unwrap().memory;
        let is_missing = |(key, epoch): &(&String, &u64)| {
            let key = Key::new(key.as_str()).unwrap();
            let vote = memory.vote(&key).map(|vote| vote.epoch);
            vote.max(Some(memory.fence(&key))) < Some(Epoch::new(**epoch))
        };
        let missing = told.iter().filter(is_missing);
        missing.map(|(key, _)| key.clone()).collect()
    }
}

/// Returns the highest epoch of each key that was granted.
fn told(lines: &[Value]) -> BTreeMap<String, u64> {
    let (mut keys, mut told) = (BTreeMap::new(), BTreeMap::new());
    for line in lines {
        let id = line["id"].as_u64();
        match line["event"].as_str() {
            // The next process numbers its requests anew.
            Some("start") => keys.clear(),
            Some("asked") => {
                keys.insert(id, line["key"].as_str().unwrap().to_owned());
            }
            Some("granted") => {
                let highest = told.entry(keys[&id].clone()).or_default();
                *highest = line["epoch"].as_u64().unwrap().max(*highest);
            }
            _ => {}
        }
    }
    told
}

#[test]
fn synced_journal_has_each_told_grant() {
    let Some(mut voter) = Voter::new("power-synced", "machine", IgnoredSyncs::None) else {
        return;
    };
    for cut in 0..6 {
        let Killed { told, from } = voter.kill_under_load();
        let expected = if cut == 0 { "nothing" } else { "journal" };
        assert_eq!(from, expected, "cut {cut}");
        // Half of the cuts leave a part of what was not synced.
        voter.fs.cut((cut % 2 == 1).then_some(cut));
        assert_eq!(voter.missing(&told), Vec::<String>::new(), "cut {cut}");
    }
    let judged = chaos(&["check"]).arg(&voter.history).output().unwrap();
    let said = stdout(&judged) + &stderr(&judged);
    assert!(judged.status.success(), "{said}");
}

/// A first start was interrupted after it had created the directory, and before it synced its name.
#[test]
fn directory_of_interrupted_start_survives_a_power_cut() {
    let Some(mut voter) = Voter::new("power-interrupted", "machine", IgnoredSyncs::None) else {
        return;
    };
    fs::create_dir(voter.fs.dir().join("data")).unwrap();
    let Killed { told, .. } = voter.kill_under_load();
    voter.fs.cut(None);
    assert_eq!(voter.missing(&told), Vec::<String>::new());
}

/// The tests above would find a voter that does not sync its votes.
#[test]
fn ignored_syncs_lose_told_grants() {
    let Some(mut voter) = Voter::new("power-ignored", "machine", IgnoredSyncs::Data) else {
        return;
    };
    let Killed { told, .. } = voter.kill_under_load();
    assert_eq!(voter.missing(&told), Vec::<String>::new());
    voter.fs.cut(None);
    assert!(!voter.missing(&told).is_empty(), "{told:?}");
}

/// A journal that is not synced lacks grants, and is not memory after a power cut.
#[test]
fn process_journal_is_not_memory_after_power_cut() {
    let Some(mut voter) = Voter::new("power-process", "process", IgnoredSyncs::None) else {
        return;
    };
    let Killed { told, .. } = voter.kill_under_load();
    voter.fs.cut(None);
    assert!(!voter.missing(&told).is_empty(), "{told:?}");
    let node = voter.start();
    node.says("so this voter waits for a quarantine");
}
