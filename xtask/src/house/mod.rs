//! The figures of the house: `cargo run -p xtask -- house` prints them, and `tidy` holds them.
//!
//! `xtask/house.txt` has a line for each figure, `NAME CRATE COUNT`. A figure above its line
//! is a finding, and so is one below it: `house --record` writes the file again, and its
//! change shows in the commit that made it.
//!
//! | module | room |
//! |---|---|
//! | [`reading`] | one file, read |
//! | [`circles`] | which files name each other |

mod circles;
mod reading;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::finding::{Finding, Rule};
use crate::tree::SourceFile;
use circles::{Graph, Module};
use reading::{Function, Reading};

/// Lines that a function may have.
const LINES_MAX: usize = 80;
/// Parameters that a function may have, its receiver included.
const PARAMETERS_MAX: usize = 6;
/// Files that may name each other in a circle.
const CIRCLE_MAX: usize = 3;
/// Where the figures stand.
const RECORD: &str = "xtask/house.txt";
/// Crates that may read servers' messages by their tags.
const READ_TAGS: &[&str] = &["pgspan-wire", "pgspan-pool"];
/// The crate that reads SQL.
const READS_SQL: &str = "pgspan-sql";
/// The crate with sessions.
const HAS_SESSIONS: &str = "pgspan-gateway";
/// What may not know the session.
const WITHOUT_SESSION: &[&str] = &["strategy", "sources"];

