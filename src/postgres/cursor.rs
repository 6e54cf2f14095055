//! Queries that are read in pieces.

use std::ffi::{CStr, CString};
use std::rc::Rc;

use pgrx::pg_sys;

use super::datum::c_string;
use super::descriptor::elements;
use super::security::RunAs;
use super::snapshot::Snapshot;
use super::spi::{Connection, Values, check_relations, copy_rows};
use super::value::{Arg, Row};
use crate::error::Result;

/// How long a cursor lives if it is not closed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Life {
    Transaction,
    /// Like a cursor WITH HOLD: at the first commit the server stores its result.
    Session,
}

/// A query that is read in pieces, as one role, so that memory does not grow with its result.
#[derive(Clone)]
pub(crate) struct Cursor {
    owner: pg_sys::Oid,
    /// The search_path with which it was opened: meanwhile another binding may be at work.
    path: Option<Rc<CStr>>,
    name: CString,
}

impl Cursor {
    /// Of these `relations` and no others of their names, as `Statement::of`.
    pub(crate) fn open(
        owner: pg_sys::Oid,
        relations: &[pg_sys::Oid],
        sql: &str,
        args: &[Arg],
        snapshot: Snapshot,
        life: Life,
    ) -> Result<Self> {
        let _owner = RunAs::owner(owner);
        let _connection = Connection::open()?;
        let mut values = Values::of(args);
        let mut types: Vec<_> = args.iter().map(Arg::type_oid).collect();
        let options = match life {
            Life::Transaction => pg_sys::CURSOR_OPT_NO_SCROLL,
            Life::Session => pg_sys::CURSOR_OPT_SCROLL | pg_sys::CURSOR_OPT_HOLD,
        };
        // SAFETY: SPI is connected; the server copies the text, types and values into the portal.
        // The portal's name is copied while the portal is there.
        unsafe {
            let portal = pg_sys::SPI_cursor_open_with_args(
                std::ptr::null(),
                c_string(sql).as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.datums.as_mut_ptr(),
                values.nulls.as_ptr(),
                snapshot == Snapshot::Caller,
                options as i32,
            );
            let name = CStr::from_ptr((*portal).name).to_owned();
            for statement in elements((*portal).stmts) {
                let statement = statement.ptr_value as *const pg_sys::PlannedStmt;
                let found = elements((*statement).relationOids);
                if let Err(error) = check_relations(found, relations) {
                    pg_sys::SPI_cursor_close(portal);
                    return Err(error);
                }
            }
            Ok(Cursor {
                owner,
                path: RunAs::path(),
                name,
            })
        }
    }

    /// The next rows, at most `count`; none at the end.
    pub(crate) fn fetch(&self, count: usize) -> Result<Vec<Row>> {
        let _owner = RunAs::as_before(self.owner, &self.path);
        let _connection = Connection::open()?;
        // SAFETY: SPI is connected; the portal is looked up by name since the application may have
        // closed it.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if portal.is_null() {
                return Ok(Vec::new());
            }
            pg_sys::SPI_cursor_fetch(portal, true, count as std::ffi::c_long);
            Ok(copy_rows(pg_sys::SPI_tuptable))
        }
    }

    /// How many rows it has; it stands before the first one afterwards. Only with Life::Session.
    pub(crate) fn count(&self) -> Result<usize> {
        let _owner = RunAs::as_before(self.owner, &self.path);
        let _connection = Connection::open()?;
        // SAFETY: as in fetch; a scrollable cursor can go back.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if portal.is_null() {
                return Ok(0);
            }
            use pg_sys::FetchDirection::{FETCH_ABSOLUTE, FETCH_FORWARD};
            pg_sys::SPI_scroll_cursor_move(portal, FETCH_FORWARD, std::ffi::c_long::MAX);
            let count = pg_sys::SPI_processed as usize;
            pg_sys::SPI_scroll_cursor_move(portal, FETCH_ABSOLUTE, 0);
            Ok(count)
        }
    }

    pub(crate) fn close(self) -> Result<()> {
        let _connection = Connection::open()?;
        // SAFETY: as in fetch.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if !portal.is_null() {
                pg_sys::SPI_cursor_close(portal);
            }
        }
        Ok(())
    }
}
