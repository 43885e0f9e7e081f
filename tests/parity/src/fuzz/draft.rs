//! A generated query as a tree whose parts can be left out one by one.

use std::fmt::Write as _;

/// How a table is joined to what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// The first one.
    First,
    /// `join`
    Inner,
    /// `left join`
    Left,
    /// `right join`
    Right,
    /// `full join`
    Full,
    /// A comma; its conditions are the query's own.
    Comma,
}

/// What is joined.
#[derive(Debug, Clone)]
pub enum Source {
    /// A table or a CTE.
    Name(String),
    /// A subquery.
    Sub(Box<Select>),
}

/// One entry of FROM.
#[derive(Debug, Clone)]
pub struct From {
    /// How it is joined.
    pub join: Join,
    /// What it is.
    pub source: Source,
    /// Its alias.
    pub alias: String,
    /// Its conditions.
    pub on: Vec<String>,
}

/// A SELECT without its order.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// `distinct`
    pub distinct: bool,
    /// Output expressions, named `o1`, `o2`…
    pub items: Vec<String>,
    /// FROM.
    pub from: Vec<From>,
    /// WHERE.
    pub filter: Vec<String>,
    /// GROUP BY.
    pub group: Vec<String>,
    /// HAVING.
    pub having: Option<String>,
    /// `union` or `union all`, and the next arm.
    pub union: Option<(&'static str, Box<Select>)>,
}

