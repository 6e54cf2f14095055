//! Usage: what workflows have used, by the account that pays.

use std::collections::HashMap;

use pgrx::pg_sys::{TEXTARRAYOID, TEXTOID};

use super::occasion::Occasion;
use crate::binding::{Binding, Bound, Kept, LateSource, Payer};
use crate::error::{Error, Result};
use crate::ledger::moved;
use crate::postgres::catalog::Column;
use crate::postgres::direct::{FoundRow, Holds, Lookup, Wanted};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::subtransaction::unless_data_exception;
use crate::postgres::value::Arg;

/// The statements on usage and workflow rows, for one binding.
pub(crate) struct Statements {
    pub(crate) lookup: Lookup,
    of_one: Statement,
    of_many: Statement,
    payers: Option<Statement>,
    workflow_exists: Option<Statement>,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        let of_workflows = |sql: Option<String>| {
            let workflows = binding.workflows.as_ref()?;
            Some(Statement::new(&sql?, &[TEXTOID]).of(&[workflows.table.oid]))
        };
        Statements {
            lookup: Lookup::new(wanted(binding)),
            of_one: Statement::new(&of_one_sql(binding, "$1"), &[TEXTOID]).of(&[binding.usage.oid]),
            of_many: Statement::new(&of_many_sql(binding), &[TEXTARRAYOID])
                .of(&[binding.usage.oid]),
            payers: of_workflows(payers_sql(binding)),
            workflow_exists: of_workflows(workflow_exists_sql(binding)),
        }
    }
}

/// The columns that are summed up without SQL: the account, if the usage names it, and the tokens.
/// None where that takes more than adding integers.
fn wanted(binding: &Binding) -> Option<Wanted> {
    if binding.usage_view.is_some() {
        return None;
    }
    let account = match &binding.payer {
        // The text of such a key is the canonical one.
        Payer::Usage(key) if key.key_type.spells_as(binding.accounts.user_key.key_type) => {
            Some((key.column.name.clone(), Holds::Key(key.key_type)))
        }
        Payer::Usage(_) => return None,
        Payer::Workflow(_) => None,
    };
    let tokens = &binding.usage_tokens;
    let integer = |column: &Column| (column.name.clone(), Holds::Integer);
    tokens
        .iter()
        .all(Column::holds_whole_tokens)
        .then(|| Wanted {
            table: binding.usage.oid,
            owner: binding.usage.owner,
            scope: None,
            key: binding.usage_workflow.column.name.clone(),
            key_type: binding.usage_workflow.key_type,
            columns: account
                .into_iter()
                .chain(tokens.iter().map(integer))
                .collect(),
        })
}

/// One row per account with its tokens. With an account column, rows without an account are
/// nobody's: they make the workflow known and are never charged.
pub(crate) fn of_one_sql(binding: &Binding, workflow: &str) -> String {
    let tokens = binding.tokens_sql("u");
    let from = format!(
        "FROM {} AS u WHERE u.{} OPERATOR(pg_catalog.=) {workflow}::{}",
        binding.usage.sql,
        binding.usage_workflow.sql(),
        binding.usage_workflow.key_type.sql()
    );
    match &binding.payer {
        Payer::Usage(_) => {
            format!(
                "SELECT {}, {tokens} {from} GROUP BY 1",
                binding.account_sql("u")
            )
        }
        Payer::Workflow(_) => {
            format!(
                "SELECT NULL, {tokens} {from} HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0"
            )
        }
    }
}

/// The same for many workflows: (workflow, account, tokens). OFFSET 0 keeps the order of the join, so
/// that each workflow is looked up, also by a plan that was made while the table was empty.
fn of_many_sql(binding: &Binding) -> String {
    let account = match &binding.payer {
        Payer::Usage(_) => binding.account_sql("u"),
        Payer::Workflow(_) => "NULL::pg_catalog.text".into(),
    };
    format!(
        "SELECT k.id::pg_catalog.text, s.account, s.tokens \
         FROM pg_catalog.unnest($1::{key_type}[]) AS k (id) \
         CROSS JOIN LATERAL (SELECT {account} AS account, {tokens} AS tokens \
         FROM {usage} AS u WHERE u.{workflow} OPERATOR(pg_catalog.=) k.id GROUP BY 1 OFFSET 0) AS s",
        key_type = binding.usage_workflow.key_type.sql(),
        tokens = binding.tokens_sql("u"),
        usage = binding.usage.sql,
        workflow = binding.usage_workflow.sql(),
    )
}

