//! The values of a section as Python's configparser gives them: the section's own before those of `[DEFAULT]`, with the
//! value of another key for each `%(key)s` and a `%` for each `%%` (`configparser.BasicInterpolation`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::super::findings::{Findings, bare};
use super::INHERITED_LIMIT;
use super::syntax::Item;
use super::{DEFAULT, place};

/// How deep values may refer to others (`configparser.MAX_INTERPOLATION_DEPTH`).
const DEPTH_LIMIT: usize = 10;

/// How much of a file's references may still be followed, in bytes read: ten levels of references to references would
/// fill any memory.
pub struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: INHERITED_LIMIT }
    }
}

/// A value that is in force in a section.
pub struct Value<'a> {
    /// None: the line has no separator (a zeek-client file may have such), or what is wrong with the value has been said.
    pub text: Option<Cow<'a, str>>,
    pub line: usize,
    /// The section it stands in: `[DEFAULT]` if it is inherited.
    pub section: &'a str,
    pub is_broken: bool,
}

impl Value<'_> {
    pub fn place(&self, key: &str) -> String {
        place(self.section, key)
    }
}

/// The items in force in a section, by key in lower case, each with the section it stands in.
pub struct Scope<'a> {
    items: BTreeMap<Cow<'a, str>, (&'a str, &'a Item)>,
}

impl<'a> Scope<'a> {
    pub fn new(section: &'a str, own: &'a [Item], defaults: &'a [Item]) -> Self {
        let items = defaults.iter().map(|item| (DEFAULT, item)).chain(own.iter().map(|item| (section, item)));
        Self { items: items.map(|(section, item)| (lower(&item.key), (section, item))).collect() }
    }

    /// All values in force.
    pub fn values(&self, budget: &mut Budget, findings: &mut Findings) -> BTreeMap<Cow<'a, str>, Value<'a>> {
        let mut values = BTreeMap::new();
        for (key, (section, item)) in &self.items {
            values.insert(key.clone(), self.value(item, section, budget, findings));
        }
        values
    }

    /// The value of one item.
    pub fn value(&self, item: &'a Item, section: &'a str, budget: &mut Budget, findings: &mut Findings) -> Value<'a> {
        let value = |text, is_broken| Value { text, line: item.line, section, is_broken };
        let Some(raw) = item.value.as_deref() else { return value(None, false) };
        if !raw.contains('%') {
            return value(Some(Cow::Borrowed(raw)), false);
        }
        let mut text = String::new();
        match self.expand(raw, 1, budget, &mut text) {
            Ok(()) => value(Some(Cow::Owned(text)), false),
            Err(fault) => {
                let advice = "write %(key)s for the value of another key, and %% for a % that stands for itself";
                findings.error(Some(item.line), &place(section, &item.key), fault.to_string(), advice);
                value(None, true)
            }
        }
    }

    fn expand(&self, raw: &str, depth: usize, budget: &mut Budget, text: &mut String) -> Result<(), Fault> {
        if depth > DEPTH_LIMIT {
            return Err(Fault::Deep);
        }
        budget.left = budget.left.checked_sub(raw.len() + 1).ok_or(Fault::Long)?;
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let (key, after) = reference(after).ok_or(Fault::Lone)?;
            rest = after;
            let (_, item) = self.items.get(&*lower(key)).ok_or_else(|| Fault::Missing(key.to_owned()))?;
            let value = item.value.as_deref().ok_or_else(|| Fault::Valueless(key.to_owned()))?;
            if value.contains('%') {
                self.expand(value, depth + 1, budget, text)?;
            } else {
                budget.left = budget.left.checked_sub(value.len() + 1).ok_or(Fault::Long)?;
                text.push_str(value);
            }
        }
        text.push_str(rest);
        Ok(())
    }
}

fn lower(key: &str) -> Cow<'_, str> {
    let lower = key.to_lowercase();
    if lower == key { Cow::Borrowed(key) } else { Cow::Owned(lower) }
}

/// What stands behind a `%`, as the key that it refers to and the rest.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (key, after) = text.strip_prefix('(')?.split_once(')').filter(|(key, _)| !key.is_empty())?;
    Some((key, after.strip_prefix('s')?))
}

