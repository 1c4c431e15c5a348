//! The head of the journal's chain: a number and a hash, to be noted elsewhere and held against the journal later.

use std::fmt;
use std::str::FromStr;

use super::ids::Seq;

/// An entry and its hash, written `SEQ:HASH` with the hash in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest entry's number.
    pub seq: Seq,
    /// Its hash, which covers every entry before it.
    pub hash: [u8; 32],
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.seq)?;
        hexadecimal(f, &self.hash)
    }
}

/// A head as it was noted elsewhere: `SEQ:HASH`, or the hash alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// `None` if the hash alone was noted: it is then looked for among all entries.
    pub seq: Option<Seq>,
    /// What the entry's hash has to be.
    pub hash: [u8; 32],
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seq) = self.seq {
            write!(f, "{seq}:")?;
        }
        hexadecimal(f, &self.hash)
    }
}

fn hexadecimal(f: &mut fmt::Formatter<'_>, hash: &[u8; 32]) -> fmt::Result {
    hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The text is no head: neither `SEQ:HASH` nor a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a noted head is SEQ:HASH as `journal verify` prints it, or the hash alone: 64 hexadecimal digits")]
pub struct AnchorError;

impl FromStr for Anchor {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        let (seq, digits) = match text.split_once(':') {
            Some((seq, digits)) => (Some(Seq(seq.parse().map_err(|_| AnchorError)?)), digits),
            None => (None, text),
        };
        let mut hash = [0; 32];
        let pairs = digits.as_bytes().chunks_exact(2);
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(AnchorError);
        }
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).map_err(|_| AnchorError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| AnchorError)?;
        }
        Ok(Self { seq, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_as_it_was_printed() {
        let head = Head { seq: Seq(17), hash: std::array::from_fn(|index| index as u8 * 8) };
        let text = head.to_string();
        assert_eq!(text.parse(), Ok(Anchor { seq: Some(head.seq), hash: head.hash }));
        let bare = text.split_once(':').unwrap().1;
        assert_eq!(bare.parse(), Ok(Anchor { seq: None, hash: head.hash }));
        assert_eq!(bare.to_uppercase().parse::<Anchor>().unwrap().to_string(), bare);
        assert_eq!(text.parse::<Anchor>().unwrap().to_string(), text);
    }

    #[test]
    fn nothing_else_is_a_noted_head() {
        let digits = "ab".repeat(32);
        for text in
            ["", ":", "17:", &digits[1..], &format!("{digits}0"), &format!("x:{digits}"), &format!("1:2:{digits}")]
        {
            assert_eq!(text.parse::<Anchor>(), Err(AnchorError), "{text}");
        }
        let strange = format!("+1{}", &digits[2..]);
        assert_eq!(strange.parse::<Anchor>(), Err(AnchorError));
        assert_eq!("\u{e9}".repeat(32).parse::<Anchor>(), Err(AnchorError));
    }
}
