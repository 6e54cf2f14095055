//! The dashboard's payload: what an account used lately, by stage and by model.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys::{INT4OID, TEXTOID};
use serde::Serialize;

use crate::binding::{Binding, Bound, Kept, Key, Payer};
use crate::error::{Error, Result};
use crate::ledger::account::balance_of;
use crate::postgres::catalog::Column;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, Row, moment_sql};

const RECENT_RECORDS: usize = 20;
const UNKNOWN: &str = "unknown";

/// The answer of `summary`. Amounts are tokens.
#[derive(Serialize)]
pub(crate) struct Summary {
    summary: Totals,
    by_stage: Vec<StageTotals>,
    by_model: Vec<ModelTotals>,
    recent_records: Vec<Record>,
    token_balance: i64,
    is_overdraft: bool,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Totals {
    total_prompt_tokens: i128,
    total_completion_tokens: i128,
    total_tokens: i128,
    record_count: i64,
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.total_prompt_tokens += other.total_prompt_tokens;
        self.total_completion_tokens += other.total_completion_tokens;
        self.total_tokens += other.total_tokens;
        self.record_count += other.record_count;
    }
}

#[derive(Serialize)]
struct StageTotals {
    stage: String,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize)]
struct ModelTotals {
    model: String,
    #[serde(flatten)]
    totals: Totals,
}

/// One usage row. Columns that the table does not have are null, tokens 0.
#[derive(Serialize)]
struct Record {
    workflow_id: Option<String>,
    stage: Option<String>,
    model: Option<String>,
    prompt_tokens: i128,
    completion_tokens: i128,
    total_tokens: i128,
    created_at: Option<String>,
}

/// The statement of a summary, for one binding.
struct Statements {
    summary: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        Statements {
            summary: Statement::planned_each_time(&summary_sql(binding), &[TEXTOID, INT4OID])
                .of(&[binding.usage.oid]),
        }
    }
}

/// The account's summary over the last `days` days, of the usage of all these bindings, which charge the same
/// accounts. Error P0002 for an unknown account.
pub(crate) fn summary(bounds: &[Rc<Bound>], account: &str, days: i32) -> Result<Summary> {
    let Some(first) = bounds.first() else {
        return Err(Error::NotAttached);
    };
    let balance = balance_of(&first.book, account)?.ok_or_else(|| Error::UnknownAccount {
        account: account.to_owned(),
    })?;
    let mut rows = Vec::new();
    for bound in bounds {
        rows.extend(rows_of(bound, account, days)?);
    }
    let (mut records, groups): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_true(0));
    // Those of each binding are in order; a time of the server's count says which of two are newer.
    records.sort_by_key(|row| std::cmp::Reverse(row.number::<i64>(9)));
    records.truncate(RECENT_RECORDS);
    let mut totals = Totals::default();
    let mut stages = BTreeMap::new();
    let mut models = BTreeMap::new();
    for row in groups {
        let group = totals_of(row)?;
        totals.add(&group);
        for (by, column) in [(&mut stages, 1), (&mut models, 2)] {
            let name = row.get(column).unwrap_or(UNKNOWN).to_owned();
            by.entry(name).or_insert_with(Totals::default).add(&group);
        }
    }
    Ok(Summary {
        summary: totals,
        by_stage: largest_first(stages)
            .map(|(stage, totals)| StageTotals { stage, totals })
            .collect(),
        by_model: largest_first(models)
            .map(|(model, totals)| ModelTotals { model, totals })
            .collect(),
        recent_records: records.into_iter().map(record_of).collect::<Result<_>>()?,
        token_balance: balance,
        is_overdraft: balance < 0,
    })
}

fn rows_of(bound: &Bound, account: &str, days: i32) -> Result<Vec<Row>> {
    let owner = match &bound.binding.payer {
        Payer::Usage(_) => bound.binding.usage.owner,
        // This one reads two tables.
        Payer::Workflow(_) => bound.binding.accounts.users.owner,
    };
    let _owner = bound.run_as(owner);
    let args = [Arg::Text(account), Arg::Int4(days)];
    let statements = bound.kept::<Statements>();
    Ok(statements.summary.run(&args, Snapshot::Statement)?.rows)
}

fn totals_of(row: &Row) -> Result<Totals> {
    Ok(Totals {
        total_prompt_tokens: row.amount(3)?,
        total_completion_tokens: row.amount(4)?,
        total_tokens: row.amount(5)?,
        record_count: row.amount(6)?,
    })
}

