//! Settings drawn from the server's own list: set in one session, in another, between a
//! statement's Parse and its execution. Each statement is then compared as any case. And
//! default-deny: a setting that the gateway neither asks for nor is told, and that is not
//! listed here with a reason, fails the run.

use crate::case_file::{self, CaseFile};
use crate::dice::Dice;
use crate::lab::Lab;
use crate::options::Options;
use crate::runner;

/// Scenarios in one file.
const SCENARIOS: usize = 8;

/// Groups of `pg_settings` that change neither what a text means nor how values are printed.
const OTHER_CATEGORIES: &[(&str, &str)] = &[
    ("Autovacuum", "background work"),
    ("Vacuuming", "maintenance"),
    ("Connections and Authentication", "before a session"),
    ("Client Connection Defaults / Shared Library Preloading", "before a session"),
    ("Customized Options", "an extension's, whose functions are not served"),
    ("Developer Options", "tracing and repair; reserved for superusers"),
    ("Error Handling", "what follows a crash"),
    ("File Locations", "the server's files"),
    ("Lock Management", "sizes"),
    ("Preset Options", "fixed in the server"),
    ("Query Tuning / Genetic Query Optimizer", "which plan, not which rows"),
    ("Query Tuning / Planner Cost Constants", "which plan, not which rows"),
    ("Query Tuning / Planner Method Configuration", "which plan, not which rows"),
    ("Replication", "background work"),
    ("Reporting and Logging", "logs"),
    ("Resource Usage", "sizes"),
    ("Statistics", "counting"),
    ("Write-Ahead Log", "background work"),
];

/// Settings of the other groups that do not, each with the reason.
const OTHERS: &[(&str, &str)] = &[
    ("allow_alter_system", "ALTER SYSTEM"),
    ("check_function_bodies", "CREATE FUNCTION"),
    ("client_min_messages", "which notices: raised by home as it runs the statement"),
    ("createrole_self_grant", "CREATE ROLE"),
    ("cursor_tuple_fraction", "which plan, not which rows"),
    ("default_statistics_target", "ANALYZE"),
    ("default_table_access_method", "CREATE TABLE"),
    ("default_tablespace", "CREATE TABLE"),
    ("default_toast_compression", "stored form"),
    ("default_transaction_deferrable", "serializable transactions only"),
    ("default_transaction_read_only", "reads are allowed"),
    ("dynamic_library_path", "CREATE FUNCTION"),
    ("escape_string_warning", "a notice, which leads to home"),
    ("event_triggers", "DDL and login"),
    ("extension_control_path", "CREATE EXTENSION"),
    ("from_collapse_limit", "which plan, not which rows"),
    ("gin_fuzzy_search_limit", "home's own scans, as home runs the statement"),
    ("gin_pending_list_limit", "stored form"),
    ("icu_validation_level", "CREATE COLLATION"),
    ("idle_session_timeout", "between statements"),
    ("jit", "how, not what"),
    ("join_collapse_limit", "which plan, not which rows"),
    ("lc_messages", "texts of errors: raised by home as it runs the statement"),
    ("lo_compat_privileges", "large objects, which are not served"),
    ("lock_timeout", "home's own waits"),
    ("recursive_worktable_factor", "which plan, not which rows"),
    ("row_security", "tables with row security are not served"),
    ("session_replication_role", "triggers; rules of views fire always"),
    ("synchronize_seqscans", "order that nobody promised"),
    ("temp_tablespaces", "files"),
    ("transaction_deferrable", "of a transaction"),
    ("transaction_isolation", "asked for by name"),
    ("transaction_read_only", "reads are allowed"),
    ("vacuum_failsafe_age", "maintenance"),
    ("vacuum_freeze_min_age", "maintenance"),
    ("vacuum_freeze_table_age", "maintenance"),
    ("vacuum_multixact_failsafe_age", "maintenance"),
    ("vacuum_multixact_freeze_min_age", "maintenance"),
    ("vacuum_multixact_freeze_table_age", "maintenance"),
];

/// Groups from which settings are drawn, and settings that are left alone: they end sessions
/// or make PostgreSQL refuse everything.
const DRAWN: &str = "SELECT name, vartype, coalesce(array_to_string(enumvals, '|'), ''), coalesce(min_val, ''), coalesce(max_val, '') \
 FROM pg_settings WHERE context IN ('user', 'superuser') AND (category LIKE '%Locale and Formatting' OR category LIKE '%Statement Behavior' \
 OR category LIKE 'Version and Platform%' OR category LIKE '%Other Planner Options') \
 AND name !~ 'timeout|^transaction_|tablespace|search_path|access_method|client_min_messages|client_encoding|^vacuum_|restrict_' ORDER BY name";

