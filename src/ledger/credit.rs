//! Credits (top-ups): tokens that are given to an account. Refunds give them in the same way.

use std::rc::Rc;

use pgrx::pg_sys::TEXTOID;

use super::account::{self, Refusal};
use super::busy;
use super::change::{Change, Changed, Kind, Line, actor};
use crate::binding::{Book, Kept};
use crate::error::{Error, Result};
use crate::postgres::lock::{EXCLUSIVE, Object, hash, lock};
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// A reference is the caller's own id: a payment's, a ticket's.
const LONGEST_REFERENCE: usize = 255;

/// The statement of references.
struct Statements {
    by_reference: Statement,
}

impl Kept<Book> for Statements {
    fn of(_book: &Book) -> Self {
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
    book: &Book,
    account: &str,
    amount: i64,
    remarks: &Remarks,
) -> Result<Outcome> {
    if let Some(reference) = &remarks.reference {
        // Two calls with one reference take turns: the second one finds the first one's entry.
        lock_reference(account, reference);
        if let Some(earlier) = entry_with(book, account, reference)? {
            if earlier.kind != Kind::Credit.name() || earlier.given.amount != amount {
                return Err(earlier.conflict(account, reference));
            }
            return Ok(Outcome {
                given: vec![earlier.given],
                replayed: true,
            });
        }
    }
    let given = give(book, Kind::Credit, account, amount, None, remarks)?;
    Ok(Outcome {
        given: vec![given],
        replayed: false,
    })
}

/// Give tokens to an account, whose queued charges are paid first.
pub(crate) fn give(
    book: &Book,
    kind: Kind,
    account: &str,
    amount: i64,
    workflow: Option<&str>,
    remarks: &Remarks,
) -> Result<Given> {
    busy::drain(book, account)?;
    let change = Change {
        kind,
        account: account.to_owned(),
        lines: vec![Line {
            amount,
            workflow: workflow.map(str::to_owned),
            actor: actor(),
        }],
        reference: remarks.reference.clone(),
        note: remarks.note.clone(),
    };
    match account::change(book, Rc::new(change))? {
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
pub(crate) struct Referenced {
    pub(crate) kind: String,
    pub(crate) workflow: Option<String>,
    pub(crate) given: Given,
}

impl Referenced {
    /// The error (23505) for another use of the reference.
    pub(crate) fn conflict(&self, account: &str, reference: &str) -> Error {
        Error::ReferenceUsed {
            account: account.to_owned(),
            reference: reference.to_owned(),
            kind: self.kind.clone(),
            amount: self.given.amount,
        }
    }
}

/// The entry of the account with this reference, wherever it is by now.
pub(crate) fn entry_with(
    book: &Book,
    account: &str,
    reference: &str,
) -> Result<Option<Referenced>> {
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let args = [Arg::Text(account), Arg::Text(reference)];
    let outcome = book
        .kept::<Statements>()
        .by_reference
        .run(&args, Snapshot::Latest)?;
    let Some(row) = outcome.rows.first() else {
        return Ok(None);
    };
    Ok(Some(Referenced {
        kind: row.text(0).to_owned(),
        workflow: row.owned(4),
        given: Given {
            account: account.to_owned(),
            amount: row.amount(1)?,
            previous_balance: row.amount(2)?,
            new_balance: row.amount(3)?,
        },
    }))
}

/// Wait for the lock on a credit's or refund's reference and hold it until the transaction ends: two calls
/// with one reference take turns.
pub(crate) fn lock_reference(account: &str, reference: &str) {
    // Two pairs that give the same text only wait for each other.
    let key = hash(&format!("{account}\u{1}{reference}"));
    lock(Object { space: 0x7463, key }, EXCLUSIVE);
}
