"""Peerings: a TCP connection or TLS one, the handshake from both ends, and what goes over it afterwards.

An `Endpoint` has an id and a filter and either dials or listens. Each `Peering` has a thread that reads: it answers
pings at once, keeps the remote filter, and puts events where `wait` finds them.
"""

import os
import socket
import ssl
import threading
import time

from . import wire
from .management import Event
from .values import Malformed, decode

HANDSHAKE_LIMIT = 1 << 20
FRAME_LIMIT = 64 << 20
HANDSHAKE_DEADLINE = 10
BYE_DEADLINE = 3


class Refused(Exception):
    """The other end said drop_conn."""

    def __init__(self, code, text):
        super().__init__(f"refused: {code}: {text}")
        self.code = code


class Closed(Exception):
    """The other end closed the connection."""


def tls_context(side, material):
    """As Broker sets OpenSSL up: without certificates anonymous ECDH over P-384, with them mutual verification."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "acceptor" else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if material:
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_ciphers("HIGH:!aNULL:!MD5")
        if "cafile" in material or "capath" in material:
            context.load_verify_locations(material.get("cafile"), material.get("capath"))
        if "certificate" in material:
            context.load_cert_chain(material["certificate"], material["key"], material.get("passphrase"))
    else:
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("AECDH-AES256-SHA@SECLEVEL=0")
        context.set_ecdh_curve("secp384r1")
    return context


class Connection:
    """Frames over a socket. Segments of `segment` bytes each, if given."""

    def __init__(self, sock, tls, side, segment=None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(HANDSHAKE_DEADLINE)
        self.cipher = None
        if tls is not None:
            context = tls_context(side, tls)
            sock = context.wrap_socket(sock, server_side=side == "acceptor")
            self.cipher = [sock.version(), sock.cipher()[0]]
        self.sock = sock
        self.segment = segment
        self.writing = threading.Lock()
        self.buffer = bytearray()

    def write(self, payload):
        frame = wire.frame(payload)
        size = self.segment or len(frame)
        with self.writing:
            for at in range(0, len(frame), size):
                self.sock.sendall(frame[at : at + size])

    def exactly(self, count):
        while len(self.buffer) < count:
            got = self.sock.recv(1 << 16)
            if not got:
                raise Closed("the connection was closed" + (" inside a frame" if self.buffer else ""))
            self.buffer += got
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def read(self, limit):
        length = int.from_bytes(self.exactly(4), "big")
        if length > limit:
            raise Malformed(f"a frame of {length} bytes")
        return self.exactly(length)

    def close(self):
        # A thread that reads wakes up of this, not of close alone.
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def shake_hands(connection, endpoint, side):
    """Leads the handshake to its end. Returns the remote's id and filter, this side's role, and what went over the wire."""
    said = []

    def send(*messages):
        for message in messages:
            said.append(["sent", message.name])
            connection.write(message.payload())

    def receive(*wanted):
        # A probe may come early, and so may a refusal; once a version is selected neither has a place.
        while True:
            message = wire.read_message(connection.read(HANDSHAKE_LIMIT))
            said.append(["received", message.name])
            if message.tag in wanted:
                return message
            is_early = wanted[0] in (wire.HELLO, wire.VERSION_SELECT)
            if is_early and message.tag == wire.DROP_CONN:
                raise Refused(message.code, message.text)
            if not (is_early and message.tag == wire.PROBE):
                raise Malformed(f"{message.name} where {[wire.NAMES[tag] for tag in wanted]} was due")

    def originate():
        send(wire.version_select(endpoint.id), wire.Message(wire.ORIGINATOR_SYN, filter=endpoint.filter))
        remote_filter = receive(wire.RESPONDER_SYN_ACK).filter
        send(wire.Message(wire.ORIGINATOR_ACK))
        return remote_filter

    def respond():
        remote_filter = receive(wire.ORIGINATOR_SYN).filter
        send(wire.Message(wire.RESPONDER_SYN_ACK, filter=endpoint.filter))
        receive(wire.ORIGINATOR_ACK)
        return remote_filter

    if side == "acceptor":
        send(wire.Message(wire.PROBE))
        remote = receive(wire.HELLO).sender
        if endpoint.id < remote:
            return remote, originate(), "originator", said
        send(wire.hello(endpoint.id))
        if receive(wire.VERSION_SELECT).sender != remote:
            raise Malformed("another endpoint selected the version")
        return remote, respond(), "responder", said
    send(wire.hello(endpoint.id))
    first = receive(wire.HELLO, wire.VERSION_SELECT)
    is_originator = endpoint.id < first.sender
    if is_originator != (first.tag == wire.HELLO):
        raise Malformed(f"{first.name} from {wire.endpoint_text(first.sender)} is not its part")
    return first.sender, originate() if is_originator else respond(), "originator" if is_originator else "responder", said


class Peering:
    def __init__(self, endpoint, sock, side, tls, segment=None, deaf=False):
        self.endpoint = endpoint
        self.side = side
        self.connection = Connection(sock, tls, side, segment)
        try:
            self.remote, self.remote_filter, self.role, self.handshake = shake_hands(self.connection, endpoint, side)
        except BaseException:
            self.connection.close()
            raise
        self.news = threading.Condition()
        self.events = []
        self.closed = None
        self.pings = 0
        self.answers = []
        # What no peer should have sent.
        self.complaints = []
        self.connection.sock.settimeout(None)
        self.thread = None
        if not deaf:
            self.thread = threading.Thread(target=self.listen, daemon=True)
            self.thread.start()

    def listen(self):
        why = "closed"
        try:
            while True:
                self.take(wire.read_envelope(self.connection.read(FRAME_LIMIT)))
        except (OSError, Closed) as error:
            why = str(error)
        except ValueError as error:
            self.complaints.append(str(error))
            why = f"malformed: {error}"
        self.connection.close()
        with self.news:
            self.closed = why
            self.news.notify_all()

    def take(self, envelope):
        if envelope.sender != self.remote:
            self.complaints.append(f"sender {envelope.sender.hex()} is not the peer")
        if envelope.receiver not in (wire.NIL, self.endpoint.id):
            self.complaints.append(f"receiver {envelope.receiver.hex()} is not this endpoint")
        match envelope.kind:
            case wire.PING:
                self.pings += 1
                self.send(wire.control(self.endpoint.id, envelope.sender, wire.PONG, envelope.body))
            case wire.PONG:
                with self.news:
                    self.answers.append(envelope.body)
                    self.news.notify_all()
            case wire.ROUTING_UPDATE:
                reader = wire.Reader(envelope.body)
                self.remote_filter = wire.read_filter(reader)
            case wire.DATA:
                if envelope.receiver == wire.NIL and not wire.matches(self.endpoint.filter, envelope.topic):
                    self.complaints.append(f"nobody subscribed to {envelope.topic}")
                event = Event.of(decode(envelope.body))
                if event is not None:
                    with self.news:
                        self.events.append((envelope.topic, event))
                        self.news.notify_all()

    def send(self, envelope):
        self.connection.write(envelope.payload())

    def publish(self, topic, event):
        self.send(wire.data(self.endpoint.id, topic, event.value()))

    def wait(self, patience, want):
        """The first event from `start` on that `want` finds something in, or None."""
        deadline, at = time.monotonic() + patience, 0
        with self.news:
            while True:
                for topic, event in self.events[at:]:
                    found = want(topic, event)
                    if found is not None:
                        return found
                at = len(self.events)
                left = deadline - time.monotonic()
                if self.closed is not None or left <= 0 or not self.news.wait(left):
                    if at == len(self.events):
                        return None

    def wait_closed(self, patience):
        with self.news:
            self.news.wait_for(lambda: self.closed is not None, patience)
            return self.closed

    def ping(self, body, patience):
        self.send(wire.control(self.endpoint.id, self.remote, wire.PING, body))
        with self.news:
            return self.news.wait_for(lambda: body in self.answers or self.closed, patience) and body in self.answers

    def leave(self):
        """Says BYE, waits for the answer as Broker does, and closes. Whether it was answered."""
        answered = self.ping(b"BYE" + os.urandom(8), BYE_DEADLINE)
        self.drop()
        return answered

    def drop(self):
        self.connection.close()
        if self.thread is not None:
            self.thread.join()


class Endpoint:
    def __init__(self, topics, endpoint_id=None):
        self.id = endpoint_id or os.urandom(16)
        self.filter = topics
        self.listener = None
        self.accepted = []
        self.failures = []
        self.news = threading.Condition()

    def dial(self, host, port, tls, **how):
        return Peering(self, socket.create_connection((host, port), timeout=HANDSHAKE_DEADLINE), "dialler", tls, **how)

    def listen(self, tls, port=0, **how):
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.listener = listener

        def shake(sock):
            try:
                peering = Peering(self, sock, "acceptor", tls, **how)
            except (OSError, Closed, Refused, ValueError) as error:
                sock.close()
                with self.news:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    self.news.notify_all()
                return
            with self.news:
                self.accepted.append(peering)
                self.news.notify_all()

        def accept():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=shake, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    def wait_accepted(self, count, patience):
        """The peering that was accepted as number `count`, from 1."""
        with self.news:
            self.news.wait_for(lambda: len(self.accepted) >= count, patience)
            return self.accepted[count - 1] if len(self.accepted) >= count else None

    def close(self):
        if self.listener is not None:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.listener.close()
