//! `token_balance.reconcile`: everything that does not add up, one row each.
//!
//! All checks read one state, that of the calling statement, so a busy database gives no false
//! alarms; and all are read through cursors, so memory does not grow with the ledger. Tables of the
//! application are read as their owner, tables of the extension as the extension's; where the two
//! are compared, the rows of one are handed to the other's query, or both are merged here.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use pgrx::pg_sys;

use super::verify::{Check, ledger_guard, verify_triggers};
use crate::binding::own::{self, extension_owner};
use crate::binding::{BALANCE_COLUMN, Binding, Book, Bound, Payer, book, bound, completed};
use crate::error::{Error, Result};
use crate::ledger::change::Kind;
use crate::ledger::{account, queue};
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row, texts};
use crate::settle::usage::usage_groups_sql;

const BATCH: usize = 1_000;

/// One thing that does not add up. Amounts are tokens.
#[derive(Default)]
pub(crate) struct Problem {
    pub(crate) problem: String,
    pub(crate) account: Option<String>,
    pub(crate) workflow: Option<String>,
    pub(crate) expected: Option<i128>,
    pub(crate) found: Option<i128>,
    pub(crate) hint: String,
}

type Problems = Box<dyn Iterator<Item = Result<Problem>>>;
type Look = Box<dyn FnOnce() -> Result<Problems>>;

/// All problems, found while they are read.
pub(crate) fn reconcile() -> Result<impl Iterator<Item = Result<Problem>>> {
    let owner = extension_owner()?;
    let mut checks: Vec<Look> = vec![
        Box::new(move || chain(owner)),
        Box::new(move || settlements(owner)),
        Box::new(|| Ok(failed(vec![ledger_guard()?]))),
    ];
    // Balances are there whatever has become of the other tables.
    if let Ok(book) = book() {
        let balances = book.clone();
        checks.push(Box::new(move || columns(&balances)));
        checks.push(Box::new(move || queued(&book)));
    }
    match bound() {
        Ok(bound) => {
            let structure = bound.clone();
            checks.push(Box::new(move || triggers(&structure.binding)));
            checks.push(Box::new(move || used_and_settled(bound)));
        }
        Err(error) => checks.push(Box::new(move || Ok(one(broken_binding(error))))),
    }
    Ok(checks.into_iter().flat_map(|check| match check() {
        Ok(problems) => problems,
        Err(error) => Box::new(std::iter::once(Err(error))) as Problems,
    }))
}

fn one(problem: Problem) -> Problems {
    Box::new(std::iter::once(Ok(problem)))
}

fn broken_binding(error: Error) -> Problem {
    let report = pg_sys::panic::ErrorReport::from(error);
    Problem {
        problem: "binding broken".into(),
        hint: format!(
            "{}. {}",
            report.message(),
            report.hint().unwrap_or_default()
        ),
        ..Problem::default()
    }
}

/// Rows of a cursor, one at a time.
struct Rows {
    cursor: Cursor,
    read: VecDeque<Row>,
}

