//! The watchdog for what everything else waits on: a disk that does not answer, a commit or a driver that hangs. Each
//! ends the agent; a host that is short of CPU time does not.

use std::time::Duration;

use crate::journal;
use crate::tasks::progress::{Counted, Progress, Stalled};

/// What is watched.
#[derive(Debug, Clone)]
pub struct Watched {
    pub commits: journal::Watched,
    pub driver: Progress,
}

#[derive(Debug, thiserror::Error)]
pub enum Hang {
    #[error(
        "a commit to the journal takes longer than {} s, in which the disk did not answer; nodes run on, and a restart finds out what was \
         stored; check the disk",
        .0.as_secs()
    )]
    Disk(Duration),
    #[error(
        "{what} has got no further for {} s: {}; nodes run on, and a restart finds out what was stored",
        .limit.as_secs(), reason(*.stalled)
    )]
    Thread { what: &'static str, limit: Duration, stalled: Stalled },
}

fn reason(stalled: Stalled) -> &'static str {
    match stalled.for_device {
        true => "it waits for a device; check the disk",
        false => "it waits or computes without end, which is a defect of the agent; report it with the end of this log",
    }
}

/// Resolves when one of them has taken longer than `limit`.
pub async fn hang(watched: &Watched, limit: Duration) -> Hang {
    let Watched { commits: journal::Watched { disk, thread }, driver } = watched;
    tokio::select! {
        biased;
        _ = disk.stalled(limit, Counted::Waits, None) => Hang::Disk(limit),
        stalled = thread.stalled(limit, Counted::WaitsAndWork, None) => {
            Hang::Thread { what: "the journal's thread", limit, stalled }
        }
        stalled = driver.stalled(limit, Counted::WaitsAndWork, Some(disk)) => {
            Hang::Thread { what: "the driver's thread", limit, stalled }
        }
    }
}
