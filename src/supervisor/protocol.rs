//! What agent and shim say to each other over the Unix socket in a node's run directory.
//!
//! A frame is its length (four bytes, big endian) and one message, MessagePack with names. Both ends live long and are
//! upgraded separately: an agent adopts shims of older releases. So messages and fields are added, never changed or
//! removed; a reader skips unknown fields and unknown messages, and `Hello` contains the version.
//!
//! The shim speaks first, with `Hello`: everything it knows, so that a restarted agent needs no history. After that it
//! reports changes, and answers. It never asks. An idle shim does nothing, and neither does the agent: there is no
//! heartbeat. A stopped shim (SIGSTOP) is noticed by a missing answer: `Hello` to a connection, `Stopping` to `Stop`,
//! closing to `Acknowledge`, `Pong` to `Ping`; the agent pings when somebody asks for states.

use std::io;

use serde::{Deserialize, Serialize};

use super::files::Exit;
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ProcessId;
use crate::api::survivors::Survivors;

pub const VERSION: u32 = 1;

/// The name of the shim in `ps` and for `pkill`.
pub const SHIM_NAME: &str = "zca-shim";

/// The longest message to a shim: it has few fields, and the shim has little memory.
pub const TO_SHIM_LIMIT: usize = 4 << 10;
/// The longest message to the agent: two output tails of 16 KiB, with some reserve.
pub const TO_AGENT_LIMIT: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    Hello(Box<Hello>),
    /// The node's program runs.
    Started {
        process: ProcessId,
        /// As in [`Hello`]. Added in the second release.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
    /// READY=1 came.
    Ready {},
    /// The stop order is being carried out.
    Stopping {},
    /// The node itself has ended, and these processes could not be ended after it: its exit is reported once they are
    /// gone. Sent again when they change. Added in the second release.
    Left {
        survivors: Survivors,
    },
    /// The node is gone and reaped, and no descendant of it or holder of its lock is left.
    Exited {
        process: Option<ProcessId>,
        exit: Exit,
    },
    Pong {
        token: u64,
    },
    /// So many bytes of this incarnation's output could not be written. Sent with the reason when it happens for the
    /// first time, and before a `Pong` if the number has grown since the last report. Added in the second release.
    Dropped {
        bytes: u64,
        reason: Option<String>,
    },
}

/// The state of a node, as its shim sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub node: NodeName,
    pub incarnation: Incarnation,
    /// `None`: it was never started, or is not running yet.
    pub process: Option<ProcessId>,
    pub ready: bool,
    /// The exit, if it is not acknowledged yet.
    pub exit: Option<Exit>,
    /// As in [`ToAgent::Dropped`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// As in [`ToAgent::Left`].
    #[serde(default, skip_serializing_if = "Survivors::is_empty")]
    pub left: Survivors,
    /// Whether it ends all descendants of its node before it reports the exit. The shims of the first release do not:
    /// they end the node's process group.
    #[serde(default, skip_serializing_if = "is_false")]
    pub subreaper: bool,
    /// Its own release, for people; absent in shims of the first release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The path of its scope in the cgroup hierarchy, if it has one. Added in the second release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// It waits to be put into a scope: [`ToShim::Go`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub waits: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToShim {
    /// TERM to the node's group, KILL after this many milliseconds. If repeated, the earlier deadline counts.
    Stop {
        incarnation: Incarnation,
        timeout_ms: u64,
    },
    /// The exit is durable: leave.
    Acknowledge {
        incarnation: Incarnation,
    },
    Ping {
        token: u64,
    },
    /// It is in its scope, or there will be none: fork. Added in the second release; only for a shim that was started
    /// with [`WAITS`].
    Go {
        incarnation: Incarnation,
    },
}

/// The argument after the incarnation that makes a shim wait for [`ToShim::Go`], a few seconds at most, before it forks.
pub const WAITS: &str = "wait";

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes was announced, {limit} is the most")]
    TooLong { length: u32, limit: usize },
    #[error("a message does not decode; if it is new in a later release it may be skipped")]
    Unknown(#[source] rmp_serde::decode::Error),
}

/// One message as a frame.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    let result = rmp_serde::encode::write_named(&mut frame, message);
    result.expect("messages have only types that MessagePack can carry, and a vector takes all of it");
    let length = u32::try_from(frame.len() - 4).expect("messages are far smaller than 4 GiB");
    if let Some(head) = frame.first_chunk_mut() {
        *head = length.to_be_bytes();
    }
    frame
}

