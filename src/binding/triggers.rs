//! The triggers on the bound tables: their names, their DDL, whether they are there.

use pgrx::spi::quote_identifier;

use super::{Binding, LateUsage, Workflows};
use crate::catalog::{self, Table};
use crate::error::Result;
use crate::spi::{self, Arg};

/// One trigger on one bound table.
pub(super) struct Trigger<'a> {
    pub(super) name: &'static str,
    pub(super) table: &'a Table,
    /// Everything after the name in CREATE TRIGGER.
    definition: String,
    is_constraint: bool,
}

/// Noted last, so that only rows whose event is queued are (see completion.rs).
const NOTED: &str = " AND token_balance.note_completion(NEW.tableoid, NEW.ctid)";

/// AFTER triggers of a row fire in the order of their names. An application's own AFTER trigger may
/// change the balance again: the ledger must have the first change first.
const LEDGER: &str = "00_token_balance_ledger";
const COMPLETED_BY_INSERT: &str = "token_balance_completed_insert";
const COMPLETED_BY_UPDATE: &str = "token_balance_completed_update";
const LATE_USAGE: &str = "token_balance_late_usage";

impl Binding {
    pub(super) fn triggers(&self) -> Vec<Trigger<'_>> {
        let mut triggers = Vec::new();
        if let Some(workflows) = &self.workflows {
            triggers.extend(completion_triggers(self, workflows));
        }
        if self.spec.options.late_usage == LateUsage::Settle {
            triggers.push(Trigger {
                name: LATE_USAGE,
                table: &self.usage,
                definition: format!(
                    "AFTER INSERT ON {} FOR EACH ROW \
                     EXECUTE FUNCTION token_balance.settle_late_usage()",
                    self.usage.sql
                ),
                is_constraint: false,
            });
        }
        // No WHEN and no column list: either would forbid ALTER COLUMN ... TYPE on the balance.
        triggers.push(Trigger {
            name: LEDGER,
            table: &self.users,
            definition: format!(
                "AFTER INSERT OR UPDATE ON {} FOR EACH ROW \
                 EXECUTE FUNCTION token_balance.record_balance_change()",
                self.users.sql
            ),
            is_constraint: false,
        });
        triggers
    }
}

fn completion_triggers<'a>(binding: &Binding, workflows: &'a Workflows) -> Vec<Trigger<'a>> {
    let trigger = |name, event: &str, condition: &str| Trigger {
        name,
        table: &workflows.table,
        definition: format!(
            "AFTER {event} ON {} DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW \
             WHEN ({condition}{NOTED}) EXECUTE FUNCTION token_balance.settle_on_completion()",
            workflows.table.sql
        ),
        is_constraint: true,
    };
    if workflows.status.is_none() && workflows.completed_at.is_none() {
        return vec![trigger(COMPLETED_BY_INSERT, "INSERT", "true")];
    }
    let (new, old) = (binding.completed_sql("NEW"), binding.completed_sql("OLD"));
    // No column list on UPDATE: a BEFORE trigger may set the status. The INSERT one also catches a
    // row that moves between partitions, which fires no UPDATE trigger.
    vec![
        trigger(COMPLETED_BY_INSERT, "INSERT", &new),
        trigger(
            COMPLETED_BY_UPDATE,
            "UPDATE",
            &format!("{new} AND ({old}) IS NOT TRUE"),
        ),
    ]
}

impl Trigger<'_> {
    pub(super) fn create(&self) -> Result<()> {
        if self.state()?.is_some() {
            return Ok(());
        }
        let kind = if self.is_constraint {
            "CONSTRAINT TRIGGER"
        } else {
            "TRIGGER"
        };
        let mut definition = self.definition.clone();
        if let (Some(at), false) = (definition.rfind(NOTED), can_note()?) {
            definition.replace_range(at..at + NOTED.len(), "");
        }
        spi::command(&format!("CREATE {kind} \"{}\" {definition}", self.name)).map(|_| ())
    }

    /// How it stands: None if it is missing, else whether it fires where changes are made (`O`, as
    /// made) or was altered (`D` disabled, `R` replica, `A` always).
    pub(super) fn state(&self) -> Result<Option<String>> {
        let outcome = spi::query(
            "SELECT t.tgenabled FROM pg_catalog.pg_trigger AS t \
             WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
             AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
            &[
                Arg::Int8(self.table.oid.to_u32().into()),
                Arg::Text(self.name),
            ],
        )?;
        Ok(outcome.rows.first().map(|row| row.text(0).to_owned()))
    }

    /// Make it stand as `state` says; it is `O` when it was just made.
    pub(super) fn set_state(&self, state: &str) -> Result<()> {
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
    pub(super) fn disabled_partitions(&self) -> Result<Vec<String>> {
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

/// Drop the trigger that the option late_usage asks for. attach makes it again if it still does.
pub(super) fn drop_late_usage(usage: &Table) -> Result<()> {
    spi::command(&format!(
        "DROP TRIGGER IF EXISTS \"{LATE_USAGE}\" ON {}",
        usage.sql
    ))
    .map(|_| ())
}

/// Whether the catalog has the function: that of 0.1.0, before it is updated, has not. There each
/// run is settled by itself.
fn can_note() -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_proc AS p \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND p.proname OPERATOR(pg_catalog.=) 'note_completion'::pg_catalog.name",
        &[],
    )
}

/// Drop every trigger on `table` that calls one of the extension's functions.
pub(super) fn drop_from(table: &Table) -> Result<()> {
    let outcome = spi::query(
        "SELECT t.tgname FROM pg_catalog.pg_trigger AS t \
         JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE t.tgrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name",
        &[Arg::Int8(table.oid.to_u32().into())],
    )?;
    for row in &outcome.rows {
        let name = quote_identifier(row.text(0));
        spi::command(&format!("DROP TRIGGER {name} ON {}", table.sql))?;
    }
    Ok(())
}
