//! What `attach` was told, and the row of `token_balance.binding` that keeps it.

use pgrx::pg_sys;
use pgrx::spi::quote_literal;

use super::options::Options;
use super::own::extension_owner;
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) users: pg_sys::Oid,
    pub(crate) users_name: String,
    pub(crate) user_key: String,
    pub(crate) usage: pg_sys::Oid,
    pub(crate) usage_name: String,
    pub(crate) usage_user: Option<String>,
    pub(crate) usage_workflow: String,
    pub(crate) usage_tokens: Vec<String>,
    pub(crate) usage_prompt_tokens: Option<String>,
    pub(crate) usage_completion_tokens: Option<String>,
    pub(crate) usage_model: Option<String>,
    pub(crate) usage_stage: Option<String>,
    pub(crate) usage_created_at: Option<String>,
    pub(crate) workflows: Option<pg_sys::Oid>,
    pub(crate) workflows_name: Option<String>,
    pub(crate) workflow_key: String,
    pub(crate) workflow_user: Option<String>,
    pub(crate) workflow_status: Option<String>,
    pub(crate) workflow_completed_at: Option<String>,
    pub(crate) completed_statuses: Vec<String>,
    pub(crate) initial_balance: i64,
    /// The type of the column, if attach adds it.
    pub(crate) balance_type: pg_sys::Oid,
    pub(crate) existing_usage: String,
    pub(crate) options: Options,
    /// The schemas in which the tables' triggers look names up; None: nothing is kept, or attach was
    /// told nothing.
    pub(crate) search_path: Option<Vec<String>>,
    /// The catalog has no place for one, until the extension is updated.
    pub(crate) is_of_older_catalog: bool,
}

impl Spec {
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

    /// The call that binds this again; it repairs what is missing. Without the search_path: attach
    /// leaves what is kept.
    pub(crate) fn attach_call(&self) -> String {
        self.attach_call_with("")
    }

    /// The same with one more argument, unless that is empty.
    pub(crate) fn attach_call_with(&self, more: &str) -> String {
        let literal = |value: &Option<String>| match value {
            Some(value) => quote_literal(value),
            None => "NULL".into(),
        };
        let array = |values: &[String], type_name: &str| {
            let values: Vec<_> = values.iter().map(quote_literal).collect();
            format!("ARRAY[{}]::{type_name}[]", values.join(", "))
        };
        // Tables keep their place when they are renamed.
        let relation = |oid: pg_sys::Oid, name: &str| match catalog::table(oid) {
            Ok(Some(table)) => quote_literal(table.sql),
            _ => quote_literal(name),
        };
        let mut arguments = vec![
            ("users", relation(self.users, &self.users_name)),
            ("usage", relation(self.usage, &self.usage_name)),
            ("user_key", quote_literal(&self.user_key)),
            ("usage_user", literal(&self.usage_user)),
            ("usage_workflow", quote_literal(&self.usage_workflow)),
            ("usage_tokens", array(&self.usage_tokens, "name")),
        ];
        if let Some(workflows) = self.workflows {
            let name = self.workflows_name.as_deref().unwrap_or_default();
            arguments.push(("workflows", relation(workflows, name)));
            arguments.push(("workflow_key", quote_literal(&self.workflow_key)));
            arguments.push(("workflow_status", literal(&self.workflow_status)));
            arguments.push((
                "completed_statuses",
                array(&self.completed_statuses, "text"),
            ));
        }
        if self.workflow_user.is_some() {
            arguments.push(("workflow_user", literal(&self.workflow_user)));
        }
        if self.workflow_completed_at.is_some() {
            arguments.push((
                "workflow_completed_at",
                literal(&self.workflow_completed_at),
            ));
        }
        arguments.push(("initial_balance", self.initial_balance.to_string()));
        if self.balance_type == pg_sys::INT8OID {
            arguments.push(("balance_type", "'bigint'".into()));
        }
        for (argument, name) in self.details() {
            if name.as_deref() != argument.strip_prefix("usage_") {
                arguments.push((argument, literal(name)));
            }
        }
        arguments.extend(self.options.arguments());
        let arguments: Vec<_> = arguments
            .into_iter()
            .map(|(name, value)| format!("{name} => {value}"))
            .chain((!more.is_empty()).then(|| more.to_owned()))
            .collect();
        format!("token_balance.attach({})", arguments.join(", "))
    }

