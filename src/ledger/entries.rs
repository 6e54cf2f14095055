//! The ledger: one entry for every change of every balance.
//!
//! Entries are written by a trigger on the users table, so the ledger is complete by construction:
//! whoever changes a balance, and however, leaves an entry. What the extension does itself it
//! announces first (`change`), or writes down itself where it changes the row without the executor; every other change
//! is an adjustment.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::{INT2OID, INT8OID, Oid, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use super::change::{Change, Changed, Kind, Line, actor, take_announced};
use crate::binding::{Book, Kept};
use crate::error::{Error, Result};
use crate::postgres::clock::now;
use crate::postgres::direct::{Conflict, Inserter, OpenTable, Shape};
use crate::postgres::invalidation::generation;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// A column of `token_balance.ledger`.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    value: Value,
    is_nullable: bool,
    /// Whether the table of 0.2.0 does not have it, or has it by default.
    is_new: bool,
    /// Whether the table has a default for it, to which SQL leaves it.
    has_default: bool,
}

/// What an entry has in a column of a type.
#[derive(Clone, Copy)]
enum Value {
    Text(for<'a> fn(&Entry<'a>) -> Option<&'a str>),
    Bigint(fn(&Entry) -> i64),
    Smallint(fn(&Entry) -> Option<i16>),
    Timestamp(fn(&Entry) -> TimestampTz),
}

/// The columns of the ledger, in order. What writes entries, with SQL or without, and what archives them
/// is made from this list.
pub(crate) static COLUMNS: &[Column] = {
    use Value::{Bigint, Smallint, Text, Timestamp};
    &[
        Column::new("user_id", Text(|entry| Some(entry.of.account))),
        Column::new("entry_id", Bigint(|entry| entry.id)).new_in_0_3(),
        Column::new("kind", Text(|entry| Some(entry.of.kind.name()))),
        Column::new("amount", Bigint(|entry| entry.line.amount)),
        Column::new("previous_balance", Bigint(|entry| entry.previous)),
        Column::new("new_balance", Bigint(|entry| entry.new)),
        Column::new("workflow_id", Text(|entry| entry.line.workflow.as_deref())).nullable(),
        Column::new("reference", Text(|entry| entry.of.reference)).nullable(),
        Column::new("note", Text(|entry| entry.of.note)).nullable(),
        Column::new("actor", Text(|entry| Some(&entry.line.actor))),
        Column::new("created_at", Timestamp(|entry| entry.at)).with_default(),
        Column::new("accounts_id", Smallint(|entry| entry.of.accounts)).new_in_0_3(),
        Column::new("binding_id", Smallint(|entry| entry.line.binding))
            .nullable()
            .new_in_0_3(),
    ]
};

const COUNT: usize = COLUMNS.len();

const USER_ID: i16 = number_of("user_id");
const ENTRY_ID: i16 = number_of("entry_id");
const ACCOUNTS_ID: i16 = number_of("accounts_id");

/// The number of a column, from 1.
const fn number_of(name: &str) -> i16 {
    let mut at = 0;
    while !are_equal(COLUMNS[at].name.as_bytes(), name.as_bytes()) {
        at += 1;
    }
    at as i16 + 1
}

const fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

static SHAPE: Shape = Shape {
    columns: &{
        let mut shape = [(TEXTOID, false); COUNT];
        let mut at = 0;
        while at < COUNT {
            shape[at] = (COLUMNS[at].type_oid(), COLUMNS[at].is_nullable);
            at += 1;
        }
        shape
    },
    // The kind is one that the CHECK has (`Kind`), and the new balance is reckoned.
    checks: &[c"ledger_kind", c"ledger_amount"],
};

impl Column {
    const fn new(name: &'static str, value: Value) -> Self {
        Column {
            name,
            value,
            is_nullable: false,
            is_new: false,
            has_default: false,
        }
    }

    const fn nullable(self) -> Self {
        Column {
            is_nullable: true,
            ..self
        }
    }

    const fn new_in_0_3(self) -> Self {
        Column {
            is_new: true,
            ..self
        }
    }

    const fn with_default(self) -> Self {
        Column {
            has_default: true,
            ..self
        }
    }

    pub(crate) const fn type_oid(&self) -> Oid {
        match self.value {
            Value::Text(_) => TEXTOID,
            Value::Bigint(_) => INT8OID,
            Value::Smallint(_) => INT2OID,
            Value::Timestamp(_) => TIMESTAMPTZOID,
        }
    }

    /// Its type in SQL.
    pub(crate) const fn type_sql(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "pg_catalog.text",
            Value::Bigint(_) => "bigint",
            Value::Smallint(_) => "smallint",
            Value::Timestamp(_) => "timestamp with time zone",
        }
    }

    fn of<'a>(&self, entry: &Entry<'a>) -> Arg<'a> {
        match self.value {
            Value::Text(value) => Arg::OptionalText(value(entry)),
            Value::Bigint(value) => Arg::Int8(value(entry)),
            Value::Smallint(value) => Arg::OptionalInt2(value(entry)),
            Value::Timestamp(value) => Arg::OptionalTimestamp(Some(value(entry))),
        }
    }
}

