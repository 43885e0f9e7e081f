//! The operators that the engine runs for a core, and the fragments that feed them.

use super::predicate::Predicate;
use super::term::Term;

/// Which rows a join gives; the probe side is EXPLAIN's outer (first) child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Matches.
    Inner,
    /// And the probe side's rows without a match.
    Left,
    /// And the build side's.
    Right,
    /// And both sides'.
    Full,
    /// The probe side's rows that have a match, once.
    Semi,
    /// The probe side's rows that have none.
    Anti,
    /// The build side's rows that have none.
    RightAnti,
    /// The build side's rows that have a match, once.
    RightSemi,
}

/// A fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Rows, or values that are not NULL.
    Count,
    /// Sum.
    Sum,
    /// Sum of partial counts, 0 when there is none.
    SumOfCounts,
    /// Sum of partial sums, of their own type.
    SumOfSums,
    /// Least.
    Min,
    /// Greatest.
    Max,
}

/// One fold over a column of the input; `None` counts rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// What it computes.
    pub function: Function,
    /// Column of the input.
    pub argument: Option<usize>,
    /// Each value once.
    pub distinct: bool,
}

/// A column of a join's output: of the probe side, or of the build side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Of the outer child.
    Probe(usize),
    /// Of the inner child.
    Build(usize),
}

/// One operator; its output columns are in the order that its parent asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// The rows of a fragment.
    Fragment(usize),
    /// An equality join.
    Join {
        /// Which rows.
        kind: JoinKind,
        /// EXPLAIN's outer child.
        probe: Box<Node>,
        /// EXPLAIN's inner child.
        build: Box<Node>,
        /// Pairs of columns that are equal.
        keys: Vec<(usize, usize)>,
        /// What matching rows must satisfy besides.
        filter: Option<(Vec<Side>, Vec<Predicate>)>,
        /// Output.
        output: Vec<Side>,
    },
    /// A fold; without keys it gives one row.
    Group {
        /// Input.
        input: Box<Node>,
        /// Columns of the input that are equal within a group.
        keys: Vec<usize>,
        /// Folds.
        folds: Vec<Fold>,
        /// Output: keys first, then folds, by number.
        output: Vec<usize>,
    },
    /// The rows that satisfy all conditions; the first `columns` columns of the input.
    Filter {
        /// Input.
        input: Box<Node>,
        /// Columns that the conditions read.
        inputs: Vec<usize>,
        /// Conditions.
        predicates: Vec<Predicate>,
        /// Columns of the output.
        columns: usize,
    },
    /// The rows of all inputs, whose columns are in one order.
    Union {
        /// Inputs.
        inputs: Vec<Node>,
    },
    /// Columns of the input in another order, and what is computed of them.
    Project {
        /// Input.
        input: Box<Node>,
        /// Columns.
        columns: Vec<Term>,
    },
}

/// What one database runs for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Index into the plan's servers; `None` is home.
    pub server: Option<usize>,
    /// Output expressions as that database reads them.
    pub select: Vec<String>,
    /// What follows FROM.
    pub from: String,
    /// Whether FROM ends in a WHERE clause that takes more conditions.
    pub conditional: bool,
    /// What follows the conditions.
    pub tail: String,
    /// Set when it reads one plain table of a source, which may be read in parts.
    pub table: Option<(String, String)>,
    /// Pages of the table, where there is but one.
    pub pages: i64,
    /// Its rows, as far as its source knows; `None` where they are not known.
    pub table_rows: Option<f64>,
    /// Columns that are counted and not fetched.
    pub certain: Vec<Certain>,
    /// The source sums something up.
    pub sums: bool,
    /// Computing its columns may raise an error, for rows that have no match, too: it is read
    /// whole.
    pub may_fail: bool,
    /// Its rows, or what it folds them into, are the same in whatever order it meets them.
    pub order_free: bool,
    /// What EXPLAIN names it.
    pub label: String,
}

/// A column of a source's table that holds no NULL, of one type at home and there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certain {
    /// Its name at the source.
    pub column: String,
    /// Type OID.
    pub type_oid: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
}

/// A core as the engine runs it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tree {
    /// The operators: of the statement's own core, and of its blocks.
    pub roots: Vec<Node>,
    /// Fragments.
    pub fragments: Vec<Fragment>,
}

impl Tree {
    /// Adds another's operators, which run at the same time.
    pub fn append(&mut self, mut other: Tree) {
        let first = self.fragments.len();
        other.roots.iter_mut().for_each(|r| shift(r, first));
        self.roots.append(&mut other.roots);
        self.fragments.append(&mut other.fragments);
    }

    /// Whether a source would fold a large table by itself, in one process: reading it in
    /// parts and folding it here is quicker wherever something is summed up.
    pub fn folds_much(&self, pages_min: i64) -> bool {
        self.fragments.iter().any(|f| f.sums && f.pages >= pages_min)
    }
}

impl Node {
    /// What it reads.
    pub fn inputs(&self) -> Vec<&Node> {
        match self {
            Node::Fragment(_) => Vec::new(),
            Node::Join { probe, build, .. } => vec![probe, build],
            Node::Group { input, .. }
            | Node::Filter { input, .. }
            | Node::Project { input, .. } => {
                vec![input]
            }
            Node::Union { inputs } => inputs.iter().collect(),
        }
    }

    /// As [`Node::inputs`], to be changed.
    pub fn inputs_mut(&mut self) -> Vec<&mut Node> {
        match self {
            Node::Fragment(_) => Vec::new(),
            Node::Join { probe, build, .. } => vec![probe, build],
            Node::Group { input, .. }
            | Node::Filter { input, .. }
            | Node::Project { input, .. } => {
                vec![input]
            }
            Node::Union { inputs } => inputs.iter_mut().collect(),
        }
    }
}

fn shift(node: &mut Node, by: usize) {
    if let Node::Fragment(i) = node {
        *i += by;
    }
    node.inputs_mut().into_iter().for_each(|input| shift(input, by));
}

impl Fragment {
    /// One of home.
    pub fn at_home(
        select: Vec<String>,
        from: String,
        conditional: bool,
        label: String,
    ) -> Fragment {
        Fragment {
            server: None,
            select,
            from,
            conditional,
            tail: String::new(),
            table: None,
            pages: 0,
            table_rows: None,
            certain: Vec::new(),
            sums: false,
            may_fail: false,
            order_free: true,
            label,
        }
    }

    /// Its SQL.
    pub fn sql(&self) -> String {
        self.with(self.guard())
    }

    /// Its SQL without what has the source confirm [`Fragment::certain`]: for estimates,
    /// and for people.
    pub fn sql_unguarded(&self) -> String {
        self.with([])
    }

    /// Its SQL with one more condition.
    pub fn sql_where(&self, condition: &str) -> String {
        self.with(self.guard().into_iter().chain([condition.to_owned()]))
    }

    fn with(&self, conditions: impl IntoIterator<Item = String>) -> String {
        let list = if self.select.is_empty() { "NULL".to_owned() } else { self.select.join(", ") };
        let mut sql = format!("SELECT {list} FROM {}", self.from);
        let mut word = if self.conditional { "AND" } else { "WHERE" };
        for condition in conditions {
            sql.push_str(&format!(" {word} {condition}"));
            word = "AND";
        }
        sql.push_str(&self.tail);
        sql
    }

    fn guard(&self) -> Option<String> {
        super::counted::guard(self.table.as_ref()?, &self.certain)
    }
}
