//! Damaged files: an open never panics out of the journal, never loses silently what it could have noticed, and what it
//! takes over is right.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::tempdir;
use zeek_cluster_agent::api::audit::{Filter, Kind, Row};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::ids::{InstanceName, Seq};
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{
    AgentRecord, Answer, Entry, Numbered, Packed, Record, Sealed, Stage, UnfinishedRecord,
};
use zeek_cluster_agent::journal::import::{self, ImportError};
use zeek_cluster_agent::journal::memory::MemoryJournal;
use zeek_cluster_agent::journal::{Condition, Journal, OpenError, Opened, identity};

use crate::random::Random;
use crate::support::*;

/// How many places are damaged in each way; more with the environment variable of this name.
const SEEDS: &str = "JOURNAL_DAMAGE_SEEDS";

fn seeds() -> u64 {
    std::env::var(SEEDS).ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// A journal as it was once, closed and killed, and what it held.
struct Past {
    _dir: tempfile::TempDir,
    closed: PathBuf,
    killed: PathBuf,
    memory: MemoryJournal<u64>,
}

fn past() -> Past {
    let dir = tempdir().unwrap();
    let closed = dir.path().join("closed");
    let killed = dir.path().join("killed");
    fs::create_dir(&closed).unwrap();
    let mut memory = MemoryJournal::new();
    let mut journal = open(&closed).journal;
    identity::create(&closed, &InstanceName::new("agent-1").unwrap()).unwrap();
    let (mut on_disk, mut in_memory) = (Writer::new(42), Writer::new(42));
    for round in 0..200 {
        if round == 120 {
            // What comes after this is in no snapshot when the process is killed.
            drop(journal);
            journal = open(&closed).journal;
        }
        on_disk.commit(&mut journal);
        in_memory.commit(&mut memory);
    }
    journal.mark_sent(journal.durable());
    memory.mark_sent(memory.durable());
    copy_dir(&closed, &killed);
    drop(journal);
    drop(open(&closed));
    Past { _dir: dir, closed, killed, memory }
}

/// What of a row does not depend on what came after it.
fn fixed_part(row: &Row) -> String {
    match row {
        Row::Request(row) => format!(
            "{} {} {} {} {:?} {} {}",
            row.seq, row.reqid, row.event, row.received_at, row.source, row.digest, row.request
        ),
        Row::Event(row) => serde_json::to_string(row).unwrap(),
        Row::Unreadable(row) => format!("{} unreadable", row.seq),
    }
}

fn seq_of(row: &Row) -> Seq {
    match row {
        Row::Request(row) => row.seq,
        Row::Event(row) => row.seq,
        Row::Unreadable(row) => row.seq,
    }
}

fn everything() -> Filter {
    Filter { kind: Kind::All, ..Filter::default() }
}

/// Opens a damaged copy and checks all that must hold whatever was damaged.
fn check(state_dir: &Path, memory: &MemoryJournal<u64>, what: &str) -> Condition {
    let opened: Opened<u64> = match Journal::open(state_dir, &options()) {
        Ok(opened) => opened,
        Err(error) => panic!("{what}: {error:?}"),
    };
    let Opened { mut journal, recovered, condition } = opened;
    let expected: BTreeMap<Seq, String> = all_rows(&everything(), |filter, cursor| memory.page(filter, cursor))
        .iter()
        .map(|row| (seq_of(row), fixed_part(row)))
        .collect();
    let reader = journal.reader();
    let rows = all_rows(&everything(), |filter, cursor| reader.page(filter, cursor).unwrap());
    let mut unreadable = 0;
    for row in &rows {
        if matches!(row, Row::Unreadable(_)) {
            unreadable += 1;
        } else if seq_of(row) <= memory.durable() {
            assert_eq!(expected.get(&seq_of(row)), Some(&fixed_part(row)), "{what}: a wrong row");
        }
    }
    for (name, node) in &recovered.nodes {
        // A record may be an older one only if the loss was told.
        if condition.is_whole() {
            assert_eq!(memory.recover().nodes.get(name), Some(node), "{what}: {name}");
        }
    }
    let problems = reader.verify(None).unwrap().problems;
    match &condition {
        Condition::Fresh => panic!("{what}: taken for a new journal"),
        Condition::Imported { .. } => panic!("{what}: taken for an imported journal"),
        Condition::Intact => {
            assert_eq!(recovered.last, memory.durable(), "{what}: loss unnoticed");
            assert!(unreadable == 0 || !problems.is_empty(), "{what}: verify does not see what does not read");
        }
        Condition::Missing => assert!(rows.len() <= 1, "{what}"),
        Condition::LostTail { expected, found } => {
            assert_eq!(*expected, memory.durable(), "{what}");
            assert!(found < expected, "{what}");
        }
        Condition::Salvaged { aside, .. } => {
            assert_eq!(unreadable, 0, "{what}: a salvaged row does not read");
            assert_eq!(problems, Vec::<String>::new(), "{what}");
            assert!(aside.join("db").exists(), "{what}: nothing is set aside at {aside:?}");
            assert!(recovered.last > memory.durable(), "{what}: numbers are given out again");
        }
    }
    // It works on, and until it does, each start says the same.
    drop((journal, reader));
    let again = open(state_dir);
    assert_eq!(again.condition, condition, "{what}");
    assert_eq!(again.recovered, recovered, "{what}");
    let last = again.recovered.last;
    journal = again.journal;
    let entry =
        Numbered { seq: last.next(), at: Timestamp(EPOCH), entry: Entry::HoldEntered { reason: what.to_owned() } };
    let _ = journal.stage(Sealed::new(last, vec![entry], vec![]));
    let agent = AgentRecord { hold: Some(what.to_owned()), ..recovered.agent };
    journal.commit(vec![Record::Agent(agent)]).unwrap();
    drop(journal);
    assert_eq!(open(state_dir).condition, Condition::Intact, "{what}: told twice");
    condition
}

/// Imports what reads of a damaged directory into a new one: all that is not there is told, and nothing of it is wanted
/// to run. Gives how much is lost.
fn import_what_reads(damaged: &Path, memory: &MemoryJournal<u64>, what: &str) -> u64 {
    let host = tempdir().unwrap();
    let imported = match import::import_salvage(host.path(), &options(), damaged, |_| {}) {
        Ok(imported) => imported,
        Err(ImportError::NothingReads) => {
            assert_eq!(names(host.path()).into_iter().collect::<Vec<_>>(), ["agent.lock"], "{what}");
            return memory.durable().0;
        }
        Err(error) => panic!("{what}: {error:?}"),
    };
    let lost: u64 = imported.missing.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
    assert_eq!(imported.entries + lost, memory.durable().0, "{what}: {imported:?}");
    assert_eq!(imported.problems, Vec::<String>::new(), "{what}");
    let Opened { journal, recovered, condition } = open(host.path());
    assert!(matches!(condition, Condition::Imported { .. }), "{what}: {condition:?}");
    assert_eq!((recovered.nodes.len(), recovered.unfinished.len()), (0, 0), "{what}");
    assert_eq!((recovered.desired.config, recovered.unsent.len()), (None, 0), "{what}");
    let expected: BTreeMap<Seq, String> = all_rows(&everything(), |filter, cursor| memory.page(filter, cursor))
        .iter()
        .map(|row| (seq_of(row), fixed_part(row)))
        .collect();
    let reader = journal.reader();
    for row in all_rows(&everything(), |filter, cursor| reader.page(filter, cursor).unwrap()) {
        assert!(!matches!(row, Row::Unreadable(_)), "{what}: {row:?}");
        if seq_of(&row) <= memory.durable() {
            assert_eq!(expected.get(&seq_of(&row)), Some(&fixed_part(&row)), "{what}: a wrong row");
        }
    }
    assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new(), "{what}");
    lost
}

