//! Does home's plan run its foreign scans? postgres_fdw takes its snapshot of a source when
//! a scan is first run, so a scan behind an empty table, below `LIMIT 0` or a condition that
//! is false takes none.

use serde_json::Value;

/// What is known of a plan's foreign scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runs {
    /// Each is run whatever the data.
    Always,
    /// Each is run if the statement gives a row.
    WithRows,
    /// Neither is certain.
    #[default]
    Doubtful,
}

/// Reads a plan printed as JSON.
///
/// `fixed`: with these very values; else a condition may be false under others, and what an
/// outer join would fill with NULL is not certain to be looked for.
pub fn runs(json: &[u8], fixed: bool) -> Runs {
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return Runs::Doubtful };
    let Some(root) = value.get(0).and_then(|v| v.get("Plan")) else { return Runs::Doubtful };
    let all = count(root);
    if all == 0 {
        return Runs::Doubtful;
    }
    let reached = |root, rows| reached(root, Known { rows, fixed });
    if reached(root, false) == all {
        Runs::Always
    } else if reached(root, true) == all {
        Runs::WithRows
    } else {
        Runs::Doubtful
    }
}

fn children(plan: &Value) -> impl Iterator<Item = &Value> {
    plan.get("Plans").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(plan: &'a Value, key: &str) -> &'a str {
    plan.get(key).and_then(Value::as_str).unwrap_or("")
}

fn count(plan: &Value) -> usize {
    usize::from(text(plan, "Node Type") == "Foreign Scan")
        + children(plan).map(count).sum::<usize>()
}

/// What is known where a node is run.
#[derive(Clone, Copy)]
struct Known {
    /// It gives a row.
    rows: bool,
    fixed: bool,
}

/// How many foreign scans are certain to be run where this node is.
fn reached(plan: &Value, known: Known) -> usize {
    let Known { rows, fixed } = known;
    let reached = |plan, rows| reached(plan, Known { rows, fixed });
    let child = |which: &str| children(plan).find(|c| text(c, "Parent Relationship") == which);
    let outer = |rows: bool| child("Outer").map_or(0, |c| reached(c, rows));
    let inner = |rows: bool| child("Inner").map_or(0, |c| reached(c, rows));
    let one_time = plan.get("One-Time Filter").is_some();
    match text(plan, "Node Type") {
        "Foreign Scan" => 1,
        // Without groups it gives a row for none.
        "Aggregate" if plan.get("Group Key").is_none() => {
            if plan.get("Grouping Sets").is_some() {
                0
            } else {
                outer(false)
            }
        }
        "Aggregate" | "Group" | "Sort" | "Incremental Sort" | "Unique" | "WindowAgg" | "Hash"
        | "Materialize" => outer(rows),
        "Subquery Scan" => child("Subquery").map_or(0, |c| reached(c, rows)),
        "Limit" if rows => outer(true),
        "Result" if !one_time || rows => outer(rows),
        "Nested Loop" | "Hash Join" if rows => match text(plan, "Join Type") {
            "Inner" | "Semi" => outer(true) + inner(true),
            "Left" | "Anti" if fixed => outer(true) + inner(false),
            "Left" | "Anti" => outer(true),
            "Right" if fixed => outer(false) + inner(true),
            "Right" => inner(true),
            _ => 0,
        },
        // Rows without a key are passed over before the inner side is looked at.
        "Merge Join" if rows => match text(plan, "Join Type") {
            "Inner" | "Semi" => outer(true) + inner(true),
            _ => 0,
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(plan: &str) -> Runs {
        runs(format!("[{{\"Plan\": {plan}}}]").as_bytes(), true)
    }

    const SCAN: &str = r#"{"Node Type": "Foreign Scan", "Parent Relationship": "Outer"}"#;
    const INNER: &str = r#"{"Node Type": "Hash", "Parent Relationship": "Inner", "Plans": [{"Node Type": "Foreign Scan", "Parent Relationship": "Outer"}]}"#;
    const LOCAL: &str = r#"{"Node Type": "Seq Scan", "Parent Relationship": "Outer"}"#;

    #[test]
    fn a_scan_alone_is_run() {
        assert_eq!(of(SCAN), Runs::Always);
        assert_eq!(
            of(&format!(r#"{{"Node Type": "Aggregate", "Plans": [{SCAN}]}}"#)),
            Runs::Always
        );
        assert_eq!(of(&format!(r#"{{"Node Type": "Limit", "Plans": [{SCAN}]}}"#)), Runs::WithRows);
        let never =
            format!(r#"{{"Node Type": "Result", "One-Time Filter": "false", "Plans": [{SCAN}]}}"#);
        assert_eq!(of(&never), Runs::WithRows);
    }

    #[test]
    fn a_join_that_gives_a_row_has_read_what_it_needs() {
        let join = |kind: &str| {
            format!(
                r#"{{"Node Type": "Hash Join", "Join Type": "{kind}", "Plans": [{LOCAL}, {INNER}]}}"#
            )
        };
        assert_eq!(of(&join("Inner")), Runs::WithRows);
        assert_eq!(of(&join("Left")), Runs::WithRows);
        assert_eq!(of(&join("Full")), Runs::Doubtful);
        let counted = format!(r#"{{"Node Type": "Aggregate", "Plans": [{}]}}"#, join("Inner"));
        assert_eq!(of(&counted), Runs::Doubtful);
        let other = format!(r#"{{"Node Type": "Append", "Plans": [{SCAN}, {SCAN}]}}"#);
        assert_eq!(of(&other), Runs::Doubtful);
        assert_eq!(of(r#"{"Node Type": "Result", "One-Time Filter": "false"}"#), Runs::Doubtful);
    }
}
