//! `token_balance.archive_usage`: old usage rows of workflows that are settled to the last token leave.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Instant;

use pgrx::pg_sys::{self, TEXTARRAYOID, TIMESTAMPTZOID, TimestampTz};

use super::archive_table::ArchiveTable;
use super::follow_renamed;
use super::record::{self, Kind, Left, TakenAway};
use crate::binding::{
    Binding, Bound, Payer, Which, bindings_locked, bindings_unlocked, bound, lock_out_settlements,
};
use crate::error::{Error, Result};
use crate::ledger::change::actor;
use crate::postgres::catalog::Column;
use crate::postgres::commit::MayCommit;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::notice::notice;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, texts};
use crate::settle::claim::{Accounted, read_settled, unaccounted};
use crate::settle::lock::lock_workflows;
use crate::settle::usage::{self, Usage};

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
/// Of up to 1,000 workflows each is locked, as a settlement locks it. Of more, all settlements of these accounts wait until
/// the transaction ends.
///
/// Errors: 22023 where the usage has no time, 0A000 where it is a view; 42P01, 42809, 42P16 and 42501 for an archive that
/// cannot take the rows, 27000 for one that does not, 40001 to be retried.
pub(crate) fn archive_usage(
    name: Option<&str>,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    max_workflows: Option<usize>,
) -> Result<Archived> {
    let found = bound(name)?;
    let name = found.name().to_owned();
    follow_renamed(&name)?;
    let time = time_of(&found)?;
    let mut archived = Archived::default();
    let old = Old::open(&found, &time, before, Life::Transaction)?;
    let mut workflows = BTreeSet::new();
    let most = max_workflows.unwrap_or(usize::MAX);
    while workflows.len() < most {
        let some = old.next(BATCH.min(most - workflows.len()))?;
        if some.is_empty() {
            break;
        }
        let (settled, unsettled) = partition_settled(&found, some)?;
        archived.unsettled += unsettled;
        workflows.extend(settled);
    }
    archived.more = workflows.len() >= most && !old.next(1)?.is_empty();
    old.0.close()?;
    if workflows.len() > BATCH {
        lock_out_settlements(found.binding.accounts.users.oid);
    }
    let mut bounds = bindings_locked(Which::Named(Some(&name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Err(Error::NotAttached);
    };
    let leaving = Leaving::new(&bound, before, archive)?;
    let workflows: Vec<_> = workflows.into_iter().collect();
    lock_workflows(workflows.iter(), true);
    for workflows in workflows.chunks(BATCH) {
        leaving.take(workflows, &mut archived)?;
    }
    leaving.remember(&archived)?;
    archived.archive = leaving.archive_name().to_owned();
    Ok(archived)
}

/// The same of the binding, or of all, with a commit after each `batch_size` workflows. It may be stopped and called
/// again: what is committed has left, the rest is found again.
pub(crate) fn archive_backlog(
    name: Option<&str>,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    batch_size: usize,
    commits: MayCommit,
) -> Result<()> {
    if let Some(left_over) = LEFT_OVER.take() {
        left_over.close()?;
    }
    let bounds = bindings_unlocked(Which::Named(name))?.or_warn()?;
    let names: Vec<_> = bounds.iter().map(|bound| bound.name().to_owned()).collect();
    drop(bounds);
    for name in &names {
        archive_backlog_of(name, before, archive, batch_size, commits)?;
    }
    Ok(())
}

thread_local! {
    /// The cursor of a backlog that was cancelled: it outlives its transaction.
    static LEFT_OVER: RefCell<Option<Cursor>> = const { RefCell::new(None) };
}

fn archive_backlog_of(
    name: &str,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    batch_size: usize,
    commits: MayCommit,
) -> Result<()> {
    let started = Instant::now();
    let found = bound(Some(name))?;
    let time = time_of(&found)?;
    let old = Old::open(&found, &time, before, Life::Session)?;
    let total = old.0.count()?;
    drop(found);
    LEFT_OVER.set(Some(old.0.clone()));
    commits.commit()?;
    let mut archived = Archived::default();
    let mut done = 0;
    loop {
        let workflows = old.next(batch_size)?;
        if workflows.is_empty() {
            break;
        }
        done += workflows.len();
        archive_batch(name, before, archive, workflows, &mut archived)?;
        commits.commit()?;
        tell_progress(&archived, done, total, started);
    }
    LEFT_OVER.take();
    old.0.close()
}

/// Each transaction looks at the binding and the archive again: they may have been changed between two.
fn archive_batch(
    name: &str,
    before: TimestampTz,
    archive: Option<pg_sys::Oid>,
    mut workflows: Vec<String>,
    archived: &mut Archived,
) -> Result<()> {
    workflows.sort_unstable();
    if workflows.len() > BATCH {
        lock_out_settlements(bound(Some(name))?.binding.accounts.users.oid);
    }
    let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Ok(());
    };
    let leaving = Leaving::new(&bound, before, archive)?;
    lock_workflows(workflows.iter(), true);
    let mut of_batch = Archived::default();
    leaving.take(&workflows, &mut of_batch)?;
    leaving.remember(&of_batch)?;
    archived.workflows += of_batch.workflows;
    archived.rows += of_batch.rows;
    archived.tokens.add(&of_batch.tokens);
    archived.unsettled += of_batch.unsettled;
    Ok(())
}

fn tell_progress(archived: &Archived, done: usize, total: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64().max(0.001);
    notice(
        format!(
            "usage of {done} workflows looked at, {} left, {:.0} per second",
            total.saturating_sub(done),
            done as f64 / seconds
        ),
        Some(format!(
            "{} rows of {} workflows have left so far; {} are not settled to the last token.",
            archived.rows, archived.workflows, archived.unsettled
        )),
        None,
    );
}

/// Error 0A000 for usage that is a view, or that several bindings have: what leaves would have to be noted in all of them.
/// Error 55000 for a view that was replaced.
pub(super) fn refuse_shared(bound: &Bound) -> Result<()> {
    let binding = &bound.binding;
    binding.refuse_replaced_view()?;
    let relation = binding.usage.sql.clone();
    if binding.usage_view.is_some() {
        return Err(Error::ArchiveOfView { relation });
    }
    let found = bindings_unlocked(Which::OfUsage(binding.usage.oid))?;
    let broken = found.broken.into_iter().map(|(spec, _)| spec.name);
    let whole = found.whole.iter().map(|bound| bound.name().to_owned());
    let names: Vec<_> = whole.chain(broken).collect();
    match names.len() {
        0 | 1 => Ok(()),
        _ => Err(Error::ArchiveOfShared { relation, names }),
    }
}

/// The column by which usage is old. Errors: 22023 where there is none, and as [`refuse_shared`].
fn time_of(bound: &Bound) -> Result<Column> {
    refuse_shared(bound)?;
    let binding = &bound.binding;
    let time = binding.details.created_at.clone();
    time.ok_or_else(|| without_time(binding))
}

pub(super) fn without_time(binding: &Binding) -> Error {
    Error::InvalidArgument {
        message: format!("the usage in {} has no time", binding.usage.sql),
        detail: None,
        hint: Some("Name its column in attach: usage_created_at.".into()),
    }
}

/// SQL for "the usage row u is older than this".
pub(super) fn is_older_sql(time: &Column, before: &str) -> String {
    format!(
        "u.{} OPERATOR(pg_catalog.<) {before}::{}",
        time.sql(),
        time.time_type_sql()
    )
}

/// SQL for "the usage row u is of a workflow, and of an account where the usage names them". A row that is nobody's is not
/// settled, and stays.
fn is_owned_sql(binding: &Binding) -> String {
    let workflow = format!("u.{} IS NOT NULL", binding.usage_workflow.sql());
    match &binding.payer {
        Payer::Usage(key) => format!("{workflow} AND u.{} IS NOT NULL", key.sql()),
        Payer::Workflow(_) => workflow,
    }
}

/// The workflows that have old rows.
struct Old(Cursor);

impl Old {
    fn open(bound: &Bound, time: &Column, before: TimestampTz, life: Life) -> Result<Self> {
        let binding = &bound.binding;
        bound.follow();
        let sql = format!(
            "SELECT u.{workflow}::pg_catalog.text FROM {usage} AS u WHERE {is_owned} AND {is_older} GROUP BY u.{workflow}",
            workflow = binding.usage_workflow.sql(),
            usage = binding.usage.sql,
            is_owned = is_owned_sql(binding),
            is_older = is_older_sql(time, "$1"),
        );
        let args = [Arg::OptionalTimestamp(Some(before))];
        let usage = [binding.usage.oid];
        let owner = binding.usage.owner;
        Cursor::open(owner, &usage, &sql, &args, Snapshot::Statement, life).map(Old)
    }

    fn next(&self, count: usize) -> Result<Vec<String>> {
        Ok(texts(&self.0.fetch(count)?, 0))
    }
}

/// Those that are settled to the last token, and how many are not.
fn partition_settled(bound: &Bound, mut workflows: Vec<String>) -> Result<(Vec<String>, usize)> {
    workflows.sort_unstable();
    let settled = read_settled(bound, &workflows)?;
    let used = usage::read(bound, &workflows)?;
    let all = workflows.len();
    let mut found = Vec::with_capacity(all);
    for ((workflow, used), settled) in workflows.into_iter().zip(&used).zip(&settled) {
        if is_settled(&bound.binding, used, settled)? {
            found.push(workflow);
        }
    }
    let unsettled = all - found.len();
    Ok((found, unsettled))
}

/// Whether a workflow is settled to the last token: nothing waits, and nothing is missing. What is missing was deleted without
/// record, and late usage makes up for it until somebody says what that is to be (`accept_deletions`, `correct_workflow`):
/// afterwards nobody could tell which of the rows were late.
pub(super) fn is_settled(binding: &Binding, used: &Usage, settled: &Accounted) -> Result<bool> {
    if used.uncounted(binding).next().is_some() {
        return Ok(false);
    }
    let mut sums: HashMap<Option<&str>, ExactSum> = used.by_payer(binding).into_iter().collect();
    if matches!(binding.payer, Payer::Usage(_)) {
        for account in settled.keys() {
            sums.entry(Some(account)).or_default();
        }
    }
    for (account, tokens) in sums {
        let is_accounted = match account {
            Some(account) => settled.get(account).is_some_and(|one| one.usage > 0),
            None => settled.values().any(|one| one.usage > 0),
        };
        match unaccounted(&tokens, settled, account)? {
            0 => {}
            // Tokens below zero alone are nothing to be charged.
            ..0 if !is_accounted => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// How old rows leave a usage table.
struct Leaving<'a> {
    bound: &'a Bound,
    before: TimestampTz,
    archive: Option<ArchiveTable>,
    statement: Statement,
}

impl<'a> Leaving<'a> {
    fn new(
        bound: &'a Rc<Bound>,
        before: TimestampTz,
        archive: Option<pg_sys::Oid>,
    ) -> Result<Self> {
        let binding = &bound.binding;
        let time = time_of(bound)?;
        let archive = match archive {
            Some(archive) => Some(ArchiveTable::of_usage(archive, binding)?),
            None => None,
        };
        let tables = archive.iter().map(|archive| archive.table.oid);
        let tables: Vec<_> = std::iter::once(binding.usage.oid).chain(tables).collect();
        let sql = leave_sql(binding, &time, archive.as_ref());
        Ok(Leaving {
            bound,
            before,
            archive,
            statement: Statement::new(&sql, &[TEXTARRAYOID, TIMESTAMPTZOID]).of(&tables),
        })
    }

    fn archive_name(&self) -> &str {
        self.archive
            .as_ref()
            .map_or("", |archive| &archive.table.sql)
    }

    /// Take away the old rows of locked workflows, which are sorted, as far as they are settled.
    fn take(&self, workflows: &[String], archived: &mut Archived) -> Result<()> {
        let bound = self.bound;
        let (workflows, unsettled) = partition_settled(bound, workflows.to_vec())?;
        archived.unsettled += unsettled;
        if workflows.is_empty() {
            return Ok(());
        }
        let outcome = {
            let _owner = bound.run_as(bound.binding.usage.owner);
            let before = Arg::OptionalTimestamp(Some(self.before));
            let args = [Arg::TextArray(&workflows), before];
            self.statement.run(&args, Snapshot::Latest)?
        };
        let mut taken = Vec::with_capacity(outcome.rows.len());
        let (mut rows, mut kept) = (0, 0);
        for row in &outcome.rows {
            let workflow = row.text(0).to_owned();
            let Some(tokens) = row.counted(2)? else {
                // It came after the sums were read.
                return Err(Error::ConcurrentSettlement { workflow });
            };
            rows += row.amount::<usize>(3)?;
            kept = row.amount::<usize>(4)?;
            taken.push(TakenAway {
                workflow,
                account: row.owned(1),
                tokens,
            });
        }
        if let Some(archive) = &self.archive
            && kept != rows
        {
            return Err(Error::ArchiveSuppressed {
                relation: archive.table.sql.clone(),
                of: bound.binding.usage.sql.clone(),
                missing: rows.abs_diff(kept),
            });
        }
        let settled = read_settled(bound, &workflows)?;
        let settled: HashMap<_, _> = workflows.iter().zip(&settled).collect();
        self.refuse_unsettled(&taken, &settled)?;
        let with_settled = taken.iter().map(|taken| (taken, settled[&taken.workflow]));
        record::add_to_settlements(bound, with_settled)?;
        let mut left: Vec<_> = taken.iter().map(|taken| &taken.workflow).collect();
        left.sort_unstable();
        left.dedup();
        archived.workflows += left.len();
        archived.rows += rows;
        taken
            .iter()
            .for_each(|taken| archived.tokens.add(&taken.tokens));
        Ok(())
    }

    /// Error 40001 where rows left that were not settled: they were written or changed after the sums were read. What is in
    /// the archive alone, no sweep finds.
    fn refuse_unsettled(
        &self,
        taken: &[TakenAway],
        settled: &HashMap<&String, &Accounted>,
    ) -> Result<()> {
        for taken in taken {
            let account = taken.account.as_deref();
            if unaccounted(&taken.tokens, settled[&taken.workflow], account)? <= 0 {
                continue;
            }
            // Rows below zero that stay may make up for it.
            let left = usage::read(self.bound, std::slice::from_ref(&taken.workflow))?;
            let left = left
                .first()
                .map(|left| left.of(account))
                .unwrap_or_default();
            let in_all = left.plus(&taken.tokens);
            if unaccounted(&in_all, settled[&taken.workflow], account)? > 0 {
                return Err(Error::ConcurrentSettlement {
                    workflow: taken.workflow.clone(),
                });
            }
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

/// One row per workflow and account of what left: (workflow, account, tokens, rows, rows that the archive took in all).
///
/// ```sql
/// WITH gone AS (DELETE FROM token_usage AS u WHERE u.workflow_id = ANY ($1) AND u.created_at < $2 RETURNING u.*),
/// kept AS (INSERT INTO archive (…) SELECT … FROM gone RETURNING 1)
/// SELECT u.workflow_id, u.user_id, sum(u.total_tokens), count(*), (SELECT count(*) FROM kept) FROM gone AS u GROUP BY 1, 2
/// ```
fn leave_sql(binding: &Binding, time: &Column, archive: Option<&ArchiveTable>) -> String {
    let account = match &binding.payer {
        Payer::Usage(_) => binding.account_sql("u"),
        Payer::Workflow(_) => "NULL::pg_catalog.text".into(),
    };
    let (kept, count_kept) = match archive {
        Some(archive) => {
            let columns = archive.columns.join(", ");
            (
                format!(
                    ", kept AS (INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE \
                     SELECT {columns} FROM gone RETURNING 1)",
                    archive.table.sql
                ),
                "(SELECT pg_catalog.count(*) FROM kept)",
            )
        }
        None => (String::new(), "0"),
    };
    format!(
        "WITH gone AS (DELETE FROM {usage} AS u \
         WHERE u.{workflow} OPERATOR(pg_catalog.=) ANY ($1::{key_type}[]) AND {is_owned} AND {is_older} \
         RETURNING u.*){kept} \
         SELECT u.{workflow}::pg_catalog.text, {account}, {tokens}, pg_catalog.count(*), {count_kept} \
         FROM gone AS u GROUP BY 1, 2",
        usage = binding.usage.sql,
        workflow = binding.usage_workflow.sql(),
        key_type = binding.usage_workflow.key_type.sql(),
        is_owned = is_owned_sql(binding),
        is_older = is_older_sql(time, "$2"),
        tokens = binding.tokens_sql("u"),
    )
}
