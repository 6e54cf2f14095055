//! Credits (top-ups): tokens that are given to an account. Refunds give them in the same way.

use std::rc::Rc;

use super::account::{self, Refusal};
use super::busy;
use super::change::{Change, Changed, Given, Kind, Line, actor};
use super::reference;
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
            hint: Some("Leave it out, or use a shorter id of your own.".into()),
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
    let of = Of {
        kind: Kind::Credit,
        workflow: None,
        binding: None,
    };
    let given = give(book, of, account, amount, remarks)?;
    Ok(Outcome {
        given: vec![given],
        replayed: false,
    })
}

/// Change a balance by hand, by an amount above or below zero. An entry without a note would look like one of
/// a statement from outside.
pub(crate) fn adjust(book: &Book, account: &str, amount: i64, note: Option<&str>) -> Result<Given> {
    let of = Of {
        kind: Kind::Adjustment,
        workflow: None,
        binding: None,
    };
    let remarks = Remarks {
        reference: None,
        note: Some(note.unwrap_or("token_balance.adjust()").to_owned()),
    };
    give(book, of, account, amount, &remarks)
}

/// What tokens are given for.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) kind: Kind,
    /// The workflow that is refunded, and the number of its binding.
    pub(crate) workflow: Option<&'a str>,
    pub(crate) binding: Option<i16>,
}

/// Give tokens to an account, whose queued charges are paid first. A reference is remembered with it.
pub(crate) fn give(
    book: &Book,
    of: Of,
    account: &str,
    amount: i64,
    remarks: &Remarks,
) -> Result<Given> {
    busy::drain(book, account)?;
    let change = Change {
        kind: of.kind,
        account: account.to_owned(),
        lines: vec![Line {
            amount,
            workflow: of.workflow.map(str::to_owned),
            binding: of.binding,
            actor: actor(),
        }],
        reference: remarks.reference.clone(),
        note: remarks.note.clone(),
    };
    let given = match account::change(book, Rc::new(change))? {
        Ok(Changed { previous, new }) => Given {
            binding: Some(book.accounts.binding.clone()),
            account: account.to_owned(),
            amount,
            previous_balance: previous,
            new_balance: new,
        },
        Err(Refusal::UnknownAccount) => {
            return Err(Error::UnknownAccount {
                account: account.to_owned(),
            });
        }
        Err(Refusal::OutOfRange) => {
            return Err(Error::CreditOutOfRange {
                what: match of.kind {
                    Kind::Adjustment => "an adjustment",
                    _ => "a credit",
                },
                account: account.to_owned(),
                amount,
            });
        }
    };
    if let Some(reference) = &remarks.reference {
        reference::remember(book, reference, of.kind, &given, of.workflow)?;
    }
    Ok(given)
}
