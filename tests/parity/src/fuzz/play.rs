//! Sessions of one world: PostgreSQL, and the gateway once for each strategy.

use bytes::Bytes;
use pgspan_wire::backend::ErrorFields;

use super::parameters::bind;
use crate::client::{Connection, Extended, Flow};
use crate::compare::{self, Manner, Names};
use crate::reply::Reply;
use crate::world::World;
use crate::{case_file::Endpoint, world::Player};

/// What `pgspan.strategy` is set to, in turn.
pub const STRATEGIES: [&str; 4] = ["auto", "home_join", "engine", "fallback"];
/// Queries whose joins explode are not played.
const TIMEOUT: &str = "set statement_timeout = '3s'";
/// For one that PostgreSQL has answered within that time.
const PATIENT: &str = "set statement_timeout = '30s'";
/// Rows of an answer that is worth comparing.
const ROWS_MAX: usize = 5_000;
/// SQLSTATE of a statement that took too long.
const CANCELLED: &str = "57014";

/// Other plans of PostgreSQL's own, each on top of the ones before it.
const OTHER_PLANS: [&str; 5] = [
    "do 'declare t regclass; begin for t in select oid from pg_class where relkind = ''f'' \
     loop execute format(''analyze %s'', t); end loop; end'",
    "set enable_hashjoin = off",
    "set enable_mergejoin = off",
    "set enable_nestloop = off; set enable_hashjoin = on",
    "set join_collapse_limit = 1; set from_collapse_limit = 1",
];
/// Back to the usual one.
const USUAL_PLAN: &str = "reset enable_hashjoin; reset enable_mergejoin; reset enable_nestloop; \
    reset join_collapse_limit; reset from_collapse_limit";

/// How a query is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As a simple Query.
    Simple,
    /// Prepared, with binary results.
    Binary,
    /// Prepared, with parameters in the place of typed constants.
    Parameters,
}

impl Way {
    /// Half of the queries are simple.
    pub fn of(at: usize) -> Way {
        match at % 4 {
            1 => Way::Parameters,
            3 => Way::Binary,
            _ => Way::Simple,
        }
    }
}

