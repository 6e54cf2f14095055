//! The trigger on the workflow table that sees a workflow get another id.

use crate::binding::{Binding, Workflows, bound_for_row};
use crate::error::{Error, Result};
use crate::postgres::trigger::{TriggerCall, TriggerRow, trigger_function};
use crate::settle::rename;

trigger_function!(
    follow_workflow_id_wrapper,
    pg_finfo_follow_workflow_id_wrapper,
    "token_balance.follow_workflow_id",
    follow_workflow_id
);

/// Trigger on the workflow table, AFTER UPDATE FOR EACH ROW: note a change of the row's id.
///
/// It has neither a condition nor a column list: either would forbid ALTER COLUMN ... TYPE on the key.
/// Errors: 39P01 if fired otherwise, 42809 on any other table.
fn follow_workflow_id(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    let bound = match bound_for_row() {
        Ok(bound) => bound,
        // An UPDATE that completes nothing goes on, whatever has become of the other tables.
        Err(error) if error.is_broken_binding() || matches!(error, Error::NotAttached) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let workflows = match &bound.binding.workflows {
        Some(workflows)
            if bound
                .book
                .is_part_of(call.relation(), workflows.table.oid)? =>
        {
            workflows
        }
        _ => return Err(call.foreign()),
    };
    let ids = changed_ids(&bound.binding, workflows, &row);
    if let Some(before) = row.old_place()
        && (ids.is_some() || rename::is_any_noted())
    {
        rename::note(before, row.place(), ids);
    }
    Ok(())
}

/// The old and the new id, as the usage spells them, if they are not the same. A null names no workflow, and what the
/// usage column's type cannot hold has no usage.
fn changed_ids(
    binding: &Binding,
    workflows: &Workflows,
    row: &TriggerRow,
) -> Option<(String, String)> {
    let key = &workflows.key.column.name;
    let canonical = |id: String| binding.usage_workflow.key_type.canonical(&id);
    let (old, new) = (row.old_text(key)?, row.new_text(key)?);
    if old == new {
        return None;
    }
    let (old, new) = (canonical(old)?, canonical(new)?);
    (old != new).then_some((old, new))
}
