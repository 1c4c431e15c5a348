//! systemd over D-Bus: transient scopes, one for each shim and its node, and whether the host is going down.
//!
//! In a scope a node has limits of its own, and a stop, restart or kill of the agent's service touches none of it.
//! Promises: a node is never kept from starting by this. Whatever fails (no D-Bus, a systemd that refuses or does not
//! answer), the node starts in the agent's own cgroup, and that is told once.
//!
//! Source: org.freedesktop.systemd1(5), systemd.scope(5).

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use super::cgroup::{self, SCOPE_PREFIX, SCOPE_SUFFIX};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::rights::Limits;

/// Exists if systemd is the host's init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SLICE: &str = "zeek.slice";
/// Stops before the scopes when the host goes down, since they start before it.
const NODES_UNIT: &str = "zeek-cluster-agent-nodes.service";
/// A shim waits a little longer than this before it starts its node without a scope.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two looks at whether the shim is in its scope.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(50);
/// Scopes asked for at once.
const AT_ONCE: usize = 8;
/// Longer names of nodes are shown as a digest: a unit's name has at most 255 characters.
const NAME_LIMIT: usize = 180;
/// From TERM to KILL of the scope, in addition to the node's own stop timeout: the shim ends what the node leaves.
const STOP_MORE: Duration = Duration::from_secs(10);

/// The connection to systemd.
#[derive(Debug)]
pub struct Systemd {
    /// Keeps the scopes of several agents apart.
    id: String,
    connection: tokio::sync::Mutex<Option<zbus::Connection>>,
    at_once: Semaphore,
    /// The last failure that was told.
    told: Mutex<Option<String>>,
}

/// A property of a scope. systemd refuses all of them for one that it does not know.
struct Property {
    name: &'static str,
    value: Value<'static>,
    /// It may be left out.
    is_optional: bool,
}

impl Systemd {
    /// Whether it is the host's service manager.
    pub fn is_here() -> bool {
        Path::new(BOOTED).is_dir()
    }

