//! Keys whose type was changed: ids that are stored as text are written as the new type spells them, and what becomes
//! one is added up. The ledger's entries stay as they are. Where the ids were changed as well, nothing is known of them.

use std::collections::BTreeMap;

use super::made_anew::there_sql;
use crate::binding::{Binding, Book, Bound, Key, Spec, bound};
use crate::error::{Error, Result};
use crate::ledger::{account, entries, queue, reference};
use crate::postgres::catalog::Table;
use crate::postgres::key::KeyType;
use crate::postgres::notice::notice;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};
use crate::settle::{rename, settlement};

/// Write the ids that are stored as the keys of `binding` spell them, if they were another type's before. Settlements
/// are locked out.
pub(super) fn spell_anew(binding: &Binding, before: &Spec) -> Result<()> {
    let before = before.spellings.as_ref();
    let now = binding.spellings();
    // Text spells every id as it is.
    let workflows = !binding.usage_workflow.key_type.is_text()
        && before.is_none_or(|before| before.workflows != now.workflows);
    let accounts = !binding.accounts.user_key.key_type.is_text()
        && before.is_none_or(|before| before.accounts != now.accounts);
    if !(workflows || accounts) || binding.spec.ids.is_none() {
        return Ok(());
    }
    let bound = bound(Some(&binding.spec.name))?;
    if accounts {
        spell_accounts(&bound.book)?;
    }
    if workflows {
        spell_workflows(&bound)?;
    }
    Ok(())
}

/// So many of the ids that are known are looked for.
const SAMPLE: usize = 1_000;

/// Error 55000 where a key's type was changed since `before` was stored, and none of the ids that are known has a row any
/// more: what changed the type (ALTER COLUMN … TYPE … USING) may have changed the ids, and what was exempt or paid would be
/// charged again under the new ones.
pub(super) fn refuse_other_ids(binding: &Binding, before: &Spec) -> Result<()> {
    let (Some(was), now) = (&before.spellings, binding.spellings()) else {
        return Ok(());
    };
    let usage = (&binding.usage, &binding.usage_workflow);
    if was.workflows != now.workflows {
        refuse_if_none_is_left(binding, "workflow_id", usage)?;
    }
    let users = (&binding.accounts.users, &binding.accounts.user_key);
    if was.accounts != now.accounts {
        refuse_if_none_is_left(binding, "user_id", users)?;
    }
    Ok(())
}

/// Of settlements that have usage.
fn refuse_if_none_is_left(
    binding: &Binding,
    column: &str,
    (table, key): (&Table, &Key),
) -> Result<()> {
    let sql = format!(
        "SELECT DISTINCT s.{column} FROM (SELECT s.{column} FROM token_balance.settlement AS s \
         WHERE {own} {there} OPERATOR(pg_catalog.>) 0 \
         ORDER BY s.last_settled_at DESC NULLS LAST LIMIT {SAMPLE}) AS s",
        own = binding.own("s"),
        there = there_sql(binding.spec.ids),
    );
    let known = {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        texts(&spi::query(&sql, &[])?.rows, 0)
    };
    let there: Vec<_> = known
        .iter()
        .filter_map(|id| key.key_type.canonical(id))
        .collect();
    let sql = format!(
        "SELECT 1 FROM {} AS t WHERE t.{} OPERATOR(pg_catalog.=) ANY ($1::{}[]) LIMIT 1",
        table.sql,
        key.sql(),
        key.key_type.sql()
    );
    let is_any_left = known.is_empty() || {
        let _owner = RunAs::owner(binding.accounts.users.owner);
        let args = [Arg::TextArray(&there)];
        let outcome = spi::query_of(&[table.oid], &sql, &args, Snapshot::Statement)?;
        !outcome.rows.is_empty()
    };
    match is_any_left {
        true => Ok(()),
        false => Err(Error::OtherIds {
            column: format!("{}.{}", table.sql, key.sql()),
            known: known.len(),
            detach: binding.spec.detach_call(),
        }),
    }
}

fn spell_accounts(book: &Book) -> Result<()> {
    let of = |table: &str| {
        format!(
            "SELECT t.user_id FROM token_balance.{table} AS t WHERE {} true",
            book.accounts.own("t")
        )
    };
    let ids = format!(
        "SELECT s.user_id FROM token_balance.settlement AS s WHERE s.binding_id \
         OPERATOR(pg_catalog.=) ANY (SELECT b.binding_id FROM token_balance.binding AS b \
         WHERE {} true) UNION {} UNION {} UNION {}",
        book.accounts.own("b"),
        of("ledger"),
        of("queue"),
        of("reference")
    );
    for (old, new) in other_spellings(book, &ids, book.accounts.user_key.key_type)? {
        let (old, new) = (old.as_str(), new.as_str());
        // The chain goes on under the new spelling, as an account's does whose id is changed.
        if let (Some(last), Some(column)) = (
            entries::last_balance(book, old)?,
            account::column_now(book, new)?,
        ) {
            entries::record_rename(book, (old, last), (new, column))?;
        }
        queue::rename(book, old, new)?;
        reference::rename(book, old, new)?;
        settlement::rename_account(book, old, new)?;
    }
    Ok(())
}

fn spell_workflows(bound: &Bound) -> Result<()> {
    let ids = format!(
        "SELECT s.workflow_id FROM token_balance.settlement AS s WHERE {} true",
        bound.binding.own("s")
    );
    let key_type = bound.binding.usage_workflow.key_type;
    let pairs = other_spellings(&bound.book, &ids, key_type)?;
    // Whether a text that reads as a number was meant as one, nobody knows; a uuid is one however it is written.
    if let Some((old, new)) = pairs.iter().next()
        && key_type.is_integer()
    {
        notice(
            format!(
                "{} settled workflows are spelled otherwise as {}",
                pairs.len(),
                bound.binding.usage_workflow.column.type_name
            ),
            Some(format!(
                "\"{old}\" is \"{new}\", for one: what is accounted for of the one is of the other."
            )),
            Some(
                "If they are two runs, roll back, and give one of them an id of its own first: what the usage of the \
                 first no longer shows would pay for the second."
                    .into(),
            ),
        );
    }
    rename::move_settlements(bound, &pairs)
}

/// Those of the ids that `ids_sql` gives which a key of the type spells otherwise, each with how it does. What it cannot
/// hold stays as it is.
fn other_spellings(
    book: &Book,
    ids_sql: &str,
    key_type: KeyType,
) -> Result<BTreeMap<String, String>> {
    let _owner = RunAs::owner(book.accounts.extension_owner);
    let spelled = KeyType::Text.canonical_sql("i.id", key_type);
    let outcome = spi::query_as_of(
        &format!(
            "SELECT DISTINCT i.id, {spelled} FROM ({ids_sql}) AS i (id) \
             WHERE {spelled} OPERATOR(pg_catalog.<>) i.id"
        ),
        &[],
        Snapshot::Latest,
    )?;
    Ok(texts(&outcome.rows, 0)
        .into_iter()
        .zip(texts(&outcome.rows, 1))
        .collect())
}
