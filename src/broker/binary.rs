//! Broker's binary encoding of values (`format::bin::v1`), both ways.
//!
//! Writing is canonical: sets and tables go out in Broker's order, so equal values are equal bytes. Reading accepts any
//! order, refuses duplicates as Broker does, and checks every count against the input that is left before anything is
//! allocated for it, so that memory is bounded by the size of the input.
//!
//! Reals are IEEE 754 but for a quirk of CAF's packer that is on the wire since the first release: the signs of the
//! infinities are swapped, NaN is all ones, and subnormals come out as garbage, so they are flushed to zero both ways.

use super::data::{Address, Data, Port, Protocol, Set, Subnet, Table};

/// What a value may cost its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Containers inside each other.
    pub depth: usize,
    /// Values altogether. One takes 32 bytes in memory and may take a single byte on the wire.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 64, values: 1 << 20 }
    }
}

/// Where and why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no Broker value, byte {at}: {problem}")]
pub struct DecodeError {
    /// Offset in the bytes that were given.
    pub at: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with bytes that are to be a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes end in the middle of a value.
    #[error("the bytes end early: {needed} more are needed and {left} are left")]
    Truncated {
        /// How many more the value needs at least.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// A container claims more elements than could follow. Nothing was allocated for them.
    #[error("{count} elements are announced, which the {left} bytes left cannot hold")]
    Count {
        /// Elements that it claims.
        count: usize,
        /// Bytes that follow.
        left: usize,
    },
    /// It is nested deeper than [`Limits::depth`] allows.
    #[error("containers are nested deeper than {limit} levels")]
    Depth {
        /// The most containers inside each other.
        limit: usize,
    },
    /// It holds more values than [`Limits::values`] allows.
    #[error("more than {limit} values")]
    Values {
        /// The most values altogether.
        limit: usize,
    },
    /// The first byte of a value is none of the 15 tags.
    #[error("there is no type with tag {0:#04x}")]
    Tag(u8),
    /// A variable-length number does not fit into 32 bits.
    #[error("a length takes more than 32 bits")]
    Length,
    /// A port's last byte is none of the four protocols.
    #[error("there is no port protocol {0}")]
    Protocol(u8),
    /// A subnet counts more bits than an address has.
    #[error("a subnet of {0} bits")]
    SubnetBits(u8),
    /// Names of enum values are text; strings may be any bytes.
    #[error("an enum's name is not UTF-8")]
    EnumName,
    /// Broker refuses such a set or table, too.
    #[error("a set element or table key occurs twice")]
    Duplicate,
    /// The value ends before the bytes do.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
}

impl Problem {
    /// More bytes might have made it a value.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Count { .. })
    }
}

/// Reads exactly one value from all of `bytes`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Data, DecodeError> {
    let mut decoder = Decoder { reader: Reader::new(bytes), limits, values: 0, owed: 0 };
    decoder.claim(1, 1)?;
    let data = decoder.value(0)?;
    match decoder.reader.left() {
        0 => Ok(data),
        left => Err(decoder.reader.error(Problem::Trailing(left))),
    }
}

/// The encoding of `data`, without tag or length around it.
pub fn encode(data: &Data) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(data, &mut out);
    out
}

/// Appends the encoding of `data`.
pub fn encode_into(data: &Data, out: &mut Vec<u8>) {
    match data {
        Data::None => out.push(0x00),
        Data::Boolean(value) => out.extend([0x01, u8::from(*value)]),
        Data::Count(value) => put(out, 0x02, &value.to_be_bytes()),
        Data::Integer(value) => put(out, 0x03, &value.to_be_bytes()),
        Data::Real(value) => put(out, 0x04, &real_to_wire(value.0).to_be_bytes()),
        Data::String(bytes) => {
            out.push(0x05);
            put_bytes(out, bytes);
        }
        Data::Address(address) => put(out, 0x06, &address.0),
        Data::Subnet(subnet) => {
            put(out, 0x07, &subnet.address().0);
            out.push(subnet.bits());
        }
        Data::Port(port) => {
            put(out, 0x08, &port.number.to_be_bytes());
            out.push(port.protocol.number());
        }
        Data::Timestamp(ns) => put(out, 0x09, &ns.to_be_bytes()),
        Data::Timespan(ns) => put(out, 0x0a, &ns.to_be_bytes()),
        Data::Enum(name) => {
            out.push(0x0b);
            put_bytes(out, name.as_bytes());
        }
        Data::Set(set) => {
            out.push(0x0c);
            put_varbyte(out, set.as_slice().len());
            set.as_slice().iter().for_each(|element| encode_into(element, out));
        }
        Data::Table(table) => {
            out.push(0x0d);
            put_varbyte(out, table.as_slice().len());
            for (key, value) in table.as_slice() {
                encode_into(key, out);
                encode_into(value, out);
            }
        }
        Data::Vector(elements) => {
            out.push(0x0e);
            put_varbyte(out, elements.len());
            elements.iter().for_each(|element| encode_into(element, out));
        }
    }
}

fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(body);
}

