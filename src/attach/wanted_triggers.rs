//! The triggers that bound tables want, of all bindings: their names, when they fire and what they call.
//!
//! A table has one trigger of a kind, whatever the number of bindings that it is bound in.

use crate::binding::{Binding, Completion, LateUsage, OutsideChanges, Workflows, completed};
use crate::postgres::catalog::{Column, Table};
use crate::postgres::quote::quote_literal;

/// One trigger on one bound table.
pub(crate) struct Trigger<'a> {
    pub(crate) name: &'static str,
    pub(crate) table: &'a Table,
    /// `BEFORE` or `AFTER`.
    pub(super) time: &'static str,
    pub(super) events: &'static str,
    /// `ROW` or `STATEMENT`.
    pub(super) level: &'static str,
    /// The columns whose change it waits for.
    pub(super) columns: Vec<&'a Column>,
    /// The columns that its condition reads.
    pub(super) reads: Vec<&'a Column>,
    pub(super) condition: Option<Condition>,
    pub(super) is_deferrable: bool,
    pub(super) function: &'static str,
    /// What it is called with, if anything.
    pub(super) argument: Option<&'a str>,
    /// Whether it sees all rows that its statement has deleted.
    pub(super) sees_deleted_rows: bool,
}

/// The WHEN condition of a trigger that settles.
#[derive(PartialEq)]
pub(super) struct Condition {
    /// Notes the row when all else holds, so that only rows whose event is queued are noted (see
    /// completion.rs).
    pub(super) noting: String,
    /// The same for the catalog of 0.2.0, before it is updated.
    pub(super) noting_in_0_2: String,
    /// For the catalog of 0.1.0, before it is updated: it has no function that notes, and each run
    /// is settled by itself.
    pub(super) plain: String,
}

/// AFTER triggers of a row fire in the order of their names. An application's own AFTER trigger may
/// change the balance again: the ledger must have the first change first.
const LEDGER: &str = "00_token_balance_ledger";
const COMPLETED_BY_INSERT: &str = "token_balance_completed_insert";
const COMPLETED_BY_UPDATE: &str = "token_balance_completed_update";
const WORKFLOW_ID: &str = "00_token_balance_workflow_id";
pub(super) const LATE_USAGE: &str = "token_balance_late_usage";
pub(super) const UPDATED_USAGE: &str = "token_balance_updated_usage";
/// The last of the BEFORE triggers by name: what the others do to a balance is from outside, too.
pub(super) const KEEP_BALANCE: &str = "zz_token_balance_keep";

const TRUNCATED: &str = "token_balance_truncated";

const DELETED_USAGE: &str = "token_balance_deleted_usage";
const TRUNCATED_USAGE: &str = "token_balance_truncated_usage";
/// The last of the BEFORE triggers by name: what the others write is truncated, too.
const TRUNCATING_USAGE: &str = "zz_token_balance_truncated_usage";
/// Those that record what is deleted.
pub(super) const RECORDING: [&str; 3] = [DELETED_USAGE, TRUNCATED_USAGE, TRUNCATING_USAGE];

/// The triggers that the tables of `binding` want, which may be bound in `others` that are attached as well.
pub(crate) fn triggers<'a>(binding: &'a Binding, others: &'a [Binding]) -> Vec<Trigger<'a>> {
    let mut bindings: Vec<_> = std::iter::once(binding).chain(others).collect();
    bindings.sort_by_key(|binding| binding.spec.ids.map_or(i16::MAX, |ids| ids.binding));
    let mut triggers = Vec::new();
    if let Some(workflows) = &binding.workflows {
        triggers.extend(on_workflows(&workflows.table, &bindings));
    }
    triggers.extend(on_usage(&binding.usage, &bindings));
    let records =
        |other: &&Binding| other.usage.oid == binding.usage.oid && other.records_deletions();
    if let Some(recording) = bindings.iter().copied().find(records) {
        triggers.extend(recording.usage_parts.iter().flat_map(recording_triggers));
    }
    for source in &binding.late_sources {
        triggers.extend(on_late_source(&source.table, &bindings));
    }
    triggers.extend(on_users(&binding.accounts.users, &bindings));
    // Those that only tell of something come last.
    triggers.sort_by_key(|trigger| trigger.name == TRUNCATED);
    triggers
}

