//! `run`, and `shutdown --nodes` where no agent runs: settings become the agent's options.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::Mode;

use super::flags::Run;
use super::name_service::NameService;
use super::outcome::{Exit, Failure};
use super::settings as shown;
use super::{Context, asking, broker, events, host, metrics, zeek};
use crate::agent::{self, Announcement, Manager};
use crate::api::event::Response;
use crate::api::ids::ReqId;
use crate::api::launch::Program;
use crate::api::report::chain;
use crate::control;
use crate::journal::identity;
use crate::journal::retention::Policy;
use crate::lifecycle::{DeployStrategy, Profile};
use crate::settings::{Address, Flags, LogFormat, LogLevel, Origin, Setting, Settings, Strategy, Switch};
use crate::supervisor::crash;
use crate::telemetry::systemd::{self, Notifier};
use crate::telemetry::{self, Format};
use crate::websocket;
use crate::{identify, journal, lifecycle, supervisor, tls};

/// How long a predecessor's hold of the state directory is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// The same for a command at a prompt, where no agent answers.
const LOCK_WAIT_OFFLINE: Duration = Duration::from_secs(5);

/// How long the name service is asked for users and groups that it does not know: at boot it may not be up yet.
const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the agent until it is asked to end.
pub fn run(context: &Context, flags: Run) -> Result<ExitCode, Failure> {
    let settings = context.settings_with(own_flags(flags))?;
    set_up_log(context, &settings, level(*settings.log_level))?;
    let websocket = websocket(&settings)?;
    let broker = broker::options(&settings)?;
    let mut warnings = Settings::strange_variables(&context.surroundings);
    warnings.extend(warning_of_process_1(std::process::id()));
    let names = NameService::with_patience(NAMES_PATIENCE);
    let (rights, more) = host::rights(&settings, context.surroundings.is_root, &names)?;
    warnings.extend(more);
    let node_user = rights.values().find_map(|rights| rights.user.clone());
    let mut options = options(&settings, LOCK_WAIT, &names)?;
    let asking = asking::asking(&settings, options.control.group, node_user.as_ref(), &names)?;
    warnings.extend(asking.warnings);
    (options.asking, options.may_ask) = (asking.options, asking.clauses);
    let open = asking::transports(&settings, websocket.as_ref(), broker.as_ref());
    options.may_ask.extend(open.clauses);
    warnings.extend(open.warnings);
    (options.websocket, options.broker) = (websocket, broker);
    (options.metrics, options.node_address) = (metrics::options(&settings)?, settings.zeek_listen_address.0);
    let (profile, more) = zeek::profile(&settings, &context.surroundings, &options.supervisor)?;
    options.lifecycle.profile = profile;
    warnings.extend(more);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    options.warnings = warnings;
    options.archive = archive(&settings);
    options.events = events::options(&settings, context.surroundings.is_root, &names, options.node_user.as_ref())?;
    options.archive_limits = agent::ArchiveLimits {
        age: (settings.archive_keep_time.ms > 0).then(|| settings.archive_keep_time.duration()),
        bytes: Some(settings.archive_keep_size.bytes).filter(|bytes| *bytes > 0),
    };
    options.node_user = node_user;
    options.lifecycle.rights = rights;
    // Files of the agent are for its user alone; nodes keep the umask that the agent was started with.
    options.supervisor.umask = Some(rustix::process::umask(Mode::from_raw_mode(0o077)).as_raw_mode());
    options.supervisor.open_files = Some(host::raise_open_files());
    options.manager = manager(context);
    match agent::run(options) {
        Ok(()) => Ok(Exit::Done.into()),
        Err(error) => {
            tracing::error!("{}", chain(&error));
            Ok(error.exit().into())
        }
    }
}

/// What the place in which the agent runs takes from its promises.
fn warning_of_process_1(pid: u32) -> Option<String> {
    (pid == 1).then(|| {
        "the agent is process 1 of its container: when it ends, the kernel ends all nodes with it; run it under an \
             init process to let nodes outlive it"
            .to_owned()
    })
}

/// Stops the nodes of a state directory that no agent serves.
pub fn stop_nodes(context: &Context, settings: &mut Settings, reqid: ReqId) -> Result<Response, Failure> {
    set_up_log(context, settings, tracing::Level::WARN)?;
    // Whoever stops the nodes need not know the name that the agent was run with.
    let known = identity::read(&settings.state_dir);
    match known.map_err(|error| Failure::new(Exit::Failed, chain(&error)))? {
        Some(identity) => settings.name.value = identity.name,
        None => {
            let message = format!(
                "{} is not an agent's state directory; give the right one with --state-dir",
                settings.state_dir.display()
            );
            return Err(Failure::new(Exit::Unreachable, message));
        }
    }
    let mut options = options(settings, LOCK_WAIT_OFFLINE, &NameService::with_patience(Duration::ZERO))?;
    options.supervisor.open_files = Some(host::raise_open_files());
    agent::shutdown_offline(options, reqid).map_err(|error| {
        let exit = error.exit();
        Failure::new(exit, chain(&error))
    })
}

