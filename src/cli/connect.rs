//! Finds the agent: at the socket that was named, or where one usually is.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Context;
use super::outcome::{Exit, Failure};
use crate::api::report::chain;
use crate::control::client::{self, Client, Deadline};
use crate::settings::{SOCKET_NAME, SYSTEM_STATE_DIR, Settings, Surroundings};

/// For answers that the agent gives without waiting for nodes or the disk.
pub const SOON: Duration = Duration::from_secs(30);

/// The deadline passed before there was a connection.
pub const NOTHING_ASKED: &str = "no answer in time, and nothing was asked";

/// As it appears in the agent's log.
const NAME: &str = concat!("zeek-cluster-agent ", env!("CARGO_PKG_VERSION"));

/// Nobody answered.
#[derive(Debug)]
pub struct Nobody {
    /// Each socket and why it was none.
    tried: Vec<(PathBuf, io::Error)>,
}

impl From<Nobody> for Failure {
    fn from(nobody: Nobody) -> Self {
        let tried = nobody.tried.iter().map(|(path, error)| format!("{} ({error})", path.display()));
        let tried: Vec<String> = tried.collect();
        let is = |kind: io::ErrorKind| {
            nobody.tried.iter().find(|(_, error)| error.kind() == kind).map(|(path, _)| path.display())
        };
        let advice = if let Some(path) = is(io::ErrorKind::PermissionDenied) {
            format!(
                "this user (uid {}) may not use {path}: ask as root, as the agent's own user, or as a member of its control_group",
                rustix::process::geteuid().as_raw()
            )
        } else if let Some(path) = is(io::ErrorKind::TimedOut) {
            format!(
                "the agent of {path} is there and says nothing: it was stopped, or its host is overloaded; its log says more"
            )
        } else {
            "start one with `systemctl start zeek-cluster-agent` or `zeek-cluster-agent run`, or say with --state-dir or \
             --control-socket where it is"
                .to_owned()
        };
        Self::new(Exit::Unreachable, format!("no agent answers; tried {}; {advice}", tried.join(", and ")))
    }
}

/// The directories in which an agent of this user or host keeps its state, the likeliest first.
pub fn state_dirs(settings: &Settings, surroundings: &Surroundings) -> Vec<PathBuf> {
    if settings.names_agent() {
        return vec![settings.state_dir.value.clone()];
    }
    let handed = surroundings.handed_state_dir();
    let own = surroundings.own_state_dir();
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in [handed, own, Some(PathBuf::from(SYSTEM_STATE_DIR))].into_iter().flatten() {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

fn sockets(settings: &Settings, surroundings: &Surroundings) -> Vec<PathBuf> {
    if settings.names_agent() {
        return vec![settings.control_socket.value.clone()];
    }
    state_dirs(settings, surroundings).into_iter().map(|directory| directory.join(SOCKET_NAME)).collect()
}

/// Connects to the agent, or tells that there is none. An agent that is there and does not speak with us is a failure.
pub fn find(settings: &Settings, surroundings: &Surroundings) -> Result<Result<Client, Nobody>, Failure> {
    find_by(settings, surroundings, None)
}

/// As [`find`], waiting until `deadline` at most.
pub fn find_by(
    settings: &Settings,
    surroundings: &Surroundings,
    deadline: Deadline,
) -> Result<Result<Client, Nobody>, Failure> {
    let mut tried = Vec::new();
    for path in sockets(settings, surroundings) {
        match Client::connect_by(&path, NAME, deadline) {
            Ok(client) => return Ok(Ok(client)),
            Err(error) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Err(Failure::because(Exit::Timeout, NOTHING_ASKED, &error));
            }
            Err(client::Error::Unreachable { path, source }) => tried.push((path, source)),
            Err(error) => return Err(Failure::because(Exit::Unreachable, path.display(), &error)),
        }
    }
    Ok(Err(Nobody { tried }))
}

pub fn connect(context: &Context) -> Result<Client, Failure> {
    connect_by(context, None)
}

/// As [`connect`], waiting until `deadline` at most.
pub fn connect_by(context: &Context, deadline: Deadline) -> Result<Client, Failure> {
    Ok(find_by(&context.settings()?, &context.surroundings, deadline)??)
}

/// A question to the agent that failed.
pub fn failed(error: client::Error) -> Failure {
    match error {
        client::Error::TimedOut => Failure::new(
            Exit::Timeout,
            "the agent did not answer in time; it may be busy or stopped: its log says more",
        ),
        client::Error::Closed | client::Error::Connection(_) | client::Error::Unreachable { .. } => Failure::because(
            Exit::Unreachable,
            "the agent went away before it answered (if it does not come back, its log says why)",
            &error,
        ),
        client::Error::Agent { .. } | client::Error::Decode(_) | client::Error::Encode(_) | client::Error::Mismatch => {
            Failure::new(Exit::Failed, chain(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets_of(variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Vec<String> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let surroundings = Surroundings { environment, is_root: false, hostname: "h".to_owned(), has_zeek_user: false };
        let flags = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let settings = Settings::resolve(&flags, &surroundings, None).unwrap();
        sockets(&settings, &surroundings).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_usual_places_are_tried_in_order() {
        assert_eq!(
            sockets_of(&[("STATE_DIRECTORY", "/a:/b"), ("HOME", "/home/u")], &[]),
            [
                "/a/control.sock",
                "/home/u/.local/state/zeek-cluster-agent/control.sock",
                "/var/lib/zeek-cluster-agent/control.sock"
            ]
        );
        assert_eq!(sockets_of(&[], &[]), ["/var/lib/zeek-cluster-agent/control.sock"]);
    }

    #[test]
    fn a_named_agent_is_the_only_one() {
        let home = [("HOME", "/home/u")];
        assert_eq!(sockets_of(&home, &[("control_socket", "/x")]), ["/x"]);
        assert_eq!(sockets_of(&home, &[("state_dir", "/s")]), ["/s/control.sock"]);
        assert_eq!(sockets_of(&[("ZCA_STATE_DIR", "/e")], &[]), ["/e/control.sock"]);
    }
}