    /// Why there are no scopes here.
    pub fn obstacle() -> Option<&'static str> {
        if !Self::is_here() {
            Some("systemd is not the host's service manager")
        } else if !cgroup::is_unified() {
            Some("the host has cgroup v1")
        } else if super::process::own_uid() != 0 {
            Some("the agent is not root")
        } else {
            None
        }
    }

    /// For the agent of the state directory with this id.
    pub fn new(id: &str) -> Self {
        let id = id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        Self { id, connection: tokio::sync::Mutex::default(), at_once: Semaphore::new(AT_ONCE), told: Mutex::default() }
    }

    /// Has systemd put the process `pid`, a shim that waits for it, into a scope. Takes at most [`PATIENCE`]. Returns
    /// whether that was done; a failure is told here.
    pub async fn enter(
        &self,
        node: &NodeName,
        incarnation: Incarnation,
        pid: u32,
        limits: &Limits,
        stop_timeout: Duration,
    ) -> bool {
        let unit = unit_name(&self.id, node, incarnation);
        let entering = async {
            let _permit = self.at_once.acquire().await.map_err(|error| error.to_string())?;
            self.start_unit(&unit, properties(node, pid, limits, stop_timeout)).await?;
            let mut pause = LOOK_AGAIN_MIN;
            // The job is done when this is so; the process may also have ended.
            while !cgroup::of_process(&pid.to_string()).is_ok_and(|path| cgroup::is_scope(&path)) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_AGAIN_MAX);
            }
            Ok::<(), String>(())
        };
        let entered = tokio::time::timeout(PATIENCE, entering).await;
        let failure = match entered {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some(format!("it did not do so within {} s", PATIENCE.as_secs())),
        };
        self.tell(node, failure.as_deref());
        failure.is_none()
    }

    /// A failure is told when it begins and when it is another one, and its end is.
    fn tell(&self, node: &NodeName, failure: Option<&str>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(reason) if told.as_deref() != Some(reason) => {
                tracing::warn!(
                    %node,
                    "systemd was asked for a scope for it: {reason}; it starts without one, and so without node_memory_max and \
                     node_cpu_weight, as do other nodes until this is mended"
                );
                *told = Some(reason.to_owned());
            }
            None if told.is_some() => {
                tracing::info!(%node, "systemd gives scopes again");
                *told = None;
            }
            Some(_) | None => {}
        }
    }

    async fn start_unit(&self, unit: &str, mut properties: Vec<Property>) -> Result<(), String> {
        loop {
            let list: Vec<(&str, &Value<'_>)> =
                properties.iter().map(|property| (property.name, &property.value)).collect();
            let none: Vec<(&str, Vec<(&str, &Value<'_>)>)> = Vec::new();
            let answer = self.call(MANAGER, "StartTransientUnit", &(unit, "fail", list, none)).await;
            let error = match answer {
                Ok(answer) => {
                    let _job: OwnedObjectPath = answer.body().deserialize().map_err(|error| error.to_string())?;
                    return Ok(());
                }
                Err(error) => error,
            };
            // An older systemd names the property that it does not know.
            let text = error.to_string();
            let refused = properties.iter().position(|property| property.is_optional && text.contains(property.name));
            match refused {
                Some(index) => drop(properties.remove(index)),
                None => return Err(text),
            }
        }
    }

    /// Whether the host is going down, as far as systemd says.
    pub async fn host_goes_down(&self) -> bool {
        let state = async {
            let answer = self.call("org.freedesktop.DBus.Properties", "Get", &(MANAGER, "SystemState")).await.ok()?;
            let value: OwnedValue = answer.body().deserialize().ok()?;
            String::try_from(value).ok()
        };
        matches!(tokio::time::timeout(PATIENCE, state).await, Ok(Some(state)) if state == "stopping")
    }

    /// Calls a method of systemd's manager, over a new connection if the old one is broken.
    async fn call<B>(&self, interface: &str, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        let mut has_retried = false;
        loop {
            let connection = {
                let mut connection = self.connection.lock().await;
                match &*connection {
                    Some(open) => open.clone(),
                    None => connection.insert(zbus::Connection::system().await?).clone(),
                }
            };
            match connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(interface), method, body).await {
                Err(zbus::Error::InputOutput(_)) if !has_retried => {
                    has_retried = true;
                    *self.connection.lock().await = None;
                }
                answer => return answer,
            }
        }
    }
}

fn properties(node: &NodeName, pid: u32, limits: &Limits, stop_timeout: Duration) -> Vec<Property> {
    let needed = |name, value: Value<'static>| Property { name, value, is_optional: false };
    let optional = |name, value: Value<'static>| Property { name, value, is_optional: true };
    let stop_usec = u64::try_from((stop_timeout + STOP_MORE).as_micros()).unwrap_or(u64::MAX);
    let mut properties = vec![
        needed("PIDs", Value::from(vec![pid])),
        needed("Slice", Value::from(SLICE)),
        needed("Delegate", Value::from(true)),
        optional("Description", Value::from(format!("Zeek node {node} and its shim"))),
        // Nothing is left in the list of units when it has ended, however that was.
        optional("CollectMode", Value::from("inactive-or-failed")),
        // A helper that the kernel kills for want of memory does not end the node.
        optional("OOMPolicy", Value::from("continue")),
        optional("TimeoutStopUSec", Value::from(stop_usec)),
        optional("TasksMax", Value::from(u64::MAX)),
        optional("MemoryAccounting", Value::from(true)),
        optional("Before", Value::from(vec![NODES_UNIT])),
    ];
    if let Some(bytes) = limits.memory_max {
        properties.push(needed("MemoryMax", Value::from(bytes)));
    }
    if let Some(weight) = limits.cpu_weight {
        properties.push(needed("CPUWeight", Value::from(weight)));
    }
    properties
}

/// `zca-<id>-<node>-<incarnation>.scope`, with a node's name as systemd-escape(1) writes it.
fn unit_name(id: &str, node: &NodeName, incarnation: Incarnation) -> String {
    let mut name = String::new();
    for byte in node.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b':' | b'.' => name.push(char::from(byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if name.len() > NAME_LIMIT {
        name = blake3::hash(node.as_str().as_bytes()).to_hex().chars().take(32).collect();
    }
    format!("{SCOPE_PREFIX}{id}-{name}-{incarnation}{SCOPE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_names_that_systemd_takes() {
        let name = |node: &str| unit_name("0a1b2c3d", &NodeName::new(node).unwrap(), Incarnation(7));
        assert_eq!(name("worker_1"), "zca-0a1b2c3d-worker_1-7.scope");
        assert_eq!(name("worker-1"), "zca-0a1b2c3d-worker\\x2d1-7.scope");
        let long = name(&"-".repeat(128));
        assert!(long.len() < 100 && !long.contains('\\'), "{long}");
        for unit in [name("w1"), name("a-b"), long] {
            assert!(cgroup::is_scope(&unit), "{unit}");
        }
        assert_eq!(Systemd::new("0a1b2c3d-5f0e-4c53").id, "0a1b2c3d");
    }
}
