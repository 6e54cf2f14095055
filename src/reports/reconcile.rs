//! `token_balance.reconcile`: everything that does not add up, one row each.
//!
//! All checks read one state, that of the calling statement, so a busy database gives no false
//! alarms; and all are read through cursors, so memory does not grow with the ledger. Tables of the
//! application are read as their owner, tables of the extension as the extension's; where the two
//! are compared, the rows of one are handed to the other's query, or both are merged here.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::rc::Rc;

use pgrx::pg_sys;

use super::check::Check;
use super::names::Names;
use super::pairs::{Pair, Pairs, Rows, Used};
use super::problem::{Problem, Problems};
use super::stale_saves::stale_saves;
use super::verify::{ledger_guard, verify_triggers};
use crate::binding::own::{self, extension_owner, own_objects};
use crate::binding::{Binding, Book, Bound, Payer, Which, bindings, usable_names, whole_books};
use crate::error::{Error, Result};
use crate::ledger::change::Kind;
use crate::ledger::entries::last_entry_sql;
use crate::ledger::{account, moved, queue};
use crate::postgres::security::follow;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row, texts};

const BATCH: usize = 1_000;

type Look = Box<dyn FnOnce() -> Result<Problems>>;

/// All problems, found while they are read: of the binding of this name, or of all.
///
/// Error 42704 if none has the name.
pub(crate) fn reconcile(name: Option<&str>) -> Result<Problems> {
    let owner = extension_owner()?;
    let names = Names::read()?;
    let [of_chain, of_settlements, of_saves] = [(); 3].map(|()| names.clone());
    let mut checks: Vec<Look> = vec![
        Box::new(move || chain(owner, of_chain)),
        Box::new(move || settlements(owner, of_settlements)),
        Box::new(move || stale_saves(owner, of_saves)),
        Box::new(|| Ok(failed(vec![ledger_guard()?], None))),
    ];
    // Balances are there whatever has become of the other tables.
    let books = whole_books(name).unwrap_or_default();
    // What is wrong with balances is told under one name of those that charge them.
    let named = match name {
        Some(name) => Some(vec![name.to_owned()]),
        None => match usable_names() {
            Err(error @ Error::BindingOfOthers { .. }) => return Err(error),
            // What cannot be read is told below.
            names => names.unwrap_or_default(),
        },
    };
    let meant = named.map(|names| {
        let of_accounts = books.iter().map(|book| book.accounts.binding.clone());
        Vec::from_iter(of_accounts.chain(names))
    });
    for book in books {
        let balances = book.clone();
        checks.push(Box::new(move || columns(balances)));
        checks.push(Box::new(move || queued(&book)));
    }
    let is_meant = |of: &str| name.is_none_or(|name| name == of);
    match bindings(Which::Named(name)).and_then(|_| bindings(Which::Named(None))) {
        Ok(found) => {
            // A table's triggers are those of all bindings.
            let whole: Vec<_> = found.whole.iter().map(|it| it.binding.clone()).collect();
            for bound in found.whole.into_iter().filter(|it| is_meant(it.name())) {
                let (structure, attached) = (bound.clone(), whole.clone());
                checks.push(Box::new(move || triggers(&structure.binding, &attached)));
                checks.push(Box::new(move || used_and_settled(bound)));
            }
            let broken = found.broken.into_iter();
            for (spec, error) in broken.filter(|(spec, _)| is_meant(&spec.name)) {
                checks.push(Box::new(move || {
                    Ok(one(broken_binding(Some(spec.name), error)))
                }));
            }
        }
        Err(error @ (Error::UnknownBinding { .. } | Error::BindingOfOthers { .. })) => {
            return Err(error);
        }
        Err(error) => checks.push(Box::new(move || Ok(one(broken_binding(None, error))))),
    }
    let problems = checks.into_iter().flat_map(|check| match check() {
        Ok(problems) => problems,
        Err(error) => Box::new(std::iter::once(Err(error))) as Problems,
    });
    Ok(Box::new(problems.filter(move |problem| {
        match (problem, &meant) {
            // What is of no binding is told in any case.
            (
                Ok(Problem {
                    binding: Some(of), ..
                }),
                Some(meant),
            ) => meant.contains(of),
            _ => true,
        }
    })))
}

