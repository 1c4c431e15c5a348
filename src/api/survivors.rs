//! Processes of a node that are left after it and could not be ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// As many are named; of the others the number says enough.
pub const NAMED: usize = 16;

/// What is left of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Survivors {
    /// At most [`NAMED`] of them.
    pub named: Vec<Survivor>,
    /// How many more are known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
    /// There is at least one that could not be inspected.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unseen: bool,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its process id when it was found.
    pub pid: u32,
    /// Its real uid, if that can be read.
    pub uid: Option<u32>,
    /// Its name as the kernel has it (`/proc/PID/comm`): at most 15 bytes.
    pub command: String,
}

impl Survivors {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.more == 0 && !self.unseen
    }

    /// Adds a process, by name as long as there is room.
    pub fn add(&mut self, survivor: Survivor) {
        if self.named.len() < NAMED {
            self.named.push(survivor);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.named.iter().map(Survivor::to_string).collect();
        if self.more > 0 {
            parts.push(format!("{} more", self.more));
        }
        if self.unseen {
            parts.push("at least one process that cannot be inspected".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "pid {} (uid {uid}, {:?})", self.pid, self.command),
            None => write!(f, "pid {} (uid unknown, {:?})", self.pid, self.command),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_are_named_and_beyond_a_limit_counted() {
        let mut survivors = Survivors::default();
        assert!(survivors.is_empty());
        for pid in 0..20 {
            survivors.add(Survivor { pid, uid: Some(0), command: "ping".into() });
        }
        assert_eq!((survivors.named.len(), survivors.more), (NAMED, 4));
        let text = survivors.to_string();
        assert!(text.starts_with("pid 0 (uid 0, \"ping\"), pid 1 "), "{text}");
        assert!(text.ends_with("pid 15 (uid 0, \"ping\"), 4 more"), "{text}");
        let unseen = Survivors { unseen: true, ..Survivors::default() };
        assert_eq!(unseen.to_string(), "at least one process that cannot be inspected");
    }
}
