//! A list of what is to be done, of which some is done in each transaction of a procedure.

use std::cell::RefCell;
use std::time::Instant;

use pgrx::pg_sys;

use crate::error::Result;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::notice::notice;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::value::{Arg, Row};

/// The list is a query's answer, which outlives commits.
pub(super) struct Steps {
    what: String,
    cursor: Cursor,
    total: usize,
    done: usize,
    started: Instant,
}

thread_local! {
    /// The cursor of a procedure that was cancelled: it outlives its transaction.
    static LEFT_OVER: RefCell<Option<Cursor>> = const { RefCell::new(None) };
}

impl Steps {
    /// The answer of `sql`, which is run as `owner` and is of these `relations` (`Cursor::open`). `what` it is about is
    /// said with the progress.
    pub(super) fn begin(
        what: String,
        (owner, relations): (pg_sys::Oid, &[pg_sys::Oid]),
        sql: &str,
        args: &[Arg],
    ) -> Result<Self> {
        if let Some(left_over) = LEFT_OVER.take() {
            left_over.close()?;
        }
        let snapshot = Snapshot::Statement;
        let cursor = Cursor::open(owner, relations, sql, args, snapshot, Life::Session)?;
        LEFT_OVER.set(Some(cursor.clone()));
        Ok(Steps {
            what,
            total: cursor.count()?,
            cursor,
            done: 0,
            started: Instant::now(),
        })
    }

    /// The next ones, at most `count`; none at the end.
    pub(super) fn next(&self, count: usize) -> Result<Vec<Row>> {
        self.cursor.fetch(count)
    }

    /// So many more are done, and committed.
    pub(super) fn tell(&mut self, done: usize, detail: String) {
        self.done += done;
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        notice(
            format!(
                "{}: {} done, {} left, {:.0} per second",
                self.what,
                self.done,
                self.total.saturating_sub(self.done),
                self.done as f64 / seconds
            ),
            Some(detail),
            None,
        );
    }

    pub(super) fn end(self) -> Result<()> {
        LEFT_OVER.take();
        self.cursor.close()
    }
}
