//! Folding at the source what many rows have in common. Of `sum(price * (1 - discount))`
//! the source can give `sum(price)` for each discount, because numeric products and sums are
//! exact: where grouping columns and factors have few values together, few rows come.

use super::operators::{Fold, Fragment, Function, Node, Tree};
use super::term::{Operation, Term};
use crate::order_free::{self, Type};

/// A fold of one table that its source can do most of.
#[derive(Debug, Clone, PartialEq)]
pub struct Factored {
    /// The fragment below the fold.
    pub place: usize,
    /// What takes its place.
    pub fragment: Fragment,
    /// What takes the place of the fold.
    fold: Node,
}

/// Factors that are tried as grouping columns at most.
const FACTORS_MAX: usize = 4;

impl Tree {
    /// The ways in which sources can fold first; of those with the same `place` one is to
    /// be chosen. `types` are those of the fragments' columns; tables of fewer pages than
    /// `pages_min` are read row by row.
    pub fn factored(&self, types: &[Vec<Type>], pages_min: i64) -> Vec<Factored> {
        let mut all = Vec::new();
        self.roots.iter().for_each(|r| self.find(r, types, &mut all));
        all.retain(|f| f.fragment.pages >= pages_min);
        all
    }

    fn find(&self, node: &Node, types: &[Vec<Type>], out: &mut Vec<Factored>) {
        out.extend(self.factor(node, types).into_iter().flatten());
        node.inputs().into_iter().for_each(|input| self.find(input, types, out));
    }

    /// Puts one in its place.
    pub fn factor_out(&mut self, factored: Factored) {
        if let Some(place) = self.fragments.get_mut(factored.place) {
            *place = factored.fragment;
        }
        self.roots.iter_mut().for_each(|r| replace(r, factored.place, &factored.fold));
    }

    fn factor(&self, group: &Node, types: &[Vec<Type>]) -> Option<Vec<Factored>> {
        let Node::Group { input, keys, folds, output } = group else { return None };
        let (place, columns) = below(input)?;
        let fragment = self.fragments.get(place)?;
        if fragment.table.is_none() || !fragment.tail.is_empty() {
            return None;
        }
        let column = |i: usize| match &columns {
            Some(columns) => columns.get(i).cloned(),
            None => Some(Term::Input(i)),
        };
        let plain = |i: &usize| match column(*i)? {
            Term::Input(i) => Some(i),
            _ => None,
        };
        let keys: Vec<usize> = keys.iter().map(plain).collect::<Option<_>>()?;
        if (1..keys.len()).any(|i| keys[..i].contains(&keys[i])) {
            return None;
        }
        let mut arguments = Vec::new();
        let mut factors: Vec<usize> = Vec::new();
        for fold in folds {
            let argument = match fold.argument {
                None => None,
                Some(a) => Some(column(a)?),
            };
            if fold.distinct {
                return None;
            }
            if let Some(term) = argument.as_ref().filter(|t| t.is_computed()) {
                term.inputs(&mut factors);
            }
            arguments.push((fold.function, argument));
        }
        // Without sums the source is quicker anyway, and home's plan says so.
        if !folds.iter().any(|f| f.function == Function::Sum) {
            return None;
        }
        factors.retain(|f| !keys.contains(f));
        if factors.len() > FACTORS_MAX {
            return None;
        }
        let from = Source { fragment, place, types: types.get(place)? };
        // The fewest factors to group by, so that each product has one column left to sum.
        (0..=factors.len()).find_map(|count| {
            let by = subsets(&factors, count).into_iter();
            let found: Vec<Factored> =
                by.filter_map(|by| from.fold(&keys, &by, &arguments, output)).collect();
            (!found.is_empty()).then_some(found)
        })
    }
}

