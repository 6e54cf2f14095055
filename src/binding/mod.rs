//! The binding: which tables and columns of this database the extension works on.
//!
//! A [`Spec`] is what `attach` was told and what the table `token_balance.binding` keeps. A
//! [`Binding`] is a spec held against the catalogs: owners, types, quoted names.

mod attach;
mod check;
mod convention;
mod detach;
mod existing;
mod options;
mod path;
mod spec;
mod triggers;
mod upgrade;
mod verify;

use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::spi::quote_literal;

use crate::catalog::{self, Column, Table};
use crate::error::{Error, Result};
use crate::key::{KeyType, SUPPORTED_KEY_TYPES};
use crate::security::SearchPaths;

pub(crate) use attach::attach;
pub(crate) use convention::attach_by_convention;
pub(crate) use detach::detach;
pub(crate) use options::{BusyAccount, LateUsage, Options};
pub(crate) use path::path_of;
pub(crate) use spec::Spec;
pub(crate) use upgrade::{upgrade, upgrade_grants};
pub(crate) use verify::{Check, ledger_guard, ledger_sequence, verify, verify_triggers};

/// The column that the extension keeps.
pub(crate) const BALANCE_COLUMN: &str = "token_balance";

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

/// Who pays for a usage row.
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
    pub(crate) prompt_tokens: Option<Column>,
    pub(crate) completion_tokens: Option<Column>,
    pub(crate) model: Option<Column>,
    pub(crate) stage: Option<Column>,
    pub(crate) created_at: Option<Column>,
}

/// A spec held against the catalogs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    pub(crate) spec: Spec,
    /// The owner of the extension's own tables.
    pub(crate) extension_owner: pg_sys::Oid,
    pub(crate) users: Table,
    pub(crate) user_key: Key,
    /// None until attach has added it.
    pub(crate) balance: Option<Column>,
    pub(crate) usage: Table,
    pub(crate) usage_workflow: Key,
    pub(crate) usage_tokens: Vec<Column>,
    pub(crate) details: Details,
    pub(crate) workflows: Option<Workflows>,
    pub(crate) payer: Payer,
    /// With which search_path statements run as somebody else.
    pub(crate) paths: Rc<SearchPaths>,
}

impl Binding {
    /// The binding of this database. Error 55000 if there is none, 42P01 or 42703 if it points at
    /// what is gone.
    pub(crate) fn load() -> Result<Self> {
        let spec = Spec::load()?.ok_or(Error::NotAttached)?;
        Self::resolve(spec)
    }

    /// Look everything up that the spec names.
    pub(crate) fn resolve(spec: Spec) -> Result<Self> {
        let users = existing_table("users table", spec.users, &spec.users_name)?;
        let usage = existing_table("usage table", spec.usage, &spec.usage_name)?;
        let workflows_table = spec
            .workflows
            .map(|oid| {
                let name = spec.workflows_name.as_deref().unwrap_or_default();
                existing_table("workflow table", oid, name)
            })
            .transpose()?;
        let relations: Vec<_> = spec.relations().collect();
        if let Some(table) = catalog::distributed(&relations)? {
            return Err(Error::Distributed {
                relation: table.sql,
            });
        }
        let users_columns = catalog::columns(users.oid)?;
        let usage_columns = catalog::columns(usage.oid)?;

        let user_key = key(&users, &users_columns, &spec.user_key, "user_key")?;
        let usage_workflow = key(
            &usage,
            &usage_columns,
            &spec.usage_workflow,
            "usage_workflow",
        )?;
        let usage_tokens = spec
            .usage_tokens
            .iter()
            .map(|name| token_column(&usage, &usage_columns, name))
            .collect::<Result<Vec<_>>>()?;

        let workflows = workflows_table
            .map(|table| workflows(&spec, table))
            .transpose()?;
        let payer = match (&spec.usage_user, &workflows) {
            (Some(name), _) => Payer::Usage(key(&usage, &usage_columns, name, "usage_user")?),
            (None, Some(workflows)) => {
                let columns = catalog::columns(workflows.table.oid)?;
                let name = spec.workflow_user.as_deref().ok_or(Error::NullArgument {
                    function: "token_balance.attach",
                    argument: "workflow_user",
                })?;
                Payer::Workflow(key(&workflows.table, &columns, name, "workflow_user")?)
            }
            (None, None) => {
                return Err(Error::InvalidArgument {
                    message: "usage_user is null but no workflow table is named".into(),
                    detail: Some(
                        "Without an account column in the usage, the workflow row's account pays."
                            .into(),
                    ),
                    hint: Some("Name usage_user, or workflows and workflow_user.".into()),
                });
            }
        };

        let details = details(&spec, &usage, &usage_columns)?;
        let extension_owner = catalog::extension_owner()?;
        let tables: Vec<_> = [&users, &usage]
            .into_iter()
            .chain(workflows.iter().map(|workflows| &workflows.table))
            .collect();
        let paths = path::paths(&spec, &tables, extension_owner)?;

        Ok(Binding {
            extension_owner,
            paths,
            balance: users_columns
                .iter()
                .find(|column| column.name == BALANCE_COLUMN)
                .cloned(),
            spec,
            users,
            user_key,
            usage,
            details,
            usage_workflow,
            usage_tokens,
            workflows,
            payer,
        })
    }

