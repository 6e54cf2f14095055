//! What an administrator does while no session has a transaction open: tables and columns get other names, tables
//! and columns are dropped and made anew, the binding is detached and attached.

use super::Model;
use super::schema::ARCHIVE;
use crate::database::{Result, describe, is_retried, sqlstate};

/// What an administrator does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    AttachAgain,
    Detach,
    RenameTable,
    RenameSchema,
    RenameColumn,
    WorkflowsAnew,
    UsageAnew,
    BalancesAnew,
    PartitionArchived,
    UsageTruncated,
    AllArchived,
}

const CHANGES: [Change; 11] = [
    Change::AttachAgain,
    Change::Detach,
    Change::RenameTable,
    Change::RenameSchema,
    Change::RenameColumn,
    Change::WorkflowsAnew,
    Change::UsageAnew,
    Change::BalancesAnew,
    Change::PartitionArchived,
    Change::UsageTruncated,
    Change::AllArchived,
];

impl Model {
    /// All transactions end first.
    pub(super) fn change_schema(&mut self) -> Result<()> {
        let is_wanted = |change: &Change| match change {
            Change::RenameColumn => self.flags.renames_columns,
            Change::PartitionArchived => !self.schema.partitions.is_empty(),
            _ => true,
        };
        let wanted: Vec<_> = CHANGES.into_iter().filter(is_wanted).collect();
        let Some(mut change) = self.rng.choice(wanted) else {
            return Ok(());
        };
        // A partition leaves rarely, where most of what it has is of open runs.
        if !self.schema.partitions.is_empty() && self.rng.u32(..4) == 0 {
            change = Change::PartitionArchived;
        }
        for session in 0..self.sessions.len() {
            let commits = self.rng.u32(..4) > 0;
            match self.end(session, commits) {
                // It waits for one that ends later.
                Err(error) if error.downcast_ref().is_some_and(is_retried) => {}
                ended => ended?,
            }
        }
        let said = |error: Box<dyn std::error::Error + Send + Sync>| match error.downcast_ref() {
            Some(database) => describe(database),
            None => error.to_string(),
        };
        let done = self.make(change);
        done.map_err(|error| format!("{change:?}: {}", said(error)))?;
        *self.counts.entry(name_of(change)).or_default() += 1;
        let compared = self.compare();
        compared.map_err(|error| format!("after {change:?}: {}", said(error)).into())
    }

    fn make(&mut self, change: Change) -> Result<()> {
        match change {
            Change::AttachAgain => {
                if self.rng.u32(..4) == 0 {
                    let binding = self.any_binding();
                    let records = &mut self.schema.accounts[binding].records_deletions;
                    *records = !*records;
                }
                self.attach()
            }
            Change::Detach => self.detach_for_a_while(),
            Change::RenameTable => self.rename_table(),
            Change::RenameSchema => {
                let before = self.schema.schema;
                self.schema.schema.change();
                let now = self.schema.schema;
                self.execute(&format!("ALTER SCHEMA {before} RENAME TO {now}"))
            }
            Change::RenameColumn => self.rename_column(),
            Change::WorkflowsAnew => self.make_workflows_anew(),
            Change::UsageAnew => self.make_usage_anew(),
            Change::BalancesAnew => self.make_balances_anew(),
            Change::PartitionArchived => self.archive_partition(),
            Change::UsageTruncated => self.truncate_usage(),
            Change::AllArchived => self.archive_all(),
        }
    }

    pub(super) fn execute(&mut self, sql: &str) -> Result<()> {
        let done = self.admin.batch_execute(sql);
        done.map_err(|error| format!("{sql}: {}", describe(&error)).into())
    }

    /// The statements as one transaction, that fails with this error.
    pub(super) fn fails(&mut self, sql: &str, codes: &[&str]) -> Result<()> {
        match self.admin.batch_execute(sql) {
            Ok(()) => Err(format!("{sql}: succeeds").into()),
            Err(error) if codes.contains(&sqlstate(&error).as_str()) => Ok(()),
            Err(error) => Err(format!("{sql}: {}", describe(&error)).into()),
        }
    }

    pub(super) fn attach(&mut self) -> Result<()> {
        self.attach_with("")
    }

    /// The same where nothing is attached, or a table is another one: what is exempt was there by then.
    pub(super) fn attach_anew(&mut self) -> Result<()> {
        let now = self.now();
        for books in &mut self.committed.books {
            books.attached = now;
        }
        self.attach()
    }