/// The triggers that the table wants, of all that is attached.
pub(crate) fn triggers_on<'a>(table: &'a Table, attached: &'a [Binding]) -> Vec<Trigger<'a>> {
    let bindings: Vec<_> = attached.iter().collect();
    let is_bound = |of: fn(&Binding) -> Option<&Table>| {
        let mut bound = attached.iter().filter_map(of);
        bound.any(|bound| bound.oid == table.oid)
    };
    let mut triggers = Vec::new();
    if is_bound(|binding| binding.workflows.as_ref().map(|it| &it.table)) {
        triggers.extend(on_workflows(table, &bindings));
    }
    if is_bound(|binding| Some(&binding.usage)) {
        triggers.extend(on_usage(table, &bindings));
    }
    let mut parts = attached.iter().flat_map(|binding| &binding.usage_parts);
    if parts.any(|part| part.oid == table.oid) {
        triggers.extend(recording_triggers(table));
    }
    triggers.extend(on_late_source(table, &bindings));
    if is_bound(|binding| Some(&binding.accounts.users)) {
        triggers.extend(on_users(table, &bindings));
    }
    triggers
}

/// On a table below usage views: each row that is written counts, whichever column is changed. What the view makes of
/// it, nobody knows.
fn on_late_source<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Vec<Trigger<'a>> {
    let sources = bindings.iter().flat_map(|binding| &binding.late_sources);
    let mut sources = sources.filter(|source| source.table.oid == table.oid);
    let Some(source) = sources.next() else {
        return Vec::new();
    };
    let noting = "token_balance.note_completion(NEW.tableoid, NEW.ctid)";
    [(LATE_USAGE, "INSERT"), (UPDATED_USAGE, "UPDATE")]
        .map(|(name, events)| Trigger {
            argument: Some(&source.key.name),
            ..late_trigger(table, name, events, noting)
        })
        .into()
}

fn late_trigger<'a>(
    table: &'a Table,
    name: &'static str,
    events: &'static str,
    noting: &str,
) -> Trigger<'a> {
    Trigger {
        name,
        table,
        time: "AFTER",
        events,
        level: "ROW",
        columns: Vec::new(),
        reads: Vec::new(),
        condition: Some(Condition {
            noting: noting.into(),
            noting_in_0_2: noting.into(),
            plain: "true".into(),
        }),
        is_deferrable: false,
        function: "settle_late_usage",
        argument: None,
        sees_deleted_rows: false,
    }
}

fn on_workflows<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Vec<Trigger<'a>> {
    let bound = bindings.iter().filter_map(|binding| {
        let workflows = binding.workflows.as_ref();
        workflows
            .filter(|workflows| workflows.table.oid == table.oid)
            .map(|workflows| (*binding, workflows))
    });
    let bound: Vec<_> = bound.collect();
    let mut triggers = completion_triggers(table, &bound);
    // The catalog of an older version has no function for it, until it is updated.
    if bound
        .iter()
        .all(|(binding, _)| !binding.spec.is_of_older_catalog)
    {
        let mut keys: Vec<&Column> = Vec::new();
        for (_, workflows) in &bound {
            add_by_name(&mut keys, &workflows.key.column);
        }
        triggers.push(Trigger {
            name: WORKFLOW_ID,
            table,
            time: "AFTER",
            events: "UPDATE",
            level: "ROW",
            reads: keys.clone(),
            columns: keys,
            condition: None,
            is_deferrable: false,
            function: "follow_workflow_id",
            argument: None,
            sees_deleted_rows: false,
        });
    }
    triggers
}

fn on_usage<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Vec<Trigger<'a>> {
    // A view has no rows of its own.
    if table.is_view() {
        return Vec::new();
    }
    let mut triggers = vec![truncating_trigger(table)];
    let settles_late = |binding: &&Binding| {
        binding.usage.oid == table.oid && binding.spec.options.late_usage == LateUsage::Settle
    };
    let settling: Vec<_> = bindings.iter().copied().filter(settles_late).collect();
    if !settling.is_empty() {
        let noting = "token_balance.note_completion(NEW.tableoid, NEW.ctid)";
        triggers.push(late_trigger(table, LATE_USAGE, "INSERT", noting));
        // The catalog of an older version has no function for it, until it is updated.
        if settling.iter().all(|it| !it.spec.is_of_older_catalog) {
            // Neither a column list nor a condition on columns: either would forbid to alter their types.
            let noting = "token_balance.note_update(NEW.tableoid, OLD.ctid, NEW.ctid)";
            triggers.push(late_trigger(table, UPDATED_USAGE, "UPDATE", noting));
        }
    }
    let records =
        |binding: &&Binding| binding.usage.oid == table.oid && binding.records_deletions();
    if bindings.iter().any(records) {
        triggers.extend(recording_triggers(table));
    }
    triggers
}

