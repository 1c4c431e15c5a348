//! Writes outside of a commit: the format record of a new database, an entry of the opening itself.

use crate::api::report::chain;
use crate::journal::format::entry::Numbered;
use crate::journal::format::keys;
use crate::journal::format::versions::{self, records::FormatRecord};
use crate::journal::store::database::Database;
use crate::journal::tree::batch::{Builder, State};
use crate::journal::tree::storage_error::StorageError;

/// Writes the format record, with which every database begins.
pub(super) fn write(database: &Database) -> Result<(), StorageError> {
    let mut state = State::default();
    let mut batch = Builder::new(&mut state);
    let written = batch
        .record(keys::FORMAT.to_vec(), &FormatRecord { version: versions::CURRENT_FORMAT })
        .and_then(|()| batch.finish())
        .expect("the format record is four bytes");
    database.write(written)
}

/// Writes one entry outside of a commit.
pub(super) fn append(database: &Database, state: &mut State, numbered: &Numbered) -> Result<(), StorageError> {
    let mut batch = Builder::new(state);
    let writes =
        batch.entry(numbered).and_then(|()| batch.finish()).map_err(|error| StorageError::Store(chain(&error)))?;
    database.write(writes)
}
