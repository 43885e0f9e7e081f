//! Rules about the files of the tree, read as text.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::finding::{Finding, Rule};

/// The longest that a file may be.
const LINES_MAX: usize = 800;

/// Files that a machine writes, or that are quoted in full.
const UNLIMITED: &[&str] = &[
    "Cargo.lock",
    "LICENSE",
    "fuzz/Cargo.lock",
    "tests/clients/rust/Cargo.lock",
    "tests/clients/suites/rust/Cargo.lock",
];

/// Written in two halves so that this file does not break its own rules.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
];

/// A test that is the body of another test's child process is not a skipped one:
/// its reason begins so.
const RUN_BY: &str = "= \"run by ";

/// Paths of one machine, and hosts of package registries.
const WORDS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("../sha", "red"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("proxy.golang", ".org"),
];

/// Paths of the crates behind the wall, as code would name them.
const WALLED: &[&str] = &["datafusion", "arrow", "parquet"];

/// A file of the tree.
#[derive(Debug)]
pub struct SourceFile {
    path: String,
    text: String,
}

impl SourceFile {
    /// Its path below the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What stands in it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A file that a test makes up.
    #[cfg(test)]
    pub fn new(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Every text file of the tree that is not ignored: as git sees it, or, without
/// git, whatever is not hidden and not a build directory.
pub fn files(root: &Path) -> Result<Vec<SourceFile>, String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output();
    let paths: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => walk(root)?,
    };
    let mut files = Vec::new();
    for path in paths {
        // A deleted file may still be in the index; a binary file has no lines.
        if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
            files.push(SourceFile { path, text });
        }
    }
    Ok(files)
}

fn walk(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let entries =
            std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let build = path.join("CACHEDIR.TAG").exists();
            if (name.starts_with('.') && name != ".ci" && name != ".cargo") || build {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

/// Runs every rule on every file.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let place = file.path.as_str();
    let rust = place.ends_with(".rs");
    let engine = place.starts_with("crates/pgspan-engine/");
    let lines = file.text.lines().count();
    if lines > LINES_MAX && !UNLIMITED.contains(&place) {
        findings.push(Finding::new(
            Rule::Length,
            place,
            format!("{lines} lines, at most {LINES_MAX}: split it along its rooms"),
        ));
    }
    if rust && !opens_with_doc(&file.text) {
        findings.push(Finding::new(Rule::Doc, place, "does not open with a `//!` paragraph"));
    }
    for (number, line) in (1..).zip(file.text.lines()) {
        if !place.ends_with("Cargo.lock") {
            for word in WORDS.iter().filter(|word| line.contains(**word)) {
                findings.push(Finding::new(
                    Rule::Word,
                    place,
                    format!("line {number}: `{word}` does not belong in the tree"),
                ));
            }
        }
        if !rust {
            continue;
        }
        for word in UNFINISHED.iter().filter(|word| line.contains(**word) && !line.contains(RUN_BY))
        {
            findings.push(Finding::new(
                Rule::Unfinished,
                place,
                format!("line {number}: `{word}`"),
            ));
        }
        if !engine && names_walled(line) {
            findings.push(Finding::new(
                Rule::Wall,
                place,
                format!("line {number}: only pgspan-engine may name this crate"),
            ));
        }
    }
    findings
}

fn opens_with_doc(text: &str) -> bool {
    text.lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!/"))
        .is_some_and(|line| line.starts_with("//!"))
}

/// Whether code (not a comment, not a string) names a walled crate's path.
fn names_walled(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    WALLED.iter().any(|name| {
        code.match_indices(name).any(|(start, _)| {
            let before = code[..start].chars().next_back();
            let rest = code[start + name.len()..]
                .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let joined = code[start + name.len()..]
                .chars()
                .next()
                .is_some_and(|c| c.is_ascii_alphanumeric());
            !joined
                && before.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                && rest.starts_with("::")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<Rule> {
        check_file(&SourceFile::new(path, text)).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(rules("a.rs", "//! A room.\nfn f() {}\n"), []);
    }

    #[test]
    fn a_missing_paragraph_is_found() {
        assert_eq!(rules("a.rs", "fn f() {}\n"), [Rule::Doc]);
    }

    #[test]
    fn a_long_file_is_found() {
        let text = format!("//! A room.\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(rules("a.rs", &text), [Rule::Length]);
        assert_eq!(rules("Cargo.lock", &text), []);
    }

    #[test]
    fn unfinished_code_is_found() {
        for word in UNFINISHED {
            assert_eq!(rules("a.rs", &format!("//! A room.\n{word}\n")), [Rule::Unfinished]);
        }
    }

    #[test]
    fn a_child_process_is_not_a_skipped_test() {
        let text = concat!("//! A room.\n#[ig", "nore = \"run by the test that kills it\"]\n");
        assert_eq!(rules("a.rs", text), []);
    }

    #[test]
    fn a_machine_path_is_found() {
        for word in WORDS {
            assert_eq!(rules("a.md", &format!("see {word}x\n")), [Rule::Word]);
        }
    }

    #[test]
    fn the_wall_is_seen_in_code_only() {
        let named = concat!("//! A room.\nuse data", "fusion_physical_plan::joins;\n");
        assert_eq!(rules("crates/pgspan-sql/src/a.rs", named), [Rule::Wall]);
        assert_eq!(rules("crates/pgspan-engine/src/a.rs", named), []);
        assert_eq!(
            rules(
                "a.rs",
                "//! DataFusion is not named here.\n// arrow::x\nlet narrow = arrows::y();\n"
            ),
            []
        );
    }
}
