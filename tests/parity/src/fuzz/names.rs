//! Queries whose names could be confused: the same table name in several schemas, the same
//! alias at several levels, WITH queries named like tables and like each other, aliases of
//! joins with and without names of columns, whole rows and what is called on them,
//! set-returning functions, subqueries and windows in every clause, DISTINCT ON.
//!
//! For every foreign table `f0` of the schema there is a small local one, `near.f0`; for
//! every local table a foreign one, `far.h1`, of the first foreign table's rows.

use crate::case_file::Side;
use crate::dice::Dice;

use super::draft::{Draft, From, Join, Select, Source};
use super::schema::{Schema, Table};

/// Aliases that mean something else elsewhere, or that a reader of text stumbles over.
const ALIASES: [&str; 11] = [
    "x",
    "y",
    "pgspan",
    "pgspan1",
    "pgspan_t1",
    "c1",
    "\"select\"",
    "\"Ä b\"",
    "\"a.b\"",
    "unnest",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
];

/// The columns that every table has, and the kind of each.
const COLUMNS: [(&str, Kind); 3] = [("id", Kind::Number), ("k", Kind::Number), ("s", Kind::Text)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
}

/// Something in FROM: how it is spoken of, and its columns.
#[derive(Debug, Clone)]
struct Item {
    /// `f0`, `near.f0`, `x`.
    name: String,
    columns: Vec<(String, Kind)>,
    /// Whether `id` is unique in it.
    unique: bool,
}

impl Item {
    fn new(name: impl Into<String>) -> Item {
        let columns = COLUMNS.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect();
        Item { name: name.into(), columns, unique: true }
    }

    /// The last part of its name, by which it may also be called.
    fn last(&self) -> &str {
        if self.name.starts_with('"') {
            return &self.name;
        }
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

struct Maker<'a> {
    dice: Dice,
    schema: &'a Schema,
    /// Names of WITH queries.
    with: Vec<String>,
}

/// So many drafts from a seed.
pub fn drafts(schema: &Schema, seed: u64, count: usize) -> Vec<Draft> {
    let mut maker = Maker { dice: Dice::new(seed ^ 0x4a3e5), schema, with: Vec::new() };
    (0..count).map(|_| maker.draft()).collect()
}

/// The schemas whose tables have the names of other tables: statements at home.
pub fn namesakes(schema: &Schema) -> String {
    let foreign = schema.tables.iter().find(|t| t.side == Side::Source);
    let mut sql = String::from("create schema near; create schema far;\n");
    for table in &schema.tables {
        let name = &table.name;
        match (table.side, foreign) {
            (Side::Home, Some(foreign)) => {
                sql.push_str(&foreign.declared(&format!("far.{name}"), "src", COLUMNS.len()));
            }
            (Side::Home, None) => {}
            _ => sql.push_str(&format!(
                "create table near.{name} (id int4, k int4, s text);\n\
                 insert into near.{name} select n, n % 11, chr(96 + n % 5) from generate_series(1, 20) n;\n"
            )),
        }
    }
    sql
}

impl Maker<'_> {
    fn table(&mut self) -> Table {
        self.dice.pick(&self.schema.tables).clone()
    }

    /// A table with its schema, or without.
    fn place(&mut self) -> String {
        let table = self.table();
        let other = if table.side == Side::Home { "far" } else { "near" };
        match self.dice.below(5) {
            0 => format!("{other}.{}", table.name),
            1 => format!("public.{}", table.name),
            _ => table.name,
        }
    }

    /// An alias, sometimes the name of a table.
    fn alias(&mut self, taken: &[Item]) -> String {
        for _ in 0..20 {
            let name = match self.dice.below(3) {
                0 => self.table().name,
                _ => (*self.dice.pick(&ALIASES)).to_owned(),
            };
            if !taken.iter().any(|i| i.last() == name) {
                return name;
            }
        }
        format!("t{}", taken.len())
    }

