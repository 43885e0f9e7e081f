//! Automation of this repository: `cargo run -p xtask -- tidy`, which checks, and
//! `cargo run -p xtask -- compatibility`, which writes what is generated.
//!
//! The rules live in the modules of this crate and run as its tests too
//! (`cargo test -p xtask`), so nobody needs to remember the command.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line tool reports on its output

mod compatibility;
mod edges;
mod exceptions;
mod finding;
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
    exceptions::apply(&root, findings)
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
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
        Some("compatibility") => match compatibility::write(&tree::root()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("compatibility: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: cargo run -p xtask -- tidy | compatibility");
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
