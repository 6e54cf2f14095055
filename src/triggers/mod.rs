//! What the server calls: the triggers on the bound tables and on the extension's own.

mod balance;
mod completion;
mod deleted_usage;
mod guards;
mod late_usage;
pub(crate) mod notes;
mod older;
mod outside;
mod truncated;
mod workflow_id;
