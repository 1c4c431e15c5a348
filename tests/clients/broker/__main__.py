"""Takes orders from a test: one JSON object a line on standard input, an answer a line on standard output.

An order names what to `do` and its arguments; the answer is `{"ok": …}` or `{"error": …}`. Endpoints and peerings have
the names that orders give them. Ends with its standard input.

Usage: python3 -m broker    (in tests/clients)
"""

import json
import os
import sys

from . import management, wire
from .management import DIALECTS, NODE_TOPIC, Event
from .peer import Closed, Endpoint, Refused
from .values import decode, read

endpoints, peerings = {}, {}


def about(peering):
    return {
        "remote": wire.endpoint_text(peering.remote),
        "role": peering.role,
        "handshake": peering.handshake,
        "filter": peering.remote_filter,
        "cipher": peering.connection.cipher,
    }


class Orders:
    def become(self, uid, gid):
        """From here on another user, who makes whatever sockets follow. Only root can."""
        # Python looks for this when it first connects, and that user may not get to where it is.
        "localhost".encode("idna")
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    def endpoint(self, name, filter, id=None):
        endpoints[name] = Endpoint(filter, None if id is None else bytes.fromhex(id))
        return wire.endpoint_text(endpoints[name].id)

    def dial(self, endpoint, name, port, tls=None, host="127.0.0.1", **how):
        peerings[name] = endpoints[endpoint].dial(host, port, tls, **how)
        return about(peerings[name])

    def listen(self, endpoint, tls=None, **how):
        return endpoints[endpoint].listen(tls, **how)

    def accepted(self, endpoint, name, count=1, patience=30):
        """The connection that was accepted as number `count`, once its handshake is done."""
        peering = endpoints[endpoint].wait_accepted(count, patience)
        if peering is None:
            raise TimeoutError(f"nobody came; failed: {endpoints[endpoint].failures}")
        peerings[name] = peering
        return about(peering)

    def failures(self, endpoint):
        return endpoints[endpoint].failures

    def stop_listening(self, endpoint):
        endpoints[endpoint].close()

    def request(self, peering, dialect, request, reqid, agent, **order):
        dialect = DIALECTS[dialect]
        peerings[peering].publish(dialect.agent_topic(agent), dialect.request(request, reqid, order))

    def response(self, peering, dialect, request, reqid, patience=30):
        """The response to a request, as a controller reads it; null if it does not come."""
        dialect = DIALECTS[dialect]

        def want(_topic, event):
            response = dialect.response(request, event)
            return response if response is not None and response["reqid"] == reqid else None

        return peerings[peering].wait(patience, want)

    def notification(self, peering, dialect, kind, patience=30, **wanted):
        """The first hello, change or note with these fields."""
        dialect = DIALECTS[dialect]

        def want(_topic, event):
            said = getattr(dialect, kind)(event)
            return said if said is not None and wanted.items() <= said.items() else None

        return peerings[peering].wait(patience, want)

    def publish(self, peering, topic, event, args):
        peerings[peering].publish(topic, Event(event, read(args)))

    def node_hello(self, peering, node):
        peerings[peering].publish(NODE_TOPIC, management.node_hello(node))

    def node_dispatch(self, peering, patience=30):
        return peerings[peering].wait(patience, lambda _, event: management.node_dispatch(event))

    def node_answer(self, peering, reqid, node, **what):
        peerings[peering].publish(NODE_TOPIC, management.node_answer(reqid, node, **what))

    def events(self, peering):
        """All that was said so far."""
        return [management.describe(topic, event) for topic, event in list(peerings[peering].events)]

    def describe(self, hex):
        """What a recorded frame says, without its length; no event if it is another message of Zeek's."""
        envelope = wire.read_envelope(bytes.fromhex(hex))
        event = Event.of(decode(envelope.body))
        return {"topic": envelope.topic} if event is None else management.describe(envelope.topic, event)

    def subscribe(self, peering, filter):
        """Replaces the filter, as a routing update does."""
        one = peerings[peering]
        one.endpoint.filter = filter
        one.send(wire.control(one.endpoint.id, one.remote, wire.ROUTING_UPDATE, wire.filter_bytes(filter)))

    def frame(self, peering, hex):
        """Writes a payload as it is."""
        peerings[peering].connection.write(bytes.fromhex(hex))

    def write(self, peering, hex):
        """Writes bytes that are no frame."""
        peerings[peering].connection.sock.sendall(bytes.fromhex(hex))

    def ping(self, peering, hex, patience=30):
        return peerings[peering].ping(bytes.fromhex(hex), patience)

    def pings(self, peering):
        return peerings[peering].pings

    def leave(self, peering):
        return peerings[peering].leave()

    def drop(self, peering):
        peerings[peering].drop()

    def closed(self, peering, patience=30):
        return peerings[peering].wait_closed(patience)

    def complaints(self, peering):
        return peerings[peering].complaints


def main():
    orders = Orders()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": getattr(orders, order.pop("do"))(**order)}
        except (OSError, Closed, Refused, ValueError, TimeoutError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
