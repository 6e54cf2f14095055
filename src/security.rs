//! Who a statement runs as: the owner of the tables that it touches (DESIGN section 5).
//!
//! The pattern is PostgreSQL's own for foreign-key checks (`ri_PerformCheck` in `ri_triggers.c`):
//! code that an application put on its table (a trigger, a default, an index expression) runs as
//! that table's owner, never as the extension's owner.

use pgrx::pg_sys;

/// From miscadmin.h. They only read and write variables and raise nothing: pgrx's guard around each
/// would cost more than they do.
mod raw {
    use pgrx::pg_sys::Oid;

    unsafe extern "C-unwind" {
        pub(super) fn GetUserId() -> Oid;
        pub(super) fn GetUserIdAndSecContext(user: *mut Oid, context: *mut i32);
        pub(super) fn SetUserIdAndSecContext(user: Oid, context: i32);
    }
}

/// While this value lives, the backend acts as `owner`. Dropping it restores the caller, also when
/// an error unwinds; a transaction abort restores it as well.
pub(crate) struct RunAs {
    user: pg_sys::Oid,
    context: i32,
}

impl RunAs {
    /// LOCAL_USERID_CHANGE forbids SET ROLE inside, and NOFORCE_RLS lets an owner reach a row of a
    /// table with FORCE ROW LEVEL SECURITY. Not RESTRICTED_OPERATION: deferred triggers on the
    /// users table would fail.
    pub(crate) fn owner(owner: pg_sys::Oid) -> Self {
        Self::in_context(owner, 0)
    }

    /// As `owner`, and what runs may not leave anything behind for the end of the transaction: no
    /// deferred trigger, which would run with the caller's rights again.
    pub(crate) fn restricted(owner: pg_sys::Oid) -> Self {
        Self::in_context(owner, pg_sys::SECURITY_RESTRICTED_OPERATION)
    }

    fn in_context(owner: pg_sys::Oid, more: u32) -> Self {
        let mut user = pg_sys::InvalidOid;
        let mut context = 0;
        // SAFETY: both calls only read and write the backend's user id and security context; the
        // pointers are to live locals.
        unsafe {
            raw::GetUserIdAndSecContext(&mut user, &mut context);
            raw::SetUserIdAndSecContext(
                owner,
                context
                    | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS | more)
                        as i32,
            );
        }
        RunAs { user, context }
    }
}

impl Drop for RunAs {
    fn drop(&mut self) {
        // SAFETY: restores what GetUserIdAndSecContext returned.
        unsafe { raw::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// Whether the caller is inside of such a statement: ours, a foreign key's, or of an older library.
pub(crate) fn is_owner_run() -> bool {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: reads backend variables into live locals.
    unsafe { raw::GetUserIdAndSecContext(&mut user, &mut context) };
    context & pg_sys::SECURITY_NOFORCE_RLS as i32 != 0
}

/// The role that the caller acts as.
pub(crate) fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { raw::GetUserId() }
}
