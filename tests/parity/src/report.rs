//! What happened, for people and for the last line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

/// Writes totals where the compatibility page is made from.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, totals: &Value) -> Result<(), String> {
    std::fs::write(path, format!("{totals:#}\n")).map_err(|e| format!("{}: {e}", path.display()))
}

/// One case that failed, or passed with something to say.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// FILE/LABEL.
    pub name: String,
    /// FILE:LINE.
    pub place: String,
    /// The statement or steps, for the reader of a failure.
    pub text: String,
    /// What is wrong, one entry a variant or step; empty: passed.
    pub wrong: Vec<String>,
    /// Routes that the gateway told: variant, strategy, reason.
    pub routes: Vec<(String, String, String)>,
    /// Distinct statements that were executed.
    pub statements: Vec<String>,
    /// Comparisons made.
    pub comparisons: usize,
    /// An expected strategy could not be checked.
    pub strategy_unchecked: bool,
    /// Why it was not played.
    pub skipped: Option<String>,
}

impl Outcome {
    /// A case before it is played.
    pub fn new(name: String, place: String, text: String) -> Outcome {
        Outcome {
            name,
            place,
            text,
            wrong: Vec::new(),
            routes: Vec::new(),
            statements: Vec::new(),
            comparisons: 0,
            strategy_unchecked: false,
            skipped: None,
        }
    }

    /// The failure as text.
    pub fn failure(&self) -> String {
        let mut text = format!("FAILED {}  ({})\n", self.name, self.place);
        for line in self.text.lines() {
            text.push_str("    | ");
            text.push_str(line);
            text.push('\n');
        }
        for wrong in &self.wrong {
            for line in wrong.lines() {
                text.push_str("    ");
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// All cases.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which files ended.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// How many failed.
    pub fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).count()
    }

    /// Cases, statements, and how often each way was taken for each reason.
    pub fn totals(&self) -> Value {
        let played = self.outcomes.iter().filter(|outcome| outcome.skipped.is_none()).count();
        let mut routes: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (_, strategy, reason) in self.outcomes.iter().flat_map(|outcome| &outcome.routes) {
            // The particulars of a reason stand behind a colon.
            let reason = reason.split_once(": ").map_or(reason.as_str(), |(what, _)| what);
            *routes.entry(strategy).or_default().entry(reason).or_default() += 1;
        }
        json!({
            "cases": played,
            "failed": self.failed(),
            "statements": self.statements().len(),
            "comparisons": self.outcomes.iter().map(|outcome| outcome.comparisons).sum::<usize>(),
            "routes": routes,
        })
    }

    /// Distinct statements that were executed.
    fn statements(&self) -> BTreeSet<&str> {
        let all = self.outcomes.iter().flat_map(|outcome| &outcome.statements);
        all.map(String::as_str).collect()
    }

    /// Prints everything but the failures, which were printed as they came.
    pub fn print(&self, routes: bool) {
        if routes {
            for outcome in &self.outcomes {
                for (variant, strategy, reason) in &outcome.routes {
                    println!("{}\t{variant}\t{strategy}\t{reason}", outcome.name);
                }
            }
        }
        let failed: Vec<&Outcome> =
            self.outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).collect();
        if !failed.is_empty() {
            println!("failed:");
            for outcome in &failed {
                println!("  {}  ({})", outcome.name, outcome.place);
            }
        }
        let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
        for outcome in &self.outcomes {
            if let Some(why) = &outcome.skipped {
                *skipped.entry(why).or_default() += 1;
            }
        }
        for (why, count) in skipped {
            println!("not played ({why}): {count}");
        }
        let mut strategies: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, strategy, _) in self.outcomes.iter().flat_map(|outcome| &outcome.routes) {
            *strategies.entry(strategy).or_default() += 1;
        }
        if !strategies.is_empty() {
            let list: Vec<String> =
                strategies.iter().map(|(strategy, count)| format!("{strategy} {count}")).collect();
            println!("strategies: {}", list.join(", "));
        }
        let unchecked = self.outcomes.iter().filter(|outcome| outcome.strategy_unchecked).count();
        if unchecked > 0 {
            println!("strategy not checked: {unchecked}");
        }
        let statements = self.statements();
        let comparisons: usize = self.outcomes.iter().map(|outcome| outcome.comparisons).sum();
        println!("{} distinct statements, {comparisons} comparisons", statements.len());
        let played = self.outcomes.iter().filter(|outcome| outcome.skipped.is_none()).count();
        println!("{} passed, {} failed", played - self.failed(), self.failed());
    }
}
