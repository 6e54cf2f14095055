//! `token_balance.archive_settlements`: settlements of which nothing is left leave the table, to an archive or for good
//! (DESIGN V40).
//!
//! What a settlement is for is told by what is there: usage that it accounts for, entries of the ledger that it stands
//! for. When both are gone, and all of the usage is recorded as gone, nothing would be charged again without it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use pgrx::pg_sys::{self, TEXTARRAYOID, TIMESTAMPTZOID, TimestampTz};

use super::record::{Kind, Left};
use super::steps::Steps;
use crate::binding::{Binding, Bound, Kept, Payer, Which, bindings_locked, own};
use crate::error::{Error, Result};
use crate::ledger::archive_table::{ArchiveTable, all, take_turns};
use crate::ledger::change::actor;
use crate::postgres::commit::MayCommit;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, Row, texts};
use crate::settle::lock::{lock_out_all, lock_taken_away};
use crate::settle::occasion::Occasion;
use crate::settle::settlement::{archive_sql, archived_columns, json_sql};
use crate::settle::sweep::in_memory_of_its_own;
use crate::settle::usage::Usage;
use crate::settle::{rename, usage};

/// Workflows that are looked at, and that end, at a time. They are locked singly, with room for some that have had other
/// ids.
const BATCH: usize = 1_000;

const SETTLEMENTS: &str = "token_balance.settlement";

/// What has ended.
#[derive(Default)]
pub(crate) struct Ended {
    pub(crate) workflows: usize,
    pub(crate) settlements: usize,
    /// None if they are gone for good.
    pub(crate) archive: Option<String>,
    /// Whether there may be more.
    pub(crate) more: bool,
}

struct Statements {
    /// The ids of families.
    ids: Statement,
    /// Locks the settlements of workflows.
    lock: Statement,
    /// Of locked workflows, the families that have ended.
    ended: Statement,
    leave: Statement,
    drop_aliases: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = |alias| bound.binding.own(alias);
        let number = bound.binding.spec.number();
        let named = |table: &str, alias: &str| {
            format!(
                "EXISTS (SELECT 1 FROM token_balance.{table} AS {alias} \
                 WHERE {alias}.binding_id OPERATOR(pg_catalog.=) {number} \
                 AND {alias}.workflow_id OPERATOR(pg_catalog.=) i.workflow_id)"
            )
        };
        Statements {
            ids: Statement::new(
                &format!(
                    "SELECT k.family, i.workflow_id FROM pg_catalog.unnest($1) AS k (family) \
                     CROSS JOIN LATERAL (SELECT k.family AS workflow_id UNION SELECT a.workflow_id \
                     FROM token_balance.workflow_alias AS a \
                     WHERE {} a.family OPERATOR(pg_catalog.=) k.family OFFSET 0) AS i \
                     ORDER BY i.workflow_id COLLATE pg_catalog.\"C\"",
                    own("a")
                ),
                &[TEXTARRAYOID],
            ),
            lock: Statement::new(
                &format!(
                    "SELECT s.workflow_id FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) ANY ($1) \
                     ORDER BY s.workflow_id COLLATE pg_catalog.\"C\", s.user_id COLLATE pg_catalog.\"C\" \
                     FOR UPDATE OF s",
                    own("s")
                ),
                &[TEXTARRAYOID],
            ),
            ended: Statement::new(
                &ended_sql(
                    &bound.binding,
                    "AND s.workflow_id OPERATOR(pg_catalog.=) ANY ($2)",
                ),
                &[TIMESTAMPTZOID, TEXTARRAYOID],
            ),
            leave: Statement::new(
                &format!(
                    "DELETE FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) ANY ($1) \
                     RETURNING {}, s.usage_tokens",
                    own("s"),
                    json_sql("s")
                ),
                &[TEXTARRAYOID],
            ),
            // Entries and references keep the ids that they were made with, and so do settlements in an archive, which
            // come back with those of all ids.
            drop_aliases: Statement::new(
                &format!(
                    "DELETE FROM token_balance.workflow_alias AS a \
                     WHERE {} a.family OPERATOR(pg_catalog.=) ANY ($1) \
                     AND NOT EXISTS (SELECT 1 FROM token_balance.archived AS k \
                     WHERE k.binding_id OPERATOR(pg_catalog.=) {number} \
                     AND k.kind OPERATOR(pg_catalog.=) 'settlement' \
                     AND k.archive OPERATOR(pg_catalog.<>) '') \
                     AND a.family OPERATOR(pg_catalog.<>) ALL (SELECT i.family \
                     FROM token_balance.workflow_alias AS i \
                     WHERE {} i.family OPERATOR(pg_catalog.=) ANY ($1) AND ({} OR {} OR {}))",
                    own("a"),
                    own("i"),
                    named("settlement", "s"),
                    named("ledger", "l"),
                    named("reference", "r"),
                ),
                &[TEXTARRAYOID],
            ),
        }
    }
}

