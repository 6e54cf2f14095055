//! `attach(deleted_usage => 'record')`: whether triggers see what is deleted of the usage.

use crate::binding::{Binding, Payer};
use crate::error::{Error, Result};
use crate::postgres::catalog;

/// Why what is deleted of the usage cannot be recorded, where that is wanted. None if it can.
pub(crate) fn unrecordable(binding: &Binding) -> Result<Option<Error>> {
    if !binding.records_deletions() {
        return Ok(None);
    }
    let usage = &binding.usage;
    if usage.is_view() {
        return Ok(Some(error(
            "the usage is a view",
            format!(
                "What a view does not show any more, no trigger on {} is told.",
                usage.sql
            ),
            "Leave it out: token_balance.reconcile() tells what shrank.",
        )));
    }
    if catalog::partition_ancestors(usage.oid)?.len() > 1 {
        return Ok(Some(error(
            "the usage is a partition",
            format!(
                "A DELETE of the table above {} fires no trigger on it.",
                usage.sql
            ),
            "Attach the table above, or leave it out: token_balance.reconcile() tells what shrank.",
        )));
    }
    let foreign = binding.usage_parts.iter().find(|part| part.is_foreign());
    if let Some(part) = foreign {
        return Ok(Some(error(
            "a partition is a foreign table",
            format!("{} has no triggers that see deleted rows.", part.sql),
            "Leave it out: token_balance.reconcile() tells what shrank.",
        )));
    }
    let account = match &binding.payer {
        Payer::Usage(key) => Some(&key.column),
        Payer::Workflow(_) => None,
    };
    let mut columns = binding
        .usage_tokens
        .iter()
        .chain(account)
        .chain([&binding.usage_workflow.column]);
    Ok(columns
        .find(|column| column.computed.is_some())
        .map(|column| {
            error(
                "a bound column is not stored",
                format!(
                    "Column {} of {} is computed when it is read, and triggers see nothing in it.",
                    column.sql(),
                    usage.sql
                ),
                "Make it a stored one, or leave it out: token_balance.reconcile() tells what shrank.",
            )
        }))
}

fn error(why: &str, detail: String, hint: &str) -> Error {
    Error::InvalidArgument {
        message: format!("deleted_usage => 'record' is not possible: {why}"),
        detail: Some(detail),
        hint: Some(hint.into()),
    }
}