impl Rows {
    fn open(owner: pg_sys::Oid, relations: &[pg_sys::Oid], sql: &str) -> Result<Self> {
        Ok(Rows {
            cursor: Cursor::open(
                owner,
                relations,
                sql,
                &[],
                Snapshot::Caller,
                Life::Transaction,
            )?,
            read: VecDeque::new(),
        })
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if self.read.is_empty() {
            self.read = self.cursor.fetch(BATCH)?.into();
        }
        Ok(self.read.pop_front())
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// The ledger's chain of each account: a change that was made while the trigger was off leaves a
/// gap between two entries.
fn chain(owner: pg_sys::Oid) -> Result<Problems> {
    let rows = Rows::open(
        owner,
        &[],
        &format!(
            "SELECT c.user_id, c.entry_id, c.expected, c.previous_balance \
             FROM (SELECT l.user_id, l.entry_id, l.previous_balance, \
             pg_catalog.lag(l.new_balance) OVER (PARTITION BY {}, l.user_id ORDER BY l.entry_id) \
             AS expected FROM token_balance.ledger AS l) AS c \
             WHERE c.previous_balance OPERATOR(pg_catalog.<>) c.expected",
            own::id("l", "accounts_id")?
        ),
    )?;
    Ok(Box::new(rows.map(|row| {
        let row = row?;
        Ok(Problem {
            problem: "chain broken".into(),
            account: Some(row.text(0).into()),
            expected: row.number(2),
            found: row.number(3),
            hint: format!(
                "Before entry {} the balance was changed without an entry: find out by whom; \
                 verify() tells whether the trigger is on.",
                row.text(1)
            ),
            ..Problem::default()
        })
    })))
}

/// Settlements against the ledger and what was archived of it, by workflow: an account whose id was
/// changed keeps its entries under the old one.
fn settlements(owner: pg_sys::Oid) -> Result<Problems> {
    let rows = Rows::open(
        owner,
        &[],
        &format!(
            "SELECT c.workflow_id, c.charged, c.in_ledger, c.refunded, c.back_in_ledger, c.used \
         FROM (SELECT COALESCE(s.workflow_id, l.workflow_id) AS workflow_id, \
         COALESCE(s.used, 0) AS used, COALESCE(s.charged, 0) AS charged, \
         COALESCE(l.charged, 0) OPERATOR(pg_catalog.+) COALESCE(s.archived_charged, 0) \
         AS in_ledger, COALESCE(s.refunded, 0) AS refunded, \
         COALESCE(l.refunded, 0) OPERATOR(pg_catalog.+) COALESCE(s.archived_refunded, 0) \
         AS back_in_ledger \
         FROM (SELECT t.workflow_id, {of_settlement} AS binding_id, \
         pg_catalog.sum(t.usage_tokens) AS used, \
         pg_catalog.sum(t.charged_tokens) AS charged, \
         pg_catalog.sum(t.refunded_tokens) AS refunded, \
         pg_catalog.sum(t.archived_charged_tokens) AS archived_charged, \
         pg_catalog.sum(t.archived_refunded_tokens) AS archived_refunded \
         FROM token_balance.settlement AS t GROUP BY 1, 2) AS s \
         FULL JOIN (SELECT e.workflow_id, e.binding_id, \
         OPERATOR(pg_catalog.-) COALESCE(pg_catalog.sum(e.amount) \
         FILTER (WHERE e.kind OPERATOR(pg_catalog.=) {settlement}), 0) AS charged, \
         COALESCE(pg_catalog.sum(e.amount) \
         FILTER (WHERE e.kind OPERATOR(pg_catalog.=) {refund}), 0) AS refunded \
         FROM (SELECT d.workflow_id, {of_entry} AS binding_id, d.kind, d.amount \
         FROM token_balance.ledger AS d WHERE d.workflow_id IS NOT NULL UNION ALL \
         SELECT q.workflow_id, {of_queued}, {settlement}, OPERATOR(pg_catalog.-) q.tokens \
         FROM token_balance.queue AS q) AS e GROUP BY 1, 2) AS l \
         ON l.workflow_id OPERATOR(pg_catalog.=) s.workflow_id \
         AND l.binding_id OPERATOR(pg_catalog.=) s.binding_id) AS c \
         WHERE c.charged OPERATOR(pg_catalog.<>) c.in_ledger \
         OR c.refunded OPERATOR(pg_catalog.<>) c.back_in_ledger \
         OR c.charged OPERATOR(pg_catalog.>) c.used",
            of_settlement = own::id("t", "binding_id")?,
            of_entry = own::id("d", "binding_id")?,
            of_queued = own::id("q", "binding_id")?,
            settlement = Kind::Settlement.sql(),
            refund = Kind::Refund.sql()
        ),
    )?;
    Ok(Box::new(rows.map(|row| {
        let row = row?;
        let differs = "settlement differs from ledger";
        let (problem, expected, found, hint) = if row.get(1) != row.get(2) {
            (differs, 1, 2, "charged, the ledger what left the balances")
        } else if row.get(3) != row.get(4) {
            (differs, 3, 4, "refunded, the ledger what was given back")
        } else {
            ("charged more than used", 5, 1, "used, and what was charged")
        };
        Ok(Problem {
            problem: problem.into(),
            workflow: Some(row.text(0).into()),
            expected: row.number(expected),
            found: row.number(found),
            hint: format!("The settlement says what was {hint}; one of them was changed by hand."),
            ..Problem::default()
        })
    })))
}

fn triggers(binding: &Binding) -> Result<Problems> {
    Ok(failed(verify_triggers(binding)?))
}

/// The checks of `verify` that are not ok.
fn failed(checks: Vec<Check>) -> Problems {
    let problems = checks.into_iter().filter(|check| !check.ok).map(|check| {
        Ok(Problem {
            problem: format!("{}: {}", check.name, check.detail),
            hint: check.hint.unwrap_or_default(),
            ..Problem::default()
        })
    });
    Box::new(problems)
}

/// The balance column against the last entry of each account that has one.
fn columns(book: &Book) -> Result<Problems> {
    let accounts = &book.accounts;
    let (extension_owner, own) = (accounts.extension_owner, accounts.own("e"));
    let rows = Rows::open(
        accounts.users.owner,
        &[accounts.users.oid],
        &format!(
            "SELECT a.{}::pg_catalog.text, a.{BALANCE_COLUMN}::bigint FROM {} AS a",
            accounts.user_key.sql(),
            accounts.users.sql
        ),
    )?;
    let batches = std::iter::from_fn(move || {
        rows.cursor
            .fetch(BATCH)
            .and_then(|batch| match batch.is_empty() {
                true => Ok(None),
                false => column_problems(extension_owner, &own, &batch).map(Some),
            })
            .transpose()
    });
    Ok(Box::new(batches.flat_map(|batch| match batch {
        Ok(problems) => problems.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    })))
}

/// Charges in the queue that no account can pay, or that nobody is going to apply.
fn queued(book: &Book) -> Result<Problems> {
    let (accounts, tokens) = queue::totals(book)?;
    let mut problems = Vec::new();
    for (account, tokens) in accounts.into_iter().zip(tokens) {
        if account::column_of(book, &account)?.is_none() {
            problems.push(Ok(Problem {
                problem: "queued for an unknown account".into(),
                account: Some(account),
                found: Some(tokens.into()),
                hint:
                    "The account was deleted before its charges were applied: create it again, or \
                       delete its rows of token_balance.queue."
                        .into(),
                ..Problem::default()
            }));
        } else if !queue::is_used(book) {
            problems.push(Ok(Problem {
                problem: "left in the queue".into(),
                account: Some(account),
                expected: Some(0),
                found: Some(tokens.into()),
                hint: "Call token_balance.settle_pending(). What the balance column has no room \
                       for stays: give it a wider type first."
                    .into(),
                ..Problem::default()
            }));
        }
    }
    Ok(Box::new(problems.into_iter()))
}

fn column_problems(
    extension_owner: pg_sys::Oid,
    own: &str,
    accounts: &[Row],
) -> Result<Vec<Problem>> {
    let _owner = RunAs::owner(extension_owner);
    let outcome = spi::query_as_of(
        &format!(
            "SELECT a.user_id, l.new_balance, a.balance \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
             AS a (user_id, balance) \
             CROSS JOIN LATERAL (SELECT e.new_balance FROM token_balance.ledger AS e \
             WHERE {own} e.user_id OPERATOR(pg_catalog.=) a.user_id \
             ORDER BY e.entry_id DESC LIMIT 1) AS l \
             WHERE l.new_balance OPERATOR(pg_catalog.<>) a.balance"
        ),
        &[
            Arg::TextArray(&texts(accounts, 0)),
            Arg::TextArray(&texts(accounts, 1)),
        ],
        Snapshot::Caller,
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| Problem {
            problem: "balance differs from ledger".into(),
            account: Some(row.text(0).into()),
            expected: row.number(1),
            found: row.number(2),
            hint: "The column was changed without an entry: set it to what is right while the \
                   trigger is on."
                .into(),
            ..Problem::default()
        })
        .collect())
}

/// What was used by one account in one workflow.
struct Used {
    key: (String, String),
    tokens: i128,
    is_completed: bool,
    account_exists: bool,
}

/// What is accounted for.
struct Accounted {
    key: (String, String),
    tokens: i128,
    /// Whether the workflow was settled once, for any account.
    was_settled: bool,
}

/// Usage and settlements, both ordered by workflow and account, walked side by side.
struct Merge {
    bound: Rc<Bound>,
    usage: Rows,
    settlements: Rows,
    used: Option<Used>,
    accounted: Option<Accounted>,
    /// The last two workflows that were read from the settlements, if they were settled once: the
    /// settlements may be a workflow ahead of the usage.
    settled_once: [Option<String>; 2],
}

fn used_and_settled(bound: Rc<Bound>) -> Result<Problems> {
    let binding = &bound.binding;
    let usage = Rows::open(
        binding.accounts.users.owner,
        &[binding.usage.oid],
        &ordered_usage_sql(binding),
    )?;
    // Where the workflow's account pays, usage names none: compare whole workflows.
    let user_id = match &binding.payer {
        Payer::Usage(_) => "s.user_id",
        Payer::Workflow(_) => "''::pg_catalog.text",
    };
    let settlements = Rows::open(
        binding.accounts.extension_owner,
        &[],
        &format!(
            "SELECT s.workflow_id, {user_id}, pg_catalog.sum(s.usage_tokens), \
             pg_catalog.bool_or(pg_catalog.count(s.first_settled_at) OPERATOR(pg_catalog.>) 0) \
             OVER (PARTITION BY s.workflow_id) \
             FROM token_balance.settlement AS s WHERE {} true GROUP BY 1, 2 \
             ORDER BY s.workflow_id COLLATE pg_catalog.\"C\", {user_id} COLLATE pg_catalog.\"C\"",
            binding.own("s")
        ),
    )?;
    let mut merge = Merge {
        usage,
        settlements,
        used: None,
        accounted: None,
        settled_once: [None, None],
        bound,
    };
    merge.read_usage()?;
    merge.read_settlement()?;
    Ok(Box::new(merge))
}

fn ordered_usage_sql(binding: &Binding) -> String {
    let key = binding.accounts.user_key.key_type.canonical_sql(
        &format!("a.{}", binding.accounts.user_key.sql()),
        binding.accounts.user_key.key_type,
    );
    let account_exists = match &binding.payer {
        Payer::Usage(_) => "k.id IS NOT NULL",
        Payer::Workflow(_) => "true",
    };
    let (completed, is_completed) = match &binding.workflows {
        Some(workflows) => (
            format!(
                "LEFT JOIN (SELECT DISTINCT {id} AS id FROM {table} AS w WHERE {condition}) AS c \
                 ON c.id OPERATOR(pg_catalog.=) g.workflow_id",
                id = binding.workflow_key_sql(workflows, "w"),
                table = workflows.table.sql,
                condition = completed::sql(binding, "w"),
            ),
            "c.id IS NOT NULL",
        ),
        None => (String::new(), "false"),
    };
    format!(
        "SELECT g.workflow_id, COALESCE(g.user_id, ''), g.tokens, {is_completed}, {account_exists} \
         FROM ({groups}) AS g {completed} \
         LEFT JOIN (SELECT {key} AS id FROM {users} AS a) AS k \
         ON k.id OPERATOR(pg_catalog.=) g.user_id \
         ORDER BY g.workflow_id COLLATE pg_catalog.\"C\", \
         COALESCE(g.user_id, '') COLLATE pg_catalog.\"C\"",
        groups = usage_groups_sql(binding, &[]),
        users = binding.accounts.users.sql,
    )
}

impl Merge {
    fn read_usage(&mut self) -> Result<()> {
        self.used = match self.usage.next_row()? {
            Some(row) => Some(Used {
                key: (row.text(0).into(), row.text(1).into()),
                tokens: row.amount(2)?,
                is_completed: row.is_true(3),
                account_exists: row.is_true(4),
            }),
            None => None,
        };
        Ok(())
    }

