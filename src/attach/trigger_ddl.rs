//! The triggers on the bound tables: their names, their DDL, whether they are there.

use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use crate::binding::{Binding, Completion, LateUsage, OutsideChanges, Workflows, completed};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::patience::StrongLocks;
use crate::postgres::spi::{self, Outcome};
use crate::postgres::value::Arg;

/// One trigger on one bound table.
pub(crate) struct Trigger<'a> {
    pub(crate) name: &'static str,
    pub(crate) table: &'a Table,
    /// `BEFORE` or `AFTER`.
    time: &'static str,
    events: &'static str,
    /// `ROW` or `STATEMENT`.
    level: &'static str,
    /// The column whose change it waits for.
    column: Option<&'a Column>,
    /// The column that its condition reads.
    reads: Option<&'a Column>,
    condition: Option<Condition>,
    is_deferrable: bool,
    function: &'static str,
}

/// The WHEN condition of a trigger that settles.
struct Condition {
    /// Notes the row when all else holds, so that only rows whose event is queued are noted (see
    /// completion.rs).
    noting: String,
    /// For the catalog of 0.1.0, before it is updated: it has no function that notes, and each run
    /// is settled by itself.
    plain: String,
}

/// A trigger that is there.
pub(crate) struct Standing {
    /// Whether it fires where changes are made (`O`, as made) or was altered (`D` disabled, `R`
    /// replica, `A` always).
    pub(crate) state: String,
    /// Whether only an UPDATE that names its column fires it.
    names_column: bool,
    /// Whether its condition reads the column that says so: after a restore the names count, and by them it may be
    /// another one.
    pub(crate) reads_its_column: bool,
}

/// AFTER triggers of a row fire in the order of their names. An application's own AFTER trigger may
/// change the balance again: the ledger must have the first change first.
const LEDGER: &str = "00_token_balance_ledger";
const COMPLETED_BY_INSERT: &str = "token_balance_completed_insert";
const COMPLETED_BY_UPDATE: &str = "token_balance_completed_update";
const WORKFLOW_ID: &str = "00_token_balance_workflow_id";
const LATE_USAGE: &str = "token_balance_late_usage";
/// The last of the BEFORE triggers by name: what the others do to a balance is from outside, too.
const KEEP_BALANCE: &str = "zz_token_balance_keep";

const TRUNCATED: &str = "token_balance_truncated";

/// In pg_trigger.tgtype.
const BEFORE_UPDATE_OF_A_ROW: u32 =
    pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_ROW;

impl Binding {
    pub(crate) fn triggers(&self) -> Vec<Trigger<'_>> {
        let mut triggers = Vec::new();
        if let Some(workflows) = &self.workflows {
            triggers.extend(completion_triggers(self, workflows));
            // The catalog of an older version has no function for it, until it is updated.
            if !self.spec.is_of_older_catalog {
                triggers.push(Trigger {
                    name: WORKFLOW_ID,
                    table: &workflows.table,
                    time: "AFTER",
                    events: "UPDATE",
                    level: "ROW",
                    column: None,
                    reads: None,
                    condition: None,
                    is_deferrable: false,
                    function: "follow_workflow_id",
                });
            }
        }
        if self.spec.options.late_usage == LateUsage::Settle {
            triggers.push(Trigger {
                name: LATE_USAGE,
                table: &self.usage,
                time: "AFTER",
                events: "INSERT",
                level: "ROW",
                column: None,
                reads: None,
                condition: Some(Condition {
                    noting: "token_balance.note_completion(NEW.tableoid, NEW.ctid)".into(),
                    plain: "true".into(),
                }),
                is_deferrable: false,
                function: "settle_late_usage",
            });
        }
        // No WHEN and no column list: either would forbid ALTER COLUMN ... TYPE on the balance.
        triggers.push(Trigger {
            name: LEDGER,
            table: &self.accounts.users,
            time: "AFTER",
            events: "INSERT OR UPDATE",
            level: "ROW",
            column: None,
            reads: None,
            condition: None,
            is_deferrable: false,
            function: "record_balance_change",
        });
        triggers.extend(self.keeping_trigger());
        triggers.extend([&self.usage, &self.accounts.users].map(truncating_trigger));
        triggers
    }
}

