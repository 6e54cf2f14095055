//! Usage that a view shows: the rows of one table below it leave.
//!
//! What a view makes of a row, nobody knows. So what left is the difference between what it shows before and after, of the
//! same moment: under one snapshot, in which only the transaction's own deletion is seen.

use std::collections::{BTreeMap, HashMap};

use pgrx::pg_sys::TimestampTz;

use super::old::{Taken, is_older_sql, is_owned_sql, is_settled};
use super::record::TakenAway;
use super::usage_archive::UsageArchive;
use crate::binding::{Bound, LateSource};
use crate::error::{Error, Result};
use crate::ledger::archive_table::all;
use crate::postgres::catalog::Column;
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::{FreshSnapshot, Snapshot};
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};
use crate::settle::claim::read_settled;
use crate::settle::usage::{Usage, usage_groups_sql};

/// How old rows of a table below the view leave.
pub(super) struct RowsBelow {
    pub(super) source: LateSource,
    /// The view's own.
    pub(super) time: Column,
}

impl RowsBelow {
    /// Lock the rows that the view shows as old ones of these workflows.
    pub(super) fn lock_old(
        &self,
        bound: &Bound,
        before: TimestampTz,
        workflows: &[String],
    ) -> Result<()> {
        let keys = self.keys(bound, before, workflows, None, Snapshot::Latest)?;
        self.lock(bound, &keys).map(drop)
    }

    /// Take away the rows that the view shows as old ones of these locked workflows, as far as they are settled.
    ///
    /// They are locked before they are looked at: a row that somebody else changes meanwhile would be shown as it was.
    ///
    /// Errors: 0A000 where the view shows one of the rows elsewhere, or still when it has left; 27000 for an archive, or a
    /// table, that keeps rows back.
    pub(super) fn take(
        &self,
        bound: &Bound,
        before: TimestampTz,
        archive: Option<&UsageArchive>,
        workflows: &[String],
    ) -> Result<Taken> {
        let keys = self.keys(bound, before, workflows, None, Snapshot::Latest)?;
        let locked = self.lock(bound, &keys)?;
        let snapshot = FreshSnapshot::push();
        let mut used = sums(bound, workflows)?;
        let settled = read_settled(bound, workflows)?;
        let mut leaving = Vec::with_capacity(workflows.len());
        for (workflow, settled) in workflows.iter().zip(&settled) {
            let used = used.entry(workflow.clone()).or_default();
            if is_settled(&bound.binding, used, settled)? {
                leaving.push(workflow.clone());
            }
        }
        let mut found = Taken {
            unsettled: workflows.len() - leaving.len(),
            ..Taken::default()
        };
        let keys = self.keys(bound, before, &leaving, Some(&locked), Snapshot::Caller)?;
        if keys.is_empty() {
            return Ok(found);
        }
        self.refuse_shown_elsewhere(bound, before, &leaving, &keys)?;
        found.rows = self.delete(bound, archive, &keys)?;
        snapshot.see_own_changes();
        let left = sums(bound, &leaving)?;
        let nothing = Usage::default();
        for workflow in &leaving {
            let (before, after) = (&used[workflow], left.get(workflow).unwrap_or(&nothing));
            let mut of_workflow: BTreeMap<Option<&str>, ExactSum> = BTreeMap::new();
            for (account, tokens) in before.by_payer(&bound.binding) {
                of_workflow.entry(account).or_default().add(&tokens);
            }
            for (account, tokens) in after.by_payer(&bound.binding) {
                let sum = of_workflow.entry(account).or_default();
                *sum = sum.minus(&tokens);
            }
            let of_workflow = of_workflow.into_iter();
            found
                .taken
                .extend(of_workflow.map(|(account, tokens)| TakenAway {
                    workflow: workflow.clone(),
                    account: account.map(str::to_owned),
                    tokens,
                }));
        }
        self.refuse_still_shown(bound, &keys)?;
        Ok(found)
    }

    /// The keys of rows that the view shows as old ones of these workflows; of some `among` others, if they are given.
    fn keys(
        &self,
        bound: &Bound,
        before: TimestampTz,
        workflows: &[String],
        among: Option<&[String]>,
        snapshot: Snapshot,
    ) -> Result<Vec<String>> {
        let binding = &bound.binding;
        let shown = format!("u.{}", self.source.shown_as.sql());
        let is_among = match among {
            Some(_) => format!(
                "AND {shown} OPERATOR(pg_catalog.=) ANY ($3::{}[])",
                self.source.key_type.sql()
            ),
            None => String::new(),
        };
        let sql = format!(
            "SELECT DISTINCT {shown}::pg_catalog.text FROM {} AS u WHERE {} {is_among}",
            binding.usage.sql,
            self.is_leaving_sql(bound)
        );
        let mut args = vec![
            Arg::TextArray(workflows),
            Arg::OptionalTimestamp(Some(before)),
        ];
        args.extend(among.map(Arg::TextArray));
        let _owner = bound.run_as(binding.usage.owner);
        let outcome = spi::query_of(&[binding.usage.oid], &sql, &args, snapshot)?;
        Ok(texts(&outcome.rows, 0))
    }

    /// SQL for "the row u of the view is an old one of the workflows $1", before $2.
    fn is_leaving_sql(&self, bound: &Bound) -> String {
        let binding = &bound.binding;
        format!(
            "u.{} OPERATOR(pg_catalog.=) ANY ($1::{}[]) AND {} AND {} AND u.{} IS NOT NULL",
            binding.usage_workflow.sql(),
            binding.usage_workflow.key_type.sql(),
            is_owned_sql(binding),
            is_older_sql(&self.time, "$2"),
            self.source.shown_as.sql()
        )
    }

