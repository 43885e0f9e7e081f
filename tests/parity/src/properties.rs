//! `--properties`: each operation on each type over many generated values, extremes,
//! duplicates and NULLs among them, at PostgreSQL and through the gateway.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::case_file::{CaseFile, Endpoint, Side};
use crate::client::{Connection, Extended, Flow};
use crate::compare::{self, Manner, Names};
use crate::lab::Lab;
use crate::options::Options;
use crate::reply::Reply;
use crate::world::{self, Player, World};

/// Values of each table unless told otherwise.
pub const VALUES: usize = 100_000;
/// The strategy that is preferred.
const STRATEGY: &str = "engine";

/// A type, how its values are made from a number `x` below `d`, and its extremes.
struct Subject {
    name: &'static str,
    sql: &'static str,
    value: &'static str,
    extremes: &'static [&'static str],
    /// `min` and `max` exist in every version.
    extreme_aggregates: bool,
    /// `sum` and `avg` exist and are exact.
    sums: bool,
    /// So few values that an equality join is a product.
    few: bool,
    /// Its values are only passed on.
    carried_only: bool,
}

const PLAIN: Subject = Subject {
    name: "",
    sql: "",
    value: "",
    extremes: &[],
    extreme_aggregates: true,
    sums: false,
    few: false,
    carried_only: false,
};

