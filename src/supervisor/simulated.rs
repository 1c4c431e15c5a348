//! The name and argument of a simulated node, and what it needs of the kernel. Its behaviour is not defined here.

pub use super::sys::{block, close_all_but, ignore, wait_for_signal};

/// Its name in `ps`: different from the agent's, so that killing the agent by name spares it.
pub const NAME: &str = "zca-node";
/// The first argument that makes this binary a simulated node.
pub const ARGUMENT: &str = "__node";