impl Binding {
    /// What is refused, the ledger's trigger refuses, but for a row that moves to another partition: that
    /// fires no AFTER UPDATE trigger.
    ///
    /// No WHEN: the server would read it anew for each statement, which costs more than the call.
    fn keeping_trigger(&self) -> Option<Trigger<'_>> {
        let users = &self.accounts.users;
        match self.spec.options.outside_changes {
            OutsideChanges::Keep => (),
            OutsideChanges::Refuse if users.is_partitioned() => (),
            OutsideChanges::Refuse | OutsideChanges::Record => return None,
        }
        Some(Trigger {
            name: KEEP_BALANCE,
            table: users,
            time: "BEFORE",
            events: "UPDATE",
            level: "ROW",
            column: self.accounts.balance.as_ref(),
            reads: self.accounts.balance.as_ref(),
            condition: None,
            is_deferrable: false,
            function: "keep_balance",
        })
    }
}

/// What is known stays: it tells of it.
fn truncating_trigger(table: &Table) -> Trigger<'_> {
    Trigger {
        name: TRUNCATED,
        table,
        time: "AFTER",
        events: "TRUNCATE",
        level: "STATEMENT",
        column: None,
        reads: None,
        condition: None,
        is_deferrable: false,
        function: "warn_of_truncate",
    }
}

/// The INSERT one also catches a row that moves between partitions, which fires no UPDATE trigger.
fn completion_triggers<'a>(binding: &Binding, workflows: &'a Workflows) -> Vec<Trigger<'a>> {
    let reads = match &workflows.completion {
        Completion::Timestamp(column) | Completion::Status(column) => Some(column),
        Completion::Row => None,
    };
    let trigger = |name, events, column, old| Trigger {
        name,
        table: &workflows.table,
        time: "AFTER",
        events,
        level: "ROW",
        column,
        reads,
        condition: Some(condition(binding, workflows, old)),
        is_deferrable: true,
        function: "settle_on_completion",
    };
    let mut triggers = vec![trigger(COMPLETED_BY_INSERT, "INSERT", None, None)];
    if reads.is_some() {
        triggers.push(trigger(COMPLETED_BY_UPDATE, "UPDATE", reads, Some("OLD")));
    }
    triggers
}

/// That the row becomes completed; `old` is what it was before an UPDATE.
fn condition(binding: &Binding, workflows: &Workflows, old: Option<&str>) -> Condition {
    let mut plain = completed::sql(binding, "NEW");
    if let Some(old) = old {
        plain += &format!(" AND ({}) IS NOT TRUE", completed::sql(binding, old));
    }
    let noting = match &workflows.completion {
        Completion::Status(status) => {
            let text = |row| format!("{row}.{}::pg_catalog.text", status.sql());
            format!(
                "token_balance.note_status({}, {}, {}, NEW.tableoid, NEW.ctid)",
                old.map_or_else(|| "NULL".into(), text),
                text("NEW"),
                completed::statuses_sql(binding)
            )
        }
        Completion::Timestamp(_) | Completion::Row => {
            format!("{plain} AND token_balance.note_completion(NEW.tableoid, NEW.ctid)")
        }
    };
    Condition { noting, plain }
}

