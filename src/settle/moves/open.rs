//! An account is opened by a document: where it comes to, or at home where it is taken back.

use std::collections::BTreeSet;

use super::Here;
use super::document::{Document, NamedBinding};
use crate::binding::Bound;
use crate::error::{Error, Result};
use crate::ledger::account;
use crate::ledger::moving::{self, Left};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;
use crate::settle::lock::lock_taken_away;

/// Lock what the document is about: its workflows, what is left for the account in the queue, its row.
///
/// Error P0002 if the account has no row.
pub(super) fn lock(here: &Here, document: &Document) -> Result<()> {
    let account = &document.head.user_id;
    let workflows = document.settlements.texts("workflow_id").into_iter();
    let workflows: Vec<_> = workflows.map(str::to_owned).collect();
    let bindings: Vec<_> = here.bounds.iter().map(|bound| &bound.binding).collect();
    lock_taken_away(&workflows, &bindings);
    moving::hold_queue(account);
    match account::hold(&here.book, account)? {
        true => Ok(()),
        false => Err(no_row(account)),
    }
}

fn no_row(account: &str) -> Error {
    Error::CannotMove {
        message: format!("account \"{account}\" has no row in this database"),
        detail: None,
        hint: Some("Insert it first, in the same transaction. Its balance is set here.".into()),
    }
}

/// What has marked the runs that the account had paid for when it left: it is back.
pub(super) fn drop_marks(here: &Here, document: &Document) -> Result<()> {
    let _owner = here.book.run_as_extension();
    spi::query_as_of(
        &format!(
            "DELETE FROM token_balance.settlement AS s USING token_balance.binding AS b \
             WHERE b.binding_id OPERATOR(pg_catalog.=) s.binding_id AND {} AND b.usage_user IS NULL \
             AND s.user_id OPERATOR(pg_catalog.=) $1 AND s.usage_tokens OPERATOR(pg_catalog.=) 0 \
             AND s.charged_tokens OPERATOR(pg_catalog.=) 0 AND s.archived_usage_tokens OPERATOR(pg_catalog.=) 0 \
             AND s.first_settled_at IS NULL",
            here.is_of_accounts("b")
        ),
        &[Arg::Text(&document.head.user_id)],
        Snapshot::Latest,
    )
    .map(drop)
}

/// Error 55000 if the account or its workflows would be others here, or something is known of them already.
pub(super) fn check(here: &Here, document: &Document) -> Result<()> {
    let head = &document.head;
    let cannot = |message: String, detail: String, hint: &str| Error::CannotMove {
        message,
        detail: Some(detail),
        hint: Some(hint.to_owned()),
    };
    let spelling = here.book.accounts.user_key.key_type.spelling();
    if spelling != head.account_ids {
        return Err(cannot(
            "ids of accounts are spelled otherwise here".into(),
            format!(
                "In database \"{}\" the key is {}, here it is {spelling}.",
                head.source, head.account_ids
            ),
            "Give both users tables keys of one type.",
        ));
    }
    for needed in needed(document) {
        let named = |bound: &&Bound| bound.name() == needed.name;
        let bound = here.bounds.iter().map(|bound| &**bound).find(named);
        let Some(bound) = bound else {
            return Err(cannot(
                format!("no binding \"{}\" charges these accounts", needed.name),
                "The account has settlements or entries of it.".into(),
                "Attach the tables under that name here, too: token_balance.attach(..., name => ...).",
            ));
        };
        let spelling = bound.binding.spellings().workflows;
        if spelling != needed.workflow_ids {
            return Err(cannot(
                format!(
                    "ids of workflows are spelled otherwise in binding \"{}\"",
                    needed.name
                ),
                format!(
                    "In database \"{}\" they are {}, here they are {spelling}.",
                    head.source, needed.workflow_ids
                ),
                "Give both usage tables workflow columns of one type.",
            ));
        }
    }
    if moving::is_known(&here.book, &head.user_id)? || is_settled(here, document)? {
        return Err(cannot(
            format!(
                "account \"{}\" has a history in this database",
                head.user_id
            ),
            "It has entries, references or charges here, or settlements of the same workflows."
                .into(),
            "An id is one account in all databases. Import the account before its usage is copied and before it gets \
             anything here.",
        ));
    }
    Ok(())
}

