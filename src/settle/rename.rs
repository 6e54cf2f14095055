//! Workflows whose id is changed in the workflow table take along what is known of them, or they would be charged again
//! under the new one.
//!
//! The trigger on the workflow table notes each change of a key. Whether the usage has followed can be told only later: a
//! cascade may take several steps, or the application itself writes the new ids. So what is noted is looked at before
//! anything is settled in the same transaction, and once more before it commits.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use pgrx::PgLogLevel;
use pgrx::pg_sys::{self, TEXTARRAYOID, TEXTOID};

use super::claim::{Accounted, read_settled, unaccounted};
use super::lock::lock_renamed;
use super::settlement::move_workflows_sql;
use super::usage::{self, Usage};
use crate::binding::{Binding, Bound, Kept, Payer, Which, bindings_locked};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::snapshot::{FreshSnapshot, Snapshot};
use crate::postgres::spi::Statement;
use crate::postgres::stored_row::{RowPlace, Versions};
use crate::postgres::transaction::{AtEnd, at_end, before_commit, current_subtransaction};
use crate::postgres::value::Arg;

/// An UPDATE of a row of the workflow table that has changed an id.
struct Noted {
    before: RowPlace,
    after: RowPlace,
    /// Of each binding by whose key they differ.
    ids: Vec<Ids>,
    subtransaction: pg_sys::SubTransactionId,
    /// In which subtransaction the settlements of which binding were moved.
    done: Vec<(i16, pg_sys::SubTransactionId)>,
}

/// The old and the new canonical id of a workflow.
pub(crate) struct Ids {
    /// The number of the binding.
    pub(crate) binding: i16,
    pub(crate) old: String,
    pub(crate) new: String,
}

impl Noted {
    fn is_done_for(&self, binding: i16) -> bool {
        self.done.iter().any(|(done, _)| *done == binding)
    }

    fn ids_for(&self, binding: i16) -> Option<&Ids> {
        self.ids.iter().find(|ids| ids.binding == binding)
    }
}

thread_local! {
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
}

/// Whether this transaction has changed an id.
pub(crate) fn is_any_noted() -> bool {
    NOTED.with_borrow(|noted| !noted.is_empty())
}

/// Note that a row of a workflow table was updated, and from which ids to which.
pub(crate) fn note(before: RowPlace, after: RowPlace, ids: Vec<Ids>) {
    let noted = Noted {
        before,
        after,
        ids,
        subtransaction: current_subtransaction(),
        done: Vec::new(),
    };
    NOTED.with_borrow_mut(|all| all.push(noted));
}

/// A row whose id was changed, in however many steps.
struct Renamed {
    old: String,
    new: String,
    /// Of what was noted.
    steps: Vec<usize>,
}

/// The changes that are not done yet for the binding of that number, those of one row as one.
fn renamed(binding: i16) -> Vec<Renamed> {
    let mut renamed: Vec<Renamed> = Vec::new();
    // Where those rows were when they were changed next, or are now.
    let mut places: HashMap<RowPlace, usize> = HashMap::new();
    NOTED.with_borrow(|noted| {
        let steps = noted.iter().enumerate();
        let open: Vec<_> = steps.filter(|(_, it)| !it.is_done_for(binding)).collect();
        let befores: HashSet<_> = open.iter().map(|(_, noted)| noted.before).collect();
        let is_one_step = open.len() == 1;
        let mut versions = Versions::default();
        for (step, noted) in &open {
            let at = match (places.remove(&noted.before), noted.ids_for(binding)) {
                (Some(at), ids) => {
                    renamed[at].steps.push(*step);
                    if let Some(ids) = ids {
                        renamed[at].new.clone_from(&ids.new);
                    }
                    at
                }
                (None, Some(ids)) => {
                    renamed.push(Renamed {
                        old: ids.old.clone(),
                        new: ids.new.clone(),
                        steps: vec![*step],
                    });
                    renamed.len() - 1
                }
                (None, None) => continue,
            };
            let mut place = noted.after;
            // An UPDATE that does not name the key comes in between unnoted.
            while !is_one_step
                && !befores.contains(&place)
                && let Some(next) = versions.next(&place)
            {
                place = next;
            }
            places.insert(place, at);
        }
    });
    renamed
}

