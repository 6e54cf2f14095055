//! A spec held against the catalogs: owners, types, quoted names.

use pgrx::pg_sys;

use super::columns::Named;
use super::late_sources::{self, LateSource};
use super::model::{Accounts, Binding, Completion, Details, Key, Payer, Workflows};
use super::options::{DeletedUsage, LateUsage};
use super::own::{distributed, extension_owner, has_moved};
use super::search_path::paths;
use super::spec::{Relation, Spec};
use super::tokens::SUPPORTED_TOKEN_TYPES;
use crate::error::{Error, Result, USAGE_VIEW};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::key::{KeyType, SUPPORTED_KEY_TYPES};
use crate::postgres::view::View;

impl Binding {
    /// Look everything up that the spec names.
    pub(crate) fn resolve(spec: Spec) -> Result<Self> {
        let accounts = Accounts::resolve(&spec)?;
        Self::resolve_with(spec, accounts)
    }

    /// Look everything up that the spec names besides its accounts.
    pub(crate) fn resolve_with(spec: Spec, accounts: Accounts) -> Result<Self> {
        let usage = existing_usage(&spec)?;
        let usage_view = usage_view(&usage, &accounts.users)?;
        let workflows_table = spec
            .workflows
            .as_ref()
            .map(|workflows| existing_table(&spec, "workflow table", workflows))
            .transpose()?;
        refuse_distributed(spec.relations())?;
        let late_sources = late_sources(&spec, &usage, usage_view.as_ref());
        let usage_parts = match spec.options.deleted_usage {
            DeletedUsage::Record => catalog::partitions(usage.oid)?,
            DeletedUsage::Report => Vec::new(),
        };
        let usage_columns = catalog::columns(usage.oid)?;
        let named = spec.named("usage_workflow", &spec.usage_workflow);
        let usage_workflow = key(&usage, &usage_columns, named)?;
        refuse_other_spellings(&spec, &usage, &usage_workflow, &accounts)?;
        let usage_tokens = spec
            .usage_tokens
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let named = spec.named_in_list("usage_tokens", at, name);
                token_column(&usage, &usage_columns, named)
            })
            .collect::<Result<Vec<_>>>()?;

        let workflows = workflows_table
            .map(|table| workflows(&spec, table))
            .transpose()?;
        let payer = match (&spec.usage_user, &workflows) {
            (Some(name), _) => {
                let named = spec.named("usage_user", name);
                Payer::Usage(key(&usage, &usage_columns, named)?)
            }
            (None, Some(workflows)) => {
                let columns = catalog::columns(workflows.table.oid)?;
                let name = spec.workflow_user.as_deref().ok_or(Error::NullArgument {
                    function: "token_balance.attach",
                    argument: "workflow_user",
                })?;
                let named = spec.named("workflow_user", name);
                Payer::Workflow(key(&workflows.table, &columns, named)?)
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
        Ok(Binding {
            spec,
            accounts,
            usage,
            usage_view,
            late_sources,
            usage_parts,
            details,
            usage_workflow,
            usage_tokens,
            workflows,
            payer,
        })
    }
}

impl Accounts {
    /// Look up what the spec says of accounts. What has become of the other tables is no matter.
    pub(crate) fn resolve(spec: &Spec) -> Result<Self> {
        let users = existing_table(spec, "users table", &spec.users)?;
        refuse_distributed([&spec.users].into_iter())?;
        let columns = catalog::columns(users.oid)?;
        let user_key = key(&users, &columns, spec.named("user_key", &spec.user_key))?;
        let mut tables = vec![users.clone()];
        for relation in [Some(&spec.usage), spec.workflows.as_ref()]
            .into_iter()
            .flatten()
        {
            tables.extend(catalog::table(relation.oid)?);
        }
        let extension_owner = extension_owner()?;
        let balance = columns
            .into_iter()
            .find(|column| column.name == spec.balance_column);
        let checks = match &balance {
            Some(balance) => catalog::checks_on(users.oid, balance)?,
            None => None,
        };
        Ok(Accounts {
            id: spec.ids.map(|ids| ids.accounts),
            binding: spec.name.clone(),
            is_of_older_dump: spec.is_of_older_dump,
            has_moved: has_moved(spec.ids.map(|ids| ids.accounts))?,
            extension_owner,
            paths: paths(spec, &tables.iter().collect::<Vec<_>>(), extension_owner)?,
            balance,
            checks,
            balance_column: spec.balance_column.clone(),
            busy_account: spec.options.busy_account,
            outside_changes: spec.options.outside_changes,
            users,
            user_key,
        })
    }
}