/// Returns each condition that came of it.
fn damage_everywhere(name: &str, file: &str, damage: impl Fn(&Path, &mut Random)) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let past = past();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (state, dir) in [("closed", &past.closed), ("killed", &past.killed)] {
        for seed in 1..=seeds() {
            let work = tempdir().unwrap();
            copy_dir(dir, work.path());
            let journal = work.path().join("journal");
            let target = match file {
                "snap." => names(&journal).into_iter().find(|name| name.starts_with("snap.")).unwrap(),
                file => file.to_owned(),
            };
            damage(&journal.join(target), &mut Random::new(seed));
            let what = format!("{name}, {state}, seed {seed}");
            let lost = import_what_reads(work.path(), &past.memory, &what);
            let condition = check(work.path(), &past.memory, &what);
            match &condition {
                Condition::Salvaged { summary, .. } => {
                    let told = if lost == 0 { "all of its".to_owned() } else { format!("{lost} are lost") };
                    assert!(summary.contains(&told), "{what}: {summary}, and an import has lost {lost}");
                }
                Condition::LostTail { expected, found } => {
                    assert_eq!(expected.0 - found.0, lost, "{what}: {condition}, and an import has lost {lost}");
                }
                _other => {}
            }
            let words = format!("{condition:?}");
            let word = words.split([' ', '{']).next().unwrap_or_default();
            *counts.entry(format!("{state} {word}")).or_default() += 1;
            conditions.push(condition);
        }
    }
    println!("{name}: {counts:?}");
    conditions
}

