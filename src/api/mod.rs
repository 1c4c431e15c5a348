//! The words that all other modules share: what a controller asks for, what the agent answers, what it has seen.
//!
//! Pure data with checks on construction. Both dialects of Zeek's agent API map onto these types; so do the command
//! line and the journal. Nothing here knows a socket, a clock or a file.

pub mod alert;
pub mod audit;
pub mod channel;
pub mod check;
pub mod configuration;
pub mod counts;
pub mod curve;
pub mod event;
pub mod exit;
pub mod export;
pub mod figures;
pub mod head;
pub mod history;
pub mod ids;
pub mod launch;
pub mod plan;
pub mod preflight;
pub mod prune;
pub mod report;
pub mod rights;
pub mod source;
pub mod stats;
pub mod status;
pub mod supervision;
pub mod survivors;
pub mod time;
pub mod validate;
pub mod words;
