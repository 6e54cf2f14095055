//! Settling what no completion has settled: late usage, runs that completed while the triggers were
//! off, bad charges whose account has come, and history that attach had exempted.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::time::Instant;

use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys::TimestampTz;
use serde::Serialize;

use super::claim;
use super::lock::{lock_workflows, needs_locks, try_lock_workflows};
use super::occasion::Occasion;
use super::old_usage::tell_of_old_usage;
use super::rename;
use super::settle;
use super::settlement::{archived_usage_sql, was_settled_sql};
use super::usage::{Usage, read_or_warn, usage_groups_sql};
use super::work::Work;
use crate::binding::{Binding, Book, Bound, Which, bindings_locked, bindings_unlocked, completed};
use crate::counters::{Counter, count_sweep};
use crate::error::{Error, Result};
use crate::ledger::{busy, queue};
use crate::postgres::commit::MayCommit;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::notice::notice;
use crate::postgres::snapshot::{Snapshot, uses_transaction_snapshot};
use crate::postgres::spi;
use crate::postgres::subtransaction::unless_data_exception;
use crate::postgres::value::{Arg, Row, texts};

/// Groups of usage that are read at a time.
pub(super) const BATCH: usize = 1_000;

/// What a sweep did.
#[derive(Default, Serialize)]
pub(crate) struct Swept {
    /// Workflows that were charged.
    workflows: usize,
    charges: usize,
    tokens_used: i128,
    /// Whether there may be more, since max_workflows was reached.
    more: bool,
    /// Whether what attach had exempted is wanted, and known to be old.
    #[serde(skip)]
    is_of_exempted: bool,
    /// Charges out of the queue.
    #[serde(skip_serializing_if = "is_zero")]
    applied: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The usage of completed workflows, and `with_idle` of those whose newest usage is older than $2; $1 limits it to workflows with
/// usage since then. Each with whether it is such an old one.
///
/// It is summed up before it is joined: there are fewer workflows than rows. By account, so that a
/// batch has many runs of few accounts, each of which is updated once; in which order of accounts is
/// no matter, and by bytes is the cheapest.
fn usage_of_completed_sql(binding: &Binding, with_idle: bool, reading: Reading) -> String {
    let since = match &binding.details.created_at {
        Some(column) => format!(
            "($1 IS NULL OR u.{key} OPERATOR(pg_catalog.=) ANY (SELECT r.{key} FROM {usage} AS r \
             WHERE r.{column} OPERATOR(pg_catalog.>=) $1::{type_name}))",
            key = binding.usage_workflow.sql(),
            usage = binding.usage.sql,
            column = column.sql(),
            type_name = column.time_type_sql(),
        ),
        None => "($1 IS NULL OR true)".into(),
    };
    // Not in the statement where nobody asks for it: it takes memory for all workflows, and the plan is another one.
    let is_idle = match &binding.details.created_at {
        Some(column) if with_idle => format!(
            "g.workflow_id OPERATOR(pg_catalog.=) ANY (SELECT i.{key}::pg_catalog.text \
             FROM {usage} AS i GROUP BY 1 \
             HAVING pg_catalog.max(i.{column}) OPERATOR(pg_catalog.<) $2::{type_name})",
            key = binding.usage_workflow.sql(),
            usage = binding.usage.sql,
            column = column.sql(),
            type_name = column.time_type_sql(),
        ),
        _ => "false".into(),
    };
    let or_idle = if with_idle {
        format!("{is_idle} OR ")
    } else {
        String::new()
    };
    let is_completed = binding.workflows.as_ref().map(|workflows| {
        format!(
            "WHERE {or_idle} g.workflow_id OPERATOR(pg_catalog.=) ANY (SELECT {} FROM {} AS w WHERE {})",
            binding.workflow_key_sql(workflows, "w"),
            workflows.table.sql,
            completed::sql(binding, "w")
        )
    });
    let is_completed = is_completed.unwrap_or_default();
    if reading == Reading::Ids {
        let workflow = format!("u.{}", binding.usage_workflow.sql());
        return format!(
            "SELECT g.workflow_id, NULL, NULL, {is_idle} FROM (SELECT DISTINCT {workflow}::pg_catalog.text \
             AS workflow_id FROM {} AS u WHERE {workflow} IS NOT NULL AND {since}) AS g {is_completed} \
             ORDER BY g.workflow_id COLLATE pg_catalog.\"C\"",
            binding.usage.sql,
        );
    }
    format!(
        "SELECT g.workflow_id, g.user_id, g.tokens, {is_idle} FROM ({groups}) AS g {is_completed} \
         ORDER BY g.user_id COLLATE pg_catalog.\"C\", g.workflow_id COLLATE pg_catalog.\"C\"",
        groups = usage_groups_sql(binding, &[since]),
    )
}

/// What is read of the usage at once.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// Its sums.
    Groups,
    /// The ids of its workflows alone, each of which is then read by itself: for some row an expression of a view
    /// cannot be computed, and that is a bad charge of its workflow and of no other.
    Ids,
}

