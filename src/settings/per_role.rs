//! Limits that may differ by the role of a node.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use toml::de::DeValue;

use super::value::{Setting, Size};
use crate::api::configuration::ClusterRole;

const ROLES: [ClusterRole; 4] = [ClusterRole::Logger, ClusterRole::Manager, ClusterRole::Proxy, ClusterRole::Worker];
const UNLIMITED: &str = "unlimited";

/// A limit for all nodes, others for some roles. Not set: as the agent has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PerRole {
    all: Option<u64>,
    roles: BTreeMap<ClusterRole, u64>,
}

impl PerRole {
    /// `u64::MAX` is no limit.
    pub fn of(&self, role: ClusterRole) -> Option<u64> {
        self.roles.get(&role).copied().or(self.all)
    }

    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.roles.values().copied().chain(self.all)
    }

    pub fn largest(&self) -> Option<u64> {
        self.roles.values().copied().chain(self.all).max()
    }

    fn read(items: &[String]) -> Result<Self, String> {
        let mut limits = Self::default();
        for item in items {
            let (role, number) = match item.split_once('=') {
                Some((role, number)) => (Some(role.trim()), number.trim()),
                None => (None, item.trim()),
            };
            let number = match number {
                UNLIMITED => u64::MAX,
                text => Size::parse(text).map_err(|_| format!("has {item:?}; it is {}", Self::TYPE))?.bytes,
            };
            let before = match role {
                None => limits.all.replace(number),
                Some(role) => {
                    let known = ROLES.into_iter().find(|known| known.as_str() == role);
                    let known = known.ok_or_else(|| {
                        format!("names the role {role:?}; there are logger, manager, proxy and worker")
                    })?;
                    limits.roles.insert(known, number)
                }
            };
            if before.is_some() {
                return Err(format!("has {item:?}, for which there is a limit before it"));
            }
        }
        Ok(limits)
    }

    fn items(&self) -> Vec<String> {
        let text = |number: u64| match number {
            u64::MAX => UNLIMITED.to_owned(),
            number => number.to_string(),
        };
        let roles = self.roles.iter().map(|(role, number)| format!("{role}={}", text(*number)));
        self.all.map(text).into_iter().chain(roles).collect()
    }
}

impl Setting for PerRole {
    const TYPE: &'static str = "a list of limits, each a number, a size or unlimited, for all nodes or as ROLE=LIMIT";

    fn parse(text: &str) -> Result<Self, String> {
        Self::read(&Vec::<String>::parse(text)?)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Array(_) => Self::read(&Vec::<String>::from_toml(value)?),
            other => Ok(Self { all: Some(Size::from_toml(other)?.bytes), roles: BTreeMap::new() }),
        }
    }

    fn show(&self) -> String {
        json!(self.items()).to_string()
    }

    fn json(&self) -> Value {
        json!(self.items())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_its_own_limit_or_that_of_all() {
        let limits = PerRole::parse("64KiB worker=1048576 logger=unlimited").unwrap();
        assert_eq!(limits.of(ClusterRole::Worker), Some(1 << 20));
        assert_eq!(limits.of(ClusterRole::Logger), Some(u64::MAX));
        assert_eq!(limits.of(ClusterRole::Proxy), Some(64 << 10));
        assert_eq!(limits.largest(), Some(u64::MAX));
        assert_eq!(limits.show(), r#"["65536","logger=unlimited","worker=1048576"]"#);
        assert_eq!(PerRole::default().of(ClusterRole::Worker), None);
        for wrong in ["x", "chief=1", "1 2", "worker=1 worker=2", "worker="] {
            assert!(PerRole::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
