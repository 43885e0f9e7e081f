//! Tables over two or three servers, with rows, from a seed.

use crate::case_file::{CaseFile, Side};
use crate::dice::Dice;

use super::place::Place;
use super::values::{ENGINES, MOODS, TYPES, Type};

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name, the same wherever it is seen.
    pub name: String,
    /// Where its rows are.
    pub side: Side,
    /// Its columns; the first one is `id`, which is unique.
    pub columns: Vec<(String, Type)>,
    /// Which of them are declared NOT NULL where the rows are.
    pub full: Vec<bool>,
    /// Its rows as literals of the types that its columns have where the rows are.
    pub rows: Vec<Vec<String>>,
    /// How it is kept there, and how home declares it.
    pub place: Place,
}

/// A few tables.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The tables.
    pub tables: Vec<Table>,
    /// Settings of the databases, in SQL.
    pub settings: Vec<(Side, String)>,
    /// Its sources take parallel workers for everything.
    pub parallel: bool,
    /// The moods have another order at the sources than at home.
    pub moody: bool,
}

/// Settings that change what a text means, how a value becomes text, or the plan that the
/// gateway reads. postgres_fdw sets some of them itself for its sessions at a source.
const SETTINGS: &[(&str, &[&str])] = &[
    ("standard_conforming_strings", &["off"]),
    ("backslash_quote", &["on", "off"]),
    ("array_nulls", &["off"]),
    ("transform_null_equals", &["on"]),
    ("bytea_output", &["escape"]),
    ("extra_float_digits", &["0", "-3", "3"]),
    ("datestyle", &["SQL, DMY", "German", "Postgres, MDY"]),
    ("intervalstyle", &["sql_standard", "iso_8601", "postgres_verbose"]),
    ("timezone", &["Asia/Kolkata", "America/St_Johns", "UTC"]),
    ("timezone_abbreviations", &["India", "Australia"]),
    ("xmlbinary", &["hex"]),
    ("quote_all_identifiers", &["on"]),
    ("default_text_search_config", &["pg_catalog.simple"]),
    ("default_transaction_isolation", &["repeatable read", "read uncommitted"]),
    ("constraint_exclusion", &["on", "off"]),
    ("plan_cache_mode", &["force_generic_plan", "force_custom_plan"]),
    ("enable_hashjoin", &["off"]),
    ("enable_mergejoin", &["off"]),
    ("enable_nestloop", &["off"]),
    ("enable_hashagg", &["off"]),
    ("enable_sort", &["off"]),
    ("enable_memoize", &["off"]),
    ("enable_material", &["off"]),
    ("join_collapse_limit", &["1"]),
    ("from_collapse_limit", &["1"]),
    ("geqo_threshold", &["2"]),
    ("work_mem", &["64kB"]),
    ("cursor_tuple_fraction", &["1"]),
    ("jit", &["on"]),
    ("row_security", &["off"]),
    ("search_path", &["public, pg_catalog", "public"]),
];

/// Settings of some databases of a schema.
fn settings(dice: &mut Dice) -> Vec<(Side, String)> {
    let mut found = Vec::new();
    for side in [Side::Home, Side::Source, Side::Other] {
        if !dice.one_in(3) {
            continue;
        }
        for _ in 0..1 + dice.below(3) {
            let (name, values) = dice.pick(SETTINGS);
            let value = dice.pick(values);
            // A list is not one name.
            let value =
                if *name == "search_path" { (*value).to_owned() } else { format!("''{value}''") };
            found.push((side, set_database(name, &value)));
            if name.starts_with("enable_") {
                // PostgreSQL takes what it then does all the same for so expensive that it
                // would compile each statement, for seconds.
                found.push((side, set_database("jit", "off")));
            }
        }
    }
    found
}

fn set_database(name: &str, value: &str) -> String {
    format!(
        "do $set$ begin execute format('alter database %I set {name} = {value}', current_database()); end $set$;\n"
    )
}

/// Columns that every table has: keys that find partners.
const KEYS: [(&str, Type); 3] = [("id", Type::Int4), ("k", Type::Int4), ("s", Type::Text)];

/// Has the planner of a source think that parallel workers cost nothing: what the gateway
/// lets them do is to happen with small tables too.
const PARALLEL: &str = "do 'begin
    execute format(''alter database %I set parallel_setup_cost = 0'', current_database());
    execute format(''alter database %I set parallel_tuple_cost = 0'', current_database());
    execute format(''alter database %I set min_parallel_table_scan_size = 0'', current_database());
end';
";

