//! Rows that are read and written without SPI (src/postgres/direct): that is for tables as the extension and
//! CREATE INDEX make them, and everything else is left to SQL, which answers the same
//! (DESIGN K11).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::binding::bound;
    use crate::ledger::{account, entries};
    use crate::settle::{settlement, usage};
    use crate::tests::fixture::*;

    fn writes_settlements() -> bool {
        settlement::open(&bound(None).expect("attached").book).is_some()
    }

    fn writes_ledger() -> bool {
        entries::open(&bound(None).expect("attached").book).is_some()
    }

    fn changes_accounts() -> bool {
        let book = bound(None).expect("attached").book.clone();
        book.kept::<account::Statements>().adder.serves()
    }

    fn reads_usage() -> bool {
        let bound = bound(None).expect("attached");
        bound.kept::<usage::Statements>().lookup.reader().is_some()
    }

    /// (DESIGN P17)
    #[pg_test]
    fn what_the_extension_made_is_written_without_spi() {
        application();
        assert!(writes_settlements() && writes_ledger());
        assert!(!reads_usage(), "there is no index");
        run("CREATE INDEX ON token_usage (workflow_id)");
        assert!(reads_usage());
    }

    /// SQL that makes a table something else, for which the executor is needed.
    /// (DESIGN P17)
    #[pg_test]
    fn a_table_with_more_to_it_is_left_to_the_executor() {
        application();
        for change in [
            "ALTER TABLE token_balance.OWN ADD CHECK (user_id <> 'x')",
            "ALTER TABLE token_balance.OWN ADD note_of_ours text",
            "ALTER TABLE token_balance.OWN ADD twice bigint GENERATED ALWAYS AS (1) STORED",
            "ALTER TABLE token_balance.OWN ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE token_balance.OWN ADD UNIQUE (user_id, workflow_id) DEFERRABLE",
            "CREATE INDEX ON token_balance.OWN (lower(user_id))",
            "CREATE INDEX ON token_balance.OWN (user_id) WHERE workflow_id > 'a'",
            "CREATE INDEX ON token_balance.OWN USING hash (user_id)",
            "CREATE RULE r AS ON INSERT TO token_balance.OWN DO ALSO NOTIFY x",
            "CREATE TRIGGER t BEFORE INSERT ON token_balance.OWN FOR EACH ROW
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ] {
            for table in ["settlement", "ledger"] {
                let is_direct = rolled_back(|| {
                    run(&change.replace("OWN", table));
                    [writes_settlements(), writes_ledger()]
                });
                let others = [table == "ledger", table == "settlement"];
                assert_eq!(is_direct, others, "{change}");
            }
        }
        assert!(writes_settlements() && writes_ledger());
    }

    /// What an UPDATE of the balance does more than that, the executor sees to; what it does not do is in nobody's way.
    /// (DESIGN P22, K14)
    #[pg_test]
    fn accounts_with_more_to_them_are_left_to_the_executor() {
        application();
        run(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TABLE other (n integer PRIMARY KEY, m text, UNIQUE (n, m));
             ALTER TABLE users ADD name text, ADD tags text[]",
        );
        for (change, is_direct) in [
            ("SELECT 1", true),
            ("SET LOCAL token_balance.direct = off", false),
            ("SET LOCAL session_replication_role = replica", false),
            ("SET LOCAL session_replication_role = local", true),
            ("SET LOCAL transaction_read_only = on", false),
            // columns
            ("ALTER TABLE users DROP name, ADD born integer DEFAULT 1", true),
            ("ALTER TABLE users ALTER token_balance TYPE bigint", true),
            ("ALTER TABLE users ALTER token_balance TYPE numeric", false),
            ("CREATE DOMAIN d AS integer; ALTER TABLE users ALTER token_balance TYPE d", false),
            ("ALTER TABLE users ALTER id TYPE varchar(20)", true),
            ("ALTER TABLE users ADD g integer GENERATED ALWAYS AS (1) STORED", false),
            ("ALTER TABLE users ADD i bigint GENERATED ALWAYS AS IDENTITY", true),
            ("ALTER TABLE users ADD CHECK (name <> '')", false),
            ("ALTER TABLE users ALTER name SET DEFAULT 'n'", true),
            // indexes
            ("CREATE INDEX ON users (token_balance)", true),
            ("CREATE UNIQUE INDEX ON users (id) INCLUDE (token_balance)", true),
            ("CREATE UNIQUE INDEX ON users (name, token_balance)", false),
            ("CREATE INDEX ON users (lower(name))", false),
            ("CREATE INDEX ON users (name) WHERE token_balance > 0", false),
            ("CREATE INDEX ON users USING hash (name)", false),
            ("CREATE INDEX ON users USING gin (tags)", false),
            ("CREATE INDEX ON users (tags)", false),
            ("ALTER TABLE users ADD UNIQUE (name) DEFERRABLE", false),
            ("ALTER TABLE users ADD EXCLUDE USING btree (name WITH =)", false),
            // the key
            ("ALTER TABLE users DROP CONSTRAINT users_pkey; CREATE UNIQUE INDEX ON users (id)", true),
            ("ALTER TABLE users DROP CONSTRAINT users_pkey; ALTER TABLE users ADD UNIQUE (id, name)", false),
            ("ALTER TABLE users DROP CONSTRAINT users_pkey;
              CREATE UNIQUE INDEX ON users (id COLLATE \"POSIX\")", false),
            ("ALTER TABLE users DROP CONSTRAINT users_pkey;
              ALTER TABLE users ADD UNIQUE (id) DEFERRABLE", false),
            // triggers and rules
            ("CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f()", false),
            ("CREATE TRIGGER t AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f()", false),
            ("CREATE TRIGGER t AFTER UPDATE ON users FOR EACH STATEMENT EXECUTE FUNCTION f()", false),
            ("CREATE TRIGGER t AFTER UPDATE OF token_balance ON users EXECUTE FUNCTION f()", false),
            ("CREATE TRIGGER t AFTER UPDATE OF name ON users EXECUTE FUNCTION f()", true),
            ("CREATE TRIGGER t AFTER INSERT OR DELETE ON users EXECUTE FUNCTION f()", true),
            ("CREATE TRIGGER t AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f();
              ALTER TABLE users DISABLE TRIGGER t", true),
            ("CREATE TRIGGER t AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f();
              ALTER TABLE users ENABLE REPLICA TRIGGER t", true),
            ("CREATE TRIGGER t AFTER UPDATE ON users FOR EACH ROW
              EXECUTE FUNCTION token_balance.record_balance_change()", false),
            ("ALTER TABLE users DISABLE TRIGGER \"00_token_balance_ledger\"", false),
            ("ALTER TABLE users ENABLE REPLICA TRIGGER \"00_token_balance_ledger\"", false),
            ("ALTER TABLE users ENABLE ALWAYS TRIGGER \"00_token_balance_ledger\"", true),
            ("CREATE OR REPLACE TRIGGER \"00_token_balance_ledger\" AFTER INSERT OR UPDATE ON users FOR EACH ROW
              WHEN (NEW.token_balance > 0) EXECUTE FUNCTION token_balance.record_balance_change()", false),
            ("CREATE OR REPLACE TRIGGER \"00_token_balance_ledger\" AFTER UPDATE OF token_balance ON users FOR EACH ROW
              EXECUTE FUNCTION token_balance.record_balance_change()", false),
            ("CREATE OR REPLACE TRIGGER \"00_token_balance_ledger\" AFTER INSERT OR UPDATE ON users FOR EACH ROW
              EXECUTE FUNCTION f()", false),
            ("CREATE SCHEMA s; CREATE FUNCTION s.record_balance_change() RETURNS trigger LANGUAGE plpgsql
              AS 'BEGIN RETURN NULL; END';
              CREATE OR REPLACE TRIGGER \"00_token_balance_ledger\" AFTER INSERT OR UPDATE ON users FOR EACH ROW
              EXECUTE FUNCTION s.record_balance_change()", false),
            ("CREATE RULE r AS ON UPDATE TO users DO ALSO NOTIFY x", false),
            ("ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", true),
            // foreign keys
            ("ALTER TABLE users ADD boss text REFERENCES users", true),
            ("ALTER TABLE workflows ADD FOREIGN KEY (user_id) REFERENCES users", true),
            ("ALTER TABLE users ADD FOREIGN KEY (token_balance) REFERENCES other (n) NOT VALID", false),
            ("ALTER TABLE users ADD n integer, ADD FOREIGN KEY (n, name) REFERENCES other (n, m)", false),
            // other tables
            ("CREATE TABLE child () INHERITS (users)", false),
            // rights: those of the table's owner
            ("CREATE ROLE app_of_direct; GRANT ALL ON SCHEMA app TO app_of_direct;
              ALTER TABLE users OWNER TO app_of_direct", true),
            ("CREATE ROLE app_of_direct; GRANT ALL ON SCHEMA app TO app_of_direct;
              ALTER TABLE users OWNER TO app_of_direct; REVOKE UPDATE ON users FROM app_of_direct", false),
        ] {
            let found = rolled_back(|| {
                run(change);
                changes_accounts()
            });
            assert_eq!(found, is_direct, "{change}");
        }
        assert!(changes_accounts());
    }

    /// (DESIGN P22)
    #[pg_test]
    fn a_partition_is_left_to_the_executor() {
        schema();
        run(
            "CREATE TABLE users (id text PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE part PARTITION OF users DEFAULT;
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
             SELECT token_balance.attach('users', 'token_usage')",
        );
        assert!(!changes_accounts());
        run(
            "SELECT token_balance.detach(); ALTER TABLE users DETACH PARTITION part;
             SELECT token_balance.attach('part', 'token_usage', existing_usage => 'charge')",
        );
        assert!(changes_accounts());
    }

    /// What `work` answers, in a subtransaction that is rolled back.
    fn rolled_back<T>(work: impl FnOnce() -> T) -> T {
        // SAFETY: as PL/pgSQL's blocks do it.
        unsafe {
            let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
            pg_sys::BeginInternalSubTransaction(std::ptr::null());
            pg_sys::MemoryContextSwitchTo(context);
            let answer = work();
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
            answer
        }
    }

    /// The DBA's own indexes, unique or not, have every row.
    #[pg_test]
    fn indexes_of_the_dba_are_kept() {
        application();
        run(
            "CREATE INDEX dba_1 ON token_balance.settlement (last_settled_at, workflow_id);
             CREATE UNIQUE INDEX dba_2 ON token_balance.ledger (workflow_id) INCLUDE (actor);
             CREATE INDEX dba_3 ON token_balance.ledger (note) WHERE note IS NOT NULL",
        );
        assert!(writes_settlements() && writes_ledger());
        for workflow in ["v", "w"] {
            add_usage(workflow, "ann", 10);
        }
        settle("v");
        run("SELECT token_balance.settle_workflows('{w}')");
        run("SELECT token_balance.credit('ann', 5, 'r', 'a note')");
        run("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off");
        let count = |from: &str| number(&format!("SELECT count(*) FROM token_balance.{from}"));
        assert_eq!(count("settlement WHERE last_settled_at > 'epoch'"), 2);
        assert_eq!(count("ledger WHERE workflow_id IN ('v', 'w')"), 2);
        assert_eq!(count("ledger WHERE note = 'a note'"), 1);
        assert_eq!(count("ledger WHERE user_id = 'ann' AND reference = 'r'"), 1);
        assert_ledger_is_whole();
    }

    /// A unique index of the DBA's that a row violates: the server's own error, and nothing changed.
    #[pg_test]
    fn a_unique_index_of_the_dba_refuses_rows() {
        for index in ["ledger (kind)", "settlement (usage_tokens)"] {
            rolled_back(|| {
                application();
                run(&format!("CREATE UNIQUE INDEX ON token_balance.{index}"));
                assert!(writes_settlements() && writes_ledger());
                for workflow in ["v", "w", "x"] {
                    add_usage(workflow, "ann", 10);
                }
                settle("v");
                assert_fails(&settle_sql("w"), "23505");
                assert_fails("SELECT token_balance.settle_workflows('{w,x}')", "23505");
                assert_eq!(balance("ann"), INITIAL - 10);
                assert_ledger_is_whole();
            });
        }
    }

    /// SQL and the index give the same sums: of all integer types, nulls, many accounts, usage of
    /// nobody, with an index that has it all and with one that has not.
    #[pg_test]
    fn sums_are_those_of_sql() {
        let keys = [
            ("text", "'run-' || g"),
            ("varchar(40)", "'run ü ' || g"),
            ("uuid", "md5(g::text)::uuid"),
            ("smallint", "g - 20"),
            ("integer", "g - 2000000000"),
            ("bigint", "g - 9000000000000000000"),
        ];
        let indexes = [
            "CREATE INDEX ON token_usage (run) INCLUDE (user_id, a, b, c)",
            "CREATE INDEX ON token_usage (run, user_id)",
            "CREATE INDEX ON token_usage (run)",
        ];
        for (key_type, key) in keys {
            let mut sums = Vec::new();
            for index in [""].iter().chain(&indexes) {
                sums.push(rolled_back(|| {
                    schema();
                    run(&format!(
                        "CREATE TABLE users (id integer PRIMARY KEY);
                         INSERT INTO users SELECT generate_series(1, 40);
                         CREATE TABLE token_usage (user_id bigint, a smallint, gone text,
                             b integer, run {key_type}, c bigint);
                         ALTER TABLE token_usage DROP gone;
                         INSERT INTO token_usage
                         SELECT nullif(i * 7 % 41, 0), nullif(i % 5, 0), nullif(i % 7, 0) * 1000,
                             {key}, nullif(i % 3, 0) * 10 FROM generate_series(1, 2) AS h,
                             generate_series(1, 40) AS g, generate_series(1, g) AS i"
                    ));
                    run(index);
                    run("SELECT token_balance.attach('users', 'token_usage', usage_workflow => 'run',
                             usage_tokens => '{a,b,c}', existing_usage => 'charge')");
                    assert_eq!(reads_usage(), !index.is_empty());
                    settle(&text(&format!("SELECT ({key})::text FROM (SELECT 3 AS g) AS one")));
                    run(&format!(
                        "SELECT token_balance.settle_workflows(
                             (SELECT array_agg(({key})::text) FROM generate_series(1, 40) AS g))"
                    ));
                    assert_eq!(number("SELECT count(*) FROM token_balance.reconcile()"), 0);
                    text(
                        "SELECT string_agg(concat_ws(' ', workflow_id, user_id, charged_tokens), ','
                             ORDER BY workflow_id, user_id) FROM token_balance.settlement",
                    )
                }));
            }
            assert!(sums[0].len() > 1000);
            for other in &sums[1..] {
                assert_eq!(&sums[0], other, "{key_type}");
            }
        }
    }
}
