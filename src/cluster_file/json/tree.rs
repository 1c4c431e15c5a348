//! JSON text to values that know their line, which serde_json's own do not.
//!
//! serde_json first makes sure that the text is JSON, so walking it here needs no more than to find where each value
//! ends, and hands texts and numbers back to serde_json.

use std::collections::BTreeSet;

use super::super::findings::{Findings, bare, quoted};

/// How deep values may nest: a cluster file needs five levels.
const DEPTH_LIMIT: usize = 32;

pub struct Located {
    pub line: usize,
    pub value: Value,
}

pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Located>),
    /// In the order of the file, no key twice.
    Object(Vec<(String, Located)>),
}

impl Value {
    /// What it is, for a message that says what it should be.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) => format!("the text {}", quoted(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

const ADVICE: &str = "correct the JSON there";

/// The value of a JSON text. None if it is not JSON or too deep, and `findings` say so.
pub fn read(text: &str, findings: &mut Findings) -> Option<Located> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        findings.error(Some(error.line()), "", format!("is not JSON: {error}"), ADVICE);
        return None;
    }
    Walk { text, at: 0, line: 1, findings }.value(0)
}

struct Walk<'a, 'b, 'f> {
    text: &'a str,
    at: usize,
    line: usize,
    findings: &'b mut Findings<'f>,
}

impl<'a> Walk<'a, '_, '_> {
    fn fail<T>(&mut self, problem: String) -> Option<T> {
        self.findings.error(Some(self.line), "", problem, ADVICE);
        None
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over blanks and what separates values.
    fn skip(&mut self) -> Option<u8> {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')) = self.peek() {
            self.at += 1;
            self.line += usize::from(byte == b'\n');
        }
        self.peek()
    }

    fn value(&mut self, depth: usize) -> Option<Located> {
        if depth > DEPTH_LIMIT {
            return self.fail(format!("is nested more than {DEPTH_LIMIT} levels deep"));
        }
        let first = self.skip();
        let line = self.line;
        let value = match first {
            Some(b'{') => Value::Object(self.object(depth)?),
            Some(b'[') => Value::List(self.list(depth)?),
            Some(b'"') => Value::Text(self.string()?),
            Some(_) | None => self.scalar()?,
        };
        Some(Located { line, value })
    }

    fn list(&mut self, depth: usize) -> Option<Vec<Located>> {
        self.at += 1;
        let mut items = Vec::new();
        while self.skip().is_some_and(|byte| byte != b']') {
            items.push(self.value(depth + 1)?);
        }
        self.at += 1;
        Some(items)
    }

    fn object(&mut self, depth: usize) -> Option<Vec<(String, Located)>> {
        self.at += 1;
        let mut entries: Vec<(String, Located)> = Vec::new();
        let mut keys = BTreeSet::new();
        while self.skip().is_some_and(|byte| byte != b'}') {
            let key = self.string()?;
            if !keys.insert(key.clone()) {
                let problem = "the key is there already".to_owned();
                self.findings.error(Some(self.line), &bare(&key), problem, "remove one of the two");
            }
            let value = self.value(depth + 1)?;
            entries.push((key, value));
        }
        self.at += 1;
        Some(entries)
    }

    fn string(&mut self) -> Option<String> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        // The opening quote is before what was searched, and the closing one belongs to the string.
        let raw = rest.get(..end.map_or(rest.len(), |end| end + 2)).unwrap_or(rest);
        self.at += raw.len();
        match serde_json::from_str(raw) {
            Ok(text) => Some(text),
            Err(error) => self.fail(format!("{} is not a JSON text: {error}", quoted(raw))),
        }
    }

    fn scalar(&mut self) -> Option<Value> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}')).unwrap_or(rest.len());
        let raw = rest.get(..end).unwrap_or(rest);
        self.at += raw.len();
        match serde_json::from_str(raw) {
            Ok(serde_json::Value::Null) => Some(Value::Null),
            Ok(serde_json::Value::Bool(value)) => Some(Value::Bool(value)),
            Ok(serde_json::Value::Number(number)) => Some(Value::Number(number)),
            Ok(serde_json::Value::String(text)) => Some(Value::Text(text)),
            Ok(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => {
                self.fail(format!("{} is not a value of its own", quoted(raw)))
            }
            Err(error) => self.fail(format!("{} is not a JSON value: {error}", quoted(raw))),
        }
    }
}
