//! `token_balance.attach_again`: what is attached, bound once more.

use super::attach::attach;
use super::remembered::Said;
use crate::binding::Spec;
use crate::error::{Error, Result};

/// Bind what is attached once more, with the arguments that are remembered. Error 55000 if nothing is.
pub(crate) fn attach_again() -> Result<()> {
    let mut spec = Spec::load()?
        .ok_or(Error::NotAttached)?
        .told_present_names();
    // What is stored is brought to the types of now.
    spec.spellings = None;
    attach(spec, false, Said::default()).map(drop)
}
