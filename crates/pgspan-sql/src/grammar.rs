//! The calls of libpg_query, which is PostgreSQL's own scanner and grammar: a text's tokens,
//! and its tree as libpg_query writes it, in protobuf's encoding.
//!
//! It must not know what the nodes are. The crate `pg_query` links the library; its own
//! tree has 608 bytes for every node (docs/decisions/0014-a-tree-of-our-own.md).

use pg_query::protobuf::KeywordKind;
use std::ffi::{CString, c_char, c_int};

/// The bytes of a message.
#[repr(C)]
struct Buffer {
    len: usize,
    data: *const u8,
}

/// `PgQueryProtobufParseResult`.
#[repr(C)]
struct ParseResult {
    tree: Buffer,
    stderr: *mut c_char,
    error: *mut Error,
}

/// `PgQueryScanToken`.
#[repr(C)]
struct ScanToken {
    start: c_int,
    end: c_int,
    token: c_int,
    keyword_kind: c_int,
}

/// `PgQueryScanTokensResult`.
#[repr(C)]
struct ScanResult {
    tokens: *const ScanToken,
    count: c_int,
    error: *mut Error,
}

/// `PgQueryError`, of which only the library knows the inside.
#[repr(C)]
struct Error {
    opaque: [u8; 0],
}

// SAFETY: the signatures are those of libpg_query's pg_query.h (18).
unsafe extern "C" {
    fn pg_query_parse_protobuf(text: *const c_char) -> ParseResult;
    fn pg_query_free_protobuf_parse_result(result: ParseResult);
    fn pg_query_scan_tokens(text: *const c_char) -> ScanResult;
    fn pg_query_free_scan_tokens_result(result: ScanResult);
}

/// A tree as libpg_query wrote it; freed when dropped.
pub(crate) struct Written(Option<ParseResult>);

impl Written {
    /// Parses a text; `None` when PostgreSQL's grammar does not know it.
    pub(crate) fn parse(text: &str) -> Option<Written> {
        let text = CString::new(text).ok()?;
        // SAFETY: the text ends with a NUL and outlives the call, which keeps nothing of it.
        let written = Written(Some(unsafe { pg_query_parse_protobuf(text.as_ptr()) }));
        let is_read = written.0.as_ref().is_some_and(|r| r.error.is_null());
        is_read.then_some(written)
    }

    /// The message `ParseResult`.
    pub(crate) fn message(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: libpg_query owns that many bytes there until they are freed, which
            // dropping `self` does.
            Some(ParseResult { tree, .. }) if !tree.data.is_null() => unsafe {
                std::slice::from_raw_parts(tree.data, tree.len)
            },
            _ => &[],
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(result) = self.0.take() {
            // SAFETY: it came from `pg_query_parse_protobuf`, and `take` leaves none behind.
            unsafe { pg_query_free_protobuf_parse_result(result) }
        }
    }
}

/// One token with its place in the text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lexeme {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// libpg_query's token code.
    pub token: i32,
    /// Whether it is a keyword, of whatever kind.
    pub keyword: bool,
}

/// All tokens of a text, comments too; empty when it cannot be scanned.
pub(crate) fn scan(text: &str) -> Vec<Lexeme> {
    let Ok(text) = CString::new(text) else { return Vec::new() };
    // SAFETY: the text ends with a NUL and outlives the call, which keeps nothing of it.
    let result = unsafe { pg_query_scan_tokens(text.as_ptr()) };
    let scanned = match usize::try_from(result.count) {
        // SAFETY: without an error that many tokens lie there until they are freed, below.
        Ok(count) if result.error.is_null() && !result.tokens.is_null() => unsafe {
            std::slice::from_raw_parts(result.tokens, count)
        },
        _ => &[],
    };
    let place = |at: c_int| usize::try_from(at).unwrap_or(0);
    let lexeme = |t: &ScanToken| Lexeme {
        start: place(t.start),
        end: place(t.end),
        token: t.token,
        keyword: t.keyword_kind != KeywordKind::NoKeyword as i32,
    };
    let lexemes = scanned.iter().map(lexeme).collect();
    // SAFETY: it came from `pg_query_scan_tokens`, and nothing of it is used any more.
    unsafe { pg_query_free_scan_tokens_result(result) };
    lexemes
}

/// What a field of a message holds.
#[derive(Clone, Copy)]
pub(crate) enum Value<'b> {
    /// A number, a truth value, one of an enumeration.
    Number(u64),
    /// A string, or a message.
    Bytes(&'b [u8]),
}

/// The fields of a message, in order: number and value. `None` in place of a field: the
/// rest is not a message.
#[derive(Clone)]
pub(crate) struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    /// Of a message.
    pub(crate) fn of(message: &'b [u8]) -> Fields<'b> {
        Fields(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u32, Value<'b>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((number, value))
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Option<(u32, Value<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_field_by_field() {
        let message = [0x08, 0xac, 0x02, 0x12, 0x02, b'h', b'i'];
        let mut fields = Fields::of(&message);
        assert!(matches!(fields.next(), Some(Some((1, Value::Number(300))))));
        assert!(matches!(fields.next(), Some(Some((2, Value::Bytes(b"hi"))))));
        assert!(fields.next().is_none());
        // Cut short, of a kind that libpg_query does not write, too long a number.
        for odd in [&message[..6], &[0x0d, 0, 0, 0, 0][..], &[0xff; 11][..]] {
            assert!(Fields::of(odd).any(|f| f.is_none()), "{odd:?}");
        }
    }

    #[test]
    fn tokens_are_those_of_the_crate() {
        for text in ["", "  ", "-- x", "select 'a' /* c */ || $1, \"Ü\" from user", "select 'open"]
        {
            let crates = pg_query::scan(text).map(|s| s.tokens).unwrap_or_default();
            let own = scan(text);
            let same = |(o, c): (&Lexeme, &pg_query::protobuf::ScanToken)| {
                let place = |at: usize| i32::try_from(at).unwrap();
                (place(o.start), place(o.end), o.token) == (c.start, c.end, c.token)
                    && o.keyword == (c.keyword_kind != 0)
            };
            assert!(own.len() == crates.len() && own.iter().zip(&crates).all(same), "{text}");
        }
    }
}
