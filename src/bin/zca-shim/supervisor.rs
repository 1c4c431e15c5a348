//! The part of supervision that a shim consists of.

#[path = "../../supervisor/cgroup.rs"]
mod cgroup;
#[path = "../../supervisor/fault.rs"]
mod fault;
#[path = "../../supervisor/files.rs"]
mod files;
#[path = "../../supervisor/notify.rs"]
mod notify;
#[path = "../../supervisor/output.rs"]
mod output;
#[path = "../../supervisor/ownership.rs"]
mod ownership;
#[path = "../../supervisor/process/mod.rs"]
mod process;
#[path = "../../supervisor/protocol.rs"]
mod protocol;
#[path = "../../supervisor/rights.rs"]
mod rights;
#[path = "../../supervisor/secrets.rs"]
mod secrets;
#[path = "../../supervisor/shim/mod.rs"]
pub mod shim;
#[path = "../../supervisor/start_step.rs"]
mod start_step;
#[path = "../../supervisor/sys.rs"]
mod sys;
