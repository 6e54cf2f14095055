//! Attackers: names taken beforehand, code on the tables by their owner, hostile search paths, and
//! roles with every privilege but ownership. Each check says what is denied, or what runs as whom.

use std::collections::BTreeSet;

use crate::cases::{Answer, BOSS, Stage, Step};
use crate::database::{Result, variable};

use Step::{Do, Is};

/// Owns the application's tables, and is no superuser.
const EVE: &str = "tb_eve";
/// What the application connects as.
const APP: &str = "tb_att_app";
/// May create in public, and complete runs.
const MALLORY: &str = "tb_mallory";
/// Has every table privilege but ownership.
const ALL: &str = "tb_all";
/// Is in `pg_write_all_data`.
const WRITER: &str = "tb_writer";

const CREATE_EXTENSION: &str = "CREATE EXTENSION token_balance SCHEMA public";
const PROBLEMS: &str = "SELECT coalesce(string_agg(concat_ws(' ', problem, user_id, workflow_id, expected, found), '; '), '0') \
     FROM token_balance.reconcile()";
const IS_EVE_SUPERUSER: &str = "SELECT rolsuper FROM pg_roles WHERE rolname = 'tb_eve'";

pub fn run() -> Result<String> {
    let mut stage = Stage::new("tb_attackers", &[EVE, APP, MALLORY, ALL, WRITER])?;
    stage.run(BOSS, "GRANT pg_write_all_data TO tb_writer")?;
    println!("# names that are taken before CREATE EXTENSION");
    names_taken(&mut stage)?;
    println!("# code on the tables by their owner, who is no superuser");
    OwnersCode::new(&mut stage)?.run()?;
    println!(
        "# names that the owner's code does not qualify, planted by a role that completes runs"
    );
    UnqualifiedNames::new(&mut stage)?.run()?;
    println!("# a rule that makes a bound table a view");
    view(&mut stage)?;
    println!("# trigger functions on a foreign table");
    foreign_tables(&mut stage)?;
    println!("# every table privilege except ownership");
    all_privileges(&mut stage)?;
    println!("# pg_write_all_data");
    write_all_data(&mut stage)?;
    println!("# a hostile search path, for every function");
    hostile_path(&mut stage)?;
    stage.end()
}

fn new_database(stage: &Stage) -> Result<()> {
    stage.renew()?;
    stage.run(
        BOSS,
        "GRANT CREATE, USAGE ON SCHEMA public TO tb_eve, tb_mallory",
    )
}

/// What SQL might name without a schema, in this schema of hers.
fn make_trap(stage: &Stage, schema: &str) -> Result<()> {
    let mut session = stage.session(MALLORY)?;
    session.run(&format!("SET tb.trap = '{schema}'"))?;
    session.run(include_str!("sql/trap.sql"))?;
    println!("{}", session.take_notices().join("\n"));
    Ok(())
}

fn distinct(stage: &Stage, query: &str) -> Result<Vec<String>> {
    let found = stage.value(query)?;
    Ok(found.lines().map(str::to_owned).collect())
}

// --- names that are taken ------------------------------------------------------------------------

const LEFT_OVER: &str = "
SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'token_balance'),
    (SELECT count(*) FROM pg_namespace WHERE nspname = 'token_balance')";
const LEFT_OVER_OF_SQUATTER: &str = "
SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'token_balance'),
    (SELECT count(*) FROM pg_proc WHERE proname = 'settle_workflow')";

#[rustfmt::skip]
const NAMES_TAKEN: &[Step] = &[
    Do(MALLORY, "CREATE FUNCTION public.settle_workflow(text) RETURNS jsonb LANGUAGE plpgsql
                 AS 'BEGIN RAISE ''caught''; END'"),
    Is("settle_workflow(text) in public: refused", BOSS, &[CREATE_EXTENSION], "42723"),
    Is("… and nothing is left", BOSS, &[LEFT_OVER], "0|0"),
    Do(BOSS, "DROP FUNCTION public.settle_workflow(text)"),
    Do(BOSS, "CREATE SCHEMA token_balance AUTHORIZATION tb_mallory"),
    Is("a squatted schema token_balance: refused", BOSS, &[CREATE_EXTENSION], "42P06"),
    Do(MALLORY,
        "CREATE TABLE token_balance.ledger (x text); CREATE TABLE token_balance.binding (x text)"),
    Is("… with tables in it: refused", BOSS, &[CREATE_EXTENSION], "42P06"),
    Is("… and nothing is left", BOSS, &[LEFT_OVER_OF_SQUATTER], "0|0"),
    Do(BOSS, "DROP SCHEMA token_balance CASCADE"),
    Do(EVE, "CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer,
                 created_at timestamptz DEFAULT now());
             CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
             INSERT INTO users VALUES ('ann');
             INSERT INTO token_usage VALUES ('w0', 'ann', 5)"),
];

fn names_taken(stage: &mut Stage) -> Result<()> {
    new_database(stage)?;
    stage.play(NAMES_TAKEN)?;
    make_trap(stage, "public")?;
    stage.check(
        "operators, functions, types and tables in public: harmless",
        BOSS,
        &[
            CREATE_EXTENSION,
            "SELECT count(*) FROM token_balance.binding",
        ],
        "1",
    )?;
    let mut session = stage.session(BOSS)?;
    let settled = session.answer(&[
        "SET search_path = public, pg_catalog",
        "INSERT INTO token_usage VALUES ('w1', 'ann', 7)",
        "INSERT INTO workflows VALUES ('w1', 'ann', 'completed')",
        "SELECT token_balance FROM users",
    ]);
    stage.is("… to settling too", settled, "999993");
    let warnings = session.take_warnings().join("\n");
    stage.is("… which gives no warning", warnings, "");
    Ok(())
}

// --- code on the tables by their owner -----------------------------------------------------------

/// A call, and its answers: by a superuser, the same with policies that are forced, and by the
/// application.
#[rustfmt::skip]
const CALLS: &[(&str, [&str; 3])] = &[
    ("SELECT app.settle_workflow('w1') ->> 'tokens_used'", ["10", "10", "10"]),
    ("SELECT sum(charged_tokens) FROM token_balance.settle_workflows('{w2}')", ["20", "20", "20"]),
    ("SELECT token_balance.settle_pending(since => '2020-01-01') ->> 'tokens_used'",
        ["4", "4", "4"]),
    ("CALL token_balance.settle_backlog()", ["", "", ""]),
    ("SELECT token_balance.credit('ann', 5) ->> 'amount'", ["5", "5", "5"]),
    ("SELECT token_balance.refund_workflow('w1', 1) ->> 'amount'", ["1", "1", "1"]),
    ("SELECT token_balance.correct_workflow('w1') ->> 'amount'", ["0", "0", "0"]),
    ("SELECT token_balance.summary('ann') #>> '{summary,record_count}'", ["3", "5", "7"]),
    ("SELECT token_balance.balance('ann') ->> 'is_overdraft'", ["false", "false", "false"]),
    ("SELECT count(*) > 0 FROM token_balance.statement('ann')", ["t", "t", "t"]),
    ("SELECT token_balance.balance_at('ann', now()) > 0", ["t", "t", "t"]),
    ("SELECT count(*) FROM token_balance.overdrawn_accounts()", ["0", "0", "0"]),
    (PROBLEMS, ["0", "0", "0"]),
];

/// The places of her code that must have run, or the checks would show nothing.
const PLACES: &[&str] = &[
    "domain",
    "generated",
    "check",
    "index",
    "partial index",
    "before trigger",
    "after trigger",
    "when",
    "statement trigger",
    "rule",
    "cast",
    "workflow trigger",
];

struct OwnersCode<'a> {
    stage: &'a mut Stage,
    /// What she noted of all that ran.
    fired: BTreeSet<String>,
}

