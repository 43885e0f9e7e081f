//! What one exchange with a server brought, as a value that can be compared.

use std::fmt::Write as _;

use bytes::Bytes;
use pgspan_wire::backend::{ErrorFields, Field, TransactionStatus};

/// One result: what lies between two ends (CommandComplete and its kin).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultSet {
    /// RowDescription, if one came.
    pub columns: Option<Vec<Field>>,
    /// Rows, values as they came.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// CopyData, one piece each.
    pub copied: Vec<Bytes>,
    /// The command tag; `None` for an empty query, a suspended portal, or an error.
    pub tag: Option<String>,
}

/// Everything up to ReadyForQuery.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// Results in order.
    pub results: Vec<ResultSet>,
    /// ParameterDescription, if one came.
    pub parameters: Option<Vec<u32>>,
    /// The RowDescription that answered the Describe of a statement.
    pub described: Option<Vec<Field>>,
    /// The first error.
    pub error: Option<ErrorFields>,
    /// First errors of later exchanges, after one of an earlier.
    pub later_errors: Vec<ErrorFields>,
    /// Notices in order.
    pub notices: Vec<ErrorFields>,
    /// ParameterStatus messages in order.
    pub settings: Vec<(String, String)>,
    /// Notifications: channel and payload.
    pub notifications: Vec<(String, String)>,
    /// Message tags in order; runs of DataRow and CopyData are one, asynchronous messages none.
    pub shape: String,
    /// Transaction status at the end.
    pub status: TransactionStatus,
    /// The connection failed: what happened.
    pub broken: Option<String>,
}

impl Reply {
    /// A reply that could not be read.
    pub fn broken(why: impl Into<String>) -> Reply {
        Reply { broken: Some(why.into()), ..Reply::default() }
    }

    /// Rows of all results.
    pub fn row_count(&self) -> usize {
        self.results.iter().map(|result| result.rows.len()).sum()
    }

    /// Errors in order.
    pub fn errors(&self) -> impl Iterator<Item = &ErrorFields> {
        self.error.iter().chain(&self.later_errors)
    }

    /// Appends what a later exchange of the same step brought.
    pub fn append(&mut self, later: Reply) {
        self.results.extend(later.results);
        self.parameters = self.parameters.take().or(later.parameters);
        self.described = self.described.take().or(later.described);
        match self.error {
            Some(_) => self.later_errors.extend(later.error),
            None => self.error = later.error,
        }
        self.later_errors.extend(later.later_errors);
        self.notices.extend(later.notices);
        self.settings.extend(later.settings);
        self.notifications.extend(later.notifications);
        self.shape.push_str(&later.shape);
        self.status = later.status;
        self.broken = self.broken.take().or(later.broken);
    }

    /// Sorts the rows of every result, for statements that promise no order.
    pub fn sort_rows(&mut self) {
        for result in &mut self.results {
            result.rows.sort();
            result.copied.sort();
        }
    }

    /// Forgets a RowDescription that an error followed.
    pub fn forget_description(&mut self) {
        if let Some(last) = self.results.last_mut().filter(|result| result.rows.is_empty()) {
            last.columns = None;
        }
        self.shape = self.shape.replace("TE", "E");
    }

    /// One value of the first row of the last result that has one, as text.
    pub fn scalar(&self) -> Option<String> {
        let row = self.results.last()?.rows.first()?;
        let value = row.first()?.as_ref()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// For people: `ok, 3 rows` or the error.
    pub fn summary(&self) -> String {
        if let Some(broken) = &self.broken {
            return format!("broken: {broken}");
        }
        match &self.error {
            Some(error) => describe_error(error),
            None => {
                let tags: Vec<&str> =
                    self.results.iter().filter_map(|result| result.tag.as_deref()).collect();
                format!("ok, {} rows, {}", self.row_count(), tags.join("; "))
            }
        }
    }
}

/// An error or notice on one line.
pub fn describe_error(error: &ErrorFields) -> String {
    const FIELD_LENGTH_MAX: usize = 400;
    let mut text =
        format!("{} {}: {}", error.field(b'S').unwrap_or("?"), error.sqlstate(), error.message());
    for (code, name) in [(b'D', "detail"), (b'H', "hint"), (b'P', "position"), (b'W', "context")] {
        if let Some(value) = error.field(code) {
            let mut value = value.replace('\n', " / ");
            if value.chars().count() > FIELD_LENGTH_MAX {
                value = value.chars().take(FIELD_LENGTH_MAX).collect::<String>() + "…";
            }
            let _ = write!(text, " [{name}: {value}]");
        }
    }
    text
}

/// A value on one line: text if it can be read as text, else hexadecimal.
pub fn describe_value(value: Option<&Bytes>) -> String {
    const LENGTH_MAX: usize = 160;
    let Some(value) = value else {
        return "NULL".to_owned();
    };
    let mut text = match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("'{text}'"),
        _ => value.iter().fold("0x".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    };
    if text.chars().count() > LENGTH_MAX {
        text = text.chars().take(LENGTH_MAX).collect();
        let _ = write!(text, "… ({} bytes)", value.len());
    }
    text
}

/// A row on one line.
pub fn describe_row(row: &[Option<Bytes>]) -> String {
    let values: Vec<String> = row.iter().map(|value| describe_value(value.as_ref())).collect();
    format!("({})", values.join(", "))
}
