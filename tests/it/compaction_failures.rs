//! Compactions that cannot be: the journal is as it was, says why it is left so, and is used as before.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use zeek_cluster_agent::api::event::Request;

use crate::compaction::{assert_continues, head, journal, journals, outgrow, pointer, size};
use crate::faults::{Faults, Which};
use crate::full_disk::large;
use crate::small::{MIB, Small, fill};
use crate::support::{Host, Said, cluster, errors, eventually, is_alive, run_to_end, set};

const NODE: &[(&str, &str)] = &[("w1", "")];

fn compact(host: &Host) -> Said {
    host.run(&["journal", "compact", "--force"])
}

/// Nothing of a compaction is left.
fn assert_as_it_was(host: &Host, what: &str) {
    assert_eq!(journals(host), ["journal".to_owned()].into(), "{what}");
    for name in ["journal.current", "journal.current.new"] {
        assert!(!host.state_dir().join(name).exists(), "{what}: {name}");
    }
}

fn is_new(host: &Host, reqid: &str) {
    let response = host.ask(reqid, Request::GetNodes {});
    assert!(response.success(), "{reqid}: {}", errors(&response));
}

#[test]
fn a_journal_that_is_mounted_or_linked_is_neither_compacted_nor_set_aside() {
    /// Puts the journal's directory there in some way, and gives what undoes it when dropped.
    type Put = fn(&Host) -> Option<Box<dyn std::any::Any>>;
    let bound: Put = |host| Some(Box::new(Small::bind(journal(host))?));
    let mounted: Put = |host| {
        let files = host.dir.path().join("files");
        fs::rename(journal(host), &files).unwrap();
        let small = Small::mount(journal(host), "64m")?;
        for file in fs::read_dir(files).unwrap().map(|entry| entry.unwrap()) {
            if file.path().is_file() {
                fs::copy(file.path(), journal(host).join(file.file_name())).unwrap();
            }
        }
        Some(Box::new(small))
    };
    let linked: Put = |host| {
        let elsewhere = host.dir.path().join("elsewhere");
        fs::rename(journal(host), &elsewhere).unwrap();
        symlink(elsewhere, journal(host)).unwrap();
        Some(Box::new(()))
    };
    for (what, put) in [("bound", bound), ("mounted", mounted), ("linked", linked)] {
        let host = Host::new();
        let agent = host.start();
        assert!(host.ask("first", set(cluster(NODE))).success());
        let pids = host.pids();
        agent.kill();
        let Some(undo) = put(&host) else { return };
        let agent = host.start();
        let noted = head(&host);
        for (how, said) in [
            ("live", compact(&host)),
            ("offline", {
                agent.kill();
                compact(&host)
            }),
        ] {
            assert_eq!(said.code, 1, "{what}, {how}: {said:?}");
            for told in ["a mount point or a symbolic link", "journal", "plain directory"] {
                assert!(said.stderr.contains(told), "{what}, {how}, {told}: {said:?}");
            }
            assert_as_it_was(&host, what);
        }
        let agent = host.start();
        assert_eq!((host.pids(), host.status().hold), (pids.clone(), None), "{what}");
        assert_continues(&host, &noted);
        agent.kill();

        // Damage. To set it aside is to rename it.
        let db = journal(&host).join("db");
        let mut damaged = fs::read(&db).unwrap();
        damaged.iter_mut().skip(32).for_each(|byte| *byte ^= 0x55);
        fs::write(&db, damaged).unwrap();
        let said = run_to_end(&host, &[]);
        assert_eq!(said.code, 1, "{what}: {said:?}");
        assert!(said.stderr.contains("cannot be set aside") && said.stderr.contains("plain directory"), "{said:?}");
        assert_as_it_was(&host, what);
        assert!(pids.values().all(|pid| is_alive(*pid)), "{what}");
        host.end_all();
        drop(undo);
    }
}

