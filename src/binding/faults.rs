//! All that is wrong with a spec. Who uses a binding stops at the first fault; who is about to attach wants to know
//! of each, and not to try until there is none.

use super::model::{Accounts, Binding, Key, Payer, Workflows};
use super::resolve::{details, existing_table, existing_usage, key, token_column, workflows};
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};

impl Binding {
    /// What keeps a spec from being held against the catalogs, each by itself; `first` is what `resolve` says.
    pub(crate) fn faults(spec: &Spec, first: Error) -> Vec<Error> {
        let mut faults = vec![first];
        let mut add = |found: Result<()>| faults.extend(found.err());
        if let Some((users, columns)) = open(spec, "users table", &spec.users, &mut add) {
            add(key(&users, &columns, spec.named("user_key", &spec.user_key)).map(drop));
        }
        if let Some((usage, columns)) = with_columns(existing_usage(spec), &mut add) {
            let named = spec.named("usage_workflow", &spec.usage_workflow);
            add(key(&usage, &columns, named).map(drop));
            if let Some(name) = &spec.usage_user {
                add(key(&usage, &columns, spec.named("usage_user", name)).map(drop));
            }
            for (at, name) in spec.usage_tokens.iter().enumerate() {
                let named = spec.named_in_list("usage_tokens", at, name);
                add(token_column(&usage, &columns, named).map(drop));
            }
            for one in spec.each_detail() {
                add(details(&one, &usage, &columns).map(drop));
            }
        }
        if let Some(relation) = &spec.workflows
            && let Some((table, columns)) = open(spec, "workflow table", relation, &mut add)
        {
            let named = spec.named("workflow_key", &spec.workflow_key);
            add(key(&table, &columns, named).map(drop));
            if let (None, Some(name)) = (&spec.workflow_completed_at, &spec.workflow_status) {
                let named = spec.named("workflow_status", name);
                add(named.find(&table, &columns).map(drop));
            }
            if let (None, Some(name)) = (&spec.usage_user, &spec.workflow_user) {
                let named = spec.named("workflow_user", name);
                add(key(&table, &columns, named).map(drop));
            }
            add(workflows(spec, table).map(drop));
        }
        faults
    }
}

/// What of a spec could be held against the catalogs, each by itself: how these fit together can be told with what is
/// wrong of the others.
pub(crate) struct Parts {
    pub(crate) accounts: Option<Accounts>,
    /// With its column of workflow ids.
    pub(crate) usage: Option<(Table, Key)>,
    /// With the table whose column it is.
    pub(crate) payer: Option<(Table, Payer)>,
    pub(crate) workflows: Option<Workflows>,
}

impl Parts {
    pub(crate) fn of_binding(binding: &Binding) -> Self {
        let payer_table = match (&binding.payer, &binding.workflows) {
            (Payer::Workflow(_), Some(workflows)) => &workflows.table,
            (Payer::Usage(_) | Payer::Workflow(_), _) => &binding.usage,
        };
        Parts {
            accounts: Some(binding.accounts.clone()),
            usage: Some((binding.usage.clone(), binding.usage_workflow.clone())),
            payer: Some((payer_table.clone(), binding.payer.clone())),
            workflows: binding.workflows.clone(),
        }
    }

    /// What is not right is told by [`Binding::faults`].
    pub(crate) fn of_spec(spec: &Spec) -> Self {
        let unheard = &mut |_: Result<()>| ();
        let usage = with_columns(existing_usage(spec), unheard);
        let runs = spec.workflows.as_ref();
        let runs = runs.and_then(|relation| open(spec, "workflow table", relation, unheard));
        let payer = match (&spec.usage_user, &spec.workflow_user) {
            (Some(name), _) => usage.as_ref().and_then(|(table, columns)| {
                let key = key(table, columns, spec.named("usage_user", name)).ok()?;
                Some((table.clone(), Payer::Usage(key)))
            }),
            (None, Some(name)) => runs.as_ref().and_then(|(table, columns)| {
                let key = key(table, columns, spec.named("workflow_user", name)).ok()?;
                Some((table.clone(), Payer::Workflow(key)))
            }),
            (None, None) => None,
        };
        Parts {
            accounts: Accounts::resolve(spec).ok(),
            usage: usage.and_then(|(table, columns)| {
                let key = key(
                    &table,
                    &columns,
                    spec.named("usage_workflow", &spec.usage_workflow),
                )
                .ok()?;
                Some((table, key))
            }),
            payer,
            workflows: runs.and_then(|(table, _)| workflows(spec, table).ok()),
        }
    }
}

fn open(
    spec: &Spec,
    what: &'static str,
    relation: &super::spec::Relation,
    add: &mut impl FnMut(Result<()>),
) -> Option<(Table, Vec<Column>)> {
    with_columns(existing_table(spec, what, relation), add)
}

fn with_columns(
    found: Result<Table>,
    add: &mut impl FnMut(Result<()>),
) -> Option<(Table, Vec<Column>)> {
    let found = found.and_then(|table| catalog::columns(table.oid).map(|columns| (table, columns)));
    found.map_err(|error| add(Err(error))).ok()
}

impl Spec {
    /// The same, with one of the columns that a summary shows each time.
    fn each_detail(&self) -> Vec<Spec> {
        let none = Spec {
            usage_id: None,
            usage_prompt_tokens: None,
            usage_completion_tokens: None,
            usage_model: None,
            usage_stage: None,
            usage_created_at: None,
            ..self.clone()
        };
        let with = |change: fn(&mut Spec, &Spec)| {
            let mut one = none.clone();
            change(&mut one, self);
            one
        };
        vec![
            with(|one, all| one.usage_id.clone_from(&all.usage_id)),
            with(|one, all| one.usage_prompt_tokens.clone_from(&all.usage_prompt_tokens)),
            with(|one, all| {
                one.usage_completion_tokens
                    .clone_from(&all.usage_completion_tokens)
            }),
            with(|one, all| one.usage_model.clone_from(&all.usage_model)),
            with(|one, all| one.usage_stage.clone_from(&all.usage_stage)),
            with(|one, all| one.usage_created_at.clone_from(&all.usage_created_at)),
        ]
    }
}
