//! The ledger: one entry for every change of every balance.
//!
//! Entries are written by a trigger on the users table, so the ledger is complete by construction:
//! whoever changes a balance, and however, leaves an entry. What the extension does itself it
//! announces first; every other change is an adjustment.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID};

use crate::account::{Changed, whole_part};
use crate::archive;
use crate::binding::BALANCE_COLUMN;
use crate::cache::{self, Bound, Kept};
use crate::catalog;
use crate::direct::{self, Conflict, EntryIds};
use crate::error::{Error, Result};
use crate::older;
use crate::overdraft::notify_crossing;
use crate::queue;
use crate::row::{TriggerCall, trigger_function};
use crate::security::{self, RunAs};
use crate::spi::{Arg, Snapshot, Statement};

/// What kind of change the extension makes. An adjustment is everybody else's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Settlement,
    Credit,
    Refund,
    Adjustment,
}

impl Kind {
    fn sql(self) -> &'static str {
        match self {
            Kind::Settlement => "settlement",
            Kind::Credit => "credit",
            Kind::Refund => "refund",
            Kind::Adjustment => "adjustment",
        }
    }
}

/// A change of one balance that the extension is about to make.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) account: String,
    /// Each becomes an entry, in this order.
    pub(crate) parts: Vec<Part>,
    /// The caller's own id of a credit or refund.
    pub(crate) reference: Option<String>,
    pub(crate) note: Option<String>,
}

/// A part of a change: what one workflow costs, of all that an account pays at once.
#[derive(Debug)]
pub(crate) struct Part {
    /// Tokens; negative for a charge.
    pub(crate) amount: i64,
    pub(crate) workflow: Option<String>,
    /// The name of the role that asked for it.
    pub(crate) actor: Rc<str>,
}

impl Change {
    /// What an account is charged at once.
    pub(crate) fn settlement(account: &str, parts: Vec<Part>) -> Rc<Self> {
        Rc::new(Change {
            kind: Kind::Settlement,
            account: account.to_owned(),
            parts,
            reference: None,
            note: None,
        })
    }

    /// Tokens, over all parts; None if that is not a bigint.
    pub(crate) fn amount(&self) -> Option<i64> {
        self.parts
            .iter()
            .try_fold(0_i64, |sum, part| sum.checked_add(part.amount))
    }
}

/// The name of the role that the caller acts as, for the ledger.
pub(crate) fn actor() -> Rc<str> {
    catalog::role_name(security::current_user()).into()
}

