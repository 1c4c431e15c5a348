//! What the settings and the host say about the Zeek that nodes will be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::outcome::{Exit, Failure, Outcome};
use super::output;
use crate::api::configuration::{self, ClusterRole, Configuration};
use crate::api::report::chain;
use crate::api::validate::Problem;
use crate::curve;
use crate::lifecycle::Profile;
use crate::settings::{Address, ClusterBackend, NodeScripts, Ready, Setting, Settings, Surroundings};
use crate::supervisor::{self, probe};
use crate::terminal::to_stderr;
use crate::zeek::{self, Version};

/// The newest release that nodes are prepared for; one that cannot be asked is taken for it.
const NEWEST: Version = Version::new(9, 0);

/// How nodes are prepared, and what is to be warned of. Runs the node program to ask for its version.
pub fn profile(
    settings: &Settings,
    surroundings: &Surroundings,
    supervisor: &supervisor::Options,
) -> Result<(Profile, Vec<String>), Failure> {
    if !settings.nodes_are_zeek() {
        return Ok((Profile::Plain, Vec::new()));
    }
    let (version, warning) = match version(settings, &supervisor.environment) {
        Ok(version) => {
            tracing::info!("nodes are Zeek {version}, run with {}", settings.node_program.0);
            (version, None)
        }
        Err(reason) => {
            let problem = format!("cannot tell the version of Zeek: {reason}; nodes are prepared as for {NEWEST}");
            (NEWEST, Some(format!("{problem} until the agent is started again")))
        }
    };
    let args = [
        (ClusterRole::Manager, &settings.node_args_manager),
        (ClusterRole::Logger, &settings.node_args_logger),
        (ClusterRole::Proxy, &settings.node_args_proxy),
        (ClusterRole::Worker, &settings.node_args_worker),
    ];
    let args: BTreeMap<ClusterRole, Vec<String>> = args.map(|(role, args)| (role, args.value.clone())).into();
    let options = zeek::Options {
        version,
        checksums: *settings.zeek_checksums,
        local: *settings.zeek_local,
        args,
        path: path(settings, surroundings, supervisor)?,
        listen_address: settings.zeek_listen_address.0,
        scripts: match *settings.node_scripts {
            NodeScripts::Own => zeek::NodeScripts::Own,
            NodeScripts::Management => zeek::NodeScripts::Management,
            NodeScripts::None => zeek::NodeScripts::None,
        },
        keys: keys(settings, version)?,
        backend: match *settings.cluster_backend {
            ClusterBackend::Auto => None,
            ClusterBackend::Broker => Some(configuration::ClusterBackend::Broker),
            ClusterBackend::ZeroMq => Some(configuration::ClusterBackend::ZeroMq),
        },
        program: own_program(),
        state_dir: settings.state_dir.display().to_string(),
    };
    Ok((Profile::Zeek(options), warning.into_iter().chain(never_ready(settings)).collect()))
}

/// The directory of keys, if there is one and its keys fit.
fn keys(settings: &Settings, version: Version) -> Result<Option<String>, Failure> {
    let Some(directory) = &settings.zeromq_keys.0 else { return Ok(None) };
    let wrong = |problem: String| {
        Failure::new(Exit::Configuration, format!("{}: `zeromq_keys`: {problem}", settings.zeromq_keys.origin))
    };
    if version < Version::CURVE {
        return Err(wrong(format!(
            "the nodes here are Zeek {version}, and encryption needs {}; unset it",
            Version::CURVE
        )));
    }
    let directory = std::path::absolute(directory).map_err(|error| wrong(error.to_string()))?;
    if !curve::check(&directory).map_err(|error| wrong(chain(&error)))? {
        tracing::info!("{} is not there: this host cannot run a manager or logger on ZeroMQ", curve::SERVER_SECRET);
    }
    Ok(Some(directory.display().to_string()))
}

