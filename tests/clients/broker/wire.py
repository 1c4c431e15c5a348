"""Frames, handshake messages, envelopes and filters of Broker's protocol version 1, to bytes and back."""

import struct
import uuid
from dataclasses import dataclass

from .values import Malformed, Reader, counted, encode, varbyte

MAGIC = 0x5A45454B
NIL = bytes(16)
CONTROL = "<$>"
TTL = 16

HELLO, PROBE, VERSION_SELECT, DROP_CONN, ORIGINATOR_SYN, RESPONDER_SYN_ACK, ORIGINATOR_ACK = range(6, 13)
DATA, COMMAND, ROUTING_UPDATE, PING, PONG = range(1, 6)
NAMES = {
    HELLO: "hello",
    PROBE: "probe",
    VERSION_SELECT: "version_select",
    DROP_CONN: "drop_conn",
    ORIGINATOR_SYN: "originator_syn",
    RESPONDER_SYN_ACK: "responder_syn_ack",
    ORIGINATOR_ACK: "originator_ack",
}
KINDS = {DATA: "data", COMMAND: "command", ROUTING_UPDATE: "routing_update", PING: "ping", PONG: "pong"}
REDUNDANT, LOGIC_ERROR = 39, 40


def endpoint_text(endpoint):
    return str(uuid.UUID(bytes=endpoint))


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


def filter_bytes(topics):
    return varbyte(len(topics)) + b"".join(counted(topic.encode()) for topic in topics)


def read_filter(reader):
    return [topic.decode() for topic in reader.elements(reader.counted)]


def matches(topics, topic):
    """A filter matches what begins with one of its entries, byte for byte."""
    return any(topic.encode().startswith(entry.encode()) for entry in topics)


@dataclass(frozen=True)
class Message:
    """Of the handshake. What its tag does not carry is None."""

    tag: int
    sender: bytes | None = None
    versions: tuple | None = None
    code: int | None = None
    text: str | None = None
    filter: list | None = None

    @property
    def name(self):
        return NAMES[self.tag]

    def payload(self):
        out = bytes([self.tag])
        if self.tag <= DROP_CONN:
            out += struct.pack(">I", MAGIC)
        if self.sender is not None:
            out += self.sender
        if self.versions is not None:
            out += bytes(self.versions)
        if self.code is not None:
            out += bytes([self.code]) + counted(self.text.encode())
        if self.filter is not None:
            out += filter_bytes(self.filter)
        return out


def hello(sender):
    return Message(HELLO, sender=sender, versions=(1, 1))


def version_select(sender):
    return Message(VERSION_SELECT, sender=sender, versions=(1,))


def drop_conn(sender, code, text):
    return Message(DROP_CONN, sender=sender, code=code, text=text)


def read_message(payload):
    reader = Reader(payload)
    (tag,) = reader.take(1)
    if tag not in NAMES:
        raise Malformed(f"there is no handshake message {tag}")
    if tag <= DROP_CONN and reader.unpack(">I") != (MAGIC,):
        raise Malformed("the magic number is wrong")
    match tag:
        case 6:
            message = Message(tag, sender=reader.take(16), versions=tuple(reader.take(2)))
        case 8:
            message = Message(tag, sender=reader.take(16), versions=tuple(reader.take(1)))
        case 9:
            sender, code = reader.take(16), reader.take(1)[0]
            message = Message(tag, sender=sender, code=code, text=reader.counted().decode())
        case 10 | 11:
            message = Message(tag, filter=read_filter(reader))
        case _:
            message = Message(tag)
    if reader.left():
        raise Malformed(f"{reader.left()} bytes after {message.name}")
    return message


@dataclass(frozen=True)
class Envelope:
    sender: bytes
    receiver: bytes
    kind: int
    topic: str
    body: bytes
    ttl: int = TTL

    def payload(self):
        topic = self.topic.encode()
        head = struct.pack(">BHH", self.kind, self.ttl, len(topic))
        return self.sender + self.receiver + head + topic + self.body


def read_envelope(payload):
    reader = Reader(payload)
    sender, receiver = reader.take(16), reader.take(16)
    kind, ttl, length = reader.unpack(">BHH")
    if kind not in KINDS:
        raise Malformed(f"there is no envelope of type {kind}")
    topic = reader.take(length).decode()
    return Envelope(sender, receiver, kind, topic, reader.take(reader.left()), ttl)


def data(sender, topic, value, receiver=NIL):
    return Envelope(sender, receiver, DATA, topic, encode(value))


def control(sender, receiver, kind, body):
    return Envelope(sender, receiver, kind, CONTROL, body)
