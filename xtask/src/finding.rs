//! One breach of a rule, as it is reported and as the exception list names it.

use std::fmt;

/// The rules, by the names that `exceptions.txt` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// An edge between crates that the table does not list.
    Edge,
    /// A crate whose folder has another name, or that the table does not list.
    Crate,
    /// A dependency that only one crate may name.
    Wall,
    /// A file longer than the limit.
    Length,
    /// A Rust file without its opening paragraph.
    Doc,
    /// Unfinished, debugging or skipped code.
    Unfinished,
    /// Something of one machine, or a registry's host, in the tree.
    Word,
    /// A generated page that is not what its sources give.
    Generated,
    /// A figure of the house that has grown.
    House,
}

impl Rule {
    /// The name in `exceptions.txt`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Edge => "edge",
            Rule::Crate => "crate",
            Rule::Wall => "wall",
            Rule::Length => "length",
            Rule::Doc => "doc",
            Rule::Unfinished => "unfinished",
            Rule::Word => "word",
            Rule::Generated => "generated",
            Rule::House => "house",
        }
    }
}

/// One breach of a rule.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// The file or crate, relative to the root.
    pub place: String,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Finding {
    /// A finding.
    pub fn new(rule: Rule, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Finding { rule, place: place.into(), detail: detail.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}: {}", self.rule.name(), self.place, self.detail)
    }
}
