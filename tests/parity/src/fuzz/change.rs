//! What happens to a schema while its queries are played: rows come and go, and definitions
//! change, at home and at the sources, past the gateway. What was played before is played
//! again then. A change that a server refuses is none.

use crate::case_file::Side;
use crate::client::Connection;
use crate::dice::Dice;
use crate::world::{Player, World};

use super::place::others;
use super::schema::{Schema, Table, row};
use super::values::Type;

/// Rows that a change brings.
const ROWS: usize = 5;
/// Numbers of rows that no table has at first.
const ROW_FIRST: usize = 1000;

/// Users' objects that a client's text may mean: where the path says so, or without being
/// named.
const OUTSIDE: [&str; 12] = [
    "create or replace function public.upper(text) returns text language sql immutable as 'select ''mine'''",
    "create or replace function public.upper(varchar) returns text language sql immutable as 'select ''mine'''",
    "create or replace function public.length(varchar) returns int4 language sql immutable as 'select 99'",
    "drop function if exists public.upper(text), public.upper(varchar), public.length(varchar)",
    "create or replace function public.as_int(text) returns int4 language plpgsql immutable as 'begin return 7; end'; \
     create cast (text as int4) with function public.as_int(text)",
    "drop cast if exists (text as int4)",
    "create or replace function public.alike(varchar, varchar) returns bool language plpgsql immutable strict \
     as 'begin return lower($1::text) = lower($2::text); end'; \
     create operator public.= (leftarg = varchar, rightarg = varchar, function = public.alike)",
    "create or replace function public.alike(varchar, varchar) returns bool language plpgsql immutable strict \
     as 'begin return length($1::text) = length($2::text); end'",
    "drop operator if exists public.= (varchar, varchar)",
    "alter type mood rename value 'sad' to 'blue'",
    "alter type mood rename value 'blue' to 'sad'",
    "create or replace function public.hashed(varchar) returns int4 language plpgsql immutable strict as 'begin return 1; end'; \
     create or replace function public.sized(varchar, varchar) returns bool language plpgsql immutable strict \
     as 'begin return length($1::text) = length($2::text); end'; \
     create operator public.=== (leftarg = varchar, rightarg = varchar, function = public.sized, commutator = operator(public.===), hashes); \
     create operator class public.sizes default for type varchar using hash as operator 1 public.===, function 1 public.hashed(varchar)",
];

/// Changes from a seed.
pub struct Changes<'a> {
    dice: Dice,
    schema: &'a Schema,
    rows: usize,
    /// What has been changed, and where.
    pub done: Vec<String>,
}

