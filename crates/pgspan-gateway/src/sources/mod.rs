//! What the gateway knows of sources and of plans, shared by all sessions, and the
//! way from a foreign server's options to a connection.

pub(crate) mod block;
pub(crate) mod carrier;
mod constants;
pub(crate) mod engine;
mod estimate;
mod factored;
pub(crate) mod fetch;
pub(crate) mod kept;
pub(crate) mod keyed;
mod merged;
pub(crate) mod together;

use crate::config::Limits;
use crate::gateway::{Endpoint, Shared};
use crate::session::home::Statement;
use crate::session::settle::Settle;
use bytes::Bytes;
use kept::{Kept, KeptCounts};
use pgspan_pool::budget::ServerCounts;
use pgspan_pool::{ConnectOptions, Reach, SourcePools, SslMode};
use pgspan_sql::analyze::Analysis;
use pgspan_sql::ask;
use pgspan_sql::catalog::CatalogSnapshot;
use pgspan_sql::cause::Cause;
use pgspan_sql::facts::{HomeFacts, SourceFacts};
use pgspan_sql::plan::{FederatedPlan, Needs};
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;
use pgspan_wire::backend::Field;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A text that has been parsed and analyzed against one catalog.
pub(crate) struct Analyzed {
    pub catalog: Arc<CatalogSnapshot>,
    pub outcome: Result<Arc<Analysis>, Reason>,
    /// Settings may change how it is read.
    pub depends_on_settings: bool,
    /// The questions whose answers a plan rests on: for a role that is not a
    /// superuser, and for one that is.
    pub fingerprint: [Statement; 2],
}

/// What a plan rests on: settings and role, what names mean, how that is defined, servers as
/// home answered, and what the server reports of its settings by itself.
pub(crate) type Fingerprint = [Bytes; 5];

/// A plan with what is needed to use it again.
pub(crate) struct CachedPlan {
    pub fingerprint: Fingerprint,
    /// The role and settings in it.
    pub session: ask::Session,
    pub plan: FederatedPlan,
    pub analysis: Arc<Analysis>,
    /// Home's Describe of the original.
    pub fields: Vec<Field>,
    /// Its parameter types.
    pub parameters: Vec<u32>,
    /// It ships no condition, so it holds whatever values are bound.
    pub any_values: bool,
    /// The rewritten statement, and its parameters' types.
    pub home: Statement,
    pub home_types: Vec<u32>,
    /// What locks home's own tables before the snapshot.
    pub lock: Option<Statement>,
    /// What is proven once the statement's tables are locked.
    pub settles: Vec<Settle>,
    /// A user's function, operator or type may be meant by the statement.
    pub calls_users: bool,
    /// The fingerprint does not cover all of home's facts: each use asks for them again.
    pub asks_again: bool,
    /// The statements of each fetch.
    pub fragments: Vec<Fragment>,
    /// The direct statement.
    pub direct: Option<Statement>,
    /// Its fetches that sessions wait for together.
    pub together: together::Together,
    /// Whether home's plan runs its foreign scans.
    pub runs: pgspan_sql::certain::Runs,
    /// What was learned of the relations.
    pub facts: Arc<PlanFacts>,
    /// The engine's way to run it, once it was asked for.
    pub engine: engine::EngineState,
    /// The last run showed that much crosses.
    pub prefers_engine: AtomicBool,
    /// Set when a fetch outgrew the limits: until when the plan is not tried again.
    pub rests_until: Mutex<Option<(Instant, Cause)>>,
}

impl CachedPlan {
    /// About what it takes, with what the engine adds to it, in bytes: texts that it has by
    /// itself, and what it knows of each column of its tables.
    fn bytes(&self, key: &PlanKey) -> usize {
        let statement = |s: &Statement| s.sql.len();
        let mut texts = statement(&self.home) + self.plan.home_sql.len();
        texts += self.lock.as_ref().map_or(0, statement);
        texts += self.direct.as_ref().map_or(0, statement);
        for fragment in &self.fragments {
            let by_keys = [&fragment.by_keys, &fragment.keys].into_iter().flatten();
            texts += statement(&fragment.all) + by_keys.map(statement).sum::<usize>();
        }
        let columns = self.plan.fetches.iter().map(|f| f.columns.len()).sum::<usize>();
        let fingerprint = self.fingerprint.iter().map(Bytes::len).sum::<usize>();
        // A core and a finish of the engine's, as statements and as what they were read from.
        let engine = key.1.len() * ANALYSIS_BYTES_PER_BYTE;
        2 * texts + (columns + self.fields.len()) * COLUMN_BYTES + fingerprint + engine + PLAN_BYTES
    }

