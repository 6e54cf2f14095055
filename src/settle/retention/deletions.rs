//! `attach(deleted_usage => 'record')`: what the application deletes of settled usage stays settled.
//!
//! What is deleted of a run that is over counts as if it were still there: what of it was not charged yet is charged first,
//! and the rest changes nothing. Of a run that is still open the oldest tokens count as the settled ones, and what is
//! deleted as the oldest: what was not settled is never charged.
//!
//! The locks are those of a settlement, in its order. What is deleted is added to the settlements before anything is
//! charged, so that a settlement row is never waited for with an account held.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use pgrx::PgLogLevel;
use pgrx::pg_sys::{self, CommandId, TEXTOID};

use super::record::{TakenAway, add_to_settlements};
use crate::binding::{
    Binding, Bound, Kept, Payer, Which, bindings, bindings_locked, lock_out_settlements,
};
use crate::counters::Counter;
use crate::error::{Error, Result};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::{BeforeStatement, FreshSnapshot, Snapshot};
use crate::postgres::spi::{self, Statement};
use crate::postgres::transaction::{AtEnd, at_end, current_subtransaction};
use crate::postgres::value::{Arg, Row};
use crate::settle::claim::{Accounted, read_settled};
use crate::settle::lock::{has_room_for, lock_workflows};
use crate::settle::occasion::Occasion;
use crate::settle::over::over_or_gone;
use crate::settle::usage::{self, Usage, groups_sql, payers};
use crate::settle::work::Work;
use crate::settle::{CHUNK, rename, settle};

/// What a statement has deleted of the usage of one binding.
pub(crate) struct Deleted {
    /// Its number.
    binding: i16,
    taken: Vec<TakenAway>,
}

/// The query of what [`Deleted::of`] reads: the sums of these rows, by workflow and account.
pub(crate) fn deleted_sql(binding: &Binding, rows: &str) -> String {
    groups_sql(binding, rows, &[])
}

impl Deleted {
    /// What cannot be counted is a WARNING, and left out: nothing of it was charged.
    pub(crate) fn of(bound: &Bound, rows: &[Row]) -> Result<Self> {
        let mut taken = Vec::with_capacity(rows.len());
        for row in rows {
            let (workflow, account) = (row.text(0).to_owned(), row.owned(1));
            match row.counted(2)? {
                Some(tokens) => taken.push(TakenAway {
                    workflow,
                    account,
                    tokens,
                }),
                None => Error::UncountedDeletion { workflow, account }.report(PgLogLevel::WARNING),
            }
        }
        Ok(Deleted {
            binding: bound.binding.spec.number(),
            taken,
        })
    }

    /// Less what the statement, which began in `command`, has written of it again: sums in place of rows, or a row that a MERGE
    /// moves to another partition, which the server hands over as deleted where the MERGE deletes others (15 to 18). By the
    /// sums of now, with and without what the transaction has done since.
    pub(crate) fn without_written(mut self, bound: &Bound, command: CommandId) -> Result<Self> {
        let workflows: BTreeSet<_> = self.taken.iter().map(|it| it.workflow.clone()).collect();
        let workflows: Vec<_> = workflows.into_iter().collect();
        let (mut before, mut now) = {
            let fresh = FreshSnapshot::push();
            let now = sums(bound, &workflows)?;
            let _before = BeforeStatement::push(&fresh, command);
            (sums(bound, &workflows)?, now)
        };
        for taken in &mut self.taken {
            let pair = (taken.workflow.clone(), taken.account.clone());
            let sum = |sums: &mut Counted| sums.remove(&pair).unwrap_or_default();
            // Of what cannot be counted, what was deleted can be: it is all that is known.
            if let (Sum(Some(before)), Sum(Some(now))) = (sum(&mut before), sum(&mut now)) {
                taken.tokens = between_nothing_and(&taken.tokens, before.minus(&now));
            }
        }
        Ok(self)
    }
}

/// More may be gone than a trigger sees: cascades fire it more than once.
fn between_nothing_and(deleted: &ExactSum, gone: ExactSum) -> ExactSum {
    let nothing = ExactSum::default();
    match deleted.is_below(&nothing) {
        true => gone.smaller(nothing).larger(deleted.clone()),
        false => gone.larger(nothing).smaller(deleted.clone()),
    }
}

/// Tokens; None for what cannot be counted.
struct Sum(Option<ExactSum>);

impl Default for Sum {
    fn default() -> Self {
        Sum(Some(ExactSum::default()))
    }
}

/// Usage by workflow and account.
type Counted = HashMap<(String, Option<String>), Sum>;

