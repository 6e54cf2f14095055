//! Exempting what waits: whoever wants it forgiven says so, and it is recorded who did (DESIGN W8, W9).

use std::collections::{BTreeSet, HashMap, HashSet};

use pgrx::PgLogLevel;
use pgrx::pg_sys::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID, TimestampTz};

use super::CHUNK;
use super::claim::{Accounted, Settled, read_settled, unaccounted};
use super::lock::{lock_workflows, needs_locks};
use super::rename;
use super::settlement::archived_usage_sql;
use super::sweep::{BATCH, unsettled};
use super::usage::{Usage, computed, payers, usage_groups_sql};
use crate::binding::{Binding, Bound, Kept, Which, bindings_locked, bound};
use crate::error::{Error, Result};
use crate::ledger::account::keep_ids;
use crate::ledger::change::actor;
use crate::ledger::moved;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::index_entry;
use crate::postgres::snapshot::{Snapshot, uses_transaction_snapshot};
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, Row};

/// What was exempted.
#[derive(Default)]
pub(crate) struct Exempted {
    pub(crate) workflows: usize,
    /// Pairs of workflow and account.
    pub(crate) pairs: usize,
    pub(crate) tokens: i128,
}

/// Tokens of one account in one workflow that are to be exempt.
struct Exemption {
    workflow: String,
    account: String,
    tokens: i64,
    /// What the settlement row said before; None if there was no row.
    settled: Option<Settled>,
}

impl Exemption {
    fn usage_tokens(&self) -> i64 {
        self.settled.as_ref().map_or(0, |it| it.usage) + self.tokens
    }
}

/// The statements that write settlement rows. The two times are left: nothing is settled.
struct Statements {
    first: Statement,
    more: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let (column, id) = match bound.binding.spec.ids {
            Some(ids) => (", binding_id", format!(", {}", ids.binding)),
            None => ("", String::new()),
        };
        Statements {
            first: Statement::new(
                &format!(
                    "INSERT INTO token_balance.settlement (workflow_id, user_id, usage_tokens{column}) \
                     SELECT e.workflow_id, e.user_id, e.usage_tokens{id} \
                     FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) \
                     AS e (workflow_id, user_id, usage_tokens) \
                     ON CONFLICT DO NOTHING RETURNING workflow_id, user_id"
                ),
                &[TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID],
            ),
            more: Statement::new(
                &format!(
                    "UPDATE token_balance.settlement AS s SET usage_tokens = $3 \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2 \
                     AND s.usage_tokens OPERATOR(pg_catalog.=) $4 \
                     AND {} OPERATOR(pg_catalog.=) $5::pg_catalog.numeric",
                    bound.binding.own("s"),
                    archived_usage_sql(bound.binding.spec.ids, "s")
                ),
                &[TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID],
            ),
        }
    }
}

