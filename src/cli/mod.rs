//! The command line: raw flags ([`flags`]) become a command with its settings, and its outcome an exit code.
//!
//! Data goes to standard output, everything else to standard error. Nothing is decided here about requests or nodes: a
//! command asks the agent, or reads what it left, and prints the answer.

mod asking;
mod broker;
mod check;
mod completion;
mod config;
mod connect;
mod crash;
mod demo;
mod events;
mod examples;
mod flags;
mod here;
mod host;
mod journal;
mod lookup;
mod man;
mod metrics;
mod name_service;
mod netstats;
mod nodes;
mod outcome;
mod output;
mod progress;
mod request;
mod requests;
mod run;
mod screen;
mod settings;
mod status;
mod table;
mod time;
mod top;
mod waiting;
mod zeek;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use self::flags::{Cli, Command, Global, When};
use self::outcome::{Exit, Failure, Outcome};
use self::output::Screen;
use crate::api::event::{Dialect, Request};
use crate::settings::{self as resolved, File, Flags, Settings, Surroundings};
use crate::telemetry::Color;
use crate::terminal::{self, to_stderr};

/// The tree of commands, with an example for each.
pub fn command() -> clap::Command {
    examples::command()
}

/// Runs the command that `arguments` ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if asked || terminal::is_plain_text(&error.render().to_string()) {
                // Help goes to standard output; that it cannot be written is no failure.
                let _ = error.print();
            } else {
                // An argument that was pasted drives no terminal, either.
                to_stderr!("{}", error.render().to_string().trim_end());
            }
            let exit = if asked { Exit::Done } else { Exit::Usage };
            return exit.into();
        }
    };
    let Cli { global, command } = cli;
    let context = Context { global, surroundings: Surroundings::here() };
    outcome::conclude(dispatch(&context, command))
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    let outcome = match command {
        Command::Run(flags) => return run::run(context, flags),
        Command::Request(request) => request::run(context, request),
        Command::Requests(command) => requests::run(context, command),
        Command::Nodes(command) => nodes::run(context, command),
        Command::Status { check: true } => check::run(context),
        Command::Status { check: false } => status::run(context),
        Command::State(flags::StateDir::Adopt { sending }) => {
            let (request, dialect) = (Request::AdoptState {}, Dialect::Operator);
            request::send(context, request::Call { request, dialect, sending })
        }
        Command::Shutdown(shutdown) => nodes::shutdown(context, &shutdown),
        Command::Notify(notify) => nodes::notify(context, &notify),
        Command::Settings { local } => settings::run(context, local),
        Command::Journal(command) => journal::run(context, command),
        Command::Config(command) => config::run(context, &command),
        Command::Zeek(flags::Zeek::Keys { dir }) => zeek::make_keys(&dir),
        Command::Completions { shell } => completion::script(shell),
        Command::Man { dir } => man::man(dir.as_deref()),
        Command::Complete { script, words } => completion::complete(context, script, &words),
        Command::Demo => show_demo(),
    };
    outcome.map(Exit::into)
}

fn show_demo() -> Outcome {
    let program = std::env::current_exe()
        .map_err(|error| Failure::because(Exit::Failed, "cannot tell which program this is", &error))?;
    demo::run(&program).map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))?;
    Ok(Exit::Done)
}

/// What every command knows of its call.
struct Context {
    global: Global,
    surroundings: Surroundings,
}

impl Context {
    fn color(&self) -> Color {
        match self.global.color {
            When::Auto => Color::Auto,
            When::Always => Color::Always,
            When::Never => Color::Never,
        }
    }

    fn screen(&self) -> Screen {
        Screen::stdout(self.global.json, self.color())
    }

    fn settings(&self) -> Result<Settings, Failure> {
        self.settings_with(Vec::new())
    }

    /// The settings with this command's own flags over the global ones.
    fn settings_with(&self, mut flags: Flags) -> Result<Settings, Failure> {
        let global = [("state_dir", &self.global.state_dir), ("control_socket", &self.global.control_socket)];
        flags.extend(global.into_iter().filter_map(|(key, text)| Some((key, text.clone()?))));
        let named = self.global.config.clone();
        let named = named.or_else(|| self.surroundings.variable(resolved::CONFIG_VARIABLE).map(Into::into));
        let file = match &named {
            Some(path) => File::read(path, true),
            None => File::read(resolved::file::DEFAULT_PATH.as_ref(), false),
        };
        let file = file.map_err(|problem| Failure::new(Exit::Configuration, problem.to_string()))?;
        Settings::resolve(&flags, &self.surroundings, file.as_ref()).map_err(|problems| {
            let exit = if problems.only_flags() { Exit::Usage } else { Exit::Configuration };
            Failure::new(exit, problems.to_string())
        })
    }
}

/// Prints one JSON value as a line.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).expect("what commands print has text keys only");
    writeln!(terminal::json_out(), "{line}")?;
    Ok(())
}
