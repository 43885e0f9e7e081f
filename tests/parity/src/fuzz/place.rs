//! How a table is kept where its rows are, and how home declares it: not every foreign table
//! is a plain table of the same name, columns and types.

use std::fmt::Write as _;

use crate::case_file::Side;
use crate::dice::Dice;

use super::schema::Table;
use super::values::Type;

/// What has the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The table itself.
    Table,
    /// Two partitions of it.
    Partitions,
    /// A table below a view.
    View,
}

/// How a table is kept and declared.
#[derive(Debug, Clone)]
pub struct Place {
    keep: Keep,
    /// A column was dropped there: the numbers of the others have a gap.
    gap: bool,
    /// Its schema, itself and its columns have other names at the source than at home.
    renamed: bool,
    /// Home declares the columns behind the keys the other way round.
    reversed: bool,
    /// Home declares NOT NULL what is so at the source.
    strict: bool,
    /// Options of the foreign table.
    options: &'static str,
    /// Each column's type where the rows are.
    pub kinds: Vec<Type>,
}

/// Options that change what postgres_fdw asks, and none of the answer.
const OPTIONS: [&str; 6] = [
    "",
    "",
    ", fetch_size '7'",
    ", use_remote_estimate 'true'",
    ", async_capable 'true'",
    ", use_remote_estimate 'true', fetch_size '1', updatable 'false'",
];

/// Types of a source's columns that home declares to be of another one, the declared first.
const OTHERWISE: &[(Type, Type)] = &[
    (Type::Int8, Type::Int4),
    (Type::Int8, Type::Int2),
    (Type::Int4, Type::Int2),
    (Type::Int4, Type::Int8),
    (Type::Int2, Type::Int4),
    (Type::Oid, Type::Int8),
    (Type::Numeric, Type::Int4),
    (Type::Numeric, Type::Scaled),
    (Type::Scaled, Type::Numeric),
    (Type::Float8, Type::Float4),
    (Type::Float4, Type::Float8),
    (Type::Float8, Type::Int4),
    (Type::Text, Type::Varchar),
    (Type::Text, Type::Char),
    (Type::Varchar, Type::Text),
    (Type::Char, Type::Text),
    (Type::Text, Type::Int4),
    (Type::Text, Type::Date),
    (Type::Text, Type::Bytea),
    (Type::Text, Type::Mood),
    (Type::Timestamp, Type::Date),
    (Type::Date, Type::Timestamp),
    (Type::Timestamptz, Type::Timestamp),
    (Type::Timestamp, Type::Timestamptz),
    (Type::Texts, Type::Ints),
];

/// What a source's column may be instead of a type that home declares.
pub fn others(declared: Type) -> Vec<Type> {
    OTHERWISE.iter().filter(|other| other.0 == declared).map(|other| other.1).collect()
}

/// The columns in front, which every table has.
const KEYS: usize = 3;

impl Place {
    /// One that is kept and declared in the plain way, as half of the odd ones are too.
    pub fn new(dice: &mut Dice, side: Side, columns: &[(String, Type)], odd: bool) -> Place {
        let mut place = Place {
            keep: Keep::Table,
            gap: false,
            renamed: false,
            reversed: false,
            strict: false,
            options: "",
            kinds: columns.iter().map(|column| column.1).collect(),
        };
        if !odd || dice.one_in(2) {
            return place;
        }
        place.keep = *dice.pick(&[Keep::Table, Keep::Table, Keep::Partitions, Keep::View]);
        place.gap = dice.one_in(3);
        if side == Side::Home {
            return place;
        }
        place.renamed = dice.one_in(3);
        place.reversed = dice.one_in(3);
        place.strict = dice.one_in(3);
        place.options = *dice.pick(&OPTIONS[..]);
        if dice.one_in(3) {
            for kind in place.kinds.iter_mut().skip(1) {
                let others = others(*kind);
                if !others.is_empty() && dice.one_in(4) {
                    *kind = *dice.pick(&others);
                }
            }
        }
        place
    }

    /// The schema and the name of what home reads.
    fn name(&self, table: &str) -> (&'static str, String) {
        match self.renamed {
            true => ("deep", format!("The {table}")),
            false => ("public", table.to_owned()),
        }
    }

