//! What the journal was like when it was opened.

use std::path::PathBuf;

use crate::api::ids::Seq;
use crate::journal::format::entry::{AgentRecord, Entry, Numbered};
use crate::journal::format::keys;
use crate::journal::tree::rows;
use crate::journal::tree::table::{ReadError, Table};

/// `Entry::Salvaged::from` where nothing was moved aside.
pub(super) const FROM_ITSELF: &str = "journal";
pub(super) const FROM_NOTHING: &str = "";

/// What the journal was like when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There was none, and none was expected.
    Fresh,
    /// It has all that it is known to have had.
    Intact,
    /// The directory is initialised, and its journal missing or empty.
    Missing,
    /// Entries that were durable are gone without a trace of damage: the newest should be `expected`.
    LostTail {
        /// How far it had come, according to the side file.
        expected: Seq,
        /// The newest entry there is.
        found: Seq,
    },
    /// It was damaged: moved aside, and everything readable was recovered.
    Salvaged {
        /// Where the damaged journal is now.
        aside: PathBuf,
        /// What was recovered and what is lost, for people.
        summary: String,
        /// Everything was recovered: every entry up to where the journal is known to have come, and the records of
        /// them.
        is_lossless: bool,
    },
    /// It was imported, and says nothing about what this host should run.
    Imported {
        /// The file or directory that it was imported from.
        from: String,
        /// What was recovered and what is lost, for people.
        summary: String,
    },
}

impl Condition {
    /// Nothing is known to be missing.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Fresh | Self::Intact | Self::Salvaged { is_lossless: true, .. } => true,
            Self::Missing
            | Self::LostTail { .. }
            | Self::Salvaged { is_lossless: false, .. }
            | Self::Imported { .. } => false,
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fresh => f.write_str("the journal is new"),
            Self::Intact => f.write_str("the journal is intact"),
            Self::Missing => f.write_str("the journal is missing or empty, although this directory was in use"),
            Self::LostTail { expected, found } => {
                write!(f, "the journal has lost its newest entries: it ends at {found} and had come to {expected}")
            }
            Self::Salvaged { aside, summary, .. } => {
                write!(f, "the journal was damaged and is set aside at {}; {summary}", aside.display())
            }
            Self::Imported { from, summary } => {
                write!(f, "the journal was imported from {from}, without what this host is to run; {summary}")
            }
        }
    }
}

/// The condition that the newest entry stands for, if it reports a loss that nobody has acted on yet.
pub(super) fn newest_loss(table: &impl Table, last: Seq) -> Result<Option<Condition>, ReadError> {
    let mut newest = table.entry(last)?;
    while let Some(Numbered { entry: Entry::FormatChanged { .. }, seq, .. }) = newest {
        newest = table.entry(Seq(seq.0 - 1))?;
    }
    let (from, recovered, missing, seq) = match newest {
        Some(Numbered { entry: Entry::Salvaged { from, recovered, missing }, seq, .. }) => {
            (from, recovered, missing, seq)
        }
        Some(Numbered { entry: Entry::Imported { from, entries, missing }, .. }) => {
            return Ok(Some(Condition::Imported { from, summary: rows::recovery_summary(entries, &missing) }));
        }
        Some(_) | None => return Ok(None),
    };
    Ok(Some(match from.as_str() {
        FROM_NOTHING => Condition::Missing,
        FROM_ITSELF => Condition::LostTail { expected: Seq(seq.0 - 1), found: Seq(recovered) },
        aside => {
            let agent: Option<AgentRecord> = table.record(keys::AGENT)?;
            Condition::Salvaged {
                aside: PathBuf::from(aside),
                summary: rows::recovery_summary(recovered, &missing),
                is_lossless: agent.is_some_and(|agent| agent.extras.0.lossless_salvage == seq),
            }
        }
    }))
}