/// The changes of ids, from old to new, that are not done yet for the binding of that number: the usage has not followed.
pub(crate) fn awaited(binding: i16) -> BTreeSet<(String, String)> {
    let renamed = renamed(binding).into_iter();
    renamed.map(|one| (one.old, one.new)).collect()
}

struct Statements {
    move_settlements: Statement,
    lock_aliases: Statement,
    join_families: Statement,
    add_alias: Statement,
    became: Statement,
    is_same_family: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = |alias: &str| bound.binding.own(alias);
        let ids = bound.binding.spec.ids;
        let family = |alias: &str, id: &str| {
            format!(
                "(SELECT {alias}.family FROM token_balance.workflow_alias AS {alias} \
                 WHERE {} {alias}.workflow_id OPERATOR(pg_catalog.=) {id})",
                own(alias)
            )
        };
        Statements {
            move_settlements: Statement::new(
                &move_workflows_sql(ids),
                &[TEXTARRAYOID, TEXTARRAYOID],
            ),
            lock_aliases: Statement::new(
                "LOCK TABLE token_balance.workflow_alias IN SHARE ROW EXCLUSIVE MODE",
                &[],
            ),
            // The family keeps the name that it has under the old id.
            join_families: Statement::new(
                &format!(
                    "WITH f AS (SELECT COALESCE({}, $1) AS kept, {} AS joined) \
                     UPDATE token_balance.workflow_alias AS a SET family = f.kept FROM f \
                     WHERE {} a.family OPERATOR(pg_catalog.=) f.joined \
                     AND f.joined OPERATOR(pg_catalog.<>) f.kept",
                    family("o", "$1"),
                    family("n", "$2"),
                    own("a")
                ),
                &[TEXTOID, TEXTOID],
            ),
            add_alias: Statement::new(
                &format!(
                    "INSERT INTO token_balance.workflow_alias AS a \
                     (binding_id, workflow_id, family, became) \
                     SELECT {}, r.id, COALESCE({}, $1), r.became \
                     FROM (VALUES ($1, $2), ($2, NULL)) AS r (id, became) \
                     ON CONFLICT (binding_id, workflow_id) DO UPDATE SET became = EXCLUDED.became",
                    ids.map_or(1, |ids| ids.binding),
                    family("o", "$1")
                ),
                &[TEXTOID, TEXTOID],
            ),
            became: Statement::new(
                &format!(
                    "SELECT a.became FROM token_balance.workflow_alias AS a \
                     WHERE {} a.workflow_id OPERATOR(pg_catalog.=) $1 AND a.became IS NOT NULL",
                    own("a")
                ),
                &[TEXTOID],
            ),
            is_same_family: Statement::new(
                &format!(
                    "SELECT 1 WHERE {} OPERATOR(pg_catalog.=) {}",
                    family("a", "$1"),
                    family("b", "$2")
                ),
                &[TEXTOID, TEXTOID],
            ),
        }
    }
}

/// Workflows of a binding that have another id now.
struct Changed<'a> {
    bound: &'a Bound,
    renamed: Vec<Renamed>,
    /// From old ids to new ones.
    pairs: BTreeMap<String, String>,
}

/// What there is of the usage of each of these workflows.
type ReadUsage<'a> = &'a dyn Fn(&Bound, &[String]) -> Result<Vec<Usage>>;

/// Move the settlements of workflows whose id this transaction has changed, as far as their usage has followed. All that
/// settles calls it first, and so does a refund.
///
/// Locks are taken as a settlement takes them: workflows, settlements; the aliases come last.
pub(crate) fn follow<'a>(bounds: impl Iterator<Item = &'a Bound>) -> Result<()> {
    follow_by(bounds, &usage::read)
}

