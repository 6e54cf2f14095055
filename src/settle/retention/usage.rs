//! `token_balance.archive_usage`: old usage rows of workflows that are settled to the last token leave.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use pgrx::pg_sys::{self, TimestampTz};

use super::old::{
    follow_renamed, is_older_sql, is_owned_sql, partition_settled, refuse_shared, time_of,
};
use super::record::{self, Kind, Left};
use super::steps::Steps;
use super::table::TableRows;
use super::usage_archive::UsageArchive;
use super::view::RowsBelow;
use crate::binding::{
    Binding, Bound, DeletedUsage, LateSource, LateUsage, Which, bindings_locked, bound, source_told,
};
use crate::error::{Error, Result};
use crate::ledger::change::actor;
use crate::postgres::commit::MayCommit;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::value::{Arg, texts};
use crate::settle::claim::read_settled;
use crate::settle::lock::{has_room_for, lock_out_all, lock_taken_away};
use crate::settle::sweep::in_memory_of_its_own;

/// Workflows whose rows leave at a time. A transaction with so many holds a lock on each of them.
const BATCH: usize = 1_000;

/// What left.
#[derive(Default)]
pub(crate) struct Archived {
    /// Workflows of which rows left.
    pub(crate) workflows: usize,
    pub(crate) rows: usize,
    pub(crate) tokens: ExactSum,
    /// Rows among them that name no workflow, or no account where the usage names them: of a partition.
    pub(crate) unowned: usize,
    /// Workflows that have old rows, and are not settled to the last token: theirs stay.
    pub(crate) unsettled: usize,
    /// The table that has them; empty if they are gone for good.
    pub(crate) archive: String,
    /// Whether there may be more, since max_workflows was reached.
    pub(crate) more: bool,
}

/// Move the rows that are older than `before`, by the usage's own time, of workflows that are settled to the last token,
/// to the table `archive`, or delete them. In this transaction; at most those of `max_workflows`.
///
/// Of up to 1,024 workflows, with those that the transaction has locked, each is locked. Of more, all settlements of these accounts wait until
/// the transaction ends.
///
/// Errors: 22023 where the usage has no time, 0A000 where it is a view; 42P01, 42809, 42P16 and 42501 for an archive that
/// cannot take the rows, 27000 for one that does not, 40001 to be retried.
pub(crate) fn archive_usage(
    name: Option<&str>,
    request: Request,
    max_workflows: Option<usize>,
) -> Result<Archived> {
    let found = bound(name)?;
    let name = found.name().to_owned();
    follow_renamed(&name)?;
    source_of(&found, request.below)?;
    found.follow();
    let old = Cursor::open(
        found.binding.usage.owner,
        &[found.binding.usage.oid],
        &old_sql(&found.binding)?,
        &[Arg::OptionalTimestamp(Some(request.before))],
        Snapshot::Statement,
        Life::Transaction,
    )?;
    let (mut workflows, mut unsettled) = (BTreeSet::new(), 0);
    let most = max_workflows.unwrap_or(usize::MAX);
    while workflows.len() < most {
        let some = texts(&old.fetch(BATCH.min(most - workflows.len()))?, 0);
        if some.is_empty() {
            break;
        }
        // Those that stay do not count, or they would stand in the way for ever.
        let (settled, others) = match max_workflows {
            Some(_) => partition_settled(&found, some)?,
            None => (some, 0),
        };
        unsettled += others;
        workflows.extend(settled);
    }
    let is_more = workflows.len() >= most && !old.fetch(1)?.is_empty();
    old.close()?;
    let workflows: Vec<_> = workflows.into_iter().collect();
    let left = leave(&name, request, &workflows)?.ok_or(Error::NotAttached)?;
    Ok(Archived {
        unsettled: unsettled + left.unsettled,
        more: is_more,
        ..left
    })
}