    /// What is bound in this database, if anything is.
    ///
    /// The columns that 0.1.0 had not are read by way of JSON: until `ALTER EXTENSION ... UPDATE` the
    /// library works on the older catalog.
    pub(crate) fn load() -> Result<Option<Self>> {
        let _owner = RunAs::owner(extension_owner()?);
        let outcome = spi::query_as_of(
            "SELECT b.users::pg_catalog.oid, b.users_name, b.user_key, \
             b.usage::pg_catalog.oid, b.usage_name, b.usage_user, b.usage_workflow, \
             pg_catalog.array_to_json(b.usage_tokens), \
             b.workflows::pg_catalog.oid, b.workflows_name, b.workflow_key, b.workflow_user, \
             b.workflow_status, b.workflow_completed_at, \
             pg_catalog.array_to_json(b.completed_statuses), \
             b.initial_balance, b.existing_usage, \
             later OPERATOR(pg_catalog.->>) 'usage_prompt_tokens', \
             later OPERATOR(pg_catalog.->>) 'usage_completion_tokens', \
             later OPERATOR(pg_catalog.->>) 'usage_model', \
             later OPERATOR(pg_catalog.->>) 'usage_stage', \
             later OPERATOR(pg_catalog.->>) 'usage_created_at', \
             (later OPERATOR(pg_catalog.->>) 'balance_type')::pg_catalog.regtype::pg_catalog.oid, \
             COALESCE(later OPERATOR(pg_catalog.->>) 'busy_account', 'wait'), \
             COALESCE(later OPERATOR(pg_catalog.->>) 'late_usage', 'pending'), \
             later OPERATOR(pg_catalog.->>) 'search_path', \
             later OPERATOR(pg_catalog.?) 'search_path' \
             FROM token_balance.binding AS b, pg_catalog.to_jsonb(b) AS later",
            &[],
            // With the catalogs', or an old snapshot would have it bound as it no longer is.
            Snapshot::Latest,
        )?;
        let optional = |text: Option<&str>| text.map(str::to_owned);
        let Some(row) = outcome.rows.first() else {
            return Ok(None);
        };
        Ok(Some(Spec {
            users: row.oid(0),
            users_name: row.text(1).into(),
            user_key: row.text(2).into(),
            usage: row.oid(3),
            usage_name: row.text(4).into(),
            usage_user: optional(row.get(5)),
            usage_workflow: row.text(6).into(),
            usage_tokens: json_list(row.text(7)),
            workflows: row.get(8).map(|_| row.oid(8)),
            workflows_name: optional(row.get(9)),
            workflow_key: row.text(10).into(),
            workflow_user: optional(row.get(11)),
            workflow_status: optional(row.get(12)),
            workflow_completed_at: optional(row.get(13)),
            completed_statuses: json_list(row.text(14)),
            initial_balance: row.number(15).unwrap_or_default(),
            existing_usage: row.text(16).into(),
            usage_prompt_tokens: optional(row.get(17)),
            usage_completion_tokens: optional(row.get(18)),
            usage_model: optional(row.get(19)),
            usage_stage: optional(row.get(20)),
            usage_created_at: optional(row.get(21)),
            balance_type: row.get(22).map_or(pg_sys::INT4OID, |_| row.oid(22)),
            options: Options::parse(row.text(23), row.text(24))?,
            search_path: row.get(25).map(json_list),
            is_of_older_catalog: !row.is_true(26),
        }))
    }

    /// The arguments that name what else a usage row says.
    fn details(&self) -> impl Iterator<Item = (&'static str, &Option<String>)> {
        [
            ("usage_prompt_tokens", &self.usage_prompt_tokens),
            ("usage_completion_tokens", &self.usage_completion_tokens),
            ("usage_model", &self.usage_model),
            ("usage_stage", &self.usage_stage),
            ("usage_created_at", &self.usage_created_at),
        ]
        .into_iter()
    }

    /// The bound relations: workflows, usage, users, in the order in which their locks are taken.
    pub(crate) fn relations(&self) -> impl Iterator<Item = pg_sys::Oid> {
        self.workflows.into_iter().chain([self.usage, self.users])
    }

