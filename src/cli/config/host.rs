//! `config check --host`: whether a configuration's nodes can run on the agent's host.

use std::io::Write;
use std::path::Path;

use super::Text;
use crate::api::ids::InstanceName;
use crate::api::preflight::HostReport;
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::cli::output::{plain, span};
use crate::cli::{Context, connect, print_json};
use crate::control::client::within_ms;
use crate::terminal::{self, to_stderr};

/// Longer than any check is worth waiting for: the agent ends it by its own setting.
const LONGEST_MS: u64 = 3_600_000;

pub fn check(context: &Context, file: &Path) -> Outcome {
    let text = Text::read(file)?;
    let mut client = connect::connect(context)?;
    let ours = InstanceName::new(client.welcome().agent.clone())
        .map_err(|error| Failure::because(Exit::Failed, "the agent's name cannot be used", &error))?;
    let configuration = text.configuration(&ours)?;
    let found = client.check_host(configuration, within_ms(LONGEST_MS)).map_err(connect::failed)?;
    let HostReport { errors, report } = &found;
    let exit = match (errors.is_empty(), report.problems.is_empty()) {
        (false, _) => Exit::Configuration,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Done,
    };
    if context.screen().json {
        print_json(&found)?;
        return Ok(exit);
    }
    for error in errors {
        to_stderr!("error: {}", plain(error));
    }
    let mut out = terminal::out();
    for problem in &report.problems {
        let mut lines = problem.text.lines().map(plain);
        writeln!(out, "{}: {}", plain(&problem.nodes.join(", ")), lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(out, "  {line}")?;
        }
    }
    if report.skipped > 0 {
        to_stderr!(
            "warning: the scripts of {} more nodes were not checked: there are too many different ones",
            report.skipped
        );
    }
    if exit == Exit::Done {
        let (ran, cached) = (report.ran, report.cached);
        let (took, cpu) = (span(report.took_ms), span(report.cpu_ms));
        writeln!(
            out,
            "{}: its nodes can run here ({ran} checks, {cached} known from before; {took}, {cpu} of CPU)",
            plain(&text.name)
        )?;
    }
    Ok(exit)
}
