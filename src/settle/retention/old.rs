//! Old usage: which rows are old, and whose may leave.

use std::collections::HashMap;

use super::deletions::Collected;
use super::record::TakenAway;
use crate::binding::{Binding, Bound, Payer, Which, bindings_locked, bindings_unlocked};
use crate::error::{Error, Result};
use crate::postgres::catalog::{Column, Table};
use crate::postgres::exact_sum::ExactSum;
use crate::settle::claim::{Accounted, read_settled, unaccounted};
use crate::settle::rename;
use crate::settle::usage::{self, Usage};

/// Where this transaction has changed ids of workflows, what is known of them goes along before anything is looked for:
/// their usage is under the new ids.
pub(super) fn follow_renamed(name: &str) -> Result<()> {
    if !rename::is_any_noted() {
        return Ok(());
    }
    let bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    rename::follow(bounds.iter().map(|bound| &**bound))
}

/// Error 0A000 for rows that are the usage of several bindings: what leaves would have to be noted in all of them.
pub(super) fn refuse_shared(table: &Table) -> Result<()> {
    let found = bindings_unlocked(Which::OfUsageRows(table.oid))?;
    let broken = found.broken.into_iter().map(|(spec, _)| spec.name);
    let whole = found.whole.iter().map(|bound| bound.name().to_owned());
    let names: Vec<_> = whole.chain(broken).collect();
    match names.len() {
        0 | 1 => Ok(()),
        _ => Err(Error::ArchiveOfShared {
            relation: table.sql.clone(),
            names,
        }),
    }
}

/// The column by which usage is old. Error 22023 where there is none.
pub(super) fn time_of(binding: &Binding) -> Result<Column> {
    let time = binding.details.created_at.clone();
    time.ok_or_else(|| Error::InvalidArgument {
        message: format!("the usage in {} has no time", binding.usage.sql),
        detail: None,
        hint: Some("Name its column in attach: usage_created_at.".into()),
    })
}

/// SQL for "the usage row u is older than this".
pub(super) fn is_older_sql(time: &Column, before: &str) -> String {
    format!(
        "u.{} OPERATOR(pg_catalog.<) {before}::{}",
        time.sql(),
        time.time_type_sql()
    )
}

/// SQL for "the usage row u is of a workflow, and of an account where the usage names them". A row that is nobody's is not
/// settled, and stays.
pub(super) fn is_owned_sql(binding: &Binding) -> String {
    let workflow = format!("u.{} IS NOT NULL", binding.usage_workflow.sql());
    match &binding.payer {
        Payer::Usage(key) => format!("{workflow} AND u.{} IS NOT NULL", key.sql()),
        Payer::Workflow(_) => workflow,
    }
}

/// What left of some workflows.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) taken: Vec<TakenAway>,
    pub(super) rows: usize,
    /// What triggers have seen of it, where deletions are recorded.
    pub(super) deleted: Option<Collected>,
    /// Workflows whose rows stay.
    pub(super) unsettled: usize,
}

/// Those that are settled to the last token, and how many are not.
pub(super) fn partition_settled(
    bound: &Bound,
    mut workflows: Vec<String>,
) -> Result<(Vec<String>, usize)> {
    workflows.sort_unstable();
    let settled = read_settled(bound, &workflows)?;
    let used = usage::read(bound, &workflows)?;
    let all = workflows.len();
    let mut found = Vec::with_capacity(all);
    for ((workflow, used), settled) in workflows.into_iter().zip(&used).zip(&settled) {
        if is_settled(&bound.binding, used, settled)? {
            found.push(workflow);
        }
    }
    let unsettled = all - found.len();
    Ok((found, unsettled))
}

/// Whether a workflow is settled to the last token: nothing waits, and nothing is missing. What is missing was deleted without
/// record, and late usage makes up for it until somebody says what that is to be (`accept_deletions`, `correct_workflow`):
/// afterwards nobody could tell which of the rows were late.
pub(super) fn is_settled(binding: &Binding, used: &Usage, settled: &Accounted) -> Result<bool> {
    if used.uncounted(binding).next().is_some() {
        return Ok(false);
    }
    let mut sums: HashMap<Option<&str>, ExactSum> = used.by_payer(binding).into_iter().collect();
    if matches!(binding.payer, Payer::Usage(_)) {
        for account in settled.keys() {
            sums.entry(Some(account)).or_default();
        }
    }
    for (account, tokens) in sums {
        let is_accounted = match account {
            Some(account) => settled.get(account).is_some_and(|one| one.usage > 0),
            None => settled.values().any(|one| one.usage > 0),
        };
        match unaccounted(&tokens, settled, account)? {
            0 => {}
            // Tokens below zero alone are nothing to be charged.
            ..0 if !is_accounted => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}