const SUBJECTS: &[Subject] = &[
    Subject {
        name: "bool",
        sql: "bool",
        value: "x % 3 = 0",
        extremes: &["true", "false"],
        extreme_aggregates: false,
        few: true,
        ..PLAIN
    },
    Subject {
        name: "int2",
        sql: "int2",
        value: "(x * 7 % 65536 - 32768)::int2",
        extremes: &["32767", "-32768", "0", "-1", "1"],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "int4",
        sql: "int4",
        value: "(x * 85891 % 4294967296 - 2147483648)::int4",
        extremes: &["2147483647", "-2147483648", "0", "-1", "1"],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "int8",
        sql: "int8",
        value: "('x' || left(md5(x::text), 16))::bit(64)::int8",
        extremes: &[
            "9223372036854775807",
            "-9223372036854775808",
            "9007199254740993",
            "9007199254740992",
            "0",
        ],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "oid",
        sql: "oid",
        value: "(x * 85891 % 4294967296)::oid",
        extremes: &["0", "4294967295", "2147483648", "2147483647"],
        ..PLAIN
    },
    Subject {
        name: "uuid",
        sql: "uuid",
        value: "md5(x::text)::uuid",
        extremes: &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "80000000-0000-0000-0000-000000000000",
            "7fffffff-ffff-ffff-ffff-ffffffffffff",
        ],
        extreme_aggregates: false,
        ..PLAIN
    },
    Subject {
        name: "date",
        sql: "date",
        value: "date '1970-01-01' + (x * 113 % 5000000 - 2440000)::int",
        extremes: &[
            "infinity",
            "-infinity",
            "5874897-12-31",
            "4714-11-24 BC",
            "1969-12-31",
            "1970-01-01",
            "1999-12-31",
            "2000-01-01",
            "2262-04-12",
            "9999-12-31",
        ],
        ..PLAIN
    },
    Subject {
        name: "timestamp",
        sql: "timestamp",
        value: "timestamp 'epoch' + (x - d / 2) * interval '991 hours 1 second 7 microseconds'",
        extremes: &[
            "infinity",
            "-infinity",
            "294276-12-31 23:59:59.999999",
            "4714-11-24 00:00:00 BC",
            "1969-12-31 23:59:59.999999",
            "1970-01-01 00:00:00",
            "2262-04-11 23:47:16.854775",
            "2262-04-11 23:47:16.854776",
            "2000-01-01 00:00:00.000001",
        ],
        ..PLAIN
    },
    Subject {
        name: "timestamptz",
        sql: "timestamptz",
        value: "timestamptz 'epoch' + (x - d / 2) * interval '991 hours 1 second 7 microseconds'",
        extremes: &[
            "infinity",
            "-infinity",
            "294276-12-31 00:00:00+00",
            "4714-11-25 00:00:00+00 BC",
            "1969-12-31 23:59:59.999999+00",
            "2024-03-31 01:30:00+00",
            "2024-03-31 03:30:00+02",
            "2262-04-12 00:00:00+00",
        ],
        ..PLAIN
    },
    Subject {
        name: "bytea",
        sql: "bytea",
        value: "decode(left(md5(x::text), 2 * (6 + x % 11)::int), 'hex')",
        extremes: &["\\x", "\\x00", "\\x0000", "\\xff", "\\xff00", "\\x00ff"],
        extreme_aggregates: false,
        ..PLAIN
    },
    Subject {
        name: "text",
        sql: "text",
        value: "case x % 6 when 0 then md5(x::text) when 1 then 'é' || x \
                when 2 then repeat('日', (x % 5)::int) || x when 3 then ' ' || x || ' ' \
                when 4 then x::text else repeat('long ', (x % 9)::int) || x end",
        extremes: &["", " ", "  ", "a", "A", "é", "e\u{301}", "\u{1F600}", "\u{7f}", "NULL", "\\N"],
        ..PLAIN
    },
    Subject {
        name: "varchar",
        sql: "varchar(20)",
        value: "left(case x % 4 when 0 then md5(x::text) when 1 then 'é' || x \
                when 2 then x || ' ' else x::text end, 20)",
        extremes: &["", " ", "a", "a ", "A", "日本日本日本日本日本日本日本日本日本日本"],
        ..PLAIN
    },
    Subject {
        name: "char",
        sql: "char(12)",
        value: "left(case x % 4 when 0 then md5(x::text) when 1 then 'é' || x \
                when 2 then ' ' || x else x::text end, 12)",
        extremes: &["", "a", "A", " a", "é", "abcdefghijkl", "日本日本日本日本日本日本"],
        ..PLAIN
    },
    Subject {
        name: "numeric(12,2)",
        sql: "numeric(12,2)",
        value: "((x * 7919 % 1000000000) - 500000000) / 100.0",
        extremes: &["9999999999.99", "-9999999999.99", "0", "0.01", "-0.01", "NaN", "1"],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "numeric(12,2) finite",
        sql: "numeric(12,2)",
        value: "((x * 7919 % 1000000000) - 500000000) / 100.0",
        extremes: &["9999999999.99", "-9999999999.99", "0", "0.01", "-0.01", "1"],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "numeric(20,0)",
        sql: "numeric(20,0)",
        value: "('x' || left(md5(x::text), 16))::bit(64)::int8::numeric * 3",
        extremes: &["99999999999999999999", "-99999999999999999999", "0", "NaN"],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "numeric(38,10)",
        sql: "numeric(38,10)",
        value: "('x' || left(md5(x::text), 16))::bit(64)::int8::numeric * 1000000007 / 10000000000",
        extremes: &[
            "9999999999999999999999999999.9999999999",
            "-9999999999999999999999999999.9999999999",
            "0.0000000001",
            "0",
            "NaN",
        ],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "numeric(50,5)",
        sql: "numeric(50,5)",
        value: "('x' || left(md5(x::text), 16))::bit(64)::int8::numeric \
                * 100000000000000000000007 / 100000",
        extremes: &[
            "999999999999999999999999999999999999999999999.99999",
            "-999999999999999999999999999999999999999999999.99999",
            "0",
            "NaN",
        ],
        sums: true,
        ..PLAIN
    },
    Subject {
        name: "numeric",
        sql: "numeric",
        value: "round(('x' || left(md5(x::text), 16))::bit(64)::int8 * 10::numeric ^ (x % 60 - 40)::int, (x % 35)::int)",
        extremes: &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1e-16383",
            "1e131071",
            "-0.000",
            "0",
            "10000",
            "0.0001",
        ],
        carried_only: true,
        ..PLAIN
    },
    Subject {
        name: "time",
        sql: "time",
        value: "time '00:00' + x * interval '7.000013 seconds'",
        extremes: &["00:00:00", "24:00:00", "23:59:59.999999", "00:00:00.1"],
        carried_only: true,
        ..PLAIN
    },
    Subject {
        name: "json",
        sql: "json",
        value: "json_build_object('a', x, 'b', repeat('é', (x % 5)::int))",
        extremes: &["null", " [1 , 2]", "\"\\u00e9\""],
        carried_only: true,
        ..PLAIN
    },
    Subject {
        name: "jsonb",
        sql: "jsonb",
        value: "jsonb_build_object('b', x, 'a', repeat('é', (x % 5)::int))",
        extremes: &["null", " [1 , 2]", "1.50"],
        carried_only: true,
        ..PLAIN
    },
    Subject {
        name: "float8",
        sql: "float8",
        value: "x * 1.1e-5 * 10.0 ^ (x % 40 - 20)",
        extremes: &["NaN", "Infinity", "-Infinity", "-0", "1e300", "5e-324"],
        carried_only: true,
        ..PLAIN
    },
    Subject {
        name: "interval",
        sql: "interval",
        value: "(x - d / 2) * interval '1 month 3 days 00:00:07.000013'",
        extremes: &["0", "-1 day +1 hour", "178000000 years"],
        carried_only: true,
        ..PLAIN
    },
];

