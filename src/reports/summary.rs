//! The dashboard's payload: what an account used lately, by stage and by model.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys::{INT4OID, INT8OID, Oid, TEXTOID};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::usage_sums;
use crate::binding::{Binding, Bound, Kept, Key, Payer};
use crate::error::{Error, Result};
use crate::ledger::account::balance_of;
use crate::postgres::catalog::{Column, Table};
use crate::postgres::exact_sum::ExactSum;
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

/// Of all rows. Each figure is rounded once, of what it is of: parts may differ from their whole.
/// Its names are not those of a group: the answer is what an application's response model takes.
#[derive(Serialize)]
struct Totals {
    total_prompt_tokens: ExactSum,
    total_completion_tokens: ExactSum,
    total_tokens: ExactSum,
    record_count: i64,
}

/// Of the rows of a stage or a model.
#[derive(Default, Serialize)]
struct Sums {
    prompt_tokens: ExactSum,
    completion_tokens: ExactSum,
    total_tokens: ExactSum,
    record_count: i64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.prompt_tokens.add(&other.prompt_tokens);
        self.completion_tokens.add(&other.completion_tokens);
        self.total_tokens.add(&other.total_tokens);
        self.record_count += other.record_count;
    }

    fn into_totals(self) -> Totals {
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

/// The statements of a summary, for one binding.
struct Statements {
    /// By the aggregate of ours, where it can be: what it adds up, and the statement.
    summed: Option<(Summed, Statement)>,
    /// By SQL's GROUP BY.
    grouped: Statement,
    /// Whether a role may call the aggregate.
    may_sum: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        let statement = |groups: String| {
            let sql = format!("{groups}{}", records_sql(binding));
            Statement::planned_each_time(&sql, &[TEXTOID, INT4OID]).of(&[binding.usage.oid])
        };
        Statements {
            summed: Summed::of(binding).map(|summed| {
                let groups = summed.groups_sql(binding);
                (summed, statement(groups))
            }),
            grouped: statement(groups_sql(binding)),
            may_sum: Statement::new(MAY_SUM, &[INT8OID]),
        }
    }
}

/// A catalog that is not updated yet has no such function; and a hardened one may keep it from PUBLIC.
const MAY_SUM: &str = "SELECT 1 FROM pg_catalog.pg_proc AS p \
     JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
     WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
     AND p.proname OPERATOR(pg_catalog.=) 'usage_sums'::pg_catalog.name \
     AND pg_catalog.has_schema_privilege($1::pg_catalog.oid, n.oid, 'USAGE') \
     AND pg_catalog.has_function_privilege($1::pg_catalog.oid, p.oid, 'EXECUTE')";

/// The columns that the aggregate adds up, each once.
struct Summed {
    columns: Vec<Column>,
    /// Which of them are what; None counts as 0.
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
    usage_tokens: Vec<usize>,
}

