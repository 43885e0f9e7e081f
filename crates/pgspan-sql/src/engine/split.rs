//! One SELECT → its core, which the engine runs (FROM, WHERE, GROUP BY, aggregates), and
//! its finish, which home runs over the core's rows (everything else).
//!
//! Both are the client's own text: the core takes whole expressions of it, the finish has
//! those expressions replaced by the columns that carry them. No name is resolved here,
//! home resolves the core as it would the original.

use super::shape::{
    bare_name, calls, column_ref, conjuncts, has_aggregate, has_subqueries, has_windows,
    is_aggregate, is_star, last_name, may_fail, plain_call, rows_wanted, without_places,
};
use super::words::{Span, Words};
use crate::analyze::Analysis;
use crate::cause::Cause;
use crate::parse::{node, strings, visit};
use crate::quote::ident;
use crate::route::Reason;
use serde_json::Value;

/// The name that carriers have in a finish, unless the client's text contains it; a block's
/// has a number behind it.
pub const CARRIER: &str = "pgspan";

/// Whether a subquery reads carriers alone: the finish of a block.
fn is_finished(sublink: &Value, carrier: &str) -> bool {
    let base = carrier.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_carrier =
        |name: &str| name.strip_prefix(base).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let mut finished = true;
    visit(&sublink["subselect"], &mut |name, body| match name {
        "RangeVar" | "SubLink" | "RangeSubselect" => finished = false,
        "ColumnRef" => {
            let path = strings(&body["fields"]).unwrap_or_default();
            finished &= path.len() == 2 && path.first().is_some_and(|p| is_carrier(p));
        }
        _ => {}
    });
    finished
}

/// Keeps only the rows that can be among the first of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopN {
    /// Column of the core that decides first.
    pub column: usize,
    /// What stands for NULL in it (`COALESCE(column, literal)`).
    pub null_as: Option<i64>,
    /// Greatest first.
    pub descending: bool,
    /// NULL before everything else.
    pub nulls_first: bool,
    /// So many rows, and all that equal the last of them.
    pub rows: u64,
}

/// How much the finish does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It is the core's columns in their order, of which the core has made DISTINCT rows if
    /// the statement asks for them.
    Names,
    /// It computes each row by itself, so that rows may be given to it in parts.
    Rows,
    /// It needs all rows at once.
    Whole,
}

/// A statement in two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The core.
    pub core: String,
    /// Bytes of the core up to the end of its select list.
    list_end: usize,
    /// The finish, with [`Split::from`] in the place of its FROM.
    finish: (String, String),
    /// Whether the core folds rows.
    pub grouped: bool,
    /// Columns of the core, where no `*` is among them.
    pub columns: usize,
    /// What is left to do over the core's rows.
    pub does: Finish,
    /// Set when only some of the core's rows can be in the answer.
    pub top: Option<TopN>,
}

impl Split {
    /// The core with one more output behind its own.
    pub fn core_with(&self, output: &str) -> String {
        let (head, tail) = self.core.split_at(self.list_end);
        format!("{head}{output}{tail}")
    }

    /// The finish over a carrier, an item of FROM that gives the columns `c1`, `c2`, …
    pub fn finish(&self, carrier: &str) -> String {
        format!("{}{carrier}{}", self.finish.0, self.finish.1)
    }
}

struct Splitter<'a> {
    words: Words<'a>,
    /// The carrier's name.
    carrier: String,
    /// Core columns: text, and the alias by which GROUP BY may speak of it.
    core: Vec<String>,
    /// Keys by which the core folds, and the columns that carry them.
    keys: Vec<(Value, Option<usize>)>,
}

/// The clauses that are finished at home, or whose expressions the core repeats.
const FINISHED: [&str; 8] = [
    "target_list",
    "having_clause",
    "sort_clause",
    "distinct_clause",
    "group_clause",
    "window_clause",
    "limit_count",
    "limit_offset",
];

