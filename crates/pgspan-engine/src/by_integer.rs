//! The first stage of a fold by one integer column: what `AggregateExec` does in its partial
//! mode, with groups found by an array where the integers lie close together, as keys of
//! tables do. Hashing them was most of what a fold of millions of rows cost.

use arrow::array::{Array as _, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{DataFusionError, Result};
use datafusion_execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion_physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _,
};
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
};
use futures::StreamExt as _;
use hashbrown::HashMap;
use std::sync::Arc;

/// Places of the array at most: 64 MiB.
const PLACES_MAX: usize = 1 << 24;
/// So many places are taken whatever the keys are.
const PLACES_MIN: usize = 1 << 16;
/// And so many for each group.
const PLACES_PER_GROUP: usize = 16;

/// After so many rows it shows whether folding them here is of use.
const PROBE_ROWS: usize = 100_000;

/// The operator.
#[derive(Debug)]
pub(crate) struct GroupByInteger {
    input: Arc<dyn ExecutionPlan>,
    key: Arc<dyn PhysicalExpr>,
    functions: Vec<Arc<AggregateFunctionExpr>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GroupByInteger {
    /// Takes the place of a partial `AggregateExec` by `key` that gives `schema`; `None`
    /// where a function has no accumulator for groups.
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        key: Arc<dyn PhysicalExpr>,
        functions: Vec<Arc<AggregateFunctionExpr>>,
        schema: SchemaRef,
    ) -> Option<GroupByInteger> {
        if !functions.iter().all(|f| f.groups_accumulator_supported()) {
            return None;
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.output_partitioning().clone(),
            datafusion_physical_plan::execution_plan::EmissionType::Final,
            input.boundedness(),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Some(GroupByInteger { input, key, functions, properties: Arc::new(properties), metrics })
    }
}

impl DisplayAs for GroupByInteger {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupByInteger")
    }
}

