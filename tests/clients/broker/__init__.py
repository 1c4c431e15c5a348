"""A Broker peer for tests: protocol version 1, Zeek's events and its management records. Standard library only.

Written from descriptions of the protocol, not from the agent's code, and shares nothing with it: what both agree on is
more likely right than what one of them says. `values` has the data model and its bytes, `wire` the frames, `handshake`
and `peer` the connections, `management` the events that a controller and a node speak, `drive` takes orders from a test.
"""
