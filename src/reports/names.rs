//! The names of bindings and accounts, by the numbers that the extension's tables have.

use std::rc::Rc;

use crate::binding::{Spec, Stored};
use crate::error::Result;

/// All that are stored, the attached ones first.
#[derive(Clone)]
pub(super) struct Names(Rc<Vec<Spec>>);

impl Names {
    pub(super) fn read() -> Result<Self> {
        let mut stored = Stored::all()?;
        stored.sort_by_key(|stored| (!stored.is_attached, stored.spec.number()));
        let specs = stored.into_iter().map(|stored| stored.spec);
        Ok(Names(Rc::new(specs.collect())))
    }

    /// Of a binding, by its number.
    pub(super) fn of_binding(&self, number: Option<i64>) -> Option<String> {
        self.find(number, |spec| spec.ids.map(|ids| ids.binding))
    }

    /// Of a binding that charges the accounts of this number.
    pub(super) fn of_accounts(&self, number: Option<i64>) -> Option<String> {
        self.find(number, |spec| spec.ids.map(|ids| ids.accounts))
    }

    /// In the catalog of an older version there is one of each.
    fn find(&self, number: Option<i64>, of: fn(&Spec) -> Option<i16>) -> Option<String> {
        let is_it = |spec: &&Spec| of(spec).is_none_or(|one| Some(i64::from(one)) == number);
        self.0.iter().find(is_it).map(|spec| spec.name.clone())
    }
}