    /// Each binding, with more arguments.
    fn attach_with(&mut self, more: &str) -> Result<()> {
        for binding in 0..self.schema.accounts.len() {
            let attach = self.schema.attach_sql(binding, more);
            self.execute(&attach)?;
        }
        self.know_partitions();
        Ok(())
    }

    fn know_partitions(&mut self) {
        let partitions = self.schema.partitions.iter_mut();
        partitions.for_each(|partition| partition.is_known = true);
    }

    /// Nothing is charged meanwhile, and nothing is forgotten: what has completed waits for the sweep.
    fn detach_for_a_while(&mut self) -> Result<()> {
        for binding in (0..self.schema.accounts.len()).rev() {
            let name = match self.schema.accounts.len() {
                1 => String::new(),
                _ => format!("name => '{}'", self.schema.accounts[binding].binding),
            };
            self.execute(&format!("SELECT token_balance.detach({name})"))?;
        }
        self.is_settling = false;
        for _ in 0..self.rng.usize(..6) {
            if self.rng.u32(..4) == 0 {
                self.rename_table()?;
            } else {
                self.work_meanwhile()?;
            }
        }
        self.is_settling = true;
        self.attach_anew()
    }

    /// A transaction that settles nothing, of a session of its own.
    fn work_meanwhile(&mut self) -> Result<()> {
        let session = self.rng.usize(..self.sessions.len());
        self.begin(session)?;
        match self.rng.u32(..6) {
            0 => self.change_usage(session)?,
            5 => self.delete_usage(session)?,
            1 => self.complete(session)?,
            2 => self.adjust(session)?,
            3 => self.insert_or_delete_account(session)?,
            _ => self.use_tokens(session)?,
        }
        self.end_without_comparison(session, true)
    }

    /// Of some table, to the other one that it may have.
    fn rename_table(&mut self) -> Result<()> {
        let count = self.schema.accounts.len();
        let which = self.rng.usize(..2 + count);
        let table = match which {
            0 => &mut self.schema.usage,
            1 => &mut self.schema.workflows,
            _ => &mut self.schema.accounts[which - 2].table,
        };
        let before = *table;
        table.change();
        let rename = format!("ALTER TABLE {before} RENAME TO {}", *table);
        self.execute(&rename)
    }

    fn rename_column(&mut self) -> Result<()> {
        let count = self.schema.accounts.len();
        let which = self.rng.usize(..5 + 2 * count);
        let schema = &mut self.schema;
        let (table, column) = match which {
            0 => (schema.usage, &mut schema.run),
            1 => (schema.usage, &mut schema.tokens),
            2 => (schema.usage, &mut schema.time),
            3 => (schema.workflows, &mut schema.workflow_key),
            4 => (schema.workflows, &mut schema.status),
            _ if which.is_multiple_of(2) => {
                (schema.usage, &mut schema.accounts[(which - 5) / 2].payer)
            }
            _ => {
                let accounts = &mut schema.accounts[(which - 5) / 2];
                (accounts.table, &mut accounts.key)
            }
        };
        let before = *column;
        column.change();
        let now = *column;
        // The archive goes along: its columns are found by name.
        let is_of_usage = table.now() == self.schema.usage.now();
        let tables = [table.now(), ARCHIVE].into_iter();
        let tables = tables.take(1 + usize::from(is_of_usage));
        let renames = tables.map(|table| format!("ALTER TABLE {table} RENAME {before} TO {now};"));
        let renames: String = renames.collect();
        self.execute(&renames)
    }

    /// Dropped, and made anew with the same rows. While it is gone nothing is settled and nothing is refused.
    fn make_workflows_anew(&mut self) -> Result<()> {
        let (table, key) = (self.schema.workflows, self.schema.workflow_key);
        self.execute(&format!(
            "CREATE TABLE kept AS TABLE {table}; DROP TABLE {table} CASCADE"
        ))?;
        self.is_settling = false;
        self.fails("SELECT settle_workflow('w0')", &["42P01"])?;
        self.fails("SELECT token_balance.settle_pending()", &["42P01"])?;
        let session = self.rng.usize(..self.sessions.len());
        self.begin(session)?;
        match self.rng.u32(..5) {
            0 => self.change_usage(session)?,
            1 => self.adjust(session)?,
            2 => self.credit(session)?,
            3 => self.delete_usage(session)?,
            _ => self.use_tokens(session)?,
        }
        self.end_without_comparison(session, true)?;
        self.is_settling = true;
        let reference = self.schema.reference_workflows_sql();
        self.execute(&format!(
            "CREATE TABLE {table} (LIKE kept, PRIMARY KEY ({key})); INSERT INTO {table} TABLE kept; \
             DROP TABLE kept; {reference}"
        ))?;
        self.attach_anew()
    }

