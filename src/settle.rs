//! Settling: the one path that the function, the trigger and the batch take.
//!
//! For each workflow: lock it, sum its usage with a snapshot taken after the lock, claim what is
//! new in `settlement`, deduct it from the balances. The ledger entry is written by the trigger on
//! the users table. See DESIGN section 4.

use std::collections::HashMap;

use pgrx::PgLogLevel;
use pgrx::pg_sys::{INT8OID, TEXTOID};

use crate::binding::{BALANCE_COLUMN, Binding, Payer};
use crate::cache::Bound;
use crate::error::{Error, Result};
use crate::ledger::{Announcement, Change, Kind};
use crate::lock::lock_workflow;
use crate::security::{self, RunAs};
use crate::spi::{Arg, Snapshot, Statement, uses_transaction_snapshot};

/// Who asks for a settlement.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A caller, who wants every error raised.
    ByCall,
    /// A run that has completed, with the account of its row where the usage has none. It is not
    /// refused for a bad charge.
    ByCompletion { payer: Option<String> },
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
    release: Statement,
    deduct: Statement,
    balance: Statement,
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
                 (workflow_id, user_id, usage_tokens, charged_tokens) VALUES ($1, $2, $3, $3) \
                 ON CONFLICT (workflow_id, user_id) DO NOTHING",
                &[TEXTOID, TEXTOID, INT8OID],
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
            release: Statement::new(
                "UPDATE token_balance.settlement AS s \
                 SET usage_tokens = s.usage_tokens OPERATOR(pg_catalog.-) $3, \
                 charged_tokens = s.charged_tokens OPERATOR(pg_catalog.-) $3 \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.user_id OPERATOR(pg_catalog.=) $2",
                &[TEXTOID, TEXTOID, INT8OID],
            ),
            deduct: Statement::new(&deduct_sql(binding), &[TEXTOID, INT8OID, INT8OID]),
            balance: Statement::new(&balance_sql(binding), &[TEXTOID]),
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

/// $3 is the smallest balance from which $2 can be taken: a charge that would leave the column's
/// range updates no row instead of failing.
///
/// Never FOR UPDATE before it: a child row's foreign-key check holds KEY SHARE on the account, and
/// the upgrade deadlocks. A plain UPDATE of a column that is no key goes along with it.
fn deduct_sql(binding: &Binding) -> String {
    format!(
        "UPDATE {users} AS a \
         SET {BALANCE_COLUMN} = a.{BALANCE_COLUMN} OPERATOR(pg_catalog.-) $2 \
         WHERE a.{key} OPERATOR(pg_catalog.=) $1::{key_type} \
         AND a.{BALANCE_COLUMN} OPERATOR(pg_catalog.>=) $3 \
         RETURNING a.{BALANCE_COLUMN}::bigint",
        users = binding.users.sql,
        key = binding.user_key.sql(),
        key_type = binding.user_key.key_type.sql(),
    )
}

