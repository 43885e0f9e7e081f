//! Parse, analyze, route: whatever the text is, the walk over the tree ends without a
//! panic, and what it says of foreign tables agrees with the pass over the text that
//! decides whether a statement is looked at at all.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pgspan_sql::catalog::CatalogSnapshot;
use pgspan_sql::{analyze, ask, effect, parse, quote, rewrite};

/// Longer ones take too long for a fuzzer, and are no other: in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

fn catalog() -> &'static CatalogSnapshot {
    static CATALOG: OnceLock<CatalogSnapshot> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let tables: HashSet<String> = words(&["f", "remote_orders", "Größe", "a b"]);
        let functions: HashMap<String, bool> = [
            ("count", true), ("sum", true), ("now", false), ("lower", true), ("unnest", true), ("random", false),
        ]
        .map(|(name, safe)| (name.to_owned(), safe))
        .into();
        CatalogSnapshot::new(tables, functions, words(&["mine"]), words(&["@@@"]))
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        return;
    }
    let _ = parse::lex(text);
    let _ = effect::effect(data, true);
    let _ = effect::may_leave_failure(data);
    if let Ok(analysis) = analyze::analyze(text, catalog()) {
        let _ = ask::fingerprints_of(&analysis, catalog());
        // A name that analysis finds is a name that the text was searched for.
        if analysis.tables.iter().any(|table| catalog().is_foreign_name(&table.name)) {
            assert!(catalog().may_name_foreign_table(data), "{text}");
        }
        // Replaced by itself, every table leaves a statement that parses.
        let name = |at: usize| analysis.tables.get(at).map(|table| table.sql_name());
        let schema = |at: usize| {
            analysis.tables.get(at).map(|table| table.schema.clone().unwrap_or("public".to_owned()))
        };
        if let Ok(spliced) = rewrite::splice(text, &analysis, schema, name) {
            assert!(parse::parse(&spliced).is_some(), "{text}\n{spliced}");
        }
    }
    let _ = (quote::ident(text), quote::literal(text));
});
