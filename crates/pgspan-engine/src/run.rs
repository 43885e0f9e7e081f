//! A program as DataFusion's physical operators, and their execution.

use crate::by_integer::GroupByInteger;
use crate::decode::Decoder;
use crate::encode;
use crate::feed::{Feed, Keys, Mouth, Progress, feed};
use crate::parts::Rest;
use crate::predicate;
use crate::program::{Op, OpKind, Program, TypedFold, swaps};
use crate::top;
use crate::types::Column;
use crate::{GiveUp, arithmetic};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion_common::{JoinSide, JoinType, NullEquality, ScalarValue};
use datafusion_execution::TaskContext;
use datafusion_execution::config::SessionConfig;
use datafusion_execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryPool, MemoryReservation,
};
use datafusion_execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{count, min_max, sum};
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{self, Column as ColumnExpr};
use datafusion_physical_expr::projection::ProjectionExpr;
use datafusion_physical_expr::{Partitioning, PhysicalExpr};
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion_physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion_physical_plan::filter::FilterExec;
use datafusion_physical_plan::joins::utils::{ColumnIndex, JoinFilter};
use datafusion_physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion_physical_plan::projection::ProjectionExec;
use datafusion_physical_plan::repartition::RepartitionExec;
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::StreamingTableExec;
use datafusion_physical_plan::union::UnionExec;
use datafusion_physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};
use futures::StreamExt as _;
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::{Function, JoinKind, Side};
use pgspan_sql::engine::predicate::Predicate;
use pgspan_sql::engine::split::TopN;
use pgspan_sql::engine::term::Term;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, mpsc};

type Plan = Arc<dyn ExecutionPlan>;
type Expr = Arc<dyn PhysicalExpr>;

/// Bounds of one statement.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory of its operators, in bytes.
    pub query_bytes_max: usize,
    /// Bytes that it may hand to home at once.
    pub answer_bytes_max: usize,
    /// Bytes of a part, where its rows go to home [in parts](Program::in_parts).
    pub part_bytes: Option<usize>,
}

/// What all statements share: memory, and the threads that compute. They are not those
/// that serve clients, which would starve beside a long computation.
#[derive(Debug, Clone)]
pub struct Budget {
    pool: Arc<dyn MemoryPool>,
    threads: Arc<OnceLock<Threads>>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Threads(Option<tokio::runtime::Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Budget {
    /// A budget in bytes.
    pub fn new(bytes_max: usize) -> Budget {
        let pool = Arc::new(GreedyMemoryPool::new(bytes_max));
        Budget { pool, bytes_max, threads: Arc::default() }
    }

    /// The threads, started at first use; without them the caller's own compute.
    fn handle(&self) -> tokio::runtime::Handle {
        let threads = self.threads.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let built =
                builder.worker_threads(cores).thread_name("pgspan-engine").enable_time().build();
            Threads(built.ok())
        });
        match &threads.0 {
            Some(runtime) => runtime.handle().clone(),
            None => tokio::runtime::Handle::current(),
        }
    }

    /// All of it, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.pool.reserved()
    }
}

/// A pool of one statement within the budget of all.
#[derive(Debug)]
struct QueryPool {
    own: GreedyMemoryPool,
    all: Arc<dyn MemoryPool>,
    /// What stands in the other pool for this one.
    held: std::sync::Mutex<MemoryReservation>,
    peak: std::sync::atomic::AtomicUsize,
}

