//! What holds for any bytes in the place of a journal value: reading them returns.

use zeek_cluster_agent::journal::try_decode;

/// The length of a key in one byte, the key, the value (and after it the pieces of its body).
pub fn holds(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let Some((key, value)) = rest.split_at_checked(usize::from(*length)) else { return };
    // Both outcomes are fine; a panic, an abort or an endless loop is not.
    let _ = try_decode(key, value);
}
