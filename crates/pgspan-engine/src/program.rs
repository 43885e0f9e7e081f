//! A tree with types: what the engine will run, or why it cannot.

use crate::decode::BATCH_ROWS;
use crate::types::{Column, ColumnType, OfRun, Repr, Scale, array_type, type_name};
use crate::{GiveUp, arithmetic, predicate, text, usage};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::{Function, JoinKind, Node, Side, Tree};
use pgspan_sql::engine::predicate::{Comparison, Operand, Predicate};
use pgspan_sql::engine::split::{Finish, TopN};
use pgspan_sql::engine::term::Term;

/// Rows of a batch in which values may be long.
const LONG_ROWS: usize = BATCH_ROWS / 8;

/// A checked tree.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) roots: Vec<Root>,
    /// Columns of each fragment.
    pub(crate) fragments: Vec<Vec<Column>>,
    /// What is left to do over the rows of its cores.
    finish: Finish,
}

/// One core.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub op: Op,
    pub top: Option<TopN>,
}

/// An operator with the columns that it gives.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub kind: OpKind,
    pub columns: Vec<Column>,
    /// Rows that are expected.
    pub rows: f64,
}

#[derive(Debug, Clone)]
pub(crate) enum OpKind {
    Fragment(usize),
    Join {
        kind: JoinKind,
        probe: Box<Op>,
        build: Box<Op>,
        keys: Vec<(usize, usize)>,
        filter: Option<(Vec<Side>, Vec<Predicate>)>,
        output: Vec<Side>,
    },
    Filter {
        input: Box<Op>,
        inputs: Vec<usize>,
        predicates: Vec<Predicate>,
        columns: usize,
    },
    Group {
        input: Box<Op>,
        keys: Vec<usize>,
        folds: Vec<TypedFold>,
        output: Vec<usize>,
    },
    Project {
        input: Box<Op>,
        columns: Vec<Term>,
    },
    Union {
        inputs: Vec<Op>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct TypedFold {
    pub function: Function,
    pub argument: Option<usize>,
    pub distinct: bool,
    /// Sums of eight-byte integers are numerics, and need more bits.
    pub widen: bool,
    pub column: Column,
}

impl Program {
    /// Checks a tree; `types` are those of each fragment's columns as its database
    /// describes them, `rows` how many it expects, and `finish` what is left to do over
    /// the rows of its last core.
    ///
    /// # Errors
    /// What the engine does not do exactly.
    pub fn new(
        tree: &Tree,
        tops: &[Option<TopN>],
        types: &[Vec<ColumnType>],
        rows: &[f64],
        finish: Finish,
    ) -> Result<Program, GiveUp> {
        let mut used: Vec<Vec<bool>> = types.iter().map(|t| vec![false; t.len()]).collect();
        for (node, top) in tree.roots.iter().zip(tops) {
            let ordered: Vec<usize> = top.iter().map(|t| t.column).collect();
            usage::note(node, &ordered, &mut used);
        }
        let column = |(t, used): (&ColumnType, &bool)| match used {
            true => Column::of(*t),
            false => Column::carried(*t),
        };
        let fragments: Vec<Vec<Column>> = types
            .iter()
            .zip(&used)
            .map(|(t, used)| t.iter().zip(used).map(column).collect::<Result<Vec<_>, _>>())
            .collect::<Result<_, _>>()?;
        let mut roots = Vec::new();
        for (node, top) in tree.roots.iter().zip(tops) {
            let op = op(node, &fragments, rows)?;
            let ordered = |t: &&TopN| {
                let column = op.columns.get(t.column);
                column.is_some_and(|c| matches!(c.repr, Repr::Int | Repr::Number { .. }))
            };
            let top = top.as_ref().filter(ordered).cloned();
            if op.columns.iter().any(|c| matches!(c.repr, Repr::Quotient { .. })) {
                return Err(GiveUp::new(Cause::QuotientGivenOut, ""));
            }
            roots.push(Root { op, top });
        }
        let finish = match roots.as_slice() {
            [Root { top: None, .. }] => finish,
            _ => Finish::Whole,
        };
        Ok(Program { roots, fragments, finish })
    }

    /// The program with the state of a run of its own.
    pub(crate) fn for_run(&self) -> Program {
        let mut own = self.clone();
        let mut of_run = OfRun::default();
        own.fragments.iter_mut().flatten().for_each(|column| of_run.renew(column));
        own.roots.iter_mut().for_each(|root| renew(&mut root.op, &mut of_run));
        own
    }

    /// Whether its rows can be the answer as they are: of these types, in these formats
    /// (0 text, 1 binary); `iso` tells whether `DateStyle` is ISO.
    pub fn answers(&self, types: &[u32], formats: &[i16], iso: bool) -> bool {
        let columns: Vec<&Column> = self.columns().collect();
        let encodes = |(c, format): (&&Column, &i16)| {
            *format == 1 || text::known(c.oid) && (iso || !text::is_date(c.oid))
        };
        self.finish == Finish::Names
            && columns.len() == formats.len()
            && columns.iter().map(|c| c.oid).eq(types.iter().copied())
            && columns.iter().zip(formats).all(encodes)
    }

    /// Whether the finish takes its rows in parts.
    pub fn in_parts(&self) -> bool {
        self.finish != Finish::Whole
    }

    /// Rows of a batch between operators. Values that may be long are copied once for each
    /// match of a join.
    pub(crate) fn batch_rows(&self) -> usize {
        let long = |c: &Column| match c.oid {
            1042 | 1043 => c.typmod < 0,
            _ => matches!(c.repr, Repr::Exact | Repr::Opaque) && !matches!(c.oid, 1700 | 2950),
        };
        let short = self.finish == Finish::Whole || !self.columns().any(long);
        if short { BATCH_ROWS } else { LONG_ROWS }
    }

    /// Whether nothing can be given up any more once the first row has left the operators:
    /// joins have built their tables by then, and no number is decoded.
    pub(crate) fn streams(&self) -> bool {
        let numbers = |c: &Column| matches!(c.repr, Repr::Number { .. } | Repr::Quotient { .. });
        self.roots.iter().all(|r| joins_only(&r.op))
            && !self.fragments.iter().flatten().any(numbers)
    }

    /// The fragments in the order in which the operators read them to their end: the
    /// build side of a join before its probe side.
    pub fn order(&self) -> Vec<usize> {
        let mut out = Vec::new();
        self.roots.iter().for_each(|r| order(&r.op, &mut out));
        out
    }

    /// Its columns without any rows, as parameters of the finish.
    pub fn no_rows(&self) -> Vec<bytes::Bytes> {
        self.columns().map(|c| crate::encode::array(&[], 0, c)).collect()
    }

    /// The operators, as [`crate::Started::lines`] gives them.
    ///
    /// # Errors
    /// [`GiveUp`].
    pub fn lines(&self) -> Result<Vec<String>, GiveUp> {
        let limits = crate::Limits { query_bytes_max: 0, answer_bytes_max: 0, part_bytes: None };
        let (_, started) =
            self.start(&vec![1; self.fragments.len()], &[], limits, &crate::Budget::new(0))?;
        Ok(started.lines(false))
    }

    /// The OIDs of the array types of its columns, to be bound to the finish.
    pub fn array_types(&self) -> Vec<u32> {
        self.columns().map(|c| array_type(c.oid).unwrap_or(0)).collect()
    }

    /// Rows that its cores are expected to give.
    pub fn rows(&self) -> f64 {
        self.roots.iter().map(|r| r.op.rows).sum()
    }

    /// The types of its columns.
    pub fn types(&self) -> Vec<u32> {
        self.columns().map(|c| c.oid).collect()
    }

    /// The columns of all its cores.
    fn columns(&self) -> impl Iterator<Item = &Column> {
        self.roots.iter().flat_map(|r| &r.op.columns)
    }

    /// The item of FROM that gives the rows of a core to its finish, under a name;
    /// parameters from `first` on.
    pub fn carrier(&self, core: usize, name: &str, first: u32) -> String {
        let arrays: Vec<String> = self
            .roots
            .get(core)
            .into_iter()
            .flat_map(|r| &r.op.columns)
            .zip(first..)
            .map(|(c, n)| {
                let name = type_name(c.oid).unwrap_or_default();
                format!("pg_catalog.unnest(${n}::pg_catalog.{name}[])")
            })
            .collect();
        let names: Vec<String> = (1..=arrays.len()).map(|i| format!("c{i}")).collect();
        format!("ROWS FROM ({}) AS {name}({})", arrays.join(", "), names.join(", "))
    }
}

/// Whether every operator passes its rows on one by one once its joins have been built, and
/// none computes.
fn joins_only(op: &Op) -> bool {
    let compares = |predicates: &[Predicate]| !predicates.iter().any(Predicate::computes);
    match &op.kind {
        OpKind::Fragment(_) => true,
        OpKind::Join { probe, build, filter, .. } => {
            filter.as_ref().is_none_or(|(_, p)| compares(p))
                && joins_only(probe)
                && joins_only(build)
        }
        OpKind::Filter { input, predicates, .. } => compares(predicates) && joins_only(input),
        OpKind::Project { input, columns } => {
            !columns.iter().any(Term::is_computed) && joins_only(input)
        }
        OpKind::Group { .. } | OpKind::Union { .. } => false,
    }
}

/// Whether a join builds its table of the probe side, because that is the smaller one.
pub(crate) fn swaps(probe: &Op, build: &Op) -> bool {
    probe.rows < build.rows
}

fn renew(op: &mut Op, of_run: &mut OfRun) {
    op.columns.iter_mut().for_each(|column| of_run.renew(column));
    match &mut op.kind {
        OpKind::Fragment(_) => {}
        OpKind::Join { probe, build, .. } => {
            renew(probe, of_run);
            renew(build, of_run);
        }
        OpKind::Group { input, folds, .. } => {
            folds.iter_mut().for_each(|fold| of_run.renew(&mut fold.column));
            renew(input, of_run);
        }
        OpKind::Filter { input, .. } | OpKind::Project { input, .. } => renew(input, of_run),
        OpKind::Union { inputs } => inputs.iter_mut().for_each(|input| renew(input, of_run)),
    }
}

fn order(op: &Op, out: &mut Vec<usize>) {
    match &op.kind {
        OpKind::Fragment(i) => out.push(*i),
        OpKind::Join { probe, build, .. } => {
            let (first, second) = if swaps(probe, build) { (probe, build) } else { (build, probe) };
            order(first, out);
            order(second, out);
        }
        OpKind::Group { input, .. }
        | OpKind::Filter { input, .. }
        | OpKind::Project { input, .. } => order(input, out),
        OpKind::Union { inputs } => inputs.iter().for_each(|i| order(i, out)),
    }
}

fn op(node: &Node, fragments: &[Vec<Column>], rows: &[f64]) -> Result<Op, GiveUp> {
    let missing = || GiveUp::new(Cause::ColumnNotThere, "");
    match node {
        Node::Fragment(i) => Ok(Op {
            columns: fragments.get(*i).ok_or_else(missing)?.clone(),
            rows: rows.get(*i).copied().unwrap_or(0.0),
            kind: OpKind::Fragment(*i),
        }),
        Node::Join { kind, probe, build, keys, filter, output } => {
            let probe = op(probe, fragments, rows)?;
            let build = op(build, fragments, rows)?;
            // A pair whose forms do not decide is compared as a condition besides.
            let mut filter = filter.clone();
            let mut matched = Vec::new();
            for (p, b) in keys {
                let (x, y) = (
                    probe.columns.get(*p).ok_or_else(missing)?,
                    build.columns.get(*b).ok_or_else(missing)?,
                );
                if x.joins(y) {
                    matched.push((*p, *b));
                    continue;
                }
                let (sides, predicates) = filter.get_or_insert_default();
                let first = sides.len();
                sides.extend([Side::Probe(*p), Side::Build(*b)]);
                let (left, right) = (Operand::Input(first), Operand::Input(first + 1));
                predicates.push(Predicate::Compare(Comparison::Equal, left, right));
            }
            if matched.is_empty() {
                return Err(GiveUp::new(Cause::EqualityNotProven, ""));
            }
            let keys = &matched;
            let of = |sides: &[Side]| {
                sides
                    .iter()
                    .map(|s| match s {
                        Side::Probe(i) => probe.columns.get(*i).cloned(),
                        Side::Build(i) => build.columns.get(*i).cloned(),
                    })
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(missing)
            };
            let columns = of(output)?;
            if let Some((sides, predicates)) = &filter {
                let places: Vec<usize> = (0..sides.len()).collect();
                predicate::all(predicates, &of(sides)?, &places)?;
            }
            let one_side =
                |probe_side: bool| output.iter().all(|s| matches!(s, Side::Probe(_)) == probe_side);
            let fits = match kind {
                JoinKind::Semi | JoinKind::Anti => one_side(true),
                JoinKind::RightSemi | JoinKind::RightAnti => one_side(false),
                _ => true,
            };
            if !fits || keys.is_empty() {
                return Err(GiveUp::new(Cause::JoinOfOtherShape, ""));
            }
            // Foreign keys: a join gives about as many rows as its larger side.
            let rows = match kind {
                JoinKind::Semi | JoinKind::Anti => probe.rows,
                JoinKind::RightSemi | JoinKind::RightAnti => build.rows,
                _ => probe.rows.max(build.rows),
            };
            let kind = OpKind::Join {
                kind: *kind,
                probe: Box::new(probe),
                build: Box::new(build),
                keys: keys.clone(),
                filter,
                output: output.clone(),
            };
            Ok(Op { kind, columns, rows })
        }
        Node::Group { input, keys, folds, output } => {
            let input = op(input, fragments, rows)?;
            let mut all = Vec::new();
            for k in keys {
                let column = input.columns.get(*k).ok_or_else(missing)?;
                if !column.is_key() {
                    let detail = column.oid.to_string();
                    return Err(GiveUp::new(Cause::NotGroupedExactly, detail));
                }
                all.push(column.clone());
            }
            let mut typed = Vec::new();
            for f in folds {
                let argument = match f.argument {
                    Some(a) => Some(input.columns.get(a).ok_or_else(missing)?),
                    None => None,
                };
                let (column, widen) = folded(f.function, argument, f.distinct)?;
                all.push(column.clone());
                typed.push(TypedFold {
                    function: f.function,
                    argument: f.argument,
                    distinct: f.distinct,
                    widen,
                    column,
                });
            }
            let columns = output
                .iter()
                .map(|i| all.get(*i).cloned())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(missing)?;
            let rows = if keys.is_empty() { 1.0 } else { input.rows };
            let kind = OpKind::Group {
                input: Box::new(input),
                keys: keys.clone(),
                folds: typed,
                output: output.clone(),
            };
            Ok(Op { kind, columns, rows })
        }
        Node::Filter { input, inputs, predicates, columns } => {
            let input = op(input, fragments, rows)?;
            // Proven now, so that it need not be given up later.
            let read: Vec<Column> = inputs
                .iter()
                .map(|i| input.columns.get(*i).cloned())
                .collect::<Option<_>>()
                .ok_or_else(missing)?;
            predicate::all(predicates, &read, inputs)?;
            let kept = input.columns.get(..*columns).ok_or_else(missing)?.to_vec();
            let rows = input.rows / 3.0;
            let kind = OpKind::Filter {
                input: Box::new(input),
                inputs: inputs.clone(),
                predicates: predicates.clone(),
                columns: *columns,
            };
            Ok(Op { kind, columns: kept, rows })
        }
        Node::Union { inputs } => {
            let inputs: Vec<Op> =
                inputs.iter().map(|i| op(i, fragments, rows)).collect::<Result<_, _>>()?;
            let (first, others) = inputs.split_first().ok_or_else(missing)?;
            let mut columns = first.columns.clone();
            for other in others {
                if other.columns.len() != columns.len() {
                    return Err(missing());
                }
                for (column, own) in columns.iter_mut().zip(&other.columns) {
                    *column = column.united(own)?;
                }
            }
            let rows = inputs.iter().map(|i| i.rows).sum();
            Ok(Op { kind: OpKind::Union { inputs }, columns, rows })
        }
        Node::Project { input, columns } => {
            let input = op(input, fragments, rows)?;
            let given = columns
                .iter()
                .map(|t| arithmetic::column(t, &input.columns))
                .collect::<Result<Vec<_>, _>>()?;
            let rows = input.rows;
            let kind = OpKind::Project { input: Box::new(input), columns: columns.clone() };
            Ok(Op { kind, columns: given, rows })
        }
    }
}

/// The column that a fold gives (pg_aggregate.dat), and whether its sum needs more bits.
fn folded(
    function: Function,
    argument: Option<&Column>,
    distinct: bool,
) -> Result<(Column, bool), GiveUp> {
    let refuse = |c: &Column| Err(GiveUp::new(Cause::AggregateNotProven, c.oid.to_string()));
    match (function, argument) {
        (Function::Count, None) => Ok((Column::int8(), false)),
        (Function::Count, Some(c)) if !distinct || c.is_key() => Ok((Column::int8(), false)),
        (Function::SumOfCounts, Some(_)) => Ok((Column::int8(), false)),
        (Function::SumOfSums, Some(c)) => match (c.oid, &c.repr) {
            (20, Repr::Int) => Ok((Column::int8(), false)),
            (_, Repr::Number { .. }) => Ok((c.clone(), false)),
            _ => refuse(c),
        },
        (Function::Sum, Some(c)) if !distinct => match (c.oid, &c.repr) {
            (21 | 23, Repr::Int) => Ok((Column::int8(), false)),
            (20, Repr::Int) => {
                let repr = Repr::Number { scale: Scale::fixed(0), declared: true };
                Ok((Column { oid: 1700, typmod: -1, repr }, true))
            }
            (_, Repr::Number { scale, declared }) => {
                let repr = Repr::Number { scale: scale.clone(), declared: *declared };
                Ok((Column { oid: 1700, typmod: -1, repr }, false))
            }
            _ => refuse(c),
        },
        (Function::Min | Function::Max, Some(c)) => match &c.repr {
            // The type's own order is the order of its integers.
            Repr::Int => Ok((Column { typmod: -1, ..c.clone() }, false)),
            Repr::Number { .. } => Ok((Column { typmod: -1, ..c.clone() }, false)),
            _ => refuse(c),
        },
        (_, Some(c)) => refuse(c),
        (_, None) => Err(GiveUp::new(Cause::AggregateNotProven, "")),
    }
}
