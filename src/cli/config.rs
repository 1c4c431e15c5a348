//! Cluster files: reading them for a request, checking and converting them.

mod host;
mod past;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{Config, ConfigFormat};
use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Screen, Table};
use super::{Context, connect, here, lookup, output, print_json, zeek};
use crate::api::configuration::Configuration;
use crate::api::history::Which;
use crate::api::ids::InstanceName;
use crate::api::plan::{Action, Plan, StepAction};
use crate::api::validate;
use crate::cluster_file::hosts::Addresses;
use crate::cluster_file::{self, Foreign, Format, HostFile, Kind, Known, SIZE_LIMIT};
use crate::control::client::within_ms;
use crate::settings::Settings;
use crate::terminal::{self, to_stderr};

/// How long the agent may take to say what it would do.
const SOON_MS: u64 = 30_000;

/// A cluster file's bytes, not yet understood.
pub struct Text {
    name: String,
    content: Content,
}

enum Content {
    File(Vec<u8>),
    /// The files of a cluster's hosts, as Zeek's systemd generator has them.
    Directory(Vec<HostFile>),
}

impl Text {
    /// Reads a file, a directory of zeek.conf files, or standard input for `-`.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let name = "standard input".to_owned();
            let bytes = limited(std::io::stdin().lock()).map_err(|error| unreadable(&name, &error))?;
            return Ok(Self { name, content: Content::File(bytes) });
        }
        let name = path.display().to_string();
        if path.is_dir() {
            return Ok(Self { content: Content::Directory(host_files(path)?), name });
        }
        let bytes = std::fs::File::open(path).and_then(limited).map_err(|error| unreadable(&name, &error))?;
        Ok(Self { name, content: Content::File(bytes) })
    }

    /// What other tool it is for, if it is.
    fn foreign(&self) -> Option<String> {
        match &self.content {
            Content::File(bytes) => Foreign::of(bytes).map(|foreign| foreign.to_string()),
            Content::Directory(_) => Some("a directory of zeek.conf files of Zeek's systemd generator".to_owned()),
        }
    }

    /// Reads a cluster file that is to be sent. Another tool's file is refused: its conversion leaves things out, and
    /// somebody has to see that before it runs.
    pub fn read_cluster_file(path: &Path) -> Result<Self, Failure> {
        let text = Self::read(path)?;
        let Some(foreign) = text.foreign() else { return Ok(text) };
        let problem = format!("{} is {foreign} and not a cluster file", text.name);
        let advice = "convert it with `config convert FILE --to ini`, read its warnings, and send the result";
        Err(Failure::new(Exit::Configuration, format!("{problem}; {advice}")))
    }

    /// What the file means for the agent called `ours`, whichever tool it is for, with the addresses of the hosts that it
    /// names; and what there is to warn of.
    fn parse(&self, ours: &InstanceName) -> Result<(Configuration, Vec<String>), Vec<String>> {
        let read = |addresses: &Addresses| {
            let known = Known { ours: Some(ours), addresses };
            let reading = match &self.content {
                Content::File(bytes) => {
                    let kind = Foreign::of(bytes).map_or(Kind::Cluster(None), Kind::Foreign);
                    cluster_file::read_as(bytes, &self.name, kind, &known)
                }
                Content::Directory(files) => cluster_file::read_directory(files, &self.name, &known),
            };
            reading.map_err(|errors| errors.iter().map(|error| output::plain(&error.to_string())).collect::<Vec<_>>())
        };
        let mut reading = read(&Addresses::new())?;
        let mut warnings = Vec::new();
        if !reading.unresolved.is_empty() {
            let addresses = lookup::addresses(&reading.unresolved);
            reading = read(&addresses)?;
            if reading.configuration.instances.len() > 1 {
                warnings = addresses.iter().filter_map(|(name, found)| self.loopback(name, found)).collect();
            }
        }
        warnings.splice(0..0, reading.warnings.iter().map(|warning| output::plain(&warning.to_string())));
        Ok((reading.configuration, warnings))
    }

    /// Many a host knows itself by a loopback address, under its own name.
    fn loopback(&self, name: &str, found: &Result<IpAddr, String>) -> Option<String> {
        let address = found.as_ref().ok().filter(|address| address.is_loopback())?;
        let problem = format!("{}: host {name} is {address} here, which other hosts cannot reach", self.name);
        Some(format!("{problem}; give its address, or correct /etc/hosts"))
    }

    /// The same; warnings go to standard error, and errors end the command.
    pub fn configuration(&self, ours: &InstanceName) -> Result<Configuration, Failure> {
        let (configuration, warnings) =
            self.parse(ours).map_err(|errors| Failure::new(Exit::Configuration, errors.join("\n")))?;
        for warning in &warnings {
            to_stderr!("warning: {warning}");
        }
        Ok(configuration)
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::because(Exit::Configuration, format!("cannot read {name}"), error)
}

