//! Messages a client sends. Encoders append one whole message to a buffer;
//! decoders read those that a gateway must understand.

use crate::WireError;
use crate::frame::Fields;
use bytes::{BufMut, Bytes, BytesMut};

/// Protocol version 3.0 as its code in the startup packet.
pub const PROTOCOL_3_0: u32 = 196_608;

/// Appends a message: type byte, length word (filled in afterwards), body.
pub fn message(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(tag);
    with_length(buf, body);
}

fn with_length(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = buf.len();
    buf.put_u32(0);
    body(buf);
    // A message over 4 GiB cannot be built: limits are far below it.
    let length = u32::try_from(buf.len() - at).unwrap_or(u32::MAX);
    buf[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends text and its terminating zero byte.
pub fn cstr(buf: &mut BytesMut, text: &[u8]) {
    buf.put_slice(text);
    buf.put_u8(0);
}

fn count(n: usize) -> u16 {
    // The count field has 16 bits; callers stay below (PostgreSQL's limit is 65,535 parameters).
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// StartupMessage, protocol 3.0.
pub fn startup(buf: &mut BytesMut, params: &[(&str, &str)]) {
    with_length(buf, |b| {
        b.put_u32(PROTOCOL_3_0);
        for (name, value) in params {
            cstr(b, name.as_bytes());
            cstr(b, value.as_bytes());
        }
        b.put_u8(0);
    });
}

/// SSLRequest.
pub fn ssl_request(buf: &mut BytesMut) {
    buf.put_u32(8);
    buf.put_u32(80_877_103);
}

/// CancelRequest for the server process `pid` with its secret `key`.
pub fn cancel_request(buf: &mut BytesMut, pid: i32, key: i32) {
    buf.put_u32(16);
    buf.put_u32(80_877_102);
    buf.put_i32(pid);
    buf.put_i32(key);
}

/// PasswordMessage, also SASLResponse: the body is the whole answer.
pub fn password_message(buf: &mut BytesMut, body: &[u8]) {
    message(buf, b'p', |b| b.put_slice(body));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(buf: &mut BytesMut, mechanism: &str, data: &[u8]) {
    message(buf, b'p', |b| {
        cstr(b, mechanism.as_bytes());
        b.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        b.put_slice(data);
    });
}

/// Query: one simple-protocol message.
pub fn query(buf: &mut BytesMut, sql: &str) {
    message(buf, b'Q', |b| cstr(b, sql.as_bytes()));
}

/// Parse.
pub fn parse(buf: &mut BytesMut, name: &str, sql: &str, param_oids: &[u32]) {
    message(buf, b'P', |b| {
        cstr(b, name.as_bytes());
        cstr(b, sql.as_bytes());
        b.put_u16(count(param_oids.len()));
        for oid in param_oids {
            b.put_u32(*oid);
        }
    });
}

/// Bind. Formats: 0 text, 1 binary; none means all text, one stands for all.
pub fn bind<V: AsRef<[u8]>>(
    buf: &mut BytesMut,
    portal: &str,
    statement: &str,
    param_formats: &[i16],
    params: &[Option<V>],
    result_formats: &[i16],
) {
    message(buf, b'B', |b| {
        cstr(b, portal.as_bytes());
        cstr(b, statement.as_bytes());
        b.put_u16(count(param_formats.len()));
        for f in param_formats {
            b.put_i16(*f);
        }
        b.put_u16(count(params.len()));
        for p in params {
            match p {
                None => b.put_i32(-1),
                Some(v) => {
                    b.put_u32(u32::try_from(v.as_ref().len()).unwrap_or(u32::MAX));
                    b.put_slice(v.as_ref());
                }
            }
        }
        b.put_u16(count(result_formats.len()));
        for f in result_formats {
            b.put_i16(*f);
        }
    });
}

fn kind_and_name(buf: &mut BytesMut, tag: u8, kind: u8, name: &str) {
    message(buf, tag, |b| {
        b.put_u8(kind);
        cstr(b, name.as_bytes());
    });
}

/// Describe a prepared statement.
pub fn describe_statement(buf: &mut BytesMut, name: &str) {
    kind_and_name(buf, b'D', b'S', name);
}

/// Describe a portal.
pub fn describe_portal(buf: &mut BytesMut, name: &str) {
    kind_and_name(buf, b'D', b'P', name);
}

/// Close a prepared statement.
pub fn close_statement(buf: &mut BytesMut, name: &str) {
    kind_and_name(buf, b'C', b'S', name);
}

/// Close a portal.
pub fn close_portal(buf: &mut BytesMut, name: &str) {
    kind_and_name(buf, b'C', b'P', name);
}

/// Execute; `max_rows` 0 means all.
pub fn execute(buf: &mut BytesMut, portal: &str, max_rows: i32) {
    message(buf, b'E', |b| {
        cstr(b, portal.as_bytes());
        b.put_i32(max_rows);
    });
}

/// Sync.
pub fn sync(buf: &mut BytesMut) {
    message(buf, b'S', |_| {});
}

/// Flush.
pub fn flush(buf: &mut BytesMut) {
    message(buf, b'H', |_| {});
}

/// Terminate.
pub fn terminate(buf: &mut BytesMut) {
    message(buf, b'X', |_| {});
}

/// CopyData.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    message(buf, b'd', |b| b.put_slice(data));
}

/// CopyDone.
pub fn copy_done(buf: &mut BytesMut) {
    message(buf, b'c', |_| {});
}

/// CopyFail with its reason.
pub fn copy_fail(buf: &mut BytesMut, reason: &str) {
    message(buf, b'f', |b| cstr(b, reason.as_bytes()));
}

/// A Parse message as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse {
    /// Statement name; empty is the unnamed statement.
    pub name: String,
    /// The statement's text, as the client encoded it.
    pub sql: Bytes,
    /// Parameter types the client declared; 0 leaves one to the server.
    pub param_oids: Vec<u32>,
}

impl Parse {
    /// Decodes the body of a `P` message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(body: Bytes) -> Result<Parse, WireError> {
        let mut f = Fields::new(b'P', body);
        let name = f.text()?;
        let sql = f.cstr()?;
        let n = f.i16()? as u16;
        let param_oids = (0..n).map(|_| f.u32()).collect::<Result<_, _>>()?;
        Ok(Parse { name, sql, param_oids })
    }
}

/// A Bind message as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Portal name; empty is the unnamed portal.
    pub portal: String,
    /// The prepared statement it is made from.
    pub statement: String,
    /// Parameter formats (none: all text; one: for all).
    pub param_formats: Vec<i16>,
    /// Parameter values; `None` is NULL.
    pub params: Vec<Option<Bytes>>,
    /// Result formats (none: all text; one: for all).
    pub result_formats: Vec<i16>,
}