/// What there is of the usage of these workflows, as the calling statement sees it.
fn sums(bound: &Bound, workflows: &[String]) -> Result<Counted> {
    let binding = &bound.binding;
    let is_one_of_them = format!(
        "u.{} OPERATOR(pg_catalog.=) ANY ($1::{}[])",
        binding.usage_workflow.sql(),
        binding.usage_workflow.key_type.sql()
    );
    let sql = groups_sql(binding, &binding.usage.sql, &[is_one_of_them]);
    let _owner = bound.run_as(binding.usage.owner);
    let args = [Arg::TextArray(workflows)];
    let outcome = spi::query_of(&[binding.usage.oid], &sql, &args, Snapshot::Caller)?;
    let counted = |row: &Row| Ok(((row.text(0).to_owned(), row.owned(1)), Sum(row.counted(2)?)));
    outcome.rows.iter().map(counted).collect()
}

/// What was deleted in a subtransaction, and is not recorded yet.
struct Noted {
    deleted: Vec<Deleted>,
    subtransaction: pg_sys::SubTransactionId,
}

impl Noted {
    fn now(deleted: Vec<Deleted>) -> Self {
        Noted {
            deleted,
            subtransaction: current_subtransaction(),
        }
    }
}

thread_local! {
    /// What a TRUNCATE is about to take.
    static TRUNCATED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
    /// What is deleted while somebody collects it; None while nobody does.
    static COLLECTED: RefCell<Option<Vec<Noted>>> = const { RefCell::new(None) };
}

/// Keep what a TRUNCATE is about to take from a table, until it is done.
pub(crate) fn note_truncated(deleted: Vec<Deleted>) {
    TRUNCATED.with_borrow_mut(|noted| noted.push(Noted::now(deleted)));
}

/// What the TRUNCATE has taken, from all of its tables: nothing the second time.
pub(crate) fn take_truncated() -> Vec<Deleted> {
    let noted = TRUNCATED.take().into_iter();
    noted.flat_map(|noted| noted.deleted).collect()
}

/// While this value lives, what is deleted is collected; afterwards whoever had collected before goes on.
struct Collecting {
    before: Option<Vec<Noted>>,
}

impl Collecting {
    fn start() -> Self {
        Collecting {
            before: COLLECTED.replace(Some(Vec::new())),
        }
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        COLLECTED.set(self.before.take());
    }
}

/// What was deleted while it was collected.
pub(crate) struct Collected(Vec<Deleted>);

/// Do `work`, a statement of our own that deletes usage and records that itself. What the triggers see of it is collected
/// and not recorded: it may set off other deletions, by a foreign key with ON DELETE CASCADE, say.
pub(crate) fn collect_deletions<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Collected)> {
    let _collecting = Collecting::start();
    let done = work()?;
    let noted = COLLECTED.take().unwrap_or_default().into_iter();
    let deleted = noted.flat_map(|noted| noted.deleted);
    Ok((done, Collected(deleted.collect())))
}

impl Collected {
    /// Record it, but for what the caller has deleted and recorded himself, of the binding of that number. By sums: the
    /// server hands the rows of a statement, and of what that set off on the same table, over as one.
    pub(crate) fn record_but(self, binding: i16, own: &[TakenAway]) -> Result<()> {
        let mut deleted = added_up(self.0);
        // Where the binding records no deletions, or a trigger is off, its own were not collected.
        let mut of_binding = deleted.get_mut(&binding);
        for own in own {
            let of_workflow = of_binding.as_mut().and_then(|it| it.get_mut(&own.workflow));
            if let Some(tokens) = of_workflow.and_then(|it| it.get_mut(&own.account)) {
                *tokens = between_nothing_and(tokens, tokens.minus(&own.tokens));
            }
        }
        record(deleted)
    }
}

/// Record what a statement has deleted, or leave it to whoever collects.
pub(crate) fn record_or_collect(deleted: Vec<Deleted>) -> Result<()> {
    let left = COLLECTED.with_borrow_mut(|collected| match collected {
        Some(collected) => {
            collected.push(Noted::now(deleted));
            Vec::new()
        }
        None => deleted,
    });
    record(added_up(left))
}

/// Called once per backend.
pub(crate) fn init() {
    at_end(AtEnd {
        of_transaction: || {
            TRUNCATED.take();
            COLLECTED.take();
        },
        of_subtransaction: |subtransaction| {
            let is_kept = |noted: &Noted| noted.subtransaction < subtransaction;
            TRUNCATED.with_borrow_mut(|noted| noted.retain(is_kept));
            COLLECTED.with_borrow_mut(|noted| noted.iter_mut().for_each(|it| it.retain(is_kept)));
        },
    });
}

/// What was deleted of one binding, by workflow and account.
type Sums = BTreeMap<String, BTreeMap<Option<String>, ExactSum>>;

