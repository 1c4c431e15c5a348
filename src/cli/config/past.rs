//! `config history`, `config show`, and the values in which two configurations differ.

use std::io::Write;
use std::path::Path;

use super::Text;
use crate::api::configuration::Configuration;
use crate::api::history::{Difference, PastReport, Which, differences};
use crate::api::ids::InstanceName;
use crate::cli::flags::ConfigFormat;
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::cli::output::{Cell, Column, Screen, Table, plain};
use crate::cli::{Context, connect, print_json};
use crate::control::client::{Client, Error, within_ms};
use crate::terminal::{self, to_stderr};

/// How long the agent may take to answer.
const SOON_MS: u64 = 30_000;

const COLUMNS: [Column; 6] = [
    Column::text(""),
    Column::text("SINCE"),
    Column::name("ID", 12),
    Column::long("WHO", 12),
    Column::text("OUTCOME"),
    Column::long("NODES", 20).yields(1),
];

pub fn history(context: &Context) -> Outcome {
    let past = connect::connect(context)?.config_history(within_ms(SOON_MS)).map_err(connect::failed)?;
    let screen = context.screen();
    if screen.json {
        print_json(&past)?;
        return Ok(Exit::Done);
    }
    if past.is_empty() {
        to_stderr!("no configuration has run on this host");
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    let mut table = Table::new(&COLUMNS, &screen);
    for one in &past {
        let place = one.back.map_or_else(String::new, |back| Which::Back(back).to_string());
        let since = one.set_at.as_ref().map_or_else(|| "-".to_owned(), |at| screen.time(at));
        let cells = [place, since, one.id.clone(), who(&screen, one), outcome(one).to_owned(), changed(one)];
        table.row(&mut out, cells.iter().map(Cell::new).collect())?;
    }
    table.finish(&mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}

fn who(screen: &Screen, one: &PastReport) -> String {
    if one.source.transport.is_empty() { "-".to_owned() } else { screen.source(&one.source) }
}

fn outcome(one: &PastReport) -> &'static str {
    match (&one.ready_at, &one.ended_at) {
        (Some(_), None) => "ready",
        (Some(_), Some(_)) => "was ready",
        (None, None) => "not ready yet",
        (None, Some(_)) => "never ready",
    }
}

fn changed(one: &PastReport) -> String {
    let parts = [(one.started, "started"), (one.replaced, "replaced"), (one.removed, "removed")];
    let told: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    match told.is_empty() {
        true => format!("{} here", one.nodes),
        false => format!("{} here: {}", one.nodes, told.join(", ")),
    }
}

pub fn show(context: &Context, which: &str, to: ConfigFormat) -> Outcome {
    let (_, configuration) = shown(&mut connect::connect(context)?, which)?;
    let to = if context.screen().json { ConfigFormat::Json } else { to };
    super::print(&configuration, to)
}

fn shown(client: &mut Client, which: &str) -> Result<(PastReport, Configuration), Failure> {
    client.config_show(which, within_ms(SOON_MS)).map_err(|error| match error {
        Error::Agent { message, .. } => Failure::new(Exit::Failed, plain(&message)),
        other => connect::failed(other),
    })
}

/// A configuration of the agent's history if `path` is `@-1` or the like, else that of a file.
pub fn named(client: &mut Client, ours: &InstanceName, path: &Path) -> Result<Configuration, Failure> {
    match path.to_str().filter(|text| Which::parse_back(text).is_some()) {
        Some(which) => shown(client, which).map(|(_, configuration)| configuration),
        None => Text::read(path)?.configuration(ours),
    }
}

/// The values in which `to` differs from `from`; nothing is asked about nodes.
pub fn compare(context: &Context, from: &Configuration, to: &Configuration) -> Outcome {
    let found = differences(from, to);
    let screen = context.screen();
    if screen.json {
        print_json(&serde_json::json!({ "from": from.id, "to": to.id, "differences": found }))?;
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    print_differences(&mut out, &found)?;
    if found.is_empty() {
        writeln!(out, "{} and {} say the same", plain(&from.id), plain(&to.id))?;
    }
    Ok(Exit::Done)
}

/// One value a line.
pub fn print_differences(out: &mut impl Write, differences: &[Difference]) -> std::io::Result<()> {
    for one in differences {
        let Difference { of, field, old, new } = one;
        let of = plain(of);
        let line = match (field.as_deref().map(plain), old.as_deref().map(plain), new.as_deref().map(plain)) {
            (None, None, _) => format!("{of}: new"),
            (None, Some(_), _) => format!("{of}: gone"),
            (Some(field), None, None) => format!("{of}: {field} differs (values of variables are not shown)"),
            (Some(field), Some(old), Some(new)) => format!("{of}: {field}: {old} -> {new}"),
            (Some(field), None, Some(new)) => format!("{of}: {field}: {new} (had none)"),
            (Some(field), Some(old), None) => format!("{of}: {field}: none (had {old})"),
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}
