//! Attach by convention: what CREATE EXTENSION does when the tables of the extension's schema have
//! the usual names. Nothing is guessed beyond that, and nothing here fails: a dump's CREATE
//! EXTENSION runs before its tables exist.

use pgrx::pg_sys;

use super::attach::attach_for;
use super::check::require_utf8;
use super::remembered::Said;
use super::search_path::Attacher;
use crate::binding::{Binding, Completion, Payer, Relation, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Table};
use crate::postgres::notice::notice;

const WORKFLOW_TABLES: [&str; 3] = ["workflows", "workflow_runs", "workflow_executions"];
const COMPLETION_TABLE: &str = "workflow_completions";
const TOKEN_COLUMNS: [&[&str]; 5] = [
    &["total_tokens"],
    &["tokens"],
    &["tokens_used"],
    &["prompt_tokens", "completion_tokens"],
    &["input_tokens", "output_tokens"],
];

/// Attach to the usual tables in `schema`; a NOTICE tells what was bound, or what was not found.
///
/// Error 22023 in a database whose encoding is not UTF8: no function of the extension could be called there.
pub(crate) fn attach_by_convention(schema: &str) -> Result<()> {
    require_utf8()?;
    let not_creating = NotCreatingExtension::start();
    let attacher = Attacher::of(not_creating.was_creating());
    let _heard = NoticesAreSent::start();
    let spec = match find(schema)? {
        Ok(spec) => spec,
        Err(missing) => {
            tell_not_attached(missing);
            return Ok(());
        }
    };
    match attach_for(attacher, spec, false, Said::default()) {
        Ok(binding) => tell_attached(&binding),
        // These come when something is changed already, and the script is to be run again.
        Err(error @ (Error::TableInUse { .. } | Error::ConcurrentRename)) => return Err(error),
        // attach checks before it changes anything.
        Err(error) => tell_not_attached(reason(error)),
    }
    Ok(())
}

/// While the extension's script runs, the server records each GRANT as the extension's initial
/// privilege, which pg_dump leaves out: a restored application could not call settle_workflow.
/// What attach does is the application's, not the extension's.
pub(super) struct NotCreatingExtension(bool);

impl NotCreatingExtension {
    pub(super) fn start() -> Self {
        // SAFETY: a backend variable; restored by Drop, and by the server on an error.
        unsafe {
            let guard = NotCreatingExtension(pg_sys::creating_extension);
            pg_sys::creating_extension = false;
            guard
        }
    }

    /// Whether it is an extension's script that runs.
    fn was_creating(&self) -> bool {
        self.0
    }
}

impl Drop for NotCreatingExtension {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::creating_extension = self.0 }
    }
}

/// While an extension's script runs, the server raises client_min_messages to WARNING. What was
/// bound is for the user to see. A user's own ERROR stays.
struct NoticesAreSent(i32);

impl NoticesAreSent {
    fn start() -> Self {
        // SAFETY: a backend variable; restored by Drop, also while an error unwinds.
        unsafe {
            let guard = NoticesAreSent(pg_sys::client_min_messages);
            if guard.0 == pg_sys::WARNING as i32 {
                pg_sys::client_min_messages = pg_sys::NOTICE as i32;
            }
            guard
        }
    }
}

impl Drop for NoticesAreSent {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::client_min_messages = self.0 }
    }
}

/// The spec, or what is missing in words.
fn find(schema: &str) -> Result<std::result::Result<Spec, String>> {
    let Some(users) = bindable(schema, "users")? else {
        return Ok(Err(format!(
            "There is no table users in the schema {schema}."
        )));
    };
    if !names(&users)?.contains(&"id".to_owned()) {
        return Ok(Err(format!("Table {} has no column id.", users.sql)));
    }
    let Some(usage) = bindable(schema, "token_usage")? else {
        return Ok(Err(format!(
            "There is no table token_usage in the schema {schema}."
        )));
    };
    let usage_columns = names(&usage)?;
    let has = |name: &str| usage_columns.iter().any(|column| column == name);
    if let Some(missing) = ["workflow_id", "user_id"]
        .into_iter()
        .find(|name| !has(name))
    {
        return Ok(Err(format!("Table {} has no column {missing}.", usage.sql)));
    }
    let Some(tokens) = TOKEN_COLUMNS
        .iter()
        .find(|columns| columns.iter().all(|name| has(name)))
    else {
        return Ok(Err(format!(
            "Table {} has no column total_tokens.",
            usage.sql
        )));
    };
    let workflows = match find_workflows(schema)? {
        Ok(workflows) => workflows,
        Err(missing) => return Ok(Err(missing)),
    };
    Ok(Ok(Spec {
        users: relation(users),
        usage: relation(usage),
        usage_tokens: tokens.iter().map(|name| name.to_string()).collect(),
        workflows: Some(relation(workflows.table)),
        workflow_key: workflows.key.into(),
        workflow_user: None,
        workflow_status: workflows.status.map(str::to_owned),
        ..Spec::usual()
    }))
}

