//! Compaction beside a writer that never rests: what was durable before, and what became so meanwhile, is in the copy.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::tempdir;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{Entry, Numbered, Removal, Sealed};
use zeek_cluster_agent::journal::retention::{Policy, RemovalStep};
use zeek_cluster_agent::journal::{CompactError, Condition, Journal};

use crate::support::*;

/// A request with its answer, committed by itself.
fn answer(journal: &mut Journal<u64>, name: &str) {
    let seq = journal.durable().next();
    let entry = answered(name, Request::GetNodes {});
    commit(journal, vec![Numbered { seq, at: Timestamp(EPOCH + seq.0), entry }]);
}

fn commit(journal: &mut Journal<u64>, entries: Vec<Numbered>) {
    let _ = journal.stage(Sealed::new(journal.durable(), entries, vec![]));
    journal.commit(vec![]).unwrap();
}

#[test]
fn a_copy_has_all_that_was_committed_before_and_meanwhile() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let mut number = 0;
    let mut next = || {
        number += 1;
        format!("r{number}")
    };
    for _ in 0..1000 {
        answer(&mut journal, &next());
    }
    let (compactor, reader) = (journal.compactor(), journal.reader());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                answer(&mut journal, &next());
            }
            assert_eq!(reader.last().unwrap(), journal.durable());
        });
        for _ in 0..10 {
            let report = compactor.compact(true).unwrap();
            assert!(report.compacted && report.bytes_live > 0, "{report:?}");
            assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new());
        }
        done.store(true, Ordering::Relaxed);
        writing.join().unwrap();
    });
    let (last, head) = journal.head();
    assert_eq!(last, Seq(number), "an entry each");
    drop((journal, reader, compactor));
    let opened = open(dir.path());
    assert_eq!(opened.condition, Condition::Intact);
    assert_eq!(opened.journal.head(), (last, head));
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    for number in 1..=last.0 {
        assert!(opened.journal.lookup(&reqid(&format!("r{number}"))).unwrap().is_some(), "{number}");
    }
}

#[test]
fn two_compactions_of_one_journal_do_not_meet() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    answer(&mut journal, "r1");
    let both = thread::scope(|scope| {
        let compactors = [journal.compactor(), journal.compactor()];
        let running = compactors.map(|compactor| scope.spawn(move || compactor.compact(true)));
        running.map(|one| one.join().unwrap())
    });
    assert!(both.iter().any(Result::is_ok), "{both:?}");
    assert!(both.iter().all(|one| matches!(one, Ok(_) | Err(CompactError::UnderWay))), "{both:?}");
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("journal") && dir.path().join(name).is_dir()).count(), 1);
}

/// In small what `cargo bench --bench journal -- --growth` measures in large.
#[test]
fn files_stay_small_while_far_more_is_written_than_kept() {
    const KEPT: u64 = 500;
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let (compactor, reader) = (journal.compactor(), journal.reader());
    let policy = Policy { age_ms: None, requests: Some(KEPT), bytes: None, reads_ms: None };
    let nodes: BTreeSet<String> = (0..60).map(|number| format!("node-{number:044}")).collect();
    for _ in 0..60 {
        let last = journal.durable();
        let entries = (last.0 + 1..).take(250).map(|seq| {
            let entry = answered(&format!("r{seq}"), Request::Restart { nodes: nodes.clone() });
            Numbered { seq: Seq(seq), at: Timestamp(EPOCH + seq), entry }
        });
        commit(&mut journal, entries.collect());
        while let Some(RemovalStep { removal, .. }) = reader.next_removal(&policy, Timestamp(EPOCH)).unwrap() {
            let Removal { upto, hash, trimmed, entries, requests } = removal;
            let entry = Entry::Pruned { upto, hash, trimmed, entries, requests };
            let seq = journal.durable().next();
            commit(&mut journal, vec![Numbered { seq, at: Timestamp(EPOCH), entry }]);
        }
        let size = compactor.compact(false).unwrap().bytes_after;
        let live = reader.stats().unwrap().bytes_live.unwrap();
        assert!(size < 16 << 20 || size <= 8 * live, "{size} bytes for {live}");
    }
    let report = compactor.compact(true).unwrap();
    assert!(report.bytes_live > KEPT * 3000 && report.bytes_after < 8 * report.bytes_live, "{report:?}");
    assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new());
}