/// The bindings of which the document has rows.
fn needed(document: &Document) -> Vec<&NamedBinding> {
    let lists = [
        &document.settlements,
        &document.aliases,
        &document.ledger,
        &document.queue,
    ];
    let names: BTreeSet<_> = lists
        .into_iter()
        .flat_map(|rows| rows.texts("binding"))
        .collect();
    let named = document.head.bindings.iter();
    named
        .filter(|binding| names.contains(binding.name.as_str()))
        .collect()
}

/// Whether one of the document's settlements is here already; where the workflow's account pays, also that of another
/// account.
fn is_settled(here: &Here, document: &Document) -> Result<bool> {
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "SELECT 1 FROM ({}) AS r \
             JOIN token_balance.binding AS b ON b.binding_id OPERATOR(pg_catalog.=) r.binding_id \
             JOIN token_balance.settlement AS s ON s.binding_id OPERATOR(pg_catalog.=) r.binding_id \
             AND s.workflow_id OPERATOR(pg_catalog.=) r.workflow_id \
             AND (b.usage_user IS NULL OR s.user_id OPERATOR(pg_catalog.=) r.user_id) LIMIT 1",
            moving::rows_sql(&here.book, "settlement")
        ),
        &[
            Arg::Text(&document.settlements.text()),
            Arg::Text(&document.head.user_id),
        ],
        Snapshot::Latest,
    )?;
    Ok(!outcome.rows.is_empty())
}

/// Write all that the document has, and give the account its balance. What it is about is locked and was checked, and the
/// account does not count as away.
pub(super) fn open(here: &Here, document: &Document) -> Result<()> {
    let head = &document.head;
    add_aliases(here, document)?;
    {
        let _owner = here.book.run_as_extension();
        spi::query_as_of(
            &format!(
                "INSERT INTO token_balance.settlement {} ORDER BY r.workflow_id COLLATE pg_catalog.\"C\"",
                moving::rows_sql(&here.book, "settlement")
            ),
            &[
                Arg::Text(&document.settlements.text()),
                Arg::Text(&head.user_id),
            ],
            Snapshot::Latest,
        )?;
    }
    let left = Left {
        ledger: document.ledger.text(),
        references: document.references.text(),
        queue: document.queue.text(),
    };
    moving::arrive(&here.book, &head.user_id, &left)?;
    match moving::set_balance(&here.book, &head.user_id, head.balance)? {
        true => Ok(()),
        false => Err(no_row(&head.user_id)),
    }
}

/// The other ids of its workflows. Error 55000 where one of them means another workflow here.
fn add_aliases(here: &Here, document: &Document) -> Result<()> {
    let _owner = here.book.run_as_extension();
    let outcome = spi::query_as_of(
        &format!(
            "WITH given AS ({}), \
             written AS (INSERT INTO token_balance.workflow_alias AS a SELECT g.* FROM given AS g \
             ORDER BY g.workflow_id COLLATE pg_catalog.\"C\" \
             ON CONFLICT (binding_id, workflow_id) DO UPDATE SET became = EXCLUDED.became \
             WHERE a.family OPERATOR(pg_catalog.=) EXCLUDED.family RETURNING a.workflow_id) \
             SELECT g.workflow_id FROM given AS g WHERE g.workflow_id OPERATOR(pg_catalog.<>) \
             ALL (SELECT w.workflow_id FROM written AS w) LIMIT 1",
            moving::rows_sql(&here.book, "workflow_alias")
        ),
        &[
            Arg::Text(&document.aliases.text()),
            Arg::Text(&document.head.user_id),
        ],
        Snapshot::Latest,
    )?;
    match outcome.rows.first() {
        None => Ok(()),
        Some(row) => Err(Error::CannotMove {
            message: format!(
                "workflow \"{}\" is another one in this database",
                row.text(0)
            ),
            detail: Some(
                "Here it was given another id than in the database that the account comes from."
                    .into(),
            ),
            hint: Some("An id is one workflow in all databases.".into()),
        }),
    }
}
