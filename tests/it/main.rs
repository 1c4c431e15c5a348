//! Tests through the real binary, and of the repository's own rules.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod architecture;
mod archive;
mod broker;
mod broker_crash;
mod broker_hostile;
mod broker_network;
mod broker_nodes;
mod broker_replay;
mod broker_tls;
mod clock;
mod commands;
mod compaction;
mod compaction_failures;
mod crash;
mod crashes;
mod damage;
mod dump;
mod export;
mod failures;
mod faults;
mod full_disk;
mod head;
mod health;
mod limits;
mod migrations;
mod order;
mod peers;
mod plan;
mod power_loss;
mod requests;
mod retention;
mod rights;
mod salvage;
mod sim_node;
mod small;
mod staged;
mod stats;
mod support;
mod tail;
mod tls;
mod variables;
mod websocket;
mod zeek;
