//! Identifiers that check on construction, so that holding one proves it is safe to use.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text cannot be the identifier it was offered as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{what} is empty, and needs at least one character")]
    Empty {
        /// Which identifier, for the message.
        what: &'static str,
    },
    /// It has more bytes than the identifier may have.
    #[error("{what} has {length} bytes, {limit} is the most")]
    TooLong {
        /// Which identifier, for the message.
        what: &'static str,
        /// In bytes.
        length: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// It holds a `/`, a control character or a blank.
    #[error("{what} {text:?} contains {character:?}, which is not allowed in a name")]
    Character {
        /// Which identifier, for the message.
        what: &'static str,
        /// As it was offered.
        text: String,
        /// The first one that is not allowed.
        character: char,
    },
    /// It begins with a dot.
    #[error("{what} {text:?} would not be a plain directory name")]
    Dots {
        /// Which identifier, for the message.
        what: &'static str,
        /// As it was offered.
        text: String,
    },
}

/// The requester's identifier for a request, echoed in the response: the key of idempotence.
///
/// Any text of at most 256 bytes. Empty means "no identifier": such a request is never a duplicate (P5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReqId(String);

impl ReqId {
    /// The longest that is accepted, in bytes.
    pub const LIMIT: usize = 256;

    /// Refuses what is longer than [`LIMIT`](Self::LIMIT), and nothing else.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        if text.len() > Self::LIMIT {
            return Err(IdError::TooLong { what: "reqid", length: text.len(), limit: Self::LIMIT });
        }
        Ok(Self(text))
    }

    /// The text, empty if there is no identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// No identifier was given: the request cannot be recognised when it comes again.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name of a node. It becomes a directory, a file name and an environment value, so it holds no `/`, no control
/// character or blank, does not begin with a dot, and has at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// The name of an instance, which is the name of its agent. It becomes the end of a Broker topic; same rules as a
/// node's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

/// The longest name of a node or an instance, in bytes.
pub const NAME_LIMIT: usize = 128;

fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > NAME_LIMIT {
        return Err(IdError::TooLong { what, length: text.len(), limit: NAME_LIMIT });
    }
    if let Some(character) = text.chars().find(|c| *c == '/' || c.is_control() || c.is_whitespace()) {
        return Err(IdError::Character { what, text: text.to_owned(), character });
    }
    if text.starts_with('.') {
        return Err(IdError::Dots { what, text: text.to_owned() });
    }
    Ok(())
}

impl NodeName {
    /// Checks the text by the rules of the type.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        check_name("node name", &text)?;
        Ok(Self(text))
    }

    /// The text, safe as a single path component.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InstanceName {
    /// Checks the text by the rules of the type.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        check_name("instance name", &text)?;
        Ok(Self(text))
    }

    /// The text, safe as a single path component.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_conversions {
    ($($id:ident),*) => {$(
        impl TryFrom<String> for $id {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl From<$id> for String {
            fn from(id: $id) -> String {
                id.0
            }
        }
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $id {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}
text_conversions!(ReqId, NodeName, InstanceName);

/// A place in the journal: the number of an entry, from 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The number of the entry after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which start of a node this is, so that a late exit is not taken for that of a newer process. 0: never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The start after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_that_would_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "/", "a\nb", "a b", "a\0", &"x".repeat(129)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["worker-1", "w1.lab", "логгер", &"x".repeat(128)] {
            assert!(NodeName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_reqid_may_be_empty_but_not_endless() {
        assert!(ReqId::new("").unwrap().is_empty());
        assert!(ReqId::new("r".repeat(256)).is_ok());
        assert!(ReqId::new("r".repeat(257)).is_err());
    }

    #[test]
    fn names_check_when_deserialized_too() {
        assert!(serde_json::from_str::<NodeName>("\"../etc\"").is_err());
        assert_eq!(serde_json::from_str::<NodeName>("\"w1\"").unwrap().as_str(), "w1");
    }
}
