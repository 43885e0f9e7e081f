//! Early aggregation: a fold over a join whose groups are at least as fine as the join
//! key folds the far side before the join.

use super::operators::{Fold, Function, JoinKind, Node, Side};

/// Rewrites `Group(Join(near, far))` where every key is of the near side and includes its
/// join keys, and every fold is of the far side. The far side is folded by its own join
/// keys first, so that each near row meets at most one row; the groups are then folded
/// once more, because near rows may repeat.
pub fn fold_early(group: Node) -> Node {
    match rewrite(&group) {
        Some(better) => better,
        None => group,
    }
}

fn rewrite(group: &Node) -> Option<Node> {
    let Node::Group { input, keys, folds, output } = group else { return None };
    let Node::Join { kind, probe, build, keys: join_keys, filter: None, output: columns } =
        &**input
    else {
        return None;
    };
    if folds.is_empty() || folds.iter().any(|f| f.distinct || f.argument.is_none()) {
        return None;
    }
    let side_of_keys: Vec<Side> =
        keys.iter().map(|k| columns.get(*k).copied()).collect::<Option<_>>()?;
    let side_of_folds: Vec<Side> =
        folds.iter().map(|f| columns.get(f.argument?).copied()).collect::<Option<_>>()?;
    let is_probe = |s: &Side| matches!(s, Side::Probe(_));
    let near_is_probe = side_of_keys.iter().all(is_probe);
    if !near_is_probe && side_of_keys.iter().any(is_probe) {
        return None;
    }
    if side_of_folds.iter().any(|s| is_probe(s) == near_is_probe) {
        return None;
    }
    let fits = match kind {
        JoinKind::Inner => true,
        JoinKind::Left => near_is_probe,
        JoinKind::Right => !near_is_probe,
        _ => false,
    };
    let near_column = |s: &Side| match s {
        Side::Probe(i) | Side::Build(i) => *i,
    };
    let near_keys: Vec<usize> =
        join_keys.iter().map(|(p, b)| if near_is_probe { *p } else { *b }).collect();
    let far_keys: Vec<usize> =
        join_keys.iter().map(|(p, b)| if near_is_probe { *b } else { *p }).collect();
    let grouped_near: Vec<usize> = side_of_keys.iter().map(near_column).collect();
    if !fits || !near_keys.iter().all(|k| grouped_near.contains(k)) {
        return None;
    }
    // The far side, folded by its join keys.
    let far_folds: Vec<Fold> = folds
        .iter()
        .zip(&side_of_folds)
        .map(|(f, s)| {
            let Fold { function, argument: _, distinct } = *f;
            Fold { function, argument: Some(near_column(s)), distinct }
        })
        .collect();
    let (near, far) = if near_is_probe { (probe, build) } else { (build, probe) };
    let folded = Node::Group {
        input: far.clone(),
        keys: far_keys.clone(),
        folds: far_folds,
        output: (0..far_keys.len() + folds.len()).collect(),
    };
    let near_side = |i: usize| if near_is_probe { Side::Probe(i) } else { Side::Build(i) };
    let far_side = |i: usize| if near_is_probe { Side::Build(i) } else { Side::Probe(i) };
    let mut joined: Vec<Side> = grouped_near.iter().map(|i| near_side(*i)).collect();
    joined.extend((0..folds.len()).map(|i| far_side(far_keys.len() + i)));
    let new_keys = near_keys
        .iter()
        .zip(0..)
        .map(|(near_key, i)| if near_is_probe { (*near_key, i) } else { (i, *near_key) });
    let (new_probe, new_build) = if near_is_probe {
        (near.clone(), Box::new(folded))
    } else {
        (Box::new(folded), near.clone())
    };
    let join = Node::Join {
        kind: *kind,
        probe: new_probe,
        build: new_build,
        keys: new_keys.collect(),
        filter: None,
        output: joined,
    };
    let merged = folds.iter().enumerate().map(|(i, f)| Fold {
        function: match f.function {
            Function::Count | Function::SumOfCounts => Function::SumOfCounts,
            Function::Sum | Function::SumOfSums => Function::SumOfSums,
            other => other,
        },
        argument: Some(keys.len() + i),
        distinct: false,
    });
    Some(Node::Group {
        input: Box::new(join),
        keys: (0..keys.len()).collect(),
        folds: merged.collect(),
        output: output.clone(),
    })
}
