//! Which files of a crate name each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

/// A file by its module's path: `["session", "home"]`; the crate's root is empty.
pub type Module = Vec<String>;

/// Who names whom.
#[derive(Debug, Default)]
pub struct Graph {
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

impl Graph {
    /// A graph of the given modules and the paths that stand in each.
    pub fn new(files: &BTreeMap<Module, Vec<Vec<String>>>) -> Graph {
        let mut graph = Graph::default();
        for (module, paths) in files {
            let named: BTreeSet<Module> = paths
                .iter()
                .filter_map(|path| target(module, path, files))
                .filter(|target| target != module)
                .collect();
            graph.edges.insert(module.clone(), named);
        }
        graph
    }

    /// Whether a file names one at or below a module.
    pub fn names(&self, from: &Module, to: &[String]) -> bool {
        self.edges.get(from).into_iter().flatten().any(|target| target.starts_with(to))
    }

    /// Files that name each other, directly or over others, largest circle first.
    pub fn circles(&self) -> Vec<Vec<Module>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.edges.keys().map(|module| (module, self.reached(module))).collect();
        let mut left: BTreeSet<&Module> = self.edges.keys().collect();
        let mut circles = Vec::new();
        while let Some(first) = left.pop_first() {
            let both =
                |other: &&Module| reach[first].contains(*other) && reach[*other].contains(first);
            let others: Vec<&Module> = left.iter().copied().filter(|other| both(other)).collect();
            if others.is_empty() {
                continue;
            }
            left.retain(|other| !others.contains(other));
            circles.push([first].into_iter().chain(others).cloned().collect::<Vec<Module>>());
        }
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
        circles
    }

    fn reached(&self, from: &Module) -> BTreeSet<&Module> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Module> = self.edges[from].iter().collect();
        while let Some(module) = open.pop() {
            if found.insert(module) {
                open.extend(self.edges.get(module).into_iter().flatten());
            }
        }
        found
    }
}

/// The file that a path leads to, if it is one of the crate's.
fn target(
    module: &Module,
    path: &[String],
    files: &BTreeMap<Module, Vec<Vec<String>>>,
) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    let whole: Module = match first.as_str() {
        "crate" => rest.to_vec(),
        "self" => [module, rest].concat(),
        "super" => {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let above = module.get(..module.len().checked_sub(ups)?)?;
            [above, path.get(ups..)?].concat()
        }
        // A module below this one, named without `self`.
        _ => {
            let below = [module.as_slice(), std::slice::from_ref(first)].concat();
            if !files.contains_key(&below) {
                return None;
            }
            [module, path].concat()
        }
    };
    (0..=whole.len())
        .rev()
        .map(|len| whole[..len].to_vec())
        .find(|prefix| files.contains_key(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    fn graph(files: &[(&str, &[&str])]) -> Graph {
        let files = files
            .iter()
            .map(|(module, paths)| (path(module), paths.iter().map(|p| path(p)).collect()))
            .collect();
        Graph::new(&files)
    }

    #[test]
    fn a_circle_over_three_files_is_one() {
        let graph = graph(&[
            ("", &["a::f"]),
            ("a", &["crate::b::c::g", "std::fmt"]),
            ("b", &[]),
            ("b::c", &["super::h", "crate::d"]),
            ("d", &["super::a::X"]),
        ]);
        assert_eq!(graph.circles(), [[path("a"), path("b::c"), path("d")]]);
        assert!(graph.names(&path("a"), &path("b")));
        assert!(!graph.names(&path("b"), &path("a")));
    }

    #[test]
    fn no_circle_is_none() {
        assert!(
            graph(&[("a", &["crate::b::x"]), ("b", &["std::fmt"]), ("", &["a", "b"])])
                .circles()
                .is_empty()
        );
    }
}