/// Operations: name, statement, whether its order is promised.
fn operations(subject: &Subject) -> Vec<(&'static str, String, bool)> {
    let one = "p join q on q.id = p.id";
    let carried = || format!("select q.id, p.v, q.v from {one}");
    // One of them with binary results.
    let passed_on = [("carried", carried(), false), ("carried again", carried(), false)];
    if subject.carried_only {
        return passed_on.into();
    }
    // With few values a join of all rows would be a product.
    let few = if subject.few { " and q.id <= 10" } else { "" };
    let mut list = vec![
        ("join", format!("select q.id, p.id, p.v, q.v from q join p on q.v = p.v{few}"), false),
        (
            "full join",
            format!(
                "select q.id, p.id from (select * from q where id % 3 = 0{few}) q \
                 full join (select * from p where id % 2 = 0) p on q.v = p.v"
            ),
            false,
        ),
        ("semi join", "select q.id from q where q.v in (select v from p where id % 2 = 0)".into(), false),
        (
            "anti join",
            "select q.id, q.v from q where not exists (select from p where p.v = q.v and p.id % 2 = 0)"
                .into(),
            false,
        ),
        ("group by", format!("select p.v, count(*), min(p.id), sum(p.id) from {one} group by p.v"), false),
        ("distinct", format!("select distinct p.v from {one}"), false),
        (
            "count",
            format!("select q.g, count(p.v), count(distinct p.v), count(*) from {one} group by q.g"),
            false,
        ),
        (
            "compare",
            "select count(*) filter (where q.v < p.v), count(*) filter (where q.v <= p.v), \
             count(*) filter (where q.v > p.v), count(*) filter (where q.v <> p.v), \
             count(*) filter (where q.v is distinct from p.v) from q join p on q.id = p.id"
                .into(),
            false,
        ),
        (
            "residual",
            "select q.id from q join p on q.g = p.g and q.v < p.v and p.id < 2000 and q.id < 5000".into(),
            false,
        ),
        ("order", format!("select p.v, p.id from {one} order by p.v, p.id"), true),
        (
            "top",
            format!("select p.v, p.id from {one} order by p.v desc nulls last, p.id limit 1000"),
            true,
        ),
        ("bottom", format!("select p.v, p.id from {one} order by p.v nulls first, p.id desc limit 6000"), true),
    ];
    if subject.extreme_aggregates {
        list.push((
            "min, max",
            format!("select q.g, min(p.v), max(p.v) from {one} group by q.g"),
            false,
        ));
        list.push((
            "min, max of all",
            format!("select min(p.v), max(p.v), min(q.v) from {one}"),
            false,
        ));
    }
    if subject.sums {
        let average = "select 0.2 * avg(p.v) from p where p.g = q.g and p.id % 2000 <> 0";
        list.push((
            "correlated average",
            format!("select q.id from q where q.v < ({average} and p.g < 950) and q.id <= 400"),
            false,
        ));
        list.push((
            "averages of few",
            "select q.id from q where q.id <= 400 and q.v >= \
             (select avg(p.v) from p where p.id = q.id and p.id % 2000 <> 0)"
                .into(),
            false,
        ));
        list.push((
            "correlated sum",
            "select q.id from q where q.v <> (select sum(p.v) - 1.5 from p where p.g = q.g and p.g % 2 = 0) and q.id <= 400"
                .into(),
            false,
        ));
        if subject.name.starts_with("numeric") {
            list.push((
                "arithmetic",
                format!(
                    "select q.g, sum(p.v * (1 - p.v)), sum(p.v + 0.125), sum(p.v), max(p.v * 1.50) \
                     from {one} where p.id % 2000 <> 0 group by q.g"
                ),
                false,
            ));
        }
        list.push((
            "sum, avg",
            format!("select q.g, sum(p.v), avg(p.v), sum(distinct p.v) from {one} group by q.g"),
            false,
        ));
        list.push((
            "sum of finite",
            format!(
                "select sum(p.v), avg(p.v), sum(q.v) from {one} where p.id % 2000 <> 0 and q.id % 2000 <> 0"
            ),
            false,
        ));
    }
    list.extend(passed_on);
    list
}

