//! Queries nobody thought of: a seeded generator over the shop of `shop.inc`,
//! and the shrinking of what fails to something a person can read and keep.

use std::fmt::Write as _;

use crate::case_file::{Case, CaseFile, Expect, Marks, Query};
use crate::dice::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Text,
    Num,
    Date,
    Uuid,
    Bool,
}

/// A table of the shop, its alias letter and its columns.
struct Table {
    name: &'static str,
    foreign: bool,
    columns: &'static [(&'static str, Kind)],
}

/// Columns whose equal values have several spellings (numeric without scale,
/// float zeros) are left out: which one DISTINCT keeps is anybody's choice.
const TABLES: &[Table] = &[
    Table {
        name: "users",
        foreign: false,
        columns: &[
            ("user_id", Kind::Int),
            ("username", Kind::Text),
            ("country", Kind::Text),
            ("score", Kind::Num),
            ("signup", Kind::Date),
            ("boss", Kind::Int),
            ("uid", Kind::Uuid),
        ],
    },
    Table {
        name: "remote_orders",
        foreign: true,
        columns: &[
            ("order_id", Kind::Int),
            ("user_id", Kind::Int),
            ("product_name", Kind::Text),
            ("quantity", Kind::Int),
            ("total_amount", Kind::Num),
            ("order_status", Kind::Text),
            ("note", Kind::Text),
            ("paid", Kind::Bool),
            ("day", Kind::Date),
            ("uid", Kind::Uuid),
        ],
    },
    Table {
        name: "remote_items",
        foreign: true,
        columns: &[
            ("item_id", Kind::Int),
            ("order_id", Kind::Int),
            ("sku", Kind::Text),
            ("qty", Kind::Int),
        ],
    },
    Table {
        name: "countries",
        foreign: false,
        columns: &[("code", Kind::Text), ("name", Kind::Text)],
    },
    Table {
        name: "remote_void",
        foreign: true,
        columns: &[("id", Kind::Int), ("name", Kind::Text), ("amount", Kind::Num)],
    },
];

fn literals(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Int => &["1", "2", "3", "5", "0", "null", "-1", "11"],
        Kind::Text => &["'fast'", "'completed'", "'US'", "''", "'L-1'", "null", "'Cable'", "'a'"],
        Kind::Num => &["0", "7.5", "10.50", "100", "599.98", "null"],
        Kind::Date => &["date '2024-01-05'", "date '2024-02-29'", "date '1969-12-31'", "null"],
        Kind::Uuid => &[
            "'00000000-0000-0000-0000-000000000001'::uuid",
            "'00000000-0000-0000-0000-000000000009'::uuid",
        ],
        Kind::Bool => &["true", "false", "null"],
    }
}

/// A query in parts that can be left out one by one.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    with: bool,
    select: Vec<String>,
    distinct: bool,
    from: Vec<String>,
    filter: Vec<String>,
    group: Vec<String>,
    having: Option<String>,
    union: Option<String>,
    limit: Option<usize>,
}

type Column = (String, Kind);

struct Maker {
    dice: Dice,
}

impl Maker {
    fn columns(&mut self, table: &Table, alias: &str) -> Vec<Column> {
        table.columns.iter().map(|(name, kind)| (format!("{alias}.{name}"), *kind)).collect()
    }