    /// The bound relations: users, usage, workflows, as people name them.
    fn table_refs(&self) -> Vec<&Table> {
        let workflows = self.workflows.iter().map(|workflows| &workflows.table);
        [&self.users, &self.usage]
            .into_iter()
            .chain(workflows)
            .collect()
    }

    /// The bound relations: workflows, usage, users, in the order in which their locks are taken.
    pub(crate) fn tables(&self) -> Vec<Table> {
        self.workflows
            .iter()
            .map(|workflows| &workflows.table)
            .chain([&self.usage, &self.users])
            .cloned()
            .collect()
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

    /// SQL for the tokens of a group of usage rows; the result is bigint, or numeric where a sum of
    /// bigint columns could be larger. NULL tokens count as 0.
    pub(crate) fn tokens_sql(&self, alias: &str) -> String {
        let sums: Vec<_> = self
            .usage_tokens
            .iter()
            .map(|column| format!("COALESCE(pg_catalog.sum({alias}.{}), 0)", column.sql()))
            .collect();
        sums.join(" OPERATOR(pg_catalog.+) ")
    }

    /// SQL for the canonical account of a row, or of the workflow that it belongs to.
    pub(crate) fn account_sql(&self, alias: &str) -> String {
        let (Payer::Usage(key) | Payer::Workflow(key)) = &self.payer;
        key.key_type
            .canonical_sql(&format!("{alias}.{}", key.sql()), self.user_key.key_type)
    }

    /// SQL for the workflow id of a row of the workflow table, as the usage spells it.
    pub(crate) fn workflow_key_sql(&self, workflows: &Workflows, alias: &str) -> String {
        let key = &workflows.key;
        key.key_type.canonical_sql(
            &format!("{alias}.{}", key.sql()),
            self.usage_workflow.key_type,
        )
    }

    /// SQL for "the row `alias` of the workflow table is completed".
    pub(crate) fn completed_sql(&self, alias: &str) -> String {
        let Some(workflows) = &self.workflows else {
            return "false".into();
        };
        match &workflows.completion {
            Completion::Timestamp(column) => format!("{alias}.{} IS NOT NULL", column.sql()),
            Completion::Status(column) => format!(
                "{alias}.{}::pg_catalog.text{} OPERATOR(pg_catalog.=) ANY \
                 ({}::pg_catalog.text[])",
                column.sql(),
                // A status is compared as it is spelled, as the triggers do.
                match column.loose_collation {
                    Some(_) => " COLLATE pg_catalog.\"C\"",
                    None => "",
                },
                quote_literal(array_literal(&self.spec.completed_statuses))
            ),
            Completion::Row => "true".into(),
        }
    }

    /// The index that a summary wants; None where the usage names no account or no time.
    pub(crate) fn summary_index(&self) -> Option<String> {
        let (Payer::Usage(key), Some(created_at)) = (&self.payer, &self.details.created_at) else {
            return None;
        };
        Some(format!("({}, {})", key.sql(), created_at.sql()))
    }

    /// The index that one settlement wants, as `(columns) INCLUDE (…)`.
    pub(crate) fn usage_index(&self) -> String {
        let mut included: Vec<_> = self.usage_tokens.iter().map(Column::sql).collect();
        if let Payer::Usage(key) = &self.payer {
            included.insert(0, key.sql());
        }
        format!(
            "({}) INCLUDE ({})",
            self.usage_workflow.sql(),
            included.join(", ")
        )
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

/// An array of texts as one constant. The server reads a trigger's condition anew for each statement,
/// also for one that completes nothing, and ARRAY[…] would be a constant an element.
fn array_literal(texts: &[String]) -> String {
    let elements: Vec<_> = texts
        .iter()
        .map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", elements.join(","))
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

fn numeric_scale(type_modifier: i32) -> i32 {
    if type_modifier < 4 {
        return 0;
    }
    let scale = (type_modifier - 4) & 0x7ff;
    (scale ^ 1024) - 1024
}

/// The quoted name of a relation that a caller named by its regclass.
pub(crate) fn name_of(oid: pg_sys::Oid) -> Result<String> {
    existing_relation("relation with OID", oid, &oid.to_u32().to_string()).map(|table| table.sql)
}

/// A table that can be bound. Checked at each load: before PostgreSQL 16 a rule can turn a table
/// into a view.
fn existing_table(what: &'static str, oid: pg_sys::Oid, name: &str) -> Result<Table> {
    let table = existing_relation(what, oid, name)?;
    match table.unsupported_kind() {
        Some(kind) => Err(Error::WrongRelationKind {
            name: table.sql,
            kind,
        }),
        None => Ok(table),
    }
}

fn existing_relation(what: &'static str, oid: pg_sys::Oid, name: &str) -> Result<Table> {
    catalog::table(oid)?.ok_or_else(|| Error::RelationMissing {
        what,
        name: name.to_owned(),
    })
}

fn column<'a>(
    table: &Table,
    columns: &'a [Column],
    name: &str,
    argument: &'static str,
) -> Result<&'a Column> {
    columns
        .iter()
        .find(|column| column.name == name)
        .ok_or_else(|| Error::ColumnMissing {
            relation: table.sql.clone(),
            column: name.to_owned(),
            argument,
        })
}

fn key(table: &Table, columns: &[Column], name: &str, argument: &'static str) -> Result<Key> {
    let column = column(table, columns, name, argument)?;
    let key_type = KeyType::of(column.base_type)
        .ok_or_else(|| wrong_type(table, column, SUPPORTED_KEY_TYPES))?;
    // Ids that are spelled otherwise name other things, whatever the column thinks.
    if let Some(collation) = &column.loose_collation {
        return Err(Error::UnsupportedCollation {
            relation: table.sql.clone(),
            column: column.name.clone(),
            collation: collation.clone(),
        });
    }
    Ok(Key {
        column: column.clone(),
        key_type,
    })
}

fn token_column(table: &Table, columns: &[Column], name: &str) -> Result<Column> {
    let column = column(table, columns, name, "usage_tokens")?;
    match column.base_type {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Ok(column.clone()),
        _ => Err(wrong_type(table, column, "smallint, integer and bigint")),
    }
}

/// A column with its usual name is left out where there is none; any other name must be right.
fn details(spec: &Spec, usage: &Table, columns: &[Column]) -> Result<Details> {
    let find = |name: &Option<String>, usual: &str, argument| -> Result<Option<Column>> {
        match name {
            None => Ok(None),
            Some(name) if name == usual && !columns.iter().any(|column| column.name == usual) => {
                Ok(None)
            }
            Some(name) => column(usage, columns, name, argument).map(|column| Some(column.clone())),
        }
    };
    let tokens = |name, usual, argument| -> Result<Option<Column>> {
        match find(name, usual, argument)? {
            Some(column) => token_column(usage, columns, &column.name).map(Some),
            None => Ok(None),
        }
    };
    let created_at = find(&spec.usage_created_at, "created_at", "usage_created_at")?
        .map(|column| timestamp_column(usage, columns, &column.name, "usage_created_at"))
        .transpose()?;
    Ok(Details {
        prompt_tokens: tokens(
            &spec.usage_prompt_tokens,
            "prompt_tokens",
            "usage_prompt_tokens",
        )?,
        completion_tokens: tokens(
            &spec.usage_completion_tokens,
            "completion_tokens",
            "usage_completion_tokens",
        )?,
        model: find(&spec.usage_model, "model", "usage_model")?,
        stage: find(&spec.usage_stage, "stage", "usage_stage")?,
        created_at,
    })
}

fn timestamp_column(
    table: &Table,
    columns: &[Column],
    name: &str,
    argument: &'static str,
) -> Result<Column> {
    let column = column(table, columns, name, argument)?;
    match column.base_type {
        pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID | pg_sys::DATEOID => Ok(column.clone()),
        _ => Err(wrong_type(
            table,
            column,
            "timestamp with or without time zone, and date",
        )),
    }
}

fn workflows(spec: &Spec, table: Table) -> Result<Workflows> {
    let columns = catalog::columns(table.oid)?;
    let key = key(&table, &columns, &spec.workflow_key, "workflow_key")?;
    // A completion timestamp decides alone: the default name of the status column then means
    // nothing.
    let completion = match (&spec.workflow_completed_at, &spec.workflow_status) {
        (Some(name), _) => Completion::Timestamp(timestamp_column(
            &table,
            &columns,
            name,
            "workflow_completed_at",
        )?),
        (None, Some(name)) => {
            Completion::Status(column(&table, &columns, name, "workflow_status")?.clone())
        }
        (None, None) => Completion::Row,
    };
    Ok(Workflows {
        table,
        key,
        completion,
    })
}

fn wrong_type(table: &Table, column: &Column, wanted: &'static str) -> Error {
    Error::WrongColumnType {
        relation: table.sql.clone(),
        column: column.name.clone(),
        type_name: column.type_name.clone(),
        wanted,
    }
}
