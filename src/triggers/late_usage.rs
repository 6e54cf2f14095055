//! Late usage, `attach(late_usage => 'settle')`: usage that is written, or changed, after its workflow was settled
//! is charged at once, by triggers on the usage table.
//!
//! Usage may be written while its workflow is being settled, each transaction blind to the other's
//! rows. So a writer of usage shares a lock on the workflow to the end of its transaction, and a
//! settlement takes it alone: either the settlement waits and sees the row, or the writer waits and
//! sees that the workflow is settled.
//!
//! As with completions, the first event of a statement settles what all of its rows have noted
//! (`notes`): row by row, the accounts of one workflow would be held while the lock of the next
//! is waited for.
//!
//! An UPDATE counts if it changes the workflow, the account or the tokens. Its trigger can say so neither by a column
//! list nor by a condition on columns, since nobody could alter their types then: the function in its condition reads
//! the row where it is stored, as it was and as it is now.

use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::PgLogLevel;
use pgrx::pg_sys::{self, TEXTARRAYOID};
use pgrx::prelude::*;

use super::notes::{Row, is_done, note, read_noted, remember_done, take_noted};
use crate::binding::{
    Binding, Bound, Kept, LateSource, Spec, Which, bindings, bindings_and_workflows_locked,
    bindings_locked, bindings_unlocked, is_part_of,
};
use crate::counters::Counter;
use crate::error::{Error, Result};
use crate::postgres::lock::is_written;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::stored_row::{RowPlace, StoredRows};
use crate::postgres::subtransaction::unless_data_exception;
use crate::postgres::trigger::{TriggerCall, trigger_function};
use crate::postgres::value::{Arg, texts};
use crate::settle::lock::lock_written;
use crate::settle::occasion::Occasion;
use crate::settle::old_usage::tell_of_old_usage;
use crate::settle::over::is_over;
use crate::settle::rename;
use crate::settle::settle;
use crate::settle::usage::shown_sql;
use crate::settle::work::Work;

struct Statements {
    /// The workflows of rows, where the usage is a view: one for each table whose rows it shows.
    shown: Vec<Statement>,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let binding = &bound.binding;
        Statements {
            shown: binding
                .late_sources
                .iter()
                .map(|source| {
                    Statement::new(&shown_sql(binding, source, "$1"), &[TEXTARRAYOID])
                        .of(&[binding.usage.oid])
                })
                .collect(),
        }
    }
}

trigger_function!(
    settle_late_usage_wrapper,
    pg_finfo_settle_late_usage_wrapper,
    "token_balance.settle_late_usage",
    settle_late_usage
);

/// `token_balance.note_update(oid, tid, tid)`, the whole WHEN condition of the trigger for updated usage: whether the
/// UPDATE of a row of this table, from one place to the other, has changed a column that is bound; if so, the row is
/// noted.
///
/// Every writer of usage evaluates it, so everybody may call it. It reads only what the transaction itself has written,
/// and what that was before; what is noted is settled only if its workflow is over.
#[pg_extern(sql = false)]
fn note_update(
    table: Option<pg_sys::Oid>,
    old: Option<pg_sys::ItemPointerData>,
    new: Option<pg_sys::ItemPointerData>,
) -> bool {
    let (Some(table), Some(old), Some(new)) = (table, old, new) else {
        return false;
    };
    let row = Row {
        place: RowPlace::new(table, new),
        before: Some(RowPlace::new(table, old)),
    };
    let is_to_fire = may_change_usage(&row);
    if is_to_fire {
        note(row);
    }
    is_to_fire
}

/// False if it surely does not; the trigger looks again, and says what is wrong.
fn may_change_usage(row: &Row) -> bool {
    let table = row.place.table;
    // A table that nobody writes was named by hand, and is not to be locked.
    if !is_written(table) {
        return true;
    }
    let Ok(found) = bindings_unlocked(Which::OfLateUsage(table)) else {
        return true;
    };
    let Some(before) = row.before else {
        return true;
    };
    let mut rows = StoredRows::of(table);
    match rows.updated_by_this_transaction(&row.place, &before) {
        Some((new, Some(old))) => {
            let changes = |column: &str| old.text(column) != new.text(column);
            let whole = found.whole.iter().map(|bound| &bound.binding.spec);
            let mut specs = whole.chain(found.broken.iter().map(|(spec, _)| spec));
            specs.any(|spec| is_usage_changed(spec, changes))
        }
        _ => true,
    }
}

