//! Zeek's types and the management framework's records, to and from Broker's data.
//!
//! A record is a vector with an element per field. One that is shorter than expected lacks trailing fields, which is fine
//! as long as those may be unset; one that is longer comes from a later release and is read as far as we know it. There
//! is no conversion between types, since Zeek does none: a count is no int.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::api::configuration::{ClusterRole, Configuration, Instance, Node, Port, Protocol, ScriptOption};
use crate::api::event::ResultData;
use crate::api::ids::ReqId;
use crate::api::status::{ManagementRole, NodeOutputs, NodeState, NodeStatus};
use crate::broker::data::{self, Data, Set, Table};

/// Where in an argument a value is not what the API asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// For example `config.nodes[2].p`.
    pub at: String,
    /// What is wrong with it, for example that it is of another type.
    pub problem: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.problem)
    }
}

impl Mismatch {
    fn new(problem: impl Into<String>) -> Self {
        Self { at: String::new(), problem: problem.into() }
    }

    fn wanted(wanted: &str, found: &Data) -> Self {
        Self::new(format!("is of type {} where {wanted} is due", found.type_name()))
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::new("is missing").inside(name)
    }

    /// Says in which field this is.
    pub(super) fn inside(mut self, name: &str) -> Self {
        let separator = if self.at.is_empty() || self.at.starts_with('[') { "" } else { "." };
        self.at = format!("{name}{separator}{}", self.at);
        self
    }

    fn element(self, index: usize) -> Self {
        self.inside(&format!("[{index}]"))
    }
}

type Read<T> = Result<T, Mismatch>;

pub fn string(data: &Data) -> Read<String> {
    match data {
        Data::String(bytes) => {
            String::from_utf8(bytes.clone()).map_err(|_| Mismatch::new("is a string that is not UTF-8"))
        }
        other => Err(Mismatch::wanted("string", other)),
    }
}

/// A text for people, which must not be lost for a byte that is none: what is not UTF-8 in it is replaced.
pub fn prose(data: &Data) -> Read<String> {
    match data {
        Data::String(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        other => Err(Mismatch::wanted("string", other)),
    }
}

pub fn reqid(data: &Data) -> Read<ReqId> {
    ReqId::new(string(data)?).map_err(|error| Mismatch::new(format!("cannot be used: {error}")))
}

pub fn boolean(data: &Data) -> Read<bool> {
    match data {
        Data::Boolean(value) => Ok(*value),
        other => Err(Mismatch::wanted("boolean", other)),
    }
}

pub fn count(data: &Data) -> Read<u64> {
    match data {
        Data::Count(value) => Ok(*value),
        other => Err(Mismatch::wanted("count", other)),
    }
}

fn integer(data: &Data) -> Read<i64> {
    match data {
        Data::Integer(value) => Ok(*value),
        other => Err(Mismatch::wanted("integer", other)),
    }
}

pub fn address(data: &Data) -> Read<IpAddr> {
    match data {
        Data::Address(value) => Ok(value.to_ip()),
        other => Err(Mismatch::wanted("address", other)),
    }
}

/// Port 0 is how Zeek's scripts outside of the management framework say that there is none: `0/unknown`, or `0/tcp`.
pub fn port(data: &Data) -> Read<Option<Port>> {
    match data {
        Data::Port(data::Port { number: 0, protocol: _ }) => Ok(None),
        Data::Port(port) => {
            let protocol = match port.protocol {
                data::Protocol::Unknown => Protocol::Unknown,
                data::Protocol::Tcp => Protocol::Tcp,
                data::Protocol::Udp => Protocol::Udp,
                data::Protocol::Icmp => Protocol::Icmp,
            };
            Ok(Some(Port { number: port.number, protocol }))
        }
        other => Err(Mismatch::wanted("port", other)),
    }
}

pub fn enum_name(data: &Data) -> Read<&str> {
    match data {
        Data::Enum(name) => Ok(name),
        other => Err(Mismatch::wanted("enum-value", other)),
    }
}

pub fn no_such(what: &str, name: &str) -> Mismatch {
    let name: String = name.chars().take(64).collect();
    Mismatch::new(format!("names the unknown {what} {name:?}"))
}

pub fn vector<T>(data: &Data, read: impl Fn(&Data) -> Read<T>) -> Read<Vec<T>> {
    match data {
        Data::Vector(elements) => elements_of(elements, read),
        other => Err(Mismatch::wanted("vector", other)),
    }
}

pub fn set<T>(data: &Data, read: impl Fn(&Data) -> Read<T>) -> Read<Vec<T>> {
    match data {
        Data::Set(set) => elements_of(set.as_slice(), read),
        other => Err(Mismatch::wanted("set", other)),
    }
}

fn elements_of<T>(elements: &[Data], read: impl Fn(&Data) -> Read<T>) -> Read<Vec<T>> {
    let element = |(index, element)| read(element).map_err(|mismatch| mismatch.element(index));
    elements.iter().enumerate().map(element).collect()
}

pub fn names(data: &Data) -> Read<BTreeSet<String>> {
    set(data, string).map(BTreeSet::from_iter)
}

pub fn strings(data: &Data) -> Read<Vec<String>> {
    vector(data, string)
}

fn environment(data: &Data) -> Read<BTreeMap<String, String>> {
    match data {
        Data::Table(table) => {
            let entry = |(key, value)| {
                let key = string(key)?;
                let named = |mismatch: Mismatch| {
                    let key: String = key.chars().take(64).collect();
                    mismatch.inside(&format!("[{key:?}]"))
                };
                let value = string(value).map_err(named)?;
                Ok((key, value))
            };
            table.as_slice().iter().map(|(key, value)| entry((key, value))).collect()
        }
        other => Err(Mismatch::wanted("table", other)),
    }
}

/// The wrapper that Zeek's scripts put around a value of type `any` which they pass on without a cast.
const ANY_WRAPPER: &[u8] = b"zeek::Broker::detail::DataVal";

/// A value of type `any`, without wrappers.
pub fn any(mut data: &Data) -> &Data {
    while let Data::Vector(outer) = data
        && let [Data::Vector(inner)] = outer.as_slice()
        && let [Data::String(class), value] = inner.as_slice()
        && class == ANY_WRAPPER
    {
        data = value;
    }
    data
}

/// Steps over the fields of a record.
pub struct Record<'a> {
    fields: std::slice::Iter<'a, Data>,
}

