//! A list of users, or what stands for it.

use serde_json::{Value, json};
use toml::de::DeValue;

use super::value::{Setting, integer, unfit};

/// Users of this host, each by name or number; unless set, those whom the documentation names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestUsers(pub Option<Vec<String>>);

impl RequestUsers {
    fn of(users: Vec<String>) -> Result<Self, String> {
        match users.is_empty() {
            true => Err("names nobody, and then nobody could ask; give [\"root\"], or leave it out".to_owned()),
            false => Ok(Self(Some(users))),
        }
    }
}

impl Setting for RequestUsers {
    const TYPE: &'static str =
        "a list of users, each a name or number (in the environment: divided by blanks or commas)";

    fn parse(text: &str) -> Result<Self, String> {
        let users = text.split(|divider: char| divider.is_whitespace() || divider == ',');
        Self::of(users.filter(|user| !user.is_empty()).map(str::to_owned).collect())
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let items = match value {
            DeValue::String(text) => return Self::parse(text),
            DeValue::Array(items) => items,
            other => return Err(unfit::<Self>(other)),
        };
        let user = |item: &DeValue<'_>| match item {
            DeValue::String(name) if name.is_empty() || name.contains(char::is_whitespace) => {
                Err(format!("has {name:?}, which is no user"))
            }
            DeValue::String(name) => Ok(name.to_string()),
            other => integer(other).map(|uid| uid.to_string()).ok_or_else(|| unfit::<Self>(other)),
        };
        Self::of(items.iter().map(|item| user(item.get_ref())).collect::<Result<_, String>>()?)
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |users| json!(users).to_string())
    }

    fn json(&self) -> Value {
        json!(self.0)
    }
}
