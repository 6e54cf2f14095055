//! The statuses that complete a run, as the column's type spells them: by that they are compared (DESIGN T16).

use pgrx::pg_sys;

use crate::binding::{Completion, Spec, Workflows, wrong_type};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column};
use crate::postgres::key::KeyType;

/// What `attach` was told, as the type spells it, each once.
///
/// Errors: 22023 for what is no value of the column; for an enum, if none is; 42804 for a column of another type.
pub(super) fn spelled(workflows: &Workflows, told: &[String]) -> Result<Vec<String>> {
    let Completion::Status(status) = &workflows.completion else {
        return Ok(told.to_vec());
    };
    if status.is_enum {
        check_enum(workflows, status, told)?;
        return Ok(told.to_vec());
    }
    // What is usual are words: they say nothing of a column that has none.
    let is_usual = told == Spec::usual().completed_statuses;
    match status.base_type {
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Ok(told.to_vec()),
        pg_sys::BOOLOID if is_usual => Ok(vec!["true".into()]),
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID if is_usual => {
            Err(Error::InvalidArgument {
                message: format!(
                    "completed_statuses is not given, and {} is of type {}",
                    name(workflows, status),
                    status.type_name
                ),
                detail: None,
                hint: Some(
                    "Name the numbers that complete a run: completed_statuses => '{...}'.".into(),
                ),
            })
        }
        pg_sys::BOOLOID | pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => {
            values(workflows, status, told)
        }
        _ => Err(wrong_type(
            &workflows.table,
            status,
            "workflow_status",
            "text, varchar, enums, boolean, smallint, integer and bigint",
        )),
    }
}

fn name(workflows: &Workflows, status: &Column) -> String {
    format!("{}.{}", workflows.table.sql, status.sql())
}

fn values(workflows: &Workflows, status: &Column, told: &[String]) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for text in told {
        let value = match KeyType::of(status.base_type) {
            Some(integer) => integer.canonical(text),
            None => boolean(text).map(|value| value.to_string()),
        };
        let value = value.ok_or_else(|| Error::InvalidArgument {
            message: format!(
                "completed_statuses has \"{text}\", which is no value of {}",
                name(workflows, status)
            ),
            detail: Some(format!("The column is of type {}.", status.type_name)),
            hint: Some("Name the values that complete a run.".into()),
        })?;
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

/// As the type's input function reads it.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let mut value = false;
    // SAFETY: reads as many bytes as it is told.
    let is_one =
        unsafe { pg_sys::parse_bool_with_len(text.as_ptr().cast(), text.len(), &raw mut value) };
    is_one.then_some(value)
}

fn check_enum(workflows: &Workflows, status: &Column, told: &[String]) -> Result<()> {
    let labels = catalog::enum_labels(status.base_type)?;
    if told.iter().any(|status| labels.contains(status)) {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        message: format!(
            "no value of {} is a completed status",
            name(workflows, status)
        ),
        detail: Some(format!(
            "Its values are {}; completed_statuses are {}.",
            labels.join(", "),
            told.join(", ")
        )),
        hint: Some("Name the completed ones in completed_statuses.".into()),
    })
}
