//! All that is wrong with a spec. Who uses a binding stops at the first fault; who is about to attach wants to know
//! of each, and not to try until there is none.

use super::model::Binding;
use super::resolve::{details, existing_table, key, token_column, workflows};
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
        if let Some((usage, columns)) = open(spec, "usage table", &spec.usage, &mut add) {
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

fn open(
    spec: &Spec,
    what: &'static str,
    relation: &super::spec::Relation,
    add: &mut impl FnMut(Result<()>),
) -> Option<(Table, Vec<Column>)> {
    let found = existing_table(spec, what, relation)
        .and_then(|table| catalog::columns(table.oid).map(|columns| (table, columns)));
    found.map_err(|error| add(Err(error))).ok()
}

impl Spec {
    /// The same, with one of the columns that a summary shows each time.
    fn each_detail(&self) -> Vec<Spec> {
        let none = Spec {
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
