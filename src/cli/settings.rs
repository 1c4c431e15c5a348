//! `settings`: every effective value and where it comes from.

use std::io::Write;

use super::outcome::{Exit, Outcome};
use super::output::{Cell, Column, Table};
use super::{Context, print_json};
use crate::settings::{Origin, Settings};
use crate::terminal::{self, to_stderr};

const COLUMNS: [Column; 3] = [Column::text("KEY"), Column::text("VALUE"), Column::text("SOURCE")];

pub fn run(context: &Context) -> Outcome {
    let settings = context.settings()?;
    for strange in Settings::strange_variables(&context.surroundings) {
        to_stderr!("warning: {strange}");
    }
    let shown = settings.shown();
    let screen = context.screen();
    if screen.json {
        print_json(&shown.iter().map(|setting| setting.to_json()).collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    let mut table = Table::new(&COLUMNS, &screen);
    for setting in shown {
        let value = if setting.value.is_empty() { "-" } else { &setting.value };
        let color = if setting.origin == Origin::Default { "2" } else { "" };
        let source = Cell::colored(setting.origin.to_string(), color);
        table.row(&mut out, vec![Cell::new(setting.key), Cell::new(value), source])?;
    }
    table.finish(&mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}
