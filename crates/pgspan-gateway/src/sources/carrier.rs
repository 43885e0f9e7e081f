//! Rows of a source → an array of the foreign table's row type, in the wire formats of
//! `array_recv`/`record_recv` (binary) or `array_in`/`record_in` (text).

use bytes::{BufMut, Bytes, BytesMut};
use pgspan_engine::through_text;
use pgspan_sql::fragment::{Carrier, Fetch};

/// Bytes of a binary array's header with one dimension.
const HEADER_BYTES: usize = 20;

/// Collects one fetch.
pub(crate) struct Builder<'a> {
    fetch: &'a Fetch,
    buf: BytesMut,
    rows: u32,
}

fn length(n: usize) -> i32 {
    // A value that large cannot have arrived: messages are bounded by 1 GiB.
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl<'a> Builder<'a> {
    pub fn new(fetch: &'a Fetch) -> Builder<'a> {
        let mut buf = BytesMut::with_capacity(1024);
        match fetch.carrier {
            Carrier::Binary => buf.put_bytes(0, HEADER_BYTES),
            Carrier::Text => buf.put_u8(b'{'),
        }
        Builder { fetch, buf, rows: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Adds one row: the body of a DataRow. `None` when it does not have the shape
    /// that the plan expects.
    pub fn push(&mut self, row: &[u8]) -> Option<()> {
        // Offsets of the values in the row; the first two bytes are their count.
        let count = usize::from(u16::from_be_bytes([*row.first()?, *row.get(1)?]));
        let mut values: [Option<&[u8]>; 64] = [None; 64];
        let mut many;
        let values: &mut [Option<&[u8]>] = if count <= values.len() {
            &mut values
        } else {
            many = vec![None; count];
            &mut many
        };
        let mut rest = row.get(2..)?;
        for slot in values.iter_mut().take(count) {
            let (head, tail) = rest.split_at_checked(4)?;
            let n = i32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            match usize::try_from(n) {
                Ok(n) => {
                    let (value, tail) = tail.split_at_checked(n)?;
                    *slot = Some(value);
                    rest = tail;
                }
                Err(_) => rest = tail,
            }
        }
        if !rest.is_empty() {
            return None;
        }
        match self.fetch.carrier {
            Carrier::Binary => self.push_binary(values, count)?,
            Carrier::Text => self.push_text(values, count)?,
        }
        self.rows += 1;
        Some(())
    }

    fn push_binary(&mut self, values: &[Option<&[u8]>], count: usize) -> Option<()> {
        let at = self.buf.len();
        self.buf.put_i32(0);
        self.buf.put_i32(length(self.fetch.columns.len()));
        for (oid, place) in &self.fetch.columns {
            self.buf.put_u32(*oid);
            let value = match place {
                Some(i) if *i < count => *values.get(*i)?,
                Some(_) => return None,
                None => None,
            };
            match value {
                Some(v) => {
                    let v = through_text(*oid, v)?;
                    self.buf.put_i32(length(v.len()));
                    self.buf.put_slice(v);
                }
                None => self.buf.put_i32(-1),
            }
        }
        let n = length(self.buf.len() - at - 4).to_be_bytes();
        self.buf[at..at + 4].copy_from_slice(&n);
        Some(())
    }

    fn push_text(&mut self, values: &[Option<&[u8]>], count: usize) -> Option<()> {
        if self.rows > 0 {
            self.buf.put_u8(b',');
        }
        self.buf.put_slice(b"\"(");
        for (i, (_, place)) in self.fetch.columns.iter().enumerate() {
            if i > 0 {
                self.buf.put_u8(b',');
            }
            let value = match place {
                Some(i) if *i < count => *values.get(*i)?,
                Some(_) => return None,
                None => None,
            };
            // NULL is nothing at all; every other value is quoted, once for the record
            // and once for the array.
            if let Some(v) = value {
                self.buf.put_slice(b"\\\"");
                for b in v {
                    match b {
                        b'"' => self.buf.put_slice(b"\\\\\\\""),
                        b'\\' => self.buf.put_slice(b"\\\\\\\\"),
                        other => self.buf.put_u8(*other),
                    }
                }
                self.buf.put_slice(b"\\\"");
            }
        }
        self.buf.put_slice(b")\"");
        Some(())
    }

    /// The value to bind.
    pub fn finish(mut self) -> Bytes {
        match self.fetch.carrier {
            Carrier::Text => self.buf.put_u8(b'}'),
            Carrier::Binary => {
                let mut head = BytesMut::with_capacity(HEADER_BYTES);
                let dimensions = i32::from(self.rows > 0);
                head.put_i32(dimensions);
                head.put_i32(0);
                head.put_u32(self.fetch.row_type);
                if self.rows == 0 {
                    return head.freeze();
                }
                head.put_u32(self.rows);
                head.put_i32(1);
                self.buf[..HEADER_BYTES].copy_from_slice(&head);
            }
        }
        self.buf.freeze()
    }
}

/// A binary one-dimensional array of non-null values.
pub(crate) fn array(element_type: u32, values: &[Bytes]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32(i32::from(!values.is_empty()));
    out.put_i32(0);
    out.put_u32(element_type);
    if !values.is_empty() {
        out.put_i32(length(values.len()));
        out.put_i32(1);
        for v in values {
            out.put_i32(length(v.len()));
            out.put_slice(v);
        }
    }
    out.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use pgspan_wire::backend::put_data_row;

    fn fetch(carrier: Carrier) -> Fetch {
        Fetch {
            server: 0,
            home_name: (String::new(), String::new()),
            remote_name: (String::new(), String::new()),
            row_type: 99,
            array_type: 98,
            columns: vec![(23, Some(0)), (25, None), (25, Some(1))],
            expected_types: Vec::new(),
            expected_typmods: Vec::new(),
            carrier,
            sql: String::new(),
            condition: None,
            keys: None,
            table_rows: 0.0,
        }
    }

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut buf = BytesMut::new();
        put_data_row(&mut buf, values);
        buf[5..].to_vec()
    }

    #[test]
    fn binary_records_have_every_live_column() {
        let f = fetch(Carrier::Binary);
        let mut b = Builder::new(&f);
        b.push(&row(&[Some(&[0, 0, 0, 7]), None])).unwrap();
        let out = b.finish();
        assert_eq!(&out[..20], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(&out[20..28], [0, 0, 0, 32, 0, 0, 0, 3]);
        assert_eq!(&Builder::new(&f).finish()[..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]);
    }

    #[test]
    fn text_is_quoted_twice() {
        let f = fetch(Carrier::Text);
        let mut b = Builder::new(&f);
        b.push(&row(&[Some(b"1"), Some(b"a\"b\\")])).unwrap();
        b.push(&row(&[None, Some(b"")])).unwrap();
        let expected = r#"{"(\"1\",,\"a\\\"b\\\\\")","(,,\"\")"}"#;
        assert_eq!(std::str::from_utf8(&b.finish()).unwrap(), expected);
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        let f = fetch(Carrier::Binary);
        assert!(Builder::new(&f).push(&row(&[None])).is_none());
        assert!(Builder::new(&f).push(&[0, 1, 0, 0]).is_none());
    }
}
