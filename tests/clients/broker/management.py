"""Zeek's events over Broker, and those that a controller, an agent and its nodes say: names, arguments, records.

Strict where a Zeek is: an event with another number of arguments, or a record of another shape, is an error here, since
a controller would drop it or abort its handler. Both dialects: Zeek 5.0 and later (`Management`), Zeek 4.1 and 4.2
(`ClusterAgent`).
"""

from dataclasses import dataclass

from .values import Address, Count, Enum, Integer, Malformed, Port, Set, Table, show

VERSION, EVENT = Count(1), Count(1)
OTHERS = [Count(kind) for kind in (2, 3, 4)]
NODE = "Management::Node::API::"
NODE_TOPIC = "zeek/management/node"


@dataclass(frozen=True)
class Event:
    name: str
    args: list

    def value(self):
        return [VERSION, EVENT, [self.name, self.args]]

    @classmethod
    def of(cls, value):
        """The event of a message; None for the other messages of Zeek's."""
        match value:
            case [Count(1), Count(1), [str(name), list(args)] | [str(name), list(args), list(_)]]:
                return cls(name, args)
            case [Count(1), kind, list(_)] if kind in OTHERS:
                return None
        raise Malformed(f"this is no message of Zeek's: {value}")


class Dialect:
    """Module and topic, which pairs there are, and whether the answer is one Result or a vector."""

    def __init__(self, module, topic, state, pairs, node, status):
        self.module, self.topic, self.state, self.pairs = module, topic, state, pairs
        self.node_of, self.status_of = node, status

    def agent_topic(self, agent):
        return f"{self.topic}/agent/{agent}"

    def request(self, request, reqid, order):
        args = [build(self, order) for build in self.pairs[request][0]]
        return Event(f"{self.module}{request}_request", [reqid, *args])

    def response(self, request, event):
        """The reqid and the Results, or None if the event is no response to such a request."""
        if event.name != f"{self.module}{request}_response":
            return None
        reqid, results = arguments(event, 2)
        is_vector, data = self.pairs[request][1:]
        if is_vector:
            check(isinstance(results, list), results)
        return {"reqid": string(reqid), "results": [self.result(one, data) for one in (results if is_vector else [results])]}

    def result(self, value, data):
        if self is SEED:
            # Another order, and the texts are mandatory: "" is what says nothing.
            reqid, instance, success, payload, error, node = record(value, 6)
            instance, error = string(instance), string(error)
        else:
            reqid, success, instance, payload, error, node = record(value, 6)
        check(isinstance(success, bool), value)
        return {
            "reqid": string(reqid),
            "success": success,
            "instance": optional(string, instance),
            "data": optional(data(self), payload),
            "error": optional(string, error),
            "node": optional(string, node),
        }

    def hello(self, event):
        """What notify_agent_hello says, or None."""
        if event.name != f"{self.module}notify_agent_hello":
            return None
        if self is SEED:
            instance, host, version = arguments(event, 3)
            check(isinstance(host, Address) and isinstance(version, Count), event)
            return {"instance": string(instance), "host": str(host), "version": version.value}
        instance, endpoint, connecting, version = arguments(event, 4)
        check(isinstance(connecting, bool) and isinstance(version, Count), event)
        return {"instance": string(instance), "id": string(endpoint), "connecting": connecting, "version": version.value}

    def change(self, event):
        if event.name != f"{self.module}notify_change":
            return None
        instance, node, old, new = arguments(event, 4)
        record(node, 10 if self is SEED else 11)
        return {"instance": string(instance), "node": string(node[0]), "old": self.state_name(old), "new": self.state_name(new)}

    def note(self, event):
        """What notify_error and notify_log say."""
        if event.name not in (f"{self.module}notify_error", f"{self.module}notify_log"):
            return None
        instance, message, node = map(string, arguments(event, 3))
        return {"instance": instance, "message": message, "node": node}

    def state_name(self, value):
        check(isinstance(value, Enum) and value.name.startswith(self.state), value)
        return value.name.removeprefix(self.state)


def check(holds, what):
    if not holds:
        raise Malformed(f"not as Zeek declares it: {what}")


def arguments(event, count):
    check(len(event.args) == count, event)
    return event.args


def record(value, count):
    check(isinstance(value, list) and len(value) == count, value)
    return value


