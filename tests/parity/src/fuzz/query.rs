//! The generator: queries over a schema, from a seed.

use crate::dice::Dice;

use crate::case_file::Side;

use super::draft::{Draft, From, Join, Select, Source};
use super::schema::{Schema, Table};
use super::values::{Family, Type};

type Column = (String, Type);

/// Something that can be read: a table, a subquery, a CTE.
struct Relation {
    source: Source,
    columns: Vec<Column>,
}

struct Maker<'a> {
    dice: Dice,
    schema: &'a Schema,
    aliases: usize,
    /// Only what every join engine knows: half of the queries.
    plain: bool,
}

/// So many drafts from a seed.
pub fn drafts(schema: &Schema, seed: u64, count: usize) -> Vec<Draft> {
    let mut maker = Maker { dice: Dice::new(seed ^ 0x5eed), schema, aliases: 0, plain: false };
    (0..count).map(|_| maker.draft()).collect()
}

/// A value of a type as SQL.
fn literal(dice: &mut Dice, kind: Type) -> String {
    let text = *dice.pick(kind.pool());
    // Clients mostly leave the type of a constant to PostgreSQL.
    let plain = text.starts_with(['\'', 'E']) || text == "true" || text == "false";
    if dice.one_in(2) && (plain || kind == Type::Int4 && !text.starts_with('-')) {
        return text.to_owned();
    }
    if plain { format!("{text}::{}", kind.sql()) } else { format!("'{text}'::{}", kind.sql()) }
}

