//! How time and memory grow: Q1 over more and more orders, and a join over the border
//! between few rows and many.

use serde::Serialize;

use super::data::{self, HOME, Size};
use super::report::write;
use crate::bench::client::Client;
use crate::bench::race::median;
use crate::bench::stand::{At, Stand, progress};
use crate::bench::svg::{Line, Plot, Scale};
use crate::demo::DemoError;
use std::path::Path;
use std::time::Duration;

/// Orders of each point, relative to the report's own.
const GROWTH: [f64; 3] = [0.1, 1.0, 4.0];
/// Timed runs of each point.
const GROWTH_RUNS: usize = 3;
const BORDER_RUNS: usize = 5;
/// Points of the border in each power of ten.
const BORDER: [u64; 3] = [1, 2, 5];

/// One point.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Orders.
    pub orders: u64,
    /// pgspan's median, in seconds.
    pub pgspan: f64,
    /// The tuned postgres_fdw's, where it was asked.
    pub fdw_tuned: Option<f64>,
    /// The gateway's most memory.
    pub peak_bytes: Option<u64>,
    /// The route.
    pub route: String,
}

fn timed(
    client: &mut Client,
    sql: &str,
    runs: usize,
    cut: Duration,
) -> Result<Option<f64>, DemoError> {
    let mut times = Vec::new();
    for _ in 0..=runs {
        match client.run_within(sql, cut) {
            Ok(answer) => times.push(answer.seconds),
            Err(fault) if fault.is_cut() => return Ok(None),
            Err(fault) => return Err(fault.into()),
        }
    }
    // The first one warms up.
    Ok(median(&times[1..]))
}

fn route(client: &mut Client) -> Result<String, DemoError> {
    let answer = client.run("SHOW pgspan.last_route")?;
    Ok(answer.scalar().unwrap_or_default().to_owned())
}

/// Q1 at several sizes of the orders, with the same users.
pub fn growth(stand: &Stand, size: Size, cut: Duration) -> Result<Vec<Point>, DemoError> {
    let mut points = Vec::new();
    for factor in GROWTH {
        let orders = (size.orders as f64 * factor).round() as u64;
        let mut table = "orders".to_owned();
        if orders != size.orders {
            table = format!("orders_{orders}");
            data::more_orders(stand, &table, Size { orders, ..size })?;
        }
        let sql =
            include_str!("q1.sql").trim().replace("remote_orders", &format!("remote_{table}"));
        let mut client = stand.connect(At::Gateway, HOME)?;
        let counted = stand.reset_peak();
        let Some(pgspan) = timed(&mut client, &sql, GROWTH_RUNS, cut)? else {
            progress(format!("{orders} orders: cut after {} s", cut.as_secs()));
            continue;
        };
        let peak_bytes = stand.peak().filter(|_| counted);
        let route = route(&mut client)?;
        progress(format!("{orders} orders: {pgspan:.2} s, {route}"));
        points.push(Point { orders, pgspan, fdw_tuned: None, peak_bytes, route });
    }
    Ok(points)
}

/// A join of the first so many orders, from ten to all of them, beside postgres_fdw.
pub fn border(stand: &Stand, size: Size, cut: Duration) -> Result<Vec<Point>, DemoError> {
    let mut pgspan = stand.connect(At::Gateway, HOME)?;
    let mut fdw = stand.connect(At::Home, HOME)?;
    fdw.run("SET search_path = tuned_fdw, public")?;
    let mut points = Vec::new();
    let powers = (1..).map(|power| 10_u64.pow(power)).take_while(|power| *power <= size.orders);
    let steps = powers.flat_map(|power| BORDER.map(|step| step * power));
    for orders in steps.filter(|orders| *orders <= size.orders) {
        let sql = include_str!("border.sql").trim().replace("${orders}", &orders.to_string());
        let Some(own) = timed(&mut pgspan, &sql, BORDER_RUNS, cut)? else { break };
        let route = route(&mut pgspan)?;
        // Enough to see the shape; the large ones are in the table of Q1 to Q4.
        let fdw_tuned = if orders <= size.orders / 10 {
            timed(&mut fdw, &sql, BORDER_RUNS, cut)?
        } else {
            None
        };
        points.push(Point { orders, pgspan: own, fdw_tuned, peak_bytes: None, route });
    }
    Ok(points)
}

/// The steepest step from one point to the next: the orders that it leads to, how many
/// times more of them, and how many times more time.
pub fn steepest(points: &[Point]) -> Option<(u64, f64, f64)> {
    points
        .windows(2)
        .map(|pair| {
            let more = pair[1].orders as f64 / pair[0].orders as f64;
            (pair[1].orders, more, pair[1].pgspan / pair[0].pgspan)
        })
        .max_by(|left, right| (left.2 / left.1).total_cmp(&(right.2 / right.1)))
}

/// Writes the pictures.
pub fn pictures(folder: &Path, growth: &[Point], border: &[Point]) -> Result<(), DemoError> {
    let line = |name: &str, points: Vec<(f64, f64)>| Line { name: name.to_owned(), points };
    let time = |points: &[Point]| -> Vec<(f64, f64)> {
        points.iter().map(|point| (point.orders as f64, point.pgspan)).collect()
    };
    let x = |scale| ("orders".to_owned(), scale);
    let plot = Plot {
        title: "Q1: time".to_owned(),
        x: x(Scale::Linear),
        y: ("seconds".to_owned(), Scale::Linear),
        lines: vec![line("pgspan", time(growth))],
    };
    write(&folder.join("growth-time.svg"), &plot.svg())?;
    let memory = growth
        .iter()
        .filter_map(|point| Some((point.orders as f64, point.peak_bytes? as f64 / 1e6)))
        .collect();
    let plot = Plot {
        title: "Q1: the most memory of the gateway".to_owned(),
        x: x(Scale::Linear),
        y: ("MB".to_owned(), Scale::Linear),
        lines: vec![line("gateway", memory)],
    };
    write(&folder.join("growth-memory.svg"), &plot.svg())?;
    let tuned = border
        .iter()
        .filter_map(|point| Some((point.orders as f64, point.fdw_tuned? * 1e3)))
        .collect();
    let own = border.iter().map(|point| (point.orders as f64, point.pgspan * 1e3)).collect();
    let plot = Plot {
        title: "A join and its groups, over the border".to_owned(),
        x: x(Scale::Log),
        y: ("ms".to_owned(), Scale::Log),
        lines: vec![line("pgspan", own), line("postgres_fdw, tuned", tuned)],
    };
    write(&folder.join("border.svg"), &plot.svg())
}
