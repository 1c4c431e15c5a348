//! Records of version 1 whose shape has changed since: read only. Formats 1 and 2 hold them, and format 3 until they
//! are rewritten. `migrations/0002_chain/FORMAT.md` describes the bytes, its `entries/` hold samples.

use serde::{Deserialize, Serialize};

use crate::api::configuration::Configuration;
use crate::api::ids::{Incarnation, Seq};
use crate::api::launch::{ExitCause, LaunchSpec};
use crate::api::time::BootTime;
use crate::journal::format::entry::{self, GivenUp, Life, Packed, Stage, Want};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct AgentRecord {
    boot_id: String,
    unsettled_starts: u32,
    stopped: bool,
    hold: Option<String>,
    newest_gone: Incarnation,
}

impl From<AgentRecord> for entry::AgentRecord {
    fn from(record: AgentRecord) -> Self {
        let AgentRecord { boot_id, unsettled_starts, stopped, hold, newest_gone } = record;
        Self { boot_id, unsettled_starts, stopped, hold, newest_gone, extras: Packed::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct DesiredRecord {
    by: Seq,
    config: Option<Packed<Configuration>>,
}

impl From<DesiredRecord> for entry::DesiredRecord {
    fn from(record: DesiredRecord) -> Self {
        let DesiredRecord { by, config } = record;
        Self { by, config, extras: Packed::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct NodeRecord {
    spec: Packed<LaunchSpec>,
    want: Want,
    least: Incarnation,
    by: Seq,
    incarnation: Incarnation,
    life: Life,
    deaths: Vec<BootTime>,
    streak: u32,
    next_start: Option<BootTime>,
    given_up: Option<GivenUp>,
    last_exit: Option<ExitCause>,
}

impl From<NodeRecord> for entry::NodeRecord {
    fn from(record: NodeRecord) -> Self {
        let NodeRecord { spec, want, least, by, incarnation, life, deaths, streak, next_start, given_up, last_exit } =
            record;
        Self {
            spec,
            want,
            least,
            by,
            incarnation,
            life,
            deaths,
            streak,
            next_start,
            given_up,
            last_exit,
            extras: Packed::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct UnfinishedRecord {
    lost_attempts: u32,
    stage: Stage,
}

impl From<UnfinishedRecord> for entry::UnfinishedRecord {
    fn from(record: UnfinishedRecord) -> Self {
        let UnfinishedRecord { lost_attempts, stage } = record;
        Self { lost_attempts, stage, extras: Packed::default() }
    }
}
