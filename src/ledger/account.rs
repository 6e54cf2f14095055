//! Balances: reading one, changing one.
//!
//! The users table is changed by a plain UPDATE as its owner, so the application's own triggers, constraints and
//! generated columns hold, and the ledger's trigger writes the entry. Where there is nothing of all that but the
//! trigger, the row is changed without the executor, and the entry is written here.

use std::rc::Rc;

use pgrx::pg_sys::{INT8OID, TEXTARRAYOID, TEXTOID};

use super::change::{Announcement, Change, Changed, Kind};
use super::crossing::notify_crossing;
use super::{entries, moved, queue};
use crate::binding::{Book, Kept};
use crate::counters::{Counter, count};
use crate::error::{Error, Result};
use crate::postgres::direct::{Added, Adder, Addition, Changeable, Holds, Lookup, Wanted};
use crate::postgres::snapshot::{FreshSnapshot, Snapshot, uses_transaction_snapshot};
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// The statements on one account, for one accounts.
pub(crate) struct Statements {
    pub(crate) adder: Adder,
    lookup: Lookup,
    take: Statement,
    give: Statement,
    hold: Statement,
    keep: Statement,
    balance: Statement,
    row: Statement,
    /// Whether a CHECK constraint refuses what a change would leave. None where there are none.
    forbids: Option<Statement>,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let accounts = &book.accounts;
        let users = &accounts.users.sql;
        let balance = accounts.balance_sql();
        let is_account = format!(
            "a.{} OPERATOR(pg_catalog.=) $1::{}",
            accounts.user_key.sql(),
            accounts.user_key.key_type.sql()
        );
        // A change that would leave the column's range updates no row instead of failing: $3 is the
        // balance with which it just stays inside.
        //
        // Never FOR UPDATE before it: a child row's foreign-key check holds KEY SHARE on the
        // account, and the upgrade deadlocks. A plain UPDATE of a column that is no key goes
        // along with it.
        let change = |is_within: &str| {
            Statement::new(
                &format!(
                    "UPDATE {users} AS a \
                     SET {balance} = a.{balance} OPERATOR(pg_catalog.+) $2 \
                     WHERE {is_account} AND {is_within}"
                ),
                &[TEXTOID, INT8OID, INT8OID],
            )
            .of(&[accounts.users.oid])
        };
        let left = format!("a.{balance} OPERATOR(pg_catalog.+) $2");
        let checks = accounts.checks_sql("a", &left);
        // Nor does one that a CHECK constraint would refuse: an error could not be passed over.
        let has_room = format!("a.{balance} OPERATOR(pg_catalog.>=) $3");
        let may_take = match &checks {
            Some(checks) => {
                format!("CASE WHEN {has_room} THEN {checks} IS NOT FALSE ELSE false END")
            }
            None => has_room,
        };
        Statements {
            adder: Adder::new(accounts.balance.is_some().then(|| Changeable {
                table: accounts.users.oid,
                owner: accounts.users.owner,
                key: accounts.user_key.column.name.clone(),
                key_type: accounts.user_key.key_type,
                column: accounts.balance_column.clone(),
                done_by_caller: book.own.record_balance_change,
                lets_pass: book.own.keep_balance,
            })),
            lookup: Lookup::new(accounts.balance.is_some().then(|| Wanted {
                table: accounts.users.oid,
                owner: accounts.users.owner,
                scope: None,
                key: accounts.user_key.column.name.clone(),
                key_type: accounts.user_key.key_type,
                columns: vec![(accounts.balance_column.clone(), Holds::Integer)],
            })),
            take: change(&may_take),
            give: change(&format!("a.{balance} OPERATOR(pg_catalog.<=) $3")),
            forbids: checks.map(|checks| {
                let sql =
                    format!("SELECT 1 FROM {users} AS a WHERE {is_account} AND {checks} IS FALSE");
                Statement::new(&sql, &[TEXTOID, INT8OID]).of(&[accounts.users.oid])
            }),
            hold: Statement::new(&hold_sql(book), &[TEXTOID]).of(&[accounts.users.oid]),
            keep: Statement::new(
                &format!(
                    "SELECT 1 FROM {users} AS a WHERE a.{key} OPERATOR(pg_catalog.=) ANY ($1::{key_type}[]) \
                     ORDER BY a.{key} FOR KEY SHARE",
                    key = accounts.user_key.sql(),
                    key_type = accounts.user_key.key_type.sql(),
                ),
                &[TEXTARRAYOID],
            )
            .of(&[accounts.users.oid]),
            balance: Statement::new(
                &format!("SELECT a.{balance}::bigint FROM {users} AS a WHERE {is_account}"),
                &[TEXTOID],
            )
            .of(&[accounts.users.oid]),
            row: Statement::new(
                &format!(
                    "SELECT a.{balance}::bigint, pg_catalog.format('%s %s %s', a.tableoid, \
                     a.ctid, a.xmin) FROM {users} AS a WHERE {is_account}"
                ),
                &[TEXTOID],
            )
            .of(&[accounts.users.oid]),
        }
    }
}

