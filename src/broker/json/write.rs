//! Values to JSON: strictly what every Zeek server and zeek-client read.

use std::fmt::Write;

use crate::broker::data::Data;
use crate::broker::time_text::{format_timespan, format_timestamp};

/// A value that JSON cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// JSON has neither infinity nor NaN, and Zeek's readers refuse both.
    #[error("JSON has no form for a real that is infinite or not a number")]
    Real,
    /// Replacing what is no text could make two elements of a set the same.
    #[error("JSON has no form for a string that is not UTF-8")]
    String,
}

/// The value by itself, as an object of `@data-type` and `data`.
pub fn write_value(data: &Data) -> Result<String, WriteError> {
    let mut out = String::new();
    put_value(&mut out, data)?;
    Ok(out)
}

fn put_value(out: &mut String, data: &Data) -> Result<(), WriteError> {
    out.push('{');
    put_members(out, data)?;
    out.push('}');
    Ok(())
}

pub(super) fn put_members(out: &mut String, data: &Data) -> Result<(), WriteError> {
    // Nothing that is written here can fail: the target is a String.
    let put = |out: &mut String, text: std::fmt::Arguments<'_>| _ = out.write_fmt(text);
    put(out, format_args!("\"@data-type\":\"{}\",\"data\":", data.type_name()));
    match data {
        Data::None => out.push_str("{}"),
        Data::Boolean(value) => put(out, format_args!("{value}")),
        Data::Count(value) => put(out, format_args!("{value}")),
        Data::Integer(value) => put(out, format_args!("{value}")),
        // Debug prints a point or an exponent always, and all the digits.
        Data::Real(value) if value.0.is_finite() => put(out, format_args!("{:?}", value.0)),
        Data::Real(_) => return Err(WriteError::Real),
        Data::String(bytes) => put_string(out, str::from_utf8(bytes).map_err(|_| WriteError::String)?),
        Data::Address(address) => put(out, format_args!("\"{address}\"")),
        Data::Subnet(subnet) => put(out, format_args!("\"{subnet}\"")),
        Data::Port(port) => put(out, format_args!("\"{port}\"")),
        Data::Timestamp(ns) => put(out, format_args!("\"{}\"", format_timestamp(*ns))),
        Data::Timespan(ns) => put(out, format_args!("\"{}\"", format_timespan(*ns))),
        Data::Enum(name) => put_string(out, name),
        Data::Set(set) => put_array(out, set.as_slice())?,
        Data::Vector(elements) => put_array(out, elements)?,
        Data::Table(table) => {
            out.push('[');
            for (key, value) in table.as_slice() {
                separate(out, '[');
                out.push_str("{\"key\":");
                put_value(out, key)?;
                out.push_str(",\"value\":");
                put_value(out, value)?;
                out.push('}');
            }
            out.push(']');
        }
    }
    Ok(())
}

fn put_array(out: &mut String, elements: &[Data]) -> Result<(), WriteError> {
    out.push('[');
    for element in elements {
        separate(out, '[');
        put_value(out, element)?;
    }
    out.push(']');
    Ok(())
}

/// A comma, unless the array has just been opened.
pub(super) fn separate(out: &mut String, open: char) {
    if !out.ends_with(open) {
        out.push(',');
    }
}

pub(super) fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
