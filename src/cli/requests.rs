//! `requests`: what was asked before hold mode and waits for an operator's word.

use std::io::Write;

use super::flags::{Requests, Word};
use super::outcome::{Exit, Outcome};
use super::output::{Cell, Column, Table};
use super::request::{self, Call};
use super::{Context, connect, print_json, status};
use crate::api::event::{Dialect, Request};
use crate::terminal::{self, to_stderr};

const COLUMNS: [Column; 5] = [
    Column::text("NUMBER"),
    Column::long("REQID", 12),
    Column::text("EVENT"),
    Column::text("ACCEPTED"),
    Column::long("SOURCE", 12),
];

pub fn run(context: &Context, command: Requests) -> Outcome {
    let operator = |request, sending| request::send(context, Call { request, dialect: Dialect::Operator, sending });
    match command {
        Requests::List => list(context),
        Requests::Resume(Word { request, sending }) => operator(Request::ResumeWaiting { request }, sending),
        Requests::Drop(Word { request, sending }) => operator(Request::DropWaiting { request }, sending),
    }
}

fn list(context: &Context) -> Outcome {
    let waiting = status::ask(&mut connect::connect(context)?)?.waiting_requests;
    let screen = context.screen();
    if screen.json {
        print_json(&waiting)?;
        return Ok(Exit::Done);
    }
    if waiting.is_empty() {
        to_stderr!("no request waits for an operator");
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    let mut table = Table::new(&COLUMNS, &screen);
    for one in waiting {
        let cells = [format!("#{}", one.seq), one.reqid, one.event, one.accepted_at, one.source];
        table.row(&mut out, cells.iter().map(Cell::new).collect())?;
    }
    table.finish(&mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}