/// The same, by the usage that `read` gives: of what a statement has just deleted the sums tell as if it were there.
pub(super) fn follow_by<'a>(
    bounds: impl Iterator<Item = &'a Bound>,
    read: ReadUsage,
) -> Result<()> {
    if !is_any_noted() {
        return Ok(());
    }
    let mut all = Vec::new();
    for bound in bounds {
        all.extend(changed(bound)?);
    }
    let changed = all;
    let ids: Vec<_> = changed
        .iter()
        .flat_map(|changed| &changed.pairs)
        .flat_map(|(old, new)| [old.clone(), new.clone()])
        .collect();
    if ids.is_empty() {
        return Ok(());
    }
    let bindings: Vec<&Binding> = changed.iter().map(|it| &it.bound.binding).collect();
    lock_renamed(&ids, &bindings);
    for Changed {
        bound,
        renamed,
        pairs,
    } in changed
    {
        let followed = followed(bound, &pairs, read)?;
        refuse_moved(bound, &followed)?;
        move_settlements(bound, &followed)?;
        let done = (bound.binding.spec.number(), current_subtransaction());
        NOTED.with_borrow_mut(|noted| {
            let moved = renamed.iter().filter(|one| followed.contains_key(&one.old));
            for step in moved.flat_map(|one| &one.steps) {
                noted[*step].done.push(done);
            }
        });
    }
    Ok(())
}

/// Error 55000 if a run is of an account that is in another database: what is settled of it is known there, by the id that it
/// had.
fn refuse_moved(bound: &Bound, followed: &BTreeMap<String, String>) -> Result<()> {
    for (old, new) in followed {
        if let Some((account, database)) = usage::accounts_elsewhere(bound, new)?.first() {
            return Err(Error::CannotMove {
                message: format!(
                    "workflow \"{old}\" cannot become \"{new}\": it has usage of account \"{account}\", which has moved to \
                     database \"{database}\""
                ),
                detail: Some("What is settled of it is known there, by the id that it had.".into()),
                hint: Some(
                    "Give it another id there, when its usage has been carried over.".into(),
                ),
            });
        }
    }
    Ok(())
}

/// None if there are none of the binding.
fn changed(bound: &Bound) -> Result<Option<Changed<'_>>> {
    let renamed = renamed(bound.binding.spec.number());
    let mut pairs = BTreeMap::new();
    let mut parted = BTreeSet::new();
    for Renamed { old, new, .. } in renamed.iter().filter(|one| one.old != one.new) {
        let first = pairs.entry(old.clone()).or_insert_with(|| new.clone());
        if first != new {
            parted.insert(old.clone());
        }
    }
    // Rows that shared an id have parted. Where no two rows can share one, the first had it before the transaction, and
    // the others came in between.
    if let Some(workflows) = &bound.binding.workflows
        && !parted.is_empty()
        && !catalog::is_unique(workflows.table.oid, &workflows.key.column.name)?
    {
        pairs.retain(|old, _| !parted.contains(old));
    }
    Ok((!pairs.is_empty()).then_some(Changed {
        bound,
        renamed,
        pairs,
    }))
}

/// Those of `pairs`, from old ids to new ones, whose usage is where the new id is.
fn followed(
    bound: &Bound,
    pairs: &BTreeMap<String, String>,
    read: ReadUsage,
) -> Result<BTreeMap<String, String>> {
    let Some(workflows) = &bound.binding.workflows else {
        return Ok(BTreeMap::new());
    };
    let (table, key) = (workflows.table.oid, &workflows.key.column.name);
    let usage_key = &bound.binding.usage_workflow.column.name;
    let cascades = catalog::cascades_to(table, key, bound.binding.usage.oid, usage_key)?;
    match cascades {
        true => followed_by_cascade(bound, pairs, read),
        false => followed_by_sums(bound, pairs, catalog::is_unique(table, key)?, read),
    }
}

/// The same where a foreign key takes usage along: what is there now came with, or for, the row that has the id now.
fn followed_by_cascade(
    bound: &Bound,
    pairs: &BTreeMap<String, String>,
    read: ReadUsage,
) -> Result<BTreeMap<String, String>> {
    let targets: BTreeSet<_> = pairs.values().collect();
    let olds: Vec<_> = pairs.keys().cloned().collect();
    let left = read(bound, &olds)?;
    let mut followed = BTreeMap::new();
    for ((old, new), left) in pairs.iter().zip(&left) {
        if left.is_empty() || targets.contains(old) || usage::workflow_exists(bound, old)? {
            followed.insert(old.clone(), new.clone());
        }
    }
    Ok(followed)
}