/// A DELETE fires those of the table that it names alone, which see the rows of all that is below it. A TRUNCATE fires
/// those of each table that it empties: before, while the rows are there, and when all of them are gone.
fn recording_triggers(table: &Table) -> Vec<Trigger<'_>> {
    let trigger = |name, time, events| Trigger {
        name,
        table,
        time,
        events,
        level: "STATEMENT",
        columns: Vec::new(),
        reads: Vec::new(),
        condition: None,
        is_deferrable: false,
        function: "record_deleted_usage",
        argument: None,
        sees_deleted_rows: events == "DELETE",
    };
    let mut triggers = vec![trigger(DELETED_USAGE, "AFTER", "DELETE")];
    // One that is partitioned has no rows of its own.
    if !table.is_partitioned() {
        triggers.push(trigger(TRUNCATING_USAGE, "BEFORE", "TRUNCATE"));
        triggers.push(trigger(TRUNCATED_USAGE, "AFTER", "TRUNCATE"));
    }
    triggers
}

fn on_users<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Vec<Trigger<'a>> {
    // No WHEN and no column list: either would forbid ALTER COLUMN ... TYPE on the balance.
    let mut triggers = vec![Trigger {
        name: LEDGER,
        table,
        time: "AFTER",
        events: "INSERT OR UPDATE",
        level: "ROW",
        columns: Vec::new(),
        reads: Vec::new(),
        condition: None,
        is_deferrable: false,
        function: "record_balance_change",
        argument: None,
        sees_deleted_rows: false,
    }];
    triggers.extend(keeping_trigger(table, bindings));
    triggers.push(truncating_trigger(table));
    triggers
}

/// What is refused, the ledger's trigger refuses, but for a row that moves to another partition: that
/// fires no AFTER UPDATE trigger, and its account may not get another id on the way. There the trigger fires whatever is
/// updated: a column list with the key would forbid to alter its type.
///
/// No WHEN: the server would read it anew for each statement, which costs more than the call.
fn keeping_trigger<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Option<Trigger<'a>> {
    let keeps = |binding: &Binding| {
        let keeps = binding.spec.options.outside_changes == OutsideChanges::Keep;
        binding.accounts.users.oid == table.oid && (keeps || table.is_partitioned())
    };
    let keeping: Vec<_> = bindings.iter().filter(|binding| keeps(binding)).collect();
    let mut columns: Vec<&Column> = Vec::new();
    if !table.is_partitioned() {
        for column in keeping.iter().filter_map(|it| it.accounts.balance.as_ref()) {
            add_by_name(&mut columns, column);
        }
    }
    (!keeping.is_empty()).then(|| Trigger {
        name: KEEP_BALANCE,
        table,
        time: "BEFORE",
        events: "UPDATE",
        level: "ROW",
        reads: columns.clone(),
        columns,
        condition: None,
        is_deferrable: false,
        function: "keep_balance",
        argument: None,
        sees_deleted_rows: false,
    })
}

/// What is known stays: it tells of it.
fn truncating_trigger(table: &Table) -> Trigger<'_> {
    Trigger {
        name: TRUNCATED,
        table,
        time: "AFTER",
        events: "TRUNCATE",
        level: "STATEMENT",
        columns: Vec::new(),
        reads: Vec::new(),
        condition: None,
        is_deferrable: false,
        function: "warn_of_truncate",
        argument: None,
        sees_deleted_rows: false,
    }
}

fn add_by_name<'a>(columns: &mut Vec<&'a Column>, column: &'a Column) {
    if columns.iter().all(|known| known.name != column.name) {
        columns.push(column);
    }
}