/// Error 55000 if ids that are stored as text are of a type now that may spell them otherwise.
fn refuse_other_spellings(
    spec: &Spec,
    usage: &Table,
    usage_workflow: &Key,
    accounts: &Accounts,
) -> Result<()> {
    let Some(stored) = &spec.spellings else {
        return Ok(());
    };
    let keys = [
        (usage, usage_workflow, &stored.workflows),
        (&accounts.users, &accounts.user_key, &stored.accounts),
    ];
    let changed =
        |key: &Key, stored: &str| stored == KeyType::Text.spelling() && !key.key_type.is_text();
    match keys
        .into_iter()
        .find(|(_, key, stored)| changed(key, stored))
    {
        Some((table, key, _)) => Err(Error::KeyTypeChanged {
            relation: table.sql.clone(),
            column: key.column.name.clone(),
            type_name: key.column.type_name.clone(),
        }),
        None => Ok(()),
    }
}

fn refuse_distributed<'a>(relations: impl Iterator<Item = &'a Relation>) -> Result<()> {
    let relations: Vec<_> = relations.map(|relation| relation.oid).collect();
    match distributed(&relations)? {
        Some(table) => Err(Error::Distributed {
            relation: table.sql,
        }),
        None => Ok(()),
    }
}

/// A relation that a caller named by its regclass. Error 42P01 if there is none any more.
pub(crate) fn relation_of(oid: pg_sys::Oid) -> Result<Relation> {
    let table = catalog::table(oid)?.ok_or_else(|| Error::RelationMissing {
        what: "relation with OID",
        name: oid.to_u32().to_string(),
    })?;
    Ok(Relation {
        oid,
        name: table.sql,
    })
}

/// A table that can be bound. Checked at each load: before PostgreSQL 16 a rule can turn a table
/// into a view.
pub(super) fn existing_table(
    spec: &Spec,
    what: &'static str,
    relation: &Relation,
) -> Result<Table> {
    let Some(table) = catalog::table(relation.oid)? else {
        return Err(dropped(spec, what, relation));
    };
    supported(table)
}

fn supported(table: Table) -> Result<Table> {
    refuse_own(&table)?;
    match table.unsupported_kind() {
        Some(kind) => Err(Error::WrongRelationKind {
            name: table.sql,
            kind,
        }),
        None => Ok(table),
    }
}

/// Error 42809 for a table of the extension: its triggers are its own.
pub(super) fn refuse_own(table: &Table) -> Result<()> {
    match table.schema == "token_balance" {
        true => Err(Error::WrongRelationKind {
            name: table.sql.clone(),
            kind: "its own table",
        }),
        false => Ok(()),
    }
}

/// The usage, which may be a view as well.
pub(super) fn existing_usage(spec: &Spec) -> Result<Table> {
    match catalog::table(spec.usage.oid)? {
        None if spec.definition.is_some() => Err(dropped(spec, USAGE_VIEW, &spec.usage)),
        None => Err(dropped(spec, "usage table", &spec.usage)),
        // A rule may have made one of the table that was bound.
        Some(table) if table.is_view() && !was_table(spec) => refuse_own(&table).map(|()| table),
        Some(table) => supported(table),
    }
}

/// Where late usage is written that a view shows. What is not right is for attach to say, and for `verify`.
fn late_sources(spec: &Spec, usage: &Table, view: Option<&View>) -> Vec<LateSource> {
    let Some(view) = view.filter(|_| spec.options.late_usage == LateUsage::Settle) else {
        return Vec::new();
    };
    late_sources::found(spec, usage, view)
}

/// What is wrong with `late_usage_on`. Errors: 22023, 42703.
pub(crate) fn check_late_sources(binding: &Binding) -> Result<()> {
    let Some(view) = &binding.usage_view else {
        return Ok(());
    };
    let mut told = binding.spec.late_usage_on.iter();
    // What is known by its number is right, whatever its name is by now.
    match binding.late_sources.len() == binding.spec.late_usage_on.len() {
        true => Ok(()),
        false => told.try_for_each(|told| {
            late_sources::find(told, &binding.usage, view, "late_usage_on").map(drop)
        }),
    }
}

/// The table below the usage view that an argument names, as `late_usage_on` does.
///
/// Errors: 22023 if it is not of that form, or not of the view's; 42703 for a column that is not there.
pub(crate) fn source_told(
    binding: &Binding,
    told: &str,
    argument: &'static str,
) -> Result<LateSource> {
    match &binding.usage_view {
        Some(view) => late_sources::find(told, &binding.usage, view, argument),
        None => Err(Error::InvalidArgument {
            message: format!("{argument} names {told}"),
            detail: Some(format!("The usage in {} is no view.", binding.usage.sql)),
            hint: Some("Leave it out.".into()),
        }),
    }
}

fn was_table(spec: &Spec) -> bool {
    spec.ids.is_some() && spec.definition.is_none()
}

