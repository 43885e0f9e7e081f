//! What PostgreSQL computes of a statement's parameters alone, once it plans for their values:
//! that may fail, whatever becomes of the result (`CASE WHEN f.id = -1 THEN 1 / $1 END`). A plan
//! that was made for other values does not tell.

use crate::nodes::{self, Unknown, string};
use crate::tree::{Node, SelectStmt};

/// What is computed of parameters and constants alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Computed {
    /// Something that may fail.
    pub may_fail: bool,
    /// Numbers of parameters that are cast: that computes something if a parameter has another
    /// type already.
    pub cast: Vec<i32>,
}

/// Operators that compare: of constants they do not fail.
const COMPARISONS: &[&str] = &["=", "<>", "<", ">", "<=", ">="];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Constant,
    /// Constants and parameters.
    Parameter,
    Varying,
}

/// Looks at a statement.
///
/// # Errors
/// A node of a type that is not listed.
pub fn computed(select: &SelectStmt) -> Result<Computed, Unknown> {
    let mut found = Computed::default();
    nodes::visit(select, &mut |node| {
        match node {
            Node::TypeCast(cast) => match (&cast.arg, &cast.type_name) {
                (Some(Node::ParamRef(p)), Some(name)) if name.typmods.is_empty() => {
                    found.cast.push(p.number);
                }
                _ => found.may_fail |= kind(node) == Kind::Parameter,
            },
            Node::AExpr(e) => {
                let compares = matches!(&e.name[..], [name] if string(name).is_some_and(|n| COMPARISONS.contains(&n)));
                found.may_fail |= !compares && kind(node) == Kind::Parameter;
            }
            Node::FuncCall(_) | Node::AIndirection(_) => {
                found.may_fail |= kind(node) == Kind::Parameter;
            }
            // Expressions over its columns become ones over what these are.
            Node::RangeSubselect(r) => found.may_fail |= gives_parameters(&r.subquery),
            Node::CommonTableExpr(c) => found.may_fail |= gives_parameters(&c.ctequery),
            Node::RangeFunction(f) => {
                found.may_fail |= f.functions.iter().any(|n| kind(n) == Kind::Parameter);
            }
            _ => {}
        }
        Ok::<(), Unknown>(())
    })?;
    Ok(found)
}

fn gives_parameters(query: &Option<Node>) -> bool {
    fn of(select: &SelectStmt) -> bool {
        let sides = [&select.larg, &select.rarg].into_iter().flatten();
        select.target_list.iter().chain(&select.values_lists).any(any)
            || sides.into_iter().any(|s| of(s))
    }
    fn any(node: &Node) -> bool {
        match node {
            Node::ResTarget(_) | Node::List(_) => {
                nodes::children(node).unwrap_or_default().into_iter().any(any)
            }
            other => kind(other) == Kind::Parameter,
        }
    }
    matches!(query, Some(Node::SelectStmt(select)) if of(select))
}

fn kind(node: &Node) -> Kind {
    match node {
        Node::AConst(_) | Node::String(_) | Node::SqlvalueFunction(_) => Kind::Constant,
        Node::ParamRef(_) => Kind::Parameter,
        Node::AExpr(_)
        | Node::BoolExpr(_)
        | Node::FuncCall(_)
        | Node::TypeCast(_)
        | Node::CaseExpr(_)
        | Node::CaseWhen(_)
        | Node::CoalesceExpr(_)
        | Node::MinMaxExpr(_)
        | Node::NullTest(_)
        | Node::BooleanTest(_)
        | Node::AArrayExpr(_)
        | Node::AIndirection(_)
        | Node::AIndices(_)
        | Node::RowExpr(_)
        | Node::CollateClause(_)
        | Node::NamedArgExpr(_)
        | Node::List(_) => {
            let mut all = Kind::Constant;
            for child in nodes::children(node).unwrap_or_default() {
                match kind(child) {
                    Kind::Constant => {}
                    Kind::Parameter => all = Kind::Parameter,
                    Kind::Varying => return Kind::Varying,
                }
            }
            all
        }
        _ => Kind::Varying,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parse::{SystemUser, read};

    fn of(text: &str) -> Computed {
        let statements = read(text, SystemUser::Keyword).unwrap();
        let Node::SelectStmt(select) = &statements[0] else { unreachable!() };
        computed(select).unwrap()
    }

    #[test]
    fn what_is_computed_of_parameters_is_seen() {
        for text in [
            "SELECT CASE WHEN a = -1 THEN 1 / $1 END FROM t",
            "SELECT a FROM t WHERE b > now() - $1::interval",
            "SELECT a FROM t WHERE b = lower($1)",
            "SELECT a FROM t WHERE b = $1::numeric(5,2)",
            "SELECT a FROM t WHERE b = ($1 || 'x')::int",
            "SELECT a FROM t, (SELECT $1 AS x) s WHERE a > 1 / s.x",
            "WITH s AS (VALUES (1, $1)) SELECT a FROM t, s",
            "SELECT a FROM t LIMIT $1 + 1",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 / $1)",
            "SELECT a FROM t WHERE b LIKE $1 || '%'",
            "SELECT count($1) FROM t",
            "SELECT a FROM t WHERE b = -$1",
        ] {
            assert!(of(text).may_fail, "{text}");
        }
        for text in [
            "SELECT a, $1 FROM t WHERE a = $2 AND b IN ($3, $4) AND c LIKE $5 LIMIT $6",
            "SELECT a FROM t WHERE ($1 IS NULL OR a = $1) AND ($2 = '' OR b > $2)",
            "SELECT a + $1 FROM t WHERE a * $1 > 2 AND lower(b) = $2 AND a = ANY (ARRAY[$3])",
            "SELECT a FROM t WHERE b = coalesce($1, 5) AND a BETWEEN $2 AND $3",
        ] {
            assert!(!of(text).may_fail, "{text}");
        }
        let cast = of("SELECT a FROM t WHERE a = $2::int AND b = CAST($1 AS date)");
        assert_eq!((cast.may_fail, cast.cast), (false, vec![2, 1]));
    }
}
