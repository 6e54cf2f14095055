//! Refunds: what a workflow was charged is given back to the accounts that paid.

use std::collections::HashMap;

use pgrx::pg_sys::{INT8OID, TEXTOID};

use super::lock::lock_workflows;
use super::rename;
use crate::binding::{Bound, Kept};
use crate::error::{Error, Result};
use crate::ledger::change::{Given, Kind};
use crate::ledger::credit::{Of, Outcome, Remarks, give};
use crate::ledger::reference;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, Row};

/// The statements on what was paid.
struct Statements {
    charged: Statement,
    refund: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = bound.binding.own("s");
        Statements {
            charged: Statement::new(
                &format!(
                    "SELECT s.user_id, s.charged_tokens, s.refunded_tokens \
                     FROM token_balance.settlement AS s \
                     WHERE {own} s.workflow_id OPERATOR(pg_catalog.=) $1"
                ),
                &[TEXTOID],
            ),
            refund: Statement::new(
                &format!(
                    "UPDATE token_balance.settlement AS s \
                     SET refunded_tokens = s.refunded_tokens OPERATOR(pg_catalog.+) $3 \
                     WHERE {own} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2 \
                     AND (s.refunded_tokens OPERATOR(pg_catalog.+) $3) \
                     OPERATOR(pg_catalog.<=) s.charged_tokens"
                ),
                &[TEXTOID, TEXTOID, INT8OID],
            ),
        }
    }
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
    rename::follow(bound)?;
    // One that has another id by now may be asked for by its old one.
    let mut ids = rename::later_ids(bound, workflow)?;
    ids.insert(0, workflow.to_owned());
    lock_workflows(&ids, &bound.binding);
    let mut paid = None;
    for id in &ids {
        let payments = read_payments(bound, id)?;
        if !payments.is_empty() {
            paid = Some((id, payments));
            break;
        }
    }
    let Some((workflow, payments)) = paid else {
        return Ok(None);
    };
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
    let shares = shares(&payments, amount, left)?;
    for (payment, share) in payments.iter().zip(&shares) {
        write_refund(bound, workflow, &payment.account, *share)?;
    }
    let of = Of {
        kind: Kind::Refund,
        workflow: Some(workflow),
        binding: bound.binding.spec.ids.map(|ids| ids.binding),
    };
    let mut given = Vec::new();
    for (payment, share) in payments.iter().zip(shares) {
        if share > 0 {
            let account = &payment.account;
            given.push(give(&bound.book, of, account, share, remarks)?);
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
    let _owner = RunAs::owner(bound.binding.accounts.extension_owner);
    let outcome = bound
        .kept::<Statements>()
        .charged
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    let payment = |row: &Row| {
        Ok(Payment {
            account: row.text(0).to_owned(),
            charged: row.amount(1)?,
            refunded: row.amount(2)?,
        })
    };
    let mut payments: Vec<_> = outcome.rows.iter().map(payment).collect::<Result<_>>()?;
    payments.sort_unstable_by(|a, b| a.account.cmp(&b.account));
    Ok(payments)
}

/// Share `amount` out in proportion to what is left of each payment; what rounding leaves goes to
/// the first accounts that can take it (the largest-remainder method would need no less than this
/// to stay within each payment).
fn shares(payments: &[Payment], amount: i128, left: i128) -> Result<Vec<i64>> {
    if left <= 0 {
        return Ok(vec![0; payments.len()]);
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
    let share = |share: i128| {
        i64::try_from(share).map_err(|_| Error::NotAnAmount {
            found: Some(share.to_string()),
        })
    };
    shares.into_iter().map(share).collect()
}

fn write_refund(bound: &Bound, workflow: &str, account: &str, share: i64) -> Result<()> {
    if share == 0 {
        return Ok(());
    }
    let _owner = RunAs::owner(bound.binding.accounts.extension_owner);
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
        reference::lock_reference(account, reference);
        let Some(entry) = reference::find(&bound.book, account, reference)? else {
            continue;
        };
        let is_of_workflow = match entry.workflow.as_deref() {
            Some(of) => rename::is_same_workflow(bound, of, workflow)?,
            None => false,
        };
        if entry.kind != Kind::Refund.name() || !is_of_workflow {
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
