//! A crash-safe host agent for Zeek clusters: it writes every request to a journal before acting on it, keeps this host's
//! nodes running across its own death, and answers each request exactly once.
//!
//! The library exists for the binary of the same name, its tests and its benchmarks. Its interface is not stable.
//!
//! # The picture
//!
//! ```text
//!  requests                    one process, the agent                       one shim per node
//! ┌──────────────┐   ┌───────────────────────────────────────────┐
//! │ control      │   │  dialect     lifecycle        journal     │        ┌────────────────────┐
//! │ websocket    │──▶│  events ───▶ decides ───────▶ makes it    │        │ shim ──▶ node      │
//! │ peers        │   │  to and      entries and      durable     │        └────────▲───────────┘
//! └──────▲───────┘   │  from api    sealed effects      │        │                 │
//!        │           │                                  ▼        │                 │
//!        │           │            effects, once they are durable ├──▶ supervisor ──┘
//!        └───────────┤◀── responses, notifications               │
//!                    └───────────────────────────────────────────┘
//! ```
//!
//! Data flows one way: transport → dialect → lifecycle → journal → effects → supervisor or transport. Whatever comes back (a
//! node ended, a response has left) is a new input at the front.
//!
//! # The map
//!
//! | to find | look in |
//! | --- | --- |
//! | requests, responses, configurations, ids: the words that all modules share | [`api`] |
//! | what a request, an exit or a passed deadline means | [`lifecycle`] |
//! | how entries become durable, are read, salvaged, migrated, exported | [`journal`] |
//! | how nodes are started, adopted, proven and ended | [`supervisor`] |
//! | how all of it is started, driven and ended | [`agent`] |
//! | Zeek's event APIs; Broker's encodings; who is connected | [`dialect`], [`broker`], [`hub`] |
//! | the control socket, Broker and WebSocket; what they share; who may ask; TLS | [`control`], [`peers`], [`websocket`], [`transport`], [`identify`], [`tls`] |
//! | how a Zeek node is run without Zeek's Supervisor | [`zeek`] |
//! | cluster files of zeek-client, zeekctl and Zeek's systemd generator | [`cluster_file`] |
//! | commands, output, exit codes; settings | [`cli`], [`settings`] |
//!
//! Which module may import which is a table in `docs/ARCHITECTURE.md`, and a test reads it. Terms are in `docs/GLOSSARY.md`,
//! promises (P1 and so on) in `docs/PROMISES.md`.
//!
//! # The heart of it
//!
//! The core is a pure state machine. [`Lifecycle::step`](lifecycle::Lifecycle::step) turns an input into entries and
//! effects, sealed together. Only a journal can open the seal, and it does so when the entries are durable. Here with the
//! journal that tests use:
//!
//! ```
//! use std::collections::BTreeMap;
//! use zeek_cluster_agent::api::event::{Dialect, Incoming, Request, Route, Source};
//! use zeek_cluster_agent::api::ids::{InstanceName, ReqId};
//! use zeek_cluster_agent::api::launch::{Program, Readiness};
//! use zeek_cluster_agent::api::time::Now;
//! use zeek_cluster_agent::journal::entry::Recovered;
//! use zeek_cluster_agent::journal::memory::MemoryJournal;
//! use zeek_cluster_agent::lifecycle::{DeployStrategy, Effect, Input, Lifecycle, Options, Profile, RestartOptions};
//!
//! # let options = Options {
//! #     instance: InstanceName::new("sensor-1")?,
//! #     cpus: 2,
//! #     agent_ports: Vec::new(),
//! #     program: Program::Simulated,
//! #     args: Vec::new(),
//! #     profile: Profile::Plain,
//! #     deploy_strategy: DeployStrategy::Replace,
//! #     readiness: Readiness::Checkin,
//! #     rights: BTreeMap::new(),
//! #     ready_timeout_ms: 60_000,
//! #     stop_timeout_ms: 10_000,
//! #     stop_timeout_writers_ms: 15_000,
//! #     stage_wait_ms: 1_000,
//! #     request_timeout_ms: 7_000,
//! #     preflight_ms: None,
//! #     restart: RestartOptions::default(),
//! # };
//! // A host whose journal is empty: no nodes, nothing to finish.
//! let mut core = Lifecycle::new(options, Recovered::default());
//! let mut journal: MemoryJournal<Effect> = MemoryJournal::new();
//!
//! let inputs = [
//!     Input::Started { boot_id: "this boot".into(), version: "1".into(), pid: 1, hold: None },
//!     Input::Adopted,
//!     Input::Request {
//!         incoming: Box::new(Incoming {
//!             reqid: ReqId::new("first")?,
//!             request: Request::GetNodes {},
//!             dialect: Dialect::Operator,
//!             source: Source { transport: "control".into(), peer: "uid=0 pid=4242".into() },
//!             route: Some(Route { connection: 1, call: 0 }),
//!         }),
//!         known: None,
//!     },
//! ];
//! for input in &inputs {
//!     for sealed in core.step(Now::default(), input) {
//!         // P1, P2: nothing leaves yet, since nothing of it is durable.
//!         assert!(journal.stage(sealed).is_empty());
//!     }
//! }
//!
//! let effects = journal.commit(core.take_records());
//! assert!(effects.iter().any(|effect| matches!(effect, Effect::Respond { .. })));
//!
//! // The same reqid again would be answered with what the journal has stored.
//! assert!(journal.lookup(&ReqId::new("first")?).is_some_and(|known| known.outcome.is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

mod agent;
pub mod api;
pub mod broker;
mod channel;
pub mod cli;
pub mod cluster_file;
pub mod control;
mod crash_points;
mod curve;
pub mod dialect;
pub mod figures;
mod hub;
pub mod identify;
pub mod journal;
pub mod lifecycle;
mod metrics;
mod peers;
mod regular_file;
pub mod settings;
pub mod sim_node;
pub mod supervisor;
pub mod tasks;
mod telemetry;
mod terminal;
mod tls;
pub mod transport;
pub mod websocket;
mod zeek;