impl OwnersCode<'_> {
    fn new(stage: &mut Stage) -> Result<OwnersCode<'_>> {
        new_database(stage)?;
        stage.run(
            BOSS,
            "CREATE SCHEMA app AUTHORIZATION tb_eve; GRANT USAGE ON SCHEMA app TO tb_att_app",
        )?;
        stage.run(EVE, include_str!("sql/code_of_owner.sql"))?;
        Ok(OwnersCode {
            stage,
            fired: BTreeSet::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        self.attach()?;
        self.call("no policies, superuser", BOSS, 0)?;
        self.verify("no policies")?;
        self.ran("no policies, all functions as superuser", EVE)?;
        for table in ["users", "token_usage", "workflows"] {
            let force = "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
            self.stage
                .run(EVE, &format!("ALTER TABLE app.{table} {force}"))?;
        }
        self.call("policies forced, superuser", BOSS, 1)?;
        self.verify("policies forced")?;
        self.ran("policies forced, all functions as superuser", EVE)?;
        self.call("app", APP, 2)?;
        self.ran("all functions as the app", EVE)?;
        self.complete()?;
        self.attach_again()?;
        self.nothing_worked()
    }

    fn attach(&mut self) -> Result<()> {
        self.stage.check(
            "CREATE EXTENSION attaches",
            BOSS,
            &[
                "CREATE EXTENSION token_balance SCHEMA app",
                "SELECT count(*) FROM token_balance.binding",
            ],
            "1",
        )?;
        self.ran("CREATE EXTENSION as superuser", EVE)?;
        self.stage.check(
            "detach and attach",
            BOSS,
            &[
                "SELECT token_balance.detach()",
                "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', \
                 create_index => true) IS NOT NULL",
            ],
            "t",
        )?;
        // Before 18 the server forgets which role queued it (see docs/privileges.md).
        if self.stage.version()? >= 18 {
            self.stage.run(
                EVE,
                "CREATE CONSTRAINT TRIGGER z_deferred AFTER UPDATE ON app.users \
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
                 EXECUTE FUNCTION app.on_row('deferred trigger')",
            )?;
        }
        self.stage.run(
            BOSS,
            "GRANT USAGE ON SCHEMA token_balance TO tb_att_app;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, app TO tb_att_app;
             GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO tb_att_app",
        )
    }

    /// All functions. An application's own statements run her triggers as the application, by the
    /// server's rule; here it only calls functions.
    fn call(&mut self, title: &str, role: &str, answer: usize) -> Result<()> {
        self.stage.run(
            EVE,
            "INSERT INTO app.token_usage
             VALUES ('w1', 'ann', 10), ('w2', 'bob', 20), ('w0', 'ann', 4);
             INSERT INTO app.workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'running')
             ON CONFLICT DO NOTHING;
             DELETE FROM app.seen",
        )?;
        for (call, answers) in CALLS {
            let what = format!("{title}: {call}");
            self.stage.check(&what, role, &[call], answers[answer])?;
        }
        Ok(())
    }

    fn verify(&mut self, title: &str) -> Result<()> {
        let what = format!("{title}, superuser: verify");
        let verify = "SELECT count(*) > 5 FROM token_balance.verify()";
        self.stage.check(&what, BOSS, &[verify], "t")
    }

    fn complete(&mut self) -> Result<()> {
        self.stage.check(
            "the app completes runs",
            APP,
            &[
                "INSERT INTO app.token_usage VALUES ('w1', 'ann', 1)",
                "UPDATE app.workflows SET status = 'completed' RETURNING 1",
                "SELECT current_user",
            ],
            APP,
        )?;
        self.ran("a completion by the app", "tb_att_app,tb_eve")
    }

    fn attach_again(&mut self) -> Result<()> {
        self.stage.check(
            "the superuser detaches and attaches",
            BOSS,
            &[
                "SELECT token_balance.detach(drop_column => false)",
                "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows') \
                 IS NOT NULL",
            ],
            "t",
        )?;
        // How much waits is told: her table is read as her.
        self.ran("detach and attach as superuser", "tb_eve")
    }

    fn nothing_worked(self) -> Result<()> {
        let OwnersCode { stage, fired } = self;
        stage.check("she is no superuser", BOSS, &[IS_EVE_SUPERUSER], "f")?;
        let worked: Vec<_> = fired
            .iter()
            .filter(|what| what.contains("could do"))
            .cloned()
            .collect();
        stage.is("nothing of what she tried worked", worked.join(", "), "");
        for &place in PLACES {
            let ran = if fired.contains(place) { "yes" } else { "no" };
            stage.is(&format!("it did run: {place}"), ran, "yes");
        }
        // Usage of a run that was settled and is open again waits: attach forgives nothing.
        let problems = format!("{PROBLEMS} WHERE problem <> 'unsettled usage'");
        stage.check("the column and the ledger agree", BOSS, &[&problems], "0")?;
        let fired: Vec<_> = fired.into_iter().collect();
        println!("her code ran at: {}", fired.join(","));
        Ok(())
    }

    /// As whom her code ran since the last time.
    fn ran(&mut self, what: &str, expected: &str) -> Result<()> {
        let roles =
            "SELECT coalesce(string_agg(DISTINCT who, ',' ORDER BY who), 'nobody') FROM app.seen";
        let what = format!("{what}: her code ran only as");
        self.stage.check(&what, BOSS, &[roles], expected)?;
        let seen = distinct(self.stage, "SELECT DISTINCT what FROM app.seen")?;
        self.fired.extend(seen);
        self.stage.run(BOSS, "DELETE FROM app.seen")
    }
}

