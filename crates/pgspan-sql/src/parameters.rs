//! What PostgreSQL computes of a statement's parameters alone, once it plans for their values:
//! that may fail, whatever becomes of the result (`CASE WHEN f.id = -1 THEN 1 / $1 END`). A plan
//! that was made for other values does not tell.

use crate::nodes::{self, Unknown, string};
use crate::parse::COMPARISONS;
use crate::tree::{Node, SelectStmt};

/// What is computed of parameters and constants alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Computed {
    /// Something that may fail.
    pub may_fail: bool,
    /// Numbers of parameters that are cast, and to the type of which name: that computes
    /// something if a parameter has another type already.
    pub cast: Vec<(i32, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Varying,
    Constant,
    /// Constants and parameters.
    Parameter,
}

/// Looks at a statement.
///
/// # Errors
/// A node of a type that is not listed.
pub fn computed(select: &SelectStmt) -> Result<Computed, Unknown> {
    let mut found = Computed::default();
    // Expressions over columns of a query in FROM become ones over what these are.
    let mut columns = Kind::Varying;
    nodes::visit_derived(select, &mut |node| columns = columns.max(kind(node, Kind::Varying)))?;
    found.may_fail = columns == Kind::Parameter;
    let kind = |node: &Node| kind(node, columns);
    nodes::visit(select, &mut |node| {
        match node {
            Node::TypeCast(cast) => match (&cast.arg, &cast.type_name) {
                (Some(Node::ParamRef(p)), Some(name)) if name.typmods.is_empty() => {
                    let target = name.names.last().and_then(string).unwrap_or_default();
                    found.cast.push((p.number, target.to_owned()));
                }
                _ => found.may_fail |= kind(node) == Kind::Parameter,
            },
            Node::AExpr(e) => {
                let compares = matches!(&e.name[..], [name] if string(name).is_some_and(|n| COMPARISONS.contains(&n)));
                found.may_fail |= !compares && !is_text(node) && kind(node) == Kind::Parameter;
            }
            Node::FuncCall(_) | Node::AIndirection(_) => {
                found.may_fail |= kind(node) == Kind::Parameter;
            }
            _ => {}
        }
        Ok::<(), Unknown>(())
    })?;
    Ok(found)
}

/// Whether a text is put together from literals and parameters alone.
fn is_text(node: &Node) -> bool {
    match node {
        Node::AConst(_) | Node::ParamRef(_) => true,
        Node::AExpr(e) => {
            matches!(&e.name[..], [name] if string(name) == Some("||"))
                && [&e.lexpr, &e.rexpr].into_iter().flatten().all(is_text)
        }
        _ => false,
    }
}

/// What an expression consists of, where columns are of this kind.
fn kind(node: &Node, columns: Kind) -> Kind {
    match node {
        Node::AConst(_) | Node::String(_) | Node::SqlvalueFunction(_) => Kind::Constant,
        Node::ColumnRef(_) => columns,
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
            let children = nodes::children(node).unwrap_or_default();
            let mut most = Kind::Constant;
            for child in children {
                match kind(child, columns) {
                    Kind::Varying => return Kind::Varying,
                    other => most = most.max(other),
                }
            }
            most
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
            "SELECT CASE WHEN a = 1 THEN 1 / (s.k - $1) END FROM t, (SELECT 5 AS k) s",
            "SELECT 1 / (k - $1) FROM t, abs(5) AS k",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 / $1)",
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
            "SELECT a FROM t WHERE b LIKE '%' || $1 || '%'",
            "SELECT a FROM t, (SELECT k, 'x' AS y FROM u) s WHERE a = $1",
        ] {
            assert!(!of(text).may_fail, "{text}");
        }
        let cast = of("SELECT a FROM t WHERE a = $2::int AND b = CAST($1 AS date)");
        assert_eq!(cast.cast, [(2, "int4".to_owned()), (1, "date".to_owned())]);
        assert!(!cast.may_fail);
    }
}
