//! `token_balance.accept_deletions`: usage that was deleted without record is noted in the settlements, so that what came
//! since is charged.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::TimestampTz;

use super::old::{follow_renamed, is_older_sql};
use super::record::{self, Kind, Left, TakenAway};
use crate::binding::{Binding, Bound, Payer, Which, bindings_locked, bound};
use crate::error::{Error, Result};
use crate::ledger::change::actor;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row};
use crate::settle::claim::{Accounted, read_settled, unaccounted};
use crate::settle::lock::{has_room_for, lock_out_all, lock_taken_away};
use crate::settle::settlement::archived_usage_sql;
use crate::settle::usage::{self, Usage, usage_groups_sql};

/// Workflows that are looked at together. A transaction that accepts so many holds a lock on each of them.
const BATCH: usize = 1_000;

/// What was accepted, or would be.
#[derive(Default)]
pub(crate) struct Accepted {
    pub(crate) workflows: usize,
    /// Pairs of workflow and account.
    pub(crate) pairs: usize,
    pub(crate) tokens: ExactSum,
    /// Tokens of usage that came since, and is to be charged by it.
    pub(crate) due: i128,
    /// Workflows of which usage is missing, and some was settled since `before`: nobody knows what is missing of the older
    /// part.
    pub(crate) settled_since: usize,
}

