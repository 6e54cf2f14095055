//! The options of a binding: how it settles, not what it settles. attach changes them in place.

/// What a settlement does where another transaction holds the account's row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum BusyAccount {
    /// Wait for it: the column is always up to date.
    #[default]
    Wait,
    /// Leave the charge in the queue, to be applied by the next holder of the row.
    Queue,
}

/// What becomes of usage that is written after its workflow was settled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum LateUsage {
    /// It is pending until something settles its workflow again.
    #[default]
    Pending,
    /// A trigger on the usage table settles it at once.
    Settle,
}

/// What a statement that is not the extension's may do to a balance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum OutsideChanges {
    /// Change it: the ledger has an adjustment.
    #[default]
    Record,
    /// Nothing: the rest of its UPDATE is made.
    Keep,
    /// Nothing: it is an error.
    Refuse,
}

/// What usage that is deleted counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum DeletedUsage {
    /// What was settled of it shrank: `reconcile` says so.
    #[default]
    Report,
    /// Triggers on the usage record it: what was settled stays so.
    Record,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) busy_account: BusyAccount,
    pub(crate) late_usage: LateUsage,
    pub(crate) outside_changes: OutsideChanges,
    pub(crate) deleted_usage: DeletedUsage,
}