    fn read_settlement(&mut self) -> Result<()> {
        self.accounted = match self.settlements.next_row()? {
            Some(row) => Some(Accounted {
                key: (row.text(0).into(), row.text(1).into()),
                tokens: row.amount(2)?,
                was_settled: row.is_true(3),
            }),
            None => None,
        };
        if let Some(accounted) = &self.accounted
            && accounted.was_settled
            && self.settled_once[1].as_ref() != Some(&accounted.key.0)
        {
            self.settled_once.swap(0, 1);
            self.settled_once[1] = Some(accounted.key.0.clone());
        }
        Ok(())
    }

    /// The next pair of what was used and what is accounted for; either may be missing.
    fn next_pair(&mut self) -> Result<Option<(Option<Used>, Option<Accounted>)>> {
        let order = match (&self.used, &self.accounted) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(used), Some(accounted)) => used.key.cmp(&accounted.key),
        };
        let used = self.used.take_if(|_| order.is_le());
        let accounted = self.accounted.take_if(|_| order.is_ge());
        if used.is_some() {
            self.read_usage()?;
        }
        if accounted.is_some() {
            self.read_settlement()?;
        }
        Ok(Some((used, accounted)))
    }

    fn problem(&self, used: Option<Used>, accounted: Option<Accounted>) -> Option<Problem> {
        let found = accounted.as_ref().map_or(0, |accounted| accounted.tokens);
        let expected = used.as_ref().map_or(0, |used| used.tokens);
        let (workflow, account) = match (&used, &accounted) {
            (Some(used), _) => used.key.clone(),
            (None, Some(accounted)) => accounted.key.clone(),
            (None, None) => return None,
        };
        let was_settled = self.settled_once.iter().flatten().any(|id| *id == workflow);
        let (problem, hint, expected, found) = match (&used, expected.cmp(&found)) {
            (Some(used), Ordering::Greater) if !used.account_exists => (
                "usage of an unknown account",
                "Create the account, then settle the workflow again; or correct the usage.",
                expected,
                found,
            ),
            (Some(used), Ordering::Greater)
                if used.is_completed || (self.bound.binding.workflows.is_none() && was_settled) =>
            {
                (
                    "unsettled usage",
                    "Call settle_workflow() for it, or token_balance.settle_pending() for all.",
                    expected,
                    found,
                )
            }
            (_, Ordering::Less) => (
                "usage shrank",
                "Usage rows were deleted or lowered after they were accounted for. Nothing was \
                 given back: token_balance.refund_workflow() does that.",
                found,
                expected,
            ),
            _ => return None,
        };
        Some(Problem {
            problem: problem.into(),
            account: Some(account).filter(|account| !account.is_empty()),
            workflow: Some(workflow),
            expected: Some(expected),
            found: Some(found),
            hint: hint.into(),
        })
    }
}

impl Iterator for Merge {
    type Item = Result<Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_pair() {
                Ok(Some((used, accounted))) => {
                    if let Some(problem) = self.problem(used, accounted) {
                        return Some(Ok(problem));
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
