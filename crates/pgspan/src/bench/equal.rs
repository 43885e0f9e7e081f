//! Whether two answers are the same, as PostgreSQL's own text or as numbers.

use std::cmp::Ordering;

use serde::Serialize;

use super::client::Rows;

/// How far two answers agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// Every value has the same text.
    Same,
    /// Values are equal, written in other ways (`1.50` and `1.5`; a `char(n)` without its
    /// blanks).
    Equal,
    /// Numbers differ in their last digits: at most a millionth, or one hundredth.
    Close,
    /// Something else differs.
    Different,
}

impl Agreement {
    /// For a table.
    pub fn as_str(self) -> &'static str {
        match self {
            Agreement::Same => "same",
            Agreement::Equal => "equal",
            Agreement::Close => "close",
            Agreement::Different => "DIFFERENT",
        }
    }
}

/// Compares two results as multisets.
pub fn compare(left: &Rows, right: &Rows) -> Agreement {
    if left.len() != right.len() {
        return Agreement::Different;
    }
    if sorted(left) == sorted(right) {
        return Agreement::Same;
    }
    let (left, right) = (keyed(left), keyed(right));
    let rows = left.iter().zip(&right);
    rows.map(|(left, right)| row(left, right)).max().unwrap_or(Agreement::Same)
}

fn sorted(rows: &Rows) -> Rows {
    let mut rows = rows.clone();
    rows.sort();
    rows
}

/// Sorted so that texts decide first, and numbers by their size.
fn keyed(rows: &Rows) -> Rows {
    let mut rows = rows.clone();
    rows.sort_by(|left, right| {
        let texts = |row: &[Option<String>]| -> Vec<Option<String>> {
            row.iter()
                .map(|value| value.as_ref().filter(|value| value.parse::<f64>().is_err()))
                .map(|value| value.map(|value| value.trim_end().to_owned()))
                .collect()
        };
        texts(left).cmp(&texts(right)).then_with(|| {
            let order = left.iter().zip(right).map(|(left, right)| numbers(left, right));
            order.fold(Ordering::Equal, Ordering::then)
        })
    });
    rows
}

fn numbers(left: &Option<String>, right: &Option<String>) -> Ordering {
    let number = |value: &Option<String>| value.as_ref()?.parse::<f64>().ok();
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left.total_cmp(&right),
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}

fn row(left: &[Option<String>], right: &[Option<String>]) -> Agreement {
    if left.len() != right.len() {
        return Agreement::Different;
    }
    left.iter().zip(right).map(|(left, right)| value(left, right)).max().unwrap_or(Agreement::Same)
}

fn value(left: &Option<String>, right: &Option<String>) -> Agreement {
    let (Some(left), Some(right)) = (left, right) else {
        return if left == right { Agreement::Same } else { Agreement::Different };
    };
    if left == right {
        return Agreement::Same;
    }
    // A timestamp at midnight is a date to some.
    let plain = |text: &str| text.trim_end_matches(" 00:00:00").trim_end().to_owned();
    if plain(left) == plain(right) {
        return Agreement::Equal;
    }
    if let (Some(left), Some(right)) = (digits(left), digits(right))
        && left == right
    {
        return Agreement::Equal;
    }
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => {
            let gap = (left - right).abs();
            if gap <= 0.0101 || gap <= 1e-6 * left.abs().max(right.abs()) {
                Agreement::Close
            } else {
                Agreement::Different
            }
        }
        _ => Agreement::Different,
    }
}

/// A plain decimal number without what does not count: zeros at its ends.
fn digits(text: &str) -> Option<(bool, String, String)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = rest.split_once('.').unwrap_or((rest, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(part) {
        return None;
    }
    let whole = whole.trim_start_matches('0').to_owned();
    let part = part.trim_end_matches('0').to_owned();
    Some((negative && !(whole.is_empty() && part.is_empty()), whole, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[&[&str]]) -> Rows {
        let value = |value: &&str| (*value != "NULL").then(|| (*value).to_owned());
        text.iter().map(|row| row.iter().map(value).collect()).collect()
    }

    #[test]
    fn answers_agree_as_far_as_they_do() {
        let left = rows(&[&["a", "1.50"], &["b", "NULL"]]);
        for (right, agreement) in [
            (rows(&[&["b", "NULL"], &["a", "1.50"]]), Agreement::Same),
            (rows(&[&["a", "1.5"], &["b", "NULL"]]), Agreement::Equal),
            (rows(&[&["a  ", "1.50"], &["b", "NULL"]]), Agreement::Equal),
            (rows(&[&["a", "1.51"], &["b", "NULL"]]), Agreement::Close),
            (rows(&[&["a", "1.53"], &["b", "NULL"]]), Agreement::Different),
            (rows(&[&["a", "1.50"], &["b", "0"]]), Agreement::Different),
            (rows(&[&["a", "1.50"]]), Agreement::Different),
            (rows(&[&["a", "1.50"], &["a", "1.50"]]), Agreement::Different),
        ] {
            assert_eq!(compare(&left, &right), agreement, "{right:?}");
        }
    }

    #[test]
    fn large_numbers_are_compared_digit_by_digit() {
        let left = rows(&[&["9007199254740993"]]);
        let right = rows(&[&["9007199254740992"]]);
        assert_eq!(compare(&left, &right), Agreement::Close);
        assert_eq!(compare(&left, &rows(&[&["9007199254740993.0"]])), Agreement::Equal);
    }
}
