//! Messages of a server as lines that can be compared and read.

use std::collections::HashMap;

use bytes::Bytes;
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frame::{Fields, Frame};

/// OIDs below this are the same in every database.
const FIRST_NORMAL_OID: u32 = 16384;
/// Fields of an error that clients act upon: file, line and routine are not.
const ERROR_FIELDS: &[u8] = b"SVCMDHPpqWstcdn";
/// Rows of one answer that are told one by one.
const ROWS_MAX: usize = 40;

/// Tells the messages of one session.
#[derive(Debug, Default)]
pub struct Teller {
    /// OIDs that differ between plays, by the order in which they came.
    oids: HashMap<u32, usize>,
    rows: usize,
}

impl Teller {
    /// A message as a line; `None` for one that says nothing comparable.
    pub fn tell(&mut self, message: &Frame) -> Option<String> {
        let body = message.body();
        let tag = char::from(message.tag);
        if message.tag != b'D' {
            self.rows = 0;
        }
        Some(match message.tag {
            // Keys are the server's own.
            b'K' => return None,
            b'E' | b'N' => error(tag, body),
            b'T' => match backend::row_description(body) {
                Ok(columns) => {
                    let list: Vec<String> = columns
                        .iter()
                        .map(|c| {
                            let (table, ty) = (self.oid(c.table_oid), self.oid(c.type_oid));
                            let name = String::from_utf8_lossy(&c.name);
                            format!(
                                "{name} {table}.{} {ty} {} {} {}",
                                c.attnum, c.type_size, c.typmod, c.format
                            )
                        })
                        .collect();
                    format!("T {}", list.join(", "))
                }
                Err(error) => format!("T {error}"),
            },
            b't' => match backend::parameter_description(body) {
                Ok(oids) => {
                    let list: Vec<String> = oids.iter().map(|oid| self.oid(*oid)).collect();
                    format!("t {}", list.join(", "))
                }
                Err(error) => format!("t {error}"),
            },
            b'D' => {
                self.rows += 1;
                if self.rows > ROWS_MAX {
                    return None;
                }
                match backend::data_row(body) {
                    Ok(row) => {
                        let list: Vec<String> = row.iter().map(value).collect();
                        format!("D {}", list.join(" | "))
                    }
                    Err(error) => format!("D {error}"),
                }
            }
            b'A' => {
                let mut fields = Fields::new(b'A', body);
                let _process = fields.i32();
                format!("A {:?} {:?}", fields.text(), fields.text())
            }
            _ => format!("{tag} {}", String::from_utf8_lossy(&body).escape_debug()),
        })
    }

    fn oid(&mut self, oid: u32) -> String {
        if oid < FIRST_NORMAL_OID {
            return oid.to_string();
        }
        let next = self.oids.len() + 1;
        format!("#{}", self.oids.entry(oid).or_insert(next))
    }
}

fn value(value: &Option<Bytes>) -> String {
    value.as_ref().map_or_else(
        || "NULL".to_owned(),
        |bytes| {
            let text: String = String::from_utf8_lossy(bytes).escape_debug().collect();
            if text.len() > 200 { format!("{} bytes", bytes.len()) } else { text }
        },
    )
}

fn error(tag: char, body: Bytes) -> String {
    match ErrorFields::decode(body) {
        Ok(fields) => {
            let list: Vec<String> = ERROR_FIELDS
                .iter()
                .filter_map(|code| {
                    fields.field(*code).map(|text| format!("{}={text}", char::from(*code)))
                })
                .collect();
            format!("{tag} {}", list.join(" "))
        }
        Err(error) => format!("{tag} {error}"),
    }
}