/// What became of one query.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Too large to be played.
    pub skipped: bool,
    /// PostgreSQL's SQLSTATE, when it refused.
    pub refused: Option<String>,
    /// Rows that PostgreSQL gave.
    pub rows: usize,
    /// The route that was taken under each strategy, and why.
    pub routes: Vec<(&'static str, String, String)>,
    /// Strategy and difference.
    pub wrong: Vec<(&'static str, String)>,
    /// PostgreSQL meets an impossible row under one of its plans and not under another.
    pub plan_decides: bool,
}

/// One query in so many is played under "fallback", which relays every query alike.
const FALLBACK_EVERY: usize = 7;
/// One in so many is played under "home_join" though "auto" has run it as a home join, or was
/// not asked.
const HOME_JOIN_EVERY: usize = 5;
/// So many queries run in a row, one of each [`Way`], under "auto" or under "engine".
const IN_A_ROW: usize = 4;

/// Open sessions.
pub struct Table<'w> {
    world: &'w World<'w>,
    oracle: Option<Connection>,
    gateways: Vec<(&'static str, Option<Connection>)>,
    /// Queries so far; `None`: each is played under every strategy.
    turns: Option<usize>,
}

/// Whether a strategy would do what another one has done, or does with the next query, and this
/// is not its turn.
fn repeats(strategy: &str, turn: usize, routes: &[(&'static str, String, String)]) -> bool {
    match strategy {
        "fallback" => !turn.is_multiple_of(FALLBACK_EVERY),
        "home_join" => {
            let otherwise = |(of, route, _): &(&str, String, String)| {
                *of == "auto" && route.as_str() != "home_join"
            };
            !turn.is_multiple_of(HOME_JOIN_EVERY) && !routes.iter().any(otherwise)
        }
        // Where the engine runs a query, both have it do so.
        "auto" => !(turn / IN_A_ROW).is_multiple_of(2),
        _ => (turn / IN_A_ROW).is_multiple_of(2),
    }
}

impl<'w> Table<'w> {
    /// No session yet.
    pub fn new(world: &'w World<'w>, strategies: &[&'static str]) -> Table<'w> {
        let gateways = strategies.iter().map(|name| (*name, None)).collect();
        Table { world, oracle: None, gateways, turns: None }
    }

    /// As [`Table::new`] with all strategies, of which "auto" and "engine" take turns, and the
    /// others, which would do what another one has done, have theirs now and then: more queries
    /// in the same time.
    pub fn sparing(world: &'w World<'w>) -> Table<'w> {
        Table { turns: Some(0), ..Table::new(world, &STRATEGIES) }
    }

    /// Plays a query.
    ///
    /// # Errors
    /// When a session cannot be opened.
    pub fn play(&mut self, sql: &str, ordered: bool, way: Way) -> Result<Verdict, String> {
        let mut verdict = Verdict::default();
        let oracle = {
            let session = open(&mut self.oracle, self.world, Player::Oracle, None)?;
            ask(session, sql, way)
        };
        verdict.rows = oracle.row_count();
        if oracle.broken.is_some() {
            self.oracle = None;
            return Err(format!("PostgreSQL: {}", oracle.summary()));
        }
        verdict.refused = oracle.error.as_ref().map(|error| error.sqlstate().to_owned());
        let unfair = oracle.error.as_ref().is_some_and(is_misled);
        if verdict.refused.as_deref() == Some(CANCELLED) || verdict.rows > ROWS_MAX || unfair {
            verdict.skipped = true;
            return Ok(verdict);
        }
        let turn = self.turns.as_mut().map(|turns| std::mem::replace(turns, *turns + 1));
        for (strategy, slot) in &mut self.gateways {
            if turn.is_some_and(|turn| repeats(strategy, turn, &verdict.routes)) {
                continue;
            }
            let session = open(slot, self.world, Player::Gateway, Some(strategy))?;
            let mut reply = ask(session, sql, way);
            if reply.error.as_ref().is_some_and(|e| e.sqlstate() == CANCELLED) {
                // PostgreSQL was in time, perhaps just so.
                session.simple(PATIENT);
                reply = ask(session, sql, way);
                session.simple(TIMEOUT);
            }
            if let Some(difference) = difference(&oracle, &reply, ordered) {
                let session = open(&mut self.oracle, self.world, Player::Oracle, None)?;
                if reads_unaggregated(session, sql) {
                    verdict.skipped = true;
                    return Ok(verdict);
                }
                if may_depend_on_plan(&oracle, &reply)
                    && another_plan_agrees(session, sql, way, |other| {
                        self::difference(other, &reply, ordered).is_none()
                    })
                {
                    verdict.plan_decides = true;
                } else {
                    verdict.wrong.push((strategy, difference));
                }
            }
            // A session that gave a wrong answer may be out of step: the next query gets
            // another one.
            if verdict.wrong.last().is_some_and(|wrong| wrong.0 == *strategy) {
                *slot = None;
                continue;
            }
            if let Some((route, reason)) = crate::runner::last_route(session) {
                verdict.routes.push((strategy, route, reason));
            }
        }
        Ok(verdict)
    }
}

/// Whether postgres_fdw has sent its source a name that is not in scope there: of a semi-join
/// (from PostgreSQL 17 on) it may print a column of the inner side. There is no answer to
/// compare with.
fn is_misled(error: &ErrorFields) -> bool {
    error.sqlstate() == "42P01"
        && error.field(b'W').is_some_and(|w| w.contains("remote SQL command"))
}

/// Whether postgres_fdw's plan forgets to aggregate: where nobody reads the aggregates of a
/// subquery, the planner replaces them by constants, and what is shipped as an aggregate
/// (`SELECT NULL::bigint FROM …`) is none, so that each row that is read becomes one. There
/// is no answer to compare with.
fn reads_unaggregated(session: &mut Connection, sql: &str) -> bool {
    let reply = session.simple(&format!("explain (verbose, costs off) {sql}"));
    let lines: Vec<String> = reply
        .results
        .iter()
        .flat_map(|result| &result.rows)
        .map(|row| {
            let line = row.first().and_then(Option::as_ref);
            line.map(|line| String::from_utf8_lossy(line).trim().to_owned()).unwrap_or_default()
        })
        .collect();
    // An aggregate without keys is a node whose statement has neither keys nor a call.
    let mut aggregates = false;
    lines.iter().any(|line| {
        if let Some(relations) = line.strip_prefix("Relations: ") {
            aggregates = relations.starts_with("Aggregate on ");
        }
        let remote = line.strip_prefix("Remote SQL: ").filter(|_| aggregates);
        remote.is_some_and(is_no_aggregate)
    })
}

/// Whether all that a statement of postgres_fdw's selects are NULLs, and nothing groups.
fn is_no_aggregate(remote: &str) -> bool {
    let list = remote.strip_prefix("SELECT ").and_then(|rest| rest.split(" FROM ").next());
    let nothing = |list: &str| list.split(", ").all(|item| item.starts_with("NULL"));
    list.is_some_and(nothing) && !remote.contains(" GROUP BY ") && !remote.contains(" HAVING ")
}

/// Whether one side alone met a value that cannot be computed (class 22): whether such a row
/// is met depends on the plan.
fn may_depend_on_plan(oracle: &Reply, gateway: &Reply) -> bool {
    let errors = [&oracle.error, &gateway.error];
    let impossible = |e: &&ErrorFields| e.sqlstate().starts_with("22");
    matches!(errors.map(|e| e.as_ref().filter(impossible)), [Some(_), None] | [None, Some(_)])
        && errors.iter().any(|e| e.is_none())
}

/// Asks PostgreSQL again under other plans until one agrees.
fn another_plan_agrees(
    session: &mut Connection,
    sql: &str,
    way: Way,
    agrees: impl Fn(&Reply) -> bool,
) -> bool {
    let found = OTHER_PLANS.iter().any(|plan| {
        let set = session.simple(plan);
        set.error.is_none() && set.broken.is_none() && agrees(&ask(session, sql, way))
    });
    session.simple(USUAL_PLAN);
    found
}

fn open<'s>(
    slot: &'s mut Option<Connection>,
    world: &World<'_>,
    player: Player,
    strategy: Option<&str>,
) -> Result<&'s mut Connection, String> {
    let session = match slot.take() {
        Some(session) => session,
        None => {
            let login = world.login(player, Endpoint::Writer)?;
            let mut session = Connection::open(&login).map_err(|reply| reply.summary())?;
            let mut first = vec![TIMEOUT.to_owned()];
            first.extend(strategy.map(|name| format!("set pgspan.strategy = '{name}'")));
            for sql in first {
                let reply = session.simple(&sql);
                if reply.error.is_some() || reply.broken.is_some() {
                    return Err(format!("{sql}: {}", reply.summary()));
                }
            }
            session
        }
    };
    Ok(slot.insert(session))
}

fn ask(session: &mut Connection, sql: &str, way: Way) -> Reply {
    let (text, values) = match way {
        Way::Simple => return session.simple(sql),
        Way::Binary => (sql.to_owned(), Vec::new()),
        Way::Parameters => bind(sql),
    };
    let params: Vec<Option<Bytes>> =
        values.into_iter().map(|(_, value)| Some(Bytes::from(value))).collect();
    let formats = vec![0; params.len()];
    let oids = vec![0; params.len()];
    session.extended(&Extended {
        sql: &text,
        param_oids: &oids,
        params: &params,
        param_formats: &formats,
        result_format: i16::from(way == Way::Binary),
        flow: Flow::Prepared,
    })
}

/// How the two differ. Of two errors the SQLSTATE counts: which of several impossible
/// rows is met first depends on the plan.
fn difference(oracle: &Reply, gateway: &Reply, ordered: bool) -> Option<String> {
    if let (Some(a), Some(b)) = (&oracle.error, &gateway.error) {
        let (a, b) = (a.sqlstate(), b.sqlstate());
        return (a != b).then(|| format!("PostgreSQL says {a}, the gateway says {b}"));
    }
    let names = Names::default();
    let manner = Manner { rowsort: !ordered, loose_context: true, loose_description: true };
    let found = compare::differences(oracle, gateway, (&names, &names), manner);
    (!found.is_empty()).then(|| found.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ResultSet;

    fn rows(values: &[&'static str]) -> Reply {
        let row = |value: &&'static str| vec![Some(Bytes::from_static(value.as_bytes()))];
        let result = ResultSet { rows: values.iter().map(row).collect(), ..ResultSet::default() };
        Reply { results: vec![result], ..Reply::default() }
    }

    fn error(sqlstate: &str) -> Reply {
        Reply { error: Some(ErrorFields::new("ERROR", sqlstate, "x")), ..Reply::default() }
    }

    #[test]
    fn what_selects_nulls_alone_and_does_not_group_is_no_aggregate() {
        for (remote, is) in [
            ("SELECT NULL::bigint FROM (public.e0 r1 INNER JOIN public.e2 r2 ON (TRUE))", true),
            ("SELECT NULL::bigint, NULL::int FROM public.e0", true),
            ("SELECT NULL::bigint FROM public.e0 GROUP BY k", false),
            ("SELECT count(*) FROM public.e0", false),
            ("SELECT NULL::bigint, sum(k) FROM public.e0", false),
        ] {
            assert_eq!(is_no_aggregate(remote), is, "{remote}");
        }
    }

    #[test]
    fn what_another_strategy_has_done_is_repeated_now_and_then() {
        let auto = |route: &str| vec![("auto", route.to_owned(), String::new())];
        let turns = FALLBACK_EVERY * HOME_JOIN_EVERY * 2 * IN_A_ROW;
        for turn in 0..turns {
            assert_ne!(repeats("auto", turn, &[]), repeats("engine", turn, &[]));
            assert!(!repeats("home_join", turn, &auto("engine")), "{turn}");
        }
        for strategy in STRATEGIES {
            let played = |turn: &usize| !repeats(strategy, *turn, &auto("home_join"));
            let played: Vec<usize> = (0..turns).filter(played).collect();
            let every = match strategy {
                "home_join" => 5,
                "fallback" => 7,
                _ => 2,
            };
            assert_eq!(turns / played.len(), every, "{strategy}");
            // In each way alike.
            for way in [Way::Simple, Way::Binary, Way::Parameters] {
                let so = played.iter().filter(|turn| Way::of(**turn) == way).count();
                let share = if way == Way::Simple { 2 } else { 4 };
                assert_eq!(so, played.len() / share, "{strategy} {way:?}");
            }
        }
    }

    #[test]
    fn what_counts_as_a_difference() {
        for (a, b, ordered, differs) in [
            (rows(&["1", "2"]), rows(&["2", "1"]), false, false),
            (rows(&["1", "2"]), rows(&["2", "1"]), true, true),
            (rows(&["1"]), rows(&["1", "1"]), false, true),
            (error("22003"), error("22003"), false, false),
            (error("22003"), error("22012"), false, true),
            (error("22003"), rows(&[]), false, true),
            (rows(&[]), error("22003"), false, true),
        ] {
            assert_eq!(difference(&a, &b, ordered).is_some(), differs, "{a:?} {b:?}");
        }
    }
}
