"""Broker's data model and its binary encoding (`format::bin::v1` of Broker 2.3 to 2.8).

A value is one of Python's own where those tell it apart: None, bool, bytes-like text as `str` (or `bytes`, if it is not
UTF-8), list for a vector. The others have a class here. `show` and `read` turn values to JSON and back without loss.
"""

import ipaddress
import struct
from dataclasses import dataclass

DEPTH = 64
PROTOCOLS = ["?", "tcp", "udp", "icmp"]


class Malformed(ValueError):
    """Bytes that are no value."""


@dataclass(frozen=True)
class Count:
    value: int


@dataclass(frozen=True)
class Integer:
    value: int


@dataclass(frozen=True)
class Real:
    value: float


@dataclass(frozen=True)
class Address:
    bytes: bytes

    @classmethod
    def of(cls, text):
        address = ipaddress.ip_address(text)
        return cls(address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed)

    def __str__(self):
        address = ipaddress.IPv6Address(self.bytes)
        return str(address.ipv4_mapped or address)


@dataclass(frozen=True)
class Subnet:
    address: Address
    # In terms of 128 bits, as on the wire.
    length: int

    @classmethod
    def of(cls, text):
        address, length = text.split("/")
        return cls(Address.of(address), int(length) + (96 if "." in address else 0))

    def __str__(self):
        address = str(self.address)
        return f"{address}/{self.length - 96 if '.' in address else self.length}"


@dataclass(frozen=True)
class Port:
    number: int
    protocol: int

    @classmethod
    def of(cls, text):
        number, protocol = text.split("/")
        return cls(int(number), PROTOCOLS.index(protocol))

    def __str__(self):
        return f"{self.number}/{PROTOCOLS[self.protocol]}"


@dataclass(frozen=True)
class Timestamp:
    ns: int


@dataclass(frozen=True)
class Timespan:
    ns: int


@dataclass(frozen=True)
class Enum:
    name: str


class Set:
    def __init__(self, elements):
        self.elements = ordered(list(elements), lambda element: element)

    def __eq__(self, other):
        return isinstance(other, Set) and self.elements == other.elements

    def __repr__(self):
        return f"Set({self.elements})"


class Table:
    def __init__(self, entries):
        self.entries = ordered([tuple(entry) for entry in entries], lambda entry: entry[0])

    def __eq__(self, other):
        return isinstance(other, Table) and self.entries == other.entries

    def __repr__(self):
        return f"Table({self.entries})"


def ordered(elements, key):
    """In Broker's order, which is first by type and then by value. Two that are equal cannot be."""
    elements.sort(key=lambda element: rank(key(element)))
    for one, next_one in zip(elements, elements[1:]):
        if rank(key(one)) == rank(key(next_one)):
            raise Malformed(f"{key(one)} is there twice")
    return elements


def raw(text):
    return text if isinstance(text, bytes) else text.encode()


def rank(value):
    """What values are compared by."""
    match value:
        case None:
            return (0,)
        case bool():
            return (1, value)
        case Count(number):
            return (2, number)
        case Integer(number):
            return (3, number)
        case Real(number):
            return (4, number)
        case str() | bytes():
            return (5, raw(value))
        case Address(packed):
            return (6, packed)
        case Subnet(address, length):
            return (7, address.bytes, length)
        case Port(number, protocol):
            return (8, number, protocol)
        case Timestamp(ns):
            return (9, ns)
        case Timespan(ns):
            return (10, ns)
        case Enum(name):
            return (11, name.encode())
        case Set():
            return (12, [rank(element) for element in value.elements])
        case Table():
            return (13, [(rank(key), rank(element)) for key, element in value.entries])
        case list():
            return (14, [rank(element) for element in value])
    raise TypeError(f"{value!r} is no value of Broker's")


def varbyte(number):
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def counted(data):
    return varbyte(len(data)) + data


POSITIVE_INFINITY = bytes.fromhex("fff0000000000000")
NEGATIVE_INFINITY = bytes.fromhex("7ff0000000000000")
NAN = b"\xff" * 8


def encode_real(number):
    if number != number:
        return NAN
    if number in (float("inf"), float("-inf")):
        # Broker's packer has the signs of the infinities swapped.
        return POSITIVE_INFINITY if number > 0 else NEGATIVE_INFINITY
    if 0 < abs(number) < 2.2250738585072014e-308:
        number = 0.0
    return struct.pack(">d", number)