impl QueryPool {
    fn new(bytes_max: usize, budget: &Budget) -> QueryPool {
        let held = MemoryConsumer::new("query").register(&budget.pool);
        QueryPool {
            own: GreedyMemoryPool::new(bytes_max),
            all: budget.pool.clone(),
            held: std::sync::Mutex::new(held),
            peak: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    fn note(&self) {
        self.peak.fetch_max(self.own.reserved(), std::sync::atomic::Ordering::Relaxed);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, MemoryReservation> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl std::fmt::Display for QueryPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pgspan({} of all {})", self.own.reserved(), self.all.reserved())
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "pgspan"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.held().grow(additional);
        self.note();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.held().shrink(shrink);
    }

    fn try_grow(
        &self,
        reservation: &MemoryReservation,
        additional: usize,
    ) -> datafusion_common::Result<()> {
        self.own.try_grow(reservation, additional)?;
        if let Err(e) = self.held().try_grow(additional) {
            self.own.shrink(reservation, additional);
            return Err(e);
        }
        self.note();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }
}

/// A program whose operators wait for rows.
pub struct Started {
    work: Arc<Work>,
    handle: tokio::runtime::Handle,
    /// What has come for each fragment so far.
    pub progress: Vec<Arc<Progress>>,
    /// The keys that were asked for, in that order.
    pub keys: Vec<Arc<Keys>>,
}

struct Core {
    plan: Plan,
    columns: Vec<Column>,
    top: Option<TopN>,
}

struct Work {
    cores: Vec<Core>,
    done: Arc<Semaphore>,
    context: Arc<TaskContext>,
    limits: Limits,
    pool: Arc<QueryPool>,
    /// See [`Program::streams`].
    streams: bool,
}

/// The core's rows, as parameters of the finish.
#[derive(Debug)]
pub struct Answer {
    /// One binary array for each column; none where the rows were sent.
    pub values: Vec<Bytes>,
    /// Rows behind those of `values`.
    pub rest: Option<Rest>,
    /// Rows.
    pub rows: usize,
    /// Most bytes that the operators held.
    pub peak_bytes: usize,
}

impl Program {
    /// Puts the operators together: `streams` is the number of connections that read each
    /// fragment, `keys` are columns of fragments whose values are wanted. Gives a feed for
    /// each stream of each fragment.
    ///
    /// # Errors
    /// [`GiveUp`].
    pub fn start(
        &self,
        streams: &[usize],
        keys: &[(usize, usize)],
        limits: Limits,
        budget: &Budget,
    ) -> Result<(Vec<Vec<Feed>>, Started), GiveUp> {
        let program = self.for_run();
        let mut feeds = Vec::new();
        let mut mouths: Vec<Option<Vec<Arc<Mouth>>>> = Vec::new();
        let mut progress = Vec::new();
        // Closed when the operators have ended, so that nobody waits for them any more.
        let done = Arc::new(Semaphore::new(0));
        let wanted: Vec<(usize, Arc<Keys>)> = keys
            .iter()
            .map(|(f, c)| (*f, Arc::new(Keys::new(*c, streams.get(*f).copied().unwrap_or(1)))))
            .collect();
        for (i, (columns, n)) in program.fragments.iter().zip(streams).enumerate() {
            let keys: Vec<Arc<Keys>> =
                wanted.iter().filter(|(f, _)| *f == i).map(|(_, k)| k.clone()).collect();
            let schema = schema(columns);
            let own = Arc::new(Progress::default());
            let (f, m): (Vec<_>, Vec<_>) = (0..*n)
                .map(|_| feed(&schema, Decoder::new(schema.clone(), columns), &own, &done, &keys))
                .unzip();
            progress.push(own);
            feeds.push(f);
            mouths.push(Some(m.into_iter().map(Arc::new).collect()));
        }
        let partitions = streams.iter().copied().max().unwrap_or(1).max(1);
        let mut builder = Builder { program: &program, mouths, partitions };
        let mut cores = Vec::new();
        for root in &program.roots {
            let plan = one_partition(builder.plan(&root.op)?);
            cores.push(Core { plan, columns: root.op.columns.clone(), top: root.top.clone() });
        }
        let pool = Arc::new(QueryPool::new(limits.query_bytes_max, budget));
        let runtime: Arc<RuntimeEnv> = RuntimeEnvBuilder::new()
            .with_memory_pool(pool.clone())
            .build_arc()
            .map_err(GiveUp::from)?;
        let config = SessionConfig::new()
            .with_batch_size(self.batch_rows())
            .with_target_partitions(partitions);
        let context = TaskContext::default().with_session_config(config).with_runtime(runtime);
        let streams = self.streams();
        let work = Work { done, cores, context: Arc::new(context), limits, pool, streams };
        let keys = wanted.into_iter().map(|(_, k)| k).collect();
        let started = Started { work: Arc::new(work), handle: budget.handle(), progress, keys };
        Ok((feeds, started))
    }
}

impl Started {
    /// Runs it to the end on the engine's threads; stops when dropped.
    ///
    /// # Errors
    /// [`GiveUp`], also when a feed was dropped before its end.
    pub async fn run(&self) -> Result<Answer, GiveUp> {
        let work = self.work.clone();
        self.compute(async move { work.run().await }).await
    }

    /// As [`Started::run`] of a program that [answers](Program::answers) by itself: sends
    /// its rows as DataRow messages with columns in these formats, several at a time. When
    /// it gives up, none has been sent, unless a feed broke.
    ///
    /// # Errors
    /// As [`Started::run`]; and when nobody receives.
    pub async fn rows(
        &self,
        formats: Vec<i16>,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<Answer, GiveUp> {
        let work = self.work.clone();
        self.compute(async move { work.rows(&formats, sender).await }).await
    }

    async fn compute(
        &self,
        work: impl Future<Output = Result<Answer, GiveUp>> + Send + 'static,
    ) -> Result<Answer, GiveUp> {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn_on(work, &self.handle);
        match tasks.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(e)) => Err(GiveUp::new(Cause::EngineStopped, e.to_string())),
            None => Err(GiveUp::new(Cause::EngineStopped, "")),
        }
    }

    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.work.cores.iter().map(|c| &c.plan)
    }
}