/// Splits the SELECT of an analyzed text; `names` are the names of its result. With
/// `fold` the core takes GROUP BY and the aggregates; without it they stay in the finish,
/// as they must where an aggregate's argument is more than the engine can pass on.
///
/// # Errors
/// Why it cannot be split.
pub fn split(
    text: &str,
    (a, select): (&Analysis, &Value),
    names: &[String],
    fold: bool,
    carrier: &str,
) -> Result<Split, Reason> {
    let refuse = |cause| Err(Reason::new(cause));
    if select["op"] != 1 {
        return refuse(Cause::SetOperation);
    }
    if select["group_distinct"] == true {
        return refuse(Cause::GroupByDistinct);
    }
    let targets = select["target_list"].as_array().map_or(&[][..], Vec::as_slice);
    let sorts = select["sort_clause"].as_array().map_or(&[][..], Vec::as_slice);
    let groups = select["group_clause"].as_array().map_or(&[][..], Vec::as_slice);
    let having = &select["having_clause"];
    let words = Words::new(text, a.query_start);
    let mut s = Splitter { words, carrier: carrier.to_owned(), core: Vec::new(), keys: Vec::new() };
    // WITH stays before the core: its names are the core's alone, because what is finished
    // at home has no subquery.
    let with = if select["with_clause"].is_null() { None } else { Some(s.words.take_with()?) };
    let clauses = s.words.clauses()?;
    for part in FINISHED {
        let part = &select[part];
        let mut odd = None;
        visit(part, &mut |name, body| match name {
            "SubLink" if is_finished(body, carrier) => {}
            "SubLink" => odd = Some(Cause::SubqueryInFinish),
            "GroupingFunc" => odd = Some(Cause::GroupingSets),
            _ => {}
        });
        if let Some(cause) = odd {
            return refuse(cause);
        }
    }
    let mut grouped = !groups.is_empty() || !having.is_null();
    for part in [&select["target_list"], &select["sort_clause"]] {
        visit(part, &mut |name, body| grouped |= name == "FuncCall" && is_aggregate(body));
    }
    let folds = grouped;
    if !folds && !fold {
        return refuse(Cause::NothingFolded);
    }
    grouped &= fold;
    let items = s.words.items(&clauses.list, targets.len())?;
    let group_items = match &clauses.group {
        Some(span) => s.words.items(span, groups.len())?,
        None => Vec::new(),
    };
    // GROUP BY: expressions, ordinals, names of the result.
    let mut ordinals: Vec<Option<usize>> = Vec::new();
    for group in groups {
        let ordinal = group.pointer("/node/AConst/val/Ival/ival").and_then(Value::as_u64);
        let ordinal = ordinal.and_then(|n| usize::try_from(n).ok()?.checked_sub(1));
        if node(group).is_some_and(|(n, _)| n == "GroupingSet") {
            return refuse(Cause::GroupingSets);
        }
        let ambiguous = bare_name(group).is_some_and(|n| {
            let mut same = targets.iter().filter(|t| t["node"]["ResTarget"]["name"] == n);
            same.any(|t| last_name(&t["node"]["ResTarget"]["val"]) != Some(n))
        });
        if ambiguous && !fold {
            return refuse(Cause::GroupByResultName);
        }
        let by_alias = bare_name(group).and_then(|n| {
            targets.iter().position(|t| t.pointer("/node/ResTarget/name").is_some_and(|v| v == n))
        });
        if let Some(i) = ordinal.or(by_alias) {
            let target = targets.get(i).ok_or(Reason::new(Cause::GroupByPosition))?;
            s.keys.push((without_places(&target["node"]["ResTarget"]["val"]), None));
        } else {
            s.keys.push((without_places(group), None));
        }
        ordinals.push(ordinal);
    }
    // The select list.
    let mut finish_list: Vec<String> = Vec::new();
    let mut item_columns: Vec<Option<usize>> = Vec::new();
    let mut stars = 0;
    for (target, span) in targets.iter().zip(&items) {
        let body = &target["node"]["ResTarget"];
        let alias = body["name"].as_str().filter(|n| !n.is_empty());
        let span = match alias {
            Some(_) => s.words.without_alias(span)?,
            None => span.clone(),
        };
        let value = &body["val"];
        if is_star(value) {
            stars += 1;
            if grouped || stars > 1 || !body["indirection"].as_array().is_none_or(Vec::is_empty) {
                return refuse(Cause::StarBeside);
            }
            let count = names.len().checked_sub(targets.len() - 1);
            let count = count.ok_or(Reason::new(Cause::ColumnsOfStar))?;
            s.core.push(s.words.source(&span).to_owned());
            let at = s.core.len() - 1;
            // One text stands for all its columns: the places of those after it shift.
            s.core.extend((1..count).map(|_| String::new()));
            for k in at..at + count {
                let name = names.get(finish_list.len()).ok_or(Reason::new(Cause::ColumnsOfStar))?;
                finish_list.push(format!("{carrier}.c{} AS {}", k + 1, ident(name)));
            }
            item_columns.push(None);
            continue;
        }
        let name = names.get(finish_list.len()).ok_or(Reason::new(Cause::Columns))?.clone();
        let tree = without_places(value);
        let key = s.keys.iter().position(|(k, _)| grouped && *k == tree);
        let whole = column_ref(value) || (!has_aggregate(value) && key.is_some());
        if whole {
            let text = s.words.source(&span).to_owned();
            // The name stays where GROUP BY may speak of it.
            let column = if grouped {
                s.carry(&format!("{text} AS {}", ident(&name)))
            } else {
                s.carry(&text)
            };
            if let Some((_, carried)) = key.and_then(|k| s.keys.get_mut(k)) {
                *carried = Some(column);
            }
            finish_list.push(format!("{carrier}.c{} AS {}", column + 1, ident(&name)));
            item_columns.push(Some(column));
        } else {
            let text = s.replaced(&span, value, grouped)?;
            finish_list.push(format!("{text} AS {}", ident(&name)));
            item_columns.push(None);
        }
    }
    // Names of the result are left alone where ORDER BY consists of one of them.
    let result_names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plain_list = stars == 0 && item_columns.iter().enumerate().all(|(i, c)| *c == Some(i))
        || stars == 1 && targets.len() == 1;
    let distinct = &select["distinct_clause"];
    let distinct_list = distinct.as_array().map_or(&[][..], Vec::as_slice);
    let mut finish = String::from("SELECT ");
    let mut core_distinct = "";
    match distinct_list {
        [] => {}
        [one] if node(one).is_none() => {
            finish.push_str("DISTINCT ");
            if plain_list && !grouped {
                core_distinct = "DISTINCT ";
            }
        }
        _ => return refuse(Cause::DistinctOn),
    }
    finish.push_str(&finish_list.join(", "));
    finish.push_str(" FROM ");
    let mut tail = String::new();
    if folds && !fold {
        let mut list = Vec::new();
        for ((span, group), ordinal) in group_items.iter().zip(groups).zip(&ordinals) {
            list.push(match ordinal {
                Some(_) => s.words.source(span).to_owned(),
                None => s.replaced(span, group, false)?,
            });
        }
        if !list.is_empty() {
            tail.push_str(" GROUP BY ");
            tail.push_str(&list.join(", "));
        }
    }
    // PostgreSQL moves them into WHERE, and so asks them of rows that are in no group.
    if conjuncts(having).into_iter().any(|c| !has_aggregate(c) && may_fail(c)) {
        return refuse(Cause::GroupConditionMayFail);
    }
    if let Some(span) = &clauses.having {
        tail.push_str(if fold { " WHERE " } else { " HAVING " });
        tail.push_str(&s.replaced(span, having, grouped)?);
    }
    if let Some(span) = &clauses.window {
        tail.push_str(" WINDOW ");
        tail.push_str(&s.replaced(span, &select["window_clause"], grouped)?);
    }
    let mut top = None;
    if let Some(span) = &clauses.order {
        let order_items = s.words.items(span, sorts.len())?;
        let mut list = Vec::new();
        for (sort, span) in sorts.iter().zip(&order_items) {
            let value = &sort["node"]["SortBy"]["node"];
            let named = bare_name(value).filter(|n| result_names.contains(n)).is_some();
            let ordinal = value.pointer("/node/AConst").is_some();
            let text = if named || ordinal {
                s.words.source(span).to_owned()
            } else {
                let (expression, direction) = s.words.sort_key(span);
                let direction = s.words.source(&direction).to_owned();
                format!("{} {direction}", s.replaced(&expression, value, grouped)?)
            };
            if list.is_empty() && (fold || !folds) {
                top = s.top(sort, targets, &item_columns, names);
            }
            list.push(text.trim_end().to_owned());
        }
        tail.push_str(" ORDER BY ");
        tail.push_str(&list.join(", "));
    }
    if let Some(span) = &clauses.limit {
        tail.push(' ');
        tail.push_str(s.words.source(span));
    }
    let rows = rows_wanted(select);
    let folds_later = clauses.having.is_some() || !distinct_list.is_empty();
    let computed = [&select["target_list"], &select["sort_clause"]];
    let top = top.zip(rows).filter(|_| !folds_later && !computed.into_iter().any(may_fail));
    let top = top.map(|(t, rows)| TopN { rows, ..t });
    // The core.
    let columns: Vec<&str> = s.core.iter().map(String::as_str).filter(|c| !c.is_empty()).collect();
    if columns.is_empty() {
        // Rows without columns cannot be carried.
        return refuse(Cause::NoColumnNeeded);
    }
    let list = columns.join(", ");
    let with = with.map_or_else(String::new, |w| format!("{w} "));
    let mut core = format!("{with}SELECT {core_distinct}{list}");
    let list_end = core.len();
    core.push_str(" FROM ");
    core.push_str(s.words.source(&clauses.from));
    if let Some(span) = &clauses.where_ {
        core.push_str(" WHERE ");
        core.push_str(s.words.source(span));
    }
    if fold && !group_items.is_empty() {
        let mut list = Vec::new();
        for (span, ordinal) in group_items.iter().zip(&ordinals) {
            list.push(match ordinal {
                None => s.words.source(span).to_owned(),
                Some(i) => {
                    let column = item_columns.get(*i).copied().flatten();
                    (column.ok_or(Reason::new(Cause::GroupByPosition))? + 1).to_string()
                }
            });
        }
        core.push_str(" GROUP BY ");
        core.push_str(&list.join(", "));
    }
    let by_row = (fold || !folds)
        && clauses.window.is_none()
        && clauses.order.is_none()
        && clauses.limit.is_none()
        && (distinct_list.is_empty() || !core_distinct.is_empty())
        && !has_windows(&select["target_list"])
        // A subquery is run once, and may say something.
        && !has_subqueries(&select["target_list"])
        && !has_subqueries(having);
    Ok(Split {
        core,
        list_end,
        finish: (finish, tail),
        grouped: grouped || !core_distinct.is_empty(),
        columns: s.core.len(),
        does: match by_row {
            true if plain_list && clauses.having.is_none() => Finish::Names,
            true => Finish::Rows,
            false => Finish::Whole,
        },
        top,
    })
}