    /// A new table with the same rows, in place of the old one, which is dropped or has another name then.
    fn make_usage_anew(&mut self) -> Result<()> {
        // A binding keeps its tables' names as the last attach has found them. Usage that was renamed since, then dropped
        // and made anew under the name that it had in the end, is taken for other usage, and what waits is exempted
        // without a word: `--stale-names` shows it.
        if !self.flags.keeps_stale_names {
            self.attach()?;
        }
        let usage = self.schema.usage;
        let columns = self.schema.all_usage_columns();
        if !self.schema.partitions.is_empty() {
            self.schema.name_partitions();
        }
        let create = self.schema.create_usage_sql("anew");
        let is_dropped_first = self.rng.bool();
        let (before, after) = match is_dropped_first {
            true => (format!("DROP TABLE {usage}"), String::new()),
            false => (
                format!("ALTER TABLE {usage} RENAME TO old"),
                "DROP TABLE old".to_owned(),
            ),
        };
        let references = self.schema.reference_sql();
        self.execute(&format!(
            "BEGIN; {create} INSERT INTO anew ({columns}) SELECT {columns} FROM {usage}; {before}; \
             ALTER TABLE anew RENAME TO {usage}; {references} COMMIT"
        ))?;
        let now = self.now();
        for binding in 0..self.schema.accounts.len() {
            self.committed.books[binding].attached = now;
            let is_known = self.committed.is_known_again(binding);
            if !is_known {
                // Not the same to the last row: the caller says what its ids mean.
                let attach = self.schema.attach_sql(binding, "");
                self.fails(&attach, &["55000"])?;
            }
            let more = if is_known {
                ""
            } else {
                ", usage_ids => 'same'"
            };
            let attach = self.schema.attach_sql(binding, more);
            self.execute(&attach)?;
        }
        self.know_partitions();
        self.execute(&after)
    }

    /// The column is dropped; the balances come back from the ledger. One that was changed while nothing was attached,
    /// of an account that had no entry by then, is not in it.
    fn make_balances_anew(&mut self) -> Result<()> {
        let binding = self.rng.usize(..self.schema.accounts.len());
        let accounts = self.schema.accounts[binding];
        let (table, key) = (accounts.table, accounts.key);
        let unknown = format!(
            "SELECT u.{key}, (SELECT coalesce(sum(q.tokens), 0) FROM token_balance.queue AS q \
             WHERE q.user_id = u.{key})::bigint FROM {table} AS u \
             WHERE u.{key} NOT IN (SELECT l.user_id FROM token_balance.ledger AS l)"
        );
        for row in self.admin.query(&unknown, &[])? {
            let account: usize = row.get::<_, String>(0)[1..].parse()?;
            let queued: i64 = row.get(1);
            let balance = &mut self.committed.books[binding].balance;
            balance.insert(account, -queued);
        }
        self.execute(&format!("ALTER TABLE {table} DROP token_balance"))?;
        let of_binding = match self.schema.accounts.len() {
            1 => String::new(),
            _ => format!("binding => '{}'", accounts.binding),
        };
        let sweep = format!("SELECT token_balance.settle_pending({of_binding})");
        self.fails(&sweep, &["42703"])?;
        self.attach()
    }
}

fn name_of(change: Change) -> &'static str {
    match change {
        Change::AttachAgain => "attach again",
        Change::Detach => "detach and attach",
        Change::RenameTable => "table renamed",
        Change::RenameSchema => "schema renamed",
        Change::RenameColumn => "column renamed",
        Change::WorkflowsAnew => "workflows made anew",
        Change::UsageAnew => "usage made anew",
        Change::BalancesAnew => "balances made anew",
        Change::PartitionArchived => "a partition to be archived",
        Change::UsageTruncated => "usage truncated",
        Change::AllArchived => "archived by the policy",
    }
}