/// Note of each workflow what is missing of its usage from before `before`, by the usage's own time: as if it had been
/// archived. With `is_dry_run` nothing is written.
///
/// Of up to 1,024 workflows, with those that the transaction has locked, each is locked. Of more, all settlements of these accounts wait until
/// the transaction ends.
///
/// Errors: 55000 for a view that was replaced, 40001 to be retried.
pub(crate) fn accept_deletions(
    name: Option<&str>,
    before: TimestampTz,
    is_dry_run: bool,
) -> Result<Accepted> {
    let found = bound(name)?;
    let name = found.name().to_owned();
    follow_renamed(&name)?;
    let mut accepted = Accepted::default();
    let workflows = candidates(&found, before, &mut accepted)?;
    if is_dry_run {
        for workflows in workflows.chunks(BATCH) {
            accept(&found, before, workflows, true, &mut accepted)?;
        }
        return Ok(accepted);
    }
    if !has_room_for(workflows.len()) {
        // Before this transaction locks the table as a settlement does.
        lock_out_all(&[&found.binding]);
    }
    let mut bounds = bindings_locked(Which::Named(Some(&name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Err(Error::NotAttached);
    };
    lock_taken_away(&workflows, &[&bound.binding]);
    for workflows in workflows.chunks(BATCH) {
        accept(&bound, before, workflows, false, &mut accepted)?;
    }
    let actor = actor();
    let _owner = bound.run_as_extension();
    let left = Left {
        binding: bound.binding.spec.number(),
        kind: Kind::Deletion,
        archive: "",
        before: Some(before),
        rows: accepted.pairs,
        tokens: &accepted.tokens,
    };
    left.remember(&actor)?;
    Ok(accepted)
}

/// The workflows of which some of the old usage is missing, and none was settled since, in order.
fn candidates(
    bound: &Rc<Bound>,
    before: TimestampTz,
    accepted: &mut Accepted,
) -> Result<Vec<String>> {
    let old = OldUsage::of(bound, before)?;
    let owner = bound.binding.accounts.extension_owner;
    bound.follow();
    let args = [Arg::OptionalTimestamp(Some(before))];
    let sql = settled_sql(bound, "");
    let cursor = Cursor::open(
        owner,
        &[],
        &sql,
        &args,
        Snapshot::Statement,
        Life::Transaction,
    )?;
    let mut found = Vec::new();
    loop {
        let rows = cursor.fetch(BATCH)?;
        if rows.is_empty() {
            break;
        }
        let (olds, since) = by_time(&rows);
        for (workflow, missing) in olds.iter().zip(old.missing(&olds)?) {
            if !missing.is_empty() {
                found.push(workflow.clone());
            }
        }
        accepted.settled_since += count_short(bound, &since)?;
    }
    cursor.close()?;
    found.sort_unstable();
    Ok(found)
}

/// What [`settled_sql`] finds: the workflows of which none was settled since, and those of which some was; sorted.
fn by_time(rows: &[Row]) -> (Vec<String>, Vec<String>) {
    let (olds, since): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_true(1));
    let [olds, since] = [olds, since].map(|rows| {
        let mut ids: Vec<_> = rows.iter().map(|row| row.text(0).to_owned()).collect();
        ids.sort_unstable();
        ids
    });
    (olds, since)
}

/// Of how many of these workflows some usage is missing, of whatever time.
fn count_short(bound: &Bound, workflows: &[String]) -> Result<usize> {
    let used = usage::read(bound, workflows)?;
    let settled = read_settled(bound, workflows)?;
    let mut count = 0;
    for (used, settled) in used.iter().zip(&settled) {
        count += usize::from(!missing(&bound.binding, used, settled)?.is_empty());
    }
    Ok(count)
}

/// The workflows of which some is accounted for that is not archived, and whether none of it was accounted for since $1.
/// What was exempted has no time of its own. `condition` is on the settlement `s`, and ends with AND.
fn settled_sql(bound: &Bound, condition: &str) -> String {
    let own = bound.binding.own("s");
    format!(
        "SELECT s.workflow_id, pg_catalog.bool_and(COALESCE(s.last_settled_at, e.at) \
         OPERATOR(pg_catalog.<) $1) FROM token_balance.settlement AS s \
         CROSS JOIN (SELECT GREATEST((SELECT b.attached_at FROM token_balance.binding AS b \
         WHERE b.binding_id OPERATOR(pg_catalog.=) {number}), \
         (SELECT pg_catalog.max(x.exempted_at) FROM token_balance.exemption AS x \
         WHERE x.binding_id OPERATOR(pg_catalog.=) {number}))) AS e (at) \
         WHERE {own} {condition} true GROUP BY s.workflow_id HAVING pg_catalog.sum(s.usage_tokens) \
         OPERATOR(pg_catalog.>) pg_catalog.round(pg_catalog.sum({archived}))",
        number = bound.binding.spec.number(),
        archived = archived_usage_sql(bound.binding.spec.ids, "s"),
    )
}

/// Accept what is missing of these workflows, which are sorted. Of one that was settled while its lock was waited for, what
/// came since is accounted for, too, and would look as if it were missing.
fn accept(
    bound: &Rc<Bound>,
    before: TimestampTz,
    workflows: &[String],
    is_dry_run: bool,
    accepted: &mut Accepted,
) -> Result<()> {
    let old = OldUsage::of(bound, before)?;
    let (workflows, since) = {
        let is_one_of_them = "s.workflow_id OPERATOR(pg_catalog.=) ANY ($2) AND";
        let args = [
            Arg::OptionalTimestamp(Some(before)),
            Arg::TextArray(workflows),
        ];
        let _owner = bound.run_as_extension();
        let sql = settled_sql(bound, is_one_of_them);
        by_time(&spi::query_as_of(&sql, &args, Snapshot::Latest)?.rows)
    };
    accepted.settled_since += count_short(bound, &since)?;
    let missing = old.missing(&workflows)?;
    let settled = read_settled(bound, &workflows)?;
    let used = usage::read(bound, &workflows)?;
    let mut taken = Vec::new();
    let all = workflows.iter().zip(missing).zip(&settled).zip(&used);
    for (((workflow, missing), settled), used) in all {
        accepted.workflows += usize::from(!missing.is_empty());
        for (account, tokens) in missing {
            accepted.pairs += 1;
            accepted.tokens.add(&tokens);
            let in_all = used.of(account.as_deref()).plus(&tokens);
            accepted.due += unaccounted(&in_all, settled, account.as_deref())?.max(0);
            let away = TakenAway {
                workflow: workflow.clone(),
                account,
                tokens,
            };
            taken.push((away, settled));
        }
    }
    match is_dry_run {
        true => Ok(()),
        false => record::add_to_settlements(bound, taken.iter().map(|(taken, of)| (taken, *of))),
    }
}

/// Accounts, none where the workflow's own pays, each with tokens that are missing, before they are rounded.
type Missing = Vec<(Option<String>, ExactSum)>;

/// What is missing of the accounts' usage; `used` is all that there may be of what was accounted for. Where some of it cannot
/// be counted nothing is known to be missing. Tokens, before they are rounded.
fn missing(binding: &Binding, used: &Usage, settled: &Accounted) -> Result<Missing> {
    let payers: Vec<Option<&str>> = match &binding.payer {
        Payer::Usage(_) => settled.keys().map(|account| Some(&**account)).collect(),
        Payer::Workflow(_) => vec![None],
    };
    let mut found = Vec::new();
    for account in payers {
        let mut uncounted = used.uncounted(binding);
        let used = used.of(account);
        if uncounted.any(|one| one == account) || unaccounted(&used, settled, account)? >= 0 {
            continue;
        }
        let all = settled.iter();
        let all = all.filter(|(one, _)| account.is_none_or(|account| account == *one));
        let mut tokens = ExactSum::default();
        for (_, one) in all {
            tokens.add(&i128::from(one.usage).into());
            tokens = tokens.minus(&one.archived);
        }
        found.push((account.map(str::to_owned), tokens.minus(&used)));
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Reads the usage from before a moment.
struct OldUsage<'a> {
    bound: &'a Bound,
    before: TimestampTz,
    sql: String,
}

impl<'a> OldUsage<'a> {
    /// Error 55000 for a view that was replaced.
    fn of(bound: &'a Bound, before: TimestampTz) -> Result<Self> {
        let binding = &bound.binding;
        binding.refuse_replaced_view()?;
        binding.require_readable()?;
        let is_one_of_them = format!(
            "u.{} OPERATOR(pg_catalog.=) ANY ($2::{}[])",
            binding.usage_workflow.sql(),
            binding.usage_workflow.key_type.sql()
        );
        // What has no time is nothing that came since; nor is what comes later than now, by a clock that goes ahead.
        let is_older = match &binding.details.created_at {
            Some(time) => {
                let is_older = is_older_sql(time, "$1");
                let (column, type_name) = (time.sql(), time.time_type_sql());
                format!(
                    "({is_older} OR u.{column} IS NULL OR u.{column} OPERATOR(pg_catalog.>) \
                     pg_catalog.clock_timestamp()::{type_name})"
                )
            }
            None => "$1 IS NOT NULL".into(),
        };
        Ok(OldUsage {
            bound,
            before,
            sql: usage_groups_sql(binding, &[is_one_of_them, is_older]),
        })
    }

    /// What is missing of each of these workflows.
    fn missing(&self, workflows: &[String]) -> Result<Vec<Missing>> {
        if workflows.is_empty() {
            return Ok(Vec::new());
        }
        let binding = &self.bound.binding;
        let mut used: HashMap<String, Usage> = HashMap::new();
        {
            let _owner = self.bound.run_as(binding.usage.owner);
            let before = Arg::OptionalTimestamp(Some(self.before));
            let args = [before, Arg::TextArray(workflows)];
            let usage = [binding.usage.oid];
            for row in &spi::query_of(&usage, &self.sql, &args, Snapshot::Latest)?.rows {
                let of_workflow = used.entry(row.text(0).to_owned()).or_default();
                of_workflow.add(row.owned(1), row.counted(2)?);
            }
        }
        let settled = read_settled(self.bound, workflows)?;
        let nothing = Usage::default();
        let all = workflows.iter().zip(&settled);
        all.map(|(workflow, settled)| {
            missing(binding, used.get(workflow).unwrap_or(&nothing), settled)
        })
        .collect()
    }
}
