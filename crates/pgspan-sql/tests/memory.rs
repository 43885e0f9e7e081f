//! What analysis costs: memory at its peak, and memory that is kept with the text.
#![allow(clippy::print_stdout, clippy::missing_docs_in_private_items)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use pgspan_sql::analyze::{FROM_ITEMS_MAX, analyze};
use pgspan_sql::catalog::CatalogSnapshot;

/// Counts what is allocated now, and the most that was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes for each byte of a text at the peak.
const PEAK_MAX: usize = 150;
/// Bytes for each byte of a text that are kept.
const KEPT_MAX: usize = 10;
/// Bytes besides, whatever the text: of tables in FROM there may be so many only.
const FIXED_MAX: usize = 64 * 1024;

fn catalog() -> CatalogSnapshot {
    let functions = ["count", "sum", "coalesce"].map(|f| (f.to_owned(), true));
    let tables = HashSet::from(["remote_orders".to_owned()]);
    CatalogSnapshot::new(tables, HashMap::from(functions), HashSet::new(), HashSet::new())
}

fn texts() -> Vec<(&'static str, String)> {
    let list = |n: usize, item: &dyn Fn(usize) -> String, with: &str| {
        (0..n).map(item).collect::<Vec<_>>().join(with)
    };
    let again = |item: &str, n: usize, with: &str| vec![item; n].join(with);
    let tables = FROM_ITEMS_MAX - 2;
    let from = "from users u left join remote_orders o on o.user_id = u.user_id";
    vec![
        (
            "numbers",
            format!(
                "select count(*) {from} where u.user_id in ({})",
                list(20_000, &|n| n.to_string(), ", ")
            ),
        ),
        (
            "texts",
            format!(
                "select count(*) {from} where o.note in ({})",
                list(8_000, &|n| format!("'note {n}'"), ", ")
            ),
        ),
        (
            "columns",
            format!(
                "select {} {from}",
                list(5_000, &|n| format!("o.total_amount + {n} as c{n}"), ", ")
            ),
        ),
        ("names", format!("select {} {from}", list(8_000, &|n| format!("u.column_{n}"), ", "))),
        (
            "conditions",
            format!(
                "select 1 {from} where {}",
                list(4_000, &|n| format!("o.order_id <> {n}"), " and ")
            ),
        ),
        // The shortest texts for their nodes.
        ("short numbers", format!("select {} {from}", again("1", 20_000, ","))),
        ("short names", format!("select {} {from}", again("a", 20_000, ","))),
        ("short columns", format!("select {} {from}", again("u.a", 20_000, ","))),
        ("short calls", format!("select {} {from}", again("count(u.a)", 10_000, ","))),
        ("columns like functions", format!("select {} {from}", again("u.sum", 10_000, ","))),
        (
            "whole columns",
            format!("select {} from s.u, remote_orders o", again("s.u.a", 10_000, ",")),
        ),
        ("stars", format!("select {} {from}", again("u.*", 10_000, ","))),
        ("signs", format!("select {} {from}", again("+a", 20_000, ","))),
        ("casts", format!("select {} {from}", again("a::b", 10_000, ","))),
        ("elements", format!("select {} {from}", again("a[1]", 10_000, ","))),
        ("cases", format!("select {} {from}", again("case when a then b end", 5_000, ","))),
        ("rows", format!("select {} {from}", again("(a,b)", 10_000, ","))),
        ("choices", format!("select 1 {from} where {}", again("a=b", 10_000, " or "))),
        ("both", format!("select 1 {from} where {}", again("u.a=o.a", 10_000, " and "))),
        ("in", format!("select 1 {from} where a in({})", again("b", 20_000, ","))),
        ("values", format!("select 1 {from}, (values {}) v", again("(1)", 20_000, ","))),
        ("subqueries", format!("select {} {from}", again("(select)", 5_000, ","))),
        ("selects", format!("select {} {from}", again("(select a)", 5_000, ","))),
        ("groups", format!("select 1 {from} group by {}", again("()", 10_000, ","))),
        ("order", format!("select 1 {from} order by {}", again("a", 10_000, ","))),
        ("parentheses", format!("select {}1{} {from}", "(".repeat(5_000), ")".repeat(5_000))),
        ("tables", format!("select 1 {from},{}", again("a", tables, ","))),
        (
            "names of many tables",
            format!(
                "select {} {from},{}",
                list(20_000, &|n| format!("c{n}"), ","),
                list(tables, &|n| format!("t{n}"), ",")
            ),
        ),
        (
            "names of many levels",
            format!(
                "select {} {from} where {}",
                list(500, &|n| format!("c{n}"), ","),
                list(tables, &|n| format!("exists(select a{n} from b{n})"), " and ")
            ),
        ),
        (
            "functions of subqueries",
            format!("select {} {from},(select)s", again("s.sum", 10_000, ",")),
        ),
        (
            "with",
            format!("with {} select 1 {from}", list(2_000, &|n| format!("w{n} as(select)"), ",")),
        ),
    ]
}

/// Texts that are refused for what they would need.
fn refused() -> Vec<(&'static str, String)> {
    let again = |item: &str| vec![item; 20_000].join(",");
    let schemas: Vec<String> = (0..10_000).map(|n| format!("s{n}.t.a")).collect();
    let namesakes = vec!["t"; FROM_ITEMS_MAX - 1].join(",");
    vec![
        ("too many tables", format!("select 1 from remote_orders,{}", again("a"))),
        ("too many subqueries", format!("select 1 from remote_orders,{}", again("(select)a"))),
        ("too many functions", format!("select 1 from remote_orders,{}", again("sum()"))),
        (
            "schemas of namesakes",
            format!("select {} from remote_orders,{namesakes}", schemas.join(",")),
        ),
    ]
}

/// Analyzes a text, and looks at what that needs; whether the text is refused.
fn is_refused(what: &str, text: &str, catalog: &CatalogSnapshot) -> bool {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let analysis = analyze(text, catalog);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let kept = NOW.load(Ordering::Relaxed) - before;
    let each = |bytes: usize| bytes / text.len();
    let figures = format!("{} at the peak, {} kept", each(peak), each(kept));
    println!("{what}: {} bytes: for each {figures}", text.len());
    let most = |each_max: usize| each_max * text.len() + FIXED_MAX;
    assert!(peak <= most(PEAK_MAX) && kept <= most(KEPT_MAX), "{what}: {figures}");
    analysis.is_err()
}

#[test]
fn analysis_is_small_for_its_text() {
    let catalog = catalog();
    for (what, text) in texts() {
        assert!(!is_refused(what, &text, &catalog), "{what}");
    }
    for (what, text) in refused() {
        assert!(is_refused(what, &text, &catalog), "{what}");
    }
}