impl Summed {
    /// None where the server's own GROUP BY has to do it: of fractions; of texts that are equal to others by their
    /// collation; and of another server's rows, which that one may group itself.
    fn of(binding: &Binding) -> Option<Self> {
        let details = &binding.details;
        let mut below = binding.usage_view.iter().flat_map(|view| &view.tables);
        let mut texts = [&details.stage, &details.model].into_iter().flatten();
        if below.any(Table::is_foreign) || texts.any(|it| it.loose_collation.is_some()) {
            return None;
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut place_of = |column: &Column| {
            let known = columns.iter().position(|it| it.number == column.number);
            known.unwrap_or_else(|| {
                columns.push(column.clone());
                columns.len() - 1
            })
        };
        let usage_tokens = binding.usage_tokens.iter().map(&mut place_of).collect();
        let prompt_tokens = details.prompt_tokens.as_ref().map(&mut place_of);
        let completion_tokens = details.completion_tokens.as_ref().map(&mut place_of);
        let are_whole = columns.iter().all(Column::holds_whole_tokens);
        are_whole.then_some(Summed {
            columns,
            prompt_tokens,
            completion_tokens,
            usage_tokens,
        })
    }

    /// One row, with the groups as text; null if there are none.
    fn groups_sql(&self, binding: &Binding) -> String {
        // As they are: a cast would round what has become a fraction meanwhile. The aggregate refuses that.
        let columns = self.columns.iter().map(|it| format!(", u.{}", it.sql()));
        format!(
            "SELECT false, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.numeric, \
             NULL::pg_catalog.numeric, NULL::pg_catalog.numeric, NULL::bigint, \
             token_balance.usage_sums({}, {}{}), NULL::pg_catalog.text, NULL::bigint, NULL::pg_catalog.text {}",
            optional_text(&binding.details.stage),
            optional_text(&binding.details.model),
            columns.collect::<String>(),
            rows_sql(binding)
        )
    }

    fn group_of(&self, group: usage_sums::Group) -> Group {
        let sum = |places: &[usize]| {
            let sums = places.iter().filter_map(|place| group.sums.get(*place));
            ExactSum::from(sums.sum::<i128>())
        };
        Group {
            sums: Sums {
                prompt_tokens: sum(self.prompt_tokens.as_slice()),
                completion_tokens: sum(self.completion_tokens.as_slice()),
                total_tokens: sum(&self.usage_tokens),
                record_count: group.rows,
            },
            stage: group.stage,
            model: group.model,
        }
    }
}

/// The rows of a stage and a model.
struct Group {
    stage: Option<String>,
    model: Option<String>,
    sums: Sums,
}

/// What the statement answers, of one binding.
struct Found {
    groups: Vec<Group>,
    /// The newest rows, the newest first.
    records: Vec<Row>,
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
    let mut records = Vec::new();
    let mut totals = Sums::default();
    let mut stages = BTreeMap::<_, Sums>::new();
    let mut models = BTreeMap::<_, Sums>::new();
    if days > 0 {
        for bound in bounds {
            let found = found_of(bound, account, days)?;
            for Group { stage, model, sums } in found.groups {
                totals.add(&sums);
                let stage = stage.filter(|stage| !stage.is_empty());
                let stage = stage.unwrap_or_else(|| UNKNOWN.to_owned());
                stages.entry(stage).or_default().add(&sums);
                models.entry(model).or_default().add(&sums);
            }
            records.extend(found.records.into_iter().map(|row| (bound, row)));
        }
    }
    // Those of each binding are in order; a time of the server's count says which of two are newer.
    records.sort_by_key(|(_, row)| std::cmp::Reverse(row.number::<i64>(9)));
    records.truncate(RECENT_RECORDS);
    let records = records.into_iter();
    Ok(Summary {
        summary: totals.into_totals(),
        by_stage: largest_first(stages)
            .map(|(stage, sums)| OfStage { stage, sums })
            .collect(),
        by_model: largest_first(models)
            .map(|(model, sums)| OfModel { model, sums })
            .collect(),
        recent_records: records
            .map(|(bound, row)| record_of(&bound.binding, &row))
            .collect::<Result<_>>()?,
        token_balance: balance,
        is_overdraft: balance < 0,
    })
}

fn found_of(bound: &Bound, account: &str, days: i32) -> Result<Found> {
    let owner = match &bound.binding.payer {
        Payer::Usage(_) => bound.binding.usage.owner,
        // This one reads two tables.
        Payer::Workflow(_) => bound.binding.accounts.users.owner,
    };
    let _owner = bound.run_as(owner);
    let statements = bound.kept::<Statements>();
    let summed = match &statements.summed {
        Some(summed) if statements.may_sum(owner)? => Some(summed),
        _ => None,
    };
    let statement = summed.map_or(&statements.grouped, |(_, statement)| statement);
    let args = [Arg::Text(account), Arg::Int4(days)];
    let rows = statement.run(&args, Snapshot::Statement)?.rows;
    let (records, groups): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_true(0));
    let groups = match summed {
        None => groups.iter().map(group_of).collect::<Result<_>>()?,
        Some((summed, _)) => {
            let shown = groups.first().and_then(|row| row.get(7));
            let groups = shown.map(usage_sums::read).transpose()?.unwrap_or_default();
            groups.into_iter().map(|it| summed.group_of(it)).collect()
        }
    };
    Ok(Found { groups, records })
}

