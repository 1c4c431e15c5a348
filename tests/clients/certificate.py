"""Asks an agent for a welcome as a client with a certificate: the library websockets, over TLS.

Prints the response as it came. Without CERTIFICATE the agent has to end the connection, which is printed instead.

Usage: certificate.py wss://HOST:PORT AGENT CA [CERTIFICATE KEY]
"""

import json
import ssl
import sys

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

PATIENCE = 30

url, agent, ca, *own = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if own:
    context.load_cert_chain(*own)
topic = f"zeek/management/agent/{agent}"
event = "Management::Agent::API::agent_welcome_"


def value(kind, data):
    return {"@data-type": kind, "data": data}


content = [value("string", event + "request"), value("vector", [value("string", "by certificate")])]
request = value("vector", [value("count", 1), value("count", 1), value("vector", content)])
try:
    with connect(url + "/v1/messages/json", ssl=context) as agent:
        agent.send(json.dumps([topic]))
        assert json.loads(agent.recv(timeout=PATIENCE))["type"] == "ack"
        agent.send(json.dumps({"type": "data-message", "topic": topic, **request}))
        while True:
            message = agent.recv(timeout=PATIENCE)
            if json.loads(message)["data"][2]["data"][0]["data"] == event + "response":
                print(message)
                break
except (OSError, EOFError, WebSocketException) as error:
    print(f"no connection: {error}")
