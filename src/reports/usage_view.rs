//! What `verify` looks at where the usage is a view.

use serde_json::Value as Json;

use super::check::Check;
use crate::binding::Binding;
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::spi;
use crate::settle::usage::of_one_sql;

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
    let statement = of_one_sql(binding, "(SELECT NULL)");
    let plan = {
        let _owner = RunAs::owner(binding.usage.owner);
        spi::json_plan_without_scans(&statement)?
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