/// A length in 7-bit groups, least significant first.
pub(super) fn put_varbyte(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varbyte(out, bytes.len());
    out.extend_from_slice(bytes);
}

const WIRE_INFINITY: u64 = 0xfff0_0000_0000_0000;
const WIRE_MINUS_INFINITY: u64 = 0x7ff0_0000_0000_0000;
const WIRE_NAN: u64 = u64::MAX;
const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
const SIGN: u64 = 1 << 63;

fn real_to_wire(value: f64) -> u64 {
    if value.is_nan() {
        WIRE_NAN
    } else if value == f64::INFINITY {
        WIRE_INFINITY
    } else if value == f64::NEG_INFINITY {
        WIRE_MINUS_INFINITY
    } else if value.is_subnormal() {
        value.to_bits() & SIGN
    } else {
        value.to_bits()
    }
}

fn real_from_wire(bits: u64) -> f64 {
    match bits {
        WIRE_INFINITY => f64::INFINITY,
        WIRE_MINUS_INFINITY => f64::NEG_INFINITY,
        _ if bits & EXPONENT == EXPONENT => f64::NAN,
        _ if bits & EXPONENT == 0 => f64::from_bits(bits & SIGN),
        _ => f64::from_bits(bits),
    }
}

/// A cursor over bytes of a peer. Also reads handshake messages and envelopes.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn error(&self, problem: Problem) -> DecodeError {
        DecodeError { at: self.at, problem }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.rest();
        match rest.split_at_checked(count) {
            Some((taken, _)) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.error(Problem::Truncated { needed: count - rest.len(), left: rest.len() })),
        }
    }

    /// All that is left, without taking it.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Broker's accumulator has 32 bits, and forms that are longer than needed are fine.
    pub fn varbyte(&mut self) -> Result<usize, DecodeError> {
        let start = self.clone();
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return match u32::try_from(value) {
                    Ok(length) => Ok(length as usize),
                    Err(_) => Err(start.error(Problem::Length)),
                };
            }
        }
        Err(start.error(Problem::Length))
    }

    /// A length and as many bytes.
    pub fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varbyte()?;
        self.bytes(length)
    }
}

struct Decoder<'a, 'l> {
    reader: Reader<'a>,
    limits: &'l Limits,
    /// Values announced so far, those not yet read included.
    values: usize,
    /// Of these, how many are still to be read. Each takes a byte or more, so all of them must fit into what is left:
    /// without this, containers inside each other could each announce (and allocate for) all of the input.
    owed: usize,
}

impl Decoder<'_, '_> {
    /// Announces `count` elements of `each` values, before anything is allocated for them.
    fn claim(&mut self, count: usize, each: usize) -> Result<(), DecodeError> {
        let left = self.reader.left();
        let values = count.saturating_mul(each);
        self.owed = self.owed.saturating_add(values);
        self.values = self.values.saturating_add(values);
        if self.owed > left {
            return Err(self.reader.error(Problem::Count { count, left }));
        }
        if self.values > self.limits.values {
            return Err(self.reader.error(Problem::Values { limit: self.limits.values }));
        }
        Ok(())
    }

    fn container(&mut self, depth: usize, each: usize) -> Result<usize, DecodeError> {
        if depth >= self.limits.depth {
            return Err(self.reader.error(Problem::Depth { limit: self.limits.depth }));
        }
        let count = self.reader.varbyte()?;
        self.claim(count, each)?;
        Ok(count)
    }