/// Values of settings that are texts.
const TEXTS: &[(&str, &[&str])] = &[
    ("DateStyle", &["ISO, MDY", "ISO, DMY", "German", "SQL, YMD", "Postgres, MDY"]),
    ("TimeZone", &["UTC", "Asia/Tokyo", "America/New_York"]),
    ("timezone_abbreviations", &["Default", "Australia", "India"]),
    ("lc_monetary", &["C", "C.UTF-8"]),
    ("lc_numeric", &["C", "C.UTF-8"]),
    ("lc_time", &["C", "C.UTF-8"]),
    ("default_text_search_config", &["pg_catalog.simple", "pg_catalog.english"]),
];

/// Conditions and outputs that some setting makes mean something else.
const STATEMENTS: &[&str] = &[
    "select u.user_id from users u join remote_orders o on o.order_id = u.user_id where o.note = null order by 1",
    "select u.user_id from users u join remote_orders o on o.order_id = u.user_id where o.day > '03/02/2024' order by 1",
    "select u.user_id, o.placed from users u join remote_orders o on o.order_id = u.user_id where o.placed > '2024-01-05 15:00 EST' order by 1",
    "select u.user_id, o.placed from users u join remote_orders o on o.order_id = u.user_id where o.placed < '2024-02-01 12:00' order by 1",
    "select u.user_id, o.day, o.ratio from users u join remote_orders o on o.order_id = u.user_id where o.order_date - timestamp '2024-01-06' > '-1 12:00:00' order by 1",
    "select u.user_id, (sqrt(2::float8) / 3)::text from users u join remote_orders o on o.order_id = u.user_id where o.note is distinct from (1::float8 / 3)::text order by 1",
    "select u.user_id, '\\x0001'::bytea::text from users u join remote_orders o on o.order_id = u.user_id where o.note is distinct from '\\x0001'::bytea::text order by 1",
    "select u.user_id, '{NULL}'::text[] from users u join remote_orders o on o.order_id = u.user_id where o.note = any ('{NULL,fast}'::text[]) order by 1",
    "select u.user_id, 'a\\\\b' from users u join remote_orders o on o.order_id = u.user_id where o.note is distinct from 'x\\y' order by 1",
    "select u.user_id, quote_ident('pending'), '12.3'::money::text from users u join remote_orders o on o.order_id = u.user_id order by 1",
    "select u.user_id, timestamp '2024-01-05 12:00' at time zone 'EST', 'a' || sqrt(2::float8), quote_ident(o.order_status) from users u join remote_orders o on o.order_id = u.user_id order by 1",
    "select u.user_id, s.x::text, (s.y + o.order_id)::text from users u join remote_orders o on o.order_id = u.user_id, (select '\\x0001'::bytea as x, sqrt(2::float8) as y) s order by 1",
    "select u.user_id, o.note from users u join remote_orders o on o.order_id = u.user_id where u.tags <> '{}' order by 1",
];

/// Rows of texts.
fn rows(lab: &Lab, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let mut home = lab.connect(&lab.home, "postgres")?;
    let reply = home.simple(sql);
    if let Some(error) = reply.error {
        return Err(error.to_string());
    }
    let rows = reply.results.into_iter().flat_map(|r| r.rows);
    let text = |v: Option<bytes::Bytes>| {
        v.map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default()
    };
    Ok(rows.map(|row| row.into_iter().map(text).collect()).collect())
}

/// Settings of the server that are in no list; `asked` is the text of the gateway's question.
fn unknown(lab: &Lab, asked: &str) -> Result<Vec<String>, String> {
    const REPORTED: &[&str] = &[
        "TimeZone",
        "DateStyle",
        "IntervalStyle",
        "client_encoding",
        "standard_conforming_strings",
    ];
    let all = rows(
        lab,
        "SELECT name, category FROM pg_settings WHERE context NOT IN ('internal', 'postmaster') ORDER BY name",
    )?;
    let mut found = Vec::new();
    for row in all {
        let [name, category] = row.as_slice() else { continue };
        let listed = OTHER_CATEGORIES.iter().any(|(c, _)| category.starts_with(c))
            || OTHERS.iter().any(|(n, _)| n == name)
            || REPORTED.contains(&name.as_str())
            || asked.contains(&format!("current_setting('{name}'"));
        if !listed {
            found.push(format!("{name} ({category})"));
        }
    }
    Ok(found)
}