fn added_up(deleted: Vec<Deleted>) -> BTreeMap<i16, Sums> {
    let mut all: BTreeMap<i16, Sums> = BTreeMap::new();
    for Deleted { binding, taken } in deleted {
        for taken in taken {
            let of_binding = all.entry(binding).or_default();
            let of_workflow = of_binding.entry(taken.workflow).or_default();
            of_workflow
                .entry(taken.account)
                .or_default()
                .add(&taken.tokens);
        }
    }
    all
}

fn retain_what_is_something(deleted: &mut BTreeMap<i16, Sums>) {
    for of_binding in deleted.values_mut() {
        for of_workflow in of_binding.values_mut() {
            of_workflow.retain(|_, tokens| !tokens.is_zero());
        }
        of_binding.retain(|_, of_workflow| !of_workflow.is_empty());
    }
    deleted.retain(|_, of_binding| !of_binding.is_empty());
}

/// Record what was deleted, of all bindings as one.
fn record(mut deleted: BTreeMap<i16, Sums>) -> Result<()> {
    retain_what_is_something(&mut deleted);
    if deleted.is_empty() {
        return Ok(());
    }
    let numbers: Vec<_> = deleted.keys().copied().collect();
    let workflows: BTreeSet<_> = deleted.values().flat_map(BTreeMap::keys).collect();
    let is_many = !has_room_for(workflows.len());
    if is_many {
        // More than the server has locks for: settlements are kept out by the users tables, before this transaction is one
        // of those that lock these, too.
        for bound in bindings(Which::Numbered(&numbers))?.whole {
            lock_out_settlements(bound.binding.accounts.users.oid);
        }
    }
    let bounds = bindings_locked(Which::Numbered(&numbers))?.whole_or_warn()?;
    let of = |bound: &Bound| deleted.get(&bound.binding.spec.number());
    rename::follow_by(bounds.iter().map(|bound| &**bound), &|bound, ids| {
        let mut usage = usage::read(bound, ids)?;
        let deleted = of(bound);
        for (id, usage) in ids.iter().zip(&mut usage) {
            let deleted = deleted.and_then(|deleted| deleted.get(id));
            for (account, tokens) in deleted.into_iter().flatten() {
                usage.add(account.clone(), Some(tokens.clone()));
            }
        }
        Ok(usage)
    })?;
    if !is_many {
        // Always with the intention on the whole: a settlement that goes without locks would charge by usage that it still
        // sees.
        lock_workflows(workflows.into_iter(), true);
    }
    let mut works = Vec::new();
    let mut charged = Vec::new();
    for bound in &bounds {
        let Some(deleted) = of(bound) else { continue };
        let due = add(bound, deleted)?;
        let workflows: BTreeSet<_> = due.iter().map(|due| &due.taken.workflow).collect();
        if !workflows.is_empty() {
            works.push(Work {
                bound: bound.clone(),
                workflows: workflows.into_iter().cloned().collect(),
                occasion: Occasion::Deletion,
            });
            charged.push((bound, due));
        }
    }
    if works.is_empty() {
        return Ok(());
    }
    settle(works, Counter::ByDeletion)?;
    charged
        .iter()
        .try_for_each(|(bound, due)| take_back_uncharged(bound, due))
}

/// What was deleted of a run that is over, and has to be charged.
struct Due {
    taken: TakenAway,
    /// Whether its settlement is there for no other reason.
    is_first: bool,
}

/// Add what was deleted to the settlements of locked workflows: what is to be charged of it.
fn add(bound: &Bound, deleted: &Sums) -> Result<Vec<Due>> {
    let mut all_due = Vec::new();
    let workflows: Vec<_> = deleted.keys().cloned().collect();
    for ids in workflows.chunks(CHUNK) {
        let over = over_or_gone(bound, ids)?;
        let used = usage::read(bound, ids)?;
        let settled = read_settled(bound, ids)?;
        let mut taken = Vec::new();
        for (id, (used, settled)) in ids.iter().zip(used.iter().zip(&settled)) {
            for (account, tokens) in &deleted[id] {
                let state = State::of(&bound.binding, account.as_deref(), used, settled);
                let is_over = over.contains(id);
                let account = match account {
                    None if is_over && settled.is_empty() => payers(bound, id)?.into_iter().min(),
                    account => account.clone(),
                };
                let taken_away = |tokens| TakenAway {
                    workflow: id.clone(),
                    account: account.clone(),
                    tokens,
                };
                if is_over && state.has_due(tokens) {
                    all_due.push(Due {
                        taken: taken_away(tokens.clone()),
                        is_first: settled.is_empty()
                            || account.as_ref().is_some_and(|it| !settled.contains_key(it)),
                    });
                    taken.push((taken_away(tokens.clone()), settled));
                } else {
                    taken.push((taken_away(state.settled_of(tokens)), settled));
                }
            }
        }
        add_to_settlements(
            bound,
            taken.iter().map(|(taken, settled)| (taken, *settled)),
        )?;
    }
    Ok(all_due)
}

