//! `journal export` and `journal import`: the journal as one file, and back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::source::{self, Source};
use super::{Context, print_json};
use crate::api::export::ExportCursor;
use crate::api::head::Head;
use crate::api::ids::Seq;
use crate::cli::flags::JournalFrom;
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::cli::output::plain;
use crate::cli::progress::Progress;
use crate::journal::export::older::{ForRelease1, Rewritten};
use crate::journal::import::{self, Imported};
use crate::terminal::{self, to_stderr};

/// What is exported, and whether a file that is there may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) force: bool,
    pub(super) for_release_1: bool,
}

pub(super) fn export(context: &Context, file: &Path, how: How, from: &JournalFrom) -> Outcome {
    let How { force, for_release_1 } = how;
    let to_stdout = file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        let what = "an export is not text for a terminal; give a FILE, or redirect standard output";
        return Err(Failure::new(Exit::Usage, what));
    }
    if !to_stdout && !force {
        may_replace(file)?;
    }
    let mut source = Source::open(context, from)?;
    let exported = if to_stdout {
        let mut out = terminal::out();
        let exported = write(&mut source, for_release_1, |bytes| Ok(out.write_all(bytes)?))?;
        out.flush()?;
        exported
    } else {
        to_file(&mut source, for_release_1, file)?
    };
    let Exported { entries, first, head, left_out } = exported;
    let last = head.seq;
    if context.screen().json && !to_stdout {
        let mut told = json!({ "entries": entries, "first": first, "last": last, "head": head.to_string() });
        if let (Some(left_out), Some(told)) = (left_out, told.as_object_mut()) {
            told.insert("left_out".to_owned(), left_out.into());
        }
        print_json(&told)?;
        return Ok(Exit::Done);
    }
    let told = match entries {
        0 => "the journal has no entries".to_owned(),
        _ => format!("{entries} entries, {first} to {last}\nhead {head}"),
    };
    let told = match left_out {
        None | Some(0) => told,
        Some(1) => format!("{told}\nnote: 1 entry is left out, of a kind that release 1 does not know"),
        Some(count) => format!("{told}\nnote: {count} entries are left out, of kinds that release 1 does not know"),
    };
    if to_stdout {
        to_stderr!("{told}");
    } else {
        writeln!(terminal::out(), "{told}")?;
    }
    Ok(Exit::Done)
}

/// Whether a file that is there may go: an export may be the only one of a journal that is gone. Asks on a terminal.
fn may_replace(file: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let name = plain(&file.display().to_string());
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        let mut err = terminal::err();
        write!(err, "{name} already exists; overwrite it? [y/N] ").and_then(|()| err.flush())?;
        let mut answer = String::new();
        io::stdin().lock().take(16).read_line(&mut answer)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
    }
    let what = format!("{name} already exists and was left as it is; give another FILE, or --force to overwrite it");
    Err(Failure::new(Exit::Failed, what))
}

/// What an export holds.
struct Exported {
    entries: u64,
    first: Seq,
    head: Head,
    /// Of one for an earlier release.
    left_out: Option<u64>,
}

/// Writes the whole stream.
fn write(
    source: &mut Source,
    for_release_1: bool,
    mut out: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Exported, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::because(Exit::Failed, "the journal cannot be rewritten for release 1", error)
    };
    let mut older = for_release_1.then(ForRelease1::default);
    let mut progress = Progress::new("exporting");
    let mut cursor = None;
    loop {
        let chunk = source.export(cursor.as_ref())?;
        match &mut older {
            Some(older) => out(&older.push(&chunk.bytes).map_err(|error| failed(&error))?)?,
            None => out(&chunk.bytes)?,
        }
        if chunk.end {
            let Some(older) = older else {
                let ExportCursor { entries, first, .. } = chunk.cursor;
                return Ok(Exported { entries, first, head: chunk.cursor.head(), left_out: None });
            };
            let Rewritten { entries, first, head, left_out } = older.finish().map_err(|error| failed(&error))?;
            return Ok(Exported { entries, first, head, left_out: Some(left_out) });
        }
        progress.tell(|| format!("entry {} of {}", chunk.cursor.last, chunk.newest));
        cursor = Some(chunk.cursor);
    }
}