impl Bind {
    /// Decodes the body of a `B` message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(body: Bytes) -> Result<Bind, WireError> {
        let mut f = Fields::new(b'B', body);
        let portal = f.text()?;
        let statement = f.text()?;
        let n = f.i16()? as u16;
        let param_formats = (0..n).map(|_| f.i16()).collect::<Result<_, _>>()?;
        let n = f.i16()? as u16;
        let params = (0..n).map(|_| f.value()).collect::<Result<_, _>>()?;
        let n = f.i16()? as u16;
        let result_formats = (0..n).map(|_| f.i16()).collect::<Result<_, _>>()?;
        Ok(Bind { portal, statement, param_formats, params, result_formats })
    }

    /// Whether there are as many formats as PostgreSQL accepts for its parameters and so many
    /// columns: none, one for all, or one for each; and only such as there are.
    pub fn formats_fit(&self, columns: usize) -> bool {
        let fit = |formats: &[i16], count: usize| {
            (formats.len() <= 1 || formats.len() == count)
                && formats.iter().all(|format| matches!(format, 0 | 1))
        };
        fit(&self.param_formats, self.params.len()) && fit(&self.result_formats, columns)
    }

    /// The format of parameter `i` (0 text, 1 binary).
    pub fn param_format(&self, i: usize) -> i16 {
        match self.param_formats.len() {
            0 => 0,
            1 => self.param_formats[0],
            _ => self.param_formats.get(i).copied().unwrap_or(0),
        }
    }
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement by name.
    Statement(String),
    /// A portal by name.
    Portal(String),
}

impl Target {
    /// Decodes the body of a `D` or `C` message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(tag: u8, body: Bytes) -> Result<Target, WireError> {
        let mut f = Fields::new(tag, body);
        match f.u8()? {
            b'S' => Ok(Target::Statement(f.text()?)),
            b'P' => Ok(Target::Portal(f.text()?)),
            _ => Err(WireError::Malformed(char::from(tag))),
        }
    }
}

/// An Execute message as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// Portal name.
    pub portal: String,
    /// Row limit; 0 means all.
    pub max_rows: i32,
}

impl Execute {
    /// Decodes the body of an `E` message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(body: Bytes) -> Result<Execute, WireError> {
        let mut f = Fields::new(b'E', body);
        Ok(Execute { portal: f.text()?, max_rows: f.i32()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut buf = BytesMut::new();
        parse(&mut buf, "s", "select $1", &[23]);
        bind(&mut buf, "p", "s", &[1], &[Some(&b"\0\0\0\x07"[..]), None], &[0, 1]);
        execute(&mut buf, "p", 5);
        let p = Parse::decode(frame::take(&mut buf).unwrap().unwrap().body()).unwrap();
        assert_eq!((p.name.as_str(), &p.sql[..], p.param_oids), ("s", &b"select $1"[..], vec![23]));
        let b = Bind::decode(frame::take(&mut buf).unwrap().unwrap().body()).unwrap();
        assert_eq!((b.portal.as_str(), b.params.len(), b.result_formats.len()), ("p", 2, 2));
        assert_eq!(b.param_format(1), 1);
        let e = Execute::decode(frame::take(&mut buf).unwrap().unwrap().body()).unwrap();
        assert_eq!(e.max_rows, 5);
        assert!(buf.is_empty());
    }
}
