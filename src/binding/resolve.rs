//! A spec held against the catalogs: owners, types, quoted names.

use pgrx::pg_sys;

use super::model::{BALANCE_COLUMN, Binding, Completion, Details, Key, Payer, Workflows};
use super::own::{distributed, extension_owner};
use super::search_path::paths;
use super::spec::{Relation, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::key::{KeyType, SUPPORTED_KEY_TYPES};

impl Binding {
    /// The binding of this database. Error 55000 if there is none, 42P01 or 42703 if it points at
    /// what is gone.
    pub(crate) fn load() -> Result<Self> {
        let spec = Spec::load()?.ok_or(Error::NotAttached)?;
        Self::resolve(spec)
    }

    /// Look everything up that the spec names.
    pub(crate) fn resolve(spec: Spec) -> Result<Self> {
        let users = existing_table("users table", &spec.users)?;
        let usage = existing_table("usage table", &spec.usage)?;
        let workflows_table = spec
            .workflows
            .as_ref()
            .map(|workflows| existing_table("workflow table", workflows))
            .transpose()?;
        let relations: Vec<_> = spec.relations().map(|relation| relation.oid).collect();
        if let Some(table) = distributed(&relations)? {
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
        let extension_owner = extension_owner()?;
        let tables: Vec<_> = [&users, &usage]
            .into_iter()
            .chain(workflows.iter().map(|workflows| &workflows.table))
            .collect();
        let paths = paths(&spec, &tables, extension_owner)?;

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
}

/// A relation that a caller named by its regclass.
pub(crate) fn relation_of(oid: pg_sys::Oid) -> Result<Relation> {
    let name = oid.to_u32().to_string();
    let relation = Relation { oid, name };
    let table = existing_relation("relation with OID", &relation)?;
    Ok(Relation {
        oid,
        name: table.sql,
    })
}

/// A table that can be bound. Checked at each load: before PostgreSQL 16 a rule can turn a table
/// into a view.
fn existing_table(what: &'static str, relation: &Relation) -> Result<Table> {
    let table = existing_relation(what, relation)?;
    match table.unsupported_kind() {
        Some(kind) => Err(Error::WrongRelationKind {
            name: table.sql,
            kind,
        }),
        None => Ok(table),
    }
}

fn existing_relation(what: &'static str, relation: &Relation) -> Result<Table> {
    catalog::table(relation.oid)?.ok_or_else(|| Error::RelationMissing {
        what,
        name: relation.name.clone(),
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

pub(crate) fn wrong_type(table: &Table, column: &Column, wanted: &'static str) -> Error {
    Error::WrongColumnType {
        relation: table.sql.clone(),
        column: column.name.clone(),
        type_name: column.type_name.clone(),
        wanted,
    }
}