    /// Make it the binding of this database, in place of one that there was.
    pub(crate) fn store(&self, attached_by: pg_sys::Oid) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        Self::delete_rows()?;
        let attached_by = catalog::role_name(attached_by);
        spi::query(
            "INSERT INTO token_balance.binding (users, users_name, user_key, usage, usage_name, \
             usage_user, usage_workflow, usage_tokens, workflows, workflows_name, workflow_key, \
             workflow_user, workflow_status, workflow_completed_at, completed_statuses, \
             initial_balance, existing_usage, attached_by) \
             VALUES ($1::pg_catalog.oid::pg_catalog.regclass, $2, $3, \
             $4::pg_catalog.oid::pg_catalog.regclass, $5, $6, $7, \
             $8::pg_catalog.name[], $9::pg_catalog.oid::pg_catalog.regclass, $10, $11, $12, $13, \
             $14, $15, $16, $17, $18)",
            &[
                Arg::Int8(self.users.to_u32().into()),
                Arg::Text(&self.users_name),
                Arg::Text(&self.user_key),
                Arg::Int8(self.usage.to_u32().into()),
                Arg::Text(&self.usage_name),
                Arg::OptionalText(self.usage_user.as_deref()),
                Arg::Text(&self.usage_workflow),
                Arg::TextArray(&self.usage_tokens),
                Arg::OptionalText(
                    self.workflows
                        .map(|oid| oid.to_u32().to_string())
                        .as_deref(),
                ),
                Arg::OptionalText(self.workflows_name.as_deref()),
                Arg::Text(&self.workflow_key),
                Arg::OptionalText(self.workflow_user.as_deref()),
                Arg::OptionalText(self.workflow_status.as_deref()),
                Arg::OptionalText(self.workflow_completed_at.as_deref()),
                Arg::TextArray(&self.completed_statuses),
                Arg::Int8(self.initial_balance),
                Arg::Text(&self.existing_usage),
                Arg::Text(&attached_by),
            ],
        )?;
        self.store_later_columns()
    }

    /// What 0.1.0 has no columns for; until the extension is updated, it is left out.
    fn store_later_columns(&self) -> Result<()> {
        if !has_column("balance_type")? {
            return Ok(());
        }
        spi::query(
            "UPDATE token_balance.binding SET usage_prompt_tokens = $1, \
             usage_completion_tokens = $2, usage_model = $3, usage_stage = $4, \
             usage_created_at = $5, balance_type = $6::pg_catalog.oid::pg_catalog.regtype",
            &[
                Arg::OptionalText(self.usage_prompt_tokens.as_deref()),
                Arg::OptionalText(self.usage_completion_tokens.as_deref()),
                Arg::OptionalText(self.usage_model.as_deref()),
                Arg::OptionalText(self.usage_stage.as_deref()),
                Arg::OptionalText(self.usage_created_at.as_deref()),
                Arg::Int8(self.balance_type.to_u32().into()),
            ],
        )?;
        self.options.store()?;
        self.store_search_path_column()
    }

    /// Change the options of the binding that is there.
    pub(crate) fn store_options(&self) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        self.options.store()
    }

    /// Change the search_path of the binding that is there.
    pub(crate) fn store_search_path(&self) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        self.store_search_path_column()
    }

    /// 0.1.0 and 0.2.0 have no column for it.
    fn store_search_path_column(&self) -> Result<()> {
        if !Self::has_search_path()? {
            return Ok(());
        }
        match &self.search_path {
            Some(names) => spi::query(
                "UPDATE token_balance.binding SET search_path = $1::pg_catalog.name[]",
                &[Arg::TextArray(names)],
            ),
            None => spi::query("UPDATE token_balance.binding SET search_path = NULL", &[]),
        }
        .map(|_| ())
    }

    /// Whether the catalog has a place for a search_path.
    pub(crate) fn has_search_path() -> Result<bool> {
        has_column("search_path")
    }

    pub(crate) fn forget() -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        Self::delete_rows()
    }

    fn delete_rows() -> Result<()> {
        spi::command("DELETE FROM token_balance.binding").map(|_| ())
    }

    /// The arguments in which two specs differ, in words; the relations' present names do not
    /// count.
    pub(crate) fn differences(&self, other: &Spec) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |argument: &str, old: String, new: String| {
            if old != new {
                found.push(format!("{argument} is {old}, not {new}"));
            }
        };
        let relation = |oid: pg_sys::Oid, name: &str| {
            // A dropped relation has no name but the one that was stored.
            match catalog::table(oid) {
                Ok(Some(table)) => table.sql,
                _ => format!("{name} (dropped)"),
            }
        };
        compare(
            "users",
            relation(self.users, &self.users_name),
            relation(other.users, &other.users_name),
        );
        compare(
            "usage",
            relation(self.usage, &self.usage_name),
            relation(other.usage, &other.usage_name),
        );
        let workflows = |spec: &Spec| match (spec.workflows, &spec.workflows_name) {
            (Some(oid), Some(name)) => relation(oid, name),
            _ => "null".into(),
        };
        compare("workflows", workflows(self), workflows(other));
        let optional = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".into());
        compare("user_key", self.user_key.clone(), other.user_key.clone());
        compare(
            "usage_user",
            optional(&self.usage_user),
            optional(&other.usage_user),
        );
        compare(
            "usage_workflow",
            self.usage_workflow.clone(),
            other.usage_workflow.clone(),
        );
        compare(
            "usage_tokens",
            self.usage_tokens.join(", "),
            other.usage_tokens.join(", "),
        );
        compare(
            "workflow_key",
            self.workflow_key.clone(),
            other.workflow_key.clone(),
        );
        compare(
            "workflow_user",
            optional(&self.workflow_user),
            optional(&other.workflow_user),
        );
        compare(
            "workflow_status",
            optional(&self.workflow_status),
            optional(&other.workflow_status),
        );
        compare(
            "workflow_completed_at",
            optional(&self.workflow_completed_at),
            optional(&other.workflow_completed_at),
        );
        for (argument, old, new) in self
            .details()
            .zip(other.details())
            .map(|((argument, old), (_, new))| (argument, old, new))
        {
            compare(argument, optional(old), optional(new));
        }
        compare(
            "completed_statuses",
            self.completed_statuses.join(", "),
            other.completed_statuses.join(", "),
        );
        found
    }
}

/// Whether the catalog's binding has a column: that of an older version, until it is updated, may
/// not.
fn has_column(name: &str) -> Result<bool> {
    let Some(table) = catalog::table_named("token_balance", "binding")? else {
        return Ok(true);
    };
    let columns = catalog::columns(table.oid)?;
    Ok(columns.iter().any(|column| column.name == name))
}

/// An array of texts that the server turned into JSON.
fn json_list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}
