//! Corrections: what a deletion or a move took away from a settled workflow's usage is given back once (DESIGN C10).

use std::cmp::Reverse;

use pgrx::pg_sys::{INT8OID, TEXTOID};

use super::lock::lock_taken_away;
use super::rename;
use super::settlement::archived_usage_sql;
use super::shares::{OfBinding, Share, give_all};
use super::usage::{self, Usage};
use crate::binding::{Bound, Kept, Payer};
use crate::error::{Error, Result};
use crate::ledger::account;
use crate::ledger::change::{Given, Kind};
use crate::ledger::credit::Remarks;
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, Row, moment_sql};

/// The statements on settlement rows.
struct Statements {
    settled: Statement,
    correct: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = bound.binding.own("s");
        let archived = archived_usage_sql(bound.binding.spec.ids, "s");
        Statements {
            settled: Statement::new(
                &format!(
                    "SELECT s.user_id, s.usage_tokens, s.charged_tokens, s.refunded_tokens, {}, {archived} \
                     FROM token_balance.settlement AS s \
                     WHERE {own} s.workflow_id OPERATOR(pg_catalog.=) $1",
                    moment_sql("s.last_settled_at")
                ),
                &[TEXTOID],
            ),
            // Only if it is as it was read: settle_backlog() takes exemptions back without a lock.
            correct: Statement::new(
                &format!(
                    "UPDATE token_balance.settlement AS s \
                     SET usage_tokens = s.usage_tokens OPERATOR(pg_catalog.-) $3 OPERATOR(pg_catalog.-) $4, \
                     charged_tokens = s.charged_tokens OPERATOR(pg_catalog.-) $4, \
                     corrected_tokens = s.corrected_tokens OPERATOR(pg_catalog.+) $3 OPERATOR(pg_catalog.+) $4 \
                     WHERE {own} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2 \
                     AND s.usage_tokens OPERATOR(pg_catalog.=) $5 \
                     AND s.charged_tokens OPERATOR(pg_catalog.=) $6 \
                     AND s.refunded_tokens OPERATOR(pg_catalog.=) $7 \
                     AND {archived} OPERATOR(pg_catalog.=) $8::pg_catalog.numeric"
                ),
                &[
                    TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID,
                ],
            ),
        }
    }
}

/// What a correction did. Tokens.
#[derive(Default)]
pub(crate) struct Corrected {
    pub(crate) given: Vec<Given>,
    /// Taken out of what was exempt.
    pub(crate) exempt: i128,
    /// What nobody is there to get.
    pub(crate) gone: Vec<Gone>,
}

/// An account that has paid and was deleted.
pub(crate) struct Gone {
    /// The name of the binding.
    pub(crate) binding: String,
    pub(crate) account: String,
    /// What it would get.
    pub(crate) tokens: i64,
}

/// Take out of the settlements what is accounted for and no longer used, and give back what was paid of it. None if it is
/// settled in no binding. Error 55000 where the usage is a view that was replaced.
///
/// Locks are taken as a settlement takes them: workflow, settlements, accounts by table and id.
pub(crate) fn correct(of: &[OfBinding]) -> Result<Option<Corrected>> {
    for one in of {
        // All that it shows less would be given back.
        one.bound.binding.refuse_replaced_view()?;
    }
    rename::follow(of.iter().map(|one| &*one.bound))?;
    let ids: Vec<_> = of.iter().map(OfBinding::ids).collect::<Result<_>>()?;
    // A settlement that goes without locks would not see what is taken out.
    let all: Vec<_> = ids.iter().flatten().cloned().collect();
    let bindings: Vec<_> = of.iter().map(|one| &one.bound.binding).collect();
    lock_taken_away(&all, &bindings);
    let mut found = Vec::new();
    for (one, ids) in of.iter().zip(&ids) {
        found.extend(Workflow::find(&one.bound, ids)?);
    }
    if found.is_empty() {
        return Ok(None);
    }
    let mut corrected = Corrected::default();
    let mut shares = Vec::new();
    for workflow in &found {
        shares.extend(workflow.correct(&mut corrected)?);
    }
    let remarks = Remarks {
        reference: None,
        note: None,
    };
    corrected.given = give_all(Kind::Correction, shares, &remarks)?;
    Ok(Some(corrected))
}

/// A workflow that is settled in one binding.
struct Workflow<'a> {
    bound: &'a Bound,
    id: &'a str,
    /// The account that was charged last comes first.
    settled: Vec<Settled>,
}

/// What is settled of one account. Tokens.
struct Settled {
    account: String,
    usage: i64,
    charged: i64,
    refunded: i64,
    /// When it was charged last; None while all of it is exempt.
    last: Option<i64>,
    /// Usage that is not there any more and counts as if it were.
    archived: ExactSum,
}

/// What is taken out of a settlement. Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    exempt: i64,
    /// What was paid for, and is given back.
    paid: i64,
}

impl Settled {
    fn exempt(&self) -> i64 {
        self.usage.saturating_sub(self.charged).max(0)
    }

    /// Charged, and not refunded.
    fn paid(&self) -> i64 {
        self.charged.saturating_sub(self.refunded).max(0)
    }
}

