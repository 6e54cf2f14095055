//! The model of a binding: what the extension works on, and the SQL that names it.

use std::rc::Rc;

use pgrx::pg_sys;

use super::late_sources::LateSource;
use super::options::{BusyAccount, DeletedUsage, OutsideChanges};
use super::parts::is_part_of;
use super::spec::{Ids, Spec, Spellings, of_accounts};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Checks, Column, Table};
use crate::postgres::key::KeyType;
use crate::postgres::quote::quote_identifier;
use crate::postgres::security::SearchPaths;
use crate::postgres::view::View;

/// A key column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) column: Column,
    pub(crate) key_type: KeyType,
}

impl Key {
    pub(crate) fn sql(&self) -> String {
        self.column.sql()
    }
}

/// The workflow table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workflows {
    pub(crate) table: Table,
    pub(crate) key: Key,
    pub(crate) completion: Completion,
}

/// What tells that a row of the workflow table is completed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Completion {
    /// That this column is not null.
    Timestamp(Column),
    /// That this column has one of the completed statuses.
    Status(Column),
    /// That it is there.
    Row,
}

/// Which account pays for a usage row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payer {
    /// The account in this column of the usage row.
    Usage(Key),
    /// The account in this column of the workflow row.
    Workflow(Key),
}

/// What a usage row says besides: each where the table has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Details {
    /// Its key.
    pub(crate) id: Option<Column>,
    pub(crate) prompt_tokens: Option<Column>,
    pub(crate) completion_tokens: Option<Column>,
    pub(crate) model: Option<Column>,
    pub(crate) stage: Option<Column>,
    pub(crate) created_at: Option<Column>,
}

/// The accounts: the users table and its balances.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accounts {
    /// The number by which the extension's tables know them. None until it is stored; and in the catalog of an older
    /// version, which has one users table.
    pub(crate) id: Option<i16>,
    /// The name of a binding that charges them.
    pub(crate) binding: String,
    pub(crate) is_of_older_dump: bool,
    /// Whether one of them has ever been moved to another database.
    pub(crate) has_moved: bool,
    /// The owner of the extension's own tables.
    pub(crate) extension_owner: pg_sys::Oid,
    pub(crate) users: Table,
    pub(crate) user_key: Key,
    /// The name of the column that the extension keeps.
    pub(crate) balance_column: String,
    /// None until attach has added it.
    pub(crate) balance: Option<Column>,
    /// What CHECK constraints want of it.
    pub(crate) checks: Option<Checks>,
    pub(crate) busy_account: BusyAccount,
    pub(crate) outside_changes: OutsideChanges,
    /// With which search_path statements run as another role.
    pub(crate) paths: Rc<SearchPaths>,
}

/// A spec held against the catalogs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    pub(crate) spec: Spec,
    pub(crate) accounts: Accounts,
    pub(crate) usage: Table,
    /// What it is made of, if it is a view.
    pub(crate) usage_view: Option<View>,
    /// Of a view: where its usage is written, if that counts at once. What is not there any more is left out.
    pub(crate) late_sources: Vec<LateSource>,
    /// The tables below it, on each level, where what is deleted is recorded: a statement that names one of them fires that
    /// one's triggers alone.
    pub(crate) usage_parts: Vec<Table>,
    pub(crate) usage_workflow: Key,
    pub(crate) usage_tokens: Vec<Column>,
    pub(crate) details: Details,
    pub(crate) workflows: Option<Workflows>,
    pub(crate) payer: Payer,
}

impl Binding {
    /// SQL for "the settlement is of this binding", to stand before other conditions.
    pub(crate) fn own(&self, alias: &str) -> String {
        Ids::of_binding(self.spec.ids, alias)
    }

    /// How the keys spell ids now.
    pub(crate) fn spellings(&self) -> Spellings {
        Spellings {
            workflows: self.usage_workflow.key_type.spelling().into(),
            accounts: self.accounts.user_key.key_type.spelling().into(),
        }
    }

    /// Whether what is deleted of the usage is recorded.
    pub(crate) fn records_deletions(&self) -> bool {
        self.spec.options.deleted_usage == DeletedUsage::Record
    }

    /// The bound relations: users, usage, workflows, as people name them.
    pub(crate) fn table_refs(&self) -> Vec<&Table> {
        let workflows = self.workflows.iter().map(|workflows| &workflows.table);
        [&self.accounts.users, &self.usage]
            .into_iter()
            .chain(workflows)
            .collect()
    }

