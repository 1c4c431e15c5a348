//! A text cut into tokens, in one pass over it. Each token knows where its value ends.

use std::borrow::Cow;

use super::error::{Limits, Problem, ReadError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    /// The bytes between the quotes; `Escaped` if a backslash is among them.
    Plain,
    Escaped,
    True,
    False,
    Null,
    Number,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    kind: Kind,
    /// The bytes of a scalar, in the text.
    start: u32,
    end: u32,
    /// The token after this value.
    next: u32,
}

/// The tokens of a text. A container's members follow it: keys and values in turn, or elements.
pub(super) struct Tape<'a> {
    text: &'a [u8],
    tokens: Vec<Token>,
}

/// What may come next while a text is cut into tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    FirstElementOrEnd,
    FirstKeyOrEnd,
    Key,
    CommaOrEnd,
}

impl<'a> Tape<'a> {
    pub fn read(text: &'a [u8], limits: &Limits) -> Result<Self, ReadError> {
        let length = text.len();
        // Positions are kept in 32 bits.
        let limit = limits.bytes.min(u32::MAX as usize - 1);
        if length > limit {
            return Err(ReadError { at: 0, problem: Problem::TooLong { length, limit } });
        }
        let mut tape = Self { text, tokens: Vec::new() };
        tape.cut(limits)?;
        Ok(tape)
    }

    fn cut(&mut self, limits: &Limits) -> Result<(), ReadError> {
        // A value takes an object in an array, an entry of a table one more; the rest is for keys we do not know.
        let depth_limit = limits.depth.saturating_mul(3).saturating_add(8);
        // A value of ours has more than six bytes a token; this only keeps nonsense from filling memory.
        let token_limit = self.text.len() / 3 + 64;
        let mut open: Vec<usize> = Vec::new();
        let mut expect = Expect::Value;
        let mut at = 0;
        loop {
            at = self.after_blanks(at);
            let error = |problem| ReadError { at, problem };
            let Some(&byte) = self.text.get(at) else {
                return Err(error(Problem::Incomplete));
            };
            if self.tokens.len() >= token_limit {
                return Err(error(Problem::Tokens));
            }
            let inside = open.last().and_then(|token| self.tokens.get(*token)).map(|token| token.kind);
            let mut closes = false;
            match (expect, byte) {
                (Expect::Value | Expect::FirstElementOrEnd, b'{' | b'[') => {
                    if open.len() >= depth_limit {
                        return Err(error(Problem::Depth { limit: depth_limit }));
                    }
                    open.push(self.tokens.len());
                    let (kind, then) = match byte {
                        b'{' => (Kind::Object, Expect::FirstKeyOrEnd),
                        _ => (Kind::Array, Expect::FirstElementOrEnd),
                    };
                    self.push(kind, at, at);
                    expect = then;
                    at += 1;
                    continue;
                }
                (Expect::Value | Expect::FirstElementOrEnd, b'"') => at = self.string(at)?,
                (Expect::FirstElementOrEnd, b']') | (Expect::FirstKeyOrEnd, b'}') => closes = true,
                (Expect::Value | Expect::FirstElementOrEnd, _) => at = self.word(at)?,
                (Expect::FirstKeyOrEnd | Expect::Key, b'"') => {
                    at = self.key(at)?;
                    expect = Expect::Value;
                    continue;
                }
                (Expect::FirstKeyOrEnd, _) => return Err(error(Problem::Expected("a key or }"))),
                (Expect::Key, _) => return Err(error(Problem::Expected("a key"))),
                (Expect::CommaOrEnd, b',') => {
                    expect = if inside == Some(Kind::Object) { Expect::Key } else { Expect::Value };
                    at += 1;
                    continue;
                }
                (Expect::CommaOrEnd, b'}') if inside == Some(Kind::Object) => closes = true,
                (Expect::CommaOrEnd, b']') if inside == Some(Kind::Array) => closes = true,
                (Expect::CommaOrEnd, _) => return Err(error(Problem::Expected("a comma or the end of the container"))),
            }
            // A value has ended: a scalar, or the innermost container.
            if closes {
                let next = self.tokens.len() as u32;
                if let Some(token) = open.pop().and_then(|token| self.tokens.get_mut(token)) {
                    token.next = next;
                }
                at += 1;
            }
            if open.is_empty() {
                return self.ends_at(at);
            }
            expect = Expect::CommaOrEnd;
        }
    }

    /// Where the text goes on after white space.
    fn after_blanks(&self, mut at: usize) -> usize {
        while matches!(self.text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            at += 1;
        }
        at
    }

    /// Takes a key and its colon; returns where the text goes on.
    fn key(&mut self, at: usize) -> Result<usize, ReadError> {
        let end = self.string(at)?;
        let at = self.after_blanks(end);
        match self.text.get(at) {
            Some(b':') => Ok(at + 1),
            Some(_) => Err(ReadError { at, problem: Problem::Expected("a colon") }),
            None => Err(ReadError { at, problem: Problem::Incomplete }),
        }
    }

