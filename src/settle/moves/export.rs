//! `token_balance.export_account`: an account leaves, and what is known of it goes into a document.

use std::collections::BTreeSet;
use std::time::Duration;

use pgrx::pg_sys;

use super::document::{FORMAT, digest_sql};
use super::whole::refuse_parts;
use super::{Here, settled_workflows, this_database};
use crate::binding::own::{self, refuse_older_catalog};
use crate::binding::{book, lock_out_settlements};
use crate::error::{Error, Result};
use crate::ledger::archive_table::keep_archivers_out;
use crate::ledger::change::actor;
use crate::ledger::moved::{self, IS_AWAY};
use crate::ledger::moving::{self, Left};
use crate::ledger::{account, busy};
use crate::postgres::invalidation::mark_stale;
use crate::postgres::patience;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;
use crate::settle::lock::{has_room_for, lock_taken_away, try_lock_workflows};
use crate::settle::rename;

/// For how long a transaction may take to end that has just let go of the account's row.
const PATIENCE: Duration = Duration::from_millis(200);

/// Close the account here: the document with which another database opens it, jsonb as text. Called again before the
/// receipt has come, the same one.
///
/// Errors: 22023 for an empty destination, or one that is this database; P0002 for an unknown account; 55000 for one that
/// has left, or whose entries are not all its own or of an attached binding; 40001 to be retried.
pub(crate) fn export(name: Option<&str>, user_id: &str, destination: &str) -> Result<String> {
    refuse_older_catalog()?;
    let source = this_database()?;
    if destination.is_empty() || destination == source {
        return Err(Error::InvalidArgument {
            message: match destination {
                "" => "destination is empty".into(),
                _ => format!("destination is this database, \"{source}\""),
            },
            detail: None,
            hint: Some(
                "Use the name of the other database: what current_database() says there, or its setting \
                 token_balance.database."
                    .into(),
            ),
        });
    }
    keep_archivers_out();
    let book = book(name)?;
    let account = book.accounts.user_key.key_type.canonical_or_raise(user_id);
    let is_first = !moved::is_used(&book);
    if is_first {
        // From the first one on each charge looks for moves. Those who have been told that there are none end first.
        lock_out_settlements(book.accounts.users.oid);
    }
    let here = Here::of(&book)?;
    moved::take_turns(&account);
    if let Some(document) = sent(&here, &account, destination)? {
        return Ok(document);
    }
    rename::follow(here.bounds.iter().map(|bound| &**bound))?;
    lock(&here, &account)?;
    refuse_parts(&here, &account)?;
    let balance = account::column_now(&here.book, &account)?;
    let balance = balance.ok_or_else(|| Error::UnknownAccount {
        account: account.clone(),
    })?;
    let aliases = aliases(&here, &account)?;
    let settlements = take_settlements(&here, &account)?;
    let left = moving::leave(&here.book, &account)?;
    moving::set_balance(&here.book, &account, 0)?;
    let parts = Parts {
        balance,
        aliases,
        settlements,
        left,
    };
    let document = send(&here, &account, (&source, destination), &parts)?;
    if is_first {
        own::tell_other_sessions()?;
        mark_stale();
    }
    Ok(document)
}

/// The document with which the account has left, if no receipt has come. Error 55000 if one has, or if it went elsewhere.
fn sent(here: &Here, account: &str, destination: &str) -> Result<Option<String>> {
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT m.database, m.document FROM token_balance.account_move AS m \
             WHERE {} m.user_id OPERATOR(pg_catalog.=) $1 AND {IS_AWAY}",
            here.book.accounts.own("m")
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    let Some(row) = outcome.rows.first() else {
        return Ok(None);
    };
    match row.owned(1) {
        Some(document) if row.text(0) == destination => Ok(Some(document)),
        Some(_) => Err(Error::CannotMove {
            message: format!(
                "account \"{account}\" is on its way to database \"{}\"",
                row.text(0)
            ),
            detail: Some("It can be open in one database only.".into()),
            hint: Some(
                "Take it back first: token_balance.refuse_account() there, then token_balance.take_back_account() here \
                 with its receipt."
                    .into(),
            ),
        }),
        None => Err(Error::AccountMoved {
            account: account.to_owned(),
            database: row.text(0).to_owned(),
        }),
    }
}

