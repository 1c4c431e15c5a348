//! Retention, step by step: what goes, what never goes, and that the journal stays whole (P3, P12).

use tempfile::tempdir;
use zeek_cluster_agent::api::event::{Request, Response};
use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{
    Answer, Entry, Numbered, Outcome, Packed, Record, Removal, Sealed, Stage, UnfinishedRecord,
};
use zeek_cluster_agent::journal::retention::{ClockTrust, Policy, PruneMode, RemovalStep};
use zeek_cluster_agent::journal::{Journal, Reader};

use crate::support::*;

const DAY_MS: u64 = 86_400_000;

fn at(day: u64) -> Timestamp {
    Timestamp(EPOCH + day * DAY_MS * 1000)
}

/// Commits entries of this day.
fn commit(journal: &mut Journal<u64>, day: u64, entries: Vec<Entry>, records: Vec<Record>) {
    let last = journal.durable();
    let numbered =
        (last.0 + 1..).zip(entries).map(|(seq, entry)| Numbered { seq: Seq(seq), at: at(day), entry }).collect();
    let _ = journal.stage(Sealed::new(last, numbered, vec![]));
    journal.commit(records).unwrap();
}

fn prune(journal: &mut Journal<u64>, day: u64, removal: Removal) {
    let Removal { upto, hash, trimmed, entries, requests } = removal;
    commit(journal, day, vec![Entry::Pruned { upto, hash, trimmed, entries, requests }], vec![]);
}

/// Takes steps until there is none, and checks after each that the journal is whole.
fn prune_all(journal: &mut Journal<u64>, policy: &Policy, day: u64) -> Vec<RemovalStep> {
    let reader = journal.reader();
    let mut steps = Vec::new();
    while let Some(step) = reader.next_removal(policy, at(day)).unwrap() {
        prune(journal, day, step.removal.clone());
        assert!(reader.is_removed(&step.removal).unwrap());
        assert_whole(&reader);
        steps.push(step);
        assert!(steps.len() < 100, "it does not come to an end");
    }
    steps
}

fn assert_whole(reader: &Reader) {
    assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new());
}

fn first(reader: &Reader) -> u64 {
    reader.verify(None).unwrap().first
}

/// A journal with a request a day, from day 0 on.
fn diary(journal: &mut Journal<u64>, days: u64) {
    for day in 0..days {
        commit(journal, day, vec![answered(&format!("r{day}"), Request::GetNodes {})], vec![]);
    }
}

#[test]
fn what_is_too_old_goes_and_its_reqid_is_new_again() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 100);
    let noted = journal.reader().verify(None).unwrap().head;
    let policy = Policy { age_ms: Some(90 * DAY_MS), ..Policy::default() };
    let steps = prune_all(&mut journal, &policy, 100);
    let gone: u64 = steps.iter().map(|step| step.removal.entries).sum();
    assert_eq!((gone, steps.iter().map(|step| step.removal.requests).sum::<u64>()), (10, 10));
    assert!(steps[0].bytes > 1000, "{steps:?}");
    assert_eq!(first(&journal.reader()), 11);
    assert_eq!(journal.lookup(&reqid("r9")).unwrap(), None);
    assert!(journal.lookup(&reqid("r10")).unwrap().is_some());
    let report = journal.reader().verify(Some(&noted.parse().unwrap())).unwrap();
    assert_eq!((report.problems, report.anchor), (Vec::new(), Some(noted)));
    // The same request once more is another one, and is known from then on.
    commit(&mut journal, 100, vec![answered("r9", Request::GetNodes {})], vec![]);
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!(journal.lookup(&reqid("r9")).unwrap().unwrap().seq, journal.durable());
    assert_whole(&journal.reader());
}

