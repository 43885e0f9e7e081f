//! Whether a fold gives the same result in whatever order it meets its rows, so that a
//! source may spread it over its parallel workers.
//!
//! Sums of floats depend on it; so does which of two values that are equal and not the same
//! (numeric `1.0` and `1.00`) a group shows, or a greatest value is. Only what is listed
//! here is taken for free of it.

use crate::engine::shape::{last_name, plain_call};
use crate::parse::{node, strings, visit};
use crate::remote;
use serde_json::Value;

/// A column's type OID and modifier.
pub type Type = (u32, i32);

/// int8, int2, int4, and numeric: their sums are exact.
const EXACT: &[u32] = &[20, 21, 23, 1700];

/// bool, int8, int2, int4, text, oid, bpchar, varchar, date, timestamp, timestamptz, uuid:
/// values that are equal are the same, under a collation that is deterministic.
const SAME: &[u32] = &[16, 20, 21, 23, 25, 26, 1042, 1043, 1082, 1114, 1184, 2950];

/// Whether a `Remote SQL` that folds is free of the order of its rows. `type_of` gives the
/// type of a column by its name at the source.
pub fn folds(sql: &str, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    remote::select_of(sql).is_some_and(|select| is_free(&select, type_of))
}

fn is_free(select: &Value, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    let list = select["target_list"].as_array().map_or(&[][..], Vec::as_slice);
    let groups = select["group_clause"].as_array().map_or(&[][..], Vec::as_slice);
    let item = |n: u64| {
        let at = usize::try_from(n).ok()?.checked_sub(1)?;
        Some(&node(list.get(at)?)?.1["val"])
    };
    // postgres_fdw writes GROUP BY by places in the list.
    let grouped = groups.iter().all(|g| {
        let place = g.pointer("/node/AConst/val/Ival/ival").and_then(Value::as_u64);
        place.and_then(item).is_some_and(|value| same_column(value, type_of))
    });
    let mut free = grouped;
    for part in [&select["target_list"], &select["having_clause"]] {
        visit(part, &mut |name, body| match name {
            "FuncCall" => free &= call(body, type_of),
            "SubLink" => free = false,
            _ => {}
        });
    }
    free
}

/// Whether it folds all rows into one, and is free of their order.
pub fn folds_into_one(sql: &str, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    remote::is_grouped(sql)
        && remote::select_of(sql).is_some_and(|select| {
            let grouped = select["group_clause"].as_array().is_some_and(|g| !g.is_empty());
            !grouped && is_free(&select, type_of)
        })
}

/// A call that is no aggregate is refused as well: what it gives is not known.
fn call(body: &Value, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    let arguments = body["args"].as_array().map_or(&[][..], Vec::as_slice);
    let path = strings(&body["funcname"]).unwrap_or_default();
    plain_call(body)
        && match (path.as_slice(), arguments) {
            (["count"], _) => true,
            // Of values that are equal and not the same DISTINCT leaves one or another.
            (["sum" | "avg"], [one]) => {
                is_exact(one, type_of)
                    && (body["agg_distinct"] == false || same_column(one, type_of))
            }
            // A column may have a collation of its own.
            (["min" | "max"], [one]) => {
                same_column(one, type_of) && !last_name(one).and_then(type_of).is_some_and(is_text)
            }
            _ => false,
        }
}

/// Whether values of a type are the same when they are equal.
pub fn is_same((oid, typmod): Type) -> bool {
    match oid {
        // Trailing zeros; trailing blanks.
        1700 | 1042 => typmod > 0,
        oid => SAME.contains(&oid),
    }
}

fn same_column(value: &Value, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    last_name(value).and_then(type_of).is_some_and(is_same)
}

