//! `token_balance.archive_usage(partition => …)`: a whole partition of the usage leaves, none of its rows touched.

use std::rc::Rc;

use pgrx::pg_sys;

use super::old::{is_settled, refuse_shared};
use super::record::{self, Kind, Left, TakenAway};
use super::usage::Archived;
use crate::binding::{Bound, Which, bindings_and_usage_alone, bound, is_part_of};
use crate::error::{Error, Result};
use crate::ledger::change::actor;
use crate::postgres::catalog::{self, Table};
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Row, texts};
use crate::settle::claim::{Accounted, read_settled};
use crate::settle::rename;
use crate::settle::usage::{self, groups_sql};

/// Pairs of workflow and account that are read at a time.
const BATCH: usize = 10_000;

/// Detach a partition of the usage from its table, once all that it has is settled: one aggregate over it, and one UPDATE of
/// the settlements. What becomes of it is the caller's to say: it is a table of its own then.
///
/// The usage is locked as DETACH PARTITION locks it, so nobody settles or writes usage meanwhile.
///
/// Errors: 42809 for what is no partition of the usage, 55000 where some of it is not settled, 40001 to be retried.
pub(crate) fn archive_partition(name: Option<&str>, partition: pg_sys::Oid) -> Result<Archived> {
    let name = name_of(name, partition)?;
    let mut bounds = bindings_and_usage_alone(Which::Named(Some(&name)))?.all()?;
    let Some(bound) = bounds.pop() else {
        return Err(Error::NotAttached);
    };
    rename::follow(std::iter::once(&*bound))?;
    // SAFETY: locks an OID; whether it is there is looked at afterwards.
    unsafe { pg_sys::LockRelationOid(partition, pg_sys::AccessExclusiveLock as i32) };
    let (parent, table) = parent_of(&bound, partition)?;
    let mut archived = Archived {
        archive: table.sql.clone(),
        ..Archived::default()
    };
    take(&bound, &table, &mut archived)?;
    {
        let _owner = bound.run_as(bound.binding.usage.owner);
        let (parent, partition) = (&parent.sql, &table.sql);
        spi::command(&format!(
            "ALTER TABLE {parent} DETACH PARTITION {partition}"
        ))?;
    }
    let actor = actor();
    let _owner = bound.run_as_extension();
    let left = Left {
        binding: bound.binding.spec.number(),
        kind: Kind::Usage,
        archive: &archived.archive,
        before: None,
        rows: archived.rows,
        tokens: &archived.tokens,
    };
    left.remember(&actor)?;
    Ok(archived)
}

/// The name of the binding whose usage it is a partition of.
fn name_of(name: Option<&str>, partition: pg_sys::Oid) -> Result<String> {
    let found = bound(name)?;
    let binding = &found.binding;
    if binding.usage_view.is_some() {
        return Err(Error::ArchiveOfView {
            relation: binding.usage.sql.clone(),
            detail: "A partition of a table below it shows other rows than those that leave."
                .into(),
        });
    }
    refuse_shared(&binding.usage)?;
    if partition == binding.usage.oid || !is_part_of(partition, binding.usage.oid)? {
        return Err(not_a_partition(&found, partition)?);
    }
    Ok(found.name().to_owned())
}

fn not_a_partition(bound: &Bound, relation: pg_sys::Oid) -> Result<Error> {
    let table = catalog::table(relation)?;
    Ok(Error::NotAPartition {
        relation: table.map_or_else(|| relation.to_u32().to_string(), |table| table.sql),
        usage: bound.binding.usage.sql.clone(),
    })
}

/// The table that it is directly a partition of, and itself.
fn parent_of(bound: &Bound, partition: pg_sys::Oid) -> Result<(Table, Table)> {
    let ancestors = catalog::partition_ancestors(partition)?;
    let parent = match ancestors.get(1) {
        Some(parent) if ancestors.contains(&bound.binding.usage.oid) => catalog::table(*parent)?,
        _ => None,
    };
    match (parent, catalog::table(partition)?) {
        (Some(parent), Some(table)) => Ok((parent, table)),
        _ => Err(not_a_partition(bound, partition)?),
    }
}

