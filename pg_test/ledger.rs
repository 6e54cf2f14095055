//! The ledger: an entry for every change of every balance, in a chain.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::ledger::change::Kind;
    use crate::tests::fixture::*;

    /// An entry that is written without SQL is not held to the CHECK.
    #[pg_test]
    fn the_kinds_of_entries_are_those_of_the_check() {
        let check = text(
            "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c
             WHERE c.conname = 'ledger_kind' AND c.conrelid = 'token_balance.ledger'::regclass",
        );
        let mut kinds: Vec<_> = check.split('\'').skip(1).step_by(2).collect();
        kinds.sort_unstable();
        let mut known = Kind::ALL.map(Kind::name);
        known.sort_unstable();
        assert_eq!(kinds, known, "{check}");
    }

    /// (DESIGN L1, S7)
    #[pg_test]
    fn all_kinds_of_changes_form_one_chain() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        run("UPDATE users SET token_balance = token_balance + 500");
        add_usage("w", "ann", 5);
        add_workflow("w", "ann", "done");
        run("INSERT INTO users VALUES ('ann', 7) ON CONFLICT (id)
             DO UPDATE SET token_balance = EXCLUDED.token_balance");
        run("UPDATE users SET token_balance = -3 WHERE id = 'ann'");
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w",
                "adjustment 999990 -> 1000490",
                "settlement 1000490 -> 1000485 w",
                "adjustment 1000485 -> 7",
                "adjustment 7 -> -3",
            ]
        );
        assert_eq!(entries("bob"), ["adjustment 1000000 -> 1000500"]);
        assert_ledger_is_whole();
    }

    /// (DESIGN L3)
    #[pg_test]
    fn an_account_has_no_entry_until_its_balance_changes() {
        application();
        run("INSERT INTO users VALUES ('eve', 5)");
        run("UPDATE users SET token_balance = token_balance");
        run("ALTER TABLE users ADD name text; UPDATE users SET name = id");
        assert_eq!(number("SELECT count(*) FROM token_balance.ledger"), 0);
        run("UPDATE users SET token_balance = token_balance + 1 WHERE id = 'eve'");
        assert_eq!(
            entries("eve"),
            ["adjustment 5 -> 6"],
            "with its opening balance"
        );
    }

    /// (DESIGN L2)
    #[pg_test]
    fn an_entry_names_the_role_that_made_the_change() {
        application();
        run("CREATE ROLE tb_unit_clerk;
             GRANT USAGE ON SCHEMA app TO tb_unit_clerk;
             GRANT SELECT, UPDATE ON users TO tb_unit_clerk;
             GRANT EXECUTE ON FUNCTION settle_workflow(text) TO tb_unit_clerk;
             SET LOCAL ROLE tb_unit_clerk;
             UPDATE users SET token_balance = 1 WHERE id = 'ann'");
        run("RESET ROLE");
        add_usage("w", "ann", 10);
        run("SET LOCAL ROLE tb_unit_clerk; SELECT settle_workflow('w'); RESET ROLE");
        let actors = "SELECT actor || ' ' || kind FROM token_balance.ledger ORDER BY entry_id";
        let expected = ["tb_unit_clerk adjustment", "tb_unit_clerk settlement"];
        assert_eq!(list(actors), expected);
    }

    /// (DESIGN S8)
    #[pg_test]
    fn entries_cannot_be_changed_or_removed_by_anybody() {
        application();
        run("UPDATE users SET token_balance = 1 WHERE id = 'ann'");
        for role in ["origin", "replica", "local"] {
            run(&format!("SET LOCAL session_replication_role = {role}"));
            for sql in [
                "UPDATE token_balance.ledger SET note = 'x'",
                "DELETE FROM token_balance.ledger",
                "TRUNCATE token_balance.ledger",
                "MERGE INTO token_balance.ledger USING (SELECT 1) AS s ON true
                 WHEN MATCHED THEN DELETE",
            ] {
                // 14 has no MERGE.
                let has_merge = number("SELECT current_setting('server_version_num')") >= 150_000;
                if has_merge || !sql.starts_with("MERGE") {
                    assert_fails(sql, "55000");
                }
            }
        }
        assert_eq!(entries("ann").len(), 1);
    }

    /// (DESIGN S7)
    #[pg_test]
    fn an_entry_that_does_not_add_up_is_refused_by_the_table() {
        application();
        for values in [
            "('ann', 'settlement', 1, 0, 2, 'me')",
            "('ann', 'gift', 1, 0, 1, 'me')",
        ] {
            assert_fails(
                &format!(
                    "INSERT INTO token_balance.ledger \
                     (user_id, kind, amount, previous_balance, new_balance, actor) VALUES {values}"
                ),
                "23514",
            );
        }
    }

    /// (DESIGN L4)
    #[pg_test]
    fn an_account_that_is_renamed_keeps_what_it_paid_for() {
        tables();
        run(
            "ALTER TABLE token_usage ADD FOREIGN KEY (user_id) REFERENCES users ON UPDATE CASCADE;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')",
        );
        add_usage("w", "ann", 10);
        settle("w");
        run("UPDATE users SET id = 'anna' WHERE id = 'ann'");
        assert_eq!(settle("w")["status"], "already_settled");
        assert_eq!(paid("anna"), 10);
        assert_eq!(
            entries("ann"),
            ["settlement 1000000 -> 999990 w", "adjustment 999990 -> 0"]
        );
        assert_eq!(entries("anna"), ["adjustment 0 -> 999990"]);
        add_usage("w", "anna", 5);
        assert_eq!(charge_of("w"), 5);
        assert_ledger_is_whole();
    }

    /// (DESIGN L4)
    #[pg_test]
    fn an_account_can_be_renamed_and_changed_in_one_statement() {
        application();
        run("UPDATE users SET id = 'anna', token_balance = token_balance + 5 WHERE id = 'ann'");
        assert_eq!(entries("anna"), ["adjustment 0 -> 1000005"]);
        run("UPDATE users SET id = 'ann', token_balance = token_balance - 5 WHERE id = 'anna'");
        assert_eq!(
            entries("ann"),
            ["adjustment 1000000 -> 0", "adjustment 0 -> 1000000"]
        );
        assert_eq!(
            entries("anna"),
            ["adjustment 0 -> 1000005", "adjustment 1000005 -> 0"]
        );
        assert_ledger_is_whole();
    }

    /// (DESIGN L4)
    #[pg_test]
    fn an_account_that_takes_the_id_of_one_that_had_paid_is_not_in_its_way() {
        application();
        add_usage("w", "ann", 10);
        add_usage("w", "bob", 20);
        settle("w");
        run("DELETE FROM users WHERE id = 'ann'");
        run("UPDATE users SET id = 'ann' WHERE id = 'bob'");
        assert_eq!(balance("ann"), 999_980);
        assert_ledger_is_whole();
    }

    /// (DESIGN S7)
    #[pg_test]
    fn an_account_that_is_created_again_goes_on_with_its_chain() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        run("DELETE FROM users WHERE id = 'ann'");
        assert_eq!(entries("ann").len(), 1, "the ledger outlives the account");
        run("INSERT INTO users VALUES ('ann')");
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w",
                "adjustment 999990 -> 1000000"
            ]
        );
        assert_eq!(charge_of("w"), 0, "what was paid stays paid");
        assert_ledger_is_whole();
    }

    /// (DESIGN S7)
    #[pg_test]
    fn entries_that_are_rolled_back_to_a_savepoint_leave_the_chain_whole() {
        application();
        add_usage("w", "ann", 10);
        run("UPDATE users SET token_balance = 100 WHERE id = 'ann'");
        run("DO $$ BEGIN
                 PERFORM settle_workflow('w');
                 UPDATE users SET token_balance = 7 WHERE id = 'ann';
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        settle("w");
        assert_eq!(
            entries("ann"),
            ["adjustment 1000000 -> 100", "settlement 100 -> 90 w"]
        );
        assert_ledger_is_whole();
    }

    /// (DESIGN L2)
    #[pg_test]
    fn a_settlement_that_failed_does_not_lend_its_name_to_the_next_change() {
        application();
        run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE SQLSTATE '23514'; END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        add_usage("w", "ann", 10);
        assert_fails(&settle_sql("w"), "23514");
        run("DROP TRIGGER refuse ON users");
        run("UPDATE users SET token_balance = token_balance - 10 WHERE id = 'ann'");
        assert_eq!(entries("ann"), ["adjustment 1000000 -> 999990"]);
    }

    /// (DESIGN L7)
    #[pg_test]
    fn a_balance_that_is_no_whole_number_within_bigint_is_refused() {
        tables();
        run("ALTER TABLE users ADD token_balance numeric;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')");
        for bad in ["0.5", "'NaN'", "1e30", "-9223372036854775809"] {
            assert_fails(&format!("UPDATE users SET token_balance = {bad}"), "22003");
        }
        run("UPDATE users SET token_balance = 7.000 WHERE id = 'ann'");
        assert_eq!(entries("ann"), ["adjustment 1000000 -> 7"]);
    }

    #[pg_test]
    fn a_change_larger_than_bigint_is_refused_and_not_wrapped() {
        tables();
        run(
            "SELECT token_balance.attach('users', 'token_usage', balance_type => 'bigint');
             UPDATE users SET token_balance = 9223372036854775807 WHERE id = 'ann'",
        );
        assert_fails(
            "UPDATE users SET token_balance = -9223372036854775808 WHERE id = 'ann'",
            "22003",
        );
        assert_ledger_is_whole();
    }

    /// (DESIGN S6)
    #[pg_test]
    fn entry_ids_rise_and_cannot_be_chosen() {
        application();
        for amount in 1..=5 {
            run(&format!(
                "UPDATE users SET token_balance = {amount} WHERE id = 'ann'"
            ));
        }
        assert!(is_true(
            "(SELECT array_agg(new_balance ORDER BY entry_id) = '{1,2,3,4,5}'
              FROM token_balance.ledger)"
        ));
        assert_fails(
            "INSERT INTO token_balance.ledger
             (entry_id, user_id, kind, amount, previous_balance, new_balance, actor)
             VALUES (1, 'ann', 'credit', 1, 0, 1, 'me')",
            "428C9",
        );
    }

    /// (DESIGN O11)
    #[pg_test]
    fn the_ledger_s_trigger_function_refuses_every_other_table() {
        application();
        run(
            "CREATE TABLE mine (id text PRIMARY KEY, token_balance integer);
             CREATE TRIGGER t AFTER INSERT OR UPDATE ON mine FOR EACH ROW
                 EXECUTE FUNCTION token_balance.record_balance_change()",
        );
        assert_fails("INSERT INTO mine VALUES ('ann', 1)", "42809");
        run("DROP TRIGGER t ON mine;
             CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW
                 EXECUTE FUNCTION token_balance.record_balance_change()");
        assert_fails("UPDATE users SET token_balance = 1", "39P01");
    }
}
