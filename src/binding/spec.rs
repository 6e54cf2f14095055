//! What `attach` was told.

use pgrx::pg_sys;

use super::options::Options;
use crate::error::{Error, Result};
use crate::postgres::view::Definition;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    /// None until it is stored; and in the catalog of an older version, which has one binding.
    pub(crate) ids: Option<Ids>,
    /// Unique among those that are attached.
    pub(crate) name: String,
    pub(crate) users: Relation,
    pub(crate) user_key: String,
    /// The column of users that the extension keeps.
    pub(crate) balance_column: String,
    pub(crate) usage: Relation,
    pub(crate) usage_user: Option<String>,
    pub(crate) usage_workflow: String,
    pub(crate) usage_tokens: Vec<String>,
    pub(crate) usage_id: Option<String>,
    pub(crate) usage_prompt_tokens: Option<String>,
    pub(crate) usage_completion_tokens: Option<String>,
    pub(crate) usage_model: Option<String>,
    pub(crate) usage_stage: Option<String>,
    pub(crate) usage_created_at: Option<String>,
    pub(crate) workflows: Option<Relation>,
    pub(crate) workflow_key: String,
    pub(crate) workflow_user: Option<String>,
    pub(crate) workflow_status: Option<String>,
    pub(crate) workflow_completed_at: Option<String>,
    pub(crate) completed_statuses: Vec<String>,
    /// None: attach was told nothing.
    pub(crate) initial_balance: Option<i64>,
    /// The type of the column, if attach adds it.
    pub(crate) balance_type: pg_sys::Oid,
    /// None: exempt.
    pub(crate) existing_usage: Option<String>,
    pub(crate) options: Options,
    /// Of usage that is a view: the tables below it whose rows count at once, with the column that the view shows.
    pub(crate) late_usage_on: Vec<String>,
    /// Their tables, and the numbers of these columns, as far as they are known.
    pub(crate) late_keys: Vec<LateKey>,
    /// The schemas in which the tables' triggers look names up; None: nothing is kept, or attach was
    /// told nothing.
    pub(crate) search_path: Option<Vec<String>>,
    /// The numbers of its columns, as far as they are known. The names are those of now.
    pub(crate) columns: Vec<BoundColumn>,
    /// None: those that the keys have when they are looked up.
    pub(crate) spellings: Option<Spellings>,
    /// What the usage says, if it is a view; None for a table.
    pub(crate) definition: Option<Definition>,
    /// The catalog has no place for one, until the extension is updated.
    pub(crate) is_of_older_catalog: bool,
    /// The row came with a dump of an older version, in which the ledger had the references.
    pub(crate) is_of_older_dump: bool,
    /// Whether attach has made the balance column, or found it there; None where an older version has bound it.
    pub(crate) made_column: Option<bool>,
}

/// A column that an argument of `attach` names, and its number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BoundColumn {
    pub(crate) argument: &'static str,
    /// In the list, if the argument is one.
    pub(super) position: usize,
    pub(super) relation: pg_sys::Oid,
    pub(super) number: i16,
    /// The name that attach was told.
    pub(crate) told: String,
    pub(crate) is_dropped: bool,
}

/// A column that `late_usage_on` names, of a table below a view.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LateKey {
    /// What attach was told.
    pub(crate) told: String,
    pub(super) relation: pg_sys::Oid,
    pub(super) number: i16,
}

/// How the ids are spelled that the extension's tables have: by keys of which types (`KeyType::spelling`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spellings {
    pub(crate) workflows: String,
    pub(crate) accounts: String,
}

/// The numbers by which the extension's tables know a binding, and the accounts that it charges: bindings of
/// one users table share these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ids {
    pub(crate) binding: i16,
    pub(crate) accounts: i16,
}

impl Ids {
    /// SQL for "the row of the ledger, the queue or the references is of these accounts", to stand before other
    /// conditions.
    pub(crate) fn of_accounts(self, alias: &str) -> String {
        of_accounts(Some(self.accounts), alias)
    }

    /// SQL for "the settlement is of this binding", to stand before other conditions.
    pub(crate) fn of_binding(ids: Option<Self>, alias: &str) -> String {
        condition(alias, "binding_id", ids.map(|ids| ids.binding))
    }
}

/// The same, given their number.
pub(super) fn of_accounts(id: Option<i16>, alias: &str) -> String {
    condition(alias, "accounts_id", id)
}

