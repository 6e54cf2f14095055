//! Settling: the one path that the function, the trigger and the batch take.
//!
//! For each workflow: lock it, sum its usage with a snapshot taken after the lock, claim what is
//! new in `settlement`, deduct it from the balances. The ledger entry is written by the trigger on
//! the users table. See DESIGN section 4.

use std::collections::HashMap;

use pgrx::PgLogLevel;
use pgrx::pg_sys::{self, INT8OID, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use crate::account::{self, Refusal};
use crate::binding::{Binding, Payer};
use crate::cache::Bound;
use crate::error::{Error, Result};
use crate::ledger::{Change, Kind};
use crate::lock::lock_workflows;
use crate::security::{self, RunAs};
use crate::spi::{Arg, Snapshot, Statement, uses_transaction_snapshot};

/// Who asks for a settlement.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A caller, who wants every error raised.
    Caller,
    /// A run that has completed, with the account of its row where the usage has none. It is not
    /// refused for a bad charge.
    Completion { payer: Option<String> },
    /// A sweep over many workflows, which one bad charge must not stop.
    Sweep,
}

/// What one settlement took from one account.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) workflow: String,
    pub(crate) account: String,
    /// Tokens, above 0.
    pub(crate) tokens: i64,
    pub(crate) previous_balance: i64,
    pub(crate) new_balance: i64,
}

/// What is known of a workflow after settling.
pub(crate) struct Settled {
    /// Whether any usage row names the workflow.
    pub(crate) has_usage: bool,
    /// The accounts that its usage names, or that pay for it.
    pub(crate) accounts: Vec<String>,
}

/// The statements of a settlement, for one binding.
pub(crate) struct Statements {
    usage: Statement,
    settled: Statement,
    first_claim: Statement,
    next_claim: Statement,
    release_claim: Statement,
    forget_claim: Statement,
    payers: Option<Statement>,
    workflow_exists: Option<Statement>,
}

impl Statements {
    pub(crate) fn new(binding: &Binding) -> Self {
        Statements {
            usage: Statement::new(&usage_sql(binding), &[TEXTOID]),
            settled: Statement::new(
                "SELECT s.user_id, s.usage_tokens FROM token_balance.settlement AS s \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1",
                &[TEXTOID],
            ),
            first_claim: Statement::new(
                "INSERT INTO token_balance.settlement \
                 (workflow_id, user_id, usage_tokens, charged_tokens, \
                 first_settled_at, last_settled_at) VALUES ($1, $2, $3, $3, $4, $4) \
                 ON CONFLICT (workflow_id, user_id) DO NOTHING",
                &[TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID],
            ),
            next_claim: Statement::new(
                "UPDATE token_balance.settlement AS s \
                 SET usage_tokens = s.usage_tokens OPERATOR(pg_catalog.+) $3, \
                 charged_tokens = s.charged_tokens OPERATOR(pg_catalog.+) $3, \
                 first_settled_at = COALESCE(s.first_settled_at, pg_catalog.clock_timestamp()), \
                 last_settled_at = pg_catalog.clock_timestamp() \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.user_id OPERATOR(pg_catalog.=) $2 \
                 AND s.usage_tokens OPERATOR(pg_catalog.=) $4",
                &[TEXTOID, TEXTOID, INT8OID, INT8OID],
            ),
            forget_claim: Statement::new(
                "DELETE FROM token_balance.settlement AS s \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.user_id OPERATOR(pg_catalog.=) $2 \
                 AND s.usage_tokens OPERATOR(pg_catalog.=) $3",
                &[TEXTOID, TEXTOID, INT8OID],
            ),
            release_claim: Statement::new(
                "UPDATE token_balance.settlement AS s \
                 SET usage_tokens = s.usage_tokens OPERATOR(pg_catalog.-) $3, \
                 charged_tokens = s.charged_tokens OPERATOR(pg_catalog.-) $3 \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.user_id OPERATOR(pg_catalog.=) $2",
                &[TEXTOID, TEXTOID, INT8OID],
            ),
            payers: payers_sql(binding).map(|sql| Statement::new(&sql, &[TEXTOID])),
            workflow_exists: workflow_exists_sql(binding)
                .map(|sql| Statement::new(&sql, &[TEXTOID])),
        }
    }
}

