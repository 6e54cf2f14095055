//! When a row of the workflow table is completed. The rule is here and nowhere else, once in SQL and once for
//! a row that is at hand; a test compares the two. (Where no workflow table is bound, that a run was settled
//! once says it: `settle/settlement.rs`.)

use crate::postgres::quote::quote_literal;
use pgrx::pg_sys;

use super::model::{Binding, Completion, Workflows};
use super::spec::USUAL_STATUSES;

/// SQL for "the row `alias` of the workflow table is completed".
pub(crate) fn sql(binding: &Binding, alias: &str) -> String {
    let Some(workflows) = &binding.workflows else {
        return "false".into();
    };
    match &workflows.completion {
        Completion::Timestamp(column) => format!("{alias}.{} IS NOT NULL", column.sql()),
        Completion::Status(column) => format!(
            "{alias}.{}::pg_catalog.text{} OPERATOR(pg_catalog.=) ANY ({})",
            column.sql(),
            // A status is compared as it is spelled, as `is_one_of` does.
            match column.loose_collation {
                Some(_) => " COLLATE pg_catalog.\"C\"",
                None => "",
            },
            statuses_sql(binding)
        ),
        Completion::Row => "true".into(),
    }
}

/// Whether a row is completed, given the text of each of its columns.
pub(crate) fn of_row(
    binding: &Binding,
    workflows: &Workflows,
    text: impl Fn(&str) -> Option<String>,
) -> bool {
    match &workflows.completion {
        Completion::Timestamp(column) => text(&column.name).is_some(),
        Completion::Status(column) => text(&column.name).is_some_and(|status| {
            // The text of the type's output function: a cast of char(n) to text drops what pads it, and one of boolean
            // writes the word.
            let status = match column.base_type {
                pg_sys::BPCHAROID => status.trim_end_matches(' '),
                pg_sys::BOOLOID if status == "t" => "true",
                pg_sys::BOOLOID => "false",
                _ => &status,
            };
            let statuses = &binding.spec.completed_statuses;
            is_one_of(status, statuses.iter().map(String::as_str))
        }),
        Completion::Row => true,
    }
}

/// Whether a status, as SQL casts it to text, is one of the usual ones that complete.
pub(crate) fn is_usual(status: &str) -> bool {
    is_one_of(status, USUAL_STATUSES.into_iter())
}

/// Whether a status, as SQL casts it to text, is one of the completed ones.
pub(crate) fn is_one_of<'a>(status: &str, mut completed: impl Iterator<Item = &'a str>) -> bool {
    completed.any(|completed| completed == status)
}

/// Whether the completed statuses are the usual ones.
pub(crate) fn are_usual(binding: &Binding) -> bool {
    binding.spec.completed_statuses == USUAL_STATUSES
}

/// The completed statuses as one text, which [`is_in_list`] reads: each after a character that is in none of them, which
/// is the first one. A comma, if it can be; None if there is no such character.
pub(crate) fn list(statuses: &[String]) -> Option<String> {
    let is_free = |character: &char| statuses.iter().all(|status| !status.contains(*character));
    let separator = std::iter::once(',').chain('!'..='~').find(is_free)?;
    let listed = statuses.iter().map(|status| format!("{separator}{status}"));
    Some(listed.collect())
}

/// Whether a status, as SQL casts it to text, is one of those that the list has.
pub(crate) fn is_in_list(status: &str, list: &str) -> bool {
    let Some(separator) = list.chars().next() else {
        return false;
    };
    is_one_of(status, list.split(separator).skip(1))
}

/// The completed statuses as one constant: ARRAY[…] would be one per element.
pub(crate) fn statuses_sql(binding: &Binding) -> String {
    let quoted = |text: &String| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{text}\"")
    };
    let elements: Vec<_> = binding.spec.completed_statuses.iter().map(quoted).collect();
    let array = quote_literal(format!("{{{}}}", elements.join(",")));
    format!("{array}::pg_catalog.text[]")
}
