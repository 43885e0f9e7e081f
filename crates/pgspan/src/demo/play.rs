//! Plays the guide's steps 4 to 9 and checks its ten success marks.

use std::thread;
use std::time::{Duration, Instant};

use super::DemoError;
use super::guide::{self, statements};
use super::measure;
use super::psql::{Output, Psql};
use super::report::{LATENCY_LIMIT_MS, Report};
use super::show::{Lang, Show};
use super::stage::{Place, Stage};

/// How long a change may take to reach the replica.
const REPLICATION_LIMIT: Duration = Duration::from_secs(30);

/// A run of the guide.
pub struct Play<'a> {
    stage: &'a Stage,
    show: &'a Show,
    report: Report,
    runs: usize,
}

/// Plays it all; an error ends the run and is part of the report.
pub fn play(stage: &Stage, show: &Show, runs: usize) -> Result<Report, DemoError> {
    let mut play = Play {
        stage,
        show,
        report: Report { latency_us: stage.latency_us, ..Report::default() },
        runs,
    };
    let result = play.all();
    let mut report = play.report;
    match result {
        Err(error) if error.is_interrupted() => return Err(error),
        Err(error) => report.error = Some(error.to_string()),
        Ok(()) => {}
    }
    report.finish(show.t("未执行到", "not reached"));
    Ok(report)
}