/// The same where the application itself moves usage: the sums tell, and where they do not, whether any is left under the
/// old id, and a row of the workflow table that it may be of.
fn followed_by_sums(
    bound: &Bound,
    pairs: &BTreeMap<String, String>,
    is_unique: bool,
    read: ReadUsage,
) -> Result<BTreeMap<String, String>> {
    let ids: BTreeSet<_> = pairs.iter().flat_map(|(old, new)| [old, new]).collect();
    let ids: Vec<_> = ids.into_iter().cloned().collect();
    let used = read(bound, &ids)?;
    let used: HashMap<_, _> = ids.iter().zip(&used).collect();
    let settled = read_settled(bound, &ids)?;
    let settled: HashMap<_, _> = ids.iter().zip(&settled).collect();
    let mut followed = BTreeMap::new();
    for pairs in linked(pairs) {
        let told = sums_tell(bound, &pairs, &used, &settled)?;
        for (old, new) in pairs {
            let has_followed = match told {
                Some(told) => told,
                None => used[old].is_empty() && (is_unique || !usage::workflow_exists(bound, old)?),
            };
            if has_followed {
                followed.insert(old.clone(), new.clone());
            }
        }
    }
    Ok(followed)
}

/// Whether usage has followed all of the pairs, which are linked: if so, enough is there, and less than was accounted for
/// if not; or it has not, the other way round. None if neither is so.
fn sums_tell(
    bound: &Bound,
    pairs: &[(&String, &String)],
    used: &HashMap<&String, &Usage>,
    settled: &HashMap<&String, &Accounted>,
) -> Result<Option<bool>> {
    let olds: HashSet<_> = pairs.iter().map(|(old, _)| *old).collect();
    let mut moved: HashMap<&String, Accounted> = HashMap::new();
    for (old, new) in pairs {
        // What the new id had, unless that is moved as well.
        let moved = moved
            .entry(new)
            .or_insert_with(|| match olds.contains(new) {
                true => Accounted::new(),
                false => settled[new].clone(),
            });
        for (account, settled) in settled[old] {
            moved.entry(account.clone()).or_default().merge(settled);
        }
    }
    let ids: HashSet<_> = pairs.iter().flat_map(|(old, new)| [*old, *new]).collect();
    let there = ids.into_iter().map(|id| (id, settled[id]));
    let is_enough_there = !has_any_shrunk(bound, there, used)?;
    let moved = moved.iter().map(|(id, settled)| (*id, settled));
    let is_enough_moved = !has_any_shrunk(bound, moved, used)?;
    Ok((is_enough_there != is_enough_moved).then_some(is_enough_moved))
}