/// Which of the workflows with usage count as completed.
#[derive(Clone, Copy, PartialEq)]
enum Counted {
    /// All that the query finds: the workflow table says what is completed.
    Completed,
    /// Without a workflow table nobody says so: those that were settled once.
    SettledBefore,
}

/// Of the workflows $1, those that were settled once.
fn settled_before_sql(binding: &Binding) -> String {
    format!(
        "SELECT k.id FROM pg_catalog.unnest($1) AS k (id) WHERE {} ORDER BY 1",
        was_settled_sql(binding, "k.id")
    )
}

/// Of usage by workflow and account, the workflows of which some is not accounted for, in order.
pub(super) fn unsettled(bound: &Bound, groups: &[Row]) -> Result<Vec<String>> {
    let mut workflows = texts(groups, 0);
    workflows.sort_unstable();
    workflows.dedup();
    let settled = claim::read_settled(bound, &workflows)?;
    let mut is_unsettled = vec![false; workflows.len()];
    for group in groups {
        let place = workflows.binary_search_by(|workflow| workflow.as_str().cmp(group.text(0)));
        let at = place.unwrap_or_default(); // it is one of them
        is_unsettled[at] |= match group.counted(2)? {
            Some(used) => claim::unaccounted(&used, &settled[at], group.get(1))? > 0,
            // It is told each time, as other bad charges are.
            None => true,
        };
    }
    let workflows = workflows.into_iter().zip(is_unsettled);
    Ok(workflows
        .filter_map(|(workflow, is_unsettled)| is_unsettled.then_some(workflow))
        .collect())
}

/// Of these workflows, each read by itself where that has to be. What cannot be read is told.
fn unsettled_by_id(bound: &Bound, workflows: Vec<String>) -> Result<Vec<String>> {
    let usage = read_or_warn(bound, &workflows, &Occasion::Sweep)?;
    let settled = claim::read_settled(bound, &workflows)?;
    let mut found = Vec::new();
    for ((workflow, usage), settled) in workflows.into_iter().zip(usage).zip(settled) {
        if let Some(usage) = usage
            && is_outstanding(&bound.binding, &usage, &settled)?
        {
            found.push(workflow);
        }
    }
    Ok(found)
}

/// Whether some of a workflow's usage is not accounted for, or cannot be counted.
fn is_outstanding(binding: &Binding, usage: &Usage, settled: &claim::Accounted) -> Result<bool> {
    for (account, tokens) in usage.by_payer(binding) {
        if claim::unaccounted(&tokens, settled, account)? > 0 {
            return Ok(true);
        }
    }
    Ok(usage.uncounted(binding).next().is_some())
}

/// Of which usage a sweep is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moments {
    /// Of workflows with usage since then.
    pub(crate) since: Option<TimestampTz>,
    /// Also of workflows that are not completed, and have no usage since then.
    pub(crate) idle_since: Option<TimestampTz>,
}

