//! Whether a run is over: then usage of it that comes is late, and what is deleted of it has to be charged first.

use std::collections::HashSet;

use pgrx::pg_sys::{self, TEXTARRAYOID, TEXTOID};

use super::settlement::was_settled_sql;
use crate::binding::{Binding, Bound, Kept, Workflows, completed};
use crate::error::Result;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::{BeforeStatement, FreshSnapshot, Snapshot};
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, texts};

struct Statements {
    is_over: Statement,
    over: Statement,
    /// None where no workflow table is bound.
    known: Option<Statement>,
    settled: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        let relations: Vec<_> = binding
            .workflows
            .iter()
            .map(|workflows| workflows.table.oid)
            .collect();
        let of_many = |condition: String| {
            let sql = format!("SELECT k.id FROM pg_catalog.unnest($1) AS k (id) WHERE {condition}");
            Statement::new(&sql, &[TEXTARRAYOID])
        };
        let is_known = |workflows: &Workflows| {
            let row = row_sql(binding, workflows, "k.id");
            of_many(format!("EXISTS (SELECT 1 FROM {row})")).of(&relations)
        };
        let is_one_over = format!("SELECT 1 WHERE {}", is_over_sql(binding, "$1"));
        Statements {
            is_over: Statement::new(&is_one_over, &[TEXTOID]).of(&relations),
            over: of_many(is_over_sql(binding, "k.id")).of(&relations),
            known: binding.workflows.as_ref().map(is_known),
            settled: of_many(was_settled_sql(binding, "k.id")),
        }
    }
}

/// SQL for "the workflow is over": a row of the workflow table says that it is completed. Where there is none, that it
/// was settled once says it.
fn is_over_sql(binding: &Binding, workflow: &str) -> String {
    match &binding.workflows {
        Some(workflows) => format!(
            "EXISTS (SELECT 1 FROM {} AND {})",
            row_sql(binding, workflows, workflow),
            completed::sql(binding, "w")
        ),
        None => was_settled_sql(binding, workflow),
    }
}

/// The workflow's rows of the workflow table, as `w`.
fn row_sql(binding: &Binding, workflows: &Workflows, workflow: &str) -> String {
    format!(
        "{} AS w WHERE {}",
        workflows.table.sql,
        workflows.key.key_type.equals_sql(
            &format!("w.{}", workflows.key.sql()),
            binding.usage_workflow.key_type,
            workflow
        ),
    )
}

/// Act as the owner of what says it.
fn run_as_owner(bound: &Bound) -> RunAs {
    bound.run_as(match &bound.binding.workflows {
        Some(workflows) => workflows.table.owner,
        None => bound.binding.accounts.extension_owner,
    })
}

/// Whether the workflow is over.
pub(crate) fn is_over(bound: &Bound, workflow: &str) -> Result<bool> {
    let _owner = run_as_owner(bound);
    let outcome = bound
        .kept::<Statements>()
        .is_over
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome.processed == 1)
}

/// Those of the workflows that are over, or were when this transaction took them out of the workflow table; or that are no
/// more there and were settled: no completion comes that their usage could wait for.
pub(crate) fn over_or_gone(bound: &Bound, workflows: &[String]) -> Result<HashSet<String>> {
    let statements = bound.kept::<Statements>();
    let found = |statement: &Statement, snapshot| -> Result<HashSet<String>> {
        let outcome = statement.run(&[Arg::TextArray(workflows)], snapshot)?;
        Ok(texts(&outcome.rows, 0).into_iter().collect())
    };
    let over_and_known = |snapshot| -> Result<(HashSet<String>, HashSet<String>)> {
        let _owner = run_as_owner(bound);
        let known = statements.known.as_ref();
        let known = known.map_or_else(
            || Ok(workflows.iter().cloned().collect()),
            |known| found(known, snapshot),
        )?;
        Ok((found(&statements.over, snapshot)?, known))
    };
    let (mut over, known) = over_and_known(Snapshot::Latest)?;
    if known.len() == workflows.len() {
        return Ok(over);
    }
    // A cascade from the workflow table has taken the row first: what it was when the transaction began, counts.
    let (over_before, known_before) = {
        let fresh = FreshSnapshot::push();
        let _before = BeforeStatement::push(&fresh, pg_sys::FirstCommandId);
        over_and_known(Snapshot::Caller)?
    };
    let settled = {
        let _owner = bound.run_as_extension();
        found(&statements.settled, Snapshot::Latest)?
    };
    let gone = workflows.iter().filter(|id| !known.contains(*id));
    over.extend(
        gone.filter(|id| match known_before.contains(*id) {
            true => over_before.contains(*id),
            false => settled.contains(*id),
        })
        .cloned(),
    );
    Ok(over)
}