impl<'a> Workflow<'a> {
    /// Under the first of the ids of which something is accounted for; or, if nothing is, the first that was settled.
    fn find(bound: &'a Bound, ids: &'a [String]) -> Result<Option<Self>> {
        let mut first = None;
        for id in ids {
            let settled = read_settled(bound, id)?;
            let has_any = settled.iter().any(|one| one.usage > 0);
            if has_any || (first.is_none() && !settled.is_empty()) {
                first = Some(Workflow { bound, id, settled });
            }
            if has_any {
                break;
            }
        }
        Ok(first)
    }

    /// What the accounts get; the settlements have it noted.
    fn correct(&self, corrected: &mut Corrected) -> Result<Vec<Share<'_>>> {
        let usage = usage::read(self.bound, &[self.id.to_owned()])?;
        let usage = usage.into_iter().next().unwrap_or_default();
        // It is there, and would look as if it had been taken away.
        if let Some(account) = usage.uncounted(&self.bound.binding).next() {
            return Err(Error::UncountedUsage {
                workflow: self.id.to_owned(),
                account: account.map(str::to_owned),
            });
        }
        let taken = self.settled.iter().zip(self.taken(&usage));
        let mut taken: Vec<_> = taken
            .filter(|(_, taken)| *taken != Taken::default())
            .collect();
        // In the order in which a settlement locks them.
        taken.sort_unstable_by(|(a, _), (b, _)| a.account.cmp(&b.account));
        let mut shares = Vec::new();
        for (settled, mut taken) in taken {
            let account = &settled.account;
            if taken.paid > 0 && account::column_now(&self.bound.book, account)?.is_none() {
                corrected.gone.push(Gone {
                    binding: self.bound.name().to_owned(),
                    account: account.clone(),
                    tokens: std::mem::take(&mut taken.paid),
                });
            }
            if taken == Taken::default() {
                continue;
            }
            write(self.bound, self.id, settled, taken)?;
            corrected.exempt += i128::from(taken.exempt);
            if taken.paid > 0 {
                shares.push(Share {
                    bound: self.bound,
                    workflow: self.id,
                    account,
                    tokens: taken.paid,
                });
            }
        }
        Ok(shares)
    }

    /// What is taken out of each settlement.
    fn taken(&self, usage: &Usage) -> Vec<Taken> {
        match &self.bound.binding.payer {
            Payer::Usage(_) => self
                .settled
                .iter()
                .flat_map(|settled| {
                    let used = usage.of(Some(&settled.account));
                    taken(std::slice::from_ref(settled), &used)
                })
                .collect(),
            // Usage names no account: it is that of all who have paid.
            Payer::Workflow(_) => taken(&self.settled, &usage.of(None)),
        }
    }
}

/// What is taken out of settlements that stand for one usage of `used` tokens: first what was exempt, without money, then
/// what was paid and not refunded; the account that was charged last comes first.
fn taken(settled: &[Settled], used: &ExactSum) -> Vec<Taken> {
    let accounted: i128 = settled.iter().map(|one| i128::from(one.usage)).sum();
    let mut used = used.clone();
    settled.iter().for_each(|one| used.add(&one.archived));
    // What cannot be counted was refused before.
    let used = used.rounded().unwrap_or(accounted);
    let mut missing = (accounted - used).max(0);
    let mut take = |most: i64| {
        let tokens = i64::try_from(missing).map_or(most, |missing| missing.min(most));
        missing -= i128::from(tokens);
        tokens
    };
    let exempt: Vec<_> = settled.iter().map(|one| take(one.exempt())).collect();
    let paid = settled.iter().map(|one| take(one.paid()));
    exempt
        .into_iter()
        .zip(paid)
        .map(|(exempt, paid)| Taken { exempt, paid })
        .collect()
}

fn read_settled(bound: &Bound, workflow: &str) -> Result<Vec<Settled>> {
    let _owner = bound.run_as_extension();
    let outcome = bound
        .kept::<Statements>()
        .settled
        .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
    let of_row = |row: &Row| {
        Ok(Settled {
            account: row.text(0).to_owned(),
            usage: row.amount(1)?,
            charged: row.amount(2)?,
            refunded: row.amount(3)?,
            last: row.number(4),
            archived: ExactSum::of(row.get(5))?,
        })
    };
    let mut settled: Vec<_> = outcome.rows.iter().map(of_row).collect::<Result<_>>()?;
    settled
        .sort_unstable_by(|a, b| (Reverse(a.last), &a.account).cmp(&(Reverse(b.last), &b.account)));
    Ok(settled)
}

fn write(bound: &Bound, workflow: &str, settled: &Settled, taken: Taken) -> Result<()> {
    let _owner = bound.run_as_extension();
    let archived = settled.archived.to_string();
    let args = [
        Arg::Text(workflow),
        Arg::Text(&settled.account),
        Arg::Int8(taken.exempt),
        Arg::Int8(taken.paid),
        Arg::Int8(settled.usage),
        Arg::Int8(settled.charged),
        Arg::Int8(settled.refunded),
        Arg::Text(&archived),
    ];
    let outcome = bound
        .kept::<Statements>()
        .correct
        .run(&args, Snapshot::Statement)?;
    match outcome.processed {
        1 => Ok(()),
        _ => Err(Error::ConcurrentSettlement {
            workflow: workflow.to_owned(),
        }),
    }
}