impl Play<'_> {
    fn all(&mut self) -> Result<(), DemoError> {
        self.step_4_users()?;
        self.step_5_orders()?;
        self.step_6_fdw()?;
        let mut reader = self.step_7_queries()?;
        self.step_8_realtime(&mut reader)?;
        self.step_9_performance(&mut reader)
    }

    fn script(&self, script: &str) -> Vec<String> {
        statements(script, &self.stage.fill)
    }

    fn connect(&self, place: Place) -> Result<Psql, DemoError> {
        let psql = self.stage.connect(place)?;
        self.show.command(&psql.command_line);
        Ok(psql)
    }

    /// Runs a script and shows statements and results; returns the results.
    fn run(&self, psql: &mut Psql, script: &str) -> Result<Vec<Output>, DemoError> {
        self.script(script)
            .iter()
            .map(|sql| {
                self.show.sql(&hide(sql, &self.stage.fill.password));
                let output = psql.run(sql)?;
                self.show.result(&output);
                Ok(output)
            })
            .collect()
    }

    /// Runs a script without showing each statement.
    fn run_quietly(&self, psql: &mut Psql, script: &str) -> Result<Vec<Output>, DemoError> {
        self.script(script).iter().map(|sql| psql.run(sql)).collect()
    }

    fn inserts(&self, place: Place, script: &str) -> Result<String, DemoError> {
        let mut psql = self.connect(place)?;
        let outputs = self.run_quietly(&mut psql, script)?;
        let (count, inserts) =
            outputs.split_last().ok_or_else(|| DemoError::new("an empty script"))?;
        self.show.remark(format!("INSERT 0 1 × {}", inserts.len()));
        let sql = self.script(script);
        self.show.sql(sql.last().map_or("", String::as_str));
        self.show.result(count);
        Ok(count.cell(0, 0).to_string())
    }

    fn step_4_users(&mut self) -> Result<(), DemoError> {
        self.show.step("4", "初始化用户数据库", "fill the users database");
        let count = self.inserts(Place::UsersWriter, guide::USERS)?;
        let mut psql = self.stage.connect(Place::UsersWriter)?;
        self.report.postgres_version = psql.run("SHOW server_version;")?.cell(0, 0).to_string();
        self.report.mark(1, count == "5", count);
        Ok(())
    }

    fn step_5_orders(&mut self) -> Result<(), DemoError> {
        self.show.step("5", "初始化订单数据库", "fill the orders database");
        let count = self.inserts(Place::OrdersWriter, guide::ORDERS)?;
        self.report.mark(2, count == "6", count);
        Ok(())
    }

    fn step_6_fdw(&mut self) -> Result<(), DemoError> {
        self.show.step("6", "配置FDW（在写实例上）", "configure postgres_fdw (on the writer)");
        let mut psql = self.connect(Place::UsersWriter)?;
        let outputs = self.run(&mut psql, guide::FDW)?;
        let last = outputs.last().cloned().unwrap_or_default();
        let (text, count) = (last.cell(0, 0), last.cell(0, 1));
        self.report.mark(3, text == "FDW配置成功" && count == "6", format!("{text}, {count}"));
        self.stage.prepare_baseline()
    }

    /// Waits until what the writer did is visible on the reader.
    fn wait_for_reader(&mut self, reader: &mut Psql) -> Result<(), DemoError> {
        let began = Instant::now();
        // The foreign table was made last: what came before it is there too.
        let ready = "SELECT to_regclass('remote_orders') IS NOT NULL;";
        while reader.run(ready)?.cell(0, 0) != "t" {
            if began.elapsed() > REPLICATION_LIMIT {
                return Err(DemoError::new(
                    "the reader does not show what was done on the writer: is replication running?",
                ));
            }
            thread::sleep(Duration::from_millis(2));
        }
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        self.report.realtime.replication_ms = Some(ms);
        self.show.remark(self.show.style.dim(format!(
            "{} {ms:.1} ms",
            self.show.t(
                "只读实例已看到写实例的DDL和数据，等待",
                "the reader shows what the writer did, after"
            )
        )));
        Ok(())
    }

    fn step_7_queries(&mut self) -> Result<Psql, DemoError> {
        self.show.step(
            "7",
            "测试跨库查询（在只读实例上）",
            "cross-database queries (on the reader)",
        );
        let mut reader = self.connect(Place::UsersReader)?;
        self.wait_for_reader(&mut reader)?;
        self.heading("基本联表查询", "join");
        let join = self.run(&mut reader, guide::JOIN)?.remove(0);
        self.heading("聚合统计查询", "aggregate");
        self.run(&mut reader, guide::AGGREGATE)?;
        self.heading("客户分级查询", "customers by tier");
        self.run(&mut reader, guide::TIERS)?;

        let mut direct = self.stage.connect_baseline(&self.stage.baseline.reader)?;
        let mut same = true;
        for script in [guide::JOIN, guide::AGGREGATE, guide::TIERS] {
            let sql = self.script(script).remove(0);
            same &= measure::same(&mut reader, &mut direct, &sql)?;
        }
        let users: std::collections::BTreeSet<&str> =
            join.rows.iter().map(|row| row[0].as_str()).collect();
        let ok = same && join.rows.len() == 6 && users.len() == 5;
        let measured = format!(
            "{} {}, {} {}; {}",
            join.rows.len(),
            self.show.t("行", "rows"),
            users.len(),
            self.show.t("个用户", "users"),
            if same {
                self.show.t("与直连 postgres_fdw 逐行一致", "identical to postgres_fdw")
            } else {
                self.show.t("与直连 postgres_fdw 不一致", "NOT identical to postgres_fdw")
            }
        );
        self.report.mark(4, ok, measured);
        Ok(reader)
    }

    fn heading(&self, zh: &str, en: &str) {
        self.show.line(format!("  {}", self.show.style.bold(self.show.t(zh, en))));
    }

    fn step_8_realtime(&mut self, reader: &mut Psql) -> Result<(), DemoError> {
        self.show.step("8", "实时数据验证实验", "the realtime experiment");
        self.heading("步骤A: 记录当前状态", "A: before");
        let before = self.run(reader, guide::BEFORE)?.remove(0);
        let totals = self.script(guide::AFTER).remove(1);
        let totals_before = reader.run(&totals)?;

        self.heading("步骤B: 在源数据库添加新订单", "B: new orders at the source");
        let mut orders = self.connect(Place::OrdersWriter)?;
        let committed = self.change(&mut orders, guide::NEW_ORDERS)?;

        self.heading("步骤C: 立即验证实时性", "C: at once");
        let after = self.script(guide::AFTER);
        self.show.sql(&after[0]);
        let visible = self.until(reader, &after[0], |output| {
            ["Gaming Keyboard", "Webcam HD"]
                .iter()
                .all(|product| output.rows.iter().any(|row| row[1] == *product))
        })?;
        let insert_ms = committed.elapsed().as_secs_f64() * 1000.0;
        self.show.result(&visible.output);
        self.show.sql(&totals);
        let totals_after = reader.run(&totals)?;
        self.show.result(&totals_after);
        self.report.realtime.insert_visible_ms = Some(insert_ms);
        self.report.mark(
            5,
            before.rows.len() == 2 && visible.output.rows.len() == 4 && visible.tries == 1,
            self.visible(insert_ms, visible.tries),
        );

        self.heading("步骤D: 测试数据修改", "D: a changed row");
        let committed = self.change(&mut orders, guide::UPDATE)?;
        let sql = self.script(guide::AFTER_UPDATE).remove(0);
        self.show.sql(&sql);
        let visible = self.until(reader, &sql, |output| {
            output.rows.len() == 1 && output.cell(0, 1) == "delivered"
        })?;
        let update_ms = committed.elapsed().as_secs_f64() * 1000.0;
        self.show.result(&visible.output);
        self.report.realtime.update_visible_ms = Some(update_ms);
        self.report.mark(6, visible.tries == 1, self.visible(update_ms, visible.tries));

        let (from, to) = (
            (totals_before.cell(0, 1), totals_before.cell(0, 2)),
            (totals_after.cell(0, 1), totals_after.cell(0, 2)),
        );
        self.report.mark(
            7,
            from == ("2", "1059.97") && to == ("4", "1279.95"),
            format!(
                "{} {} → {}, {} {} → {}",
                self.show.t("订单数", "orders"),
                from.0,
                to.0,
                self.show.t("总金额", "sum"),
                from.1,
                to.1
            ),
        );
        Ok(())
    }

    /// Runs a script that changes rows; returns when the last change was
    /// acknowledged.
    fn change(&self, psql: &mut Psql, script: &str) -> Result<Instant, DemoError> {
        let mut committed = Instant::now();
        for sql in self.script(script) {
            self.show.sql(&sql);
            let output = psql.run(&sql)?;
            if !output.tag.is_empty() {
                committed = Instant::now();
            }
            self.show.result(&output);
        }
        Ok(committed)
    }

    fn visible(&self, ms: f64, tries: usize) -> String {
        match self.show.lang {
            Lang::Zh => format!("提交后 {ms:.2} ms 可见（第 {tries} 次查询）"),
            Lang::En => format!("visible {ms:.2} ms after the commit (query {tries})"),
        }
    }

    /// Repeats a query until its answer is as wanted, for a few seconds.
    fn until(
        &self,
        psql: &mut Psql,
        sql: &str,
        wanted: impl Fn(&Output) -> bool,
    ) -> Result<Visible, DemoError> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut tries = 0;
        loop {
            tries += 1;
            let output = psql.run(sql)?;
            if wanted(&output) || Instant::now() > deadline {
                return Ok(Visible { output, tries });
            }
        }
    }

    fn step_9_performance(&mut self, reader: &mut Psql) -> Result<(), DemoError> {
        self.show.step("9", "性能压力测试", "performance");
        self.heading("测试A: 查看查询执行计划", "A: the plan");
        let sql = self.script(guide::EXPLAIN).remove(0);
        self.show.sql(&sql);
        let plan = reader.run(&sql)?;
        self.report.explain = plan.rows.iter().map(|row| row[0].clone()).collect();
        for line in &self.report.explain {
            self.show.line(format!("    {line}"));
        }

        self.heading("测试B: 并发查询测试", "B: repeated and concurrent queries");
        let repeated = self.run(reader, guide::REPEATED)?;
        let counts_agree = repeated.iter().all(|output| output.cell(0, 0) == "8");
        let slowest = repeated.iter().map(|output| output.ms).fold(0.0, f64::max);

        self.heading("测试C: 大数据量模拟", "C: a hundred more orders");
        let mut orders = self.connect(Place::OrdersWriter)?;
        self.run(&mut orders, guide::BULK)?;
        let bulk = self.run(reader, guide::BULK_AGGREGATE)?.remove(0);
        let total: u64 = bulk.rows.iter().filter_map(|row| row[1].parse::<u64>().ok()).sum();

        let queries = measure::compare_all(self.stage, self.show, self.runs)?;
        let concurrency = measure::concurrency(self.stage, self.show)?;
        let all_same = queries.iter().all(|query| query.same != Some(false));

        let worst = queries.iter().max_by(|a, b| a.pgspan.p50_ms.total_cmp(&b.pgspan.p50_ms));
        if let Some(worst) = worst {
            let p99 = queries.iter().map(|query| query.pgspan.p99_ms).fold(0.0, f64::max);
            let p50 = worst.pgspan.p50_ms;
            let measured = match self.show.lang {
                Lang::Zh => {
                    format!("p50 最慢 {p50:.2} ms（{}），p99 最高 {p99:.2} ms", worst.name_zh)
                }
                Lang::En => {
                    format!("p50 {p50:.2} ms at most ({}), p99 {p99:.2} ms at most", worst.name)
                }
            };
            self.report.mark(8, p50 < LATENCY_LIMIT_MS, measured);
        }
        self.report.mark(
            9,
            counts_agree && concurrency.is_steady(),
            format!(
                "{} {slowest:.2} ms; {} {}: p50 {:.2}, p95 {:.2} ms, {:.0}/s",
                self.show.t("3次最慢", "slowest of 3"),
                concurrency.sessions,
                self.show.t("并发会话", "sessions at once"),
                concurrency.times.p50_ms,
                concurrency.times.p95_ms,
                concurrency.per_second
            ),
        );
        let volume = queries.iter().find(|query| query.sql.contains("AVG("));
        let p50 = volume.map_or(f64::MAX, |query| query.pgspan.p50_ms);
        self.report.mark(
            10,
            total == 108 && p50 < LATENCY_LIMIT_MS && all_same,
            format!(
                "{total} {}: {} {:.2} ms, p50 {p50:.2} ms",
                self.show.t("个订单", "orders"),
                self.show.t("首次", "first"),
                bulk.ms
            ),
        );
        self.report.queries = queries;
        self.report.concurrency = Some(concurrency);
        self.report.routes = measure::routes(reader).unwrap_or_default();
        Ok(())
    }
}

struct Visible {
    output: Output,
    tries: usize,
}

/// A statement as it may be shown.
fn hide(sql: &str, password: &str) -> String {
    sql.replace(&format!("password '{}'", password.replace('\'', "''")), "password '***'")
}