    /// Whether the engine runs it; `None` while that is not known.
    pub fn engine_state(&self) -> Option<bool> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Result::is_ok)
    }

    /// The schema of a table of the analysis.
    pub fn schema_of(&self, table: usize) -> Option<String> {
        let written = self.analysis.tables.get(table)?.sql_name();
        self.facts.home.relation(&written)?.schema.clone()
    }

    /// Whether the engine is known to run it.
    pub fn engine_runs(&self) -> bool {
        self.engine_state() == Some(true)
    }
}

/// What home and the sources said of a statement's relations.
pub(crate) struct PlanFacts {
    pub home: HomeFacts,
    pub needs: Needs,
    /// In the order of `needs.tables`.
    pub sources: Vec<Arc<SourceFacts>>,
}

/// The statements of one fetch: for all rows, for those of the given keys, and home's
/// question for the keys.
pub(crate) struct Fragment {
    pub all: Statement,
    pub by_keys: Option<Statement>,
    pub keys: Option<Statement>,
}

/// Database, text, role, and bound parameters.
pub(crate) type PlanKey = (String, String, String, Vec<Option<Bytes>>);

/// Text, parameter types, and the fingerprint that its names are resolved under.
type StatementKey = (String, Vec<u32>, Vec<Bytes>);

/// What is known of a remote relation.
#[derive(Clone)]
struct KnownRelation {
    facts: Arc<SourceFacts>,
    read_at: Instant,
}

/// A server as a role's mapping reaches it, and a table's schema and name there.
type RelationKey = (ServerSpec, String, String);

/// Shared knowledge.
pub(crate) struct Sources {
    pub pools: SourcePools,
    /// The question whether home is as it was ([`ask::unchanged`]).
    pub unchanged: Statement,
    /// The same where the session's settings are known ([`ask::undisturbed`]).
    pub undisturbed: Statement,
    /// The engine's memory.
    pub engine_budget: pgspan_engine::Budget,
    analyzed: Kept<(String, String), Arc<Analyzed>>,
    /// Who analyzes a long text, while others wait: it takes a thread of its own.
    long_texts: Semaphore,
    plans: Kept<PlanKey, Arc<CachedPlan>>,
    /// Numbered statements by text and parameter types.
    statements: Kept<StatementKey, Statement>,
    relations: Kept<RelationKey, KnownRelation>,
    /// Texts with which a block must not begin to read at the sources, with their database.
    homes: Kept<(String, String), ()>,
    /// Servers that a user's sessions have asked for a connection to.
    reached: Mutex<HashMap<String, BTreeSet<(String, u16)>>>,
}

/// Looks at a text of so many bytes; while that takes long, the sessions of this thread go on
/// on another.
pub(crate) fn beside<T>(bytes: usize, look: impl FnOnce() -> T) -> T {
    if bytes > LONG_TEXT_BYTES { tokio::task::block_in_place(look) } else { look() }
}

/// What a plan knows of one column, in bytes.
const COLUMN_BYTES: usize = 256;

/// What a plan takes for a short statement, in bytes.
const PLAN_BYTES: usize = 16 * 1024;

/// Texts from this length on are long: to analyze one takes milliseconds. In bytes.
const LONG_TEXT_BYTES: usize = 16 * 1024;

/// Long texts that are analyzed at the same time: each takes up to 150 bytes for each of its.
const LONG_TEXTS_AT_ONCE: usize = 2;

/// What an analysis keeps of a text, the text as its key included, in bytes for each of its.
const ANALYSIS_BYTES_PER_BYTE: usize = 12;

/// Values that a plan which is kept may have been made for, in bytes.
const VALUES_BYTES_MAX: usize = 4 * 1024;

/// Tables of sources that are remembered.
const RELATIONS_MAX: usize = 10_000;