#[test]
fn the_count_and_the_size_are_kept_to() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for name in 0..1000 {
        let request = if name % 2 == 0 { Request::GetNodes {} } else { Request::AgentWelcome {} };
        commit(&mut journal, 0, vec![answered(&format!("r{name}"), request)], vec![]);
    }
    let reader = journal.reader();
    let loose = Policy { requests: Some(990), ..Policy::default() };
    assert!(reader.next_removal(&loose, at(0)).unwrap().is_some());
    assert!(reader.next_removal(&loose.loosened(), at(0)).unwrap().is_none(), "a little more may be there");
    let steps = prune_all(&mut journal, &Policy { requests: Some(300), ..Policy::default() }, 0);
    assert!(steps.iter().all(|step| step.removal.entries <= 200), "in small steps: {steps:?}");
    assert_eq!(steps.iter().map(|step| step.removal.requests).sum::<u64>(), 700);
    assert_eq!(journal.lookup(&reqid("r699")).unwrap(), None);
    assert!(journal.lookup(&reqid("r700")).unwrap().is_some());
    let half = Policy { bytes: Some(20_000), ..Policy::default() };
    let steps = prune_all(&mut journal, &half, 0);
    assert!(!steps.is_empty() && reader.next_removal(&half, at(0)).unwrap().is_none());
    drop(reader);
    drop(journal);
    // What is left and counted is the same after a restart.
    let journal = open(dir.path()).journal;
    assert!(journal.reader().next_removal(&half, at(0)).unwrap().is_none());
    assert_whole(&journal.reader());
}

#[test]
fn an_unfinished_request_is_never_removed_and_holds_what_came_after_it() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 5);
    let unfinished = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
    let waits = received("waits", Request::AgentStandby {}, 1);
    commit(&mut journal, 5, vec![waits], vec![Record::Unfinished(Seq(6), Some(unfinished))]);
    for day in 6..20 {
        commit(&mut journal, day, vec![answered(&format!("r{day}"), Request::GetNodes {})], vec![]);
    }
    let policy = Policy { requests: Some(1), age_ms: Some(1), ..Policy::default() };
    prune_all(&mut journal, &policy, 20);
    assert_eq!(first(&journal.reader()), 6);
    assert!(journal.lookup(&reqid("waits")).unwrap().is_some());
    let done = Entry::RequestCompleted {
        of: Seq(6),
        outcome: Outcome::Completed,
        attempts: 1,
        response: Answer::Kept(response("waits", true)),
    };
    commit(&mut journal, 20, vec![done], vec![Record::Unfinished(Seq(6), None)]);
    prune_all(&mut journal, &policy, 21);
    assert_eq!(journal.lookup(&reqid("waits")).unwrap(), None);
    assert!(first(&journal.reader()) > 20);
    drop(journal);
    assert_whole(&open(dir.path()).journal.reader());
}

#[test]
fn answers_to_reads_go_after_a_day_and_leave_their_digests() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let read = Request::GetNodes {};
    commit(&mut journal, 0, vec![answered("old", read.clone()), answered("welcome", Request::AgentWelcome {})], vec![]);
    // The same in two entries, as requests whose answer takes time have it.
    commit(&mut journal, 0, vec![received("two", read.clone(), 1)], vec![]);
    let answer = Response { event: read.response_event().to_owned(), ..response("two", true) };
    commit(&mut journal, 0, vec![completed(Seq(3), answer)], vec![]);
    commit(&mut journal, 2, vec![answered("young", read)], vec![]);
    let reader = journal.reader();
    let noted = reader.verify(None).unwrap().head;
    let policy = Policy { reads_ms: Some(DAY_MS), ..Policy::default() };
    let steps = prune_all(&mut journal, &policy, 2);
    assert_eq!(steps.iter().map(|step| (step.removal.entries, step.responses)).collect::<Vec<_>>(), [(0, 2)]);
    let answer = |name: &str| journal.lookup(&reqid(name)).unwrap().unwrap().outcome.unwrap().answer;
    assert!(matches!(answer("old"), Answer::Dropped { .. }));
    assert!(matches!(answer("two"), Answer::Dropped { .. }));
    assert!(matches!(answer("welcome"), Answer::Kept(_)));
    assert!(matches!(answer("young"), Answer::Kept(_)));
    let report = reader.verify(Some(&noted.parse().unwrap())).unwrap();
    assert_eq!((report.problems, report.anchor), (Vec::new(), Some(noted)), "no hash has changed");
}

/// A clock that jumps a year forward makes nothing old: nobody has written for a year, or the clock is wrong.
#[test]
fn a_clock_far_past_the_newest_entry_is_not_believed() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 10);
    let policy = Policy { age_ms: Some(5 * DAY_MS), reads_ms: Some(DAY_MS), ..Policy::default() };
    let reader = journal.reader();
    assert_eq!(reader.next_removal(&policy, at(9 + 31)).unwrap(), None);
    assert!(reader.next_removal(&policy, at(9 + 30)).unwrap().is_some());
    // Limits that know no clock hold nevertheless, and a clock that is behind makes nothing old.
    let count = Policy { requests: Some(4), ..policy };
    let step = reader.next_removal(&count, at(375)).unwrap().unwrap();
    assert_eq!((step.removal.entries, step.responses), (6, 0));
    assert_eq!(reader.next_removal(&policy, Timestamp(0)).unwrap(), None);
}

