//! Broker's data model: a value is one of 15 types.
//!
//! Values are ordered as Broker orders them, first by type (in the order of the tags on the wire), then by value. Sets
//! and tables are kept in this order and hold no duplicates, which makes equal values equal bytes in either encoding.

use std::cmp::Ordering;
use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A value. The variants stand in the order of the wire's tags, because the derived order depends on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// No value: a record's field that is not set.
    None,
    /// Zeek's `bool`.
    Boolean(bool),
    /// Zeek's `count`.
    Count(u64),
    /// Zeek's `int`.
    Integer(i64),
    /// Zeek's `double`.
    Real(Real),
    /// Any bytes; Zeek's strings need not be UTF-8.
    String(Vec<u8>),
    /// Zeek's `addr`.
    Address(Address),
    /// Zeek's `subnet`.
    Subnet(Subnet),
    /// Zeek's `port`.
    Port(Port),
    /// Nanoseconds since 1970-01-01 UTC.
    Timestamp(i64),
    /// Nanoseconds.
    Timespan(i64),
    /// The full name with its module, for example `Management::RUNNING`.
    Enum(String),
    /// Zeek's `set`; an element of a set with several index types is a vector.
    Set(Set),
    /// Zeek's `table`; a key with several index types is a vector.
    Table(Table),
    /// Zeek's `vector`, and its records: an element per field.
    Vector(Vec<Data>),
}

impl Data {
    /// A string with these characters, in UTF-8.
    pub fn string(text: impl Into<String>) -> Self {
        Self::String(text.into().into_bytes())
    }

    /// An enum value; `name` includes the module.
    pub fn enum_value(name: impl Into<String>) -> Self {
        Self::Enum(name.into())
    }

    /// Zeek's `double` with this value.
    pub fn real(value: f64) -> Self {
        Self::Real(Real(value))
    }

    /// The type as Broker's JSON names it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Boolean(_) => "boolean",
            Self::Count(_) => "count",
            Self::Integer(_) => "integer",
            Self::Real(_) => "real",
            Self::String(_) => "string",
            Self::Address(_) => "address",
            Self::Subnet(_) => "subnet",
            Self::Port(_) => "port",
            Self::Timestamp(_) => "timestamp",
            Self::Timespan(_) => "timespan",
            Self::Enum(_) => "enum-value",
            Self::Set(_) => "set",
            Self::Table(_) => "table",
            Self::Vector(_) => "vector",
        }
    }
}

/// A double with an order that is total, as containers need: the two zeros are equal (as they are to Broker), and NaN
/// is equal to itself and greater than any number.
#[derive(Debug, Clone, Copy)]
pub struct Real(pub f64);

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or_else(|| self.0.is_nan().cmp(&other.0.is_nan()))
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Real {}

