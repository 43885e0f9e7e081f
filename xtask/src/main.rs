//! Automation of this repository: `cargo run -p xtask -- tidy`, which checks, `house`, which
//! prints the figures that `tidy` holds, and `compatibility`, which writes what is generated.
//!
//! The rules live in the modules of this crate and run as its tests too
//! (`cargo test -p xtask`), so nobody needs to remember the command.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line tool reports on its output

mod compatibility;
mod edges;
mod exceptions;
mod finding;
mod house;
mod tree;

use std::process::ExitCode;

use finding::Finding;

/// Runs every rule over the whole tree; what the exception list covers is left out.
fn tidy() -> Result<Vec<Finding>, String> {
    let root = tree::root();
    let metadata = edges::metadata(&root)?;
    let files = tree::files(&root)?;
    let mut findings = edges::check(&metadata);
    findings.extend(tree::check(&files));
    findings.extend(compatibility::check(&root)?);
    findings.extend(house::check(&root, &files)?);
    exceptions::apply(&root, findings)
}

/// What a command that only writes or prints has come to.
fn end(command: &str, done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let root = tree::root();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let record = arguments.iter().any(|argument| argument == "--record");
    match arguments.first().map(String::as_str) {
        Some("tidy") => match tidy() {
            Ok(findings) if findings.is_empty() => {
                println!("tidy: ok");
                ExitCode::SUCCESS
            }
            Ok(findings) => {
                for finding in &findings {
                    eprintln!("tidy: {finding}");
                }
                eprintln!("tidy: {} findings", findings.len());
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("tidy: {error}");
                ExitCode::FAILURE
            }
        },
        Some("house") => {
            end("house", tree::files(&root).and_then(|files| house::run(&root, &files, record)))
        }
        Some("compatibility") => end("compatibility", compatibility::write(&root)),
        _ => {
            eprintln!("usage: cargo run -p xtask -- tidy | house [--record] | compatibility");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    //! The rules as a test.

    #[test]
    fn the_tree_is_tidy() {
        let findings = super::tidy().expect("the rules could not be run");
        let report: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(report.is_empty(), "\n{}", report.join("\n"));
    }
}