/// One row an account with its tokens. With an account column, rows without an account are
/// nobody's: they make the workflow known and are never charged.
fn usage_sql(binding: &Binding) -> String {
    let tokens = binding.tokens_sql("u");
    let from = format!(
        "FROM {} AS u WHERE u.{} OPERATOR(pg_catalog.=) $1::{}",
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

/// Settle workflows, given by canonical id. Everything that they have used and that was not charged
/// yet is charged; the charges come back, in the order in which they were made.
///
/// Locks are taken in one order by everybody: workflows, settlements, accounts, each by id.
pub(crate) fn settle(
    bound: &Bound,
    workflows: &mut Vec<String>,
    asked: &Asked,
) -> Result<(Vec<Charge>, Vec<Settled>)> {
    workflows.sort_unstable();
    workflows.dedup();
    lock_workflows(workflows, &bound.binding.payer);
    let mut claims = Vec::new();
    let mut settled = Vec::new();
    for workflow in workflows.iter() {
        settled.push(claim(bound, workflow, asked, &mut claims)?);
    }
    claims.sort_unstable_by(|a, b| (&a.account, &a.workflow).cmp(&(&b.account, &b.workflow)));
    let mut charges = Vec::new();
    for claim in claims {
        match deduct(bound, &claim) {
            Ok(charge) => charges.push(charge),
            Err(error) if goes_on(&error, asked) => {
                release(bound, &claim)?;
                error.report(PgLogLevel::WARNING);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((charges, settled))
}

/// A completion is not refused for a bad charge: that usage stays unsettled, with a warning.
fn goes_on(error: &Error, asked: &Asked) -> bool {
    !matches!(asked, Asked::Caller) && error.is_bad_charge()
}

/// Tokens of one workflow that this transaction has taken to charge to one account.
struct Claim {
    workflow: String,
    account: String,
    tokens: i64,
    /// What the settlement row accounted for before; None if there was no row.
    settled: Option<i64>,
}

/// Claim what the workflow has used and nobody has claimed.
///
/// The claim itself compares and sets, so it is right even for a statement that completes more
/// workflows than it may hold locks: who comes second finds the row changed and looks again.
fn claim(bound: &Bound, workflow: &str, asked: &Asked, claims: &mut Vec<Claim>) -> Result<Settled> {
    loop {
        let usage = read_usage(bound, workflow)?;
        let settled = read_settled(bound, workflow)?;
        let mut accounts = Vec::new();
        let mut was_overtaken = false;
        for (account, tokens) in
            outstanding(bound, workflow, asked, &usage, &settled, &mut accounts)?
        {
            let claim = match checked_claim(bound, workflow, account, tokens, &settled) {
                Ok(claim) => claim,
                Err(error) if goes_on(&error, asked) => {
                    error.report(PgLogLevel::WARNING);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if write_claim(bound, &claim)? {
                claims.push(claim);
            } else {
                was_overtaken = true;
                break;
            }
        }
        if !was_overtaken {
            return Ok(Settled {
                has_usage: !usage.is_empty(),
                accounts,
            });
        }
        if uses_transaction_snapshot() {
            return Err(Error::ConcurrentSettlement {
                workflow: workflow.to_owned(),
            });
        }
    }
}

/// Tokens by account; the account is None for rows that name none.
type Usage = Vec<(Option<String>, i128)>;

fn read_usage(bound: &Bound, workflow: &str) -> Result<Usage> {
    let _owner = RunAs::owner(bound.binding.usage.owner);
    let outcome = bound
        .settling
        .usage
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| {
            (
                row.get(0).map(str::to_owned),
                row.number(1).unwrap_or_default(),
            )
        })
        .collect())
}

/// Tokens accounted for, by account.
fn read_settled(bound: &Bound, workflow: &str) -> Result<HashMap<String, i64>> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = bound
        .settling
        .settled
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| (row.text(0).to_owned(), row.number(1).unwrap_or_default()))
        .collect())
}

/// What is used and not accounted for: (account, tokens above 0), in the order of accounts. A sum
/// that shrank, since usage rows were deleted, charges nothing and gives nothing back.
fn outstanding(
    bound: &Bound,
    workflow: &str,
    asked: &Asked,
    usage: &Usage,
    settled: &HashMap<String, i64>,
    accounts: &mut Vec<String>,
) -> Result<Vec<(String, i128)>> {
    let mut found = match &bound.binding.payer {
        Payer::Usage(_) => usage
            .iter()
            .filter_map(|(account, tokens)| account.clone().map(|account| (account, *tokens)))
            .map(|(account, tokens)| {
                let settled: i64 = settled.get(&account).copied().unwrap_or_default();
                (account, tokens - i128::from(settled))
            })
            .collect::<Vec<_>>(),
        Payer::Workflow(_) => {
            let used: i128 = usage.iter().map(|(_, tokens)| tokens).sum();
            let settled: i128 = settled.values().copied().map(i128::from).sum();
            let tokens = used - settled;
            if tokens <= 0 {
                return Ok(Vec::new());
            }
            match payer(bound, workflow, asked, tokens) {
                Ok(account) => vec![(account, tokens)],
                Err(error) if goes_on(&error, asked) => {
                    error.report(PgLogLevel::WARNING);
                    Vec::new()
                }
                Err(error) => return Err(error),
            }
        }
    };
    found.sort_unstable();
    accounts.extend(found.iter().map(|(account, _)| account.clone()));
    found.retain(|(_, tokens)| *tokens > 0);
    Ok(found)
}

/// The account that pays for a workflow whose usage names none.
fn payer(bound: &Bound, workflow: &str, asked: &Asked, tokens: i128) -> Result<String> {
    let workflow_text = workflow.to_owned();
    match asked {
        Asked::Completion { payer: Some(payer) } => Ok(payer.clone()),
        Asked::Completion { payer: None } => Err(Error::NoPayer {
            workflow: workflow_text,
            tokens,
        }),
        Asked::Caller | Asked::Sweep => {
            let mut payers = read_payers(bound, workflow)?;
            match (payers.pop(), payers.is_empty()) {
                (Some(only), true) => Ok(only),
                (Some(_), false) => Err(Error::SeveralPayers {
                    workflow: workflow_text,
                    tokens,
                }),
                (None, _) => Err(Error::NoPayer {
                    workflow: workflow_text,
                    tokens,
                }),
            }
        }
    }
}

fn read_payers(bound: &Bound, workflow: &str) -> Result<Vec<String>> {
    let (Some(statement), Some(workflows)) = (&bound.settling.payers, &bound.binding.workflows)
    else {
        return Ok(Vec::new());
    };
    let Some(workflow) = workflows.key.key_type.canonical(workflow) else {
        return Ok(Vec::new());
    };
    let _owner = RunAs::owner(workflows.table.owner);
    let outcome = statement.run(&[Arg::Text(&workflow)], Snapshot::Latest)?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| row.text(0).to_owned())
        .collect())
}

