//! Streams whose every checksum is right, and which no journal would write.

use std::fs;
use std::path::Path;

use super::*;
use crate::api::event::{Dialect, Request, Response, Source};
use crate::api::ids::ReqId;
use crate::api::time::Timestamp;
use crate::journal::format::entry::{Answer, Outcome, Packed, digest};
use crate::journal::tree::export::{self, Header, Written};

const AT: Timestamp = Timestamp(1_795_336_260_000_000);

fn source() -> Source {
    Source { transport: "control".to_owned(), peer: "uid=0 pid=1".to_owned() }
}

fn received(reqid: &str) -> Entry {
    let request = Request::AgentStandby {};
    Entry::RequestReceived {
        reqid: ReqId::new(reqid).unwrap(),
        digest: digest(&request),
        request: Packed(request),
        dialect: Dialect::Management,
        source: source(),
    }
}

fn completed(of: u64) -> Entry {
    let response =
        Response { event: "agent_standby_response".to_owned(), reqid: ReqId::new("r").unwrap(), results: Vec::new() };
    Entry::RequestCompleted { of: Seq(of), outcome: Outcome::Completed, attempts: 1, response: Answer::Kept(response) }
}

fn pruned(upto: u64, trimmed: u64) -> Entry {
    Entry::Pruned { upto: Seq(upto), hash: [0; 32], trimmed: Seq(trimmed), entries: 1, requests: 0 }
}

/// A stream of these entries, chained from `first` on.
struct Stream {
    written: Written,
    hash: Hash,
    entries: u64,
    last: Seq,
}

impl Stream {
    fn new(first: u64) -> Self {
        let header = Header {
            format: versions::CURRENT_FORMAT,
            first: Seq(first),
            trimmed: Seq(0),
            exported_at: AT,
            release: "test".to_owned(),
        };
        Self { written: Written::begin(&header), hash: Hash::default(), entries: 0, last: Seq(first - 1) }
    }

    fn entry(self, seq: u64, entry: Entry) -> Self {
        let after = self.hash;
        self.entry_after(seq, entry, after)
    }

    fn entry_after(mut self, seq: u64, entry: Entry, before: Hash) -> Self {
        let numbered = Numbered { seq: Seq(seq), at: AT, entry };
        let (encoded, hash) = codec::encode_entry(&numbered, before).unwrap();
        self.written.entry(Seq(seq), &encoded.value);
        (self.hash, self.last, self.entries) = (hash, Seq(seq), self.entries + 1);
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.written.end(&End { entries: self.entries, last: self.last, hash: self.hash })
    }
}

fn import_into(dir: &Path, bytes: &[u8]) -> Result<Imported, ImportError> {
    let options = Options { ballast_bytes: 0, request_floor: 0, fact_floor: 0, ..Options::default() };
    import(dir, &options, &mut &bytes[..], "a test", |_| {})
}

/// Refused with these words, and nothing is left.
fn refused(stream: Stream, why: &str) {
    let dir = tempfile::tempdir().unwrap();
    let error = import_into(dir.path(), &stream.bytes()).unwrap_err();
    let told = crate::api::report::chain(&error);
    assert!(told.contains(why), "{why}: {told}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["agent.lock"], "{why}");
}

#[test]
fn a_chain_of_entries_is_taken_in_and_its_requests_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::new(1).entry(1, received("a")).entry(2, received("b")).entry(3, completed(1));
    let (last, hash) = (stream.last, stream.hash);
    let imported = import_into(dir.path(), &stream.bytes()).unwrap();
    assert_eq!((imported.entries, imported.abandoned), (3, 1));
    assert_eq!(imported.exported_head, Head { seq: last, hash });
    assert_eq!(imported.head.seq, Seq(5), "an outcome, and the import");
}

#[test]
fn an_empty_journal_is_one_too() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(import_into(dir.path(), &Stream::new(1).bytes()).unwrap().head.seq, Seq(1));
}

#[test]
fn entries_that_do_not_continue_each_other_are_refused() {
    refused(Stream::new(1).entry(1, received("a")).entry_after(2, completed(1), [7; 32]), "does not continue entry 1");
    refused(Stream::new(1).entry_after(1, received("a"), [7; 32]), "continues another");
    refused(Stream::new(1).entry(1, received("a")).entry(1, received("b")), "does not come after the one before it");
    refused(Stream::new(3).entry(2, received("a")), "from before the export's beginning");
    refused(
        Stream::new(1).entry(1, Entry::AgentSettled).entry(3, Entry::AgentSettled),
        "entry 2: this entry is missing",
    );
    refused(Stream::new(5).entry(5, Entry::AgentSettled), "entries before 5");
}

#[test]
fn requests_that_do_not_add_up_are_refused() {
    let two = Stream::new(1).entry(1, received("a")).entry(2, completed(1));
    refused(two.entry(3, completed(1)), "it completes request 1, whose outcome is entry 3");
    refused(Stream::new(1).entry(1, received("a")).entry(2, received("a")), "stands for entry 1");
    refused(Stream::new(1).entry(1, completed(2)), "which is not an earlier one");
    refused(Stream::new(1).entry(1, Entry::AgentSettled).entry(2, completed(1)), "it is no request");
    let mut other = received("a");
    if let Entry::RequestReceived { digest, .. } = &mut other {
        *digest = [9; 32];
    }
    refused(Stream::new(1).entry(1, other), "its digest is not that of the request");
}

#[test]
fn what_would_take_for_ever_is_refused() {
    let settled = || Stream::new(1).entry(1, Entry::AgentSettled);
    refused(settled().entry(2, pruned(u64::MAX, 0)), "that later entries were removed");
    refused(settled().entry(2, pruned(0, u64::MAX)), "that later entries were removed");
    refused(settled().entry(1 << 40, Entry::AgentSettled), "more numbers without an entry");
    refused(settled().entry(u64::MAX, Entry::AgentSettled), "impossible number");
    let far = REMOVED_LIMIT + 3;
    refused(settled().entry(far, pruned(far - 1, 0)), "more entries were removed at once");
    refused(settled().entry(far, pruned(0, far - 1)), "more entries were removed at once");
}

#[test]
fn a_false_end_is_refused() {
    let mut stream = Stream::new(1).entry(1, Entry::AgentSettled);
    stream.hash = [1; 32];
    refused(stream, "another head");
    let mut stream = Stream::new(1).entry(1, Entry::AgentSettled);
    stream.entries = 2;
    refused(stream, "counts other entries");
}

#[test]
fn a_value_that_is_altered_under_a_right_checksum_is_refused() {
    let numbered = Numbered { seq: Seq(1), at: AT, entry: completed(1) };
    let (encoded, _) = codec::encode_entry(&numbered, Hash::default()).unwrap();
    for at in (0..encoded.value.len()).step_by(5) {
        let mut altered = encoded.value.clone();
        altered[at] ^= 0x10;
        let mut stream = Stream::new(1);
        stream.written.entry(Seq(1), &altered);
        (stream.entries, stream.last) = (1, Seq(1));
        refused(stream, "");
    }
}

#[test]
fn an_export_reads_back_as_it_was_written() {
    let bytes = Stream::new(1).entry(1, received("a")).bytes();
    let mut unpacker = export::Unpacker::default();
    unpacker.push(&bytes);
    let mut kinds = Vec::new();
    while let Some(frame) = unpacker.next().unwrap() {
        kinds.push(frame);
    }
    unpacker.finish().unwrap();
    assert!(matches!(kinds.as_slice(), [Frame::Header(_), Frame::Entry { .. }, Frame::End(_)]), "{kinds:?}");
}