fn one(problem: Problem) -> Problems {
    Box::new(std::iter::once(Ok(problem)))
}

fn broken_binding(name: Option<String>, error: Error) -> Problem {
    let report = pg_sys::panic::ErrorReport::from(error);
    Problem {
        problem: "binding broken".into(),
        hint: format!(
            "{}. {}",
            report.message(),
            report.hint().unwrap_or_default()
        ),
        binding: name,
        ..Problem::default()
    }
}

/// The ledger's chain of each account: a change that was made while the trigger was off leaves a
/// gap between two entries.
fn chain(owner: pg_sys::Oid, names: Names) -> Result<Problems> {
    let rows = Rows::open(
        owner,
        &[],
        &format!(
            "SELECT c.user_id, c.entry_id, c.expected, c.previous_balance, c.accounts_id \
             FROM (SELECT l.user_id, l.entry_id, l.previous_balance, {of_entry} AS accounts_id, \
             pg_catalog.lag(l.new_balance) OVER (PARTITION BY {of_entry}, l.user_id ORDER BY l.entry_id) \
             AS expected FROM token_balance.ledger AS l) AS c \
             WHERE c.previous_balance OPERATOR(pg_catalog.<>) c.expected",
            of_entry = own::id("l", "accounts_id")?
        ),
    )?;
    Ok(Box::new(rows.map(move |row| {
        let row = row?;
        Ok(Problem {
            problem: "chain broken".into(),
            account: Some(row.text(0).into()),
            binding: names.of_accounts(row.number(4)),
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
/// changed keeps its entries under the old one. So does a workflow: the ids that it has had are one.
fn settlements(owner: pg_sys::Oid, names: Names) -> Result<Problems> {
    // The catalog of an older version, until it is updated, has no aliases.
    let has_aliases = own_objects()?.workflow_alias != pg_sys::InvalidOid;
    let (join, family) = if has_aliases {
        (
            "LEFT JOIN token_balance.workflow_alias AS f \
             ON f.workflow_id OPERATOR(pg_catalog.=) i.workflow_id \
             AND f.binding_id OPERATOR(pg_catalog.=) i.binding_id",
            "COALESCE(f.family, i.workflow_id)",
        )
    } else {
        ("", "i.workflow_id")
    };
    let rows = Rows::open(
        owner,
        &[],
        &format!(
            "SELECT c.workflow_id, c.charged, c.in_ledger, c.refunded, c.back_in_ledger, c.used, c.binding_id \
         FROM (SELECT COALESCE(s.workflow_id, l.family) AS workflow_id, \
         COALESCE(s.binding_id, l.binding_id) AS binding_id, \
         COALESCE(s.used, 0) AS used, COALESCE(s.charged, 0) AS charged, \
         COALESCE(l.charged, 0) OPERATOR(pg_catalog.+) COALESCE(s.archived_charged, 0) \
         AS in_ledger, COALESCE(s.refunded, 0) AS refunded, \
         COALESCE(l.refunded, 0) OPERATOR(pg_catalog.+) COALESCE(s.archived_refunded, 0) \
         AS back_in_ledger \
         FROM (SELECT {family} AS family, {of_settlement} AS binding_id, \
         pg_catalog.min(i.workflow_id) AS workflow_id, \
         pg_catalog.sum(i.usage_tokens) AS used, \
         pg_catalog.sum(i.charged_tokens) AS charged, \
         pg_catalog.sum(i.refunded_tokens) AS refunded, \
         pg_catalog.sum(i.archived_charged_tokens) AS archived_charged, \
         pg_catalog.sum(i.archived_refunded_tokens) AS archived_refunded \
         FROM token_balance.settlement AS i {join} GROUP BY 1, 2) AS s \
         FULL JOIN (SELECT {family} AS family, i.binding_id, \
         OPERATOR(pg_catalog.-) COALESCE(pg_catalog.sum(i.amount) \
         FILTER (WHERE {is_charge}), 0) AS charged, \
         COALESCE(pg_catalog.sum(i.amount) \
         FILTER (WHERE i.kind OPERATOR(pg_catalog.=) {refund}), 0) AS refunded \
         FROM (SELECT d.workflow_id, {of_entry} AS binding_id, d.kind, d.amount \
         FROM token_balance.ledger AS d WHERE d.workflow_id IS NOT NULL UNION ALL \
         SELECT q.workflow_id, {of_queued}, {settlement}, OPERATOR(pg_catalog.-) q.tokens \
         FROM token_balance.queue AS q) AS i {join} GROUP BY 1, 2) AS l \
         ON l.family OPERATOR(pg_catalog.=) s.family \
         AND l.binding_id OPERATOR(pg_catalog.=) s.binding_id) AS c \
         WHERE c.charged OPERATOR(pg_catalog.<>) c.in_ledger \
         OR c.refunded OPERATOR(pg_catalog.<>) c.back_in_ledger \
         OR c.charged OPERATOR(pg_catalog.>) c.used",
            of_settlement = own::id("i", "binding_id")?,
            of_entry = own::id("d", "binding_id")?,
            of_queued = own::id("q", "binding_id")?,
            is_charge = Kind::is_charge_sql("i.kind"),
            settlement = Kind::Settlement.sql(),
            refund = Kind::Refund.sql()
        ),
    )?;
    Ok(Box::new(rows.map(move |row| {
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
            binding: names.of_binding(row.number(6)),
            expected: row.number(expected),
            found: row.number(found),
            hint: format!("The settlement says what was {hint}; one of them was changed by hand."),
            ..Problem::default()
        })
    })))
}

fn triggers(binding: &Binding, attached: &[Binding]) -> Result<Problems> {
    let name = binding.spec.name.clone();
    Ok(failed(verify_triggers(binding, attached)?, Some(name)))
}

/// The checks of `verify` that are not ok.
fn failed(checks: Vec<Check>, binding: Option<String>) -> Problems {
    let failed = checks.into_iter().filter(|check| !check.ok);
    let problems = failed.map(move |check| {
        Ok(Problem {
            binding: binding.clone(),
            problem: format!("{}: {}", check.name, check.detail),
            hint: check.hint.unwrap_or_default(),
            ..Problem::default()
        })
    });
    Box::new(problems)
}

/// The balance column against the last entry of each account that has one.
fn columns(book: Rc<Book>) -> Result<Problems> {
    let accounts = &book.accounts;
    follow(&accounts.paths);
    let rows = Rows::open(
        accounts.users.owner,
        &[accounts.users.oid],
        &format!(
            "SELECT a.{}::pg_catalog.text, a.{}::bigint FROM {} AS a",
            accounts.user_key.sql(),
            accounts.balance_sql(),
            accounts.users.sql
        ),
    )?;
    let moved = moved::all(&book)?;
    let batches = std::iter::from_fn(move || {
        rows.fetch(BATCH)
            .and_then(|batch| match batch.is_empty() {
                true => Ok(None),
                false => column_problems(&book, &batch, &moved).map(Some),
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
                binding: Some(book.accounts.binding.clone()),
                found: Some(tokens.into()),
                hint:
                    "The account was deleted before its charges were applied: create it again, then call \
                       token_balance.settle_pending()."
                        .into(),
                ..Problem::default()
            }));
        } else if !queue::is_used(book) {
            problems.push(Ok(Problem {
                problem: "left in the queue".into(),
                account: Some(account),
                binding: Some(book.accounts.binding.clone()),
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

fn column_problems(book: &Book, accounts: &[Row], moved: &HashSet<String>) -> Result<Vec<Problem>> {
    let _owner = book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT a.user_id, l.new_balance, a.balance \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
             AS a (user_id, balance) {} \
             WHERE l.new_balance OPERATOR(pg_catalog.<>) a.balance",
            last_entry_sql(&book.accounts.own("e"))
        ),
        &[
            Arg::TextArray(&texts(accounts, 0)),
            Arg::TextArray(&texts(accounts, 1)),
        ],
        Snapshot::Caller,
    )?;
    let left = accounts.iter().filter(|row| moved.contains(row.text(0)));
    let left = left.filter(|row| row.number(1) != Some(0));
    let left = left.map(|row| Problem {
        problem: "balance of an account that has moved".into(),
        account: Some(row.text(0).into()),
        binding: Some(book.accounts.binding.clone()),
        expected: Some(0),
        found: row.number(1),
        hint: "Its row was inserted or the column made again, and its balance is in another database: delete the row, or import \
               the account."
            .into(),
        ..Problem::default()
    });
    let differing = outcome.rows.iter().map(|row| Problem {
        problem: "balance differs from ledger".into(),
        account: Some(row.text(0).into()),
        binding: Some(book.accounts.binding.clone()),
        expected: row.number(1),
        found: row.number(2),
        hint: "The column was changed without an entry: set it to what is right with \
                   token_balance.adjust() while the trigger is on."
            .into(),
        ..Problem::default()
    });
    Ok(left.chain(differing).collect())
}

fn used_and_settled(bound: Rc<Bound>) -> Result<Problems> {
    let mut pairs = Some(Pairs::open(&bound)?);
    let (mut shrunk, mut left) = (Shrunk::default(), LeftBehind::default());
    Ok(Box::new(std::iter::from_fn(move || {
        while let Some(pair) = pairs.as_mut().and_then(Iterator::next) {
            let problem = pair.and_then(|pair| match left.add(&pair) {
                true => Ok(None),
                false => problem_of(&bound, &pair, &mut shrunk),
            });
            if let Some(problem) = problem.transpose() {
                return Some(problem);
            }
        }
        pairs = None;
        let shrunk = std::mem::take(&mut shrunk).problem(&bound);
        shrunk
            .or_else(|| std::mem::take(&mut left).problem(&bound))
            .map(Ok)
    })))
}

/// Usage of accounts that are in another database, told in one sum: it is carried over all together.
#[derive(Default)]
struct LeftBehind {
    pairs: u64,
    tokens: i128,
}

impl LeftBehind {
    /// Whether the pair is such usage.
    fn add(&mut self, pair: &Pair) -> bool {
        let is_left = pair.used.as_ref().is_some_and(|used| used.has_moved);
        if is_left {
            self.pairs += 1;
            self.tokens += pair.used_in_rows().unwrap_or(0);
        }
        is_left
    }

    fn problem(&self, bound: &Bound) -> Option<Problem> {
        (self.pairs > 0).then(|| Problem {
            problem: "usage of accounts that have moved".into(),
            expected: Some(0),
            found: Some(self.tokens),
            hint: format!(
                "Rows of {} workflows and accounts are still here: carry them over to the databases that have the accounts, \
                 which know what of them is settled, and delete them here. token_balance.unsettled lists them.",
                self.pairs
            ),
            binding: Some(bound.name().to_owned()),
            ..Problem::default()
        })
    }
}

/// Usage that is less than was accounted for and not refunded. It is told in one sum: after old rows were pruned, a row
/// for each run would advise to give back what was rightly charged.
#[derive(Default)]
struct Shrunk {
    workflows: u64,
    last: Option<String>,
    /// Tokens that are there, and those that are missing.
    used: i128,
    missing: i128,
}

impl Shrunk {
    /// They come in order of workflows.
    fn add(&mut self, workflow: &str, used: i128, missing: i128) {
        self.workflows += u64::from(self.last.as_deref() != Some(workflow));
        self.last = Some(workflow.to_owned());
        self.used += used;
        self.missing += missing;
    }

    fn problem(&self, bound: &Bound) -> Option<Problem> {
        (self.workflows > 0).then(|| Problem {
            problem: "usage shrank".into(),
            expected: Some(self.used + self.missing),
            found: Some(self.used),
            hint: format!(
                "After they were accounted for, usage rows of {} tokens were deleted, lowered or moved, in {} of the \
                 workflows. If they were wrong there, token_balance.correct_workflow() gives back what was taken for \
                 them, for each workflow once. If old usage was pruned, token_balance.accept_deletions() says so, and usage \
                 that came since is charged in full. \"Usage that shrank\" in docs/operations.md finds the workflows.",
                self.missing, self.workflows
            ),
            binding: Some(bound.name().to_owned()),
            ..Problem::default()
        })
    }
}

/// What is wrong with the pair; what has shrunk is added up.
fn problem_of(bound: &Bound, pair: &Pair, shrunk: &mut Shrunk) -> Result<Option<Problem>> {
    let (used, accounted) = (pair.used.as_ref(), pair.accounted.as_ref());
    let expected = pair.used_in_all();
    let found = accounted.map_or(0, |accounted| accounted.tokens);
    let key = used.map(|used| &used.key);
    let Some((workflow, account)) = key.or_else(|| accounted.map(|accounted| &accounted.key))
    else {
        return Ok(None);
    };
    if used.is_some_and(|used| !used.is_owned) {
        return Ok(None);
    }
    let Some(expected) = expected else {
        return Ok(Some(Problem {
            problem: "usage that cannot be counted".into(),
            account: Some(account.clone()).filter(|account| !account.is_empty()),
            workflow: Some(workflow.clone()),
            expected: None,
            found: Some(found),
            hint: "A row has NaN, an infinity or a number past bigint: correct it, then settle the workflow again."
                .into(),
            binding: Some(bound.name().to_owned()),
        }));
    };
    let has_workflows = bound.binding.workflows.is_some();
    let (problem, hint, expected, found) = match (used, expected.cmp(&found)) {
        (Some(used), Ordering::Greater) if is_of_unknown_account(bound, used) => (
            "usage of an unknown account",
            "Create the account, then settle the workflow again; or correct the usage.",
            expected,
            found,
        ),
        (Some(used), Ordering::Greater)
            if used.is_completed || (!has_workflows && pair.was_settled) =>
        {
            (
                "unsettled usage",
                "Call settle_workflow() for it, or token_balance.settle_pending() for all.",
                expected,
                found,
            )
        }
        // Of none that is accounted for nothing can have shrunk.
        (Some(used), Ordering::Less) if expected < 0 && found == 0 => {
            if !used.is_completed && !pair.was_settled {
                return Ok(None);
            }
            (
                "usage below zero",
                "It charges nothing, and usage that comes is charged less by it. Correct the rows below 0, or leave them if they \
                 are meant.",
                0,
                expected,
            )
        }
        (_, Ordering::Less) if is_gone(bound, account)? => (
            "usage of an account that is gone",
            "The account was deleted, and usage with it. There is nothing to do: token_balance.accept_deletions() ends this row.",
            found,
            expected,
        ),
        (_, Ordering::Less) => {
            let refunded = accounted.map_or(0, |accounted| accounted.refunded);
            let missing = (found - expected).min(found - refunded);
            if missing > 0 {
                shrunk.add(workflow, expected, missing);
            }
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(Problem {
        problem: problem.into(),
        account: Some(account.clone()).filter(|account| !account.is_empty()),
        workflow: Some(workflow.clone()),
        expected: Some(expected),
        found: Some(found),
        hint: hint.into(),
        binding: Some(bound.name().to_owned()),
    }))
}

/// Of usage that names its account.
fn is_of_unknown_account(bound: &Bound, used: &Used) -> bool {
    matches!(bound.binding.payer, Payer::Usage(_)) && used.balance.is_none()
}

fn is_gone(bound: &Bound, account: &str) -> Result<bool> {
    let names_account = matches!(bound.binding.payer, Payer::Usage(_));
    Ok(names_account && account::column_of(&bound.book, account)?.is_none())
}
