//! What the ledger's tables have of an account leaves with it, and comes with it.

use super::archive::Permission;
use super::change::{Change, Kind, Line, actor};
use super::{account, moved, queue};
use crate::binding::Book;
use crate::error::{Error, Result};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row};

/// What the ledger's tables have of an account that leaves, each a JSON list.
pub(crate) struct Left {
    pub(crate) ledger: String,
    pub(crate) references: String,
    pub(crate) queue: String,
}

/// Bindings are known by their names elsewhere; `of` is the row whose binding it is.
fn binding_name_sql(book: &Book, of: &str) -> String {
    format!(
        "pg_catalog.jsonb_build_object('binding', (SELECT b.name FROM token_balance.binding AS b \
         WHERE {} b.detached_at IS NULL AND b.binding_id OPERATOR(pg_catalog.=) {of}.binding_id))",
        book.accounts.own("b")
    )
}

/// SQL for "the reference `t` is a refund's". A copy of these stays: a run that others have paid for, too, may be refunded
/// here, and the reference is good for one refund.
const IS_REFUND: &str = "t.kind OPERATOR(pg_catalog.=) 'refund'";

/// Take all rows of an account, whose row is held, out of the tables.
pub(crate) fn leave(book: &Book, account: &str) -> Result<Left> {
    let _owner = book.run_as_extension();
    let row = format!(
        "(pg_catalog.to_jsonb(t) OPERATOR(pg_catalog.-) \
         ARRAY['user_id', 'accounts_id', 'binding_id']::pg_catalog.text[]) OPERATOR(pg_catalog.||) {}",
        binding_name_sql(book, "t")
    );
    let own = book.accounts.own("t");
    let of_account = format!("{own} t.user_id OPERATOR(pg_catalog.=) $1");
    let list = |rows: &str| {
        let sql = format!(
            "{rows} SELECT COALESCE(pg_catalog.jsonb_agg(g.of_row ORDER BY g.place), '[]'::pg_catalog.jsonb) FROM gone AS g"
        );
        let outcome = spi::query_as_of(&sql, &[Arg::Text(account)], Snapshot::Latest)?;
        Ok::<_, Error>(only(&outcome.rows))
    };
    let take = |table: &str, order: &str| {
        list(&format!(
            "WITH gone AS (DELETE FROM token_balance.{table} AS t WHERE {of_account} \
             RETURNING t.{order} AS place, {row} AS of_row)"
        ))
    };
    let ledger = {
        let _permission = Permission::give();
        take("ledger", "entry_id")?
    };
    let references = list(&format!(
        "WITH gone AS (SELECT t.reference AS place, {row} AS of_row FROM token_balance.reference AS t WHERE {of_account})"
    ))?;
    spi::query_as_of(
        &format!("DELETE FROM token_balance.reference AS t WHERE {of_account} AND NOT {IS_REFUND}"),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    Ok(Left {
        ledger,
        references,
        queue: take("queue", "charge_id")?,
    })
}

fn only(rows: &[Row]) -> String {
    rows.first()
        .map(|row| row.text(0).to_owned())
        .unwrap_or_default()
}

/// Whether the ledger's tables have anything of an account.
pub(crate) fn is_known(book: &Book, account: &str) -> Result<bool> {
    let _owner = book.run_as_extension();
    let tables = [
        ("ledger", "true".to_owned()),
        ("reference", format!("NOT {IS_REFUND}")),
        ("queue", "true".to_owned()),
    ];
    let any = tables.map(|(table, counts)| {
        format!(
            "EXISTS (SELECT 1 FROM token_balance.{table} AS t \
             WHERE {} t.user_id OPERATOR(pg_catalog.=) $1 AND {counts})",
            book.accounts.own("t")
        )
    });
    let outcome = spi::query_as_of(
        &format!("SELECT {}", any.join(" OR ")),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    Ok(outcome.rows.first().is_some_and(|row| row.is_true(0)))
}

/// SQL for a JSON list ($1) of rows that have left, as rows `r` of a table and of the account $2. Their bindings are those of
/// the names that they have.
pub(crate) fn rows_sql(book: &Book, table: &str) -> String {
    format!(
        "SELECT r.* FROM pg_catalog.jsonb_array_elements($1::pg_catalog.jsonb) AS e (of_row) \
         LEFT JOIN token_balance.binding AS b ON {} b.detached_at IS NULL \
         AND b.name::pg_catalog.text OPERATOR(pg_catalog.=) (e.of_row OPERATOR(pg_catalog.->>) 'binding') \
         CROSS JOIN LATERAL pg_catalog.jsonb_populate_record(NULL::token_balance.{table}, \
         e.of_row OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('user_id', $2::pg_catalog.text, \
         'accounts_id', {}, 'binding_id', b.binding_id)) AS r",
        book.accounts.own("b"),
        book.accounts.id.unwrap_or_default()
    )
}

/// Write what has left for these tables as the account's own.
pub(crate) fn arrive(book: &Book, account: &str, left: &Left) -> Result<()> {
    let _owner = book.run_as_extension();
    // A refund's may be here still, from when the account left.
    let known = "ON CONFLICT (user_id, accounts_id, reference) DO NOTHING";
    for (rows, table, order, known) in [
        (&left.ledger, "ledger", "entry_id", ""),
        (&left.references, "reference", "reference", known),
        (&left.queue, "queue", "charge_id", ""),
    ] {
        spi::query_as_of(
            &format!(
                "INSERT INTO token_balance.{table} OVERRIDING SYSTEM VALUE {} ORDER BY r.{order} {known}",
                rows_sql(book, table)
            ),
            &[Arg::Text(rows), Arg::Text(account)],
            Snapshot::Latest,
        )?;
    }
    Ok(())
}

/// Charges that are just being left in the queue are waited for, and who comes later waits for the move.
pub(crate) fn hold_queue(account: &str) {
    queue::lock_id_alone(account);
}

/// Set the balance of an account, whose row is held, to what it has left with, or to 0. No entry is written: the chain
/// moves as it is. False if there is no such account.
///
/// Errors: 22003 and 23514 for a balance that the column does not take, 27000 if a trigger makes another one of it.
pub(crate) fn set_balance(book: &Book, account: &str, balance: i64) -> Result<bool> {
    let Some(present) = account::column_now(book, account)? else {
        return Ok(false);
    };
    let out_of_range = || Error::CreditOutOfRange {
        what: "a balance",
        account: account.to_owned(),
        amount: balance.into(),
    };
    let amount = balance.checked_sub(present).ok_or_else(out_of_range)?;
    if amount != 0 {
        let line = Line {
            amount,
            workflow: None,
            binding: None,
            actor: actor(),
        };
        let change = Change {
            kind: Kind::Move,
            account: account.to_owned(),
            lines: vec![line],
            reference: None,
            note: None,
        };
        match account::change(book, change.into())? {
            Ok(_) => {}
            Err(account::Refusal::UnknownAccount) => return Ok(false),
            Err(account::Refusal::Moved) => moved::refuse(book, account)?,
            Err(account::Refusal::OutOfRange) => return Err(out_of_range()),
            Err(account::Refusal::Forbidden) => {
                return Err(Error::BalanceForbidden {
                    workflow: None,
                    account: account.to_owned(),
                    tokens: (-i128::from(amount)).max(0),
                });
            }
        }
    }
    match account::column_now(book, account)? {
        Some(found) if found == balance => Ok(true),
        None => Ok(false),
        Some(_) => Err(Error::ChargeSuppressed {
            relation: book.accounts.users.sql.clone(),
            account: account.to_owned(),
        }),
    }
}