/// SQL for the families of workflows whose settlements are all older than $1, stand for no entry of the ledger and no
/// charge in the queue, and account for nothing but usage that is recorded as gone. `more` is about settlements `s`.
///
/// What is all exempt has no time of its own: it is from before the binding's attach, or was exempted later. An account
/// that has got another id has its entries in a row under the old one, so the sums are compared, as `reconcile` does.
fn ended_sql(binding: &Binding, more: &str) -> String {
    let number = binding.spec.number();
    let is_recorded = match &binding.payer {
        Payer::Usage(_) => {
            "pg_catalog.bool_and(pg_catalog.round(s.archived_usage_tokens) \
             OPERATOR(pg_catalog.=) s.usage_tokens::pg_catalog.numeric)"
        }
        // They stand for one usage.
        Payer::Workflow(_) => {
            "pg_catalog.round(pg_catalog.sum(s.archived_usage_tokens)) \
             OPERATOR(pg_catalog.=) pg_catalog.sum(s.usage_tokens)"
        }
    };
    format!(
        "SELECT w.family, pg_catalog.sum(w.settlements) FROM (SELECT COALESCE(f.family, s.workflow_id) AS family, \
         pg_catalog.count(*) AS settlements, \
         pg_catalog.bool_and(COALESCE(s.last_settled_at, d.exempted_at) OPERATOR(pg_catalog.<) $1) AS is_old, \
         {is_recorded} AS is_recorded, \
         pg_catalog.sum(s.charged_tokens) AS charged, \
         pg_catalog.sum(s.archived_charged_tokens) AS archived_charged, \
         pg_catalog.sum(s.refunded_tokens) AS refunded, \
         pg_catalog.sum(s.archived_refunded_tokens) AS archived_refunded \
         FROM token_balance.settlement AS s \
         CROSS JOIN (SELECT GREATEST(b.attached_at, (SELECT pg_catalog.max(e.exempted_at) \
         FROM token_balance.exemption AS e WHERE e.binding_id OPERATOR(pg_catalog.=) b.binding_id)) AS exempted_at \
         FROM token_balance.binding AS b WHERE b.binding_id OPERATOR(pg_catalog.=) {number}) AS d \
         LEFT JOIN token_balance.workflow_alias AS f \
         ON f.binding_id OPERATOR(pg_catalog.=) s.binding_id \
         AND f.workflow_id OPERATOR(pg_catalog.=) s.workflow_id \
         WHERE s.binding_id OPERATOR(pg_catalog.=) {number} {more} \
         GROUP BY 1, s.workflow_id) AS w GROUP BY w.family \
         HAVING pg_catalog.bool_and(w.is_old) AND pg_catalog.bool_and(w.is_recorded) \
         AND pg_catalog.sum(w.charged) OPERATOR(pg_catalog.=) pg_catalog.sum(w.archived_charged) \
         AND pg_catalog.sum(w.refunded) OPERATOR(pg_catalog.=) pg_catalog.sum(w.archived_refunded) \
         ORDER BY w.family COLLATE pg_catalog.\"C\""
    )
}

/// A workflow, by all of the ids that it has had.
struct Family {
    name: String,
    /// In order.
    ids: Vec<String>,
}

/// The families of these names.
fn families(bound: &Bound, names: &[String]) -> Result<Vec<Family>> {
    let outcome = {
        let _owner = bound.run_as_extension();
        let statements = bound.kept::<Statements>();
        statements
            .ids
            .run(&[Arg::TextArray(names)], Snapshot::Latest)?
    };
    let mut ids: HashMap<&str, Vec<String>> = HashMap::new();
    for row in &outcome.rows {
        let of_family = ids.entry(row.text(0)).or_default();
        of_family.push(row.text(1).to_owned());
    }
    Ok(names
        .iter()
        .map(|name| Family {
            name: name.clone(),
            ids: ids.remove(name.as_str()).unwrap_or_default(),
        })
        .collect())
}

fn all_ids(families: &[Family]) -> Vec<String> {
    let ids = families.iter().flat_map(|family| &family.ids);
    ids.cloned().collect()
}

/// Those of which no usage is there. What cannot be read is told, and is there.
fn without_usage(bound: &Bound, mut families: Vec<Family>) -> Result<Vec<Family>> {
    // Sorted over all families, as they are read.
    let mut ids = all_ids(&families);
    ids.sort_unstable();
    let usage = usage::read_or_warn(bound, &ids, &Occasion::Sweep)?;
    let is_there = |usage: &Option<Usage>| !usage.as_ref().is_some_and(Usage::is_empty);
    let used = ids.iter().zip(&usage);
    let used = used.filter(|(_, usage)| is_there(usage));
    let used: HashSet<_> = used.map(|(id, _)| id).collect();
    families.retain(|family| !family.ids.iter().any(|id| used.contains(id)));
    Ok(families)
}

