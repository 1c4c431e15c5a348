//! `journal export` and `journal import`: a journal leaves one host and is the same journal on another.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, Said, cluster, errors, eventually, kill_while_one_waits, set};

const TWO: &[(&str, &str)] = &[("w1", ""), ("w2", "")];

/// A host with some history: changes, reads, a conflict, duplicates, an entry in pieces, a request without an outcome.
fn lived() -> Host {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "60s");
    let agent = host.start();
    let answer = host.ask("first", set(cluster(TWO)));
    assert!(answer.success(), "{}", errors(&answer));
    for number in 0..20 {
        host.ask(&format!("g-{number}"), Request::GetNodes {});
    }
    host.ask("g-3", Request::GetNodes {});
    assert_eq!(host.run(&["request", "welcome", "--reqid", "g-3"]).code, 5, "a conflict");
    let large = Request::NodeDispatch { action: vec!["x".repeat(40_000)], nodes: ["nobody".to_owned()].into() };
    host.ask("large", large);
    kill_while_one_waits(&host, agent, &[("w1", ""), ("w2", ""), ("w3", "env = SIM_NOT_READY=1")]);
    host
}

fn exported(host: &Host) -> (String, Value) {
    let file = host.dir.path().join("exported").display().to_string();
    let told = host.json(&["journal", "export", &file, "--json", "--force"]);
    (file, told)
}

fn dump(host: &Host) -> Vec<Value> {
    host.run(&["journal", "dump", "--kind", "all"]).lines()
}

#[test]
fn an_import_is_the_same_journal_and_carries_no_desired_state() {
    let host = lived();
    let before = host.json(&["journal", "verify", "--json"]);
    let (file, told) = exported(&host);
    assert_eq!((&told["head"], &told["entries"]), (&before["head"], &before["entries"]));
    let rows = dump(&host);

    let other = Host::new();
    let imported = other.json(&["journal", "import", &file, "--json"]);
    assert_eq!((&imported["entries"], &imported["exported_head"]), (&told["entries"], &told["head"]));
    assert_eq!(imported["abandoned"], 1);
    let head = told["head"].as_str().unwrap();
    let said = other.run(&["journal", "verify", "--anchor", head]);
    assert!(said.code == 0 && said.stdout.contains(&format!("it continues {head}")), "{said:?}");
    // Row for row the same, but for the one that was closed, and the one that tells of the import.
    let mut there = dump(&other);
    let last = there.pop().unwrap();
    assert_eq!((&last["event"], &last["detail"]["entries"]), (&json!("imported"), &told["entries"]));
    assert_eq!(there.len(), rows.len());
    for (there, row) in there.iter().zip(&rows) {
        if row["reqid"] == "waiting" {
            assert_eq!((&there["state"], &there["success"]), (&json!("abandoned"), &json!(false)));
            assert!(there["error"].as_str().unwrap().contains("exported"), "{there}");
        } else {
            assert_eq!(there, row);
        }
    }

    // Nothing runs until somebody says what, and the reqids of then are known.
    let agent = other.start();
    let hold = other.status().hold.unwrap_or_default();
    assert!(hold.contains("imported from") && other.status().configuration.is_none(), "{hold}");
    assert_eq!(other.pids().len(), 0);
    assert_eq!(other.ask("first", set(cluster(TWO))).results.len(), 1);
    eventually("the duplicate to be noted", || (other.requests("first")[0].duplicates == 1).then_some(()));
    assert_eq!(other.run(&["request", "welcome", "--reqid", "g-3"]).code, 5);
    assert!(other.ask("new", set(cluster(TWO))).success());
    assert_eq!(other.status().hold, None);
    other.verify();
    agent.kill();
    assert_eq!(other.run(&["journal", "verify", "--anchor", head]).code, 0, "it still continues the exported one");
}

#[test]
fn a_live_agent_exports_what_its_directory_holds_and_pipes_work() {
    let host = lived();
    let agent = host.start();
    let (file, live) = exported(&host);
    agent.kill();
    let (_, offline) = exported(&host);
    assert_eq!(host.run(&["journal", "verify", "--anchor", live["head"].as_str().unwrap()]).code, 0);
    let piped = host.command(&["journal", "export", "-"]).output().unwrap();
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stderr).contains("head "), "{piped:?}");
    // The time of the export is in the header.
    let bytes = fs::read(&file).unwrap();
    assert_eq!(piped.stdout.len(), bytes.len());
    let copy = host.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["db", "conf"] {
        fs::copy(host.state_dir().join("journal").join(name), copy.join(name)).unwrap();
    }
    let copied = host.json(&["journal", "export", &file, "--json", "--force", "--dir", &copy.display().to_string()]);
    assert_eq!(copied["head"], offline["head"]);

    let other = Host::new();
    let mut child = other.command(&["journal", "import", "-", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&piped.stdout).unwrap();
    let said = Said::wait(child);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()["exported_head"], offline["head"]);
    // What an import became is exported like anything else.
    let (_, again) = exported(&other);
    assert_eq!(again["head"], said.json()["head"]);
}

