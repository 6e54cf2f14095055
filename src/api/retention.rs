//! archive_usage and accept_deletions.

use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde::Serialize;

use super::common::{at_least_one, binding_at, past, refuse_read_only, required, to_json};
use crate::error::{Error, Result};
use crate::postgres::exact_sum::ExactSum;
use crate::settle::retention::accepted;
use crate::settle::retention::partition::archive_partition;
use crate::settle::retention::usage::{self, Archived, Request};

/// The answer of `archive_usage`.
#[derive(Serialize)]
struct UsageArchived {
    /// Workflows of which rows left.
    workflows: usize,
    usage_rows: usize,
    tokens: ExactSum,
    /// Rows among them that nobody could ever be charged for; only of a partition are there any.
    unowned_rows: usize,
    /// Workflows whose old rows stay, since they are not settled to the last token.
    unsettled: usize,
    /// The table that has the rows; null if they are gone for good.
    archive: Option<String>,
    more: bool,
}

/// `token_balance.archive_usage(timestamptz, regclass, name, regclass, integer, text) → jsonb`: take usage rows out of the usage
/// table that are older than a moment, of workflows that are settled to the last token, into a table of the caller's or for
/// good; or a whole partition. Of a view, `usage_table` names the table below it whose rows leave.
///
/// Errors: 22004 and 22023 for other than one of `before` and `partition`, 22023 for a time that is to come, for usage without
/// a time, or where several bindings are attached and none is named; 0A000 for usage that is a view or that of several
/// bindings; 42P01, 42809 and 42P16 for an archive that cannot hold the rows, 42501 for one that the caller does not own or that
/// is not the usage's owner's, 27000 for one that does not take them; 42809 for what is no partition, 55000 for one that is not
/// settled; 40001 and 40P01 to be retried, 25006 in a read-only transaction, 55000 if nothing is attached.
#[pg_extern(sql = false)]
fn archive_usage(
    before: Option<TimestampWithTimeZone>,
    archive: Option<pg_sys::Oid>,
    binding: Option<&CStr>,
    partition: Option<pg_sys::Oid>,
    max_workflows: Option<i32>,
    usage_table: Option<&str>,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.archive_usage";
    let name = binding.map(|name| name.to_string_lossy().into_owned());
    let max_workflows = max_workflows
        .map(|count| at_least_one("max_workflows", count))
        .transpose()?;
    if let Some(partition) = partition {
        let others = [
            ("before", before.is_some()),
            ("archive", archive.is_some()),
            ("max_workflows", max_workflows.is_some()),
            ("usage_table", usage_table.is_some()),
        ];
        if let Some((other, _)) = others.iter().find(|(_, is_given)| *is_given) {
            return Err(Error::InvalidArgument {
                message: format!("partition and {other} are given"),
                detail: Some("A partition leaves as a whole, and is its own archive.".into()),
                hint: Some("Give one of them.".into()),
            }
            .into());
        }
        refuse_read_only(c"token_balance.archive_usage()");
        return Ok(answer(archive_partition(name.as_deref(), partition)?)?);
    }
    let before = past("before", required(function, "before", before)?, "Rows")?;
    refuse_read_only(c"token_balance.archive_usage()");
    let request = Request {
        before,
        archive,
        below: usage_table,
    };
    let archived = usage::archive_usage(name.as_deref(), request, max_workflows)?;
    Ok(answer(archived)?)
}

fn answer(archived: Archived) -> Result<JsonB> {
    to_json(&UsageArchived {
        workflows: archived.workflows,
        usage_rows: archived.rows,
        tokens: archived.tokens,
        unowned_rows: archived.unowned,
        unsettled: archived.unsettled,
        archive: Some(archived.archive).filter(|archive| !archive.is_empty()),
        more: archived.more,
    })
}

/// The answer of `accept_deletions`.
#[derive(Serialize)]
struct Accepted {
    workflows: usize,
    pairs: usize,
    /// What was missing.
    tokens: ExactSum,
    /// Tokens of usage that came since, and is to be charged now.
    due: i128,
    /// Workflows of which usage is missing and some was settled since: they stay as they are.
    settled_since: usize,
    dry_run: bool,
}

/// `token_balance.accept_deletions(timestamptz, boolean, name) → jsonb`: what is missing of the usage from before a moment was
/// rightly deleted. It is noted as archived, so that usage which came since is charged.
///
/// Errors: 22004 for nulls, 22023 for a time that is to come, or where several bindings are attached and none is named; 40001 and 40P01 to be retried, 25006 in a read-only transaction, 55000 if nothing is attached or the usage
/// is a view that was replaced.
#[pg_extern(sql = false)]
fn accept_deletions(
    before: Option<TimestampWithTimeZone>,
    dry_run: Option<bool>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let function = "token_balance.accept_deletions";
    let before = past("before", required(function, "before", before)?, "Rows")?;
    let dry_run = required(function, "dry_run", dry_run)?;
    if !dry_run {
        refuse_read_only(c"token_balance.accept_deletions()");
    }
    let name = binding_at(fcinfo, 2);
    let accepted = accepted::accept_deletions(name.as_deref(), before, dry_run)?;
    Ok(to_json(&Accepted {
        workflows: accepted.workflows,
        pairs: accepted.pairs,
        tokens: accepted.tokens,
        due: accepted.due,
        settled_since: accepted.settled_since,
        dry_run,
    })?)
}
