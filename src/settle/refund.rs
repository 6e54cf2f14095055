//! Refunds: what a workflow was charged is given back to the accounts that paid.

use std::collections::BTreeSet;

use pgrx::pg_sys::{INT8OID, TEXTOID};

use super::lock::{lock_taken_away, lock_workflows, needs_locks};
use super::rename;
use super::retention::returned::{bring_back, family};
use super::shares::{OfBinding, Share, account_order, give_all};
use crate::binding::{Bound, Kept};
use crate::error::{Error, Result};
use crate::ledger::archive_table::ArchiveTable;
use crate::ledger::change::{Given, Kind};
use crate::ledger::credit::{Outcome, Remarks};
use crate::ledger::reference::{self, Referenced};
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
/// its share of what is left. None if it was charged in no binding.
///
/// Locks are taken as a settlement takes them: workflow, settlements, accounts by table and id.
/// Error 22023 for an amount where several bindings have charged it.
///
/// From `archive` settlements of it come back first, where the reference was not used for it.
pub(crate) fn refund(
    of: &[OfBinding],
    amount: Option<i64>,
    remarks: &Remarks,
    archive: Option<&ArchiveTable>,
) -> Result<Option<Outcome>> {
    rename::follow(of.iter().map(|one| &*one.bound))?;
    let ids: Vec<_> = of.iter().map(OfBinding::ids).collect::<Result<_>>()?;
    lock(of, &ids, archive.is_some())?;
    let mut paid = Vec::new();
    for (one, ids) in of.iter().zip(&ids) {
        let earlier = refunded_before(&one.bound, ids, remarks)?;
        if let Some(archive) = archive
            && earlier.is_empty()
        {
            bring_back(&one.bound, archive, &family(&one.bound, ids)?)?;
        }
        paid.extend(Paid::find(&one.bound, ids, earlier)?);
    }
    if let ([_, _, ..], Some(_)) = (&paid[..], amount) {
        return Err(Error::SeveralPaid {
            workflow: paid[0].workflow.to_owned(),
            names: paid.iter().map(|it| it.bound.name().to_owned()).collect(),
        });
    }
    if paid.is_empty() {
        return Ok(None);
    }
    let (mut given, is_done) = earlier(&paid, remarks, amount)?;
    let is_any_done = is_done.contains(&true);
    let mut shares = Vec::new();
    for (paid, _) in paid.iter().zip(&is_done).filter(|(_, is_done)| !**is_done) {
        shares.extend(paid.share_out(amount)?);
    }
    let is_replay = is_any_done && shares.is_empty();
    given.extend(give_all(Kind::Refund, shares, remarks)?);
    Ok(Some(Outcome {
        given,
        replayed: is_replay,
    }))
}

/// Lock the workflows, by all of their ids where settlements of theirs may come back.
fn lock(of: &[OfBinding], ids: &[Vec<String>], brings_back: bool) -> Result<()> {
    if !brings_back {
        let is_needed = of.iter().any(|one| needs_locks(&one.bound.binding));
        lock_workflows(ids.iter().flatten(), is_needed);
        return Ok(());
    }
    let mut all = Vec::new();
    for (one, ids) in of.iter().zip(ids) {
        all.extend(family(&one.bound, ids)?);
    }
    let bindings: Vec<_> = of.iter().map(|one| &one.bound.binding).collect();
    lock_taken_away(&all, &bindings);
    Ok(())
}

/// The accounts that a refund of the workflow, by one of these ids and in this binding, gave to with this reference. Their
/// settlements may be archived: references stay.
fn refunded_before(bound: &Bound, ids: &[String], remarks: &Remarks) -> Result<Vec<String>> {
    let Some(reference) = &remarks.reference else {
        return Ok(Vec::new());
    };
    let number = bound.binding.spec.number();
    let mut accounts = Vec::new();
    for entry in reference::refunds(&bound.book, reference)? {
        // None: in several bindings at once, of which this may be one.
        if entry.binding.is_none_or(|binding| binding == number)
            && let Some(of) = &entry.workflow
            && is_one_of(bound, of, ids)?
        {
            accounts.push(entry.given.account);
        }
    }
    Ok(accounts)
}