/// Settlements of one binding that may have ended, found a batch at a time.
struct Candidates {
    bound: Rc<Bound>,
    cursor: Cursor,
    found: Vec<Family>,
    is_at_end: bool,
}

impl Candidates {
    fn find(bound: Rc<Bound>, before: TimestampTz) -> Result<Self> {
        // It may show less than it did.
        bound.binding.refuse_replaced_view()?;
        let cursor = Cursor::open(
            bound.binding.accounts.extension_owner,
            &[],
            &ended_sql(&bound.binding, ""),
            &[Arg::OptionalTimestamp(Some(before))],
            Snapshot::Statement,
            Life::Transaction,
        )?;
        Ok(Candidates {
            bound,
            cursor,
            found: Vec::new(),
            is_at_end: false,
        })
    }

    /// Add to what is found until there is `enough`.
    fn gather(&mut self, enough: usize) -> Result<()> {
        while self.found.len() < enough && !self.is_at_end {
            let names = texts(&self.cursor.fetch(BATCH)?, 0);
            self.is_at_end = names.is_empty();
            if !self.is_at_end {
                let families = families(&self.bound, &names)?;
                self.found.extend(without_usage(&self.bound, families)?);
            }
        }
        Ok(())
    }
}

/// Take settlements that have ended, and are older than `before`, out of the table: to `archive`, or for good. At most
/// `max_workflows`, over all bindings that are meant.
///
/// Few are locked singly, all at once before the first one leaves, so that nobody waits for a lock out of order. Where
/// there are more, settlements are locked out to the end of the transaction.
///
/// Errors: as `archive_ledger`; 55000 where the usage is a view that was replaced.
pub(crate) fn archive_settlements(
    name: Option<&str>,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    max_workflows: Option<usize>,
) -> Result<Ended> {
    own::refuse_older_catalog()?;
    // Before any other lock: one that locks settlements out must not wait for one that waits for its turn.
    take_turns();
    let bounds = bindings_locked(Which::Named(name))?.or_warn()?;
    let archive = archive.map(archive_table).transpose()?;
    rename::follow(bounds.iter().map(|bound| &**bound))?;
    let mut all: Vec<_> = bounds
        .into_iter()
        .map(|bound| Candidates::find(bound, before))
        .collect::<Result<_>>()?;
    let mut ended = Ended {
        archive: archive.as_ref().map(|it| it.table.sql.clone()),
        ..Ended::default()
    };
    let mut room = max_workflows.unwrap_or(BATCH);
    let mut is_more = false;
    for candidates in &mut all {
        candidates.gather(room + 1)?;
        is_more |= candidates.found.len() > room;
        if max_workflows.is_some() {
            candidates.found.truncate(room);
        }
        room = room.saturating_sub(candidates.found.len());
    }
    ended.more = is_more && max_workflows.is_some();
    let goes_on = is_more && max_workflows.is_none();
    {
        let ids: Vec<_> = all.iter().flat_map(|it| all_ids(&it.found)).collect();
        let bindings: Vec<_> = all.iter().map(|it| &it.bound.binding).collect();
        match goes_on {
            true => lock_out_all(&bindings),
            false => lock_taken_away(&ids, &bindings),
        }
    }
    for mut candidates in all {
        loop {
            let found = std::mem::take(&mut candidates.found);
            for batch in found.chunks(BATCH) {
                end(
                    &candidates.bound,
                    before,
                    archive.as_ref(),
                    batch,
                    &mut ended,
                )?;
            }
            if !goes_on || candidates.is_at_end {
                break;
            }
            candidates.gather(BATCH)?;
        }
        candidates.cursor.close()?;
    }
    Ok(ended)
}

/// The table, if it can hold settlements and the caller owns it.
pub(crate) fn archive_table(archive: pg_sys::Oid) -> Result<ArchiveTable> {
    ArchiveTable::locked(archive, SETTLEMENTS, archived_columns())
}

