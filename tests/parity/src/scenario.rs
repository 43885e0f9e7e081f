//! Plays several sessions in order: transactions, races, prepared statements.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use crate::case_file::{Action, Endpoint, Param, Scenario, Side, Step, Variant, side};
use crate::client::Connection;
use crate::compare::{self, Manner};
use crate::reply::Reply;
use crate::report::Outcome;
use crate::runner::{agree, check_route, has_route, last_route, run_statement};
use crate::world::{Player, World};

/// What a step brought: its replies (several when it repeats), and the last route.
struct Brought {
    replies: Vec<Reply>,
    route: Option<(String, String)>,
}

/// Plays a scenario in its variants at both players.
pub fn play(world: &mut World<'_>, scenario: &Scenario, outcome: &mut Outcome) {
    let mut variants = scenario.marks.variants.clone();
    if variants.is_empty() {
        variants = vec![Variant::Simple, Variant::Text, Variant::Binary];
    }
    for variant in variants {
        let oracle = Stage::new(world, Player::Oracle, variant).play(scenario);
        let mut gateway = Stage::new(world, Player::Gateway, variant).play(scenario);
        for _ in 0..RETRIES_MAX {
            // Files are played side by side: any of them may have written at the source.
            if !refused(&oracle, &gateway) {
                break;
            }
            gateway = Stage::new(world, Player::Gateway, variant).play(scenario);
        }
        let (oracle, gateway) = match (oracle, gateway) {
            (Ok(oracle), Ok(gateway)) => (oracle, gateway),
            (Err(why), _) | (_, Err(why)) => {
                outcome.wrong.push(format!("[{}] {why}", variant.name()));
                continue;
            }
        };
        for ((step, oracle), gateway) in scenario.steps.iter().zip(&oracle).zip(&gateway) {
            let wrong = judge(world, scenario, step, variant, oracle, gateway, outcome);
            outcome.wrong.extend(wrong.into_iter().map(|wrong| {
                format!("[{}] line {}: {}\n{wrong}", variant.name(), step.line, step.text)
            }));
        }
        if gateway.len() < oracle.len() {
            outcome.wrong.push(format!(
                "[{}] the gateway's scenario ended after {} of {} steps",
                variant.name(),
                gateway.len(),
                oracle.len()
            ));
        }
    }
    for step in &scenario.steps {
        if matches!(step.action, Action::Run(..) | Action::Prepare(..) | Action::Start(_)) {
            outcome.statements.push(step.text.clone());
        }
    }
}

/// How often a scenario is played again in which a block could not be serialized.
const RETRIES_MAX: usize = 3;

/// Whether the gateway answered with a serialization failure where PostgreSQL did not.
fn refused(oracle: &Result<Vec<Brought>, String>, gateway: &Result<Vec<Brought>, String>) -> bool {
    let (Ok(oracle), Ok(gateway)) = (oracle, gateway) else { return false };
    let fails = |brought: &Brought| {
        let mut errors = brought.replies.iter().filter_map(|reply| reply.error.as_ref());
        errors.any(|error| error.sqlstate() == "40001")
    };
    oracle.iter().zip(gateway).any(|(a, b)| fails(b) && !fails(a))
}

fn judge(
    world: &mut World<'_>,
    scenario: &Scenario,
    step: &Step,
    variant: Variant,
    oracle: &Brought,
    gateway: &Brought,
    outcome: &mut Outcome,
) -> Vec<String> {
    let manner = Manner {
        rowsort: step.marks.rowsort || scenario.marks.rowsort,
        loose_context: step.marks.loose_context || scenario.marks.loose_context,
        loose_description: step.marks.loose_description || scenario.marks.loose_description,
    };
    let mut wrong = Vec::new();
    for (at, a) in oracle.replies.iter().enumerate() {
        wrong.extend(compare::unexpected(a, &step.expect));
        match gateway.replies.get(at) {
            Some(b) => wrong.extend(agree(world, a, b, manner)),
            None => wrong.push("the gateway gave no reply".to_owned()),
        }
        outcome.comparisons += 1;
        if !wrong.is_empty() {
            break;
        }
    }
    wrong.extend(check_route(
        &step.marks,
        variant,
        gateway.route.clone(),
        world.lab.routes_visible,
        outcome,
    ));
    wrong
}

/// One player's run.
struct Stage<'a, 'w> {
    world: &'a World<'w>,
    player: Player,
    variant: Variant,
    sessions: HashMap<String, Connection>,
    direct: HashMap<Side, Connection>,
    churns: Vec<Churn>,
}

