//! A journal whose files have outgrown what it holds, made small at a start and under a live agent, and kills on the way.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use zeek_cluster_agent::api::event::Request;

use crate::support::{Host, cluster, copy_dir, run_to_end, set};

const MIB: u64 = 1 << 20;
const GROWN: u64 = 48 * MIB;

pub fn size(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

pub fn pointer(host: &Host) -> PathBuf {
    host.state_dir().join("journal.current")
}

/// The journal's directory.
pub fn journal(host: &Host) -> PathBuf {
    let named = fs::read_to_string(pointer(host)).unwrap_or_else(|_| "journal\n".to_owned());
    host.state_dir().join(named.lines().next().unwrap())
}

/// All that is a journal, or was.
pub fn journals(host: &Host) -> BTreeSet<String> {
    let names = fs::read_dir(host.state_dir()).unwrap().map(|entry| entry.unwrap());
    let dirs = names.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    dirs.filter(|name| name.starts_with("journal")).collect()
}

/// Makes the files as large as years of requests do that are long removed.
pub fn outgrow(journal: &Path) {
    let db = sled::Config::new().path(journal).flush_every_ms(None).open().unwrap();
    let key = |number: u32| [b"Z".as_slice(), &number.to_be_bytes()].concat();
    let filling = vec![7; 4000];
    let mut count = 0;
    while size(journal) < GROWN {
        for number in count..count + 1000 {
            db.insert(key(number), filling.as_slice()).unwrap();
        }
        db.flush().unwrap();
        count += 1000;
    }
    for number in 0..count {
        db.remove(key(number)).unwrap();
    }
    db.flush().unwrap();
}

fn rows(host: &Host) -> Vec<Value> {
    host.run(&["journal", "dump", "--kind", "all"]).lines()
}

pub fn head(host: &Host) -> String {
    host.json(&["journal", "verify", "--json"])["head"].as_str().unwrap().to_owned()
}

pub fn assert_continues(host: &Host, head: &str) {
    let said = host.run(&["journal", "verify", "--anchor", head]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn an_outgrown_journal_is_made_small_by_a_start_whatever_kills_it_meanwhile() {
    #[cfg_attr(not(feature = "crash-points"), expect(unused_mut, reason = "only crashes are set up"))]
    let mut host = Host::new();
    let agent = host.start();
    let answer = host.ask("first", set(cluster(&[("w1", "")])));
    assert!(answer.success());
    let pids = host.pids();
    agent.kill();
    outgrow(&journal(&host));
    let (before, noted) = (rows(&host), head(&host));
    assert!(size(&journal(&host)) >= GROWN);

    #[cfg(feature = "crash-points")]
    {
        let outgrown = host.dir.path().join("outgrown");
        copy_dir(&host.state_dir().join("journal"), &outgrown);
        for (point, is_small, left) in [
            // The copy is announced, made and put in place, and the original removed.
            ("during_pointer_write:1", false, ["journal"].as_slice()),
            ("after_pointer_rename:1", false, &["journal"]),
            ("during_compaction", false, &["journal", "journal.2"]),
            ("before_compaction_swap", false, &["journal", "journal.2"]),
            ("during_pointer_write:2", false, &["journal", "journal.2"]),
            ("after_pointer_rename:2", true, &["journal", "journal.2"]),
            ("after_compaction_swap", true, &["journal", "journal.2"]),
            ("after_compaction", true, &["journal.2"]),
            ("during_pointer_write:3", true, &["journal.2"]),
        ] {
            host.set("ZCA_CRASH_AT", point);
            host.spawn().wait_crashed(&host);
            host.set("ZCA_CRASH_AT", "");
            assert_eq!(size(&journal(&host)) < 16 * MIB, is_small, "{point}");
            assert_eq!(journals(&host), left.iter().map(|name| (*name).to_owned()).collect(), "{point}");
            assert_eq!((rows(&host), head(&host)), (before.clone(), noted.clone()), "{point}");
            if is_small {
                // Each begins where the first began.
                for name in journals(&host) {
                    fs::remove_dir_all(host.state_dir().join(name)).unwrap();
                }
                fs::remove_file(pointer(&host)).unwrap();
                copy_dir(&outgrown, &host.state_dir().join("journal"));
            }
        }
        fs::remove_dir_all(outgrown).unwrap();
    }

    let agent = host.start();
    assert_eq!(journals(&host), ["journal.2".to_owned()].into());
    assert_eq!(fs::read_to_string(pointer(&host)).unwrap(), "journal.2\n");
    assert!(size(&journal(&host)) < 16 * MIB, "{} bytes", size(&journal(&host)));
    assert!(host.read_log().contains("it is copied into fresh files"), "{}", host.read_log());
    assert_eq!((host.pids(), host.status().hold), (pids.clone(), None));
    assert_eq!(rows(&host).get(..before.len()), Some(before.as_slice()));
    assert_eq!(host.ask("first", set(cluster(&[("w1", "")]))), answer);
    assert_continues(&host, &noted);
    host.verify();
    // Small now: the next start has nothing to do, and what it writes is still there for the one after it.
    agent.kill();
    let agent = host.start();
    assert!(host.ask("second", Request::AgentWelcome {}).success());
    agent.kill();
    let times = host.read_log().matches("it is copied into fresh files").count();
    let _agent = host.start();
    assert_eq!(host.requests("second").len(), 1);
    assert_eq!(host.read_log().matches("it is copied into fresh files").count(), times);
    assert_eq!(host.pids(), pids);
}

#[test]
fn a_journal_is_made_small_under_a_live_agent() {
    let mut host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", "")]))).success());
    let pids = host.pids();
    let said = host.run(&["journal", "compact"]);
    assert!(said.code == 0 && said.stdout.contains("left as it is; --force compacts it anyway"), "{said:?}");
    assert!(!pointer(&host).exists());

    let noted = head(&host);
    // Asked at all times, and all that is answered is durable.
    let done = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let names = (0..).map(|number| format!("r{number}"));
            let asked = names.take_while(|name| {
                assert!(host.ask(name, Request::GetNodes {}).success());
                !done.load(Ordering::Relaxed)
            });
            asked.count()
        });
        for round in 2..=6 {
            let report = host.json(&["journal", "compact", "--force", "--json"]);
            assert_eq!(report["compacted"], Value::Bool(true), "{report}");
            assert_eq!(journals(&host), [format!("journal.{round}")].into());
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert_eq!(host.pids(), pids);
    assert_continues(&host, &noted);
    host.verify();
    agent.kill();
    let agent = host.start();
    assert_eq!((host.pids(), host.status().hold), (pids, None));
    for number in 0..answered {
        assert_eq!(host.requests(&format!("r{number}")).len(), 1, "{number}");
    }
    assert_eq!(host.status().journal.bytes_on_disk, size(&journal(&host)));
    agent.kill();

    // And without one.
    let before = rows(&host);
    let report = host.json(&["journal", "compact", "--force", "--json"]);
    assert!(report["bytes_after"].as_u64() >= report["bytes_live"].as_u64(), "{report}");
    assert_eq!((rows(&host), journals(&host)), (before.clone(), ["journal.7".to_owned()].into()));
    // A copy of a state directory, and of the journal alone, is read as what it is.
    let copied = host.dir.path().join("copied");
    copy_dir(&host.state_dir(), &copied);
    for dir in [copied.clone(), copied.join("journal.7")] {
        let said = host.run(&["journal", "dump", "--kind", "all", "--dir", &dir.display().to_string()]);
        assert_eq!(said.lines(), before, "{said:?}");
    }
    // On a disk that takes no requests any more a copy is what helps; it leaves room for facts.
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "1000000GiB");
    assert_eq!(host.run(&["journal", "compact", "--force"]).code, 0);
    assert_eq!((rows(&host), journals(&host)), (before.clone(), ["journal.8".to_owned()].into()));
    // Nothing is begun that there is no space for.
    host.set("ZCA_SPACE_FLOOR_FACTS", "1000000GiB");
    let said = host.run(&["journal", "compact", "--force"]);
    assert!(said.code == 1 && said.stderr.contains("MiB free on its file system"), "{said:?}");
    assert_eq!((rows(&host), journals(&host)), (before, ["journal.8".to_owned()].into()));
}

#[cfg(feature = "crash-points")]
#[test]
fn a_kill_while_a_live_journal_is_made_small_loses_nothing() {
    for (point, then) in [
        ("during_compaction", "journal"),
        ("during_pointer_write:2", "journal"),
        ("after_pointer_rename:2", "journal.2"),
        ("after_compaction_swap", "journal.2"),
        ("after_compaction", "journal.2"),
    ] {
        let mut host = Host::new();
        host.set("ZCA_CRASH_AT", point);
        let agent = host.start();
        for number in 0..20 {
            assert!(host.ask(&format!("r{number}"), Request::GetNodes {}).success());
        }
        let noted = head(&host);
        let said = host.run(&["journal", "compact", "--force"]);
        assert_eq!(said.code, 3, "{point}: {said:?}");
        agent.wait_crashed(&host);
        host.set("ZCA_CRASH_AT", "");
        let _agent = host.start();
        assert_eq!(journals(&host), [then.to_owned()].into(), "{point}");
        assert_eq!(host.status().hold, None, "{point}");
        assert_eq!((0..20).filter(|number| host.requests(&format!("r{number}")).len() == 1).count(), 20, "{point}");
        assert_continues(&host, &noted);
        host.verify();
    }
}

#[test]
fn a_compacted_journal_that_cannot_be_found_is_not_begun_anew() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", Request::AgentWelcome {}).success());
    assert_eq!(host.run(&["journal", "compact", "--force"]).code, 0);
    agent.kill();
    let elsewhere = host.dir.path().join("elsewhere");
    let kept = fs::read_to_string(pointer(&host)).unwrap();
    for (what, spoil, told) in [
        (
            "no journal",
            Box::new(|| fs::rename(journal(&host), &elsewhere).unwrap()) as Box<dyn Fn()>,
            "which does not exist",
        ),
        ("no name", Box::new(|| fs::write(pointer(&host), "../else\n").unwrap()), "does not say which directory"),
        ("no pointer", Box::new(|| fs::remove_file(pointer(&host)).unwrap()), "is missing, and"),
    ] {
        spoil();
        let said = run_to_end(&host, &[]);
        assert!(
            said.code == 1 && said.stderr.contains(told) && said.stderr.contains("nothing was touched"),
            "{said:?}"
        );
        if what != "no pointer" {
            let said = host.run(&["journal", "dump"]);
            assert!(said.code == 1 && said.stderr.contains(told), "{said:?}");
        }
        if elsewhere.exists() {
            fs::rename(&elsewhere, journal(&host)).unwrap();
        }
        fs::write(pointer(&host), &kept).unwrap();
    }
    let _agent = host.start();
    assert_eq!((host.requests("first").len(), host.status().hold), (1, None));
}