/// Whether one of the columns changes that a charge depends on.
fn is_usage_changed(spec: &Spec, changes: impl Fn(&str) -> bool) -> bool {
    let mut columns = std::iter::once(&spec.usage_workflow)
        .chain(&spec.usage_user)
        .chain(&spec.usage_tokens);
    columns.any(|column| changes(column))
}

/// Trigger on a usage table, AFTER INSERT OR UPDATE FOR EACH ROW: settle the row's workflow if that is over, and the one
/// that it was taken from, and with them those of all rows that are noted, in all bindings of the table.
///
/// A charge that is bad (unknown account, out of range) is a WARNING and stays unsettled; so is usage of a binding whose
/// workflow table, say, is gone, and the others settle. Errors: 39P01 if fired otherwise, 42809 on any other table,
/// 55000 if nothing is attached.
fn settle_late_usage(call: &TriggerCall) -> Result<()> {
    let row = call.row()?;
    if is_done(&row.place()) {
        return Ok(());
    }
    let late = Which::OfLateUsage(call.relation());
    let mut found = bindings_and_workflows_locked(late)?;
    // What a view reads keeps still while it is read.
    if found
        .whole
        .iter()
        .any(|bound| bound.binding.usage_view.is_some())
    {
        found = bindings(late)?;
    }
    if found.is_empty() {
        return match bindings_unlocked(Which::OfUsage(call.relation()))?.is_empty() {
            // One that a view has left.
            true if call.has_arguments() => Ok(()),
            true => Err(call.foreign()),
            false => Ok(()),
        };
    }
    let bounds = found.whole_or_warn()?;
    let root = match bounds.first() {
        Some(first) => match first.binding.late_source(call.relation())? {
            Some(source) => source.table.oid,
            None => first.binding.usage.oid,
        },
        None => call.relation(),
    };
    let also = take_noted(&row.place(), |table| is_part_of(table, root))?;
    let mut written = Vec::with_capacity(bounds.len());
    for bound in &bounds {
        let mut changes = Changes::default();
        if let Some(source) = bound.binding.late_source(call.relation())? {
            let key = &source.key.name;
            let mut keys = BTreeSet::from_iter(row.new_text(key));
            read_noted(&also, |row, _| keys.extend(row.text(key)));
            changes.inserted = shown(bound, source, &keys, Snapshot::Latest)?;
            if row.old_place().is_some() {
                // Where they were: the statement itself does not see what it has written.
                changes
                    .inserted
                    .extend(shown(bound, source, &keys, Snapshot::Caller)?);
            }
            written.push(changes);
            continue;
        }
        let old_text = |column: &str| row.old_text(column);
        let old: Option<ReadColumn> = row.old_place().is_some().then_some(&old_text);
        changes.add(&bound.binding, old, &|column| row.new_text(column));
        read_noted(&also, |row, old| {
            let old_text = |column: &str| old.and_then(|old| old.text(column));
            let old: Option<ReadColumn> = old.is_some().then_some(&old_text);
            changes.add(&bound.binding, old, &|column| row.text(column));
        });
        written.push(changes);
    }
    if rename::is_any_noted() && written.iter().any(|changes| !changes.updated.is_empty()) {
        let found = bindings_locked(late)?;
        rename::follow(found.whole.iter().map(|bound| &**bound))?;
    }
    let written = bounds.iter().zip(written);
    let written = written.map(|(bound, changes)| Written::of(bound, changes.workflows(bound)));
    settle_what_is_over(written.collect::<Result<_>>()?)?;
    remember_done(also);
    Ok(())
}

/// The workflows under which the usage view shows rows of a table. What it cannot compute waits for the sweep, with a
/// warning.
fn shown(
    bound: &Bound,
    source: &LateSource,
    keys: &BTreeSet<String>,
    snapshot: Snapshot,
) -> Result<BTreeSet<String>> {
    let statements = bound.kept::<Statements>();
    let mut all = bound.binding.late_sources.iter().zip(&statements.shown);
    let Some((_, statement)) = all.find(|(one, _)| *one == source) else {
        return Ok(BTreeSet::new());
    };
    let keys: Vec<_> = keys
        .iter()
        .filter_map(|key| source.key_type.canonical(key))
        .collect();
    let _owner = bound.run_as(bound.binding.usage.owner);
    let found = unless_data_exception(|| statement.run(&[Arg::TextArray(&keys)], snapshot))?;
    match found {
        Ok(outcome) => Ok(texts(&outcome.rows, 0).into_iter().collect()),
        Err(said) => {
            let error = Error::UnreadableUsage {
                usage: format!("usage in {}", source.table.sql),
                relation: bound.binding.usage.sql.clone(),
                said,
            };
            error.report(PgLogLevel::WARNING);
            Ok(BTreeSet::new())
        }
    }
}

