//! A file system that is really full: a small one, in namespaces of its own, with this test run again inside.
//!
//! Where namespaces are not to be had (some containers, some hardened hosts) that is said, and nothing is tested.

use std::fs;
use std::path::Path;
use std::process::Command;

use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{Entry, Numbered, Sealed};
use zeek_cluster_agent::journal::{CommitError, Condition, Journal, Opened, Options};

use crate::support::*;

/// Where the small file system is, for the run inside.
const SMALL_DIR: &str = "JOURNAL_SMALL_DIR";
/// Exit code of a run that could not mount.
const NO_MOUNT: i32 = 77;

#[test]
fn a_full_disk_loses_nothing_that_was_committed_and_the_ballast_opens_it_again() {
    match std::env::var_os(SMALL_DIR) {
        Some(small) => fill_it(Path::new(&small)),
        None => run_inside("full_disk::a_full_disk_loses_nothing_that_was_committed_and_the_ballast_opens_it_again"),
    }
}

fn run_inside(test: &str) {
    let small = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=6m tmpfs \"${SMALL_DIR}\" || exit {NO_MOUNT}; exec \"$0\" --exact {test} --nocapture"
    );
    let run = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(SMALL_DIR, small.path())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return eprintln!("not tested, unshare does not run: {error}"),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // unshare itself fails with 1 and its name in front.
    if output.status.code() == Some(NO_MOUNT) || stderr.starts_with("unshare:") {
        return eprintln!("not tested, no namespaces here: {stderr}");
    }
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

fn fill_it(small: &Path) {
    let dir = small.join("state");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    let options = Options { ballast_bytes: 1 << 20, ..options() };
    let opened: Opened<u64> = Journal::open(&dir, &options).unwrap();
    assert!(dir.join("journal.ballast").exists());
    let mut journal = opened.journal;
    let mut last = Seq(0);
    let error = loop {
        let entry = Entry::HoldEntered { reason: "x".repeat(20_000) };
        let numbered = Numbered { seq: last.next(), at: Timestamp(EPOCH), entry };
        let _ = journal.stage(Sealed::new(last, vec![numbered], vec![7]));
        match journal.commit(vec![]) {
            Ok(effects) => {
                assert_eq!(effects, [7]);
                last = last.next();
            }
            Err(error) => break error,
        }
    };
    println!("{last} commits, then: {error:?}");
    assert!(matches!(error, CommitError::NoSpace(_)), "{error:?}");
    assert!(error.is_passing() && journal.is_stalled());
    assert!(journal.commit_again().is_err_and(|error| error.is_passing()), "there is still no space");
    drop(journal);
    // Whatever is left is taken by somebody else.
    fs::write(dir.join("other"), vec![0; 8 << 20]).unwrap_err();
    let opened: Opened<u64> = Journal::open(&dir, &options).unwrap();
    println!("opened again at {}, ballast there: {}", opened.recovered.last, dir.join("journal.ballast").exists());
    assert_eq!(opened.condition, Condition::Intact);
    assert!(opened.recovered.last >= last);
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
}
