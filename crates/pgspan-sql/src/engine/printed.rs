//! A node of a plan as EXPLAIN prints it in JSON.

use super::expression;
use crate::cause::Cause;
use crate::route::Reason;
use serde_json::Value;

/// A field of a node.
pub(super) fn text<'v>(plan: &'v Value, key: &str) -> Option<&'v str> {
    plan.get(key).and_then(Value::as_str)
}

/// What kind of node it is.
pub(super) fn kind(plan: &Value) -> &str {
    text(plan, "Node Type").unwrap_or("")
}

/// The nodes right below one.
pub(super) fn children(plan: &Value) -> &[Value] {
    plan.get("Plans").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What a node gives, as EXPLAIN prints it.
pub(super) fn outputs(plan: &Value) -> Vec<String> {
    if appends(plan) {
        // EXPLAIN prints its columns in the words of its first child (ruleutils.c:
        // set_deparse_plan).
        return children(plan).first().map(outputs).unwrap_or_default();
    }
    let list = plan.get("Output").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| v.as_str()).map(|s| s.trim().to_owned()).collect()
}

/// Nodes that only pass rows on; their order is of no use to the engine.
pub(super) fn passes(plan: &Value) -> bool {
    matches!(kind(plan), "Hash" | "Sort" | "Materialize" | "Incremental Sort" | "Memoize")
}

/// Nodes that give the rows of all their children. (From PostgreSQL 17 on a UNION may sort
/// its arms and merge them.)
pub(super) fn appends(plan: &Value) -> bool {
    matches!(kind(plan), "Append" | "Merge Append")
}

/// What is below nodes that only pass rows on.
pub(super) fn passed(plan: &Value) -> &Value {
    match children(plan) {
        [child] if passes(plan) => passed(child),
        _ => plan,
    }
}

/// What the child is asked for, in its own words, so that a node can give `text`: its
/// output where `text` refers to it; `None` where the node itself computes `text`.
pub(super) fn below(text: &str, child: &[String]) -> Result<Option<String>, Reason> {
    if expression::is_column(text) {
        return Ok(Some(text.to_owned()));
    }
    let Some(inner) = expression::reference(text) else { return Ok(None) };
    let computed = child.iter().any(|o| o == inner);
    let passed = child.iter().any(|o| o == text);
    match (computed, passed) {
        (true, false) => Ok(Some(inner.to_owned())),
        (false, true) => Ok(Some(text.to_owned())),
        _ => Err(Reason::about(Cause::OutputNotFound, text)),
    }
}