impl Trigger<'_> {
    /// Whether its definition is another one from version to version.
    pub(crate) fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Whether the catalog has its function: that of an older version, before it is updated, may not.
    pub(crate) fn is_known(&self) -> Result<bool> {
        has_function(self.function)
    }

    /// Make it, or make it again where its column list, or the column that it reads, is not what it should be
    /// now.
    pub(crate) fn create(&self) -> Result<()> {
        if !self.is_known()? {
            return Ok(());
        }
        let present = self.standing()?;
        if let Some(present) = &present
            && self.is_right(present)?
        {
            return Ok(());
        }
        self.put_in_place_of(present)
    }

    fn is_right(&self, present: &Standing) -> Result<bool> {
        Ok(present.reads_its_column && present.names_column == self.may_name_column()?)
    }

    /// The lock on its table, and on the partitions, with which `create` does what it does. None if that is nothing.
    pub(crate) fn lock_to_create(&self) -> Result<Option<u32>> {
        match self.standing()? {
            Some(present) if self.is_right(&present)? => Ok(None),
            present => Ok(Some(lock_to_put(present.is_some()))),
        }
    }

    /// Make it with the condition of this version, whatever stands.
    pub(crate) fn renew(&self) -> Result<()> {
        self.put_in_place_of(self.standing()?)
    }

    /// One that was switched off, or made to fire always, stays so.
    fn put_in_place_of(&self, present: Option<Standing>) -> Result<()> {
        self.lock(present.is_some())?;
        if present.is_some() {
            refuse_pending(self.table)?;
            spi::command(&format!(
                "DROP TRIGGER \"{}\" ON {}",
                self.name, self.table.sql
            ))?;
        }
        spi::command(&self.definition()?)?;
        // A schema is renamed under everybody's locks: the name may have meant another table.
        if self.standing()?.is_none() {
            return Err(Error::ConcurrentRename);
        }
        match present {
            Some(present) => self.set_state(&present.state),
            None => Ok(()),
        }
    }

    /// Lock the table as making, or dropping, the trigger does, and the partitions with it: what
    /// triggers they have does not change between looking and making. Mostly they are locked so already.
    fn lock(&self, to_drop: bool) -> Result<()> {
        let mut locks = StrongLocks::default();
        locks.add(self.table.oid, lock_to_put(to_drop))?;
        locks.take()
    }

    fn definition(&self) -> Result<String> {
        let (kind, deferrable) = if self.is_deferrable {
            ("CONSTRAINT TRIGGER", " DEFERRABLE INITIALLY IMMEDIATE")
        } else {
            ("TRIGGER", "")
        };
        let when = match &self.condition {
            Some(condition) if can_note()? => format!(" WHEN ({})", condition.noting),
            Some(condition) => format!(" WHEN ({})", condition.plain),
            None => String::new(),
        };
        let of = match self.column {
            Some(column) if self.may_name_column()? => format!(" OF {}", column.sql()),
            _ => String::new(),
        };
        Ok(format!(
            "CREATE {kind} \"{}\" {} {}{of} ON {}{deferrable} FOR EACH {}{when} \
             EXECUTE FUNCTION token_balance.{}()",
            self.name, self.time, self.events, self.table.sql, self.level, self.function
        ))
    }

    /// Whether nothing changes its column but an UPDATE that names it. With a column list any other
    /// UPDATE costs nothing; the server would read the condition anew for each statement.
    fn may_name_column(&self) -> Result<bool> {
        match self.column {
            Some(column) if !column.is_generated => Ok(self.before_triggers()?.is_empty()),
            _ => Ok(false),
        }
    }

    /// The BEFORE triggers that may set a column which the UPDATE does not name, on the table or a
    /// partition. Of those that partitions got from above only the one above.
    fn before_triggers(&self) -> Result<Vec<String>> {
        let outcome = spi::query(
            "SELECT t.tgname, t.tgrelid FROM pg_catalog.pg_trigger AS t \
             WHERE (t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
             OR t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid \
             AND t.tgrelid OPERATOR(pg_catalog.=) ANY (SELECT p.relid \
             FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p)) \
             AND t.tgtype::integer OPERATOR(pg_catalog.&) $2::integer \
             OPERATOR(pg_catalog.=) $2::integer \
             AND t.tgname OPERATOR(pg_catalog.<>) $3::pg_catalog.name ORDER BY t.tgrelid, t.tgname",
            &[
                Arg::Int8(self.table.oid.to_u32().into()),
                Arg::Int8(BEFORE_UPDATE_OF_A_ROW.into()),
                Arg::Text(KEEP_BALANCE),
            ],
        )?;
        let mut names = Vec::new();
        for row in &outcome.rows {
            if let Some(table) = catalog::table(row.oid(1))? {
                names.push(format!(
                    "{} on {}",
                    quote_identifier(row.text(0)),
                    table.sql
                ));
            }
        }
        Ok(names)
    }

    /// The BEFORE triggers for which it should have no column list, if it has one.
    pub(crate) fn overlooked(&self, standing: &Standing) -> Result<Vec<String>> {
        if standing.names_column {
            self.before_triggers()
        } else {
            Ok(Vec::new())
        }
    }

    /// How it stands; None if it is missing.
    pub(crate) fn standing(&self) -> Result<Option<Standing>> {
        standing(self.table.oid, self.name, self.reads)
    }

    /// Make it stand as `state` says; it is `O` when it was just made.
    fn set_state(&self, state: &str) -> Result<()> {
        let verb = match state {
            "D" => "DISABLE",
            "R" => "ENABLE REPLICA",
            "A" => "ENABLE ALWAYS",
            _ => return Ok(()),
        };
        spi::command(&format!(
            "ALTER TABLE {} {verb} TRIGGER \"{}\"",
            self.table.sql, self.name
        ))
        .map(|_| ())
    }

    /// The partitions on which the trigger is switched off though it is on above them.
    pub(crate) fn disabled_partitions(&self) -> Result<Vec<String>> {
        let outcome = spi::query(
            "SELECT t.tgrelid FROM pg_catalog.pg_partition_tree( \
             $1::pg_catalog.oid::pg_catalog.regclass) AS p \
             JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) p.relid \
             WHERE p.level OPERATOR(pg_catalog.>) 0 \
             AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
             AND t.tgenabled OPERATOR(pg_catalog.<>) 'O'::pg_catalog.\"char\"",
            &[
                Arg::Int8(self.table.oid.to_u32().into()),
                Arg::Text(self.name),
            ],
        )?;
        let mut names = Vec::new();
        for row in &outcome.rows {
            names.extend(catalog::table(row.oid(0))?.map(|table| table.sql));
        }
        Ok(names)
    }
}