impl Work {
    async fn run(&self) -> Result<Answer, GiveUp> {
        if let Some(part_bytes) = self.limits.part_bytes {
            let held = self.held(part_bytes, self.limits.answer_bytes_max).await;
            self.done.close();
            let held = held?;
            let rows = held.rows();
            let (values, rest) = held.part();
            return Ok(Answer { values, rest, rows, peak_bytes: self.peak_bytes() });
        }
        // At once: the order in which fragments arrive must not matter.
        let done = futures::future::try_join_all(self.cores.iter().map(|c| self.core(c))).await;
        self.done.close();
        let done = done?;
        let mut values = Vec::new();
        let mut rows = 0;
        for (core, batches) in self.cores.iter().zip(&done) {
            rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            let columns = core.columns.iter().enumerate();
            values.extend(columns.map(|(i, c)| encode::array(batches, i, c)));
        }
        if values.iter().map(Bytes::len).sum::<usize>() > self.limits.answer_bytes_max {
            return Err(too_many());
        }
        Ok(Answer { values, rest: None, rows, peak_bytes: self.peak_bytes() })
    }

    fn peak_bytes(&self) -> usize {
        self.pool.peak.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn rows(&self, formats: &[i16], sender: mpsc::Sender<Bytes>) -> Result<Answer, GiveUp> {
        let sent = self.sent(formats, sender).await;
        self.done.close();
        let (values, rest) = (Vec::new(), None);
        Ok(Answer { values, rest, rows: sent?, peak_bytes: self.peak_bytes() })
    }

    /// Sends the rows of the only core; gives their number.
    async fn sent(&self, formats: &[i16], sender: mpsc::Sender<Bytes>) -> Result<usize, GiveUp> {
        let core = self.only_core()?;
        let mut held = None;
        let mut stream = if self.streams {
            core.plan.execute(0, self.context.clone())?
        } else {
            let batches = held.insert(self.held(usize::MAX, usize::MAX).await?).batches();
            let batches = futures::stream::iter(batches.map(Ok));
            Box::pin(RecordBatchStreamAdapter::new(core.plan.schema(), batches))
        };
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            count += batch.num_rows();
            let mut next = 0;
            while next < batch.num_rows() {
                let rows = encode::rows(&batch, &core.columns, formats, &mut next)?;
                sender.send(rows).await.map_err(|_| GiveUp::new(Cause::NobodyReceives, ""))?;
            }
        }
        Ok(count)
    }

