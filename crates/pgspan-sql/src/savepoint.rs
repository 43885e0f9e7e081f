//! What a text does with savepoints.

use crate::parse::{Lexeme, lex};

/// What a statement does with one (manual, sections "SAVEPOINT", "RELEASE SAVEPOINT" and
/// "ROLLBACK TO SAVEPOINT").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes it.
    Set(String),
    /// Forgets it and those behind it; what was done stays.
    Release(String),
    /// Undoes what was done behind it.
    Back(String),
}

/// The steps of a text's statements, in order. `None`: unknown, as where a transaction ends
/// in the same text. `text` is read as by a server whose `standard_conforming_strings` is on.
pub fn steps(text: &[u8]) -> Option<Vec<Step>> {
    let text = std::str::from_utf8(text).ok()?;
    let tokens = lex(text);
    if tokens.is_empty() && !text.trim().is_empty() {
        return None;
    }
    let mut steps = Vec::new();
    let mut ends = false;
    for statement in tokens.split(|t| t.is_char(b';')).filter(|s| !s.is_empty()) {
        let words: Vec<&str> = statement.iter().map(|t| &text[t.start..t.end]).collect();
        let is =
            |at: usize, word: &str| words.get(at).is_some_and(|w| w.eq_ignore_ascii_case(word));
        let name = |at: usize| named(statement.get(at..)?, text);
        if is(0, "savepoint") {
            steps.push(Step::Set(name(1)?));
        } else if is(0, "release") {
            steps.push(Step::Release(name(1 + usize::from(is(1, "savepoint")))?));
        } else if is(0, "rollback") || is(0, "abort") || is(0, "commit") || is(0, "end") {
            let to = 1 + usize::from(is(1, "work") || is(1, "transaction"));
            if is(0, "rollback") && is(to, "to") {
                let at = to + 1;
                steps.push(Step::Back(name(at + usize::from(is(at, "savepoint")))?));
            } else {
                ends = true;
            }
        }
    }
    (!ends || steps.is_empty()).then_some(steps)
}

/// Whether a text may go back to a savepoint; what is not read may. `plain`: the server reads
/// it as [`steps`] does.
pub fn may_go_back(text: &[u8], plain: bool) -> bool {
    // The word is a keyword: it is written in letters of ASCII whatever the encoding.
    let word = b"rollback";
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
        && steps(text)
            .filter(|_| plain)
            .is_none_or(|all| all.iter().any(|step| matches!(step, Step::Back(_))))
}

/// The name that is all that is left of a statement, as PostgreSQL folds it.
fn named(rest: &[Lexeme], text: &str) -> Option<String> {
    let [only] = rest else { return None };
    let raw = &text[only.start..only.end];
    let name = match raw.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?.replace("\"\"", "\""),
        // A server folds other letters as its locale has them.
        None if raw.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
            raw.to_ascii_lowercase()
        }
        // It may be one of the others, written in escapes.
        None => return None,
    };
    // Of a longer one the server keeps the beginning.
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

/// The longest name, in bytes (NAMEDATALEN is 64).
pub(crate) const NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_all_their_forms() {
        let set = |n: &str| Step::Set(n.to_owned());
        let back = |n: &str| Step::Back(n.to_owned());
        let release = |n: &str| Step::Release(n.to_owned());
        for (text, expected) in [
            ("SAVEPOINT A", Some(vec![set("a")])),
            ("begin; savepoint \"A b\"; select 1", Some(vec![set("A b")])),
            ("rollback to s", Some(vec![back("s")])),
            ("/* x */ rollback work to savepoint S;", Some(vec![back("s")])),
            ("rollback transaction to s", Some(vec![back("s")])),
            ("release savepoint s; release t", Some(vec![release("s"), release("t")])),
            ("savepoint savepoint", Some(vec![set("savepoint")])),
            ("select 'savepoint s'", Some(vec![])),
            ("commit; begin", Some(vec![])),
            ("rollback", Some(vec![])),
            ("", Some(vec![])),
            ("rollback; begin; savepoint s", None),
            ("savepoint s t", None),
            ("savepoint \u{e4}", None),
            ("savepoint 'a", None),
            (r#"savepoint U&"\0061""#, None),
            (&format!("savepoint {}", "x".repeat(63)), Some(vec![set(&"x".repeat(63))])),
            (&format!("savepoint {}", "x".repeat(64)), None),
        ] {
            assert_eq!(steps(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(steps(b"savepoint \xff"), None);
        for (text, may) in [
            (&b"savepoint \xff"[..], false),
            (b"RollBack to s", true),
            (b"select 1; rollback to s; select 2", true),
            (b"select '\xff'; rollback to s", true),
            (b"select 'rollback to s'", false),
            (b"rollback", false),
        ] {
            assert_eq!(may_go_back(text, true), may, "{}", String::from_utf8_lossy(text));
        }
        let hidden = br"select '\'' ; rollback to s; select '";
        assert!(!may_go_back(hidden, true) && may_go_back(hidden, false));
    }
}
