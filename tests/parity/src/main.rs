//! The parity suite's command line: `cargo run -p pgspan-parity -- --help`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it reports on its output

use std::process::ExitCode;

use pgspan_parity::case_file::{self, CaseFile};
use pgspan_parity::lab::Lab;
use pgspan_parity::options::Options;
use pgspan_parity::{fuzz, mutant, properties, random, report, runner, sequences, settings};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("parity: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let counted = options.sessions.or(options.settings).or(options.fuzz);
    let generated = counted.is_some() || options.properties;
    let files = if generated { Vec::new() } else { read(options)? };
    let count: usize = files.iter().map(|file| file.cases.len()).sum();
    if options.list {
        for file in &files {
            for case in &file.cases {
                println!("{}/{}", file.name, case.label());
            }
        }
        println!("{count} cases");
        return Ok(true);
    }
    if count == 0 && !generated {
        return Err("no case has such a name".to_owned());
    }
    let lab = Lab::open(options)?;
    let agrees = play(options, &lab, &files)?;
    Ok(lab.has_no_defects()? && agrees)
}

/// Plays what the options ask for. `false`: something differs.
fn play(options: &Options, lab: &Lab, files: &[CaseFile]) -> Result<bool, String> {
    if let Some(count) = options.sessions {
        return sequences::run(options, lab, count);
    }
    if let Some(count) = options.settings {
        return settings::run(options, lab, count);
    }
    if let Some(count) = options.fuzz {
        return fuzz::run(options, lab, count);
    }
    if options.properties {
        return properties::run(options, lab);
    }
    if options.mutations {
        let (passed, failed) = mutant::run(lab, files, options.threads)?;
        println!("{passed} passed, {failed} failed");
        return Ok(failed == 0);
    }
    if let Some(count) = options.random {
        return random_queries(options, lab, count);
    }
    let report = runner::run(lab, files, options.threads, false);
    report.print(options.routes);
    if let Some(path) = &options.report {
        report::write(path, &report.totals())?;
    }
    Ok(report.failed() == 0)
}

/// Plays generated queries; the first failures are shown as small as they get.
fn random_queries(options: &Options, lab: &Lab, count: usize) -> Result<bool, String> {
    const SHRUNK_MAX: usize = 3;
    let path = options.cases.join("shop.inc");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let shop = case_file::parse("shop", &text)?;
    let drafts = random::drafts(options.seed, count);
    // One file for each thread, so that they share the work.
    let size = count.div_ceil(options.threads).max(1);
    let files: Vec<CaseFile> = drafts
        .chunks(size)
        .enumerate()
        .map(|(at, part)| random::file(&format!("seed_{}_{at}", options.seed), part, &shop))
        .collect();
    let report = runner::run(lab, &files, options.threads, false);
    let failing: Vec<usize> = (0..files.len())
        .flat_map(|part| (1..=size).map(move |line| (part, line)))
        .filter(|(part, line)| {
            let name = format!("seed_{}_{part}/{line}", options.seed);
            report.outcomes.iter().any(|o| o.name == name && !o.wrong.is_empty())
        })
        .map(|(part, line)| part * size + line - 1)
        .collect();
    for at in failing.iter().take(SHRUNK_MAX) {
        let mut fails = |candidates: &[random::Draft]| -> Vec<bool> {
            let file = random::file("shrink", candidates, &shop);
            let report = runner::run(lab, &[file], 1, true);
            report
                .outcomes
                .iter()
                // A candidate that PostgreSQL refuses is another failure, not a smaller one.
                .map(|o| o.wrong.iter().any(|wrong| !wrong.contains("the file says")))
                .collect()
        };
        let smallest = random::shrink(&drafts[*at], &mut fails);
        println!(
            "shrunk, to keep as a case:\n\nquery rowsort found by seed {}\n{}\n----\nok\n",
            options.seed,
            smallest.sql()
        );
    }
    report.print(options.routes);
    Ok(report.failed() == 0)
}

/// Reads the case files, longest first so that the threads end together.
fn read(options: &Options) -> Result<Vec<CaseFile>, String> {
    let mut files = Vec::new();
    // What generated queries have found is played with the rest.
    let folders = [&options.cases, &options.failures];
    let mut paths = Vec::new();
    for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            paths.push(entry.map_err(fail)?.path());
        }
    }
    let fail = |error: std::io::Error| format!("{}: {error}", options.cases.display());
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "case") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).map_err(fail)?;
        let mut file = case_file::parse(&name, &text)?;
        for include in file.includes.iter().rev() {
            let path = options.cases.join(format!("{include}.inc"));
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let included = case_file::parse(include, &text)?;
            file.setups.splice(0..0, included.setups);
        }
        file.cases.retain(|case| options.wants(&format!("{name}/{}", case.label())));
        if !file.cases.is_empty() {
            files.push(file);
        }
    }
    files.sort_by(|a, b| (b.cases.len(), &a.name).cmp(&(a.cases.len(), &b.name)));
    Ok(files)
}
