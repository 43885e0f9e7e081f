//! A failure made small, its rows included, and written as a case file that is played
//! with all the others.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::case_file::Side;
use crate::world::{Player, World};

use super::draft::{Draft, shrink};
use super::parameters::bind;
use super::play::{STRATEGIES, Table, Way};
use super::schema::Schema;

/// Attempts at leaving out rows.
const ROW_ATTEMPTS_MAX: usize = 300;

/// A small failure.
#[derive(Debug)]
pub struct Kept {
    /// The tables that it needs, with the rows that it needs.
    pub schema: Schema,
    /// The query.
    pub sql: String,
    /// Its order is promised.
    pub ordered: bool,
    /// How it was sent.
    pub way: Way,
    /// Strategies under which it fails.
    pub strategies: Vec<&'static str>,
}

/// Leaves out what does not matter: parts of the query, then rows.
///
/// # Errors
/// When the servers cannot be used.
pub fn minimise(
    world: &World<'_>,
    schema: &Schema,
    draft: &Draft,
    way: Way,
) -> Result<Kept, String> {
    let failing = |sql: &str, ordered: bool, strategies: &[&'static str]| {
        let mut table = Table::new(world, strategies);
        // Twice: what only fails while the text is new, or only afterwards, is a failure too.
        let mut wrong: Vec<&'static str> = Vec::new();
        for _ in 0..2 {
            let Ok(verdict) = table.play(sql, ordered, way) else { continue };
            // What PostgreSQL refuses is another failure, unless that is the difference.
            if verdict.refused.is_none() || verdict.wrong.len() == strategies.len() {
                wrong.extend(verdict.wrong.iter().map(|wrong| wrong.0));
            }
        }
        wrong.sort_unstable();
        wrong.dedup();
        wrong
    };
    let strategies = failing(&draft.sql(), draft.is_ordered(), &STRATEGIES);
    let first: Vec<&'static str> = strategies.iter().take(1).copied().collect();
    let small = shrink(draft, &mut |candidate| {
        !first.is_empty() && !failing(&candidate.sql(), candidate.is_ordered(), &first).is_empty()
    });
    let sql = small.sql();
    let mut kept = schema.clone();
    kept.tables.retain(|table| names(&sql, &table.name) || names(&sql, &table.seen()));
    let mut attempts = 0;
    for at in 0..kept.tables.len() {
        let mut piece = kept.tables[at].rows.len().div_ceil(2);
        while piece > 0 && !first.is_empty() {
            let mut from = 0;
            while from < kept.tables[at].rows.len() && attempts < ROW_ATTEMPTS_MAX {
                attempts += 1;
                let before = kept.clone();
                let rows = &mut kept.tables[at].rows;
                let to = (from + piece).min(rows.len());
                rows.drain(from..to);
                load(world, &kept, at)?;
                if failing(&sql, small.is_ordered(), &first).is_empty() {
                    kept = before;
                    load(world, &kept, at)?;
                    from += piece;
                }
            }
            piece /= 2;
        }
    }
    // The next failure of this world wants all rows.
    for at in 0..schema.tables.len() {
        load(world, schema, at)?;
    }
    Ok(Kept { schema: kept, sql, ordered: small.is_ordered(), way, strategies })
}

/// Whether a query names a table.
fn names(sql: &str, table: &str) -> bool {
    sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == table)
}

fn load(world: &World<'_>, schema: &Schema, at: usize) -> Result<(), String> {
    let table = &schema.tables[at];
    let mut session = world.direct(Player::Oracle, table.side)?;
    let reply = session.simple(&format!("truncate {};\n{}", table.stored(), table.insert()));
    match reply.error.is_some() || reply.broken.is_some() {
        true => Err(format!("{}: {}", table.name, reply.summary())),
        false => Ok(()),
    }
}

/// The case file of a failure.
pub fn text(label: &str, kept: &Kept) -> String {
    let mut text = String::from("# Found by a generated query; keep it once it is green.\n\n");
    for (side, sql) in &kept.schema.file("").setups {
        let side = match side {
            Side::Home => "home",
            Side::Source => "source",
            Side::Other => "other",
        };
        let _ = write!(text, "setup {side}\n{sql}----\n\n");
    }
    let rowsort = if kept.ordered { "" } else { " rowsort" };
    let strategies: &[&str] =
        if kept.strategies.is_empty() { &["auto"] } else { kept.strategies.as_slice() };
    let (sql, values) = match kept.way {
        Way::Parameters => bind(&kept.sql),
        Way::Simple | Way::Binary => (kept.sql.clone(), Vec::new()),
    };
    for strategy in strategies {
        let _ = writeln!(
            text,
            "query{rowsort} {label} as {strategy}\nbefore: set pgspan.strategy = '{strategy}'"
        );
        for (kind, value) in &values {
            let _ = writeln!(text, "param: {kind}:: {value}");
        }
        let _ = write!(text, "{sql}\n----\nok\n\n");
    }
    text
}

/// Writes it.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, name: &str, kept: &Kept) -> Result<PathBuf, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    let path = folder.join(format!("{name}.case"));
    std::fs::write(&path, text(&name.replace('_', " "), kept)).map_err(fail)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case_file::{self, Case};

    #[test]
    fn what_is_kept_can_be_read_again() {
        let kept = Kept {
            schema: Schema::new(4),
            sql: "select t1.k as o1\nfrom f0 t1\nwhere t1.k = '5'::int4".to_owned(),
            ordered: false,
            way: Way::Parameters,
            strategies: vec!["engine", "auto"],
        };
        let file = case_file::parse("x", &text("x", &kept)).unwrap();
        assert_eq!(file.cases.len(), 2);
        assert_eq!(file.setups.len(), kept.schema.file("").setups.len());
        let Case::Query(query) = &file.cases[0] else { panic!("not a query") };
        assert_eq!(query.sql, "select t1.k as o1\nfrom f0 t1\nwhere t1.k = $1::int4");
        assert_eq!(query.params.len(), 1);
        assert_eq!(query.before, ["set pgspan.strategy = 'engine'"]);
        assert!(query.marks.rowsort);
    }

    #[test]
    fn a_table_is_named_as_a_word() {
        assert!(names("select 1 from f1 t", "f1"));
        assert!(!names("select 1 from f10 t, xf1", "f1"));
    }
}
