//! `settings`: every setting in effect and where it comes from.

use std::io::Write;

use super::connect::{self, SOON};
use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Table};
use super::{Context, print_json};
use crate::api::report::SettingReport;
use crate::control::client::{self, within_ms};
use crate::control::message::ErrorCode;
use crate::settings::{Origin, Settings, Shown};
use crate::terminal::{self, to_stderr};

const COLUMNS: [Column; 3] = [Column::text("KEY"), Column::long("VALUE", 16), Column::long("SOURCE", 16)];

pub fn run(context: &Context, local: bool) -> Outcome {
    let settings = context.settings()?;
    for strange in Settings::strange_variables(&context.surroundings) {
        to_stderr!("warning: {strange}");
    }
    let own = || settings.shown().iter().map(report).collect();
    let shown = if local { own() } else { of_agent(context, &settings)?.unwrap_or_else(own) };
    let screen = context.screen();
    if screen.json {
        print_json(&shown)?;
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    let mut table = Table::new(&COLUMNS, &screen);
    for setting in shown {
        let value = if setting.shown.is_empty() { "-" } else { &setting.shown };
        let color = if setting.source == Origin::Default.to_string() { "2" } else { "" };
        table.row(&mut out, vec![Cell::new(setting.key), Cell::new(value), Cell::colored(setting.source, color)])?;
    }
    table.finish(&mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// The running agent's, which may have been started with other files, variables and flags. Whose they are is told.
fn of_agent(context: &Context, settings: &Settings) -> Result<Option<Vec<SettingReport>>, Failure> {
    let Ok(mut client) = connect::find(settings, &context.surroundings)? else {
        to_stderr!("no agent runs: these are the settings that one would have if this user started it so");
        return Ok(None);
    };
    let (name, pid) = (client.welcome().agent.clone(), client.welcome().pid);
    match client.settings(within_ms(u64::try_from(SOON.as_millis()).unwrap_or(u64::MAX))) {
        Ok(settings) => {
            to_stderr!("settings of the running agent {name} (pid {pid}); --local shows this command's");
            Ok(Some(settings))
        }
        Err(client::Error::Agent { code: ErrorCode::UnknownKind, .. }) => {
            to_stderr!("the running agent is of a release that does not tell its settings: these are this command's");
            Ok(None)
        }
        Err(error) => Err(connect::failed(error)),
    }
}

/// As it is shown, and sent.
pub fn report(setting: &Shown) -> SettingReport {
    SettingReport {
        key: setting.key.to_owned(),
        value: setting.json.clone(),
        source: setting.origin.to_string(),
        shown: setting.value.clone(),
    }
}
