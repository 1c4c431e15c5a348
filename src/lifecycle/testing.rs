//! Values for the core's tests.

use std::collections::BTreeMap;

use crate::api::configuration::ClusterRole;
use crate::api::ids::{Incarnation, Seq};
use crate::api::launch::{LaunchSpec, Program, Readiness};
use crate::journal::entry::{Life, NodeRecord, Packed, Want};

pub fn node_record() -> NodeRecord {
    let spec = LaunchSpec {
        program: Program::Simulated,
        args: Vec::new(),
        env: BTreeMap::new(),
        role: ClusterRole::Worker,
        ports: Vec::new(),
        readiness: Readiness::Checkin,
        stop_timeout_ms: 10_000,
        secrets: BTreeMap::new(),
        rights: Box::default(),
        files: BTreeMap::new(),
    };
    NodeRecord {
        spec: Packed(spec),
        want: Want::Up,
        least: Incarnation(1),
        by: Seq(1),
        incarnation: Incarnation(1),
        life: Life::Down,
        deaths: Vec::new(),
        streak: 0,
        next_start: None,
        given_up: None,
        last_exit: None,
        extras: Packed::default(),
    }
}
