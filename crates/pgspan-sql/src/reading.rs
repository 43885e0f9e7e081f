//! Whether settings may change how a text is read. PostgreSQL reads a prepared statement
//! once; the settings of that moment go with it, as far as its text depends on them.

use crate::parse::lex;
use pg_query::protobuf::Token;

/// Whether a text holds anything that `DateStyle` and its like could make mean something
/// else: a literal other than an integer, a cast, or a comparison with NULL
/// (`transform_null_equals`).
pub fn depends_on_settings(text: &str) -> bool {
    let tokens = lex(text);
    if tokens.is_empty() {
        return true;
    }
    let is = |token: i32, wanted: &[Token]| wanted.iter().any(|w| token == *w as i32);
    tokens.iter().enumerate().any(|(i, t)| {
        let before = i.checked_sub(1).and_then(|i| tokens.get(i)).map_or(0, |t| t.token);
        is(
            t.token,
            &[
                Token::Sconst,
                Token::Usconst,
                Token::Bconst,
                Token::Xconst,
                Token::Fconst,
                Token::Typecast,
                Token::Cast,
            ],
        ) || (is(t.token, &[Token::NullP]) && !is(before, &[Token::Is, Token::Not, Token::NotLa]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_casts_depend() {
        assert!(!depends_on_settings(
            "select a, count(*) from t where b = $1 and c is not null and d is null limit 10"
        ));
        for text in [
            "select 'x'",
            "select E'x'",
            "select 1.5",
            "select $1::text",
            "select cast($1 as date)",
            "select a = null",
            "select $$now$$",
            "",
        ] {
            assert!(depends_on_settings(text), "{text}");
        }
    }
}