/// An IP address as Broker holds it: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The address, IPv4 if it is one.
    pub fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    fn is_v4(self) -> bool {
        self.to_ip().is_ipv4()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(v4: Ipv4Addr) -> Self {
        Self(v4.to_ipv6_mapped().octets())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

/// A network: its address, and how many of the 128 bits count. IPv4 `/n` is `n + 96` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: Address,
    bits: u8,
}

impl Subnet {
    /// `None` if more than 128 bits are to count. The others are cleared, as Broker does when it makes one: else two that
    /// mean the same could stand in one set, and be the same in JSON.
    pub fn new(address: Address, bits: u8) -> Option<Self> {
        if bits > 128 {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        let address = Address((u128::from_be_bytes(address.0) & mask).to_be_bytes());
        Some(Self { address, bits })
    }

    /// The address, with the bits that do not count cleared.
    pub fn address(self) -> Address {
        self.address
    }

    /// How many of the 128 bits count; IPv4 `/n` is `n + 96`.
    pub fn bits(self) -> u8 {
        self.bits
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits.checked_sub(96) {
            Some(v4_bits) if self.address.is_v4() => write!(f, "{}/{v4_bits}", self.address),
            _ => write!(f, "{}/{}", Ipv6Addr::from(self.address.0), self.bits),
        }
    }
}

/// Why a text is no subnet or port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not `ADDRESS/BITS`, or has more bits than the address.
    #[error("a subnet is written ADDRESS/BITS")]
    Subnet,
    /// It is no number, or does not fit into 16 bits.
    #[error("a port is written NUMBER/tcp, /udp, /icmp or /?")]
    Port,
}

impl FromStr for Subnet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, bits) = text.split_once('/').ok_or(ParseError::Subnet)?;
        let ip: IpAddr = address.parse().map_err(|_| ParseError::Subnet)?;
        let bits: u8 = bits.parse().map_err(|_| ParseError::Subnet)?;
        // `::ffff:10.0.0.0/104` and `10.0.0.0/8` are one network; only the dotted form counts in 32 bits.
        let bits = match ip {
            IpAddr::V4(_) if bits <= 32 => bits + 96,
            IpAddr::V4(_) => return Err(ParseError::Subnet),
            IpAddr::V6(_) => bits,
        };
        Self::new(ip.into(), bits).ok_or(ParseError::Subnet)
    }
}

/// A transport protocol, in the order of its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Written `?`.
    Unknown,
    /// Written `tcp`.
    Tcp,
    /// Written `udp`.
    Udp,
    /// Written `icmp`; the number is a message type.
    Icmp,
}

impl Protocol {
    /// The number on the wire, 0 to 3.
    pub fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Tcp => 1,
            Self::Udp => 2,
            Self::Icmp => 3,
        }
    }

    /// `None` for numbers above 3.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Unknown,
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Icmp,
            _ => return None,
        })
    }
}

/// A port of a transport protocol, written `2200/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 0 to 65535; for ICMP the message type.
    pub number: u16,
    /// What the number counts in.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Unknown => "?",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for Port {
    type Err = ParseError;

    /// As Broker reads it: no protocol means tcp, a name it does not know means unknown.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (number, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((number, "tcp")) => (number, Protocol::Tcp),
            Some((number, "udp")) => (number, Protocol::Udp),
            Some((number, "icmp")) => (number, Protocol::Icmp),
            Some((number, _)) => (number, Protocol::Unknown),
        };
        let number = number.parse().map_err(|_| ParseError::Port)?;
        Ok(Self { number, protocol })
    }
}

/// A set or table was to hold an element or key twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a set element or table key occurs twice")]
pub struct Duplicate;

/// Values without duplicates, in Broker's order. A sorted vector rather than a tree: a peer that sends many tiny sets
/// must not make each cost a tree node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Set(Vec<Data>);

impl Set {
    /// Sorts; refuses duplicates, as Broker does when it reads.
    pub fn new(mut elements: Vec<Data>) -> Result<Self, Duplicate> {
        elements.sort_unstable();
        match elements.windows(2).any(|pair| pair.first() == pair.last()) {
            true => Err(Duplicate),
            false => Ok(Self(elements)),
        }
    }

    /// The elements, in Broker's order.
    pub fn as_slice(&self) -> &[Data] {
        &self.0
    }

    /// The elements, in Broker's order.
    pub fn into_vec(self) -> Vec<Data> {
        self.0
    }
}

/// Merges duplicates.
impl FromIterator<Data> for Set {
    fn from_iter<I: IntoIterator<Item = Data>>(elements: I) -> Self {
        let mut elements = Vec::from_iter(elements);
        elements.sort_unstable();
        elements.dedup();
        Self(elements)
    }
}

/// Keys and their values, without duplicate keys, in Broker's order of the keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Table(Vec<(Data, Data)>);