/// Nothing that matters was damaged: every entry is there.
fn all_recovered(conditions: &[Condition]) {
    for condition in conditions {
        match condition {
            Condition::Intact => {}
            Condition::Imported { .. } => panic!("taken for an imported journal"),
            Condition::Salvaged { summary, .. } => assert!(summary.starts_with("all of its"), "{summary}"),
            Condition::Fresh | Condition::Missing | Condition::LostTail { .. } => panic!("{condition}"),
        }
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn a_flipped_byte() {
    damage_everywhere("flip", "db", |path, random| {
        let at = random.below(length(path));
        let old = fs::read(path).unwrap()[usize::try_from(at).unwrap()];
        overwrite(path, at, &[old ^ (1 << random.below(8))]);
    });
}

#[test]
fn a_page_of_zeros() {
    damage_everywhere("zero", "db", |path, random| {
        overwrite(path, random.below(length(path) / 4096) * 4096, &[0; 4096]);
    });
}

#[test]
fn a_cut_file() {
    damage_everywhere("cut", "db", |path, random| {
        let keep = length(path).saturating_sub(1 + random.below(600_000));
        OpenOptions::new().write(true).open(path).unwrap().set_len(keep).unwrap();
    });
}

/// sled takes what has no index for an empty database, and would overwrite all that is left of it.
#[test]
fn a_cut_file_without_an_index_is_set_aside_as_it_was_found() {
    for length in [0, 100, 20_000] {
        let dir = tempdir().unwrap();
        let mut journal = open(dir.path()).journal;
        identity::create(dir.path(), &InstanceName::new("agent-1").unwrap()).unwrap();
        let (mut writer, mut in_memory, mut memory) = (Writer::new(3), Writer::new(3), MemoryJournal::new());
        for _ in 0..20 {
            writer.commit(&mut journal);
            in_memory.commit(&mut memory);
        }
        let killed = tempdir().unwrap();
        copy_dir(dir.path(), killed.path());
        let db = killed.path().join("journal/db");
        OpenOptions::new().write(true).open(&db).unwrap().set_len(length).unwrap();
        let mut left = fs::read(&db).unwrap();
        // Of the index nothing is left, of the rest there is something.
        left.iter_mut().take(4096).skip(20).for_each(|byte| *byte = 0);
        fs::write(&db, &left).unwrap();
        let condition = check(killed.path(), &memory, &format!("cut to {length}"));
        let Condition::Salvaged { aside, .. } = condition else { panic!("cut to {length}: {condition}") };
        assert!(fs::read(aside.join("db")).unwrap() == left, "cut to {length}: what was left is overwritten");
    }
}

#[test]
fn a_damaged_snapshot() {
    let conditions = damage_everywhere("snapshot", "snap.", |path, random| {
        if random.one_in(2) {
            OpenOptions::new().write(true).open(path).unwrap().set_len(random.below(length(path))).unwrap();
        } else {
            overwrite(path, random.below(length(path)), b"\xa5\xa5");
        }
    });
    all_recovered(&conditions);
}

#[test]
fn damaged_settings_of_the_store() {
    let conditions = damage_everywhere("conf", "conf", |path, random| {
        let at = random.below(length(path));
        overwrite(path, at, &[0xa5]);
    });
    all_recovered(&conditions);
}

/// sled has everything in its log: what stands beside it may go.
#[test]
fn a_deleted_snapshot_or_settings_file_costs_nothing() {
    for prefix in ["snap.", "conf"] {
        let past = past();
        for dir in [&past.closed, &past.killed] {
            let journal = dir.join("journal");
            let file = names(&journal).into_iter().find(|name| name.starts_with(prefix)).unwrap();
            fs::remove_file(journal.join(file)).unwrap();
            let opened = open(dir);
            assert_eq!(opened.condition, Condition::Intact, "{prefix} of {}", dir.display());
            assert_eq!(opened.recovered, past.memory.recover());
        }
    }
}

#[test]
fn a_snapshot_that_a_killed_start_left_unfinished_is_no_damage() {
    let past = past();
    fs::write(past.killed.join("journal/snap.00000000000FFFFF.generating"), b"half").unwrap();
    let opened = open(&past.killed);
    assert_eq!(opened.condition, Condition::Intact);
    assert_eq!(opened.recovered, past.memory.recover());
}

#[test]
fn a_missing_journal_in_a_directory_that_was_in_use() {
    for side_file in [true, false] {
        let past = past();
        fs::remove_dir_all(past.closed.join("journal")).unwrap();
        if !side_file {
            fs::remove_file(past.closed.join("journal.mark")).unwrap();
        }
        for _ in 0..2 {
            let opened = open(&past.closed);
            assert_eq!(opened.condition, Condition::Missing);
            let first = if side_file { past.memory.durable().next() } else { Seq(1) };
            assert_eq!(opened.recovered.last, first, "numbers are not given out again");
            assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
        }
    }
}

#[test]
fn an_emptied_journal_is_as_good_as_a_missing_one() {
    let past = past();
    fs::remove_dir_all(past.closed.join("journal")).unwrap();
    fs::create_dir(past.closed.join("journal")).unwrap();
    fs::remove_file(past.closed.join("journal.mark")).unwrap();
    assert_eq!(open(&past.closed).condition, Condition::Missing);
}

#[test]
fn a_journal_from_yesterday_has_lost_its_tail() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let mut writer = Writer::new(7);
    for _ in 0..20 {
        writer.commit(&mut journal);
    }
    let yesterday = dir.path().join("yesterday");
    copy_dir(&dir.path().join("journal"), &yesterday);
    let found = journal.durable();
    for _ in 0..20 {
        writer.commit(&mut journal);
    }
    let expected = journal.durable();
    drop(journal);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    fs::rename(&yesterday, dir.path().join("journal")).unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.condition, Condition::LostTail { expected, found });
    assert_eq!(opened.recovered.last, expected.next());
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_torn_side_file_hides_nothing_but_a_lost_tail() {
    let past = past();
    overwrite(&past.closed.join("journal.mark"), 0, &[0; 600]);
    let opened = open(&past.closed);
    assert_eq!(opened.condition, Condition::Intact);
    assert_eq!(opened.recovered.last, past.memory.durable());
}

/// Damages one value under sled's own checksums, as a fault of memory would.
fn rewrite(state_dir: &Path, key: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let db = open_sled(state_dir);
    let value = db.get(key).unwrap().unwrap().to_vec();
    db.insert(key, change(value)).unwrap();
    db.flush().unwrap();
}

fn key(prefix: u8, seq: Seq) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

#[test]
fn a_format_of_a_newer_release_is_refused_untouched() {
    let past = past();
    // By the side file, before sled is asked.
    let mut slot = [0; 64];
    slot[..8].copy_from_slice(b"ZCAMARK1");
    slot[8..12].copy_from_slice(&4u32.to_le_bytes());
    slot[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let checksum = blake3::hash(&slot[..40]);
    slot[40..56].copy_from_slice(&checksum.as_bytes()[..16]);
    let before = fs::read(past.closed.join("journal.mark")).unwrap();
    overwrite(&past.closed.join("journal.mark"), 0, &slot);
    let files = || {
        let journal = past.closed.join("journal");
        let read = |name: &String| fs::read(journal.join(name)).unwrap_or_default();
        names(&journal).into_iter().map(|name| (read(&name), name)).collect::<Vec<_>>()
    };
    let untouched = files();
    let error = Journal::<u64>::open(&past.closed, &options()).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 4, known: 3, .. }), "{error}");
    assert_eq!(files(), untouched);

    // By a record of the journal's own.
    fs::write(past.closed.join("journal.mark"), before).unwrap();
    newer_version(&past.closed, b"A");
    let error = Journal::<u64>::open(&past.closed, &options()).unwrap_err();
    assert!(matches!(error, OpenError::NewerRecord { .. }), "{error}");
    assert!(aside(&past.closed).is_empty());
}

