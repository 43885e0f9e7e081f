//! Quoting of names and literals, as `quote_ident` and `quote_literal` do.

/// A name, always in double quotes.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A schema-qualified name.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A string literal that means the same whatever `standard_conforming_strings` says, and in
/// whatever encoding it is read: the second byte of a character may be a backslash in some
/// (GBK, BIG5, SJIS), so that all of it is ASCII.
pub fn literal(text: &str) -> String {
    if text.is_ascii() && !text.contains('\\') {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from(" E'");
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_ascii() => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('\'');
    quoted
}

/// `ARRAY['a','b']::pg_catalog.text[]`.
pub fn text_array<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    array(items, "text")
}

/// `ARRAY['a','b']::pg_catalog.name[]`, without a cast from text, which may be a user's.
pub fn name_array<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    array(items, "name")
}

fn array<S: AsRef<str>>(items: impl IntoIterator<Item = S>, of: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|i| literal(i.as_ref())).collect();
    format!("ARRAY[{}]::pg_catalog.{of}[]", items.join(","))
}

/// A text array as its own output function writes it, for a parameter.
pub fn text_array_value<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let quoted = |i: S| format!("\"{}\"", i.as_ref().replace('\\', "\\\\").replace('"', "\\\""));
    let items: Vec<_> = items.into_iter().map(quoted).collect();
    format!("{{{}}}", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(qualified("a\"b", "C d"), "\"a\"\"b\".\"C d\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b"), " E'a\\\\b'");
        assert_eq!(literal("\u{e9}'\u{1f600}"), " E'\\U000000E9''\\U0001F600'");
        assert_eq!(text_array_value(["a", "b\"\\"]), "{\"a\",\"b\\\"\\\\\"}");
    }
}
