//! What the metrics page is made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::counts::Counts;
use crate::api::figures::Usage;
use crate::api::report::StatusReport;
use crate::api::time::Timestamp;

/// The agent and its nodes at one time.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Snapshot {
    /// As `status` shows it.
    pub status: StatusReport,
    /// When the agent was started.
    pub started: Timestamp,
    /// What it counted since.
    pub counts: Counts,
    /// What the agent itself uses.
    pub own: Option<Usage>,
    /// What each node uses that has processes, by its name.
    pub usage: BTreeMap<String, Usage>,
    /// The one address at which nodes serve their own metrics; `None`: at all of the host.
    pub node_address: Option<IpAddr>,
}
