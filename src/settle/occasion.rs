//! On what occasion workflows are settled, and what that changes: which errors are raised.

use std::collections::HashMap;

use pgrx::PgLogLevel;

use crate::binding::{Bound, is_one_of_several};
use crate::counters::{Counter, count};
use crate::error::{Error, Result};

/// On what occasion workflows are settled.
#[derive(Clone, Debug)]
pub(crate) enum Occasion {
    /// A function call: every error is raised.
    Caller,
    /// Runs that have completed, with the account of each one's row where the usage has none. They
    /// are not refused for a bad charge.
    Completion {
        payers: HashMap<String, Option<String>>,
    },
    /// A sweep over many workflows, which one bad charge must not stop.
    Sweep,
    /// Usage of runs that are over was deleted, and counts as archived. It is charged also where no row is left, and a bad
    /// charge does not keep it.
    Deletion,
}

impl Occasion {
    /// Whether usage with this error just stays unsettled, with a warning: a completion is not refused for a
    /// bad charge.
    fn tolerates(&self, error: &Error) -> bool {
        !matches!(self, Occasion::Caller) && error.is_bad_charge()
    }

    /// The value; or None with a warning where the error is tolerated.
    pub(super) fn or_warn<T>(&self, bound: &Bound, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.warn(bound, error).map(|()| None),
        }
    }

    /// A warning, where the error is tolerated. Where several bindings are attached it says which one it is of.
    pub(super) fn warn(&self, bound: &Bound, error: Error) -> Result<()> {
        let error = match is_one_of_several().unwrap_or(false) {
            true => error.of_binding(bound.name()),
            false => error,
        };
        if !self.tolerates(&error) {
            return Err(error);
        }
        error.report(PgLogLevel::WARNING);
        count(Counter::BadCharges, 1);
        Ok(())
    }
}