impl Statements {
    fn may_sum(&self, role: Oid) -> Result<bool> {
        let args = [Arg::Int8(role.to_u32().into())];
        Ok(!self
            .may_sum
            .run(&args, Snapshot::Statement)?
            .rows
            .is_empty())
    }
}

fn group_of(row: &Row) -> Result<Group> {
    Ok(Group {
        stage: row.owned(1),
        model: row.owned(2),
        sums: sums_of(row)?,
    })
}

fn sums_of(row: &Row) -> Result<Sums> {
    Ok(Sums {
        prompt_tokens: ExactSum::of(row.get(3))?,
        completion_tokens: ExactSum::of(row.get(4))?,
        total_tokens: ExactSum::of(row.get(5))?,
        record_count: row.amount(6)?,
    })
}

/// One usage row. Columns that the table does not have are null, tokens 0, or null where they cannot be counted;
/// without a key there is no `id`.
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
    groups.sort_by_cached_key(|(_, sums)| std::cmp::Reverse(sums.total_tokens.rounded()));
    groups.into_iter()
}

/// The first part of the statement: the period's rows grouped once by stage and model. Blocks are added up from those
/// few groups.
fn groups_sql(binding: &Binding) -> String {
    let details = &binding.details;
    format!(
        "SELECT false, {}, {}, {}, {}, {}, pg_catalog.count(*), NULL::pg_catalog.text, \
         NULL::pg_catalog.text, NULL::bigint, NULL::pg_catalog.text {} GROUP BY 2, 3",
        optional_text(&details.stage),
        optional_text(&details.model),
        sum_of(&details.prompt_tokens),
        sum_of(&details.completion_tokens),
        binding.exact_tokens_sql("u"),
        rows_sql(binding),
    )
}

/// The second part, so that totals and records are of one moment: the newest rows, which the index that `verify` names
/// gives without reading the others.
fn records_sql(binding: &Binding) -> String {
    let details = &binding.details;
    let Some(created_at) = &details.created_at else {
        // Without a time no row is newer than another.
        return String::new();
    };
    let created_at = format!("u.{}", created_at.sql());
    format!(
        " UNION ALL (SELECT true, {stage}, {model}, {prompt}, {completion}, {row_total}, \
         1, u.{workflow}::pg_catalog.text, pg_catalog.to_jsonb({created_at}) \
         OPERATOR(pg_catalog.#>>) '{{}}'::pg_catalog.text[], {moment}, {id} {rows} \
         ORDER BY {created_at} DESC LIMIT {RECENT_RECORDS})",
        stage = optional_text(&details.stage),
        model = optional_text(&details.model),
        prompt = tokens_of(&details.prompt_tokens),
        completion = tokens_of(&details.completion_tokens),
        row_total = binding.exact_row_tokens_sql("u"),
        workflow = binding.usage_workflow.sql(),
        moment = moment_sql(&format!("{created_at}::timestamp with time zone")),
        id = optional_text(&details.id),
        rows = rows_sql(binding),
    )
}

fn optional_text(column: &Option<Column>) -> String {
    match column {
        Some(column) => text_of(column),
        None => "NULL::pg_catalog.text".into(),
    }
}

fn text_of(column: &Column) -> String {
    format!("u.{}::pg_catalog.text", column.sql())
}

/// NULL counts as 0.
fn sum_of(column: &Option<Column>) -> String {
    match column {
        Some(column) => column.exact_sum_sql("u"),
        None => "0::pg_catalog.numeric".into(),
    }
}

fn tokens_of(column: &Option<Column>) -> String {
    match column {
        Some(column) => column.exact_row_sql("u"),
        None => "0::pg_catalog.numeric".into(),
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
