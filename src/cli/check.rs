//! `status --check`: whether all is well, in an exit code and at most one line.

use std::io::Write;

use serde::Serialize;

use super::outcome::{Exit, Outcome};
use super::output::plain;
use super::{Context, connect, print_json, status};
use crate::terminal;

/// How it is, for a script.
#[derive(Serialize)]
struct Checked {
    /// Whether there is nothing to mend.
    well: bool,
    /// What there is, most important first.
    reasons: Vec<String>,
}

pub fn run(context: &Context) -> Outcome {
    let reasons = status::ask(&mut connect::connect(context)?)?.reasons();
    let exit = if reasons.is_empty() { Exit::Done } else { Exit::Failed };
    if context.global.json {
        print_json(&Checked { well: reasons.is_empty(), reasons })?;
    } else {
        let line = match reasons.is_empty() {
            true => "well".to_owned(),
            false => format!("degraded: {}", plain(&reasons.join("; "))),
        };
        let mut out = terminal::out();
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(exit)
}