/// Workflows with unsettled usage, found a batch at a time.
struct Pending {
    cursor: RefCell<Cursor>,
    reading: Cell<Reading>,
    counted: Counted,
    moments: Moments,
    life: Life,
}

impl Pending {
    fn find(bound: &Bound, moments: Moments, counted: Counted, life: Life) -> Result<Self> {
        bound.binding.refuse_replaced_view()?;
        let reading = Reading::Groups;
        Ok(Pending {
            cursor: RefCell::new(Self::open(bound, moments, life, reading)?),
            reading: Cell::new(reading),
            counted,
            moments,
            life,
        })
    }

    fn open(bound: &Bound, moments: Moments, life: Life, reading: Reading) -> Result<Cursor> {
        bound.binding.require_readable()?;
        bound.follow();
        let with_idle = moments.idle_since.is_some();
        let sql = usage_of_completed_sql(&bound.binding, with_idle, reading);
        let owner = bound.binding.accounts.users.owner;
        let usage = [bound.binding.usage.oid];
        let args = [
            Arg::OptionalTimestamp(moments.since),
            Arg::OptionalTimestamp(moments.idle_since),
        ];
        Cursor::open(owner, &usage, &sql, &args, Snapshot::Statement, life)
    }

    /// What `read` gives of the cursor. Where an expression of a view fails for some row, the workflows are found by
    /// their ids from here on.
    fn of_cursor<T>(&self, bound: &Bound, read: impl Fn(&Cursor) -> Result<T>) -> Result<T> {
        if self.reading.get() == Reading::Groups && bound.binding.computes_usage() {
            if let Ok(value) = unless_data_exception(|| read(&self.cursor.borrow()))? {
                return Ok(value);
            }
            self.reading.set(Reading::Ids);
            let cursor = Self::open(bound, self.moments, self.life, Reading::Ids)?;
            self.cursor.replace(cursor).close()?;
        }
        read(&self.cursor.borrow())
    }

    /// How many groups of usage were read, and the workflows that are unsettled; None at the end.
    fn next(&self, bound: &Bound, groups: usize) -> Result<Option<(usize, Vec<String>)>> {
        let groups = self.of_cursor(bound, |cursor| cursor.fetch(groups))?;
        if groups.is_empty() {
            return Ok(None);
        }
        let mut workflows = match self.reading.get() {
            Reading::Groups => unsettled(bound, &groups)?,
            Reading::Ids => unsettled_by_id(bound, texts(&groups, 0))?,
        };
        if self.counted == Counted::SettledBefore {
            let _owner = bound.run_as_extension();
            let outcome = spi::query(
                &settled_before_sql(&bound.binding),
                &[Arg::TextArray(&workflows)],
            )?;
            let idle = groups.iter().filter(|group| group.is_true(3));
            let idle: HashSet<_> = idle.map(|group| group.text(0)).collect();
            workflows.retain(|workflow| idle.contains(workflow.as_str()));
            workflows.extend(texts(&outcome.rows, 0));
        }
        Ok(Some((groups.len(), workflows)))
    }