impl ExecutionPlan for GroupByInteger {
    fn name(&self) -> &str {
        "GroupByInteger"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.key)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let odd = || DataFusionError::Internal("one input".to_owned());
        let input = children.pop().ok_or_else(odd)?;
        let (key, functions) = (self.key.clone(), self.functions.clone());
        let new = GroupByInteger::new(input, key, functions, self.schema()).ok_or_else(odd)?;
        Ok(Arc::new(new))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let work = Work {
            input: Some(self.input.execute(partition, context.clone())?),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            fold: Folding::new(self, &context)?,
            pending: None,
            size: context.session_config().batch_size().max(1),
        };
        let stream = futures::stream::try_unfold(work, |mut work| async move {
            Ok(work.next().await?.map(|batch| (batch, work)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One stream.
struct Work {
    /// Until it has ended.
    input: Option<SendableRecordBatchStream>,
    baseline: BaselineMetrics,
    fold: Folding,
    /// What is still to be handed on.
    pending: Option<RecordBatch>,
    /// Rows of a batch.
    size: usize,
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.pending.take() {
                let rest = batch.num_rows().saturating_sub(self.size);
                if rest > 0 {
                    self.pending = Some(batch.slice(self.size, rest));
                }
                if batch.num_rows() > 0 {
                    let first = batch.slice(0, batch.num_rows() - rest);
                    return Ok(Some(first.record_output(&self.baseline)));
                }
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            let batch = input.next().await.transpose()?;
            let _timer = self.baseline.elapsed_compute().timer();
            self.pending = match batch {
                None => {
                    self.input = None;
                    Some(self.fold.emit()?)
                }
                Some(batch) if self.fold.hands_on => Some(self.fold.states(&batch)?),
                Some(batch) => {
                    self.fold.add(&batch)?;
                    // Where memory is short, and where hardly two rows are of one group, the
                    // groups so far go on to where all are put together.
                    let fits = self.fold.reserved()?;
                    self.fold.hands_on = self.fold.is_in_vain();
                    if fits && !self.fold.hands_on { None } else { Some(self.fold.emit()?) }
                }
            };
        }
    }
}

/// One stream's groups.
struct Folding {
    key: Arc<dyn PhysicalExpr>,
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    schema: SchemaRef,
    groups: Groups,
    /// The group of each row of a batch.
    places: Vec<usize>,
    rows: usize,
    /// Rows are handed on as groups of one.
    hands_on: bool,
    reservation: MemoryReservation,
}

impl Folding {
    fn new(operator: &GroupByInteger, context: &TaskContext) -> Result<Folding> {
        let functions = &operator.functions;
        let accumulators = functions.iter().map(|f| f.create_groups_accumulator());
        Ok(Folding {
            key: operator.key.clone(),
            arguments: functions.iter().map(|f| f.expressions()).collect(),
            accumulators: accumulators.collect::<Result<_>>()?,
            schema: operator.schema(),
            groups: Groups::default(),
            places: Vec::new(),
            rows: 0,
            hands_on: false,
            reservation: MemoryConsumer::new("GroupByInteger").register(context.memory_pool()),
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.key.evaluate(batch)?.into_array(batch.num_rows())?;
        let odd = || DataFusionError::Internal("a key that is no integer".to_owned());
        let keys = keys.as_any().downcast_ref::<Int64Array>().ok_or_else(odd)?;
        self.places.clear();
        self.groups.places(keys, &mut self.places);
        self.rows += batch.num_rows();
        for (arguments, accumulator) in self.arguments.iter().zip(&mut self.accumulators) {
            let values = values(arguments, batch)?;
            accumulator.update_batch(&values, &self.places, None, self.groups.keys.len())?;
        }
        Ok(())
    }

    /// Each row as a group of one, with the states of its folds.
    fn states(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = vec![self.key.evaluate(batch)?.into_array(batch.num_rows())?];
        for (arguments, accumulator) in self.arguments.iter().zip(&self.accumulators) {
            columns.extend(accumulator.convert_to_state(&values(arguments, batch)?, None)?);
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Whether so many rows have shown that there are hardly fewer groups (as DataFusion's
    /// `skip_partial_aggregation_probe_*` has it).
    fn is_in_vain(&self) -> bool {
        self.rows >= PROBE_ROWS && self.groups.keys.len() * 5 > self.rows * 4
    }

    /// Accounts for what is held; false when it should go.
    fn reserved(&mut self) -> Result<bool> {
        let held = self.accumulators.iter().map(|a| a.size()).sum::<usize>() + self.groups.size();
        match self.reservation.try_resize(held) {
            Ok(()) => Ok(true),
            Err(e) if self.groups.keys.is_empty() => Err(e),
            Err(_) => Ok(false),
        }
    }

    /// The groups with the states of their folds, which begin anew.
    fn emit(&mut self) -> Result<RecordBatch> {
        let groups = std::mem::take(&mut self.groups);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(groups.keys))];
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        self.rows = 0;
        self.reservation.free();
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

fn values(arguments: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    arguments.iter().map(|a| a.evaluate(batch)?.into_array(batch.num_rows())).collect()
}

/// Keys and the numbers of their groups.
#[derive(Debug, Default)]
struct Groups {
    keys: Vec<Option<i64>>,
    /// One more than the group of `first` and those after it, 0 for none.
    near: Vec<u32>,
    first: i64,
    /// The groups of keys that lie elsewhere.
    far: HashMap<i64, u32>,
    null: Option<u32>,
}

impl Groups {
    fn places(&mut self, keys: &Int64Array, out: &mut Vec<usize>) {
        if self.keys.is_empty() {
            self.begin(keys);
        }
        if keys.null_count() == 0 {
            out.extend(keys.values().iter().map(|k| self.place(*k)));
        } else {
            out.extend(keys.iter().map(|k| match k {
                Some(k) => self.place(k),
                None => self.place_of_null(),
            }));
        }
    }

    /// Chooses where the array begins, by the first keys.
    fn begin(&mut self, keys: &Int64Array) {
        let (least, most) = match (keys.iter().flatten().min(), keys.iter().flatten().max()) {
            (Some(least), Some(most)) => (least, most),
            _ => return,
        };
        // Tables often number their rows from one; those to come may lie before these.
        let near_zero = 0..i64::try_from(PLACES_MAX / 4).unwrap_or(0);
        let first = if near_zero.contains(&least) {
            0
        } else {
            least.saturating_sub(most.saturating_sub(least))
        };
        // So that a difference that overflows is never a place.
        self.first = first.min(i64::MAX - i64::try_from(PLACES_MAX).unwrap_or(0));
    }

    #[inline]
    fn place(&mut self, key: i64) -> usize {
        let at = usize::try_from(key.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        match self.near.get(at) {
            Some(place) if *place > 0 => *place as usize - 1,
            _ => self.new_place(key, at),
        }
    }

    #[cold]
    fn new_place(&mut self, key: i64, at: usize) -> usize {
        if at >= self.near.len() && at < PLACES_MAX {
            let allowed = PLACES_MIN.max(self.keys.len().saturating_mul(PLACES_PER_GROUP));
            if at < allowed {
                self.near.resize((at + 1).next_power_of_two(), 0);
                // Those that lay too far are near now.
                let (first, length) = (self.first, self.near.len());
                let near = |key: i64| {
                    let at = usize::try_from(key.wrapping_sub(first)).ok()?;
                    (at < length).then_some(at)
                };
                for (key, place) in self.far.extract_if(|key, _| near(*key).is_some()) {
                    if let Some(slot) = near(key).and_then(|at| self.near.get_mut(at)) {
                        *slot = place + 1;
                    }
                }
                return self.place(key);
            }
        }
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX - 1);
        match self.near.get_mut(at) {
            Some(slot) => *slot = next + 1,
            None => {
                let place = *self.far.entry(key).or_insert(next);
                if place != next {
                    return place as usize;
                }
            }
        }
        self.keys.push(Some(key));
        next as usize
    }

    fn place_of_null(&mut self) -> usize {
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX - 1);
        let place = *self.null.get_or_insert(next);
        if place == next {
            self.keys.push(None);
        }
        place as usize
    }

    /// Bytes that it holds.
    fn size(&self) -> usize {
        self.keys.capacity() * size_of::<Option<i64>>()
            + self.near.capacity() * size_of::<u32>()
            + self.far.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion_execution::memory_pool::GreedyMemoryPool;
    use datafusion_execution::runtime_env::RuntimeEnvBuilder;
    use datafusion_functions_aggregate::{count, sum};
    use datafusion_physical_expr::aggregate::AggregateExprBuilder;
    use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
    use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
    use std::collections::HashMap as Plain;

    /// Groups of keys as a plain map finds them.
    fn same_as_a_map(batches: &[Vec<Option<i64>>]) {
        let mut groups = Groups::default();
        let mut plain: Plain<Option<i64>, usize> = Plain::new();
        for batch in batches {
            let mut places = Vec::new();
            groups.places(&Int64Array::from(batch.clone()), &mut places);
            assert_eq!(places.len(), batch.len());
            for (key, place) in batch.iter().zip(places) {
                let next = plain.len();
                assert_eq!(*plain.entry(*key).or_insert(next), place, "{key:?}");
            }
        }
        assert_eq!(groups.keys.len(), plain.len());
        groups.keys.iter().zip(0..).for_each(|(k, i)| assert_eq!(plain.get(k), Some(&i)));
    }

    #[test]
    fn keys_near_and_far() {
        let some = |keys: &[i64]| keys.iter().copied().map(Some).collect::<Vec<_>>();
        same_as_a_map(&[some(&[5, 3, 5, 1]), some(&[0, -1, 3, 200_000, -1])]);
        same_as_a_map(&[some(&[i64::MIN, i64::MAX, 0, i64::MIN, -1, i64::MAX])]);
        same_as_a_map(&[some(&[i64::MAX, 7, i64::MAX - 1, 7]), some(&[i64::MIN, -7, 7])]);
        same_as_a_map(&[some(&[i64::MAX, i64::MAX - 2]), some(&[i64::MIN, i64::MIN + 1, -1, 0])]);
        same_as_a_map(&[some(&[i64::MIN, i64::MIN + 2]), some(&[i64::MAX, i64::MAX - 1, -1])]);
        same_as_a_map(&[vec![None, Some(1), None], vec![Some(2), None, Some(1)]]);
        same_as_a_map(&[vec![None, None], some(&[9, 8]), vec![None]]);
        same_as_a_map(&[vec![], some(&[1_000_000_007, 1_000_000_001, 999_999_999])]);
    }

    #[test]
    fn the_array_grows_with_the_groups() {
        // Each fourth integer, as TPC-H numbers its orders; then some that lie far.
        let dense: Vec<Vec<Option<i64>>> =
            (0..100).map(|b| (0..4096).map(|i| Some((b * 4096 + i) * 4)).collect()).collect();
        same_as_a_map(&dense);
        let mut mixed = dense;
        mixed.insert(0, vec![Some(1_638_396), Some(1 << 40), Some(70_000)]);
        mixed.push(vec![Some(1 << 40), Some(70_000), Some(1_638_396)]);
        same_as_a_map(&mixed);
    }

    /// A stream of batches.
    #[derive(Debug)]
    struct Given(SchemaRef, Vec<RecordBatch>);

    impl PartitionStream for Given {
        fn schema(&self) -> &SchemaRef {
            &self.0
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            let stream = futures::stream::iter(self.1.clone().into_iter().map(Ok));
            Box::pin(RecordBatchStreamAdapter::new(self.0.clone(), stream))
        }
    }

    /// The sums and counts of values by their keys, put together from what the operator
    /// hands on, and the number of its rows.
    #[allow(clippy::unwrap_used)]
    async fn folded(rows: &[(Option<i64>, i64)], bytes_max: usize) -> (Folded, usize) {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![field("k"), field("v")]));
        let batches = rows.chunks(8192).map(|rows| {
            let keys: Int64Array = rows.iter().map(|r| r.0).collect();
            let values: Int64Array = rows.iter().map(|r| Some(r.1)).collect();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(keys), Arc::new(values)]).unwrap()
        });
        let given = Given(schema.clone(), batches.collect());
        let input: Arc<dyn ExecutionPlan> = Arc::new(
            StreamingTableExec::try_new(
                schema.clone(),
                vec![Arc::new(given)],
                None,
                [],
                false,
                None,
            )
            .unwrap(),
        );
        let column = |name: &str, i| -> Arc<dyn PhysicalExpr> {
            Arc::new(datafusion_physical_expr::expressions::Column::new(name, i))
        };
        let function = |udaf, name: &str| {
            let built = AggregateExprBuilder::new(udaf, vec![column("v", 1)]);
            Arc::new(built.schema(schema.clone()).alias(name).build().unwrap())
        };
        let functions =
            vec![function(sum::sum_udaf(), "sum"), function(count::count_udaf(), "count")];
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            PhysicalGroupBy::new_single(vec![(column("k", 0), "k".to_owned())]),
            functions.clone(),
            vec![None; 2],
            input.clone(),
            schema,
        )
        .unwrap();
        let operator =
            GroupByInteger::new(input, column("k", 0), functions, partial.schema()).unwrap();
        let pool = Arc::new(GreedyMemoryPool::new(bytes_max));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let mut stream = operator.execute(0, context).unwrap();
        let (mut all, mut rows) = (Folded::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            assert!(batch.num_rows() <= 8192);
            rows += batch.num_rows();
            let of = |i: usize| batch.column(i).as_any().downcast_ref::<Int64Array>().unwrap();
            for row in 0..batch.num_rows() {
                let key = of(0).is_valid(row).then(|| of(0).value(row));
                let entry = all.entry(key).or_default();
                entry.0 += of(1).value(row);
                entry.1 += of(2).value(row);
            }
        }
        (all, rows)
    }

    type Folded = Plain<Option<i64>, (i64, i64)>;

    fn expected(rows: &[(Option<i64>, i64)]) -> Folded {
        let mut all = Folded::new();
        for (key, value) in rows {
            let entry = all.entry(*key).or_default();
            entry.0 += value;
            entry.1 += 1;
        }
        all
    }

    #[tokio::test]
    async fn folds_whatever_the_keys_and_the_memory() {
        const MUCH: usize = 1 << 30;
        let few: Vec<_> = (0..200_000).map(|i| ((i % 7 > 0).then_some(i % 1000), i)).collect();
        let (folds, rows) = folded(&few, MUCH).await;
        assert_eq!((folds, rows), (expected(&few), expected(&few).len()));
        // Memory for some thousand groups: they are handed on in between.
        let many: Vec<_> = (0..90_000).map(|i| (Some(i * 7919 % 30_000), i)).collect();
        let (folds, rows) = folded(&many, 600_000).await;
        assert_eq!(folds, expected(&many));
        assert!(rows > 30_000, "{rows}");
        // Each key once: from some row on nothing is held.
        let each: Vec<_> = (0..300_000).map(|i| (Some(i << 33), i)).collect();
        let (folds, rows) = folded(&each, MUCH).await;
        assert_eq!((folds, rows), (expected(&each), 300_000));
        let (folds, rows) = folded(&[], MUCH).await;
        assert_eq!((folds.len(), rows), (0, 0));
    }
}
