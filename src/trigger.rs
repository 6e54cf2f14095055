//! The trigger on the workflow table: a run that completes is settled.

use crate::binding::Payer;
use crate::cache;
use crate::error::Result;
use crate::row::{TriggerCall, trigger_function};
use crate::settle::{Asked, settle};

trigger_function!(
    settle_on_completion_wrapper,
    pg_finfo_settle_on_completion_wrapper,
    "token_balance.settle_on_completion",
    settle_on_completion
);

/// Trigger on the workflow table, AFTER INSERT OR UPDATE FOR EACH ROW: settle the row's workflow.
/// Which rows are completed is the WHEN condition of the triggers that attach makes.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled. Errors:
/// 39P01 if fired otherwise, 42809 on any other table, 55000 if nothing is attached.
fn settle_on_completion(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    let bound = cache::bound_and_locked()?;
    let binding = &bound.binding;
    let workflows = match &binding.workflows {
        Some(workflows) if bound.is_part_of(call.relation(), workflows.table.oid)? => workflows,
        _ => return Err(call.foreign()),
    };
    // A null id names no workflow, and one that the usage column's type cannot hold has no usage.
    let Some(workflow) = row
        .new_text(&workflows.key.column.name)
        .and_then(|id| binding.usage_workflow.key_type.canonical(&id))
    else {
        return Ok(());
    };
    let payer = match &binding.payer {
        Payer::Workflow(key) => row.new_text(&key.column.name),
        Payer::Usage(_) => None,
    };
    settle(&bound, &mut vec![workflow], &Asked::Completion { payer })?;
    Ok(())
}