/// A change that was announced, and what the trigger answered to it.
#[derive(Default)]
struct Announced {
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
    pub(crate) fn of(change: Rc<Change>) -> Self {
        let announced = Announced {
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

/// Whether this library is not at work on a balance, and an older one may be.
fn is_idle() -> bool {
    let is_silent = ANNOUNCED.with_borrow(|a| a.change.is_none() && a.changed.is_none());
    is_silent && security::is_owner_run()
}

/// The announced change of `account`, once.
fn take_announced(account: &str, changed: Changed) -> Option<Rc<Change>> {
    ANNOUNCED.with_borrow_mut(|announced| {
        let change = announced
            .change
            .take_if(|change| change.account == account)?;
        announced.changed = Some(changed);
        Some(change)
    })
}

/// The ledger's own statements.
pub(crate) struct Statements {
    insert: Statement,
    insert_many: Statement,
    last_balance: Statement,
    rename_settlements: Statement,
}

impl Kept for Statements {
    fn of(_bound: &Bound) -> Self {
        Statements {
            insert: Statement::new(
                &insert_sql("VALUES ($1, $2, $6, $7, $8, $9, $3, $4, $5)"),
                &[
                    TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, TEXTOID,
                ],
            ),
            insert_many: Statement::new(
                &insert_sql(
                    "SELECT $1, $2, p.amount, p.previous_balance, p.new_balance, p.workflow_id, \
                     $3, $4, p.actor FROM ROWS FROM (pg_catalog.unnest($5), \
                     pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), \
                     pg_catalog.unnest($9)) \
                     AS p (actor, amount, previous_balance, new_balance, workflow_id)",
                ),
                &[
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            last_balance: Statement::new(
                "SELECT l.new_balance FROM token_balance.ledger AS l \
                 WHERE l.user_id OPERATOR(pg_catalog.=) $1 ORDER BY l.entry_id DESC LIMIT 1",
                &[TEXTOID],
            ),
            rename_settlements: Statement::new(
                "WITH moved AS (DELETE FROM token_balance.settlement AS d \
                 WHERE d.user_id OPERATOR(pg_catalog.=) $1 RETURNING *) \
                 INSERT INTO token_balance.settlement AS s \
                 (workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens, \
                 first_settled_at, last_settled_at, \
                 archived_charged_tokens, archived_refunded_tokens) \
                 SELECT m.workflow_id, $2, m.usage_tokens, m.charged_tokens, m.refunded_tokens, \
                 m.first_settled_at, m.last_settled_at, \
                 m.archived_charged_tokens, m.archived_refunded_tokens FROM moved AS m \
                 ON CONFLICT (workflow_id, user_id) DO UPDATE SET \
                 usage_tokens = s.usage_tokens OPERATOR(pg_catalog.+) EXCLUDED.usage_tokens, \
                 charged_tokens = s.charged_tokens OPERATOR(pg_catalog.+) EXCLUDED.charged_tokens, \
                 refunded_tokens = \
                 s.refunded_tokens OPERATOR(pg_catalog.+) EXCLUDED.refunded_tokens, \
                 first_settled_at = LEAST(s.first_settled_at, EXCLUDED.first_settled_at), \
                 last_settled_at = GREATEST(s.last_settled_at, EXCLUDED.last_settled_at), \
                 archived_charged_tokens = s.archived_charged_tokens \
                 OPERATOR(pg_catalog.+) EXCLUDED.archived_charged_tokens, \
                 archived_refunded_tokens = s.archived_refunded_tokens \
                 OPERATOR(pg_catalog.+) EXCLUDED.archived_refunded_tokens",
                &[TEXTOID, TEXTOID],
            ),
        }
    }
}

fn insert_sql(rows: &str) -> String {
    format!(
        "INSERT INTO token_balance.ledger \
         (user_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note, \
         actor) {rows}"
    )
}

/// Entries to be: what they share, and the parts of a chain.
struct Entries<'a> {
    account: &'a str,
    kind: Kind,
    previous: i64,
    parts: &'a [Part],
    reference: Option<&'a str>,
    note: Option<&'a str>,
}

impl Entries<'_> {
    fn write(&self, bound: &Bound) -> Result<()> {
        let balances = self.balances()?;
        let _owner = RunAs::owner(bound.binding.extension_owner);
        if let Some((table, ids)) = direct::ledger(bound) {
            let rows: Vec<_> = self
                .parts
                .iter()
                .zip(balances.windows(2))
                .map(|(part, balances)| self.row(part, balances, &ids))
                .collect();
            table.insert(&rows, Conflict::Error);
            return Ok(());
        }
        self.write_by_sql(bound, &balances)
    }

    /// The values of the ledger's columns, with the balance before and after the part.
    fn row<'b>(&'b self, part: &'b Part, balances: &[i64], ids: &EntryIds) -> [Arg<'b>; 11] {
        [
            Arg::Text(self.account),
            Arg::Int8(ids.next()),
            Arg::Text(self.kind.sql()),
            Arg::Int8(part.amount),
            Arg::Int8(balances[0]),
            Arg::Int8(balances[1]),
            Arg::OptionalText(part.workflow.as_deref()),
            Arg::OptionalText(self.reference),
            Arg::OptionalText(self.note),
            Arg::Text(&part.actor),
            Arg::OptionalTimestamp(Some(direct::now())),
        ]
    }

    fn write_by_sql(&self, bound: &Bound, balances: &[i64]) -> Result<()> {
        let mut args = vec![
            Arg::Text(self.account),
            Arg::Text(self.kind.sql()),
            Arg::OptionalText(self.reference),
            Arg::OptionalText(self.note),
        ];
        let statements = bound.kept::<Statements>();
        let statement = match (self.parts, balances) {
            ([part], [previous, new]) => {
                args.extend([
                    Arg::Text(&part.actor),
                    Arg::Int8(part.amount),
                    Arg::Int8(*previous),
                    Arg::Int8(*new),
                    Arg::OptionalText(part.workflow.as_deref()),
                ]);
                &statements.insert
            }
            (parts, balances) => {
                let workflows = parts.iter().map(|part| part.workflow.as_deref());
                args.extend([
                    Arg::OptionalTextArray(parts.iter().map(|part| Some(&*part.actor)).collect()),
                    Arg::Int8Array(parts.iter().map(|part| part.amount).collect()),
                    Arg::Int8Array(balances[..parts.len()].to_vec()),
                    Arg::Int8Array(balances[1..].to_vec()),
                    Arg::OptionalTextArray(workflows.collect()),
                ]);
                &statements.insert_many
            }
        };
        statement.run(&args, Snapshot::Statement).map(|_| ())
    }

    /// The balance before the first part and after each.
    fn balances(&self) -> Result<Vec<i64>> {
        let mut balance = self.previous;
        let mut balances = vec![balance];
        for part in self.parts {
            balance = balance.checked_add(part.amount).ok_or_else(|| {
                let balance = i128::from(balance) + i128::from(part.amount);
                Error::UnsupportedBalance {
                    account: self.account.to_owned(),
                    balance: balance.to_string(),
                }
            })?;
            balances.push(balance);
        }
        Ok(balances)
    }
}

trigger_function!(
    record_balance_change_wrapper,
    pg_finfo_record_balance_change_wrapper,
    "token_balance.record_balance_change",
    record_balance_change
);

/// Trigger on the users table, AFTER INSERT OR UPDATE FOR EACH ROW: write the ledger.
///
/// Errors: 39P01 if fired otherwise, 42809 on any other table, 22003 for a balance that is not a
/// whole number within bigint, 55000 if a balance changes and nothing is attached.
fn record_balance_change(call: &TriggerCall) -> Result<()> {
    if is_idle() && older::answers(call, c"record_balance_change_wrapper") {
        return Ok(());
    }
    let row = call.row()?;
    let bound = match cache::bound() {
        Ok(bound) => bound,
        // In a restore the rows may come before the binding.
        Err(Error::NotAttached) if !row.changes(BALANCE_COLUMN) => return Ok(()),
        Err(error) => return Err(error),
    };
    let binding = &bound.binding;
    if !bound.is_part_of(call.relation(), binding.users.oid)? {
        return Err(call.foreign());
    }
    let key = &binding.user_key.column.name;
    let account = row.new_text(key).unwrap_or_default();
    let new = balance(row.new_text(BALANCE_COLUMN), &account)?;
    match row.old_text(key) {
        None => record_insert(&bound, &account, new),
        Some(old_account) => {
            let previous = balance(row.old_text(BALANCE_COLUMN), &old_account)?;
            if old_account == account {
                record_update(&bound, &account, previous, new)
            } else {
                record_rename(&bound, &old_account, previous, &account, new)
            }
        }
    }
}

/// The balance in a row. NULL, possible only while the column is being made, counts as 0.
fn balance(text: Option<String>, account: &str) -> Result<i64> {
    let text = text.unwrap_or_else(|| "0".into());
    whole_part(&text)
        .parse()
        .map_err(|_| Error::UnsupportedBalance {
            account: account.to_owned(),
            balance: text.clone(),
        })
}

fn record_update(bound: &Bound, account: &str, previous: i64, new: i64) -> Result<()> {
    notify_crossing(bound, account, previous, new)?;
    let Some(change) = take_announced(account, Changed { previous, new }) else {
        return adjust(bound, account, previous, new, None);
    };
    Entries {
        account,
        kind: change.kind,
        previous,
        parts: &change.parts,
        reference: change.reference.as_deref(),
        note: change.note.as_deref(),
    }
    .write(bound)?;
    // A BEFORE trigger of the application may have changed the amount: that part is its own.
    adjust(
        bound,
        account,
        previous.saturating_add(change.amount().unwrap_or_default()),
        new,
        Some("changed by a trigger on the users table"),
    )
}

/// A new account has no entry: its first one carries its opening balance. But an id that had an
/// account before goes on with that one's chain.
fn record_insert(bound: &Bound, account: &str, new: i64) -> Result<()> {
    match last_balance(bound, account)? {
        Some(last) => adjust(bound, account, last, new, Some("account created again")),
        None => Ok(()),
    }
}

/// Usage and settlements follow the account to its new id (usage by the application's own
/// ON UPDATE CASCADE), or it would be charged again; what an earlier account of that id has paid for
/// is added up. Entries are never changed: the old id's chain
/// ends at 0 and the new one's begins there.
fn record_rename(
    bound: &Bound,
    old_account: &str,
    previous: i64,
    account: &str,
    new: i64,
) -> Result<()> {
    adjust(
        bound,
        old_account,
        previous,
        0,
        Some(&format!("account id changed to {account}")),
    )?;
    let last = last_balance(bound, account)?.unwrap_or_default();
    adjust(
        bound,
        account,
        last,
        new,
        Some(&format!("account id changed from {old_account}")),
    )?;
    queue::rename(bound, old_account, account)?;
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let ids = [Arg::Text(old_account), Arg::Text(account)];
    bound
        .kept::<Statements>()
        .rename_settlements
        .run(&ids, Snapshot::Statement)?;
    Ok(())
}

fn last_balance(bound: &Bound, account: &str) -> Result<Option<i64>> {
    let _owner = RunAs::owner(bound.binding.extension_owner);
    let last = bound
        .kept::<Statements>()
        .last_balance
        .run(&[Arg::Text(account)], Snapshot::Latest)?;
    last.rows.first().map(|row| row.amount(0)).transpose()
}

fn adjust(bound: &Bound, account: &str, previous: i64, new: i64, note: Option<&str>) -> Result<()> {
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
        account,
        kind: Kind::Adjustment,
        previous,
        parts: &[Part {
            amount,
            workflow: None,
            actor: actor(),
        }],
        reference: None,
        note,
    }
    .write(bound)
}

trigger_function!(
    refuse_ledger_change_wrapper,
    pg_finfo_refuse_ledger_change_wrapper,
    "token_balance.refuse_ledger_change",
    refuse_ledger_change
);

/// Trigger on the ledger: it is append-only but for archive_ledger. Errors: 55000; 42809 on any other
/// table.
fn refuse_ledger_change(call: &TriggerCall) -> Result<()> {
    if call.relation_name() != "token_balance.ledger" {
        return Err(call.foreign());
    }
    if archive::may_change_ledger() {
        return Ok(());
    }
    Err(Error::LedgerAppendOnly {
        operation: call.operation(),
    })
}

trigger_function!(
    refuse_foreign_write_wrapper,
    pg_finfo_refuse_foreign_write_wrapper,
    "token_balance.refuse_foreign_write",
    refuse_foreign_write
);

/// Trigger on the extension's tables, before each statement: only who acts for their owner writes
/// them, as the extension itself and a restore do. `pg_write_all_data` alone is not enough: with it
/// a settlement could be undone and its workflow charged again. Error 42501.
fn refuse_foreign_write(call: &TriggerCall) -> Result<()> {
    if call.relation_schema() != "token_balance" {
        return Err(call.foreign());
    }
    let role = security::current_user();
    if catalog::acts_for(role, call.relation_owner()) {
        return Ok(());
    }
    Err(Error::ForeignWrite {
        relation: call.relation_name(),
        role: catalog::role_name(role),
    })
}
