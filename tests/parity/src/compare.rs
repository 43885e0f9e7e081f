//! Two replies and how they differ, in words.

use std::collections::HashMap;
use std::fmt::Write as _;

use pgspan_wire::backend::{ErrorFields, Field};

use crate::case_file::Expect;
use crate::reply::{Reply, ResultSet, describe_error, describe_row};

/// Names of the objects of one database, so that OIDs of two databases can be compared.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// pg_type.
    pub types: HashMap<u32, String>,
    /// pg_class.
    pub relations: HashMap<u32, String>,
    /// Objects with greater OIDs were made by the cases themselves, once for each player.
    pub newest: Option<u32>,
    /// Texts that differ between the two worlds, and what to read instead.
    pub texts: Vec<(String, String)>,
}

impl Names {
    fn type_name(&self, oid: u32) -> String {
        self.name_of(oid, &self.types)
    }

    fn relation(&self, oid: u32) -> String {
        self.name_of(oid, &self.relations)
    }

    fn name_of(&self, oid: u32, names: &HashMap<u32, String>) -> String {
        match names.get(&oid) {
            Some(name) => name.clone(),
            None if self.newest.is_some_and(|newest| oid > newest) => "(new)".to_owned(),
            None => oid.to_string(),
        }
    }

    fn neutral(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.texts {
            text = text.replace(from, to);
        }
        text
    }
}

/// How strictly to compare.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Rows in any order.
    pub rowsort: bool,
    /// CONTEXT of errors is not compared.
    pub loose_context: bool,
    /// RowDescription in front of an error is not compared.
    pub loose_description: bool,
}

/// Error fields that must agree, with their names; file, line and routine may differ.
const ERROR_FIELDS: &[(u8, &str)] = &[
    (b'S', "severity"),
    (b'V', "severity (not localised)"),
    (b'C', "SQLSTATE"),
    (b'M', "message"),
    (b'D', "detail"),
    (b'H', "hint"),
    (b'P', "position"),
    (b'p', "internal position"),
    (b'q', "internal query"),
    (b'W', "context"),
    (b's', "schema name"),
    (b't', "table name"),
    (b'c', "column name"),
    (b'd', "data type name"),
    (b'n', "constraint name"),
];

/// Whether PostgreSQL said what the file says it says.
pub fn unexpected(oracle: &Reply, expect: &Expect) -> Option<String> {
    if oracle.broken.is_some() {
        return Some(format!("PostgreSQL: {}", oracle.summary()));
    }
    match (expect, &oracle.error) {
        (Expect::Ok(Some(rows)), None) if oracle.row_count() != *rows => {
            Some(format!("PostgreSQL gave {} rows, the file says {rows}", oracle.row_count()))
        }
        (Expect::Ok(_), None) => None,
        (Expect::Error(sqlstate), Some(error)) if error.sqlstate() == sqlstate => None,
        _ => Some(format!("PostgreSQL says `{}`, the file says {expect:?}", oracle.summary())),
    }
}