#[test]
fn a_closed_pipe_ends_an_export_in_silence() {
    let host = lived();
    let mut child = host.begin(&["journal", "export", "-"]);
    drop(child.stdout.take());
    let said = Said::wait(child);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

/// An import that has to fail, and to leave nothing.
fn refused(file: &Path, why: &str) {
    let host = Host::new();
    let said = host.run(&["journal", "import", &file.display().to_string()]);
    assert!(said.code == 1 && said.stderr.contains(why), "{why}: {said:?}");
    assert_eq!(said.stdout, "");
    let left: Vec<_> = fs::read_dir(host.state_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["agent.lock"], "{why}");
}

#[test]
fn a_file_that_is_cut_altered_or_of_something_else_is_refused_and_it_says_where() {
    let host = lived();
    let (file, _) = exported(&host);
    let good = fs::read(&file).unwrap();
    let bad = host.dir.path().join("bad");
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "not an export of a journal"),
        (b"[instances]\n".to_vec(), "not an export of a journal"),
        (good[..good.len() - 1].to_vec(), "cut short: it ends at byte"),
        (good[..good.len() / 2].to_vec(), ", after entry "),
        (good[..9].to_vec(), "cut short"),
        ([good.as_slice(), b"\0"].concat(), "something follows its end"),
    ];
    let mut version = good.clone();
    version[8] = 2;
    cases.push((version, "version 2"));
    for at in [14, 20, good.len() / 3, good.len() - 20] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        cases.push((flipped, "byte"));
    }
    for (bytes, why) in cases {
        fs::write(&bad, bytes).unwrap();
        refused(&bad, why);
    }
}

#[test]
fn a_journal_with_entries_is_left_alone_and_so_is_one_in_use() {
    let host = lived();
    let (file, told) = exported(&host);
    let said = host.run(&["journal", "import", &file]);
    assert!(said.code == 1 && said.stderr.contains("already"), "{said:?}");
    let other = Host::new();
    let agent = other.start();
    let said = other.run(&["journal", "import", &file]);
    assert!(said.code == 1 && said.stderr.contains("end it first"), "{said:?}");
    agent.kill();
    let after = host.json(&["journal", "verify", "--json"]);
    assert_eq!(after["head"], told["head"]);

    // A journal that was lost comes back from its export, and its newest numbers are not given out again.
    let agent = host.start();
    for node in ["w1", "w2"] {
        host.wait_state(node, NodeState::Running);
    }
    let pids = eventually("a process of the third, too", || Some(host.pids()).filter(|pids| pids.len() == 3));
    let newest = host.status().journal.last;
    agent.kill();
    fs::remove_dir_all(host.state_dir().join("journal")).unwrap();
    let imported = host.json(&["journal", "import", &file, "--json"]);
    assert!(imported["head"].as_str().unwrap().split(':').next().unwrap().parse::<u64>().unwrap() > newest);
    let agent = host.start();
    let hold = host.status().hold.unwrap_or_default();
    assert!(hold.contains("imported") && hold.contains("lost"), "{hold}");
    eventually("what ran to be adopted", || (host.pids() == pids).then_some(()));
    assert!(host.ask("again", set(cluster(TWO))).success());
    host.verify();
    agent.kill();
}

#[cfg(feature = "crash-points")]
#[test]
fn an_import_that_is_killed_has_done_nothing_or_is_finished_by_the_next_start() {
    let host = lived();
    let (file, told) = exported(&host);
    for point in ["after_import_built", "after_import_marked"] {
        let mut other = Host::new();
        other.set("ZCA_CRASH_AT", point);
        let mut command = other.command(&["journal", "import", &file]);
        assert!(command.stdout(Stdio::null()).status().unwrap().code().is_none(), "{point}");
        other.set("ZCA_CRASH_AT", "nowhere");
        let said = other.run(&["journal", "import", &file]);
        assert!(said.code == 1 && said.stderr.contains("already"), "{said:?}");
        let agent = other.start();
        assert!(other.status().hold.is_some_and(|why| why.contains("imported")));
        agent.kill();
        let said = other.run(&["journal", "verify", "--anchor", told["head"].as_str().unwrap()]);
        assert_eq!(said.code, 0, "{said:?}");
    }
}