/// Note what the partition has in the settlements. Error 55000 if that is not settled.
fn take(bound: &Rc<Bound>, partition: &Table, archived: &mut Archived) -> Result<()> {
    let binding = &bound.binding;
    // In the order in which settlements are locked.
    let sql = format!(
        "SELECT g.* FROM ({}) AS g ORDER BY g.workflow_id COLLATE pg_catalog.\"C\"",
        groups_sql(binding, &partition.sql, &[])
    );
    let cursor = Cursor::open(
        binding.usage.owner,
        &[partition.oid],
        &sql,
        &[],
        Snapshot::Latest,
        Life::Transaction,
    )?;
    let mut unsettled = Unsettled::default();
    let mut next = Vec::new();
    loop {
        let mut groups = next;
        let read = cursor.fetch(BATCH)?;
        let is_at_end = read.is_empty();
        groups.extend(read);
        // All of a workflow at once: what is noted of one of its accounts would look unsettled with the next.
        next = match groups.last().filter(|_| !is_at_end) {
            Some(last) => {
                let last = last.text(0);
                let start = groups.partition_point(|group| group.text(0) < last);
                groups.split_off(start)
            }
            None => Vec::new(),
        };
        let mut workflows = texts(&groups, 0);
        workflows.dedup();
        let settled = read_settled(bound, &workflows)?;
        let used = usage::read(bound, &workflows)?;
        for ((workflow, used), settled) in workflows.iter().zip(&used).zip(&settled) {
            if !is_settled(binding, used, settled)? {
                unsettled.add(workflow);
            }
        }
        archived.workflows += workflows.len();
        if unsettled.workflows == 0 {
            note(bound, &groups, &workflows, &settled, archived)?;
        }
        if is_at_end {
            break;
        }
    }
    cursor.close()?;
    unsettled.refuse(&partition.sql)?;
    let all = {
        let _owner = bound.run_as(binding.usage.owner);
        let count = format!("SELECT pg_catalog.count(*) FROM {}", partition.sql);
        let outcome = spi::query_of(&[partition.oid], &count, &[], Snapshot::Latest)?;
        let row = outcome.rows.first();
        row.map_or(Ok(0), |row| row.amount::<usize>(0))?
    };
    archived.unowned = all - archived.rows;
    archived.rows = all;
    Ok(())
}

/// Add the usage of these groups to what has left of their settlements.
fn note(
    bound: &Rc<Bound>,
    groups: &[Row],
    workflows: &[String],
    settled: &[Accounted],
    archived: &mut Archived,
) -> Result<()> {
    let mut taken = Vec::with_capacity(groups.len());
    for group in groups {
        let place = workflows.binary_search_by(|workflow| workflow.as_str().cmp(group.text(0)));
        let settled = &settled[place.unwrap_or_default()]; // it is one of them
        archived.rows += group.amount::<usize>(3)?;
        // What cannot be counted is not settled.
        let tokens = group.counted(2)?.unwrap_or_default();
        archived.tokens.add(&tokens);
        let away = TakenAway {
            workflow: group.text(0).to_owned(),
            account: group.owned(1),
            tokens,
        };
        taken.push((away, settled));
    }
    record::add_to_settlements(bound, taken.iter().map(|(taken, of)| (taken, *of)))
}

/// Workflows that have usage in the partition, and are not settled to the last token.
#[derive(Default)]
struct Unsettled {
    workflows: usize,
    first: Option<String>,
    last: Option<String>,
}

impl Unsettled {
    /// They come in order of workflows.
    fn add(&mut self, workflow: &str) {
        if self.last.as_deref() == Some(workflow) {
            return;
        }
        self.workflows += 1;
        self.last = Some(workflow.to_owned());
        self.first.get_or_insert_with(|| workflow.to_owned());
    }

    fn refuse(self, partition: &str) -> Result<()> {
        match self.first {
            None => Ok(()),
            Some(workflow) => Err(Error::PartitionUnsettled {
                relation: partition.to_owned(),
                workflows: self.workflows,
                workflow,
            }),
        }
    }
}
