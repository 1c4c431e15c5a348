//! The configurations that were to run on this host, for operators.

use crate::api::configuration::Configuration;
use crate::api::history::{PastReport, Which};
use crate::api::time::Timestamp;
use crate::journal::entry::past::PastRecord;
use crate::lifecycle::Lifecycle;

use super::clock;

/// All of them, newest first.
pub(super) fn list(core: &Lifecycle) -> Vec<PastReport> {
    core.durable().past.positions().map(|(back, record)| report(core, back, record)).collect()
}

/// One of them.
pub(super) fn show(core: &Lifecycle, which: &Which) -> Result<(PastReport, Configuration), String> {
    let is_meant = |back: Option<u32>, record: &PastRecord| match which {
        Which::Back(wanted) => back == Some(*wanted),
        Which::Id(id) => record.config.0.id == *id,
    };
    let found = core.durable().past.positions().find(|(back, record)| is_meant(*back, record));
    let Some((back, record)) = found else { return Err(core.no_such_configuration(which)) };
    Ok((report(core, back, record), record.config.0.clone()))
}

fn report(core: &Lifecycle, back: Option<u32>, record: &PastRecord) -> PastReport {
    let told = |at: Timestamp| (at != Timestamp::default()).then(|| clock::rfc3339(at));
    let extras = &record.extras.0;
    PastReport {
        back,
        id: record.config.0.id.clone(),
        set_at: told(record.set_at),
        ready_at: extras.ready_at.and_then(told),
        ended_at: extras.ended_at.and_then(told),
        request: record.request.0,
        reqid: record.reqid.to_string(),
        source: record.source.clone(),
        nodes: core.nodes_here(&record.config.0) as u64,
        started: extras.changed.started.into(),
        replaced: extras.changed.replaced.into(),
        removed: extras.changed.removed.into(),
    }
}
