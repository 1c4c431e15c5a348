//! What nodes use and what they capture: figures of their processes from `/proc`, and of Zeek from its metrics port.
//!
//! A node counts with everything that descends from its shim: children that became daemons belong to it. All nodes are
//! looked at in one walk over `/proc`. A node's metrics port is untrusted like any peer: what it sends is limited in
//! bytes and time, and only a few names are read ([`scraped`]).

mod ask;
mod processes;
mod scraped;
mod tree;

pub use ask::ask_all;
pub use processes::{of_self, of_trees};
pub use scraped::answer;
