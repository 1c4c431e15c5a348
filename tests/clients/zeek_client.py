"""Reads cluster files as zeek-client does: a JSON string with a file's text in each line of standard input, and for each a
line of JSON with what zeek-client would send to the controller, or why it refuses the file.

Everything is zeek-client's own, from the parser to the message, but for the host's name: that is `here`.
"""

import configparser
import io
import json
import logging
import socket
import sys

from zeekclient import types
from zeekclient.logs import LOG

socket.gethostname = lambda: "here"


class Kept(logging.Handler):
    """What zeek-client says."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def read(text, kept):
    parser = configparser.ConfigParser(allow_no_value=True)
    # As a file is: all three kinds of line ends are one.
    parser.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    config = types.Configuration.from_config_parser(parser)
    if config is None:
        return {"refused": kept.said[-1]}
    # What is wrong with ports shows here only.
    config.to_brokertype()
    nodes = []
    for node in config.nodes:
        fields = node.to_json_data()
        fields["role"] = node.role.name
        nodes.append(fields)
    instances = [{"name": i.name, "host": i.host, "port": i.port and int(i.port)} for i in config.instances]
    return {"instances": instances, "nodes": nodes}


def main():
    kept = Kept()
    LOG.handlers = [kept]
    LOG.propagate = False
    for line in sys.stdin:
        kept.said.clear()
        try:
            answer = read(json.loads(line), kept)
        # zeek-client ends with a traceback then, whatever it is.
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer))


main()