/// The columns whose values SQL is given.
fn given(book: &Book) -> impl Iterator<Item = &'static Column> {
    let is_older = book.accounts.id.is_none();
    COLUMNS
        .iter()
        .filter(move |column| !(column.has_default || is_older && column.is_new))
}

/// The table open for entries; None if SQL must write it.
pub(crate) fn open(book: &Book) -> Option<OpenTable> {
    book.kept::<Statements>().inserter.open()
}

/// The table, open for the entries of several accounts.
#[derive(Clone)]
struct Held {
    table: Rc<OpenTable>,
    /// Where another one has come, something of the table may have changed: an index more, by this transaction.
    generation: u64,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// While this value lives, the ledger stays open.
pub(crate) struct StaysOpen {
    outer: Option<Held>,
}

impl StaysOpen {
    pub(crate) fn start(book: &Book) -> Self {
        let held = open(book).map(|table| Held {
            table: Rc::new(table),
            generation: generation(),
        });
        StaysOpen {
            outer: HELD.replace(held),
        }
    }
}

impl Drop for StaysOpen {
    /// A trigger on users may settle another workflow meanwhile: the outer one goes on with its own.
    fn drop(&mut self) {
        HELD.set(self.outer.take());
    }
}

fn held_or_open(book: &Book) -> Option<Rc<OpenTable>> {
    match HELD.with_borrow(Clone::clone) {
        Some(held) if held.generation == generation() => Some(held.table),
        _ => open(book).map(Rc::new),
    }
}

/// The ledger's own statements.
struct Statements {
    inserter: Inserter,
    insert: Statement,
    last: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        let types: Vec<_> = given(book).map(Column::type_oid).collect();
        Statements {
            inserter: Inserter::new(book.own.ledger, &SHAPE),
            insert: Statement::new(&insert_sql(book), &types),
            last: Statement::new(
                &format!(
                    "SELECT l.entry_id, l.new_balance FROM token_balance.ledger AS l \
                     WHERE {} l.user_id OPERATOR(pg_catalog.=) $1 ORDER BY l.entry_id DESC LIMIT 1",
                    book.accounts.own("l")
                ),
                &[TEXTOID],
            ),
        }
    }
}

/// SQL that joins the entry at which the ledger of account `a.user_id` ends, by the name of `l`. Accounts without
/// entries are left out. `own` says whose ledger it is, of the alias `e`.
pub(crate) fn last_entry_sql(own: &str) -> String {
    format!(
        "CROSS JOIN LATERAL (SELECT e.entry_id, e.new_balance FROM token_balance.ledger AS e \
         WHERE {own} e.user_id OPERATOR(pg_catalog.=) a.user_id \
         ORDER BY e.entry_id DESC LIMIT 1) AS l"
    )
}

/// `INSERT INTO token_balance.ledger (user_id, entry_id, kind, …) VALUES ($1, $2, $3, …)`
fn insert_sql(book: &Book) -> String {
    let names: Vec<_> = given(book).map(|column| column.name).collect();
    let values: Vec<_> = (1..=names.len()).map(|n| format!("${n}")).collect();
    format!(
        "INSERT INTO token_balance.ledger ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        names.join(", "),
        values.join(", ")
    )
}

/// Entries to be: what they share, and the lines of a chain.
struct Entries<'a> {
    accounts: Option<i16>,
    account: &'a str,
    kind: Kind,
    previous: i64,
    lines: &'a [Line],
    reference: Option<&'a str>,
    note: Option<&'a str>,
}

/// One of them.
struct Entry<'a> {
    of: &'a Entries<'a>,
    line: &'a Line,
    previous: i64,
    new: i64,
    id: i64,
    at: TimestampTz,
}

impl Entries<'_> {
    /// The balance after the last of them. Tokens.
    ///
    /// They are numbered: the account's row is locked by this transaction, so nobody else does that now.
    fn write(&self, book: &Book) -> Result<i64> {
        let _owner = book.run_as_extension();
        let table = held_or_open(book);
        let direct = table
            .as_ref()
            .zip(self.accounts)
            .and_then(|(table, accounts)| {
                table.last_number([USER_ID, ACCOUNTS_ID, ENTRY_ID], self.account, accounts)
            });
        let last_id = match (direct, self.accounts) {
            (Some(last), _) => last,
            (None, Some(_)) => last(book, self.account)?.map(|last| last.id),
            // In the catalog of an older version a sequence gives the numbers.
            (None, None) => None,
        };
        let entries = self.chain(last_id.unwrap_or(0))?;
        if let Some(table) = table {
            let rows: Vec<_> = entries.iter().map(Entry::values).collect();
            table.insert(&rows, Conflict::Error);
        } else {
            let insert = &book.kept::<Statements>().insert;
            for entry in &entries {
                let args: Vec<_> = given(book).map(|column| column.of(entry)).collect();
                insert.run(&args, Snapshot::Statement)?;
            }
        }
        Ok(entries.last().map_or(self.previous, |entry| entry.new))
    }

    /// Each line with the balance before and after it.
    fn chain(&self, last_id: i64) -> Result<Vec<Entry<'_>>> {
        let mut balance = self.previous;
        let entry = |line: &'_ Line| {
            let previous = balance;
            balance = previous.checked_add(line.amount).ok_or_else(|| {
                let balance = i128::from(previous) + i128::from(line.amount);
                Error::UnsupportedBalance {
                    account: self.account.to_owned(),
                    balance: balance.to_string(),
                }
            })?;
            Ok((previous, balance))
        };
        let balances: Vec<_> = self.lines.iter().map(entry).collect::<Result<_>>()?;
        let lines = self.lines.iter().zip(balances);
        Ok(lines
            .zip(last_id + 1..)
            .map(|((line, (previous, new)), id)| Entry {
                of: self,
                line,
                previous,
                new,
                id,
                at: now(),
            })
            .collect())
    }
}