/// How much is there of the usage of one account in one workflow; without an account, of all of it, where the workflow's own
/// pays.
struct State {
    /// None if it cannot be counted.
    left: Option<ExactSum>,
    accounted: i128,
    archived: ExactSum,
}

impl State {
    fn of(binding: &Binding, account: Option<&str>, used: &Usage, settled: &Accounted) -> Self {
        let is_uncounted = used.uncounted(binding).any(|one| one == account);
        let mut state = State {
            left: (!is_uncounted).then(|| used.of(account)),
            accounted: 0,
            archived: ExactSum::default(),
        };
        let settled = settled.iter();
        for (_, one) in settled.filter(|(one, _)| account.is_none_or(|account| account == *one)) {
            state.accounted += i128::from(one.usage);
            state.archived.add(&one.archived);
        }
        state
    }

    /// What there was in all, before `deleted` went, and what counts as if it were there.
    fn all(&self, deleted: &ExactSum) -> Option<ExactSum> {
        let left = self.left.as_ref()?;
        Some(left.plus(deleted).plus(&self.archived))
    }

    /// Whether of all that there was some is not accounted for.
    fn has_due(&self, deleted: &ExactSum) -> bool {
        let all = self.all(deleted);
        // Of what cannot be counted, what was deleted has nothing to do with it.
        let all = all.unwrap_or_else(|| deleted.plus(&self.archived));
        all.rounded().is_some_and(|all| all > self.accounted)
    }

    /// How much of what was deleted was settled. The oldest tokens are the settled ones, and those that were deleted; and no
    /// more was not settled than what is due.
    fn settled_of(&self, deleted: &ExactSum) -> ExactSum {
        let all = self.all(deleted);
        let is_all_settled = |all: &ExactSum| all.rounded().is_some_and(|it| it <= self.accounted);
        if all.as_ref().is_some_and(is_all_settled) {
            return deleted.clone();
        }
        let accounted = ExactSum::from(self.accounted);
        let settled = accounted.minus(&self.archived).larger(ExactSum::default());
        let oldest = deleted.clone().smaller(settled);
        match all {
            Some(all) => oldest.larger(deleted.minus(&all.minus(&accounted))),
            None => oldest,
        }
    }
}

struct Statements {
    forget: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        Statements {
            forget: Statement::new(
                &format!(
                    "DELETE FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2 \
                     AND s.usage_tokens OPERATOR(pg_catalog.=) 0 \
                     AND s.archived_usage_tokens OPERATOR(pg_catalog.=) 0",
                    bound.binding.own("s")
                ),
                &[TEXTOID, TEXTOID],
            ),
        }
    }
}

/// What could not be charged counts no more: nothing would ever charge it, since no usage row is there to find it by. A
/// WARNING says how much it is.
fn take_back_uncharged(bound: &Bound, due: &[Due]) -> Result<()> {
    let workflows: BTreeSet<_> = due.iter().map(|due| &due.taken.workflow).collect();
    let ids: Vec<_> = workflows.into_iter().cloned().collect();
    let known = ids.iter().zip(usage::read(bound, &ids)?);
    let known = known.zip(read_settled(bound, &ids)?);
    let known: HashMap<_, _> = known
        .map(|((id, used), settled)| (id, (used, settled)))
        .collect();
    let mut taken_back = Vec::new();
    for Due { taken, is_first } in due {
        let TakenAway {
            workflow,
            account,
            tokens,
        } = taken;
        let Some((used, settled)) = known.get(workflow) else {
            continue;
        };
        let of_payer = match &bound.binding.payer {
            Payer::Usage(_) => account.as_deref(),
            Payer::Workflow(_) => None,
        };
        let mut state = State::of(&bound.binding, of_payer, used, settled);
        state.archived = state.archived.minus(tokens);
        let uncharged = tokens.minus(&state.settled_of(tokens));
        if uncharged.is_zero() {
            continue;
        }
        let error = Error::DeletedUncharged {
            workflow: workflow.clone(),
            account: account.clone(),
            tokens: uncharged.to_string(),
        };
        error.report(PgLogLevel::WARNING);
        let back = TakenAway {
            workflow: workflow.clone(),
            account: account.clone(),
            tokens: ExactSum::default().minus(&uncharged),
        };
        taken_back.push((back, settled, *is_first));
    }
    let taken = taken_back
        .iter()
        .map(|(taken, settled, _)| (taken, *settled));
    add_to_settlements(bound, taken)?;
    let _owner = bound.run_as_extension();
    for (taken, _, _) in taken_back.iter().filter(|(_, _, is_first)| *is_first) {
        let args = [
            Arg::Text(&taken.workflow),
            Arg::Text(taken.account.as_deref().unwrap_or_default()),
        ];
        let statements = bound.kept::<Statements>();
        statements.forget.run(&args, Snapshot::Latest)?;
    }
    Ok(())
}