/// Why a change was not made: the caller knows what to call it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refusal {
    UnknownAccount,
    OutOfRange,
    /// By a CHECK constraint on the balance.
    Forbidden,
    /// The account is in another database.
    Moved,
}

/// How many rows that take one another's place are tried. A session that inserts and deletes an account
/// without end, or has a trigger do it, is not waited for.
const MAX_ROWS: usize = 10;

/// Make `change` and have it written to the ledger.
///
/// Errors: 40001 if the account is not what the transaction's snapshot has, 27000 if a trigger, rule or
/// policy suppressed the update; whatever the update raises.
pub(crate) fn change(book: &Book, change: Rc<Change>) -> Result<Result<Changed, Refusal>> {
    let Some(amount) = change.amount() else {
        return Ok(Err(Refusal::OutOfRange));
    };
    // Who waits for the row while the account leaves must not charge what is left of it.
    if moved::is_used(book) {
        if uses_transaction_snapshot() || hold_unless_busy(book, &change.account) != Some(true) {
            hold(book, &change.account)?;
        }
        if moved::database(book, &change.account)?.is_some() {
            return Ok(Err(Refusal::Moved));
        }
    }
    let accounts = &book.accounts;
    let (smallest, largest) = (accounts.smallest_balance(), accounts.largest_balance());
    let lowest = smallest.saturating_sub(amount.min(0));
    let highest = largest.saturating_sub(amount.max(0));
    let statements = book.kept::<Statements>();
    let addition = Addition {
        key: &change.account,
        amount,
        lowest,
        highest,
    };
    let added = {
        let _owner = book.run_as_users_owner();
        statements.adder.add(&addition)
    };
    if let Some(Added { previous, new }) = added {
        count(Counter::BalancesDirect, 1);
        if change.kind != Kind::Move {
            notify_crossing(book, &change.account, previous, new)?;
        }
        entries::record(book, &change, previous)?;
        return Ok(Ok(Changed { previous, new }));
    }
    let (statement, limit) = match amount {
        ..0 => (&statements.take, lowest),
        _ => (&statements.give, highest),
    };
    let announcement = Announcement::of(accounts.id, change.clone());
    let args = [
        Arg::Text(&change.account),
        Arg::Int8(amount),
        Arg::Int8(limit),
    ];
    let mut passed_over = Vec::new();
    loop {
        let outcome = {
            let _owner = book.run_as_users_owner();
            statement.run(&args, Snapshot::Statement)?
        };
        let is_made = outcome.processed == 1;
        if is_made {
            count(Counter::BalancesBySql, 1);
        }
        if is_made && let Some(changed) = announcement.changed() {
            return Ok(Ok(changed));
        }
        let row = row_of(book, &change.account, Snapshot::Latest)?;
        if !is_made && row.is_some() && uses_transaction_snapshot() {
            // The statement went by a snapshot that has not the row as it is: an account that is
            // newer, one that has changed, or all of them after an ALTER TABLE that rewrites.
            let seen = row_of(book, &change.account, Snapshot::Statement)?;
            if seen != row {
                return Err(Error::ConcurrentChange {
                    account: change.account.clone(),
                });
            }
        }
        match row {
            None => return Ok(Err(Refusal::UnknownAccount)),
            // The ledger's trigger is off: its owner has disabled it, or the session is a replica's. What
            // the extension itself does has its entries all the same.
            Some(row) if is_made => {
                let previous = row.balance.saturating_sub(amount);
                entries::record_change(book, &change.account, previous, row.balance)?;
                return Ok(Ok(Changed {
                    previous,
                    new: row.balance,
                }));
            }
            Some(row) if row.balance < lowest || row.balance > highest => {
                return Ok(Err(Refusal::OutOfRange));
            }
            Some(_) if amount < 0 && is_forbidden(book, &change.account, amount)? => {
                return Ok(Err(Refusal::Forbidden));
            }
            // The row that the statement saw and waited for was deleted, and this one inserted in
            // its place: a new statement sees it. One that was there to be seen and was not
            // changed was kept from it.
            Some(row) if passed_over.len() < MAX_ROWS && !passed_over.contains(&row) => {
                passed_over.push(row);
            }
            Some(_) => {
                return Err(Error::ChargeSuppressed {
                    relation: accounts.users.sql.clone(),
                    account: change.account.clone(),
                });
            }
        }
    }
}

/// SQL that holds an account's row. Not FOR UPDATE: it would wait for the foreign-key checks of child rows.
pub(super) fn hold_sql(book: &Book) -> String {
    let accounts = &book.accounts;
    format!(
        "SELECT 1 FROM {} AS a WHERE a.{} OPERATOR(pg_catalog.=) $1::{} FOR NO KEY UPDATE",
        accounts.users.sql,
        accounts.user_key.sql(),
        accounts.user_key.key_type.sql()
    )
}

