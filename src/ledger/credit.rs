//! Credits (top-ups): tokens that are given to an account. Refunds and corrections give them in the same way.

use std::rc::Rc;

use super::account::{self, Refusal};
use super::busy;
use super::change::{Change, Changed, Given, Kind, Line, actor};
use super::{moved, reference};
use crate::binding::Book;
use crate::error::{Error, Result};

/// A reference is the caller's own id: a payment's, a ticket's.
const LONGEST_REFERENCE: usize = 255;

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
            hint: Some("Leave it out, or use an id of your own that fits.".into()),
        })
    }
}

/// What a call gave, or what an earlier one with the same reference did.
pub(crate) struct Outcome {
    pub(crate) given: Vec<Given>,
    pub(crate) replayed: bool,
}

/// Give `amount` tokens to an account, by canonical id.
pub(crate) fn credit(
    book: &Book,
    account: &str,
    amount: i64,
    remarks: &Remarks,
) -> Result<Outcome> {
    if let Some(reference) = &remarks.reference {
        reference::lock_reference(account, reference);
        if let Some(earlier) = reference::find(book, account, reference)? {
            if earlier.kind != Kind::Credit.name() || earlier.given.amount != amount {
                return Err(earlier.conflict(account, reference));
            }
            return Ok(Outcome {
                given: vec![earlier.given],
                replayed: true,
            });
        }
    }
    let given = give(book, Kind::Credit, account, &[Part::of(amount)], remarks)?;
    Ok(Outcome {
        given: vec![given],
        replayed: false,
    })
}

/// Change a balance by hand, by an amount above or below zero. An entry without a note would look like one of
/// a statement from outside.
pub(crate) fn adjust(book: &Book, account: &str, amount: i64, note: Option<&str>) -> Result<Given> {
    let remarks = Remarks {
        reference: None,
        note: Some(note.unwrap_or("token_balance.adjust()").to_owned()),
    };
    give(
        book,
        Kind::Adjustment,
        account,
        &[Part::of(amount)],
        &remarks,
    )
}

/// A part of what is given at once; each has an entry of its own.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Tokens.
    pub(crate) amount: i64,
    /// The workflow that is refunded or corrected, and the number of its binding.
    pub(crate) workflow: Option<&'a str>,
    pub(crate) binding: Option<i16>,
}

impl Part<'_> {
    /// Of no workflow.
    fn of(amount: i64) -> Self {
        Part {
            amount,
            workflow: None,
            binding: None,
        }
    }
}

/// Give tokens to an account, whose queued charges are paid first. A reference is remembered with it: what was given
/// in all.
pub(crate) fn give(
    book: &Book,
    kind: Kind,
    account: &str,
    parts: &[Part],
    remarks: &Remarks,
) -> Result<Given> {
    busy::drain(book, account)?;
    let lines = parts.iter().map(|part| Line {
        amount: part.amount,
        workflow: part.workflow.map(str::to_owned),
        binding: part.binding,
        actor: actor(),
    });
    let change = Change {
        kind,
        account: account.to_owned(),
        lines: lines.collect(),
        reference: remarks.reference.clone(),
        note: remarks.note.clone(),
    };
    let given = match account::change(book, Rc::new(change))? {
        Ok(Changed { previous, new }) => Given {
            binding: Some(book.accounts.binding.clone()),
            account: account.to_owned(),
            // As it was asked for: a trigger of the application may change the balance on the way, and the ledger has that apart.
            amount: parts
                .iter()
                .fold(0, |sum: i64, part| sum.saturating_add(part.amount)),
            previous_balance: previous,
            new_balance: new,
        },
        Err(Refusal::UnknownAccount) => {
            return Err(Error::UnknownAccount {
                account: account.to_owned(),
            });
        }
        Err(Refusal::Moved) => {
            return Err(Error::AccountMoved {
                account: account.to_owned(),
                database: moved::database(book, account)?.unwrap_or_default(),
            });
        }
        Err(Refusal::Forbidden) => {
            return Err(Error::BalanceForbidden {
                workflow: None,
                account: account.to_owned(),
                tokens: parts.iter().map(|part| -i128::from(part.amount)).sum(),
            });
        }
        Err(Refusal::OutOfRange) => {
            return Err(Error::CreditOutOfRange {
                what: match kind {
                    Kind::Adjustment => "an adjustment",
                    Kind::Correction => "a correction",
                    _ => "a credit",
                },
                account: account.to_owned(),
                amount: parts.iter().map(|part| i128::from(part.amount)).sum(),
            });
        }
    };
    if let Some(reference) = &remarks.reference {
        let workflow = parts.iter().find_map(|part| part.workflow);
        let binding = match parts {
            [only] => only.binding,
            _ => None,
        };
        reference::remember(book, reference, kind, &given, workflow, binding)?;
    }
    Ok(given)
}