impl Maker<'_> {
    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn table(&mut self) -> Table {
        let mut table = self.dice.pick(&self.schema.tables).clone();
        if !self.plain && table.side == Side::Home && self.dice.one_in(6) {
            table.name = table.seen();
        }
        table
    }

    fn columns(&self, table: &Table, alias: &str) -> Vec<Column> {
        table.columns.iter().map(|(name, kind)| (format!("{alias}.{name}"), *kind)).collect()
    }

    /// A column that can be compared with another one, of the same type most of the time.
    fn partner(&mut self, columns: &[Column], kind: Type) -> Option<Column> {
        let family = self.plain || !self.dice.one_in(5);
        let fits = |other: Type| {
            if family { other == kind } else { other.family() == kind.family() }
        };
        let fitting: Vec<&Column> = columns.iter().filter(|column| fits(column.1)).collect();
        (!fitting.is_empty()).then(|| (*self.dice.pick(&fitting)).clone())
    }

    /// A pair of columns that can be joined, keys more often than others.
    fn equality(&mut self, left: &[Column], right: &[Column]) -> String {
        for _ in 0..12 {
            let (name, kind) = self.dice.pick(left).clone();
            // Few values mean many partners.
            if kind == Type::Bool || (kind != Type::Int4 && self.dice.one_in(2)) {
                continue;
            }
            if let Some((other, _)) = self.partner(right, kind) {
                return format!("{name} = {other}");
            }
        }
        let key =
            |columns: &[Column]| columns.iter().find(|column| column.1 == Type::Int4).cloned();
        match (key(left), key(right)) {
            (Some((left, _)), Some((right, _))) => format!("{left} = {right}"),
            _ => "true".to_owned(),
        }
    }

    fn condition(&mut self, columns: &[Column], depth: usize) -> String {
        if depth > 0 && self.dice.one_in(if self.plain { 12 } else { 4 }) {
            let (a, b) = (self.condition(columns, depth - 1), self.condition(columns, depth - 1));
            return match self.dice.below(4) {
                0 | 1 => format!("({a} or {b})"),
                2 => format!("({a} and {b})"),
                _ => format!("not ({a})"),
            };
        }
        let (name, kind) = self.dice.pick(columns).clone();
        let value = literal(&mut self.dice, kind);
        if self.plain {
            return match self.dice.below(8) {
                0 => format!("{name} is null"),
                1 | 2 => format!("{name} is not null"),
                3 => format!("{name} in ({value}, {})", literal(&mut self.dice, kind)),
                4 if kind != Type::Bool => format!("{name} <= {value}"),
                5 if kind != Type::Bool => format!("{name} > {value}"),
                // What drivers make of a list.
                6 if kind == Type::Int4 => {
                    let list = *self.dice.pick(&["{1,2,3,7,10}", "{4}", "{}", "{NULL,2}"]);
                    format!("{name} = any ('{list}'::int4[])")
                }
                _ => format!("{name} <> {value}"),
            };
        }
        match self.dice.below(16) {
            0 => format!("{name} is null"),
            1 => format!("{name} is not null"),
            2 => format!("{name} is distinct from {value}"),
            3 => format!("{name} in ({value}, {})", literal(&mut self.dice, kind)),
            4 if kind != Type::Bool => {
                format!("{name} between {value} and {}", literal(&mut self.dice, kind))
            }
            5 | 6 => match self.partner(columns, kind) {
                Some((other, _)) => {
                    let operator = *self.dice.pick(&["=", "<>", "<", ">="]);
                    format!("{name} {operator} {other}")
                }
                None => format!("{name} = {value}"),
            },
            7 if kind.family() == Family::Text => {
                format!("{name} like {}", self.dice.pick(&["'a%'", "'%b'", "'_'", "''", "'%'"]))
            }
            8 | 9 if kind != Type::Bool => {
                format!("{name} {} {value}", self.dice.pick(&["<", "<=", ">", ">="]))
            }
            10 => format!("coalesce({name}, {value}) = {value}"),
            11 => format!("({name} = {value}) is not true"),
            // Casts and operators that are meant and not written.
            12 if kind == Type::Varchar => match self.dice.below(3) {
                0 => format!("{name} in (select {value}::varchar)"),
                1 => format!("case {name} when {value} then true else false end"),
                _ => format!("{name} between {value} and 'b'"),
            },
            12 if kind == Type::Int4 && self.dice.one_in(2) => {
                format!("{name} >= '2'::text::int4")
            }
            12 if kind.is_integer() => format!("{name} % 3 = 1"),
            12 if kind == Type::Text => format!("{name} = any ('{{a,b,NULL}}'::text[])"),
            13 if kind.family() == Family::Text => {
                let collation = *self.dice.pick(&["\"und-x-icu\"", "\"C\""]);
                format!("{name} collate {collation} {} {value}", self.dice.pick(&["<", ">=", "="]))
            }
            _ => format!("{name} = {value}"),
        }
    }

    /// A condition with a subquery, beside another one now and then.
    fn subquery(&mut self, columns: &[Column]) -> String {
        let condition = self.related(columns, 1);
        if self.plain || !self.dice.one_in(5) {
            return condition;
        }
        match self.dice.below(3) {
            0 => format!("({condition} or {})", self.condition(columns, 0)),
            1 => format!("not ({condition})"),
            _ => format!("case when {condition} then {} end", self.condition(columns, 0)),
        }
    }

    /// A condition with a subquery: semi and anti joins, IN, a scalar; with others in it.
    fn related(&mut self, columns: &[Column], depth: usize) -> String {
        let table = self.table();
        let alias = self.alias();
        let inner = self.columns(&table, &alias);
        let mut found = None;
        for _ in 0..8 {
            let (name, kind) = self.dice.pick(columns).clone();
            if let Some(other) = self.partner(&inner, kind) {
                found = Some((name, kind, other));
                break;
            }
        }
        let Some((name, kind, (other, own))) = found else {
            return self.condition(columns, 1);
        };
        let mut filter = String::new();
        if self.dice.one_in(2) {
            filter = format!(" and {}", self.condition(&inner, 1));
        }
        // A condition of both, besides the equality.
        if !self.plain && self.dice.one_in(3) {
            let both: Vec<Column> = columns.iter().chain(&inner).cloned().collect();
            filter.push_str(&format!(" and {}", self.condition(&both, 0)));
        }
        if !self.plain && depth > 0 && self.dice.one_in(4) {
            let visible: Vec<Column> = match self.dice.below(2) {
                0 => inner.clone(),
                _ => columns.iter().chain(&inner).cloned().collect(),
            };
            filter.push_str(&format!(" and {}", self.related(&visible, depth - 1)));
        }
        let from = format!("from {} {alias}", table.name);
        if self.dice.one_in(3)
            && let Some(value) = self.fold_value(&inner)
        {
            let numbers = columns.iter().filter(|c| c.1.family() == Family::Number);
            let numbers: Vec<Column> = numbers.cloned().collect();
            if !numbers.is_empty() {
                let (compared, _) = self.dice.pick(&numbers).clone();
                let operator = *self.dice.pick(&["<", "<=", ">", ">=", "=", "<>"]);
                let equal = if self.dice.one_in(2) {
                    format!("{other} = {name}")
                } else {
                    format!("{name} = {other}")
                };
                return format!(
                    "{compared} {operator} (select {value} {from} where {equal}{filter})"
                );
            }
        }
        let kinds = if self.plain { 7 } else { 9 };
        match self.dice.below(kinds) {
            8 => {
                // Rows of two columns each.
                let (second, kind) = self.dice.pick(columns).clone();
                let (partner, _) = self.partner(&inner, kind).unwrap_or((other.clone(), own));
                let not = if self.dice.one_in(3) { "not " } else { "" };
                format!(
                    "({name}, {second}) {not}in (select {other}, {partner} {from} where true{filter})"
                )
            }
            0 | 1 => format!("exists (select 1 {from} where {other} = {name}{filter})"),
            2 | 3 => format!("not exists (select 1 {from} where {other} = {name}{filter})"),
            4 | 5 => format!("{name} in (select {other} {from} where true{filter})"),
            6 => format!("{name} not in (select {other} {from} where {other} is not null{filter})"),
            _ if own.has_extremes() && kind != Type::Bool => {
                let extreme = *self.dice.pick(&["max", "min"]);
                let operator = *self.dice.pick(&["=", "<", ">="]);
                format!("{name} {operator} (select {extreme}({other}) {from} where true{filter})")
            }
            _ => format!("{name} not in (select {other} {from} where true{filter})"),
        }
    }

    /// One value of all rows.
    fn fold_value(&mut self, columns: &[Column]) -> Option<String> {
        let summed: Vec<Column> = columns.iter().filter(|c| c.1.has_sum()).cloned().collect();
        if summed.is_empty() {
            return None;
        }
        let (name, kind) = self.dice.pick(&summed).clone();
        Some(match self.dice.below(8) {
            0 | 1 => format!("avg({name})"),
            2 => format!("0.{} * avg({name})", self.dice.below(100)),
            3 => format!("sum({name})"),
            4 => format!("1.5 * sum({name}) - {}.25", self.dice.below(9)),
            5 => format!("min({name})"),
            6 if kind == Type::Scaled => format!("sum({})", self.product(&summed)),
            6 => format!("count({name})"),
            _ => format!("max({name}) + 1"),
        })
    }

    /// Arithmetic on numerics with a scale.
    fn product(&mut self, columns: &[Column]) -> String {
        let scaled: Vec<&Column> = columns.iter().filter(|c| c.1 == Type::Scaled).collect();
        let other = scaled.get(self.dice.below(scaled.len().max(1)));
        let (first, second) = match (scaled.first(), other) {
            (Some(a), Some(b)) => (a.0.clone(), b.0.clone()),
            _ => ("1.50".to_owned(), "2.0".to_owned()),
        };
        match self.dice.below(4) {
            0 => format!("{first} * (1 - {second})"),
            1 => format!("{first} * {second}"),
            2 => format!("({first} + {second}) * 0.25"),
            _ => format!("{first} - 0.125"),
        }
    }

    /// FROM and WHERE over `width` relations.
    fn joined(&mut self, select: &mut Select, width: usize, ctes: &[Relation]) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for at in 0..width {
            let alias = self.alias();
            let relation = self.relation(ctes, &alias, width);
            let own = relation.columns;
            let (mut join, mut on) = (Join::First, Vec::new());
            if at > 0 {
                join = *self.dice.pick(&[
                    Join::Inner,
                    Join::Inner,
                    Join::Inner,
                    Join::Left,
                    Join::Left,
                    Join::Left,
                    Join::Right,
                    Join::Full,
                    Join::Comma,
                ]);
                on.push(self.equality(&columns, &own));
                if self.dice.one_in(5) {
                    on.push(self.equality(&columns, &own));
                }
                if self.dice.one_in(if self.plain { 8 } else { 3 }) {
                    let both: Vec<Column> = columns.iter().chain(&own).cloned().collect();
                    on.push(self.condition(&both, 1));
                }
                // A comma after joins would hide their tables from later conditions.
                if join == Join::Comma && at > 1 {
                    join = Join::Inner;
                }
            }
            let mut source = relation.source;
            if at > 0 && !self.plain && self.dice.one_in(12) {
                let (lateral, outputs) = self.lateral(&columns, &alias);
                join = *self.dice.pick(&[Join::Inner, Join::Left]);
                on.clear();
                columns.extend(outputs);
                source = lateral;
            } else {
                columns.extend(own);
            }
            select.from.push(From { join, source, alias, on });
        }
        // A join condition cannot name a table in front of a comma.
        if select.from.len() > 2 && select.from[1].join == Join::Comma {
            select.from[1].join = Join::Inner;
        }
        for _ in 0..self.dice.below(3) {
            let condition = self.condition(&columns, 2);
            select.filter.push(condition);
        }
        if self.dice.one_in(if self.plain { 6 } else { 3 }) {
            let condition = self.subquery(&columns);
            select.filter.push(condition);
        }
        columns
    }

    /// A subquery for each row of what stands before it.
    fn lateral(&mut self, before: &[Column], alias: &str) -> (Source, Vec<Column>) {
        let table = self.table();
        let inner = self.alias();
        let columns = self.columns(&table, &inner);
        let on = self.equality(before, &columns);
        let (first, kind) = self.dice.pick(&columns).clone();
        let id = &columns[0].0;
        // `id` is unique, so that the rows of a limit are certain.
        let tail = match self.dice.below(3) {
            0 => format!(" order by {id} limit {}", 1 + self.dice.below(3)),
            1 => format!(" and {}", self.condition(&columns, 1)),
            _ => String::new(),
        };
        let text = format!(
            "lateral (select {id} as o1, {first} as o2 from {} {inner} where {on}{tail})",
            table.name
        );
        let outputs = vec![(format!("{alias}.o1"), Type::Int4), (format!("{alias}.o2"), kind)];
        (Source::Name(text), outputs)
    }

    fn relation(&mut self, ctes: &[Relation], alias: &str, width: usize) -> Relation {
        let rename = |columns: &[Column]| -> Vec<Column> {
            (1..).zip(columns).map(|(at, column)| (format!("{alias}.o{at}"), column.1)).collect()
        };
        if !ctes.is_empty() && self.dice.one_in(2) {
            let cte = &ctes[self.dice.below(ctes.len())];
            return Relation { source: cte.source.clone(), columns: rename(&cte.columns) };
        }
        if width > 1 && self.dice.one_in(8) {
            return self.united(rename);
        }
        if !self.plain && width > 1 && self.dice.one_in(6) {
            let mut select = Select::default();
            let width = 1 + self.dice.below(2);
            let columns = self.joined(&mut select, width, &[]);
            let outputs = self.outputs(&mut select, &columns);
            let columns = rename(&outputs);
            return Relation { source: Source::Sub(Box::new(select)), columns };
        }
        let table = self.table();
        Relation { columns: self.columns(&table, alias), source: Source::Name(table.name) }
    }

    /// Columns of one table, and under them those of another.
    fn united(&mut self, rename: impl Fn(&[Column]) -> Vec<Column>) -> Relation {
        let mut select = Select::default();
        let columns = self.joined(&mut select, 1, &[]);
        let mut outputs: Vec<Column> = Vec::new();
        for _ in 0..2 + self.dice.below(3) {
            let column = self.dice.pick(&columns).clone();
            // Now and then the same twice.
            if !outputs.contains(&column) || self.dice.one_in(4) {
                outputs.push(column);
            }
        }
        select.items = outputs.iter().map(|column| column.0.clone()).collect();
        if let Some((operator, arm)) = self.second(&outputs) {
            let operator = if operator == "union" { operator } else { "union all" };
            select.union = Some((operator, Box::new(arm)));
        }
        Relation { columns: rename(&outputs), source: Source::Sub(Box::new(select)) }
    }

    /// An expression over one column.
    fn expression(&mut self, (name, kind): Column, columns: &[Column]) -> Column {
        match self.dice.below(10) {
            0 if kind == Type::Text => (format!("{name} || '!'"), Type::Text),
            1 if kind == Type::Text => (format!("upper({name})"), Type::Text),
            2 => {
                let value = literal(&mut self.dice, kind);
                // Without the cast a char's length is lost, and 'a' equals 'a   '.
                let cast = if kind == Type::Char { "::char(6)" } else { "" };
                (format!("coalesce({name}, {value}){cast}"), kind)
            }
            3 => (format!("case when {} then {name} end", self.condition(columns, 0)), kind),
            4 if kind == Type::Int4 => (format!("{name}::int8 * 3"), Type::Int8),
            5 if kind.family() == Family::Text => (format!("length({name})"), Type::Int4),
            // Overflows for an extreme value: then both must say so.
            6 if kind == Type::Int2 && self.dice.one_in(4) => (format!("{name} + {name}"), kind),
            7 if kind == Type::Date => (format!("{name}::text"), Type::Text),
            8 => (format!("{name} is null"), Type::Bool),
            // A row with its names; those of an alias alone are not columns of a query.
            9 if !self.plain => match name.split_once('.') {
                Some((alias, _)) => (format!("to_jsonb({alias})::text"), Type::Text),
                None => (name, kind),
            },
            _ => (name, kind),
        }
    }

    /// What is selected: plain, distinct, or grouped. Returns names and types.
    fn outputs(&mut self, select: &mut Select, columns: &[Column]) -> Vec<Column> {
        let mut chosen: Vec<Column> = Vec::new();
        let clear: Vec<Column> =
            columns.iter().filter(|column| !column.1.is_ambiguous()).cloned().collect();
        match self.dice.below(5) {
            0 | 1 if !clear.is_empty() => {
                for _ in 0..self.dice.below(3) {
                    let key = self.dice.pick(&clear).clone();
                    if !chosen.contains(&key) {
                        chosen.push(key);
                    }
                }
                select.group = chosen.iter().map(|column| column.0.clone()).collect();
                if !self.plain && !select.group.is_empty() && self.dice.one_in(8) {
                    let keys = select.group.join(", ");
                    let several =
                        *self.dice.pick(&["rollup (K)", "cube (K)", "grouping sets ((K), ())"]);
                    select.group = vec![several.replace('K', &keys)];
                }
                for _ in 0..1 + self.dice.below(4) {
                    let aggregate = self.aggregate(columns);
                    chosen.push(aggregate);
                }
                if self.dice.one_in(4) {
                    let (name, _) = self.dice.pick(columns);
                    let count = self.dice.below(4);
                    select.having = Some(match self.dice.below(3) {
                        0 => format!("count(*) > {count}"),
                        1 => format!("count(distinct {name}) <= {count}"),
                        _ => format!("count({name}) <> {count}"),
                    });
                }
            }
            2 if !clear.is_empty() => {
                select.distinct = true;
                for _ in 0..1 + self.dice.below(3) {
                    chosen.push(self.dice.pick(&clear).clone());
                }
            }
            _ => {
                for _ in 0..1 + self.dice.below(4) {
                    let column = self.dice.pick(columns).clone();
                    let column =
                        if self.dice.one_in(4) { self.expression(column, columns) } else { column };
                    chosen.push(column);
                }
                if !self.plain && !clear.is_empty() && self.dice.one_in(12) {
                    let (by, over) = (self.dice.pick(&clear).0.clone(), self.dice.pick(&clear));
                    let window = format!("rank() over (partition by {by} order by {})", over.0);
                    chosen.push((window, Type::Int8));
                }
                if !self.plain && self.dice.one_in(12) {
                    let table = self.table();
                    let alias = self.alias();
                    let inner = self.columns(&table, &alias);
                    let on = self.equality(columns, &inner);
                    let count = format!("(select count(*) from {} {alias} where {on})", table.name);
                    chosen.push((count, Type::Int8));
                }
            }
        }
        select.items = chosen.iter().map(|column| column.0.clone()).collect();
        chosen
    }

    fn aggregate(&mut self, columns: &[Column]) -> Column {
        let (name, kind) = self.dice.pick(columns).clone();
        match self.dice.below(10) {
            0 | 1 => ("count(*)".to_owned(), Type::Int8),
            2 => (format!("count(distinct {name})"), Type::Int8),
            3 | 4 if kind.has_extremes() => {
                let extreme = *self.dice.pick(&["min", "max"]);
                // The result of varchar is text.
                let kind = if kind == Type::Varchar { Type::Text } else { kind };
                (format!("{extreme}({name})"), kind)
            }
            5..=7 if kind.has_sum() => {
                // A sum of numeric with a scale has no scale any more, but one spelling.
                (format!("sum({name})"), if kind == Type::Int8 { Type::Numeric } else { kind })
            }
            8 if kind.has_sum() => (format!("avg({name})"), Type::Numeric),
            9 if kind == Type::Scaled => (format!("sum({})", self.product(columns)), Type::Numeric),
            9 if !self.plain => {
                let filter = self.condition(columns, 0);
                match self.dice.below(5) {
                    0 => (format!("bool_or({filter})"), Type::Bool),
                    1 if kind == Type::Text => (
                        format!("string_agg({name}, ',' order by {name} collate \"C\")"),
                        Type::Text,
                    ),
                    2 if kind == Type::Int4 => {
                        (format!("array_agg({name} order by {name})"), Type::Ints)
                    }
                    3 if kind.is_integer() => (format!("bit_or({name})"), kind),
                    _ => (format!("count({name}) filter (where {filter})"), Type::Int8),
                }
            }
            _ => (format!("count({name})"), Type::Int8),
        }
    }

    fn draft(&mut self) -> Draft {
        self.aliases = 0;
        self.plain = self.dice.one_in(2);
        loop {
            let draft = self.any();
            // The gateway is the subject: something must be foreign.
            let foreign = |table: &&Table| table.side != crate::case_file::Side::Home;
            let sql = draft.sql();
            let mut names = self.schema.tables.iter().filter(foreign).map(|table| &table.name);
            if names.any(|name| sql.contains(&format!("{name} "))) {
                return draft;
            }
        }
    }

    fn any(&mut self) -> Draft {
        let mut draft = Draft::default();
        let mut ctes = Vec::new();
        if !self.plain && self.dice.one_in(6) {
            let mut select = Select::default();
            let width = 1 + self.dice.below(2);
            let columns = self.joined(&mut select, width, &[]);
            let columns = self.outputs(&mut select, &columns);
            ctes.push(Relation { source: Source::Name("w".to_owned()), columns });
            draft.with.push(("w".to_owned(), select));
        }
        let width = [1, 2, 2, 2, 2, 3, 3, 3, 4, 5][self.dice.below(10)];
        let columns = self.joined(&mut draft.body, width, &ctes);
        let outputs = self.outputs(&mut draft.body, &columns);
        if self.dice.one_in(if self.plain { 14 } else { 7 }) {
            draft.union = self.second(&outputs);
        }
        let clear = outputs.iter().all(|column| !column.1.is_ambiguous());
        if clear && self.dice.one_in(2) {
            let start = self.dice.below(outputs.len());
            for at in 0..outputs.len() {
                let direction =
                    *self.dice.pick(&["", "", " desc", " nulls first", " desc nulls last"]);
                draft.order.push(((start + at) % outputs.len() + 1, direction));
            }
            if self.dice.one_in(2) {
                draft.limit = Some(self.dice.below(20));
                draft.offset = self.dice.one_in(3).then(|| self.dice.below(6));
                draft.ties = !self.plain && self.dice.one_in(6);
            }
        }
        draft
    }

    /// A second query of the same types, from one table.
    fn second(&mut self, outputs: &[Column]) -> Option<(&'static str, Select)> {
        let clear = outputs.iter().all(|column| !column.1.is_ambiguous());
        let operators: &[&'static str] =
            if clear { &["union all", "union", "intersect", "except"] } else { &["union all"] };
        let operator = *self.dice.pick(operators);
        let mut select = Select::default();
        let columns = self.joined(&mut select, 1, &[]);
        for (_, kind) in outputs {
            let same: Vec<&Column> = columns.iter().filter(|column| column.1 == *kind).collect();
            select.items.push(if same.is_empty() {
                let text = *self.dice.pick(kind.pool());
                let text = text.trim_matches('\'');
                if text.starts_with('E') {
                    "null".to_owned()
                } else {
                    format!("'{text}'::{}", kind.sql())
                }
            } else {
                self.dice.pick(&same).0.clone()
            });
        }
        Some((operator, select))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_sequence() {
        let schema = Schema::new(3);
        let texts =
            |seed| drafts(&schema, seed, 50).iter().map(Draft::sql).collect::<Vec<_>>().join(";");
        assert_eq!(texts(7), texts(7));
        assert_ne!(texts(7), texts(8));
    }

    #[test]
    fn everything_that_is_promised_appears() {
        let schema = Schema::new(3);
        let text = drafts(&schema, 1, 1000).iter().map(Draft::sql).collect::<Vec<_>>().join(";\n");
        for part in [
            "left join",
            "right join",
            "full join",
            "not exists (",
            " exists (",
            " not in (",
            " in (select",
            "group by",
            "having",
            "count(distinct",
            "sum(",
            "avg(",
            "min(",
            "max(",
            "union all",
            "\nunion select",
            "intersect",
            "except",
            "with w as",
            "distinct",
            "limit",
            "offset",
            "rank()",
            "(select count(*)",
            "(select max(",
            "lateral (select",
            "rollup (",
            "cube (",
            "grouping sets (",
            ") in (select",
            "= any ('{",
            "string_agg(",
            "bool_or(",
            "with ties",
        ] {
            assert!(text.contains(part), "{part}");
        }
        let widest = drafts(&schema, 1, 1000).iter().map(|d| d.body.from.len()).max();
        assert_eq!(widest, Some(5));
    }
}
