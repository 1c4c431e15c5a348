//! Settings that hold several values.

use serde_json::{Value, json};
use toml::de::DeValue;

use super::{Setting, integer, unfit};
use crate::api::event::Dialect;

/// Zeek's event APIs, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialects(pub Vec<Dialect>);

impl Default for Dialects {
    fn default() -> Self {
        Self(vec![Dialect::Management])
    }
}

impl Dialects {
    fn named(names: &[String]) -> Result<Self, String> {
        let mut dialects = Vec::new();
        for name in names {
            let known = [Dialect::Management, Dialect::ClusterAgent].into_iter().find(|one| one.as_str() == name);
            let dialect = known.ok_or_else(|| format!("names {name:?}; there are Management and ClusterAgent"))?;
            if !dialects.contains(&dialect) {
                dialects.push(dialect);
            }
        }
        if dialects.is_empty() { Err("is empty, and one at least is needed".to_owned()) } else { Ok(Self(dialects)) }
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|dialect| dialect.as_str()).collect()
    }
}

impl Setting for Dialects {
    const TYPE: &'static str = Vec::<String>::TYPE;

    fn parse(text: &str) -> Result<Self, String> {
        Self::named(&Vec::parse(text)?)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::named(&Vec::from_toml(value)?)
    }

    fn show(&self) -> String {
        json!(self.names()).to_string()
    }

    fn json(&self) -> Value {
        json!(self.names())
    }
}

/// Arguments of a program.
impl Setting for Vec<String> {
    const TYPE: &'static str = "a list of texts (in the environment: divided by blanks)";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Array(items) = value else { return Err(unfit::<Self>(value)) };
        items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(unfit::<Self>(other)),
            })
            .collect()
    }

    fn show(&self) -> String {
        json!(self).to_string()
    }

    fn json(&self) -> Value {
        json!(self)
    }
}

/// Exit codes of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExitCodes(pub Vec<i32>);

impl ExitCodes {
    fn code(number: i64) -> Result<i32, String> {
        match i32::try_from(number) {
            Ok(code) if (0..=255).contains(&code) => Ok(code),
            Ok(_) | Err(_) => Err(format!("has {number}, which is no exit code (0 to 255)")),
        }
    }
}

impl Setting for ExitCodes {
    const TYPE: &'static str = "a list of exit codes (in the environment: divided by commas)";

    fn parse(text: &str) -> Result<Self, String> {
        let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
        let numbers = codes.map(|code| {
            let number = code.parse().map_err(|_| format!("has {code:?}, which is no exit code (0 to 255)"))?;
            Self::code(number)
        });
        Ok(Self(numbers.collect::<Result<_, String>>()?))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Array(items) = value else { return Err(unfit::<Self>(value)) };
        let codes = items.iter().map(|item| match integer(item.get_ref()) {
            Some(number) => Self::code(number),
            None => Err(unfit::<Self>(item.get_ref())),
        });
        Ok(Self(codes.collect::<Result<_, String>>()?))
    }

    fn show(&self) -> String {
        json!(self.0).to_string()
    }

    fn json(&self) -> Value {
        json!(self.0)
    }
}
