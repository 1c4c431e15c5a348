//! Rows under keys, wherever they are stored: the one view through which the journal is read.
//!
//! [`store`](crate::journal::store::database) has the real one, [`memory`](crate::journal::tests::memory) one for
//! tests; what is built on this trait is therefore the same for both.

use std::borrow::Cow;
use std::ops::Range;

use super::storage_error::StorageError;
use crate::api::ids::Seq;
use crate::journal::format::codec::{self, DecodeError, Head, Link};
use crate::journal::format::entry::Numbered;
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::records::{HistoryRecord, Stored};

/// Why something in the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store failed.
    #[error("{what} cannot be read from the journal's storage")]
    Storage {
        /// What was to be read, for people.
        what: String,
        /// The store's message.
        source: StorageError,
    },
    /// A value exists and is not what it should be.
    #[error("{what} is damaged or of another release")]
    Decode {
        /// What was to be read, for people.
        what: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A value that another one refers to is missing.
    #[error("{what} is missing, although {because}")]
    Absent {
        /// What is missing.
        what: String,
        /// Why it should exist.
        because: String,
    },
}

impl ReadError {
    fn decode(key: &[u8], source: DecodeError) -> Self {
        Self::Decode { what: keys::describe(key), source }
    }

    /// A newer release wrote this: nothing here is wrong, and nothing may be touched.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Decode { source: DecodeError::Newer { .. }, .. })
    }

    /// See [`StorageError::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Storage { source, .. } => source.is_passing(),
            Self::Decode { .. } | Self::Absent { .. } => false,
        }
    }

    /// The bytes on disk are wrong, as opposed to a device or a system that cannot read them.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage { source, .. } => source.is_damage(),
            Self::Decode { .. } => !self.is_newer(),
            Self::Absent { .. } => true,
        }
    }
}

/// An entry, and how it is stored.
pub(in crate::journal) struct Whole {
    pub(in crate::journal) numbered: Numbered,
    /// `None` for an entry of version 1.
    pub(in crate::journal) link: Option<Link>,
    pub(in crate::journal) head: Head,
    /// Its body, and its payload if that is kept.
    pub(in crate::journal) stored: Vec<u8>,
}

pub(in crate::journal) type Row = Result<(Vec<u8>, Vec<u8>), ReadError>;

pub(in crate::journal) trait Table: Sized {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;
    /// Rows in the order of their keys, from either end. After an error, further rows may be missing.
    fn range(&self, range: Range<Vec<u8>>) -> Box<dyn DoubleEndedIterator<Item = Row> + '_>;

    /// The body behind a value, from its pieces if it is in pieces.
    fn body(&self, key: &[u8], value: &[u8]) -> Result<(Head, Vec<u8>), ReadError> {
        let (head, inline) = codec::head(value).map_err(|source| ReadError::decode(key, source))?;
        if head.pieces() == 0 {
            return Ok((head, inline.to_vec()));
        }
        let body = codec::assemble(&head, |index| self.get(&keys::chunk(key, index)).map_err(Piece::Unread));
        match body {
            Ok(body) => Ok((head, body)),
            Err(Piece::Unread(error)) => Err(error),
            Err(Piece::Wrong(source)) => Err(ReadError::decode(key, source)),
        }
    }

    fn decode_entry(&self, seq: Seq, value: &[u8]) -> Result<Numbered, ReadError> {
        self.read_entry(seq, value).map(|whole| whole.numbered)
    }

    /// Like [`Table::decode_entry`], with all that is known about how it is stored.
    fn read_entry(&self, seq: Seq, value: &[u8]) -> Result<Whole, ReadError> {
        let key = keys::entry(seq);
        let (head, stored) = self.body(&key, value)?;
        let (numbered, link) =
            codec::decode_entry(seq, &head, &stored).map_err(|source| ReadError::decode(&key, source))?;
        Ok(Whole { numbered, link, head, stored })
    }

    /// An entry that a walk has found, from its value. With a concurrent writer, retention may have removed its
    /// response or all of it since: `None` for the latter.
    fn read_walked(&self, seq: Seq, value: &[u8]) -> Result<Option<Whole>, ReadError> {
        let mut value = Cow::Borrowed(value);
        loop {
            let error = match self.read_entry(seq, &value) {
                Err(error) if error.is_damage() => error,
                read => return read.map(Some),
            };
            match self.get(&keys::entry(seq))? {
                Some(current) if *current != *value => value = Cow::Owned(current),
                None if self.is_removed(seq)? => return Ok(None),
                Some(_) | None => return Err(error),
            }
        }
    }

