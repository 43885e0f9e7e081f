//! The same statement with parameters in the place of its typed constants.

use super::values::TYPES;

/// A statement with `$1`, `$2`…, and each parameter's type and value.
pub type Bound = (String, Vec<(&'static str, String)>);

/// Replaces each `'…'::type` by `$n::type`.
pub fn bind(sql: &str) -> Bound {
    let mut names: Vec<&'static str> = TYPES.iter().map(|kind| kind.sql()).collect();
    // `numeric(12,2)` before `numeric`, `timestamptz` before `timestamp`.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut text = String::with_capacity(sql.len());
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(start) = rest.find('\'') {
        let escaped = rest[..start].ends_with('E');
        let (value, after) = constant(&rest[start + 1..], escaped);
        let kind = after
            .strip_prefix("::")
            .and_then(|cast| names.iter().find(|name| cast.starts_with(**name)));
        match kind {
            Some(kind) if !escaped => {
                found.push((*kind, value));
                text.push_str(&rest[..start]);
                text.push_str(&format!("${}", found.len()));
            }
            _ => text.push_str(&rest[..rest.len() - after.len()]),
        }
        rest = after;
    }
    text.push_str(rest);
    (text, found)
}

/// A constant's value, and what follows its closing quote.
fn constant(text: &str, escaped: bool) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if escaped => drop(chars.next()),
            '\'' if chars.peek().is_some_and(|next| next.1 == '\'') => {
                value.push('\'');
                chars.next();
            }
            '\'' => return (value, &text[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_constants_become_parameters() {
        let (sql, values) = bind(
            "select 'x''y'::text, 'a' from t where n = '1'::numeric(12,2) and s = E'a\\'b'::text \
             and d < '2024-01-01'::timestamptz and k = 3",
        );
        assert_eq!(
            sql,
            "select $1::text, 'a' from t where n = $2::numeric(12,2) and s = E'a\\'b'::text \
             and d < $3::timestamptz and k = 3"
        );
        assert_eq!(
            values,
            [
                ("text", "x'y".to_owned()),
                ("numeric(12,2)", "1".to_owned()),
                ("timestamptz", "2024-01-01".to_owned())
            ]
        );
    }
}
