//! Whether what is bound can ever match: a binding of the wrong columns charges nothing, and each part of it looks
//! right.
//!
//! The rows are looked at as their owner, a sample of each table: `attach` warns, and `verify` has rows.

use std::collections::BTreeMap;

use pgrx::PgLogLevel;

use crate::binding::{Binding, Completion, Payer};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// The blocks that are read of a table: of the usage the last ones, where the newest rows are.
const BLOCKS: i64 = 50;
const ROWS: usize = 1_000;

/// What the newest usage says.
#[derive(Default)]
pub(crate) struct NewestUsage {
    /// Workflow ids, and those of them that are in the workflow table.
    pub(crate) ids: usize,
    pub(crate) known: usize,
    /// Rows that name no workflow or no account, of how many.
    pub(crate) unowned: usize,
    pub(crate) rows: usize,
    /// Rows that have tokens, of those that name both. None where they are not read: a view may have a row that ends it.
    counted: Option<usize>,
}

/// So few ids say nothing: a platform may just have begun.
const FEWEST_IDS: usize = 10;

impl NewestUsage {
    /// Whether none of its workflow ids is one of the workflow table's: the wrong key may be bound.
    pub(crate) fn matches_nothing(&self) -> bool {
        self.ids >= FEWEST_IDS && self.known == 0
    }

    /// Of how many rows none has tokens to charge: they may be in another column.
    pub(crate) fn counts_nothing(&self) -> Option<usize> {
        let owned = self.rows - self.unowned;
        (self.counted == Some(0) && owned >= FEWEST_IDS).then_some(owned)
    }
}

/// Inheritance children, which are no partitions: their rows are read and the triggers do not see them.
pub(crate) fn children(table: &Table) -> Result<Vec<String>> {
    if table.is_partitioned() {
        return Ok(Vec::new());
    }
    let outcome = spi::query(
        "SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i \
         WHERE i.inhparent OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) ORDER BY 1",
        &[Arg::Int8(table.oid.to_u32().into())],
    )?;
    let mut children = Vec::new();
    for row in &outcome.rows {
        children.extend(catalog::table(row.oid(0))?.map(|table| table.sql));
    }
    Ok(children)
}

/// None where the owner of users may not read it.
pub(crate) fn newest_usage(binding: &Binding) -> Result<Option<NewestUsage>> {
    let owner = binding.accounts.users.owner;
    let usage = &binding.usage;
    if !catalog::can_read(owner, usage.oid)? {
        return Ok(None);
    }
    let (known, is_joined) = match &binding.workflows {
        Some(workflows) if catalog::can_read(owner, workflows.table.oid)? => (
            format!(
                "EXISTS (SELECT 1 FROM {} AS w WHERE {} OPERATOR(pg_catalog.=) u.id)",
                workflows.table.sql,
                binding.workflow_key_sql(workflows, "w")
            ),
            true,
        ),
        _ => ("NULL::boolean".into(), false),
    };
    let account = match &binding.payer {
        Payer::Usage(key) => format!("u.{}", key.sql()),
        Payer::Workflow(_) => "''".into(),
    };
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    let has_tokens = match usage.is_view() {
        true => "false".to_owned(),
        false => format!(
            "(({}) OPERATOR(pg_catalog.>) 0)",
            binding.exact_row_tokens_sql("u")
        ),
    };
    let sql = format!(
        "SELECT pg_catalog.count(DISTINCT u.id), pg_catalog.count(DISTINCT u.id) FILTER (WHERE u.is_known), \
         pg_catalog.count(*) FILTER (WHERE u.id IS NULL OR NOT u.has_account), pg_catalog.count(*), \
         pg_catalog.count(*) FILTER (WHERE u.id IS NOT NULL AND u.has_account AND u.has_tokens) \
         FROM (SELECT u.id, u.has_account, u.has_tokens, {known} AS is_known \
         FROM (SELECT {workflow}::pg_catalog.text AS id, {account} IS NOT NULL AS has_account, \
         {has_tokens} AS has_tokens FROM {} AS u {} LIMIT {ROWS}) AS u) AS u",
        usage.sql,
        last_blocks(usage)?,
    );
    let _owner = RunAs::owner(owner);
    let outcome = spi::query_of(&[usage.oid], &sql, &[], Snapshot::Statement)?;
    let Some(row) = outcome.rows.first() else {
        return Ok(None);
    };
    Ok(Some(NewestUsage {
        ids: if is_joined { row.amount(0)? } else { 0 },
        known: row.amount(1)?,
        unowned: row.amount(2)?,
        rows: row.amount(3)?,
        counted: (!usage.is_view()).then(|| row.amount(4)).transpose()?,
    }))
}

