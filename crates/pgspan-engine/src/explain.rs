//! The operators with what they measured, in PostgreSQL's layout.

use crate::run::Started;
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::aggregates::AggregateExec;
use datafusion_physical_plan::joins::HashJoinExec;
use std::any::Any;

impl Started {
    /// One line for each operator, indented as children of an EXPLAIN node; `measured`
    /// adds rows and time (of all threads together).
    pub fn lines(&self, measured: bool) -> Vec<String> {
        let mut out = Vec::new();
        self.plans().for_each(|p| walk(p.as_ref(), 0, measured, &mut out));
        out
    }
}

fn walk(plan: &dyn ExecutionPlan, depth: usize, measured: bool, out: &mut Vec<String>) {
    let any: &dyn Any = plan;
    let name = match plan.name() {
        "HashJoinExec" => {
            let kind = any.downcast_ref::<HashJoinExec>().map(|j| j.join_type().to_string());
            Some(format!("Hash Join ({})", kind.unwrap_or_default()))
        }
        "AggregateExec" => {
            let mode = any.downcast_ref::<AggregateExec>().map(|a| format!("{:?}", a.mode()));
            Some(format!("Hash Aggregate ({})", mode.unwrap_or_default()))
        }
        "GroupByInteger" => Some("Aggregate by Integer (Partial)".to_owned()),
        "CoalescePartitionsExec" => Some("Gather".to_owned()),
        "RepartitionExec" => Some("Redistribute".to_owned()),
        "UnionExec" => Some("Append".to_owned()),
        "StreamingTableExec" => Some("Fragment Scan".to_owned()),
        // Renames and reorders columns.
        "ProjectionExec" => None,
        "FilterExec" => Some("Filter".to_owned()),
        other => Some(other.to_owned()),
    };
    let mut below = depth;
    if let Some(name) = name {
        let metrics = plan.metrics().filter(|_| measured).map(|m| m.aggregate_by_name());
        let mut facts = Vec::new();
        if let Some(m) = metrics {
            facts.extend(m.output_rows().map(|n| format!("rows={n}")));
            facts.extend(
                m.elapsed_compute()
                    .map(|ns| format!("cpu={}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)),
            );
            let memory = ["build_mem_used", "peak_mem_used"].iter().find_map(|k| m.sum_by_name(k));
            facts.extend(memory.map(|v| format!("memory={} kB", v.as_usize() / 1024)));
            let spilled = m.spilled_bytes().unwrap_or(0);
            if spilled > 0 {
                facts.push(format!("spilled={} kB", spilled / 1024));
            }
        }
        let facts =
            if facts.is_empty() { String::new() } else { format!("  ({})", facts.join(" ")) };
        out.push(format!("{:width$}->  {name}{facts}", "", width = depth * 6));
        below += 1;
    }
    for child in plan.children() {
        walk(child.as_ref(), below, measured, out);
    }
}
