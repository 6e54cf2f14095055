//! Commits in the midst of a procedure.

use pgrx::pg_sys;

use super::spi::check;
use crate::error::Result;

/// The right to commit, which only a procedure has that was called outside a transaction block.
#[derive(Clone, Copy)]
pub(crate) struct MayCommit(());

impl MayCommit {
    /// None in a function, in a transaction block, or inside another function.
    ///
    /// # Safety
    /// `fcinfo` is what the server called the procedure with.
    pub(crate) unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Option<Self> {
        // SAFETY: as the caller promises; CALL gives a CallContext.
        unsafe {
            let context = (*fcinfo).context;
            let is_call = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_CallContext;
            (is_call && !(*(context as *mut pg_sys::CallContext)).atomic).then_some(MayCommit(()))
        }
    }

    /// Commit and begin the next transaction, with a snapshot as a procedure has when it is called: the
    /// commit took that one away, and reading a row without SPI wants one.
    pub(crate) fn commit(self) -> Result<()> {
        // SAFETY: a connection that may commit is opened and closed around the call; nothing of
        // this library holds memory of the transaction that ends. The snapshot is the portal's, and
        // goes with the next commit, as in `_SPI_execute_plan`.
        unsafe {
            check(pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32))?;
            pg_sys::SPI_commit();
            check(pg_sys::SPI_finish())?;
            pg_sys::EnsurePortalSnapshotExists();
        }
        Ok(())
    }
}
