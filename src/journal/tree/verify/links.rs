//! The chain while it is walked: which entry was altered, and whether a head noted elsewhere is part of it. Pure.
//!
//! Where two entries do not fit together, the entry after them shows which was altered: the second, if its own hash is
//! not what the third holds, else the first.

use crate::api::head::{Anchor, Head};
use crate::api::ids::Seq;
use crate::api::time::Timestamp;
use crate::journal::format::codec::{Hash, Link};

/// An entry that the next one has to continue.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChainPosition {
    pub(super) seq: Seq,
    pub(super) at: Timestamp,
    pub(super) hash: Hash,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    /// The entry before, if it was readable.
    before: Option<ChainPosition>,
    /// The entry before, if it does not fit the one before it, and that one.
    loose: Option<(ChainPosition, ChainPosition)>,
    /// The oldest readable entry, and the hash it continues.
    pub(super) first: Option<(ChainPosition, Hash)>,
    sought: Option<Anchor>,
    /// What was sought, once the walk has found it.
    pub(super) found: Option<Head>,
}

impl Links {
    pub(super) fn new(sought: Option<&Anchor>) -> Self {
        Self { sought: sought.copied(), ..Self::default() }
    }

    /// The next entry cannot be compared with anything.
    pub(super) fn interrupt(&mut self) {
        self.before = None;
        self.loose = None;
    }

    /// A hash that the journal vouches for: that of an entry, or of one that retention has removed.
    pub(super) fn vouch(&mut self, seq: Seq, hash: Hash) {
        if self.sought.is_some_and(|anchor| anchor.hash == hash && anchor.seq.is_none_or(|sought| sought == seq)) {
            self.found = Some(Head { seq, hash });
        }
    }

    /// Adds the next link. Returns the entry that turns out to be altered.
    pub(super) fn take(&mut self, seq: Seq, at: Timestamp, Link { previous, hash }: Link) -> Option<ChainPosition> {
        let this = ChainPosition { seq, at, hash };
        let before = self.before.replace(this).filter(|before| before.seq.next() == seq);
        if self.first.is_none() {
            self.first = Some((this, previous));
            self.vouch(Seq(seq.0.saturating_sub(1)), previous);
        }
        self.vouch(seq, hash);
        let fits = before.is_none_or(|before| before.hash == previous);
        match self.loose.take() {
            // This one continues the one before, so the one before was not altered.
            Some((first, _)) if fits && before.is_some() => Some(first),
            Some((_, second)) => Some(second),
            None if fits => None,
            None => {
                self.loose = before.map(|before| (before, this));
                None
            }
        }
    }

    /// No more entries; `head` is the hash that the newest one has to have, if that is known. Returns the entry that
    /// turns out to be altered.
    pub(super) fn end(&mut self, head: Option<Hash>) -> Option<ChainPosition> {
        let newest = self.before?;
        let is_head = head.is_none_or(|head| head == newest.hash);
        match self.loose.take() {
            Some((first, _)) if is_head => Some(first),
            Some((_, second)) => Some(second),
            None if is_head => None,
            None => Some(newest),
        }
    }

    pub(super) fn newest(&self) -> Option<Head> {
        self.before.map(|ChainPosition { seq, hash, .. }| Head { seq, hash })
    }
}