    fn of_kind<'a>(&mut self, columns: &'a [Column], kind: Kind) -> Option<&'a Column> {
        let fitting: Vec<&Column> = columns.iter().filter(|column| column.1 == kind).collect();
        if fitting.is_empty() { None } else { Some(*self.dice.pick(&fitting)) }
    }

    fn equality(&mut self, left: &[Column], right: &[Column]) -> String {
        for _ in 0..8 {
            let (name, kind) = self.dice.pick(left).clone();
            if kind == Kind::Bool {
                continue;
            }
            if let Some((other, _)) = self.of_kind(right, kind) {
                let operator = *self.dice.pick(&["=", "=", "=", "=", "<", "is not distinct from"]);
                return format!("{name} {operator} {other}");
            }
        }
        "true".to_owned()
    }

    fn condition(&mut self, columns: &[Column], depth: usize) -> String {
        if depth > 0 && self.dice.one_in(3) {
            let (a, b) = (self.condition(columns, depth - 1), self.condition(columns, depth - 1));
            return match self.dice.below(4) {
                0 => format!("({a} or {b})"),
                1 => format!("({a} and {b})"),
                2 => format!("not ({a})"),
                _ => format!("({a}) is not true"),
            };
        }
        let (name, kind) = self.dice.pick(columns).clone();
        let literal = *self.dice.pick(literals(kind));
        match self.dice.below(11) {
            0 => format!("{name} is null"),
            1 => format!("{name} is not null"),
            2 => format!("{name} is distinct from {literal}"),
            3 => format!("coalesce({name}, {literal}) = {literal}"),
            4 => format!("{name} in ({literal}, {})", self.dice.pick(literals(kind))),
            5 => match self.of_kind(columns, kind) {
                Some((other, _)) => format!("{name} <> {other}"),
                None => format!("{name} = {literal}"),
            },
            6 if kind == Kind::Text => format!("{name} like 'f%'"),
            7 | 8 => self.subquery(&name, kind),
            9 if kind != Kind::Bool => format!("{name} >= {literal}"),
            _ => format!("{name} = {literal}"),
        }
    }

    fn subquery(&mut self, name: &str, kind: Kind) -> String {
        let table = self.dice.pick(TABLES);
        let inner = self.columns(table, "s");
        let Some((other, _)) = self.of_kind(&inner, kind).cloned() else {
            return format!("{name} is not null");
        };
        let filter = self.condition_flat(&inner);
        match self.dice.below(4) {
            0 => format!("{name} in (select {other} from {} s where {filter})", table.name),
            1 => format!("{name} not in (select {other} from {} s where {filter})", table.name),
            2 => {
                format!("exists (select from {} s where {other} = {name} and {filter})", table.name)
            }
            _ => format!(
                "not exists (select from {} s where {other} = {name} and {filter})",
                table.name
            ),
        }
    }

    fn condition_flat(&mut self, columns: &[Column]) -> String {
        let (name, kind) = self.dice.pick(columns).clone();
        format!("{name} is distinct from {}", self.dice.pick(literals(kind)))
    }

    fn draft(&mut self) -> Draft {
        let mut draft = Draft::default();
        let count = 1 + self.dice.below(3);
        let mut columns: Vec<Column> = Vec::new();
        let mut foreign = false;
        for at in 0..=count {
            // The last one is foreign when none was: the gateway is the subject.
            let table = loop {
                let table = self.dice.pick(TABLES);
                if foreign || table.foreign || at < count {
                    break table;
                }
            };
            foreign |= table.foreign;
            let alias = format!("t{at}");
            let own = self.columns(table, &alias);
            if at == 0 {
                draft.from.push(format!("{} {alias}", table.name));
            } else {
                let kind =
                    *self.dice.pick(&["join", "left join", "right join", "full join", "left join"]);
                let mut on = self.equality(&columns, &own);
                // A full join needs a condition that can be hashed or merged.
                if kind == "full join" {
                    on = on.replace(" < ", " = ").replace(" is not distinct from ", " = ");
                } else if self.dice.one_in(3) {
                    let both: Vec<Column> = columns.iter().chain(&own).cloned().collect();
                    let _ = write!(on, " and {}", self.condition_flat(&both));
                }
                draft.from.push(format!("{kind} {} {alias} on {on}", table.name));
            }
            columns.extend(own);
        }
        for _ in 0..self.dice.below(3) {
            draft.filter.push(self.condition(&columns, 2));
        }
        let width = 1 + self.dice.below(4);
        let chosen: Vec<Column> = (0..width).map(|_| self.dice.pick(&columns).clone()).collect();
        if self.dice.one_in(3) {
            draft.group = chosen.iter().map(|(name, _)| name.clone()).collect();
            draft.select.clone_from(&draft.group);
            draft.select.push("count(*)".to_owned());
            for _ in 0..self.dice.below(3) {
                let (name, kind) = self.dice.pick(&columns).clone();
                draft.select.push(match kind {
                    Kind::Int | Kind::Num => {
                        format!(
                            "{}({name})",
                            self.dice.pick(&["sum", "avg", "min", "max", "count"])
                        )
                    }
                    Kind::Bool => format!("bool_or({name})"),
                    Kind::Text | Kind::Date => {
                        format!("{}({name})", self.dice.pick(&["min", "max", "count"]))
                    }
                    Kind::Uuid => format!("count(distinct {name})"),
                });
            }
            if self.dice.one_in(3) {
                draft.having = Some("count(*) > 1".to_owned());
            }
        } else {
            draft.select = chosen.iter().map(|(name, _)| name.clone()).collect();
            draft.distinct = self.dice.one_in(4);
            if self.dice.one_in(6) {
                draft.select.push(format!("count(*) over (partition by {})", chosen[0].0));
                draft.distinct = false;
            }
        }
        if self.dice.one_in(8) && draft.group.is_empty() && draft.select.len() == chosen.len() {
            let operator = *self.dice.pick(&["union", "union all", "except", "intersect"]);
            let same: Vec<String> =
                chosen.iter().map(|(_, kind)| self.typed_literal(*kind)).collect();
            draft.union = Some(format!("{operator} select {}", same.join(", ")));
        }
        if self.dice.one_in(4) {
            draft.limit = Some(self.dice.below(12));
        }
        draft.with = self.dice.one_in(6);
        draft
    }

    fn typed_literal(&mut self, kind: Kind) -> String {
        let literal = *self.dice.pick(literals(kind));
        let name = match kind {
            Kind::Int => "int",
            Kind::Text => "text",
            Kind::Num => "numeric(10,2)",
            Kind::Date => "date",
            Kind::Uuid => "uuid",
            Kind::Bool => "bool",
        };
        format!("{literal}::{name}")
    }
}

