//! An export rewritten for release 1, which knows format 2: a way to downgrade, besides a copy of the state directory.
//!
//! Entries of kinds that release 1 lacks are left out, and one entry at the end lists their numbers: `Imported`, of a
//! journal of this format. Every entry's hash is recomputed, since it covers the one before; noted heads are valid for
//! the exported journal and not for this copy of it. Memory is that of one entry and of the numbers left out.

use std::collections::BTreeSet;

use super::{Checksum, End, Frame, Header, UnpackError, Unpacker, end_frame, entry_frame, write_header};
use crate::api::event::Request;
use crate::api::head::Head;
use crate::api::ids::Seq;
use crate::api::launch::ExitCause;
use crate::api::time::Timestamp;
use crate::journal::format::codec::{self, DecodeError, EncodeError, Hash};
use crate::journal::format::entry::{Entry, Goal, Numbered, Outcome};
use crate::journal::format::versions::{self, v2};

/// Why an export cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("entry {seq} cannot be read")]
    Entry { seq: Seq, source: DecodeError },
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    pub entries: u64,
    pub first: Seq,
    pub head: Head,
    /// Entries that release 1 does not know.
    pub left_out: u64,
}

/// Reads an export as its bytes arrive, and returns those of the older one.
#[derive(Debug, Default)]
pub struct ForRelease1 {
    unpacker: Unpacker,
    checksum: Checksum,
    /// The hash that the next entry continues, once there is one.
    previous: Option<Hash>,
    first: Seq,
    last: Seq,
    at: Timestamp,
    entries: u64,
    missing: Vec<(Seq, Seq)>,
    left_out: u64,
    /// Requests that were left out, with all entries that refer to them.
    unknown: BTreeSet<Seq>,
}

impl ForRelease1 {
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, RewriteError> {
        self.unpacker.push(bytes);
        let mut out = Vec::new();
        while let Some(frame) = self.unpacker.next()? {
            match frame {
                Frame::Header(header) => {
                    self.first = header.first;
                    self.last = Seq(header.first.0.saturating_sub(1));
                    self.checksum = write_header(&mut out, &Header { format: v2::FIRST_CHAINED_FORMAT, ..header });
                }
                Frame::Entry { seq, value } => self.entry(&mut out, seq, &value)?,
                Frame::End(_) => self.end(&mut out)?,
            }
        }
        Ok(out)
    }

    pub fn finish(&self) -> Result<Rewritten, RewriteError> {
        self.unpacker.finish()?;
        let head = Head { seq: self.last, hash: self.previous.unwrap_or_default() };
        Ok(Rewritten { entries: self.entries, first: self.first, head, left_out: self.left_out })
    }

    fn entry(&mut self, out: &mut Vec<u8>, seq: Seq, value: &[u8]) -> Result<(), RewriteError> {
        let (numbered, link, ..) =
            codec::decode_flat(seq, value).map_err(|source| RewriteError::Entry { seq, source })?;
        let Numbered { at, entry, .. } = numbered;
        let before = link.map(|link| link.previous).unwrap_or_default();
        self.at = at;
        match self.older(seq, entry) {
            Some(entry) => self.write(out, &Numbered { seq, at, entry }, before)?,
            None => {
                self.left_out += 1;
                self.previous.get_or_insert(before);
                self.last = seq;
                match self.missing.last_mut() {
                    Some((_, last)) if last.next() == seq => *last = seq,
                    Some(_) | None => self.missing.push((seq, seq)),
                }
            }
        }
        Ok(())
    }

