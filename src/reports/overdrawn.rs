//! Overdrafts: the accounts below zero.

use pgrx::pg_sys;

use crate::binding::{Book, books};
use crate::error::Result;
use crate::ledger::queue;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, moment_sql, texts};

/// An account below zero.
pub(crate) struct Overdrawn {
    /// The name of a binding that charges it.
    pub(crate) binding: String,
    pub(crate) account: String,
    pub(crate) balance: i64,
    /// When it crossed zero, in the server's count; None if that is not in the ledger.
    pub(crate) since: Option<pg_sys::TimestampTz>,
}

/// All accounts below zero, deepest first: of the binding of this name, or of all. Errors: as `books`.
pub(crate) fn overdrawn(name: Option<&str>) -> Result<Vec<Overdrawn>> {
    let mut all = Vec::new();
    for book in books(name)? {
        all.extend(of_book(&book)?);
    }
    all.sort_by_key(|overdrawn| overdrawn.balance);
    Ok(all)
}

fn of_book(book: &Book) -> Result<Vec<Overdrawn>> {
    let accounts = &book.accounts;
    let (queued_accounts, queued_tokens) = queue::totals(book)?;
    let accounts = {
        let _owner = book.run_as_users_owner();
        let balance = format!(
            "(a.{}::bigint OPERATOR(pg_catalog.-) COALESCE(q.tokens, 0))",
            accounts.balance_sql()
        );
        let sql = format!(
            "SELECT a.{key}::pg_catalog.text, {balance} FROM {users} AS a \
             LEFT JOIN ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) \
             AS q (id, tokens) ON q.id OPERATOR(pg_catalog.=) a.{key}::pg_catalog.text \
             WHERE {balance} OPERATOR(pg_catalog.<) 0 ORDER BY 2, 1",
            key = accounts.user_key.sql(),
            users = accounts.users.sql
        );
        let args = [
            Arg::TextArray(&queued_accounts),
            Arg::Int8Array(queued_tokens),
        ];
        spi::query_of(&[accounts.users.oid], &sql, &args, Snapshot::Caller)?.rows
    };
    let ids = texts(&accounts, 0);
    let _owner = book.run_as_extension();
    let crossings = spi::query_as_of(
        &format!(
            "SELECT {} \
         FROM pg_catalog.unnest($1) WITH ORDINALITY AS a (user_id, position) \
         LEFT JOIN LATERAL (SELECT e.created_at FROM token_balance.ledger AS e \
         WHERE {own} e.user_id OPERATOR(pg_catalog.=) a.user_id \
         AND e.new_balance OPERATOR(pg_catalog.<) 0 \
         AND e.previous_balance OPERATOR(pg_catalog.>=) 0 \
         ORDER BY e.entry_id DESC LIMIT 1) AS l ON true ORDER BY a.position",
            moment_sql("l.created_at"),
            own = book.accounts.own("e"),
        ),
        &[Arg::TextArray(&ids)],
        Snapshot::Caller,
    )?;
    accounts
        .iter()
        .zip(&crossings.rows)
        .map(|(account, crossing)| {
            Ok(Overdrawn {
                binding: book.accounts.binding.clone(),
                account: account.text(0).to_owned(),
                balance: account.amount(1)?,
                since: crossing.number(0),
            })
        })
        .collect()
}
