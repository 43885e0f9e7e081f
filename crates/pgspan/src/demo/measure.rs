//! Latency of each cross-database query through pgspan and directly, and the
//! behaviour of many sessions at once.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::DemoError;
use super::guide::{self, statements};
use super::psql::Psql;
use super::report::{Compared, Concurrency, Times};
use super::show::Show;
use super::stage::{Place, Stage};

/// Sessions of the concurrency test.
const SESSIONS: usize = 8;
/// Queries of each.
const QUERIES_EACH: usize = 50;
/// Attempts at a steady round: another program may take the processor in one.
const ROUNDS: usize = 3;
/// Runs that warm caches up and are not counted.
const WARM_UP: usize = 10;
/// Runs of one side before it is the other's turn.
const BATCH: usize = 20;
/// The longest that one query is measured.
const MEASURE_LIMIT: Duration = Duration::from_secs(6);

/// Whether both answer with the same columns and rows. Where the statement
/// leaves the order of equals open, so does the comparison.
pub fn same(pgspan: &mut Psql, direct: &mut Psql, sql: &str) -> Result<bool, DemoError> {
    let (ours, theirs) = (pgspan.run(sql)?, direct.run(sql)?);
    Ok(ours.columns == theirs.columns && ours.sorted_rows() == theirs.sorted_rows())
}

/// `SHOW pgspan.routes`: strategy, reason, count. Nothing where it is unknown.
pub fn routes(psql: &mut Psql) -> Option<Vec<Vec<String>>> {
    psql.run("SHOW pgspan.routes;").ok().map(|output| output.rows)
}

/// How often each strategy was used.
pub fn strategies(psql: &mut Psql) -> Option<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for row in routes(psql)? {
        let count: u64 = row.get(2)?.parse().ok()?;
        *counts.entry(row.first()?.clone()).or_default() += count;
    }
    Some(counts)
}

/// The strategies used between two counts, most used first.
pub fn used_between(
    before: Option<BTreeMap<String, u64>>,
    after: Option<BTreeMap<String, u64>>,
) -> Option<String> {
    let (before, after) = (before?, after?);
    let mut used: Vec<(u64, String)> = after
        .into_iter()
        .map(|(name, count)| (count - before.get(&name).copied().unwrap_or(0).min(count), name))
        // The counting itself is a statement or two.
        .filter(|(count, _)| *count > 2)
        .collect();
    // What falls back reaches the orders through the gateway's own endpoint, which
    // relays it: that is part of falling back, not a strategy beside it.
    if used.iter().any(|(_, name)| name != "relay") {
        used.retain(|(_, name)| name != "relay");
    }
    used.sort_by(|a, b| b.cmp(a));
    let names: Vec<String> = used.into_iter().map(|(_, name)| name).collect();
    Some(names.join(", ")).filter(|names| !names.is_empty())
}

/// The guide's cross-database queries, each measured on both sides.
pub fn compare_all(stage: &Stage, show: &Show, runs: usize) -> Result<Vec<Compared>, DemoError> {
    show.line("");
    show.line(show.style.bold(format!(
        "── {}",
        show.t(
            "跨库查询延迟：pgspan 与直连 postgres_fdw（同一次运行，各一条长连接）",
            "latency: pgspan and direct postgres_fdw (same run, one lasting connection each)"
        )
    )));
    let one = |script: &str, index: usize| statements(script, &stage.fill).remove(index);
    let queries = [
        ("join", "基本联表查询", one(guide::JOIN, 0)),
        ("aggregate", "聚合统计查询", one(guide::AGGREGATE, 0)),
        ("customer tiers", "客户分级查询", one(guide::TIERS, 0)),
        ("one user's orders", "单个用户的订单", one(guide::AFTER, 0)),
        ("one user's totals", "单个用户的汇总", one(guide::AFTER, 1)),
        ("remote rows only", "只查外部表", one(guide::AFTER_UPDATE, 0)),
        ("count of the join", "联表计数", one(guide::REPEATED, 0)),
        ("average per user", "大数据量聚合", one(guide::BULK_AGGREGATE, 0)),
    ];
    let mut pgspan = stage.connect(Place::UsersReader)?;
    let mut direct = stage.connect_baseline(&stage.baseline.reader)?;
    let mut compared = Vec::new();
    for (name, name_zh, sql) in queries {
        compared.push(compare(&mut pgspan, &mut direct, name, name_zh, sql, runs)?);
    }
    table(show, &compared);
    Ok(compared)
}

