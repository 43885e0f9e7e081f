//! Which columns of fragments an operator compares or computes with. The others are only
//! carried, and stay the bytes that they are.

use pgspan_sql::engine::operators::{Node, Side};

/// Notes them in `used`, by fragment and column; `wanted` are the columns of the node with
/// which something above it works.
pub(crate) fn note(node: &Node, wanted: &[usize], used: &mut [Vec<bool>]) {
    match node {
        Node::Fragment(i) => {
            for column in wanted {
                if let Some(used) = used.get_mut(*i).and_then(|u| u.get_mut(*column)) {
                    *used = true;
                }
            }
        }
        Node::Join { probe, build, keys, filter, output, .. } => {
            let mut sides: Vec<Side> =
                wanted.iter().filter_map(|i| output.get(*i).copied()).collect();
            for (p, b) in keys {
                sides.extend([Side::Probe(*p), Side::Build(*b)]);
            }
            sides.extend(filter.iter().flat_map(|(sides, _)| sides));
            let (mut of_probe, mut of_build) = (Vec::new(), Vec::new());
            for side in sides {
                match side {
                    Side::Probe(i) => of_probe.push(i),
                    Side::Build(i) => of_build.push(i),
                }
            }
            note(probe, &of_probe, used);
            note(build, &of_build, used);
        }
        Node::Filter { input, inputs, .. } => {
            let both: Vec<usize> = wanted.iter().chain(inputs).copied().collect();
            note(input, &both, used);
        }
        Node::Project { input, columns } => {
            let mut below = Vec::new();
            for (i, term) in columns.iter().enumerate() {
                if term.is_computed() || wanted.contains(&i) {
                    term.inputs(&mut below);
                }
            }
            note(input, &below, used);
        }
        // A fold or a union works with all that it reads.
        Node::Group { input, keys, folds, .. } => {
            let arguments = folds.iter().filter_map(|f| f.argument);
            let all: Vec<usize> = keys.iter().copied().chain(arguments).collect();
            note(input, &all, used);
        }
        Node::Union { inputs } => {
            for input in inputs {
                let all: Vec<usize> = (0..width(input, used)).collect();
                note(input, &all, used);
            }
        }
    }
}

/// Columns of a node.
fn width(node: &Node, fragments: &[Vec<bool>]) -> usize {
    match node {
        Node::Fragment(i) => fragments.get(*i).map_or(0, Vec::len),
        Node::Join { output, .. } => output.len(),
        Node::Group { output, .. } => output.len(),
        Node::Filter { columns, .. } => *columns,
        Node::Project { columns, .. } => columns.len(),
        Node::Union { inputs } => inputs.first().map_or(0, |i| width(i, fragments)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgspan_sql::engine::operators::{Fold, Function, JoinKind};
    use pgspan_sql::engine::term::Term;

    #[test]
    fn what_is_only_carried() {
        // Fragment 0: key, carried, condition. Fragment 1: key, folded, not given.
        let fold = Fold { function: Function::Sum, argument: Some(1), distinct: false };
        let group = Node::Group {
            input: Box::new(Node::Fragment(1)),
            keys: vec![0],
            folds: vec![fold],
            output: vec![0, 1],
        };
        let filter = Node::Filter {
            input: Box::new(Node::Fragment(0)),
            inputs: vec![2],
            predicates: Vec::new(),
            columns: 2,
        };
        let join = Node::Join {
            kind: JoinKind::Inner,
            probe: Box::new(filter),
            build: Box::new(group),
            keys: vec![(0, 0)],
            filter: None,
            output: vec![Side::Probe(1), Side::Build(1)],
        };
        let mut used = vec![vec![false; 3]; 2];
        note(&join, &[], &mut used);
        assert_eq!(used, [vec![true, false, true], vec![true, true, false]]);
        let project =
            Node::Project { input: Box::new(join), columns: vec![Term::Input(0), Term::Input(1)] };
        note(&project, &[0], &mut used);
        assert_eq!(used[0], [true, true, true]);
    }
}
