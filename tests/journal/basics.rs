//! Stage, commit, open again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::tempdir;
use zeek_cluster_agent::api::audit::{Filter, Kind, Row};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{
    DesiredRecord, Entry, Numbered, Packed, Record, Sealed, Stage, UnfinishedRecord, digest,
};
use zeek_cluster_agent::journal::memory::MemoryJournal;
use zeek_cluster_agent::journal::{CommitError, Condition, Journal, Opened, Options};

use crate::support::*;

fn one(seq: u64, entry: Entry) -> Vec<Numbered> {
    vec![Numbered { seq: Seq(seq), at: Timestamp(EPOCH), entry }]
}

#[test]
fn a_new_directory_is_fresh_and_an_opened_one_intact() {
    let dir = tempdir().unwrap();
    assert_eq!(open(dir.path()).condition, Condition::Fresh);
    // Nothing was ever committed: still a beginning.
    let mut opened = open(dir.path());
    assert_eq!(opened.condition, Condition::Fresh);
    let _ = opened.journal.stage(Sealed::new(Seq(0), one(1, Entry::AgentSettled), vec![]));
    opened.journal.commit(vec![]).unwrap();
    drop(opened);
    let opened = open(dir.path());
    assert_eq!(opened.condition, Condition::Intact);
    assert_eq!(opened.recovered.last, Seq(1));
}

#[test]
fn effects_wait_for_their_entries_and_come_in_order() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    assert_eq!(journal.stage(Sealed::new(Seq(0), vec![], vec![1])), vec![1], "nothing to wait for");
    assert!(journal.stage(Sealed::new(Seq(0), one(1, Entry::AgentSettled), vec![2, 3])).is_empty());
    assert!(journal.stage(Sealed::new(Seq(1), vec![], vec![4])).is_empty(), "rests on what is not durable");
    assert_eq!(journal.stage(Sealed::resting_on(Seq(0), vec![5])), vec![5]);
    assert!(journal.stage(Sealed::new(Seq(1), one(2, Entry::AgentSettled), vec![6])).is_empty());
    assert_eq!(journal.durable(), Seq(0));
    assert_eq!(journal.staged(), Seq(2));
    assert_eq!(journal.commit(vec![]).unwrap(), vec![2, 3, 4, 6]);
    assert_eq!(journal.durable(), Seq(2));
    assert_eq!(journal.commit(vec![]).unwrap(), Vec::<u64>::new());
    assert_eq!(journal.stats().commits, 1, "a commit of nothing is none");
}

#[test]
fn nobody_waits_for_rows_that_tell_of_duplicates_and_for_all_else_somebody_does() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let seen = |seq| one(seq, Entry::DuplicateSeen { of: Seq(1), source: source(2) });
    assert!(!journal.is_urgent());
    let _ = journal.stage(Sealed::new(Seq(1), one(1, answered("r", Request::GetNodes {})), vec![1]));
    assert!(journal.is_urgent());
    journal.commit(vec![]).unwrap();
    assert_eq!(journal.stage(Sealed::resting_on(Seq(1), vec![2])), vec![2]);
    let _ = journal.stage(Sealed::new(Seq(2), seen(2), vec![]));
    let _ = journal.stage(Sealed::new(Seq(3), seen(3), vec![]));
    assert!(!journal.is_urgent(), "two duplicates, answered already");
    let _ = journal.stage(Sealed::resting_on(Seq(3), vec![3]));
    assert!(journal.is_urgent(), "an answer that rests on what is staged");
    assert_eq!(journal.commit(vec![]).unwrap(), vec![3]);
    assert!(!journal.is_urgent());
    let _ = journal.stage(Sealed::new(Seq(4), seen(4), vec![]));
    let _ = journal.stage(Sealed::new(Seq(5), one(5, Entry::AgentSettled), vec![]));
    assert!(journal.is_urgent(), "a fact of another kind");
}

#[test]
fn entries_out_of_sequence_fail_the_journal_for_good() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let _ = journal.stage(Sealed::new(Seq(0), one(2, Entry::AgentSettled), vec![1]));
    assert!(matches!(journal.commit(vec![]), Err(CommitError::Sequence { last: Seq(0), found: Seq(2) })));
    assert!(journal.stage(Sealed::new(Seq(0), vec![], vec![2])).is_empty());
    assert!(matches!(journal.commit(vec![]), Err(CommitError::Failed)));
    drop(journal);
    assert_eq!(open(dir.path()).recovered.last, Seq(0));
}

