//! Hostile identifiers in every place where attach takes a name: schema, tables, columns, statuses,
//! and the tables' owner. Each case makes tables and settles, credits, refunds, sums up, verifies
//! (and runs the hints), reconciles and detaches. The cases are a table in SQL, which quotes.

use postgres::SimpleQueryMessage;

use crate::cases::{BOSS, Session, Stage};
use crate::database::{Result, describe};

/// Checks of each case.
const CHECKS: usize = 17;

/// A statement of a case, or what it answers, which is checked.
struct Step {
    kind: String,
    statement: String,
    expected: String,
}

pub fn run(seed: u64, names: u64) -> Result<String> {
    let mut hostile = HostileNames::new(seed, names)?;
    let count: usize = hostile
        .session
        .value("SELECT count(*) FROM names")?
        .parse()?;
    for case in 0..count {
        hostile.case(case)?;
    }
    println!(
        "{count} hostile identifiers, each as schema, owner, table, column, status and id: \
         {} checks of each case, and its errors and warnings",
        CHECKS
    );
    hostile.stage.end()
}

struct HostileNames {
    session: Session,
    stage: Stage,
}

impl HostileNames {
    fn new(seed: u64, names: u64) -> Result<HostileNames> {
        let stage = Stage::new("tb_hostile", &[])?;
        drop_owners()?;
        let mut session = stage.session(BOSS)?;
        session.run(&format!("SET tb.seed = {seed}; SET tb.names = {names}"))?;
        session.run(include_str!("sql/hostile_names.sql"))?;
        session.run("SET client_min_messages = warning")?;
        Ok(HostileNames { session, stage })
    }

    fn case(&mut self, case: usize) -> Result<()> {
        let mut errors = Vec::new();
        let mut checks = 0;
        for step in self.steps(case)? {
            match step.kind.as_str() {
                "do" => errors.extend(self.fails(&step.statement)),
                "run what it gives" => {
                    for statement in self.rows(&step.statement)? {
                        errors.extend(self.fails(&statement));
                    }
                }
                what => {
                    let answer = self.session.answer(&[&step.statement]);
                    let what = format!("case {case}: {what}");
                    self.stage.is(&what, answer, &step.expected);
                    checks += 1;
                }
            }
        }
        errors.extend(self.session.take_warnings());
        let what = format!("case {case}: errors and warnings");
        self.stage.is(&what, errors.join("; "), "");
        match checks {
            CHECKS => Ok(()),
            _ => Err(format!("case {case} has {checks} checks").into()),
        }
    }

    fn steps(&mut self, case: usize) -> Result<Vec<Step>> {
        let steps = format!("SELECT * FROM hostile_case({case})");
        let rows = self.session.client.query(&steps, &[])?;
        let step = |row: &postgres::Row| Step {
            kind: row.get(0),
            statement: row.get(1),
            expected: row.get::<_, Option<_>>(2).unwrap_or_default(),
        };
        Ok(rows.iter().map(step).collect())
    }

    /// The first column of each row.
    fn rows(&mut self, query: &str) -> Result<Vec<String>> {
        let messages = self.session.client.simple_query(query)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The error of a statement, if it has one. The next one is tried nevertheless.
    fn fails(&mut self, statement: &str) -> Option<String> {
        let error = self.session.client.simple_query(statement).err()?;
        Some(format!("{} at {statement}", describe(&error)))
    }
}

impl Drop for HostileNames {
    fn drop(&mut self) {
        // Only a case that failed leaves its owner, and then with what it owns.
        let left = self.stage.renew().and_then(|()| drop_owners());
        if let Err(error) = left {
            eprintln!("owners of tables are left: {error}");
        }
    }
}

fn drop_owners() -> Result<()> {
    let mut maintenance = Session::open(BOSS, None)?;
    let owners = maintenance.client.query(
        "SELECT format('DROP ROLE %I', rolname) FROM pg_roles \
         WHERE rolname LIKE 'tb^_h %' ESCAPE '^'",
        &[],
    )?;
    for owner in &owners {
        maintenance.run(owner.get(0))?;
    }
    Ok(())
}
