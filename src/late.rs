//! Late usage, `attach(late_usage => 'settle')`: usage that is written after its workflow was settled
//! is charged at once, by a trigger on the usage table.
//!
//! Usage may be written while its workflow is being settled, each transaction blind to the other's
//! rows. So who writes usage shares a lock on the workflow to the end of its transaction, and a
//! settlement takes it alone: either the settlement waits and sees the row, or the writer waits and
//! sees that the workflow is settled.

use pgrx::pg_sys::TEXTOID;

use crate::binding::{Binding, LateUsage};
use crate::cache::{self, Bound};
use crate::error::Result;
use crate::lock::share_workflow;
use crate::row::{TriggerCall, trigger_function};
use crate::security::RunAs;
use crate::settle::{Asked, settle};
use crate::spi::{Arg, Snapshot, Statement};

pub(crate) struct Statements {
    is_over: Statement,
}

impl Statements {
    pub(crate) fn new(binding: &Binding) -> Self {
        let workflows = binding.workflows.iter();
        let relations: Vec<_> = workflows.map(|workflows| workflows.table.oid).collect();
        Statements {
            is_over: Statement::new(&is_over_sql(binding), &[TEXTOID]).of(&relations),
        }
    }
}

/// Whether usage of workflow $1 is late: a row of the workflow table says that it is completed.
/// Where there is none, that it was settled once says it.
fn is_over_sql(binding: &Binding) -> String {
    match &binding.workflows {
        Some(workflows) => format!(
            "SELECT 1 FROM {} AS w WHERE {} AND {} LIMIT 1",
            workflows.table.sql,
            workflows.key.key_type.equals_sql(
                &format!("w.{}", workflows.key.sql()),
                binding.usage_workflow.key_type,
                "$1"
            ),
            binding.completed_sql("w")
        ),
        None => "SELECT 1 FROM token_balance.settlement AS s \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.first_settled_at IS NOT NULL LIMIT 1"
            .into(),
    }
}

trigger_function!(
    settle_late_usage_wrapper,
    pg_finfo_settle_late_usage_wrapper,
    "token_balance.settle_late_usage",
    settle_late_usage
);

/// Trigger on the usage table, AFTER INSERT FOR EACH ROW: settle the row's workflow if that is over.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled. Errors:
/// 39P01 if fired otherwise, 42809 on any other table, 55000 if nothing is attached.
fn settle_late_usage(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    let bound = cache::bound()?;
    let binding = &bound.binding;
    if !bound.is_part_of(call.relation(), binding.usage.oid)? {
        return Err(call.foreign());
    }
    let Some(workflow) = row.new_text(&binding.usage_workflow.column.name) else {
        return Ok(());
    };
    if binding.spec.options.late_usage != LateUsage::Settle {
        return Ok(());
    }
    let shared = share_workflow(&workflow);
    if !is_over(&bound, &workflow)? {
        return Ok(());
    }
    shared.release();
    let bound = cache::bound_and_locked()?;
    settle(&bound, &mut vec![workflow], &Asked::Sweep)?;
    Ok(())
}

fn is_over(bound: &Bound, workflow: &str) -> Result<bool> {
    let owner = match &bound.binding.workflows {
        Some(workflows) => workflows.table.owner,
        None => bound.binding.extension_owner,
    };
    let _owner = RunAs::owner(owner);
    let outcome = bound
        .late
        .is_over
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome.processed == 1)
}
