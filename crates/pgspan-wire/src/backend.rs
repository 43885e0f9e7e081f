//! Messages a server sends: views of those a gateway must read, encoders of
//! those it must say itself.

use crate::WireError;
use crate::frame::{Fields, Frame};
use crate::frontend::{cstr, message};
use bytes::{BufMut, Bytes, BytesMut};

/// Transaction status as ReadyForQuery tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    #[default]
    Idle,
    /// In a transaction block.
    InBlock,
    /// In a block whose statements fail until it ends.
    Failed,
}

impl TransactionStatus {
    /// From the byte in ReadyForQuery.
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InBlock),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    /// The byte in ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InBlock => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Output name.
    pub name: Bytes,
    /// OID of the table it comes from, or 0.
    pub table_oid: u32,
    /// Its attribute number there, or 0.
    pub attnum: i16,
    /// Type OID.
    pub type_oid: u32,
    /// Type size in bytes; negative is variable.
    pub type_size: i16,
    /// Type modifier; -1 is none.
    pub typmod: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// Decodes the body of a `T` message.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn row_description(body: Bytes) -> Result<Vec<Field>, WireError> {
    let mut f = Fields::new(b'T', body);
    let n = f.i16()?;
    (0..n)
        .map(|_| {
            Ok(Field {
                name: f.cstr()?,
                table_oid: f.u32()?,
                attnum: f.i16()?,
                type_oid: f.u32()?,
                type_size: f.i16()?,
                typmod: f.i32()?,
                format: f.i16()?,
            })
        })
        .collect()
}

/// Appends a RowDescription.
pub fn put_row_description(buf: &mut BytesMut, fields: &[Field]) {
    message(buf, b'T', |b| {
        b.put_u16(u16::try_from(fields.len()).unwrap_or(u16::MAX));
        for f in fields {
            cstr(b, &f.name);
            b.put_u32(f.table_oid);
            b.put_i16(f.attnum);
            b.put_u32(f.type_oid);
            b.put_i16(f.type_size);
            b.put_i32(f.typmod);
            b.put_i16(f.format);
        }
    });
}

/// Decodes the body of a `D` message.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn data_row(body: Bytes) -> Result<Vec<Option<Bytes>>, WireError> {
    let mut f = Fields::new(b'D', body);
    let n = f.i16()? as u16;
    (0..n).map(|_| f.value()).collect()
}

/// Appends a DataRow.
pub fn put_data_row<V: AsRef<[u8]>>(buf: &mut BytesMut, values: &[Option<V>]) {
    message(buf, b'D', |b| {
        b.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for v in values {
            match v {
                None => b.put_i32(-1),
                Some(v) => {
                    b.put_u32(u32::try_from(v.as_ref().len()).unwrap_or(u32::MAX));
                    b.put_slice(v.as_ref());
                }
            }
        }
    });
}

/// Decodes the body of a `t` message: the parameter type OIDs.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parameter_description(body: Bytes) -> Result<Vec<u32>, WireError> {
    let mut f = Fields::new(b't', body);
    let n = f.i16()? as u16;
    (0..n).map(|_| f.u32()).collect()
}

/// The fields of an ErrorResponse or NoticeResponse
/// (manual, section "Error and Notice Message Fields").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// Field code and its text, in the order sent.
    pub fields: Vec<(u8, String)>,
}