/// The fragment below a fold, and what is computed of its columns.
fn below(input: &Node) -> Option<(usize, Option<Vec<Term>>)> {
    match input {
        Node::Fragment(i) => Some((*i, None)),
        Node::Project { input, columns } => match &**input {
            Node::Fragment(i) => Some((*i, Some(columns.clone()))),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a term is a product of one column that is not grouped by, as it is, and of what
/// is; that column.
fn summed(term: &Term, by: &[usize]) -> Option<usize> {
    match term {
        Term::Input(i) => Some(*i).filter(|i| !by.contains(i)),
        Term::Binary(Operation::Multiply, a, b) => {
            let fixed = |t: &Term| {
                let mut all = Vec::new();
                t.inputs(&mut all);
                all.iter().all(|i| by.contains(i)) && !divides(t)
            };
            match (fixed(a), fixed(b)) {
                (false, true) => summed(a, by),
                (true, false) => summed(b, by),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A quotient is rounded; of a sum it would be another.
fn divides(term: &Term) -> bool {
    match term {
        Term::Input(_) | Term::Literal(_) => false,
        Term::Numeric(inner) => divides(inner),
        Term::Binary(op, a, b) => *op == Operation::Divide || divides(a) || divides(b),
    }
}

fn subsets(of: &[usize], count: usize) -> Vec<Vec<usize>> {
    match (count, of) {
        (0, _) => vec![Vec::new()],
        (_, []) => Vec::new(),
        (_, [first, rest @ ..]) => {
            let mut with: Vec<Vec<usize>> = subsets(rest, count - 1);
            with.iter_mut().for_each(|s| s.insert(0, *first));
            with.extend(subsets(rest, count));
            with
        }
    }
}

/// A fragment that is folded.
struct Source<'a> {
    fragment: &'a Fragment,
    place: usize,
    types: &'a [Type],
}

impl Source<'_> {
    fn name(&self, column: usize) -> Option<&str> {
        self.fragment.select.get(column).map(String::as_str)
    }

    /// An exact sum; of a numeric with the scale that its values have, and with as many
    /// digits as the engine takes in, which ten billion of them cannot exceed.
    fn sum(&self, column: usize) -> Option<String> {
        const DIGITS_MAX: i32 = 28;
        const ROWS_DIGITS: i32 = 10;
        let name = self.name(column)?;
        match *self.types.get(column)? {
            // numeric.c: numeric_typmod_precision, numeric_typmod_scale
            (1700, typmod) => {
                let declared = typmod.checked_sub(4).filter(|_| typmod > 0)?;
                let (precision, scale) = (declared >> 16, declared & 0x7ff);
                let fits = precision + ROWS_DIGITS <= DIGITS_MAX && scale <= precision;
                fits.then(|| format!("sum({name})::pg_catalog.numeric({DIGITS_MAX},{scale})"))
            }
            (20 | 21 | 23, _) => Some(format!("sum({name})")),
            _ => None,
        }
    }

    fn fold(
        &self,
        keys: &[usize],
        factors: &[usize],
        arguments: &[(Function, Option<Term>)],
        output: &[usize],
    ) -> Option<Factored> {
        let by: Vec<usize> = keys.iter().chain(factors).copied().collect();
        let same = |i: &usize| self.types.get(*i).is_some_and(|t| order_free::is_same(*t));
        if !by.iter().all(same) {
            return None;
        }
        let mut select: Vec<String> =
            by.iter().map(|i| self.name(*i).map(str::to_owned)).collect::<Option<_>>()?;
        let mut column = |sql: String| {
            select.iter().skip(by.len()).position(|s| *s == sql).map_or_else(
                || {
                    select.push(sql);
                    select.len() - 1
                },
                |at| by.len() + at,
            )
        };
        let mut columns: Vec<Term> = (0..keys.len()).map(Term::Input).collect();
        let mut folds = Vec::new();
        for (function, argument) in arguments {
            let (term, function) = match (function, argument) {
                (Function::Count, None) => {
                    (Term::Input(column("count(*)".to_owned())), Function::SumOfCounts)
                }
                (Function::Count, Some(Term::Input(i))) => {
                    let count = format!("count({})", self.name(*i)?);
                    (Term::Input(column(count)), Function::SumOfCounts)
                }
                (Function::Sum, Some(Term::Input(i))) => {
                    (Term::Input(column(self.sum(*i)?)), Function::SumOfSums)
                }
                (Function::Sum, Some(term)) => {
                    let own = summed(term, &by)?;
                    let sum = column(self.sum(own)?);
                    let at = |i: usize| by.iter().position(|b| *b == i).unwrap_or(sum);
                    (term.placed(&at), Function::Sum)
                }
                _ => return None,
            };
            let at = columns.iter().skip(keys.len()).position(|c| *c == term);
            let at = at.map_or_else(
                || {
                    columns.push(term);
                    columns.len() - 1
                },
                |at| keys.len() + at,
            );
            folds.push(Fold { function, argument: Some(at), distinct: false });
        }
        // As many sums as columns at most: each costs its source about what sending one does.
        let sums = select.iter().skip(by.len()).filter(|s| s.starts_with("sum("));
        if sums.count() > self.fragment.select.len() {
            return None;
        }
        let groups: Vec<String> = (1..=by.len()).map(|i| i.to_string()).collect();
        let tail = match groups.as_slice() {
            [] => String::new(),
            groups => format!(" GROUP BY {}", groups.join(", ")),
        };
        let fragment = Fragment { select, tail, table_rows: None, ..self.fragment.clone() };
        let input =
            Box::new(Node::Project { input: Box::new(Node::Fragment(self.place)), columns });
        let keys = (0..keys.len()).collect();
        let fold = Node::Group { input, keys, folds, output: output.to_vec() };
        Some(Factored { place: self.place, fragment, fold })
    }
}

fn replace(node: &mut Node, place: usize, fold: &Node) {
    if let Node::Group { input, .. } = &*node
        && below(input).is_some_and(|(i, _)| i == place)
    {
        *node = fold.clone();
        return;
    }
    node.inputs_mut().into_iter().for_each(|input| replace(input, place, fold));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMERIC: Type = (1700, ((15 << 16) | 2) + 4);

    fn fragment(select: &[&str]) -> Fragment {
        let select = select.iter().map(|s| (*s).to_owned()).collect();
        Fragment {
            server: Some(0),
            table: Some(("public".to_owned(), "t".to_owned())),
            pages: 1000,
            ..Fragment::at_home(select, "t WHERE (x > 1)".to_owned(), true, "t".to_owned())
        }
    }

    fn product(a: Term, b: Term) -> Term {
        Term::Binary(Operation::Multiply, Box::new(a), Box::new(b))
    }

    fn one_less(column: usize) -> Term {
        let one = Box::new(Term::Literal("1".to_owned()));
        Term::Binary(Operation::Subtract, one, Box::new(Term::Input(column)))
    }

    fn group(folds: Vec<(Function, Option<usize>)>, columns: Vec<Term>, keys: Vec<usize>) -> Node {
        let output = (0..keys.len() + folds.len()).collect();
        let folds = folds
            .into_iter()
            .map(|(function, argument)| Fold { function, argument, distinct: false })
            .collect();
        let input = Box::new(Node::Project { input: Box::new(Node::Fragment(0)), columns });
        Node::Group { input, keys, folds, output }
    }

    #[test]
    fn factors_become_groups() {
        // SELECT k, sum(p), sum(p * (1 - d)), count(*)
        let columns = vec![Term::Input(0), Term::Input(1), product(Term::Input(1), one_less(2))];
        let folds =
            vec![(Function::Sum, Some(1)), (Function::Sum, Some(2)), (Function::Count, None)];
        let mut tree = Tree {
            roots: vec![group(folds, columns, vec![0])],
            fragments: vec![fragment(&["k", "p", "d"])],
        };
        let types = [vec![(25, -1), NUMERIC, NUMERIC]];
        let all = tree.factored(&types, 1000);
        let sql: Vec<String> = all.iter().map(|f| f.fragment.sql_where("ctid > x")).collect();
        assert_eq!(
            sql,
            ["SELECT k, d, sum(p)::pg_catalog.numeric(28,2), count(*) FROM t WHERE (x > 1) \
              AND ctid > x GROUP BY 1, 2"]
        );
        let Some(best) = all.into_iter().next() else { return };
        tree.factor_out(best);
        let columns = vec![
            Term::Input(0),
            Term::Input(2),
            product(Term::Input(2), one_less(1)),
            Term::Input(3),
        ];
        let folds = vec![
            (Function::SumOfSums, Some(1)),
            (Function::Sum, Some(2)),
            (Function::SumOfCounts, Some(3)),
        ];
        assert_eq!(tree.roots, [group(folds, columns, vec![0])]);
        assert_eq!(tree.factored(&types, 1000), []);
    }

    #[test]
    fn what_is_not_folded_there() {
        let none = |columns: Vec<Term>, folds: Vec<(Function, Option<usize>)>, types: [Type; 3]| {
            let tree = Tree {
                roots: vec![group(folds, columns, vec![0])],
                fragments: vec![fragment(&["k", "p", "d"])],
            };
            assert_eq!(tree.factored(&[types.to_vec()], 1000), []);
        };
        let sum = || vec![(Function::Sum, Some(1))];
        let plain = || vec![Term::Input(0), Term::Input(1)];
        // Keys that are equal and not the same; sums that are not exact, or have no one scale.
        none(plain(), sum(), [(1700, -1), NUMERIC, NUMERIC]);
        none(plain(), sum(), [(25, -1), (701, -1), NUMERIC]);
        none(plain(), sum(), [(25, -1), (1700, -1), NUMERIC]);
        // More digits than the engine takes in.
        none(plain(), sum(), [(25, -1), (1700, ((24 << 16) | 18) + 4), NUMERIC]);
        // A quotient is rounded row by row.
        let quotient =
            Term::Binary(Operation::Divide, Box::new(Term::Input(1)), Box::new(Term::Input(2)));
        none(vec![Term::Input(0), quotient], sum(), [(25, -1), NUMERIC, NUMERIC]);
        // A sum of which no column is left over.
        let square = product(Term::Input(1), Term::Input(1));
        none(vec![Term::Input(0), square], sum(), [(25, -1), NUMERIC, (701, -1)]);
        none(plain(), vec![(Function::Max, Some(1))], [(25, -1), NUMERIC, NUMERIC]);
        none(plain(), vec![(Function::Count, Some(1))], [(25, -1), NUMERIC, NUMERIC]);
    }
}