/// Makes a value that of a newer release, with a checksum that fits.
fn newer_version(state_dir: &Path, key: &[u8]) {
    rewrite(state_dir, key, |mut value| {
        value[1] = 9;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&value[..2]).update(&(key.len() as u64).to_le_bytes()).update(key);
        let body = if key[0] == b'L' {
            // Entries: the hash of the one before, and the body's length.
            hasher.update(&value[23..55]).update(&(value.len() as u64 - 55).to_le_bytes());
            &value[55..]
        } else {
            &value[23..]
        };
        hasher.update(body);
        value[7..23].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        value
    });
}

#[test]
fn a_salvage_never_drops_what_a_newer_release_wrote() {
    let past = past();
    let short = past.memory.entries().iter().find(|one| matches!(one.entry, Entry::AgentSettled)).unwrap();
    newer_version(&past.closed, &key(b'L', short.seq));
    rewrite(&past.closed, b"A", |_| b"?".to_vec());
    for _ in 0..2 {
        let error = Journal::<u64>::open(&past.closed, &options()).unwrap_err();
        assert!(matches!(error, OpenError::NewerRecord { .. }), "{error}");
        assert!(aside(&past.closed).is_empty());
    }
}

#[test]
fn a_record_that_does_not_decode_leads_to_a_salvage_of_all_others() {
    let past = past();
    rewrite(&past.closed, b"A", |mut value| {
        value.pop();
        value
    });
    let condition = check(&past.closed, &past.memory, "a cut agent record");
    let Condition::Salvaged { summary, .. } = condition else { panic!("{condition:?}") };
    assert!(summary.contains("all of its"), "{summary}");
}