    /// The bound relations: workflows, usage, users, in the order in which their locks are taken.
    pub(crate) fn tables(&self) -> Vec<Table> {
        self.workflows
            .iter()
            .map(|workflows| &workflows.table)
            .chain([&self.usage, &self.accounts.users])
            .cloned()
            .collect()
    }

    /// What reads several tables at once does so as the owner of users.
    ///
    /// Error 42501 if that role may not read one of them, or if policies hide rows of it.
    pub(crate) fn require_readable(&self) -> Result<()> {
        let owner = self.accounts.users.owner;
        for table in self.tables() {
            let is_whole = !table.has_policies || catalog::sees_all_rows(owner, &table);
            if !is_whole || !catalog::can_read(owner, table.oid)? {
                return Err(Error::UnreadableRelation {
                    relation: table.sql.clone(),
                    role: catalog::role_name(owner),
                    is_whole,
                });
            }
        }
        Ok(())
    }

    /// What has to be locked to keep the usage as it is: the table, or the view and the tables that it reads.
    pub(crate) fn usage_relations(&self) -> impl Iterator<Item = pg_sys::Oid> {
        let below = self.usage_view.iter().flat_map(|view| &view.tables);
        std::iter::once(self.usage.oid).chain(below.map(|table| table.oid))
    }

    /// What late usage is written to, if this is such a table, or a partition of one.
    pub(crate) fn late_source(&self, relation: pg_sys::Oid) -> Result<Option<&LateSource>> {
        for source in &self.late_sources {
            if is_part_of(relation, source.table.oid)? {
                return Ok(Some(source));
            }
        }
        Ok(None)
    }

    /// Whether an expression of somebody's is computed for a row of the usage, which may fail.
    pub(crate) fn computes_usage(&self) -> bool {
        let is_computed = |column: &Column| column.computed.is_some();
        self.usage_view.is_some()
            || is_computed(&self.usage_workflow.column)
            || self.usage_tokens.iter().any(is_computed)
            || matches!(&self.payer, Payer::Usage(key) if is_computed(&key.column))
    }

    /// Error 55000 if the usage is a view that was replaced since it was attached: what was settled would look new.
    pub(crate) fn refuse_replaced_view(&self) -> Result<()> {
        match self.is_view_replaced() {
            true => Err(Error::ViewReplaced {
                relation: self.usage.sql.clone(),
            }),
            false => Ok(()),
        }
    }

    pub(crate) fn is_view_replaced(&self) -> bool {
        match (&self.usage_view, &self.spec.definition) {
            (Some(view), Some(known)) => !view.definition.is_same(known),
            _ => false,
        }
    }

    /// The canonical text of a workflow id that a caller gave: through the type of the workflow
    /// table's key and of the usage column. A malformed one raises that type's own error.
    pub(crate) fn workflow_id(&self, id: &str) -> String {
        let id = match &self.workflows {
            Some(workflows) => workflows.key.key_type.canonical_or_raise(id),
            None => id.to_owned(),
        };
        self.usage_workflow.key_type.canonical_or_raise(&id)
    }

    /// The same; None for one that these types cannot hold, which names no workflow here.
    pub(crate) fn workflow_id_if_possible(&self, id: &str) -> Option<String> {
        let id = match &self.workflows {
            Some(workflows) => workflows.key.key_type.canonical(id)?,
            None => id.to_owned(),
        };
        self.usage_workflow.key_type.canonical(&id)
    }

    /// SQL for the canonical account of a row, or of the workflow that it belongs to.
    pub(crate) fn account_sql(&self, alias: &str) -> String {
        let (Payer::Usage(key) | Payer::Workflow(key)) = &self.payer;
        key.key_type.canonical_sql(
            &format!("{alias}.{}", key.sql()),
            self.accounts.user_key.key_type,
        )
    }

    /// SQL for the workflow id of a row of the workflow table, as the usage spells it.
    pub(crate) fn workflow_key_sql(&self, workflows: &Workflows, alias: &str) -> String {
        let key = &workflows.key;
        key.key_type.canonical_sql(
            &format!("{alias}.{}", key.sql()),
            self.usage_workflow.key_type,
        )
    }