#[test]
fn what_is_committed_survives_a_kill_and_equals_the_journal_in_memory() {
    for seed in 0..4 {
        let dir = tempdir().unwrap();
        let mut journal = open(dir.path()).journal;
        let mut memory = MemoryJournal::new();
        let (mut on_disk, mut in_memory) = (Writer::new(seed), Writer::new(seed));
        for round in 0..60 {
            on_disk.commit(&mut journal);
            in_memory.commit(&mut memory);
            if round % 7 == 0 {
                journal.mark_sent(Seq(journal.durable().0 / 2));
                memory.mark_sent(Seq(memory.durable().0 / 2));
            }
            if round % 13 == 0 {
                // The process is killed here: what it had open is copied as it lies on disk.
                let crashed = tempdir().unwrap();
                copy_dir(dir.path(), crashed.path());
                let opened = open(crashed.path());
                assert_eq!(opened.condition, Condition::Intact);
                assert_eq!(opened.recovered, memory.recover(), "seed {seed}, round {round}");
            }
        }
        assert_eq!(on_disk.entries, in_memory.entries);
        for (name, seq) in &on_disk.answered {
            let known = journal.lookup(&reqid(name)).unwrap().unwrap();
            assert_eq!(known.seq, *seq);
            assert_eq!(Some(known), memory.lookup(&reqid(name)));
        }
        let report = journal.reader().verify(None).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.entries, journal.durable().0);
        drop(journal);
        assert_eq!(open(dir.path()).recovered, memory.recover());
    }
}

#[test]
fn a_request_of_four_mebibytes_is_stored_and_read_back() {
    let dir = tempdir().unwrap();
    let config = configuration("large", 400, 10_000);
    let request = Request::Deploy { config: config.clone(), force: true, how: Box::default() };
    let mut opened = open(dir.path());
    let journal = &mut opened.journal;
    let entries = one(1, received("big", request.clone(), 1));
    let record = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
    let _ = journal.stage(Sealed::new(Seq(0), entries, vec![7]));
    let records = vec![
        Record::Unfinished(Seq(1), Some(record)),
        Record::Desired(DesiredRecord { by: Seq(1), config: Some(Packed(config.clone())), extras: Packed::default() }),
    ];
    assert_eq!(journal.commit(records).unwrap(), vec![7]);
    drop(opened);

    let mut opened = open(dir.path());
    let (received, _) = &opened.recovered.unfinished[&Seq(1)];
    assert_eq!(received.request, request);
    assert_eq!(received.digest, digest(&request));
    assert_eq!(opened.recovered.desired.config, Some(Packed(config)));
    // A record that shrinks takes its pieces along.
    opened.journal.commit(vec![Record::Desired(DesiredRecord::default())]).unwrap();
    let report = opened.journal.reader().verify(None).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

#[test]
fn a_commit_larger_than_the_cache_is_stored_whole() {
    let dir = tempdir().unwrap();
    let options = Options { cache_capacity: 1 << 20, ..options() };
    let mut opened: Opened<u64> = Journal::open(dir.path(), &options).unwrap();
    let request = Request::Deploy { config: configuration("large", 400, 10_000), force: true, how: Box::default() };
    for round in 0..2u64 {
        let last = opened.journal.durable();
        let entries = (1..=4).map(|number| Numbered {
            seq: Seq(last.0 + number),
            at: Timestamp(EPOCH),
            entry: received(&format!("r{round}.{number}"), request.clone(), number),
        });
        let _ = opened.journal.stage(Sealed::new(last, entries.collect(), vec![]));
        let record = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
        let records = (1..=4).map(|number| Record::Unfinished(Seq(last.0 + number), Some(record.clone())));
        opened.journal.commit(records.collect()).unwrap();
    }
    assert!(names(&dir.path().join("journal/blobs")).is_empty(), "values in files that nobody syncs");
    let crashed = tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    let recovered = open(crashed.path()).recovered;
    assert_eq!(recovered.unfinished.len(), 8);
    assert!(recovered.unfinished.values().all(|(received, _)| received.request == request));
}

#[test]
fn readers_beside_the_writer_see_whole_commits() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let reader = journal.reader();
    let (done, finished) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let filter = Filter { kind: Kind::All, ..Filter::default() };
            while !done.load(Ordering::Acquire) {
                let rows = all_rows(&filter, |filter, cursor| reader.page(filter, cursor).unwrap());
                assert!(rows.iter().all(|row| !matches!(row, Row::Unreadable(_))), "{rows:?}");
                assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new());
                finished.fetch_add(1, Ordering::Release);
            }
        });
        let mut writer = Writer::new(11);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut commits = 0;
        while (commits < 150 || finished.load(Ordering::Acquire) < 3) && !reading.is_finished() {
            assert!(Instant::now() < deadline, "{commits} commits, {finished:?} readings");
            writer.commit(&mut journal);
            commits += 1;
        }
        done.store(true, Ordering::Release);
    });
}
