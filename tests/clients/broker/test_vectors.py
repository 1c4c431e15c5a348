"""This peer against bytes that Broker and Zeek wrote: every recorded frame decodes to what its file says and encodes to
its bytes again.

Usage: python3 -m unittest broker.test_vectors    (in tests/clients)
"""

import json
import pathlib
import unittest

from . import values, wire
from .management import DIALECTS, Event, node_answer, node_dispatch, node_hello

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "data" / "vectors"


def load(name):
    return json.loads((VECTORS / name).read_text())


def payload(recorded):
    frame = bytes.fromhex(recorded["frame_hex"])
    assert len(frame) - 4 == int.from_bytes(frame[:4], "big")
    return frame[4:]


def data(recorded):
    """The value of a data message, which encodes to the recorded bytes."""
    envelope = wire.read_envelope(payload(recorded))
    assert envelope.kind == wire.DATA and envelope.ttl == wire.TTL and envelope.payload() == payload(recorded)
    value = values.decode(envelope.body)
    assert wire.data(envelope.sender, envelope.topic, value, envelope.receiver).payload() == payload(recorded)
    assert values.read(json.loads(json.dumps(values.show(value)))) == value
    return envelope.topic, value


def of_json(shown):
    """A value in Broker's JSON form."""
    kind, inner = shown["@data-type"], shown["data"]
    match kind:
        case "none":
            return None
        case "boolean" | "string":
            return inner
        case "real":
            return values.Real(float(inner))
        case "address":
            return values.Address.of(inner)
        case "enum-value":
            return values.Enum(inner)
        case "timespan":
            assert inner.endswith("ns")
            return values.Timespan(int(inner.removesuffix("ns")))
        case "timestamp":
            assert inner == "1970-01-01T00:00:01.000"
            return values.Timestamp(10**9)
        case "vector":
            return list(map(of_json, inner))
        case "set":
            return values.Set(map(of_json, inner))
        case "table":
            return values.Table((of_json(one["key"]), of_json(one["value"])) for one in inner)
    return values.READ[kind](inner)


def informal(shown):
    """The rendering of broker-2.8.0-events.json."""
    if isinstance(shown, dict):
        ((kind, inner),) = shown.items()
        return values.Set(map(informal, inner)) if kind == "set" else values.READ[kind](inner)
    if isinstance(shown, list):
        return list(map(informal, shown))
    return values.Integer(shown) if type(shown) is int else shown


def rendered(value):
    """The rendering of the transcript, which does not tell numbers apart."""
    match value:
        case values.Count(number) | values.Integer(number) | values.Real(number):
            return number
        case values.Timestamp(ns) | values.Timespan(ns):
            return ns / 1e9
        case values.Address(packed):
            return f"addr:{packed.hex()}"
        case values.Port(number, protocol):
            return f"port:{number}/{protocol}"
        case values.Enum(name):
            return f"enum:{name}"
        case values.Set():
            return {"set": list(map(rendered, value.elements))}
        case values.Table():
            return {"table": [[rendered(key), rendered(element)] for key, element in value.entries]}
        case list():
            return list(map(rendered, value))
    return value


class Vectors(unittest.TestCase):
    def test_values(self):
        vectors = load("broker-2.8.0-frames.json")["vectors"]
        tags = set()
        for vector in vectors:
            with self.subTest(vector["name"]):
                topic, value = data(vector)
                self.assertEqual(topic, vector["topic"])
                if "json" in vector:
                    self.assertEqual(value, of_json(vector["json"]))
                    tags.add(values.rank(value)[0])
                else:
                    self.assertEqual(Event.of(value).name, vector["event"])
        self.assertEqual(tags, set(range(15)))

    def test_events(self):
        for vector in load("broker-2.8.0-events.json")["events"]:
            with self.subTest(vector["event"]):
                topic, value = data(vector)
                event = Event(vector["event"], list(map(informal, vector["args"])))
                self.assertEqual((topic, Event.of(value)), (vector["topic"], event))

    def test_responses_are_read(self):
        read = 0
        for vector in load("broker-2.8.0-events.json")["events"]:
            event = Event.of(data(vector)[1])
            for dialect in DIALECTS.values():
                for request in dialect.pairs:
                    response = dialect.response(request, event)
                    if response is not None:
                        self.assertEqual(response["reqid"], event.args[0])
                        read += 1
        self.assertEqual(read, 9)

    def test_transcript(self):
        messages, understood = 0, 0
        for connection in load("zeek-8.0.10-management-transcript.json")["connections"]:
            for recorded in connection["frames"]:
                kind = recorded["type"]
                if kind in wire.NAMES.values():
                    message = wire.read_message(payload(recorded))
                    self.assertEqual((message.name, message.payload()), (kind, payload(recorded)))
                    continue
                envelope = wire.read_envelope(payload(recorded))
                self.assertEqual((wire.KINDS[envelope.kind], envelope.topic), (kind, recorded["topic"]))
                self.assertEqual(envelope.payload(), payload(recorded))
                if kind == "routing_update":
                    reader = wire.Reader(envelope.body)
                    self.assertEqual(wire.filter_bytes(wire.read_filter(reader)), envelope.body)
                    self.assertEqual(reader.left(), 0)
                if kind == "data":
                    _, value = data(recorded)
                    self.assertEqual(rendered(value), recorded["decoded"])
                    messages += 1
                    understood += self.written_again(Event.of(value))
        self.assertGreater(messages, 50)
        self.assertGreater(understood, 15)

    def written_again(self, event):
        """Whether this is an event that `management` writes; then it writes the same."""
        if event is None:
            return False
        if event.name.endswith("notify_node_hello"):
            self.assertEqual(node_hello(*event.args), event)
        elif event.name.endswith("Node::API::node_dispatch_response"):
            reqid, result = event.args
            self.assertEqual(node_answer(reqid, result[5], data=result[3], error=result[4]), event)
        elif event.name.endswith("Node::API::node_dispatch_request"):
            self.assertEqual(node_dispatch(event)["reqid"], event.args[0])
        else:
            return any(dialect.response(pair, event) for dialect in DIALECTS.values() for pair in dialect.pairs)
        return True

    def test_handshakes(self):
        recordings = [(load("broker-2.8.0-frames.json"), "first_frames")]
        recordings += [(one, "frames") for one in load("zeek-8.0.10-management-transcript.json")["connections"]]
        for recording, key in recordings:
            for recorded in recording[key]:
                if len(payload(recorded)) < 37 and payload(recorded)[0] in wire.NAMES:
                    self.assertEqual(wire.read_message(payload(recorded)).payload(), payload(recorded))

    def test_the_reals_that_broker_writes_its_own_way(self):
        for number, form in [
            (float("inf"), "04fff0000000000000"),
            (float("-inf"), "047ff0000000000000"),
            (5e-324, "040000000000000000"),
        ]:
            self.assertEqual(values.encode(values.Real(number)).hex(), form)
        self.assertEqual(values.decode(bytes.fromhex("04fff0000000000000")), values.Real(float("inf")))
        self.assertEqual(values.encode(values.Real(float("nan"))).hex(), "04" + "ff" * 8)

    def test_what_is_cut_short_is_no_value(self):
        for vector in load("broker-2.8.0-events.json")["events"]:
            body = wire.read_envelope(payload(vector)).body
            for end in range(len(body)):
                with self.assertRaises(values.Malformed):
                    values.decode(body[:end])
