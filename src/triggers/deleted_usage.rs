//! Deleted usage, `attach(deleted_usage => 'record')`: the triggers on the usage and its partitions that see what is
//! deleted.
//!
//! A TRUNCATE fires a trigger before it, while the rows are there to be added up, and one when those of all its tables are
//! gone: in between, usage that counts as deleted would be read as well.

use crate::binding::{Binding, Bound, Which, bindings};
use crate::error::{Error, Result};
use crate::postgres::snapshot::{Snapshot, firing_command};
use crate::postgres::spi::{self, Outcome};
use crate::postgres::trigger::{Time, TriggerCall, trigger_function};
use crate::settle::retention::deletions::{
    Deleted, deleted_sql, note_truncated, record_or_collect, take_truncated,
};

trigger_function!(
    record_deleted_usage_wrapper,
    pg_finfo_record_deleted_usage_wrapper,
    "token_balance.record_deleted_usage",
    record_deleted_usage
);

const WANTED: &str =
    "AFTER DELETE with an OLD TABLE, or BEFORE or AFTER TRUNCATE, FOR EACH STATEMENT";

/// Trigger on a usage table and on each table below it, for each statement: what is deleted of settled runs stays
/// settled, in all bindings of the table that record deletions.
///
/// A charge that is bad is a WARNING; so is a binding whose workflow table, say, is gone. A table that is no usage, as a
/// partition that was detached, is none of our business. Errors: 39P01 if fired otherwise.
fn record_deleted_usage(call: &TriggerCall) -> Result<()> {
    match (call.operation(), call.time(WANTED)?) {
        ("DELETE", Time::After) => {
            let rows = call.deleted_rows().ok_or(Error::TriggerProtocol {
                function: call.function,
                wanted: WANTED,
            })?;
            if !call.has_deleted_rows() {
                return Ok(());
            }
            record_or_collect(read(call, |binding| {
                call.query(&deleted_sql(binding, &rows))
            })?)
        }
        ("TRUNCATE", Time::Before) => {
            let table = call.relation();
            let rows = format!("ONLY {}", call.relation_name());
            note_truncated(read(call, |binding| {
                // All rows go, whatever the transaction's snapshot shows of them.
                spi::query_of(
                    &[table],
                    &deleted_sql(binding, &rows),
                    &[],
                    Snapshot::Latest,
                )
            })?);
            Ok(())
        }
        ("TRUNCATE", Time::After) => record_or_collect(take_truncated()),
        _ => Err(Error::TriggerProtocol {
            function: call.function,
            wanted: WANTED,
        }),
    }
}

/// What `query` finds for each binding that records what is deleted from the table, as its owner.
fn read(call: &TriggerCall, query: impl Fn(&Binding) -> Result<Outcome>) -> Result<Vec<Deleted>> {
    let command = firing_command();
    let bounds = match bindings(Which::OfDeletedUsage(call.relation())) {
        Ok(found) => found.whole_or_warn()?,
        Err(Error::NotAttached) => Vec::new(),
        Err(error) => return Err(error),
    };
    let read = |bound: &Bound| {
        let outcome = {
            let _owner = bound.run_as(call.relation_owner());
            query(&bound.binding)?
        };
        let deleted = Deleted::of(bound, &outcome.rows)?;
        match call.operation() {
            "DELETE" => deleted.without_written(bound, command),
            _ => Ok(deleted),
        }
    };
    bounds.iter().map(|bound| read(bound)).collect()
}
