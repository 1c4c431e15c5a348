//! `nodes crash`: what was kept of a node's crashes.
//!
//! Read from the state directory, whether an agent runs or not. Bundles are the owner's alone: they hold what was in a
//! process's memory, so the control socket does not give them to its group.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Screen, Table, plain, size, span};
use super::{Context, connect, print_json, status};
use crate::api::ids::NodeName;
use crate::api::report::chain;
use crate::supervisor::crash::{self, CrashReport};
use crate::terminal::{self, to_stderr};

pub fn run(context: &Context, node: &str, bundle: Option<&str>) -> Outcome {
    let node = NodeName::new(node).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let state_dir = state_dir(context)?;
    let failed = |error: crash::ReadError| Failure::new(Exit::Failed, chain(&error));
    let screen = context.screen();
    let mut out = terminal::out();
    match bundle {
        Some(bundle) => {
            let report = crash::read(&state_dir, &node, bundle).map_err(failed)?;
            if screen.json {
                print_json(&report)?;
            } else {
                print_report(&mut out, &screen, &report, &state_dir)?;
            }
        }
        None => {
            let (reports, damaged) = crash::list(&state_dir, &node).map_err(failed)?;
            for error in damaged {
                to_stderr!("{}", chain(&error));
            }
            if screen.json {
                print_json(&reports)?;
            } else {
                print_list(&mut out, &screen, &reports)?;
            }
            if reports.is_empty() {
                if !is_known(context, &node)? {
                    let what = format!("this host has no node called {node}, and kept no crash bundle of one");
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("{what}; `nodes list` shows the nodes that it has"),
                    ));
                }
                to_stderr!("{node} has no crash bundle in {}: it did not crash, or not lately", state_dir.display());
            }
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Whether there is such a node, or was one.
fn is_known(context: &Context, node: &NodeName) -> Result<bool, Failure> {
    let settings = context.settings()?;
    if settings.node_dir.join(node.as_str()).is_dir() {
        return Ok(true);
    }
    Ok(match connect::find(&settings, &context.surroundings)? {
        Ok(mut client) => status::ask(&mut client)?.nodes.iter().any(|one| one.node == node.as_str()),
        Err(_) => false,
    })
}

/// The running agent's, else that of the settings.
fn state_dir(context: &Context) -> Result<PathBuf, Failure> {
    let settings = context.settings()?;
    Ok(match connect::find(&settings, &context.surroundings)? {
        Ok(client) => client.welcome().state_dir.clone().into(),
        Err(_) => settings.state_dir.value.clone(),
    })
}

const COLUMNS: [Column; 5] = [
    Column::text("BUNDLE"),
    Column::text("CAUSE"),
    Column::number("RAN"),
    Column::number("CORE"),
    Column::long("LAST WORDS", 20),
];

fn print_list(out: &mut impl Write, screen: &Screen, reports: &[CrashReport]) -> std::io::Result<()> {
    let mut table = Table::new(&COLUMNS, screen);
    for report in reports {
        let last_words = report.stderr.lines().next_back().unwrap_or_default();
        table.row(
            out,
            vec![
                Cell::new(&report.bundle),
                Cell::new(&report.cause),
                Cell::new(report.ran_ms.map_or_else(|| "-".to_owned(), span)),
                Cell::new(report.core.as_ref().map_or_else(|| "-".to_owned(), |core| size(core.bytes))),
                Cell::new(last_words),
            ],
        )?;
    }
    table.finish(out)
}

fn print_report(out: &mut impl Write, screen: &Screen, report: &CrashReport, state_dir: &Path) -> std::io::Result<()> {
    writeln!(out, "{} {}", screen.paint("1", &plain(&report.node)), plain(&report.cause))?;
    let mut line = |label: &str, text: String| writeln!(out, "  {label:<12} {text}");
    let bundle = state_dir.join(crash::DIRECTORY).join(&report.node).join(&report.bundle);
    line("bundle", plain(&bundle.display().to_string()))?;
    line("noticed", plain(&screen.precise_time(&report.noticed_at)))?;
    line("ran", report.ran_ms.map_or_else(|| "nobody was there to see its end".to_owned(), span))?;
    line("incarnation", report.incarnation.to_string())?;
    line("pid", report.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()))?;
    line("user", report.user.as_deref().map_or_else(|| "the agent's".to_owned(), plain))?;
    line("directory", plain(&report.directory))?;
    line("program", plain(&report.program))?;
    line(
        "core",
        match &report.core {
            Some(core) => format!("{}, {}", plain(&core.file), size(core.bytes)),
            None => format!("none here (kernel.core_pattern is {:?})", plain(&report.core_pattern)),
        },
    )?;
    let texts = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join("\n");
    let sections = [
        ("arguments", texts(&mut report.arguments.iter().cloned())),
        ("environment", texts(&mut report.environment.iter().map(|(name, value)| format!("{name}={value}")))),
        ("limits", report.limits.clone().unwrap_or_default()),
        ("stdout", report.stdout.clone()),
        ("stderr", report.stderr.clone()),
    ];
    for (title, text) in sections {
        writeln!(out, "\n{}", screen.paint("1", title))?;
        for line in text.lines() {
            writeln!(out, "  {}", plain(line))?;
        }
    }
    Ok(())
}
