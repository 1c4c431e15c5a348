"""Two of this peer's endpoints peer with each other: in both orders of their ids, plain and over TLS."""

import unittest

from . import wire
from .management import Event
from .peer import Endpoint

PATIENCE = 10


class Peers(unittest.TestCase):
    def pair(self, dialler_first, tls, **how):
        ids = [b"\x01" * 16, b"\x02" * 16]
        dialler, acceptor = ids if dialler_first else reversed(ids)
        listening, dialling = Endpoint(["a"], acceptor), Endpoint(["b"], dialler)
        port = listening.listen(tls)
        one = dialling.dial("127.0.0.1", port, tls, **how)
        other = listening.wait_accepted(1, PATIENCE)
        self.assertIsNotNone(other, listening.failures)
        self.addCleanup(listening.close)
        return one, other

    def test_both_orders_plain_and_anonymous(self):
        for dialler_first in (True, False):
            for tls in (None, {}):
                one, other = self.pair(dialler_first, tls)
                self.assertEqual((one.role, other.role)[not dialler_first], "originator")
                self.assertEqual((one.remote_filter, other.remote_filter), (["a"], ["b"]))
                self.assertEqual(one.connection.cipher, None if tls is None else ["TLSv1.2", "AECDH-AES256-SHA"])
                event = Event("x", ["y"])
                one.publish("a/b", event)
                other.publish("b/c", event)
                self.assertEqual(other.wait(PATIENCE, lambda topic, got: topic == "a/b" and got == event), True)
                self.assertEqual(one.wait(PATIENCE, lambda topic, got: topic == "b/c" and got == event), True)
                self.assertTrue(one.leave())
                self.assertIsNotNone(other.wait_closed(PATIENCE))
                self.assertEqual(other.pings, 1)

    def test_one_byte_at_a_time(self):
        one, other = self.pair(True, None, segment=1)
        one.publish("a", Event("x", []))
        self.assertTrue(other.wait(PATIENCE, lambda _topic, event: event.name == "x"))
        one.drop()
        other.drop()
        self.assertEqual((one.complaints, other.complaints), ([], []))

    def test_a_sender_that_is_not_the_peer_is_noticed(self):
        one, other = self.pair(True, None)
        one.send(wire.data(b"\x07" * 16, "a", Event("x", []).value()))
        self.assertTrue(other.wait(PATIENCE, lambda _topic, event: event.name == "x"))
        self.assertEqual(len(other.complaints), 1)
        one.drop()
        other.drop()
