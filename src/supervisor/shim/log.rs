//! The shim's own log.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::files::SHIM_LOG;
use crate::regular_file;

/// The size limit of the log and of its predecessor, each.
const LOG_LIMIT: u64 = 64 << 10;

/// The shim's own log, bounded: at its limit it becomes `shim.log.old`.
pub(super) struct Log {
    file: Option<File>,
    size: u64,
}

impl Log {
    pub(super) fn open() -> Self {
        let file =
            regular_file::open(Path::new(SHIM_LOG), OpenOptions::new().append(true).create(true).mode(0o600)).ok();
        let size = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        Self { file, size }
    }

    pub(super) fn line(&mut self, text: impl std::fmt::Display) {
        if self.size >= LOG_LIMIT {
            let _ = fs::rename(SHIM_LOG, [SHIM_LOG, ".old"].concat());
            *self = Self::open();
        }
        if let Some(file) = &mut self.file {
            let line = format!("{} [{}] {text}\n", jiff::Timestamp::now(), std::process::id());
            // A full disk must not stop the shim, and there is nowhere else to report it.
            let _ = file.write_all(line.as_bytes());
            self.size += line.len() as u64;
        }
    }
}
