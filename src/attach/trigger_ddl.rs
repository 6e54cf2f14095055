//! The DDL of triggers on the bound tables: how they stand, and how they are made, made again and dropped.

use pgrx::pg_sys;

use super::wanted_triggers::{
    Condition, KEEP_BALANCE, LATE_USAGE, RECORDING, Trigger, UPDATED_USAGE, optional_usage,
    triggers_on,
};
use crate::binding::{Binding, DeletedUsage, Spec, is_part_of};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::patience::StrongLocks;
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Outcome};
use crate::postgres::value::Arg;

/// A trigger that is there.
pub(crate) struct Standing {
    /// Whether it fires where changes are made (`O`, as made) or was altered (`D` disabled, `R`
    /// replica, `A` always).
    pub(crate) state: String,
    /// How many columns it has in its list: only an UPDATE that names one of them fires it. 0 if it has none.
    columns: usize,
    /// Whether its condition reads the columns that say so: after a restore the names count, and by them it may be
    /// other ones.
    pub(crate) reads_its_columns: bool,
    /// Whether it is called with what it should be.
    has_its_argument: bool,
}

/// In pg_trigger.tgtype.
const BEFORE_UPDATE_OF_A_ROW: u32 =
    pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_ROW;

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
        let columns = match self.may_name_columns()? {
            true => self.columns.len(),
            false => 0,
        };
        Ok(present.reads_its_columns && present.has_its_argument && present.columns == columns)
    }

    /// The lock on its table, and on the partitions, with which `create` does what it does, or `renew`. None if that is
    /// nothing.
    pub(crate) fn lock_to_create(&self, is_another: bool) -> Result<Option<u32>> {
        match self.standing()? {
            Some(present) if !is_another && self.is_right(&present)? => Ok(None),
            present => Ok(Some(lock_to_put(present.is_some()))),
        }
    }

    /// Whether one of `before` stands in its place with another condition.
    pub(crate) fn is_another(&self, before: &[Trigger]) -> bool {
        before.iter().any(|before| {
            before.table.oid == self.table.oid
                && before.name == self.name
                && before.condition != self.condition
        })
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
        let rows = match self.sees_deleted_rows {
            true => " REFERENCING OLD TABLE AS token_balance_deleted",
            false => "",
        };
        let when = match &self.condition {
            Some(condition) => format!(" WHEN ({})", spelled(condition)?),
            None => String::new(),
        };
        let columns: Vec<_> = self.columns.iter().map(|column| column.sql()).collect();
        let of = match self.may_name_columns()? {
            true => format!(" OF {}", columns.join(", ")),
            false => String::new(),
        };
        Ok(format!(
            "CREATE {kind} \"{}\" {} {}{of} ON {}{deferrable}{rows} FOR EACH {}{when} \
             EXECUTE FUNCTION token_balance.{}({})",
            self.name,
            self.time,
            self.events,
            self.table.sql,
            self.level,
            self.function,
            self.argument.map_or_else(String::new, quote_literal)
        ))
    }

    /// Whether nothing changes its columns but an UPDATE that names one. With a column list any other
    /// UPDATE costs nothing; the server would read the condition anew for each statement.
    fn may_name_columns(&self) -> Result<bool> {
        let is_plain = self.columns.iter().all(|column| !column.is_generated);
        Ok(!self.columns.is_empty() && is_plain && self.before_triggers()?.is_empty())
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
        if standing.columns > 0 {
            self.before_triggers()
        } else {
            Ok(Vec::new())
        }
    }

    /// How it stands; None if it is missing.
    pub(crate) fn standing(&self) -> Result<Option<Standing>> {
        standing(self.table.oid, self.name, &self.reads, self.argument)
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
        // That of a statement is on one table.
        if self.level == "STATEMENT" {
            return Ok(Vec::new());
        }
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

/// At once the mode that is needed, since a stronger one later could meet a session that reads and then writes.
fn lock_to_put(to_drop: bool) -> u32 {
    match to_drop {
        true => pg_sys::AccessExclusiveLock,
        false => pg_sys::ShareRowExclusiveLock,
    }
}

/// Drop the triggers that options ask for. attach makes those again for which they still do, of one of the bindings.
///
/// Errors: 40001 if another table has taken the name of one that is bound.
pub(crate) fn drop_optional(binding: &Binding, others: &[Binding]) -> Result<()> {
    drop_named(KEEP_BALANCE, &binding.accounts.users)?;
    for table in optional_usage(binding, others) {
        drop_named(LATE_USAGE, table)?;
        drop_named(UPDATED_USAGE, table)?;
    }
    Ok(())
}

fn drop_named(name: &str, table: &Table) -> Result<()> {
    if standing(table.oid, name, &[], None)?.is_none() {
        return Ok(());
    }
    spi::command(&format!("DROP TRIGGER \"{name}\" ON {}", table.sql))?;
    match standing(table.oid, name, &[], None)? {
        Some(_) => Err(Error::ConcurrentRename),
        None => Ok(()),
    }
}

/// The tables with triggers for late usage that a view shows. What becomes of a view, nobody can tell from it any more.
pub(crate) fn late_sources() -> Result<Vec<Table>> {
    let outcome = spi::query(
        "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger AS t \
         JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND p.proname OPERATOR(pg_catalog.=) 'settle_late_usage'::pg_catalog.name \
         AND t.tgnargs OPERATOR(pg_catalog.>) 0::smallint \
         AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid ORDER BY 1",
        &[],
    )?;
    let mut tables = Vec::new();
    for row in &outcome.rows {
        tables.extend(catalog::table(row.oid(0))?);
    }
    Ok(tables)
}

/// Those of them that no binding of `attached` wants.
pub(crate) fn unwanted_late_sources(attached: &[Binding]) -> Result<Vec<Table>> {
    let wanted = attached.iter().flat_map(|binding| &binding.late_sources);
    let wanted: Vec<_> = wanted.map(|source| source.table.oid).collect();
    let mut tables = late_sources()?;
    tables.retain(|table| !wanted.contains(&table.oid));
    Ok(tables)
}

/// The tables with triggers that record what is deleted, which none of `attached` wants: another option was chosen since,
/// or it is no partition of a bound table any more.
pub(crate) fn unwanted_recording(attached: &[&Spec]) -> Result<Vec<Table>> {
    let outcome = spi::query(
        "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger AS t \
         JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND p.proname OPERATOR(pg_catalog.=) 'record_deleted_usage'::pg_catalog.name ORDER BY 1",
        &[],
    )?;
    let mut tables = Vec::new();
    for row in &outcome.rows {
        let mut is_wanted = false;
        for spec in attached {
            is_wanted |= spec.options.deleted_usage == DeletedUsage::Record
                && is_part_of(row.oid(0), spec.usage.oid)?;
        }
        if !is_wanted {
            tables.extend(catalog::table(row.oid(0))?);
        }
    }
    Ok(tables)
}

/// Drop the triggers that record what is deleted from the table.
///
/// Errors: 40001 if another table has taken the name.
pub(crate) fn stop_recording(table: &Table) -> Result<()> {
    RECORDING
        .iter()
        .try_for_each(|name| drop_named(name, table))
}

/// How a trigger of the table stands; None if it is missing.
fn standing(
    table: pg_sys::Oid,
    name: &str,
    reads: &[&Column],
    argument: Option<&str>,
) -> Result<Option<Standing>> {
    let reads: Vec<_> = reads.iter().map(|column| column.number.into()).collect();
    let outcome = spi::query_kept(
        "SELECT t.tgenabled, pg_catalog.cardinality(t.tgattr::smallint[]), \
         t.tgqual IS NULL \
         AND pg_catalog.cardinality(t.tgattr::smallint[]) OPERATOR(pg_catalog.=) 0 \
         OR NOT EXISTS (SELECT 1 FROM pg_catalog.unnest($3) AS c (number) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d \
         WHERE d.classid OPERATOR(pg_catalog.=) \
         'pg_catalog.pg_trigger'::pg_catalog.regclass::pg_catalog.oid \
         AND d.objid OPERATOR(pg_catalog.=) t.oid AND d.refobjid OPERATOR(pg_catalog.=) t.tgrelid \
         AND d.refobjsubid OPERATOR(pg_catalog.=) c.number::integer)), \
         t.tgargs OPERATOR(pg_catalog.=) CASE WHEN $4 IS NULL THEN ''::pg_catalog.bytea \
         ELSE pg_catalog.convert_to($4, 'UTF8') \
         OPERATOR(pg_catalog.||) pg_catalog.decode('00', 'hex') END \
         FROM pg_catalog.pg_trigger AS t \
         WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[
            Arg::Int8(table.to_u32().into()),
            Arg::Text(name),
            Arg::Int8Array(reads),
            Arg::OptionalText(argument),
        ],
        Snapshot::Statement,
    )?;
    Ok(outcome.rows.first().map(|row| Standing {
        state: row.text(0).to_owned(),
        columns: row.number(1).unwrap_or(0),
        reads_its_columns: row.is_true(2),
        has_its_argument: row.is_true(3),
    }))
}

/// The condition, by the functions that the catalog has: that of an older version, before it is updated, has not all.
fn spelled(condition: &Condition) -> Result<&str> {
    Ok(if has_function("note_usual_status")? {
        &condition.noting
    } else if has_function("note_completion")? {
        &condition.noting_in_0_2
    } else {
        &condition.plain
    })
}

/// Whether the catalog has a function of ours by this name.
pub(super) fn has_function(name: &str) -> Result<bool> {
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

/// Have the table, which is bound in `after` still, fire what these want and nothing else; `before` was attached until
/// now.
pub(crate) fn leave_to(table: &Table, before: &[Binding], after: &[Binding]) -> Result<()> {
    let was = triggers_on(table, before);
    let wanted = triggers_on(table, after);
    for row in &all_on(table)?.rows {
        if wanted.iter().all(|trigger| trigger.name != row.text(0)) {
            if row.is_true(1) {
                refuse_pending(table)?;
            }
            let name = quote_identifier(row.text(0));
            spi::command(&format!("DROP TRIGGER {name} ON {}", table.sql))?;
        }
    }
    for trigger in &wanted {
        match trigger.is_another(&was) {
            true => trigger.renew()?,
            false => trigger.create()?,
        }
    }
    Ok(())
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
