//! The dashboard's payload: what an account used lately, by stage and by model.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys::{INT4OID, TEXTOID};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

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
    by_stage: Vec<OfStage>,
    by_model: Vec<OfModel>,
    recent_records: Vec<Map<String, Json>>,
    token_balance: i64,
    is_overdraft: bool,
}

/// Of all rows. Its names are not those of a group: the answer is what an application's response model takes.
#[derive(Serialize)]
struct Totals {
    total_prompt_tokens: i128,
    total_completion_tokens: i128,
    total_tokens: i128,
    record_count: i64,
}

/// Of the rows of a stage or a model.
#[derive(Clone, Copy, Default, Serialize)]
struct Sums {
    prompt_tokens: i128,
    completion_tokens: i128,
    total_tokens: i128,
    record_count: i64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.total_tokens += other.total_tokens;
        self.record_count += other.record_count;
    }

    fn to_totals(self) -> Totals {
        Totals {
            total_prompt_tokens: self.prompt_tokens,
            total_completion_tokens: self.completion_tokens,
            total_tokens: self.total_tokens,
            record_count: self.record_count,
        }
    }
}

#[derive(Serialize)]
struct OfStage {
    stage: String,
    #[serde(flatten)]
    sums: Sums,
}

#[derive(Serialize)]
struct OfModel {
    model: Option<String>,
    #[serde(flatten)]
    sums: Sums,
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
/// accounts. In no days or fewer nothing was used. Error P0002 for an unknown account.
pub(crate) fn summary(bounds: &[Rc<Bound>], account: &str, days: i32) -> Result<Summary> {
    let Some(first) = bounds.first() else {
        return Err(Error::NotAttached);
    };
    let balance = balance_of(&first.book, account)?.ok_or_else(|| Error::UnknownAccount {
        account: account.to_owned(),
    })?;
    let mut rows = Vec::new();
    if days > 0 {
        for bound in bounds {
            let of_binding = rows_of(bound, account, days)?.into_iter();
            rows.extend(of_binding.map(|row| (bound, row)));
        }
    }
    let (mut records, groups): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, row)| row.is_true(0));
    // Those of each binding are in order; a time of the server's count says which of two are newer.
    records.sort_by_key(|(_, row)| std::cmp::Reverse(row.number::<i64>(9)));
    records.truncate(RECENT_RECORDS);
    let mut totals = Sums::default();
    let mut stages = BTreeMap::<_, Sums>::new();
    let mut models = BTreeMap::<_, Sums>::new();
    for (_, row) in groups {
        let group = sums_of(row)?;
        totals.add(&group);
        let stage = row.get(1).filter(|stage| !stage.is_empty());
        let stage = stage.unwrap_or(UNKNOWN).to_owned();
        stages.entry(stage).or_default().add(&group);
        models.entry(row.owned(2)).or_default().add(&group);
    }
    let records = records.into_iter();
    Ok(Summary {
        summary: totals.to_totals(),
        by_stage: largest_first(stages)
            .map(|(stage, sums)| OfStage { stage, sums })
            .collect(),
        by_model: largest_first(models)
            .map(|(model, sums)| OfModel { model, sums })
            .collect(),
        recent_records: records
            .map(|(bound, row)| record_of(&bound.binding, row))
            .collect::<Result<_>>()?,
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

fn sums_of(row: &Row) -> Result<Sums> {
    Ok(Sums {
        prompt_tokens: row.amount(3)?,
        completion_tokens: row.amount(4)?,
        total_tokens: row.amount(5)?,
        record_count: row.amount(6)?,
    })
}

/// One usage row. Columns that the table does not have are null, tokens 0; without a key there is no `id`.
fn record_of(binding: &Binding, row: &Row) -> Result<Map<String, Json>> {
    let sums = sums_of(row)?;
    let mut record = Map::new();
    let mut add = |name: &str, value| record.insert(name.to_owned(), value);
    if binding.details.id.is_some() {
        add("id", json!(row.get(10)));
    }
    add("stage", json!(row.get(1)));
    add("model", json!(row.get(2)));
    add("prompt_tokens", json!(sums.prompt_tokens));
    add("completion_tokens", json!(sums.completion_tokens));
    add("total_tokens", json!(sums.total_tokens));
    add("created_at", json!(row.get(8)));
    let workflow = json!(row.get(7));
    // A workflow column that is called like another field would hide that one.
    match binding.usage_workflow.column.name.as_str() {
        name if record.contains_key(name) => record.insert("workflow_id".into(), workflow),
        name => record.insert(name.to_owned(), workflow),
    };
    Ok(record)
}

fn largest_first<T: Ord>(by: BTreeMap<T, Sums>) -> impl Iterator<Item = (T, Sums)> {
    let mut groups: Vec<_> = by.into_iter().collect();
    groups.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.total_tokens));
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
    let id = optional(&details.id, "NULL::pg_catalog.text");
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
        "SELECT false, {stage}, {model}, {}, {}, {tokens}, pg_catalog.count(*), NULL::pg_catalog.text, \
         NULL::pg_catalog.text, NULL::bigint, NULL::pg_catalog.text {rows} GROUP BY 2, 3",
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
         OPERATOR(pg_catalog.#>>) '{{}}'::pg_catalog.text[], {moment}, {id} {rows} \
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
