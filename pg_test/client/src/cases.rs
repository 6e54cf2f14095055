//! What the programs of checks share: a stage (a database of its own, the roles that act in it) and
//! tables of cases on it: what is so, the role that acts, its statements, and what comes of them.
//! Each check is a line, `ok` or `FAILED`.

use std::sync::{Arc, Mutex};

use postgres::error::{DbError, Severity};
use postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::database::{Result, config, describe, sqlstate};

/// In the place of a role: the superuser that the program connects as.
pub const BOSS: &str = "";

/// A line of a table.
pub enum Step<'a> {
    /// (role, SQL) makes ready: several statements, all of which must succeed.
    Do(&'a str, &'a str),
    /// (what, role, statements, expected), see [`Answer`].
    Is(&'a str, &'a str, &'a [&'a str], &'a str),
}

/// What comes of statements: the rows of the last one that gave any, one line per row, columns
/// joined by `|`; or the SQLSTATE of the first one that failed.
pub struct Answer {
    pub text: String,
    /// All that the server said of the error.
    pub error: Option<String>,
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Answer {
            text: text.to_owned(),
            error: None,
        }
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Answer { text, error: None }
    }
}

/// The reason why a program cannot run here.
#[derive(Debug)]
pub struct Skipped(pub &'static str);

impl std::fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Skipped {}

/// A database that is dropped at the end, its roles too, and the checks that are made there.
pub struct Stage {
    database: &'static str,
    roles: &'static [&'static str],
    checks: usize,
    failed: usize,
}

impl Stage {
    /// The roles may log in; all of them and the database are new.
    pub fn new(database: &'static str, roles: &'static [&'static str]) -> Result<Stage> {
        let stage = Stage {
            database,
            roles,
            checks: 0,
            failed: 0,
        };
        stage.clean()?;
        let mut maintenance = Session::open(BOSS, None)?;
        for role in roles {
            maintenance.run(&format!("CREATE ROLE {role} LOGIN"))?;
        }
        stage.renew()?;
        Ok(stage)
    }

    /// The database is empty again.
    pub fn renew(&self) -> Result<()> {
        let mut maintenance = Session::open(BOSS, None)?;
        self.drop_database(&mut maintenance)?;
        maintenance.run(&format!(
            "CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0",
            self.database
        ))
    }

    pub fn session(&self, role: &str) -> Result<Session> {
        Session::open(role, Some(self.database))
    }

    /// What comes of these statements in a session of their own.
    pub fn answer(&self, role: &str, statements: &[&str]) -> Result<Answer> {
        Ok(self.session(role)?.answer(statements))
    }

    /// What the superuser reads in a session of its own; a query that fails is an error.
    pub fn value(&self, query: &str) -> Result<String> {
        self.session(BOSS)?.value(query)
    }

    pub fn run(&self, role: &str, sql: &str) -> Result<()> {
        self.session(role)?.run(sql)
    }

    /// The server's major version.
    pub fn version(&self) -> Result<u32> {
        let number: u32 = self.value("SHOW server_version_num")?.parse()?;
        Ok(number / 10_000)
    }

    pub fn play(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match *step {
                Step::Do(role, sql) => self.run(role, sql)?,
                Step::Is(what, role, statements, expected) => {
                    self.check(what, role, statements, expected)?;
                }
            }
        }
        Ok(())
    }

    pub fn check(
        &mut self,
        what: &str,
        role: &str,
        statements: &[&str],
        expected: &str,
    ) -> Result<()> {
        let got = self.answer(role, statements)?;
        self.is(what, got, expected);
        Ok(())
    }

    pub fn is(&mut self, what: &str, got: impl Into<Answer>, expected: &str) {
        let got = got.into();
        self.checks += 1;
        if got.text == expected {
            println!("ok: {what}");
            return;
        }
        self.failed += 1;
        let error = match got.error {
            Some(error) => format!(" ({})", beginning(&error)),
            None => String::new(),
        };
        println!(
            "FAILED: {what}: got '{}'{error}, expected '{}'",
            beginning(&got.text),
            beginning(expected)
        );
    }

