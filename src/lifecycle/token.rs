//! The token of a plan: what `config diff` showed is deployed, or nothing is.
//!
//! It covers what a plan follows from: the desired state, the proposed configuration, and how its nodes would be run (settings
//! and the version of Zeek are part of that). Whether nodes run at the moment is not covered: a node that crashed between
//! `config diff` and `deploy` makes no plan stale. Each part has a hash of its own, so that a stale plan can be explained.

use serde::Serialize;

use crate::api::configuration::Configuration;
use crate::journal::entry::Want;

use super::Lifecycle;
use super::plan::{Planned, PlannedChange};

/// Digits of each part: by chance, one change in 2^48 is overlooked.
const DIGITS: usize = 12;

/// The parts of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    desired: String,
    proposed: String,
    specs: String,
}

impl Token {
    /// Reads a token as it was printed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = || {
            let part = parts.next()?;
            let is_hash = part.len() == DIGITS && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            is_hash.then(|| part.to_owned())
        };
        let token = Self { desired: part()?, proposed: part()?, specs: part()? };
        parts.next().is_none().then_some(token)
    }

    /// As it is printed.
    pub fn text(&self) -> String {
        format!("{}-{}-{}", self.desired, self.proposed, self.specs)
    }
}

struct Hash(blake3::Hasher);

impl Hash {
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    fn add(mut self, value: &impl Serialize) -> Self {
        let bytes = rmp_serde::to_vec_named(value).expect("plans have only types that MessagePack can carry");
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(&bytes);
        self
    }

    fn part(&self) -> String {
        self.0.finalize().to_hex().chars().take(DIGITS).collect()
    }
}

impl Lifecycle {
    /// The token of the plan for `config`, which is as it was sent. `planned`: its nodes; empty if nothing is to be planned.
    pub(super) fn token(&self, config: &Configuration, force: bool, planned: &[Planned]) -> Token {
        let running = self.durable.desired.config.as_ref().map(|running| &running.0);
        let mut desired = Hash::new().add(&running);
        for (name, record) in self.durable.nodes.iter().filter(|(_, record)| record.want != Want::Gone) {
            desired = desired.add(&(name, record.want, &record.spec.0));
        }
        let mut specs = Hash::new();
        for one in planned {
            if let Some(spec) = one.spec() {
                specs = specs.add(&(&one.name, spec));
            }
        }
        Token {
            desired: desired.part(),
            proposed: Hash::new().add(&(config.clone().canonical(), force)).part(),
            specs: specs.part(),
        }
    }

    /// Why the plan that was shown is not the one that would be carried out now; `None`: it is.
    pub(super) fn stale(&self, shown: &str, now: &Token) -> Option<String> {
        let Some(shown) = Token::parse(shown) else {
            return Some(format!("{shown:?} is no plan's token; `config diff` prints one"));
        };
        let mut changed = Vec::new();
        if shown.desired != now.desired {
            changed.push(format!("what is to run here was changed (last by request {})", self.durable.desired.by));
        }
        if shown.proposed != now.proposed {
            changed.push("this is another configuration than the one shown, or --force differs".to_owned());
        }
        if shown.specs != now.specs {
            changed.push("nodes would be run in another way (settings, or the version of Zeek)".to_owned());
        }
        let changed = changed.join("; ");
        (!changed.is_empty()).then(|| format!("stale plan: {changed}; nothing was done, look at `config diff` again"))
    }
}

impl Planned {
    /// How the node would be run.
    pub(super) fn spec(&self) -> Option<&crate::api::launch::LaunchSpec> {
        match &self.step {
            PlannedChange::Keep { spec, .. } | PlannedChange::Up { spec, .. } => Some(spec),
            PlannedChange::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_itself_and_nothing_else_does() {
        let token = Token { desired: "0".repeat(12), proposed: "a".repeat(12), specs: "f".repeat(12) };
        assert_eq!(Token::parse(&token.text()), Some(token.clone()));
        for text in ["", "-", "--", &token.text()[1..], &format!("{}-", token.text()), &token.text().to_uppercase()] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
