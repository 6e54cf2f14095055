//! The tables of the model, by what they and their columns are called at the moment.

use super::oracle::{MAX_BINDINGS, Time};
use crate::database::attach_options;

/// The two names that something may have.
type Pair = [&'static str; 2];

const SCHEMAS: Pair = ["model", "model_away"];

/// A table or column and what it is called now.
#[derive(Clone, Copy)]
pub struct Name {
    names: Pair,
    is_other: bool,
}

impl Name {
    const fn new(names: Pair) -> Self {
        Name {
            names,
            is_other: false,
        }
    }

    pub fn now(&self) -> &'static str {
        self.names[usize::from(self.is_other)]
    }

    /// Take the other name.
    pub fn change(&mut self) {
        self.is_other = !self.is_other;
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(self.now())
    }
}

/// The accounts of a binding, and what the usage calls them.
#[derive(Clone, Copy)]
pub struct Accounts {
    /// Of the binding.
    pub binding: &'static str,
    pub table: Name,
    pub key: Name,
    /// The column of the usage.
    pub payer: Name,
    /// What the ids begin with.
    pub letter: char,
    /// How many there are at first.
    pub count: usize,
    /// Whether the binding records what is deleted of the usage.
    pub records_deletions: bool,
}

const ACCOUNTS: [Accounts; MAX_BINDINGS] = [
    Accounts {
        binding: "default",
        table: Name::new(["users", "people"]),
        key: Name::new(["id", "handle"]),
        payer: Name::new(["user_id", "person"]),
        letter: 'a',
        count: 12,
        records_deletions: false,
    },
    Accounts {
        binding: "teams",
        table: Name::new(["teams", "groups"]),
        key: Name::new(["id", "handle"]),
        payer: Name::new(["team_id", "group_id"]),
        letter: 't',
        count: 5,
        records_deletions: false,
    },
];

impl Accounts {
    pub fn id(&self, account: usize) -> String {
        format!("{}{account}", self.letter)
    }
}

/// What is called how, and which foreign keys there are.
#[derive(Clone)]
pub struct Schema {
    pub schema: Name,
    pub usage: Name,
    pub run: Name,
    pub tokens: Name,
    pub time: Name,
    pub workflows: Name,
    pub workflow_key: Name,
    pub status: Name,
    pub accounts: Vec<Accounts>,
    /// From the usage, ON UPDATE CASCADE. Where there is none, usage may name what is not there.
    pub workflows_are_referenced: bool,
    pub accounts_are_referenced: bool,
    /// The partitions of the usage, by time; empty where it is a plain table.
    pub partitions: Vec<Partition>,
    /// How many partitions there have been.
    partitions_made: usize,
}

/// A partition of the usage: its rows are not older than `from`, and older than `to`.
#[derive(Clone, Debug)]
pub struct Partition {
    pub name: String,
    pub from: Option<Time>,
    pub to: Option<Time>,
    /// Whether an attach has seen it: until then nobody is told when it is truncated.
    pub is_known: bool,
}

/// Where one partition ends and the next one begins.
const BOUNDS: [Time; 4] = [-8, -6, -4, -2];

/// What takes usage that leaves.
pub const ARCHIVE: &str = "old_usage";
/// What takes entries of the ledger that leave.
pub const LEDGER_ARCHIVE: &str = "old_entries";
/// What takes settlements that have ended.
pub const SETTLEMENT_ARCHIVE: &str = "old_settlements";

/// The first of the long past days of the model. All of them are in one month.
pub const FIRST_DAY: Time = -10;

/// SQL for one of those days.
pub fn day_sql(day: Time) -> String {
    format!("2020-01-{:02} 00:00Z", 1 + day - FIRST_DAY)
}

impl Schema {
    pub fn new(
        bindings: usize,
        workflows_are_referenced: bool,
        accounts_are_referenced: bool,
        is_partitioned: bool,
    ) -> Self {
        let mut schema = Schema {
            schema: Name::new(SCHEMAS),
            usage: Name::new(["token_usage", "calls"]),
            run: Name::new(["workflow_id", "run"]),
            tokens: Name::new(["total_tokens", "amount"]),
            time: Name::new(["created_at", "called_at"]),
            workflows: Name::new(["workflows", "runs"]),
            workflow_key: Name::new(["id", "run_id"]),
            status: Name::new(["status", "state"]),
            accounts: ACCOUNTS[..bindings].to_vec(),
            workflows_are_referenced,
            accounts_are_referenced,
            partitions: Vec::new(),
            partitions_made: 0,
        };
        if is_partitioned {
            schema.name_partitions();
        }
        schema
    }

    /// Other names for the partitions of the usage, which is to be made anew.
    pub fn name_partitions(&mut self) {
        let bounds = BOUNDS.map(Some);
        let from = [None].into_iter().chain(bounds);
        let to = bounds.into_iter().chain([None]);
        self.partitions = from
            .zip(to)
            .map(|(from, to)| {
                let name = self.next_partition();
                Partition {
                    name,
                    from,
                    to,
                    is_known: false,
                }
            })
            .collect();
    }

    /// A name for a partition.
    pub fn next_partition(&mut self) -> String {
        self.partitions_made += 1;
        format!("part{}", self.partitions_made)
    }

    /// For each session: the schema has another name now and then.
    pub fn search_path() -> String {
        format!("SET search_path = {}, public", SCHEMAS.join(", "))
    }