    /// One thing for FROM, as text, and how it is spoken of.
    fn item(&mut self, taken: &[Item], depth: usize) -> (String, Item) {
        let place = self.place();
        match self.dice.below(12) {
            0..=3 if !taken.iter().any(|i| i.last() == Item::new(place.as_str()).last()) => {
                (place.clone(), Item::new(place))
            }
            // Beside a namesake the schema tells them apart.
            4 if place.contains('.')
                && !taken.iter().any(|i| !i.name.contains('.') || i.name == place) =>
            {
                (place.clone(), Item::new(place))
            }
            5 => {
                let alias = self.alias(taken);
                let mut item = Item::new(alias.as_str());
                item.columns[0].0 = "a".to_owned();
                item.columns[1].0 = "b".to_owned();
                item.columns.truncate(2);
                (format!("{place} as {alias}(a, b)"), item)
            }
            6 | 7 if depth > 0 => self.joined(taken),
            8 if depth > 0 => {
                let alias = self.alias(taken);
                (format!("({}) {alias}", self.sub(&place)), Item::new(alias))
            }
            9 if !self.with.is_empty() => {
                let name = self.dice.pick(&self.with).clone();
                match taken.iter().any(|i| i.last() == name) {
                    true => {
                        let alias = self.alias(taken);
                        (format!("{name} {alias}"), Item::new(alias))
                    }
                    false => (name.clone(), Item::new(name)),
                }
            }
            10 => {
                let alias = self.alias(taken);
                let columns = vec![("id".to_owned(), Kind::Number)];
                let item = Item { name: alias.clone(), columns, unique: true };
                (format!("generate_series(1, 7) {alias}(id)"), item)
            }
            _ => {
                let alias = self.alias(taken);
                (format!("{place} {alias}"), Item::new(alias))
            }
        }
    }

    /// A subquery over one table, with the columns of all tables.
    fn sub(&mut self, place: &str) -> String {
        match self.dice.below(4) {
            0 => format!("select distinct on (k) id, k, s from {place} order by k, id desc"),
            1 => format!(
                "select distinct on (s, k) * from (select id, k, s from {place}) y order by s, k, id"
            ),
            2 => format!("select max(id) as id, k, min(s) as s from {place} group by k"),
            _ => format!("select id, k, s from {place} where k > 3"),
        }
    }

    /// A join in parentheses with an alias.
    fn joined(&mut self, taken: &[Item]) -> (String, Item) {
        let (left, right) = (self.place(), self.place());
        let alias = self.alias(taken);
        let kind = *self.dice.pick(&["join", "left join", "full join"]);
        let left = format!("(select id, k, s from {left}) l");
        let right = if self.dice.one_in(2) {
            format!("{right} r")
        } else {
            format!("(select id, k from {right}) r")
        };
        let mut item = Item::new(alias.as_str());
        item.unique = false;
        if self.dice.one_in(2) {
            // id, k and s of the left side, whatever the right one has behind them.
            item.columns = ["ja", "jb", "jc"]
                .iter()
                .zip(COLUMNS)
                .map(|(n, (_, k))| ((*n).to_owned(), k))
                .collect();
            return (format!("({left} {kind} {right} using (id)) as {alias}(ja, jb, jc)"), item);
        }
        // Of names that both have, only the one of USING is clear.
        item.columns.truncate(1);
        (format!("({left} {kind} {right} using (id)) as {alias}"), item)
    }

    fn column(&mut self, items: &[Item], kind: Option<Kind>) -> (String, Kind) {
        for _ in 0..12 {
            let item = self.dice.pick(items);
            let (name, own) = self.dice.pick(&item.columns).clone();
            if kind.is_none_or(|k| k == own) {
                return (format!("{}.{name}", item.name), own);
            }
        }
        match kind {
            Some(Kind::Text) => ("'b'::text".to_owned(), Kind::Text),
            _ => ("4".to_owned(), Kind::Number),
        }
    }

    /// What is said of a whole row, as text.
    fn row(&mut self, items: &[Item]) -> String {
        let item = self.dice.pick(items).clone();
        let column = self.dice.pick(&item.columns).0.clone();
        let name = item.name;
        if name.contains('.') && !name.starts_with('"') {
            return match self.dice.below(3) {
                0 => format!("to_jsonb({name}.*)::text"),
                1 => format!("({name}.* is null)::text"),
                _ => format!("{name}.to_jsonb::text"),
            };
        }
        match self.dice.below(7) {
            0 => format!("{name}::text"),
            1 => format!("row_to_json({name})::text"),
            2 => format!("({name}).{column}::text"),
            3 => format!("{name}.to_jsonb::text"),
            4 => format!("({name} is not null)::text"),
            5 => format!("(to_jsonb({name}.*) -> '{column}')::text"),
            _ => format!("{name}.num_nulls::text"),
        }
    }

    /// A subquery of one value that may speak of what is around it.
    fn scalar(&mut self, items: &[Item], depth: usize) -> String {
        let (from, own) = self.item(&[], depth);
        let (mine, _) = self.column(std::slice::from_ref(&own), Some(Kind::Number));
        let (theirs, _) = self.column(items, Some(Kind::Number));
        // A name that is hidden inside means what is inside: both are comparisons.
        match self.dice.below(4) {
            0 => format!("(select max({mine}) from {from})"),
            1 => format!("(select count(*) from {from} where {mine} < {theirs})"),
            _ => format!("(select max({mine}) from {from} where {mine} = {theirs})"),
        }
    }