/// The accounts of a workflow's rows, where those pay.
fn payers_sql(binding: &Binding) -> Option<String> {
    let (Payer::Workflow(payer), Some(workflows)) = (&binding.payer, &binding.workflows) else {
        return None;
    };
    Some(format!(
        "SELECT DISTINCT {} FROM {} AS w WHERE w.{} OPERATOR(pg_catalog.=) $1::{} \
         AND w.{} IS NOT NULL",
        binding.account_sql("w"),
        workflows.table.sql,
        workflows.key.sql(),
        workflows.key.key_type.sql(),
        payer.sql()
    ))
}

fn workflow_exists_sql(binding: &Binding) -> Option<String> {
    binding.workflows.as_ref().map(|workflows| {
        format!(
            "SELECT 1 FROM {} AS w WHERE w.{} OPERATOR(pg_catalog.=) $1::{} LIMIT 1",
            workflows.table.sql,
            workflows.key.sql(),
            workflows.key.key_type.sql()
        )
    })
}

/// The workflows under which the view shows the rows of a table with these keys, an array.
pub(crate) fn shown_sql(binding: &Binding, source: &LateSource, keys: &str) -> String {
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    format!(
        "SELECT DISTINCT {workflow}::pg_catalog.text FROM {} AS u \
         WHERE u.{} OPERATOR(pg_catalog.=) ANY ({keys}::{}[]) AND {workflow} IS NOT NULL",
        binding.usage.sql,
        source.shown_as.sql(),
        source.key_type.sql(),
    )
}

/// SQL for usage by workflow and account: `(workflow_id, user_id, tokens)`, where each of
/// `conditions` on the usage row `u` holds. The account is null where the workflow's account pays.
pub(crate) fn usage_groups_sql(binding: &Binding, conditions: &[String]) -> String {
    groups_sql(binding, &binding.usage.sql, conditions)
}

/// The same of other rows with its columns, and how many rows each group has: `(workflow_id, user_id, tokens,
/// row_count)`.
pub(crate) fn groups_sql(binding: &Binding, rows: &str, conditions: &[String]) -> String {
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    let account = match &binding.payer {
        Payer::Usage(_) => binding.account_sql("u"),
        Payer::Workflow(_) => "NULL::pg_catalog.text".into(),
    };
    let mut all = vec![format!("{workflow} IS NOT NULL")];
    if let Payer::Usage(key) = &binding.payer {
        all.push(format!("u.{} IS NOT NULL", key.sql()));
    }
    all.extend_from_slice(conditions);
    format!(
        "SELECT {workflow}::pg_catalog.text AS workflow_id, {account} AS user_id, \
         {tokens} AS tokens, pg_catalog.count(*) AS row_count FROM {rows} AS u WHERE {conditions} GROUP BY 1, 2",
        tokens = binding.tokens_sql("u"),
        conditions = all.join(" AND "),
    )
}

/// What a workflow has used. An account is None for rows that name none.
#[derive(Clone, Default)]
pub(crate) struct Usage {
    /// Tokens by account.
    sums: Vec<(Option<String>, ExactSum)>,
    /// The accounts whose tokens cannot be counted: they are in no sum.
    uncounted: Vec<Option<String>>,
}

impl Usage {
    pub(crate) fn is_empty(&self) -> bool {
        self.sums.is_empty() && self.uncounted.is_empty()
    }

    /// The accounts that pay for tokens which cannot be counted; None where the usage names none. A row without an
    /// account is nobody's, whatever it has.
    pub(crate) fn uncounted(&self, binding: &Binding) -> impl Iterator<Item = Option<&str>> {
        let is_owned = matches!(binding.payer, Payer::Workflow(_));
        let uncounted = self.uncounted.iter().map(Option::as_deref);
        uncounted.filter(move |account| is_owned || account.is_some())
    }

    /// What each who pays has used: the accounts that it names, or None for all of it, where the workflow's own account
    /// pays. Tokens.
    pub(crate) fn by_payer(&self, binding: &Binding) -> Vec<(Option<&str>, ExactSum)> {
        match &binding.payer {
            Payer::Usage(_) => {
                let sums = self.sums.iter();
                let sums = sums.map(|(account, tokens)| (account.as_deref(), tokens.clone()));
                sums.filter(|(account, _)| account.is_some()).collect()
            }
            Payer::Workflow(_) => vec![(None, self.of(None))],
        }
    }