    /// Empty tables. The extension is fresh and not attached: its schema has none of the tables that it would look for.
    pub fn create_sql(&self) -> String {
        let Schema {
            schema,
            workflows,
            workflow_key,
            status,
            ..
        } = self;
        let [one, other] = SCHEMAS;
        let mut sql = format!(
            "SET client_min_messages = error;
             DROP EXTENSION IF EXISTS token_balance CASCADE;
             DROP SCHEMA IF EXISTS {one}, {other} CASCADE;
             DROP TABLE IF EXISTS public.token_usage, public.workflows, public.users CASCADE;
             CREATE SCHEMA {schema};
             {};
             CREATE TABLE {workflows} ({workflow_key} text PRIMARY KEY, {status} text NOT NULL DEFAULT 'running');
             CREATE EXTENSION token_balance SCHEMA public;",
            Schema::search_path()
        );
        for accounts in &self.accounts {
            sql += &format!(
                "CREATE TABLE {} ({} text PRIMARY KEY, seen integer NOT NULL DEFAULT 0);",
                accounts.table, accounts.key
            );
        }
        let usage = self.usage;
        sql += &self.create_usage_sql(usage.now());
        sql += &format!(
            "CREATE TABLE {ARCHIVE} (LIKE {usage}, PRIMARY KEY (id));
             CREATE TABLE {LEDGER_ARCHIVE} (LIKE token_balance.ledger);
             CREATE TABLE {SETTLEMENT_ARCHIVE} (LIKE token_balance.settlement);"
        );
        sql + &self.reference_sql()
    }

    /// A usage table of this name, without its foreign keys.
    pub fn create_usage_sql(&self, table: &str) -> String {
        let Schema {
            run, tokens, time, ..
        } = self;
        let payers = self.payers();
        let (key, partitioned) = match self.partitions.is_empty() {
            true => ("id".to_owned(), String::new()),
            false => (
                format!("id, {time}"),
                format!(" PARTITION BY RANGE ({time})"),
            ),
        };
        let partitions = self.partitions.iter();
        let partitions = partitions.map(|partition| partition.create_sql(table));
        format!(
            "CREATE TABLE {table} (id bigint, {run} text, {} text, {tokens} integer NOT NULL,
                                   {time} timestamptz NOT NULL, PRIMARY KEY ({key})){partitioned};
             {}
             CREATE INDEX ON {table} ({run}) INCLUDE ({}, {tokens});",
            payers.join(" text, "),
            partitions.collect::<String>(),
            payers.join(", ")
        )
    }

    /// The foreign keys of the usage.
    pub fn reference_sql(&self) -> String {
        let mut sql = self.reference_workflows_sql();
        if self.accounts_are_referenced {
            for accounts in &self.accounts {
                sql += &self.reference_to(accounts.payer, accounts.table, accounts.key);
            }
        }
        sql
    }

    /// The one to the workflow table, if there is one.
    pub fn reference_workflows_sql(&self) -> String {
        match self.workflows_are_referenced {
            true => self.reference_to(self.run, self.workflows, self.workflow_key),
            false => String::new(),
        }
    }

    fn reference_to(&self, column: Name, table: Name, key: Name) -> String {
        format!(
            "ALTER TABLE {} ADD FOREIGN KEY ({column}) REFERENCES {table} ({key}) ON UPDATE CASCADE;",
            self.usage
        )
    }

    /// The columns that name accounts.
    pub fn payers(&self) -> Vec<&'static str> {
        let payers = self.accounts.iter().map(|accounts| accounts.payer.now());
        payers.collect()
    }

    /// The columns of the usage but for its time, in the order in which the model writes them.
    pub fn usage_columns(&self) -> String {
        let Schema { run, tokens, .. } = self;
        format!("id, {run}, {tokens}, {}", self.payers().join(", "))
    }

    /// All of them.
    pub fn all_usage_columns(&self) -> String {
        format!("{}, {}", self.usage_columns(), self.time)
    }

    /// Attach one binding; `more` are arguments.
    pub fn attach_sql(&self, binding: usize, more: &str) -> String {
        let Schema {
            usage,
            run,
            tokens,
            time,
            workflows,
            workflow_key,
            status,
            ..
        } = self;
        let accounts = &self.accounts[binding];
        let name = match binding {
            0 => String::new(),
            _ => format!(", name => '{}'", accounts.binding),
        };
        let deleted = match accounts.records_deletions {
            true => "record",
            false => "report",
        };
        let options = attach_options().map_or(String::new(), |options| format!(", {options}"));
        format!(
            "SELECT token_balance.attach('{}', '{usage}', '{workflows}', user_key => '{}', usage_user => '{}', \
             usage_workflow => '{run}', usage_tokens => '{{{tokens}}}', workflow_key => '{workflow_key}', \
             workflow_status => '{status}', usage_created_at => '{time}', balance_type => 'bigint', \
             deleted_usage => '{deleted}'{name}{more}{options})",
            accounts.table, accounts.key, accounts.payer
        )
    }

    /// An argument that names a binding, where there are several.
    pub fn binding_argument(&self, binding: usize) -> String {
        match self.accounts.len() {
            1 => String::new(),
            _ => format!(", binding => '{}'", self.accounts[binding].binding),
        }
    }
}

impl Partition {
    /// Empty, of this table.
    pub fn create_sql(&self, of: &str) -> String {
        let bound = |day: Option<Time>, none: &str| match day {
            Some(day) => format!("'{}'", day_sql(day)),
            None => none.to_owned(),
        };
        format!(
            "CREATE TABLE {} PARTITION OF {of} FOR VALUES FROM ({}) TO ({});",
            self.name,
            bound(self.from, "MINVALUE"),
            bound(self.to, "MAXVALUE")
        )
    }

    /// Whether a row of that time is in it.
    pub fn has(&self, time: Time) -> bool {
        self.from.is_none_or(|from| from <= time) && self.to.is_none_or(|to| time < to)
    }
}