    fn condition(&mut self, items: &[Item]) -> String {
        let (a, kind) = self.column(items, None);
        match self.dice.below(7) {
            0 if kind == Kind::Number => format!("{a} < {}", self.scalar(items, 1)),
            1 | 2 => {
                let (from, own) = self.item(&[], 1);
                let (mine, _) = self.column(std::slice::from_ref(&own), Some(kind));
                let not = if self.dice.one_in(2) { "not " } else { "" };
                format!("{not}exists (select 1 from {from} where {mine} = {a})")
            }
            3 => {
                let (from, own) = self.item(&[], 1);
                let (mine, _) = self.column(std::slice::from_ref(&own), Some(kind));
                format!("{a} in (select {mine} from {from})")
            }
            4 => format!("{} is not null", self.row(items)),
            5 if kind == Kind::Number => format!("{a} % 3 <> 1"),
            _ => format!("{a} is not null"),
        }
    }

    fn from(&mut self, select: &mut Select) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for at in 0..1 + self.dice.below(3) {
            let (text, item) = self.item(&items, 1);
            let (mut join, mut on) = (Join::First, Vec::new());
            if at > 0 {
                join = *self.dice.pick(&[Join::Inner, Join::Inner, Join::Left]);
                let (a, _) = self.column(&items, Some(Kind::Number));
                let (b, _) = self.column(std::slice::from_ref(&item), Some(Kind::Number));
                on.push(format!("{a} = {b}"));
            }
            items.push(item);
            select.from.push(From { join, source: Source::Name(text), alias: String::new(), on });
        }
        items
    }

    fn select(&mut self) -> Select {
        let mut select = Select::default();
        let items = self.from(&mut select);
        for _ in 0..self.dice.below(3) {
            let condition = self.condition(&items);
            select.filter.push(condition);
        }
        if self.dice.one_in(3) {
            self.grouped(&mut select, &items);
            return select;
        }
        for _ in 0..1 + self.dice.below(3) {
            let item = match self.dice.below(7) {
                0 | 1 => self.row(&items),
                2 => self.scalar(&items, 1),
                3 if self.dice.one_in(3) => "generate_series(1, 2)".to_owned(),
                _ => self.column(&items, None).0,
            };
            select.items.push(item);
        }
        select.distinct = self.dice.one_in(6);
        if !select.distinct && self.dice.one_in(5) {
            let (by, _) = self.column(&items, None);
            select.items.push("count(*) over w".to_owned());
            select.having = Some(format!("window w as (partition by {by})"));
        }
        select
    }

    fn grouped(&mut self, select: &mut Select, items: &[Item]) {
        for _ in 0..1 + self.dice.below(2) {
            let key = match self.dice.below(6) {
                0 => self.scalar(items, 0),
                1 => "generate_series(1, 2)".to_owned(),
                2 => format!("{} % 5", self.column(items, Some(Kind::Number)).0),
                _ => self.column(items, None).0,
            };
            if !select.group.contains(&key) {
                select.items.push(key.clone());
                select.group.push(key);
            }
        }
        select.items.push("count(*)".to_owned());
        let (summed, _) = self.column(items, Some(Kind::Number));
        select.items.push(format!("sum({summed})"));
        if self.dice.one_in(4) {
            select.items.push("sum(count(*)) over w".to_owned());
            select.having = Some("window w as ()".to_owned());
        }
    }

    fn draft(&mut self) -> Draft {
        let mut draft = Draft::default();
        self.with.clear();
        for _ in 0..self.dice.below(4).saturating_sub(1) {
            let name = self.alias(&[]);
            if self.with.contains(&name) {
                continue;
            }
            let place = match self.with.last() {
                Some(before) if self.dice.one_in(3) => before.clone(),
                _ => self.place(),
            };
            let from = From {
                join: Join::First,
                source: Source::Name(format!("({})", self.sub(&place))),
                alias: "i".to_owned(),
                on: Vec::new(),
            };
            let body =
                Select { from: vec![from], items: vec!["i.*".to_owned()], ..Select::default() };
            draft.with.push((name.clone(), body));
            self.with.push(name);
        }
        draft.body = self.select();
        draft
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_sequence() {
        let schema = Schema::new(3);
        let texts = |seed| drafts(&schema, seed, 50).iter().map(Draft::sql).collect::<Vec<_>>();
        assert_eq!(texts(5), texts(5));
        assert_ne!(texts(5), texts(6));
    }
}
