//! Why the agent does not start, or ends unasked.

use std::io;

use super::driver;
use super::hangs::Hang;
use crate::api::exit::Exit;
use crate::journal::{self, identity, lock};
use crate::tasks::FatalExit;
use crate::{metrics, peers, supervisor, websocket};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the state directory {dir} cannot be created; give another --state-dir, or give this user the rights to it"
    )]
    StateDir { dir: String, source: io::Error },
    #[error(
        "nodes cannot be given {path}, into which they rotate their logs; it has to be a directory and not a link (to have \
         it on another disk, mount that there)"
    )]
    LogQueue { path: String, source: io::Error },
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(
        "the state directory {dir} is a copy of {original} made of hard links: what is written here is written there; nothing was \
         touched; run the agent on {original}, or make a copy that shares no files (cp -a)"
    )]
    SharedFiles { dir: String, original: String },
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    #[error(transparent)]
    Control(#[from] crate::control::BindError),
    #[error(transparent)]
    WebSocket(#[from] websocket::BindError),
    #[error(transparent)]
    Metrics(#[from] metrics::BindError),
    #[error(transparent)]
    Broker(#[from] peers::BindError),
    #[error("the agent cannot go on serving its clients and ends; its nodes run on")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    #[error("{what} failed")]
    System { what: &'static str, source: io::Error },
    #[error(transparent)]
    Driver(#[from] driver::Error),
    #[error(transparent)]
    Task(#[from] FatalExit),
    #[error(transparent)]
    Hang(#[from] Hang),
}

impl Error {
    /// Whether only another configuration or release can fix it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Identity(identity::IdentityError::Name { .. } | identity::IdentityError::Newer { .. })
            | Self::Journal(journal::OpenError::NewerFormat { .. } | journal::OpenError::NewerRecord { .. })
            | Self::Broker(peers::BindError::Tls(_)) => Exit::Configuration,
            Self::StateDir { .. }
            | Self::LogQueue { .. }
            | Self::Lock(_)
            | Self::Identity(_)
            | Self::SharedFiles { .. }
            | Self::Journal(_)
            | Self::Control(_)
            | Self::WebSocket(_)
            | Self::Metrics(_)
            | Self::Broker(peers::BindError::Listen { .. })
            | Self::Serve(_)
            | Self::Supervisor(_)
            | Self::System { .. }
            | Self::Driver(_)
            | Self::Task(_)
            | Self::Hang(_) => Exit::Failed,
        }
    }
}

/// A component ended that should not have.
pub(super) fn gone(what: &str) -> Error {
    Error::System { what: "running the agent", source: io::Error::other(what.to_owned()) }
}