    /// The value of the whole text has ended.
    fn ends_at(&self, at: usize) -> Result<(), ReadError> {
        if self.after_blanks(at) == self.text.len() {
            Ok(())
        } else {
            Err(ReadError { at, problem: Problem::Trailing })
        }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.tokens.len() as u32 + 1;
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next });
    }

    /// Takes a string whose quote is at `at`; returns where the text goes on.
    fn string(&mut self, at: usize) -> Result<usize, ReadError> {
        let start = at + 1;
        let mut escaped = false;
        let mut position = start;
        loop {
            match self.text.get(position) {
                None => return Err(ReadError { at: position, problem: Problem::Incomplete }),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    position += 2;
                }
                Some(_) => position += 1,
            }
        }
        self.push(if escaped { Kind::Escaped } else { Kind::Plain }, start, position);
        Ok(position + 1)
    }

    /// Takes a number, `true` and the like; returns where the text goes on.
    fn word(&mut self, at: usize) -> Result<usize, ReadError> {
        let rest = self.text.get(at..).unwrap_or_default();
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-._".contains(*byte);
        let word = rest.get(..rest.iter().take_while(is_part).count()).unwrap_or_default();
        let kind = match word {
            b"" => return Err(ReadError { at, problem: Problem::Expected("a value") }),
            b"true" => Kind::True,
            b"false" => Kind::False,
            b"null" => Kind::Null,
            _ if str::from_utf8(word).is_ok_and(|word| word.parse::<f64>().is_ok()) => Kind::Number,
            _ => {
                let word = String::from_utf8_lossy(word).chars().take(32).collect();
                return Err(ReadError { at, problem: Problem::Word(word) });
            }
        };
        self.push(kind, at, at + word.len());
        Ok(at + word.len())
    }

    pub fn error(&self, token: usize, problem: Problem) -> ReadError {
        let at = self.tokens.get(token).map_or(self.text.len(), |token| token.start as usize);
        ReadError { at, problem }
    }

    fn bytes(&self, token: Token) -> &'a [u8] {
        self.text.get(token.start as usize..token.end as usize).unwrap_or_default()
    }

    /// What kind of value begins at this token.
    pub fn kind(&self, token: usize) -> Option<Kind> {
        self.tokens.get(token).map(|token| token.kind)
    }

    /// The text of a number.
    pub fn number(&self, token: usize) -> Option<&'a str> {
        let number = self.tokens.get(token).filter(|token| token.kind == Kind::Number)?;
        str::from_utf8(self.bytes(*number)).ok()
    }

    /// The tokens at which the elements of an array begin.
    pub fn array(&self, token: usize) -> Result<Elements<'_>, ReadError> {
        self.elements(token, Kind::Array, "an array")
    }

    fn elements(&self, token: usize, kind: Kind, what: &'static str) -> Result<Elements<'_>, ReadError> {
        match self.tokens.get(token) {
            Some(container) if container.kind == kind => {
                Ok(Elements { tokens: &self.tokens, at: token + 1, end: container.next as usize })
            }
            _ => Err(self.error(token, Problem::Expected(what))),
        }
    }

    /// Where the values of some keys of an object begin. Other keys are skipped.
    pub fn members<const N: usize>(
        &self,
        token: usize,
        keys: [&'static str; N],
    ) -> Result<[Option<usize>; N], ReadError> {
        let mut found = [None; N];
        let mut elements = self.elements(token, Kind::Object, "an object")?;
        while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
            let name = self.string_bytes(key)?;
            let known = found.iter_mut().zip(keys).find(|(_, wanted)| wanted.as_bytes() == &*name);
            if let Some((slot, wanted)) = known
                && slot.replace(value).is_some()
            {
                return Err(self.error(key, Problem::Twice(wanted)));
            }
        }
        Ok(found)
    }

    /// A string's bytes with its escapes undone. Bytes that are not UTF-8 stay as they are.
    pub fn string_bytes(&self, token: usize) -> Result<Cow<'a, [u8]>, ReadError> {
        match self.tokens.get(token) {
            Some(string) if string.kind == Kind::Plain => Ok(Cow::Borrowed(self.bytes(*string))),
            Some(string) if string.kind == Kind::Escaped => match unescape(self.bytes(*string)) {
                Some(bytes) => Ok(Cow::Owned(bytes)),
                None => Err(self.error(token, Problem::Escape)),
            },
            _ => Err(self.error(token, Problem::Expected("a string"))),
        }
    }

    /// A string that has to be text: what is not UTF-8 in it is replaced.
    pub fn text(&self, token: usize) -> Result<String, ReadError> {
        Ok(String::from_utf8_lossy(&self.string_bytes(token)?).into_owned())
    }
}

/// Steps over the values directly inside a container.
pub(super) struct Elements<'a> {
    tokens: &'a [Token],
    at: usize,
    end: usize,
}

impl Iterator for Elements<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.at >= self.end {
            return None;
        }
        let element = self.at;
        self.at = self.tokens.get(element)?.next as usize;
        Some(element)
    }
}

/// Undoes the escapes of JSON and `\v`. Half a surrogate pair becomes U+FFFD.
fn unescape(raw: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            byte @ (b'"' | b'\\' | b'/') => out.push(byte),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'u' => {
                let unit = hex4(&mut bytes)?;
                let code = if (0xd800..0xdc00).contains(&unit) { pair(unit, &mut bytes)? } else { unit };
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

/// The code point of a surrogate pair whose first half is `high`, or `high` itself if no second half follows.
fn pair(high: u32, bytes: &mut (impl Iterator<Item = u8> + Clone)) -> Option<u32> {
    let mut ahead = bytes.clone();
    if ahead.next() != Some(b'\\') || ahead.next() != Some(b'u') {
        return Some(high);
    }
    let low = hex4(&mut ahead)?;
    if !(0xdc00..0xe000).contains(&low) {
        return Some(high);
    }
    *bytes = ahead;
    Some(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
}

fn hex4(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit << 4 | char::from(bytes.next()?).to_digit(16)?))
}