/// Two tables of one type: `p` at the source, `q` at home.
fn file(subject: &Subject, values: usize) -> CaseFile {
    let name: String =
        subject.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let extremes: Vec<String> =
        subject.extremes.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
    let fill = |table: &str, salt: &str| {
        format!(
            "create table {table} (id int primary key, g int, v {sql});\n\
             insert into {table} select i, i % 1000, case when i % 20 = 1 then null \
             when i % 2000 = 0 then (array[{extremes}]::{sql}[])[1 + (i / 2000) % {count}] \
             else {value} end \
             from generate_series(1, {values}) i, \
             lateral (select {values}::int8 / 2 as d) domain, \
             lateral (select ('x' || left(md5(i || '{salt}'), 8))::bit(32)::int8 % d as x) hash;\n\
             analyze {table};\n",
            sql = subject.sql,
            extremes = extremes.join(", "),
            count = extremes.len(),
            value = subject.value,
        )
    };
    let home = format!(
        "${{create_server}};\n\
         create foreign table p (id int, g int, v {}) server src options (schema_name 'public');\n{}",
        subject.sql,
        fill("q", "home")
    );
    CaseFile {
        name: format!("properties_{name}"),
        setups: vec![(Side::Source, fill("p", "source")), (Side::Home, home)],
        ..CaseFile::default()
    }
}

/// Two tables of integers.
pub fn integers(values: usize) -> CaseFile {
    let subject = SUBJECTS.iter().find(|subject| subject.name == "int4").unwrap_or(&SUBJECTS[0]);
    let mut file = file(subject, values);
    file.name = crate::interrupts::NAME.to_owned();
    file
}

/// What one operation on one type brought.
struct Tried {
    what: String,
    rows: usize,
    route: String,
    wrong: Option<String>,
}