/// Lock these workflows of a binding, which are sorted, and take their old rows away, as far as they are settled. None where
/// the binding is detached by now.
fn leave(name: &str, request: Request, workflows: &[String]) -> Result<Option<Archived>> {
    if !has_room_for(workflows.len()) {
        // Before this transaction locks the table as a settlement does.
        lock_out_all(&[&bound(Some(name))?.binding]);
    }
    let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Ok(None);
    };
    let leaving = Leaving::new(&bound, request)?;
    leaving.lock_rows(workflows)?;
    lock_taken_away(workflows, &[&bound.binding]);
    let mut archived = Archived::default();
    for workflows in workflows.chunks(BATCH) {
        leaving.take(workflows, &mut archived)?;
    }
    leaving.remember(&archived)?;
    archived.archive = leaving.archive_name().to_owned();
    Ok(Some(archived))
}

/// The same of one binding, with a commit after each `batch_size` workflows. It may be stopped and called again: what is
/// committed has left, the rest is found again.
pub(super) fn archive_backlog(
    name: &str,
    request: Request,
    batch_size: usize,
    commits: MayCommit,
) -> Result<()> {
    let found = bound(Some(name))?;
    source_of(&found, request.below)?;
    let binding = &found.binding;
    found.follow();
    let mut steps = Steps::begin(
        format!("workflows of {name} with old usage"),
        (binding.usage.owner, &[binding.usage.oid]),
        &old_sql(binding)?,
        &[Arg::OptionalTimestamp(Some(request.before))],
    )?;
    drop(found);
    commits.commit()?;
    let mut archived = Archived::default();
    loop {
        let read = in_memory_of_its_own(|| {
            let workflows = texts(&steps.next(batch_size)?, 0);
            let read = workflows.len();
            archive_batch(name, request, workflows, &mut archived)?;
            Ok(read)
        })?;
        if read == 0 {
            break;
        }
        commits.commit()?;
        let told = format!(
            "{} rows of {} workflows so far; {} workflows are not settled to the last token.",
            archived.rows, archived.workflows, archived.unsettled
        );
        steps.tell(read, told);
    }
    steps.end()
}

/// Each transaction looks at the binding and the archive again: they may have been changed between two.
fn archive_batch(
    name: &str,
    request: Request,
    mut workflows: Vec<String>,
    archived: &mut Archived,
) -> Result<()> {
    if workflows.is_empty() {
        return Ok(());
    }
    workflows.sort_unstable();
    if let Some(left) = leave(name, request, &workflows)? {
        archived.workflows += left.workflows;
        archived.rows += left.rows;
        archived.tokens.add(&left.tokens);
        archived.unsettled += left.unsettled;
    }
    Ok(())
}

/// Of usage that is a view, the table whose rows leave: as it is told, or the only one that `late_usage_on` names. None for a
/// table.
///
/// Errors: 0A000 for usage that several bindings have, and for a view where no table is named; 22023 for one that is not the
/// view's, 55000 for a view that was replaced.
fn source_of(bound: &Bound, below: Option<&str>) -> Result<Option<LateSource>> {
    let binding = &bound.binding;
    binding.refuse_replaced_view()?;
    let source = match (&binding.usage_view, below, &binding.late_sources[..]) {
        (_, Some(told), _) => Some(source_told(binding, told, "usage_table")?),
        (Some(_), None, [only]) => Some(only.clone()),
        (Some(_), None, _) => {
            return Err(Error::ArchiveOfView {
                relation: binding.usage.sql.clone(),
                detail: "Which of the tables below it the rows leave, is not said.".into(),
            });
        }
        (None, None, _) => None,
    };
    refuse_shared(source.as_ref().map_or(&binding.usage, |it| &it.table))?;
    Ok(source)
}

