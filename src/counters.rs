//! What the extension has done, counted for who watches it (`token_balance.stat`).
//!
//! A transaction's counts stay with it until it commits, and go with what is rolled back. Then they are added to those of
//! the database, in memory that all sessions share; before PostgreSQL 17 there is no such memory, and each session has
//! its own. Nothing depends on a count, and none is worth an error.

use std::cell::RefCell;
use std::ffi::CString;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use pgrx::pg_sys;

use crate::postgres::clock::now;
use crate::postgres::shared::{Shared, may_ask, shared};
use crate::postgres::transaction::{AtCommit, AtEnd, at_commit, at_end, current_subtransaction};

/// What is counted.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Counter {
    /// Workflows settled, by what has settled them, also those with nothing to charge: triggers of completions.
    ByTrigger,
    /// `settle_workflow`.
    ByFunction,
    /// `settle_workflows`.
    ByBatch,
    /// `settle_pending` and `settle_backlog`.
    BySweep,
    /// The trigger on usage.
    ByLateUsage,
    /// Usage that is deleted.
    ByDeletion,
    /// Charges that a balance has paid.
    Charges,
    /// Tokens of these.
    Tokens,
    /// Charges that could not be made and were left, with a warning.
    BadCharges,
    /// Accounts that went below zero.
    Overdrafts,
    /// Charges left in the queue.
    Queued,
    /// Charges of the queue that a balance has paid.
    Applied,
    /// Balances changed without SQL.
    BalancesDirect,
    /// The same by SQL.
    BalancesBySql,
    /// Settlement rows written without SQL.
    SettlementsDirect,
    /// The same by SQL.
    SettlementsBySql,
    /// Times that a session has read the bindings.
    BindingReads,
    /// Calls of `settle_pending` and `settle_backlog` that came to their end.
    Sweeps,
    /// When the last of these was, in the server's count; 0 if there was none.
    LastSweep,
}

const COUNTERS: usize = Counter::LastSweep as usize + 1;

type Counts = [i64; COUNTERS];

/// Part of the memory's name. Another one for another [`Set`]: a library may be replaced while the server runs.
const LAYOUT: u32 = 1;

/// The counters of a database, or of a session.
struct Set {
    /// When it began, in the server's count.
    since: AtomicI64,
    counts: [AtomicI64; COUNTERS],
}

// SAFETY: atomics of eight bytes, for which zero is a value.
unsafe impl Shared for Set {
    fn begin(&self) {
        self.since.store(now(), Relaxed);
    }
}

impl Set {
    const fn new() -> Self {
        Set {
            since: AtomicI64::new(0),
            counts: [const { AtomicI64::new(0) }; COUNTERS],
        }
    }

    fn add(&self, counts: &Counts) {
        for (at, (total, count)) in self.counts.iter().zip(counts).enumerate() {
            if *count != 0 {
                let add = |total| Some(together(at, total, *count));
                // It never fails: there is always a sum.
                let _ = total.fetch_update(Relaxed, Relaxed, add);
            }
        }
    }
}

const LAST_SWEEP: usize = Counter::LastSweep as usize;

/// Two counts at this place as one. What does not fit any more: the largest amount says so, and a wrapped one would not.
fn together(at: usize, one: i64, other: i64) -> i64 {
    match at {
        LAST_SWEEP => one.max(other),
        _ => one.saturating_add(other),
    }
}

/// This session's, as long as it has found none to share.
static OWN: Set = Set::new();

/// What a transaction or subtransaction has counted that has not ended.
struct Open {
    subtransaction: pg_sys::SubTransactionId,
    counts: Counts,
}

struct Session {
    /// From the outermost on.
    open: Vec<Open>,
    /// What it shares with the others; None while it counts for itself.
    shared: Option<&'static Set>,
    has_asked: bool,
}

impl Session {
    fn set(&self) -> &'static Set {
        self.shared.unwrap_or(&OWN)
    }
}

thread_local! {
    static SESSION: RefCell<Session> = const {
        RefCell::new(Session {
            open: Vec::new(),
            shared: None,
            has_asked: false,
        })
    };
}