/// Empty where the catalog has no such column.
fn condition(alias: &str, column: &str, id: Option<i16>) -> String {
    match id {
        Some(id) => format!("{alias}.{column} OPERATOR(pg_catalog.=) {id}::smallint AND "),
        None => String::new(),
    }
}

/// A relation, and its quoted name when it was bound.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Relation {
    pub(crate) oid: pg_sys::Oid,
    pub(crate) name: String,
}

/// The name of a binding that was given none.
const DEFAULT_NAME: &str = "default";

/// The statuses that complete a run where attach is told nothing else. The condition of a trigger may be that it is one
/// of these, without naming them (`note_usual_status`), and outlives a version: they never become others.
pub(crate) const USUAL_STATUSES: [&str; 5] =
    ["completed", "succeeded", "success", "finished", "done"];

/// What a new account starts with where attach is told nothing.
const INITIAL_BALANCE: i64 = 1_000_000;

impl Spec {
    /// What attach is told where it is told nothing.
    pub(crate) fn usual() -> Self {
        let no_relation = Relation {
            oid: pg_sys::InvalidOid,
            name: String::new(),
        };
        let named = |name: &str| Some(name.to_owned());
        Spec {
            ids: None,
            name: DEFAULT_NAME.into(),
            users: no_relation.clone(),
            user_key: "id".into(),
            balance_column: "token_balance".into(),
            usage: no_relation,
            usage_user: named("user_id"),
            usage_workflow: "workflow_id".into(),
            usage_tokens: vec!["total_tokens".into()],
            usage_id: named("id"),
            usage_prompt_tokens: named("prompt_tokens"),
            usage_completion_tokens: named("completion_tokens"),
            usage_model: named("model"),
            usage_stage: named("stage"),
            usage_created_at: named("created_at"),
            workflows: None,
            workflow_key: "id".into(),
            workflow_user: named("user_id"),
            workflow_status: named("status"),
            workflow_completed_at: None,
            completed_statuses: USUAL_STATUSES.map(str::to_owned).into(),
            initial_balance: None,
            balance_type: pg_sys::INT4OID,
            existing_usage: None,
            options: Options::default(),
            late_usage_on: Vec::new(),
            late_keys: Vec::new(),
            search_path: None,
            columns: Vec::new(),
            spellings: None,
            definition: None,
            is_of_older_catalog: false,
            is_of_older_dump: false,
            made_column: None,
        }
    }

    /// What new accounts start with, unless the column has a default of its own. Tokens.
    pub(crate) fn initial(&self) -> i64 {
        self.initial_balance.unwrap_or(INITIAL_BALANCE)
    }

    /// The number of the balance column, if it is known.
    pub(crate) fn balance_number(&self) -> Option<i16> {
        let mut columns = self.columns.iter();
        let balance = columns.find(|column| column.argument == "balance_column")?;
        Some(balance.number)
    }

    /// The binding's number; 0 in the catalog of an older version.
    pub(crate) fn number(&self) -> i16 {
        self.ids.map_or(0, |ids| ids.binding)
    }

    /// Error 22023 if a status and a completion timestamp are named: which one completes a run would be a guess.
    pub(crate) fn refuse_two_completions(&self) -> Result<()> {
        let usual = Spec::usual();
        let is_status_named = self.workflow_status.is_some()
            && (self.workflow_status != usual.workflow_status
                || self.completed_statuses != usual.completed_statuses);
        match self.workflow_completed_at.is_some() && is_status_named {
            true => Err(Error::InvalidArgument {
                message: "workflow_status and workflow_completed_at are both named".into(),
                detail: Some("A run is completed by one of them.".into()),
                hint: Some(
                    "Leave one out. Where both count, bind a generated column that says whether a run is over."
                        .into(),
                ),
            }),
            false => Ok(()),
        }
    }

    /// Without the arguments that mean nothing beside the others, so that two specs that say the
    /// same are equal.
    pub(crate) fn normalized(mut self) -> Self {
        if self.usage_user.is_some() {
            self.workflow_user = None;
        }
        if self.workflows.is_none() || self.workflow_completed_at.is_some() {
            self.workflow_status = None;
        }
        if self.workflows.is_none() {
            self.workflow_completed_at = None;
        }
        self
    }

    /// The bound relations: workflows, usage, users, in the order in which their locks are taken.
    pub(crate) fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.workflows.iter().chain([&self.usage, &self.users])
    }
}
