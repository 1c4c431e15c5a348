//! Keys of CURVE, ZeroMQ's encryption, as text: 32 bytes in Z85, which makes 40 characters.
//!
//! Source: <https://rfc.zeromq.org/spec/32/> (Z85) and zmq_curve(7).

/// The characters of Z85, by value.
const DIGITS: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
/// How many characters a key has.
pub const LENGTH: usize = 40;

/// What is wrong with the text of a key. Never says what the key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is too short or too long.
    #[error("it has {0} characters, and a CURVE key has 40")]
    Length(usize),
    /// It has a character that Z85 does not have.
    #[error("its character {0} cannot be part of a CURVE key")]
    Character(usize),
    /// It stands for more than 32 bytes can hold.
    #[error("it is no CURVE key: its value is out of range")]
    Range,
}

/// The key that a file contains: its text, without the line end.
pub fn decode(text: &[u8]) -> Result<[u8; 32], Malformed> {
    let text = text.trim_ascii_end();
    if text.len() != LENGTH {
        return Err(Malformed::Length(text.len()));
    }
    let mut key = [0_u8; 32];
    for (group, (digits, bytes)) in text.chunks_exact(5).zip(key.chunks_exact_mut(4)).enumerate() {
        let mut value = 0_u64;
        for (index, digit) in digits.iter().enumerate() {
            let place = DIGITS.iter().position(|one| one == digit);
            let place = place.ok_or(Malformed::Character(group * 5 + index + 1))?;
            value = value * 85 + u64::try_from(place).unwrap_or(u64::MAX);
        }
        let value = u32::try_from(value).map_err(|_| Malformed::Range)?;
        bytes.copy_from_slice(&value.to_be_bytes());
    }
    Ok(key)
}

/// The text of a key.
pub fn encode(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(LENGTH);
    for bytes in key.chunks_exact(4) {
        let value = bytes.iter().fold(0_u32, |value, byte| (value << 8) | u32::from(*byte));
        for power in [85_u32.pow(4), 85_u32.pow(3), 85_u32.pow(2), 85, 1] {
            let digit = usize::try_from(value / power % 85).ok().and_then(|digit| DIGITS.get(digit));
            text.extend(digit.map(|digit| char::from(*digit)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public key of zmq_curve(7) and of the RFC's test vectors.
    #[test]
    fn keys_as_the_manual_has_them() {
        let key = [
            0xBB, 0x88, 0x47, 0x1D, 0x65, 0xE2, 0x65, 0x9B, 0x30, 0xC5, 0x5A, 0x53, 0x21, 0xCE, 0xBB, 0x5A, 0xAB, 0x2B,
            0x70, 0xA3, 0x98, 0x64, 0x5C, 0x26, 0xDC, 0xA2, 0xB2, 0xFC, 0xB4, 0x3F, 0xC5, 0x18,
        ];
        let text = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
        assert_eq!(encode(&key), text);
        assert_eq!(decode(text.as_bytes()), Ok(key));
        assert_eq!(decode(format!("{text}\n").as_bytes()), Ok(key));
        for byte in [0, 1, 0x7f, 0xff] {
            assert_eq!(decode(encode(&[byte; 32]).as_bytes()), Ok([byte; 32]));
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_being_shown() {
        assert_eq!(decode(b""), Err(Malformed::Length(0)));
        assert_eq!(decode(&[b'0'; 41]), Err(Malformed::Length(41)));
        let mut text = [b'0'; 40];
        text[6] = b'"';
        assert_eq!(decode(&text), Err(Malformed::Character(7)));
        text[6] = 0xff;
        assert_eq!(decode(&text), Err(Malformed::Character(7)));
        assert_eq!(decode(&[b'#'; 40]), Err(Malformed::Range));
    }
}
