//! The trigger on the workflow table: a run that completes is settled.

use std::convert::Infallible;

use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, WhoAllocated};

use crate::binding::Payer;
use crate::cache;
use crate::error::{Error, Result};
use crate::row::RowImage;
use crate::settle::{Asked, settle};

/// Trigger on the workflow table, AFTER INSERT OR UPDATE FOR EACH ROW: settle the row's workflow.
/// Which rows are completed is the WHEN condition of the triggers that attach makes.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled. Errors:
/// 39P01 if fired otherwise, 42809 on any other table, 55000 if nothing is attached.
#[pg_trigger(sql = false)]
fn settle_on_completion<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, Infallible> {
    if let Err(error) = settle_row(trigger) {
        error.raise();
    }
    Ok(None::<PgHeapTuple<'a, AllocatedByPostgres>>)
}

fn settle_row(trigger: &PgTrigger) -> Result<()> {
    let function = "token_balance.settle_on_completion";
    let image = RowImage::of(trigger).ok_or(Error::TriggerProtocol {
        function,
        wanted: "AFTER INSERT OR UPDATE FOR EACH ROW",
    })?;
    let bound = cache::bound_and_locked()?;
    let binding = &bound.binding;
    let is_bound = match &binding.workflows {
        Some(workflows) => bound.is_part_of(image.relation(), workflows.table.oid)?,
        None => false,
    };
    let Some(workflows) = binding.workflows.as_ref().filter(|_| is_bound) else {
        return Err(Error::ForeignTrigger {
            function,
            relation: image.relation_name(),
        });
    };
    // A null id names no workflow, and one that the usage column's type cannot hold has no usage.
    let Some(workflow) = image
        .new_text(&workflows.key.column.name)
        .and_then(|id| binding.usage_workflow.key_type.canonical(&id))
    else {
        return Ok(());
    };
    let payer = match &binding.payer {
        Payer::Workflow(key) => image.new_text(&key.column.name),
        Payer::Usage(_) => None,
    };
    settle(&bound, &mut vec![workflow], &Asked::ByCompletion { payer })?;
    Ok(())
}
