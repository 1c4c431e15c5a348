//! A value to words and back, as a POSIX shell without expansions splits them (Python's `shlex.split`, which zeek-client
//! uses for scripts and env).

/// Why a value has no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("nothing follows the last \\")]
    OpenEscape,
}

fn separates(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    // None: between words. An empty pair of quotes is a word, too.
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            c if separates(c) => words.extend(word.take()),
            '\'' => single_quoted(&mut characters, word.get_or_insert_default())?,
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => {
                let escaped = characters.next().ok_or(WordsError::OpenEscape)?;
                word.get_or_insert_default().push(escaped);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(characters: &mut std::str::Chars, word: &mut String) -> Result<(), WordsError> {
    loop {
        match characters.next().ok_or(WordsError::OpenQuote)? {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
}

/// Inside double quotes a `\` escapes the quote and itself and stands for itself before all else.
fn double_quoted(characters: &mut std::str::Chars, word: &mut String) -> Result<(), WordsError> {
    loop {
        match characters.next().ok_or(WordsError::OpenQuote)? {
            '"' => return Ok(()),
            '\\' => {
                let escaped = characters.next().ok_or(WordsError::OpenEscape)?;
                if !matches!(escaped, '"' | '\\') {
                    word.push('\\');
                }
                word.push(escaped);
            }
            c => word.push(c),
        }
    }
}

/// `word` so that [`split`] gives it back, with quotes only where they are needed.
pub fn quote(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains(|c| super::syntax::is_blank(c) || matches!(c, '\'' | '"' | '\\'));
    if plain {
        return word.to_owned();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for character in word.chars() {
        match character {
            // With quotes on both sides of a line break, INI readers find no blanks to drop there, and no comment.
            '\n' => quoted.push_str("\"\"\n\"\""),
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_sees_them() {
        let cases: [(&str, &[&str]); 9] = [
            ("", &[]),
            (" a  b\tc\nd ", &["a", "b", "c", "d"]),
            ("foo=bar=baz blum=\"foo bar\"", &["foo=bar=baz", "blum=foo bar"]),
            ("'a \"b' \"c 'd\"", &["a \"b", "c 'd"]),
            ("a'b c'd", &["ab cd"]),
            ("'' x", &["", "x"]),
            (r#"a\ b \\ \""#, &["a b", "\\", "\""]),
            (r#""a\"b\\c\nd""#, &["a\"b\\c\\nd"]),
            ("# no comment", &["#", "no", "comment"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(split("'a"), Err(WordsError::OpenQuote));
        assert_eq!(split("\"a"), Err(WordsError::OpenQuote));
        assert_eq!(split("a\\"), Err(WordsError::OpenEscape));
        assert_eq!(split("\"a\\"), Err(WordsError::OpenEscape));
    }

    #[test]
    fn quoted_words_come_back() {
        for word in ["", "a", "a b", "a'b", "a\"b", "a\\", "\\\"", "\u{a0}", " a \n\n #b", "#", "ä=ö"] {
            assert_eq!(split(&quote(word)).unwrap(), [word], "{word:?}");
        }
    }
}