fn relation(table: Table) -> Relation {
    Relation {
        oid: table.oid,
        name: table.sql,
    }
}

struct WorkflowTable {
    table: Table,
    key: &'static str,
    status: Option<&'static str>,
}

fn find_workflows(schema: &str) -> Result<std::result::Result<WorkflowTable, String>> {
    let mut found = Vec::new();
    for name in WORKFLOW_TABLES.iter().chain([&COMPLETION_TABLE]) {
        if let Some(table) = bindable(schema, name)? {
            found.push((*name, table));
        }
    }
    let (name, table) = match (found.pop(), found.is_empty()) {
        (Some(only), true) => only,
        (None, _) => {
            return Ok(Err(format!(
                "There is none of the tables {} and {COMPLETION_TABLE} in the schema {schema}.",
                WORKFLOW_TABLES.join(", ")
            )));
        }
        (Some(last), false) => {
            found.push(last);
            let names: Vec<_> = found.into_iter().map(|(_, table)| table.sql).collect();
            return Ok(Err(format!(
                "Which is the workflow table: {}?",
                names.join(" or ")
            )));
        }
    };
    let columns = names(&table)?;
    let is_completion = name == COMPLETION_TABLE;
    // A row of the completion table has an id of its own, besides the workflow's.
    let keys = if is_completion {
        ["workflow_id", "id"]
    } else {
        ["id", "workflow_id"]
    };
    let Some(key) = keys
        .into_iter()
        .find(|key| columns.iter().any(|name| name == key))
    else {
        return Ok(Err(format!(
            "Table {} has no column {}.",
            table.sql, keys[0]
        )));
    };
    if !is_completion && !columns.iter().any(|name| name == "status") {
        return Ok(Err(format!("Table {} has no column status.", table.sql)));
    }
    Ok(Ok(WorkflowTable {
        table,
        key,
        status: (!is_completion).then_some("status"),
    }))
}

fn bindable(schema: &str, name: &str) -> Result<Option<Table>> {
    Ok(catalog::table_named(schema, name)?.filter(|table| table.unsupported_kind().is_none()))
}

fn names(table: &Table) -> Result<Vec<String>> {
    Ok(catalog::columns(table.oid)?
        .into_iter()
        .map(|column| column.name)
        .collect())
}

fn reason(error: Error) -> String {
    let report = pgrx::pg_sys::panic::ErrorReport::from(error);
    let mut reason = report.message().to_owned();
    if let Some(first) = reason.get(..1) {
        let first = first.to_uppercase();
        reason.replace_range(..1, &first);
    }
    match report.detail() {
        Some(detail) => format!("{reason}. {detail}"),
        None => format!("{reason}."),
    }
}

fn tell_not_attached(detail: String) {
    notice(
        "token_balance is not attached to any tables".into(),
        Some(detail),
        Some("SELECT token_balance.suggest(); proposes calls of token_balance.attach(users => ..., usage => ..., workflows => ...).".into()),
    );
}

fn tell_attached(binding: &Binding) {
    let mut lines = vec![format!(
        "Accounts are {}.{}, balances {}.{}.",
        binding.accounts.users.sql,
        binding.accounts.user_key.sql(),
        binding.accounts.users.sql,
        binding.accounts.balance_sql()
    )];
    let tokens: Vec<_> = binding
        .usage_tokens
        .iter()
        .map(|column| column.sql())
        .collect();
    let payer = match &binding.payer {
        Payer::Usage(key) => format!(", account {}", key.sql()),
        Payer::Workflow(_) => String::new(),
    };
    lines.push(format!(
        "Usage is {}: workflow {}{payer}, tokens {}.",
        binding.usage.sql,
        binding.usage_workflow.sql(),
        tokens.join(" + ")
    ));
    if let Some(workflows) = &binding.workflows {
        let completed = match &workflows.completion {
            Completion::Status(status) => format!(
                "a row is completed when {} becomes one of {}",
                status.sql(),
                binding.spec.completed_statuses.join(", ")
            ),
            Completion::Timestamp(column) => {
                format!("a row is completed when {} is set", column.sql())
            }
            Completion::Row => "each row is a completion".into(),
        };
        lines.push(format!(
            "Workflows are {}.{}: {completed}.",
            workflows.table.sql,
            workflows.key.sql()
        ));
    }
    notice(
        format!(
            "token_balance is attached to {}",
            binding.accounts.users.sql
        ),
        Some(lines.join("\n")),
        Some("Check it with SELECT * FROM token_balance.verify().".into()),
    );
}
