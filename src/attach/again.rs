//! `token_balance.attach_again`: what is attached, bound once more.

use super::attach::attach;
use super::detach::chosen;
use super::remembered::Said;
use crate::error::Result;

/// Bind the binding of this name once more, with the arguments that are remembered; without one, the only one.
///
/// Errors: 55000 if nothing is attached, 42704 if none has the name, 22023 if several are attached and none is named.
pub(crate) fn attach_again(name: Option<&str>) -> Result<()> {
    let mut spec = chosen("binding", name)?.told_present_names()?;
    // What is stored is brought to the types of now.
    spec.spellings = None;
    spec.initial_balance = None;
    // What is kept stays as it is, also where it names a schema that has another name by now.
    spec.search_path = None;
    attach(spec, false, Said::default()).map(drop)
}