/// Figure and crate → count, and what it was counted from.
type Figures = BTreeMap<(&'static str, String), (usize, Vec<String>)>;

/// One crate, read.
struct Crate {
    name: String,
    files: BTreeMap<Module, (String, Reading)>,
}

/// Prints the figures and what they were counted from; writes the record when asked.
///
/// # Errors
/// When the tree cannot be read, or the record not written.
pub fn run(root: &Path, files: &[SourceFile], record: bool) -> Result<(), String> {
    let figures = measure(files)?;
    for ((name, of), (count, from)) in &figures {
        println!("{name:<16} {of:<16} {count}");
        from.iter().for_each(|line| println!("    {line}"));
    }
    if record {
        let path = root.join(RECORD);
        std::fs::write(&path, written(&figures)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Compares the figures with the record.
///
/// # Errors
/// When the tree or the record cannot be read.
pub fn check(root: &Path, files: &[SourceFile]) -> Result<Vec<Finding>, String> {
    let path = root.join(RECORD);
    let record = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(compare(&measure(files)?, &record))
}

fn compare(figures: &Figures, record: &str) -> Vec<Finding> {
    let mut recorded: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in record.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, of, count] = words[..] {
            recorded.insert((name, of), count.parse().unwrap_or(0));
        }
    }
    let mut findings = Vec::new();
    let mut found = |(name, of): (&str, &str), told: String| {
        findings.push(Finding::new(Rule::House, format!("{name} {of}"), told));
    };
    for ((name, of), (count, from)) in figures {
        let allowed = recorded.remove(&(*name, of.as_str())).unwrap_or(0);
        if *count > allowed {
            let from = from.join("\n    ");
            found((name, of), format!("{count}, at most {allowed}:\n    {from}"));
        } else if *count < allowed {
            let told =
                format!("{count} instead of {allowed}: run `cargo run -p xtask -- house --record`");
            found((name, of), told);
        }
    }
    for (key, _) in recorded {
        found(key, "is no figure any more: run `cargo run -p xtask -- house --record`".to_owned());
    }
    findings
}

fn written(figures: &Figures) -> String {
    let mut text = "# What `cargo run -p xtask -- house` counts; each figure may only shrink.\n\
        # It tells what each was counted from, and writes this file with --record.\n"
        .to_owned();
    for ((name, of), (count, _)) in figures {
        let _ = writeln!(text, "{name} {of} {count}");
    }
    text
}

fn measure(files: &[SourceFile]) -> Result<Figures, String> {
    let mut figures = Figures::new();
    for one in crates(files)? {
        one.measure(&mut figures);
    }
    Ok(figures)
}

fn crates(files: &[SourceFile]) -> Result<Vec<Crate>, String> {
    let mut crates: BTreeMap<&str, Crate> = BTreeMap::new();
    for file in files {
        let Some((name, place)) = file
            .path()
            .strip_prefix("crates/")
            .and_then(|path| path.strip_suffix(".rs"))
            .and_then(|path| path.split_once("/src/"))
        else {
            continue;
        };
        let reading =
            Reading::of(file.text()).map_err(|error| format!("{}: {error}", file.path()))?;
        let empty = || Crate { name: name.to_owned(), files: BTreeMap::new() };
        let one = crates.entry(name).or_insert_with(empty);
        one.files.insert(module(place), (file.path().to_owned(), reading));
    }
    Ok(crates.into_values().collect())
}

/// `session/mod` is the module `session`, `lib` and `main` the crate's root.
fn module(place: &str) -> Module {
    let mut module: Module = place.split('/').map(str::to_owned).collect();
    let last = module.last().map(String::as_str);
    if last == Some("mod") || module.len() == 1 && matches!(last, Some("lib" | "main")) {
        module.pop();
    }
    module
}

impl Crate {
    fn measure(&self, figures: &mut Figures) {
        let mut note = |name: &'static str, count: usize, from: Vec<String>| {
            if count > 0 {
                figures.insert((name, self.name.clone()), (count, from));
            }
        };
        let functions = |is: fn(&Function) -> bool, told: fn(&Function) -> usize| {
            let mut found: Vec<(usize, String)> = Vec::new();
            for (path, reading) in self.files.values() {
                for one in reading.functions.iter().filter(|one| is(one)) {
                    found.push((told(one), format!("{} {path} {}", told(one), one.name)));
                }
            }
            found.sort_by_key(|one| std::cmp::Reverse(one.0));
            let most = found.first().map_or(0, |one| one.0);
            (most, found.into_iter().map(|one| one.1).collect::<Vec<String>>())
        };
        let (longest, long) = functions(|f| f.lines > LINES_MAX, |f| f.lines);
        note("functions-long", long.len(), long);
        note("function-longest", longest, Vec::new());
        let (_, wide) = functions(|f| f.parameters > PARAMETERS_MAX, |f| f.parameters);
        note("functions-wide", wide.len(), wide);

        let graph = Graph::new(
            &self.files.iter().map(|(module, (_, r))| (module.clone(), r.paths.clone())).collect(),
        );
        let circles = graph.circles();
        let largest = circles.first().map_or(0, Vec::len);
        let wrong = circles.iter().filter(|circle| circle.len() > CIRCLE_MAX);
        let told = wrong.map(|circle| {
            circle.iter().map(|module| module.join("/")).collect::<Vec<String>>().join(" ")
        });
        note("circle-largest", if largest > CIRCLE_MAX { largest } else { 0 }, told.collect());

        if !READ_TAGS.contains(&self.name.as_str()) {
            self.count("tags", |reading| reading.tags, &mut note);
        }
        self.count("texts-compared", |reading| reading.texts_compared, &mut note);
        if self.name == READS_SQL {
            self.count("parses", |reading| reading.parses, &mut note);
            self.count("depths", |reading| reading.depths, &mut note);
        }
        if self.name == HAS_SESSIONS {
            self.count("takes-session", |reading| reading.takes_session, &mut note);
            let session = ["session".to_owned()];
            let names: Vec<String> = self
                .files
                .keys()
                .filter(|module| {
                    module.first().is_some_and(|m| WITHOUT_SESSION.contains(&m.as_str()))
                })
                .filter(|module| graph.names(module, &session))
                .map(|module| module.join("/"))
                .collect();
            note("names-session", names.len(), names);
        }
    }

    fn count(
        &self,
        name: &'static str,
        count: fn(&Reading) -> usize,
        note: &mut impl FnMut(&'static str, usize, Vec<String>),
    ) {
        let mut found: Vec<(usize, &str)> =
            self.files.values().map(|(path, reading)| (count(reading), path.as_str())).collect();
        found.retain(|one| one.0 > 0);
        found.sort_by_key(|one| std::cmp::Reverse(one.0));
        let told = found.iter().map(|(count, path)| format!("{count} {path}")).collect();
        note(name, found.iter().map(|one| one.0).sum(), told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(files: &[(&str, &str)]) -> Figures {
        let files: Vec<SourceFile> =
            files.iter().map(|(path, text)| SourceFile::new(path, text)).collect();
        measure(&files).unwrap()
    }

    #[test]
    fn a_file_names_its_module() {
        for (place, is) in [
            ("lib", ""),
            ("main", ""),
            ("session/mod", "session"),
            ("session/home", "session/home"),
            ("bench/main", "bench/main"),
        ] {
            assert_eq!(module(place).join("/"), is);
        }
    }

    #[test]
    fn each_figure_is_found() {
        let long =
            format!("fn long() {{{}}}\nfn wide(a:A,b:A,c:A,d:A,e:A,f:A,g:A) {{}}", "\n".repeat(80));
        let found = figures(&[
            ("crates/pgspan-gateway/src/lib.rs", &long),
            (
                "crates/pgspan-gateway/src/session/mod.rs",
                "use crate::strategy::a::x; fn f(s: &mut Session) {}",
            ),
            (
                "crates/pgspan-gateway/src/strategy/a.rs",
                "use crate::b::y; fn f() { if t == b'Z' && r.what == LOST {} }",
            ),
            ("crates/pgspan-gateway/src/b.rs", "use crate::c::z;"),
            ("crates/pgspan-gateway/src/c.rs", "use crate::session::Session;"),
            ("crates/pgspan-sql/src/a.rs", "fn f() { lex(x); depth += 1; }"),
            ("crates/pgspan-wire/src/a.rs", "fn f() { b'Z' }"),
            ("crates/pgspan-gateway/tests/a.rs", "fn f() { b'Z' }"),
        ]);
        let told: Vec<String> =
            found.iter().map(|((name, of), (count, _))| format!("{name} {of} {count}")).collect();
        assert_eq!(
            told,
            [
                "circle-largest pgspan-gateway 4",
                "depths pgspan-sql 1",
                "function-longest pgspan-gateway 81",
                "functions-long pgspan-gateway 1",
                "functions-wide pgspan-gateway 1",
                "parses pgspan-sql 1",
                "tags pgspan-gateway 1",
                "takes-session pgspan-gateway 1",
                "texts-compared pgspan-gateway 1",
            ]
        );
    }

    #[test]
    fn the_record_holds_both_ways() {
        let found = figures(&[("crates/a/src/lib.rs", "fn f() { b'Z'; b'E' }")]);
        assert!(compare(&found, &written(&found)).is_empty());
        for record in ["tags a 1", "tags a 3", "", "tags a 2\nother a 1"] {
            assert_eq!(compare(&found, record).len(), 1, "{record}");
        }
    }
}