/// One byte more than is allowed, so that the reader can say so.
fn limited(input: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The hosts' files of a directory, in the order of their names; together no larger than one file may be.
fn host_files(directory: &Path) -> Result<Vec<HostFile>, Failure> {
    let name = directory.display().to_string();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(&name, &error))? {
        let path = entry.map_err(|error| unreadable(&name, &error))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(cluster_file::is_host_file) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files = Vec::new();
    let mut size = 0_usize;
    for path in paths {
        let name = path.display().to_string();
        let bytes = std::fs::File::open(&path).and_then(limited).map_err(|error| unreadable(&name, &error))?;
        size = size.saturating_add(bytes.len());
        if size > SIZE_LIMIT {
            let problem = format!("the files of {} have more than {SIZE_LIMIT} bytes", directory.display());
            return Err(Failure::new(
                Exit::Configuration,
                format!("{problem}; check that these are the cluster's hosts"),
            ));
        }
        files.push(HostFile { name, bytes });
    }
    if files.is_empty() {
        let problem = format!("{name} is a directory without any HOST.zeek.conf");
        let advice = "name a cluster file, or the directory with the zeek.conf of each host";
        return Err(Failure::new(Exit::Configuration, format!("{problem}; {advice}")));
    }
    Ok(files)
}

pub fn run(context: &Context, command: &Config) -> Outcome {
    let settings = context.settings()?;
    let ours = settings.name.value.clone();
    match command {
        Config::History => past::history(context),
        Config::Show { which, to } => past::show(context, which, *to),
        Config::Diff { files, force } => diff(context, files, *force),
        Config::Check { file, host: true } => host::check(context, file),
        Config::Check { file, host: false } => check(context, file, &settings),
        Config::Convert { file, to } => convert(file, *to, &ours),
    }
}

fn check(context: &Context, file: &Path, settings: &Settings) -> Outcome {
    let text = Text::read(file)?;
    let (configuration, mut warnings, errors) = match text.parse(&settings.name) {
        Ok((configuration, mut warnings)) => {
            let report = validate::check_anywhere(&configuration);
            warnings.extend(report.warnings.iter().map(ToString::to_string));
            warnings.extend(zeek::warning(settings, &configuration).map(|warning| warning.to_string()));
            warnings.extend(here::warnings(settings, &configuration));
            let problems =
                report.problems.iter().map(ToString::to_string).chain(here::problems(settings, &configuration));
            let errors = problems.map(|problem| format!("{}: {problem}", text.name)).collect();
            (Some(configuration), warnings, errors)
        }
        Err(errors) => (None, Vec::new(), errors),
    };
    warnings.sort();
    warnings.dedup();
    let exit = if errors.is_empty() { Exit::Done } else { Exit::Configuration };
    if context.screen().json {
        print_json(&json!({
            "valid": errors.is_empty(),
            "id": configuration.as_ref().map(|config| &config.id),
            "instances": configuration.as_ref().map(|config| config.instances.len()),
            "nodes": configuration.as_ref().map(|config| config.nodes.len()),
            "errors": errors,
            "warnings": warnings,
        }))?;
        return Ok(exit);
    }
    for warning in &warnings {
        to_stderr!("warning: {}", output::plain(warning));
    }
    for error in &errors {
        to_stderr!("error: {}", output::plain(error));
    }
    if let (Some(config), Exit::Done) = (&configuration, exit) {
        let mut out = terminal::out();
        let (instances, nodes) = (config.instances.len(), config.nodes.len());
        writeln!(out, "{}: valid, {instances} instances, {nodes} nodes, id {}", text.name, output::plain(&config.id))?;
    }
    Ok(exit)
}

/// A file without instances means the connected agent's nodes, as it does when it is sent.
fn diff(context: &Context, files: &[PathBuf], force: bool) -> Outcome {
    // What cannot be read is told before anybody is asked.
    for file in files.iter().filter(|file| file.to_str().and_then(Which::parse_back).is_none() && !is_stdin(file)) {
        Text::read(file)?;
    }
    let mut client = connect::connect(context)?;
    let ours = InstanceName::new(client.welcome().agent.clone())
        .map_err(|error| Failure::because(Exit::Failed, "the agent's name cannot be used", &error))?;
    let mut named = Vec::new();
    for file in files {
        named.push(past::named(&mut client, &ours, file)?);
    }
    let configuration = match (named.pop(), named.pop()) {
        (Some(to), Some(from)) => return past::compare(context, &from, &to),
        (Some(to), None) => to,
        (None, _) => return Err(Failure::new(Exit::Usage, "which file?".to_owned())),
    };
    let plan = client.plan(configuration, force, within_ms(SOON_MS)).map_err(connect::failed)?;
    let exit = if plan.problems.is_empty() { Exit::Done } else { Exit::Configuration };
    let screen = context.screen();
    if screen.json {
        print_json(&plan)?;
        return Ok(exit);
    }
    for warning in &plan.warnings {
        to_stderr!("warning: {}", output::plain(warning));
    }
    for problem in &plan.problems {
        to_stderr!("error: {}", output::plain(problem));
    }
    if exit == Exit::Done {
        print_plan(&mut terminal::out(), &screen, &plan)?;
    }
    Ok(exit)
}

const PLAN: [Column; 3] = [Column::text("NODE"), Column::text("ACTION"), Column::long("WHY", 20)];

fn print_plan(out: &mut impl Write, screen: &Screen, plan: &Plan) -> std::io::Result<()> {
    let mut table = Table::new(&PLAN, screen);
    for node in &plan.nodes {
        let action = match node.action {
            Action::Keep => Cell::new("keep"),
            Action::Start => Cell::colored("start", "32"),
            Action::Replace => Cell::colored("replace", "33"),
            Action::Stop => Cell::colored("stop", "31"),
        };
        table.row(out, vec![Cell::new(&node.node), action, Cell::new(node.why.join(", "))])?;
    }
    table.finish(out)?;
    past::print_differences(out, &plan.differences)?;
    for step in &plan.order {
        let action = match step.action {
            StepAction::Stop => "stop",
            StepAction::Start => "start",
        };
        writeln!(out, "{action}: {}", output::plain(&step.nodes.join(" ")))?;
    }
    let proposed = output::plain(&plan.proposed);
    match &plan.running {
        _ if plan.is_running => writeln!(out, "{proposed} runs already")?,
        Some(running) => writeln!(out, "{proposed} would take the place of {}", output::plain(running))?,
        None => writeln!(out, "{proposed} would be the first configuration")?,
    }
    match &plan.token {
        Some(token) => writeln!(out, "plan {token}"),
        None => Ok(()),
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn convert(file: &Path, to: ConfigFormat, ours: &InstanceName) -> Outcome {
    print(&Text::read(file)?.configuration(ours)?, to)
}

/// Prints a configuration as a cluster file; what the format cannot hold goes to standard error.
pub fn print(configuration: &Configuration, to: ConfigFormat) -> Outcome {
    let format = match to {
        ConfigFormat::Json => Format::Json,
        ConfigFormat::Ini => Format::Ini,
    };
    let text = cluster_file::write(configuration, format).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(|error| output::plain(&error.to_string())).collect();
        Failure::new(Exit::Configuration, errors.join("\n"))
    })?;
    if format == Format::Ini {
        for loss in cluster_file::losses(configuration) {
            to_stderr!("warning: {}", output::plain(&loss));
        }
    }
    let mut out = match format {
        Format::Json => terminal::json_out(),
        Format::Ini => terminal::out(),
    };
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(Exit::Done)
}