    /// How many checks there were; Err if one failed.
    pub fn end(&self) -> Result<String> {
        match self.failed {
            0 => Ok(format!("{} checks", self.checks)),
            failed => Err(format!("{failed} of {} checks failed", self.checks).into()),
        }
    }

    /// Prepared transactions would keep it.
    fn drop_database(&self, maintenance: &mut Session) -> Result<()> {
        let prepared = maintenance.value(&format!(
            "SELECT string_agg(format('ROLLBACK PREPARED %L', gid), ';') \
             FROM pg_prepared_xacts WHERE database = '{}'",
            self.database
        ))?;
        for rollback in prepared.split_terminator(';') {
            self.run(BOSS, rollback)?;
        }
        maintenance.run(&format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.database
        ))
    }

    fn clean(&self) -> Result<()> {
        let mut maintenance = Session::open(BOSS, None)?;
        self.drop_database(&mut maintenance)?;
        for role in self.roles {
            maintenance.run(&format!("DROP ROLE IF EXISTS {role}"))?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            eprintln!("{} and its roles are left: {error}", self.database);
        }
    }
}

/// One connection, and all that the server has said on it.
pub struct Session {
    pub client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
}

impl Session {
    /// In the database that the environment names, if this names none.
    pub fn open(role: &str, database: Option<&str>) -> Result<Session> {
        let mut config = config()?;
        if role != BOSS {
            config.user(role);
        }
        if let Some(database) = database {
            config.dbname(database);
        }
        let notices = Arc::new(Mutex::new(Vec::new()));
        config.notice_callback({
            let notices = notices.clone();
            move |notice| notices.lock().expect("nobody panics with it").push(notice)
        });
        let client = config.connect(NoTls)?;
        Ok(Session { client, notices })
    }

    /// One statement after the other, until one fails.
    pub fn answer(&mut self, statements: &[&str]) -> Answer {
        let mut rows = String::new();
        for statement in statements {
            match self.client.simple_query(statement) {
                Ok(messages) => {
                    let found = lines(&messages);
                    if !found.is_empty() {
                        rows = found.join("\n");
                    }
                }
                Err(error) => {
                    return Answer {
                        text: sqlstate(&error),
                        error: Some(describe(&error)),
                    };
                }
            }
        }
        rows.into()
    }

    pub fn value(&mut self, query: &str) -> Result<String> {
        let answer = self.answer(&[query]);
        match answer.error {
            None => Ok(answer.text),
            Some(error) => Err(format!("{error} at {}", beginning(query)).into()),
        }
    }

    /// Several statements, all of which must succeed.
    pub fn run(&mut self, sql: &str) -> Result<()> {
        self.client
            .batch_execute(sql)
            .map_err(|error| format!("{} at {}", describe(&error), beginning(sql)).into())
    }

    /// The warnings since they were taken last.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.take(Severity::Warning)
    }

    /// The notices since they were taken last.
    pub fn take_notices(&mut self) -> Vec<String> {
        self.take(Severity::Notice)
    }

    fn take(&mut self, severity: Severity) -> Vec<String> {
        let mut notices = self.notices.lock().expect("nobody panics with it");
        notices
            .extract_if(.., |notice| notice.parsed_severity() == Some(severity))
            .map(|notice| notice.message().to_owned())
            .collect()
    }
}

fn lines(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let row = |row: &SimpleQueryRow| {
        let columns: Vec<_> = (0..row.len())
            .map(|column| row.get(column).unwrap_or_default())
            .collect();
        columns.join("|")
    };
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(found) => Some(row(found)),
            _ => None,
        })
        .collect()
}

/// As much of a text as a line of the log should have.
fn beginning(text: &str) -> String {
    text.chars().take(400).collect()
}