#[test]
fn an_agent_in_hold_mode_makes_its_journal_small_and_stays_in_it() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", "")]))).success());
    let pids = host.pids();
    agent.kill();
    fs::remove_dir_all(journal(&host)).unwrap();
    let agent = host.start();
    let hold = host.status().hold;
    assert!(hold.is_some());
    let said = host.run(&["journal", "compact", "--force"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!((host.status().hold, host.pids()), (hold.clone(), pids.clone()));
    agent.kill();
    let _agent = host.start();
    assert_eq!((host.status().hold, host.pids()), (hold, pids));
    assert_eq!(journals(&host), ["journal.2".to_owned()].into());
    host.verify();
}

#[test]
fn an_outgrown_journal_of_an_older_format_is_migrated_and_made_small() {
    let mut host = Host::new();
    host.set("ZEEK_AGENT_NAME", "sensor-1");
    fs::create_dir(host.state_dir()).unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/0001_initial/database.tgz");
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(host.state_dir()).status().unwrap();
    assert!(done.success());
    outgrow(&journal(&host));
    let before = rows(&host);
    let _agent = host.start();
    assert_eq!(journals(&host), ["journal.2".to_owned()].into());
    assert!(size(&journal(&host)) < 16 * MIB);
    assert_eq!(host.events("format_changed").len(), 1);
    assert_eq!(host.status().hold, None);
    let oldest = 50.min(before.len());
    assert_eq!(rows(&host)[..oldest], before[..oldest]);
    host.verify();
}