    fn elements(&mut self, depth: usize) -> Result<Vec<Data>, DecodeError> {
        let count = self.container(depth, 1)?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(self.value(depth + 1)?);
        }
        Ok(elements)
    }

    fn value(&mut self, depth: usize) -> Result<Data, DecodeError> {
        let start = self.reader.clone();
        self.owed = self.owed.saturating_sub(1);
        Ok(match self.reader.u8()? {
            0x00 => Data::None,
            0x01 => Data::Boolean(self.reader.u8()? != 0),
            0x02 => Data::Count(self.reader.u64()?),
            0x03 => Data::Integer(self.reader.i64()?),
            0x04 => Data::real(real_from_wire(self.reader.u64()?)),
            0x05 => Data::String(self.reader.counted()?.to_vec()),
            0x06 => Data::Address(Address(self.reader.array()?)),
            0x07 => {
                let address = Address(self.reader.array()?);
                let bits = self.reader.u8()?;
                Data::Subnet(Subnet::new(address, bits).ok_or_else(|| start.error(Problem::SubnetBits(bits)))?)
            }
            0x08 => {
                let number = self.reader.u16()?;
                let protocol = self.reader.u8()?;
                let protocol =
                    Protocol::from_number(protocol).ok_or_else(|| start.error(Problem::Protocol(protocol)))?;
                Data::Port(Port { number, protocol })
            }
            0x09 => Data::Timestamp(self.reader.i64()?),
            0x0a => Data::Timespan(self.reader.i64()?),
            0x0b => {
                let name = str::from_utf8(self.reader.counted()?).map_err(|_| start.error(Problem::EnumName))?;
                Data::Enum(name.to_owned())
            }
            0x0c => {
                let elements = self.elements(depth)?;
                Data::Set(Set::new(elements).map_err(|_| start.error(Problem::Duplicate))?)
            }
            0x0d => {
                let count = self.container(depth, 2)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    entries.push((self.value(depth + 1)?, self.value(depth + 1)?));
                }
                Data::Table(Table::new(entries).map_err(|_| start.error(Problem::Duplicate))?)
            }
            0x0e => Data::Vector(self.elements(depth)?),
            tag => return Err(start.error(Problem::Tag(tag))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Data, DecodeError> {
        decode(bytes, &Limits::default())
    }

    #[test]
    fn reals_follow_the_quirk() {
        for (value, bytes) in [
            (1.5, 0x3ff8_0000_0000_0000u64),
            (0.0, 0),
            (-0.0, SIGN),
            (f64::INFINITY, 0xfff0_0000_0000_0000),
            (f64::NEG_INFINITY, 0x7ff0_0000_0000_0000),
            (f64::NAN, u64::MAX),
        ] {
            assert_eq!(real_to_wire(value), bytes, "{value}");
            assert_eq!(Data::real(real_from_wire(bytes)), Data::real(value));
        }
        assert_eq!(real_to_wire(1e-310), 0);
        assert_eq!(real_to_wire(-1e-310).to_be_bytes(), (-0.0f64).to_be_bytes());
        assert!(real_from_wire(0x7ff8_0000_0000_0001).is_nan());
    }

    #[test]
    fn any_order_is_read_and_the_canonical_one_written() {
        let unsorted = [0x0c, 2, 5, 1, b'b', 5, 1, b'a'];
        assert_eq!(encode(&read(&unsorted).unwrap()), [0x0c, 2, 5, 1, b'a', 5, 1, b'b']);
        assert_eq!(read(&[0x0c, 2, 0, 0]).unwrap_err().problem, Problem::Duplicate);
        assert_eq!(read(&[0x0d, 2, 0, 0, 0, 1, 1]).unwrap_err().problem, Problem::Duplicate);
    }

    #[test]
    fn lengths_longer_than_needed_are_fine_and_endless_ones_are_not() {
        assert_eq!(read(&[0x05, 0x81, 0x00, b'x']).unwrap(), Data::string("x"));
        let error = read(&[0x05, 0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err();
        assert_eq!(error, DecodeError { at: 1, problem: Problem::Length });
        assert_eq!(read(&[0x05, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).unwrap_err().problem, Problem::Length);
    }

    #[test]
    fn counts_are_believed_only_as_far_as_the_input_goes() {
        // 64 vectors inside each other, each announcing 4 billion elements.
        let bomb: Vec<u8> = [0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f].repeat(64);
        let error = read(&bomb).unwrap_err();
        assert!(matches!(error.problem, Problem::Count { .. }), "{error}");
        // Each announces only as much as there is, but not all of them can be right.
        let mut nested = Vec::new();
        for _ in 0..32 {
            nested.extend([0x0e, 0xd0, 0x0f]);
        }
        nested.resize(2096, 0);
        let error = read(&nested).unwrap_err();
        assert!(matches!(error.problem, Problem::Count { .. }), "{error}");
        assert!(error.at < 10, "noticed only at {}", error.at);
    }

    #[test]
    fn depth_and_number_of_values_are_limited() {
        let nested = |depth: usize| [[0x0e, 1].repeat(depth), vec![0]].concat();
        assert!(read(&nested(64)).is_ok());
        assert_eq!(read(&nested(65)).unwrap_err().problem, Problem::Depth { limit: 64 });
        assert_eq!(read(&nested(100_000)).unwrap_err().problem, Problem::Depth { limit: 64 });
        let mut wide = vec![0x0e];
        put_varbyte(&mut wide, 100);
        wide.resize(102, 0);
        let limits = Limits { depth: 1, values: 101 };
        assert!(decode(&wide, &limits).is_ok());
        let error = decode(&wide, &Limits { depth: 1, values: 100 }).unwrap_err();
        assert_eq!(error, DecodeError { at: 2, problem: Problem::Values { limit: 100 } });
    }

    #[test]
    fn errors_name_the_byte() {
        assert_eq!(read(&[0x0e, 2, 0, 0x0f]).unwrap_err(), DecodeError { at: 3, problem: Problem::Tag(0x0f) });
        assert_eq!(read(&[0, 0]).unwrap_err(), DecodeError { at: 1, problem: Problem::Trailing(1) });
        assert_eq!(read(&[8, 0, 80, 4]).unwrap_err(), DecodeError { at: 0, problem: Problem::Protocol(4) });
        assert_eq!(read(&[0x0b, 1, 0xff]).unwrap_err().problem, Problem::EnumName);
        let mut subnet = vec![7];
        subnet.resize(17, 0);
        subnet.push(129);
        assert_eq!(read(&subnet).unwrap_err().problem, Problem::SubnetBits(129));
        assert!(read(&[]).unwrap_err().problem.is_incomplete());
    }
}
