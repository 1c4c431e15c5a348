//! What reading may cost, and why a text is no message.

/// What a text may cost its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest text.
    pub bytes: usize,
    /// Containers inside each other. Zeek's own servers stop at about 60.
    pub depth: usize,
    /// Values altogether.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 * 1024 * 1024, depth: 64, values: 1 << 18 }
    }
}

/// Where and why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {problem}")]
pub struct ReadError {
    /// Offset in the text that was given.
    pub at: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a text that is to be a message or a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is longer than [`Limits::bytes`] allows.
    #[error("the message has {length} bytes, {limit} is the most")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// The text ends in the middle of a value.
    #[error("the text ends early")]
    Incomplete,
    /// Something else stands here. Holds what should.
    #[error("{0} is expected here")]
    Expected(&'static str),
    /// A word that is no literal and no number. Holds its beginning.
    #[error("{0:?} is no JSON")]
    Word(String),
    /// A backslash before a character that is not escaped so, or an incomplete `\u`.
    #[error("an escape in a string is not known")]
    Escape,
    /// It is nested deeper than [`Limits::depth`] allows.
    #[error("nested too deeply, {limit} levels are the most")]
    Depth {
        /// The most containers inside each other.
        limit: usize,
    },
    /// It holds more values than [`Limits::values`] allows.
    #[error("more than {limit} values")]
    Values {
        /// The most values altogether.
        limit: usize,
    },
    /// It has more tokens than any message of this length needs: only an attack looks like that.
    #[error("too many tokens for the length of the text")]
    Tokens,
    /// The value ends before the text does.
    #[error("something follows the end")]
    Trailing,
    /// A data message without `topic`; the words are those of Zeek's server.
    #[error("no topic in top-level JSON object")]
    NoTopic,
    /// The `type` of a message is not known. Holds its first 64 characters.
    #[error("there is no message of type {0:?}")]
    MessageType(String),
    /// An object lacks this key.
    #[error("the key {0:?} is missing")]
    Missing(&'static str),
    /// An object has this key more than once.
    #[error("the key {0:?} occurs twice")]
    Twice(&'static str),
    /// The `@data-type` of a value is not known. Holds its beginning.
    #[error("there is no data type {0:?}")]
    DataType(String),
    /// The `data` of a value does not fit its `@data-type`, which it holds.
    #[error("the data is no {0}")]
    Data(&'static str),
    /// Broker refuses such a set or table, too.
    #[error("a set element or table key occurs twice")]
    Duplicate,
}

impl ReadError {
    /// The context of the error message that answers such a text: Zeek's words, then ours.
    pub fn context(&self) -> String {
        match &self.problem {
            Problem::NoTopic => self.problem.to_string(),
            _ => format!("failed to decode JSON object: {self}"),
        }
    }
}
