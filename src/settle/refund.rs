//! Refunds: what a workflow was charged is given back to the accounts that paid.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::{INT8OID, TEXTOID};

use super::lock::{lock_workflows, needs_locks};
use super::rename;
use crate::binding::{Bound, Kept};
use crate::error::{Error, Result};
use crate::ledger::change::{Given, Kind};
use crate::ledger::credit::{Of, Outcome, Remarks, give};
use crate::ledger::reference;
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

/// A workflow of one binding.
pub(crate) struct Refundable {
    pub(crate) bound: Rc<Bound>,
    /// By canonical id.
    pub(crate) workflow: String,
}

/// Give back `amount` tokens of a workflow, or all that is left, to the accounts that paid: to each
/// its share of what is left. None if it was charged in no binding.
///
/// Locks are taken as a settlement takes them: workflow, settlements, accounts by table and id.
/// Error 22023 for an amount where several bindings have charged it.
pub(crate) fn refund(
    of: &[Refundable],
    amount: Option<i64>,
    remarks: &Remarks,
) -> Result<Option<Outcome>> {
    rename::follow(of.iter().map(|one| &*one.bound))?;
    // One that has another id by now may be asked for by its old one.
    let mut ids = Vec::with_capacity(of.len());
    for Refundable { bound, workflow } in of {
        let mut of_binding = rename::later_ids(bound, workflow)?;
        of_binding.insert(0, workflow.clone());
        ids.push(of_binding);
    }
    lock_workflows(
        ids.iter().flatten(),
        of.iter().any(|one| needs_locks(&one.bound.binding)),
    );
    let mut paid = Vec::new();
    for (one, ids) in of.iter().zip(&ids) {
        paid.extend(Paid::find(&one.bound, ids)?);
    }
    if let ([_, _, ..], Some(_)) = (&paid[..], amount) {
        return Err(Error::SeveralPaid {
            workflow: paid[0].workflow.to_owned(),
            names: paid.iter().map(|it| it.bound.name().to_owned()).collect(),
        });
    }
    let mut shares = Vec::new();
    let (mut given, mut is_replayed) = (Vec::new(), !paid.is_empty());
    for paid in &paid {
        match paid.earlier(remarks, amount)? {
            Some(earlier) => given.extend(earlier),
            None => {
                shares.extend(paid.share_out(amount)?);
                is_replayed = false;
            }
        }
    }
    if paid.is_empty() {
        return Ok(None);
    }
    shares.sort_by(|a, b| a.order().cmp(&b.order()));
    for Share {
        bound,
        workflow,
        account,
        tokens,
    } in shares
    {
        let of = Of {
            kind: Kind::Refund,
            workflow: Some(workflow),
            binding: bound.binding.spec.ids.map(|ids| ids.binding),
        };
        let one = give(&bound.book, of, account, tokens, remarks)?;
        given.push(of_binding(bound, one));
    }
    Ok(Some(Outcome {
        given,
        replayed: is_replayed,
    }))
}

/// Bindings of the same accounts have one book.
fn of_binding(bound: &Bound, given: Given) -> Given {
    Given {
        binding: Some(bound.name().to_owned()),
        ..given
    }
}

/// What was paid for a workflow in one binding.
struct Paid<'a> {
    bound: &'a Bound,
    workflow: &'a str,
    payments: Vec<Payment>,
}

/// What one account gets back.
struct Share<'a> {
    bound: &'a Bound,
    workflow: &'a str,
    account: &'a str,
    tokens: i64,
}

impl Share<'_> {
    /// In which order accounts are locked.
    fn order(&self) -> (u32, &str, Option<i16>) {
        let accounts = &self.bound.book.accounts;
        (accounts.users.oid.to_u32(), self.account, accounts.id)
    }
}

impl<'a> Paid<'a> {
    /// Under the first of the ids that has payments.
    fn find(bound: &'a Bound, ids: &'a [String]) -> Result<Option<Self>> {
        for workflow in ids {
            let payments = read_payments(bound, workflow)?;
            if !payments.is_empty() {
                return Ok(Some(Paid {
                    bound,
                    workflow,
                    payments,
                }));
            }
        }
        Ok(None)
    }

    /// What an earlier call with this reference gave.
    fn earlier(&self, remarks: &Remarks, amount: Option<i64>) -> Result<Option<Vec<Given>>> {
        let Some(reference) = &remarks.reference else {
            return Ok(None);
        };
        let earlier = refunds_with(self.bound, self.workflow, &self.payments, reference)?;
        match earlier.is_empty() {
            true => Ok(None),
            false => {
                let given = replay(self.workflow, earlier, amount, reference)?;
                let given = given.into_iter();
                Ok(Some(given.map(|one| of_binding(self.bound, one)).collect()))
            }
        }
    }

    /// Note what is given back, and to whom. Error 22023 for more than is left.
    fn share_out(&self, amount: Option<i64>) -> Result<Vec<Share<'_>>> {
        let left: i128 = self.payments.iter().map(|payment| payment.left()).sum();
        let amount = amount.map_or(left, i128::from);
        if amount > left {
            return Err(Error::RefundTooLarge {
                workflow: self.workflow.to_owned(),
                amount,
                left,
            });
        }
        let mut given = Vec::new();
        for (payment, tokens) in self
            .payments
            .iter()
            .zip(shares(&self.payments, amount, left)?)
        {
            if tokens > 0 {
                write_refund(self.bound, self.workflow, &payment.account, tokens)?;
                given.push(Share {
                    bound: self.bound,
                    workflow: self.workflow,
                    account: &payment.account,
                    tokens,
                });
            }
        }
        Ok(given)
    }
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
    let _owner = bound.run_as_extension();
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
    let _owner = bound.run_as_extension();
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
) -> Result<Vec<Given>> {
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
    Ok(given)
}
