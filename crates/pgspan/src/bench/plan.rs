//! What is measured, and the targets.

use pgspan_lab::Address;

use super::measure::{Figure, Goal, Measurement, Peer};
use super::pgbench::{Protocol, Script, Target};
use crate::demo::guide::{self, Fill, statements};

/// Sessions of the measurements with many.
const SESSIONS: usize = 32;
/// The rate of the aggregate with many sessions, relative to direct postgres_fdw.
const CONCURRENT_RATE: f64 = 1.5;
/// The rate of relayed statements, relative to PgBouncer's.
const RELAY_RATE: f64 = 0.9;

/// The query that stands for the others.
pub const AGGREGATE: &str = "aggregate";

/// The name of a query's measurement at a place.
pub fn name(query: &str, place: &str) -> String {
    format!("{query}, {place}")
}

/// Bounds of p50 relative to direct postgres_fdw in the same protocol.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    simple: f64,
    prepared: f64,
}

/// Without added latency.
pub const LOOPBACK: Bounds = Bounds { simple: 0.5, prepared: 0.7 };
/// With a round trip of 1 ms on every link.
pub const NETWORK: Bounds = Bounds { simple: 0.7, prepared: 0.7 };
/// The same when the sources do not wait for home's snapshot.
pub const NETWORK_PARALLEL: Bounds = Bounds { simple: 0.55, prepared: 0.55 };

/// Who can be asked.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The gateway's reader endpoint of `users`.
    pub pgspan: Target,
    /// The replica itself, with its own postgres_fdw.
    pub direct: Target,
    /// The gateway's writer endpoint of `users`.
    pub pgspan_writer: Target,
    /// The writer itself.
    pub postgres_writer: Target,
    /// The guide's variables.
    pub fill: Fill,
}

/// pgspan and direct postgres_fdw, each in both protocols.
fn against_fdw(scene: &Scene) -> Vec<Peer> {
    let peer =
        |system, protocol, target: &Target| Peer { system, protocol, target: Some(target.clone()) };
    vec![
        peer("pgspan", Protocol::Simple, &scene.pgspan),
        peer("pgspan", Protocol::Prepared, &scene.pgspan),
        peer("postgres_fdw", Protocol::Simple, &scene.direct),
        peer("postgres_fdw", Protocol::Prepared, &scene.direct),
    ]
}

fn statement(scene: &Scene, script: &str) -> Script {
    Script::Statement(statements(script, &scene.fill).into_iter().next().unwrap_or_default())
}

/// The guide's aggregate and its three join queries, one session each.
pub fn cross_database(scene: &Scene, place: &str, bounds: Bounds) -> Vec<Measurement> {
    [
        (AGGREGATE, guide::AGGREGATE),
        ("join", guide::JOIN),
        ("customer tiers", guide::TIERS),
        ("count of the join", guide::REPEATED),
    ]
    .into_iter()
    .map(|(name, script)| {
        let goal = |peer, against, bound| Goal { peer, against, figure: Figure::P50, bound };
        Measurement {
            name: self::name(name, place),
            script: statement(scene, script),
            clients: 1,
            peers: against_fdw(scene),
            goals: vec![goal(0, 2, bounds.simple), goal(1, 3, bounds.prepared)],
        }
    })
    .collect()
}

/// The aggregate in many sessions at once.
pub fn concurrency(scene: &Scene, source_connections_max: usize) -> Measurement {
    let rate = |peer, against| Goal { peer, against, figure: Figure::Rate, bound: CONCURRENT_RATE };
    let connections = |peer| Goal {
        peer,
        against: peer,
        figure: Figure::Connections,
        bound: source_connections_max as f64,
    };
    Measurement {
        name: format!("aggregate, {SESSIONS} sessions"),
        script: statement(scene, guide::AGGREGATE),
        clients: SESSIONS,
        peers: against_fdw(scene),
        goals: vec![rate(0, 2), rate(1, 3), connections(0), connections(1)],
    }
}

/// `pgbench -S`: statements that touch no foreign table, with one session and many.
pub fn relays(scene: &Scene, bouncer: Option<Address>) -> Vec<Measurement> {
    let bouncer = bouncer.map(|address| Target { address, ..scene.postgres_writer.clone() });
    [1, SESSIONS]
        .into_iter()
        .map(|clients| {
            let targets = [
                ("pgspan", Some(scene.pgspan_writer.clone())),
                ("PgBouncer", bouncer.clone()),
                ("PostgreSQL", Some(scene.postgres_writer.clone())),
            ];
            let peers = targets.into_iter().map(|(system, target)| Peer {
                system,
                protocol: Protocol::Simple,
                target,
            });
            Measurement {
                name: format!("relay (pgbench -S), {clients} session{}", plural(clients)),
                script: Script::SelectOnly,
                clients,
                peers: peers.collect(),
                goals: vec![Goal { peer: 0, against: 1, figure: Figure::Rate, bound: RELAY_RATE }],
            }
        })
        .collect()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