/// The text of a row's column.
type ReadColumn<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a statement has written, for one binding.
#[derive(Default)]
struct Changes {
    /// The workflows of rows that are new.
    inserted: BTreeSet<String>,
    /// Of rows that were changed: the workflow before, and now.
    updated: BTreeSet<(Option<String>, Option<String>)>,
}

impl Changes {
    /// Add a row; `old` is what it was before an UPDATE.
    fn add(&mut self, binding: &Binding, old: Option<ReadColumn>, new: ReadColumn) {
        let workflow = &binding.usage_workflow.column.name;
        let Some(old) = old else {
            self.inserted.extend(new(workflow));
            return;
        };
        if is_usage_changed(&binding.spec, |column| old(column) != new(column)) {
            self.updated.insert((old(workflow), new(workflow)));
        }
    }

    /// The workflows that may have to be settled. Usage that is taken, row by row, to the id that its workflow has got in
    /// this transaction is no new usage: what was charged under the old id comes with the last row.
    fn workflows(self, bound: &Bound) -> Vec<String> {
        let key_type = bound.binding.usage_workflow.key_type;
        let canonical = |id: &Option<String>| id.as_ref().and_then(|id| key_type.canonical(id));
        let awaited = rename::awaited(bound.binding.spec.number());
        let is_awaited = |(old, new): &(Option<String>, Option<String>)| {
            let ids = canonical(old).zip(canonical(new));
            ids.is_some_and(|ids| awaited.contains(&ids))
        };
        let mut workflows = self.inserted;
        for ids in self.updated {
            if awaited.is_empty() || !is_awaited(&ids) {
                workflows.extend(ids.0);
                workflows.extend(ids.1);
            }
        }
        workflows.into_iter().collect()
    }
}

/// Workflows whose usage was written, of one binding.
struct Written {
    bound: Rc<Bound>,
    over: Vec<String>,
    open: Vec<String>,
}

impl Written {
    fn of(bound: &Rc<Bound>, workflows: Vec<String>) -> Result<Self> {
        // One alone is mostly open, and has no order.
        let (over, open) = match workflows.len() {
            0 | 1 => (Vec::new(), workflows),
            _ => partition_over(bound, workflows)?,
        };
        Ok(Written {
            bound: bound.clone(),
            over,
            open,
        })
    }

    /// Those that are over by now join the others that are. Whether there is any.
    fn look_again(&mut self) -> Result<bool> {
        let (late, still_open) = partition_over(&self.bound, std::mem::take(&mut self.open))?;
        self.open = still_open;
        let is_any = !late.is_empty();
        self.over.extend(late);
        Ok(is_any)
    }
}

/// All locks are taken in the order that everybody keeps, before anything is settled: those of
/// workflows that are over as a settlement takes them. Where one has been completed by the time that
/// its lock was granted, they are all taken again, or one would be waited for out of order.
fn settle_what_is_over(mut written: Vec<Written>) -> Result<()> {
    loop {
        let over = || written.iter().flat_map(|it| &it.over);
        let open = || written.iter().flat_map(|it| &it.open);
        let locks = lock_written(over(), open());
        let mut is_any_late = false;
        for written in &mut written {
            is_any_late |= written.look_again()?;
        }
        if !is_any_late {
            break;
        }
        locks.release();
    }
    written.retain(|written| !written.over.is_empty());
    if written.is_empty() {
        return Ok(());
    }
    let numbers = written.iter().map(|it| it.bound.binding.spec.number());
    let numbers: Vec<_> = numbers.collect();
    let bounds = bindings_locked(Which::Numbered(&numbers))?.whole_or_warn()?;
    let mut works = Vec::with_capacity(bounds.len());
    for bound in bounds {
        let number = bound.binding.spec.number();
        let of_binding = |written: &&Written| written.bound.binding.spec.number() == number;
        let workflows = written.iter().find(of_binding);
        let workflows = workflows.map_or_else(Vec::new, |written| written.over.clone());
        tell_of_old_usage(&bound, &workflows)?;
        works.push(Work {
            bound,
            workflows,
            occasion: Occasion::Sweep,
        });
    }
    settle(works, Counter::ByLateUsage).map(drop)
}

/// Workflows that are over, and others.
fn partition_over(bound: &Bound, workflows: Vec<String>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut over, mut open) = (Vec::new(), Vec::new());
    for workflow in workflows {
        if is_over(bound, &workflow)? {
            over.push(workflow);
        } else {
            open.push(workflow);
        }
    }
    Ok((over, open))
}
