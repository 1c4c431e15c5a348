//! A database of each released format, as that release wrote it: it opens, reads as it was written, and opens again.
//!
//! `migrations/*/database.tgz` is a state directory whose agent was killed with a request under way; `database.jsonl` is
//! what that release's `journal dump --kind all --format json` said of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{TempDir, tempdir};
use zeek_cluster_agent::api::audit::{Filter, Kind};
use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::journal::Condition;
use zeek_cluster_agent::journal::entry::{Life, Stage};

use crate::support::*;

fn folder(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(format)
}

fn unpacked(format: &str) -> TempDir {
    let dir = tempdir().unwrap();
    let archive = folder(format).join("database.tgz");
    let done = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir.path()).status().unwrap();
    assert!(done.success(), "{}", archive.display());
    dir
}

/// What the release that wrote it said of it.
fn written(format: &str) -> Vec<String> {
    let text = fs::read_to_string(folder(format).join("database.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_journal_of_the_first_format_opens_and_reads_as_it_was_written() {
    let dir = unpacked("0001_initial");
    let written = written("0001_initial");
    for _ in 0..2 {
        let opened = open(dir.path());
        assert_eq!(opened.condition, Condition::Intact);
        let recovered = &opened.recovered;
        assert_eq!(recovered.last, Seq(101), "the change of format is an entry");
        assert_eq!(recovered.desired.config.as_ref().unwrap().0.nodes.len(), 63);
        let (received, record) = &recovered.unfinished[&Seq(90)];
        assert_eq!(received.reqid, reqid("restart-2"));
        assert!(matches!(&record.stage, Stage::Waiting { targets, .. } if targets.len() == 3), "{record:?}");
        let up = recovered.nodes.values().filter(|node| matches!(node.life, Life::Up { .. }));
        assert_eq!((recovered.nodes.len(), up.count()), (3, 2));
        let known = opened.journal.lookup(&reqid("nodes-1")).unwrap().unwrap();
        assert_eq!((known.seq, known.outcome.unwrap().answer.kept().unwrap().results.len()), (Seq(24), 1));

        let reader = opened.journal.reader();
        let filter = Filter { kind: Kind::All, to_seq: Some(Seq(100)), ..Filter::default() };
        let rows = all_rows(&filter, |filter, cursor| reader.page(filter, cursor).unwrap());
        let read: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        assert_eq!(read, written);
        assert_eq!(reader.verify(None).unwrap().problems, Vec::<String>::new());
    }
}

/// That journal was pruned, its older responses to reads are dropped, its newest entry's hash is in its `journal verify`.
#[test]
fn a_journal_of_the_second_format_opens_and_reads_as_it_was_written() {
    let dir = unpacked("0002_chain");
    let written = written("0002_chain");
    for _ in 0..2 {
        let opened = open(dir.path());
        assert_eq!(opened.condition, Condition::Intact);
        let recovered = &opened.recovered;
        assert_eq!(recovered.last, Seq(96), "the change of format is an entry");
        assert_eq!(recovered.desired.config.as_ref().unwrap().0.nodes.len(), 63);
        let (received, record) = &recovered.unfinished[&Seq(92)];
        assert_eq!(received.reqid, reqid("restart-2"));
        assert!(matches!(&record.stage, Stage::Waiting { targets, .. } if targets.len() == 3), "{record:?}");
        let answer = |id| opened.journal.lookup(&reqid(id)).unwrap().unwrap().outcome.unwrap().answer;
        assert!(answer("nodes-1").kept().is_none() && answer("after-1").kept().is_some());
        assert!(opened.journal.lookup(&reqid("old-1")).unwrap().is_none(), "it was pruned");

        let reader = opened.journal.reader();
        let filter = Filter { kind: Kind::All, as_lines: true, to_seq: Some(Seq(95)), ..Filter::default() };
        let page = reader.page(&filter, None).unwrap();
        assert!(page.rows.is_empty() && page.next.is_none());
        assert_eq!(page.lines.lines().collect::<Vec<_>>(), written);
        let noted = "95:1fcc3a1c786e7a95ab172ce8829e4f2fb9bc62cb15d5534620c6d69f4c93bf53";
        let report = reader.verify(Some(&noted.parse().unwrap())).unwrap();
        assert_eq!((report.problems, report.anchor.as_deref()), (Vec::<String>::new(), Some(noted)));
    }
}

/// That journal was pruned; two changes of it were answered at their deadlines, and one of these has no outcome.
#[test]
fn a_journal_of_the_third_format_opens_and_reads_as_it_was_written() {
    let dir = unpacked("0003_answers");
    let written = written("0003_answers");
    for _ in 0..2 {
        let opened = open(dir.path());
        assert_eq!(opened.condition, Condition::Intact);
        let recovered = &opened.recovered;
        assert_eq!(recovered.last, Seq(35), "opening adds nothing");
        assert_eq!(recovered.desired.config.as_ref().unwrap().0.nodes.len(), 3);
        let (received, record) = &recovered.unfinished[&Seq(24)];
        assert_eq!(received.reqid, reqid("restart-2"));
        assert!(matches!(&record.stage, Stage::Waiting { targets, .. } if targets.len() == 2), "{record:?}");
        assert!(record.extras.0.asked.is_some() && record.extras.0.deadline.is_some(), "{record:?}");
        let known = |id| opened.journal.lookup(&reqid(id)).unwrap().unwrap();
        let under_way = known("restart-2");
        assert!(under_way.deadline.is_some() && under_way.outcome.is_none());
        let both = known("deploy-1");
        let (told, outcome) = (both.deadline.unwrap(), both.outcome.unwrap());
        assert!(told.seq < outcome.seq && told.answer != outcome.answer);
        let reader = opened.journal.reader();
        let filter = Filter { kind: Kind::All, as_lines: true, ..Filter::default() };
        let page = reader.page(&filter, None).unwrap();
        assert_eq!(page.lines.lines().collect::<Vec<_>>(), written);
        let report = reader.verify(None).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.head, "35:71377516a85bec50c5459b1bc0df0cdd84e38ab5d88cb02eeb485b6c880d62c1");
    }
}