/// End those of the locked families that have ended still.
fn end(
    bound: &Bound,
    before: TimestampTz,
    archive: Option<&ArchiveTable>,
    locked: &[Family],
    ended: &mut Ended,
) -> Result<()> {
    let names: Vec<_> = locked.iter().map(|family| family.name.clone()).collect();
    // An id that has come meanwhile is not locked.
    let present = families(bound, &names)?.into_iter().zip(locked);
    let present = present.filter(|(now, before)| now.ids == before.ids);
    let mut families = without_usage(bound, present.map(|(now, _)| now).collect())?;
    let left = leave(bound, before, &mut families)?;
    if left.is_empty() {
        return Ok(());
    }
    // What has left by now: an archive's triggers may settle, too.
    if let Some(archive) = archive {
        let json = format!("[{}]", texts(&left, 0).join(","));
        let _owner = archive.run_as_owner();
        let written = spi::query(&archive_sql(&archive.table.sql), &[Arg::Text(&json)])?;
        archive.all(written.processed as usize, left.len())?;
    }
    let mut tokens = 0;
    for row in &left {
        tokens += row.amount::<i128>(1)?;
    }
    let actor = actor();
    let _owner = bound.run_as_extension();
    if archive.is_none() {
        let names: Vec<_> = families.iter().map(|family| family.name.clone()).collect();
        let statements = bound.kept::<Statements>();
        statements
            .drop_aliases
            .run(&[Arg::TextArray(&names)], Snapshot::Latest)?;
    }
    ended.workflows += families.len();
    ended.settlements += left.len();
    Left {
        binding: bound.binding.spec.number(),
        kind: Kind::Settlement,
        archive: archive.map_or("", |archive| &archive.table.sql),
        before: Some(before),
        rows: left.len(),
        tokens: &ExactSum::from(tokens),
    }
    .remember(&actor)
}

/// Delete the settlements of those of the families that have ended, which alone stay in `families`: the rows, as JSON, and
/// what each accounted for.
fn leave(bound: &Bound, before: TimestampTz, families: &mut Vec<Family>) -> Result<Vec<Row>> {
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    let ids = all_ids(families);
    let locked = statements
        .lock
        .run(&[Arg::TextArray(&ids)], Snapshot::Latest)?;
    let args = [Arg::OptionalTimestamp(Some(before)), Arg::TextArray(&ids)];
    let ended = statements.ended.run(&args, Snapshot::Latest)?;
    let mut counts = HashMap::new();
    for row in &ended.rows {
        counts.insert(row.text(0), row.amount::<usize>(1)?);
    }
    let locked: HashMap<_, usize> = locked.rows.iter().fold(HashMap::new(), |mut all, row| {
        *all.entry(row.text(0)).or_default() += 1;
        all
    });
    let locked_of = |family: &Family| -> usize {
        let of_ids = family.ids.iter().filter_map(|id| locked.get(id.as_str()));
        of_ids.sum()
    };
    // An account that has got another id meanwhile has rows that are not locked.
    families.retain(|family| counts.get(family.name.as_str()) == Some(&locked_of(family)));
    let Some(first) = families.first() else {
        return Ok(Vec::new());
    };
    let locked = families.iter().map(locked_of).sum();
    let ids = all_ids(families);
    let left = statements
        .leave
        .run(&[Arg::TextArray(&ids)], Snapshot::Latest)?;
    if left.rows.len() > locked {
        return Err(Error::ConcurrentSettlement {
            workflow: first.name.clone(),
        });
    }
    all(SETTLEMENTS, left.rows.len(), locked, SETTLEMENTS)?;
    Ok(left.rows)
}

/// The same of one binding, with a commit a batch. Each batch looks at the binding and the archive again.
pub(super) fn archive_backlog(
    name: &str,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    batch_size: usize,
    commits: MayCommit,
) -> Result<()> {
    let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Ok(());
    };
    bound.binding.refuse_replaced_view()?;
    let mut steps = Steps::begin(
        format!("settlements of {name}"),
        (bound.binding.accounts.extension_owner, &[]),
        &ended_sql(&bound.binding, ""),
        &[Arg::OptionalTimestamp(Some(before))],
    )?;
    drop(bound);
    commits.commit()?;
    let mut ended = Ended::default();
    loop {
        let read = in_memory_of_its_own(|| {
            let names = texts(&steps.next(batch_size.min(BATCH))?, 0);
            end_batch(name, before, archive, &names, &mut ended)?;
            Ok(names.len())
        })?;
        if read == 0 {
            break;
        }
        commits.commit()?;
        steps.tell(read, format!("{} settlements so far.", ended.settlements));
    }
    steps.end()
}

/// End those of these families that have ended, in a transaction of its own.
fn end_batch(
    name: &str,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    names: &[String],
    ended: &mut Ended,
) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    take_turns();
    let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Ok(());
    };
    bound.binding.refuse_replaced_view()?;
    let archive = archive.map(archive_table).transpose()?;
    let families = without_usage(&bound, families(&bound, names)?)?;
    lock_taken_away(&all_ids(&families), &[&bound.binding]);
    end(&bound, before, archive.as_ref(), &families, ended)
}
