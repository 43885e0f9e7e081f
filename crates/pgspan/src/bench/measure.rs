//! One measurement: peers that take turns round by round, and the targets that the
//! medians of their rounds are held against.

use serde::Serialize;

use super::pgbench::{Pgbench, Protocol, Round, Script, Target};
use crate::demo::DemoError;

/// One who takes part in a measurement.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `pgspan`, `postgres_fdw`, `PgBouncer`, `PostgreSQL`.
    pub system: &'static str,
    /// Simple or prepared.
    pub protocol: Protocol,
    /// Who is asked; `None` when it is not installed.
    pub target: Option<Target>,
}

/// What of two peers is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Medians of p50: the ratio may be at most the bound.
    P50,
    /// Medians of the rate: the ratio must be at least the bound.
    Rate,
    /// Connections at the orders server: at most the bound, nobody to compare with.
    Connections,
}

/// A target of one peer, relative to another.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Index of the peer that is judged.
    pub peer: usize,
    /// Index of the one it is compared with.
    pub against: usize,
    /// What is compared.
    pub figure: Figure,
    /// The bound.
    pub bound: f64,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Its name.
    pub name: String,
    /// What is run.
    pub script: Script,
    /// Sessions at once.
    pub clients: usize,
    /// Who takes part.
    pub peers: Vec<Peer>,
    /// What is aimed at.
    pub goals: Vec<Goal>,
}

/// What one peer reached: medians over its rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Reached {
    /// The system.
    pub system: &'static str,
    /// Simple or prepared.
    pub protocol: Protocol,
    /// Median of the rounds' medians, in milliseconds.
    pub p50_ms: Option<f64>,
    /// Median of the rounds' 99th percentiles, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Median of the rounds' rates.
    pub per_second: Option<f64>,
    /// The most connections of its own seen at the orders server.
    pub orders_connections_max: Option<u64>,
    /// Every round.
    pub rounds: Vec<Round>,
}

/// A target, and whether it was met.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Index of the peer that is judged.
    pub peer: usize,
    /// Who it was compared with.
    pub against: String,
    /// What was compared.
    pub figure: Figure,
    /// The ratio, or the number of connections; `None` when a peer is missing.
    pub measured: Option<f64>,
    /// The bound.
    pub bound: f64,
    /// Whether it was met.
    pub met: Option<bool>,
}

/// A measurement and what it found.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Sessions at once.
    pub clients: usize,
    /// The strategies that pgspan says it used.
    pub strategy: Option<String>,
    /// Whether pgspan and direct postgres_fdw gave the same rows.
    pub same: Option<bool>,
    /// Each peer.
    pub peers: Vec<Reached>,
    /// Each target.
    pub verdicts: Vec<Verdict>,
}

/// How long and how often.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Effort {
    /// Rounds of each peer.
    pub rounds: usize,
    /// Seconds of each round.
    pub seconds: u32,
}

/// Looks at the orders server while a round runs.
pub trait Watch {
    /// A round begins.
    fn begin(&mut self) -> Result<(), DemoError>;
    /// Looks; a peer other than pgspan is told by connections made in this round.
    fn look(&mut self, system: &str) -> Result<(), DemoError>;
    /// The most that was seen in this round.
    fn end(&mut self) -> u64;
}

impl Measurement {
    /// Runs it: every peer in every round, another one first each time.
    pub fn run(
        &self,
        pgbench: &Pgbench,
        effort: Effort,
        mut watch: Option<&mut dyn Watch>,
    ) -> Result<Measured, DemoError> {
        let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); self.peers.len()];
        let mut connections: Vec<Option<u64>> = vec![None; self.peers.len()];
        for round in 0..effort.rounds {
            for turn in 0..self.peers.len() {
                let place = (round + turn) % self.peers.len();
                let peer = &self.peers[place];
                let Some(target) = &peer.target else { continue };
                if let Some(watch) = &mut watch {
                    watch.begin()?;
                }
                let mut tick = || match &mut watch {
                    Some(watch) => watch.look(peer.system),
                    None => Ok(()),
                };
                rounds[place].push(pgbench.round(
                    target,
                    &self.script,
                    peer.protocol,
                    self.clients,
                    effort.seconds,
                    &mut tick,
                )?);
                if let Some(watch) = &mut watch {
                    connections[place] = connections[place].max(Some(watch.end()));
                }
            }
        }
        let peers: Vec<Reached> = self
            .peers
            .iter()
            .zip(rounds)
            .zip(connections)
            .map(|((peer, rounds), connections)| Reached {
                system: peer.system,
                protocol: peer.protocol,
                p50_ms: median(rounds.iter().map(|round| round.times.p50_ms)),
                p99_ms: median(rounds.iter().map(|round| round.times.p99_ms)),
                per_second: median(rounds.iter().map(|round| round.per_second)),
                orders_connections_max: connections,
                rounds,
            })
            .collect();
        let verdicts = self.goals.iter().map(|goal| verdict(goal, &peers)).collect();
        Ok(Measured {
            name: self.name.clone(),
            clients: self.clients,
            strategy: None,
            same: None,
            peers,
            verdicts,
        })
    }
}

fn verdict(goal: &Goal, peers: &[Reached]) -> Verdict {
    let (own, other) = (&peers[goal.peer], &peers[goal.against]);
    let ratio = |own: Option<f64>, other: Option<f64>| {
        own.zip(other).filter(|(_, other)| *other > 0.0).map(|(own, other)| own / other)
    };
    let (measured, met) = match goal.figure {
        Figure::P50 => {
            let ratio = ratio(own.p50_ms, other.p50_ms);
            (ratio, ratio.map(|ratio| ratio <= goal.bound))
        }
        Figure::Rate => {
            let ratio = ratio(own.per_second, other.per_second);
            (ratio, ratio.map(|ratio| ratio >= goal.bound))
        }
        Figure::Connections => {
            let count = own.orders_connections_max.map(|count| count as f64);
            (count, count.map(|count| count <= goal.bound))
        }
    };
    Verdict {
        peer: goal.peer,
        against: format!("{} {}", other.system, other.protocol.as_str()),
        figure: goal.figure,
        measured,
        bound: goal.bound,
        met,
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;

    fn reached(p50: Option<f64>, rate: Option<f64>) -> Reached {
        Reached {
            system: "x",
            protocol: Protocol::Simple,
            p50_ms: p50,
            p99_ms: None,
            per_second: rate,
            orders_connections_max: Some(8),
            rounds: Vec::new(),
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn targets_are_bounds_of_ratios() {
        let peers = [reached(Some(1.0), Some(90.0)), reached(Some(2.0), Some(100.0))];
        let goal = |figure, bound| Goal { peer: 0, against: 1, figure, bound };
        for (goal, met) in [
            (goal(Figure::P50, 0.5), true),
            (goal(Figure::P50, 0.4), false),
            (goal(Figure::Rate, 0.9), true),
            (goal(Figure::Rate, 1.0), false),
            (goal(Figure::Connections, 8.0), true),
            (goal(Figure::Connections, 7.0), false),
        ] {
            assert_eq!(verdict(&goal, &peers).met, Some(met), "{goal:?}");
        }
        let missing = [reached(Some(1.0), None), reached(None, None)];
        assert_eq!(verdict(&goal(Figure::P50, 0.5), &missing).met, None);
    }
}
