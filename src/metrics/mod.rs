//! The metrics page: `/metrics` in OpenMetrics, and `/services.json` for Prometheus' discovery over HTTP.
//!
//! [`families`] says what there is to see of a [`Snapshot`], [`text`] writes it, [`targets`] lists the agent and its nodes;
//! all pure. [`server`] answers GET alone, for a bounded number of connections, and nobody waits for a slow reader. It
//! knows nothing but to ask for a snapshot: nobody can change anything here.

mod families;
mod server;
mod snapshot;
mod targets;
mod text;

pub use server::{BindError, MetricsAgent, Options, Server};
pub use snapshot::Snapshot;
