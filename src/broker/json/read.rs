//! The values that a text's tokens stand for.

use super::error::{Limits, Problem, ReadError};
use super::tape::{Kind, Tape};
use crate::broker::data::{Data, Set, Table};
use crate::broker::time_text::{parse_timespan, parse_timestamp};

/// Builds values, within the limits.
pub(super) struct Values<'t> {
    tape: &'t Tape<'t>,
    limits: &'t Limits,
    values_left: usize,
}

impl<'t> Values<'t> {
    pub fn new(tape: &'t Tape<'t>, limits: &'t Limits) -> Self {
        Self { tape, limits, values_left: limits.values }
    }

    /// The value that an object stands for.
    pub fn data(&mut self, token: usize, depth: usize) -> Result<Data, ReadError> {
        let [data_type, data] = self.tape.members(token, ["@data-type", "data"])?;
        self.value(token, data_type, data, depth)
    }

    /// The same, where the object's members have been looked up.
    pub fn value(
        &mut self,
        object: usize,
        data_type: Option<usize>,
        data: Option<usize>,
        depth: usize,
    ) -> Result<Data, ReadError> {
        let none_left = || self.tape.error(object, Problem::Values { limit: self.limits.values });
        self.values_left = self.values_left.checked_sub(1).ok_or_else(none_left)?;
        let data_type = data_type.ok_or_else(|| self.tape.error(object, Problem::Missing("@data-type")))?;
        let name = self.tape.string_bytes(data_type)?;
        if &*name == b"none" {
            return Ok(Data::None);
        }
        let token = data.ok_or_else(|| self.tape.error(object, Problem::Missing("data")))?;
        Ok(match &*name {
            b"boolean" => match self.tape.kind(token) {
                Some(Kind::True) => Data::Boolean(true),
                Some(Kind::False) => Data::Boolean(false),
                _ => return Err(self.tape.error(token, Problem::Data("boolean"))),
            },
            b"count" => Data::Count(self.number(token, "count")?),
            b"integer" => Data::Integer(self.number(token, "integer")?),
            b"real" => Data::real(self.number(token, "real")?),
            b"string" => Data::String(self.tape.string_bytes(token)?.into_owned()),
            b"address" => Data::Address(self.parsed(token, "address", |text| text.parse().ok())?),
            b"subnet" => Data::Subnet(self.parsed(token, "subnet", |text| text.parse().ok())?),
            b"port" => Data::Port(self.parsed(token, "port", |text| text.parse().ok())?),
            b"timestamp" => Data::Timestamp(self.parsed(token, "timestamp", parse_timestamp)?),
            b"timespan" => Data::Timespan(self.parsed(token, "timespan", parse_timespan)?),
            b"enum-value" => Data::Enum(self.parsed(token, "enum-value", |text| Some(text.to_owned()))?),
            b"vector" => Data::Vector(self.container(token, depth)?),
            b"set" => {
                let elements = self.container(token, depth)?;
                Data::Set(Set::new(elements).map_err(|_| self.tape.error(token, Problem::Duplicate))?)
            }
            b"table" => {
                let depth = self.deeper(token, depth)?;
                let mut entries = Vec::new();
                for entry in self.tape.array(token)? {
                    let [key, value] = self.tape.members(entry, ["key", "value"])?;
                    let key = key.ok_or_else(|| self.tape.error(entry, Problem::Missing("key")))?;
                    let value = value.ok_or_else(|| self.tape.error(entry, Problem::Missing("value")))?;
                    entries.push((self.data(key, depth)?, self.data(value, depth)?));
                }
                Data::Table(Table::new(entries).map_err(|_| self.tape.error(token, Problem::Duplicate))?)
            }
            other => {
                let other = String::from_utf8_lossy(other).chars().take(32).collect();
                return Err(self.tape.error(data_type, Problem::DataType(other)));
            }
        })
    }

    fn container(&mut self, token: usize, depth: usize) -> Result<Vec<Data>, ReadError> {
        let depth = self.deeper(token, depth)?;
        self.tape.array(token)?.map(|element| self.data(element, depth)).collect()
    }

    fn deeper(&self, token: usize, depth: usize) -> Result<usize, ReadError> {
        match depth < self.limits.depth {
            true => Ok(depth + 1),
            false => Err(self.tape.error(token, Problem::Depth { limit: self.limits.depth })),
        }
    }

    fn number<T: std::str::FromStr>(&self, token: usize, what: &'static str) -> Result<T, ReadError> {
        let number = self.tape.number(token).and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.tape.error(token, Problem::Data(what)))
    }

    fn parsed<T>(
        &self,
        token: usize,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ReadError> {
        let text = self.tape.string_bytes(token)?;
        str::from_utf8(&text).ok().and_then(parse).ok_or_else(|| self.tape.error(token, Problem::Data(what)))
    }
}
