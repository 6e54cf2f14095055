//! What was there before `attach`: usage that is exempted, and balances that changed while the
//! extension was detached.

use std::time::{Duration, Instant};

use pgrx::PgLogLevel;

use crate::binding::{Binding, Payer, completed};
use crate::error::{Error, Result};
use crate::ledger::change::Kind;
use crate::ledger::entries::last_entry_sql;
use crate::postgres::catalog::{self, Table};
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::index_entry;
use crate::postgres::notice::notice;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row, texts};
use crate::settle::settlement::archived_usage_sql;
use crate::settle::usage::computed;

const BATCH: usize = 10_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Record what was used before the extension as accounted for, and charge nothing.
///
/// Error 22000 if a row of it cannot be computed.
pub(super) fn exempt_existing_usage(binding: &Binding) -> Result<()> {
    computed(binding, || exempt_all(binding))
}

fn exempt_all(binding: &Binding) -> Result<()> {
    let started = Instant::now();
    let mut last_told = started;
    let mut recorded = 0_usize;
    let mut tokens = 0_i128;
    let mut too_long = (0_usize, 0_i128);
    let cursor = read_as_users_owner(binding, &binding.usage, &existing_usage_sql(binding))?;
    while let Some(mut batch) = next_batch(&cursor)? {
        for row in batch.extract_if(.., |row| !index_entry::fit(&[row.text(0), row.text(1)])) {
            too_long.0 += 1;
            too_long.1 += row.amount::<i128>(2)?;
        }
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        let (column, id) = match binding.spec.ids {
            Some(ids) => (", binding_id", format!(", {}", ids.binding)),
            None => ("", String::new()),
        };
        spi::query(
            &format!(
                "INSERT INTO token_balance.settlement AS s \
                 (workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens, \
                 first_settled_at, last_settled_at{column}) \
                 SELECT e.workflow_id, e.user_id, e.usage_tokens, 0, 0, NULL, NULL{id} \
                 FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
                 pg_catalog.unnest($3::bigint[])) AS e (workflow_id, user_id, usage_tokens) \
                 ON CONFLICT (workflow_id, user_id{column}) DO UPDATE \
                 SET usage_tokens = {used} WHERE s.usage_tokens OPERATOR(pg_catalog.<) {used}",
                used = format_args!(
                    "(EXCLUDED.usage_tokens OPERATOR(pg_catalog.+) pg_catalog.round({})::bigint)",
                    archived_usage_sql(binding.spec.ids, "s")
                )
            ),
            &[
                Arg::TextArray(&texts(&batch, 0)),
                Arg::TextArray(&texts(&batch, 1)),
                Arg::TextArray(&texts(&batch, 2)),
            ],
        )?;
        recorded += batch.len();
        for row in &batch {
            tokens += row.amount::<i128>(2)?;
        }
        if last_told.elapsed() >= PROGRESS_EVERY {
            last_told = Instant::now();
            notice(
                format!("existing usage recorded for {recorded} pairs of workflow and account"),
                Some(format!("{} s have passed.", started.elapsed().as_secs())),
                None,
            );
        }
    }
    if recorded > 0 {
        notice(
            format!("usage of {} from before is exempt", binding.usage.sql),
            Some(format!(
                "{tokens} tokens of {recorded} pairs of workflow and account are not charged."
            )),
            Some(
                "CALL token_balance.settle_backlog(existing => true) charges it after all.".into(),
            ),
        );
    }
    if too_long.0 > 0 {
        let (pairs, tokens) = too_long;
        let relation = binding.usage.sql.clone();
        Error::CannotExempt {
            relation,
            pairs,
            tokens,
        }
        .report(PgLogLevel::WARNING);
    }
    cursor.close()
}

