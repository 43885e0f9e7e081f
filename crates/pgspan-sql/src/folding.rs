//! Constants that PostgreSQL computes as it plans, and keeps as long as the plan. How a
//! number or a bytea becomes text depends on settings (`bytea_output`,
//! `extra_float_digits`, …), and the functions that do it call themselves immutable: a
//! prepared statement shows what the settings were when it was planned. When home plans
//! the client's own statement nobody knows, so such a statement is home's from the first
//! execution on.
//!
//! Which functions these are was found by calling each immutable one of `pg_catalog` with
//! constants under other values of each setting.

use crate::nodes::{self, Unknown, string, strings};
use crate::tree::{Node, SelectStmt, TypeName};

/// Types to which nothing is made text on the way, and whose text does not depend on settings
/// or is made by an output that is not immutable and so runs anew each time.
const PLAIN_AND_QUIET: &[&str] = &[
    "int2",
    "int4",
    "int8",
    "numeric",
    "bool",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "oid",
    "json",
    "jsonb",
    "inet",
];

/// Others to which nothing is made text on the way.
const PLAIN: &[&str] = &["float4", "float8", "bytea", "xml", "point"];

/// Others whose text does not depend on settings.
const QUIET: &[&str] = &["text", "varchar", "bpchar"];

fn is_plain(name: &str) -> bool {
    [PLAIN_AND_QUIET, PLAIN].iter().any(|list| list.contains(&name))
}

fn is_quiet(name: &str) -> bool {
    [PLAIN_AND_QUIET, QUIET].iter().any(|list| list.contains(&name))
}

/// Operators that make nothing else than their operands' kind.
const QUIET_OPERATORS: &[&str] =
    &["+", "-", "*", "/", "%", "||", "=", "<>", "<", ">", "<=", ">=", "->>", "#>>", "~~", "!~~"];

/// Functions that call themselves immutable and look at settings, besides those that print
/// a value, whose names end in `out`.
const LOOKING: &[&str] = &["quote_ident", "timezone", "xmlcomment", "xpath", "xpath_exists"];

/// Types by whose name a cast can be called like a function.
const CALLED: &[&str] = &["text", "varchar", "bpchar", "char", "name"];

/// Functions that are nothing but a cast to text, once they are inlined.
const CASTING: &[&str] = &["quote_literal", "quote_nullable", "textanycat", "anytextcat"];

/// What the planner may make of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// No constant.
    Varying,
    /// A constant whose text no setting changes.
    Quiet,
    /// Any constant.
    Constant,
}

/// Whether a plan may keep what a setting has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folds {
    /// By what the statement itself says.
    pub itself: bool,
    /// If one of its columns were a constant, as a view's may be.
    pub over_views: bool,
}

/// Looks at a statement.
///
/// # Errors
/// A node of a type that is not listed.
pub fn folds(select: &SelectStmt) -> Result<Folds, Unknown> {
    // What a column of a subquery stands for the planner sees through.
    let mut columns = Value::Varying;
    loop {
        let derived = Look { columns }.derived(select)?;
        if derived <= columns {
            break;
        }
        columns = derived;
    }
    Ok(Folds {
        itself: Look { columns }.any(select)?,
        over_views: Look { columns: Value::Constant }.any(select)?,
    })
}

/// As an SQL condition on a view's stored `tree` and a row `p` of `pg_proc` of what it calls:
/// whether planning the view may fold what looks at settings.
pub(crate) fn view_condition() -> String {
    let names = crate::quote::name_array(LOOKING.iter().chain(CASTING));
    format!(
        "(r.tree OPERATOR(pg_catalog.~) '{{(COERCEVIAIO|ARRAYCOERCEEXPR) ' OR p.proname OPERATOR(pg_catalog.=) ANY({names}) \
         OR pg_catalog.right(p.proname::pg_catalog.text, 3) OPERATOR(pg_catalog.=) 'out')"
    )
}

struct Look {
    /// What a column may be.
    columns: Value,
}

fn target(name: Option<&TypeName>) -> &str {
    name.and_then(|n| strings(&n.names)?.last().copied()).unwrap_or_default()
}

fn last(names: &[Node]) -> &str {
    names.last().and_then(string).unwrap_or_default()
}

impl Look {
    /// The most constant column of a query that stands in FROM.
    fn derived(&self, select: &SelectStmt) -> Result<Value, Unknown> {
        let mut most = Value::Varying;
        nodes::visit_derived(select, &mut |node| most = most.max(self.value(node)))?;
        Ok(most)
    }

    /// Whether anything is folded that looks at settings.
    fn any(&self, select: &SelectStmt) -> Result<bool, Unknown> {
        let mut found = false;
        nodes::visit(select, &mut |node| {
            found |= self.looks(node);
            Ok::<(), Unknown>(())
        })?;
        Ok(found)
    }

    fn looks(&self, node: &Node) -> bool {
        let is = |n: &Node, wanted: Value| self.value(n) >= wanted;
        match node {
            Node::TypeCast(t) => {
                !is_plain(target(t.type_name.as_deref())) && self.of(&t.arg) == Value::Constant
            }
            Node::FuncCall(f) => {
                let name = last(&f.funcname);
                let looks = [LOOKING, CALLED].iter().any(|list| list.contains(&name))
                    || name.ends_with("out");
                (looks && !f.args.is_empty() && f.args.iter().all(|n| is(n, Value::Quiet)))
                    || (CASTING.contains(&name) && f.args.iter().any(|n| is(n, Value::Constant)))
            }
            Node::AExpr(e) if last(&e.name) == "||" => {
                self.of(&e.lexpr).max(self.of(&e.rexpr)) == Value::Constant
            }
            // `(…).text`
            Node::AIndirection(i) => {
                i.indirection.iter().any(|n| string(n).is_some())
                    && self.of(&i.arg) == Value::Constant
            }
            _ => false,
        }
    }