fn record_of(row: &Row) -> Result<Record> {
    let text = |column| row.owned(column);
    let tokens = totals_of(row)?;
    Ok(Record {
        workflow_id: text(7),
        stage: text(1),
        model: text(2),
        prompt_tokens: tokens.total_prompt_tokens,
        completion_tokens: tokens.total_completion_tokens,
        total_tokens: tokens.total_tokens,
        created_at: text(8),
    })
}

fn largest_first(by: BTreeMap<String, Totals>) -> impl Iterator<Item = (String, Totals)> {
    let mut groups: Vec<_> = by.into_iter().collect();
    groups.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.total_tokens));
    groups.into_iter()
}

/// One statement, so that totals and records are of one moment: the period's rows grouped once by
/// stage and model (blocks are added up from those few groups), and the newest rows, which the
/// index that `verify` names gives without reading the others.
fn summary_sql(binding: &Binding) -> String {
    let optional = |column: &Option<_>, otherwise: &str| match column {
        Some(column) => text_of(column),
        None => otherwise.to_owned(),
    };
    let details = &binding.details;
    let stage = optional(&details.stage, "NULL::pg_catalog.text");
    let model = optional(&details.model, "NULL::pg_catalog.text");
    let prompt = tokens_of(&details.prompt_tokens);
    let completion = tokens_of(&details.completion_tokens);
    let row_total: Vec<_> = binding
        .usage_tokens
        .iter()
        .map(|column| format!("COALESCE(u.{}, 0)::pg_catalog.numeric", column.sql()))
        .collect();
    let row_total = row_total.join(" OPERATOR(pg_catalog.+) ");
    let rows = rows_sql(binding);
    let groups = format!(
        "SELECT false, {stage}, {model}, {}, {}, {tokens}, pg_catalog.count(*), \
         NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::bigint {rows} GROUP BY 2, 3",
        sum_of(&details.prompt_tokens),
        sum_of(&details.completion_tokens),
        tokens = binding.tokens_sql("u"),
    );
    let Some(created_at) = &details.created_at else {
        // Without a time no row is newer than another.
        return groups;
    };
    let created_at = format!("u.{}", created_at.sql());
    format!(
        "{groups} UNION ALL (SELECT true, {stage}, {model}, {prompt}, {completion}, {row_total}, \
         1, u.{workflow}::pg_catalog.text, pg_catalog.to_jsonb({created_at}) \
         OPERATOR(pg_catalog.#>>) '{{}}'::pg_catalog.text[], {moment} {rows} \
         ORDER BY {created_at} DESC LIMIT {RECENT_RECORDS})",
        workflow = binding.usage_workflow.sql(),
        moment = moment_sql(&format!("{created_at}::timestamp with time zone")),
    )
}

fn text_of(column: &Column) -> String {
    format!("u.{}::pg_catalog.text", column.sql())
}

/// NULL counts as 0.
fn sum_of(column: &Option<Column>) -> String {
    match column {
        Some(column) => format!(
            "COALESCE(pg_catalog.sum(u.{}), 0)::pg_catalog.numeric",
            column.sql()
        ),
        None => "0::pg_catalog.numeric".into(),
    }
}

fn tokens_of(column: &Option<Column>) -> String {
    match column {
        Some(column) => format!("COALESCE(u.{}, 0)::bigint", column.sql()),
        None => "0::bigint".into(),
    }
}

/// FROM and WHERE of the account's usage rows of the period.
fn rows_sql(binding: &Binding) -> String {
    let usage = &binding.usage.sql;
    let is_account = |alias: &str, payer: &Key| {
        payer.key_type.equals_sql(
            &format!("{alias}.{}", payer.sql()),
            binding.accounts.user_key.key_type,
            "$1",
        )
    };
    let account = match (&binding.payer, &binding.workflows) {
        (Payer::Workflow(payer), Some(workflows)) => format!(
            "u.{}::pg_catalog.text OPERATOR(pg_catalog.=) ANY (SELECT {} FROM {} AS w WHERE {})",
            binding.usage_workflow.sql(),
            binding.workflow_key_sql(workflows, "w"),
            workflows.table.sql,
            is_account("w", payer),
        ),
        (Payer::Usage(payer) | Payer::Workflow(payer), _) => is_account("u", payer),
    };
    // A time without a zone is one of the session's TimeZone, as everywhere in SQL.
    let period = match &binding.details.created_at {
        Some(column) => format!(
            " AND u.{} OPERATOR(pg_catalog.>=) (pg_catalog.now() OPERATOR(pg_catalog.-) \
             pg_catalog.make_interval(days => $2))::{}",
            column.sql(),
            column.time_type_sql()
        ),
        None => " AND $2 IS NOT NULL".into(),
    };
    format!("FROM {usage} AS u WHERE {account}{period}")
}
