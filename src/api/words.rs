//! Words that were mistyped.

/// Differences between two words.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (down, mine) in one.chars().enumerate() {
        let mut diagonal = down;
        let mut left = down + 1;
        for (cell, theirs) in row.iter_mut().skip(1).zip(&other) {
            let here = (diagonal + usize::from(mine != *theirs)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = down + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The one of `known` that is most like `word`.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known.into_iter().min_by_key(|known| distance(word, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        assert_eq!(nearest("deplyo", ["standby", "deploy", "welcome"]), Some("deploy"));
        assert_eq!(nearest("x", []), None);
    }
}
