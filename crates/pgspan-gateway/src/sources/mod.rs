//! What the gateway knows of sources and of plans, shared by all sessions, and the
//! way from a foreign server's options to a connection.

pub(crate) mod block;
pub(crate) mod carrier;
mod constants;
pub(crate) mod engine;
mod estimate;
mod factored;
pub(crate) mod fetch;
pub(crate) mod keyed;
mod merged;
pub(crate) mod together;

use crate::config::Limits;
use crate::gateway::{Endpoint, Shared};
use crate::session::home::Statement;
use crate::session::settle::Settle;
use bytes::Bytes;
use lru::LruCache;
use pgspan_pool::budget::ServerCounts;
use pgspan_pool::{ConnectOptions, Reach, SourcePools, SslMode};
use pgspan_sql::analyze::Analysis;
use pgspan_sql::ask;
use pgspan_sql::catalog::CatalogSnapshot;
use pgspan_sql::facts::{HomeFacts, SourceFacts};
use pgspan_sql::plan::{FederatedPlan, Needs};
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;
use pgspan_wire::backend::Field;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// A user's function, operator or type has a name that the statement uses.
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
    pub rests_until: Mutex<Option<(Instant, &'static str)>>,
}

impl CachedPlan {
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

struct KnownRelation {
    facts: Arc<SourceFacts>,
    read_at: Instant,
}

/// Shared knowledge.
pub(crate) struct Sources {
    pub pools: SourcePools,
    /// The question whether home is as it was ([`ask::unchanged`]).
    pub unchanged: Statement,
    /// The engine's memory.
    pub engine_budget: pgspan_engine::Budget,
    analyzed: Mutex<LruCache<(String, String), Arc<Analyzed>>>,
    plans: Mutex<LruCache<PlanKey, Arc<CachedPlan>>>,
    /// Numbered statements by text and parameter types.
    statements: Mutex<LruCache<StatementKey, Statement>>,
    relations: Mutex<HashMap<(ServerSpec, String, String), KnownRelation>>,
    /// Texts with which a block must not begin to read at the sources, with their database.
    homes: Mutex<LruCache<(String, String), ()>>,
    relation_age_max: Duration,
    /// Servers that a user's sessions have asked for a connection to.
    reached: Mutex<HashMap<String, BTreeSet<(String, u16)>>>,
}

/// Servers that are remembered for one user.
const REACHED_MAX: usize = 256;

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    pub fn new(limits: &Limits) -> Sources {
        let size = NonZeroUsize::new(limits.plans_max).unwrap_or(NonZeroUsize::MIN);
        Sources {
            pools: SourcePools::new(
                limits.source_connections_max,
                Duration::from_millis(limits.source_wait_ms_max),
            ),
            unchanged: Statement::new(ask::unchanged()),
            engine_budget: pgspan_engine::Budget::new(limits.engine_bytes_max),
            analyzed: Mutex::new(LruCache::new(size)),
            plans: Mutex::new(LruCache::new(size)),
            statements: Mutex::new(LruCache::new(size)),
            relations: Mutex::default(),
            homes: Mutex::new(LruCache::new(size)),
            relation_age_max: Duration::from_secs(limits.catalog_s_max),
            reached: Mutex::default(),
        }
    }

    /// Parses and analyzes a text, once per catalog.
    pub fn analyzed(
        &self,
        database: &str,
        text: &str,
        catalog: &Arc<CatalogSnapshot>,
    ) -> Arc<Analyzed> {
        let key = (database.to_owned(), text.to_owned());
        if let Some(known) = lock(&self.analyzed).get(&key)
            && Arc::ptr_eq(&known.catalog, catalog)
        {
            return known.clone();
        }
        let outcome = pgspan_sql::analyze::analyze(text, catalog).map(Arc::new);
        let fingerprint =
            outcome.as_ref().map(|a| ask::fingerprints_of(a, catalog)).unwrap_or_default();
        let fingerprint = fingerprint.map(|sql| self.statement(sql));
        let depends_on_settings = pgspan_sql::reading::depends_on_settings(text);
        let catalog = catalog.clone();
        let analyzed = Arc::new(Analyzed { catalog, outcome, depends_on_settings, fingerprint });
        lock(&self.analyzed).put(key, analyzed.clone());
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
        let mut statements = lock(&self.statements);
        if let Some(known) = statements.get(&key) {
            return known.clone();
        }
        let statement = Statement::new(key.0.clone());
        statements.put(key, statement.clone());
        statement
    }

    pub fn plan(&self, key: &PlanKey) -> Option<Arc<CachedPlan>> {
        lock(&self.plans).get(key).cloned()
    }

    pub fn keep_plan(&self, key: PlanKey, plan: Arc<CachedPlan>) {
        lock(&self.plans).put(key, plan);
    }

    pub fn drop_plan(&self, key: &PlanKey) {
        lock(&self.plans).pop(key);
    }

    /// Blocks in which this text was read have failed: in later ones it is home's.
    pub fn leave_to_home(&self, database: &str, text: String) {
        lock(&self.homes).put((database.to_owned(), text), ());
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
        let mut homes = lock(&self.homes);
        !homes.is_empty() && homes.get(&(database.to_owned(), text.to_owned())).is_some()
    }

    /// What is known of a remote relation, unless it is too old.
    pub fn relation(&self, spec: &ServerSpec, name: &(String, String)) -> Option<Arc<SourceFacts>> {
        let key = (spec.clone(), name.0.clone(), name.1.clone());
        let relations = lock(&self.relations);
        let known = relations.get(&key).filter(|k| k.read_at.elapsed() < self.relation_age_max)?;
        Some(known.facts.clone())
    }

    pub fn keep_relation(
        &self,
        spec: &ServerSpec,
        name: &(String, String),
        facts: Arc<SourceFacts>,
    ) {
        let key = (spec.clone(), name.0.clone(), name.1.clone());
        let known = KnownRelation { facts, read_at: Instant::now() };
        lock(&self.relations).insert(key, known);
    }

    /// A source answered otherwise than expected: everything known of it is read again.
    pub fn forget_relations(&self, spec: &ServerSpec) {
        lock(&self.relations).retain(|(s, _, _), _| s != spec);
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
        Some(m) => SslMode::parse(m).ok_or_else(|| Reason::about("server option", "sslmode"))?,
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
                let known = known.ok_or_else(|| Reason::about("server option", "sslrootcert"))?;
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
        timeout,
        on_connect: ask::SOURCE_SESSION.to_owned(),
    }))
}