impl<'a> Changes<'a> {
    /// None so far.
    pub fn new(schema: &'a Schema, seed: u64) -> Changes<'a> {
        Changes { dice: Dice::new(seed ^ 0xc4a6e), schema, rows: ROW_FIRST, done: Vec::new() }
    }

    /// Makes one to three.
    ///
    /// # Errors
    /// When a server cannot be used.
    pub fn make(&mut self, world: &World<'_>) -> Result<(), String> {
        for _ in 0..1 + self.dice.below(3) {
            let table = self.dice.pick(&self.schema.tables).clone();
            let (side, sql) = match self.dice.below(3) {
                0 => (table.side, self.of_rows(&table)),
                1 => (table.side, self.of_what_is_stored(&table)),
                _ => (Side::Home, self.of_home(&table)),
            };
            let mut session: Connection = world.direct(Player::Oracle, side)?;
            // Somebody's session may still read.
            session.simple("set lock_timeout = '2s'");
            let reply = session.simple(&sql);
            if let Some(why) = reply.broken {
                return Err(format!("{sql}: {why}"));
            }
            if reply.error.is_none() {
                self.done.push(format!("{side:?}: {sql}"));
            }
        }
        Ok(())
    }

    fn of_rows(&mut self, table: &Table) -> String {
        let stored = table.stored();
        let (id, k) = (table.there(0), table.there(1));
        match self.dice.below(5) {
            0 => {
                let mut new = table.clone();
                let rows = self.rows..self.rows + ROWS;
                self.rows = rows.end;
                let kinds = &table.place.kinds;
                new.rows = rows.map(|at| row(&mut self.dice, kinds, &table.full, at)).collect();
                new.insert()
            }
            1 => format!("update {stored} set {k} = {k} + 1 where {id} % 3 = 0 and {k} < 1000"),
            2 => format!("delete from {stored} where {id} % 4 = 1"),
            3 => format!("truncate {stored}"),
            _ => format!("analyze {stored}"),
        }
    }

    /// A column behind the keys.
    fn column(&mut self, table: &Table) -> (usize, Type) {
        let at = 3 + self.dice.below(table.columns.len() - 3);
        (at, table.place.kinds[at])
    }

    fn of_what_is_stored(&mut self, table: &Table) -> String {
        let stored = table.stored();
        let (at, kind) = self.column(table);
        let column = table.there(at);
        match self.dice.below(6) {
            0 => format!("alter table {stored} add column extra int4 default 7"),
            1 => format!("create index on {stored} ({column}); analyze {stored}"),
            2 => match others(kind).first() {
                Some(other) => format!(
                    "alter table {stored} alter column {column} type {kind} using {column}::text::{kind}",
                    kind = other.sql()
                ),
                None => format!("alter table {stored} alter column {column} set statistics 10"),
            },
            // Two columns of one type change places.
            3 => {
                let same: Vec<usize> =
                    (1..table.columns.len()).filter(|i| table.place.kinds[*i] == kind).collect();
                let other = table.there(*self.dice.pick(&same));
                format!(
                    "alter table {stored} rename column {column} to swapped; \
                     alter table {stored} rename column {other} to {column}; \
                     alter table {stored} rename column swapped to {other}"
                )
            }
            // Another table in its place, with half of the rows.
            4 => {
                let (schema, name) = stored.split_once('.').unwrap_or(("public", &stored));
                format!(
                    "create table {schema}.anew (like {stored} including all); \
                     insert into {schema}.anew select * from {stored} where {} % 2 = 0; \
                     drop table {stored}; alter table {schema}.anew rename to {name}",
                    table.there(0)
                )
            }
            _ => format!("vacuum analyze {stored}"),
        }
    }

    fn of_home(&mut self, table: &Table) -> String {
        let name = &table.name;
        if table.side == Side::Home {
            let (at, _) = self.column(table);
            let column = &table.columns[at].0;
            return match self.dice.below(7) {
                0 => format!("alter table {name} add column extra int4 default 7"),
                1 => format!("create index on {name} ({column}); analyze {name}"),
                2 => {
                    let columns: Vec<String> = table
                        .columns
                        .iter()
                        .map(|(column, _)| match column.as_str() {
                            "k" => "id as k".to_owned(),
                            other => other.to_owned(),
                        })
                        .collect();
                    format!(
                        "create or replace view {} as select {} from {name}",
                        table.seen(),
                        columns.join(", ")
                    )
                }
                3 | 4 => (*self.dice.pick(&OUTSIDE[..])).to_owned(),
                5 => {
                    let collation = *self.dice.pick(&["\"und-x-icu\"", "\"C\""]);
                    format!("alter table {name} alter column s type text collate {collation}")
                }
                _ => format!(
                    "alter table {name} alter column {column} set statistics 0; analyze {name}"
                ),
            };
        }
        let (at, _) = self.column(table);
        let (column, kind) = table.columns[at].clone();
        match self.dice.below(8) {
            0 => format!("alter foreign table {name} options (add fetch_size '3')"),
            // Another column of the source under the same name.
            1 => {
                let same: Vec<usize> =
                    (1..table.columns.len()).filter(|i| table.columns[*i].1 == kind).collect();
                let other = table.there(*self.dice.pick(&same));
                let verb = if table.is_renamed() { "set" } else { "add" };
                format!(
                    "alter foreign table {name} alter column {column} options ({verb} column_name '{}')",
                    other.trim_matches('"')
                )
            }
            2 => match others(kind).first() {
                Some(other) => {
                    format!("alter foreign table {name} alter column {column} type {}", other.sql())
                }
                None => format!("alter foreign table {name} alter column {column} set not null"),
            },
            // Another table of the source under the same name.
            3 => {
                let others: Vec<Table> = self
                    .schema
                    .tables
                    .iter()
                    .filter(|other| {
                        // Where one has values of several spellings, so has the other.
                        let mut kinds = other.place.kinds.iter().zip(&table.place.kinds);
                        other.side == table.side
                            && other.name != *name
                            && kinds.all(|(a, b)| a.is_ambiguous() == b.is_ambiguous())
                    })
                    .cloned()
                    .collect();
                match others.is_empty() {
                    true => format!("analyze {name}"),
                    false => {
                        let other = &self.dice.pick(&others).name;
                        format!(
                            "alter foreign table {name} rename to swapped; \
                             alter foreign table {other} rename to {name}; \
                             alter foreign table swapped rename to {other}"
                        )
                    }
                }
            }
            4 => format!("alter foreign table {name} drop column {column}"),
            5 => format!("analyze {name}"),
            6 => "alter type mood add value if not exists 'calm' before 'ok'".to_owned(),
            _ => format!("alter foreign table {name} add column extra int4"),
        }
    }
}