fn compare(
    pgspan: &mut Psql,
    direct: &mut Psql,
    name: &'static str,
    name_zh: &'static str,
    sql: String,
    runs: usize,
) -> Result<Compared, DemoError> {
    let same = same(pgspan, direct, &sql)?;
    pgspan.time(&sql, WARM_UP)?;
    direct.time(&sql, WARM_UP)?;
    let before = strategies(pgspan);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while ours.len() < runs && (ours.is_empty() || began.elapsed() < MEASURE_LIMIT) {
        let batch = BATCH.min(runs - ours.len());
        ours.extend(pgspan.time(&sql, batch)?);
        theirs.extend(direct.time(&sql, batch)?);
    }
    let after = strategies(pgspan);
    let (ours, theirs) = (Times::of(ours), Times::of(theirs));
    Ok(Compared {
        name,
        name_zh,
        sql,
        ratio: (theirs.p50_ms > 0.0).then(|| ours.p50_ms / theirs.p50_ms),
        pgspan: ours,
        direct: Some(theirs),
        same: Some(same),
        strategy: used_between(before, after),
    })
}

fn table(show: &Show, compared: &[Compared]) {
    let columns = [
        show.t("查询", "query"),
        "pgspan p50",
        "p99",
        "postgres_fdw p50",
        "p99",
        show.t("比值", "ratio"),
        show.t("结果", "result"),
        show.t("策略", "strategy"),
    ];
    let rows: Vec<Vec<String>> = compared
        .iter()
        .map(|query| {
            let direct = |value: fn(&Times) -> f64| {
                query.direct.as_ref().map_or(String::new(), |times| format!("{:.2}", value(times)))
            };
            vec![
                show.t(query.name_zh, query.name).to_string(),
                format!("{:.2}", query.pgspan.p50_ms),
                format!("{:.2}", query.pgspan.p99_ms),
                direct(|times| times.p50_ms),
                direct(|times| times.p99_ms),
                query.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}×")),
                match query.same {
                    Some(true) => show.t("一致", "same").to_string(),
                    Some(false) => show.t("不一致", "DIFFERENT").to_string(),
                    None => String::new(),
                },
                query.strategy.clone().unwrap_or_else(|| "-".into()),
            ]
        })
        .collect();
    show.table(&columns.map(String::from), &rows);
    let runs = compared.iter().map(|query| query.pgspan.runs).min().unwrap_or_default();
    show.remark(show.style.dim(match show.lang {
        super::show::Lang::Zh => format!("毫秒，psql \\timing，每项至少 {runs} 次热运行"),
        super::show::Lang::En => {
            format!("milliseconds by psql's \\timing, at least {runs} warm runs each")
        }
    }));
}

/// The query of test B in several sessions at once.
pub fn concurrency(stage: &Stage, show: &Show) -> Result<Concurrency, DemoError> {
    let sql = statements(guide::REPEATED, &stage.fill).remove(0);
    let mut sessions = (0..SESSIONS)
        .map(|_| stage.connect(Place::UsersReader))
        .collect::<Result<Vec<Psql>, DemoError>>()?;
    for session in &mut sessions {
        session.time(&sql, WARM_UP)?;
    }
    let mut round = 1;
    let concurrency = loop {
        let one = at_once(&mut sessions, &sql, round)?;
        if one.is_steady() || round == ROUNDS {
            break one;
        }
        round += 1;
    };
    show.remark(show.style.dim(format!(
        "{}: {} × {}, p50 {:.2} ms, p95 {:.2} ms, {:.0}/s",
        show.t("并发（测试B的查询）", "concurrency (the query of test B)"),
        SESSIONS,
        QUERIES_EACH,
        concurrency.times.p50_ms,
        concurrency.times.p95_ms,
        concurrency.per_second
    )));
    Ok(concurrency)
}

/// Every session at the same time.
fn at_once(sessions: &mut [Psql], sql: &str, round: usize) -> Result<Concurrency, DemoError> {
    let count = sessions.len();
    let began = Instant::now();
    let results: Vec<Result<Vec<f64>, DemoError>> = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter_mut()
            .map(|session| scope.spawn(|| session.time(sql, QUERIES_EACH)))
            .collect();
        running
            .into_iter()
            .map(|session| {
                session.join().unwrap_or_else(|_| Err(DemoError::new("a session's thread died")))
            })
            .collect()
    });
    let elapsed = began.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for result in results {
        times.extend(result?);
    }
    Ok(Concurrency {
        sessions: count,
        per_second: times.len() as f64 / elapsed,
        times: Times::of(times),
        round,
    })
}
