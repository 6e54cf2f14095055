//! Retention: what leaves the tables, so that they grow with the accounts and the time that is kept, and not for ever
//! (DESIGN part V).
//!
//! **What is accounted for never falls** by it: a settler that has read the sum before, and the settlement after, would
//! charge the difference again. What is taken away is added to the settlement's `archived_usage_tokens` instead, which
//! counts as if it were still there. Whoever does that holds the workflow's lock, and keeps out those who settle without
//! ([`lock_workflows`](super::lock::lock_workflows) with the intention on the whole).

pub(crate) mod accepted;
pub(crate) mod deletions;
pub(crate) mod entries;
mod old;
pub(crate) mod partition;
pub(crate) mod policy;
pub(crate) mod record;
pub(crate) mod returned;
pub(crate) mod settlements;
mod steps;
mod table;
pub(crate) mod usage;
mod usage_archive;
mod view;
