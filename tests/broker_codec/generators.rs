//! Random values.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use zeek_cluster_agent::api::configuration::{
    ClusterRole, Configuration, Instance, Node, Port, Protocol, ScriptOption,
};
use zeek_cluster_agent::api::event::{Notification, Request, Result as ApiResult, ResultData};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::api::status::{ManagementRole, NodeOutputs, NodeState, NodeStatus};
use zeek_cluster_agent::broker::data::{self, Address, Data, Set, Subnet, Table};

fn broker_port() -> impl Strategy<Value = data::Port> {
    let protocol = prop_oneof![
        Just(data::Protocol::Unknown),
        Just(data::Protocol::Tcp),
        Just(data::Protocol::Udp),
        Just(data::Protocol::Icmp)
    ];
    (any::<u16>(), protocol).prop_map(|(number, protocol)| data::Port { number, protocol })
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![any::<[u8; 16]>().prop_map(Address), any::<std::net::IpAddr>().prop_map(Address::from)]
}

/// A value of any type. `portable`: only what JSON can hold.
pub fn broker_data(portable: bool) -> BoxedStrategy<Data> {
    let real = if portable {
        any::<f64>().prop_filter("finite", |real| real.is_finite()).boxed()
    } else {
        // Subnormals do not survive Broker's encoding.
        any::<f64>().prop_filter("normal", |real| !real.is_subnormal()).boxed()
    };
    let bytes = if portable { ".{0,8}".prop_map(String::into_bytes).boxed() } else { vec(any::<u8>(), 0..200).boxed() };
    let subnet = (address(), 0..=128u8).prop_map(|(address, bits)| Subnet::new(address, bits).unwrap());
    let scalar = prop_oneof![
        Just(Data::None),
        any::<bool>().prop_map(Data::Boolean),
        any::<u64>().prop_map(Data::Count),
        any::<i64>().prop_map(Data::Integer),
        real.prop_map(Data::real),
        bytes.prop_map(Data::String),
        address().prop_map(Data::Address),
        subnet.prop_map(Data::Subnet),
        broker_port().prop_map(Data::Port),
        any::<i64>().prop_map(Data::Timestamp),
        any::<i64>().prop_map(Data::Timespan),
        ".{0,8}".prop_map(Data::Enum),
    ];
    let container = |inner: BoxedStrategy<Data>| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Data::Vector),
            vec(inner.clone(), 0..6).prop_map(|elements| Data::Set(elements.into_iter().collect::<Set>())),
            btree_map(inner.clone(), inner, 0..6)
                .prop_map(|entries| Data::Table(Table::new(Vec::from_iter(entries)).unwrap())),
        ]
        .boxed()
    };
    scalar.boxed().prop_recursive(4, 64, 6, container).boxed()
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

pub fn reqid() -> impl Strategy<Value = ReqId> {
    text().prop_map(|text| ReqId::new(text).unwrap())
}

/// No port 0: on the wire that is no port.
fn port() -> impl Strategy<Value = Port> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp), Just(Protocol::Unknown)];
    (1..=u16::MAX, protocol).prop_map(|(number, protocol)| Port { number, protocol })
}

fn role() -> impl Strategy<Value = ClusterRole> {
    prop_oneof![
        Just(ClusterRole::None),
        Just(ClusterRole::Logger),
        Just(ClusterRole::Manager),
        Just(ClusterRole::Proxy),
        Just(ClusterRole::Worker)
    ]
}

fn distinct<T: Ord + Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T>,
    most: usize,
) -> impl Strategy<Value = Vec<T>> {
    btree_set(of, 0..most).prop_map(Vec::from_iter)
}

/// `metrics`: with metrics ports, of which the seed knows nothing.
fn node(metrics: bool) -> impl Strategy<Value = Node> {
    let option = (text(), text()).prop_map(|(name, value)| ScriptOption { name, value });
    let metrics_port = if metrics { option::of(port()).boxed() } else { Just(None).boxed() };
    let head = (text(), text(), role(), option::of(port()));
    let tail = (
        vec(text(), 0..3),
        distinct(option, 3),
        option::of(text()),
        option::of(any::<i64>()),
        btree_map(text(), text(), 0..3),
        metrics_port,
    );
    (head, tail).prop_map(
        |((name, instance, role, port), (scripts, options, interface, cpu_affinity, env, metrics_port))| Node {
            name,
            instance,
            role,
            port,
            scripts,
            options,
            interface,
            cpu_affinity,
            env,
            metrics_port,
        },
    )
}