    fn only_core(&self) -> Result<&Core, GiveUp> {
        match self.cores.as_slice() {
            [core] => Ok(core),
            _ => Err(GiveUp::new(Cause::SeveralCores, "")),
        }
    }

    /// All rows of the only core, in the statement's memory.
    async fn held(&self, part_bytes: usize, row_bytes_max: usize) -> Result<Rest, GiveUp> {
        let core = self.only_core()?;
        let stream = core.plan.execute(0, self.context.clone())?;
        let memory = MemoryConsumer::new("rows").register(self.context.memory_pool());
        Rest::hold(stream, &core.columns, memory, (part_bytes, row_bytes_max)).await
    }

    async fn core(&self, core: &Core) -> Result<Vec<RecordBatch>, GiveUp> {
        let mut stream = core.plan.execute(0, self.context.clone())?;
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            bytes += batch.get_array_memory_size();
            if core.top.is_none() && bytes > self.limits.answer_bytes_max.saturating_mul(4) {
                return Err(too_many());
            }
            batches.push(batch);
        }
        match &core.top {
            Some(top) => top::keep(batches, top, &core.columns),
            None => Ok(batches),
        }
    }
}

fn too_many() -> GiveUp {
    GiveUp::new(Cause::FinishTooLarge, "limits.home_join_bytes_max")
}

pub(crate) fn schema(columns: &[Column]) -> SchemaRef {
    // Places, not names, tell columns apart.
    let fields =
        columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn one_partition(plan: Plan) -> Plan {
    if plan.output_partitioning().partition_count() > 1 {
        Arc::new(CoalescePartitionsExec::new(plan))
    } else {
        plan
    }
}

fn column(plan: &Plan, i: usize) -> Expr {
    let name = plan.schema().fields().get(i).map_or(String::new(), |f| f.name().clone());
    Arc::new(ColumnExpr::new(&name, i))
}

/// Columns of the input by place, named anew.
fn picked(plan: Plan, exprs: Vec<Expr>) -> Result<Plan, GiveUp> {
    let list = exprs
        .into_iter()
        .enumerate()
        .map(|(i, expr)| ProjectionExpr { expr, alias: format!("c{i}") });
    Ok(Arc::new(ProjectionExec::try_new(list, plan)?))
}

struct Builder<'a> {
    program: &'a Program,
    mouths: Vec<Option<Vec<Arc<Mouth>>>>,
    partitions: usize,
}

