//! What a simulated node is started as, and what it needs of the kernel. What it does is not the supervisor's affair.

pub use super::sys::{block, close_all_but, ignore, wait_for_signal};

/// What it is called in `ps`: not by the agent's name, so that killing that by name spares it.
pub const NAME: &str = "zca-node";
/// The first argument that makes this binary a simulated node.
pub const ARGUMENT: &str = "__node";
