//! What the checks of `reconcile` find.

use crate::error::Result;

/// One thing that does not add up. Amounts are tokens.
#[derive(Default)]
pub(crate) struct Problem {
    pub(crate) problem: String,
    pub(crate) account: Option<String>,
    pub(crate) workflow: Option<String>,
    pub(crate) expected: Option<i128>,
    pub(crate) found: Option<i128>,
    pub(crate) hint: String,
    /// The name of the binding; None for what is of all of them.
    pub(crate) binding: Option<String>,
}

pub(super) type Problems = Box<dyn Iterator<Item = Result<Problem>>>;
