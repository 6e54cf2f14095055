//! Overdrafts: who is below zero, and the notification when an account crosses zero.

use pgrx::pg_sys::{self, TEXTOID};
use serde::Serialize;

use crate::binding::BALANCE_COLUMN;
use crate::cache::{Bound, Kept};
use crate::error::Result;
use crate::queue;
use crate::security::RunAs;
use crate::spi::{self, Arg, Snapshot, Statement, moment_sql, texts};

/// NOTIFY refuses longer payloads.
const LONGEST_PAYLOAD: usize = 7_900;

pub(crate) struct Statements {
    notify: Statement,
}

impl Kept for Statements {
    fn of(_bound: &Bound) -> Self {
        Statements {
            notify: Statement::new(
                "SELECT pg_catalog.pg_notify('token_balance', $1)",
                &[TEXTOID],
            ),
        }
    }
}

/// The payload of `NOTIFY token_balance`. Amounts are tokens.
#[derive(Serialize)]
struct Crossing<'a> {
    event: &'static str,
    user_id: Option<&'a str>,
    previous_balance: i64,
    token_balance: i64,
    is_overdraft: bool,
}

/// Notify who listens if a change takes the account below zero or back; delivered at commit.
pub(crate) fn notify_crossing(bound: &Bound, account: &str, previous: i64, new: i64) -> Result<()> {
    if (previous < 0) == (new < 0) {
        return Ok(());
    }
    let is_overdraft = new < 0;
    let payload = |user_id| {
        serde_json::to_string(&Crossing {
            event: if is_overdraft {
                "overdrawn"
            } else {
                "recovered"
            },
            user_id,
            previous_balance: previous,
            token_balance: new,
            is_overdraft,
        })
        .unwrap_or_default()
    };
    // An id that does not fit is left out: a balance is never refused for its notification.
    let text = Some(payload(Some(account)))
        .filter(|text| text.len() < LONGEST_PAYLOAD)
        .unwrap_or_else(|| payload(None));
    bound
        .kept::<Statements>()
        .notify
        .run(&[Arg::Text(&text)], Snapshot::Statement)
        .map(|_| ())
}

/// An account below zero.
pub(crate) struct Overdrawn {
    pub(crate) account: String,
    pub(crate) balance: i64,
    /// When it crossed zero, in the server's count; None if that is not in the ledger.
    pub(crate) since: Option<pg_sys::TimestampTz>,
}

/// All accounts below zero, deepest first.
pub(crate) fn overdrawn(bound: &Bound) -> Result<Vec<Overdrawn>> {
    let binding = &bound.binding;
    let (queued_accounts, queued_tokens) = queue::totals(bound)?;
    let accounts = {
        let _owner = RunAs::owner(binding.users.owner);
        let balance =
            format!("(a.{BALANCE_COLUMN}::bigint OPERATOR(pg_catalog.-) COALESCE(q.tokens, 0))");
        let sql = format!(
            "SELECT a.{key}::pg_catalog.text, {balance} FROM {users} AS a \
             LEFT JOIN ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) \
             AS q (id, tokens) ON q.id OPERATOR(pg_catalog.=) a.{key}::pg_catalog.text \
             WHERE {balance} OPERATOR(pg_catalog.<) 0 ORDER BY 2, 1",
            key = binding.user_key.sql(),
            users = binding.users.sql
        );
        let args = [
            Arg::TextArray(&queued_accounts),
            Arg::Int8Array(queued_tokens),
        ];
        spi::query_of(&[binding.users.oid], &sql, &args, Snapshot::Caller)?.rows
    };
    let ids = texts(&accounts, 0);
    let _owner = RunAs::owner(binding.extension_owner);
    let crossings = spi::query_as_of(
        &format!(
            "SELECT {} \
         FROM pg_catalog.unnest($1) WITH ORDINALITY AS a (user_id, position) \
         LEFT JOIN LATERAL (SELECT e.created_at FROM token_balance.ledger AS e \
         WHERE e.user_id OPERATOR(pg_catalog.=) a.user_id \
         AND e.new_balance OPERATOR(pg_catalog.<) 0 \
         AND e.previous_balance OPERATOR(pg_catalog.>=) 0 \
         ORDER BY e.entry_id DESC LIMIT 1) AS l ON true ORDER BY a.position",
            moment_sql("l.created_at")
        ),
        &[Arg::TextArray(&ids)],
        Snapshot::Caller,
    )?;
    Ok(accounts
        .iter()
        .zip(&crossings.rows)
        .map(|(account, crossing)| Overdrawn {
            account: account.text(0).to_owned(),
            balance: account.number(1).unwrap_or_default(),
            since: crossing.number(0),
        })
        .collect())
}
