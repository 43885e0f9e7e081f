//! What a run of the demo found, for people and for machines.

use serde::Serialize;

/// The names of one of the guide's ten success marks.
#[derive(Debug)]
pub struct MarkNames {
    /// Its title in the guide.
    pub zh: &'static str,
    /// What the guide expects.
    pub expected_zh: &'static str,
    /// Its title in English.
    pub en: &'static str,
    /// What the guide expects, in English.
    pub expected_en: &'static str,
}

const fn names(
    zh: &'static str,
    expected_zh: &'static str,
    en: &'static str,
    expected_en: &'static str,
) -> MarkNames {
    MarkNames { zh, expected_zh, en, expected_en }
}

/// The guide's ten success marks.
pub const MARKS: [MarkNames; 10] = [
    names("用户数据", "5个用户记录", "Users", "5 users"),
    names("订单数据", "初始6个订单记录", "Orders", "6 orders at first"),
    names(
        "FDW连接",
        "显示\"FDW配置成功\"和订单数量",
        "FDW",
        "\"FDW配置成功\" and the number of orders",
    ),
    names(
        "跨库查询",
        "能看到用户和订单的联表结果",
        "Cross-database",
        "users joined to orders, as PostgreSQL has it",
    ),
    names(
        "实时新增",
        "新插入的订单立即在跨库查询中可见",
        "New rows",
        "new orders are visible at once",
    ),
    names(
        "实时更新",
        "订单状态修改立即反映在外部表查询中",
        "Changed rows",
        "a changed status is visible at once",
    ),
    names(
        "聚合实时",
        "订单数量、总金额实时更新",
        "Live totals",
        "count and sum change with the orders",
    ),
    names(
        "查询延迟",
        "跨库查询响应时间 < 10ms",
        "Latency",
        "cross-database queries answer in < 10 ms",
    ),
    names("并发性能", "多次查询性能稳定", "Concurrency", "repeated queries stay steady"),
    names(
        "大数据量",
        "100+订单的聚合查询性能良好",
        "Volume",
        "the aggregate over 100+ orders stays fast",
    ),
];

/// The guide's bound on the latency of a cross-database query.
pub const LATENCY_LIMIT_MS: f64 = 10.0;

/// One success mark, checked.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    /// 1 to 10, as in the guide.
    pub number: usize,
    /// Its title in English.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was measured.
    pub measured: String,
}

/// Times of repeated runs, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// How many runs.
    pub runs: usize,
    /// Median.
    pub p50_ms: f64,
    /// 95 of 100 were at most this.
    pub p95_ms: f64,
    /// 99 of 100 were at most this.
    pub p99_ms: f64,
}

impl Times {
    /// Of measured times.
    pub fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (times.len() as f64 * share).ceil() as usize;
            times.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Times { runs: times.len(), p50_ms: at(0.50), p95_ms: at(0.95), p99_ms: at(0.99) }
    }
}

/// One cross-database query, through pgspan and directly.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Its name in English.
    pub name: &'static str,
    /// Its name in Chinese.
    #[serde(skip)]
    pub name_zh: &'static str,
    /// The statement.
    pub sql: String,
    /// Through pgspan.
    pub pgspan: Times,
    /// Directly at home, with its own postgres_fdw.
    pub direct: Option<Times>,
    /// pgspan's median divided by the direct one.
    pub ratio: Option<f64>,
    /// Whether both gave the same columns and rows.
    pub same: Option<bool>,
    /// The strategies that pgspan says it used.
    pub strategy: Option<String>,
}

/// The concurrency test.
#[derive(Debug, Clone, Serialize)]
pub struct Concurrency {
    /// Sessions at once.
    pub sessions: usize,
    /// Times over all sessions.
    pub times: Times,
    /// Queries per second, all sessions together.
    pub per_second: f64,
    /// Which attempt this was: an unsteady one is repeated.
    pub round: usize,
}

impl Concurrency {
    /// Whether the slow queries are not far from the usual one.
    pub fn is_steady(&self) -> bool {
        self.times.p95_ms <= LATENCY_LIMIT_MS.max(3.0 * self.times.p50_ms)
    }
}

/// The realtime experiment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Realtime {
    /// From the acknowledged INSERT to an answer that has it, in milliseconds.
    pub insert_visible_ms: Option<f64>,
    /// From the acknowledged UPDATE to an answer that has it, in milliseconds.
    pub update_visible_ms: Option<f64>,
    /// From the acknowledged DDL on the writer to its visibility on the reader.
    pub replication_ms: Option<f64>,
}

/// All of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether all ten marks hold.
    pub ok: bool,
    /// PostgreSQL's version at home.
    pub postgres_version: String,
    /// Round-trip time on every link, in microseconds.
    pub latency_us: u64,
    /// The marks that were reached.
    pub marks: Vec<Mark>,
    /// The realtime experiment.
    pub realtime: Realtime,
    /// Each cross-database query.
    pub queries: Vec<Compared>,
    /// The concurrency test.
    pub concurrency: Option<Concurrency>,
    /// The plan of test A.
    pub explain: Vec<String>,
    /// `SHOW pgspan.routes` at the end.
    pub routes: Vec<Vec<String>>,
    /// What stopped the run, if anything did.
    pub error: Option<String>,
}

impl Report {
    /// Notes one mark.
    pub fn mark(&mut self, number: usize, ok: bool, measured: impl Into<String>) {
        self.marks.push(Mark { number, name: MARKS[number - 1].en, ok, measured: measured.into() });
    }

    /// Adds the marks that were not reached, and the verdict.
    pub fn finish(&mut self, not_reached: &str) {
        for number in 1..=MARKS.len() {
            if !self.marks.iter().any(|mark| mark.number == number) {
                self.mark(number, false, not_reached);
            }
        }
        self.marks.sort_by_key(|mark| mark.number);
        self.ok = self.error.is_none() && self.marks.iter().all(|mark| mark.ok);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;

    #[test]
    fn percentiles() {
        let times = Times::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((times.p50_ms, times.p95_ms, times.p99_ms), (50.0, 95.0, 99.0));
        assert_eq!(Times::of(vec![]).p50_ms, 0.0);
    }

    #[test]
    fn a_mark_that_was_not_reached_fails() {
        let mut report = Report::default();
        report.mark(2, true, "6");
        report.finish("not reached");
        assert!(!report.ok);
        assert_eq!(report.marks.len(), 10);
        assert_eq!(report.marks[1].measured, "6");
    }
}