/// A whole query.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// WITH: name and query.
    pub with: Vec<(String, Select)>,
    /// The query.
    pub body: Select,
    /// A set operator and a second query.
    pub union: Option<(&'static str, Select)>,
    /// ORDER BY: position and direction, every position once.
    pub order: Vec<(usize, &'static str)>,
    /// LIMIT.
    pub limit: Option<usize>,
    /// OFFSET.
    pub offset: Option<usize>,
    /// Rows that are equal to the last one of LIMIT come too.
    pub ties: bool,
}

impl Select {
    /// Its text.
    pub fn sql(&self) -> String {
        let named = |(number, item): (usize, &String)| match item.ends_with('*') {
            true => item.clone(),
            false => format!("{item} as o{number}"),
        };
        let items: Vec<String> = (1..).zip(&self.items).map(named).collect();
        let mut sql =
            format!("select {}{}", if self.distinct { "distinct " } else { "" }, items.join(", "));
        for from in &self.from {
            let word = match from.join {
                Join::First => "\nfrom ",
                Join::Inner => "\n  join ",
                Join::Left => "\n  left join ",
                Join::Right => "\n  right join ",
                Join::Full => "\n  full join ",
                Join::Comma => ", ",
            };
            sql.push_str(word);
            match &from.source {
                Source::Name(name) => sql.push_str(name),
                Source::Sub(select) => {
                    let _ = write!(sql, "({})", select.sql());
                }
            }
            let _ = write!(sql, " {}", from.alias);
            if !matches!(from.join, Join::First | Join::Comma) {
                let on = if from.on.is_empty() { "true".to_owned() } else { from.on.join(" and ") };
                let _ = write!(sql, " on {on}");
            }
        }
        let commas = self.from.iter().filter(|from| from.join == Join::Comma);
        let conditions: Vec<&str> =
            commas.flat_map(|from| &from.on).chain(&self.filter).map(String::as_str).collect();
        if !conditions.is_empty() {
            let _ = write!(sql, "\nwhere {}", conditions.join("\n  and "));
        }
        if !self.group.is_empty() {
            let _ = write!(sql, "\ngroup by {}", self.group.join(", "));
        }
        if let Some(having) = &self.having {
            // A WINDOW clause stands in the same place.
            let word = if having.starts_with("window ") { "" } else { "having " };
            let _ = write!(sql, "\n{word}{having}");
        }
        if let Some((operator, arm)) = &self.union {
            let _ = write!(sql, "\n{operator} {}", arm.sql());
        }
        sql
    }

    /// The same without one of its parts, for each part. Output columns stay unless
    /// `columns`: something else may name them.
    fn smaller(&self, columns: bool) -> Vec<Select> {
        let mut found = Vec::new();
        let mut without = |change: &dyn Fn(&mut Select)| {
            let mut select = self.clone();
            change(&mut select);
            found.push(select);
        };
        if self.from.len() > 1 {
            for at in (1..self.from.len()).rev() {
                without(&|select| drop(select.from.remove(at)));
            }
            without(&|select| {
                select.from.remove(0);
                select.from[0].join = Join::First;
            });
        }
        for at in 0..self.filter.len() {
            without(&|select| drop(select.filter.remove(at)));
        }
        if self.having.is_some() {
            without(&|select| select.having = None);
        }
        if self.distinct {
            without(&|select| select.distinct = false);
        }
        if let Some((operator, arm)) = &self.union {
            without(&|select| select.union = None);
            for smaller in arm.smaller(false) {
                without(&|select| select.union = Some((operator, Box::new(smaller.clone()))));
            }
        }
        for at in 0..self.from.len() {
            for condition in 0..self.from[at].on.len() {
                without(&|select| drop(select.from[at].on.remove(condition)));
            }
            if matches!(self.from[at].join, Join::Left | Join::Right | Join::Full | Join::Comma) {
                without(&|select| select.from[at].join = Join::Inner);
            }
            if let Source::Sub(inner) = &self.from[at].source {
                for smaller in inner.smaller(false) {
                    without(&|select| {
                        select.from[at].source = Source::Sub(Box::new(smaller.clone()));
                    });
                }
            }
        }
        if columns && self.items.len() > 1 {
            for at in 0..self.items.len() {
                without(&|select| {
                    let gone = select.items.remove(at);
                    select.group.retain(|key| *key != gone);
                });
            }
        }
        found
    }
}

impl Draft {
    /// The statement.
    pub fn sql(&self) -> String {
        let mut sql = String::new();
        for (at, (name, select)) in self.with.iter().enumerate() {
            let word = if at == 0 { "with" } else { "," };
            let _ = writeln!(sql, "{word} {name} as ({})", select.sql());
        }
        sql.push_str(&self.body.sql());
        if let Some((operator, select)) = &self.union {
            let _ = write!(sql, "\n{operator}\n{}", select.sql());
        }
        if !self.order.is_empty() {
            let keys: Vec<String> = self
                .order
                .iter()
                .map(|(position, direction)| format!("{position}{direction}"))
                .collect();
            let _ = write!(sql, "\norder by {}", keys.join(", "));
        }
        if let Some(offset) = self.offset {
            let _ = write!(sql, "\noffset {offset}");
        }
        match self.limit {
            Some(limit) if self.ties => {
                let _ = write!(sql, "\nfetch first {limit} rows with ties");
            }
            Some(limit) => {
                let _ = write!(sql, "\nlimit {limit}");
            }
            None => {}
        }
        sql
    }

    /// Rows come in an order that is promised.
    pub fn is_ordered(&self) -> bool {
        !self.order.is_empty()
    }

    /// The same without one of its parts, for each part.
    pub fn smaller(&self) -> Vec<Draft> {
        let mut found = Vec::new();
        let mut without = |change: &dyn Fn(&mut Draft)| {
            let mut draft = self.clone();
            change(&mut draft);
            if draft.sql() != self.sql() {
                found.push(draft);
            }
        };
        without(&|draft| draft.union = None);
        without(&|draft| (draft.limit, draft.offset) = (None, None));
        if self.limit.is_none() {
            without(&|draft| draft.order.clear());
        }
        without(&|draft| draft.offset = None);
        without(&|draft| draft.ties = false);
        for at in 0..self.with.len() {
            without(&|draft| drop(draft.with.remove(at)));
            for smaller in self.with[at].1.smaller(false) {
                without(&|draft| draft.with[at].1 = smaller.clone());
            }
        }
        // Every position is ordered by: columns may only go where no order is.
        let columns = self.order.is_empty() && self.union.is_none();
        for smaller in self.body.smaller(columns) {
            without(&|draft| draft.body = smaller.clone());
        }
        if let Some((operator, second)) = &self.union {
            for smaller in second.smaller(false) {
                without(&|draft| draft.union = Some((operator, smaller.clone())));
            }
        }
        found
    }
}

/// The smallest draft that still fails.
pub fn shrink(draft: &Draft, fails: &mut dyn FnMut(&Draft) -> bool) -> Draft {
    const ATTEMPTS_MAX: usize = 400;
    let mut smallest = draft.clone();
    let mut attempts = 0;
    'again: loop {
        for candidate in smallest.smaller() {
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return smallest;
            }
            if fails(&candidate) {
                smallest = candidate;
                continue 'again;
            }
        }
        return smallest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::query::drafts;
    use crate::fuzz::schema::Schema;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let schema = Schema::new(1);
        let draft = drafts(&schema, 1, 400)
            .into_iter()
            .find(|draft| draft.body.filter.len() > 1 && draft.body.from.len() > 2)
            .unwrap();
        let kept = draft.body.filter[1].clone();
        let small = shrink(&draft, &mut |draft| draft.body.filter.contains(&kept));
        assert_eq!(small.body.filter, [kept]);
        assert_eq!((small.body.from.len(), small.with.len()), (1, 0));
        assert!(small.order.is_empty() && small.union.is_none());
    }
}