    /// What the account has used; without one, where the workflow's own account pays, all of it. Tokens, to be compared
    /// with `claim::unaccounted`.
    pub(crate) fn of(&self, account: Option<&str>) -> ExactSum {
        let sums = self.sums.iter();
        let sums = sums.filter(|(one, _)| account.is_none() || one.as_deref() == account);
        let mut all = ExactSum::default();
        sums.for_each(|(_, tokens)| all.add(tokens));
        all
    }

    /// The same, with these accounts, also where they have no row.
    pub(super) fn with<'a>(&self, accounts: impl Iterator<Item = &'a String>) -> Self {
        let mut usage = self.clone();
        for account in accounts {
            let is_there = |(one, _): &(Option<String>, ExactSum)| one.as_ref() == Some(account);
            if !self.sums.iter().any(is_there) {
                usage.add(Some(account.clone()), Some(ExactSum::default()));
            }
        }
        usage
    }

    /// Add what SQL says of an account.
    pub(crate) fn add(&mut self, account: Option<String>, tokens: Option<ExactSum>) {
        match tokens {
            Some(tokens) => self.sums.push((account, tokens)),
            None => self.uncounted.push(account),
        }
    }
}

/// The usage of each of `workflows`.
///
/// Error 22000 if a row of it cannot be computed.
pub(crate) fn read(bound: &Bound, workflows: &[String]) -> Result<Vec<Usage>> {
    if !bound.binding.computes_usage() {
        return sum_up(bound, workflows);
    }
    unless_data_exception(|| sum_up(bound, workflows))?.map_err(|said| Error::UnreadableUsage {
        usage: match workflows {
            [workflow] => format!("usage of workflow \"{workflow}\""),
            _ => format!("usage of one of {} workflows", workflows.len()),
        },
        relation: bound.binding.usage.sql.clone(),
        said,
    })
}

fn sum_up(bound: &Bound, workflows: &[String]) -> Result<Vec<Usage>> {
    let _owner = bound.run_as(bound.binding.usage.owner);
    let statements = bound.kept::<Statements>();
    if let Some(mut reader) = statements.lookup.reader() {
        let mut all = vec![Sums::default(); workflows.len()];
        let names_account = matches!(bound.binding.payer, Payer::Usage(_));
        reader.read(workflows, |at, row| all[at].add(row, names_account));
        let usage = |sums: Sums| Usage {
            sums: sums.exact().collect(),
            uncounted: Vec::new(),
        };
        return Ok(all.into_iter().map(usage).collect());
    }
    if let [workflow] = workflows {
        let outcome = statements
            .of_one
            .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
        let mut usage = Usage::default();
        for row in &outcome.rows {
            usage.add(row.owned(0), row.counted(1)?);
        }
        return Ok(vec![usage]);
    }
    let outcome = statements
        .of_many
        .run(&[Arg::TextArray(workflows)], Snapshot::Latest)?;
    let mut all: HashMap<&str, Usage> = HashMap::new();
    for row in &outcome.rows {
        all.entry(row.text(0))
            .or_default()
            .add(row.owned(1), row.counted(2)?);
    }
    Ok(workflows
        .iter()
        .map(|workflow| all.remove(workflow.as_str()).unwrap_or_default())
        .collect())
}

/// The same; None with a warning of what cannot be computed, where the occasion tolerates that.
pub(super) fn read_or_warn(
    bound: &Bound,
    workflows: &[String],
    occasion: &Occasion,
) -> Result<Vec<Option<Usage>>> {
    match read(bound, workflows) {
        Ok(all) => Ok(all.into_iter().map(Some).collect()),
        Err(Error::UnreadableUsage { .. }) => {
            let one = |workflow| {
                let usage = read(bound, std::slice::from_ref(workflow));
                let usage = usage.map(Vec::into_iter).map(|mut only| only.next());
                occasion.or_warn(bound, usage).map(Option::flatten)
            };
            workflows.iter().map(one).collect()
        }
        Err(error) => Err(error),
    }
}

/// What `work` makes of usage, not of one workflow alone.
///
/// Error 22000 if a row of it cannot be computed.
pub(crate) fn computed<T>(binding: &Binding, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if !binding.computes_usage() {
        return work();
    }
    unless_data_exception(work)?.map_err(|said| Error::UnreadableUsageThere {
        relation: binding.usage.sql.clone(),
        said,
    })
}