impl Table {
    /// Sorts by key; refuses duplicate keys.
    pub fn new(mut entries: Vec<(Data, Data)>) -> Result<Self, Duplicate> {
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        match entries.windows(2).any(|pair| pair.first().map(|e| &e.0) == pair.last().map(|e| &e.0)) {
            true => Err(Duplicate),
            false => Ok(Self(entries)),
        }
    }

    /// Keys and values, in Broker's order of the keys.
    pub fn as_slice(&self) -> &[(Data, Data)] {
        &self.0
    }

    /// Keys and values, in Broker's order of the keys.
    pub fn into_vec(self) -> Vec<(Data, Data)> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ordered_by_type_then_by_value() {
        let ascending = [
            Data::None,
            Data::Boolean(false),
            Data::Boolean(true),
            Data::Count(7),
            Data::Integer(-1),
            Data::Integer(1),
            Data::real(f64::NEG_INFINITY),
            Data::real(0.5),
            Data::real(f64::INFINITY),
            Data::real(f64::NAN),
            Data::string("a"),
            Data::string("ab"),
            Data::string("b"),
            Data::String(vec![0xff]),
            Data::Address("::1".parse().unwrap()),
            Data::Address("10.0.0.1".parse().unwrap()),
            Data::Address("2001:db8::1".parse().unwrap()),
            Data::Subnet("10.0.0.0/8".parse().unwrap()),
            Data::Subnet("10.0.0.0/9".parse().unwrap()),
            Data::Port("53/udp".parse().unwrap()),
            Data::Port("80/tcp".parse().unwrap()),
            Data::Port("80/udp".parse().unwrap()),
            Data::Timestamp(-1),
            Data::Timespan(-1),
            Data::enum_value("A"),
            Data::Set(Set::default()),
            Data::Table(Table::default()),
            Data::Vector(vec![]),
            Data::Vector(vec![Data::Count(1)]),
            Data::Vector(vec![Data::Count(1), Data::None]),
            Data::Vector(vec![Data::Count(2)]),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} against {b:?}");
            }
        }
    }

    #[test]
    fn sets_and_tables_hold_nothing_twice() {
        assert_eq!(Set::new(vec![Data::Count(1), Data::None, Data::Count(1)]), Err(Duplicate));
        assert_eq!(Set::new(vec![Data::real(0.0), Data::real(-0.0)]), Err(Duplicate));
        let entry = |value| (Data::Count(1), Data::Count(value));
        assert_eq!(Table::new(vec![entry(1), entry(2)]), Err(Duplicate));
        let set = Set::new(vec![Data::Count(2), Data::Count(1)]).unwrap();
        assert_eq!(set.as_slice(), [Data::Count(1), Data::Count(2)]);
        assert_eq!([Data::Count(2), Data::Count(1), Data::Count(2)].into_iter().collect::<Set>(), set);
    }

    #[test]
    fn subnets_read_and_print_as_broker_does() {
        for (text, bits, printed) in [
            ("10.0.0.0/8", 104, "10.0.0.0/8"),
            ("0.0.0.0/0", 96, "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", 104, "10.0.0.0/8"),
            ("2001:db8::/32", 32, "2001:db8::/32"),
            ("::ffff:10.0.0.0/40", 40, "::/40"),
        ] {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(subnet.bits(), bits, "{text}");
            assert_eq!(subnet.to_string(), printed);
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1", "10.0.0.0/", "/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        assert_eq!("10.1.2.3/8".parse::<Subnet>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("::1/0".parse::<Subnet>().unwrap().to_string(), "::/0");
        assert_eq!("::1/128".parse::<Subnet>().unwrap().to_string(), "::1/128");
    }

    #[test]
    fn ports_without_a_protocol_are_tcp_and_odd_ones_unknown() {
        assert_eq!("80".parse::<Port>().unwrap().to_string(), "80/tcp");
        assert_eq!("80/unknown".parse::<Port>().unwrap().to_string(), "80/?");
        for bad in ["", "/tcp", "65536/tcp", "-1/tcp", "http/tcp"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