/// Bytes in, messages out.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message. `TooLong` is final; after `Unknown` the next call continues with the next frame.
    pub fn next<T: for<'a> Deserialize<'a>>(&mut self, limit: usize) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*head);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > limit {
            return Err(FrameError::TooLong { length: announced, limit });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = rmp_serde::from_slice(body).map_err(FrameError::Unknown);
        self.bytes.drain(..4 + length);
        message.map(Some)
    }
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::{Circumstances, Sender};
    use super::*;
    use crate::api::launch::ExitCause;
    use crate::api::survivors::Survivor;

    fn exit() -> Exit {
        Exit {
            cause: ExitCause::Code(1),
            ran_ms: 20,
            stdout: String::new(),
            stderr: "port in use\n".into(),
            is_lasting: false,
            circumstances: Circumstances::default(),
        }
    }

    fn process() -> ProcessId {
        ProcessId { boot_id: "b".into(), pid: 77, start_time: 1234 }
    }

    fn survivors() -> Survivors {
        Survivors { named: vec![Survivor { pid: 78, uid: Some(0), command: "ping".into() }], ..Survivors::default() }
    }

    fn to_agent() -> Vec<ToAgent> {
        vec![
            ToAgent::Hello(Box::new(Hello {
                version: VERSION,
                node: NodeName::new("w1").unwrap(),
                incarnation: Incarnation(3),
                process: Some(process()),
                ready: true,
                exit: None,
                dropped: 0,
                left: Survivors::default(),
                subreaper: false,
                release: None,
                scope: None,
                waits: false,
            })),
            ToAgent::Started { process: process(), scope: None },
            ToAgent::Ready {},
            ToAgent::Stopping {},
            ToAgent::Exited { process: Some(process()), exit: exit() },
            ToAgent::Pong { token: 5 },
        ]
    }

    /// What the second release added.
    fn to_agent_since() -> Vec<ToAgent> {
        vec![
            ToAgent::Hello(Box::new(Hello {
                version: VERSION,
                node: NodeName::new("w1").unwrap(),
                incarnation: Incarnation(3),
                process: Some(process()),
                ready: true,
                exit: None,
                dropped: 5,
                left: survivors(),
                subreaper: true,
                release: Some("0.2.0".into()),
                scope: Some("/zeek.slice/zca-0a1b2c3d-w1-3.scope".into()),
                waits: true,
            })),
            ToAgent::Started { process: process(), scope: Some("/zeek.slice/zca-0a1b2c3d-w1-3.scope".into()) },
            ToAgent::Left { survivors: Survivors { more: 2, unseen: true, ..survivors() } },
            ToAgent::Dropped { bytes: 70_000, reason: Some("no space".into()) },
            ToAgent::Exited {
                process: Some(process()),
                exit: Exit {
                    circumstances: Circumstances { terminated: Some(Sender { pid: 1, uid: 0 }), oom: true },
                    ..exit()
                },
            },
        ]
    }

    fn to_shim_since() -> Vec<ToShim> {
        vec![ToShim::Go { incarnation: Incarnation(3) }]
    }

    fn to_shim() -> Vec<ToShim> {
        vec![
            ToShim::Stop { incarnation: Incarnation(3), timeout_ms: 10_000 },
            ToShim::Acknowledge { incarnation: Incarnation(3) },
            ToShim::Ping { token: 5 },
        ]
    }

    /// Later releases will adopt shims of this release: these bytes must not change.
    #[test]
    fn golden_bytes() {
        let mut text = String::new();
        let first = to_agent().iter().map(encode).chain(to_shim().iter().map(encode)).collect::<Vec<_>>();
        let since = to_agent_since().iter().map(encode).chain(to_shim_since().iter().map(encode)).collect::<Vec<_>>();
        for frame in first.into_iter().chain(since) {
            text.extend(frame.iter().map(|byte| format!("{byte:02x}")));
            text.push('\n');
        }
        assert_eq!(text, include_str!("golden/protocol.hex"));
    }

    #[test]
    fn decode_of_encode_is_identity_however_the_bytes_arrive() {
        let messages = [to_agent(), to_agent_since()].concat();
        let bytes: Vec<u8> = messages.iter().flat_map(encode).collect();
        for step in [1, 3, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(message) = decoder.next::<ToAgent>(TO_AGENT_LIMIT).unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages);
        }
    }

    #[test]
    fn an_unknown_message_is_skipped_and_an_unknown_field_ignored() {
        let mut decoder = Decoder::default();
        decoder.push(&encode(&serde_json::json!({"freeze": {"token": 1}})));
        decoder.push(&encode(&serde_json::json!({"ping": {"token": 7, "colour": "red"}})));
        assert!(matches!(decoder.next::<ToShim>(TO_SHIM_LIMIT), Err(FrameError::Unknown(_))));
        assert_eq!(decoder.next::<ToShim>(TO_SHIM_LIMIT).unwrap(), Some(ToShim::Ping { token: 7 }));
    }

    #[test]
    fn an_announced_length_is_checked_before_anything_is_kept_for_it() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 4]);
        assert!(matches!(decoder.next::<ToShim>(TO_SHIM_LIMIT), Err(FrameError::TooLong { .. })));
    }
}