/// The INSERT one also catches a row that moves between partitions, which fires no UPDATE trigger.
fn completion_triggers<'a>(
    table: &'a Table,
    bound: &[(&'a Binding, &'a Workflows)],
) -> Vec<Trigger<'a>> {
    let mut reads: Vec<&Column> = Vec::new();
    for (_, workflows) in bound {
        if let Completion::Timestamp(column) | Completion::Status(column) = &workflows.completion {
            add_by_name(&mut reads, column);
        }
    }
    let trigger = |name, events, columns, old| Trigger {
        name,
        table,
        time: "AFTER",
        events,
        level: "ROW",
        columns,
        reads: reads.clone(),
        condition: Some(condition_of_all(bound, old)),
        is_deferrable: true,
        function: "settle_on_completion",
        argument: None,
        sees_deleted_rows: false,
    };
    let mut triggers = vec![trigger(COMPLETED_BY_INSERT, "INSERT", Vec::new(), None)];
    if !reads.is_empty() {
        triggers.push(trigger(
            COMPLETED_BY_UPDATE,
            "UPDATE",
            reads.clone(),
            Some("OLD"),
        ));
    }
    triggers
}

/// That the row becomes completed in one of the bindings; `old` is what it was before an UPDATE. Mostly it is the same
/// condition in all of them.
fn condition_of_all(bound: &[(&Binding, &Workflows)], old: Option<&str>) -> Condition {
    let mut conditions: Vec<Condition> = Vec::new();
    for (binding, workflows) in bound {
        // An UPDATE completes no row that is completed by being there.
        if old.is_some() && workflows.completion == Completion::Row {
            continue;
        }
        let condition = condition(binding, workflows, old);
        if !conditions.contains(&condition) {
            conditions.push(condition);
        }
    }
    if conditions.len() == 1 {
        return conditions.remove(0);
    }
    let any = |of: fn(&Condition) -> &String| {
        let all: Vec<_> = conditions
            .iter()
            .map(|it| format!("({})", of(it)))
            .collect();
        all.join(" OR ")
    };
    Condition {
        noting: any(|condition| &condition.noting),
        noting_in_0_2: any(|condition| &condition.noting_in_0_2),
        plain: any(|condition| &condition.plain),
    }
}

/// That the row becomes completed in one of them.
fn condition(binding: &Binding, workflows: &Workflows, old: Option<&str>) -> Condition {
    let mut plain = completed::sql(binding, "NEW");
    if let Some(old) = old {
        plain += &format!(" AND ({}) IS NOT TRUE", completed::sql(binding, old));
    }
    let (noting, noting_in_0_2) = match &workflows.completion {
        Completion::Status(status) => {
            let text = |row| format!("{row}.{}::pg_catalog.text", status.sql());
            let old = old.map_or_else(|| "NULL".into(), text);
            let new = text("NEW");
            let note = |function, statuses: &str| {
                format!("token_balance.{function}({old}, {new}, {statuses}NEW.tableoid, NEW.ctid)")
            };
            let array = note(
                "note_status",
                &format!("{}, ", completed::statuses_sql(binding)),
            );
            let noting = if completed::are_usual(binding) {
                note("note_usual_status", "")
            } else if let Some(list) = completed::list(&binding.spec.completed_statuses) {
                let list = format!("{}::pg_catalog.text, ", quote_literal(list));
                note("note_status", &list)
            } else {
                array.clone()
            };
            (noting, array)
        }
        Completion::Timestamp(_) | Completion::Row => {
            let noting =
                format!("{plain} AND token_balance.note_completion(NEW.tableoid, NEW.ctid)");
            (noting.clone(), noting)
        }
    };
    Condition {
        noting,
        noting_in_0_2,
        plain,
    }
}

/// The tables that may have triggers for late usage because the binding had asked for them, and nobody else does.
pub(crate) fn optional_usage<'a>(
    binding: &'a Binding,
    others: &'a [Binding],
) -> impl Iterator<Item = &'a Table> {
    let below = binding.usage_view.iter().flat_map(|view| &view.tables);
    let unwanted = below.filter(|table| {
        let others: Vec<_> = others.iter().collect();
        on_late_source(table, &others).is_empty()
            && others.iter().all(|other| other.usage.oid != table.oid)
    });
    std::iter::once(&binding.usage).chain(unwanted)
}