/// The text of the gateway's question, as its own prepared statements show it.
fn question(lab: &Lab) -> Result<String, String> {
    let shown = "SELECT coalesce(max(statement), '') FROM pg_prepared_statements WHERE statement LIKE '%current_setting(''search_path'')%'";
    let text = std::fs::read_to_string("tests/parity/cases/shop.inc").ok();
    let shop = text.as_deref().ok_or("run from the root of the tree")?;
    let file = case_file::parse(
        "settings_asked",
        &format!(
            "{shop}\nscenario the question\na strategy=home_join> {}\na> {shown}\n----\n",
            STATEMENTS[0]
        ),
    )?;
    let world = crate::world::World::create(lab, &file)?;
    let login = world.login(crate::world::Player::Gateway, crate::case_file::Endpoint::Writer)?;
    let mut session = crate::client::Connection::open(&login).map_err(|r| r.summary())?;
    // The first that the gateway has served.
    let asked = STATEMENTS.iter().find_map(|statement| {
        session.simple(statement);
        let asked = session.simple(shown).scalar()?;
        (!asked.is_empty()).then_some(asked)
    });
    drop(session);
    crate::world::remove(world);
    asked.ok_or_else(|| "no question of the gateway's is to be seen".to_owned())
}

/// A value of a setting.
fn value(dice: &mut Dice, row: &[String]) -> Option<String> {
    let [name, vartype, values, min, max] = row else { return None };
    Some(match vartype.as_str() {
        "bool" => (*dice.pick(&["on", "off"])).to_owned(),
        "enum" => {
            let values: Vec<&str> = values.split('|').collect();
            (*dice.pick(&values)).to_owned()
        }
        "string" => {
            let (_, values) = TEXTS.iter().find(|(n, _)| n == name)?;
            (*dice.pick(values)).to_owned()
        }
        _ => (*dice.pick(&[min.as_str(), max.as_str()])).to_owned(),
    })
}

/// One scenario: every statement under two values of a setting.
fn scenario(dice: &mut Dice, settings: &[Vec<String>], at: usize) -> String {
    loop {
        let row = dice.pick(settings).clone();
        let (Some(first), Some(second)) = (value(dice, &row), value(dice, &row)) else { continue };
        if first == second {
            continue;
        }
        let name = &row[0];
        let each = |step: &dyn Fn(usize, &str) -> String| -> String {
            STATEMENTS.iter().enumerate().map(|(i, text)| step(i, text)).collect()
        };
        return format!(
            "scenario protocol=text,binary {at} {name}: {first}, {second}\na> set {name} = '{first}'\n{}\
             b> set {name} = '{second}'\n{}a> set {name} = '{second}'\n{}a> set {name} = '{first}'\n{}----\n\n",
            each(&|i, text| format!(
                "a prepare p{i}> {text}\nrepeat 2 a> {text}\na execute p{i}>\n"
            )),
            each(&|_, text| format!("repeat 2 b> {text}\n")),
            each(&|i, text| format!("a execute p{i}>\na> {text}\n")),
            each(&|i, text| format!("a execute p{i}>\na> {text}\n")),
        );
    }
}

/// Plays so many scenarios.
///
/// # Errors
/// Servers that do not answer.
pub fn run(options: &Options, lab: &Lab, count: usize) -> Result<bool, String> {
    let unknown = unknown(lab, &question(lab)?)?;
    for setting in &unknown {
        println!("a setting that is in no list: {setting}");
    }
    let settings = rows(lab, DRAWN)?;
    let path = options.cases.join("shop.inc");
    let shop =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut dice = Dice::new(options.seed);
    let mut files: Vec<CaseFile> = Vec::new();
    for (n, from) in (0..count).step_by(SCENARIOS).enumerate() {
        let to = (from + SCENARIOS).min(count);
        let text: String = (from..to).map(|at| scenario(&mut dice, &settings, at)).collect();
        files.push(case_file::parse(&format!("settings_{n}"), &format!("{shop}\n{text}"))?);
    }
    let report = runner::run(lab, &files, options.threads, false);
    // What PostgreSQL makes of it is not foreseen.
    let differs = |wrong: &String| !wrong.contains("the file says");
    let mut failed = 0;
    for outcome in report.outcomes.iter().filter(|o| o.wrong.iter().any(differs)) {
        failed += 1;
        println!("FAILED {}", outcome.name);
        outcome.wrong.iter().filter(|w| differs(w)).take(4).for_each(|w| println!("    {w}"));
    }
    println!("{} scenarios, {failed} failed, {} settings unknown", count, unknown.len());
    Ok(failed == 0 && unknown.is_empty())
}
