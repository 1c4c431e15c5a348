//! Tests through the real binary, and of the repository's own rules.

mod architecture;
