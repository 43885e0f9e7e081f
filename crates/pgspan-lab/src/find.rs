//! Finds PostgreSQL's server programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LabError;

const OLDEST: u32 = 14;
const NEWEST: u32 = 18;

/// An installation of PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    /// The directory of its programs.
    pub(crate) bin: PathBuf,
    /// Its version, for example `15.14`.
    pub(crate) version: String,
    major: u32,
}

impl Postgres {
    /// The installation in `given`, or the newest supported one that is found.
    pub(crate) fn find(given: Option<&Path>) -> Result<Postgres, LabError> {
        if let Some(bin) = given {
            return Postgres::at(bin)?
                .ok_or_else(|| LabError::PostgresNotFound { searched: bin.display().to_string() });
        }
        let candidates = candidates();
        let mut unsupported = None;
        let mut best: Option<Postgres> = None;
        for bin in &candidates {
            match Postgres::at(bin) {
                Ok(Some(found)) => {
                    if best.as_ref().is_none_or(|best| found.major > best.major) {
                        best = Some(found);
                    }
                }
                Ok(None) => {}
                Err(error) => unsupported = Some(error),
            }
        }
        if let Some(best) = best {
            return Ok(best);
        }
        let searched = || {
            let paths: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            paths.join(", ")
        };
        Err(unsupported.unwrap_or_else(|| LabError::PostgresNotFound { searched: searched() }))
    }

    /// The path of one of its programs; client programs may be elsewhere on `PATH`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        program(&self.bin, name)
    }

    /// Whether a loadable library, such as `pg_stat_statements`, is installed.
    pub(crate) fn has_library(&self, name: &str) -> bool {
        let Some(dir) = first_line(Command::new(self.bin.join("pg_config")).arg("--pkglibdir"))
            // Debian's server package has no pg_config of its own.
            .map(PathBuf::from)
            .or_else(|| Some(self.bin.parent()?.join("lib")))
        else {
            return false;
        };
        ["so", "dylib"].iter().any(|ending| dir.join(format!("{name}.{ending}")).exists())
    }

    /// Looks at one directory: `None` when it has no server programs.
    fn at(bin: &Path) -> Result<Option<Postgres>, LabError> {
        // pg_basebackup is a client program: the one on `PATH` will do.
        let all_there = ["postgres", "initdb"].iter().all(|name| bin.join(name).is_file());
        if !all_there {
            return Ok(None);
        }
        let Some(line) = first_line(Command::new(bin.join("postgres")).arg("--version")) else {
            return Ok(None);
        };
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", "... 18beta1"
        let version = line.split_whitespace().nth(2).unwrap_or_default().to_string();
        let digits: String = version.chars().take_while(|char| char.is_ascii_digit()).collect();
        match digits.parse::<u32>() {
            Ok(major) if (OLDEST..=NEWEST).contains(&major) => Ok(Some(Postgres {
                bin: fs::canonicalize(bin).unwrap_or_else(|_| bin.to_path_buf()),
                version,
                major,
            })),
            _ => Err(LabError::PostgresVersion { path: bin.to_path_buf(), version }),
        }
    }
}

/// The path of a program in `bin`, else its bare name, to be found on `PATH`.
pub(crate) fn program(bin: &Path, name: &str) -> PathBuf {
    let path = bin.join(name);
    if path.is_file() { path } else { PathBuf::from(name) }
}

/// Where PostgreSQL's programs may be.
fn candidates() -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    if let Some(dir) = first_line(Command::new("pg_config").arg("--bindir")) {
        found.insert(PathBuf::from(dir));
    }
    if let Some(path) = std::env::var_os("PATH") {
        found.extend(std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()));
    }
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let bin = entry.path().join(below);
                if bin.join("postgres").is_file() {
                    found.insert(bin);
                }
            }
        }
    }
    found.insert(PathBuf::from("/usr/local/pgsql/bin"));
    found.into_iter().collect()
}

/// The first line that a command prints, if it succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_string()).filter(|line| !line.is_empty())
}