/// The number of accounts from which on an account's sum is not searched for among all.
const MANY: usize = 16;

/// The same as the SQL: the sum of each column, nulls left out, by account.
#[derive(Clone, Default)]
struct Sums {
    sums: Vec<(Option<String>, i128)>,
    /// Where the sum of the last row's account is.
    at: usize,
    /// Where the sums are, if there are many.
    places: HashMap<Option<String>, usize>,
}

impl Sums {
    fn add(&mut self, row: &FoundRow, names_account: bool) {
        let first = usize::from(names_account);
        let tokens = (first..row.len()).filter_map(|column| row.integer(column));
        let tokens: i128 = tokens.map(i128::from).sum();
        let is_same = |(account, _): &(Option<String>, i128)| {
            !names_account || row.is_text(0, account.as_deref())
        };
        if !self.sums.get(self.at).is_some_and(is_same) {
            let known = if self.sums.len() < MANY {
                self.sums.iter().position(is_same)
            } else {
                self.places.get(&row.text(0)).copied()
            };
            self.at = known.unwrap_or_else(|| self.add_account(row, names_account));
        }
        self.sums[self.at].1 += tokens;
    }

    fn exact(self) -> impl Iterator<Item = (Option<String>, ExactSum)> {
        let sums = self.sums.into_iter();
        sums.map(|(account, tokens)| (account, tokens.into()))
    }

    fn add_account(&mut self, row: &FoundRow, names_account: bool) -> usize {
        let account = if names_account { row.text(0) } else { None };
        let at = self.sums.len();
        self.sums.push((account.clone(), 0));
        if at >= MANY {
            self.places.insert(account, at);
        } else if at + 1 == MANY {
            let accounts = self.sums.iter().map(|(account, _)| account.clone());
            self.places = accounts.zip(0..).collect();
        }
        at
    }
}

/// The accounts that the workflow's rows name, where those pay.
pub(crate) fn payers(bound: &Bound, workflow: &str) -> Result<Vec<String>> {
    let statements = bound.kept::<Statements>();
    let (Some(statement), Some(workflows)) = (&statements.payers, &bound.binding.workflows) else {
        return Ok(Vec::new());
    };
    let Some(workflow) = workflows.key.key_type.canonical(workflow) else {
        return Ok(Vec::new());
    };
    let _owner = bound.run_as(workflows.table.owner);
    let outcome = statement.run(&[Arg::Text(&workflow)], Snapshot::Latest)?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| row.text(0).to_owned())
        .collect())
}

/// The accounts of a workflow that are in another database, each with the name of that.
pub(crate) fn accounts_elsewhere(bound: &Bound, workflow: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    if moved::is_used(&bound.book) {
        for account in accounts(bound, workflow)? {
            let database = moved::database(&bound.book, &account)?;
            found.extend(database.map(|database| (account, database)));
        }
    }
    Ok(found)
}

/// The accounts that the usage of a workflow names, or that pay for it.
fn accounts(bound: &Bound, workflow: &str) -> Result<Vec<String>> {
    match &bound.binding.payer {
        Payer::Workflow(_) => payers(bound, workflow),
        Payer::Usage(_) => {
            let usage = read(bound, &[workflow.to_owned()])?;
            let by_account = usage.iter().flat_map(|usage| &usage.sums);
            Ok(by_account
                .filter_map(|(account, _)| account.clone())
                .collect())
        }
    }
}

/// Whether the workflow table or the usage knows the workflow.
pub(crate) fn is_known(bound: &Bound, workflow: &str) -> Result<bool> {
    let usage = read(bound, &[workflow.to_owned()])?;
    Ok(usage.iter().any(|usage| !usage.is_empty()) || workflow_exists(bound, workflow)?)
}

/// Whether the workflow table has the workflow; false where none is bound.
pub(crate) fn workflow_exists(bound: &Bound, workflow: &str) -> Result<bool> {
    let statements = bound.kept::<Statements>();
    let (Some(statement), Some(workflows)) =
        (&statements.workflow_exists, &bound.binding.workflows)
    else {
        return Ok(false);
    };
    let Some(workflow) = workflows.key.key_type.canonical(workflow) else {
        return Ok(false);
    };
    let _owner = bound.run_as(workflows.table.owner);
    Ok(!statement
        .run(&[Arg::Text(&workflow)], Snapshot::Statement)?
        .rows
        .is_empty())
}