impl<'a> Entry<'a> {
    fn values(&self) -> [Arg<'a>; COUNT] {
        std::array::from_fn(|at| COLUMNS[at].of(self))
    }
}

/// An account's balance is another one. What was announced of it is written with its kind; the rest is an
/// adjustment.
pub(crate) fn record_change(book: &Book, account: &str, previous: i64, new: i64) -> Result<()> {
    let Some(change) = take_announced(book.accounts.id, account, Changed { previous, new }) else {
        return adjust(book, account, previous, new, None);
    };
    let made = record(book, &change, previous)?;
    // A BEFORE trigger of the application may have changed the amount: that part is its own.
    let note = "changed by a trigger on the users table";
    adjust(book, account, made, new, Some(note))
}

/// The entries of a change that the extension has made. The balance after them. Tokens.
pub(super) fn record(book: &Book, change: &Change, previous: i64) -> Result<i64> {
    if change.kind == Kind::Move {
        return Ok(previous.saturating_add(change.amount().unwrap_or(0)));
    }
    Entries {
        accounts: book.accounts.id,
        account: &change.account,
        kind: change.kind,
        previous,
        lines: &change.lines,
        reference: change.reference.as_deref(),
        note: change.note.as_deref(),
    }
    .write(book)
}

/// A new account has no entry: its first one carries its opening balance. But an id that had an
/// account before goes on with that one's chain.
pub(crate) fn record_insert(book: &Book, account: &str, new: i64) -> Result<()> {
    match last_balance(book, account)? {
        Some(last) => adjust(book, account, last, new, Some("account created again")),
        None => Ok(()),
    }
}

/// An account has the balance in the column that the ledger ends with, or, without entries, a first one. What
/// differs all the same, since a trigger of the application has a hand in it, gets an entry.
pub(crate) fn record_restored(book: &Book, account: &str, new: i64) -> Result<()> {
    match last_balance(book, account)? {
        Some(last) => adjust(book, account, last, new, None),
        None => Ok(()),
    }
}

/// An account has another id. Entries are never changed: the old id's chain ends at 0 and the new one's
/// begins there.
pub(crate) fn record_rename(
    book: &Book,
    (old_account, previous): (&str, i64),
    (account, new): (&str, i64),
) -> Result<()> {
    let note = format!("account id changed to {account}");
    adjust(book, old_account, previous, 0, Some(&note))?;
    // An id without entries begins at 0, too.
    let last = last_balance(book, account)?.unwrap_or(0);
    let note = format!("account id changed from {old_account}");
    adjust(book, account, last, new, Some(&note))
}

/// The last entry of an account.
struct Last {
    id: i64,
    balance: i64,
}

fn last(book: &Book, account: &str) -> Result<Option<Last>> {
    let _owner = book.run_as_extension();
    let last = book
        .kept::<Statements>()
        .last
        .run(&[Arg::Text(account)], Snapshot::Latest)?;
    let last = last.rows.first().map(|row| {
        Ok(Last {
            id: row.amount(0)?,
            balance: row.amount(1)?,
        })
    });
    last.transpose()
}

/// The balance after the last entry of an account, if it has any.
pub(crate) fn last_balance(book: &Book, account: &str) -> Result<Option<i64>> {
    Ok(last(book, account)?.map(|last| last.balance))
}

fn adjust(book: &Book, account: &str, previous: i64, new: i64, note: Option<&str>) -> Result<()> {
    if previous == new {
        return Ok(());
    }
    let amount = new
        .checked_sub(previous)
        .ok_or_else(|| Error::UnsupportedBalance {
            account: account.to_owned(),
            balance: new.to_string(),
        })?;
    Entries {
        accounts: book.accounts.id,
        account,
        kind: Kind::Adjustment,
        previous,
        lines: &[Line {
            amount,
            workflow: None,
            binding: None,
            actor: actor(),
        }],
        reference: None,
        note,
    }
    .write(book)
    .map(drop)
}