/// Lock the account's workflows, what is left for it in the queue, and its row. What waits in the queue is applied.
///
/// Errors: P0002 for an unknown account, 40001 if a run was settled in between that another session is at again.
fn lock(here: &Here, account: &str) -> Result<()> {
    let workflows = workflows(here, account)?;
    let bindings: Vec<_> = here.bounds.iter().map(|bound| &bound.binding).collect();
    let is_singly = has_room_for(workflows.len());
    lock_taken_away(&workflows, &bindings);
    moving::hold_queue(account);
    if !account::hold(&here.book, account)? {
        return Err(Error::UnknownAccount {
            account: account.to_owned(),
        });
    }
    busy::apply_all(&here.book, account)?;
    // Of runs that were settled until its row was had. A transaction lets go of rows before it lets go of such a lock; but
    // who has begun another one may wait for the row, and is not waited for.
    if is_singly {
        let mut later = self::workflows(here, account)?;
        later.retain(|workflow| !workflows.contains(workflow));
        let is_locked = || {
            let mut locked = later.clone();
            try_lock_workflows(std::iter::once(&mut locked)) && locked.len() == later.len()
        };
        if !patience::ask(PATIENCE, is_locked) {
            return Err(Error::ConcurrentChange {
                account: account.to_owned(),
            });
        }
    }
    Ok(())
}

/// The workflows of which something is settled for the account, in order.
fn workflows(here: &Here, account: &str) -> Result<Vec<String>> {
    let mut all = BTreeSet::new();
    for bound in &here.bounds {
        all.extend(settled_workflows(bound, account)?);
    }
    Ok(all.into_iter().collect())
}