/// Drop the triggers that options ask for. attach makes those again for which they still do.
/// At once the mode that is needed, since a stronger one later could meet a session that reads and then writes.
fn lock_to_put(to_drop: bool) -> u32 {
    match to_drop {
        true => pg_sys::AccessExclusiveLock,
        false => pg_sys::ShareRowExclusiveLock,
    }
}

/// Drop the trigger that the option late_usage asks for. attach makes it again if it still does.
///
/// Errors: 40001 if another table has taken the name of one that is bound.
pub(crate) fn drop_optional(binding: &Binding) -> Result<()> {
    for (name, table) in [
        (LATE_USAGE, &binding.usage),
        (KEEP_BALANCE, &binding.accounts.users),
    ] {
        if standing(table.oid, name, None)?.is_none() {
            continue;
        }
        spi::command(&format!("DROP TRIGGER \"{name}\" ON {}", table.sql))?;
        if standing(table.oid, name, None)?.is_some() {
            return Err(Error::ConcurrentRename);
        }
    }
    Ok(())
}

/// How a trigger of the table stands; None if it is missing.
fn standing(table: pg_sys::Oid, name: &str, reads: Option<&Column>) -> Result<Option<Standing>> {
    let outcome = spi::query(
        "SELECT t.tgenabled, \
         pg_catalog.cardinality(t.tgattr::smallint[]) OPERATOR(pg_catalog.>) 0, \
         $3 IS NULL OR t.tgqual IS NULL \
         AND pg_catalog.cardinality(t.tgattr::smallint[]) OPERATOR(pg_catalog.=) 0 \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d \
         WHERE d.classid OPERATOR(pg_catalog.=) \
         'pg_catalog.pg_trigger'::pg_catalog.regclass::pg_catalog.oid \
         AND d.objid OPERATOR(pg_catalog.=) t.oid AND d.refobjid OPERATOR(pg_catalog.=) t.tgrelid \
         AND d.refobjsubid OPERATOR(pg_catalog.=) $3::integer) \
         FROM pg_catalog.pg_trigger AS t \
         WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[
            Arg::Int8(table.to_u32().into()),
            Arg::Text(name),
            Arg::OptionalInt2(reads.map(|column| column.number)),
        ],
    )?;
    Ok(outcome.rows.first().map(|row| Standing {
        state: row.text(0).to_owned(),
        names_column: row.is_true(1),
        reads_its_column: row.is_true(2),
    }))
}

/// Whether the catalog has the functions that note: that of 0.1.0, before it is updated, has not.
fn can_note() -> Result<bool> {
    has_function("note_completion")
}

fn has_function(name: &str) -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_proc AS p \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND p.proname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Text(name)],
    )
}

/// What this transaction has completed and deferred would be lost with the trigger: the server drops
/// the events without a word.
fn refuse_pending(table: &Table) -> Result<()> {
    let outcome = spi::query(
        "SELECT $1::pg_catalog.oid UNION SELECT p.relid \
         FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p",
        &[Arg::Int8(table.oid.to_u32().into())],
    )?;
    for row in &outcome.rows {
        // SAFETY: looks at the queue of this backend.
        if unsafe { pg_sys::AfterTriggerPendingOnRel(row.oid(0)) } {
            return Err(Error::PendingTriggers {
                relation: table.sql.clone(),
            });
        }
    }
    Ok(())
}

/// Whether a trigger on `table` calls one of the extension's functions.
pub(crate) fn is_any_on(table: &Table) -> Result<bool> {
    Ok(!all_on(table)?.rows.is_empty())
}

/// The triggers on `table` that call one of the extension's functions, and whether they are deferrable.
fn all_on(table: &Table) -> Result<Outcome> {
    spi::query(
        "SELECT t.tgname, t.tgdeferrable FROM pg_catalog.pg_trigger AS t \
         JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name",
        &[Arg::Int8(table.oid.to_u32().into())],
    )
}

/// Drop every trigger on `table` that calls one of the extension's functions.
///
/// Errors: 55006 if this transaction has deferred events of one.
pub(crate) fn drop_from(table: &Table) -> Result<()> {
    let outcome = all_on(table)?;
    if outcome.rows.iter().any(|row| row.is_true(1)) {
        refuse_pending(table)?;
    }
    for row in &outcome.rows {
        let name = quote_identifier(row.text(0));
        spi::command(&format!("DROP TRIGGER {name} ON {}", table.sql))?;
    }
    Ok(())
}
