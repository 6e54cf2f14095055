//! The ends of transactions: a room that keeps something for one forgets it then.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::Result;

/// What a room does when a transaction, or a part of it that was rolled back, is over. It may only
/// forget: nothing can be read or written then.
#[derive(Clone, Copy)]
pub(crate) struct AtEnd {
    /// The transaction has ended, or was prepared.
    pub(crate) of_transaction: fn(),
    /// A subtransaction was rolled back, and with it those that began in it: their ids are higher.
    pub(crate) of_subtransaction: fn(pg_sys::SubTransactionId),
}

/// What a room does before a transaction commits or is prepared, while it can still read, write and fail. The
/// application's deferred triggers have run.
type BeforeCommit = fn() -> Result<()>;

/// What a room does when what it keeps for a transaction has come to stay. It may not fail.
#[derive(Clone, Copy)]
pub(crate) struct AtCommit {
    /// The transaction was committed, or prepared. [`AtEnd`] comes afterwards.
    pub(crate) of_transaction: fn(),
    /// A subtransaction has become part of its parent: their ids, in this order.
    pub(crate) of_subtransaction: fn(pg_sys::SubTransactionId, pg_sys::SubTransactionId),
}

thread_local! {
    static ROOMS: RefCell<Vec<AtEnd>> = const { RefCell::new(Vec::new()) };
    static COMMITTED: RefCell<Vec<AtCommit>> = const { RefCell::new(Vec::new()) };
    static BEFORE_COMMIT: RefCell<Vec<BeforeCommit>> = const { RefCell::new(Vec::new()) };
}

/// Have the server call the rooms. Called once per backend.
pub(crate) fn init() {
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), ptr::null_mut());
    }
}

/// From now on, call this room.
pub(crate) fn at_end(room: AtEnd) {
    ROOMS.with_borrow_mut(|rooms| rooms.push(room));
}

/// From now on, call this room at a commit.
pub(crate) fn at_commit(room: AtCommit) {
    COMMITTED.with_borrow_mut(|rooms| rooms.push(room));
}

/// From now on, call this room before a commit.
pub(crate) fn before_commit(room: BeforeCommit) {
    BEFORE_COMMIT.with_borrow_mut(|rooms| rooms.push(room));
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut c_void,
) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        let rooms = BEFORE_COMMIT.with_borrow(Clone::clone);
        if let Err(error) = rooms.iter().try_for_each(|room| room()) {
            error.raise();
        }
    }
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_PREPARE) {
        COMMITTED.with_borrow(|rooms| rooms.iter().for_each(|room| (room.of_transaction)()));
    }
    if matches!(
        event,
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE
    ) {
        ROOMS.with_borrow(|rooms| rooms.iter().for_each(|room| (room.of_transaction)()));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB {
        COMMITTED.with_borrow(|rooms| {
            rooms
                .iter()
                .for_each(|room| (room.of_subtransaction)(subtransaction, parent));
        });
    }
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        ROOMS.with_borrow(|rooms| {
            rooms
                .iter()
                .for_each(|room| (room.of_subtransaction)(subtransaction));
        });
    }
}

/// The subtransaction in which the backend is; the transaction itself is the first one.
pub(crate) fn current_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The command of the transaction that is running. The same number twice: nothing was written between.
pub(crate) fn current_command() -> pg_sys::CommandId {
    // SAFETY: reads a backend variable; `false` does not use the command id up.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}