    /// The index that a summary wants, as `(columns) INCLUDE (…)`; None where the usage names no account or no time. With
    /// all that is added up in it the rows themselves need not be read, but for the few newest.
    pub(crate) fn summary_index(&self) -> Option<String> {
        let (Payer::Usage(key), Some(created_at)) = (&self.payer, &self.details.created_at) else {
            return None;
        };
        let keys = [&key.column, created_at];
        let details = &self.details;
        let texts = details.stage.iter().chain(&details.model);
        let shown = details
            .prompt_tokens
            .iter()
            .chain(&details.completion_tokens);
        let mut columns = keys.to_vec();
        for column in texts.chain(shown).chain(&self.usage_tokens) {
            if columns.iter().all(|known| known.number != column.number) {
                columns.push(column);
            }
        }
        let key = format!("({}, {})", key.column.index_sql(), created_at.index_sql());
        let included: Vec<_> = columns[keys.len()..].iter().map(|it| it.sql()).collect();
        // An index includes columns, and no expressions: of those the rows are read all the same.
        let reads_rows = columns.iter().any(|column| column.computed.is_some());
        match reads_rows || columns.len() > pg_sys::INDEX_MAX_KEYS as usize {
            true => Some(key),
            false => Some(format!("{key} INCLUDE ({})", included.join(", "))),
        }
    }

    /// The index that one settlement wants, as `(columns) INCLUDE (…)`.
    pub(crate) fn usage_index(&self) -> String {
        let account = match &self.payer {
            Payer::Usage(key) => Some(&key.column),
            Payer::Workflow(_) => None,
        };
        // An index includes columns, and no expressions.
        let included: Vec<_> = account
            .into_iter()
            .chain(&self.usage_tokens)
            .filter(|column| column.computed.is_none())
            .map(Column::sql)
            .collect();
        let key = self.usage_workflow.column.index_sql();
        match included.is_empty() {
            true => format!("({key})"),
            false => format!("({key}) INCLUDE ({})", included.join(", ")),
        }
    }
}

impl Accounts {
    /// SQL for "the row is of these accounts", to stand before other conditions.
    pub(crate) fn own(&self, alias: &str) -> String {
        of_accounts(self.id, alias)
    }

    /// The quoted name of the balance column.
    pub(crate) fn balance_sql(&self) -> String {
        quote_identifier(&self.balance_column)
    }

    /// The type of the balances, or that of the domain's base.
    pub(crate) fn balance_type_sql(&self) -> &'static str {
        match self.balance.as_ref().map(|balance| balance.base_type) {
            Some(pg_sys::INT2OID) => "smallint",
            Some(pg_sys::INT8OID) => "bigint",
            Some(pg_sys::NUMERICOID) => "pg_catalog.numeric",
            _ => "integer",
        }
    }

    /// SQL for what the CHECK constraints say of another balance in the row: false where they refuse it.
    pub(crate) fn checks_sql(&self, alias: &str, balance: &str) -> Option<String> {
        let Checks { sql, others, .. } = self.checks.as_ref()?;
        let others = others.iter().map(quote_identifier);
        let others = others.map(|name| format!(", {alias}.{name} AS {name}"));
        Some(format!(
            "(SELECT {sql} FROM (SELECT ({balance})::{} AS {}{}) AS c)",
            self.balance_type_sql(),
            self.balance_sql(),
            others.collect::<String>()
        ))
    }

    /// The largest balance that the column can hold: integers reach as far above zero as below.
    pub(crate) fn largest_balance(&self) -> i64 {
        -(self.smallest_balance() + 1)
    }

    /// The smallest balance that the column can hold; a ledger entry is a bigint.
    pub(crate) fn smallest_balance(&self) -> i64 {
        let Some(balance) = &self.balance else {
            return i64::MIN;
        };
        match balance.base_type {
            pg_sys::INT2OID => i16::MIN.into(),
            pg_sys::INT4OID => i32::MIN.into(),
            pg_sys::NUMERICOID => match numeric_digits(balance.type_modifier) {
                Some(digits @ 0..=18) => 1 - 10_i64.pow(digits),
                _ => i64::MIN,
            },
            _ => i64::MIN,
        }
    }
}

/// The digits before the point of `numeric(p, s)`; None for a plain `numeric`. From
/// `numeric_typmod_precision` and `numeric_typmod_scale` in PostgreSQL's numeric.c.
fn numeric_digits(type_modifier: i32) -> Option<u32> {
    if type_modifier < 4 {
        return None;
    }
    let packed = type_modifier - 4;
    let precision = (packed >> 16) & 0xffff;
    u32::try_from(precision - numeric_scale(type_modifier)).ok()
}

pub(crate) fn numeric_scale(type_modifier: i32) -> i32 {
    if type_modifier < 4 {
        return 0;
    }
    let scale = (type_modifier - 4) & 0x7ff;
    (scale ^ 1024) - 1024
}
