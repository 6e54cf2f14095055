//! Which tables are parts of which: a trigger of a bound table fires on its partitions.
//!
//! What is known of a partition is dropped by the first invalidation of anything that is watched
//! (`invalidation`): each is watched with all that is above it.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::pg_sys;

use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::invalidation::{EverythingMatters, generation, watch};

/// (partition, table above it).
#[derive(Default)]
struct Parts {
    generation: u64,
    known: HashSet<(pg_sys::Oid, pg_sys::Oid)>,
}

thread_local! {
    static PARTS: RefCell<Parts> = RefCell::default();
}

/// Whether `relation` is the table `root` or one of its partitions.
pub(crate) fn is_part_of(relation: pg_sys::Oid, root: pg_sys::Oid) -> Result<bool> {
    if relation == root {
        return Ok(true);
    }
    let now = generation();
    let is_known = PARTS.with_borrow_mut(|parts| {
        if parts.generation != now {
            parts.known.clear();
            parts.generation = now;
        }
        parts.known.contains(&(relation, root))
    });
    if is_known {
        return Ok(true);
    }
    // A partition is taken from its root by an ALTER of any table between the two. What changes
    // while they are looked at is not kept.
    let ancestors = {
        let _everything = EverythingMatters::begin();
        let ancestors = catalog::partition_ancestors(relation)?;
        watch(ancestors.iter().copied());
        ancestors
    };
    let is_part = ancestors.contains(&root);
    if is_part && generation() == now {
        PARTS.with_borrow_mut(|parts| parts.known.insert((relation, root)));
    }
    Ok(is_part)
}
