//! Credits (top-ups) and refunds: tokens that are given to an account.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::{INT8OID, TEXTOID};

use crate::account::{self, Changed, Refusal};
use crate::cache::{Bound, Kept};
use crate::error::{Error, Result};
use crate::ledger::{self, Change, Kind, Part};
use crate::lock::{lock_reference, lock_workflows};
use crate::queue;
use crate::security::RunAs;
use crate::spi::{Arg, Snapshot, Statement};

/// A reference is the caller's own id: a payment's, a ticket's.
const LONGEST_REFERENCE: usize = 255;

/// The statements of credits and refunds.
pub(crate) struct Statements {
    by_reference: Statement,
    charged: Statement,
    refund: Statement,
}

impl Kept for Statements {
    fn of(_bound: &Bound) -> Self {
        Statements {
            by_reference: Statement::new(
                "SELECT l.kind, l.amount, l.previous_balance, l.new_balance, l.workflow_id \
                 FROM token_balance.ledger AS l \
                 WHERE l.user_id OPERATOR(pg_catalog.=) $1 \
                 AND l.reference OPERATOR(pg_catalog.=) $2 \
                 UNION ALL \
                 SELECT r.kind, r.amount, r.previous_balance, r.new_balance, r.workflow_id \
                 FROM token_balance.archived_reference AS r \
                 WHERE r.user_id OPERATOR(pg_catalog.=) $1 \
                 AND r.reference OPERATOR(pg_catalog.=) $2",
                &[TEXTOID, TEXTOID],
            ),
            charged: Statement::new(
                "SELECT s.user_id, s.charged_tokens, s.refunded_tokens \
                 FROM token_balance.settlement AS s \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1",
                &[TEXTOID],
            ),
            refund: Statement::new(
                "UPDATE token_balance.settlement AS s \
                 SET refunded_tokens = s.refunded_tokens OPERATOR(pg_catalog.+) $3 \
                 WHERE s.workflow_id OPERATOR(pg_catalog.=) $1 \
                 AND s.user_id OPERATOR(pg_catalog.=) $2 \
                 AND (s.refunded_tokens OPERATOR(pg_catalog.+) $3) \
                 OPERATOR(pg_catalog.<=) s.charged_tokens",
                &[TEXTOID, TEXTOID, INT8OID],
            ),
        }
    }
}

/// What the caller says about a credit or refund.
pub(crate) struct Remarks {
    pub(crate) reference: Option<String>,
    pub(crate) note: Option<String>,
}

impl Remarks {
    /// Errors: 22023 for an empty reference, or one that is too long.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(reference) = &self.reference else {
            return Ok(());
        };
        let length = reference.chars().count();
        if (1..=LONGEST_REFERENCE).contains(&length) {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            message: format!("reference has {length} characters"),
            detail: Some(format!(
                "A reference has from 1 to {LONGEST_REFERENCE} characters."
            )),
            hint: Some("Leave it out, or use a shorter id of your own.".into()),
        })
    }
}

/// What was given to one account. Tokens.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) account: String,
    pub(crate) amount: i64,
    pub(crate) previous_balance: i64,
    pub(crate) new_balance: i64,
}

/// What a call gave, or what an earlier one with the same reference did.
pub(crate) struct Outcome {
    pub(crate) given: Vec<Given>,
    pub(crate) replayed: bool,
}

/// Give `amount` tokens to an account, by canonical id.
pub(crate) fn credit(
    bound: &Bound,
    account: &str,
    amount: i64,
    remarks: &Remarks,
) -> Result<Outcome> {
    if let Some(reference) = &remarks.reference {
        // Two calls with one reference take turns: the second one finds the first one's entry.
        lock_reference(account, reference);
        if let Some(earlier) = entry_with(bound, account, reference)? {
            if earlier.kind != "credit" || earlier.given.amount != amount {
                return Err(earlier.conflict(account, reference));
            }
            return Ok(Outcome {
                given: vec![earlier.given],
                replayed: true,
            });
        }
    }
    let given = give(bound, Kind::Credit, account, amount, None, remarks)?;
    Ok(Outcome {
        given: vec![given],
        replayed: false,
    })
}

/// Give back `amount` tokens of a workflow, or all that is left, to the accounts that paid: to each
/// its share of what is left.
///
/// Locks are taken as a settlement takes them: workflow, settlements, accounts by id.
pub(crate) fn refund(
    bound: &Bound,
    workflow: &str,
    amount: Option<i64>,
    remarks: &Remarks,
) -> Result<Option<Outcome>> {
    lock_workflows(&[workflow.to_owned()], &bound.binding);
    let payments = read_payments(bound, workflow)?;
    if payments.is_empty() {
        return Ok(None);
    }
    if let Some(reference) = &remarks.reference {
        let earlier = refunds_with(bound, workflow, &payments, reference)?;
        if !earlier.is_empty() {
            return replay(workflow, earlier, amount, reference).map(Some);
        }
    }
    let left: i128 = payments.iter().map(|payment| payment.left()).sum();
    let amount = amount.map_or(left, i128::from);
    if amount > left {
        return Err(Error::RefundTooLarge {
            workflow: workflow.to_owned(),
            amount,
            left,
        });
    }
    let shares = shares(&payments, amount, left);
    for (payment, share) in payments.iter().zip(&shares) {
        write_refund(bound, workflow, &payment.account, *share)?;
    }
    let mut given = Vec::new();
    for (payment, share) in payments.iter().zip(shares) {
        if share > 0 {
            let account = &payment.account;
            given.push(give(
                bound,
                Kind::Refund,
                account,
                share,
                Some(workflow),
                remarks,
            )?);
        }
    }
    Ok(Some(Outcome {
        given,
        replayed: false,
    }))
}

