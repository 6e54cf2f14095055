//! The trigger on the workflow table that sees a workflow get another id.

use crate::binding::{Bound, Which, bindings_unlocked};
use crate::error::{Error, Result};
use crate::postgres::trigger::{TriggerCall, TriggerRow, trigger_function};
use crate::settle::rename::{self, Ids};

trigger_function!(
    follow_workflow_id_wrapper,
    pg_finfo_follow_workflow_id_wrapper,
    "token_balance.follow_workflow_id",
    follow_workflow_id
);

/// Trigger on a workflow table, AFTER UPDATE OF the key FOR EACH ROW: note a change of the row's id.
///
/// Errors: 39P01 if fired otherwise, 42809 on any other table.
fn follow_workflow_id(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    let found = match bindings_unlocked(Which::OfWorkflows(call.relation())) {
        Ok(found) => found,
        Err(Error::NotAttached) => return Ok(()),
        Err(error) => return Err(error),
    };
    if found.whole.is_empty() && found.broken.is_empty() {
        return Err(call.foreign());
    }
    // An UPDATE that completes nothing goes on, whatever has become of the other tables.
    let mut broken = found.broken.into_iter();
    if let Some((_, error)) = broken.find(|(_, error)| !error.is_broken_binding()) {
        return Err(error);
    }
    let ids: Vec<_> = found
        .whole
        .iter()
        .filter_map(|bound| changed_ids(bound, &row))
        .collect();
    if let Some(before) = row.old_place()
        && !ids.is_empty()
    {
        rename::note(before, row.place(), ids);
    }
    Ok(())
}

/// The old and the new id, as the usage spells them, if they are not the same. A null names no workflow, and what the
/// usage column's type cannot hold has no usage.
fn changed_ids(bound: &Bound, row: &TriggerRow) -> Option<Ids> {
    let binding = &bound.binding;
    let key = &binding.workflows.as_ref()?.key.column.name;
    // Whoever saves whole rows names the key with each UPDATE.
    if row.keeps(key) {
        return None;
    }
    let canonical = |id: String| binding.usage_workflow.key_type.canonical(&id);
    let (old, new) = (row.old_text(key)?, row.new_text(key)?);
    if old == new {
        return None;
    }
    let (old, new) = (canonical(old)?, canonical(new)?);
    (old != new).then(|| Ids {
        binding: binding.spec.number(),
        old,
        new,
    })
}
