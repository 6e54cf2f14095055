//! The triggers on the bound tables: their names, their DDL, whether they are there.
//!
//! A table has one trigger of a kind, whatever the number of bindings that it is bound in.

use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal};

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
    /// The columns whose change it waits for.
    columns: Vec<&'a Column>,
    /// The columns that its condition reads.
    reads: Vec<&'a Column>,
    condition: Option<Condition>,
    is_deferrable: bool,
    function: &'static str,
    /// What it is called with, if anything.
    argument: Option<&'a str>,
}

/// The WHEN condition of a trigger that settles.
#[derive(PartialEq)]
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
    /// How many columns it has in its list: only an UPDATE that names one of them fires it. 0 if it has none.
    columns: usize,
    /// Whether its condition reads the columns that say so: after a restore the names count, and by them it may be
    /// other ones.
    pub(crate) reads_its_columns: bool,
    /// Whether it is called with what it should be.
    has_its_argument: bool,
}

/// AFTER triggers of a row fire in the order of their names. An application's own AFTER trigger may
/// change the balance again: the ledger must have the first change first.
const LEDGER: &str = "00_token_balance_ledger";
const COMPLETED_BY_INSERT: &str = "token_balance_completed_insert";
const COMPLETED_BY_UPDATE: &str = "token_balance_completed_update";
const WORKFLOW_ID: &str = "00_token_balance_workflow_id";
const LATE_USAGE: &str = "token_balance_late_usage";
const UPDATED_USAGE: &str = "token_balance_updated_usage";
/// The last of the BEFORE triggers by name: what the others do to a balance is from outside, too.
const KEEP_BALANCE: &str = "zz_token_balance_keep";

const TRUNCATED: &str = "token_balance_truncated";

/// In pg_trigger.tgtype.
const BEFORE_UPDATE_OF_A_ROW: u32 =
    pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_ROW;

/// The triggers that the tables of `binding` want, which may be bound in `others` that are attached as well.
pub(crate) fn triggers<'a>(binding: &'a Binding, others: &'a [Binding]) -> Vec<Trigger<'a>> {
    let mut bindings: Vec<_> = std::iter::once(binding).chain(others).collect();
    bindings.sort_by_key(|binding| binding.spec.ids.map_or(i16::MAX, |ids| ids.binding));
    let mut triggers = Vec::new();
    if let Some(workflows) = &binding.workflows {
        triggers.extend(on_workflows(&workflows.table, &bindings));
    }
    triggers.extend(on_usage(&binding.usage, &bindings));
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
            plain: "true".into(),
        }),
        is_deferrable: false,
        function: "settle_late_usage",
        argument: None,
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
        triggers.push(Trigger {
            name: WORKFLOW_ID,
            table,
            time: "AFTER",
            events: "UPDATE",
            level: "ROW",
            columns: Vec::new(),
            reads: Vec::new(),
            condition: None,
            is_deferrable: false,
            function: "follow_workflow_id",
            argument: None,
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
    }];
    triggers.extend(keeping_trigger(table, bindings));
    triggers.push(truncating_trigger(table));
    triggers
}

/// What is refused, the ledger's trigger refuses, but for a row that moves to another partition: that
/// fires no AFTER UPDATE trigger.
///
/// No WHEN: the server would read it anew for each statement, which costs more than the call.
fn keeping_trigger<'a>(table: &'a Table, bindings: &[&'a Binding]) -> Option<Trigger<'a>> {
    let keeps = |binding: &Binding| {
        binding.accounts.users.oid == table.oid
            && match binding.spec.options.outside_changes {
                OutsideChanges::Keep => true,
                OutsideChanges::Refuse => table.is_partitioned(),
                OutsideChanges::Record => false,
            }
    };
    let keeping: Vec<_> = bindings.iter().filter(|binding| keeps(binding)).collect();
    let mut columns: Vec<&Column> = Vec::new();
    for column in keeping.iter().filter_map(|it| it.accounts.balance.as_ref()) {
        if columns.iter().all(|known| known.name != column.name) {
            columns.push(column);
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
    }
}

/// The INSERT one also catches a row that moves between partitions, which fires no UPDATE trigger.
fn completion_triggers<'a>(
    table: &'a Table,
    bound: &[(&'a Binding, &'a Workflows)],
) -> Vec<Trigger<'a>> {
    let mut reads: Vec<&Column> = Vec::new();
    for (_, workflows) in bound {
        if let Completion::Timestamp(column) | Completion::Status(column) = &workflows.completion
            && reads.iter().all(|known| known.name != column.name)
        {
            reads.push(column);
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
        plain: any(|condition| &condition.plain),
    }
}

/// That the row becomes completed in one of them.
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
        let when = match &self.condition {
            Some(condition) if can_note()? => format!(" WHEN ({})", condition.noting),
            Some(condition) => format!(" WHEN ({})", condition.plain),
            None => String::new(),
        };
        let columns: Vec<_> = self.columns.iter().map(|column| column.sql()).collect();
        let of = match self.may_name_columns()? {
            true => format!(" OF {}", columns.join(", ")),
            false => String::new(),
        };
        Ok(format!(
            "CREATE {kind} \"{}\" {} {}{of} ON {}{deferrable} FOR EACH {}{when} \
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

/// How a trigger of the table stands; None if it is missing.
fn standing(
    table: pg_sys::Oid,
    name: &str,
    reads: &[&Column],
    argument: Option<&str>,
) -> Result<Option<Standing>> {
    let reads: Vec<_> = reads.iter().map(|column| column.number.into()).collect();
    let outcome = spi::query(
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
         ELSE pg_catalog.convert_to($4, 'UTF8') OPERATOR(pg_catalog.||) '\\x00'::pg_catalog.bytea END \
         FROM pg_catalog.pg_trigger AS t \
         WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[
            Arg::Int8(table.to_u32().into()),
            Arg::Text(name),
            Arg::Int8Array(reads),
            Arg::OptionalText(argument),
        ],
    )?;
    Ok(outcome.rows.first().map(|row| Standing {
        state: row.text(0).to_owned(),
        columns: row.number(1).unwrap_or(0),
        reads_its_columns: row.is_true(2),
        has_its_argument: row.is_true(3),
    }))
}

/// Whether the catalog has the functions that note: that of 0.1.0, before it is updated, has not.
fn can_note() -> Result<bool> {
    has_function("note_completion")
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
