//! One session through DDL on the bound tables, detach and attach again.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    const ATTACH: &str = "SELECT token_balance.attach('users', 'token_usage', 'workflows')";

    /// One settlement by the function and one by the trigger, with the plans that the session has.
    #[track_caller]
    fn assert_it_settles(after: &str) {
        let before = balance("ann");
        add_usage(&format!("call {after}"), "ann", 1);
        add_usage(&format!("run {after}"), "ann", 20);
        settle(&format!("call {after}"));
        add_workflow(&format!("run {after}"), "ann", "done");
        assert_eq!(before - balance("ann"), 21, "after {after}");
        assert_ledger_is_whole();
    }

    /// (DESIGN K12)
    #[pg_test]
    fn a_session_settles_on_through_ddl() {
        application();
        assert_it_settles("attach");
        for ddl in [
            "ALTER TABLE users ALTER token_balance TYPE bigint",
            "ALTER TABLE token_usage ALTER total_tokens TYPE bigint",
            "CREATE INDEX usage_index ON token_usage (workflow_id) INCLUDE (user_id, total_tokens)",
            "ANALYZE users, token_usage, workflows",
            "DROP INDEX usage_index",
            "ALTER TABLE users ADD COLUMN extra text DEFAULT 'x'",
            "ALTER TABLE users DROP COLUMN extra",
            "ALTER TABLE users ALTER id TYPE varchar(40)",
            "ALTER TABLE users ALTER token_balance TYPE numeric",
            "ALTER TABLE users ALTER token_balance TYPE integer",
            "ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "DISCARD PLANS",
            "SET LOCAL plan_cache_mode = force_custom_plan",
        ] {
            run(ddl);
            assert_it_settles(ddl);
        }
    }

    #[pg_test]
    fn a_wider_balance_is_used_to_its_end() {
        application();
        run("UPDATE users SET token_balance = -2147483648 WHERE id = 'ann'");
        add_usage("w", "ann", 1);
        assert_fails(&settle_sql("w"), "22003");
        run("ALTER TABLE users ALTER token_balance TYPE bigint");
        assert_eq!(settle("w")["new_balance"], -2_147_483_649_i64);
        run("UPDATE users SET token_balance = 5;
             ALTER TABLE users ALTER token_balance TYPE smallint");
        add_usage("v", "ann", 40_000);
        assert_fails(&settle_sql("v"), "22003");
    }

    /// (DESIGN K8, S4)
    #[pg_test]
    fn bound_tables_can_be_renamed_and_moved() {
        application();
        assert_it_settles("attach");
        run("ALTER TABLE token_usage RENAME TO usage_log;
             ALTER TABLE workflows RENAME TO runs;
             ALTER TABLE users RENAME TO accounts;
             CREATE SCHEMA elsewhere;
             ALTER TABLE accounts SET SCHEMA elsewhere");
        run("INSERT INTO usage_log (workflow_id, user_id, total_tokens)
             VALUES ('w', 'ann', 1), ('v', 'ann', 20)");
        assert_eq!(charge_of("w"), 1);
        run("INSERT INTO runs VALUES ('v', 'ann', 'done')");
        let left = "SELECT token_balance FROM elsewhere.accounts WHERE id = 'ann'";
        assert_eq!(number(left), INITIAL - 21 - 21);
        run("UPDATE elsewhere.accounts SET token_balance = 1 WHERE id = 'ann'");
        assert_eq!(entries("ann").len(), 5);
    }

    /// (DESIGN S4)
    #[pg_test]
    fn another_table_in_the_place_of_a_bound_one_is_not_taken_for_it() {
        application();
        assert_it_settles("attach");
        run("ALTER TABLE users RENAME TO old_users;
             CREATE TABLE users (id text PRIMARY KEY, token_balance integer DEFAULT 7);
             INSERT INTO users VALUES ('ann')");
        add_usage("w", "ann", 10);
        assert_eq!(charge_of("w"), 10);
        assert_eq!(balance("ann"), 7);
        let old = "SELECT token_balance FROM old_users WHERE id = 'ann'";
        assert_eq!(number(old), INITIAL - 21 - 10);
    }

    /// (DESIGN B14)
    #[pg_test]
    fn a_bound_column_that_is_renamed_stays_bound_and_one_of_its_name_is_not_read() {
        application();
        assert_it_settles("attach");
        for (table, column) in [
            ("users", "id"),
            ("token_usage", "workflow_id"),
            ("token_usage", "user_id"),
            ("token_usage", "total_tokens"),
        ] {
            add_usage("w", "ann", 1);
            run(&format!(
                "ALTER TABLE {table} RENAME {column} TO renamed;
                 ALTER TABLE {table} ADD {column} text"
            ));
            assert_eq!(charge_of("w"), 1, "{table}.{column} is renamed");
            run(&format!(
                "ALTER TABLE {table} DROP {column};
                 ALTER TABLE {table} RENAME renamed TO {column}"
            ));
            add_usage("w", "ann", 1);
            assert_eq!(charge_of("w"), 1, "{table}.{column} is back");
        }
    }

    #[pg_test]
    fn bound_tables_that_are_dropped_are_a_clear_error_and_can_be_replaced() {
        application();
        assert_it_settles("attach");
        run("DROP TABLE token_usage");
        let failure = assert_fails(&settle_sql("w"), "42P01");
        assert!(failure.message.contains("token_usage"), "{failure:?}");
        run("SELECT token_balance.detach()");
        assert_fails(&settle_sql("w"), "55000");
        run("UPDATE users SET token_balance = token_balance + 1;
             INSERT INTO workflows VALUES ('left alone', 'ann', 'done')");
        run("CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer)");
        assert_fails(ATTACH, "55000");
        run("SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new')");
        assert_it_settles("attach to new tables");
    }

    #[pg_test]
    fn the_type_of_a_workflow_id_can_change_without_a_second_charge() {
        application();
        add_usage("42", "ann", 10);
        assert_eq!(charge_of("42"), 10);
        run("ALTER TABLE token_usage ALTER workflow_id TYPE bigint USING workflow_id::bigint");
        assert_fails(&settle_sql("42"), "55000");
        run("SELECT token_balance.attach_again()");
        assert_eq!(charge_of("42"), 0);
        assert_eq!(charge_of("042"), 0, "the column's type says what an id is");
        run("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (42, 'ann', 5)");
        assert_eq!(charge_of("42"), 5);
    }

    /// (DESIGN D8)
    #[pg_test]
    fn after_detach_nothing_is_charged_and_everything_stays() {
        application();
        assert_it_settles("attach");
        run("SELECT token_balance.detach()");
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "done");
        assert_fails(&settle_sql("w"), "55000");
        assert_eq!(paid("ann"), 21);
        assert_eq!(entries("ann").len(), 2);
        assert_eq!(number("SELECT count(*) FROM token_balance.settlement"), 2);
        run("UPDATE users SET token_balance = 5");
        assert_eq!(entries("ann").len(), 2, "no trigger is left");
        assert_fails("SELECT token_balance.detach()", "55000");
    }

    #[pg_test]
    fn detach_drops_the_column_only_when_told() {
        application();
        let has_column = "EXISTS (SELECT FROM pg_attribute WHERE attname = 'token_balance'
                          AND attrelid = 'users'::regclass)";
        run("SELECT token_balance.detach()");
        assert!(is_true(has_column));
        run(ATTACH);
        run("SELECT token_balance.detach(drop_column => true)");
        assert!(!is_true(has_column));
        run(ATTACH);
        assert_eq!(balance("ann"), INITIAL);
    }

    #[pg_test]
    fn a_second_binding_goes_on_with_the_chain_of_the_first() {
        application();
        assert_it_settles("attach");
        run("SELECT token_balance.detach();
             UPDATE users SET token_balance = 500;
             INSERT INTO users VALUES ('eve', 3);
             DELETE FROM users WHERE id = 'bob'");
        run(ATTACH);
        assert_eq!(
            entries("ann").last().map(String::as_str),
            Some("adjustment 999979 -> 500")
        );
        assert_eq!(
            text("SELECT note FROM token_balance.ledger ORDER BY entry_id DESC LIMIT 1"),
            "changed while token_balance was not attached"
        );
        assert_eq!(entries("eve"), [""; 0], "it has no chain to go on with");
        assert_it_settles("attach again");
        run("SELECT token_balance.detach()");
        run(ATTACH);
        assert_eq!(entries("ann").len(), 5, "what did not change has no entry");
    }

    #[pg_test]
    fn a_second_binding_does_not_charge_what_the_first_one_did() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        run("SELECT token_balance.detach()");
        add_usage("w", "ann", 5);
        run(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows',
             existing_usage => 'charge')",
        );
        assert_eq!(charge_of("w"), 5);
        run("SELECT token_balance.detach()");
        add_usage("w", "ann", 7);
        run(ATTACH);
        assert_eq!(charge_of("w"), 7, "nothing is exempted a second time");
        assert_eq!(paid("ann"), 22);
        assert_eq!(charged("w"), 22);
    }

    #[pg_test]
    fn an_exempt_binding_does_not_lower_what_is_accounted_for() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        run("DELETE FROM token_usage; SELECT token_balance.detach()");
        add_usage("w", "ann", 4);
        run(ATTACH);
        add_usage("w", "ann", 6);
        assert_eq!(charge_of("w"), 0, "10 of the 10 that are paid");
    }

    #[pg_test]
    fn an_attach_that_is_rolled_back_is_forgotten_by_the_session() {
        tables();
        run("DO $$ BEGIN
                 PERFORM token_balance.attach('users', 'token_usage', 'workflows');
                 INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w', 'ann', 1);
                 PERFORM settle_workflow('w');
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        assert_fails(&settle_sql("w"), "55000");
        run(ATTACH);
        assert_it_settles("attach");
    }

    #[pg_test]
    fn a_detach_that_is_rolled_back_is_forgotten_by_the_session() {
        application();
        assert_it_settles("attach");
        run("DO $$ BEGIN
                 PERFORM token_balance.detach(drop_column => true);
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        assert_it_settles("a detach that was rolled back");
    }

    #[pg_test]
    fn ddl_that_is_rolled_back_is_forgotten_by_the_session() {
        application();
        assert_it_settles("attach");
        run("DO $$ BEGIN
                 ALTER TABLE users ALTER token_balance TYPE bigint;
                 UPDATE users SET token_balance = 5000000000;
                 INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w', 'ann', 1);
                 PERFORM settle_workflow('w');
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        assert_it_settles("DDL that was rolled back");
        run("UPDATE users SET token_balance = -2147483648");
        add_usage("v", "ann", 1);
        assert_fails(&settle_sql("v"), "22003");
    }
}
