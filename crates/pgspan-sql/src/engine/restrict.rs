//! Which fragments' keys restrict which others: a join drops the rows of one side that
//! have no match on the other, so that a fragment needs only the rows whose key another
//! fragment has. Where that one is small it is read first.

use super::operators::{JoinKind, Node, Side, Tree};
use super::term::Term;
use crate::quote::literal;

/// A column of a fragment.
pub type Place = (usize, usize);

/// Rows of `to` are not needed unless their value is among those of `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restriction {
    /// Whose values.
    pub from: Place,
    /// Whose rows.
    pub to: Place,
}

impl Tree {
    /// All restrictions, also by way of other fragments.
    pub fn restrictions(&self) -> Vec<Restriction> {
        let mut all = Vec::new();
        self.roots.iter().for_each(|r| walk(r, &mut all));
        all.retain(|r| !self.fragments.get(r.to.0).is_some_and(|f| f.may_fail));
        // What restricts a fragment's column also restricts what that column restricts.
        let mut at = 0;
        while let Some(first) = all.get(at).copied() {
            let more: Vec<Restriction> = all
                .iter()
                .filter(|r| r.from == first.to || r.to == first.from)
                .map(|r| {
                    let (a, b) = if r.from == first.to { (first, *r) } else { (*r, first) };
                    Restriction { from: a.from, to: b.to }
                })
                .filter(|r| r.from.0 != r.to.0)
                .collect();
            for r in more {
                if !all.contains(&r) {
                    all.push(r);
                }
            }
            at += 1;
        }
        all
    }
}

/// A fragment's SQL, restricted to the rows whose column is one of the keys. `types` are
/// the type OIDs of its columns; the keys are given in the column's own type, because
/// PostgreSQL hashes a list only where both sides are of one (`convert_saop_to_hashed_saop`).
pub fn restricted(sql: &str, types: &[u32], column: usize, keys: &[i64]) -> String {
    let names: Vec<String> = (1..=types.len()).map(|i| format!("c{i}")).collect();
    let (name, least, greatest) = match types.get(column) {
        Some(21) => ("int2", i16::MIN.into(), i16::MAX.into()),
        Some(23) => ("int4", i32::MIN.into(), i32::MAX.into()),
        _ => ("int8", i64::MIN, i64::MAX),
    };
    let mut list = String::from("{");
    // What the column cannot hold it does not equal.
    for key in keys.iter().filter(|k| (least..=greatest).contains(*k)) {
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(&key.to_string());
    }
    list.push('}');
    format!(
        "SELECT * FROM ({sql}) AS pgspan({}) WHERE pgspan.c{} OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.{name}[])",
        names.join(", "),
        column + 1,
        literal(&list),
    )
}

fn walk(node: &Node, out: &mut Vec<Restriction>) {
    match node {
        Node::Fragment(_) => {}
        Node::Join { kind, probe, build, keys, .. } => {
            use JoinKind::{Anti, Inner, Left, Right, RightAnti, RightSemi, Semi};
            for (p, b) in keys {
                let build_needs = matches!(kind, Inner | Left | Semi | Anti | RightSemi);
                let probe_needs = matches!(kind, Inner | Right | RightSemi | RightAnti | Semi);
                let pairs = [
                    (build_needs, origin(probe, *p), target(build, *b)),
                    (probe_needs, origin(build, *b), target(probe, *p)),
                ];
                for (needs, from, to) in pairs {
                    if let (true, Some(from), Some(to)) = (needs, from, to) {
                        out.push(Restriction { from, to });
                    }
                }
            }
            walk(probe, out);
            walk(build, out);
        }
        Node::Group { input, .. } | Node::Filter { input, .. } | Node::Project { input, .. } => {
            walk(input, out);
        }
        Node::Union { inputs } => inputs.iter().for_each(|i| walk(i, out)),
    }
}

/// The fragment's column whose values, or NULL, a node's column has.
fn origin(node: &Node, column: usize) -> Option<Place> {
    below(node, column, &|_, _| true)
}