/// Called once per backend.
pub(crate) fn init() {
    OWN.begin();
    at_commit(AtCommit {
        of_transaction: keep,
        of_subtransaction: keep_in_parent,
    });
    at_end(AtEnd {
        of_transaction: || SESSION.with_borrow_mut(|session| session.open.clear()),
        of_subtransaction: |subtransaction| {
            SESSION.with_borrow_mut(|session| {
                session
                    .open
                    .retain(|open| open.subtransaction < subtransaction);
            });
        },
    });
}

/// Count so many, if the transaction commits.
pub(crate) fn count(counter: Counter, many: usize) {
    // More than fit are not there.
    add(counter, i64::try_from(many).unwrap_or(i64::MAX));
}

/// Count charges that a balance has paid, by their tokens.
pub(crate) fn count_charges(tokens: impl ExactSizeIterator<Item = i64>) {
    count(Counter::Charges, tokens.len());
    add(Counter::Tokens, tokens.fold(0, i64::saturating_add));
}

/// A sweep has come to its end.
pub(crate) fn count_sweep() {
    add(Counter::Sweeps, 1);
    add(Counter::LastSweep, now());
}

fn add(counter: Counter, amount: i64) {
    let subtransaction = current_subtransaction();
    SESSION.with_borrow_mut(|session| {
        let is_new = session
            .open
            .last()
            .is_none_or(|open| open.subtransaction != subtransaction);
        if is_new {
            session.open.push(Open {
                subtransaction,
                counts: [0; COUNTERS],
            });
        }
        if let Some(open) = session.open.last_mut() {
            let at = counter as usize;
            open.counts[at] = together(at, open.counts[at], amount);
        }
    });
}

/// Count one at once, whatever becomes of the transaction: work that was done is done.
pub(crate) fn count_now(counter: Counter) {
    SESSION.with_borrow(|session| {
        session.set().counts[counter as usize].fetch_add(1, Relaxed);
    });
}

/// From here on, share the counters of the database, if the server can. To be called in each session that counts.
pub(crate) fn join() {
    if SESSION.with_borrow(|session| session.has_asked) || !may_ask() {
        return;
    }
    // SAFETY: reads a backend variable.
    let database = unsafe { pg_sys::MyDatabaseId };
    let Ok(name) = CString::new(format!("token_balance {LAYOUT} {}", database.to_u32())) else {
        return;
    };
    // An end that was asked for meanwhile leaves the question open.
    let set = shared::<Set>(&name);
    if let Some(set) = set {
        set.add(&std::array::from_fn(|at| OWN.counts[at].swap(0, Relaxed)));
    }
    SESSION.with_borrow_mut(|session| {
        session.has_asked = true;
        session.shared = set;
    });
}

/// The transaction's counts stay.
fn keep() {
    SESSION.with_borrow_mut(|session| {
        let set = session.set();
        for open in session.open.drain(..) {
            set.add(&open.counts);
        }
    });
}

/// A subtransaction's are its parent's from now on.
fn keep_in_parent(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    SESSION.with_borrow_mut(|session| {
        let open = &mut session.open;
        match &mut open[..] {
            [.., outer, inner]
                if inner.subtransaction == subtransaction && outer.subtransaction == parent =>
            {
                outer.counts =
                    std::array::from_fn(|at| together(at, outer.counts[at], inner.counts[at]));
                open.pop();
            }
            [.., inner] if inner.subtransaction == subtransaction => {
                inner.subtransaction = parent;
            }
            _ => {}
        }
    });
}

/// The counters as they are now.
pub(crate) struct Reading {
    /// In the server's count.
    pub(crate) since: pg_sys::TimestampTz,
    /// Whether they are those of all sessions of the database.
    pub(crate) is_shared: bool,
    counts: Counts,
}

impl Reading {
    /// What was committed until now. The own transaction's counts are not among them.
    pub(crate) fn now() -> Self {
        join();
        SESSION.with_borrow(|session| {
            let set = session.set();
            Reading {
                since: set.since.load(Relaxed),
                is_shared: session.shared.is_some(),
                counts: std::array::from_fn(|at| set.counts[at].load(Relaxed)),
            }
        })
    }

    pub(crate) fn of(&self, counter: Counter) -> i64 {
        self.counts[counter as usize]
    }

    /// When the last sweep came to its end, in the server's count.
    pub(crate) fn last_sweep(&self) -> Option<pg_sys::TimestampTz> {
        Some(self.of(Counter::LastSweep)).filter(|at| *at != 0)
    }
}
