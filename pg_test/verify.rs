//! `verify`: each check, what breaks it, and that its hint mends it.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    /// The names of the checks that are not ok.
    fn broken() -> Vec<String> {
        list("SELECT name FROM token_balance.verify() WHERE NOT ok ORDER BY name")
    }

    fn hint_of(check: &str) -> String {
        text(&format!(
            "SELECT hint FROM token_balance.verify() WHERE name = {}",
            quoted(check)
        ))
    }

    /// Does what the hints say: `Call function(…).` or a statement.
    fn follow_hints() {
        for hint in list("SELECT hint FROM token_balance.verify() WHERE NOT ok") {
            match hint
                .strip_prefix("Call ")
                .and_then(|call| call.strip_suffix('.'))
            {
                Some(call) => run(&format!("SELECT {call}")),
                // It cannot run in the transaction of a test.
                None => run(&hint.replace("CONCURRENTLY ", "")),
            }
        }
    }

    fn application_with_indexes() {
        tables();
        run(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows',
             create_index => true);
             CREATE INDEX ON token_usage (user_id)",
        );
    }

    #[pg_test]
    fn a_fresh_binding_is_ok_in_every_check() {
        application_with_indexes();
        assert_eq!(broken(), [""; 0]);
        let names = list("SELECT name FROM token_balance.verify() ORDER BY name");
        let expected = [
            "binding",
            "column app.users.token_balance",
            "grants",
            "key app.users.id",
            "ledger guard",
            "owners",
            "search_path",
            "summary index",
            "trigger 00_token_balance_ledger on app.users",
            "trigger token_balance_completed_insert on app.workflows",
            "trigger token_balance_completed_update on app.workflows",
            "usage index",
        ];
        for check in expected {
            assert!(
                names.iter().any(|name| name == check),
                "{check} of {names:?}"
            );
        }
        assert!(is_true(
            "(SELECT bool_and(hint IS NULL AND detail <> '') FROM token_balance.verify())"
        ));
    }

    #[pg_test]
    fn verify_before_attach_says_that_nothing_is_attached() {
        schema();
        assert_eq!(broken(), ["binding"]);
        assert!(hint_of("binding").contains("token_balance.attach"));
    }

    /// (DESIGN K3, K6)
    #[pg_test]
    fn a_missing_index_is_told_with_the_statement_that_makes_it() {
        application();
        assert_eq!(broken(), ["summary index", "usage index"]);
        follow_hints();
        assert_eq!(broken(), [""; 0]);
        let made = list("SELECT indexdef FROM pg_indexes WHERE tablename = 'token_usage'");
        for index in ["(workflow_id) INCLUDE", "(user_id)"] {
            assert!(made.iter().any(|made| made.contains(index)), "{made:?}");
        }
    }

    #[pg_test]
    fn a_trigger_that_is_missing_or_disabled_is_told_and_mended() {
        application_with_indexes();
        for (table, trigger) in [
            ("app.users", "00_token_balance_ledger"),
            ("app.workflows", "token_balance_completed_insert"),
            ("app.workflows", "token_balance_completed_update"),
        ] {
            let check = format!("trigger {trigger} on {table}");
            for damage in [
                format!("ALTER TABLE {table} DISABLE TRIGGER \"{trigger}\""),
                format!("ALTER TABLE {table} ENABLE REPLICA TRIGGER \"{trigger}\""),
                format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER \"{trigger}\""),
                format!("DROP TRIGGER \"{trigger}\" ON {table}"),
            ] {
                run(&damage);
                assert_eq!(broken(), [check.as_str()], "{damage}");
                follow_hints();
                assert_eq!(broken(), [""; 0], "{damage}");
            }
        }
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "done");
        assert_eq!(entries("ann").len(), 1);
    }

    #[pg_test]
    fn a_balance_column_that_was_altered_is_told_and_mended() {
        application_with_indexes();
        for damage in [
            "ALTER TABLE users ALTER token_balance DROP NOT NULL",
            "ALTER TABLE users ALTER token_balance DROP DEFAULT",
            "ALTER TABLE users DROP token_balance",
        ] {
            run(damage);
            assert_eq!(broken(), ["column app.users.token_balance"], "{damage}");
            follow_hints();
            assert_eq!(broken(), [""; 0], "{damage}");
        }
    }

    #[pg_test]
    fn following_the_hints_keeps_the_initial_balance() {
        tables();
        run(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows',
             initial_balance => 5000, create_index => true);
             DROP TRIGGER \"00_token_balance_ledger\" ON users",
        );
        follow_hints();
        assert_eq!(broken(), [""; 0]);
        run("INSERT INTO users VALUES ('eve')");
        assert_eq!(balance("eve"), 5000);
        assert_eq!(
            number("SELECT initial_balance FROM token_balance.binding"),
            5000
        );
    }

    #[pg_test]
    fn following_the_hints_brings_a_dropped_bigint_column_back() {
        tables();
        run(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows',
             initial_balance => 5000000000, balance_type => 'bigint', create_index => true);
             ALTER TABLE users DROP token_balance",
        );
        follow_hints();
        assert_eq!(broken(), [""; 0]);
        assert_eq!(balance("ann"), 5_000_000_000);
    }

    #[pg_test]
    fn hints_are_right_for_names_that_need_quotes() {
        schema();
        run("CREATE TABLE \"User's\" (\"Id\" text PRIMARY KEY);
             CREATE TABLE \"Usage\" (\"work,flow\" text, \"us\"\"er\" text, \"in, out\" integer);
             CREATE TABLE \"Order\" (\"Key\" text, \"Status\" text);
             SELECT token_balance.attach('\"User''s\"', '\"Usage\"', '\"Order\"',
                 user_key => 'Id', usage_user => 'us\"er', usage_workflow => 'work,flow',
                 usage_tokens => ARRAY['in, out']::name[], workflow_key => 'Key',
                 workflow_status => 'Status',
                 completed_statuses => ARRAY['done, or so', 'it''s done', '{x}']);
             DROP TRIGGER token_balance_completed_insert ON \"Order\"");
        assert_eq!(broken().len(), 3, "the trigger and the indexes");
        follow_hints();
        assert_eq!(broken(), [""; 0]);
    }

    #[pg_test]
    fn a_key_that_is_no_longer_unique_is_told() {
        application_with_indexes();
        run("ALTER TABLE users DROP CONSTRAINT users_pkey");
        assert_eq!(broken(), ["key app.users.id"]);
        run("ALTER TABLE users ADD UNIQUE (id)");
        assert_eq!(broken(), [""; 0]);
    }

    #[pg_test]
    fn only_an_index_that_finds_a_workflow_counts() {
        application();
        run("CREATE INDEX ON token_usage (user_id)");
        for index in [
            "(user_id, workflow_id)",
            "(workflow_id) WHERE total_tokens > 0",
            "USING brin (workflow_id)",
            "(lower(workflow_id))",
        ] {
            run(&format!("CREATE INDEX ON token_usage {index}"));
            assert_eq!(broken(), ["usage index"], "{index}");
        }
        run("CREATE INDEX ON token_usage (workflow_id, user_id)");
        assert_eq!(broken(), [""; 0]);
    }

    /// (DESIGN S4)
    #[pg_test]
    fn tables_that_were_renamed_are_told() {
        application_with_indexes();
        run("ALTER TABLE workflows RENAME TO runs");
        assert_eq!(broken(), ["binding"]);
        let detail = "SELECT detail FROM token_balance.verify() WHERE name = 'binding'";
        let detail = text(detail);
        assert!(
            detail.contains("app.runs") && detail.contains("app.workflows"),
            "{detail}"
        );
    }

    #[pg_test]
    fn tables_that_were_dropped_are_told_and_are_no_error() {
        application_with_indexes();
        run("DROP TABLE token_usage");
        assert_eq!(broken(), ["binding"]);
    }

    /// (DESIGN D11)
    #[pg_test]
    fn a_ledger_that_could_be_changed_is_told_and_mended() {
        application_with_indexes();
        for damage in [
            "ALTER TABLE token_balance.ledger DISABLE TRIGGER append_only_rows",
            "ALTER TABLE token_balance.ledger ENABLE TRIGGER append_only_truncate",
        ] {
            run(damage);
            assert_eq!(broken(), ["ledger guard"], "{damage}");
            follow_hints();
            assert_eq!(broken(), [""; 0], "{damage}");
        }
    }

    /// (DESIGN D12)
    #[pg_test]
    fn a_sequence_that_is_behind_gives_no_entry_id() {
        application_with_indexes();
        run("UPDATE users SET token_balance = 1");
        run("SELECT setval('token_balance.ledger_entry_id_seq', 1, false)");
        run("UPDATE users SET token_balance = 2");
        assert_eq!(broken(), [""; 0]);
        assert_ledger_is_whole();
    }

    /// (DESIGN O10)
    #[pg_test]
    fn a_grant_that_was_taken_away_is_told_and_mended() {
        application_with_indexes();
        run("CREATE ROLE tb_unit_owner;
             GRANT USAGE ON SCHEMA app TO tb_unit_owner;
             GRANT SELECT ON token_usage, workflows TO tb_unit_owner;
             ALTER TABLE users OWNER TO tb_unit_owner");
        assert_eq!(broken(), ["grants"], "a new owner");
        follow_hints();
        assert_eq!(broken(), [""; 0]);
        run("REVOKE SELECT ON token_usage FROM tb_unit_owner");
        assert_eq!(broken(), ["owners"]);
    }
}
