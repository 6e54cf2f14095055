//! `settle_workflow`: what it charges and what it answers.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;
    use serde_json::{Value, json};

    use crate::tests::fixture::*;

    /// (DESIGN A1, A2, A3)
    #[pg_test]
    fn the_answer_tells_what_one_account_paid() {
        application();
        add_usage("w", "ann", 10);
        add_usage("w", "ann", 20);
        let expected = json!({
            "success": true,
            "previous_balance": 1_000_000,
            "tokens_used": 30,
            "new_balance": 999_970,
            "is_overdraft": false,
            "workflow_id": "w",
            "status": "settled",
            "charges": [{
                "user_id": "ann",
                "tokens_used": 30,
                "previous_balance": 1_000_000,
                "new_balance": 999_970,
                "is_overdraft": false,
            }],
        });
        assert_eq!(settle("w"), expected);
        assert_eq!(balance("ann"), 999_970);
    }

    /// (DESIGN A2, E2)
    #[pg_test]
    fn a_second_call_charges_nothing_and_says_so() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        let again = settle("w");
        assert_eq!(again["status"], "already_settled");
        assert_eq!(again["tokens_used"], 0);
        assert_eq!(again["charges"], json!([]));
        assert_eq!(again["previous_balance"], 999_990);
        assert_eq!(again["new_balance"], 999_990);
        assert_eq!(paid("ann"), 10);
        assert_eq!(entries("ann").len(), 1);
    }

    /// (DESIGN P7)
    #[pg_test]
    fn a_call_without_a_charge_writes_nothing() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        let versions = "SELECT string_agg(t, ' ') FROM (
            SELECT xmin || ' ' || cmin || ' ' || ctid FROM token_balance.settlement
            UNION ALL SELECT xmin || ' ' || cmin || ' ' || ctid FROM users) AS v(t)";
        let before = text(versions);
        settle("w");
        assert_eq!(text(versions), before);
    }

    /// (DESIGN H7)
    #[pg_test]
    fn usage_that_comes_late_is_charged_by_the_next_call() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        add_usage("w", "ann", 7);
        let late = settle("w");
        assert_eq!(late["status"], "settled");
        assert_eq!(late["tokens_used"], 7);
        assert_eq!(late["previous_balance"], 999_990);
        assert_eq!(paid("ann"), 17);
    }

    /// (DESIGN A6)
    #[pg_test]
    fn a_known_workflow_without_usage_is_no_usage() {
        application();
        add_workflow("w", "ann", "running");
        let answer = settle("w");
        assert_eq!(answer["status"], "no_usage");
        assert_eq!(answer["success"], true);
        assert_eq!(answer["tokens_used"], 0);
        assert_eq!(answer["previous_balance"], Value::Null);
        assert_eq!(answer["charges"], json!([]));
    }

    /// (DESIGN A6)
    #[pg_test]
    fn an_unknown_workflow_is_an_error() {
        application();
        let failure = assert_fails(&settle_sql("nope"), "P0002");
        assert_eq!(failure.message, "workflow \"nope\" does not exist");
        assert_ne!(failure.hint, "");
    }

    /// (DESIGN A6)
    #[pg_test]
    fn a_workflow_that_only_the_usage_knows_is_settled() {
        application();
        add_usage("only used", "ann", 3);
        assert_eq!(settle("only used")["status"], "settled");
    }

    /// (DESIGN A7)
    #[pg_test]
    fn a_null_id_is_an_error_in_every_form_of_the_function() {
        application();
        for sql in [
            "SELECT settle_workflow(NULL::text)",
            "SELECT settle_workflow(NULL::bigint)",
            "SELECT settle_workflow(NULL::uuid)",
            "SELECT * FROM token_balance.settle_workflows(NULL)",
            "SELECT token_balance.balance(NULL)",
        ] {
            assert_fails(sql, "22004");
        }
    }

    #[pg_test]
    fn nothing_attached_is_an_error_with_a_hint() {
        schema();
        for sql in [
            "SELECT settle_workflow('w')",
            "SELECT * FROM token_balance.settle_workflows('{w}')",
            "SELECT token_balance.balance('ann')",
            "SELECT token_balance.detach()",
        ] {
            let failure = assert_fails(sql, "55000");
            assert!(failure.hint.contains("token_balance.attach"), "{failure:?}");
        }
    }

    /// (DESIGN A8)
    #[pg_test]
    fn a_call_before_completion_charges_what_is_there() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        assert_eq!(charge_of("w"), 10);
        add_usage("w", "ann", 5);
        complete("w");
        assert_eq!(paid("ann"), 15);
        assert_eq!(settle("w")["status"], "already_settled");
    }

    /// (DESIGN A3, P4)
    #[pg_test]
    fn several_accounts_pay_each_their_own() {
        application();
        add_usage("w", "bob", 5);
        add_usage("w", "ann", 10);
        add_usage("w", "bob", 1);
        let answer = settle("w");
        assert_eq!(answer["tokens_used"], 16);
        assert_eq!(answer["previous_balance"], Value::Null);
        assert_eq!(answer["new_balance"], Value::Null);
        let who: Vec<_> = [0, 1]
            .map(|n| {
                let charge = &answer["charges"][n];
                format!("{} {}", charge["user_id"], charge["tokens_used"])
            })
            .into();
        assert_eq!(who, ["\"ann\" 10", "\"bob\" 6"], "in the order of accounts");
        assert_eq!((paid("ann"), paid("bob")), (10, 6));
    }

    /// (DESIGN A3)
    #[pg_test]
    fn of_several_accounts_only_the_one_with_new_usage_is_charged() {
        application();
        add_usage("w", "ann", 10);
        add_usage("w", "bob", 5);
        settle("w");
        add_usage("w", "bob", 2);
        let answer = settle("w");
        assert_eq!(answer["charges"].as_array().map(Vec::len), Some(1));
        assert_eq!(answer["charges"][0]["user_id"], "bob");
        assert_eq!((paid("ann"), paid("bob")), (10, 7));
    }

    /// (DESIGN A4)
    #[pg_test]
    fn an_amount_that_cannot_be_read_is_an_error_and_never_0() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        add_usage("w", "ann", 1);
        run(
            "ALTER TABLE token_balance.settlement ALTER usage_tokens TYPE numeric,
                 ALTER usage_tokens DROP NOT NULL",
        );
        for unreadable in ["10.5", "1e30", "'NaN'", "NULL"] {
            run(&format!(
                "UPDATE token_balance.settlement SET usage_tokens = {unreadable}"
            ));
            assert_fails(&settle_sql("w"), "55000");
        }
        run("UPDATE token_balance.settlement SET usage_tokens = 10");
        assert_eq!(charge_of("w"), 1);
    }

    /// (DESIGN A5)
    #[pg_test]
    fn usage_that_names_no_account_is_nobody_s_to_pay() {
        application();
        run(
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens)
             VALUES ('w', NULL, 99), ('w', 'ann', 1)",
        );
        assert_eq!(charge_of("w"), 1);
        assert_eq!((paid("ann"), paid("bob")), (1, 0));
    }

    #[pg_test]
    fn usage_that_names_no_workflow_is_never_charged() {
        application();
        run(
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens)
             VALUES (NULL, 'ann', 99), ('', 'ann', 1)",
        );
        assert_eq!(charge_of(""), 1);
        assert_eq!(paid("ann"), 1);
    }

    /// (DESIGN P8)
    #[pg_test]
    fn a_sum_that_shrank_charges_nothing_and_gives_nothing_back() {
        application();
        add_usage("w", "ann", 10);
        add_usage("w", "ann", 20);
        settle("w");
        run("DELETE FROM token_usage WHERE total_tokens = 20");
        let answer = settle("w");
        assert_eq!(answer["status"], "already_settled");
        assert_eq!(paid("ann"), 30);
        add_usage("w", "ann", 15);
        assert_eq!(charge_of("w"), 0, "25 of the 30 that are paid");
        add_usage("w", "ann", 15);
        assert_eq!(charge_of("w"), 10, "40 less the 30 that are paid");
        run("DELETE FROM token_usage");
        add_workflow("w", "ann", "running");
        assert_eq!(charge_of("w"), 0);
        assert_eq!(paid("ann"), 40);
    }

    /// (DESIGN P7)
    #[pg_test]
    fn null_and_zero_tokens_count_as_nothing() {
        application();
        run(
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens)
             VALUES ('w', 'ann', NULL), ('w', 'ann', 0)",
        );
        assert_eq!(settle("w")["status"], "already_settled");
        assert_eq!(entries("ann"), [""; 0]);
        add_usage("w", "ann", 4);
        assert_eq!(charge_of("w"), 4);
    }

    /// (DESIGN E3)
    #[pg_test]
    fn an_account_goes_into_overdraft_and_is_still_charged() {
        application();
        run("UPDATE users SET token_balance = 10 WHERE id = 'ann'");
        add_usage("w", "ann", 10);
        let zero = settle("w");
        assert_eq!(
            (&zero["new_balance"], &zero["is_overdraft"]),
            (&json!(0), &json!(false))
        );
        add_usage("w", "ann", 1);
        let below = settle("w");
        assert_eq!(
            (&below["new_balance"], &below["is_overdraft"]),
            (&json!(-1), &json!(true))
        );
        assert_eq!(below["charges"][0]["is_overdraft"], true);
        let still = settle("w");
        assert_eq!(
            still["is_overdraft"], true,
            "though this call charged nothing"
        );
        assert_eq!(
            json("SELECT token_balance.balance('ann')"),
            json!({"token_balance": -1, "is_overdraft": true})
        );
    }

    #[pg_test]
    fn one_account_of_several_in_overdraft_is_told() {
        application();
        run("UPDATE users SET token_balance = 1 WHERE id = 'bob'");
        add_usage("w", "ann", 5);
        add_usage("w", "bob", 5);
        let answer = settle("w");
        assert_eq!(answer["is_overdraft"], true);
        assert_eq!(answer["charges"][0]["is_overdraft"], false);
        assert_eq!(answer["charges"][1]["is_overdraft"], true);
    }

    #[pg_test]
    fn the_balance_of_an_unknown_account_is_an_error() {
        application();
        assert_fails("SELECT token_balance.balance('zoe')", "P0002");
    }

    #[pg_test]
    fn several_token_columns_are_added_up_and_nulls_are_0() {
        schema();
        run("CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text,
                 input_tokens smallint, output_tokens integer, cached_tokens bigint);
             INSERT INTO users VALUES ('ann');
             SELECT token_balance.attach('users', 'token_usage',
                 usage_tokens => '{input_tokens,output_tokens,cached_tokens}');
             INSERT INTO token_usage VALUES ('w', 'ann', 1, 20, 300), ('w', 'ann', NULL, 4, NULL),
                 ('w', 'ann', NULL, NULL, NULL), ('v', 'ann', NULL, NULL, 7)");
        assert_eq!(charge_of("w"), 325);
        assert_eq!(charge_of("v"), 7, "where a column is null in every row");
    }

    #[pg_test]
    fn the_sum_of_columns_past_integer_is_charged_to_a_bigint_balance() {
        schema();
        run("CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, i integer, o integer);
             INSERT INTO users VALUES ('ann');
             SELECT token_balance.attach('users', 'token_usage', usage_tokens => '{i,o}',
                 balance_type => 'bigint');
             INSERT INTO token_usage SELECT 'w', 'ann', 2147483647, 2147483647
                 FROM generate_series(1, 3)");
        assert_eq!(charge_of("w"), 6 * i64::from(i32::MAX));
        assert_eq!(balance("ann"), INITIAL - 6 * i64::from(i32::MAX));
    }

    /// (DESIGN H3)
    #[pg_test]
    fn a_sum_past_bigint_is_out_of_range_and_charges_nothing() {
        schema();
        run("CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint);
             INSERT INTO users VALUES ('ann'), ('bob');
             SELECT token_balance.attach('users', 'token_usage', balance_type => 'bigint');
             INSERT INTO token_usage VALUES ('w', 'ann', 1), ('w', 'bob', 9223372036854775807),
                 ('w', 'bob', 1)");
        let failure = assert_fails(&settle_sql("w"), "22003");
        assert!(
            failure.detail.contains("9223372036854775808"),
            "{:?}",
            failure
        );
        assert_eq!((paid("ann"), paid("bob"), charged("w")), (0, 0, 0));
        run("DELETE FROM token_usage WHERE user_id = 'bob' AND total_tokens > 1");
        assert_eq!(charge_of("w"), 2);
    }

    /// (DESIGN E3)
    #[pg_test]
    fn a_balance_can_go_down_to_the_smallest_number_and_not_below() {
        schema();
        run("CREATE TABLE users (id text PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint);
             INSERT INTO users VALUES ('ann');
             SELECT token_balance.attach('users', 'token_usage', initial_balance => 0,
                 balance_type => 'bigint');
             INSERT INTO token_usage VALUES ('w', 'ann', 9223372036854775807), ('v', 'ann', 1),
                 ('u', 'ann', 1)");
        assert_eq!(charge_of("w"), i64::MAX);
        assert_eq!(charge_of("v"), 1);
        assert_eq!(balance("ann"), i64::MIN);
        assert_fails(&settle_sql("u"), "22003");
        assert_ledger_is_whole();
    }

    /// (DESIGN H3)
    #[pg_test]
    fn a_bad_charge_fails_the_whole_call() {
        application();
        run("INSERT INTO users VALUES ('rich', 2147483647)");
        add_usage("w", "ann", 10);
        add_usage("w", "ghost", 7);
        let failure = assert_fails(&settle_sql("w"), "23503");
        assert!(failure.message.contains("\"ghost\""), "{failure:?}");
        assert!(failure.detail.contains("7"), "{:?}", failure);
        assert_ne!(failure.hint, "");
        assert_eq!((paid("ann"), charged("w")), (0, 0));
        run("INSERT INTO users VALUES ('ghost')");
        assert_eq!(charge_of("w"), 17);
    }

    /// (DESIGN H3)
    #[pg_test]
    fn a_charge_below_the_range_of_the_column_is_an_error() {
        application();
        run("UPDATE users SET token_balance = -2147483640 WHERE id = 'ann'");
        add_usage("w", "bob", 1);
        add_usage("w", "ann", 9);
        let failure = assert_fails(&settle_sql("w"), "22003");
        assert!(failure.hint.contains("bigint"), "{failure:?}");
        assert_eq!((balance("ann"), paid("bob")), (-2_147_483_640, 0));
        run("ALTER TABLE users ALTER token_balance TYPE bigint");
        assert_eq!(charge_of("w"), 10);
        assert_eq!(balance("ann"), -2_147_483_649);
    }

    #[pg_test]
    fn any_text_can_be_an_id() {
        application();
        for id in [
            "O'Hara",
            "a \"quoted\" id",
            "back\\slash",
            "日本語 ✓",
            " spaces ",
            "$1",
            "%s {}",
        ] {
            run(&format!("INSERT INTO users VALUES ({})", quoted(id)));
            add_usage(id, id, 3);
            let answer = settle(id);
            assert_eq!(answer["workflow_id"], id);
            assert_eq!(answer["charges"][0]["user_id"], id);
            assert_eq!(paid(id), 3);
            assert_eq!(charge_of(id), 0);
        }
    }

    /// (DESIGN F1, P2)
    #[pg_test]
    fn a_batch_has_one_row_for_each_charge() {
        application();
        add_usage("w1", "bob", 1);
        add_usage("w2", "ann", 20);
        add_usage("w1", "ann", 300);
        add_usage("w3", "ann", 4000);
        settle("w3");
        let rows = list(
            "SELECT concat_ws(' ', workflow_id, user_id, charged_tokens, previous_balance, \
             new_balance) FROM token_balance.settle_workflows('{w2,w1,w3,w1}')",
        );
        // Every settlement takes accounts in one order, so that two batches cannot deadlock.
        let expected = [
            "w1 ann 300 996000 995700",
            "w2 ann 20 995700 995680",
            "w1 bob 1 1000000 999999",
        ];
        assert_eq!(rows, expected);
        let again = "SELECT count(*) FROM token_balance.settle_workflows('{w1,w2,w3}')";
        assert_eq!(number(again), 0);
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn a_batch_with_a_null_charges_nothing() {
        application();
        add_usage("w1", "ann", 5);
        let sql = "SELECT * FROM token_balance.settle_workflows('{w1,NULL}')";
        assert_fails(sql, "22004");
        assert_eq!(paid("ann"), 0);
    }

    #[pg_test]
    fn a_batch_with_an_unknown_workflow_charges_nothing() {
        application();
        add_usage("w1", "ann", 5);
        let sql = "SELECT * FROM token_balance.settle_workflows('{w1,nope}')";
        assert_fails(sql, "P0002");
        assert_eq!(paid("ann"), 0);
        let empty = "SELECT count(*) FROM token_balance.settle_workflows('{}')";
        assert_eq!(number(empty), 0);
    }

    /// (DESIGN S5)
    #[pg_test]
    fn a_settlement_row_tells_usage_charge_and_times() {
        application();
        add_usage("w", "ann", 10);
        settle("w");
        let row = "SELECT concat_ws(' ', workflow_id, user_id, usage_tokens, charged_tokens, \
                   refunded_tokens) FROM token_balance.settlement";
        assert_eq!(text(row), "w ann 10 10 0");
        assert!(is_true(
            "(SELECT first_settled_at = last_settled_at FROM token_balance.settlement)"
        ));
        add_usage("w", "ann", 5);
        settle("w");
        assert_eq!(text(row), "w ann 15 15 0");
        assert!(is_true(
            "(SELECT first_settled_at < last_settled_at FROM token_balance.settlement)"
        ));
    }

    /// (DESIGN E1)
    #[pg_test]
    fn a_settlement_that_is_rolled_back_to_a_savepoint_can_be_made_again() {
        application();
        add_usage("w", "ann", 10);
        run("DO $$ BEGIN
                 PERFORM settle_workflow('w');
                 IF (SELECT token_balance FROM users WHERE id = 'ann') <> 999990 THEN
                     RAISE 'not charged';
                 END IF;
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        assert_eq!((paid("ann"), charged("w")), (0, 0));
        assert_eq!(settle("w")["status"], "settled");
        assert_eq!(entries("ann"), ["settlement 1000000 -> 999990 w"]);
    }

    /// (DESIGN O1)
    #[pg_test]
    fn a_settlement_that_fails_gives_the_caller_s_role_back() {
        application();
        run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE SQLSTATE '23514'; END$$;
             CREATE ROLE tb_unit_owner;
             ALTER TABLE users OWNER TO tb_unit_owner;
             GRANT USAGE ON SCHEMA app TO tb_unit_owner;
             GRANT SELECT ON token_usage, workflows TO tb_unit_owner;
             CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        add_usage("w", "ann", 10);
        let caller = text("SELECT current_user");
        assert_fails(&settle_sql("w"), "23514");
        assert_eq!(text("SELECT current_user"), caller);
        run("DROP TRIGGER refuse ON users");
        settle("w");
        assert_eq!(text("SELECT current_user"), caller);
    }

    #[pg_test]
    fn a_read_only_transaction_is_refused_before_anything_else() {
        application();
        add_usage("w", "ann", 10);
        let read_only = "SET LOCAL transaction_read_only = on";
        assert_fails(&format!("{read_only}; {}", settle_sql("w")), "25006");
        assert_fails(
            &format!("{read_only}; SELECT token_balance.detach()"),
            "25006",
        );
        let balance = format!("{read_only}; SELECT token_balance.balance('ann')");
        assert!(failure_of(&balance).is_none(), "reading a balance is fine");
    }

    /// First claims are made without a look. What is settled already in between is looked up, and after it so much that
    /// each of the ways is gone by several times.
    /// (DESIGN P23)
    #[pg_test]
    fn a_guess_that_was_wrong_is_looked_up() {
        application();
        for round in 0..4 {
            let ids = ["u", "v", "w", "x"].map(|name| format!("{name}{round}"));
            for id in &ids {
                add_usage(id, "ann", 10);
                add_usage(id, "bob", 1);
            }
            settle(&ids[1]);
            add_usage(&ids[1], "bob", 5);
            add_usage(&ids[2], "nobody", 0);
            let charged = text(&format!(
                "SELECT string_agg(concat_ws(' ', left(workflow_id, 1), user_id, charged_tokens), ', '
                     ORDER BY workflow_id, user_id)
                 FROM token_balance.settle_workflows('{{{}}}')",
                ids.join(",")
            ));
            let expected = "u ann 10, u bob 1, v bob 5, w ann 10, w bob 1, x ann 10, x bob 1";
            assert_eq!(charged, expected, "round {round}");
            // Nothing is new: the first is a guess, the others are looked up.
            for _ in 0..70 {
                settle(&ids[0]);
            }
        }
        assert_eq!(balance("ann"), INITIAL - 4 * 40);
        assert_eq!(balance("bob"), INITIAL - 4 * 9);
        assert_ledger_is_whole();
        assert_eq!(number("SELECT count(*) FROM token_balance.reconcile()"), 0);
    }
}
