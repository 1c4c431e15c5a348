//! What is staged and not durable, and the effects behind it.

use std::collections::VecDeque;

use super::error::CommitError;
use crate::api::ids::Seq;
use crate::journal::format::entry::{Entry, Numbered, Sealed};

/// What is staged and not durable, and the effects behind it. Shared with the journal for tests.
#[derive(Debug)]
pub(in crate::journal) struct Queue<E> {
    pub(in crate::journal) durable: Seq,
    pub(in crate::journal) staged: Seq,
    pub(in crate::journal) entries: Vec<Numbered>,
    waiting: VecDeque<(Seq, Vec<E>)>,
    wrong: Option<(Seq, Seq)>,
    failed: bool,
}

impl<E> Queue<E> {
    pub(in crate::journal) fn new(last: Seq) -> Self {
        Self { durable: last, staged: last, entries: Vec::new(), waiting: VecDeque::new(), wrong: None, failed: false }
    }

    pub(in crate::journal) fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        if self.failed {
            return Vec::new();
        }
        let (entries, effects, behind) = sealed.open();
        let immediate = entries.is_empty() && behind <= self.durable;
        for numbered in entries {
            if numbered.seq != self.staged.next() && self.wrong.is_none() {
                self.wrong = Some((self.staged, numbered.seq));
            }
            self.staged = numbered.seq;
            self.entries.push(numbered);
        }
        if immediate {
            return effects;
        }
        if !effects.is_empty() {
            self.waiting.push_back((behind, effects));
        }
        Vec::new()
    }

    /// Whether anything waits for what is not durable yet, that is, whether it is more than records of duplicates.
    pub(in crate::journal) fn is_urgent(&self) -> bool {
        !self.waiting.is_empty() || !self.entries.iter().all(|one| matches!(one.entry, Entry::DuplicateSeen { .. }))
    }

    /// Whether what is staged may be written.
    pub(in crate::journal) fn check(&mut self) -> Result<(), CommitError> {
        if self.failed {
            return Err(CommitError::Failed);
        }
        if let Some((last, found)) = self.wrong {
            self.fail();
            return Err(CommitError::Sequence { last, found });
        }
        Ok(())
    }

    /// What is staged, for a commit: its entries, and the newest of all.
    pub(in crate::journal) fn take(&mut self) -> (Vec<Numbered>, Seq) {
        (std::mem::take(&mut self.entries), self.staged)
    }

    /// Everything up to there is durable.
    pub(in crate::journal) fn release(&mut self, upto: Seq) -> Vec<E> {
        self.durable = upto;
        let mut free = Vec::new();
        let mut kept = VecDeque::new();
        for (behind, effects) in self.waiting.drain(..) {
            if behind <= self.durable {
                free.extend(effects);
            } else {
                kept.push_back((behind, effects));
            }
        }
        self.waiting = kept;
        free
    }

    pub(in crate::journal) fn fail(&mut self) {
        self.failed = true;
        self.waiting.clear();
    }
}
