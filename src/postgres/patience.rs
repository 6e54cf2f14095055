//! Strong locks on the tables of a live application, without a place in the queue for them.
//!
//! The server grants a lock in the order in which it was asked for. Who waits for an exclusive one, since some
//! session is idle in a transaction, makes everybody wait behind him who only wants to read. So the lock is asked
//! for again and again, and had at a moment at which nobody stands in its way. The locks of several tables are had
//! together or not at all: one that is held while another is waited for would be a queue, too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::catalog;
use super::lock::lock_relations;
use super::value::Arg;
use crate::error::{Error, PREPARED_TRANSACTION, Result};

/// For how long a lock is asked for, unless `lock_timeout` is shorter.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Tables to be locked, each with the strongest mode that was asked for.
#[derive(Default)]
pub(crate) struct StrongLocks(BTreeMap<u32, u32>);

impl StrongLocks {
    /// The table and all that are below it, as DDL on it locks them.
    pub(crate) fn add(&mut self, table: pg_sys::Oid, mode: u32) -> Result<()> {
        for table in with_children(table)? {
            let wanted = self.0.entry(table.to_u32()).or_default();
            *wanted = mode.max(*wanted);
        }
        Ok(())
    }

    /// The mode in which a table is to be locked, if it is.
    pub(crate) fn mode_of(&self, table: pg_sys::Oid) -> Option<u32> {
        self.0.get(&table.to_u32()).copied()
    }

    /// Have them all, to the end of the transaction.
    ///
    /// Errors: 55P03 past the limit, which names who is in the way.
    pub(crate) fn take(self) -> Result<()> {
        let started = Instant::now();
        let limit = limit();
        while let Some((table, mode)) = self.try_take() {
            if started.elapsed() >= limit {
                return Err(Error::TableInUse {
                    relation: catalog::table(table)?.map_or_else(String::new, |it| it.sql),
                    limit,
                    in_the_way: in_the_way(table, mode)?,
                });
            }
            pause();
        }
        Ok(())
    }

    fn each(&self) -> impl Iterator<Item = (pg_sys::Oid, u32)> {
        self.0.iter().map(|(table, mode)| ((*table).into(), *mode))
    }

    /// All of them, or none; then the one that is not to be had.
    ///
    /// They are looked at before any is taken: a standby holds an exclusive lock that the primary once had until
    /// the transaction ends.
    fn try_take(&self) -> Option<(pg_sys::Oid, u32)> {
        if let Some(taken) = self.each().find(|(table, mode)| is_taken(*table, *mode)) {
            return Some(taken);
        }
        for (at, (table, mode)) in self.each().enumerate() {
            // SAFETY: locks an OID, and lets go of what was locked just now.
            unsafe {
                if !pg_sys::ConditionalLockRelationOid(table, mode as i32) {
                    for (table, mode) in self.each().take(at) {
                        pg_sys::UnlockRelationOid(table, mode as i32);
                    }
                    return Some((table, mode));
                }
            }
        }
        None
    }
}

fn pause() {
    pgrx::check_for_interrupts!();
    // SAFETY: sleeps.
    unsafe { pg_sys::pg_usleep(PAUSE.as_micros() as std::ffi::c_long) };
}

/// Ask for something again and again, for so long at most, by who must not wait for it in the server's queue. Whether it
/// was had.
pub(crate) fn ask(limit: Duration, mut is_had: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if is_had() {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        pause();
    }
}

/// Whether another transaction holds a lock that keeps one from that mode.
fn is_taken(table: pg_sys::Oid, mode: u32) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: reads a backend variable.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: table.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mut holders = 0;
    // SAFETY: the tag is complete. No transaction that locks anything strongly runs on a standby, where the answer
    // would not be palloc'd.
    unsafe {
        let transactions = pg_sys::GetLockConflicts(&tag, mode as i32, &mut holders);
        pg_sys::pfree(transactions.cast());
    }
    holders > 0
}

/// Keep other DDL from the tables, and from all that are below them, while reads and writes go on. In this order.
/// This waits in the queue, where nothing but DDL and vacuum is behind it; and a vacuum of the server's own gives way.
pub(crate) fn keep_ddl_out(tables: &[pg_sys::Oid]) -> Result<()> {
    for table in tables {
        lock_relations(&[(*table, pg_sys::ShareUpdateExclusiveLock)]);
        let children = with_children(*table)?;
        let locks: Vec<_> = children
            .into_iter()
            .map(|child| (child, pg_sys::ShareUpdateExclusiveLock))
            .collect();
        lock_relations(&locks);
    }
    Ok(())
}

/// A table, its partitions and what inherits from it.
fn with_children(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let outcome = catalog::query_kept(
        "WITH RECURSIVE t (id) AS (SELECT $1::pg_catalog.oid UNION \
         SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i \
         JOIN t ON i.inhparent OPERATOR(pg_catalog.=) t.id) SELECT t.id FROM t ORDER BY t.id",
        &[Arg::Int8(table.to_u32().into())],
    )?;
    Ok(outcome.rows.iter().map(|row| row.oid(0)).collect())
}

fn limit() -> Duration {
    // SAFETY: reads a setting.
    let milliseconds = unsafe { pg_sys::LockTimeout };
    match u64::try_from(milliseconds) {
        Ok(limit @ 1..) => LIMIT.min(Duration::from_millis(limit)),
        _ => LIMIT,
    }
}

/// The sessions whose locks on the table, held or waited for, keep another from that mode.
fn in_the_way(table: pg_sys::Oid, mode: u32) -> Result<Vec<String>> {
    let outcome = catalog::query(
        "SELECT DISTINCT l.pid, a.application_name, a.state \
         FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a \
         ON a.pid OPERATOR(pg_catalog.=) l.pid \
         WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' \
         AND l.relation OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d \
         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) \
         AND (l.pid IS NULL OR l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()) \
         AND l.mode OPERATOR(pg_catalog.<>) ALL ($2) ORDER BY l.pid",
        &[
            Arg::Int8(table.to_u32().into()),
            Arg::TextArray(&harmless(mode).map(str::to_owned)),
        ],
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| {
            let Some(process) = row.get(0) else {
                return PREPARED_TRANSACTION.into();
            };
            let details: Vec<_> = [row.text(1), row.text(2)]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect();
            match details.is_empty() {
                true => format!("process {process}"),
                false => format!("process {process} ({})", details.join(", ")),
            }
        })
        .collect())
}

/// The modes that go along with a mode, by the names that pg_locks has for them; blanks stand for none.
fn harmless(mode: u32) -> [&'static str; 3] {
    const READ: &str = "AccessShareLock";
    const LOCK_ROWS: &str = "RowShareLock";
    match mode {
        pg_sys::ShareLock => [READ, LOCK_ROWS, "ShareLock"],
        pg_sys::AccessExclusiveLock => ["", "", ""],
        _ => [READ, LOCK_ROWS, ""],
    }
}
