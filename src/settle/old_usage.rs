//! Much old usage at once: mostly a load of rows from elsewhere, with balances that have paid for it already. It is
//! charged all the same, since nothing is guessed, but not in silence.

use crate::binding::{Binding, Bound, Kept};
use crate::error::Result;
use crate::postgres::notice::notice;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

use pgrx::pg_sys::TEXTARRAYOID;

/// Fewer workflows at once are not looked at.
const MANY: usize = 100;
/// So many of them are: the others would be no other.
const SAMPLE: usize = 100;

/// What is older waits for no sweep.
const OLD: &str = "7 days";

struct Statements {
    /// None where the usage has no time.
    count_old: Option<Statement>,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let usage = bound.binding.usage.oid;
        let sql = count_old_sql(&bound.binding);
        Statements {
            count_old: sql.map(|sql| Statement::new(&sql, &[TEXTARRAYOID]).of(&[usage])),
        }
    }
}

/// How many of the workflows $1 have old usage.
fn count_old_sql(binding: &Binding) -> Option<String> {
    let time = binding.details.created_at.as_ref()?;
    Some(format!(
        "SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1) AS k (id) \
         WHERE EXISTS (SELECT 1 FROM {usage} AS u \
         WHERE u.{workflow} OPERATOR(pg_catalog.=) k.id::{key_type} \
         AND u.{time} OPERATOR(pg_catalog.<) \
         (pg_catalog.now() OPERATOR(pg_catalog.-) '{OLD}'::interval)::{time_type})",
        usage = binding.usage.sql,
        workflow = binding.usage_workflow.sql(),
        key_type = binding.usage_workflow.key_type.sql(),
        time = time.sql(),
        time_type = time.time_type_sql(),
    ))
}

/// A NOTICE if half of many workflows, which are settled now and not by their completion, have old usage.
pub(crate) fn tell_of_old_usage(bound: &Bound, workflows: &[String]) -> Result<()> {
    let statements = bound.kept::<Statements>();
    let Some(count_old) = &statements.count_old else {
        return Ok(());
    };
    if workflows.len() < MANY {
        return Ok(());
    }
    let sample = &workflows[..workflows.len().min(SAMPLE)];
    let old: usize = {
        let _owner = bound.run_as(bound.binding.usage.owner);
        let outcome = count_old.run(&[Arg::TextArray(sample)], Snapshot::Latest)?;
        outcome.rows.first().map_or(Ok(0), |row| row.amount(0))?
    };
    if old * 2 < sample.len() {
        return Ok(());
    }
    notice(
        format!("usage of {} workflows is charged now, and most of it is old", workflows.len()),
        Some(format!(
            "Of {} of them, {old} have usage that is older than {OLD} by its {}.",
            sample.len(),
            bound.binding.details.created_at.as_ref().map_or_else(String::new, |it| it.sql())
        )),
        Some(
            "If a load has brought it, with balances that have paid for it: roll back, and load between \
             token_balance.detach() and attach()."
                .into(),
        ),
    );
    Ok(())
}
