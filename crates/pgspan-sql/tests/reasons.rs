//! `docs/reasons.md` is what the list of causes says; their labels are nobody's twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pgspan_sql::cause::{Advice, Cause};

/// The page, from the list.
fn page() -> String {
    let mut by_advice: BTreeMap<Advice, Vec<&str>> = BTreeMap::new();
    for cause in Cause::ALL {
        by_advice.entry(cause.advice()).or_default().push(cause.label());
    }
    let mut text = "# Reasons · 原因\n\n\
        `SHOW pgspan.last_route` tells how the last statement was run and why, `SHOW pgspan.routes` \
        counts, and EXPLAIN says it of one statement. Whatever the reason, the rows are PostgreSQL's: a \
        reason costs time alone. This page lists all reasons by what can be done about them; \
        `UPDATE_PAGES=1 cargo test -p pgspan-sql --test reasons` writes it.\n\n\
        `SHOW pgspan.last_route` 显示上一条语句的执行方式和原因，`SHOW pgspan.routes` 统计次数，EXPLAIN \
        说明单条语句。无论原因如何，结果都与 PostgreSQL 一致，只影响耗时。本页按处理办法列出全部原因。\n"
        .to_owned();
    for (advice, mut labels) in by_advice {
        labels.sort_unstable();
        let english = advice.english().unwrap_or("As it should be: nothing is to be done.");
        let chinese = advice.chinese().unwrap_or("正常情况，无需处理。");
        text.push_str(&format!("\n## {english}\n\n{chinese}\n\n"));
        labels.iter().for_each(|label| text.push_str(&format!("- {label}\n")));
    }
    text
}

#[test]
fn the_page_is_what_the_list_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons.md");
    if std::env::var_os("UPDATE_PAGES").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == page(),
        "docs/reasons.md: UPDATE_PAGES=1 cargo test -p pgspan-sql --test reasons"
    );
}

/// A client may have any encoding, and another sign stands between psql's columns.
#[test]
fn hints_are_plain_ascii() {
    let mut hints = Cause::ALL.iter().filter_map(|cause| cause.advice().english());
    assert!(hints.all(|hint| hint.is_ascii() && !hint.contains('|')));
}

#[test]
fn labels_are_short_and_nobodys_twice() {
    let labels: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.label()).collect();
    assert_eq!(labels.len(), Cause::ALL.len());
    assert!(labels.iter().all(|label| label.len() <= 72 && !label.contains('\n')));
}
