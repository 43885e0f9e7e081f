//! One line of JSON for each test; what raises is broken whoever plays it.

use serde_json::{Value, json};

/// One of the statements that all drivers run.
pub struct Statement {
    /// What the record is called.
    pub name: String,
    /// With `$1`.
    pub sql: String,
    /// Texts, integers, nulls.
    pub params: Vec<Value>,
    /// The SQLSTATE it must fail with.
    pub error: Option<String>,
}

/// The common statements.
pub fn statements() -> Vec<Statement> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../../statements.json")).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    all.iter()
        .map(|one| Statement {
            name: text(&one["name"]).unwrap(),
            sql: text(&one["sql"]).unwrap(),
            params: one["params"].as_array().cloned().unwrap_or_default(),
            error: text(&one["error"]),
        })
        .collect()
}

/// Prints a record.
pub fn emit(name: &str, value: Value) {
    println!("{}", json!({"test": name, "value": value}));
}

/// Prints a record of a common statement, which is broken when it fails otherwise
/// than the data file says.
pub fn judged(name: &str, statement: &Statement, state: Option<String>, value: Value) {
    if state == statement.error {
        emit(name, value);
    } else {
        let why = format!("SQLSTATE {state:?}, wanted {:?}: {value}", statement.error);
        println!("{}", json!({"test": name, "broken": why}));
    }
}

/// An environment variable.
pub fn env(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// libpq's words for the player, or for the source past everything.
pub fn place(source: bool) -> String {
    let (host, port, database) = if source {
        (env("SOURCE_HOST"), env("SOURCE_PORT"), "clients_source".to_owned())
    } else {
        (env("PGHOST"), env("PGPORT"), env("PGDATABASE"))
    };
    format!("postgresql://{}:{}@{host}:{port}/{database}", env("PGUSER"), env("PGPASSWORD"))
}
