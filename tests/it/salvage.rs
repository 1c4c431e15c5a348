//! `journal import --salvage`: what reads of a damaged journal is taken over, on this host or another, and what does not
//! is told.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;

use crate::support::{Host, cluster, errors, set};

/// A host whose agent ran twice and was killed.
fn lived() -> Host {
    let host = Host::new();
    host.start().kill();
    let agent = host.start();
    let answer = host.ask("first", set(cluster(&[("w1", ""), ("w2", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    for number in 0..300 {
        host.ask(&format!("g-{number}"), Request::GetNodes {});
    }
    agent.kill();
    host
}

/// The rows that the directory holds.
fn dump(host: &Host) -> Vec<Value> {
    host.run(&["journal", "dump", "--kind", "all"]).lines()
}

/// A snapshot that does not read, so that the journal is set aside, and zeros in the middle of the store's file.
fn damage(journal: &Path) {
    damage_snapshot(journal);
    let file = OpenOptions::new().write(true).open(journal.join("db")).unwrap();
    let middle = file.metadata().unwrap().len() / 2 / 4096 * 4096;
    file.write_all_at(&[0; 8192], middle).unwrap();
}

fn damage_snapshot(journal: &Path) {
    let mut files = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap.")).unwrap();
    fs::write(snapshot, b"damaged").unwrap();
}

fn set_aside(host: &Host) -> Option<PathBuf> {
    let names = fs::read_dir(host.state_dir()).unwrap().map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal.damaged-"))
}

fn lost(told: &Value) -> u64 {
    let ranges = told["missing"].as_array().unwrap().iter();
    ranges.map(|range| range[1].as_u64().unwrap() - range[0].as_u64().unwrap() + 1).sum()
}

#[test]
fn what_reads_of_a_set_aside_journal_is_a_journal_again() {
    let host = lived();
    let rows = dump(&host);
    let newest = rows.last().unwrap()["seq"].as_u64().unwrap();
    let whole = host.dir.path().join("whole");
    let copied = Command::new("cp").arg("-r").arg(host.state_dir()).arg(&whole).status().unwrap();
    assert!(copied.success());
    damage(&host.state_dir().join("journal"));
    // The next start sets it aside.
    let agent = host.start();
    let hold = host.status().hold.unwrap_or_default();
    assert!(hold.contains("was damaged and is set aside"), "{hold}");
    agent.kill();
    let aside = set_aside(&host).expect("a journal that was set aside");

    // There is a journal here: that one is not replaced.
    let damaged = aside.display().to_string();
    let said = host.run(&["journal", "import", "--salvage", &damaged]);
    assert!(said.code == 1 && said.stderr.contains("holds a journal with entries already"), "{said:?}");

    let other = Host::new();
    let told = other.json(&["journal", "import", "--salvage", &damaged, "--json"]);
    assert_eq!(told["problems"], json!([]));
    let known = told["last"].as_u64().unwrap();
    assert_eq!(told["entries"].as_u64().unwrap() + lost(&told), known, "nothing is passed over in silence: {told}");
    assert!(lost(&told) > 0 || known < newest, "the damage hit nothing: {told}");
    let verified = other.run(&["journal", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    // Row for row what was written, as far as it reads.
    let mut there = dump(&other);
    let last = there.pop().unwrap();
    assert_eq!((&last["event"], &last["detail"]["from"]), (&json!("imported"), &json!(damaged)));
    assert!(!there.is_empty());
    for row in &there {
        let written = rows.iter().find(|written| written["seq"] == row["seq"]);
        if row["state"] != "abandoned" {
            assert_eq!(Some(row), written);
        }
    }
    // Nothing runs, and what was answered then is answered again.
    let agent = other.start();
    let hold = other.status().hold.unwrap_or_default();
    assert!(hold.contains("imported from") && other.status().configuration.is_none(), "{hold}");
    assert!(other.pids().is_empty());
    let answered = there.iter().find(|row| row["state"] == "completed" && row["event"] == "get_nodes_request").unwrap();
    let reqid = answered["reqid"].as_str().unwrap();
    let again = other.json(&["request", "get-nodes", "--reqid", reqid, "--json"]);
    assert_eq!(again["results"], answered["response"]["results"]);
    assert_eq!(other.requests(reqid).len(), 1, "a duplicate, not a new request");
    agent.kill();

    // A copy of a state directory does as well, whole as it is; as the agent left it.
    let third = Host::new();
    let told = third.json(&["journal", "import", "--salvage", &whole.display().to_string(), "--json"]);
    assert_eq!((&told["missing"], &told["problems"]), (&json!([]), &json!([])));
    assert_eq!(told["entries"].as_u64(), Some(newest));
    let head = told["exported_head"].as_str().unwrap();
    assert_eq!(third.run(&["journal", "verify", "--anchor", head]).code, 0);
    let text = third.run(&["journal", "import", "--salvage", &whole.display().to_string()]);
    assert!(text.code == 1 && text.stderr.contains("holds a journal with entries already"), "{text:?}");
}

/// The store's snapshot does not read, and its log has everything: set aside, and no doubt about anything.
#[test]
fn a_salvage_that_lost_nothing_is_no_reason_to_hold() {
    let host = lived();
    let nodes = ["w1", "w2"].map(|node| host.node_processes(node));
    let newest = dump(&host).last().unwrap()["seq"].as_u64().unwrap();
    damage_snapshot(&host.state_dir().join("journal"));
    let agent = host.start();
    assert!(set_aside(&host).is_some(), "{}", host.read_log());
    assert_eq!(host.status().hold, None, "{}", host.read_log());
    assert!(host.read_log().contains("nothing was lost"), "{}", host.read_log());
    assert!(host.status().journal.last > newest);
    assert_eq!(["w1", "w2"].map(|node| host.node_processes(node)), nodes, "the same processes");
    agent.kill();
    assert_eq!(host.run(&["journal", "verify"]).code, 0);
}

/// An open writes to what it opens, and of a cut file it loses what could be read before.
#[cfg(feature = "crash-points")]
#[test]
fn a_cut_file_is_set_aside_as_it_was_found() {
    let mut host = lived();
    // What is cut off has pages that the snapshot of this start names.
    host.start().kill();
    let newest = dump(&host).last().unwrap()["seq"].as_u64().unwrap();
    let journal = host.state_dir().join("journal");
    let file = OpenOptions::new().write(true).open(journal.join("db")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 5 * 2).unwrap();
    let files = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        files
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let found = files(&journal);
    let told = Host::new().json(&["journal", "import", "--salvage", &host.state_dir().display().to_string(), "--json"]);
    for point in ["during_probe", "during_salvage", "after_salvage_built"] {
        host.set("ZCA_CRASH_AT", point);
        assert_eq!(host.spawn().wait().code(), None, "{point}: {}", host.read_log());
        assert!(files(&journal) == found, "{point}: the cut file was written to");
    }
    host.set("ZCA_CRASH_AT", "during_salvage_swap");
    assert_eq!(host.spawn().wait().code(), None, "{}", host.read_log());
    host.set("ZCA_CRASH_AT", "nowhere");
    let agent = host.start();
    let hold = host.status().hold.unwrap_or_default();
    assert!(
        hold.contains("was damaged and is set aside") && hold.contains(&format!("{} are lost", lost(&told))),
        "{hold}"
    );
    let aside = set_aside(&host).expect("a journal that was set aside");
    assert!(files(&aside) == found, "what was set aside is not what was found");
    assert_eq!(told["entries"].as_u64().unwrap() + lost(&told), newest);
    agent.kill();
    assert_eq!(host.run(&["journal", "verify"]).code, 0);
    // That is done with: the next start finds the new journal as long as it was left.
    let agent = host.start();
    assert_eq!(host.read_log().matches("bytes shorter than it was").count(), 3, "{}", host.read_log());
    agent.kill();
}

#[test]
fn nothing_is_not_taken_for_a_journal() {
    let host = lived();
    let other = Host::new();
    let import = |dir: &Path| other.run(&["journal", "import", "--salvage", &dir.display().to_string()]);
    let said = import(&host.dir.path().join("nowhere"));
    assert!(said.code == 1 && said.stderr.contains("there is no journal in"), "{said:?}");
    // A live agent's is not copied under it.
    let agent = host.start();
    let said = import(&host.state_dir());
    assert!(said.code == 1 && said.stderr.contains(&format!("pid {}", agent.pid())), "{said:?}");
    agent.kill();
    // Nothing in it reads.
    fs::write(host.state_dir().join("journal/db"), vec![0xa5; 100_000]).unwrap();
    let said = import(&host.state_dir());
    assert!(said.code == 1 && said.stderr.contains("nothing of it can be recovered"), "{said:?}");
    assert!(!other.state_dir().join("journal").exists());
    // One of the two ways, and not both.
    assert_eq!(other.run(&["journal", "import"]).code, 2);
    assert_eq!(other.run(&["journal", "import", "x", "--salvage", "y"]).code, 2);
}