/// Makes the keys of a cluster.
pub fn make_keys(directory: &Path) -> Outcome {
    curve::make(directory).map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    let shown = output::plain(&directory.display().to_string());
    to_stderr!(
        "the keys are in {shown}: copy the directory to every host of the cluster, leave {} out where no manager or logger \
         runs, and set zeromq_keys on each",
        curve::SERVER_SECRET
    );
    Ok(Exit::Done)
}

/// The version of what nodes are run with.
fn version(settings: &Settings, environment: &[(OsString, OsString)]) -> Result<Version, String> {
    let program = settings.node_program.0.as_str();
    let text = probe::output(environment, program, &["--version"])?;
    Version::from_output(&text).ok_or_else(|| format!("{program} --version says {:?}", text.trim()))
}

/// What of `config` has no effect with the Zeek of this host, if there is one that can be asked.
pub fn warning(settings: &Settings, config: &Configuration) -> Option<Problem> {
    let asks = settings.nodes_are_zeek() && config.nodes.iter().any(|node| node.metrics_port.is_some());
    let environment: Vec<_> = std::env::vars_os().collect();
    let version = asks.then(|| version(settings, &environment).ok()).flatten()?;
    zeek::warning(config, None, version)
}

/// Why no node would ever say that it is ready.
fn never_ready(settings: &Settings) -> Option<String> {
    const ADVICE: &str = "or set ready = \"alive\"";
    match (*settings.node_scripts, &settings.listen.value) {
        _ if *settings.ready == Ready::Alive => None,
        (NodeScripts::Own, _) | (NodeScripts::Management, Address::At { .. }) => None,
        (NodeScripts::Management, Address::Off) => Some(format!(
            "nodes cannot check in: with node_scripts = \"management\" they do so over Broker, and the agent does not listen \
             for it; set listen, {ADVICE}"
        )),
        (NodeScripts::None, _) => Some(format!(
            "nodes load no script that checks in (node_scripts = \"none\"): without one of your own they never get ready; \
             give them one, {ADVICE}"
        )),
    }
}

/// ZEEKPATH of nodes, if it has to be set: the settings' directories, then the agent's own or what Zeek was built with.
fn path(
    settings: &Settings,
    surroundings: &Surroundings,
    supervisor: &supervisor::Options,
) -> Result<Option<String>, Failure> {
    let inherited = surroundings.variable("ZEEKPATH").map(str::to_owned);
    if settings.zeek_path.is_empty() {
        return Ok(inherited);
    }
    let built_in = || built_in_path(settings, &supervisor.environment);
    let rest = inherited.map_or_else(built_in, Ok).map_err(|reason| {
        let origin = &settings.zeek_path.origin;
        let problem =
            format!("{origin}: `zeek_path` is {}, and Zeek's own path is not known", settings.zeek_path.show());
        Failure::new(Exit::Configuration, format!("{problem} ({reason}); set ZEEKPATH in the agent's environment"))
    })?;
    Ok(Some([settings.zeek_path.join(":"), rest].join(":")))
}

/// The directories in which Zeek looks for scripts here, with this host's settings. None: that is not known.
pub fn search_path(settings: &Settings) -> Option<Vec<PathBuf>> {
    let environment: Vec<_> = std::env::vars_os().collect();
    let own = settings.zeek_path.iter().cloned();
    let rest = std::env::var("ZEEKPATH").ok().or_else(|| built_in_path(settings, &environment).ok())?;
    let rest = rest.split(':').filter(|directory| !directory.is_empty()).map(str::to_owned);
    Some(own.chain(rest).map(PathBuf::from).collect())
}

/// What Zeek was built with.
fn built_in_path(settings: &Settings, environment: &[(OsString, OsString)]) -> Result<String, String> {
    let beside = Path::new(&settings.node_program.0).with_file_name("zeek-config").display().to_string();
    probe::output(environment, &beside, &["--zeekpath"]).map(|text| text.trim().to_owned())
}

/// This program, as nodes find it; after an upgrade of the package that is the new one.
fn own_program() -> String {
    const NAME: &str = "zeek-cluster-agent";
    let path = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_else(|_| NAME.to_owned());
    path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()
}