/// What one account paid for a workflow and got back. Tokens.
struct Payment {
    account: String,
    charged: i64,
    refunded: i64,
}

impl Payment {
    fn left(&self) -> i128 {
        i128::from(self.charged) - i128::from(self.refunded)
    }
}

/// In the order of accounts.
fn read_payments(bound: &Bound, workflow: &str) -> Result<Vec<Payment>> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let outcome = bound
        .kept::<Statements>()
        .charged
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    let mut payments: Vec<_> = outcome
        .rows
        .iter()
        .map(|row| Payment {
            account: row.text(0).to_owned(),
            charged: row.number(1).unwrap_or_default(),
            refunded: row.number(2).unwrap_or_default(),
        })
        .collect();
    payments.sort_unstable_by(|a, b| a.account.cmp(&b.account));
    Ok(payments)
}

/// Share `amount` out in proportion to what is left of each payment; what rounding leaves goes to
/// the first accounts that can take it (the largest-remainder method would need no less than this
/// to stay within each payment).
fn shares(payments: &[Payment], amount: i128, left: i128) -> Vec<i64> {
    if left <= 0 {
        return vec![0; payments.len()];
    }
    let mut shares: Vec<i128> = payments
        .iter()
        .map(|payment| payment.left() * amount / left)
        .collect();
    let mut rest = amount - shares.iter().sum::<i128>();
    for (share, payment) in shares.iter_mut().zip(payments) {
        let more = rest.min(payment.left() - *share).clamp(0, 1);
        *share += more;
        rest -= more;
    }
    shares
        .into_iter()
        .map(|share| i64::try_from(share).unwrap_or_default())
        .collect()
}

fn write_refund(bound: &Bound, workflow: &str, account: &str, share: i64) -> Result<()> {
    if share == 0 {
        return Ok(());
    }
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let args = [Arg::Text(workflow), Arg::Text(account), Arg::Int8(share)];
    match bound
        .kept::<Statements>()
        .refund
        .run(&args, Snapshot::Statement)?
        .processed
    {
        1 => Ok(()),
        // A statement that completes very many workflows settles without the lock.
        _ => Err(Error::ConcurrentSettlement {
            workflow: workflow.to_owned(),
        }),
    }
}

fn give(
    bound: &Bound,
    kind: Kind,
    account: &str,
    amount: i64,
    workflow: Option<&str>,
    remarks: &Remarks,
) -> Result<Given> {
    queue::drain(bound, account)?;
    let change = Change {
        kind,
        account: account.to_owned(),
        parts: vec![Part {
            amount,
            workflow: workflow.map(str::to_owned),
            actor: ledger::actor(),
        }],
        reference: remarks.reference.clone(),
        note: remarks.note.clone(),
    };
    match account::change(bound, Rc::new(change))? {
        Ok(Changed { previous, new }) => Ok(Given {
            account: account.to_owned(),
            amount,
            previous_balance: previous,
            new_balance: new,
        }),
        Err(Refusal::UnknownAccount) => Err(Error::UnknownAccount {
            account: account.to_owned(),
        }),
        Err(Refusal::OutOfRange) => Err(Error::CreditOutOfRange {
            account: account.to_owned(),
            amount,
        }),
    }
}

/// A ledger entry that has a reference.
struct Referenced {
    kind: String,
    workflow: Option<String>,
    given: Given,
}

impl Referenced {
    fn conflict(&self, account: &str, reference: &str) -> Error {
        Error::ReferenceUsed {
            account: account.to_owned(),
            reference: reference.to_owned(),
            kind: self.kind.clone(),
            amount: self.given.amount,
        }
    }
}

fn entry_with(bound: &Bound, account: &str, reference: &str) -> Result<Option<Referenced>> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let args = [Arg::Text(account), Arg::Text(reference)];
    let outcome = bound
        .kept::<Statements>()
        .by_reference
        .run(&args, Snapshot::Latest)?;
    Ok(outcome.rows.first().map(|row| Referenced {
        kind: row.text(0).to_owned(),
        workflow: row.get(4).map(str::to_owned),
        given: Given {
            account: account.to_owned(),
            amount: row.number(1).unwrap_or_default(),
            previous_balance: row.number(2).unwrap_or_default(),
            new_balance: row.number(3).unwrap_or_default(),
        },
    }))
}

/// The entries of the payers that have the reference already; other than refunds of this workflow
/// they are a conflict.
fn refunds_with(
    bound: &Bound,
    workflow: &str,
    payments: &[Payment],
    reference: &str,
) -> Result<HashMap<String, Given>> {
    let mut found = HashMap::new();
    for Payment { account, .. } in payments {
        lock_reference(account, reference);
        let Some(entry) = entry_with(bound, account, reference)? else {
            continue;
        };
        if entry.kind != "refund" || entry.workflow.as_deref() != Some(workflow) {
            return Err(entry.conflict(account, reference));
        }
        found.insert(account.clone(), entry.given);
    }
    Ok(found)
}

fn replay(
    workflow: &str,
    earlier: HashMap<String, Given>,
    amount: Option<i64>,
    reference: &str,
) -> Result<Outcome> {
    let mut given: Vec<_> = earlier.into_values().collect();
    given.sort_unstable_by(|a, b| a.account.cmp(&b.account));
    let total: i128 = given.iter().map(|one| i128::from(one.amount)).sum();
    if amount.is_some_and(|amount| i128::from(amount) != total) {
        return Err(Error::RefundReferenceUsed {
            workflow: workflow.to_owned(),
            reference: reference.to_owned(),
            amount: total,
        });
    }
    Ok(Outcome {
        given,
        replayed: true,
    })
}