/// Exempt all usage that waits, of runs that are completed and of open ones; with `until`, what is older than that by
/// the usage's own time. Usage that comes later waits again. What cannot be counted waits, too, with a WARNING.
///
/// As in a sweep, all workflows are found before the first one is locked, so that nobody waits for a lock out of order.
pub(crate) fn exempt_pending(name: Option<&str>, until: Option<TimestampTz>) -> Result<Exempted> {
    // What is forgiven is of one binding, which is named where there are several.
    let name = bound(name)?.name().to_owned();
    let mut bounds = bindings_locked(Which::Named(Some(&name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Err(Error::NotAttached);
    };
    if until.is_some() && bound.binding.details.created_at.is_none() {
        return Err(Error::InvalidArgument {
            message: "until is given, but the usage has no time".into(),
            detail: None,
            hint: Some("Name its column in attach: usage_created_at.".into()),
        });
    }
    bound.binding.refuse_replaced_view()?;
    rename::follow(std::iter::once(&*bound))?;
    let workflows = computed(&bound.binding, || waiting(&bound, until))?;
    lock_workflows(workflows.iter(), needs_locks(&bound.binding));
    let mut exempted = Exempted::default();
    for chunk in workflows.chunks(CHUNK) {
        exempt(&bound, chunk, until, &mut exempted)?;
    }
    record(&bound, until, &exempted)?;
    Ok(exempted)
}

/// The usage by workflow and account, older than $1 if that is given.
fn usage_sql(binding: &Binding, until: Option<TimestampTz>, more: Option<String>) -> String {
    let is_older = match (until, &binding.details.created_at) {
        (Some(_), Some(column)) => format!(
            "u.{} OPERATOR(pg_catalog.<) $1::{}",
            column.sql(),
            column.time_type_sql()
        ),
        _ => "$1 IS NULL".into(),
    };
    let conditions: Vec<_> = more.into_iter().chain([is_older]).collect();
    usage_groups_sql(binding, &conditions)
}

/// The workflows of which some usage waits, in order.
fn waiting(bound: &Bound, until: Option<TimestampTz>) -> Result<Vec<String>> {
    let binding = &bound.binding;
    binding.require_readable()?;
    let cursor = Cursor::open(
        binding.accounts.users.owner,
        &[binding.usage.oid],
        &usage_sql(binding, until, None),
        &[Arg::OptionalTimestamp(until)],
        Snapshot::Statement,
        Life::Transaction,
    )?;
    let mut found = BTreeSet::new();
    loop {
        let groups = cursor.fetch(BATCH)?;
        if groups.is_empty() {
            break;
        }
        found.extend(unsettled(bound, &groups)?);
    }
    cursor.close()?;
    Ok(found.into_iter().collect())
}

/// Exempt what the locked workflows have used and is not accounted for. Where somebody else has accounted for some
/// meanwhile, look again: a settlement of very many runs goes without locks.
fn exempt(
    bound: &Bound,
    workflows: &[String],
    until: Option<TimestampTz>,
    exempted: &mut Exempted,
) -> Result<()> {
    let mut done = HashSet::new();
    let mut rest = workflows.to_vec();
    while let Some(first) = rest.first() {
        let wanted = outstanding_and_kept(bound, &rest, until)?;
        let (written, refused) = write(bound, wanted)?;
        exempted.pairs += written.len();
        for exemption in written {
            exempted.tokens += i128::from(exemption.tokens);
            done.insert(exemption.workflow);
        }
        if !refused.is_empty() && uses_transaction_snapshot() {
            let workflow = first.clone();
            return Err(Error::ConcurrentSettlement { workflow });
        }
        rest = refused.into_iter().map(|it| it.workflow).collect();
        rest.dedup();
    }
    exempted.workflows += done.len();
    Ok(())
}

/// The same as [`outstanding`], of accounts that nobody gives another id meanwhile: what is written of them would not go
/// along.
fn outstanding_and_kept(
    bound: &Bound,
    workflows: &[String],
    until: Option<TimestampTz>,
) -> Result<Vec<Exemption>> {
    let mut kept = HashSet::new();
    loop {
        let mut passed_over = Vec::new();
        let wanted = outstanding(bound, workflows, until, &mut passed_over)?;
        let accounts: BTreeSet<_> = wanted.iter().map(|it| it.account.clone()).collect();
        if accounts.iter().all(|account| kept.contains(account)) {
            passed_over
                .into_iter()
                .for_each(|error: Error| error.report(PgLogLevel::WARNING));
            return Ok(wanted);
        }
        keep_ids(&bound.book, accounts.iter())?;
        kept.extend(accounts);
    }
}

/// What is used and not accounted for, in the order of workflows and accounts. `passed_over` gets what of it cannot be
/// exempted, and why.
fn outstanding(
    bound: &Bound,
    workflows: &[String],
    until: Option<TimestampTz>,
    passed_over: &mut Vec<Error>,
) -> Result<Vec<Exemption>> {
    let usage = computed(&bound.binding, || read_usage(bound, workflows, until))?;
    let settled = read_settled(bound, workflows)?;
    let mut found = Vec::new();
    for (workflow, settled) in workflows.iter().zip(&settled) {
        let Some(usage) = usage.get(workflow) else {
            continue;
        };
        for account in usage.uncounted(&bound.binding) {
            passed_over.push(Error::UncountedUsage {
                workflow: workflow.clone(),
                account: account.map(str::to_owned),
            });
        }
        for (account, tokens) in usage.by_payer(&bound.binding) {
            let tokens = unaccounted(&tokens, settled, account)?;
            if tokens <= 0 {
                continue;
            }
            let Some(exemption) = exemption(bound, workflow, account, tokens, settled)? else {
                continue;
            };
            if !index_entry::fit(&[&exemption.workflow, &exemption.account]) {
                passed_over.push(Error::IdsTooLong {
                    workflow: exemption.workflow,
                    account: exemption.account,
                    tokens,
                });
                continue;
            }
            match moved::database(&bound.book, &exemption.account)? {
                None => found.push(exemption),
                // What of it is settled is not known here.
                Some(database) => passed_over.push(Error::UsageOfMovedAccount {
                    workflow: exemption.workflow,
                    account: exemption.account,
                    tokens,
                    database,
                }),
            }
        }
    }
    found.sort_unstable_by(|a, b| (&a.workflow, &a.account).cmp(&(&b.workflow, &b.account)));
    Ok(found)
}

/// Where the workflow's account pays, usage names none: it is that account's, or nobody's, as with attach. What does
/// not fit a bigint is cut off there: nobody can be charged for it.
fn exemption(
    bound: &Bound,
    workflow: &str,
    account: Option<&str>,
    tokens: i128,
    settled: &Accounted,
) -> Result<Option<Exemption>> {
    let account = match account {
        Some(account) => account.to_owned(),
        None => payers(bound, workflow)?
            .into_iter()
            .min()
            .unwrap_or_default(),
    };
    let settled = settled.get(&account).cloned();
    let room = i64::MAX - settled.as_ref().map_or(0, |settled| settled.usage);
    let tokens = i64::try_from(tokens).map_or(room, |tokens| tokens.min(room));
    Ok((tokens > 0).then(|| Exemption {
        workflow: workflow.to_owned(),
        account,
        tokens,
        settled,
    }))
}

/// The usage of `workflows`, by account, with a snapshot that is newer than their locks.
fn read_usage(
    bound: &Bound,
    workflows: &[String],
    until: Option<TimestampTz>,
) -> Result<HashMap<String, Usage>> {
    let binding = &bound.binding;
    let is_one_of_them = format!(
        "u.{} OPERATOR(pg_catalog.=) ANY ($2::{}[])",
        binding.usage_workflow.sql(),
        binding.usage_workflow.key_type.sql()
    );
    let sql = usage_sql(binding, until, Some(is_one_of_them));
    let _owner = bound.run_as(binding.usage.owner);
    let args = [Arg::OptionalTimestamp(until), Arg::TextArray(workflows)];
    let outcome = spi::query_of(&[binding.usage.oid], &sql, &args, Snapshot::Latest)?;
    let mut usage: HashMap<String, Usage> = HashMap::new();
    for row in &outcome.rows {
        let of_workflow = usage.entry(row.text(0).to_owned()).or_default();
        of_workflow.add(row.owned(1), row.counted(2)?);
    }
    Ok(usage)
}

/// Write them in their order, which is that of settling. Those come back whose settlement row was not as it was read.
fn write(bound: &Bound, wanted: Vec<Exemption>) -> Result<(Vec<Exemption>, Vec<Exemption>)> {
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    let mut is_written = Vec::with_capacity(wanted.len());
    for run in wanted.chunk_by(|a, b| a.settled.is_none() && b.settled.is_none()) {
        if let [
            Exemption {
                workflow,
                account,
                settled: Some(settled),
                ..
            },
        ] = run
        {
            let args = [
                Arg::Text(workflow),
                Arg::Text(account),
                Arg::Int8(run[0].usage_tokens()),
                Arg::Int8(settled.usage),
                Arg::Text(&settled.archived.to_string()),
            ];
            let outcome = statements.more.run(&args, Snapshot::Statement)?;
            is_written.push(outcome.processed == 1);
            continue;
        }
        let column = |value: fn(&Exemption) -> &String| run.iter().map(value).cloned();
        let outcome = statements.first.run(
            &[
                Arg::TextArray(&column(|it| &it.workflow).collect::<Vec<_>>()),
                Arg::TextArray(&column(|it| &it.account).collect::<Vec<_>>()),
                Arg::Int8Array(run.iter().map(Exemption::usage_tokens).collect()),
            ],
            Snapshot::Statement,
        )?;
        let of_row = |row: &Row| (row.text(0).to_owned(), row.text(1).to_owned());
        let written: HashSet<_> = outcome.rows.iter().map(of_row).collect();
        is_written.extend(
            run.iter()
                .map(|it| written.contains(&(it.workflow.clone(), it.account.clone()))),
        );
    }
    let mut is_written = is_written.into_iter();
    Ok(wanted
        .into_iter()
        .partition(|_| is_written.next() == Some(true)))
}

/// Who has exempted what, where somebody looks for it later. Nothing was exempted: nothing is recorded.
fn record(bound: &Bound, until: Option<TimestampTz>, exempted: &Exempted) -> Result<()> {
    if exempted.pairs == 0 {
        return Ok(());
    }
    let actor = actor();
    let _owner = bound.run_as_extension();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    spi::query(
        "INSERT INTO token_balance.exemption (binding_id, until, actor, workflows, pairs, tokens) \
         VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.numeric)",
        &[
            Arg::OptionalInt2(bound.binding.spec.ids.map(|ids| ids.binding)),
            Arg::OptionalTimestamp(until),
            Arg::Text(&actor),
            Arg::Int8(count(exempted.workflows)),
            Arg::Int8(count(exempted.pairs)),
            Arg::Text(&exempted.tokens.to_string()),
        ],
    )
    .map(drop)
}