// --- names that the owner's code does not qualify ------------------------------------------------

/// A call that a role makes that may only complete runs, and how many accounts it changes.
#[rustfmt::skip]
const MALLORYS_CALLS: &[(&str, &str)] = &[
    ("UPDATE app.workflows SET status = 'completed' WHERE id = 'w1'", "1"),
    ("SELECT public.settle_workflow('w1')", "1"),
    ("SELECT FROM token_balance.settle_workflows('{w1,w2}')", "2"),
    ("SELECT token_balance.settle_pending()", "1"),
    ("CALL token_balance.settle_backlog()", "1"),
    ("SELECT token_balance.credit('ann', 5)", "1"),
    ("SELECT token_balance.refund_workflow('w1', 1)", "1"),
    ("SELECT token_balance.correct_workflow('w1')", "0"),
    ("SELECT token_balance.summary('ann')", "0"),
    ("SELECT token_balance.balance('ann')", "0"),
    ("SELECT FROM token_balance.overdrawn_accounts()", "0"),
    ("SELECT FROM token_balance.reconcile()", "0"),
];

const MALLORYS_PATHS: &[&str] = &[
    "app",
    "open, app",
    "pg_temp, open, app",
    "pg_temp, open, app, pg_catalog",
];

/// One secret for each kind of plant.
const SECRETS: &str = "
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['trigger', 'default', 'generated', 'check', 'policy', 'rule',
        'view', 'domain', 'cast', 'function', 'operator'] LOOP
        EXECUTE format('CREATE TABLE app.secret_%s (x text)', kind);
    END LOOP;
END $$";

const HIDE_SECRETS: &str = "
DO $$
DECLARE
    secret regclass;
BEGIN
    FOR secret IN SELECT oid FROM pg_class WHERE relname ~ '^secret_' LOOP
        EXECUTE 'REVOKE ALL ON ' || secret || ' FROM tb_mallory';
    END LOOP;
END $$";

struct UnqualifiedNames<'a> {
    stage: &'a mut Stage,
    /// Where the owner's code ran.
    fired: BTreeSet<String>,
}