/// What the usage is made of, if it is a view.
///
/// Its functions run with the rights of who reads it, which the owner of users does: so its owner has to have these.
fn usage_view(usage: &Table, users: &Table) -> Result<Option<View>> {
    if !usage.is_view() {
        return Ok(None);
    }
    if !catalog::acts_for(usage.owner, users.owner) {
        return Err(Error::ViewOfOthers {
            relation: usage.sql.clone(),
            owner: catalog::role_name(usage.owner),
            users_owner: catalog::role_name(users.owner),
        });
    }
    let view = View::of(usage, &[usage.owner, users.owner])?;
    view.check(&usage.sql)?;
    view.tables.iter().try_for_each(refuse_own)?;
    Ok(Some(view))
}

fn dropped(spec: &Spec, what: &'static str, relation: &Relation) -> Error {
    let is_name_taken = catalog::is_taken(&relation.name).unwrap_or(false);
    let is_of_workflows = spec.workflows.as_ref() == Some(relation);
    let hint = match (is_of_workflows, is_name_taken) {
        (_, true) => format!(
            "Call {}: it goes on with that table where it was.",
            spec.attach_call()
        ),
        (true, false) => {
            format!(
                "Call {} with another workflow table: it goes on with that one where it was.",
                spec.attach_with("workflows => ...")
            )
        }
        (false, false) if what == USAGE_VIEW => format!(
            "Make the view again under its name, then call {}: it goes on where it was.",
            spec.attach_call()
        ),
        (false, false) => format!(
            "Call {} with the tables that exist, or {}.",
            spec.attach_with("users => ..., usage => ..."),
            spec.detach_call()
        ),
    };
    Error::RelationDropped {
        what,
        name: relation.name.clone(),
        is_name_taken,
        hint,
    }
}

pub(super) fn key(table: &Table, columns: &[Column], named: Named) -> Result<Key> {
    let column = named.find(table, columns)?;
    let key_type = KeyType::of(column.base_type)
        .ok_or_else(|| wrong_type(table, column, named.argument, SUPPORTED_KEY_TYPES))?;
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

pub(super) fn token_column(table: &Table, columns: &[Column], named: Named) -> Result<Column> {
    let column = named.find(table, columns)?;
    match column.holds_tokens() {
        true => Ok(column.clone()),
        false => Err(wrong_type(
            table,
            column,
            named.argument,
            SUPPORTED_TOKEN_TYPES,
        )),
    }
}

/// A column with its usual name is left out where there is none; any other name must be right.
pub(super) fn details(spec: &Spec, usage: &Table, columns: &[Column]) -> Result<Details> {
    let named = |name, usual, argument| {
        let named = spec.named(argument, Option::as_deref(name)?);
        (!named.is_left_out(usual, usage, columns)).then_some(named)
    };
    let find = |name, usual, argument| {
        named(name, usual, argument)
            .map(|named| named.find(usage, columns).cloned())
            .transpose()
    };
    let tokens = |name, usual, argument| {
        named(name, usual, argument)
            .map(|named| token_column(usage, columns, named))
            .transpose()
    };
    let created_at = named(&spec.usage_created_at, "created_at", "usage_created_at")
        .map(|named| timestamp_column(usage, columns, named))
        .transpose()?;
    Ok(Details {
        id: find(&spec.usage_id, "id", "usage_id")?,
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

fn timestamp_column(table: &Table, columns: &[Column], named: Named) -> Result<Column> {
    let column = named.find(table, columns)?;
    match column.base_type {
        pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID | pg_sys::DATEOID => Ok(column.clone()),
        _ => Err(wrong_type(
            table,
            column,
            named.argument,
            "timestamp with or without time zone, and date",
        )),
    }
}

pub(super) fn workflows(spec: &Spec, table: Table) -> Result<Workflows> {
    let columns = catalog::columns(table.oid)?;
    let named = spec.named("workflow_key", &spec.workflow_key);
    let key = key(&table, &columns, named)?;
    // A completion timestamp decides alone: the default name of the status column then means
    // nothing.
    let completion = match (&spec.workflow_completed_at, &spec.workflow_status) {
        (Some(name), _) => {
            let named = spec.named("workflow_completed_at", name);
            Completion::Timestamp(timestamp_column(&table, &columns, named)?)
        }
        (None, Some(name)) => {
            let named = spec.named("workflow_status", name);
            Completion::Status(named.find(&table, &columns)?.clone())
        }
        (None, None) => Completion::Row,
    };
    Ok(Workflows {
        table,
        key,
        completion,
    })
}

pub(crate) fn wrong_type(
    table: &Table,
    column: &Column,
    argument: &'static str,
    wanted: &'static str,
) -> Error {
    Error::WrongColumnType {
        relation: table.sql.clone(),
        column: column.name.clone(),
        type_name: column.type_name.clone(),
        argument,
        wanted,
    }
}
