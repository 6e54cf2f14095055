//! Retention: what leaves the tables, so that they grow with the accounts and the time that is kept, and not for ever
//! (DESIGN part V).
//!
//! **What is accounted for never falls** by it: a settler that has read the sum before, and the settlement after, would
//! charge the difference again. What is taken away is added to the settlement's `archived_usage_tokens` instead, which
//! counts as if it were still there. Whoever does that holds the workflow's lock, and keeps out those who settle without
//! ([`lock_workflows`](super::lock::lock_workflows) with the intention on the whole).

pub(crate) mod accepted;
mod archive_table;
pub(crate) mod partition;
pub(crate) mod record;
pub(crate) mod usage;

use crate::binding::{Which, bindings_locked};
use crate::error::Result;
use crate::settle::rename;

/// Where this transaction has changed ids of workflows, what is known of them goes along before anything is looked for:
/// their usage is under the new ids.
fn follow_renamed(name: &str) -> Result<()> {
    if !rename::is_any_noted() {
        return Ok(());
    }
    let bounds = bindings_locked(Which::Named(Some(name)))?.all()?;
    rename::follow(bounds.iter().map(|bound| &**bound))
}
