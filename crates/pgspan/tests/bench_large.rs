//! `pgspan bench --large` and `--tpch` on a little data: every answer is compared, the
//! report says what was measured, and a kept lab is used again.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A directory for reports and, when asked, a lab; both go whatever the test does.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new() -> Place {
        Place { dir: std::env::temp_dir().join(pgspan_lab::random_name("pgspan-bench-").unwrap()) }
    }

    fn lab(&self) -> PathBuf {
        self.dir.join("lab")
    }

    fn bench(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pgspan"))
            .args(["bench", "--rounds", "1", "--cut", "60s"])
            .args(args)
            .arg("--out")
            .arg(self.dir.join("bench.json"))
            .output()
            .unwrap()
    }

    fn report(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.join(name)).unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new(env!("CARGO_BIN_EXE_pgspan"))
            .args(["lab", "down", "--dir"])
            .arg(self.lab())
            .output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ok(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    text
}

/// Every run of pgspan and of postgres_fdw gave PostgreSQL's own rows.
fn all_same(queries: &Value, count: usize) {
    let queries = queries.as_array().unwrap();
    assert_eq!(queries.len(), count);
    for query in queries {
        for run in query["runs"].as_array().unwrap() {
            if run["peer"] == "floor" {
                continue;
            }
            assert_eq!(run["answer"], "same", "{} {run}", query["query"]);
            assert!(run["seconds"].as_f64().unwrap() > 0.0, "{run}");
        }
    }
}

#[test]
fn a_kept_lab_is_loaded_once_and_every_answer_is_postgresqls() {
    let place = Place::new();
    let lab = place.lab();
    let keep = ["--large", "--scale", "0.002", "--lab-dir", lab.to_str().unwrap()];
    let loaded = ok(&place.bench(&[&keep[..], &["--load-only"]].concat()));
    assert!(loaded.contains("loading 10000 orders"), "{loaded}");
    let again = ok(&place.bench(&[&keep[..], &["--peers", "pgspan,fdw,fdw-tuned,floor"]].concat()));
    assert!(again.contains("already loaded") && !again.contains("loading 10000"), "{again}");
    let report = place.report("large.json");
    all_same(&report["queries"], 4);
    let first = &report["queries"][0]["runs"][0];
    assert_eq!(first["peer"], "pgspan");
    assert!(first["route"].as_str().unwrap().contains(':'), "{first}");
    if cfg!(target_os = "linux") {
        assert!(first["peak_bytes"].as_u64().unwrap() > 1_000_000, "{first}");
    }
    assert!(place.dir.join("large.md").exists());
}

#[test]
fn tpch_is_right_in_both_arrangements() {
    let place = Place::new();
    // Those that PostgreSQL itself is quick with when every table is foreign.
    let queries = "q1,q2,q3,q4,q5,q6,q7,q9,q11,q12,q13,q14,q15,q16,q18,q19,q22";
    let only = ["--queries", queries, "--peers", "pgspan,fdw"];
    ok(&place.bench(&[&["--tpch", "--scale", "0.01"][..], &only].concat()));
    let report = place.report("tpch.json");
    for arrangement in report["arrangements"].as_array().unwrap() {
        all_same(&arrangement["queries"], queries.split(',').count());
    }
    assert_eq!(report["arrangements"].as_array().unwrap().len(), 2);
}

#[test]
fn names_that_nobody_has_are_refused() {
    let place = Place::new();
    for (args, why) in [
        (["--large", "--peers", "oracle"], "there is no peer"),
        (["--tpch", "--queries", "q23"], "there is no query"),
        (["--tpch", "--scale", "0.001"], "at least 0.01"),
    ] {
        let output = place.bench(&args);
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(why), "{text}");
    }
}