/// A duplicate that is taken in together with the step that removes what it repeats leaves no row behind.
#[test]
fn a_duplicate_in_the_same_commit_as_the_removal_of_its_request_leaves_nothing_behind() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 10);
    let policy = Policy { requests: Some(5), ..Policy::default() };
    let step = journal.reader().next_removal(&policy, at(10)).unwrap().unwrap();
    let Removal { upto, hash, trimmed, entries, requests } = step.removal;
    let seen = |of| Entry::DuplicateSeen { of: Seq(of), source: source(3) };
    commit(&mut journal, 10, vec![seen(2), Entry::Pruned { upto, hash, trimmed, entries, requests }, seen(3)], vec![]);
    assert_whole(&journal.reader());
    drop(journal);
    let db = open_sled(dir.path());
    assert_eq!(db.scan_prefix(b"X").count(), 0);
}

#[test]
fn a_hole_of_months_before_this_month_is_no_reason_to_remove_anything() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 100);
    let reader = journal.reader();
    let policy = Policy { age_ms: Some(90 * DAY_MS), reads_ms: Some(DAY_MS), ..Policy::default() };
    // The clock stands a year ahead at a start: the newest entry is of now, and says nothing.
    for day in 465..495 {
        commit(&mut journal, day, vec![answered(&format!("r{day}"), Request::GetNodes {})], vec![]);
        assert_eq!(reader.clock_trust(at(day)).unwrap(), ClockTrust::Doubted);
        assert_eq!(reader.next_removal(&policy, at(day)).unwrap(), None, "day {day}");
    }
    // What goes by number goes.
    let by_number = Policy { requests: Some(120), ..policy };
    assert_eq!(reader.next_removal(&by_number, at(494)).unwrap().unwrap().removal.entries, 10);
    // With a month of history of its own the time is believed.
    commit(&mut journal, 496, vec![answered("r496", Request::GetNodes {})], vec![]);
    assert_eq!(reader.clock_trust(at(496)).unwrap(), ClockTrust::Trusted);
    assert_eq!(prune_all(&mut journal, &policy, 496).iter().map(|step| step.removal.entries).sum::<u64>(), 100);
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_old() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    diary(&mut journal, 20);
    let policy = Policy { age_ms: Some(10 * DAY_MS), reads_ms: Some(DAY_MS), ..Policy::default() };
    let reader = journal.reader();
    let year = 365 * DAY_MS * 1000;
    let back = Timestamp(at(20).0 - year);
    assert_eq!(reader.clock_trust(back).unwrap(), ClockTrust::Trusted);
    assert_eq!(reader.next_removal(&policy, back).unwrap(), None);
    assert_eq!(reader.next_removal(&policy, at(20)).unwrap().unwrap().removal.entries, 10);
}

#[test]
fn a_preview_is_what_all_steps_come_to_and_names_what_holds() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for number in 0..1000 {
        commit(&mut journal, number / 40, vec![answered(&format!("r{number}"), Request::GetNodes {})], vec![]);
    }
    let reader = journal.reader();
    // Of what stays, the responses of more than two days ago go: more than one step takes.
    let policy = Policy { requests: Some(300), reads_ms: Some(2 * DAY_MS), ..Policy::default() };
    let preview = reader.preview_removal(&policy, at(25)).unwrap();
    assert_eq!((preview.removal.entries, preview.responses, preview.held_by), (700, 220, None));
    let mut sum = preview.clone().emptied();
    for step in prune_all(&mut journal, &policy, 25) {
        sum.add(&step);
    }
    let report = |step: &RemovalStep| step.report(PruneMode::Remove, ClockTrust::Trusted);
    assert_eq!(report(&sum), report(&preview));

    let entry = received("open", Request::GetNodes {}, 1);
    let seq = journal.durable().next();
    let unfinished = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
    commit(&mut journal, 25, vec![entry], vec![Record::Unfinished(seq, Some(unfinished))]);
    for number in 0..10 {
        commit(&mut journal, 25, vec![answered(&format!("s{number}"), Request::GetNodes {})], vec![]);
    }
    let all = Policy { requests: Some(0), ..Policy::default() };
    let preview = reader.preview_removal(&all, at(25)).unwrap();
    assert_eq!((preview.removal.upto.next(), preview.held_by), (seq, Some(seq)));
}