def encode(value):
    tag = bytes([rank(value)[0]])
    match value:
        case None:
            return tag
        case bool():
            return tag + bytes([value])
        case Count(number):
            return tag + struct.pack(">Q", number)
        case Integer(number):
            return tag + struct.pack(">q", number)
        case Real(number):
            return tag + encode_real(number)
        case str() | bytes():
            return tag + counted(raw(value))
        case Address(packed):
            return tag + packed
        case Subnet(address, length):
            return tag + address.bytes + bytes([length])
        case Port(number, protocol):
            return tag + struct.pack(">HB", number, protocol)
        case Timestamp(ns) | Timespan(ns):
            return tag + struct.pack(">q", ns)
        case Enum(name):
            return tag + counted(name.encode())
        case Set():
            return tag + varbyte(len(value.elements)) + b"".join(map(encode, value.elements))
        case Table():
            entries = (encode(key) + encode(element) for key, element in value.entries)
            return tag + varbyte(len(value.entries)) + b"".join(entries)
        case list():
            return tag + varbyte(len(value)) + b"".join(map(encode, value))


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        if count > self.left():
            raise Malformed(f"{count} bytes wanted at {self.at}, {self.left()} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def varbyte(self):
        number, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << shift
            if number > 0xFFFFFFFF:
                raise Malformed("a size over 32 bits")
            if byte < 0x80:
                return number
            shift += 7

    def counted(self):
        return self.take(self.varbyte())

    def elements(self, read):
        count = self.varbyte()
        if count > self.left():
            raise Malformed(f"{count} elements in {self.left()} bytes")
        return [read() for _ in range(count)]

    def value(self, depth=DEPTH):
        if depth == 0:
            raise Malformed("nested too deep")

        def inner():
            return self.value(depth - 1)

        (tag,) = self.take(1)
        match tag:
            case 0:
                return None
            case 1:
                return self.take(1) != b"\0"
            case 2:
                return Count(*self.unpack(">Q"))
            case 3:
                return Integer(*self.unpack(">q"))
            case 4:
                return Real(decode_real(self.take(8)))
            case 5:
                return text(self.counted())
            case 6:
                return Address(self.take(16))
            case 7:
                address, length = Address(self.take(16)), self.take(1)[0]
                if length > 128:
                    raise Malformed(f"a subnet of {length} bits")
                return Subnet(address, length)
            case 8:
                number, protocol = self.unpack(">HB")
                if protocol > 3:
                    raise Malformed(f"a port of protocol {protocol}")
                return Port(number, protocol)
            case 9:
                return Timestamp(*self.unpack(">q"))
            case 10:
                return Timespan(*self.unpack(">q"))
            case 11:
                return Enum(self.counted().decode())
            case 12:
                return Set(self.elements(inner))
            case 13:
                return Table(self.elements(lambda: (inner(), inner())))
            case 14:
                return self.elements(inner)
        raise Malformed(f"there is no type {tag}")


def decode_real(data):
    if data == POSITIVE_INFINITY:
        return float("inf")
    if data == NEGATIVE_INFINITY:
        return float("-inf")
    (number,) = struct.unpack(">d", data)
    return number if abs(number) != float("inf") else float("nan")


def text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def decode(data):
    reader = Reader(data)
    value = reader.value()
    if reader.left():
        raise Malformed(f"{reader.left()} bytes after the value")
    return value


def show(value):
    """As JSON: bare where JSON has the type, else an object whose one key is the type."""
    match value:
        case None | bool() | str():
            return value
        case bytes():
            return {"bytes": value.hex()}
        case Count(number):
            return {"count": number}
        case Integer(number):
            return {"integer": number}
        case Real(number):
            return {"real": number}
        case Address():
            return {"address": str(value)}
        case Subnet():
            return {"subnet": str(value)}
        case Port():
            return {"port": str(value)}
        case Timestamp(ns):
            return {"timestamp": ns}
        case Timespan(ns):
            return {"timespan": ns}
        case Enum(name):
            return {"enum": name}
        case Set():
            return {"set": [show(element) for element in value.elements]}
        case Table():
            return {"table": [[show(key), show(element)] for key, element in value.entries]}
        case list():
            return [show(element) for element in value]


READ = {
    "bytes": bytes.fromhex,
    "count": Count,
    "integer": Integer,
    "real": Real,
    "address": Address.of,
    "subnet": Subnet.of,
    "port": Port.of,
    "timestamp": Timestamp,
    "timespan": Timespan,
    "enum": Enum,
    "set": lambda elements: Set(map(read, elements)),
    "table": lambda entries: Table((read(key), read(element)) for key, element in entries),
}


def read(shown):
    """What `show` shows."""
    if isinstance(shown, list):
        return [read(element) for element in shown]
    if isinstance(shown, dict):
        ((kind, value),) = shown.items()
        return READ[kind](value)
    return shown
