//! The files beside the documentation are those of this program: the commented example
//! is read and names every key, the JSON Schema is the one that is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

use std::path::{Path, PathBuf};

use pgspan_gateway::config::Config;
use serde_json::Value;

fn file(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    (path, text)
}

/// Names of all properties, and their defaults where there is one.
fn keys(schema: &Value, found: &mut Vec<(String, Option<Value>)>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                for (name, property) in properties {
                    found.push((name.clone(), property.get("default").cloned()));
                }
            }
            map.values().for_each(|value| keys(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_example_is_read_and_names_every_key() {
    let (path, text) = file("pgspan.example.toml");
    let config = Config::read(&text, &path).unwrap();
    assert!(!config.clusters.is_empty());
    let mut known = Vec::new();
    keys(&Config::schema(), &mut known);
    assert!(known.len() > 20, "{known:?}");
    for (key, default) in known {
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .filter(|line| {
                let table = line.trim_start_matches('[');
                line.starts_with(&format!("{key} = "))
                    || (table.len() < line.len()
                        && table.split(['.', ']']).next() == Some(key.as_str()))
            })
            .collect();
        assert!(!lines.is_empty(), "pgspan.example.toml does not name {key}");
        // Limits stand there with their defaults, and are not commented out.
        if let Some(Value::Number(default)) = default {
            let line = format!("{key} = {default}");
            assert!(text.lines().any(|one| one == line), "pgspan.example.toml: {line}");
        }
    }
}

#[test]
fn the_example_uncommented_is_read_too() {
    let (path, text) = file("pgspan.example.toml");
    let all: Vec<&str> = text
        .lines()
        .map(|line| {
            let bare = line.trim_start_matches("# ");
            let key = bare.split(" = ").next().unwrap_or_default();
            let is_key =
                bare.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_key { bare } else { line }
        })
        .collect();
    Config::read(&all.join("\n"), &path).unwrap();
}

#[test]
fn the_schema_is_up_to_date() {
    let (_, text) = file("docs/pgspan.schema.json");
    let committed: Value = serde_json::from_str(&text).unwrap();
    assert!(
        committed == Config::schema(),
        "docs/pgspan.schema.json is old: pgspan check-config --schema > docs/pgspan.schema.json"
    );
}