impl Splitter<'_> {
    /// The place of a core column, once for each text.
    fn carry(&mut self, text: &str) -> usize {
        if let Some(at) = self.core.iter().position(|c| c == text) {
            return at;
        }
        self.core.push(text.to_owned());
        self.core.len() - 1
    }

    /// An expression's text with the core's columns in the place of what they carry.
    fn replaced(&mut self, span: &Span, tree: &Value, grouped: bool) -> Result<String, Reason> {
        if grouped {
            // A key is what the core says it is, and not computed again: it may be one of
            // several rows that a call gives.
            let own = without_places(tree);
            if let Some(key) = self.keys.iter().position(|(k, _)| *k == own) {
                let column = match self.keys.get(key).and_then(|(_, column)| *column) {
                    Some(column) => column,
                    None => {
                        let text = self.words.source(span).to_owned();
                        self.carry(&text)
                    }
                };
                return Ok(format!("{}.c{}", self.carrier, column + 1));
            }
            if calls(tree).iter().any(|c| self.keys.iter().any(|(k, _)| calls(k).contains(c))) {
                return Err(Reason::new(Cause::FunctionOfKey));
            }
        }
        let mut edits: Vec<(Span, String)> = Vec::new();
        self.find(tree, grouped, &mut edits)?;
        edits.sort_by_key(|(s, _)| s.start);
        let mut out = String::new();
        let (mut at, end) = self.words.bytes(span);
        let text = self.words.text;
        for (place, new) in &edits {
            let (start, place_end) = self.words.bytes(place);
            if start < at || place.end > span.end {
                return Err(Reason::new(Cause::OverlappingExpressions));
            }
            out.push_str(text.get(at..start).unwrap_or(""));
            out.push_str(new);
            at = place_end;
        }
        out.push_str(text.get(at..end).unwrap_or(""));
        Ok(out)
    }

    fn find(
        &mut self,
        value: &Value,
        grouped: bool,
        edits: &mut Vec<(Span, String)>,
    ) -> Result<(), Reason> {
        match node(value) {
            Some(("FuncCall", body)) if grouped && is_aggregate(body) => {
                let span = self.words.call_span(body)?;
                let new = self.aggregate(body, &span)?;
                edits.push((span, new));
                return Ok(());
            }
            // It speaks of its own carrier alone.
            Some(("SubLink", body)) if is_finished(body, &self.carrier) => return Ok(()),
            Some(("ColumnRef", body)) => {
                let start = self.words.token_at(body)?;
                let parts = strings(&body["fields"]).ok_or(Reason::new(Cause::StarInExpression))?;
                let span = start..start + 2 * parts.len() - 1;
                let text = self.words.source(&span).to_owned();
                let column = self.carry(&text);
                edits.push((span, format!("{}.c{}", self.carrier, column + 1)));
                return Ok(());
            }
            _ => {}
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|v| self.find(v, grouped, edits)),
            Value::Object(map) => map.values().try_for_each(|v| self.find(v, grouped, edits)),
            _ => Ok(()),
        }
    }

    /// What stands in the finish for an aggregate call.
    fn aggregate(&mut self, body: &Value, span: &Span) -> Result<String, Reason> {
        if !plain_call(body) {
            return Err(Reason::new(Cause::AggregateFilter));
        }
        let name = strings(&body["funcname"]).and_then(|n| n.last().map(|s| (*s).to_owned()));
        let text = self.words.source(span).to_owned();
        if name.as_deref() != Some("avg") {
            let column = self.carry(&text);
            return Ok(format!("{}.c{}", self.carrier, column + 1));
        }
        if body["agg_distinct"] == true {
            return Err(Reason::new(Cause::AvgDistinct));
        }
        // avg of integers and numerics is numeric_div(sum, count) (numeric.c: numeric_avg,
        // int8_avg); of other types the engine refuses the sum.
        let open = (span.start..span.end).find(|i| self.words.is_char(*i, b'('));
        let arguments = open.unwrap_or(span.start)..span.end;
        let arguments = self.words.source(&arguments).to_owned();
        let sum = self.carry(&format!("pg_catalog.sum{arguments}"));
        let count = self.carry(&format!("pg_catalog.count{arguments}"));
        Ok(format!(
            "({c}.c{}::pg_catalog.numeric OPERATOR(pg_catalog./) {c}.c{}::pg_catalog.numeric)",
            sum + 1,
            count + 1,
            c = self.carrier
        ))
    }

    /// The first sort key, if it is a column of the core or COALESCE of one with a number.
    fn top(
        &mut self,
        sort: &Value,
        targets: &[Value],
        item_columns: &[Option<usize>],
        names: &[String],
    ) -> Option<TopN> {
        if targets.len() != names.len() {
            // With * a name may be that of a column of it.
            return None;
        }
        let body = &sort["node"]["SortBy"];
        let ascending = match body["sortby_dir"].as_u64()? {
            1 | 2 => true,
            3 => false,
            _ => return None,
        };
        let nulls_first = match body["sortby_nulls"].as_u64()? {
            1 => !ascending,
            2 => true,
            3 => false,
            _ => return None,
        };
        let mut value = &body["node"];
        let mut column = None;
        let ordinal = value.pointer("/node/AConst/val/Ival/ival").and_then(Value::as_u64);
        let named = bare_name(value).and_then(|n| {
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == n);
            let first = places.next()?.0;
            places.next().is_none().then_some(first)
        });
        if targets.len() == names.len()
            && let Some(i) = ordinal.and_then(|n| usize::try_from(n).ok()?.checked_sub(1)).or(named)
        {
            value = &targets.get(i)?["node"]["ResTarget"]["val"];
            column = item_columns.get(i).copied().flatten();
        }
        let mut null_as = None;
        if let Some(("CoalesceExpr", coalesce)) = node(value) {
            let [inner, other] = coalesce["args"].as_array()?.as_slice() else { return None };
            let constant = other.pointer("/node/AConst/val/Ival")?;
            null_as = Some(constant["ival"].as_i64().unwrap_or(0));
            value = inner;
        }
        let column = match column {
            Some(c) => c,
            None => {
                let span = match node(value)? {
                    ("FuncCall", b) if is_aggregate(b) => self.words.call_span(b).ok()?,
                    ("ColumnRef", b) => {
                        let start = self.words.token_at(b).ok()?;
                        start..start + 2 * strings(&b["fields"])?.len() - 1
                    }
                    _ => return None,
                };
                let text = self.words.source(&span).to_owned();
                self.core.iter().position(|c| *c == text)?
            }
        };
        Some(TopN { column, null_as, descending: !ascending, nulls_first, rows: 0 })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analyze::analyze;
    use crate::catalog::CatalogSnapshot;
    use crate::parse::select_value;
    use std::collections::HashSet;

    fn of(sql: &str, names: &[&str]) -> Result<Split, Reason> {
        let functions = ["count", "sum", "avg", "round", "rank", "upper", "extract"];
        let catalog = CatalogSnapshot::new(
            HashSet::from(["ro".to_owned()]),
            functions.iter().map(|n| ((*n).to_owned(), true)).collect(),
            HashSet::new(),
            HashSet::new(),
        );
        let a = analyze(sql, &catalog).unwrap();
        let select = select_value(sql).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        split(sql, (&a, &select), &names, true, CARRIER)
    }

    #[test]
    fn the_guides_aggregate() {
        let sql = "SELECT u.name, COUNT(ro.id) AS n, COALESCE(SUM(ro.total), 0) spent FROM u \
                   LEFT JOIN ro ON u.id = ro.user_id GROUP BY u.id, u.name HAVING sum(ro.total) > 5 \
                   ORDER BY spent DESC, u.id LIMIT 20;";
        let s = of(sql, &["name", "n", "spent"]).unwrap();
        assert_eq!(
            s.core,
            "SELECT u.name AS \"name\", COUNT(ro.id), SUM(ro.total), sum(ro.total), u.id FROM u \
             LEFT JOIN ro ON u.id = ro.user_id GROUP BY u.id, u.name"
        );
        assert_eq!(
            s.finish("X"),
            "SELECT pgspan.c1 AS \"name\", pgspan.c2 AS \"n\", COALESCE(pgspan.c3, 0) AS \"spent\" \
             FROM X WHERE pgspan.c4 > 5 ORDER BY spent DESC, pgspan.c5 LIMIT 20"
        );
        assert_eq!(s.top, None);
        let top =
            of(&sql.replace("HAVING sum(ro.total) > 5", ""), &["name", "n", "spent"]).unwrap();
        let want =
            TopN { column: 2, null_as: Some(0), descending: true, nulls_first: true, rows: 20 };
        assert_eq!(top.top, Some(want));
    }

    #[test]
    fn averages_ordinals_and_expressions() {
        let sql = "SELECT extract(year FROM ro.d) AS y, AVG(ro.a)::decimal(10,2) FROM ro GROUP BY 1 ORDER BY 2 DESC";
        let s = of(sql, &["y", "avg"]).unwrap();
        assert_eq!(
            s.core,
            "SELECT extract(year FROM ro.d) AS \"y\", pg_catalog.sum(ro.a), pg_catalog.count(ro.a) FROM ro GROUP BY 1"
        );
        assert!(s.finish("X").contains("(pgspan.c2::pg_catalog.numeric OPERATOR(pg_catalog./) pgspan.c3::pg_catalog.numeric)::decimal(10,2)"));
    }

    #[test]
    fn with_stays_before_the_core() {
        let sql = "WITH t AS (SELECT ro.user_id AS id, sum(ro.a) AS total FROM ro GROUP BY ro.user_id) \
                   SELECT u.name, t.total FROM u JOIN t ON t.id = u.id ORDER BY t.total DESC";
        let s = of(sql, &["name", "total"]).unwrap();
        assert!(s.core.starts_with("WITH t AS (SELECT"));
        assert!(s.core.ends_with("SELECT u.name, t.total FROM u JOIN t ON t.id = u.id"));
        assert!(s.finish("X").starts_with("SELECT pgspan.c1 AS \"name\""));
    }

    #[test]
    fn rows_that_are_not_folded() {
        let s =
            of("SELECT * FROM u JOIN ro ON u.a = ro.a WHERE u.b = 1", &["a", "b", "a"]).unwrap();
        assert_eq!(s.core, "SELECT * FROM u JOIN ro ON u.a = ro.a WHERE u.b = 1");
        assert!(s.does == Finish::Names && s.columns == 3 && !s.grouped);
        let e = of("SELECT upper(ro.a), rank() OVER (ORDER BY ro.b) FROM ro", &["upper", "rank"])
            .unwrap();
        assert_eq!(e.core, "SELECT ro.a, ro.b FROM ro");
        assert_eq!(
            e.finish("X"),
            "SELECT upper(pgspan.c1) AS \"upper\", rank() OVER (ORDER BY pgspan.c2) AS \"rank\" FROM X"
        );
        assert_eq!(e.does, Finish::Whole);
        let rows = of("SELECT upper(ro.a) FROM ro", &["upper"]).unwrap();
        assert_eq!(rows.does, Finish::Rows);
        let having =
            of("SELECT ro.a, count(*) FROM ro GROUP BY ro.a HAVING count(*) > 1", &["a", "count"]);
        assert_eq!(having.unwrap().does, Finish::Rows);
        for whole in ["SELECT ro.a FROM ro ORDER BY 1", "SELECT ro.a FROM ro LIMIT 9"] {
            assert_eq!(of(whole, &["a"]).unwrap().does, Finish::Whole);
        }
    }
}
