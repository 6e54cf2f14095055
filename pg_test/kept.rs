//! What a backend keeps between calls (src/binding/bound.rs, src/postgres/direct), and what drops it (DESIGN K8,
//! K11).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::binding::{bound, is_part_of};
    use crate::error::Error;
    use crate::postgres::cursor::{Cursor, Life};
    use crate::postgres::direct::{Holds, Lookup, Wanted};
    use crate::postgres::invalidation::{generation, is_stale};
    use crate::postgres::key::KeyType;
    use crate::postgres::security::current_user;
    use crate::postgres::snapshot::Snapshot;
    use crate::postgres::spi::{self, Statement};
    use crate::postgres::value::Arg;
    use crate::settle::usage;
    use crate::tests::fixture::*;

    /// Whether what is kept is dropped by a statement.
    fn is_dropped_by(statement: &str) -> bool {
        let kept = bound(None).expect("attached");
        let before = generation();
        assert!(!is_stale(), "before {statement}");
        run(statement);
        let is_dropped = is_stale();
        assert_eq!(is_dropped, generation() != before, "{statement}");
        drop(kept);
        bound(None).expect("attached still");
        is_dropped
    }

    /// (DESIGN K8)
    #[pg_test]
    fn ddl_on_what_is_bound_or_ours_drops_the_binding() {
        application();
        run("CREATE ROLE kept_1; CREATE ROLE kept_2; CREATE SCHEMA elsewhere");
        for statement in [
            "ALTER TABLE users ADD more text",
            "ALTER TABLE token_usage ALTER total_tokens TYPE bigint",
            "ALTER TABLE token_usage ALTER workflow_id TYPE varchar(50)",
            "ALTER TABLE workflows RENAME user_id TO account",
            "ALTER TABLE workflows RENAME account TO user_id",
            "ALTER TABLE token_usage RENAME TO log_of_usage",
            "ALTER TABLE log_of_usage RENAME TO token_usage",
            "ALTER TABLE users SET SCHEMA elsewhere",
            "ALTER TABLE elsewhere.users SET SCHEMA app",
            "CREATE INDEX kept ON token_usage (workflow_id)",
            "DROP INDEX kept",
            "GRANT SELECT ON token_usage TO kept_1",
            "REVOKE SELECT ON token_usage FROM kept_1",
            "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE users OWNER TO kept_1",
            "ALTER TABLE users OWNER TO CURRENT_USER",
            "CREATE RULE kept AS ON DELETE TO token_usage DO INSTEAD NOTHING",
            "CREATE TRIGGER kept BEFORE UPDATE ON users FOR EACH ROW
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE INDEX ON token_balance.settlement (last_settled_at)",
            "ALTER TABLE token_balance.ledger SET (fillfactor = 90)",
            "ALTER TABLE token_balance.queue SET (fillfactor = 90)",
            "ALTER TABLE token_balance.binding SET (fillfactor = 90)",
            "SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle')",
            // The names in statements are those of schemas, too.
            "ALTER SCHEMA app RENAME TO app_2",
            "ALTER SCHEMA app_2 RENAME TO app",
            // Whether a table's owner may read it.
            "ALTER ROLE kept_1 CREATEDB",
            // In the schemas of the stored search_path.
            "GRANT CREATE ON SCHEMA app TO kept_2",
            "GRANT kept_1 TO kept_2",
        ] {
            assert!(is_dropped_by(statement), "{statement}");
        }
    }

    /// Or nothing would be kept on a busy server.
    #[pg_test]
    fn ddl_on_other_tables_does_not() {
        application();
        for statement in [
            "CREATE TABLE other (id text)",
            "ALTER TABLE other ADD more text",
            "CREATE TEMP TABLE another (id text)",
            "DROP TABLE other",
            "CREATE SCHEMA elsewhere",
            "ALTER SCHEMA elsewhere RENAME TO there",
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w', 'ann', 1)",
        ] {
            assert!(!is_dropped_by(statement), "{statement}");
        }
    }

    /// (DESIGN K8)
    #[pg_test]
    fn a_partition_is_a_part_as_long_as_it_is_attached() {
        schema();
        run(
            "CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
             CREATE TABLE workflows (id text, status text, day integer) PARTITION BY LIST (day);
             CREATE TABLE middle PARTITION OF workflows FOR VALUES IN (1, 2) PARTITION BY LIST (day);
             CREATE TABLE leaf PARTITION OF middle FOR VALUES IN (1);
             SELECT token_balance.attach('users', 'token_usage', 'workflows')",
        );
        let oid = |table: &str| -> pg_sys::Oid {
            let oid = number(&format!("SELECT '{table}'::regclass::oid::bigint"));
            pg_sys::Oid::from(oid as u32)
        };
        let (workflows, leaf) = (oid("workflows"), oid("leaf"));
        let is_part = || {
            bound(None).expect("attached");
            is_part_of(leaf, workflows).expect("an answer")
        };
        assert!(is_part() && is_part());
        // Neither the root nor the leaf is altered by name.
        run("ALTER TABLE workflows DETACH PARTITION middle");
        assert!(!is_part());
        run("ALTER TABLE workflows ATTACH PARTITION middle FOR VALUES IN (1, 2)");
        assert!(is_part());
        run("ALTER TABLE middle DETACH PARTITION leaf");
        assert!(!is_part());
        assert!(!is_part_of(leaf, oid("users")).unwrap());
    }

    /// The type of each column is that of the table as it is opened, whatever was said of it.
    #[pg_test]
    fn a_value_is_read_only_as_what_it_is() {
        schema();
        run("CREATE DOMAIN tokens AS integer;
             CREATE TABLE t (id text, small smallint, whole integer, big bigint, domain tokens,
                 exact numeric, loose double precision, moment timestamptz, words text,
                 short varchar(10), name uuid);
             CREATE INDEX ON t (id)");
        let owner = pg_sys::Oid::from(number(
            "SELECT relowner::bigint FROM pg_class WHERE oid = 't'::regclass",
        ) as u32);
        let table = number("SELECT 't'::regclass::oid::bigint") as u32;
        let can_read = |column: &str, holds: Holds| {
            let lookup = Lookup::new(Some(Wanted {
                table: pg_sys::Oid::from(table),
                owner,
                scope: None,
                key: "id".into(),
                key_type: KeyType::Text,
                columns: vec![(column.into(), holds)],
            }));
            lookup.reader().is_some()
        };
        let columns = [
            "small", "whole", "big", "domain", "exact", "loose", "moment", "words", "short", "name",
        ];
        let readable = |holds: Holds| -> Vec<&str> {
            let columns = columns.iter().copied();
            columns.filter(|column| can_read(column, holds)).collect()
        };
        assert_eq!(
            readable(Holds::Integer),
            ["small", "whole", "big", "domain"]
        );
        assert_eq!(readable(Holds::Key(KeyType::Text)), ["words"]);
        assert_eq!(readable(Holds::Key(KeyType::Varchar)), ["short"]);
        assert_eq!(readable(Holds::Key(KeyType::Uuid)), ["name"]);
        assert_eq!(readable(Holds::Key(KeyType::Int8)), ["big"]);
    }

    /// A schema is renamed under everybody's locks: a name may mean another table by the time that a
    /// statement is analyzed.
    #[pg_test]
    fn a_statement_is_of_its_tables_and_no_others_of_their_names() {
        application();
        let oid = |table: &str| {
            pg_sys::Oid::from(number(&format!("SELECT '{table}'::regclass::oid::bigint")) as u32)
        };
        let (bound, other) = (oid("users"), oid("workflows"));
        let statement = |tables: &[pg_sys::Oid]| {
            let sql = "UPDATE app.users SET id = id WHERE $1 IS NOT NULL";
            Statement::new(sql, &[pg_sys::TEXTOID]).of(tables)
        };
        let run_it = |statement: &Statement| {
            let outcome = statement.run(&[Arg::Text("x")], Snapshot::Statement);
            outcome.map(|outcome| outcome.processed)
        };
        let kept = statement(&[bound]);
        assert_eq!(run_it(&kept).ok(), Some(2));
        assert!(run_it(&statement(&[bound, other])).is_err());
        run("ALTER SCHEMA app RENAME TO away; CREATE SCHEMA app");
        run("CREATE TABLE app.users (id text)");
        assert!(matches!(run_it(&kept), Err(Error::ConcurrentRename)));
        let sql = "SELECT id FROM app.users";
        assert!(spi::query_of(&[bound], sql, &[], Snapshot::Caller).is_err());
        let (snapshot, life) = (Snapshot::Caller, Life::Transaction);
        let owner = current_user();
        assert!(Cursor::open(owner, &[bound], sql, &[], snapshot, life).is_err());
        run("DROP SCHEMA app CASCADE; ALTER SCHEMA away RENAME TO app");
        assert_eq!(run_it(&kept).ok(), Some(2));
        assert!(Cursor::open(owner, &[bound], sql, &[], snapshot, life).is_ok());
    }

    /// A path that was found is held against the table again, even if nobody said that it changed.
    #[pg_test]
    fn a_kept_path_is_for_the_types_that_it_was_found_for() {
        application();
        run("CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens)");
        add_usage("w", "ann", 10);
        settle("w");
        let before = bound(None).expect("attached");
        assert!(before.kept::<usage::Statements>().lookup.reader().is_some());
        run("ALTER TABLE token_usage ALTER total_tokens TYPE text");
        // The old binding, as a settlement under way would have it.
        assert!(before.kept::<usage::Statements>().lookup.reader().is_none());
        assert_fails(&settle_sql("w"), "42804");
        run("ALTER TABLE token_usage ALTER total_tokens TYPE bigint USING total_tokens::bigint");
        add_usage("w", "ann", 5);
        settle("w");
        assert_eq!(balance("ann"), INITIAL - 15);
    }
}