/// The columns of tokens, as a sentence names them.
pub(crate) fn tokens_named(binding: &Binding) -> String {
    let columns: Vec<_> = binding.usage_tokens.iter().map(Column::sql).collect();
    columns.join(" + ")
}

/// A WARNING if none of the newest usage's workflow ids is in the workflow table, and one if none of its rows has tokens.
pub(super) fn warn_if_nothing_matches(binding: &Binding) -> Result<()> {
    let Some(newest) = newest_usage(binding)? else {
        return Ok(());
    };
    if let Some(rows) = newest.counts_nothing() {
        let error = Error::NothingCounted {
            usage: binding.usage.sql.clone(),
            tokens: tokens_named(binding),
            rows,
            detach: binding.spec.detach_call(),
        };
        error.report(PgLogLevel::WARNING);
    }
    if let Some(workflows) = &binding.workflows
        && newest.matches_nothing()
    {
        let error = Error::NothingMatches {
            usage: format!("{}.{}", binding.usage.sql, binding.usage_workflow.sql()),
            workflows: format!("{}.{}", workflows.table.sql, workflows.key.sql()),
            ids: newest.ids,
        };
        error.report(PgLogLevel::WARNING);
    }
    Ok(())
}

/// The statuses in the workflow table, a sample of it, with how often each was seen. Empty where no status
/// completes a run, or the owner of users may not read it.
pub(crate) fn statuses(binding: &Binding) -> Result<BTreeMap<String, i64>> {
    let owner = binding.accounts.users.owner;
    let Some(workflows) = &binding.workflows else {
        return Ok(BTreeMap::new());
    };
    let Completion::Status(status) = &workflows.completion else {
        return Ok(BTreeMap::new());
    };
    if !catalog::can_read(owner, workflows.table.oid)? {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT w.{status}::pg_catalog.text, pg_catalog.count(*) FROM {table} AS w {sample} \
         WHERE w.{status} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 50",
        status = status.sql(),
        table = workflows.table.sql,
        sample = sample(&workflows.table)?,
    );
    let _owner = RunAs::owner(owner);
    let outcome = spi::query_of(&[workflows.table.oid], &sql, &[], Snapshot::Statement)?;
    let rows = outcome.rows.iter();
    rows.map(|row| Ok((row.text(0).to_owned(), row.amount(1)?)))
        .collect()
}

/// Two spellings of one word, to a reader.
pub(crate) fn reads_as(one: &str, other: &str) -> bool {
    let letters = |word: &str| -> String {
        let letters = word.chars().filter(|letter| letter.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    letters(one) == letters(other)
}

/// SQL to stand after `FROM table AS u`: the rows of the last blocks, of a partitioned table a sample.
pub(crate) fn last_blocks(table: &Table) -> Result<String> {
    // Nobody knows where a view has its newest rows.
    if table.is_view() {
        return Ok(String::new());
    }
    if table.is_partitioned() {
        return sample(table);
    }
    let first = (catalog::blocks(table)? - BLOCKS).max(0);
    Ok(format!(
        "WHERE u.ctid OPERATOR(pg_catalog.>=) '({first},0)'::pg_catalog.tid"
    ))
}

fn sample(table: &Table) -> Result<String> {
    let blocks = catalog::blocks(table)?.max(1);
    let percent = (100.0 * (4 * BLOCKS) as f64 / blocks as f64).clamp(0.001, 100.0);
    Ok(format!("TABLESAMPLE SYSTEM ({percent:.3})"))
}