/// Servers that are remembered for one user.
const REACHED_MAX: usize = 256;

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    pub fn new(limits: &Limits) -> Sources {
        let (count, bytes) = (limits.plans_max, limits.remembered_bytes_max);
        Sources {
            pools: SourcePools::new(
                limits.source_connections_max,
                Duration::from_millis(limits.source_wait_ms_max),
            ),
            unchanged: Statement::new(ask::unchanged()),
            undisturbed: Statement::new(ask::undisturbed()),
            engine_budget: pgspan_engine::Budget::new(limits.engine_bytes_max),
            analyzed: Kept::new(count, bytes / 4),
            long_texts: Semaphore::new(LONG_TEXTS_AT_ONCE),
            plans: Kept::new(count, bytes / 2),
            statements: Kept::new(count, bytes / 8),
            relations: Kept::new(RELATIONS_MAX, bytes / 16),
            homes: Kept::new(count, bytes / 16),
            reached: Mutex::default(),
        }
    }

    /// Parses and analyzes a text, once per catalog.
    pub async fn analyzed(
        &self,
        database: &str,
        text: &str,
        catalog: &Arc<CatalogSnapshot>,
    ) -> Arc<Analyzed> {
        let key = (database.to_owned(), text.to_owned());
        let known = || self.analyzed.get(&key).filter(|k| Arc::ptr_eq(&k.catalog, catalog));
        if let Some(known) = known() {
            return known;
        }
        if text.len() <= LONG_TEXT_BYTES {
            return self.analyze(key, catalog);
        }
        // It is never closed.
        let _one_of_few = self.long_texts.acquire().await;
        if let Some(known) = known() {
            // While this one waited.
            return known;
        }
        beside(text.len(), || self.analyze(key, catalog))
    }

    fn analyze(&self, key: (String, String), catalog: &Arc<CatalogSnapshot>) -> Arc<Analyzed> {
        let text = &key.1;
        let outcome = pgspan_sql::analyze::analyze(text, catalog).map(Arc::new);
        let fingerprint =
            outcome.as_ref().map(|a| ask::fingerprints_of(a, catalog)).unwrap_or_default();
        let questions: usize = fingerprint.iter().map(String::len).sum();
        let fingerprint = fingerprint.map(|sql| self.statement(sql));
        let depends_on_settings = pgspan_sql::reading::depends_on_settings(text);
        let catalog = catalog.clone();
        let analyzed = Arc::new(Analyzed { catalog, outcome, depends_on_settings, fingerprint });
        let bytes = text.len() * ANALYSIS_BYTES_PER_BYTE + questions;
        self.analyzed.put(key, analyzed.clone(), bytes);
        analyzed
    }

    /// The numbered statement of a text without parameters of unknown type: one number
    /// for all plans that use the text.
    pub fn statement(&self, sql: String) -> Statement {
        self.typed_statement(sql, &[], &[])
    }

    /// As [`Sources::statement`], for parameters of these types and under this
    /// fingerprint: the same text with other types, or where names mean something else,
    /// is another statement.
    pub fn typed_statement(&self, sql: String, types: &[u32], meaning: &[Bytes]) -> Statement {
        let key = (sql, types.to_vec(), meaning.to_vec());
        if let Some(known) = self.statements.get(&key) {
            return known;
        }
        let statement = Statement::new(key.0.clone());
        let meaning: usize = key.2.iter().map(Bytes::len).sum();
        let bytes = 2 * key.0.len() + meaning;
        self.statements.put(key, statement.clone(), bytes);
        statement
    }

    pub fn plan(&self, key: &PlanKey) -> Option<Arc<CachedPlan>> {
        self.plans.get(key)
    }

    /// Keeps a plan, unless it was made for values that are too long.
    pub fn keep_plan(&self, key: PlanKey, plan: Arc<CachedPlan>) {
        let values: usize = key.3.iter().flatten().map(Bytes::len).sum();
        if values <= VALUES_BYTES_MAX {
            let bytes = plan.bytes(&key) + values;
            self.plans.put(key, plan, bytes);
        }
    }

    pub fn drop_plan(&self, key: &PlanKey) {
        self.plans.remove(key);
    }

    /// Blocks in which this text was read have failed: in later ones it is home's.
    pub fn leave_to_home(&self, database: &str, text: String) {
        let bytes = text.len();
        self.homes.put((database.to_owned(), text), (), bytes);
    }

    /// How much is remembered.
    pub fn remembered(&self) -> [KeptCounts; 5] {
        [
            self.analyzed.counts("analyzed texts"),
            self.plans.counts("plans"),
            self.statements.counts("statements of the gateway"),
            self.relations.counts("tables of sources"),
            self.homes.counts("texts left to home in blocks"),
        ]
    }

    /// Somebody asks for a connection.
    pub fn reaches(&self, user: &str, options: &ConnectOptions) {
        let Some(address) = options.addresses.first() else { return };
        let mut reached = lock(&self.reached);
        if reached.get(user).is_some_and(|own| own.contains(address)) {
            return;
        }
        let own = reached.entry(user.to_owned()).or_default();
        if own.len() < REACHED_MAX {
            own.insert(address.clone());
        }
    }

    /// Connections for each server that a user has asked for; `None`: for all.
    pub fn counts(&self, user: Option<&str>) -> Vec<ServerCounts> {
        let mut counts = self.pools.counts();
        if let Some(user) = user {
            let reached = lock(&self.reached);
            let own = reached.get(user).into_iter().flatten();
            let own: Vec<String> = own.map(|(host, port)| format!("{host}:{port}")).collect();
            counts.retain(|c| own.contains(&c.address));
        }
        counts
    }

    /// Whether it was left to home.
    pub fn is_left_to_home(&self, database: &str, text: &str) -> bool {
        !self.homes.is_empty() && self.homes.get(&(database.to_owned(), text.to_owned())).is_some()
    }

    /// What is known of a remote relation, unless it is too old.
    pub fn relation(
        &self,
        spec: &ServerSpec,
        name: &(String, String),
        age_max: Duration,
    ) -> Option<Arc<SourceFacts>> {
        let key = (spec.clone(), name.0.clone(), name.1.clone());
        let known = self.relations.get(&key);
        known.filter(|k| k.read_at.elapsed() < age_max).map(|k| k.facts)
    }

    pub fn keep_relation(
        &self,
        spec: &ServerSpec,
        name: &(String, String),
        facts: Arc<SourceFacts>,
    ) {
        let key = (spec.clone(), name.0.clone(), name.1.clone());
        let bytes = facts.bytes();
        let known = KnownRelation { facts, read_at: Instant::now() };
        self.relations.put(key, known, bytes);
    }

    /// A source answered otherwise than expected: everything known of it is read again.
    pub fn forget_relations(&self, spec: &ServerSpec) {
        self.relations.retain(|(s, _, _)| s != spec);
    }
}

