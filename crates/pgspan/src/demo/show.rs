//! What the demo shows while it plays, in Chinese or English.

use super::psql::Output;
use super::report::{MARKS, Mark};
use crate::terminal::{Style, say};

/// The language of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lang {
    /// Chinese
    Zh,
    /// English
    En,
}

impl Lang {
    /// The language of the locale.
    pub fn of_locale() -> Lang {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_default();
        if locale.starts_with("zh") { Lang::Zh } else { Lang::En }
    }

    /// The text of this language.
    pub fn pick<'a>(self, zh: &'a str, en: &'a str) -> &'a str {
        match self {
            Lang::Zh => zh,
            Lang::En => en,
        }
    }
}

/// Rows of a table that are shown; the rest is counted.
const SHOWN_ROWS: usize = 12;

/// Shows, or keeps quiet when the output is for machines.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    /// Colours, or none.
    pub style: Style,
    /// The language.
    pub lang: Lang,
    /// Nothing is shown.
    pub quiet: bool,
}

impl Show {
    /// The text of the language.
    pub fn t<'a>(&self, zh: &'a str, en: &'a str) -> &'a str {
        self.lang.pick(zh, en)
    }

    /// A line as it is.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            say(text);
        }
    }

    /// The heading of a step.
    pub fn step(&self, number: &str, zh: &str, en: &str) {
        self.line("");
        self.line(self.style.bold(format!("── {number} {}", self.t(zh, en))));
    }

    /// What would be typed.
    pub fn command(&self, text: &str) {
        self.line(self.style.cyan(format!("  $ {text}")));
    }

    /// A statement, shortened to a line.
    pub fn sql(&self, sql: &str) {
        let one_line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        self.line(self.style.dim(format!("  > {}", shorten(&one_line, 110))));
    }

    /// A remark.
    pub fn remark(&self, text: impl AsRef<str>) {
        self.line(format!("    {}", text.as_ref()));
    }

    /// A result, as psql would align it, and the time it took.
    pub fn result(&self, output: &Output) {
        if self.quiet {
            return;
        }
        let time = self.style.dim(format!("{:.2} ms", output.ms));
        if output.columns.is_empty() {
            self.line(format!("    {}  {time}", output.tag));
            return;
        }
        let shown = &output.rows[..output.rows.len().min(SHOWN_ROWS)];
        self.table(&output.columns, shown);
        let more = output.rows.len() - shown.len();
        let count = match (self.lang, more) {
            (Lang::Zh, 0) => format!("({} 行)", output.rows.len()),
            (Lang::En, 0) => format!("({} rows)", output.rows.len()),
            (Lang::Zh, more) => format!("（另有 {more} 行，共 {} 行）", output.rows.len()),
            (Lang::En, more) => format!("({more} more rows, {} in all)", output.rows.len()),
        };
        self.line(format!("    {}  {time}", self.style.dim(count)));
    }

    /// A table with aligned columns; numbers to the right.
    pub fn table(&self, columns: &[String], rows: &[Vec<String>]) {
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(column, name)| {
                rows.iter()
                    .map(|row| width(&cell(row, column)))
                    .chain([width(name)])
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let numeric: Vec<bool> = (0..columns.len())
            .map(|column| {
                rows.iter().all(|row| {
                    let text = cell(row, column);
                    text.is_empty() || text.starts_with(|char: char| char.is_ascii_digit())
                })
            })
            .collect();
        let line = |row: &[String]| {
            let cells: Vec<String> = widths
                .iter()
                .enumerate()
                .map(|(column, &wide)| {
                    let text = cell(row, column);
                    let blanks = " ".repeat(wide.saturating_sub(width(&text)));
                    if numeric[column] { blanks + &text } else { text + &blanks }
                })
                .collect();
            format!("    {}", cells.join("  ")).trim_end().to_string()
        };
        self.line(self.style.bold(line(columns)));
        for row in rows {
            self.line(line(row));
        }
    }

    /// One of the ten marks.
    pub fn mark(&self, mark: &Mark) {
        let names = &MARKS[mark.number - 1];
        let (sign, word) = if mark.ok {
            (self.style.green("✓"), self.t("实测", "measured"))
        } else {
            (self.style.red("✗"), self.t("实测", "measured"))
        };
        let title = self.t(names.zh, names.en);
        let expected = self.t(names.expected_zh, names.expected_en);
        let blanks = " ".repeat(14_usize.saturating_sub(width(title)));
        let wide = self.lang.pick("38", "46").parse().unwrap_or(40_usize);
        let more = " ".repeat(wide.saturating_sub(width(expected)));
        self.line(format!(
            "  {sign} {:>2}. {title}{blanks} {}{more} {word}: {}",
            mark.number,
            self.style.dim(expected),
            mark.measured
        ));
    }
}

/// Columns that a text takes on a terminal: two for each CJK character.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|char| match u32::from(char) {
            0x1100..=0x115F
            | 0x2E80..=0xA4CF
            | 0xAC00..=0xD7A3
            | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F
            | 0xFF00..=0xFF60
            | 0xFFE0..=0xFFE6
            | 0x1F300..=0x1FAFF => 2,
            _ => 1,
        })
        .sum()
}

/// The beginning of a text, with a sign when something is missing.
pub fn shorten(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_string();
    }
    let mut short = String::new();
    let mut used = 0;
    for char in text.chars() {
        let mut buffer = [0_u8; 4];
        used += width(char.encode_utf8(&mut buffer));
        if used >= limit {
            break;
        }
        short.push(char);
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths() {
        assert_eq!(width("abc"), 3);
        assert_eq!(width("用户数据"), 8);
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("abcd", 4), "abcd");
    }
}
