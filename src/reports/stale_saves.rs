//! Stale saves: an application reads a user, a run is charged, and the application writes the whole row back,
//! the balance as it had read it. The ledger has an adjustment that undoes the charge.

use pgrx::pg_sys;

use super::names::Names;
use super::pairs::Rows;
use super::problem::{Problem, Problems};
use crate::binding::own;
use crate::error::Result;
use crate::ledger::change::Kind;

/// Entries before an adjustment that are looked at: the look at one has an end, whatever the ledger's length.
const BEFORE: usize = 1_000;

/// Adjustments that take a balance back to exactly what it was before charges of the hour before, with no
/// other adjustment in between. What an application has in memory is younger; a quota that is filled up again
/// each day, or month, is none of it. One that was corrected since, by the same amount, is none either.
pub(super) fn stale_saves(owner: pg_sys::Oid, names: Names) -> Result<Problems> {
    let rows = Rows::open(
        owner,
        &[],
        &format!(
            "SELECT a.user_id, a.entry_id, a.previous_balance, a.new_balance, {of_adjustment} \
             FROM token_balance.ledger AS a \
             WHERE a.kind OPERATOR(pg_catalog.=) {adjustment} AND a.note IS NULL \
             AND a.amount OPERATOR(pg_catalog.>) 0 AND EXISTS (SELECT 1 \
             FROM (SELECT e.previous_balance, \
             pg_catalog.bool_or(e.kind OPERATOR(pg_catalog.=) {settlement}) \
             OVER (ORDER BY e.entry_id DESC) AS was_charged, \
             pg_catalog.bool_or(e.kind OPERATOR(pg_catalog.=) {adjustment}) \
             OVER (ORDER BY e.entry_id DESC) AS was_adjusted \
             FROM (SELECT l.entry_id, l.kind, l.previous_balance, l.created_at \
             FROM token_balance.ledger AS l \
             WHERE {of_entry} OPERATOR(pg_catalog.=) {of_adjustment} \
             AND l.user_id OPERATOR(pg_catalog.=) a.user_id \
             AND l.entry_id OPERATOR(pg_catalog.<) a.entry_id \
             ORDER BY l.entry_id DESC LIMIT {BEFORE}) AS e \
             WHERE e.created_at OPERATOR(pg_catalog.>=) \
             (a.created_at OPERATOR(pg_catalog.-) '1 hour'::interval)) AS b \
             WHERE b.was_charged AND NOT b.was_adjusted \
             AND b.previous_balance OPERATOR(pg_catalog.=) a.new_balance) \
             AND NOT EXISTS (SELECT 1 FROM token_balance.ledger AS c \
             WHERE {of_correction} OPERATOR(pg_catalog.=) {of_adjustment} \
             AND c.user_id OPERATOR(pg_catalog.=) a.user_id \
             AND c.entry_id OPERATOR(pg_catalog.>) a.entry_id \
             AND c.kind OPERATOR(pg_catalog.=) {adjustment} \
             AND c.amount OPERATOR(pg_catalog.=) (OPERATOR(pg_catalog.-) a.amount)) \
             ORDER BY {of_adjustment}, a.user_id, a.entry_id",
            adjustment = Kind::Adjustment.sql(),
            settlement = Kind::Settlement.sql(),
            of_entry = own::id("l", "accounts_id")?,
            of_adjustment = own::id("a", "accounts_id")?,
            of_correction = own::id("c", "accounts_id")?,
        ),
    )?;
    Ok(Box::new(rows.map(move |row| {
        let row = row?;
        Ok(Problem {
            problem: "charge undone by a stale save".into(),
            account: Some(row.text(0).into()),
            binding: names.of_accounts(row.number(4)),
            expected: row.number(2),
            found: row.number(3),
            hint: format!(
                "Entry {} takes the balance back to what it was before charges, as a program does that \
                 saves a row which it has read before: attach with outside_changes => 'keep', and take \
                 the tokens back with token_balance.adjust().",
                row.text(1)
            ),
            ..Problem::default()
        })
    })))
}