/// How a source is reached: a server that is this gateway's own endpoint is reached
/// behind it, without the way through the gateway.
///
/// # Errors
/// When the options name a file that is not the configuration's.
pub(crate) fn connect_options(
    shared: &Shared,
    home: &Endpoint,
    spec: &ServerSpec,
    encoding: &str,
) -> Result<Arc<ConnectOptions>, Reason> {
    let mut ssl_mode = match &spec.ssl_mode {
        None => SslMode::Prefer,
        Some(m) => {
            SslMode::parse(m).ok_or_else(|| Reason::about(Cause::ServerOption, "sslmode"))?
        }
    };
    let mut ssl_roots = None;
    let mut addresses = Vec::new();
    let mut reach = Reach::Anywhere;
    for (host, port) in &spec.addresses {
        if let Some(own) = shared.own_addresses.get(&(host.clone(), *port)) {
            addresses.push((own.host.clone(), own.port));
            ssl_mode = own.ssl_mode;
            ssl_roots.clone_from(&own.ssl_roots);
        } else {
            // Who makes servers at home names hosts and files of ours.
            reach = shared.config.reach((&home.host, home.port));
            if let Some(file) = &spec.ssl_root_certificate {
                let known = shared.source_roots.get(Path::new(file));
                let known =
                    known.ok_or_else(|| Reason::about(Cause::ServerOption, "sslrootcert"))?;
                ssl_roots = Some(known.clone());
            }
            addresses.push((host.clone(), *port));
        }
    }
    let mut parameters = vec![
        ("client_encoding".to_owned(), encoding.to_owned()),
        ("application_name".to_owned(), spec.application_name.clone()),
    ];
    if let Some(options) = &spec.startup_options {
        parameters.push(("options".to_owned(), options.clone()));
    }
    let limit = Duration::from_millis(shared.config.limits.connect_ms_max);
    let timeout = match spec.connect_timeout_s {
        // libpq: zero waits for ever, and one second is taken as two.
        Some(s) if s > 0 => limit.min(Duration::from_secs(s.max(2))),
        _ => limit,
    };
    Ok(Arc::new(ConnectOptions {
        addresses,
        database: spec.database.clone(),
        user: spec.user.clone(),
        password: spec.password.clone().map(String::into_bytes),
        scram_keys: None,
        parameters,
        ssl_mode,
        ssl_roots,
        reach,
        plain_password: shared.config.gateway.plain_passwords,
        message_bytes_max: shared.config.limits.message_bytes_max(),
        tcp: shared.config.limits.tcp_of_sources(),
        timeout,
        on_connect: ask::SOURCE_SESSION.to_owned(),
    }))
}
