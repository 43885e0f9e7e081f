//! The guide through the gateway: by hand, by `pgspan demo`, and by `pgspan
//! verify`, which must leave nothing behind. Speed is not judged here.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use pgspan_lab::{GatewayOptions, Lab, LabOptions};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgspan");

fn report(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout);
    assert!(report.is_ok(), "no report: {output:?}");
    report.unwrap()
}

/// The marks that do not depend on the machine's speed, and every answer.
fn assert_right(report: &Value) {
    assert_eq!(report["error"], Value::Null, "{report:#}");
    for mark in &report["marks"].as_array().unwrap()[..7] {
        assert_eq!(mark["ok"], true, "{mark}");
    }
    let queries = report["queries"].as_array().unwrap();
    assert_eq!(queries.len(), 8);
    for query in queries {
        assert_eq!(query["same"], true, "differs from postgres_fdw: {query:#}");
    }
    assert!(!report["explain"].as_array().unwrap().is_empty());
}

#[test]
fn the_demo_answers_as_postgres_fdw_does() {
    let output = Command::new(PROGRAM).args(["demo", "--json", "--runs", "5"]).output().unwrap();
    assert_right(&report(&output));
}

#[test]
fn verify_works_on_running_clusters_and_leaves_nothing() {
    let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
    let gateway = lab.start_gateway(&GatewayOptions::new(PROGRAM), &mut |_| {}).unwrap();
    let state = lab.state().clone();
    let everything = "SELECT string_agg(name, ',' ORDER BY name) FROM (
        SELECT nspname AS name FROM pg_namespace UNION ALL
        SELECT extname FROM pg_extension UNION ALL
        SELECT srvname FROM pg_foreign_server UNION ALL
        SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384) names";
    let seen = |lab: &Lab| -> Vec<String> {
        ["users", "orders"]
            .iter()
            .map(|cluster| {
                let server = lab.server(&format!("{cluster}-writer")).unwrap();
                lab.psql(server, &server.database, everything).unwrap()
            })
            .collect()
    };
    let before = seen(&lab);
    let address = |name: &str| state.server(name).unwrap().address.to_string();
    let own_gateway = [
        ("--users-writer", address("users-writer")),
        ("--users-reader", address("users-replica")),
        ("--orders-writer", address("orders-writer")),
    ];
    let running_gateway = [("--config", gateway.config.display().to_string())];
    for options in [&own_gateway[..], &running_gateway[..]] {
        let mut command = Command::new(PROGRAM);
        command.args(["verify", "--json", "--runs", "5"]);
        for (name, value) in options {
            command.args([*name, value.as_str()]);
        }
        let output = command.env("PGPASSWORD", &state.password).output().unwrap();
        assert_right(&report(&output));
        assert_eq!(seen(&lab), before, "{options:?}");
    }
    let refused = Command::new(PROGRAM)
        .args(["verify", "--config"])
        .arg(&gateway.config)
        .env("PGPASSWORD", "not it")
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert!(!String::from_utf8_lossy(&refused.stderr).contains("not it"), "{refused:?}");
    lab.stop().unwrap();
}

#[test]
fn the_guides_variables_lead_to_the_gateway() {
    let dir = std::env::temp_dir().join(pgspan_lab::random_name("pgspan-env-").unwrap());
    let script = r#"
        set -e
        trap '"$1" lab down --dir "$2" >&2' EXIT
        "$1" lab up --dir "$2" --set limits.keys_max=5000 >&2
        eval "$("$1" lab env --dir "$2")"
        psql -X -w -At -h $USERS_WRITER -U postgres -d usersdb -c 'SELECT pg_is_in_recovery()'
        psql -X -w -At -h $USERS_READER -U postgres -d usersdb -c 'SELECT pg_is_in_recovery()'
        psql -X -w -At -h $ORDERS_WRITER -U postgres -d ordersdb -c 'SELECT count(*) FROM orders'
        "$1" lab status --dir "$2" >&2
    "#;
    let output = Command::new("sh").args(["-c", script, "sh", PROGRAM]).arg(&dir).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "f\nt\n0\n", "{output:?}");
    assert!(output.status.success(), "{output:?}");
    assert!(!dir.exists());
}
