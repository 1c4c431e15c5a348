//! Tests through the real binary, and of the repository's own rules.

mod adoption;
mod architecture;
mod crash;
mod limits;
mod order;
mod support;