    /// Add unsettled workflows to `found` until there are `enough`: whether these are all.
    fn gather(&self, bound: &Bound, found: &mut BTreeSet<String>, enough: usize) -> Result<bool> {
        while found.len() < enough {
            match self.next(bound, BATCH)? {
                Some((_, workflows)) => found.extend(workflows),
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn counted(binding: &Binding) -> Counted {
    match binding.workflows {
        Some(_) => Counted::Completed,
        None => Counted::SettledBefore,
    }
}

/// The sweep of one binding.
struct Sweep {
    bound: Rc<Bound>,
    pending: Pending,
    found: BTreeSet<String>,
    /// Whether these are all.
    is_all: bool,
}

impl Sweep {
    fn begin(bound: Rc<Bound>, moments: Moments) -> Result<Self> {
        if moments.idle_since.is_some() && bound.binding.details.created_at.is_none() {
            return Err(Error::InvalidArgument {
                message: format!(
                    "idle is given, but the usage in {} has no time",
                    bound.binding.usage.sql
                ),
                detail: None,
                hint: Some("Name its column in attach: usage_created_at.".into()),
            });
        }
        let counted = counted(&bound.binding);
        let pending = Pending::find(&bound, moments, counted, Life::Transaction)?;
        Ok(Sweep {
            bound,
            pending,
            found: BTreeSet::new(),
            is_all: false,
        })
    }

    /// Find up to `room` workflows in all.
    fn gather(&mut self, room: usize) -> Result<()> {
        if !self.is_all {
            self.is_all = self.pending.gather(&self.bound, &mut self.found, room)?;
        }
        Ok(())
    }

    /// Whether there is more than what is found.
    fn has_more(&self) -> Result<bool> {
        Ok(!self.found.is_empty() || !self.is_all && self.pending.next(&self.bound, 1)?.is_some())
    }
}

/// Settle completed workflows that have unsettled usage, at most `max_workflows` of them over all bindings that are
/// meant. Bad charges are warnings, as in a completion.
///
/// What is found is settled as one. Settled a part at a time, the locks of the second part would be
/// waited for with the accounts of the first one held, for which the holders of those locks wait.
/// There is a second part only where nothing of the first could be charged, of what is locked by nobody else.
pub(crate) fn settle_pending(
    name: Option<&str>,
    moments: Moments,
    max_workflows: usize,
) -> Result<Swept> {
    let bounds = bindings_locked(Which::Named(name))?.or_warn()?;
    rename::follow(bounds.iter().map(|bound| &**bound))?;
    let sweeps = bounds.into_iter();
    let mut sweeps: Vec<_> = sweeps
        .map(|bound| Sweep::begin(bound, moments))
        .collect::<Result<_>>()?;
    let mut swept = Swept::default();
    // What cannot be charged does not count, or it would stand in the way for ever.
    let room = max_workflows;
    gather(&mut sweeps, room)?;
    let works = take(&sweeps, room);
    lock_workflows(
        works.iter().flat_map(|work| &work.workflows),
        // Of all of them: what comes after this part waits for none.
        sweeps.iter().any(|sweep| needs_locks(&sweep.bound.binding)),
    );
    let books = books_of(&sweeps);
    // Where no charge waits for its account, the queue's do before there is any. Where one may, accounts that are held
    // already would be out of its order.
    let is_queue_first =
        books.iter().all(|book| queue::is_used(book)) || uses_transaction_snapshot();
    for book in books.iter().filter(|_| is_queue_first) {
        swept.applied += busy::drain_all(book)?;
    }
    for part in 1.. {
        let mut works = take(&sweeps, room);
        if works.is_empty() {
            break;
        }
        for work in &works {
            let of_binding = |sweep: &&mut Sweep| Rc::ptr_eq(&sweep.bound, &work.bound);
            if let Some(sweep) = sweeps.iter_mut().find(of_binding) {
                let is_taken = |id: &String| work.workflows.binary_search(id).is_ok();
                sweep.found.retain(|id| !is_taken(id));
            }
        }
        let has_room =
            part == 1 || try_lock_workflows(works.iter_mut().map(|it| &mut it.workflows));
        swept.settle(works)?;
        if swept.workflows > 0 || !has_room {
            for sweep in &sweeps {
                swept.more |= sweep.has_more()?;
            }
            swept.more |= !has_room;
            break;
        }
        gather(&mut sweeps, room)?;
    }
    for book in books.iter().filter(|_| !is_queue_first) {
        swept.applied += busy::drain_idle(book)?;
    }
    for sweep in sweeps {
        sweep.pending.cursor.into_inner().close()?;
    }
    count_sweep();
    Ok(swept)
}

/// The accounts that they charge, each once, in the order in which accounts are charged.
fn books_of(sweeps: &[Sweep]) -> Vec<Rc<Book>> {
    let books = sweeps.iter().map(|sweep| sweep.bound.book.clone());
    let mut books: Vec<_> = books.collect();
    books.sort_by_key(|book| (book.accounts.users.oid.to_u32(), book.accounts.id));
    books.dedup_by(|a, b| Rc::ptr_eq(a, b));
    books
}

/// Find `room` workflows over all of them, as far as there are any.
fn gather(sweeps: &mut [Sweep], room: usize) -> Result<()> {
    let mut left = room;
    for sweep in sweeps {
        sweep.gather(left)?;
        left = left.saturating_sub(sweep.found.len());
    }
    Ok(())
}

/// The first of what is found.
fn take(sweeps: &[Sweep], room: usize) -> Vec<Work> {
    let mut left = room;
    let mut works = Vec::new();
    for sweep in sweeps {
        let workflows = first(&sweep.found, left);
        left -= workflows.len();
        if !workflows.is_empty() {
            works.push(Work {
                bound: sweep.bound.clone(),
                workflows,
                occasion: Occasion::Sweep,
            });
        }
    }
    works
}

fn first(found: &BTreeSet<String>, count: usize) -> Vec<String> {
    found.iter().take(count).cloned().collect()
}

/// The memory of the procedure is that of the whole call, so what a batch leaves there would add up.
pub(super) fn in_memory_of_its_own<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: what comes out is no memory of the server's.
    unsafe { PgMemoryContexts::new("token_balance batch").switch_to(|_| work()) }
}

impl Swept {
    /// How many groups of usage were read; None at the end. Each transaction looks at the binding again:
    /// it may have been changed between two.
    fn settle_batch(
        &mut self,
        name: &str,
        pending: &Pending,
        batch_size: usize,
    ) -> Result<Option<usize>> {
        let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
        let Some(bound) = bounds.pop() else {
            return Ok(None);
        };
        bound.binding.refuse_replaced_view()?;
        let Some((read, workflows)) = pending.next(&bound, batch_size)? else {
            return Ok(None);
        };
        self.settle(vec![Work {
            bound,
            workflows,
            occasion: Occasion::Sweep,
        }])?;
        Ok(Some(read))
    }

    fn settle(&mut self, works: Vec<Work>) -> Result<()> {
        if !self.is_of_exempted {
            for work in &works {
                tell_of_old_usage(&work.bound, &work.workflows)?;
            }
        }
        for settled in settle(works, Counter::BySweep)? {
            let charges = settled.charges;
            let mut charged: Vec<_> = charges.iter().map(|charge| &charge.workflow).collect();
            charged.sort_unstable();
            charged.dedup();
            self.workflows += charged.len();
            self.charges += charges.len();
            let tokens = charges.iter().map(|charge| i128::from(charge.tokens));
            self.tokens_used += tokens.sum::<i128>();
        }
        Ok(())
    }
}

thread_local! {
    /// The cursor of a backlog that was cancelled: it outlives its transaction.
    static LEFT_OVER: RefCell<Option<Cursor>> = const { RefCell::new(None) };
}

/// Settle all that is pending, one binding after the other, with a commit after each `batch_size` pairs of workflow and
/// account. With `existing`, what attach had exempted is charged too. It may be stopped and started again:
/// what is committed is settled, the rest is found again.
pub(crate) fn settle_backlog(
    name: Option<&str>,
    batch_size: usize,
    existing: bool,
    commits: MayCommit,
) -> Result<()> {
    if let Some(left_over) = LEFT_OVER.take() {
        left_over.close()?;
    }
    let bounds = bindings_unlocked(Which::Named(name))?.or_warn()?;
    let names: Vec<_> = bounds.iter().map(|bound| bound.name().to_owned()).collect();
    drop(bounds);
    names
        .iter()
        .try_for_each(|name| settle_backlog_of(name, batch_size, existing, commits))?;
    count_sweep();
    Ok(())
}

fn settle_backlog_of(
    name: &str,
    batch_size: usize,
    existing: bool,
    commits: MayCommit,
) -> Result<()> {
    let started = Instant::now();
    let mut bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Ok(());
    };
    bound.binding.refuse_replaced_view()?;
    busy::drain_all(&bound.book)?;
    let counted = if existing {
        include_exempted(&bound, batch_size, commits)?;
        Counted::Completed
    } else {
        counted(&bound.binding)
    };
    let pending = Pending::find(&bound, Moments::default(), counted, Life::Session)?;
    let total = pending.of_cursor(&bound, Cursor::count)?;
    LEFT_OVER.set(Some(pending.cursor.borrow().clone()));
    drop(bound);
    commits.commit()?;

    let mut swept = Swept {
        is_of_exempted: existing,
        ..Swept::default()
    };
    let mut done = 0;
    while let Some(read) = in_memory_of_its_own(|| swept.settle_batch(name, &pending, batch_size))?
    {
        commits.commit()?;
        done += read;
        tell_progress(&swept, done, total, started);
    }
    LEFT_OVER.take();
    pending.cursor.into_inner().close()
}

/// Take back the exemption of usage from before the extension, one batch per commit.
fn include_exempted(bound: &Bound, batch_size: usize, commits: MayCommit) -> Result<()> {
    let own = bound.binding.own("s");
    let mut last: Option<(String, String)> = None;
    loop {
        // Along the primary key, so that no batch reads what an earlier one has read.
        let (after, workflow, account) = match &last {
            Some((workflow, account)) => (
                "(s.workflow_id, s.user_id) OPERATOR(pg_catalog.>) ($1, $2)",
                Some(workflow.as_str()),
                Some(account.as_str()),
            ),
            None => ("$1 IS NULL AND $2 IS NULL", None, None),
        };
        // What is there no more is not charged after all: nobody would find it. Whether it was exempt nobody knows: it
        // counts as if it had been, as far as anything was.
        let kept = format!(
            "GREATEST(s.charged_tokens, LEAST(s.usage_tokens::pg_catalog.numeric, \
             s.charged_tokens OPERATOR(pg_catalog.+) pg_catalog.round({})))::bigint",
            archived_usage_sql(bound.binding.spec.ids, "s")
        );
        let changed = {
            let _owner = bound.run_as_extension();
            spi::query(
                &format!(
                    "WITH exempted AS MATERIALIZED (SELECT s.workflow_id, s.user_id \
                     FROM token_balance.settlement AS s \
                     WHERE {own} {after} AND s.usage_tokens OPERATOR(pg_catalog.>) {kept} \
                     ORDER BY s.workflow_id, s.user_id LIMIT {batch_size}), \
                     changed AS (UPDATE token_balance.settlement AS s \
                     SET usage_tokens = {kept} FROM exempted AS e \
                     WHERE {own} s.workflow_id OPERATOR(pg_catalog.=) e.workflow_id \
                     AND s.user_id OPERATOR(pg_catalog.=) e.user_id) \
                     SELECT e.workflow_id, e.user_id FROM exempted AS e \
                     ORDER BY e.workflow_id DESC, e.user_id DESC LIMIT 1"
                ),
                &[Arg::OptionalText(workflow), Arg::OptionalText(account)],
            )?
            .rows
        };
        let Some(row) = changed.first() else {
            return Ok(());
        };
        last = Some((row.text(0).to_owned(), row.text(1).to_owned()));
        commits.commit()?;
    }
}

fn tell_progress(swept: &Swept, done: usize, total: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64().max(0.001);
    notice(
        format!(
            "{done} done, {} left, {:.0} a second",
            total.saturating_sub(done),
            done as f64 / seconds
        ),
        Some(format!(
            "{} charges so far, {} tokens.",
            swept.charges, swept.tokens_used
        )),
        None,
    );
}