    /// `before`: the hash that the very first entry continues, unchanged.
    fn write(&mut self, out: &mut Vec<u8>, numbered: &Numbered, before: Hash) -> Result<(), RewriteError> {
        let previous = self.previous.unwrap_or(before);
        let (encoded, hash) = codec::encode_entry(numbered, previous)?;
        let (frame, checksum) = entry_frame(&self.checksum, numbered.seq, &codec::joined(&encoded));
        out.extend_from_slice(&frame);
        self.checksum = checksum;
        self.previous = Some(hash);
        self.last = numbered.seq;
        self.entries += 1;
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), RewriteError> {
        let missing = std::mem::take(&mut self.missing);
        if !missing.is_empty() {
            let from = format!("a journal of format {}, exported for release 1", versions::CURRENT_FORMAT);
            let entry = Entry::Imported { from, entries: self.entries, missing };
            let seq = self.last.next();
            self.write(out, &Numbered { seq, at: self.at, entry }, Hash::default())?;
        }
        let end = End { entries: self.entries, last: self.last, hash: self.previous.unwrap_or_default() };
        let (frame, checksum) = end_frame(&self.checksum, &end);
        out.extend_from_slice(&frame);
        self.checksum = checksum;
        Ok(())
    }

    /// The entry as release 1 would have written it; `None` if it could not have.
    fn older(&mut self, seq: Seq, entry: Entry) -> Option<Entry> {
        if entry.of().is_some_and(|of| self.unknown.contains(&of)) {
            return None;
        }
        if let Some(request) = entry.request()
            && !is_known(request)
        {
            self.unknown.insert(seq);
            return None;
        }
        match entry {
            Entry::DeadlineAnswered { .. }
            | Entry::ConfigurationKept { .. }
            | Entry::PreflightBegun { .. }
            | Entry::PreflightEnded { .. }
            | Entry::TroubleSeen { .. }
            | Entry::EventTold { .. } => None,
            Entry::RequestWaits { of, goal, targets } => {
                let goal = match goal {
                    Goal::Kept => Goal::Ready,
                    Goal::Ready | Goal::Restarted | Goal::Down => goal,
                };
                Some(Entry::RequestWaits { of, goal, targets })
            }
            Entry::RequestCompleted {
                outcome: Outcome::Completed | Outcome::Rejected | Outcome::Abandoned, ..
            } => Some(entry),
            Entry::NodeExited { node, incarnation, cause, asked, process, ran_ms, when, verdict } => {
                let cause = older_cause(cause);
                Some(Entry::NodeExited { node, incarnation, cause, asked, process, ran_ms, when, verdict })
            }
            Entry::AgentStarted { .. }
            | Entry::AgentStopped { .. }
            | Entry::AgentSettled
            | Entry::HoldEntered { .. }
            | Entry::HoldEnded { .. }
            | Entry::Salvaged { .. }
            | Entry::Imported { .. }
            | Entry::FormatChanged { .. }
            | Entry::Pruned { .. }
            | Entry::RequestReceived { .. }
            | Entry::RequestAnswered { .. }
            | Entry::RequestConflicted { .. }
            | Entry::InputRejected { .. }
            | Entry::RequestBegun { .. }
            | Entry::DuplicateSeen { .. }
            | Entry::DesiredChanged { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => Some(entry),
        }
    }
}

/// As signal(7) numbers them.
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What release 1 would have noted.
fn older_cause(cause: ExitCause) -> ExitCause {
    match cause {
        ExitCause::HostShutdown => ExitCause::HostRestarted,
        ExitCause::Terminated { .. } => ExitCause::Signal(SIGTERM),
        ExitCause::OutOfMemory => ExitCause::Signal(SIGKILL),
        ExitCause::Code(_)
        | ExitCause::Signal(_)
        | ExitCause::Lost
        | ExitCause::HostRestarted
        | ExitCause::NotStarted(_) => cause,
    }
}

/// Whether release 1 has such a request.
fn is_known(request: &Request) -> bool {
    match request {
        Request::AdoptState {} | Request::ResumeWaiting { .. } | Request::DropWaiting { .. } => false,
        Request::StopNodes { force, .. } => !force,
        Request::Deploy { how, .. } => how.is_default(),
        Request::SetConfiguration { .. }
        | Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::GetNodes {}
        | Request::Restart { .. }
        | Request::NodeDispatch { .. }
        | Request::StartNodes { .. }
        | Request::Shutdown { .. } => true,
    }
}