impl UnqualifiedNames<'_> {
    fn new(stage: &mut Stage) -> Result<UnqualifiedNames<'_>> {
        new_database(stage)?;
        stage.play(&[
            Do(
                BOSS,
                "CREATE SCHEMA app AUTHORIZATION tb_eve;
                 GRANT USAGE ON SCHEMA app TO tb_mallory;
                 CREATE SCHEMA open;
                 GRANT CREATE, USAGE ON SCHEMA open TO PUBLIC",
            ),
            Do(EVE, include_str!("sql/unqualified_names.sql")),
            Do(EVE, SECRETS),
            Do(
                BOSS,
                "SET search_path = open, app; CREATE EXTENSION token_balance SCHEMA public",
            ),
            Do(
                BOSS,
                "SET search_path = open, app;
                 SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows');
                 GRANT USAGE ON SCHEMA token_balance TO tb_mallory;
                 GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, public TO tb_mallory;
                 GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO tb_mallory",
            ),
            Is(
                "attach leaves out where others may create",
                BOSS,
                &["SELECT search_path FROM token_balance.binding"],
                "{app}",
            ),
            Do(MALLORY, &plants("open")),
        ])?;
        Ok(UnqualifiedNames {
            stage,
            fired: BTreeSet::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        self.plants_work()?;
        for path in MALLORYS_PATHS {
            for &(call, changed) in MALLORYS_CALLS {
                self.call(path, call, changed)?;
            }
        }
        let fired: Vec<_> = self.fired.iter().cloned().collect();
        self.stage.is(
            "the owner's code found what is his",
            fired.join(","),
            "after trigger,before trigger,cast,check,domain,generated,index,partial index,rule,\
             statement trigger,when",
        );
        self.attach()?;
        let problems = format!("{PROBLEMS} WHERE problem <> 'unsettled usage'");
        self.stage
            .check("the column and the ledger agree", BOSS, &[&problems], "0")
    }

    /// The plants do work where such code runs with a path that reaches them: the test could fail.
    fn plants_work(&mut self) -> Result<()> {
        self.stage
            .run(EVE, "SET search_path = open, app; SELECT probe('control')")?;
        self.stolen(
            "control, in a schema",
            "cast,check,default,domain,function,generated,operator,policy,rule,trigger,view",
        )?;
        self.stage.run(
            EVE,
            "CREATE FUNCTION app.control() RETURNS boolean SECURITY DEFINER LANGUAGE plpgsql \
             AS $$BEGIN RETURN app.probe('control'); END $$",
        )?;
        self.in_her_session("app", "SELECT app.control()")?;
        self.stolen(
            "control, in her temporary schema",
            "cast,check,default,domain,generated,policy,rule,trigger,view",
        )
    }

    fn call(&mut self, path: &str, call: &str, changed: &str) -> Result<()> {
        self.stage.check(
            &format!("path {path}: usage of two runs"),
            EVE,
            &[
                "SET search_path = app",
                "INSERT INTO token_usage VALUES ('w1', 'ann', 1), ('w2', 'bob', 1)",
                "INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'completed') \
                 ON CONFLICT (id) DO NOTHING",
                "UPDATE workflows SET status = 'running' WHERE id = 'w1' RETURNING 1",
                "TRUNCATE journal",
            ],
            "1",
        )?;
        let title = format!("path {path}: {call}");
        let error = self.in_her_session(path, call)?.error.unwrap_or_default();
        self.stage.is(&format!("{title}: no error"), error, "");
        self.stage.check(
            &format!("{title}: accounts that were changed"),
            BOSS,
            &["SELECT count(*) FROM app.journal WHERE what = 'after trigger'"],
            changed,
        )?;
        self.stolen(&title, "none")?;
        let fired = distinct(self.stage, "SELECT DISTINCT what FROM app.journal")?;
        self.fired.extend(fired);
        Ok(())
    }

    /// Whoever attaches runs the owner's code as well, to fill balances that are NULL.
    fn attach(&mut self) -> Result<()> {
        self.stage.check(
            "balances are NULL",
            EVE,
            &[
                "SET search_path = app",
                "ALTER TABLE users ALTER token_balance DROP NOT NULL, DISABLE TRIGGER USER",
                "UPDATE users SET token_balance = NULL",
                "ALTER TABLE users ENABLE TRIGGER USER",
                "TRUNCATE journal",
                "SELECT count(token_balance) FROM users",
            ],
            "0",
        )?;
        let attached = self.stage.answer(
            BOSS,
            &[
                "SELECT token_balance.detach()",
                "SET search_path = open, app",
                "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', \
                 create_index => true)",
                // It goes on where it was: so does what waited before.
                "SELECT token_balance.settle_pending()",
            ],
        )?;
        if let Some(error) = attached.error {
            return Err(error.into());
        }
        self.stolen("attach as superuser", "none")?;
        self.stage.check(
            "… and the owner's code found what is his",
            BOSS,
            &["SELECT count(*) > 0 FROM app.journal WHERE what = 'before trigger'"],
            "t",
        )
    }

    /// Which plants were run with the owner's rights.
    fn stolen(&mut self, what: &str, expected: &str) -> Result<()> {
        self.stage.check(
            &format!("{what}: plants that ran as the owner"),
            BOSS,
            &[
                "SELECT coalesce(string_agg(substr(relname, 8), ',' ORDER BY relname), 'none') \
               FROM pg_class WHERE relname ~ '^secret_' \
               AND has_table_privilege('tb_mallory', oid, 'SELECT')",
            ],
            expected,
        )?;
        self.stage.run(BOSS, HIDE_SECRETS)
    }

    /// With all plants in her temporary schema.
    fn in_her_session(&self, path: &str, statement: &str) -> Result<Answer> {
        let mut session = self.stage.session(MALLORY)?;
        session.run(&plants("pg_temp"))?;
        Ok(session.answer(&[&format!("SET search_path = {path}"), statement]))
    }
}

fn plants(schema: &str) -> String {
    include_str!("sql/plants.sql").replace('@', schema)
}

// --- a view, foreign tables ----------------------------------------------------------------------