/// Tries every operation on every type; true when all agree.
///
/// # Errors
/// When the servers cannot be used.
pub fn run(options: &Options, lab: &Lab) -> Result<bool, String> {
    let began = Instant::now();
    let subjects: Vec<&Subject> =
        SUBJECTS.iter().filter(|subject| options.wants(subject.name)).collect();
    let interrupts = options.wants(crate::interrupts::NAME);
    if subjects.is_empty() && !interrupts {
        return Err("no type has such a name".to_owned());
    }
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|_| {
                scope.spawn(|| -> Result<(), String> {
                    while let Some(subject) = subjects.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let tried = one(lab, subject, options.values)
                            .map_err(|why| format!("{}: {why}", subject.name))?;
                        print(subject, &tried);
                        all.lock().map_err(|error| error.to_string())?.extend(tried);
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "the harness panicked".to_owned())?)
    })?;
    let all = all.into_inner().map_err(|error| error.to_string())?;
    let mut wrong = all.iter().filter(|tried| tried.wrong.is_some()).count();
    let mut passed = all.len() - wrong;
    if interrupts {
        let found = crate::interrupts::run(lab, options.values)?;
        for trouble in &found.wrong {
            println!("FAILED {trouble}");
        }
        println!(
            "{} statements ended in the middle, {} quicker than that",
            found.ended, found.answered
        );
        wrong += found.wrong.len();
        passed += (found.ended + found.answered).saturating_sub(found.wrong.len());
    }
    let mut routes: Vec<&str> = all.iter().map(|tried| tried.route.as_str()).collect();
    routes.sort_unstable();
    let mut counts: Vec<String> = Vec::new();
    for chunk in routes.chunk_by(|a, b| a == b) {
        counts.push(format!("{} {}", chunk[0], chunk.len()));
    }
    println!(
        "{} pairs of type and operation over {} values on either side, {:.0} s; ran as: {}",
        all.len(),
        options.values,
        began.elapsed().as_secs_f64(),
        counts.join(", ")
    );
    println!("{passed} passed, {wrong} failed");
    Ok(wrong == 0)
}

fn print(subject: &Subject, tried: &[Tried]) {
    let mut text = format!("{}:", subject.name);
    for one in tried {
        text.push_str(&format!(" {} ({} rows, {}),", one.what, one.rows, one.route));
    }
    println!("{}", text.trim_end_matches(','));
    for one in tried {
        if let Some(wrong) = &one.wrong {
            println!("FAILED {} {}: {wrong}", subject.name, one.what);
        }
    }
}

fn one(lab: &Lab, subject: &Subject, values: usize) -> Result<Vec<Tried>, String> {
    let world = World::create(lab, &file(subject, values))?;
    let mut oracle = open(&world, Player::Oracle)?;
    let mut gateway = open(&world, Player::Gateway)?;
    let mut all = Vec::new();
    for (at, (what, sql, ordered)) in operations(subject).into_iter().enumerate() {
        // Every other one with binary results.
        let (a, b) = (ask(&mut oracle, &sql, at % 2 == 1), ask(&mut gateway, &sql, at % 2 == 1));
        if a.error.is_some() || a.broken.is_some() {
            return Err(format!("{what}: PostgreSQL: {}", a.summary()));
        }
        if a.row_count() == 0 {
            return Err(format!("{what}: no rows, so nothing is tried"));
        }
        let names = Names::default();
        let manner = Manner { rowsort: !ordered, ..Manner::default() };
        let found = compare::differences(&a, &b, (&names, &names), manner);
        // A session that gave a wrong answer may be out of step.
        let route = match found.is_empty() {
            false => {
                gateway = open(&world, Player::Gateway)?;
                "wrong".to_owned()
            }
            true => crate::runner::last_route(&mut gateway).unwrap_or_default().0,
        };
        all.push(Tried {
            what: what.to_owned(),
            rows: a.row_count(),
            route,
            wrong: (!found.is_empty()).then(|| format!("{}\n  {sql}", found.join("\n"))),
        });
    }
    drop((oracle, gateway));
    world::remove(world);
    Ok(all)
}

fn open(world: &World<'_>, player: Player) -> Result<Connection, String> {
    let login = world.login(player, Endpoint::Writer)?;
    let mut session = Connection::open(&login).map_err(|reply| reply.summary())?;
    let reply = session.simple(&format!("set pgspan.strategy = '{STRATEGY}'"));
    match reply.error.is_some() || reply.broken.is_some() {
        true => Err(reply.summary()),
        false => Ok(session),
    }
}

fn ask(session: &mut Connection, sql: &str, binary: bool) -> Reply {
    if !binary {
        return session.simple(sql);
    }
    session.extended(&Extended {
        sql,
        param_oids: &[],
        params: &[],
        param_formats: &[],
        result_format: 1,
        flow: Flow::Prepared,
    })
}
