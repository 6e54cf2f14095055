//! `attach(…, dry_run => true)`: what would happen, in NOTICEs. Everything that attach checks has been checked;
//! nothing is written, and no lock is taken but those of reading.

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use super::balance_column::{is_prepared, keeps_default};
use super::existing::{Outstanding, outstanding};
use super::overdraft;
use super::plausible;
use super::remembered::Standing;
use super::wanted_triggers::triggers;
use crate::binding::{Binding, completed};
use crate::error::Result;
use crate::postgres::catalog::{self, Table};
use crate::postgres::notice::notice;
use crate::postgres::patience::StrongLocks;

/// Statuses that are told of those that complete nothing.
const STATUSES: usize = 10;

/// What attach would do with `binding`, which stands so to those that are there. `others` are attached beside it;
/// `locks` are the strong ones; `given` is the initial balance that the caller names; `restores`: the column would get
/// balances of the ledger.
pub(super) fn tell(
    binding: &Binding,
    others: &[Binding],
    standing: &Standing,
    locks: &StrongLocks,
    (given, restores, with_index): (Option<i64>, bool, bool),
) -> Result<()> {
    tell_of_binding(binding, standing);
    tell_of_usage(binding, standing)?;
    tell_of_statuses(binding)?;
    let builds_index =
        with_index && !catalog::has_index_on(&binding.usage, &binding.usage_workflow.column)?;
    tell_of_objects(binding, others, (given, restores, builds_index))?;
    tell_of_locks(binding, locks, builds_index);
    if let Some(error) = overdraft::forbidden(binding)? {
        error.report(PgLogLevel::WARNING);
    }
    plausible::warn_if_nothing_matches(binding)?;
    say("nothing was changed", None, None);
    Ok(())
}

fn say(message: &str, detail: Option<String>, hint: Option<&str>) {
    notice(
        format!("dry run: {message}"),
        detail,
        hint.map(str::to_owned),
    );
}

fn tell_of_binding(binding: &Binding, standing: &Standing) {
    let name = &binding.spec.name;
    let usage = &binding.usage.sql;
    let message = match standing {
        Standing::New(_) => format!("{usage} would be attached as \"{name}\", a new binding"),
        Standing::Same(_) => format!("\"{name}\" is attached, and would be repaired"),
        Standing::OtherWorkflows(_) => {
            format!("\"{name}\" is attached, and would get another workflow table")
        }
        Standing::GoesOn(_) => {
            format!("{usage} was attached before, and would go on where it was, as \"{name}\"")
        }
    };
    say(&message, None, None);
}

/// What is exempt, and what would be charged.
fn tell_of_usage(binding: &Binding, standing: &Standing) -> Result<()> {
    let Outstanding { completed, open } = outstanding(binding)?;
    let is_new = matches!(standing, Standing::New(_));
    let charges = !is_new || binding.spec.existing_usage.as_deref() == Some("charge");
    if completed.0 + open.0 == 0 {
        let message = match is_new {
            true => "there is no usage from before",
            false => "no usage waits",
        };
        say(message, None, None);
    } else if charges {
        say(
            "usage waits to be charged, and the next sweep would charge what is of completed runs",
            Some(format!(
                "{} tokens of completed runs ({} pairs of workflow and account), {} tokens of others ({}).",
                completed.1, completed.0, open.1, open.0
            )),
            None,
        );
    } else {
        say(
            "usage from before would be exempt",
            Some(format!(
                "{} tokens of {} pairs of workflow and account; of these {} tokens ({} pairs) are of runs that have \
                 not completed.",
                completed.1 + open.1,
                completed.0 + open.0,
                open.1,
                open.0
            )),
            Some("With existing_usage => 'charge' it would be charged when its run is settled."),
        );
    }
    Ok(())
}