impl ErrorFields {
    /// Decodes the body of an `E` or `N` message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(body: Bytes) -> Result<ErrorFields, WireError> {
        let mut f = Fields::new(b'E', body);
        let mut fields = Vec::new();
        loop {
            match f.u8()? {
                0 => return Ok(ErrorFields { fields }),
                code => fields.push((code, f.text()?)),
            }
        }
    }

    /// What an ErrorResponse says. One that cannot be read, or was too long to be kept, is an
    /// error all the same.
    pub fn read(frame: &Frame) -> ErrorFields {
        let what = match frame.is_cut() {
            false => "the server sent an error that cannot be read",
            true => "the server sent an error that is too long",
        };
        ErrorFields::decode(frame.body())
            .unwrap_or_else(|_| ErrorFields::new("ERROR", "08P01", what))
    }

    /// The text of one field.
    pub fn field(&self, code: u8) -> Option<&str> {
        self.fields.iter().find(|(c, _)| *c == code).map(|(_, t)| t.as_str())
    }

    /// Whether the connection ends with it.
    pub fn is_fatal(&self) -> bool {
        let severity = self.field(b'V').or(self.field(b'S'));
        severity.is_some_and(|s| s == "FATAL" || s == "PANIC")
    }

    /// SQLSTATE, five characters.
    pub fn sqlstate(&self) -> &str {
        self.field(b'C').unwrap_or("XX000")
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        self.field(b'M').unwrap_or("")
    }

    /// A new error with a severity (`ERROR`, `FATAL`), SQLSTATE and message.
    pub fn new(severity: &str, sqlstate: &str, message: impl Into<String>) -> ErrorFields {
        ErrorFields {
            fields: vec![
                (b'S', severity.to_owned()),
                (b'V', severity.to_owned()),
                (b'C', sqlstate.to_owned()),
                (b'M', message.into()),
            ],
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> ErrorFields {
        self.fields.push((b'D', detail.into()));
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> ErrorFields {
        self.fields.push((b'H', hint.into()));
        self
    }

    /// Appends it as an ErrorResponse.
    pub fn put(&self, buf: &mut BytesMut) {
        message(buf, b'E', |b| {
            for (code, text) in &self.fields {
                b.put_u8(*code);
                cstr(b, text.as_bytes());
            }
            b.put_u8(0);
        });
    }
}

impl std::fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message(), self.sqlstate())
    }
}

/// Appends CommandComplete.
pub fn put_command_complete(buf: &mut BytesMut, tag: &str) {
    message(buf, b'C', |b| cstr(b, tag.as_bytes()));
}

/// Appends ReadyForQuery.
pub fn put_ready(buf: &mut BytesMut, status: TransactionStatus) {
    message(buf, b'Z', |b| b.put_u8(status.byte()));
}

/// Appends ParameterStatus.
pub fn put_parameter_status(buf: &mut BytesMut, name: &str, value: &str) {
    message(buf, b'S', |b| {
        cstr(b, name.as_bytes());
        cstr(b, value.as_bytes());
    });
}

/// Appends BackendKeyData.
pub fn put_key_data(buf: &mut BytesMut, pid: i32, key: i32) {
    message(buf, b'K', |b| {
        b.put_i32(pid);
        b.put_i32(key);
    });
}

/// Appends an authentication request of a kind with its data.
pub fn put_authentication(buf: &mut BytesMut, kind: i32, data: &[u8]) {
    message(buf, b'R', |b| {
        b.put_i32(kind);
        b.put_slice(data);
    });
}

/// Appends NegotiateProtocolVersion: the newest minor version spoken, and the
/// `_pq_.` options that were not recognised.
pub fn put_negotiate(buf: &mut BytesMut, newest_minor: i32, unrecognised: &[String]) {
    message(buf, b'v', |b| {
        b.put_i32(newest_minor);
        b.put_i32(i32::try_from(unrecognised.len()).unwrap_or(i32::MAX));
        for name in unrecognised {
            cstr(b, name.as_bytes());
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn row_description_survives_a_round_trip() {
        let fields = vec![Field {
            name: Bytes::from_static(b"a"),
            table_oid: 7,
            attnum: 1,
            type_oid: 23,
            type_size: 4,
            typmod: -1,
            format: 1,
        }];
        let mut buf = BytesMut::new();
        put_row_description(&mut buf, &fields);
        assert_eq!(
            row_description(frame::take(&mut buf).unwrap().unwrap().body()).unwrap(),
            fields
        );
    }

    #[test]
    fn errors_keep_their_fields() {
        let e = ErrorFields::new("ERROR", "42P01", "no").with_hint("h");
        let mut buf = BytesMut::new();
        e.put(&mut buf);
        let got = ErrorFields::decode(frame::take(&mut buf).unwrap().unwrap().body()).unwrap();
        assert_eq!(got, e);
        assert_eq!((got.sqlstate(), got.field(b'H')), ("42P01", Some("h")));
    }
}