/// All of it, or no file of this name that was not there before.
fn to_file(source: &mut Source, for_release_1: bool, file: &Path) -> Result<Exported, Failure> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(".partial");
    let aside = PathBuf::from(aside);
    let failed =
        |what: &str, error: &io::Error| Failure::because(Exit::Failed, format!("{what} {}", file.display()), error);
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // Requests and responses may hold what is not for everybody.
        .mode(0o600)
        .open(&aside)
        .map_err(|error| failed("cannot create", &error))?;
    let written =
        write(source, for_release_1, |bytes| out.write_all(bytes).map_err(|error| failed("cannot write", &error)));
    let done = written.and_then(|exported| {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        out.sync_all()
            .and_then(|()| fs::rename(&aside, file))
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(|error| failed("cannot write", &error))?;
        Ok(exported)
    });
    if done.is_err() {
        // What matters has been said already.
        let _ = fs::remove_file(&aside);
    }
    done
}

pub(super) fn import(context: &Context, file: &Path) -> Outcome {
    let settings = context.settings()?;
    let state_dir = &settings.state_dir.value;
    let name = file.display().to_string();
    let failed = |error: &dyn std::error::Error| {
        let what = format!("{} was not imported into {}", plain(&name), state_dir.display());
        Failure::because(Exit::Failed, what, error)
    };
    let (mut stream, from): (Box<dyn io::Read>, _) = match file == Path::new("-") {
        true => (Box::new(io::stdin().lock()), "standard input".to_owned()),
        false => (Box::new(File::open(file).map_err(|error| failed(&error))?), name.clone()),
    };
    let mut progress = Progress::new("importing");
    let imported = import::import(state_dir, &source::options(&settings), &mut stream, &from, |seq| {
        progress.tell(|| format!("entry {seq}"));
    });
    drop(progress);
    tell(context, state_dir, &imported.map_err(|error| failed(&error))?)
}

pub(super) fn import_salvage(context: &Context, dir: &Path) -> Outcome {
    let settings = context.settings()?;
    let state_dir = &settings.state_dir.value;
    let mut progress = Progress::new("salvaging");
    let imported = import::import_salvage(state_dir, &source::options(&settings), dir, |seq| {
        progress.tell(|| format!("entry {seq}"));
    });
    drop(progress);
    let failed = |error| {
        let what = format!("nothing of {} was imported into {}", dir.display(), state_dir.display());
        Failure::because(Exit::Failed, what, &error)
    };
    tell(context, state_dir, &imported.map_err(failed)?)
}

fn tell(context: &Context, state_dir: &Path, imported: &Imported) -> Outcome {
    let Imported { entries, first, exported_head, abandoned, head, missing, problems } = imported;
    let last = exported_head.seq;
    if context.screen().json {
        print_json(&json!({
            "entries": entries,
            "first": first,
            "last": last,
            "abandoned": abandoned,
            "exported_head": exported_head.to_string(),
            "head": head.to_string(),
            "missing": missing,
            "problems": problems,
        }))?;
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    writeln!(out, "{entries} entries, {first} to {last}, are in {} now", state_dir.display())?;
    if !missing.is_empty() {
        writeln!(out, "{}", imported.summary())?;
    }
    for problem in problems {
        writeln!(out, "{}: {}", context.screen().paint("31", "problem"), plain(problem))?;
    }
    writeln!(out, "they continue {exported_head}")?;
    if *abandoned > 0 {
        writeln!(out, "{abandoned} requests had no outcome and were closed as abandoned")?;
    }
    writeln!(out, "head {head}")?;
    writeln!(out, "what this host is to run does not come along: the next start is on hold until somebody says so")?;
    Ok(Exit::Done)
}
