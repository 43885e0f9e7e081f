//! What analysis costs: memory at its peak, and memory that is kept with the text.
#![allow(clippy::print_stdout, clippy::missing_docs_in_private_items)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use pgspan_sql::analyze::analyze;
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

/// Bytes for each byte of a text at the peak: nearly all of it is libpg_query's typed tree,
/// of 608 bytes a node.
const PEAK_MAX: usize = 350;
/// Bytes for each byte of a text that are kept.
const KEPT_MAX: usize = 10;

fn catalog() -> CatalogSnapshot {
    let functions = ["count", "sum", "coalesce"].map(|f| (f.to_owned(), true));
    let tables = HashSet::from(["remote_orders".to_owned()]);
    CatalogSnapshot::new(tables, HashMap::from(functions), HashSet::new(), HashSet::new())
}

fn texts() -> Vec<(&'static str, String)> {
    let list = |n: usize, item: &dyn Fn(usize) -> String, with: &str| {
        (0..n).map(item).collect::<Vec<_>>().join(with)
    };
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
    ]
}

#[test]
fn analysis_is_small_for_its_text() {
    let catalog = catalog();
    for (what, text) in texts() {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let analysis = analyze(&text, &catalog);
        let peak = (PEAK.load(Ordering::Relaxed) - before) / text.len();
        let kept = (NOW.load(Ordering::Relaxed) - before) / text.len();
        println!("{what}: {} bytes: {peak} for each at the peak, {kept} kept", text.len());
        assert!(analysis.is_ok(), "{what}: {:?}", analysis.err());
        assert!(peak <= PEAK_MAX && kept <= KEPT_MAX, "{what}: {peak} at the peak, {kept} kept");
    }
}
