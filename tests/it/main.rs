//! Tests through the real binary, and of the repository's own rules.

// Helpers of tests are tests to everybody but clippy.
#![allow(clippy::unwrap_used)]

mod adoption;
mod architecture;
mod crash;
mod order;
mod support;
