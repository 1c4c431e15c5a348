//! Names of run directories that were set aside, and the message about one that should be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::api::ids::NodeName;

/// Begins the name of every directory that was set aside: a node's name does not begin with a dot.
pub(super) const PREFIX: &str = ".aside-";

/// Whether the name of an entry of `run/` begins with the prefix.
pub fn has_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// How to recover from a damaged run directory, for messages.
pub fn way_out(node: &NodeName) -> String {
    format!("put back what belongs there, or have `nodes stop {node} --force` set the directory aside")
}
