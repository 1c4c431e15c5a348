//! Crash-safe host agent for Zeek clusters.
//!
//! Data flows one way: transport → lifecycle → journal → effects → supervisor or transport. See
//! `docs/ARCHITECTURE.md` for the map and the arrows between modules.

pub mod agent;
pub mod api;
pub mod broker;
pub mod cli;
pub mod cluster_file;
pub mod control;
pub mod crash_points;
pub mod dialect;
pub mod hub;
pub mod identify;
pub mod journal;
pub mod lifecycle;
pub mod peers;
pub mod regular_file;
pub mod settings;
pub mod sim_node;
pub mod supervisor;
pub mod tasks;
pub mod telemetry;
pub mod terminal;
pub mod tls;
pub mod websocket;
pub mod zeek;