/// The other ids of the account's workflows, a JSON list.
fn aliases(here: &Here, account: &str) -> Result<String> {
    let _owner = here.book.run_as_extension();
    let own = |alias| here.book.accounts.own(alias);
    let outcome = spi::query_as_of(
        &format!(
            "SELECT COALESCE(pg_catalog.jsonb_agg((pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.-) \
             'binding_id'::pg_catalog.text) OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('binding', b.name) \
             ORDER BY b.name, a.workflow_id COLLATE pg_catalog.\"C\"), '[]'::pg_catalog.jsonb) \
             FROM token_balance.workflow_alias AS a \
             JOIN token_balance.binding AS b ON b.binding_id OPERATOR(pg_catalog.=) a.binding_id \
             WHERE {} AND EXISTS (SELECT 1 FROM token_balance.workflow_alias AS i JOIN ( \
             SELECT s.binding_id, s.workflow_id FROM token_balance.settlement AS s \
             WHERE s.user_id OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT l.binding_id, l.workflow_id FROM token_balance.ledger AS l \
             WHERE {} l.user_id OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT r.binding_id, r.workflow_id FROM token_balance.reference AS r \
             WHERE {} r.user_id OPERATOR(pg_catalog.=) $1) AS n \
             ON n.binding_id OPERATOR(pg_catalog.=) i.binding_id \
             AND n.workflow_id OPERATOR(pg_catalog.=) i.workflow_id \
             WHERE i.binding_id OPERATOR(pg_catalog.=) a.binding_id \
             AND i.family OPERATOR(pg_catalog.=) a.family)",
            here.is_of_accounts("b"),
            own("l"),
            own("r")
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    let row = outcome.rows.first();
    Ok(row.map(|row| row.text(0).to_owned()).unwrap_or_default())
}

/// Take what is settled for the account out of the table: a JSON list. Where the workflow's account pays, an empty settlement
/// stays: of usage that names no account it says that somebody who has left has paid for it. What is before the point of usage that was archived
/// stays a text, as a program on the way may read such numbers as floats.
fn take_settlements(here: &Here, account: &str) -> Result<String> {
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "WITH gone AS (DELETE FROM token_balance.settlement AS s USING token_balance.binding AS b \
             WHERE b.binding_id OPERATOR(pg_catalog.=) s.binding_id AND {} \
             AND s.user_id OPERATOR(pg_catalog.=) $1 \
             RETURNING b.name, b.binding_id, b.usage_user, s.workflow_id, (pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.-) \
             ARRAY['user_id', 'binding_id']::pg_catalog.text[]) OPERATOR(pg_catalog.||) \
             pg_catalog.jsonb_build_object('binding', b.name, \
             'archived_usage_tokens', s.archived_usage_tokens::pg_catalog.text) AS of_row), \
             marked AS (INSERT INTO token_balance.settlement (workflow_id, user_id, binding_id, usage_tokens) \
             SELECT g.workflow_id, $1, g.binding_id, 0 FROM gone AS g WHERE g.usage_user IS NULL) \
             SELECT COALESCE(pg_catalog.jsonb_agg(g.of_row ORDER BY g.name, g.workflow_id COLLATE pg_catalog.\"C\"), \
             '[]'::pg_catalog.jsonb) FROM gone AS g",
            here.is_of_accounts("b")
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    let row = outcome.rows.first();
    Ok(row.map(|row| row.text(0).to_owned()).unwrap_or_default())
}

/// What a document is made of.
struct Parts {
    /// Tokens.
    balance: i64,
    aliases: String,
    settlements: String,
    left: Left,
}

/// Make the document and keep it until its receipt comes.
fn send(
    here: &Here,
    account: &str,
    (source, destination): (&str, &str),
    parts: &Parts,
) -> Result<String> {
    let bindings = here.bounds.iter().map(|bound| {
        let spellings = bound.binding.spellings();
        serde_json::json!({"name": bound.name(), "workflow_ids": spellings.workflows})
    });
    let bindings = serde_json::Value::Array(bindings.collect()).to_string();
    let account_ids = here.book.accounts.user_key.key_type.spelling();
    let own = here.book.accounts.own("i");
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "WITH made AS (SELECT pg_catalog.gen_random_uuid() AS token, COALESCE((SELECT \
             pg_catalog.array_append(i.lineage, i.token) FROM token_balance.account_move AS i WHERE {own} \
             i.user_id OPERATOR(pg_catalog.=) $1 AND i.state OPERATOR(pg_catalog.=) 'imported' \
             ORDER BY i.moved_at DESC LIMIT 1), '{{}}'::pg_catalog.uuid[]) AS lineage), \
             whole AS (SELECT m.token, m.lineage, pg_catalog.jsonb_build_object( \
             'format', {FORMAT}, 'token', m.token, 'lineage', m.lineage, 'source', $2, 'destination', $3, \
             'user_id', $1, 'account_ids', $4, 'balance', $5::bigint, 'bindings', $6::pg_catalog.jsonb, \
             'settlements', $7::pg_catalog.jsonb, 'ledger', $8::pg_catalog.jsonb, \
             'references', $9::pg_catalog.jsonb, 'queue', $10::pg_catalog.jsonb, \
             'aliases', $11::pg_catalog.jsonb, 'exported_at', pg_catalog.clock_timestamp(), 'exported_by', $12) \
             AS content FROM made AS m) \
             INSERT INTO token_balance.account_move AS m (token, direction, accounts_id, user_id, database, state, \
             lineage, balance, actor, document) \
             SELECT w.token, 'out', {accounts}, $1, $3, 'sent', w.lineage, $5::bigint, $12, \
             w.content OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('digest', {digest}) \
             FROM whole AS w RETURNING m.document",
            accounts = here.book.accounts.id.unwrap_or_default(),
            digest = digest_sql("w.content"),
        ),
        &[
            Arg::Text(account),
            Arg::Text(source),
            Arg::Text(destination),
            Arg::Text(account_ids),
            Arg::Int8(parts.balance),
            Arg::Text(&bindings),
            Arg::Text(&parts.settlements),
            Arg::Text(&parts.left.ledger),
            Arg::Text(&parts.left.references),
            Arg::Text(&parts.left.queue),
            Arg::Text(&parts.aliases),
            Arg::Text(&actor()),
        ],
        Snapshot::Latest,
    )?;
    let row = outcome.rows.first();
    row.and_then(|row| row.owned(0)).ok_or(Error::Spi {
        code: pg_sys::SPI_ERROR_NOOUTFUNC.to_string(),
    })
}