/// A claim that can be written: of an account that could exist, of a sum that is a bigint.
fn checked_claim(
    bound: &Bound,
    workflow: &str,
    account: String,
    tokens: i128,
    settled: &HashMap<String, i64>,
) -> Result<Claim> {
    let workflow = workflow.to_owned();
    let Some(account) = bound.binding.user_key.key_type.canonical(&account) else {
        return Err(Error::UsageOfUnknownAccount {
            workflow,
            account,
            tokens,
        });
    };
    let settled = settled.get(&account).copied();
    let is_total_in_range = i64::try_from(tokens + i128::from(settled.unwrap_or_default())).is_ok();
    match i64::try_from(tokens) {
        Ok(tokens) if is_total_in_range => Ok(Claim {
            workflow,
            account,
            tokens,
            settled,
        }),
        _ => Err(Error::BalanceOutOfRange {
            workflow,
            account,
            tokens,
        }),
    }
}

/// False if the settlement row is not as it was read.
fn write_claim(bound: &Bound, claim: &Claim) -> Result<bool> {
    let statements = &bound.settling;
    let (statement, last_arg) = match claim.settled {
        None => (&statements.first_claim, Arg::OptionalTimestamp(Some(now()))),
        Some(settled) => (&statements.next_claim, Arg::Int8(settled)),
    };
    let mut args = claim_args(claim);
    args.push(last_arg);
    let _owner = RunAs::owner(bound.binding.extension_owner);
    Ok(statement.run(&args, Snapshot::Statement)?.processed == 1)
}

/// The time of day, not of the transaction's begin.
fn now() -> TimestampTz {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Give back a claim whose charge was bad, so that a later settlement takes it.
fn release(bound: &Bound, claim: &Claim) -> Result<()> {
    let statements = &bound.settling;
    let statement = match claim.settled {
        None => &statements.forget_claim,
        Some(_) => &statements.release_claim,
    };
    let _owner = RunAs::owner(bound.binding.extension_owner);
    statement
        .run(&claim_args(claim), Snapshot::Statement)
        .map(|_| ())
}

fn claim_args(claim: &Claim) -> Vec<Arg<'_>> {
    vec![
        Arg::Text(&claim.workflow),
        Arg::Text(&claim.account),
        Arg::Int8(claim.tokens),
    ]
}

fn deduct(bound: &Bound, claim: &Claim) -> Result<Charge> {
    let workflow = claim.workflow.clone();
    let account = claim.account.clone();
    let tokens = i128::from(claim.tokens);
    let change = Change {
        kind: Kind::Settlement,
        account: claim.account.clone(),
        amount: -claim.tokens,
        workflow: Some(claim.workflow.clone()),
        reference: None,
        note: None,
        actor: security::current_user(),
    };
    match account::change(bound, &change)? {
        Ok(changed) => Ok(Charge {
            workflow,
            account,
            tokens: claim.tokens,
            previous_balance: changed.previous,
            new_balance: changed.new,
        }),
        Err(Refusal::UnknownAccount) => Err(Error::UsageOfUnknownAccount {
            workflow,
            account,
            tokens,
        }),
        Err(Refusal::OutOfRange) => Err(Error::BalanceOutOfRange {
            workflow,
            account,
            tokens,
        }),
    }
}

/// Whether the workflow table or the usage knows the workflow.
pub(crate) fn is_known(bound: &Bound, workflow: &str) -> Result<bool> {
    Ok(!read_usage(bound, workflow)?.is_empty() || workflow_exists(bound, workflow)?)
}

/// Whether the workflow table has the workflow; false where none is bound.
pub(crate) fn workflow_exists(bound: &Bound, workflow: &str) -> Result<bool> {
    let (Some(statement), Some(workflows)) =
        (&bound.settling.workflow_exists, &bound.binding.workflows)
    else {
        return Ok(false);
    };
    let Some(workflow) = workflows.key.key_type.canonical(workflow) else {
        return Ok(false);
    };
    let _owner = RunAs::owner(workflows.table.owner);
    Ok(!statement
        .run(&[Arg::Text(&workflow)], Snapshot::Statement)?
        .rows
        .is_empty())
}
