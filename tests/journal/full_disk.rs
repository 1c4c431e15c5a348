//! A file system that is really full. It has to be made by somebody who may mount:
//!
//! ```text
//! mkdir small && mount -t tmpfs -o size=6m tmpfs small
//! JOURNAL_SMALL_DIR=small cargo test --test journal full_disk -- --ignored
//! ```

use std::fs;
use std::path::PathBuf;

use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{Entry, Numbered, Sealed};
use zeek_cluster_agent::journal::{CommitError, Condition, Journal, Opened, Options};

use crate::support::*;

#[test]
#[ignore = "needs a small file system in JOURNAL_SMALL_DIR"]
fn a_full_disk_loses_nothing_that_was_committed_and_the_ballast_opens_it_again() {
    let dir = PathBuf::from(std::env::var("JOURNAL_SMALL_DIR").unwrap()).join("state");
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
    assert!(matches!(journal.commit(vec![]), Err(CommitError::Failed)));
    drop(journal);
    // Whatever is left is taken by somebody else.
    fs::write(dir.join("other"), vec![0; 8 << 20]).unwrap_err();
    let opened: Opened<u64> = Journal::open(&dir, &options).unwrap();
    println!("opened again at {}, ballast there: {}", opened.recovered.last, dir.join("journal.ballast").exists());
    assert_eq!(opened.condition, Condition::Intact);
    assert!(opened.recovered.last >= last);
    assert_eq!(opened.journal.reader().verify().unwrap().problems, Vec::<String>::new());
}