/// The fragment's column by which a node's rows can be restricted before they are joined
/// and folded.
fn target(node: &Node, column: usize) -> Option<Place> {
    use JoinKind::{Anti, Inner, Left, Right, RightAnti, RightSemi, Semi};
    below(node, column, &|kind, side| match side {
        Side::Probe(_) => matches!(kind, Inner | Left | Semi | Anti),
        Side::Build(_) => matches!(kind, Inner | Right | RightSemi | RightAnti),
    })
}

fn below(node: &Node, column: usize, passes: &dyn Fn(JoinKind, Side) -> bool) -> Option<Place> {
    match node {
        Node::Fragment(i) => Some((*i, column)),
        Node::Join { kind, probe, build, output, .. } => {
            let side = *output.get(column)?;
            match side {
                _ if !passes(*kind, side) => None,
                Side::Probe(i) => below(probe, i, passes),
                Side::Build(i) => below(build, i, passes),
            }
        }
        Node::Group { input, keys, output, .. } => {
            below(input, *keys.get(*output.get(column)?)?, passes)
        }
        Node::Filter { input, .. } => below(input, column, passes),
        // Of several fragments.
        Node::Union { .. } => None,
        Node::Project { input, columns } => match columns.get(column)? {
            Term::Input(i) => below(input, *i, passes),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(kind: JoinKind, probe: Node, build: Node) -> Node {
        let output = vec![Side::Probe(0), Side::Build(0)];
        let (probe, build) = (Box::new(probe), Box::new(build));
        Node::Join { kind, probe, build, keys: vec![(0, 0)], filter: None, output }
    }

    fn of(root: Node) -> Vec<(usize, usize)> {
        let tree = Tree { roots: vec![root], fragments: Vec::new() };
        let mut all: Vec<_> = tree.restrictions().into_iter().map(|r| (r.from.0, r.to.0)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn who_restricts_whom() {
        let of = |kind| of(join(kind, Node::Fragment(0), Node::Fragment(1)));
        assert_eq!(of(JoinKind::Inner), [(0, 1), (1, 0)]);
        assert_eq!(of(JoinKind::Left), [(0, 1)]);
        assert_eq!(of(JoinKind::Right), [(1, 0)]);
        assert_eq!(of(JoinKind::Full), []);
        assert_eq!(of(JoinKind::Semi), [(0, 1), (1, 0)]);
        assert_eq!(of(JoinKind::Anti), [(0, 1)]);
        assert_eq!(of(JoinKind::RightAnti), [(1, 0)]);
    }

    #[test]
    fn through_joins_and_folds() {
        // Fragment 2 is folded by its key; 0 restricts 1, and by way of 1 also 2.
        let inner = join(JoinKind::Inner, Node::Fragment(0), Node::Fragment(1));
        let fold = Node::Group {
            input: Box::new(Node::Fragment(2)),
            keys: vec![0],
            folds: Vec::new(),
            output: vec![0],
        };
        let Node::Join { probe, build, .. } = join(JoinKind::Left, inner, fold) else { return };
        let keys = vec![(1, 0)];
        let output = vec![Side::Probe(0)];
        let kind = JoinKind::Left;
        let root = Node::Join { kind, probe, build, keys, filter: None, output };
        assert_eq!(of(root), [(0, 1), (0, 2), (1, 0), (1, 2)]);
    }

    #[test]
    fn the_far_side_of_an_outer_join_stays_whole() {
        // Restricting 1 would give rows of 0 without a match that had one.
        let outer = join(JoinKind::Left, Node::Fragment(0), Node::Fragment(1));
        let Node::Join { probe, build, .. } = join(JoinKind::Inner, outer, Node::Fragment(2))
        else {
            return;
        };
        let keys = vec![(1, 0)];
        let output = vec![Side::Probe(0)];
        let kind = JoinKind::Inner;
        let root = Node::Join { kind, probe, build, keys, filter: None, output };
        assert_eq!(of(root), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn restricted_sql() {
        assert_eq!(
            restricted("SELECT a, b FROM t", &[25, 23], 1, &[3, -4, 1 << 31]),
            "SELECT * FROM (SELECT a, b FROM t) AS pgspan(c1, c2) WHERE pgspan.c2 \
             OPERATOR(pg_catalog.=) ANY ('{3,-4}'::pg_catalog.int4[])"
        );
    }
}