    fn of(&self, node: &Option<Node>) -> Value {
        node.as_ref().map_or(Value::Varying, |n| self.value(n))
    }

    /// What the planner may make of an expression.
    fn value(&self, node: &Node) -> Value {
        let children = nodes::children(node).unwrap_or_default();
        let values = || children.iter().map(|n| self.value(n));
        let most = || values().max().unwrap_or(Value::Varying);
        let varies = || values().any(|v| v == Value::Varying);
        match node {
            Node::AConst(_) => Value::Quiet,
            Node::ColumnRef(_) => self.columns,
            Node::ParamRef(_) | Node::SubLink(_) | Node::SqlvalueFunction(_) => Value::Varying,
            // A literal's type is its text's own where nothing else is said.
            Node::TypeCast(t) => match self.of(&t.arg) {
                Value::Varying => Value::Varying,
                _ if is_quiet(target(t.type_name.as_deref())) => Value::Quiet,
                _ => Value::Constant,
            },
            // One branch may be what is left.
            Node::CaseExpr(_) | Node::CaseWhen(_) | Node::CoalesceExpr(_) => most(),
            Node::AArrayExpr(_)
            | Node::MinMaxExpr(_)
            | Node::CollateClause(_)
            | Node::NamedArgExpr(_)
            | Node::List(_)
                if !varies() =>
            {
                most()
            }
            Node::BoolExpr(_) | Node::NullTest(_) | Node::BooleanTest(_) => Value::Quiet,
            Node::AExpr(e) => {
                let operands = self.of(&e.lexpr).max(self.of(&e.rexpr));
                let sides = [&e.lexpr, &e.rexpr].into_iter().filter(|side| side.is_some());
                if sides.map(|side| self.of(side)).any(|v| v == Value::Varying) {
                    Value::Varying
                } else if QUIET_OPERATORS.contains(&last(&e.name)) {
                    operands
                } else {
                    Value::Constant
                }
            }
            // Of those without arguments but one is immutable.
            Node::FuncCall(f) if f.args.is_empty() && last(&f.funcname) != "pi" => Value::Varying,
            _ if varies() => Value::Varying,
            _ => Value::Constant,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parse::{SystemUser, read};

    fn of(sql: &str) -> Folds {
        let statements = read(sql, SystemUser::Keyword).unwrap();
        let Node::SelectStmt(select) = &statements[0] else { unreachable!() };
        folds(select).unwrap()
    }

    #[test]
    fn what_makes_text_of_a_constant_folds() {
        for text in [
            r"SELECT '\x00'::bytea::text FROM ro",
            "SELECT (1::float8 / 3)::text FROM ro",
            "SELECT a FROM ro WHERE n IS DISTINCT FROM sqrt(2)::varchar",
            "SELECT (2 ^ 0.5)::text FROM ro",
            "SELECT pi()::text FROM ro",
            "SELECT n || 1.5::float8 FROM ro",
            "SELECT quote_ident('x') FROM ro",
            "SELECT quote_literal(1.5::float8) FROM ro",
            "SELECT timestamp '2024-01-01' AT TIME ZONE 'EST' FROM ro",
            "SELECT text(1.5::float8) FROM ro",
            "SELECT float8out(1.5)::text FROM ro",
            "SELECT ARRAY[1.5::float8]::text[] FROM ro",
            "SELECT coalesce(1.5::float8, a)::text FROM ro",
            "SELECT (CASE WHEN true THEN 1.5::float8 ELSE a END)::text FROM ro",
            "SELECT x::text FROM ro, (SELECT 1.5::float8 AS x) s",
            "SELECT y::text FROM ro, (SELECT x AS y FROM (SELECT 1.5::float8 AS x) s) s",
            "SELECT x::text FROM ro, (VALUES (1.5::float8)) s(x)",
            "WITH s AS (SELECT 1.5::float8 AS x UNION ALL SELECT 2) SELECT x::text FROM ro, s",
            "SELECT x::text FROM ro, float8(1.5) s(x)",
            "SELECT a FROM ro WHERE EXISTS (SELECT '1'::point::text)",
        ] {
            assert!(of(text).itself, "{text}");
        }
    }

    #[test]
    fn what_is_computed_each_time_does_not() {
        for text in [
            "SELECT a::text, b || 'x' || c FROM ro WHERE d > '2024-01-01'",
            "SELECT '2024-01-01'::date + interval '1 day', '5'::int::text, 'x'::text::varchar FROM ro",
            "SELECT $1::float8::text, ($1 + 1.5::float8)::text FROM ro",
            "SELECT now()::text, now() AT TIME ZONE 'UTC', current_date::text FROM ro",
            "SELECT a AT TIME ZONE 'EST', quote_ident(n), upper('x') FROM ro",
            "SELECT n = ANY (ARRAY['a', 'b']::text[]), coalesce(n, '')::text FROM ro",
            "SELECT sum(a)::text, count(*)::text FROM ro",
            "SELECT x::text FROM ro, (SELECT a AS x, 0 AS flag FROM t) s",
            "SELECT a::text FROM ro WHERE EXISTS (SELECT 1.5::float8 FROM t)",
        ] {
            assert!(!of(text).itself, "{text}");
        }
        assert!(of("SELECT v.a::text FROM ro, v").over_views);
        assert!(!of("SELECT v.a, v.b = 1.5 FROM ro, v").over_views);
    }
}