#[test]
fn a_disk_that_fails_during_a_compaction_leaves_the_journal_as_it_is() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", set(cluster(NODE))).success());
    let pids = host.pids();
    for number in 0..20 {
        is_new(&host, &format!("r{number}"));
    }
    let in_state_dir = |name: &str| -> PathBuf { host.state_dir().join(name) };
    let (full, broken) = ("no space is left", "file system reports an error");
    for (number, (path, calls, error, which, told)) in [
        // The copy.
        ("journal.2/db", "pwrite64", "ENOSPC", Which::Each, full),
        ("journal.2/db", "pwrite64", "EIO", Which::Each, broken),
        ("journal.2/db", "pwrite64", "EDQUOT", Which::Each, full),
        ("journal.2/db", "fdatasync", "EIO", Which::Each, broken),
        ("journal.2", "mkdir", "ENOSPC", Which::Each, full),
        // The pointer that says that there will be one.
        ("journal.current.new", "write", "ENOSPC", Which::Nth(1), full),
        ("journal.current.new", "fsync", "EIO", Which::Nth(1), broken),
        ("journal.current.new", "rename", "EROFS", Which::Nth(1), "read-only"),
        // And the one that names it.
        ("journal.current.new", "write", "ENOSPC", Which::Nth(2), full),
        ("journal.current.new", "fsync", "EIO", Which::Nth(2), broken),
        ("journal.current.new", "rename", "EIO", Which::Nth(2), broken),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{calls} of {path}: {error}, {which:?}");
        let faults = Faults::begin(&agent, &[in_state_dir(path)], calls, error, which);
        let said = compact(&host);
        faults.end();
        assert!(said.code == 1 && said.stderr.contains(told), "{what}: {said:?}");
        assert_as_it_was(&host, &what);
        is_new(&host, &format!("after-{number}"));
    }
    // It names it, and that may not be durable: this agent does not say that anything is.
    let faults = Faults::begin(&agent, &[host.state_dir()], "fsync", "EIO", Which::Nth(2));
    let said = compact(&host);
    assert!(said.code == 1 && said.stderr.contains("restart the agent, which finds it whole"), "{said:?}");
    let asked = host.run(&["request", "get-nodes", "--reqid", "unheard"]);
    assert_eq!(asked.code, 3, "{asked:?}");
    assert_eq!(agent.wait().code(), Some(1));
    faults.end();
    assert!(pids.values().all(|pid| is_alive(*pid)));

    let agent = host.start();
    assert_eq!((host.pids(), host.status().hold), (pids.clone(), None));
    assert_eq!(journals(&host), ["journal.2".to_owned()].into());
    for number in 0..20 {
        assert_eq!(host.requests(&format!("r{number}")).len(), 1);
    }
    host.verify();
    // What is left of the old one goes at the next start.
    let faults = Faults::begin(&agent, &[in_state_dir("journal.2")], "unlinkat", "EIO", Which::Each);
    let said = compact(&host);
    assert_eq!(said.code, 0, "{said:?}");
    faults.end();
    assert_eq!(journals(&host), ["journal.2".to_owned(), "journal.3".to_owned()].into());
    is_new(&host, "last");
    agent.kill();
    let _agent = host.start();
    assert_eq!(journals(&host), ["journal.3".to_owned()].into());
    assert_eq!((host.pids(), host.requests("last").len()), (pids, 1));
    host.verify();
}

#[test]
fn a_compaction_on_a_full_disk_takes_nothing_for_good() {
    let mut host = Host::new();
    let Some(small) = Small::mount(host.state_dir(), "96m") else { return };
    let reached = host.dir.path().join("copied");
    host.set("ZCA_WAIT_AT", "during_compaction").set("ZCA_WAIT_FILE", reached.to_str().unwrap());
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "0B").set("ZCA_SPACE_FLOOR_FACTS", "0B").set("ZCA_BALLAST_SIZE", "0B");
    let agent = host.start();
    assert!(host.ask("first", set(cluster(NODE))).success());
    let pids = host.pids();
    for number in 0..20 {
        host.ask(&format!("large-{number}"), large());
    }
    // Begun, and then somebody else takes all that is left.
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| compact(&host));
        eventually("the copy", || reached.exists().then_some(()));
        fill(&small.0, 0);
        fs::remove_file(&reached).unwrap();
        said.join().unwrap()
    });
    host.set("ZCA_WAIT_AT", "");
    assert!(said.code == 1 && said.stderr.contains("no space is left"), "{said:?}");
    assert_as_it_was(&host, "while it was made");
    fs::remove_file(small.0.join("filler")).unwrap();
    is_new(&host, "zeroth");

    agent.kill();
    outgrow(&journal(&host));
    let noted = head(&host);
    // Not begun, and said to need how much.
    fill(&small.0, MIB);
    let agent = host.start();
    let log = eventually("the log to say that it was not compacted", || {
        let log = host.read_log();
        log.contains("the journal was not compacted, and goes on as it is").then_some(log)
    });
    let needed = "MiB free on its file system";
    assert!(log.contains(needed), "{log}");
    assert_as_it_was(&host, "at the start");
    is_new(&host, "second");
    let said = compact(&host);
    assert!(said.code == 1 && said.stderr.contains(needed), "{said:?}");
    assert_as_it_was(&host, "live");
    agent.kill();
    let said = compact(&host);
    assert!(said.code == 1 && said.stderr.contains(needed), "{said:?}");
    assert_as_it_was(&host, "offline");
    let filler = fill(&small.0, 0);
    let said = compact(&host);
    assert!(said.code == 1 && said.stderr.contains(needed), "{said:?}");
    assert_as_it_was(&host, "offline, with nothing left");

    fs::remove_file(filler).unwrap();
    let agent = host.start();
    assert_eq!(journals(&host), ["journal.2".to_owned()].into());
    assert!(size(&journal(&host)) < 16 * MIB && pointer(&host).exists());
    assert_eq!((host.pids(), host.requests("second").len()), (pids, 1));
    assert_continues(&host, &noted);
    host.verify();
    drop(agent);
    host.end_all();
    drop(small);
}
