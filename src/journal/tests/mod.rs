//! What tests of this and of other modules share, and tests of several rooms at once.

#[cfg(test)]
mod concurrent_reads;
pub mod memory;
#[cfg(test)]
mod samples;
