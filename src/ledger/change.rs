//! A change of one balance that the extension makes: what it is, and how the trigger on the users table
//! learns of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pgrx::pg_sys::Oid;

use crate::postgres::catalog;
use crate::postgres::invalidation::generation;
use crate::postgres::security;

/// What kind of entry the ledger has. Spelled here and in the ledger's CHECK, nowhere else; a test
/// compares the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Settlement,
    Credit,
    Refund,
    /// What was charged for usage that is no longer there, given back.
    Correction,
    /// A change that the extension did not make.
    Adjustment,
    /// What is left of an account's entries that were archived.
    Opening,
    /// The account comes from another database or goes there, and its entries with it: this is none.
    Move,
}

impl Kind {
    #[cfg(any(test, feature = "pg_test"))]
    pub(crate) const ALL: [Kind; 6] = [
        Kind::Settlement,
        Kind::Credit,
        Kind::Refund,
        Kind::Correction,
        Kind::Adjustment,
        Kind::Opening,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Settlement => "settlement",
            Kind::Credit => "credit",
            Kind::Refund => "refund",
            Kind::Correction => "correction",
            Kind::Adjustment => "adjustment",
            Kind::Opening => "opening",
            Kind::Move => "move",
        }
    }

    /// As a constant in SQL.
    pub(crate) fn sql(self) -> String {
        format!("'{}'", self.name())
    }

    /// SQL for "an entry of this kind counts for what its settlement has charged": less what it was corrected by.
    pub(crate) fn is_charge_sql(kind: &str) -> String {
        format!(
            "{kind} OPERATOR(pg_catalog.=) ANY (ARRAY[{}, {}]::pg_catalog.text[])",
            Kind::Settlement.sql(),
            Kind::Correction.sql()
        )
    }
}

/// A change of one balance that the extension is about to make.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) account: String,
    /// Each becomes an entry, in this order.
    pub(crate) lines: Vec<Line>,
    /// The caller's own id of a credit or refund.
    pub(crate) reference: Option<String>,
    pub(crate) note: Option<String>,
}

/// A line of a change: what one workflow costs, of all that an account pays at once.
#[derive(Debug)]
pub(crate) struct Line {
    /// Tokens; negative for a charge.
    pub(crate) amount: i64,
    pub(crate) workflow: Option<String>,
    /// The number of the workflow's binding.
    pub(crate) binding: Option<i16>,
    /// The name of the role that asked for it.
    pub(crate) actor: Rc<str>,
}

impl Change {
    /// What an account is charged at once.
    pub(crate) fn settlement(account: &str, lines: Vec<Line>) -> Rc<Self> {
        Rc::new(Change {
            kind: Kind::Settlement,
            account: account.to_owned(),
            lines,
            reference: None,
            note: None,
        })
    }

    /// Tokens, over all lines; None if that is not a bigint.
    pub(crate) fn amount(&self) -> Option<i64> {
        self.lines
            .iter()
            .try_fold(0_i64, |sum, line| sum.checked_add(line.amount))
    }
}

/// A balance before and after a change. Tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) previous: i64,
    pub(crate) new: i64,
}

/// What was given to one account. Tokens.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// The name of a binding that charges the account.
    pub(crate) binding: Option<String>,
    pub(crate) account: String,
    pub(crate) amount: i64,
    pub(crate) previous_balance: i64,
    pub(crate) new_balance: i64,
}

/// The name of a role, as long as nothing has changed (`invalidation`: also no role).
#[derive(Clone)]
struct Actor {
    role: Oid,
    name: Rc<str>,
    since: u64,
}

thread_local! {
    /// The one that acted last.
    static ACTOR: RefCell<Option<Actor>> = const { RefCell::new(None) };
}

/// The name of the role that the caller acts as, for the ledger.
pub(crate) fn actor() -> Rc<str> {
    let role = security::current_user();
    match ACTOR.with_borrow(Clone::clone) {
        Some(known) if known.role == role && known.since == generation() => known.name,
        _ => {
            let since = generation();
            let name: Rc<str> = catalog::role_name(role).into();
            let actor = Actor {
                role,
                name: name.clone(),
                since,
            };
            ACTOR.set(Some(actor));
            name
        }
    }
}

/// A change that was announced, and what the trigger answered to it.
#[derive(Default)]
struct Announced {
    /// The number of the accounts of which one is changed.
    accounts: Option<i16>,
    /// None once the trigger has written it.
    change: Option<Rc<Change>>,
    /// The balance that the trigger found before and after the change.
    changed: Option<Changed>,
}

thread_local! {
    static ANNOUNCED: RefCell<Announced> = RefCell::default();
}

/// While this value lives, the change that it announces is the next one of that account.
pub(crate) struct Announcement {
    outer: Announced,
}

impl Announcement {
    pub(crate) fn of(accounts: Option<i16>, change: Rc<Change>) -> Self {
        let announced = Announced {
            accounts,
            change: Some(change),
            changed: None,
        };
        Announcement {
            outer: ANNOUNCED.replace(announced),
        }
    }

    /// The balance before and after the change, if the trigger has written it.
    pub(crate) fn changed(&self) -> Option<Changed> {
        ANNOUNCED.with_borrow(|announced| announced.changed)
    }
}

impl Drop for Announcement {
    /// A trigger on users may settle another workflow meanwhile: give the outer change back.
    fn drop(&mut self) {
        ANNOUNCED.set(std::mem::take(&mut self.outer));
    }
}

thread_local! {
    static IS_RESTORING: Cell<bool> = const { Cell::new(false) };
}

/// While this value lives, attach fills the balance column: the ledger has what goes there.
pub(crate) struct Restoring(bool);

impl Restoring {
    pub(crate) fn begin() -> Self {
        Restoring(IS_RESTORING.replace(true))
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        IS_RESTORING.set(self.0);
    }
}

pub(crate) fn is_restoring() -> bool {
    IS_RESTORING.get()
}

/// Whether this library is not at work on a balance, and an older one may be.
pub(crate) fn is_idle() -> bool {
    let is_silent = ANNOUNCED.with_borrow(|a| a.change.is_none() && a.changed.is_none());
    is_silent && security::is_owner_run()
}

impl Announced {
    /// An id may name one account here and another one there.
    fn is_of(&self, accounts: Option<i16>, account: &str) -> bool {
        let change = self.change.as_ref();
        self.accounts == accounts && change.is_some_and(|change| change.account == account)
    }
}

/// Whether the next change of `account`, one of the accounts of that number, is one that the extension makes.
pub(crate) fn is_announced(accounts: Option<i16>, account: &str) -> bool {
    ANNOUNCED.with_borrow(|announced| announced.is_of(accounts, account))
}

/// Whether that change is a move.
pub(crate) fn is_move_announced(accounts: Option<i16>, account: &str) -> bool {
    let is_move = |change: &Rc<Change>| change.kind == Kind::Move;
    ANNOUNCED.with_borrow(|announced| {
        announced.is_of(accounts, account) && announced.change.as_ref().is_some_and(is_move)
    })
}

/// The announced change of `account`, once.
pub(super) fn take_announced(
    accounts: Option<i16>,
    account: &str,
    changed: Changed,
) -> Option<Rc<Change>> {
    ANNOUNCED.with_borrow_mut(|announced| {
        if !announced.is_of(accounts, account) {
            return None;
        }
        announced.changed = Some(changed);
        announced.change.take()
    })
}
