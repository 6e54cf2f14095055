//! Settling: the one path that the function, the trigger, the batch and the sweep take.
//!
//! For a set of workflows: lock them, sum their usage with a snapshot taken after the locks, claim
//! what is new in `settlement`, deduct it from the balances, one UPDATE an account. The ledger
//! entries are written by the trigger on the users table. See DESIGN section 4.

use std::collections::{BTreeSet, HashMap};

use pgrx::PgLogLevel;

use crate::binding::Payer;
use crate::cache::Bound;
use crate::charge::{self, Charge};
use crate::claim::{self, Claim};
use crate::error::{Error, Result};
use crate::lock::lock_workflows;
use crate::spi::uses_transaction_snapshot;
use crate::usage::{self, Usage};

/// So many workflows are read and claimed at a time: memory grows by what is charged only.
const CHUNK: usize = 10_000;

/// Who asks for a settlement.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A caller, who wants every error raised.
    Caller,
    /// Runs that have completed, with the account of each one's row where the usage has none. They
    /// are not refused for a bad charge.
    Completion {
        payers: HashMap<String, Option<String>>,
    },
    /// A sweep over many workflows, which one bad charge must not stop.
    Sweep,
}

impl Asked {
    /// A completion is not refused for a bad charge: that usage stays unsettled, with a warning.
    pub(crate) fn goes_on(&self, error: &Error) -> bool {
        !matches!(self, Asked::Caller) && error.is_bad_charge()
    }

    /// Make a bad charge a warning where it is one.
    fn excuse<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.goes_on(&error) => {
                error.report(PgLogLevel::WARNING);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What is known of a workflow after settling.
#[derive(Default)]
pub(crate) struct Settled {
    /// Whether any usage row names the workflow.
    pub(crate) has_usage: bool,
    /// The accounts that its usage names, or that pay for it.
    pub(crate) accounts: Vec<String>,
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
    lock_workflows(workflows, &bound.binding);
    let mut claims = Vec::new();
    let mut settled = Vec::with_capacity(workflows.len());
    for chunk in workflows.chunks(CHUNK) {
        settled.extend(claim(bound, chunk, asked, &mut claims)?);
    }
    Ok((charge::charge(bound, claims, asked)?, settled))
}

/// Claim what the workflows have used and nobody has claimed.
///
/// The claim itself compares and sets, so it is right even for a statement that completes more
/// workflows than it may hold locks: who comes second finds the row changed and looks again.
fn claim(
    bound: &Bound,
    workflows: &[String],
    asked: &Asked,
    claims: &mut Vec<Claim>,
) -> Result<Vec<Settled>> {
    let (settled, mut overtaken) = claim_once(bound, workflows, asked, claims)?;
    while let Some(workflow) = overtaken.first() {
        if uses_transaction_snapshot() {
            return Err(Error::ConcurrentSettlement {
                workflow: workflow.clone(),
            });
        }
        let again: Vec<_> = overtaken.into_iter().collect();
        (_, overtaken) = claim_once(bound, &again, asked, claims)?;
    }
    Ok(settled)
}

/// Also the workflows of which somebody else has claimed some meanwhile.
fn claim_once(
    bound: &Bound,
    workflows: &[String],
    asked: &Asked,
    claims: &mut Vec<Claim>,
) -> Result<(Vec<Settled>, BTreeSet<String>)> {
    let usage = usage::read(bound, workflows)?;
    let settled = claim::read_settled(bound, workflows)?;
    let mut all = Vec::with_capacity(workflows.len());
    let mut found = Vec::new();
    for (workflow, (usage, settled)) in workflows.iter().zip(usage.iter().zip(&settled)) {
        let mut accounts = Vec::new();
        for (account, tokens) in outstanding(bound, workflow, asked, usage, settled, &mut accounts)?
        {
            let claim = checked_claim(bound, workflow, account, tokens, settled);
            found.extend(asked.excuse(claim)?);
        }
        all.push(Settled {
            has_usage: !usage.is_empty(),
            accounts,
        });
    }
    let (written, refused) = claim::write(bound, found)?;
    claims.extend(written);
    let overtaken = refused.into_iter().map(|claim| claim.workflow).collect();
    Ok((all, overtaken))
}

/// What is used and not accounted for: (account, tokens above 0), in the order of accounts. A sum
/// that shrank, since usage rows were deleted, charges nothing and gives nothing back.
fn outstanding(
    bound: &Bound,
    workflow: &str,
    asked: &Asked,
    usage: &Usage,
    settled: &claim::Settled,
    accounts: &mut Vec<String>,
) -> Result<Vec<(String, i128)>> {
    let mut found = match &bound.binding.payer {
        Payer::Usage(_) => usage
            .iter()
            .filter_map(|(account, tokens)| account.clone().map(|account| (account, *tokens)))
            .map(|(account, tokens)| {
                let tokens = tokens - claim::accounted_for(settled, Some(&account));
                (account, tokens)
            })
            .collect::<Vec<_>>(),
        Payer::Workflow(_) => {
            let used: i128 = usage.iter().map(|(_, tokens)| tokens).sum();
            let tokens = used - claim::accounted_for(settled, None);
            if tokens <= 0 {
                return Ok(Vec::new());
            }
            let account = asked.excuse(payer(bound, workflow, asked, tokens))?;
            account
                .map(|account| (account, tokens))
                .into_iter()
                .collect()
        }
    };
    found.sort_unstable();
    accounts.extend(found.iter().map(|(account, _)| account.clone()));
    found.retain(|(_, tokens)| *tokens > 0);
    Ok(found)
}

/// The account that pays for a workflow whose usage names none.
fn payer(bound: &Bound, workflow: &str, asked: &Asked, tokens: i128) -> Result<String> {
    let candidates = match asked {
        Asked::Completion { payers } => payers
            .get(workflow)
            .cloned()
            .flatten()
            .into_iter()
            .collect(),
        Asked::Caller | Asked::Sweep => usage::payers(bound, workflow)?,
    };
    let workflow = workflow.to_owned();
    match &candidates[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::NoPayer { workflow, tokens }),
        _ => Err(Error::SeveralPayers { workflow, tokens }),
    }
}

/// A claim that can be written: of an account that could exist, of a sum that is a bigint.
fn checked_claim(
    bound: &Bound,
    workflow: &str,
    account: String,
    tokens: i128,
    settled: &claim::Settled,
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
