//! What the extension says of itself and of accounts. Nothing here changes anything.

pub(crate) mod check;
mod names;
pub(crate) mod overdrawn;
mod pairs;
mod problem;
pub(crate) mod reconcile;
mod stale_saves;
pub(crate) mod statement;
pub(crate) mod suggest;
pub(crate) mod summary;
pub(crate) mod usage_state;
pub(crate) mod usage_sums;
mod usage_view;
pub(crate) mod verify;
