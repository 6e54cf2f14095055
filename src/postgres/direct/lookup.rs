//! Rows by their key, and the path to them that is kept.

use pgrx::pg_sys;

use super::index_path::{Path, Wanted};
use super::open::{Kept, Open};
use super::scan::Reader;
use super::setting::is_used;
use crate::postgres::invalidation::generation;

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
        if let Some((since, path)) = self.path.known()
            && let path = path?
            && let Some((table, index)) =
                Open::table_and_index(wanted.table, path.index, MODE, since)
        {
            return Reader::new(path, table, index);
        }
        let table = Open::table(wanted.table, MODE)?;
        // SAFETY: the table is open.
        let (since, path) = self
            .path
            .find(|| unsafe { Path::find(wanted, table.relation) });
        let path = path?;
        // SAFETY: the index is one of the table's, which is locked.
        let index = unsafe { Open::index(path.index, MODE) };
        let reader = Reader::new(path, table, index)?;
        (generation() == since).then_some(reader)
    }
}
