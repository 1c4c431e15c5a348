"""Drives an agent as a third party would: zeekpy publishes every request of both dialects, and websockets listens.

Prints each response as it came, one a line, in the order of the requests. The same reqids are used each time, so that
a second run has to print the same.

Usage: drive.py ws://HOST:PORT AGENT, or wss:// with SSL_CERT_FILE naming the authorities
"""

import json
import sys

from websockets.sync.client import connect
from zeekpy import Zeek

PATIENCE = 30

url = sys.argv[1] + "/v1/messages/json"
agent = sys.argv[2]
management = ("Management::Agent::API::", f"zeek/management/agent/{agent}")
seed = ("ClusterAgent::API::", f"zeek/cluster-control/agent/{agent}")


def value(kind, data):
    return {"@data-type": kind, "data": data}


NONE = value("none", {})


def text(data):
    return value("string", data)


def configuration(name, node):
    instance = value("vector", [text(agent), value("address", "127.0.0.1"), NONE])
    return value("vector", [text(name), value("set", [instance]), value("set", [node])])


management_node = value(
    "vector",
    [text("w1"), text(agent), value("enum-value", "Supervisor::WORKER"), value("enum-value", "Management::RUNNING")]
    + [NONE] * 5
    + [value("table", []), value("port", "9000/tcp")],
)
seed_node = value(
    "vector",
    [text("w1"), text(agent), value("port", "0/?"), value("enum-value", "Supervisor::WORKER")]
    + [value("enum-value", "ClusterController::Types::Running")]
    + [NONE] * 4
    + [value("table", [])],
)
names = value("set", [text("w1")])
action = value("vector", [text("get_id_value"), text("Cluster::node")])

REQUESTS = [
    (seed, "agent_welcome", []),
    (seed, "set_configuration", [configuration("seed", seed_node)]),
    (seed, "agent_standby", []),
    (management, "agent_welcome", []),
    (management, "deploy", [configuration("management", management_node), value("boolean", False)]),
    (management, "get_nodes", []),
    (management, "restart", [names]),
    (management, "node_dispatch", [action, names]),
    (management, "agent_standby", []),
]


def events(listener):
    """The names and arguments of what the agent says."""
    while True:
        message = listener.recv(timeout=PATIENCE)
        content = json.loads(message)
        assert content["type"] == "data-message", message
        name, arguments = content["data"][2]["data"][:2]
        yield name["data"], arguments["data"], message


with connect(url) as listener:
    listener.send(json.dumps([management[1], seed[1]]))
    ack = json.loads(listener.recv(timeout=PATIENCE))
    assert ack["type"] == "ack" and len(ack["endpoint"]) == 36, ack
    said = events(listener)
    name, arguments, _ = next(said)
    assert name == "Management::Agent::API::notify_agent_hello", name
    assert arguments[0] == text(agent) and arguments[1] == text(ack["endpoint"]), arguments
    with Zeek(url) as zeek:
        for (module, topic), request, arguments in REQUESTS:
            reqid = f"{module}{request}"
            zeek.publish(topic, f"{module}{request}_request", [reqid, *arguments])
            for name, answer, message in said:
                if name == f"{module}{request}_response" and answer[0] == text(reqid):
                    print(message)
                    break
