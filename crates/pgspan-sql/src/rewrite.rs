//! The statement with its foreign tables replaced by carriers. The client's own
//! text is spliced, so that everything else stays byte for byte what it was.

use crate::analyze::{Analysis, QualifiedColumn};
use crate::cause::Cause;
use crate::parse::is_sql;
use crate::quote::ident;
use crate::route::Reason;
use crate::scope::Qualifier;

/// Replaces each table of the statement for which `replaced` gives a carrier; `schemas`
/// tells the schema of any table.
///
/// A carrier has the table's name, but no schema: `schema.table.column` loses the schema.
/// Where the name alone would mean something else, the carrier gets a name that the text
/// does not contain, and every reference to it says that name.
///
/// # Errors
/// When the result is not SQL, or a reference could be missed: nothing is sent.
pub fn splice(
    text: &str,
    analysis: &Analysis,
    schemas: impl Fn(usize) -> Option<String>,
    mut carrier: impl FnMut(usize) -> Option<String>,
) -> Result<String, Reason> {
    let carriers: Vec<Option<String>> = (0..analysis.tables.len()).map(&mut carrier).collect();
    let is_replaced = |t: usize| carriers.get(t).is_some_and(Option::is_some);
    let mut edits: Vec<((usize, usize), String)> = Vec::new();
    // The references to replaced tables.
    let mut meant: Vec<(usize, &QualifiedColumn)> = Vec::new();
    let mut renamed: Vec<bool> = analysis.tables.iter().map(|t| t.crowded).collect();
    for column in &analysis.references {
        match &column.names {
            Qualifier::Table(t) if is_replaced(*t) => meant.push((*t, column)),
            Qualifier::Table(_) | Qualifier::Other(_) => {}
            Qualifier::Schema(name) => {
                let mut candidates = name.candidates.iter();
                let own = candidates.find(|t| schemas(**t).as_ref() == Some(&name.schema));
                let own = *own.ok_or(Reason::about(Cause::Unresolved, &name.schema))?;
                if is_replaced(own) {
                    if let Some(r) = renamed.get_mut(own) {
                        *r |= name.plain != Some(own);
                    }
                    meant.push((own, column));
                }
            }
        }
    }
    for (t, (table, expression)) in analysis.tables.iter().zip(&carriers).enumerate() {
        let Some(expression) = expression else { continue };
        let renamed = table.alias.is_none() && renamed.get(t) == Some(&true);
        if renamed && analysis.has_bare(&table.name) {
            // A column, or the whole row: its name in the result would change.
            return Err(Reason::about(Cause::RowOrColumn, &table.name));
        }
        let name = match renamed {
            true => fresh(text, &format!("pgspan_t{}", t + 1)),
            false => table.name.clone(),
        };
        let alias = match table.alias {
            Some(_) => String::new(),
            None => format!(" AS {}", ident(&name)),
        };
        edits.push((table.span, format!("{expression}{alias}")));
        for (_, column) in meant.iter().filter(|(own, _)| *own == t) {
            let qualified = matches!(column.names, Qualifier::Schema(_));
            if qualified || renamed {
                edits.push((column.qualifier(), format!("{}.", ident(&name))));
            }
        }
    }
    edits.sort_by_key(|(span, _)| span.0);
    let mut out = String::with_capacity(text.len() + 128);
    let mut at = 0;
    for ((start, end), new) in &edits {
        if *start < at {
            return Err(Reason::new(Cause::OverlappingNames));
        }
        out.push_str(&text[at..*start]);
        out.push_str(new);
        at = *end;
    }
    out.push_str(&text[at..]);
    if !is_sql(&out) {
        return Err(Reason::new(Cause::NotRewritten));
    }
    Ok(out)
}

/// A name that a text does not contain, whatever its case.
pub fn fresh(text: &str, name: &str) -> String {
    let text = text.to_ascii_lowercase();
    let mut name = name.to_owned();
    while text.contains(&name) {
        name.push('_');
    }
    name
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
        let a = analyze(sql, &catalog).unwrap();
        // Without a schema a table is in public; those of public are foreign.
        let schema = |i: usize| a.tables[i].schema.clone().or(Some("public".to_owned()));
        let own = |i: usize| schema(i).as_deref() == Some("public") && a.tables[i].name == "ro";
        splice(sql, &a, schema, |i| own(i).then(|| "x($1)".to_owned())).unwrap()
    }

    #[test]
    fn only_foreign_tables_change() {
        assert_eq!(
            rewrite("SELECT ro.a, public.ro.b FROM u, public.ro WHERE true -- ro"),
            "SELECT ro.a, \"ro\".b FROM u, x($1) AS \"ro\" WHERE true -- ro"
        );
        assert_eq!(rewrite("SELECT r.* FROM ro * r"), "SELECT r.* FROM x($1) r");
        assert_eq!(
            rewrite("SELECT 'ö', 1 FROM ro AS \"R\" ;"),
            "SELECT 'ö', 1 FROM x($1) AS \"R\" ;"
        );
    }

    #[test]
    fn a_name_means_the_same_table_as_before() {
        // The inner table would capture the reference.
        assert_eq!(
            rewrite(
                "SELECT ro.a FROM ro WHERE NOT EXISTS (SELECT 1 FROM l.ro WHERE l.ro.b = public.ro.b)"
            ),
            "SELECT \"pgspan_t1\".a FROM x($1) AS \"pgspan_t1\" WHERE NOT EXISTS (SELECT 1 FROM l.ro WHERE l.ro.b = \"pgspan_t1\".b)"
        );
        // Beside each other.
        assert_eq!(
            rewrite("SELECT public.ro.a, pgspan_t1.b FROM public.ro, l.ro, l.pgspan_t1"),
            "SELECT \"pgspan_t1_\".a, pgspan_t1.b FROM x($1) AS \"pgspan_t1_\", l.ro, l.pgspan_t1"
        );
        // An outer table's own.
        assert_eq!(
            rewrite("SELECT 1 FROM l.ro WHERE EXISTS (SELECT 1 FROM ro WHERE l.ro.b = ro.b)"),
            "SELECT 1 FROM l.ro WHERE EXISTS (SELECT 1 FROM x($1) AS \"ro\" WHERE l.ro.b = ro.b)"
        );
    }
}
