//! The edges between crates, the names of their folders, and the walls around
//! dependencies, read from cargo's metadata.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::finding::{Finding, Rule};

/// The whole house: each crate, its folder, and the crates of the house that it
/// may use (test code included). A new row or a new edge needs a record in
/// `docs/decisions/`.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("pgspan-wire", "crates/pgspan-wire", &[]),
    ("pgspan-sql", "crates/pgspan-sql", &[]),
    ("pgspan-pool", "crates/pgspan-pool", &["pgspan-wire"]),
    ("pgspan-engine", "crates/pgspan-engine", &["pgspan-wire", "pgspan-sql"]),
    (
        "pgspan-gateway",
        "crates/pgspan-gateway",
        &["pgspan-wire", "pgspan-sql", "pgspan-pool", "pgspan-engine"],
    ),
    ("pgspan-lab", "crates/pgspan-lab", &[]),
    ("pgspan", "crates/pgspan", &["pgspan-gateway", "pgspan-lab", "pgspan-wire"]),
    ("pgspan-parity", "tests/parity", &["pgspan-wire"]),
    ("xtask", "xtask", &[]),
];

/// Dependencies that one crate alone may name: (prefix, crate).
const WALLS: &[(&str, &str)] =
    &[("datafusion", "pgspan-engine"), ("arrow", "pgspan-engine"), ("parquet", "pgspan-engine")];

/// What this module needs of a package.
#[derive(Debug)]
pub struct Package {
    name: String,
    folder: String,
    dependencies: Vec<String>,
}

/// Asks cargo for the packages of the workspace.
pub fn metadata(root: &Path) -> Result<Vec<Package>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let json: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = json["packages"].as_array().cloned().unwrap_or_default();
    Ok(packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            folder: Path::new(&text(&package["manifest_path"]))
                .parent()
                .and_then(|folder| folder.strip_prefix(root).ok())
                .map(|folder| folder.to_string_lossy().into_owned())
                .unwrap_or_default(),
            dependencies: package["dependencies"]
                .as_array()
                .map(|dependencies| {
                    dependencies.iter().map(|dependency| text(&dependency["name"])).collect()
                })
                .unwrap_or_default(),
        })
        .collect())
}

/// Compares the packages with [`TABLE`] and [`WALLS`].
pub fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, ..) in TABLE {
        if !packages.iter().any(|package| package.name == *name) {
            findings.push(Finding::new(
                Rule::Crate,
                *name,
                "in the table of xtask/src/edges.rs but not in the workspace",
            ));
        }
    }
    for package in packages {
        let Some((_, folder, allowed)) = TABLE.iter().find(|(name, ..)| *name == package.name)
        else {
            findings.push(Finding::new(
                Rule::Crate,
                &package.name,
                "a new crate: it needs a decision record and a row in xtask/src/edges.rs",
            ));
            continue;
        };
        if package.folder != *folder {
            findings.push(Finding::new(
                Rule::Crate,
                &package.name,
                format!("lies in {}, not in {folder}", package.folder),
            ));
        }
        for dependency in &package.dependencies {
            let ours = packages.iter().any(|other| other.name == *dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                findings.push(Finding::new(
                    Rule::Edge,
                    &package.name,
                    format!("may not use {dependency}"),
                ));
            }
            for (prefix, owner) in WALLS {
                let walled = dependency == prefix || dependency.starts_with(&format!("{prefix}-"));
                if walled && package.name != *owner {
                    findings.push(Finding::new(
                        Rule::Wall,
                        &package.name,
                        format!("only {owner} may name {dependency}"),
                    ));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(change: impl Fn(&mut Package)) -> Vec<Package> {
        TABLE
            .iter()
            .map(|(name, folder, allowed)| {
                let mut package = Package {
                    name: (*name).to_owned(),
                    folder: (*folder).to_owned(),
                    dependencies: allowed.iter().map(|name| (*name).to_owned()).collect(),
                };
                change(&mut package);
                package
            })
            .collect()
    }

    #[test]
    fn the_table_itself_is_fine() {
        assert!(check(&house(|_| ())).is_empty());
    }

    #[test]
    fn an_unlisted_edge_is_found() {
        let packages = house(|package| {
            if package.name == "pgspan-sql" {
                package.dependencies.push("pgspan-wire".to_owned());
            }
        });
        assert_eq!(check(&packages).len(), 1);
    }

    #[test]
    fn a_wall_is_found() {
        let packages = house(|package| {
            if package.name == "pgspan-gateway" {
                package.dependencies.push("arrow-array".to_owned());
            }
        });
        assert_eq!(check(&packages).len(), 1);
    }

    #[test]
    fn a_moved_crate_is_found() {
        let packages = house(|package| {
            if package.name == "pgspan" {
                package.folder = "bin/pgspan".to_owned();
            }
        });
        assert_eq!(check(&packages).len(), 1);
    }
}
