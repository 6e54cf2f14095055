//! Usage in a table: its rows leave in the statement that says what they were.

use std::collections::HashMap;

use pgrx::pg_sys::{TEXTARRAYOID, TIMESTAMPTZOID, TimestampTz};

use super::deletions::collect_deletions;
use super::old::{Taken, is_older_sql, is_owned_sql, partition_settled};
use super::record::TakenAway;
use super::usage_archive::UsageArchive;
use crate::binding::{Binding, Bound, Payer};
use crate::error::{Error, Result};
use crate::ledger::archive_table::all;
use crate::postgres::catalog::Column;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;
use crate::settle::claim::{Accounted, read_settled, unaccounted};
use crate::settle::usage;

/// How old rows leave a usage table.
pub(super) struct TableRows {
    lock: Statement,
    statement: Statement,
    count: Statement,
}

impl TableRows {
    pub(super) fn new(binding: &Binding, time: &Column, archive: Option<&UsageArchive>) -> Self {
        let archives = archive.iter().map(|archive| archive.table.oid);
        let tables: Vec<_> = std::iter::once(binding.usage.oid).chain(archives).collect();
        let sql = leave_sql(binding, time, archive);
        let old = format!(
            "FROM {} AS u WHERE {}",
            binding.usage.sql,
            is_leaving_sql(binding, time)
        );
        let on_usage = |sql: &str| {
            Statement::new(sql, &[TEXTARRAYOID, TIMESTAMPTZOID]).of(&[binding.usage.oid])
        };
        TableRows {
            lock: on_usage(&format!("SELECT 1 {old} FOR UPDATE OF u")),
            statement: Statement::new(&sql, &[TEXTARRAYOID, TIMESTAMPTZOID]).of(&tables),
            count: on_usage(&format!("SELECT pg_catalog.count(*) {old}")),
        }
    }

    /// Lock the old rows of workflows.
    pub(super) fn lock(
        &self,
        bound: &Bound,
        before: TimestampTz,
        workflows: &[String],
    ) -> Result<()> {
        let _owner = bound.run_as(bound.binding.usage.owner);
        let args = [
            Arg::TextArray(workflows),
            Arg::OptionalTimestamp(Some(before)),
        ];
        self.lock.run(&args, Snapshot::Latest).map(drop)
    }

    /// Take away the old rows of locked workflows, which are sorted, as far as they are settled.
    ///
    /// Errors: 27000 for an archive, or a usage table, that keeps rows back, 40001 where rows left that were not settled.
    pub(super) fn take(
        &self,
        bound: &Bound,
        before: TimestampTz,
        archive: Option<&UsageArchive>,
        workflows: &[String],
    ) -> Result<Taken> {
        let (workflows, unsettled) = partition_settled(bound, workflows.to_vec())?;
        let mut found = Taken {
            unsettled,
            ..Taken::default()
        };
        if workflows.is_empty() {
            return Ok(found);
        }
        let (outcomes, deleted) = collect_deletions(|| {
            let _owner = bound.run_as(bound.binding.usage.owner);
            let args = [
                Arg::TextArray(&workflows),
                Arg::OptionalTimestamp(Some(before)),
            ];
            let mut outcomes = vec![self.statement.run(&args, Snapshot::Latest)?];
            let count = || -> Result<usize> {
                let outcome = self.count.run(&args, Snapshot::Latest)?;
                outcome.rows.first().map_or(Ok(0), |row| row.amount(0))
            };
            if count()? > 0 {
                // They may just have been written. Once: a trigger may write again what leaves.
                outcomes.push(self.statement.run(&args, Snapshot::Latest)?);
                all("usage", 0, count()?, &bound.binding.usage.sql)?;
            }
            Ok(outcomes)
        })?;
        found.deleted = Some(deleted);
        let mut kept = 0;
        for outcome in &outcomes {
            let kept_by_it = outcome.rows.first().map(|row| row.amount::<usize>(4));
            kept += kept_by_it.transpose()?.unwrap_or(0);
        }
        for row in outcomes.iter().flat_map(|outcome| &outcome.rows) {
            let workflow = row.text(0).to_owned();
            let Some(tokens) = row.counted(2)? else {
                // It came after the sums were read.
                return Err(Error::ConcurrentSettlement { workflow });
            };
            found.rows += row.amount::<usize>(3)?;
            found.taken.push(TakenAway {
                workflow,
                account: row.owned(1),
                tokens,
            });
        }
        UsageArchive::refuse_suppressed(archive, &bound.binding.usage, found.rows, kept)?;
        let settled = read_settled(bound, &workflows)?;
        let settled = workflows.iter().zip(&settled).collect();
        refuse_unsettled(bound, &found.taken, &settled)?;
        Ok(found)
    }
}

/// Error 40001 where rows left that were not settled: they were written or changed after the sums were read. What is in
/// the archive alone, no sweep finds.
fn refuse_unsettled(
    bound: &Bound,
    taken: &[TakenAway],
    settled: &HashMap<&String, &Accounted>,
) -> Result<()> {
    for taken in taken {
        let account = taken.account.as_deref();
        if unaccounted(&taken.tokens, settled[&taken.workflow], account)? <= 0 {
            continue;
        }
        // Rows below zero that stay may make up for it.
        let left = usage::read(bound, std::slice::from_ref(&taken.workflow))?;
        let left = left
            .first()
            .map(|left| left.of(account))
            .unwrap_or_default();
        let in_all = left.plus(&taken.tokens);
        if unaccounted(&in_all, settled[&taken.workflow], account)? > 0 {
            return Err(Error::ConcurrentSettlement {
                workflow: taken.workflow.clone(),
            });
        }
    }
    Ok(())
}

/// SQL for "the usage row u is an old one of the workflows $1", before $2.
fn is_leaving_sql(binding: &Binding, time: &Column) -> String {
    format!(
        "u.{} OPERATOR(pg_catalog.=) ANY ($1::{}[]) AND {} AND {}",
        binding.usage_workflow.sql(),
        binding.usage_workflow.key_type.sql(),
        is_owned_sql(binding),
        is_older_sql(time, "$2")
    )
}

/// One row per workflow and account of what left: (workflow, account, tokens, rows, rows that the archive took in all).
///
/// ```sql
/// WITH gone AS (DELETE FROM token_usage AS u WHERE u.workflow_id = ANY ($1) AND u.created_at < $2 RETURNING u.*),
/// kept AS (INSERT INTO archive (…) SELECT … FROM gone RETURNING 1)
/// SELECT u.workflow_id, u.user_id, sum(u.total_tokens), count(*), (SELECT count(*) FROM kept) FROM gone AS u GROUP BY 1, 2
/// ```
fn leave_sql(binding: &Binding, time: &Column, archive: Option<&UsageArchive>) -> String {
    let account = match &binding.payer {
        Payer::Usage(_) => binding.account_sql("u"),
        Payer::Workflow(_) => "NULL::pg_catalog.text".into(),
    };
    let (kept, count_kept) = UsageArchive::keep_sql(archive);
    format!(
        "WITH gone AS (DELETE FROM {usage} AS u WHERE {is_leaving} RETURNING u.*){kept} \
         SELECT u.{workflow}::pg_catalog.text, {account}, {tokens}, pg_catalog.count(*), {count_kept} \
         FROM gone AS u GROUP BY 1, 2",
        usage = binding.usage.sql,
        workflow = binding.usage_workflow.sql(),
        is_leaving = is_leaving_sql(binding, time),
        tokens = binding.tokens_sql("u"),
    )
}