#[test]
fn damage_met_by_a_lookup_is_salvaged_at_the_next_start() {
    let past = past();
    let answered = past.memory.entries().iter().find_map(|numbered| match &numbered.entry {
        Entry::RequestCompleted { of, response, .. } if response.kept().is_some_and(|kept| !kept.reqid.is_empty()) => {
            Some((numbered.seq, *of, response.kept().unwrap().reqid.clone()))
        }
        _ => None,
    });
    let (completion, request, reqid) = answered.unwrap();
    rewrite(&past.closed, &key(b'L', completion), |mut value| {
        value[10] ^= 1;
        value
    });
    let opened = open(&past.closed);
    assert_eq!(opened.condition, Condition::Intact, "old entries are not read at a start");
    assert!(opened.journal.lookup(&reqid).unwrap_err().is_damage());
    drop(opened);

    let opened = open(&past.closed);
    let Condition::Salvaged { summary, .. } = &opened.condition else { panic!("{:?}", opened.condition) };
    assert!(summary.contains(&format!("1 are lost ({completion})")), "{summary}");
    // The request is not left without an answer.
    let known = opened.journal.lookup(&reqid).unwrap().unwrap();
    assert_eq!(known.seq, request);
    let answer = known.outcome.unwrap().answer;
    let response = answer.kept().unwrap();
    assert!(response.results[0].error.as_ref().unwrap().contains("was lost"));
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    let abandoned = Filter { reqid: Some(reqid.to_string()), ..Filter::default() };
    let rows = all_rows(&abandoned, |filter, cursor| opened.journal.reader().page(filter, cursor).unwrap());
    let [Row::Request(row)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(row.state, zeek_cluster_agent::api::audit::RequestState::Abandoned);
}

#[test]
fn an_answer_survives_the_loss_of_its_request() {
    let dir = tempdir().unwrap();
    let mut opened = open(dir.path());
    let journal = &mut opened.journal;
    let number = |seq, entry| Numbered { seq: Seq(seq), at: Timestamp(EPOCH), entry };
    let entries = vec![
        number(1, received("r", Request::GetNodes {}, 1)),
        number(2, completed(Seq(1), response("r", true))),
        number(3, received("s", Request::GetNodes {}, 1)),
    ];
    let _ = journal.stage(Sealed::new(Seq(0), entries, vec![]));
    let record = UnfinishedRecord { lost_attempts: 2, stage: Stage::Accepted, extras: Packed::default() };
    journal.commit(vec![Record::Unfinished(Seq(3), Some(record.clone()))]).unwrap();
    drop(opened);
    let zero = |value: Vec<u8>| vec![0; value.len()];
    rewrite(dir.path(), &key(b'L', Seq(1)), zero);
    fs::write(dir.path().join("journal.suspect"), b"").unwrap();
    let opened = open(dir.path());
    assert!(matches!(opened.condition, Condition::Salvaged { .. }));
    let known = opened.journal.lookup(&reqid("r")).unwrap().unwrap();
    let outcome = known.outcome.map(|stored| (stored.seq, stored.answer));
    assert_eq!(outcome, Some((Seq(2), Answer::Kept(response("r", true)))));
    assert_eq!(opened.recovered.unfinished[&Seq(3)].1, record);
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    assert!(!dir.path().join("journal.suspect").exists());
}

#[test]
fn an_interrupted_salvage_ends_as_an_uninterrupted_one() {
    let past = past();
    rewrite(&past.closed, b"A", |_| b"?".to_vec());
    let whole = tempdir().unwrap();
    copy_dir(&past.closed, whole.path());
    let finished = open(whole.path());
    let rebuilt_from = aside(whole.path());
    let [damaged] = rebuilt_from.as_slice() else { panic!("{rebuilt_from:?}") };
    let tag = damaged.file_name().unwrap().to_str().unwrap().strip_prefix("journal.damaged-").unwrap().to_owned();
    drop(finished.journal);

    // Killed while copying or building: the leftovers are swept away and it begins anew.
    let early = tempdir().unwrap();
    copy_dir(&past.closed, early.path());
    copy_dir(&early.path().join("journal"), &early.path().join("journal.copy-whole"));
    copy_dir(&early.path().join("journal"), &early.path().join("journal.rebuilding"));
    // Killed when the new journal was complete: before the old one was set aside, and after.
    let before = tempdir().unwrap();
    copy_dir(&past.closed, before.path());
    copy_dir(&whole.path().join("journal"), &before.path().join(format!("journal.rebuilt-{tag}")));
    let between = tempdir().unwrap();
    copy_dir(before.path(), between.path());
    fs::rename(between.path().join("journal"), between.path().join(format!("journal.damaged-{tag}"))).unwrap();
    for dir in [early.path(), before.path(), between.path()] {
        let opened = open(dir);
        assert!(matches!(opened.condition, Condition::Salvaged { .. }), "{:?}", opened.condition);
        assert_eq!(opened.recovered.last, finished.recovered.last);
        assert_eq!(opened.recovered.nodes, finished.recovered.nodes);
        assert_eq!(opened.recovered.unfinished, finished.recovered.unfinished);
        assert_eq!(aside(dir).len(), 1);
        let left: Vec<_> =
            names(dir).into_iter().filter(|name| name.contains("copy") || name.contains("rebu")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}