/// The keys, in lower case, that some value refers to: they are there for a reason, whatever they are called.
pub fn referred_to<'a>(items: impl Iterator<Item = &'a Item>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for value in items.filter_map(|item| item.value.as_deref()) {
        let found = value.split('%').skip(1).filter_map(reference);
        keys.extend(found.map(|(key, _)| key.to_lowercase()));
    }
    keys
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("holds a % that is followed by neither % nor (key)s")]
    Lone,
    #[error("refers to {:?}, a key that neither its section nor [DEFAULT] has", bare(.0))]
    Missing(String),
    #[error("refers to {:?}, which has no value", bare(.0))]
    Valueless(String),
    #[error("refers to a value that refers to another, and so on, more than {DEPTH_LIMIT} deep")]
    Deep,
    #[error("is one reference too many: those of this file come to more than {INHERITED_LIMIT} bytes")]
    Long,
}

#[cfg(test)]
mod tests {
    use super::super::syntax;
    use super::*;

    /// The value of `k` in `[s]`, or what is wrong with it.
    fn value(text: &str) -> Result<Option<String>, String> {
        let mut findings = Findings::new("f");
        let ini = syntax::read(text, &mut findings);
        let section = ini.sections.first().unwrap();
        let mut budget = Budget::default();
        let values = Scope::new(&section.name, &section.items, &ini.defaults).values(&mut budget, &mut findings);
        let errors = findings.finish(None).unwrap_err();
        match errors.first() {
            Some(error) => Err(error.problem.clone()),
            None => Ok(values.get("k").and_then(|value| value.text.as_deref().map(str::to_owned))),
        }
    }

    #[test]
    fn references_are_filled_in_as_configparser_does() {
        let cases = [
            ("[s]\nk = 100%%", "100%"),
            ("[s]\nk = %%(x)s", "%(x)s"),
            ("[s]\nk = a%(x)sb%(X)s\nx = 1", "a1b1"),
            ("[s]\nk = %(x)s\nx = %(y)s%%\ny = 2", "2%"),
            ("[DEFAULT]\nx = d\n[s]\nk = %(x)s", "d"),
            ("[DEFAULT]\nx = d\n[s]\nk = %(x)s\nx = own", "own"),
            ("[DEFAULT]\nk = %(x)s\n[s]\nx = own", "own"),
            ("[DEFAULT]\nk = d\n[s]\nk = own", "own"),
            ("[s]\nk = a\n  %(x)s\nx = 1", "a\n1"),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text).unwrap().as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(
            value("[DEFAULT]\nk = d\n[s]\nk").unwrap(),
            None,
            "an own key without a value hides the inherited one"
        );
    }

    #[test]
    fn what_configparser_refuses_is_told() {
        let lone = "holds a % that is followed by neither % nor (key)s";
        for text in ["100%", "%Y", "%(x", "%()s", "%(x)", "%(x)d", "% %"] {
            assert_eq!(value(&format!("[s]\nk = {text}\nx = 1")).unwrap_err(), lone, "{text}");
        }
        let missing = "refers to \"y\", a key that neither its section nor [DEFAULT] has";
        assert_eq!(value("[s]\nk = %(y)s").unwrap_err(), missing);
        assert_eq!(value("[s]\nk = %(y)s\ny").unwrap_err(), "refers to \"y\", which has no value");
        let deep = "refers to a value that refers to another, and so on, more than 10 deep";
        assert_eq!(value("[s]\nk = %(k)s").unwrap_err(), deep);
    }

    #[test]
    fn references_are_followed_ten_deep_and_no_deeper() {
        let chain = |links: usize| {
            let links: String = (0..links).map(|n| format!("k{n} = %(k{})s\n", n + 1)).collect();
            value(&format!("[s]\nk = %(k0)s\n{links}"))
        };
        // The last link refers to a key that is not there, unless it is too deep to be looked at.
        assert_eq!(chain(9).unwrap_err(), "refers to \"k9\", a key that neither its section nor [DEFAULT] has");
        assert!(chain(10).unwrap_err().ends_with("more than 10 deep"));
    }

    #[test]
    fn references_to_references_stay_within_bounds() {
        let levels: String = (0..8).map(|n| format!("x{n} = {}\n", format!("%(x{})s", n + 1).repeat(100))).collect();
        for last in ["", "0123456789"] {
            let text = format!("[s]\nk = %(x0)s\n{levels}x8 = {last}");
            assert!(value(&text).unwrap_err().contains("more than 4194304 bytes"), "{last}");
        }
    }
}
