//! One thing that `verify` looked at.

/// What was found, and what to do.
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
    /// What to do, if it is not ok.
    pub(crate) hint: Option<String>,
    /// The name of the binding; None for what is of all of them.
    pub(crate) binding: Option<String>,
}

impl Check {
    pub(super) fn new(
        name: &str,
        ok: bool,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let hint = if ok { None } else { Some(hint.into()) };
        Check {
            name: name.into(),
            ok,
            detail: detail.into(),
            hint,
            binding: None,
        }
    }
}
