//! Binding the extension to tables, and letting go of them: what is checked, what is made and dropped.

mod again;
#[expect(clippy::module_inception)]
mod attach;
pub(crate) mod balance_column;
mod beside;
mod check;
mod convention;
pub(crate) mod deletions;
mod detach;
mod dry_run;
mod existing;
mod grants;
mod key_types;
mod made_anew;
pub(crate) mod overdraft;
pub(crate) mod plausible;
mod remembered;
mod reset;
mod restored;
mod search_path;
mod statuses;
mod told;
mod trigger_ddl;
mod upgrade;
pub(crate) mod wanted_triggers;

pub(crate) use again::attach_again;
pub(crate) use attach::attach;
pub(crate) use check::could_attach;
pub(crate) use convention::attach_by_convention;
pub(crate) use detach::detach;
pub(crate) use remembered::{Identity, Said};
pub(crate) use reset::reset;
pub(crate) use upgrade::{upgrade, upgrade_grants};