impl Draft {
    /// The statement.
    pub fn sql(&self) -> String {
        let mut sql = format!(
            "select {}{}\nfrom {}",
            if self.distinct { "distinct " } else { "" },
            self.select.join(", "),
            self.from.join("\n  ")
        );
        if !self.filter.is_empty() {
            let _ = write!(sql, "\nwhere {}", self.filter.join("\n  and "));
        }
        if !self.group.is_empty() {
            let _ = write!(sql, "\ngroup by {}", self.group.join(", "));
        }
        if let Some(having) = &self.having {
            let _ = write!(sql, "\nhaving {having}");
        }
        if let Some(union) = &self.union {
            let _ = write!(sql, "\n{union}");
        }
        if let Some(limit) = self.limit {
            // Every output column: rows that tie are the same row.
            let all: Vec<String> = (1..=self.select.len()).map(|at| at.to_string()).collect();
            let _ = write!(sql, "\norder by {} limit {limit}", all.join(", "));
        }
        if self.with {
            sql = format!("with w as ({sql})\nselect * from w");
        }
        sql
    }

    /// The same without one of its parts, for each part.
    fn smaller(&self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let mut without = |change: &dyn Fn(&mut Draft)| {
            let mut draft = self.clone();
            change(&mut draft);
            if draft.sql() != self.sql() {
                drafts.push(draft);
            }
        };
        without(&|draft| draft.with = false);
        without(&|draft| draft.limit = None);
        without(&|draft| draft.union = None);
        without(&|draft| draft.having = None);
        without(&|draft| draft.distinct = false);
        for at in 0..self.filter.len() {
            without(&|draft| drop(draft.filter.remove(at)));
        }
        if self.from.len() > 1 {
            without(&|draft| drop(draft.from.pop()));
        }
        if self.union.is_none() && self.select.len() > 1 {
            for at in 0..self.select.len() {
                without(&|draft| {
                    let gone = draft.select.remove(at);
                    draft.group.retain(|key| *key != gone);
                });
            }
        }
        drafts
    }
}

/// So many drafts from a seed.
pub fn drafts(seed: u64, count: usize) -> Vec<Draft> {
    let mut maker = Maker { dice: Dice::new(seed) };
    (0..count).map(|_| maker.draft()).collect()
}

/// A case file of drafts, played in the shop.
pub fn file(name: &str, drafts: &[Draft], shop: &CaseFile) -> CaseFile {
    let cases = drafts
        .iter()
        .enumerate()
        .map(|(at, draft)| {
            Case::Query(Query {
                line: at + 1,
                label: (at + 1).to_string(),
                marks: Marks { rowsort: true, ..Marks::default() },
                before: Vec::new(),
                params: Vec::new(),
                stdin: String::new(),
                sql: draft.sql(),
                expect: Expect::Ok(None),
            })
        })
        .collect();
    CaseFile { name: name.to_owned(), setups: shop.setups.clone(), cases, ..CaseFile::default() }
}

/// The smallest draft that still fails, as `fails` judges many at once.
pub fn shrink(draft: &Draft, fails: &mut dyn FnMut(&[Draft]) -> Vec<bool>) -> Draft {
    const ROUNDS_MAX: usize = 12;
    let mut smallest = draft.clone();
    for _ in 0..ROUNDS_MAX {
        let candidates = smallest.smaller();
        let verdicts = fails(&candidates);
        match candidates.into_iter().zip(verdicts).find(|(_, failed)| *failed) {
            Some((candidate, _)) => smallest = candidate,
            None => break,
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_sequence() {
        let texts = |seed| drafts(seed, 20).iter().map(Draft::sql).collect::<Vec<_>>();
        assert_eq!(texts(7), texts(7));
        assert_ne!(texts(7), texts(8));
    }

    #[test]
    fn every_draft_reads_a_foreign_table() {
        for draft in drafts(3, 200) {
            assert!(draft.sql().contains("remote_"), "{}", draft.sql());
        }
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let draft = drafts(11, 50)
            .into_iter()
            .find(|draft| draft.filter.len() == 2 && draft.limit.is_some())
            .unwrap();
        let kept = draft.filter[1].clone();
        let mut fails = |drafts: &[Draft]| -> Vec<bool> {
            drafts.iter().map(|draft| draft.filter.contains(&kept)).collect()
        };
        let small = shrink(&draft, &mut fails);
        assert_eq!((small.filter, small.limit), (vec![kept], None));
    }
}
