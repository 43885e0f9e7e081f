//! The statement with its foreign tables replaced by carriers. The client's own
//! text is spliced, so that everything else stays byte for byte what it was.

use crate::analyze::Analysis;
use crate::parse::parse;
use crate::quote::ident;
use crate::route::Reason;

/// Replaces each table of the statement for which `carrier` gives an expression.
///
/// # Errors
/// When the result is not SQL: the splice went wrong, and nothing is sent.
pub fn splice(
    text: &str,
    analysis: &Analysis,
    mut carrier: impl FnMut(usize) -> Option<String>,
) -> Result<String, Reason> {
    let mut edits: Vec<((usize, usize), String)> = Vec::new();
    let mut replaced = Vec::new();
    for (i, table) in analysis.tables.iter().enumerate() {
        if let Some(expression) = carrier(i) {
            let alias = match table.alias {
                Some(_) => String::new(),
                None => format!(" AS {}", ident(&table.name)),
            };
            edits.push((table.span, format!("{expression}{alias}")));
            replaced.push(table.reference());
        }
    }
    for column in &analysis.qualified {
        if replaced.contains(&column.table.as_str()) {
            edits.push((column.prefix, String::new()));
        }
    }
    edits.sort_by_key(|(span, _)| span.0);
    let mut out = String::with_capacity(text.len() + 128);
    let mut at = 0;
    for ((start, end), new) in &edits {
        if *start < at {
            return Err(Reason::new("overlapping names"));
        }
        out.push_str(&text[at..*start]);
        out.push_str(new);
        at = *end;
    }
    out.push_str(&text[at..]);
    if parse(&out).is_none() {
        return Err(Reason::new("the statement could not be rewritten"));
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analyze::analyze;
    use crate::catalog::CatalogSnapshot;
    use std::collections::{HashMap, HashSet};

    fn rewrite(sql: &str) -> String {
        let catalog = CatalogSnapshot::new(
            HashSet::from(["ro".to_owned()]),
            HashMap::new(),
            HashSet::new(),
            HashSet::new(),
        );
        let a = analyze(&parse(sql).unwrap(), &catalog).unwrap();
        splice(sql, &a, |i| (a.tables[i].name == "ro").then(|| "x($1)".to_owned())).unwrap()
    }

    #[test]
    fn only_foreign_tables_change() {
        assert_eq!(
            rewrite("SELECT ro.a, public.ro.b FROM u, public.ro WHERE true -- ro"),
            "SELECT ro.a, ro.b FROM u, x($1) AS \"ro\" WHERE true -- ro"
        );
        assert_eq!(rewrite("SELECT r.* FROM ro * r"), "SELECT r.* FROM x($1) r");
        assert_eq!(
            rewrite("SELECT 'ö', 1 FROM ro AS \"R\" ;"),
            "SELECT 'ö', 1 FROM x($1) AS \"R\" ;"
        );
    }
}
