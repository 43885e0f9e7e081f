//! Joins of two fragments of one database: that database can run them as one fragment,
//! and only the rows that match come.

use super::operators::{Fragment, JoinKind, Node, Side, Tree};

/// A join that one fragment can stand for.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// Fragment of the join's probe side; the one that stands for the join takes its place.
    pub probe: usize,
    /// Fragment of its build side, which goes.
    pub build: usize,
    /// The join's columns.
    pub columns: Vec<Side>,
    /// What stands for the join.
    pub fragment: Fragment,
}

impl Tree {
    /// Inner joins of home's fragments by integers. `types` are the type OIDs of the
    /// fragments' columns.
    pub fn merges_at_home(&self, types: &[Vec<u32>]) -> Vec<Merge> {
        let mut all = Vec::new();
        self.roots.iter().for_each(|r| self.walk(r, types, &mut all));
        all
    }

    fn walk(&self, node: &Node, types: &[Vec<u32>], out: &mut Vec<Merge>) {
        out.extend(self.merge_of(node, types));
        node.inputs().into_iter().for_each(|input| self.walk(input, types, out));
    }

    fn merge_of(&self, node: &Node, types: &[Vec<u32>]) -> Option<Merge> {
        let Node::Join { kind: JoinKind::Inner, probe, build, keys, filter: None, output } = node
        else {
            return None;
        };
        let (Node::Fragment(probe), Node::Fragment(build)) = (&**probe, &**build) else {
            return None;
        };
        let (left, right) = (self.fragments.get(*probe)?, self.fragments.get(*build)?);
        let integer = |(f, c): (usize, usize)| {
            types.get(f).and_then(|t| t.get(c)).is_some_and(|t| matches!(t, 20 | 21 | 23))
        };
        let integers = keys.iter().all(|(p, b)| integer((*probe, *p)) && integer((*build, *b)));
        if left.server.is_some() || right.server.is_some() || keys.is_empty() || !integers {
            return None;
        }
        let pairs: Vec<String> = keys
            .iter()
            .map(|(p, b)| format!("l.c{} OPERATOR(pg_catalog.=) r.c{}", p + 1, b + 1))
            .collect();
        let select = output.iter().map(|side| match side {
            Side::Probe(i) => format!("l.c{}", i + 1),
            Side::Build(i) => format!("r.c{}", i + 1),
        });
        let from = format!(
            "{} INNER JOIN {} ON {}",
            derived(left, "l"),
            derived(right, "r"),
            pairs.join(" AND ")
        );
        let label = format!("{}, {}", left.label, right.label);
        let fragment = Fragment::at_home(select.collect(), from, false, label);
        Some(Merge { probe: *probe, build: *build, columns: output.clone(), fragment })
    }

    /// Puts the fragment in the place of the join.
    pub fn merge(&mut self, merge: &Merge) {
        self.roots.iter_mut().for_each(|r| replace(r, merge));
        if let Some(place) = self.fragments.get_mut(merge.probe) {
            *place = merge.fragment.clone();
        }
        self.fragments.remove(merge.build);
    }
}

/// A fragment as an item of FROM with the columns `c1`, `c2`, …
fn derived(fragment: &Fragment, alias: &str) -> String {
    let names: Vec<String> = (1..=fragment.select.len()).map(|i| format!("c{i}")).collect();
    format!("({}) AS {alias}({})", fragment.sql_unguarded(), names.join(", "))
}

fn replace(node: &mut Node, merge: &Merge) {
    if let Node::Join { probe, build, .. } = node
        && **probe == Node::Fragment(merge.probe)
        && **build == Node::Fragment(merge.build)
    {
        *node = Node::Fragment(merge.probe);
    }
    if let Node::Fragment(i) = node
        && *i > merge.build
    {
        *i -= 1;
    }
    node.inputs_mut().into_iter().for_each(|input| replace(input, merge));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(server: Option<usize>, select: &[&str], from: &str) -> Fragment {
        let select = select.iter().map(|s| (*s).to_owned()).collect();
        Fragment { server, ..Fragment::at_home(select, from.to_owned(), false, from.to_owned()) }
    }

    fn join(probe: Node, build: Node, output: Vec<Side>) -> Node {
        let (probe, build) = (Box::new(probe), Box::new(build));
        Node::Join { kind: JoinKind::Inner, probe, build, keys: vec![(0, 0)], filter: None, output }
    }

    #[test]
    fn joins_at_home_become_one_fragment() {
        let inner =
            join(Node::Fragment(0), Node::Fragment(1), vec![Side::Build(1), Side::Probe(0)]);
        let outer = join(inner, Node::Fragment(2), vec![Side::Probe(0), Side::Build(0)]);
        let fragments = vec![
            fragment(None, &["a.x"], "ONLY a"),
            fragment(None, &["b.x", "b.y"], "ONLY b WHERE (b.y > 1)"),
            fragment(Some(0), &["z"], "c"),
        ];
        let mut tree = Tree { roots: vec![outer], fragments };
        let types = [vec![23], vec![20, 23], vec![23]];
        let merges = tree.merges_at_home(&types);
        assert_eq!(merges.len(), 1);
        let Some(merge) = merges.first() else { return };
        assert_eq!(
            merge.fragment.sql(),
            "SELECT r.c2, l.c1 FROM (SELECT a.x FROM ONLY a) AS l(c1) INNER JOIN \
             (SELECT b.x, b.y FROM ONLY b WHERE (b.y > 1)) AS r(c1, c2) \
             ON l.c1 OPERATOR(pg_catalog.=) r.c1"
        );
        tree.merge(merge);
        let whole =
            join(Node::Fragment(0), Node::Fragment(1), vec![Side::Probe(0), Side::Build(0)]);
        assert_eq!(tree.roots, [whole]);
        assert_eq!(tree.fragments.len(), 2);
        // What is left is of two databases.
        assert_eq!(tree.merges_at_home(&[vec![23, 23], vec![23]]), []);
    }

    #[test]
    fn other_keys_stay() {
        let tree = Tree {
            roots: vec![join(Node::Fragment(0), Node::Fragment(1), vec![Side::Probe(0)])],
            fragments: vec![fragment(None, &["a.x"], "ONLY a"), fragment(None, &["b.x"], "ONLY b")],
        };
        assert_eq!(tree.merges_at_home(&[vec![25], vec![25]]), []);
        assert_eq!(tree.merges_at_home(&[vec![23], vec![23]]).len(), 1);
    }
}