/// One row per workflow and account: what they used so far. Sums past bigint are cut off there: such
/// usage could not be charged anyway. Tokens that cannot be counted are in none of them: once they are corrected, they
/// are usage that came later.
pub(super) fn existing_usage_sql(binding: &Binding) -> String {
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    let tokens = format!(
        "LEAST(({})::pg_catalog.numeric, {}::pg_catalog.numeric)::bigint",
        binding.countable_tokens_sql("u"),
        i64::MAX
    );
    let usage = &binding.usage.sql;
    match (&binding.payer, &binding.workflows) {
        (Payer::Workflow(payer), Some(workflows)) => format!(
            "SELECT g.workflow_id, COALESCE(w.user_id, ''), g.tokens \
             FROM (SELECT {workflow}::pg_catalog.text AS workflow_id, {tokens} AS tokens \
             FROM {usage} AS u WHERE {workflow} IS NOT NULL GROUP BY 1) AS g \
             LEFT JOIN (SELECT {workflow_key} AS workflow_id, pg_catalog.min({account}) AS user_id \
             FROM {workflows} AS w WHERE w.{payer} IS NOT NULL GROUP BY 1) AS w \
             ON w.workflow_id OPERATOR(pg_catalog.=) g.workflow_id \
             WHERE g.tokens OPERATOR(pg_catalog.>) 0",
            workflow_key = binding.workflow_key_sql(workflows, "w"),
            account = binding.account_sql("w"),
            workflows = workflows.table.sql,
            payer = payer.sql(),
        ),
        (Payer::Usage(payer) | Payer::Workflow(payer), _) => format!(
            "SELECT g.workflow_id, g.user_id, g.tokens \
             FROM (SELECT {workflow}::pg_catalog.text AS workflow_id, {account} AS user_id, \
             {tokens} AS tokens FROM {usage} AS u \
             WHERE {workflow} IS NOT NULL AND u.{payer} IS NOT NULL GROUP BY 1, 2) AS g \
             WHERE g.tokens OPERATOR(pg_catalog.>) 0",
            account = binding.account_sql("u"),
            payer = payer.sql(),
        ),
    }
}

/// What of the usage is not accounted for.
#[derive(Default)]
pub(super) struct Outstanding {
    /// Of runs that are completed: pairs of workflow and account, and tokens.
    pub(super) completed: (usize, i128),
    /// Of others.
    pub(super) open: (usize, i128),
}

/// Of a binding that goes on. Errors as of [`exempt_existing_usage`].
pub(super) fn outstanding(binding: &Binding) -> Result<Outstanding> {
    computed(binding, || sum_outstanding(binding))
}

fn sum_outstanding(binding: &Binding) -> Result<Outstanding> {
    let completed = match &binding.workflows {
        Some(workflows) => format!(
            "EXISTS (SELECT 1 FROM {} AS w WHERE {} OPERATOR(pg_catalog.=) g.workflow_id AND {})",
            workflows.table.sql,
            binding.workflow_key_sql(workflows, "w"),
            completed::sql(binding, "w")
        ),
        None => "false".into(),
    };
    let sql = format!(
        "SELECT g.workflow_id, g.user_id, g.tokens, {completed} FROM ({}) AS g (workflow_id, user_id, tokens)",
        existing_usage_sql(binding)
    );
    // Where the workflow's account pays, all that was settled of it counts.
    let is_settled = match &binding.payer {
        Payer::Usage(_) => "AND s.user_id OPERATOR(pg_catalog.=) e.user_id",
        Payer::Workflow(_) => "",
    };
    let sum = format!(
        "SELECT e.is_completed, pg_catalog.count(*), pg_catalog.sum(e.tokens OPERATOR(pg_catalog.-) e.settled) \
         FROM (SELECT e.is_completed, e.tokens, COALESCE((SELECT pg_catalog.round(pg_catalog.sum(s.usage_tokens OPERATOR(pg_catalog.-) {})) \
         FROM token_balance.settlement AS s WHERE {} s.workflow_id OPERATOR(pg_catalog.=) e.workflow_id \
         {is_settled}), 0) AS settled FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
         pg_catalog.unnest($3::bigint[]), pg_catalog.unnest($4::boolean[])) \
         AS e (workflow_id, user_id, tokens, is_completed)) AS e \
         WHERE e.tokens OPERATOR(pg_catalog.>) e.settled GROUP BY 1",
        archived_usage_sql(binding.spec.ids, "s"),
        binding.own("s")
    );
    let mut outstanding = Outstanding::default();
    let cursor = read_as_users_owner(binding, &binding.usage, &sql)?;
    while let Some(batch) = next_batch(&cursor)? {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        let columns: Vec<_> = (0..4).map(|column| texts(&batch, column)).collect();
        let args: Vec<_> = columns
            .iter()
            .map(|column| Arg::TextArray(column))
            .collect();
        for row in &spi::query(&sum, &args)?.rows {
            let (pairs, tokens) = match row.is_true(0) {
                true => &mut outstanding.completed,
                false => &mut outstanding.open,
            };
            *pairs += row.amount::<usize>(1)?;
            *tokens += row.amount::<i128>(2)?;
        }
    }
    cursor.close()?;
    Ok(outstanding)
}

