//! What a run directory is called that was set aside, and what is said of one that should be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::api::ids::NodeName;

/// What a directory that was set aside is called begins so: a node's name does not begin with a dot.
pub(super) const PREFIX: &str = ".aside-";

/// Whether something in `run/` is called so.
pub fn has_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// What to do about a damaged run directory, for messages.
pub fn way_out(node: &NodeName) -> String {
    format!("put back what belongs there, or have `nodes stop {node} --force` set the directory aside")
}