/// How the gateway's reply differs from PostgreSQL's; nothing when they agree.
pub fn differences(
    oracle: &Reply,
    gateway: &Reply,
    names: (&Names, &Names),
    manner: Manner,
) -> Vec<String> {
    let (mut oracle, mut gateway) = (oracle.clone(), gateway.clone());
    let mut found = Vec::new();
    if let Some(why) = &gateway.broken {
        found.push(format!(
            "the gateway's connection broke: {why}\n  PostgreSQL: {}",
            oracle.summary()
        ));
        return found;
    }
    match (&oracle.error, &gateway.error) {
        (None, None) => (),
        (Some(a), Some(b)) => found.extend(error_differences("", a, b, names, manner)),
        _ => found.push(format!(
            "outcome:\n  PostgreSQL: {}\n  gateway:    {}",
            oracle.summary(),
            gateway.summary()
        )),
    }
    if oracle.parameters.as_ref().map(|oids| type_names(oids, names.0))
        != gateway.parameters.as_ref().map(|oids| type_names(oids, names.1))
    {
        found.push(format!(
            "parameter types:\n  PostgreSQL: {:?}\n  gateway:    {:?}",
            oracle.parameters, gateway.parameters
        ));
    }
    found.extend(column_differences(
        "described columns",
        oracle.described.as_deref(),
        gateway.described.as_deref(),
        names,
    ));
    if manner.loose_description && oracle.error.is_some() {
        oracle.forget_description();
        gateway.forget_description();
    }
    if manner.rowsort {
        oracle.sort_rows();
        gateway.sort_rows();
    }
    if oracle.results.len() != gateway.results.len() {
        found.push(format!(
            "number of results: PostgreSQL {}, gateway {}",
            oracle.results.len(),
            gateway.results.len()
        ));
    }
    for (a, b) in oracle.results.iter().zip(&gateway.results) {
        found.extend(result_differences(a, b, names));
    }
    found.extend(notice_differences(&oracle, &gateway, names, manner));
    if oracle.settings != gateway.settings {
        found.push(format!(
            "reported settings:\n  PostgreSQL: {:?}\n  gateway:    {:?}",
            oracle.settings, gateway.settings
        ));
    }
    if oracle.notifications != gateway.notifications {
        found.push(format!(
            "notifications:\n  PostgreSQL: {:?}\n  gateway:    {:?}",
            oracle.notifications, gateway.notifications
        ));
    }
    if oracle.status != gateway.status {
        found.push(format!(
            "transaction status: PostgreSQL {:?}, gateway {:?}",
            oracle.status, gateway.status
        ));
    }
    if oracle.shape != gateway.shape {
        found.push(format!(
            "order of messages:\n  PostgreSQL: {}\n  gateway:    {}",
            oracle.shape, gateway.shape
        ));
    }
    found
}

fn type_names(oids: &[u32], names: &Names) -> Vec<String> {
    oids.iter().map(|oid| names.type_name(*oid)).collect()
}

fn error_differences(
    prefix: &str,
    oracle: &ErrorFields,
    gateway: &ErrorFields,
    names: (&Names, &Names),
    manner: Manner,
) -> Vec<String> {
    let differing: Vec<&str> = ERROR_FIELDS
        .iter()
        .filter(|(code, _)| !(manner.loose_context && *code == b'W'))
        .filter(|(code, _)| {
            oracle.field(*code).map(|text| names.0.neutral(text))
                != gateway.field(*code).map(|text| names.1.neutral(text))
        })
        .map(|(_, name)| *name)
        .collect();
    if differing.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "{prefix}error's {}:\n  PostgreSQL: {}\n  gateway:    {}",
        differing.join(", "),
        describe_error(oracle),
        describe_error(gateway)
    )]
}

fn notice_differences(
    oracle: &Reply,
    gateway: &Reply,
    names: (&Names, &Names),
    manner: Manner,
) -> Vec<String> {
    if oracle.notices.len() != gateway.notices.len() {
        let list = |notices: &[ErrorFields]| {
            notices.iter().map(describe_error).collect::<Vec<_>>().join("; ")
        };
        return vec![format!(
            "notices:\n  PostgreSQL: [{}]\n  gateway:    [{}]",
            list(&oracle.notices),
            list(&gateway.notices)
        )];
    }
    oracle
        .notices
        .iter()
        .zip(&gateway.notices)
        .flat_map(|(a, b)| error_differences("notice or ", a, b, names, manner))
        .collect()
}

fn column_differences(
    what: &str,
    oracle: Option<&[Field]>,
    gateway: Option<&[Field]>,
    names: (&Names, &Names),
) -> Vec<String> {
    let view = |columns: Option<&[Field]>, names: &Names| -> Option<Vec<String>> {
        Some(
            columns?
                .iter()
                .map(|field| {
                    format!(
                        "{} {} typmod {} size {} format {} from {}.{}",
                        String::from_utf8_lossy(&field.name),
                        names.type_name(field.type_oid),
                        field.typmod,
                        field.type_size,
                        field.format,
                        names.relation(field.table_oid),
                        field.attnum
                    )
                })
                .collect(),
        )
    };
    let (a, b) = (view(oracle, names.0), view(gateway, names.1));
    if a == b {
        return Vec::new();
    }
    let mut text = format!("{what}:");
    match (&a, &b) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b).filter(|(a, b)| a != b) {
                let _ = write!(text, "\n  PostgreSQL: {a}\n  gateway:    {b}");
            }
        }
        _ => {
            let _ = write!(text, "\n  PostgreSQL: {a:?}\n  gateway:    {b:?}");
        }
    }
    vec![text]
}

