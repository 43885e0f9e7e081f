//! Where one message ends and the next begins: a type byte, then a length word
//! (big-endian, in bytes, counting itself but not the type byte), then the body.

use crate::WireError;
use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a message's header: type byte and length word.
pub const HEADER_BYTES: usize = 5;

/// The largest length word that PostgreSQL itself accepts (`MaxAllocSize`-bounded), in bytes.
pub const LENGTH_MAX: usize = 0x3fff_ffff;

/// One whole message, header included, so that it can be relayed verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Type byte.
    pub tag: u8,
    /// Header and body, exactly as received.
    pub raw: Bytes,
}

impl Frame {
    /// One that was too long to be kept: only its type byte is known.
    pub fn cut(tag: u8) -> Frame {
        Frame { tag, raw: Bytes::new() }
    }

    /// Whether it was too long to be kept.
    pub fn is_cut(&self) -> bool {
        self.raw.is_empty()
    }

    /// The message without its header.
    pub fn body(&self) -> Bytes {
        self.raw.slice(HEADER_BYTES.min(self.raw.len())..)
    }
}

/// The type byte and total size in bytes (header included) of the message at
/// the start of `buf`, if its header has arrived.
///
/// # Errors
/// [`WireError::Length`] when the length word is impossible.
pub fn peek(buf: &[u8]) -> Result<Option<(u8, usize)>, WireError> {
    let Some(header) = buf.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let tag = header[0];
    let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    match usize::try_from(length) {
        Ok(n) if (4..=LENGTH_MAX).contains(&n) => Ok(Some((tag, n + 1))),
        _ => Err(WireError::Length { tag: Some(char::from(tag)), length: i64::from(length) }),
    }
}

/// Takes the first whole message off `buf`, or `None` when it has not arrived.
///
/// # Errors
/// [`WireError::Length`] when the length word is impossible.
pub fn take(buf: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    match peek(buf)? {
        Some((tag, size)) if buf.len() >= size => {
            Ok(Some(Frame { tag, raw: buf.split_to(size).freeze() }))
        }
        // Memory comes with the bytes, not with what a header claims.
        Some(_) | None => Ok(None),
    }
}

/// Reads fields from a message body in order; every getter fails with
/// [`WireError::Malformed`] when the body is too short.
pub struct Fields {
    tag: char,
    body: Bytes,
}

impl Fields {
    /// Starts at the beginning of `body`; `tag` is named in errors.
    pub fn new(tag: u8, body: Bytes) -> Fields {
        Fields { tag: char::from(tag), body }
    }

    fn need(&self, n: usize) -> Result<(), WireError> {
        if self.body.len() < n { Err(WireError::Malformed(self.tag)) } else { Ok(()) }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.need(1)?;
        Ok(self.body.get_u8())
    }

    /// A 16-bit integer.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        self.need(2)?;
        Ok(self.body.get_i16())
    }

    /// A 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        self.need(4)?;
        Ok(self.body.get_i32())
    }

    /// A 32-bit unsigned integer (an OID).
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.need(4)?;
        Ok(self.body.get_u32())
    }

    /// `n` raw bytes.
    pub fn bytes(&mut self, n: usize) -> Result<Bytes, WireError> {
        self.need(n)?;
        Ok(self.body.split_to(n))
    }

    /// A length word and that many bytes; `-1` is NULL.
    pub fn value(&mut self) -> Result<Option<Bytes>, WireError> {
        let n = self.i32()?;
        if n == -1 {
            return Ok(None);
        }
        let n = usize::try_from(n).map_err(|_| WireError::Malformed(self.tag))?;
        self.bytes(n).map(Some)
    }

    /// Text up to and without its terminating zero byte.
    pub fn cstr(&mut self) -> Result<Bytes, WireError> {
        let end = self.body.iter().position(|b| *b == 0).ok_or(WireError::Malformed(self.tag))?;
        let text = self.body.split_to(end);
        self.body.advance(1);
        Ok(text)
    }

    /// As [`Fields::cstr`], as a string; bytes that are not UTF-8 are replaced.
    pub fn text(&mut self) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(&self.cstr()?).into_owned())
    }

    /// What has not been read yet.
    pub fn rest(self) -> Bytes {
        self.body
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_pieces_is_taken_whole() {
        let mut buf = BytesMut::new();
        for byte in [b'Z', 0, 0, 0, 5] {
            buf.extend_from_slice(&[byte]);
            assert_eq!(take(&mut buf).unwrap(), None);
        }
        buf.extend_from_slice(b"IX");
        let frame = take(&mut buf).unwrap().unwrap();
        assert_eq!((frame.tag, &frame.body()[..]), (b'Z', &b"I"[..]));
        assert_eq!(&buf[..], b"X");
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for length in [-1i32, 0, 3, i32::MAX] {
            let mut raw = vec![b'Q'];
            raw.extend_from_slice(&length.to_be_bytes());
            assert!(matches!(peek(&raw), Err(WireError::Length { .. })), "{length}");
        }
    }

    #[test]
    fn short_bodies_are_errors() {
        let mut f = Fields::new(b'D', Bytes::from_static(&[0, 0, 0, 9, 1]));
        assert_eq!(f.value(), Err(WireError::Malformed('D')));
        assert_eq!(
            Fields::new(b'S', Bytes::from_static(b"x")).cstr(),
            Err(WireError::Malformed('S'))
        );
    }
}
