//! The shapes of what is stored, a file per version of the format, left alone once released.
//!
//! Written is always the newest; an older one is read by its own file and converted step by step.

pub(super) mod v1;

/// The format that this build writes.
pub const FORMAT: u32 = 1;