/// An integer or numeric.
fn is_exact(value: &Value, type_of: &dyn Fn(&str) -> Option<Type>) -> bool {
    let exact = |v: &Value| is_exact(v, type_of);
    match node(value) {
        Some(("ColumnRef", _)) => {
            last_name(value).and_then(type_of).is_some_and(|(oid, _)| EXACT.contains(&oid))
        }
        // Fval is a numeric; a string stands under a cast.
        Some(("AConst", body)) => {
            body["isnull"] == true
                || ["/val/Ival", "/val/Fval"].iter().any(|p| body.pointer(p).is_some())
        }
        Some(("TypeCast", body)) => {
            let path = strings(&body["type_name"]["names"]).unwrap_or_default();
            let to = matches!(path.last(), Some(&("numeric" | "int2" | "int4" | "int8")));
            let plain = body["type_name"]["array_bounds"].as_array().is_none_or(Vec::is_empty);
            let constant = matches!(node(&body["arg"]), Some(("AConst", _)));
            to && plain && (constant || exact(&body["arg"]))
        }
        Some(("AExpr", body)) => {
            let operator = strings(&body["name"]).unwrap_or_default();
            let left = body["lexpr"].is_null() || exact(&body["lexpr"]);
            body["kind"] == 1
                && matches!(operator.as_slice(), ["+" | "-" | "*" | "/"])
                && left
                && exact(&body["rexpr"])
        }
        Some(("CaseExpr", body)) => {
            let arms = body["args"].as_array().map_or(&[][..], Vec::as_slice);
            let otherwise = &body["defresult"];
            arms.iter().all(|arm| node(arm).is_some_and(|(_, a)| exact(&a["result"])))
                && (otherwise.is_null() || exact(otherwise))
        }
        _ => false,
    }
}

fn is_text((oid, _): Type) -> bool {
    matches!(oid, 25 | 1042 | 1043)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(sql: &str) -> bool {
        folds(sql, &|name| match name {
            "i" => Some((23, -1)),
            "n" => Some((1700, -1)),
            "p" => Some((1700, (15 << 16 | 2) + 4)),
            "f" => Some((701, -1)),
            "t" => Some((25, -1)),
            "d" => Some((1082, -1)),
            "v" => Some((1186, -1)),
            _ => None,
        })
    }

    #[test]
    fn what_is_free() {
        assert!(free("SELECT sum((r1.p * (1::numeric - r1.n))), count(*) FROM s.x r1"));
        assert!(free("SELECT t, sum((CASE WHEN (t ~~ 'a%') THEN 1 ELSE 0 END)) FROM x GROUP BY 1"));
        assert!(free("SELECT sum(DISTINCT p), avg(DISTINCT i), count(DISTINCT n) FROM x"));
        assert!(free("SELECT i FROM x GROUP BY 1 HAVING ((sum(n) > 300::numeric))"));
        assert!(free(
            "SELECT avg(i), min(d), max(p), count(DISTINCT f) FROM x WHERE ((abs(f) > 1))"
        ));
        assert!(free("SELECT sum(CASE WHEN (i = 1) THEN p ELSE NULL::numeric END) FROM x"));
    }

    #[test]
    fn what_is_not() {
        for sql in [
            "SELECT sum(f) FROM x",
            "SELECT sum((i)::double precision) FROM x",
            "SELECT i FROM x GROUP BY 1 HAVING ((avg(f) > 1::double precision))",
            "SELECT sum(date_part('year', d)) FROM x",
            "SELECT sum(length(t)) FROM x",
            "SELECT max(n) FROM x",
            "SELECT sum(DISTINCT n) FROM x",
            "SELECT avg(DISTINCT (p + n)) FROM x",
            "SELECT max(t) FROM x",
            "SELECT n, count(*) FROM x GROUP BY 1",
            "SELECT v, count(*) FROM x GROUP BY 1",
            "SELECT (i + 1), count(*) FROM x GROUP BY 1",
            "SELECT sum(unknown) FROM x",
            "SELECT sum(v) FROM x",
            "SELECT sum(n) FILTER (WHERE (i > 1)) FROM x",
            "SELECT array_agg(i) FROM x",
            "SELECT string_agg(t, ',') FROM x",
            "SELECT variance(n) FROM x",
        ] {
            assert!(!free(sql), "{sql}");
        }
    }

    #[test]
    fn one_row() {
        let one = |sql: &str| folds_into_one(sql, &|_| Some((23, -1)));
        assert!(one("SELECT count(*) FROM x"));
        assert!(one("SELECT max(i) FROM x WHERE ((i > 1))"));
        assert!(!one("SELECT i FROM x"));
        assert!(!one("SELECT abs(i) FROM x"));
        assert!(!one("SELECT i, count(*) FROM x GROUP BY 1"));
    }
}
