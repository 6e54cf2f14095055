//! Charging: what was claimed is deducted from the balances, one UPDATE per account for all of its
//! workflows.

use super::claim::{self, Claim};
use super::occasion::Occasion;
use super::work::Work;
use crate::binding::{Book, Bound};
use crate::counters::count_charges;
use crate::error::{Error, Result};
use crate::ledger::account::{self, Refusal};
use crate::ledger::change::{Change, Changed, Line, actor};
use crate::ledger::entries::StaysOpen;
use crate::ledger::{busy, moved, queue};
use crate::postgres::security::SearchPath;

/// What one settlement took from one account.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    /// Of which work it is, of those that are settled together.
    pub(crate) place: usize,
    pub(crate) workflow: String,
    pub(crate) account: String,
    /// Tokens, above 0.
    pub(crate) tokens: i64,
    pub(crate) previous_balance: i64,
    pub(crate) new_balance: i64,
}

/// Deduct all claims: by users table, account and balance column, whatever the binding. The claims of an account
/// that are bad are given back.
pub(crate) fn charge(works: &[Work], mut claims: Vec<Claim>) -> Result<Vec<Charge>> {
    debug_assert!(claims.iter().all(|claim| claim.tokens > 0));
    let of_account = |claim: &Claim| {
        let accounts = &works[claim.place].bound.book.accounts;
        (accounts.users.oid.to_u32(), accounts.id)
    };
    claims.sort_unstable_by(|a, b| {
        let ((users_a, id_a), (users_b, id_b)) = (of_account(a), of_account(b));
        (users_a, &a.account, id_a, a.place, &a.workflow).cmp(&(
            users_b,
            &b.account,
            id_b,
            b.place,
            &b.workflow,
        ))
    });
    let is_of_many =
        claims.first().map(|claim| &claim.account) != claims.last().map(|claim| &claim.account);
    let ledger = works.first().filter(|_| is_of_many);
    let _ledger = ledger.map(|work| StaysOpen::start(&work.bound.book));
    let mut charges = Vec::with_capacity(claims.len());
    for claims in claims.chunk_by(|a, b| of_account(a) == of_account(b)) {
        let Some(first) = claims.first() else {
            continue;
        };
        let due = Due {
            works,
            book: &works[first.place].bound.book,
        };
        // One for many accounts: each statement finds it in force.
        let _path = is_of_many
            .then(|| SearchPath::of_tables(&due.book.accounts.paths))
            .flatten();
        for claims in claims.chunk_by(|a, b| a.account == b.account) {
            due.charge_account(claims, &mut charges)?;
        }
    }
    Ok(charges)
}

/// What is to be charged to the accounts of one book.
struct Due<'a> {
    works: &'a [Work],
    book: &'a Book,
}

impl Due<'_> {
    fn bound(&self, claim: &Claim) -> &Bound {
        &self.works[claim.place].bound
    }

    /// All of one account, in one UPDATE.
    fn charge_account(&self, claims: &[Claim], charges: &mut Vec<Charge>) -> Result<()> {
        if queue::is_used(self.book)
            && let Some(first) = claims.first()
        {
            if !busy::hold_unless_busy(self.book, &first.account)? {
                return self.leave_in_queue(&first.account, claims, charges);
            }
            busy::apply(self.book, &first.account)?;
        }
        match self.deduct(claims)? {
            Ok(changed) => {
                count_charges(claims.iter().map(|claim| claim.tokens));
                charges.extend(charges_of(claims, changed));
                Ok(())
            }
            // Together they are too much: charge as many of them as the column has, or may have, room for.
            Err(Refusal::OutOfRange | Refusal::Forbidden) if claims.len() > 1 => {
                for claim in claims {
                    self.charge_account(std::slice::from_ref(claim), charges)?;
                }
                Ok(())
            }
            Err(refusal) => self.refuse(claims, refusal),
        }
    }

    /// Another session holds the account's row, and applies them or leaves that to the next.
    fn leave_in_queue(
        &self,
        account: &str,
        claims: &[Claim],
        charges: &mut Vec<Charge>,
    ) -> Result<()> {
        if let Err(refusal) = busy::leave(self.book, account, &self.lines_of(claims))? {
            return self.refuse(claims, refusal);
        }
        let occasion = |claim: &Claim| &self.works[claim.place].occasion;
        // A completion answers nobody.
        if claims
            .iter()
            .all(|claim| matches!(occasion(claim), Occasion::Completion { .. }))
        {
            return Ok(());
        }
        let tokens: i64 = claims.iter().map(|claim| claim.tokens).sum();
        let balance = account::balance_now(self.book, account)?;
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
    fn deduct(&self, claims: &[Claim]) -> Result<Result<Changed, Refusal>> {
        let Some(first) = claims.first() else {
            return Ok(Err(Refusal::UnknownAccount));
        };
        let change = Change::settlement(&first.account, self.lines_of(claims));
        account::change(self.book, change)
    }

    fn lines_of(&self, claims: &[Claim]) -> Vec<Line> {
        let actor = actor();
        let line = |claim: &Claim| Line {
            amount: -claim.tokens,
            workflow: Some(claim.workflow.clone()),
            binding: self.bound(claim).binding.spec.ids.map(|ids| ids.binding),
            actor: actor.clone(),
        };
        claims.iter().map(line).collect()
    }

    fn refuse(&self, claims: &[Claim], refusal: Refusal) -> Result<()> {
        let database = match (refusal, claims.first()) {
            (Refusal::Moved, Some(first)) => moved::database(self.book, &first.account)?,
            _ => None,
        };
        for claim in claims {
            let workflow = claim.workflow.clone();
            let account = claim.account.clone();
            let tokens = i128::from(claim.tokens);
            let error = match refusal {
                Refusal::UnknownAccount => Error::UsageOfUnknownAccount {
                    workflow,
                    account,
                    tokens,
                },
                Refusal::Moved => Error::UsageOfMovedAccount {
                    workflow,
                    account,
                    tokens,
                    database: database.clone().unwrap_or_default(),
                },
                Refusal::Forbidden => Error::BalanceForbidden {
                    workflow: Some(workflow),
                    account,
                    tokens,
                },
                Refusal::OutOfRange => Error::BalanceOutOfRange {
                    workflow,
                    account,
                    tokens,
                },
            };
            let bound = self.bound(claim);
            self.works[claim.place].occasion.warn(bound, error)?;
            claim::release(bound, claim)?;
        }
        Ok(())
    }
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
            place: claim.place,
            workflow: claim.workflow.clone(),
            account: claim.account.clone(),
            tokens: claim.tokens,
            previous_balance,
            new_balance: balance,
        }
    })
}