/// Wait for the account's row and hold it to the end of the transaction. False if there is none.
pub(crate) fn hold(book: &Book, account: &str) -> Result<bool> {
    run_hold(book, &book.kept::<Statements>().hold, account)
}

/// Wait for who gives one of the accounts another id or deletes it, and keep others from it to the end of the transaction, as a
/// foreign key's check does.
pub(crate) fn keep_ids<'a>(book: &Book, accounts: impl Iterator<Item = &'a String>) -> Result<()> {
    let key_type = book.accounts.user_key.key_type;
    // Usage may name what can be no account.
    let accounts: Vec<_> = accounts
        .filter_map(|account| key_type.canonical(account))
        .collect();
    let _owner = book.run_as_users_owner();
    let args = [Arg::TextArray(&accounts)];
    let statement = &book.kept::<Statements>().keep;
    statement.run(&args, Snapshot::Statement).map(drop)
}

/// Hold the account's row by a statement: whether that was done.
pub(super) fn run_hold(book: &Book, statement: &Statement, account: &str) -> Result<bool> {
    let _owner = book.run_as_users_owner();
    let outcome = statement.run(&[Arg::Text(account)], Snapshot::Statement)?;
    Ok(outcome.processed == 1)
}

/// Hold the account's row to the end of the transaction, unless somebody else does. None if SQL must do it.
pub(super) fn hold_unless_busy(book: &Book, account: &str) -> Option<bool> {
    let _owner = book.run_as_users_owner();
    book.kept::<Statements>().adder.hold_unless_busy(account)
}

/// Whether a CHECK constraint refuses the balance that the change would leave.
fn is_forbidden(book: &Book, account: &str, amount: i64) -> Result<bool> {
    let statements = book.kept::<Statements>();
    let Some(forbids) = &statements.forbids else {
        return Ok(false);
    };
    let _owner = book.run_as_users_owner();
    let args = [Arg::Text(account), Arg::Int8(amount)];
    Ok(forbids.run(&args, Snapshot::Latest)?.processed > 0)
}

/// An account's row: which version of it, and the balance in it. Tokens.
#[derive(PartialEq)]
struct AccountRow {
    version: String,
    balance: i64,
}

fn row_of(book: &Book, account: &str, snapshot: Snapshot) -> Result<Option<AccountRow>> {
    let _owner = book.run_as_users_owner();
    let outcome = book
        .kept::<Statements>()
        .row
        .run(&[Arg::Text(account)], snapshot)?;
    let Some(row) = outcome.rows.first() else {
        return Ok(None);
    };
    Ok(Some(AccountRow {
        balance: row.amount(0)?,
        version: row.text(1).to_owned(),
    }))
}

/// The column of an account, by canonical id; None if there is no such account. Tokens.
pub(crate) fn column_of(book: &Book, account: &str) -> Result<Option<i64>> {
    read_column(book, account, Snapshot::Statement)
}

/// The same as it is now, whatever the transaction's snapshot.
pub(crate) fn column_now(book: &Book, account: &str) -> Result<Option<i64>> {
    let found = {
        let _owner = book.run_as_users_owner();
        let statements = book.kept::<Statements>();
        statements.lookup.reader().and_then(|mut reader| {
            let mut found = None;
            reader.read(&[account.to_owned()], |_, row| found = row.integer(0));
            found
        })
    };
    if found.is_some() {
        return Ok(found);
    }
    read_column(book, account, Snapshot::Latest)
}

/// The balance of an account: the column, less what waits in the queue. None if there is no such
/// account. Tokens.
pub(crate) fn balance_of(book: &Book, account: &str) -> Result<Option<i64>> {
    if !queue::is_used(book) {
        return column_of(book, account);
    }
    // Both of one snapshot, or a charge that is just applied would count twice or not at all.
    match read_column(book, account, Snapshot::Caller)? {
        Some(balance) => Ok(Some(balance.saturating_sub(queue::waiting(book, account)?))),
        None => Ok(None),
    }
}

/// The same as of now, the own transaction's changes included.
pub(crate) fn balance_now(book: &Book, account: &str) -> Result<Option<i64>> {
    let _fresh = FreshSnapshot::push();
    balance_of(book, account)
}

fn read_column(book: &Book, account: &str, snapshot: Snapshot) -> Result<Option<i64>> {
    if book.accounts.user_key.key_type.canonical(account).is_none() {
        return Ok(None);
    }
    let _owner = book.run_as_users_owner();
    let outcome = book
        .kept::<Statements>()
        .balance
        .run(&[Arg::Text(account)], snapshot)?;
    let row = outcome.rows.first();
    row.map(|row| row.amount(0)).transpose()
}
