//! What home and the sources answer to the gateway's questions: plans as JSON, what they
//! know of tables, what a postgres_fdw would ship. Whatever it is, it is read or refused.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use pgspan_sql::engine::tree::{self, Known};
use pgspan_sql::facts::{HomeFacts, SourceFacts};
use pgspan_sql::plan::{self, Needs};
use pgspan_sql::{analyze, catalog::CatalogSnapshot, remote};

/// What an honest home and source say of one foreign table.
struct Honest {
    home: HomeFacts,
    sources: Vec<Arc<SourceFacts>>,
    needs: Needs,
}

fn honest() -> Option<&'static Honest> {
    static HONEST: OnceLock<Option<Honest>> = OnceLock::new();
    let read = || {
        let home = HomeFacts::read(include_bytes!("../seeds/answers/home.json")).ok()?;
        let source = SourceFacts::read(include_bytes!("../seeds/answers/source.json")).ok()?;
        let names = ["far".to_owned()].into();
        let catalog = CatalogSnapshot::new(names, Default::default(), Default::default(), Default::default());
        let analysis = analyze::analyze("SELECT id FROM far WHERE id > 3", &catalog).ok()?;
        let needs = plan::needs(&analysis, &home).ok()?;
        Some(Honest { home, sources: vec![Arc::new(source)], needs })
    };
    HONEST.get_or_init(read).as_ref()
}

fuzz_target!(|data: &[u8]| {
    let honest = honest().expect("the seeds are answers");
    let _ = HomeFacts::read(data);
    let _ = SourceFacts::read(data);
    if let Ok(scans) = remote::foreign_scans(data) {
        for scan in scans {
            let _ = remote::remote_tables(&scan.remote_sql);
            let _ = remote::aliased_tables(&scan.remote_sql);
            let _ = remote::list_and_from(&scan.remote_sql);
            let _ = remote::columns(&scan.remote_sql);
        }
    }
    let relations: Vec<_> = honest.home.relations.iter().collect();
    let known = Known {
        needs: &honest.needs,
        relations: &relations,
        sources: &honest.sources,
        subqueries: &[],
        distinct_rows: true,
    };
    for columns in [1, 2] {
        let _ = tree::read(data, columns, &known);
    }
});