    /// Lock the rows of the table that have these keys: those that are there.
    fn lock(&self, bound: &Bound, keys: &[String]) -> Result<Vec<String>> {
        let (table, key) = (&self.source.table, self.source.key.sql());
        let _owner = bound.run_as(table.owner);
        let outcome = spi::query_of(
            &[table.oid],
            &format!(
                "SELECT t.{key}::pg_catalog.text FROM {} AS t WHERE t.{key} OPERATOR(pg_catalog.=) ANY ($1::{}[]) \
                 FOR UPDATE",
                table.sql,
                self.source.key_type.sql()
            ),
            &[Arg::TextArray(keys)],
            Snapshot::Latest,
        )?;
        Ok(texts(&outcome.rows, 0))
    }

    fn refuse_shown_elsewhere(
        &self,
        bound: &Bound,
        before: TimestampTz,
        leaving: &[String],
        keys: &[String],
    ) -> Result<()> {
        let binding = &bound.binding;
        let sql = format!(
            "SELECT 1 FROM {} AS u WHERE u.{} OPERATOR(pg_catalog.=) ANY ($3::{}[]) AND ({}) IS NOT TRUE LIMIT 1",
            binding.usage.sql,
            self.source.shown_as.sql(),
            self.source.key_type.sql(),
            self.is_leaving_sql(bound)
        );
        let args = [
            Arg::TextArray(leaving),
            Arg::OptionalTimestamp(Some(before)),
            Arg::TextArray(keys),
        ];
        self.refuse_any(
            bound,
            &sql,
            &args,
            "It shows a row of the table more than once: also as one that stays.",
        )
    }

    /// Another row of the table, or of another one, is shown by the same key.
    fn refuse_still_shown(&self, bound: &Bound, keys: &[String]) -> Result<()> {
        let sql = format!(
            "SELECT 1 FROM {} AS u WHERE u.{} OPERATOR(pg_catalog.=) ANY ($1::{}[]) LIMIT 1",
            bound.binding.usage.sql,
            self.source.shown_as.sql(),
            self.source.key_type.sql()
        );
        self.refuse_any(
            bound,
            &sql,
            &[Arg::TextArray(keys)],
            "It still shows a row of the table when that has left: others have its key.",
        )
    }

    fn refuse_any(&self, bound: &Bound, sql: &str, args: &[Arg], detail: &str) -> Result<()> {
        let usage = &bound.binding.usage;
        let outcome = {
            let _owner = bound.run_as(usage.owner);
            spi::query_of(&[usage.oid], sql, args, Snapshot::Caller)?
        };
        match outcome.rows.is_empty() {
            true => Ok(()),
            false => Err(Error::ArchiveOfView {
                relation: usage.sql.clone(),
                detail: detail.into(),
            }),
        }
    }

    /// Delete the rows of the table, into the archive if there is one: how many.
    fn delete(
        &self,
        bound: &Bound,
        archive: Option<&UsageArchive>,
        keys: &[String],
    ) -> Result<usize> {
        let (table, key) = (&self.source.table, self.source.key.sql());
        let (kept, count_kept) = UsageArchive::keep_sql(archive);
        let sql = format!(
            "WITH gone AS (DELETE FROM {} AS t WHERE t.{key} OPERATOR(pg_catalog.=) ANY ($1::{}[]) RETURNING t.*){kept} \
             SELECT pg_catalog.count(*), {count_kept} FROM gone",
            table.sql,
            self.source.key_type.sql()
        );
        let archives = archive.iter().map(|archive| archive.table.oid);
        let relations: Vec<_> = std::iter::once(table.oid).chain(archives).collect();
        let outcome = {
            let _owner = bound.run_as(table.owner);
            spi::query_of(&relations, &sql, &[Arg::TextArray(keys)], Snapshot::Latest)?
        };
        let (mut gone, mut kept) = (0, 0);
        for row in &outcome.rows {
            (gone, kept) = (row.amount::<usize>(0)?, row.amount::<usize>(1)?);
        }
        UsageArchive::refuse_suppressed(archive, table, gone, kept)?;
        // They are locked: nobody else has taken one away.
        all("usage", gone.min(keys.len()), keys.len(), &table.sql)?;
        Ok(gone)
    }
}

/// What the view shows of these workflows, as of the snapshot that is active.
fn sums(bound: &Bound, workflows: &[String]) -> Result<HashMap<String, Usage>> {
    let binding = &bound.binding;
    let is_one_of_them = format!(
        "u.{} OPERATOR(pg_catalog.=) ANY ($1::{}[])",
        binding.usage_workflow.sql(),
        binding.usage_workflow.key_type.sql()
    );
    let sql = usage_groups_sql(binding, &[is_one_of_them]);
    let _owner = bound.run_as(binding.usage.owner);
    let args = [Arg::TextArray(workflows)];
    let outcome = spi::query_of(&[binding.usage.oid], &sql, &args, Snapshot::Caller)?;
    let mut used: HashMap<String, Usage> = HashMap::new();
    for row in &outcome.rows {
        let of_workflow = used.entry(row.text(0).to_owned()).or_default();
        of_workflow.add(row.owned(1), row.counted(2)?);
    }
    Ok(used)
}