impl<'a> Record<'a> {
    /// `least` is how many fields have to be there.
    pub fn new(data: &'a Data, name: &str, least: usize) -> Read<Self> {
        match data {
            Data::Vector(fields) if fields.len() >= least => Ok(Self { fields: fields.iter() }),
            Data::Vector(fields) => {
                Err(Mismatch::new(format!("is a record {name} of {} fields, {least} are needed", fields.len())))
            }
            other => Err(Mismatch::wanted(&format!("a record {name} (vector)"), other)),
        }
    }

    /// The next field, which has to be set.
    pub fn field<T>(&mut self, name: &str, read: impl Fn(&'a Data) -> Read<T>) -> Read<T> {
        self.optional(name, read)?.ok_or_else(|| Mismatch::new("is not set").inside(name))
    }

    /// The next field, if it is set.
    pub fn optional<T>(&mut self, name: &str, read: impl Fn(&'a Data) -> Read<T>) -> Read<Option<T>> {
        match self.fields.next() {
            None | Some(Data::None) => Ok(None),
            Some(data) => read(data).map(Some).map_err(|mismatch| mismatch.inside(name)),
        }
    }
}

pub fn read_configuration(data: &Data, node: impl Fn(&Data) -> Read<Node>) -> Read<Configuration> {
    let mut record = Record::new(data, "Configuration", 3)?;
    Ok(Configuration {
        id: record.optional("id", string)?.unwrap_or_default(),
        instances: record.optional("instances", |data| set(data, read_instance))?.unwrap_or_default(),
        nodes: record.optional("nodes", |data| set(data, &node))?.unwrap_or_default(),
        // Zeek's record has no place for it.
        cluster_backend: None,
    })
}

fn read_instance(data: &Data) -> Read<Instance> {
    let mut record = Record::new(data, "Instance", 2)?;
    Ok(Instance {
        name: record.field("name", string)?,
        host: record.field("host", address)?,
        listen_port: record.optional("listen_port", port)?.flatten(),
    })
}

fn read_option(data: &Data) -> Read<ScriptOption> {
    let mut record = Record::new(data, "Option", 2)?;
    Ok(ScriptOption { name: record.field("name", string)?, value: record.field("value", string)? })
}

/// The fields from `scripts` to `env`, in which the dialects agree.
pub fn read_node_rest(record: &mut Record<'_>, node: &mut Node) -> Read<()> {
    node.scripts = record.optional("scripts", strings)?.unwrap_or_default();
    node.options = record.optional("options", |data| set(data, read_option))?.unwrap_or_default();
    node.interface = record.optional("interface", string)?;
    node.cpu_affinity = record.optional("cpu_affinity", integer)?;
    node.env = record.optional("env", environment)?.unwrap_or_default();
    Ok(())
}

pub fn read_role(data: &Data) -> Read<ClusterRole> {
    match enum_name(data)? {
        "Supervisor::NONE" => Ok(ClusterRole::None),
        "Supervisor::LOGGER" => Ok(ClusterRole::Logger),
        "Supervisor::MANAGER" => Ok(ClusterRole::Manager),
        "Supervisor::PROXY" => Ok(ClusterRole::Proxy),
        "Supervisor::WORKER" => Ok(ClusterRole::Worker),
        other => Err(no_such("role", other)),
    }
}

pub fn read_management_role(data: &Data) -> Read<ManagementRole> {
    match enum_name(data)? {
        "Management::NONE" => Ok(ManagementRole::None),
        "Management::AGENT" => Ok(ManagementRole::Agent),
        "Management::CONTROLLER" => Ok(ManagementRole::Controller),
        "Management::NODE" => Ok(ManagementRole::Node),
        other => Err(no_such("role", other)),
    }
}

/// What a Result carries. The three kinds cannot be mistaken for each other: text, two texts, or a vector of records.
pub fn read_result_data(data: &Data, state: impl Fn(&Data) -> Read<NodeState>) -> Read<Option<ResultData>> {
    match any(data) {
        Data::None => Ok(None),
        text @ Data::String(_) => prose(text).map(|text| Some(ResultData::Text(text))),
        Data::Vector(elements) if matches!(elements.first(), Some(Data::String(_))) => {
            let mut record = Record::new(any(data), "NodeOutputs", 2)?;
            let stdout = record.field("stdout", prose)?;
            let stderr = record.field("stderr", prose)?;
            Ok(Some(ResultData::Outputs(NodeOutputs { stdout, stderr })))
        }
        statuses => Ok(Some(ResultData::Nodes(vector(statuses, |data| read_node_status(any(data), &state))?))),
    }
}

fn read_node_status(data: &Data, state: impl Fn(&Data) -> Read<NodeState>) -> Read<NodeStatus> {
    let mut record = Record::new(data, "NodeStatus", 6)?;
    let pid = |data: &Data| {
        let pid = integer(data)?;
        u32::try_from(pid).map_err(|_| Mismatch::new(format!("is no process id: {pid}")))
    };
    Ok(NodeStatus {
        node: record.field("node", string)?,
        state: record.field("state", &state)?,
        mgmt_role: record.field("mgmt_role", read_management_role)?,
        cluster_role: record.field("cluster_role", read_role)?,
        pid: record.optional("pid", pid)?,
        port: record.optional("p", port)?.flatten(),
        metrics_port: record.optional("metrics_port", port)?.flatten(),
    })
}

pub fn write_port(port: Port) -> Data {
    let protocol = match port.protocol {
        Protocol::Unknown => data::Protocol::Unknown,
        Protocol::Tcp => data::Protocol::Tcp,
        Protocol::Udp => data::Protocol::Udp,
        Protocol::Icmp => data::Protocol::Icmp,
    };
    Data::Port(data::Port { number: port.number, protocol })
}

/// No port is none; zeek-client trips over port 0, so that is none as well.
pub fn write_optional_port(port: Option<Port>) -> Data {
    port.filter(|port| port.number != 0).map_or(Data::None, write_port)
}

pub fn write_text(text: Option<&String>) -> Data {
    text.map_or(Data::None, Data::string)
}

pub fn write_names(names: &BTreeSet<String>) -> Data {
    Data::Set(names.iter().map(Data::string).collect())
}

pub fn write_strings(strings: &[String]) -> Data {
    Data::Vector(strings.iter().map(Data::string).collect())
}

pub fn write_address(ip: IpAddr) -> Data {
    Data::Address(ip.into())
}

pub fn write_role(role: ClusterRole) -> Data {
    Data::enum_value(match role {
        ClusterRole::None => "Supervisor::NONE",
        ClusterRole::Logger => "Supervisor::LOGGER",
        ClusterRole::Manager => "Supervisor::MANAGER",
        ClusterRole::Proxy => "Supervisor::PROXY",
        ClusterRole::Worker => "Supervisor::WORKER",
    })
}

fn write_management_role(role: ManagementRole) -> Data {
    Data::enum_value(match role {
        ManagementRole::None => "Management::NONE",
        ManagementRole::Agent => "Management::AGENT",
        ManagementRole::Controller => "Management::CONTROLLER",
        ManagementRole::Node => "Management::NODE",
    })
}

pub fn write_configuration(config: &Configuration, node: impl Fn(&Node) -> Data) -> Data {
    let instance = |instance: &Instance| {
        Data::Vector(vec![
            Data::string(&instance.name),
            write_address(instance.host),
            write_optional_port(instance.listen_port),
        ])
    };
    Data::Vector(vec![
        Data::string(&config.id),
        Data::Set(config.instances.iter().map(instance).collect()),
        Data::Set(config.nodes.iter().map(node).collect()),
    ])
}

/// The fields from `scripts` to `env`, in which the dialects agree.
pub fn write_node_rest(node: &Node) -> [Data; 5] {
    let option = |option: &ScriptOption| Data::Vector(vec![Data::string(&option.name), Data::string(&option.value)]);
    let env = node.env.iter().map(|(key, value)| (Data::string(key), Data::string(value))).collect();
    [
        if node.scripts.is_empty() { Data::None } else { write_strings(&node.scripts) },
        if node.options.is_empty() { Data::None } else { Data::Set(node.options.iter().map(option).collect::<Set>()) },
        write_text(node.interface.as_ref()),
        node.cpu_affinity.map_or(Data::None, Data::Integer),
        Data::Table(Table::new(env).expect("the keys of a map are distinct")),
    ]
}

pub fn write_result_data(result_data: Option<&ResultData>, state: impl Fn(NodeState) -> Data) -> Data {
    match result_data {
        None => Data::None,
        Some(ResultData::Text(text)) => Data::string(text),
        Some(ResultData::Outputs(outputs)) => {
            Data::Vector(vec![Data::string(&outputs.stdout), Data::string(&outputs.stderr)])
        }
        Some(ResultData::Nodes(statuses)) => {
            Data::Vector(statuses.iter().map(|status| write_node_status(status, &state)).collect())
        }
    }
}

fn write_node_status(status: &NodeStatus, state: impl Fn(NodeState) -> Data) -> Data {
    Data::Vector(vec![
        Data::string(&status.node),
        state(status.state),
        write_management_role(status.mgmt_role),
        write_role(status.cluster_role),
        status.pid.map_or(Data::None, |pid| Data::Integer(pid.into())),
        write_optional_port(status.port),
        write_optional_port(status.metrics_port),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_around_any_are_stripped() {
        let wrap = |value| {
            let class = Data::String(ANY_WRAPPER.to_vec());
            Data::Vector(vec![Data::Vector(vec![class, value])])
        };
        assert_eq!(any(&wrap(Data::string("x"))), &Data::string("x"));
        assert_eq!(any(&wrap(wrap(Data::None))), &Data::None);
        let other = Data::Vector(vec![Data::Vector(vec![Data::string("x"), Data::None])]);
        assert_eq!(any(&other), &other);
    }

    #[test]
    fn mismatches_name_the_field() {
        let option = |value| Data::Vector(vec![Data::string("name"), value]);
        let options = Data::Set([option(Data::string("v")), option(Data::Count(1))].into_iter().collect());
        let mismatch = set(&options, read_option).map_err(|mismatch| mismatch.inside("options")).unwrap_err();
        assert_eq!(mismatch.to_string(), "options[0].value is of type count where string is due");
    }
}