fn is_one_of(bound: &Bound, workflow: &str, ids: &[String]) -> Result<bool> {
    for id in ids {
        if rename::is_same_workflow(bound, workflow, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What earlier calls with this reference gave, to each account once, and which of `paid` have such an account: they are
/// done. Error 23505 if the reference was used for anything but refunds of this workflow, in one of these bindings or in
/// several of them.
fn earlier(
    paid: &[Paid],
    remarks: &Remarks,
    amount: Option<i64>,
) -> Result<(Vec<Given>, Vec<bool>)> {
    let (mut given, mut is_done) = (Vec::new(), vec![false; paid.len()]);
    let Some(reference) = &remarks.reference else {
        return Ok((given, is_done));
    };
    let mut payers = Vec::new();
    for (place, paid) in paid.iter().enumerate() {
        let accounts = paid.payments.iter().map(|it| &it.account);
        let accounts: BTreeSet<_> = accounts.chain(&paid.earlier).collect();
        let accounts = accounts.into_iter();
        payers.extend(accounts.map(|it| (account_order(paid.bound, it), place)));
    }
    payers.sort_unstable();
    for payers in payers.chunk_by(|a, b| a.0 == b.0) {
        let ((_, account, _), first) = payers[0];
        reference::lock_reference(account, reference);
        let Some(entry) = reference::find(&paid[first].bound.book, account, reference)? else {
            continue;
        };
        let mut of_binding = None;
        for (_, place) in payers {
            is_done[*place] = true;
            if paid[*place].is_named_by(&entry, payers.len())? {
                of_binding = Some(paid[*place].bound.name().to_owned());
            }
        }
        let Some(name) = of_binding else {
            return Err(entry.conflict(account, reference));
        };
        given.push(Given {
            binding: entry.binding.map(|_| name),
            ..entry.given
        });
    }
    let total: i128 = given.iter().map(|one| i128::from(one.amount)).sum();
    match amount.map(i128::from) {
        Some(amount) if !given.is_empty() && amount != total => Err(Error::RefundReferenceUsed {
            workflow: paid[0].workflow.to_owned(),
            reference: reference.to_owned(),
            amount: total,
        }),
        _ => Ok((given, is_done)),
    }
}

/// What was paid for a workflow in one binding.
struct Paid<'a> {
    bound: &'a Bound,
    workflow: &'a str,
    payments: Vec<Payment>,
    /// Accounts that the reference was used for, also where nothing else is left of what they paid.
    earlier: Vec<String>,
}

impl<'a> Paid<'a> {
    /// Under the first of the ids of which something was charged; or, if nothing was, the first that was settled; or, where
    /// the reference was used, the first one. (An id of before has a row where its entries are archived.)
    fn find(bound: &'a Bound, ids: &'a [String], earlier: Vec<String>) -> Result<Option<Self>> {
        let mut found = None;
        for workflow in ids {
            let payments = read_payments(bound, workflow)?;
            let has_any = payments.iter().any(|payment| payment.charged > 0);
            if has_any || (found.is_none() && !payments.is_empty()) {
                found = Some((workflow, payments));
            }
            if has_any {
                break;
            }
        }
        let found = match ids.first() {
            Some(first) if !earlier.is_empty() => found.or(Some((first, Vec::new()))),
            _ => found,
        };
        Ok(found.map(|(workflow, payments)| Paid {
            bound,
            workflow,
            payments,
            earlier,
        }))
    }

    /// Whether the entry is a refund of this workflow in this binding, or in several of which it is one.
    fn is_named_by(&self, entry: &Referenced, several: usize) -> Result<bool> {
        let number = self.bound.binding.spec.ids.map(|ids| ids.binding);
        let is_of_binding = match entry.binding {
            Some(binding) => number == Some(binding),
            None => number.is_none() || several > 1,
        };
        match &entry.workflow {
            Some(of) if is_of_binding && entry.kind == Kind::Refund.name() => {
                rename::is_same_workflow(self.bound, of, self.workflow)
            }
            _ => Ok(false),
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
                archives: Vec::new(),
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