pub(super) fn balances_sql(binding: &Binding) -> String {
    format!(
        "SELECT a.{}::pg_catalog.text, a.{column}::bigint FROM {} AS a WHERE a.{column} IS NOT NULL",
        binding.accounts.user_key.sql(),
        binding.accounts.users.sql,
        column = binding.accounts.balance_sql(),
    )
}

/// Accounts that have a ledger from an earlier binding and whose balance has changed since get an
/// entry for the difference: the chain goes on. The trigger's lock keeps balances still meanwhile.
pub(super) fn record_changes_while_detached(binding: &Binding) -> Result<()> {
    if !catalog::exists("SELECT 1 FROM token_balance.ledger LIMIT 1", &[])? {
        return Ok(());
    }
    let cursor = read_as_users_owner(binding, &binding.accounts.users, &balances_sql(binding))?;
    let (columns, ids) = match binding.spec.ids {
        Some(ids) => (
            ", accounts_id, binding_id, entry_id",
            format!(
                ", {}, NULL, l.entry_id OPERATOR(pg_catalog.+) 1",
                ids.accounts
            ),
        ),
        None => ("", String::new()),
    };
    let mut changed = 0;
    while let Some(batch) = next_batch(&cursor)? {
        let actor = catalog::role_name(binding.accounts.extension_owner);
        let outcome = spi::query(
            &format!(
                "INSERT INTO token_balance.ledger \
             (user_id, kind, amount, previous_balance, new_balance, note, actor{columns}) \
             OVERRIDING SYSTEM VALUE SELECT a.user_id, {adjustment}, a.balance OPERATOR(pg_catalog.-) l.new_balance, \
             l.new_balance, a.balance, 'changed while token_balance was not attached', $3{ids} \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
             AS a (user_id, balance) \
             {last_entry} WHERE l.new_balance OPERATOR(pg_catalog.<>) a.balance",
                adjustment = Kind::Adjustment.sql(),
                last_entry = last_entry_sql(&binding.accounts.own("e")),
            ),
            &[
                Arg::TextArray(&texts(&batch, 0)),
                Arg::TextArray(&texts(&batch, 1)),
                Arg::Text(&actor),
            ],
        )?;
        changed += outcome.processed;
    }
    if changed > 0 {
        notice(
            format!("balances of {} were changed", binding.accounts.users.sql),
            Some(format!(
                "The ledger knew another one of {changed} accounts: each has an adjustment."
            )),
            None,
        );
    }
    cursor.close()
}

pub(super) fn read_as_users_owner(binding: &Binding, table: &Table, sql: &str) -> Result<Cursor> {
    let owner = binding.accounts.users.owner;
    let relations = [table.oid];
    Cursor::open(
        owner,
        &relations,
        sql,
        &[],
        Snapshot::Statement,
        Life::Transaction,
    )
}

pub(super) fn next_batch(cursor: &Cursor) -> Result<Option<Vec<Row>>> {
    let batch = cursor.fetch(BATCH)?;
    Ok(Some(batch).filter(|batch| !batch.is_empty()))
}