fn result_differences(
    oracle: &ResultSet,
    gateway: &ResultSet,
    names: (&Names, &Names),
) -> Vec<String> {
    let mut found =
        column_differences("columns", oracle.columns.as_deref(), gateway.columns.as_deref(), names);
    if oracle.tag != gateway.tag {
        found.push(format!("command tag: PostgreSQL {:?}, gateway {:?}", oracle.tag, gateway.tag));
    }
    if oracle.rows != gateway.rows {
        let render = |rows: &[Vec<Option<bytes::Bytes>>]| -> Vec<String> {
            rows.iter().map(|row| describe_row(row)).collect()
        };
        found.push(format!(
            "rows: PostgreSQL {}, gateway {}{}",
            oracle.rows.len(),
            gateway.rows.len(),
            line_differences(&render(&oracle.rows), &render(&gateway.rows))
        ));
    }
    let (a, b): (Vec<u8>, Vec<u8>) = (oracle.copied.concat(), gateway.copied.concat());
    if a != b {
        let render = |data: &[u8]| -> Vec<String> {
            String::from_utf8_lossy(data).lines().map(str::to_owned).collect()
        };
        found.push(format!(
            "COPY data: PostgreSQL {} bytes, gateway {} bytes{}",
            a.len(),
            b.len(),
            line_differences(&render(&a), &render(&b))
        ));
    }
    found
}

/// A short diff: the first lines that only one of the two has at its place.
fn line_differences(oracle: &[String], gateway: &[String]) -> String {
    const LINES_MAX: usize = 12;
    let mut text = String::new();
    let mut shown = 0;
    for at in 0..oracle.len().max(gateway.len()) {
        let (a, b) = (oracle.get(at), gateway.get(at));
        if a == b {
            continue;
        }
        if shown == LINES_MAX {
            text.push_str("\n  …");
            break;
        }
        shown += 1;
        if let Some(a) = a {
            let _ = write!(text, "\n  {:>4} PostgreSQL: {a}", at + 1);
        }
        if let Some(b) = b {
            let _ = write!(text, "\n  {:>4} gateway:    {b}", at + 1);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn rows(values: &[&'static str]) -> Reply {
        Reply {
            results: vec![ResultSet {
                rows: values
                    .iter()
                    .map(|value| vec![Some(Bytes::from_static(value.as_bytes()))])
                    .collect(),
                tag: Some(format!("SELECT {}", values.len())),
                ..ResultSet::default()
            }],
            ..Reply::default()
        }
    }

    fn compare(a: &Reply, b: &Reply, rowsort: bool) -> Vec<String> {
        let names = Names::default();
        let manner = Manner { rowsort, loose_context: false, loose_description: false };
        differences(a, b, (&names, &names), manner)
    }

    #[test]
    fn order_counts_unless_it_is_not_promised() {
        let (a, b) = (rows(&["1", "2"]), rows(&["2", "1"]));
        assert_eq!(compare(&a, &b, false).len(), 1);
        assert!(compare(&a, &b, true).is_empty());
    }

    #[test]
    fn a_null_is_not_an_empty_text() {
        let (a, mut b) = (rows(&[""]), rows(&[""]));
        b.results[0].rows[0][0] = None;
        assert_eq!(compare(&a, &b, false).len(), 1);
    }

    #[test]
    fn a_flipped_success_is_a_difference() {
        let (a, mut b) = (rows(&["1"]), rows(&["1"]));
        b.error = Some(ErrorFields::new("ERROR", "22012", "division by zero"));
        assert!(!compare(&a, &b, false).is_empty());
        assert!(unexpected(&b, &Expect::Ok(None)).is_some());
        assert!(unexpected(&b, &Expect::Error("22012".into())).is_none());
        assert!(unexpected(&a, &Expect::Ok(Some(2))).is_some());
    }

    #[test]
    fn a_hint_counts() {
        let (mut a, mut b) = (Reply::default(), Reply::default());
        a.error = Some(ErrorFields::new("ERROR", "42703", "no").with_hint("x"));
        b.error = Some(ErrorFields::new("ERROR", "42703", "no"));
        assert_eq!(compare(&a, &b, false).len(), 1);
    }
}