/// SQL that is repeated in the background; ends on drop.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<'a, 'w> Stage<'a, 'w> {
    fn new(world: &'a World<'w>, player: Player, variant: Variant) -> Stage<'a, 'w> {
        Stage {
            world,
            player,
            variant,
            sessions: HashMap::new(),
            direct: HashMap::new(),
            churns: Vec::new(),
        }
    }

    fn play(mut self, scenario: &Scenario) -> Result<Vec<Brought>, String> {
        let mut brought = Vec::new();
        for step in &scenario.steps {
            let result = self.step(step).map_err(|why| format!("line {}: {why}", step.line))?;
            let ended = result.replies.iter().any(|reply| reply.broken.is_some());
            brought.push(result);
            if ended {
                break;
            }
        }
        Ok(brought)
    }

    fn step(&mut self, step: &Step) -> Result<Brought, String> {
        let text = self.world.realm(self.player).bound(&step.text)?;
        let mut replies = Vec::new();
        let mut asked = None;
        match &step.action {
            Action::Reset(side) => {
                let reply = self.direct(*side)?.simple(&text);
                if reply.error.is_some() || reply.broken.is_some() {
                    return Err(format!("reset: {}", reply.summary()));
                }
            }
            Action::Direct(side) => replies.push(self.direct(*side)?.simple(&text)),
            Action::Churn => {
                let churn = self.churn(&text)?;
                self.churns.push(churn);
            }
            Action::Pause => {
                let wait = text.parse().map_err(|_| "pause> milliseconds".to_owned())?;
                std::thread::sleep(Duration::from_millis(wait));
            }
            Action::CatchUp => self.world.lab.catch_up()?,
            Action::Connect(actor) => replies.extend(self.connect(actor, &text)?),
            Action::Disconnect(actor) => drop(self.sessions.remove(actor)),
            Action::Run(actor, times) => {
                let variant = if step.marks.simple { Variant::Simple } else { self.variant };
                let session = self.session(actor)?;
                for _ in 0..*times {
                    replies.push(run_statement(session, &text, &[], variant));
                }
                asked = Some(actor);
            }
            Action::Start(actor) => self.session(actor)?.start_simple(&text),
            Action::Finish(actor) => {
                replies.push(self.session(actor)?.finish());
                asked = Some(actor);
            }
            Action::Cancel(actor) => self.session(actor)?.cancel()?,
            Action::Prepare(actor, name, types) => {
                let params: Vec<Param> = types
                    .iter()
                    .map(|type_name| Param { type_name: type_name.clone(), value: None })
                    .collect();
                let sent = self.parameters(&params, false)?;
                let oids: Vec<u32> = sent.iter().map(|(oid, ..)| *oid).collect();
                replies.push(self.session(actor)?.prepare(name, &text, &oids));
            }
            Action::Execute(actor, name, rows_max, pieces) => {
                let values = execute_values(&text);
                let result_format = i16::from(self.variant == Variant::Binary);
                replies.push(self.session(actor)?.execute(
                    name,
                    &values,
                    (&[], result_format),
                    *rows_max,
                    *pieces,
                ));
                asked = Some(actor);
            }
            Action::Close(actor, name) => replies.push(self.session(actor)?.close(name)),
        }
        let visible = self.player == Player::Gateway && self.world.lab.routes_visible;
        let wanted = match &step.action {
            Action::Run(..) => has_route(&text, replies.last().unwrap_or(&Reply::default())),
            _ => replies.iter().all(|reply| reply.broken.is_none() && reply.error.is_none()),
        };
        let route = match asked {
            Some(actor) if visible && wanted => last_route(self.session(actor)?),
            _ => None,
        };
        Ok(Brought { replies, route })
    }

    fn parameters(
        &self,
        params: &[Param],
        binary: bool,
    ) -> Result<Vec<crate::world::Sent>, String> {
        self.world.realm(self.player).parameters(self.world.lab, params, binary)
    }

    fn direct(&mut self, side: Side) -> Result<&mut Connection, String> {
        match self.direct.entry(side) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(self.world.direct(self.player, side)?))
            }
        }
    }

    fn session(&mut self, actor: &str) -> Result<&mut Connection, String> {
        if !self.sessions.contains_key(actor) {
            let refused = self.connect(actor, "")?;
            if let Some(reply) = refused.first().filter(|reply| reply.error.is_some()) {
                return Err(format!("{actor}: {}", reply.summary()));
            }
        }
        self.sessions.get_mut(actor).ok_or_else(|| format!("{actor} has no session"))
    }

    /// Opens a session; a refusal is a reply like any other.
    fn connect(&mut self, actor: &str, text: &str) -> Result<Vec<Reply>, String> {
        let mut endpoint = Endpoint::Writer;
        let (mut settings, mut user, mut password, mut database) = (Vec::new(), None, None, None);
        for (name, value) in text.split(", ").filter_map(|setting| setting.trim().split_once('=')) {
            match (name, value) {
                ("endpoint", "reader") => endpoint = Endpoint::Reader,
                ("user", _) => user = Some(value.to_owned()),
                ("password", _) => password = Some(value.to_owned()),
                ("database", _) => database = Some(value.to_owned()),
                _ => settings.push((name.to_owned(), value.to_owned())),
            }
        }
        let mut login = self.world.login(self.player, endpoint)?;
        login.settings = settings;
        login.user = user.unwrap_or(login.user);
        login.password = password.unwrap_or(login.password);
        login.database = database.unwrap_or(login.database);
        match Connection::open(&login) {
            Ok(mut session) => {
                let told = std::mem::take(&mut session.startup);
                self.sessions.insert(actor.to_owned(), session);
                Ok(vec![told])
            }
            Err(reply) => Ok(vec![*reply]),
        }
    }

    fn churn(&self, text: &str) -> Result<Churn, String> {
        let mut parts = Vec::new();
        for part in text.split(";;") {
            let (place, sql) = part.split_once(':').ok_or("churn> side: SQL ;; side: SQL")?;
            let side = side(place.trim()).ok_or_else(|| format!("`{place}` is not a side"))?;
            parts.push((self.world.direct(self.player, side)?, sql.trim().to_owned()));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut round = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                for (connection, sql) in &mut parts {
                    let reply = connection.simple(&sql.replace("%n", &round.to_string()));
                    if reply.broken.is_some() {
                        return;
                    }
                }
            }
        });
        Ok(Churn { stop, thread: Some(thread) })
    }
}

/// `1 | NULL | text`.
fn execute_values(text: &str) -> Vec<Option<Bytes>> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(" | ")
        .map(str::trim)
        .map(|value| (value != "NULL").then(|| Bytes::from(value.to_owned())))
        .collect()
}