    fn column(&self, name: &str) -> String {
        if self.renamed { format!("Its {name}") } else { name.to_owned() }
    }
}

impl Table {
    /// What the rows are written to.
    pub fn stored(&self) -> String {
        let (schema, name) = self.place.name(&self.name);
        match self.place.keep {
            Keep::View => format!("{schema}.\"{name} below\""),
            Keep::Table | Keep::Partitions => format!("{schema}.\"{name}\""),
        }
    }

    /// A column's quoted name where the rows are.
    pub fn there(&self, at: usize) -> String {
        format!("\"{}\"", self.place.column(&self.columns[at].0))
    }

    /// Whether its columns have other names at home than there.
    pub fn is_renamed(&self) -> bool {
        self.place.renamed
    }

    /// The statements that make it where its rows are.
    pub fn made(&self) -> String {
        let place = &self.place;
        let (schema, name) = place.name(&self.name);
        let stored = self.stored();
        let columns: Vec<String> = self
            .columns
            .iter()
            .zip(&place.kinds)
            .enumerate()
            .map(|(at, (_, kind))| {
                let constraint = match at {
                    0 => " primary key",
                    _ if self.full[at] => " not null",
                    _ => "",
                };
                format!("{} {}{constraint}", self.there(at), kind.sql())
            })
            .collect();
        let mut sql = String::new();
        if place.renamed {
            sql.push_str("create schema if not exists deep;\n");
        }
        let gone = if place.gap { "gone int4, " } else { "" };
        let _ = write!(sql, "create table {stored} ({gone}{})", columns.join(", "));
        if place.keep == Keep::Partitions {
            let _ = write!(sql, " partition by hash ({})", self.there(0));
        }
        sql.push_str(";\n");
        if place.gap {
            let _ = writeln!(sql, "alter table {stored} drop column gone;");
        }
        match place.keep {
            Keep::Table => {}
            Keep::Partitions => {
                for part in 0..2 {
                    let _ = writeln!(
                        sql,
                        "create table {schema}.\"{name} {part}\" partition of {stored} \
                         for values with (modulus 2, remainder {part});"
                    );
                }
            }
            Keep::View => {
                let _ = writeln!(sql, "create view {schema}.\"{name}\" as select * from {stored};");
            }
        }
        sql
    }

    /// The statement that declares it at home, under a name, with so many of its columns.
    pub fn declared(&self, as_name: &str, server: &str, columns: usize) -> String {
        let place = &self.place;
        let mut order: Vec<usize> = (0..columns).collect();
        if place.reversed && columns > KEYS {
            order[KEYS..].reverse();
        }
        let columns: Vec<String> = order
            .into_iter()
            .map(|at| {
                let (name, kind) = &self.columns[at];
                let mut text = format!("{name} {}", kind.sql());
                if place.renamed {
                    let _ = write!(text, " options (column_name '{}')", place.column(name));
                }
                if place.strict && self.full[at] {
                    text.push_str(" not null");
                }
                text
            })
            .collect();
        let (schema, name) = place.name(&self.name);
        format!(
            "create foreign table {as_name} ({}) server {server} \
             options (schema_name '{schema}', table_name '{name}'{});\n",
            columns.join(", "),
            place.options
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Schema;

    #[test]
    fn every_way_of_keeping_and_declaring_appears() {
        let mut seen = String::new();
        for seed in 0..200 {
            for (_, sql) in Schema::new(seed).file("x").setups {
                seen.push_str(&sql);
            }
        }
        for part in [
            "create view public.\"f0\" as",
            "create view deep.\"The f0\" as",
            "partition of",
            "drop column gone",
            "column_name 'Its k'",
            " not null)",
            "fetch_size '7'",
            "use_remote_estimate",
            "async_capable",
        ] {
            assert!(seen.contains(part), "{part}");
        }
    }

    #[test]
    fn some_columns_are_declared_otherwise_and_most_are_not() {
        let (mut otherwise, mut all) = (0, 0);
        for seed in 0..400 {
            for table in Schema::new(seed).tables {
                all += table.columns.len();
                let pairs = table.columns.iter().zip(&table.place.kinds);
                otherwise += pairs.filter(|((_, home), there)| home != *there).count();
            }
        }
        assert!(otherwise > 0 && otherwise * 20 < all, "{otherwise} of {all}");
    }
}