/// Which of the statuses in the workflow table complete a run.
fn tell_of_statuses(binding: &Binding) -> Result<()> {
    let seen = plausible::statuses(binding)?;
    if seen.is_empty() {
        return Ok(());
    }
    let rows: i64 = seen.values().sum();
    let wanted = &binding.spec.completed_statuses;
    let is_completed =
        |status: &str| completed::is_one_of(status, wanted.iter().map(String::as_str));
    let (complete, others): (Vec<_>, Vec<_>) =
        seen.iter().partition(|(status, _)| is_completed(status));
    let list = |statuses: Vec<(&String, &i64)>| {
        let told = statuses.iter().take(STATUSES);
        let told: Vec<_> = told
            .map(|(status, rows)| format!("{status} ({rows})"))
            .collect();
        match told.is_empty() {
            true => "none".to_owned(),
            false => told.join(", "),
        }
    };
    say(
        "statuses that complete a run, and those that do not",
        Some(format!(
            "Of {rows} sampled rows: {} do; {} do not.",
            list(complete),
            list(others)
        )),
        None,
    );
    Ok(())
}

/// What would be made.
fn tell_of_objects(
    binding: &Binding,
    others: &[Binding],
    (given, restores, builds_index): (Option<i64>, bool, bool),
) -> Result<()> {
    let mut made = Vec::new();
    let users = &binding.accounts.users.sql;
    let column = binding.accounts.balance_sql();
    match &binding.accounts.balance {
        None => made.push(format!(
            "column {column} of {users}, {} NOT NULL DEFAULT {}",
            match binding.spec.balance_type {
                pg_sys::INT8OID => "bigint",
                _ => "integer",
            },
            binding.spec.initial()
        )),
        Some(_) if is_prepared(binding, given)? => {}
        Some(_) if keeps_default(binding, given) => {
            made.push(format!(
                "column {column} of {users} NOT NULL, with its own default"
            ));
        }
        Some(_) => made.push(format!(
            "column {column} of {users} NOT NULL, with DEFAULT {}",
            binding.spec.initial()
        )),
    }
    if restores {
        made.push("balances that the ledger knows".into());
    }
    for trigger in triggers(binding, others) {
        if trigger.is_known()? && trigger.lock_to_create(false)?.is_some() {
            made.push(format!("trigger {} on {}", trigger.name, trigger.table.sql));
        }
    }
    if builds_index {
        made.push(format!(
            "index on {} {}",
            binding.usage.sql,
            binding.usage_index()
        ));
    }
    if made.is_empty() {
        say("no column, trigger or index would be made", None, None);
    } else {
        say("these would be made", Some(made.join("\n")), None);
    }
    Ok(())
}

/// The locks on the tables, and what waits for them.
fn tell_of_locks(binding: &Binding, locks: &StrongLocks, builds_index: bool) {
    let mut lines = Vec::new();
    let mut told: Vec<Table> = Vec::new();
    let below = binding
        .usage_view
        .iter()
        .flat_map(|view| view.tables.clone());
    for table in binding.tables().into_iter().chain(below) {
        if told.iter().any(|other| other.oid == table.oid) {
            continue;
        }
        let mut modes = vec!["SHARE UPDATE EXCLUSIVE from the start (DDL and vacuum wait)"];
        if builds_index && table.oid == binding.usage.oid {
            modes.push("SHARE while the index is built (writes wait)");
        }
        modes.extend(match locks.mode_of(table.oid) {
            None => None,
            Some(pg_sys::AccessExclusiveLock) => {
                Some("ACCESS EXCLUSIVE at the end, briefly (reads and writes wait)")
            }
            Some(_) => Some("SHARE ROW EXCLUSIVE at the end, briefly (writes wait)"),
        });
        lines.push(format!("{}: {}", table.sql, modes.join("; ")));
        told.push(table);
    }
    say(
        "attach would lock the tables, to the end of its transaction",
        Some(lines.join("\n")),
        Some("Call it in a transaction of its own."),
    );
}