fn balance_sql(binding: &Binding) -> String {
    format!(
        "SELECT a.{BALANCE_COLUMN}::bigint FROM {} AS a WHERE a.{} OPERATOR(pg_catalog.=) $1::{}",
        binding.users.sql,
        binding.user_key.sql(),
        binding.user_key.key_type.sql()
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
    let pays_by_workflow = matches!(bound.binding.payer, Payer::Workflow(_));
    for workflow in workflows.iter() {
        lock_workflow(workflow, pays_by_workflow);
    }
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
                warn(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((charges, settled))
}

/// A completion is not refused for a bad charge: that usage stays unsettled.
fn goes_on(error: &Error, asked: &Asked) -> bool {
    matches!(asked, Asked::ByCompletion { .. }) && error.is_bad_charge()
}

fn warn(error: Error) {
    error.report(PgLogLevel::WARNING);
}

/// Tokens of one workflow that this transaction has taken to charge to one account.
struct Claim {
    workflow: String,
    account: String,
    tokens: i64,
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
            let claim = match checked_claim(bound, workflow, account, tokens) {
                Ok(claim) => claim,
                Err(error) if goes_on(&error, asked) => {
                    warn(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if write_claim(bound, &claim, settled.get(&claim.account).copied())? {
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
                    warn(error);
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
        Asked::ByCompletion { payer: Some(payer) } => Ok(payer.clone()),
        Asked::ByCompletion { payer: None } => Err(Error::NoPayer {
            workflow: workflow_text,
            tokens,
        }),
        Asked::ByCall => {
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
fn checked_claim(bound: &Bound, workflow: &str, account: String, tokens: i128) -> Result<Claim> {
    let Some(account) = bound.binding.user_key.key_type.canonical(&account) else {
        return Err(Error::UsageOfUnknownAccount {
            workflow: workflow.to_owned(),
            account,
            tokens,
        });
    };
    match i64::try_from(tokens) {
        Ok(tokens) => Ok(Claim {
            workflow: workflow.to_owned(),
            account,
            tokens,
        }),
        Err(_) => Err(Error::BalanceOutOfRange {
            workflow: workflow.to_owned(),
            account,
            tokens,
        }),
    }
}

/// False if the settlement row is not as it was read.
fn write_claim(bound: &Bound, claim: &Claim, settled: Option<i64>) -> Result<bool> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let key = [
        Arg::Text(&claim.workflow),
        Arg::Text(&claim.account),
        Arg::Int8(claim.tokens),
    ];
    let [workflow, account, tokens] = key;
    let outcome = match settled {
        None => {
            let args = [workflow, account, tokens];
            bound.settling.first_claim.run(&args, Snapshot::Statement)?
        }
        Some(settled) => {
            let args = [workflow, account, tokens, Arg::Int8(settled)];
            bound.settling.next_claim.run(&args, Snapshot::Statement)?
        }
    };
    Ok(outcome.processed == 1)
}

/// Give back a claim whose charge was bad, so that a later settlement takes it.
fn release(bound: &Bound, claim: &Claim) -> Result<()> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    bound.settling.release.run(
        &[
            Arg::Text(&claim.workflow),
            Arg::Text(&claim.account),
            Arg::Int8(claim.tokens),
        ],
        Snapshot::Statement,
    )?;
    Ok(())
}

fn deduct(bound: &Bound, claim: &Claim) -> Result<Charge> {
    let binding = &bound.binding;
    let actor = security::current_user();
    let _announcement = Announcement::of(Change {
        kind: Kind::Settlement,
        account: claim.account.clone(),
        amount: -claim.tokens,
        workflow: Some(claim.workflow.clone()),
        actor,
    });
    let _owner = RunAs::owner(binding.users.owner);
    let enough = binding.smallest_balance() + claim.tokens;
    let outcome = bound.settling.deduct.run(
        &[
            Arg::Text(&claim.account),
            Arg::Int8(claim.tokens),
            Arg::Int8(enough),
        ],
        Snapshot::Statement,
    )?;
    let new_balance = outcome.rows.first().and_then(|row| row.number(0));
    match (outcome.processed, new_balance) {
        (1, Some(new_balance)) => Ok(Charge {
            workflow: claim.workflow.clone(),
            account: claim.account.clone(),
            tokens: claim.tokens,
            previous_balance: i64::saturating_add(new_balance, claim.tokens),
            new_balance,
        }),
        _ => Err(why_not_deducted(bound, claim, enough)?),
    }
}

fn why_not_deducted(bound: &Bound, claim: &Claim, enough: i64) -> Result<Error> {
    let workflow = claim.workflow.clone();
    let account = claim.account.clone();
    let tokens = i128::from(claim.tokens);
    Ok(match balance_of(bound, &account)? {
        None => Error::UsageOfUnknownAccount {
            workflow,
            account,
            tokens,
        },
        Some(balance) if balance < enough => Error::BalanceOutOfRange {
            workflow,
            account,
            tokens,
        },
        Some(_) => Error::ChargeSuppressed {
            relation: bound.binding.users.sql.clone(),
            account,
        },
    })
}

/// The balance of an account, by canonical id; None if there is no such account. Tokens.
pub(crate) fn balance_of(bound: &Bound, account: &str) -> Result<Option<i64>> {
    if bound.binding.user_key.key_type.canonical(account).is_none() {
        return Ok(None);
    }
    let _owner = RunAs::owner(bound.binding.users.owner);
    let outcome = bound
        .settling
        .balance
        .run(&[Arg::Text(account)], Snapshot::Statement)?;
    Ok(outcome.rows.first().and_then(|row| row.number(0)))
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
