//! Rows by their key, and the path to them that is kept.

use std::cell::RefCell;
use std::rc::Rc;

use super::index_path::{Open, Path, Wanted};
use super::scan::Reader;
use crate::postgres::invalidation;

/// How such rows are found; None if SQL must find them.
///
/// The path is kept as long as nothing that matters has changed ([`invalidation::generation`]): an ALTER
/// of the table, an index that is made, dropped or becomes valid, and a GRANT each invalidate the
/// table, which is watched as long as the backend lives. The number is read when the table is
/// locked. Whatever it says, the types of the columns are compared with those of the open relation
/// each time.
pub(crate) struct Lookup {
    wanted: Option<Wanted>,
    found: RefCell<Option<Found>>,
}

#[derive(Clone)]
struct Found {
    generation: u64,
    path: Option<Rc<Path>>,
}

impl Lookup {
    pub(crate) fn new(wanted: Option<Wanted>) -> Self {
        Lookup {
            wanted,
            found: RefCell::default(),
        }
    }

    /// Reads with a snapshot of now, whatever the isolation level ([`Snapshot::Latest`]).
    /// None if SQL must do it.
    pub(crate) fn reader(&self) -> Option<Reader> {
        let wanted = self.wanted.as_ref().filter(|_| super::is_used())?;
        let table = Open::table(wanted.table)?;
        // With the lock held, all that was changed before is known.
        let generation = invalidation::generation();
        let known = self.found.borrow().clone();
        let path = match known {
            Some(found) if found.generation == generation => found.path,
            _ => {
                // SAFETY: the table is open.
                let path = unsafe { Path::find(wanted, table.relation) }.map(Rc::new);
                self.found.replace(Some(Found {
                    generation,
                    path: path.clone(),
                }));
                path
            }
        };
        let path = path?;
        // SAFETY: the table is open and locked.
        if !unsafe { path.fits_table(table.relation) } {
            return None;
        }
        let reader = Reader::new(path, table)?;
        (invalidation::generation() == generation).then_some(reader)
    }
}
