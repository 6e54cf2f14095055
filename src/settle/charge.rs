//! Charging: what was claimed is deducted from the balances, one UPDATE per account for all of its
//! workflows.

use pgrx::PgLogLevel;

use super::claim::{self, Claim};
use super::occasion::Occasion;
use crate::binding::Bound;
use crate::error::{Error, Result};
use crate::ledger::account::{self, Refusal};
use crate::ledger::change::{Change, Changed, Line, actor};
use crate::ledger::entries::StaysOpen;
use crate::ledger::{busy, queue};
use crate::postgres::security::SearchPath;

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

/// Deduct all claims, accounts in order. The claims of an account that are bad are given back.
pub(crate) fn charge(
    bound: &Bound,
    mut claims: Vec<Claim>,
    occasion: &Occasion,
) -> Result<Vec<Charge>> {
    debug_assert!(claims.iter().all(|claim| claim.tokens > 0));
    claims.sort_unstable();
    // One for all accounts: each statement finds it in force.
    let _path = (!claims.is_empty()).then(|| SearchPath::of_tables(&bound.binding.accounts.paths));
    let is_of_many =
        claims.first().map(|claim| &claim.account) != claims.last().map(|claim| &claim.account);
    let _ledger = is_of_many.then(|| StaysOpen::start(&bound.book));
    let mut charges = Vec::with_capacity(claims.len());
    for claims in claims.chunk_by(|a, b| a.account == b.account) {
        charge_account(bound, claims, occasion, &mut charges)?;
    }
    Ok(charges)
}

fn charge_account(
    bound: &Bound,
    claims: &[Claim],
    occasion: &Occasion,
    charges: &mut Vec<Charge>,
) -> Result<()> {
    if queue::is_used(&bound.book)
        && let Some(first) = claims.first()
    {
        if !busy::hold_unless_busy(&bound.book, &first.account)? {
            return leave_in_queue(bound, &first.account, claims, occasion, charges);
        }
        busy::apply(&bound.book, &first.account)?;
    }
    match deduct(bound, claims)? {
        Ok(changed) => {
            charges.extend(charges_of(claims, changed));
            Ok(())
        }
        // Together they are too much: charge as many of them as the column has room for.
        Err(Refusal::OutOfRange) if claims.len() > 1 => {
            for claim in claims {
                charge_account(bound, std::slice::from_ref(claim), occasion, charges)?;
            }
            Ok(())
        }
        Err(refusal) => claims
            .iter()
            .try_for_each(|claim| refuse(bound, claim, refusal, occasion)),
    }
}

/// Another session holds the account's row, and applies them or leaves that to the next.
fn leave_in_queue(
    bound: &Bound,
    account: &str,
    claims: &[Claim],
    occasion: &Occasion,
    charges: &mut Vec<Charge>,
) -> Result<()> {
    if let Err(refusal) = busy::leave(&bound.book, account, &lines_of(bound, claims))? {
        return claims
            .iter()
            .try_for_each(|claim| refuse(bound, claim, refusal, occasion));
    }
    let tokens: i64 = claims.iter().map(|claim| claim.tokens).sum();
    let balance = account::balance_now(&bound.book, account)?;
    let new = balance.ok_or_else(|| Error::UnknownAccount {
        account: account.to_owned(),
    })?;
    let changed = Changed {
        previous: new.saturating_add(tokens),
        new,
    };
    charges.extend(charges_of(claims, changed));
    Ok(())
}

/// One UPDATE of the account.
fn deduct(bound: &Bound, claims: &[Claim]) -> Result<Result<Changed, Refusal>> {
    let Some(first) = claims.first() else {
        return Ok(Err(Refusal::UnknownAccount));
    };
    let change = Change::settlement(&first.account, lines_of(bound, claims));
    account::change(&bound.book, change)
}

fn lines_of(bound: &Bound, claims: &[Claim]) -> Vec<Line> {
    let actor = actor();
    let binding = bound.binding.spec.ids.map(|ids| ids.binding);
    let line = |claim: &Claim| Line {
        amount: -claim.tokens,
        workflow: Some(claim.workflow.clone()),
        binding,
        actor: actor.clone(),
    };
    claims.iter().map(line).collect()
}

/// The charges one after another, as the ledger has them.
fn charges_of(claims: &[Claim], changed: Changed) -> impl Iterator<Item = Charge> {
    let mut balance = changed.previous;
    let last = claims.len() - 1;
    claims.iter().enumerate().map(move |(at, claim)| {
        let previous_balance = balance;
        balance = if at == last {
            changed.new
        } else {
            balance - claim.tokens
        };
        Charge {
            workflow: claim.workflow.clone(),
            account: claim.account.clone(),
            tokens: claim.tokens,
            previous_balance,
            new_balance: balance,
        }
    })
}

fn refuse(bound: &Bound, claim: &Claim, refusal: Refusal, occasion: &Occasion) -> Result<()> {
    let workflow = claim.workflow.clone();
    let account = claim.account.clone();
    let tokens = i128::from(claim.tokens);
    let error = match refusal {
        Refusal::UnknownAccount => Error::UsageOfUnknownAccount {
            workflow,
            account,
            tokens,
        },
        Refusal::OutOfRange => Error::BalanceOutOfRange {
            workflow,
            account,
            tokens,
        },
    };
    if !occasion.tolerates(&error) {
        return Err(error);
    }
    claim::release(bound, claim)?;
    error.report(PgLogLevel::WARNING);
    Ok(())
}
