//! Plays the protocol scripts: `cargo run -p pgspan-parity --bin pgspan-protocol -- --help`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it reports on its output

use std::path::Path;
use std::process::ExitCode;

use pgspan_parity::lab::Lab;
use pgspan_parity::options::Options;
use pgspan_parity::protocol::{self, script};

/// Where the scripts lie.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol");

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
            eprintln!("protocol: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the scripts. `false`: some failed.
fn run(options: &Options) -> Result<bool, String> {
    let mut files: Vec<_> = std::fs::read_dir(Path::new(SCRIPTS))
        .map_err(|error| format!("{SCRIPTS}: {error}"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "script"))
        .collect();
    files.sort();
    let mut scripts = Vec::new();
    for path in files {
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        scripts.extend(script::parse(&name, &text)?);
    }
    scripts.retain(|script| options.wants(&script.name));
    if scripts.is_empty() {
        return Err("no script has such a name".to_owned());
    }
    if options.list {
        scripts.iter().for_each(|script| println!("{}", script.name));
        return Ok(true);
    }
    let lab = Lab::open(options)?;
    protocol::make_databases(&lab)?;
    let (mut failed, mut known, mut messages) = (0, 0, 0);
    for script in &scripts {
        let compared = protocol::compare(&lab, script)
            .map_err(|error| format!("{} (line {}): {error}", script.name, script.line))?;
        messages += compared.direct.len();
        if options.routes {
            println!("{}", script.name);
            compared.direct.iter().for_each(|line| println!("    {line}"));
        }
        let judged = script.depends || compared.same() == script.known.is_none();
        if compared.missing.is_empty() && judged {
            known += usize::from(script.known.is_some());
            continue;
        }
        failed += 1;
        println!("FAILED {} (line {})", script.name, script.line);
        if compared.same() && script.known.is_some() {
            println!("    not different any more: delete its line `known`");
        }
        for text in &compared.missing {
            println!("    PostgreSQL did not send: {text}");
        }
        show(&compared.direct, &compared.gateway);
    }
    if let Some(path) = &options.report {
        let totals = serde_json::json!({
            "scripts": scripts.len(), "messages": messages, "known": known, "failed": failed,
        });
        pgspan_parity::report::write(path, &totals)?;
    }
    println!("{} scripts, {messages} messages compared, {known} known divergences", scripts.len());
    println!("{} passed, {failed} failed", scripts.len() - failed);
    Ok(lab.has_no_defects()? && failed == 0)
}

/// Both transcripts side by side from a little before they part.
fn show(direct: &[String], gateway: &[String]) {
    const BEFORE: usize = 3;
    const AFTER: usize = 8;
    let Some(part) =
        (0..direct.len().max(gateway.len())).find(|at| direct.get(*at) != gateway.get(*at))
    else {
        return;
    };
    for at in part.saturating_sub(BEFORE)..part + AFTER {
        match (direct.get(at), gateway.get(at)) {
            (Some(one), Some(two)) if one == two => println!("      {one}"),
            (one, two) => {
                one.iter().for_each(|line| println!("    - {line}"));
                two.iter().for_each(|line| println!("    + {line}"));
            }
        }
    }
}
