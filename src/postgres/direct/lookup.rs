//! Rows by their key, and the path to them that is kept.

use pgrx::pg_sys;

use super::index_path::{Path, Wanted};
use super::open::Kept;
use super::scan::Reader;
use super::setting::is_used;

/// How such rows are found; None if SQL must find them. The path is kept. Whatever is known of it, the types of the
/// columns are compared with those of the open relation each time.
pub(crate) struct Lookup {
    wanted: Option<Wanted>,
    path: Kept<Path>,
}

const MODE: u32 = pg_sys::AccessShareLock;

impl Lookup {
    pub(crate) fn new(wanted: Option<Wanted>) -> Self {
        Lookup {
            wanted,
            path: Kept::default(),
        }
    }

    /// Reads with a snapshot of now, whatever the isolation level ([`Snapshot::Latest`]).
    /// None if SQL must do it.
    pub(crate) fn reader(&self) -> Option<Reader> {
        let wanted = self.wanted.as_ref().filter(|_| is_used())?;
        // SAFETY: the table is open.
        let find = |table| unsafe { Path::find(wanted, table) };
        Reader::new(self.path.open(wanted.table, MODE, find)?)
    }
}