fn own_flags(flags: Run) -> Flags {
    let Run {
        name,
        websocket,
        websocket_insecure,
        request_users,
        broker_insecure,
        listen,
        controller,
        node_program,
        simulate_nodes,
        log_format,
    } = flags;
    let texts = [
        ("name", name),
        ("websocket", websocket),
        ("websocket_insecure", websocket_insecure.then(|| "true".to_owned())),
        ("request_users", request_users),
        ("broker_insecure", broker_insecure.then(|| "true".to_owned())),
        ("listen", listen),
        ("controller", controller),
        ("node_program", node_program),
        ("simulate_nodes", simulate_nodes.then(|| "true".to_owned())),
        ("log_format", log_format),
    ];
    texts.into_iter().filter_map(|(key, text)| Some((key, text?))).collect()
}

/// Where WebSocket clients are served. Without TLS, another address than a loopback one has to be asked for twice.
fn websocket(settings: &Settings) -> Result<Option<websocket::Options>, Failure> {
    let Address::At { host, port } = &settings.websocket.value else { return Ok(None) };
    let wrong = |problem: String| {
        let place = &settings.websocket.origin;
        Failure::new(Exit::Configuration, format!("{place}: `websocket` is {}, {problem}", settings.websocket.show()))
    };
    let addresses = (host.as_str(), *port).to_socket_addrs();
    let addresses: Vec<SocketAddr> =
        addresses.map_err(|error| wrong(format!("which is not an address: {error}")))?.collect();
    if addresses.is_empty() {
        return Err(wrong("which is not an address".to_owned()));
    }
    let tls = websocket_tls(settings)?;
    let is_local = addresses.iter().all(|address| address.ip().is_loopback());
    if !is_local && tls.is_none() && !*settings.websocket_insecure {
        return Err(wrong(
            "not a loopback address, and without TLS everybody who reaches it could deploy; set websocket_certificate, \
             give 127.0.0.1 or [::1], or set websocket_insecure (--insecure) if the network is safe"
                .to_owned(),
        ));
    }
    Ok(Some(websocket::Options {
        addresses,
        notify: settings.notify_dialects.value.0.clone(),
        connecting: settings.controller.value != Address::Off,
        timeouts: websocket::Timeouts::default(),
        tls,
        insecure: *settings.websocket_insecure,
    }))
}

/// What WebSocket clients are shown, if they are shown anything.
fn websocket_tls(settings: &Settings) -> Result<Option<tls::Context>, Failure> {
    let wrong = |origin: &Origin, key: &str, problem: &str| {
        Failure::new(Exit::Configuration, format!("{origin}: `{key}`: {problem}"))
    };
    let Some(certificate) = &settings.websocket_certificate.0 else {
        let needing =
            [("websocket_key", &settings.websocket_key), ("websocket_client_ca", &settings.websocket_client_ca)];
        return match needing.into_iter().find(|(_, path)| path.0.is_some()) {
            Some((key, path)) => {
                Err(wrong(&path.origin, key, "is of no use without websocket_certificate; set that, too"))
            }
            None => Ok(None),
        };
    };
    let options = tls::ServerOptions {
        certificate: certificate.clone(),
        key: settings.websocket_key.0.as_ref().unwrap_or(certificate).clone(),
        client_ca: settings.websocket_client_ca.0.clone(),
    };
    match tls::server(&options) {
        Ok(context) => Ok(Some(context)),
        Err(error) => Err(wrong(&settings.websocket_certificate.origin, "websocket_certificate", &chain(&error))),
    }
}

fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}

pub fn set_up_log(context: &Context, settings: &Settings, level: tracing::Level) -> Result<(), Failure> {
    let (verbose, quiet) = (i32::from(context.global.verbose), i32::from(context.global.quiet));
    let shifted = verbose != 0 || quiet != 0;
    let options = telemetry::Options {
        format: match *settings.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        },
        color: context.color(),
        level: telemetry::shift(level, verbose - quiet),
        filter: context.surroundings.variable("RUST_LOG").filter(|_| !shifted).map(str::to_owned),
    };
    telemetry::init(&options).map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