fn has_any_shrunk<'a>(
    bound: &Bound,
    settled: impl Iterator<Item = (&'a String, &'a Accounted)>,
    used: &HashMap<&String, &Usage>,
) -> Result<bool> {
    for (id, settled) in settled {
        if has_shrunk(bound, settled, used[id])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The pairs, in groups of those that have ids in common, directly or through others.
fn linked(pairs: &BTreeMap<String, String>) -> Vec<Vec<(&String, &String)>> {
    let mut groups: Vec<Vec<(&String, &String)>> = Vec::new();
    let mut group_of: HashMap<&String, usize> = HashMap::new();
    for (old, new) in pairs {
        let of_old = group_of.get(old).copied();
        let of_new = group_of.get(new).copied();
        let at = match (of_old, of_new) {
            (Some(one), Some(other)) if one != other => {
                // The smaller one joins, or a long chain would be copied again and again.
                let (at, joins) = match groups[one].len() < groups[other].len() {
                    true => (other, one),
                    false => (one, other),
                };
                let joining = std::mem::take(&mut groups[joins]);
                for (old, new) in &joining {
                    group_of.insert(old, at);
                    group_of.insert(new, at);
                }
                groups[at].extend(joining);
                at
            }
            (Some(at), _) | (None, Some(at)) => at,
            (None, None) => {
                groups.push(Vec::new());
                groups.len() - 1
            }
        };
        group_of.insert(old, at);
        group_of.insert(new, at);
        groups[at].push((old, new));
    }
    groups
}

/// What cannot be counted has not: it is there.
fn has_shrunk(bound: &Bound, settled: &Accounted, used: &Usage) -> Result<bool> {
    let payers: Vec<Option<&str>> = match &bound.binding.payer {
        Payer::Usage(_) => settled.keys().map(|account| Some(&**account)).collect(),
        Payer::Workflow(_) => vec![None],
    };
    for account in payers {
        let mut uncounted = used.uncounted(&bound.binding);
        let is_counted = uncounted.all(|one| one != account);
        if is_counted && unaccounted(&used.of(account), settled, account)? < 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Settlements of the ids on the left become those of the ids on the right, and aliases of them.
pub(crate) fn move_settlements(bound: &Bound, followed: &BTreeMap<String, String>) -> Result<()> {
    let olds: Vec<_> = followed.keys().cloned().collect();
    let settled = read_settled(bound, &olds)?;
    let known = followed.iter().zip(&settled);
    let moved: Vec<_> = known
        .filter(|(_, settled)| !settled.is_empty())
        .map(|(pair, _)| pair)
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    let ids = |of: fn(&(&String, &String)) -> String| moved.iter().map(of).collect::<Vec<_>>();
    let (olds, news) = (ids(|pair| pair.0.clone()), ids(|pair| pair.1.clone()));
    let args = [Arg::TextArray(&olds), Arg::TextArray(&news)];
    statements.move_settlements.run(&args, Snapshot::Latest)?;
    // Two that join families at once would leave each in two.
    statements.lock_aliases.run(&[], Snapshot::Statement)?;
    for (old, new) in moved {
        let args = [Arg::Text(old), Arg::Text(new)];
        statements.join_families.run(&args, Snapshot::Latest)?;
        statements.add_alias.run(&args, Snapshot::Latest)?;
    }
    Ok(())
}

/// Whether the catalog has aliases: that of an older version, until it is updated, has not.
fn has_aliases(bound: &Bound) -> bool {
    bound.book.own.workflow_alias != pg_sys::InvalidOid
}

/// The ids that the workflow `id` has had later, the last one last.
pub(super) fn later_ids(bound: &Bound, id: &str) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    if !has_aliases(bound) {
        return Ok(ids);
    }
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    let mut last = id.to_owned();
    loop {
        let outcome = statements
            .became
            .run(&[Arg::Text(&last)], Snapshot::Latest)?;
        match outcome.rows.first().map(|row| row.text(0).to_owned()) {
            Some(next) if next != id && !ids.contains(&next) => {
                ids.push(next.clone());
                last = next;
            }
            _ => return Ok(ids),
        }
    }
}

/// Whether one id has become the other.
pub(super) fn is_same_workflow(bound: &Bound, one: &str, other: &str) -> Result<bool> {
    if one == other || !has_aliases(bound) {
        return Ok(one == other);
    }
    let _owner = bound.run_as_extension();
    let args = [Arg::Text(one), Arg::Text(other)];
    let outcome = bound
        .kept::<Statements>()
        .is_same_family
        .run(&args, Snapshot::Latest)?;
    Ok(outcome.processed > 0)
}

/// What has followed by now does so for good.
fn follow_before_commit() -> Result<()> {
    let mut numbers: Vec<_> = NOTED.with_borrow(|noted| {
        let ids = noted.iter().flat_map(|noted| &noted.ids);
        ids.map(|ids| ids.binding).collect()
    });
    numbers.sort_unstable();
    numbers.dedup();
    numbers.retain(|number| !renamed(*number).is_empty());
    if numbers.is_empty() {
        return Ok(());
    }
    // Nothing runs any more whose snapshot could be taken.
    let _fresh = FreshSnapshot::push();
    let found = match bindings_locked(Which::Numbered(&numbers)) {
        Ok(found) => found,
        Err(Error::NotAttached) => return Ok(()),
        Err(error) => return Err(error),
    };
    follow(found.whole.iter().map(|bound| &**bound))?;
    for (_, error) in found.broken {
        if !error.is_broken_binding() {
            return Err(error);
        }
        // The workflow table is the application's: its rows may be written whatever has become of the others.
        error.report(PgLogLevel::WARNING);
    }
    Ok(())
}

/// Called once per backend.
pub(crate) fn init() {
    before_commit(follow_before_commit);
    at_end(AtEnd {
        of_transaction: || drop(NOTED.take()),
        of_subtransaction: |subtransaction| {
            NOTED.with_borrow_mut(|noted| {
                noted.retain(|noted| noted.subtransaction < subtransaction);
                for noted in noted {
                    noted.done.retain(|(_, done_in)| *done_in < subtransaction);
                }
            });
        },
    });
}