impl Builder<'_> {
    fn plan(&mut self, op: &Op) -> Result<Plan, GiveUp> {
        match &op.kind {
            OpKind::Fragment(i) => {
                let mouths = self.mouths.get_mut(*i).and_then(Option::take);
                let mouths = mouths.ok_or(GiveUp::new(Cause::ReadTwice, ""))?;
                let columns = self.program.fragments.get(*i).map_or(&[][..], Vec::as_slice);
                let parts = mouths.into_iter().map(|m| m as Arc<_>).collect();
                Ok(Arc::new(StreamingTableExec::try_new(
                    schema(columns),
                    parts,
                    None,
                    None::<datafusion_physical_expr::LexOrdering>,
                    false,
                    None,
                )?))
            }
            OpKind::Join { kind, probe, build, keys, filter, output } => {
                self.join(*kind, probe, build, keys, filter.as_ref(), output)
            }
            OpKind::Filter { input, inputs, predicates, columns } => {
                let read: Vec<Column> =
                    inputs.iter().filter_map(|i| input.columns.get(*i).cloned()).collect();
                let condition = predicate::all(predicates, &read, inputs)?;
                let plan = self.plan(input)?;
                let filtered: Plan = Arc::new(FilterExec::try_new(condition, plan)?);
                let exprs = (0..*columns).map(|i| column(&filtered, i)).collect();
                picked(filtered, exprs)
            }
            OpKind::Group { input, keys, folds, output } => self.group(input, keys, folds, output),
            OpKind::Union { inputs } => {
                let named = inputs.iter().map(|input| {
                    let plan = self.plan(input)?;
                    let exprs = (0..input.columns.len()).map(|i| column(&plan, i)).collect();
                    picked(plan, exprs)
                });
                Ok(UnionExec::try_new(named.collect::<Result<_, _>>()?)?)
            }
            OpKind::Project { input, columns } => {
                let plan = self.plan(input)?;
                let place = |i: usize| Ok(column(&plan, i));
                let exprs = columns
                    .iter()
                    .map(|t| match t {
                        Term::Input(i) => place(*i),
                        other => {
                            let typed = arithmetic::typed(other, &input.columns)?;
                            arithmetic::expr(other, &input.columns, &place, typed.scale)
                        }
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                picked(plan, exprs)
            }
        }
    }

    fn join(
        &mut self,
        kind: JoinKind,
        probe: &Op,
        build: &Op,
        keys: &[(usize, usize)],
        filter: Option<&(Vec<Side>, Vec<Predicate>)>,
        output: &[Side],
    ) -> Result<Plan, GiveUp> {
        // DataFusion builds its table of the left side: the smaller one.
        let swap = swaps(probe, build);
        let probe_plan = self.plan(probe)?;
        let build_plan = self.plan(build)?;
        let (left, right) = if swap { (probe_plan, build_plan) } else { (build_plan, probe_plan) };
        let kind = match (kind, swap) {
            (JoinKind::Inner, _) => JoinType::Inner,
            (JoinKind::Full, _) => JoinType::Full,
            (JoinKind::Left, false) | (JoinKind::Right, true) => JoinType::Right,
            (JoinKind::Left, true) | (JoinKind::Right, false) => JoinType::Left,
            (JoinKind::Semi, false) | (JoinKind::RightSemi, true) => JoinType::RightSemi,
            (JoinKind::Semi, true) | (JoinKind::RightSemi, false) => JoinType::LeftSemi,
            (JoinKind::Anti, false) | (JoinKind::RightAnti, true) => JoinType::RightAnti,
            (JoinKind::Anti, true) | (JoinKind::RightAnti, false) => JoinType::LeftAnti,
        };
        let left = one_partition(left);
        let on = keys
            .iter()
            .map(|(p, b)| {
                let (l, r) = if swap { (*p, *b) } else { (*b, *p) };
                (column(&left, l), column(&right, r))
            })
            .collect();
        let filter = match filter {
            None => None,
            Some((sides, predicates)) => {
                let mut columns = Vec::new();
                let mut indices = Vec::new();
                for s in sides {
                    let (own, index, is_left) = match s {
                        Side::Probe(i) => (probe, *i, swap),
                        Side::Build(i) => (build, *i, !swap),
                    };
                    let side = if is_left { JoinSide::Left } else { JoinSide::Right };
                    indices.push(ColumnIndex { index, side });
                    columns.extend(own.columns.get(index).cloned());
                }
                let places: Vec<usize> = (0..sides.len()).collect();
                let condition = predicate::all(predicates, &columns, &places)?;
                Some(JoinFilter::new(condition, indices, schema(&columns)))
            }
        };
        let one_sided = matches!(
            kind,
            JoinType::LeftSemi | JoinType::RightSemi | JoinType::LeftAnti | JoinType::RightAnti
        );
        let left_columns = if one_sided { 0 } else { left.schema().fields().len() };
        let places: Vec<usize> = output
            .iter()
            .map(|s| match (s, swap) {
                (Side::Probe(i), true) | (Side::Build(i), false) => *i,
                (Side::Probe(i), false) | (Side::Build(i), true) => left_columns + *i,
            })
            .collect();
        let join: Plan = Arc::new(HashJoinExec::try_new(
            left,
            right,
            on,
            filter,
            &kind,
            None,
            PartitionMode::CollectLeft,
            NullEquality::NullEqualsNothing,
            false,
        )?);
        let exprs = places.iter().map(|i| column(&join, *i)).collect();
        picked(join, exprs)
    }

    fn group(
        &mut self,
        input: &Op,
        keys: &[usize],
        folds: &[TypedFold],
        output: &[usize],
    ) -> Result<Plan, GiveUp> {
        let plan = self.plan(input)?;
        let input_schema = plan.schema();
        let mut functions: Vec<Arc<AggregateFunctionExpr>> = Vec::new();
        for (i, f) in folds.iter().enumerate() {
            functions.push(Arc::new(function(f, i, &plan, &input_schema)?));
        }
        let by: Vec<(Expr, String)> =
            keys.iter().enumerate().map(|(i, k)| (column(&plan, *k), format!("k{i}"))).collect();
        let filters = vec![None; functions.len()];
        let parts = plan.output_partitioning().partition_count();
        let folded: Plan = if parts == 1 {
            Arc::new(AggregateExec::try_new(
                AggregateMode::Single,
                PhysicalGroupBy::new_single(by),
                functions,
                filters,
                plan,
                input_schema,
            )?)
        } else {
            let group = PhysicalGroupBy::new_single(by);
            let partial: Plan = Arc::new(AggregateExec::try_new(
                AggregateMode::Partial,
                group.clone(),
                functions.clone(),
                filters.clone(),
                plan.clone(),
                input_schema.clone(),
            )?);
            let integer = partial.schema().fields().first().map(|f| f.data_type().clone());
            let by_integer = match group.expr() {
                [(key, _)] if integer == Some(DataType::Int64) => {
                    let (input, functions) = (plan.clone(), functions.clone());
                    GroupByInteger::new(input, key.clone(), functions, partial.schema())
                }
                _ => None,
            };
            let partial: Plan = match by_integer {
                Some(better) => Arc::new(better),
                None => partial,
            };
            let (mode, merged): (_, Plan) = if keys.is_empty() {
                (AggregateMode::Final, one_partition(partial))
            } else {
                let by_keys = (0..keys.len()).map(|i| column(&partial, i)).collect();
                let hash = Partitioning::Hash(by_keys, self.partitions);
                (
                    AggregateMode::FinalPartitioned,
                    Arc::new(RepartitionExec::try_new(partial, hash)?),
                )
            };
            Arc::new(AggregateExec::try_new(
                mode,
                group.as_final(),
                functions,
                filters,
                merged,
                input_schema,
            )?)
        };
        let exprs = output
            .iter()
            .map(|i| {
                let expr = column(&folded, *i);
                let fold = i.checked_sub(keys.len()).and_then(|f| folds.get(f));
                match fold {
                    Some(f) if f.function == Function::SumOfCounts => or_zero(expr),
                    _ => Ok(expr),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        picked(folded, exprs)
    }
}

/// `CASE WHEN x IS NULL THEN 0 ELSE x END`.
fn or_zero(expr: Expr) -> Result<Expr, GiveUp> {
    let zero = expressions::lit(ScalarValue::Int64(Some(0)));
    let is_null = expressions::is_null(expr.clone())?;
    Ok(expressions::case(None, vec![(is_null, zero)], Some(expr))?)
}

fn function(
    fold: &TypedFold,
    i: usize,
    plan: &Plan,
    schema: &SchemaRef,
) -> Result<AggregateFunctionExpr, GiveUp> {
    let argument = match fold.argument {
        Some(a) if fold.widen => {
            expressions::cast(column(plan, a), schema, DataType::Decimal128(38, 0))?
        }
        Some(a) => column(plan, a),
        None => expressions::lit(ScalarValue::Int64(Some(1))),
    };
    let udaf: Arc<AggregateUDF> = match fold.function {
        Function::Count => count::count_udaf(),
        Function::Sum | Function::SumOfCounts | Function::SumOfSums => sum::sum_udaf(),
        Function::Min => min_max::min_udaf(),
        Function::Max => min_max::max_udaf(),
    };
    let built = AggregateExprBuilder::new(udaf, vec![argument])
        .schema(schema.clone())
        .alias(format!("f{i}"))
        .with_distinct(fold.distinct)
        .build()?;
    if built.field().data_type() != &fold.column.data_type() {
        let detail = built.field().data_type().to_string();
        return Err(GiveUp::new(Cause::AggregateOfOtherType, detail));
    }
    Ok(built)
}