/// The workflows that have rows from before $1. Error 22023 where the usage has no time.
fn old_sql(binding: &Binding) -> Result<String> {
    Ok(format!(
        "SELECT u.{workflow}::pg_catalog.text FROM {usage} AS u WHERE {is_owned} AND {is_older} GROUP BY u.{workflow}",
        workflow = binding.usage_workflow.sql(),
        usage = binding.usage.sql,
        is_owned = is_owned_sql(binding),
        is_older = is_older_sql(&time_of(binding)?, "$1"),
    ))
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) before: TimestampTz,
    pub(crate) archive: Option<pg_sys::Oid>,
    /// Of usage that is a view: the table whose rows leave, as `late_usage_on` names one.
    pub(crate) below: Option<&'a str>,
}

enum Way {
    Table(Box<TableRows>),
    View(Box<RowsBelow>),
}

/// How old usage leaves.
struct Leaving<'a> {
    bound: &'a Bound,
    before: TimestampTz,
    archive: Option<UsageArchive>,
    way: Way,
}

impl<'a> Leaving<'a> {
    fn new(bound: &'a Rc<Bound>, request: Request) -> Result<Self> {
        let binding = &bound.binding;
        let source = source_of(bound, request.below)?;
        let time = time_of(binding)?;
        let table = source.as_ref().map_or(&binding.usage, |it| &it.table);
        let archive = match request.archive {
            Some(archive) => Some(UsageArchive::of(archive, table)?),
            None => None,
        };
        let way = match source {
            Some(source) => Way::View(Box::new(RowsBelow { source, time })),
            None => Way::Table(Box::new(TableRows::new(binding, &time, archive.as_ref()))),
        };
        Ok(Leaving {
            bound,
            before: request.before,
            archive,
            way,
        })
    }

    fn archive_name(&self) -> &str {
        self.archive
            .as_ref()
            .map_or("", |archive| &archive.table.sql)
    }

    /// Whoever changes a row, and settles by it at once, has the row before he locks the workflow: so do we then.
    fn lock_rows(&self, workflows: &[String]) -> Result<()> {
        let options = &self.bound.binding.spec.options;
        let is_watched = options.late_usage == LateUsage::Settle
            || options.deleted_usage == DeletedUsage::Record;
        for workflows in workflows.chunks(BATCH).filter(|_| is_watched) {
            match &self.way {
                Way::Table(rows) => rows.lock(self.bound, self.before, workflows)?,
                Way::View(rows) => rows.lock_old(self.bound, self.before, workflows)?,
            }
        }
        Ok(())
    }

    /// Take away the old rows of locked workflows, which are sorted, as far as they are settled.
    fn take(&self, workflows: &[String], archived: &mut Archived) -> Result<()> {
        let (bound, archive) = (self.bound, self.archive.as_ref());
        let found = match &self.way {
            Way::Table(rows) => rows.take(bound, self.before, archive, workflows)?,
            Way::View(rows) => rows.take(bound, self.before, archive, workflows)?,
        };
        let settled = read_settled(bound, workflows)?;
        let settled: HashMap<_, _> = workflows.iter().zip(&settled).collect();
        let with_settled = found.taken.iter();
        let with_settled = with_settled.map(|taken| (taken, settled[&taken.workflow]));
        record::add_to_settlements(bound, with_settled)?;
        if let Some(deleted) = found.deleted {
            deleted.record_but(bound.binding.spec.number(), &found.taken)?;
        }
        let mut left: Vec<_> = found.taken.iter().map(|taken| &taken.workflow).collect();
        left.sort_unstable();
        left.dedup();
        archived.workflows += left.len();
        archived.rows += found.rows;
        archived.unsettled += found.unsettled;
        for taken in &found.taken {
            archived.tokens.add(&taken.tokens);
        }
        Ok(())
    }

    fn remember(&self, archived: &Archived) -> Result<()> {
        let actor = actor();
        let _owner = self.bound.run_as_extension();
        let left = Left {
            binding: self.bound.binding.spec.number(),
            kind: Kind::Usage,
            archive: self.archive_name(),
            before: Some(self.before),
            rows: archived.rows,
            tokens: &archived.tokens,
        };
        left.remember(&actor)
    }
}