/// Nodes are only stopped with these: what they are prepared for is not known.
fn options(settings: &Settings, lock_wait: Duration, names: &NameService) -> Result<agent::Options, Failure> {
    let group = settings.control_gid(|name| names.group(name))?;
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    Ok(agent::Options {
        state_dir: settings.state_dir.value.clone(),
        lifecycle: lifecycle::Options {
            instance: settings.name.value.clone(),
            cpus,
            agent_ports: settings.agent_ports(),
            program: settings.program(),
            args: settings.node_args.value.clone(),
            profile: Profile::Plain,
            deploy_strategy: match *settings.deploy_strategy {
                Strategy::Replace => DeployStrategy::Replace,
                Strategy::Changed => DeployStrategy::Changed,
            },
            readiness: settings.readiness(),
            rights: BTreeMap::new(),
            ready_timeout_ms: settings.ready_timeout.ms,
            stop_timeout_ms: settings.stop_timeout.ms,
            stop_timeout_writers_ms: settings.stop_timeout_manager_logger.ms,
            stage_wait_ms: settings.stage_wait.ms,
            request_timeout_ms: settings.request_timeout.ms,
            // Simulated nodes are this program: there is nothing to look at.
            preflight_ms: (*settings.preflight == Switch::On && !*settings.simulate_nodes)
                .then_some(settings.preflight_timeout.ms),
            restart: lifecycle::RestartOptions {
                backoff_min_ms: settings.backoff_min.ms,
                backoff_max_ms: settings.backoff_max.ms,
                max_restarts: *settings.max_restarts,
                window_ms: settings.restart_window.ms,
                permanent_exit_codes: settings.permanent_exit_codes.0.clone(),
                failed_retry_ms: settings.failed_retry.ms,
            },
        },
        journal: journal_options(settings),
        retention: retention(settings),
        archive: None,
        archive_dir: settings.archive_dir.value.clone(),
        archive_limits: agent::ArchiveLimits::default(),
        events: None,
        supervisor: supervisor::Options {
            node_dir: settings.node_dir.value.clone(),
            crash: crash::Options {
                keep: usize::try_from(*settings.crash_keep).unwrap_or(usize::MAX),
                keep_for: settings.crash_keep_time.duration(),
                space_floor: settings.space_floor_requests.bytes,
            },
            ..supervisor::Options::new(settings.state_dir.value.clone())
        },
        control: control::Options {
            path: settings.control_socket.value.clone(),
            group,
            timeouts: control::Timeouts::default(),
        },
        asking: identify::Options::only(rustix::process::geteuid().as_raw()),
        may_ask: Vec::new(),
        websocket: None,
        metrics: None,
        node_address: None,
        node_user: None,
        broker: None,
        lock_wait,
        commit_timeout: settings.commit_timeout.duration(),
        warnings: Vec::new(),
        settings: settings.shown().iter().map(shown::report).collect(),
        is_service: std::env::var_os(systemd::UNIT_VARIABLE).is_some(),
        manager: None,
    })
}

pub fn journal_options(settings: &Settings) -> journal::Options {
    journal::Options {
        cache_capacity: settings.journal_cache.bytes,
        open_timeout: settings.journal_open_timeout.duration(),
        ballast_bytes: settings.ballast_size.bytes,
        request_floor: settings.space_floor_requests.bytes,
        fact_floor: settings.space_floor_facts.bytes,
    }
}

/// What is kept of the journal.
pub(super) fn retention(settings: &Settings) -> Policy {
    let limit = |value: u64| (value > 0).then_some(value);
    Policy {
        age_ms: limit(settings.retention_age.ms),
        requests: limit(u64::from(*settings.retention_requests)),
        bytes: limit(settings.retention_size.bytes),
        reads_ms: limit(settings.retention_reads.ms),
    }
}

/// How rotated logs are archived; not at all with an interval of 0.
fn archive(settings: &Settings) -> Option<agent::ArchiveOptions> {
    (settings.archive_interval.ms > 0).then(|| agent::ArchiveOptions {
        interval: settings.archive_interval.duration(),
        timeout: settings.archive_timeout.duration(),
        command: settings.archive_command.0.clone(),
        beside: match settings.program() {
            Program::Path(program) => Some(program),
            Program::Simulated => None,
        },
        directory: settings.archive_dir.value.clone(),
    })
}

/// The service manager that started this process, if there is one.
fn manager(context: &Context) -> Option<Manager> {
    context.surroundings.variable(systemd::SOCKET_VARIABLE)?;
    let variable = |name| context.surroundings.variable(name);
    let watchdog = systemd::watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
    Some(Manager { announce, watchdog })
}

/// Tells the service manager.
fn announce(announcement: Announcement<'_>) {
    let Some(socket) = std::env::var_os(systemd::SOCKET_VARIABLE) else { return };
    let told = Notifier::to(&socket.to_string_lossy()).and_then(|notifier| match announcement {
        Announcement::Ready { status } => notifier.ready(status),
        Announcement::Status { status } => notifier.status(status),
        Announcement::Alive => notifier.alive(),
        Announcement::Stopping { status } => notifier.stopping(status),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told how the agent is");
    }
}
