//! Does home's postgres_fdw see the rows that a fetch brought? A question that home answers
//! with a foreign scan of its own.

use crate::facts::HomeRelation;
use crate::fragment::{Fetch, remote_column};
use crate::plan::qualified_home;
use crate::quote::ident;

/// An expression that is true where home reads, under the fetch's condition, row for row
/// what parameter `parameter` carries. Compared are the bytes of each value, so that equal
/// values of different looks are told apart; the order is not.
///
/// A condition speaks of the source's column names: the foreign table is given these.
pub fn same_rows(fetch: &Fetch, relation: &HomeRelation, parameter: usize) -> String {
    let columns: Vec<_> = relation.columns.iter().flatten().collect();
    let fetched = columns.iter().zip(&fetch.columns).filter(|(_, (_, place))| place.is_some());
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for (column, _) in fetched {
        near.push(format!("n.{}", ident(&column.name)));
        far.push(format!("f.{}", ident(remote_column(column))));
    }
    let names: Vec<_> = columns
        .iter()
        .map(|c| format!("t.{} AS {}", ident(&c.name), ident(remote_column(c))))
        .collect();
    let condition = fetch.condition.as_ref().map_or("true", String::as_str);
    let table = qualified_home(fetch);
    // The condition's names are not qualified: nothing else may be in their scope.
    format!(
        "(WITH far(v) AS MATERIALIZED (SELECT pg_catalog.record_send(ROW({far})) FROM (SELECT {names} FROM {table} AS t) AS f WHERE {condition}), \
         near(v) AS MATERIALIZED (SELECT pg_catalog.record_send(ROW({near})) FROM pg_catalog.unnest(${parameter}::{table}[]) AS n) \
         SELECT (SELECT pg_catalog.count(*) FROM far) OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM near) \
         AND NOT EXISTS (SELECT far.v FROM far EXCEPT ALL SELECT near.v FROM near))",
        far = far.join(", "),
        near = near.join(", "),
        names = names.join(", "),
    )
}
