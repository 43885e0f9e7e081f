//! `exceptions.txt`: known breaches that wait to be repaired.
//!
//! The list may only shrink: an entry that covers nothing any more is a finding
//! itself, and so is a list longer than [`COUNT_MAX`], which is lowered with
//! every entry that goes.

use std::path::Path;

use crate::finding::{Finding, Rule};

/// How many entries the list may have. Lower it when one goes; never raise it.
const COUNT_MAX: usize = 0;

/// Removes what the list covers and adds what is wrong with the list.
pub fn apply(root: &Path, findings: Vec<Finding>) -> Result<Vec<Finding>, String> {
    let path = root.join("xtask/exceptions.txt");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(filter(&text, findings, COUNT_MAX))
}

fn filter(text: &str, mut findings: Vec<Finding>, count_max: usize) -> Vec<Finding> {
    let entries: Vec<(&str, &str)> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(rule, place)| (rule, place.trim()))
        .collect();
    let mut complaints = Vec::new();
    for (rule, place) in &entries {
        let before = findings.len();
        findings.retain(|finding| finding.rule.name() != *rule || finding.place != *place);
        if findings.len() == before {
            complaints.push(Finding::new(
                Rule::Word,
                "xtask/exceptions.txt",
                format!("`{rule} {place}` covers nothing any more: delete it and lower COUNT_MAX"),
            ));
        }
    }
    if entries.len() > count_max {
        complaints.push(Finding::new(
            Rule::Word,
            "xtask/exceptions.txt",
            format!("{} entries, at most {count_max}: the list may only shrink", entries.len()),
        ));
    }
    findings.extend(complaints);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(place: &str) -> Finding {
        Finding::new(Rule::Length, place, "900 lines")
    }

    #[test]
    fn an_entry_covers_its_finding() {
        assert!(filter("# why\nlength a.rs\n", vec![long("a.rs")], 1).is_empty());
    }

    #[test]
    fn a_stale_entry_is_a_finding() {
        assert_eq!(filter("length a.rs\n", vec![], 1).len(), 1);
    }

    #[test]
    fn the_list_does_not_grow() {
        let left = filter("length a.rs\nlength b.rs\n", vec![long("a.rs"), long("b.rs")], 1);
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
