//! What `verify` looks at where the usage is a view.

use serde_json::Value as Json;

use super::check::Check;
use crate::binding::{Binding, LateSource, LateUsage};
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::spi;
use crate::settle::usage::{of_one_sql, shown_sql};

/// A table that a settlement may read whole: a price list, say. In blocks.
const SMALL: i64 = 8;

/// Whether the view is the one that was attached; None for a table.
pub(super) fn definition(binding: &Binding) -> Option<Check> {
    binding.usage_view.as_ref()?;
    let is_same = !binding.is_view_replaced();
    let detail = match is_same {
        true => format!(
            "{} says what it said when it was attached",
            binding.usage.sql
        ),
        false => format!(
            "{} was replaced since it was attached: the sweep stops",
            binding.usage.sql
        ),
    };
    Some(Check::new(
        "usage view",
        is_same,
        detail,
        "SELECT token_balance.attach_again();",
    ))
}

/// Whether the statement that reads a workflow's usage reaches an index, and which tables it reads whole.
pub(super) fn index(binding: &Binding) -> Result<Check> {
    let whole = read_whole(binding, &of_one_sql(binding, "(SELECT NULL)"))?;
    let tables = whole.join(", ");
    Ok(Check::new(
        "usage index",
        whole.is_empty(),
        match whole.is_empty() {
            true => format!(
                "a settlement finds the rows of {} by an index",
                binding.usage.sql
            ),
            false => format!(
                "a settlement reads all of {tables} for {}",
                binding.usage.sql
            ),
        },
        format!(
            "Create an index on each of them: on what the view shows as {}, or joins by.",
            binding.usage_workflow.sql()
        ),
    ))
}

/// Whether late usage is settled at once where it was asked for; none where it was not.
pub(super) fn late_usage(binding: &Binding) -> Result<Vec<Check>> {
    if binding.usage_view.is_none() || binding.spec.options.late_usage != LateUsage::Settle {
        return Ok(Vec::new());
    }
    let known: Vec<_> = binding.late_sources.iter().map(LateSource::told).collect();
    let told = &binding.spec.late_usage_on;
    let is_whole = known.len() == told.len();
    let mut checks = vec![Check::new(
        "late usage",
        is_whole,
        match is_whole {
            true => format!(
                "settled at once where it is written to {}",
                known.join(", ")
            ),
            false => format!(
                "not all of {} is there any more: late usage waits for the sweep",
                told.join(", ")
            ),
        },
        format!(
            "Call {} with late_usage_on as it is now.",
            binding.spec.attach_with("...")
        ),
    )];
    for source in &binding.late_sources {
        let statement = shown_sql(binding, source, "(SELECT NULL)");
        let whole = read_whole(binding, &statement)?;
        let tables = whole.join(", ");
        checks.push(Check::new(
            "late usage index",
            whole.is_empty(),
            match whole.is_empty() {
                true => format!("the view finds a row of {} by an index", source.table.sql),
                false => format!(
                    "the view reads all of {tables} for a row of {}",
                    source.table.sql
                ),
            },
            format!(
                "Create an index on each of them: on what the view shows as {}, or joins by.",
                source.shown_as.sql()
            ),
        ));
    }
    Ok(checks)
}

/// The tables that a statement on the view reads whole, though it is given a value to look for.
fn read_whole(binding: &Binding, statement: &str) -> Result<Vec<String>> {
    let plan = {
        let _owner = RunAs::owner(binding.usage.owner);
        spi::json_plan_without_scans(statement)?
    };
    let plan: Json = serde_json::from_str(&plan).unwrap_or_default();
    let mut scans = Vec::new();
    each_node(&plan, &mut |node| {
        if node.get("Node Type").and_then(Json::as_str) == Some("Seq Scan") {
            scans.push(Scan::of(node));
        }
    });
    let mut whole = Vec::new();
    for scan in scans {
        if scan.looks_for_workflow || blocks(&scan)? > SMALL {
            whole.push(scan.table());
        }
    }
    whole.sort_unstable();
    whole.dedup();
    Ok(whole)
}

/// A table that is read whole.
struct Scan {
    schema: String,
    name: String,
    /// Whether that is to find the workflow's rows: the one value that the statement is given.
    looks_for_workflow: bool,
}

impl Scan {
    fn of(node: &Json) -> Self {
        let text = |name| node.get(name).and_then(Json::as_str).unwrap_or_default();
        let filter = text("Filter");
        Scan {
            schema: text("Schema").into(),
            name: text("Relation Name").into(),
            // As PostgreSQL says it up to 16, and since.
            looks_for_workflow: filter.contains("$0") || filter.contains("InitPlan"),
        }
    }

    fn table(&self) -> String {
        pgrx::spi::quote_qualified_identifier(&self.schema, &self.name)
    }
}

fn blocks(scan: &Scan) -> Result<i64> {
    match catalog::table_named(&scan.schema, &scan.name)? {
        Some(table) => catalog::blocks(&table),
        None => Ok(0),
    }
}

fn each_node(plan: &Json, look: &mut impl FnMut(&Json)) {
    match plan {
        Json::Array(nodes) => nodes.iter().for_each(|node| each_node(node, look)),
        Json::Object(node) => {
            look(plan);
            for below in ["Plan", "Plans"] {
                if let Some(below) = node.get(below) {
                    each_node(below, look);
                }
            }
        }
        _ => {}
    }
}