fn configuration(metrics: bool) -> impl Strategy<Value = Configuration> {
    let instance = (text(), any::<std::net::IpAddr>(), option::of(port())).prop_map(|(name, host, listen_port)| {
        // An IPv4 address in IPv6 clothes is an IPv4 address.
        Instance { name, host: Address::from(host).to_ip(), listen_port }
    });
    (text(), distinct(instance, 4), distinct(node(metrics), 4)).prop_map(|(id, instances, nodes)| Configuration {
        id,
        instances,
        nodes,
        // Zeek's events have no place for it.
        cluster_backend: None,
    })
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    btree_set(text(), 0..4)
}

pub fn management_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (configuration(true), any::<bool>()).prop_map(|(config, force)| Request::Deploy {
            config,
            force,
            how: Box::default()
        }),
        Just(Request::AgentWelcome {}),
        Just(Request::AgentStandby {}),
        Just(Request::GetNodes {}),
        names().prop_map(|nodes| Request::Restart { nodes }),
        (vec(text(), 0..3), names()).prop_map(|(action, nodes)| Request::NodeDispatch { action, nodes }),
    ]
}

pub fn seed_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        configuration(false).prop_map(|config| Request::SetConfiguration { config }),
        Just(Request::AgentWelcome {}),
        Just(Request::AgentStandby {}),
    ]
}

pub fn state(seed: bool) -> BoxedStrategy<NodeState> {
    let common = prop_oneof![
        Just(NodeState::Running),
        Just(NodeState::Stopped),
        Just(NodeState::Failed),
        Just(NodeState::Crashed),
        Just(NodeState::Unknown)
    ];
    if seed { common.boxed() } else { prop_oneof![common, Just(NodeState::Pending)].boxed() }
}

fn status(seed: bool) -> impl Strategy<Value = NodeStatus> {
    let mgmt_role = prop_oneof![
        Just(ManagementRole::None),
        Just(ManagementRole::Agent),
        Just(ManagementRole::Controller),
        Just(ManagementRole::Node)
    ];
    let pid = 0..=i32::MAX as u32;
    (text(), state(seed), mgmt_role, role(), option::of(pid), option::of(port()), option::of(port())).prop_map(
        |(node, state, mgmt_role, cluster_role, pid, port, metrics_port)| NodeStatus {
            node,
            state,
            mgmt_role,
            cluster_role,
            pid,
            port,
            metrics_port,
        },
    )
}

/// A Result. In the seed dialect an empty text and none are the same, so there are no empty ones.
pub fn result(seed: bool) -> impl Strategy<Value = ApiResult> {
    let data = prop_oneof![
        vec(status(seed), 0..3).prop_map(ResultData::Nodes),
        (text(), text()).prop_map(|(stdout, stderr)| ResultData::Outputs(NodeOutputs { stdout, stderr })),
        text().prop_map(ResultData::Text),
    ];
    (reqid(), any::<bool>(), option::of(".{1,12}"), option::of(data), option::of(".{1,12}"), option::of(text()))
        .prop_map(|(reqid, success, instance, data, error, node)| ApiResult {
            reqid,
            success,
            instance,
            data,
            error,
            node,
        })
}

pub fn notification(seed: bool) -> impl Strategy<Value = Notification> {
    prop_oneof![
        (text(), any::<u64>())
            .prop_map(|(instance, api_version)| Notification::NotifyAgentHello { instance, api_version }),
        (text(), node(!seed), state(seed), state(seed), state(seed)).prop_map(|(instance, node, state, old, new)| {
            Notification::NotifyChange { instance, node: Box::new(node), state, old, new }
        }),
        (text(), text(), text()).prop_map(|(instance, msg, node)| Notification::NotifyError { instance, msg, node }),
        (text(), text(), text()).prop_map(|(instance, msg, node)| Notification::NotifyLog { instance, msg, node }),
    ]
}