#[rustfmt::skip]
const VIEW: &[Step] = &[
    Do(EVE, "CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
             INSERT INTO users VALUES ('ann');
             CREATE FUNCTION evil() RETURNS text LANGUAGE plpgsql
             AS $$BEGIN ALTER ROLE tb_eve SUPERUSER; RETURN 'w1'; END $$"),
    Do(BOSS, CREATE_EXTENSION),
    Do(BOSS, "SELECT token_balance.attach('users', 'token_usage')"),
    Is("settling works before", BOSS, &["SELECT token_balance.balance('ann') ->> 'token_balance'"],
        "1000000"),
    Is("usage becomes a view", EVE,
        &["DROP TRIGGER token_balance_truncated ON token_usage",
          "VACUUM token_usage", // else it is one that may have triggers still
          "CREATE RULE \"_RETURN\" AS ON SELECT TO token_usage DO INSTEAD
           SELECT evil() AS workflow_id, 'ann'::text AS user_id, 1 AS total_tokens",
          "SELECT relkind FROM pg_class WHERE relname = 'token_usage'"],
        "v"),
    Is("a view: settle_workflow", BOSS, &["SELECT settle_workflow('w1')"], "42809"),
    Is("a view: summary", BOSS, &["SELECT token_balance.summary('ann')"], "42809"),
    Is("a view: settle_pending", BOSS, &["SELECT token_balance.settle_pending()"], "42809"),
    Is("she is no superuser", BOSS, &[IS_EVE_SUPERUSER], "f"),
];

fn view(stage: &mut Stage) -> Result<()> {
    let version = stage.version()?;
    if version > 15 {
        println!("PostgreSQL {version} makes no view of a table");
        return Ok(());
    }
    new_database(stage)?;
    stage.play(VIEW)
}

const TRIGGER_FUNCTIONS: &[&str] = &[
    "record_balance_change",
    "settle_on_completion",
    "refuse_ledger_change",
];

#[rustfmt::skip]
const FOREIGN_TABLES: &[Step] = &[
    Do(EVE, "CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer,
                 created_at timestamptz DEFAULT now());
             CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
             INSERT INTO users VALUES ('ann'), ('bob')"),
    Do(BOSS, CREATE_EXTENSION),
    Do(BOSS, "CREATE FOREIGN DATA WRAPPER nowhere;
              CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
              GRANT USAGE ON FOREIGN SERVER nowhere TO tb_mallory;
              GRANT USAGE ON SCHEMA token_balance TO tb_mallory;
              SET ROLE tb_mallory;
              CREATE FOREIGN TABLE users_f (id text, token_balance integer, status text)
                  SERVER nowhere;
              CREATE TABLE users_m (id text, token_balance integer, status text)"),
];

fn foreign_tables(stage: &mut Stage) -> Result<()> {
    new_database(stage)?;
    stage.play(FOREIGN_TABLES)?;
    for table in ["users_f", "users_m"] {
        for function in TRIGGER_FUNCTIONS {
            let create = format!(
                "CREATE TRIGGER x AFTER INSERT OR UPDATE ON {table} \
                 FOR EACH ROW EXECUTE FUNCTION token_balance.{function}()"
            );
            let what = format!("{table}: no trigger with {function}");
            stage.check(&what, MALLORY, &[&create], "42501")?;
        }
    }
    stage.check(
        "a foreign table is not attached",
        BOSS,
        &[
            "SELECT token_balance.detach()",
            "SELECT token_balance.attach('users_f', 'token_usage')",
        ],
        "42809",
    )?;
    stage.run(
        BOSS,
        "SELECT token_balance.attach('users', 'token_usage', 'workflows')",
    )?;
    match stage.run(BOSS, "CREATE EXTENSION postgres_fdw") {
        Ok(()) => foreign_table_that_takes_rows(stage)?,
        Err(_) => println!("no postgres_fdw here: a foreign table that takes rows is not tried"),
    }
    stage.check(
        "nobody was credited",
        BOSS,
        &["SELECT string_agg(token_balance::text, ',') FROM users"],
        "1000000,1000000",
    )
}

/// A table of this database, through a connection to it.
fn foreign_table_that_takes_rows(stage: &mut Stage) -> Result<()> {
    let host = variable("PGHOST", "/tmp");
    let port = variable("PGPORT", "5432");
    stage.run(
        BOSS,
        &format!(
            "DO $$
             BEGIN
                 EXECUTE format(
                     'CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw
                      OPTIONS (host %L, port %L, dbname %L)',
                     '{host}', '{port}', current_database());
                 EXECUTE format(
                     'CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user %L)',
                     current_user);
             END $$;
             CREATE FOREIGN TABLE loop_users (id text, token_balance integer, status text)
                 SERVER loop OPTIONS (table_name 'users_m')"
        ),
    )?;
    for function in TRIGGER_FUNCTIONS {
        let create = format!(
            "CREATE TRIGGER x AFTER INSERT ON loop_users \
             FOR EACH ROW EXECUTE FUNCTION token_balance.{function}()"
        );
        let insert = "INSERT INTO loop_users VALUES ('ann', 9, 'completed')";
        let what = format!("a foreign table, even by a superuser: {function}");
        stage.check(&what, BOSS, &[&create, insert], "42809")?;
        stage.run(BOSS, "DROP TRIGGER IF EXISTS x ON loop_users")?;
    }
    Ok(())
}

// --- privileges ----------------------------------------------------------------------------------

const INSERT_ENTRY: &str = "INSERT INTO token_balance.ledger \
     (user_id, kind, amount, previous_balance, new_balance, actor) \
     VALUES ('ann', 'credit', 1, 1, 2, 'x')";

#[rustfmt::skip]
const DENIED_TO_ALL: &[&str] = &[
    "SELECT token_balance.detach()",
    "SELECT token_balance.attach('users', 'token_usage', 'workflows')",
    "ALTER TABLE users DISABLE TRIGGER USER",
    "DROP TRIGGER \"00_token_balance_ledger\" ON users",
    "ALTER TABLE users DROP COLUMN token_balance",
    "ALTER TABLE token_usage ADD x integer",
    "SET session_replication_role = 'replica'",
    INSERT_ENTRY,
    "UPDATE token_balance.settlement SET usage_tokens = 0",
    "DELETE FROM token_balance.binding",
    "SELECT count(*) FROM token_balance.ledger",
    "SELECT setval('token_balance.ledger_entry_id_seq', 1)",
    "SELECT settle_workflow('w1')",
    "ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL",
];

#[rustfmt::skip]
const BY_ALL: &[Step] = &[
    Do(ALL, "UPDATE users SET token_balance = 5 WHERE id = 'bob'"),
    Is("a balance that it writes is in the ledger, with its name", BOSS,
        &["SELECT kind, amount, actor FROM token_balance.ledger WHERE user_id = 'bob'"],
        "adjustment|-999995|tb_all"),
    Do(ALL, "TRUNCATE token_usage"),
    Is("usage that it truncates: reconcile() shows it", BOSS,
        &["SELECT string_agg(problem, ',') FROM token_balance.reconcile()"], "usage shrank"),
    Do(BOSS, "INSERT INTO token_usage VALUES ('w1', 'ann', 10);
              GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON token_balance.ledger TO tb_all"),
    Is("only the owner writes the ledger: UPDATE", ALL,
        &["UPDATE token_balance.ledger SET amount = 0"], "42501"),
    Is("and he may only append: UPDATE", BOSS, &["UPDATE token_balance.ledger SET amount = 0"],
        "55000"),
    Is("only the owner writes the ledger: DELETE", ALL, &["DELETE FROM token_balance.ledger"],
        "42501"),
    Is("and he may only append: DELETE", BOSS, &["DELETE FROM token_balance.ledger"], "55000"),
    Is("TRUNCATE token_balance.ledger by tb_all", ALL, &["TRUNCATE token_balance.ledger"], "55000"),
    Is("TRUNCATE token_balance.ledger by its owner", BOSS, &["TRUNCATE token_balance.ledger"],
        "55000"),
    Do(BOSS, "REVOKE ALL ON token_balance.ledger FROM tb_all"),
];

fn all_privileges(stage: &mut Stage) -> Result<()> {
    stage.run(
        BOSS,
        "GRANT ALL ON users, token_usage, workflows TO tb_all;
         GRANT USAGE ON SCHEMA token_balance TO tb_all;
         GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach TO tb_all;
         INSERT INTO token_usage VALUES ('w1', 'ann', 10);
         INSERT INTO workflows VALUES ('w1', 'ann', 'completed')",
    )?;
    denied(stage, ALL, DENIED_TO_ALL)?;
    stage.play(BY_ALL)
}

fn denied(stage: &mut Stage, role: &str, statements: &[&str]) -> Result<()> {
    for statement in statements {
        stage.check(&format!("denied: {statement}"), role, &[statement], "42501")?;
    }
    Ok(())
}

#[rustfmt::skip]
const DENIED_TO_WRITER: &[&str] = &[
    INSERT_ENTRY,
    "UPDATE token_balance.ledger SET amount = 0",
    "DELETE FROM token_balance.ledger",
    "TRUNCATE token_balance.ledger",
    "INSERT INTO token_balance.settlement (workflow_id, user_id, usage_tokens) \
     VALUES ('w9', 'ann', 9)",
    "UPDATE token_balance.settlement SET usage_tokens = 0",
    "DELETE FROM token_balance.settlement",
    "UPDATE token_balance.binding SET usage_workflow = 'user_id'",
    "DELETE FROM token_balance.binding",
    "ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL",
    "SELECT token_balance.detach()",
    "SELECT settle_workflow('w1')",
    "SELECT token_balance.credit('ann', 1)",
    "SELECT token_balance.adjust('ann', 1)",
    "SELECT user_id FROM token_balance.ledger",
    "DROP TABLE token_balance.ledger",
];

#[rustfmt::skip]
const BY_WRITER: &[Step] = &[
    Do(WRITER, "UPDATE users SET token_balance = 4"),
    Is("a balance that it writes is in the ledger, with its name", BOSS,
        &["SELECT actor FROM token_balance.ledger WHERE user_id = 'ann' \
           ORDER BY entry_id DESC LIMIT 1"],
        WRITER),
    Do(BOSS, "UPDATE users SET token_balance = 1000000"),
    // A sequence knows no triggers: the server lets that role set it. It gives no numbers.
    Do(WRITER, "SELECT setval('token_balance.ledger_entry_id_seq', 1, false)"),
    Do(BOSS, "UPDATE users SET token_balance = token_balance + 1"),
    Is("the sequence set back: nothing comes of it", BOSS, &[PROBLEMS], "0"),
];

fn write_all_data(stage: &mut Stage) -> Result<()> {
    stage.check("healthy before", BOSS, &[PROBLEMS], "0")?;
    denied(stage, WRITER, DENIED_TO_WRITER)?;
    stage.play(BY_WRITER)?;
    stage.run(
        BOSS,
        "UPDATE users SET token_balance = CASE id WHEN 'ann' THEN 999990 ELSE 5 END",
    )
}

// --- a hostile search path -----------------------------------------------------------------------

/// A line of the table: what is called with `trap, pg_catalog, public` as the path, and all of its
/// rows; and what is done and asked with the usual one.
enum OnPath {
    Trapped(&'static str, &'static str),
    Usual(Step<'static>),
}

use OnPath::{Trapped, Usual};

/// The functions that the table calls, and by them the operators: all but those of triggers.
const NOT_CALLED: &str = "
SELECT string_agg(DISTINCT p.proname::text, ' ' ORDER BY p.proname::text)
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'token_balance'
JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
WHERE d.deptype = 'e' AND p.prorettype <> 'trigger'::regtype
AND p.proname NOT LIKE '%\\_usage\\_sums' -- parts of an aggregate
AND p.proname <> ALL ('{
    accept_deletions, adjust, archive, archive_ledger, archive_settlements, archive_usage, attach, attach_again, balance, balance_at, confirm_export, correct_workflow, counters, credit, detach, exact_numeric,
    exempt_pending, export_account, import_account, note_completion, note_status, note_update, note_usual_status, overdrawn_accounts, reconcile, refund_workflow, refuse_account, reset,
    settle_backlog, settle_pending, settle_workflow, settle_workflows, statement, suggest, suggestions, summary,
    take_back_account, unsettled_usage, usage_state, usage_sums, verify}')";

#[rustfmt::skip]
const ON_PATH: &[OnPath] = &[
    Usual(Is("no function was left out", BOSS, &[NOT_CALLED], "")),
    Usual(Do(BOSS, "INSERT INTO token_usage VALUES \
        ('w1', 'ann', 4), ('w2', 'ann', 5), ('w3', 'bob', 6), ('7', 'bob', 7)")),
    Trapped("SELECT public.settle_workflow('w1'::pg_catalog.text) IS NULL", "f"),
    Trapped("SELECT public.settle_workflow(7::bigint) IS NULL", "f"),
    Trapped("SELECT w.charged_tokens FROM token_balance.settle_workflows('{w2}') AS w", "5"),
    Trapped("INSERT INTO public.workflows VALUES ('w3', 'bob', 'completed') RETURNING 1", "1"),
    Trapped("INSERT INTO public.token_usage VALUES ('w3', 'bob', 1) RETURNING 1", "1"),
    Trapped("SELECT token_balance.settle_pending()",
        r#"{"more": false, "charges": 1, "workflows": 1, "tokens_used": 1}"#),
    Trapped("INSERT INTO public.token_usage VALUES ('w3', 'bob', 2) RETURNING 1", "1"),
    Trapped("SELECT token_balance.settle_pending(since => '2020-01-01')",
        r#"{"more": false, "charges": 1, "workflows": 1, "tokens_used": 2}"#),
    Trapped("CALL token_balance.settle_backlog()", ""),
    Trapped("CALL token_balance.settle_backlog(existing => true)", ""),
    Trapped("SELECT token_balance.exact_numeric('0.1'::double precision)::pg_catalog.text", "0.1"),
    Trapped("SELECT (SELECT true FROM token_balance.suggest() AS s LIMIT 1) IS NULL", "f"),
    Trapped("SELECT (SELECT true FROM token_balance.suggestions() AS s LIMIT 1) IS NULL", "t"),
    Trapped("SELECT token_balance.balance('ann')",
        r#"{"is_overdraft": false, "token_balance": 999981}"#),
    Trapped("SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL", "f"),
    Trapped("SELECT token_balance.adjust('ann', -9, 'n') IS NULL", "f"),
    Trapped("SELECT token_balance.adjust('ann', 9, 'n') IS NULL", "f"),
    Trapped("SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL", "f"),
    Trapped("SELECT token_balance.refund_workflow('w1', 2, 'q') IS NULL", "f"),
    Trapped("SELECT token_balance.refund_workflow('w1') IS NULL", "f"),
    Trapped("SELECT token_balance.balance_at('ann', '2100-01-01')", "1000004"),
    Trapped("SELECT token_balance.balance_at('ann', '2000-01-01')", "1000000"),
    Trapped(
        "SELECT s.amount FROM token_balance.statement('ann', '2000-01-01', '2100-01-01') AS s \
         LIMIT 1",
        "-10"),
    Trapped("SELECT token_balance.summary('ann') IS NULL", "f"),
    Trapped("SELECT o.user_id FROM token_balance.overdrawn_accounts() AS o", "bob"),
    Trapped("SELECT o.user_id FROM token_balance.overdrawn AS o", "bob"),
    Usual(Do(BOSS, "CREATE TABLE public.vault (LIKE token_balance.ledger)")),
    Trapped(
        "SELECT token_balance.archive_ledger(pg_catalog.clock_timestamp(), \
         'public.vault'::pg_catalog.regclass) IS NULL",
        "f"),
    Usual(Is("entries were archived", BOSS, &["SELECT count(*) > 5 FROM vault"], "t")),
    Trapped("SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL", "f"),
    Trapped("SELECT s.kind FROM token_balance.statement('ann') AS s", "opening"),
    Trapped("SELECT r.problem FROM token_balance.reconcile() AS r", ""),
    Trapped("SELECT v.name FROM token_balance.verify() AS v LIMIT 1", "binding"),
    Trapped("SELECT u.state FROM token_balance.usage_state() AS u LIMIT 1", "charged"),
    Trapped("SELECT u.state FROM token_balance.unsettled_usage() AS u LIMIT 1", ""),
    Trapped("SELECT c.since IS NULL FROM token_balance.counters() AS c", "f"),
    Trapped("SELECT s.bindings FROM token_balance.stat AS s", "1"),
    Usual(Do(BOSS, "INSERT INTO token_usage VALUES ('w3', 'ann', 1)")),
    Trapped("SELECT token_balance.exempt_pending()",
        r#"{"pairs": 1, "workflows": 1, "tokens_exempt": 1}"#),
    Usual(Do(BOSS, "DELETE FROM token_usage WHERE workflow_id = 'w2'")),
    Trapped("SELECT token_balance.correct_workflow('w2'::pg_catalog.text) IS NULL", "f"),
    Trapped("SELECT token_balance.archive_usage('2000-01-01') IS NULL", "f"),
    Trapped("SELECT token_balance.accept_deletions('2000-01-01') IS NULL", "f"),
    Usual(Do(BOSS, "CREATE TABLE public.ended (LIKE token_balance.settlement)")),
    Usual(Do(BOSS, "INSERT INTO token_usage VALUES ('w8', 'bob', 8)")),
    Usual(Do(BOSS, "SELECT settle_workflow('w8')")),
    Usual(Do(BOSS, "DELETE FROM token_usage WHERE workflow_id = 'w8'; \
        UPDATE token_balance.settlement SET archived_usage_tokens = 8 WHERE workflow_id = 'w8'")),
    Usual(Do(BOSS, "SELECT token_balance.archive_ledger(clock_timestamp(), 'vault')")),
    Trapped("CALL token_balance.archive('1 day', NULL, 'public.vault'::pg_catalog.regclass, \
        'public.ended'::pg_catalog.regclass)", ""),
    Trapped("SELECT token_balance.archive_settlements(pg_catalog.clock_timestamp(), \
        'public.ended'::pg_catalog.regclass) IS NULL", "f"),
    Usual(Is("a settlement ended", BOSS, &["SELECT count(*) FROM ended WHERE workflow_id = 'w8'"], "1")),
    Trapped("SELECT token_balance.refund_workflow('w8', archive => 'public.ended'::pg_catalog.regclass) IS NULL",
        "f"),
    Trapped("SELECT token_balance.export_account('bob', 'south') IS NULL", "f"),
    Trapped("SELECT token_balance.refuse_account(m.document) IS NULL FROM (SELECT \
        pg_catalog.set_config('token_balance.database', 'south', false) OFFSET 0) AS s, token_balance.account_move AS m", "f"),
    Trapped("SELECT token_balance.take_back_account(pg_catalog.jsonb_build_object('token', m.token, 'user_id', m.user_id, \
        'database', 'south', 'state', 'refused', 'replayed', false)) IS NULL FROM token_balance.account_move AS m \
        WHERE m.direction OPERATOR(pg_catalog.=) 'out'", "f"),
    Trapped("SELECT token_balance.attach_again()", ""),
    Trapped("UPDATE public.users SET token_balance = 77 RETURNING 1", "1\n1"),
    Trapped("UPDATE public.users SET id = pg_catalog.concat('x', id) RETURNING 1", "1\n1"),
    Trapped(
        "SELECT token_balance.note_completion(w.tableoid, w.ctid) \
         FROM public.workflows AS w LIMIT 1",
        "t"),
    Trapped(
        "SELECT token_balance.note_status('x'::pg_catalog.text, w.status, \
         '{completed}'::pg_catalog.text[], w.tableoid, w.ctid) \
         FROM public.workflows AS w WHERE w.id OPERATOR(pg_catalog.=) 'w3' LIMIT 1",
        "t"),
    Trapped(
        "SELECT token_balance.note_status('x'::pg_catalog.text, w.status, \
         ',completed'::pg_catalog.text, w.tableoid, w.ctid) \
         FROM public.workflows AS w WHERE w.id OPERATOR(pg_catalog.=) 'w3' LIMIT 1",
        "t"),
    Trapped(
        "SELECT token_balance.note_usual_status('x'::pg_catalog.text, w.status, w.tableoid, w.ctid) \
         FROM public.workflows AS w WHERE w.id OPERATOR(pg_catalog.=) 'w3' LIMIT 1",
        "t"),
    Trapped(
        "SELECT token_balance.usage_sums(u.workflow_id, u.user_id, u.total_tokens) IS NULL \
         FROM public.token_usage AS u",
        "f"),
    Trapped(
        "SELECT token_balance.attach('public.users'::pg_catalog.regclass, \
         'public.token_usage'::pg_catalog.regclass, 'public.workflows'::pg_catalog.regclass, \
         busy_account => 'queue', late_usage => 'settle', deleted_usage => 'record')",
        ""),
    Usual(Do(BOSS, "INSERT INTO users (id) VALUES ('cid')")),
    Trapped("INSERT INTO public.token_usage VALUES ('w3', 'cid', 3) RETURNING 1", "1"),
    Trapped(
        "UPDATE public.token_usage SET total_tokens = 5 \
         WHERE user_id OPERATOR(pg_catalog.=) 'cid' RETURNING 1",
        "1"),
    Trapped(
        "SELECT token_balance.note_update(u.tableoid, u.ctid, u.ctid) \
         FROM public.token_usage AS u LIMIT 1",
        "t"),
    // a charge that waits, since a serializable transaction made it
    Usual(Do(BOSS, "INSERT INTO token_usage VALUES ('w9', 'cid', 4)")),
    Trapped(
        "BEGIN ISOLATION LEVEL SERIALIZABLE; \
         INSERT INTO public.workflows VALUES ('w9', 'cid', 'completed'); COMMIT; \
         SELECT q.tokens FROM token_balance.queue AS q",
        "4"),
    Trapped("SELECT token_balance.balance('cid')",
        r#"{"is_overdraft": false, "token_balance": 999991}"#),
    Trapped("SELECT token_balance.balance_at('cid', '2100-01-01')", "999991"),
    Trapped("SELECT s.amount FROM token_balance.statement('cid', '2000-01-01', '2100-01-01') AS s",
        "-3\n-2\n-4"),
    Trapped("SELECT token_balance.summary('cid') IS NULL", "f"),
    Trapped("SELECT o.user_id FROM token_balance.overdrawn AS o", ""),
    Trapped(
        "SELECT r.problem FROM token_balance.reconcile() AS r \
         WHERE r.user_id OPERATOR(pg_catalog.=) 'cid'",
        ""),
    Trapped("UPDATE public.users SET id = 'cyd' WHERE id OPERATOR(pg_catalog.=) 'cid' RETURNING 1",
        "1"),
    Trapped("SELECT token_balance.credit('cyd', 1) IS NULL", "f"),
    Trapped("SELECT q.tokens FROM token_balance.queue AS q", ""),
    Trapped("SELECT token_balance.settle_pending() IS NULL", "f"),
    Trapped(
        "BEGIN; DELETE FROM public.token_usage; SELECT pg_catalog.count(*) FROM public.token_usage; ROLLBACK",
        "0"),
    Trapped(
        "BEGIN; TRUNCATE public.token_usage; SELECT pg_catalog.count(*) FROM public.token_usage; ROLLBACK",
        "0"),
    Trapped(
        "BEGIN; TRUNCATE public.users, public.token_usage CASCADE; \
         SELECT token_balance.reset() IS NULL; ROLLBACK",
        "f"),
    Trapped("SELECT token_balance.detach()", ""),
    Trapped(
        "SELECT token_balance.attach('public.users'::pg_catalog.regclass, \
         'public.token_usage'::pg_catalog.regclass, 'public.workflows'::pg_catalog.regclass, \
         create_index => true)",
        ""),
    Trapped("SELECT token_balance.detach(drop_column => true)", ""),
    Trapped(
        "SELECT token_balance.attach('public.users'::pg_catalog.regclass, \
         'public.token_usage'::pg_catalog.regclass, \
         usage_created_at => NULL, existing_usage => 'charge')",
        ""),
    Trapped("SELECT token_balance.detach()", ""),
    Trapped("DROP EXTENSION token_balance", ""),
    Trapped("CREATE EXTENSION token_balance SCHEMA public", ""),
    Usual(Is("it is attached", BOSS, &["SELECT count(*) FROM token_balance.binding"], "1")),
];

fn hostile_path(stage: &mut Stage) -> Result<()> {
    stage.run(
        BOSS,
        "CREATE SCHEMA trap AUTHORIZATION tb_mallory; GRANT USAGE ON SCHEMA trap TO PUBLIC",
    )?;
    make_trap(stage, "trap")?;
    for line in ON_PATH {
        match line {
            Trapped(statement, expected) => {
                let what = format!("trap, pg_catalog: {statement}");
                let path = "SET search_path = trap, pg_catalog, public";
                stage.check(&what, BOSS, &[path, statement], expected)?;
            }
            Usual(step) => stage.play(std::slice::from_ref(step))?,
        }
    }
    Ok(())
}