impl Schema {
    /// A schema from a seed.
    pub fn new(seed: u64) -> Schema {
        let mut dice = Dice::new(seed);
        // One source is used by all of them, the other one by some.
        let sides = [Side::Source, Side::Home, Side::Source, Side::Other, Side::Home, Side::Source];
        let count = 4 + dice.below(3);
        // In half of the schemas every table is what the engine knows best.
        let odd = dice.one_in(2);
        let types = if odd { &TYPES[..] } else { &TYPES[..ENGINES] };
        let tables = (0..count)
            .map(|at| {
                let side = sides[at];
                let letter = match side {
                    Side::Home => 'h',
                    Side::Source => 'f',
                    Side::Other => 'g',
                };
                let mut columns: Vec<(String, Type)> =
                    KEYS.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
                for more in 0..4 + dice.below(5) {
                    columns.push((format!("c{more}"), *dice.pick(types)));
                }
                let rows = match dice.below(10) {
                    0 => 0,
                    1 => 1,
                    2 => 150,
                    _ => 15 + dice.below(30),
                };
                let full: Vec<bool> = columns.iter().map(|_| dice.one_in(3)).collect();
                let place = Place::new(&mut dice, side, &columns, odd);
                let kinds = &place.kinds;
                let rows = (0..rows).map(|at| row(&mut dice, kinds, &full, at)).collect();
                Table { name: format!("{letter}{at}"), side, columns, full, rows, place }
            })
            .collect();
        // Each of them is a process of its own: not in every schema.
        let settings = settings(&mut dice);
        Schema { tables, settings, parallel: dice.one_in(4), moody: dice.one_in(4) }
    }

    /// The setup of its databases.
    pub fn file(&self, name: &str) -> CaseFile {
        let mut file = CaseFile { name: name.to_owned(), ..CaseFile::default() };
        let mut home = String::from("${create_server};\n");
        if self.tables.iter().any(|table| table.side == Side::Other) {
            home.push_str("${create_other};\n");
        }
        for side in [Side::Source, Side::Other, Side::Home] {
            let own: Vec<&Table> = self.tables.iter().filter(|table| table.side == side).collect();
            if own.is_empty() && side != Side::Home {
                continue;
            }
            let mut moods = MOODS;
            if self.moody && side != Side::Home {
                moods.reverse();
            }
            let mut sql = format!("create type mood as enum ({});\n", moods.join(", "));
            if side == Side::Home {
                sql.push_str(&home);
            }
            for table in own {
                sql.push_str(&table.made());
                sql.push_str(&table.insert());
            }
            if side == Side::Home {
                for table in &self.tables {
                    let server = match table.side {
                        Side::Home => continue,
                        Side::Source => "src",
                        Side::Other => "oth",
                    };
                    sql.push_str(&table.declared(&table.name, server, table.columns.len()));
                }
                sql.push_str(&super::names::namesakes(self));
                let own = self.tables.iter().filter(|table| table.side == Side::Home);
                own.for_each(|table| sql.push_str(&table.view()));
            }
            if side != Side::Home && self.parallel {
                sql.push_str(PARALLEL);
            }
            sql.push_str("analyze;\n");
            // Sessions that begin now have them.
            let own = self.settings.iter().filter(|(of, _)| *of == side);
            own.for_each(|(_, setting)| sql.push_str(setting));
            file.setups.push((side, sql));
        }
        file
    }
}

impl Table {
    /// Its view at home ([`Table::seen`]): `k` rests on an order of `s` that EXPLAIN does not
    /// show.
    fn view(&self) -> String {
        let columns: Vec<&str> = self
            .columns
            .iter()
            .map(|(name, _)| match name.as_str() {
                "k" => "case when s collate \"und-x-icu\" < 'b' then k else id end as k",
                other => other,
            })
            .collect();
        format!(
            "create view {} as select {} from {};\n",
            self.seen(),
            columns.join(", "),
            self.name
        )
    }

    /// The name of its view, if its rows are at home.
    pub fn seen(&self) -> String {
        format!("seen_{}", self.name)
    }

    /// The statement that brings its rows.
    pub fn insert(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let rows: Vec<String> =
            self.rows.iter().map(|row| format!("({})", row.join(", "))).collect();
        format!("insert into {} values\n {};\n", self.stored(), rows.join(",\n "))
    }
}

/// A row from a seed, with a number that no other one has.
pub fn row(dice: &mut Dice, kinds: &[Type], full: &[bool], number: usize) -> Vec<String> {
    kinds
        .iter()
        .enumerate()
        .map(|(at, kind)| {
            if at == 0 {
                return (number + 1).to_string();
            }
            if !full[at] && dice.one_in(7) {
                return "null".to_owned();
            }
            // Keys have many values, or every join would be a product.
            if at == 1 && !dice.one_in(4) {
                return dice.below(25).to_string();
            }
            let pool = kind.pool();
            pool[dice.skewed(pool.len())].to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_schema() {
        let text = |seed| format!("{:?}", Schema::new(seed));
        assert_eq!(text(5), text(5));
        assert_ne!(text(5), text(6));
    }

    #[test]
    fn every_schema_crosses_and_every_type_appears() {
        let mut seen = Vec::new();
        for seed in 0..40 {
            let schema = Schema::new(seed);
            for side in [Side::Home, Side::Source, Side::Other] {
                assert!(schema.tables.iter().any(|table| table.side == side), "{seed}");
            }
            for table in &schema.tables {
                seen.extend(table.columns.iter().map(|column| column.1));
            }
        }
        for kind in TYPES {
            assert!(seen.contains(&kind), "{kind:?}");
        }
    }
}