def string(value):
    check(isinstance(value, str), value)
    return value


def optional(read, value):
    return None if value is None else read(value)


def integer(value):
    check(isinstance(value, Integer), value)
    return value.value


def port(value):
    # zeek-client takes nothing else.
    check(isinstance(value, Port) and 1 <= value.number, value)
    return str(value)


def outputs(_dialect):
    def read(value):
        stdout, stderr = record(value, 2)
        return {"stdout": string(stdout), "stderr": string(stderr)}

    return read


def nothing(_dialect):
    def read(value):
        raise Malformed(f"no data belongs here: {value}")

    return read


def json_text(_dialect):
    return string


def statuses(dialect):
    def read(value):
        check(isinstance(value, list), value)
        return [dialect.status_of(dialect, one) for one in value]

    return read


def enum(prefix, value):
    check(isinstance(value, Enum) and value.name.startswith(prefix), value)
    return value.name.removeprefix(prefix)


def management_status(dialect, value):
    node, state, mgmt_role, cluster_role, pid, p, metrics_port = record(value, 7)
    return {
        "node": string(node),
        "state": dialect.state_name(state),
        "mgmt_role": enum("Management::", mgmt_role),
        "cluster_role": enum("Supervisor::", cluster_role),
        "pid": optional(integer, pid),
        "p": optional(port, p),
        "metrics_port": optional(port, metrics_port),
    }


def instance(one):
    return [one["name"], Address.of(one.get("host", "127.0.0.1")), optional(Port.of, one.get("listen_port"))]


def management_node(node):
    scripts, options = node.get("scripts"), node.get("options")
    return [
        node["name"],
        node["instance"],
        Enum("Supervisor::" + node["role"]),
        Enum("Management::" + node.get("state", "RUNNING")),
        optional(Port.of, node.get("p")),
        scripts,
        None if options is None else Set([name, value] for name, value in options),
        node.get("interface"),
        optional(Integer, node.get("cpu_affinity")),
        Table(node.get("env", {}).items()),
        optional(Port.of, node.get("metrics_port")),
    ]


def seed_node(node):
    whole = management_node(node)
    state = Enum("ClusterController::Types::" + node.get("state", "RUNNING").capitalize())
    # The port comes earlier, is mandatory, and there are no metrics.
    return [whole[0], whole[1], whole[4] or Port(0, 0), whole[2], state, *whole[5:10]]


def configuration(dialect, order):
    config = order["config"]
    nodes = Set(dialect.node_of(node) for node in config["nodes"])
    return [config["id"], Set(map(instance, config["instances"])), nodes]


def force(_dialect, order):
    return order.get("force", False)


def action(_dialect, order):
    return order["action"]


def nodes(_dialect, order):
    return Set(order.get("nodes", []))


MANAGEMENT = Dialect(
    "Management::Agent::API::",
    "zeek/management",
    "Management::",
    {
        "agent_welcome": ([], False, nothing),
        "agent_standby": ([], False, nothing),
        "deploy": ([configuration, force], True, outputs),
        "get_nodes": ([], False, statuses),
        "restart": ([nodes], True, nothing),
        "node_dispatch": ([action, nodes], True, json_text),
    },
    management_node,
    management_status,
)
SEED = Dialect(
    "ClusterAgent::API::",
    "zeek/cluster-control",
    "ClusterController::Types::",
    {
        "agent_welcome": ([], False, nothing),
        "agent_standby": ([], False, nothing),
        "set_configuration": ([configuration], False, nothing),
    },
    seed_node,
    None,
)
DIALECTS = {"management": MANAGEMENT, "seed": SEED}


def node_hello(node):
    return Event(NODE + "notify_node_hello", [node])


def node_dispatch(event):
    """What a dispatch to nodes asks, or None."""
    if event.name != NODE + "node_dispatch_request":
        return None
    reqid, action, nodes = arguments(event, 3)
    check(isinstance(action, list) and isinstance(nodes, Set), event)
    return {"reqid": string(reqid), "action": list(map(string, action)), "nodes": list(map(string, nodes.elements))}


def node_answer(reqid, node, data=None, error=None):
    result = [reqid, error is None, None, data, error, node]
    return Event(NODE + "node_dispatch_response", [reqid, result])


def describe(topic, event):
    return {"topic": topic, "event": event.name, "args": show(event.args)}