    /// Whether retention has removed the entry: it is gone, and the record of history says so.
    fn is_removed(&self, seq: Seq) -> Result<bool, ReadError> {
        // Both are in one commit; the record is read last, so it is not older.
        Ok(self.get(&keys::entry(seq))?.is_none()
            && self.record::<HistoryRecord>(keys::HISTORY)?.is_some_and(|history| seq < history.first))
    }

    fn entry(&self, seq: Seq) -> Result<Option<Numbered>, ReadError> {
        self.get(&keys::entry(seq))?.map(|value| self.decode_entry(seq, &value)).transpose()
    }

    fn decode_record<T: Stored>(&self, key: &[u8], value: &[u8]) -> Result<T, ReadError> {
        let (head, body) = self.body(key, value)?;
        codec::decode_record(key, &head, &body).map_err(|source| ReadError::decode(key, source))
    }

    fn record<T: Stored>(&self, key: &[u8]) -> Result<Option<T>, ReadError> {
        let mut value = self.get(key)?;
        while let Some(current) = value {
            match self.decode_record(key, &current) {
                Ok(record) => return Ok(Some(record)),
                // With a concurrent writer, a reader may find pieces of a body that is newer than the head it read.
                Err(error) => {
                    value = self.get(key)?;
                    if value.as_ref() == Some(&current) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The number of the newest entry; 0 if there is none.
    fn last(&self) -> Result<Seq, ReadError> {
        match self.range(Family::Entry.range()).next_back().transpose()? {
            None => Ok(Seq(0)),
            Some((key, _)) => entry_seq(&key),
        }
    }
}

/// After this many numbers without an entry the search ends, if the tree does not give its end.
const GAP: u64 = 4096;

/// Entries in order, continuing past damage: where the tree cannot be walked, by number.
pub(in crate::journal) struct Entries<'a, T: ?Sized> {
    table: &'a T,
    rows: Option<Box<dyn DoubleEndedIterator<Item = Row> + 'a>>,
    /// What comes next, by number.
    at: Option<Seq>,
    first: Seq,
    last: Seq,
    reverse: bool,
}

impl<'a, T: Table> Entries<'a, T> {
    /// The entries `first` to `last`, both included, from either end.
    pub(in crate::journal) fn new(table: &'a T, first: Seq, last: Seq, reverse: bool) -> Self {
        let at = (first <= last).then_some(if reverse { last } else { first });
        let rows = at.map(|_| table.range(keys::entries(first, last)));
        Self { table, rows, at, first, last, reverse }
    }

    fn after(&self, seq: Seq) -> Option<Seq> {
        let next = if self.reverse { seq.0.checked_sub(1) } else { seq.0.checked_add(1) };
        next.map(Seq).filter(|next| (self.first..=self.last).contains(next))
    }
}

impl<T: Table> Iterator for Entries<'_, T> {
    /// The undecoded value, or why it cannot be read.
    type Item = (Seq, Result<Vec<u8>, ReadError>);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(rows) = &mut self.rows {
            let row = if self.reverse { rows.next_back() } else { rows.next() };
            match row? {
                Ok((key, value)) => match entry_seq(&key) {
                    Ok(seq) => {
                        self.at = self.after(seq);
                        return Some((seq, Ok(value)));
                    }
                    Err(error) => return Some((self.at?, Err(error))),
                },
                Err(error) => {
                    self.rows = None;
                    if !error.is_damage() {
                        return Some((self.at.take()?, Err(error)));
                    }
                }
            }
        }
        for _ in 0..GAP {
            let seq = self.at?;
            self.at = self.after(seq);
            match self.table.get(&keys::entry(seq)) {
                Ok(Some(value)) => return Some((seq, Ok(value))),
                Ok(None) => {}
                Err(error) => return Some((seq, Err(error))),
            }
        }
        None
    }
}

enum Piece {
    Unread(ReadError),
    Wrong(DecodeError),
}

impl From<DecodeError> for Piece {
    fn from(error: DecodeError) -> Self {
        Self::Wrong(error)
    }
}

/// The number in the key of an entry.
pub(in crate::journal) fn entry_seq(key: &[u8]) -> Result<Seq, ReadError> {
    match keys::parse(key) {
        Some(Key::Entry(seq)) => Ok(seq),
        Some(_) | None => Err(ReadError::decode(key, DecodeError::Malformed)),
    }
}
