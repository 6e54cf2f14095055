//! What an application's own triggers on its users table do in the middle of a settlement.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    fn add_trigger(name: &str, timing: &str, body: &str) {
        run(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN {body} RETURN NEW; END$$;
             CREATE TRIGGER {name} {timing} ON users FOR EACH ROW EXECUTE FUNCTION {name}()"
        ));
    }

    /// (DESIGN L1, L2)
    #[pg_test]
    fn a_before_trigger_that_alters_the_amount_has_an_entry_of_its_own() {
        application();
        add_trigger(
            "discount",
            "BEFORE UPDATE",
            "NEW.token_balance := NEW.token_balance + 4;",
        );
        add_usage("w", "ann", 10);
        let answer = settle("w");
        assert_eq!(answer["new_balance"], 999_994, "what the account has");
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w",
                "adjustment 999990 -> 999994"
            ]
        );
        assert_eq!(charged("w"), 10);
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn a_before_trigger_that_undoes_the_charge_leaves_both_entries() {
        application();
        add_trigger(
            "free_of_charge",
            "BEFORE UPDATE",
            "NEW.token_balance := OLD.token_balance;",
        );
        add_usage("w", "ann", 10);
        settle("w");
        assert_eq!(balance("ann"), INITIAL);
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w",
                "adjustment 999990 -> 1000000"
            ]
        );
        assert_eq!(charge_of("w"), 0);
    }

    /// (DESIGN L6)
    #[pg_test]
    fn an_after_trigger_that_tops_up_comes_after_the_charge() {
        application();
        add_trigger(
            "auto_top_up",
            "AFTER UPDATE",
            "IF NEW.token_balance < 999995 THEN
                 UPDATE users SET token_balance = token_balance + 100 WHERE id = NEW.id;
             END IF;",
        );
        add_usage("w", "ann", 10);
        settle("w");
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w",
                "adjustment 999990 -> 1000090"
            ]
        );
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn an_after_trigger_can_settle_another_workflow_of_the_same_account() {
        application();
        add_trigger(
            "settle_next",
            "AFTER UPDATE",
            "PERFORM public.settle_workflow(id) FROM (VALUES ('w2')) AS v(id);",
        );
        add_usage("w1", "ann", 10);
        add_usage("w2", "ann", 5);
        add_usage("w2", "bob", 3);
        let answer = settle("w1");
        assert_eq!(answer["tokens_used"], 10);
        assert_eq!((paid("ann"), paid("bob")), (15, 3));
        assert_eq!(
            entries("ann"),
            [
                "settlement 1000000 -> 999990 w1",
                "settlement 999990 -> 999985 w2"
            ]
        );
        assert_eq!(entries("bob"), ["settlement 1000000 -> 999997 w2"]);
        assert_eq!((charged("w1"), charged("w2")), (10, 8));
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn a_before_trigger_can_settle_a_workflow_of_another_account() {
        application();
        add_trigger(
            "settle_first",
            "BEFORE UPDATE",
            "IF NEW.id = 'ann' THEN PERFORM public.settle_workflow('w2'); END IF;",
        );
        add_usage("w1", "ann", 10);
        add_usage("w2", "bob", 3);
        settle("w1");
        assert_eq!(entries("ann"), ["settlement 1000000 -> 999990 w1"]);
        assert_eq!(entries("bob"), ["settlement 1000000 -> 999997 w2"]);
    }

    #[pg_test]
    fn a_before_trigger_that_adjusts_another_account_does_not_take_the_settlement() {
        application();
        add_trigger(
            "referral",
            "BEFORE UPDATE",
            "IF NEW.id = 'ann' THEN
                 UPDATE users SET token_balance = token_balance + 1 WHERE id = 'bob';
             END IF;",
        );
        add_usage("w", "ann", 10);
        settle("w");
        assert_eq!(entries("ann"), ["settlement 1000000 -> 999990 w"]);
        assert_eq!(entries("bob"), ["adjustment 1000000 -> 1000001"]);
    }

    /// The server fires what a trigger's own statement has queued before the rest of the outer one's
    /// (DESIGN L5).
    #[pg_test]
    fn an_after_trigger_that_changes_another_row_of_its_statement_is_shown_by_reconcile() {
        application();
        add_trigger(
            "referral",
            "AFTER UPDATE",
            "IF NEW.id = 'ann' THEN
                 UPDATE users SET token_balance = token_balance + 1 WHERE id = 'bob';
             END IF;",
        );
        run("UPDATE users SET token_balance = token_balance - 10");
        assert_eq!(
            entries("bob"),
            [
                "adjustment 999990 -> 999991",
                "adjustment 1000000 -> 999990"
            ]
        );
        let problems = list("SELECT problem FROM token_balance.reconcile() WHERE user_id = 'bob'");
        assert_eq!(problems, ["chain broken", "balance differs from ledger"]);
    }

    #[pg_test]
    fn a_settlement_that_fails_inside_a_trigger_leaves_the_outer_one_alone() {
        application();
        add_trigger(
            "try_another",
            "BEFORE UPDATE",
            "BEGIN PERFORM public.settle_workflow('unknown');
             EXCEPTION WHEN no_data_found THEN NULL; END;",
        );
        add_usage("w", "ann", 10);
        settle("w");
        assert_eq!(entries("ann"), ["settlement 1000000 -> 999990 w"]);
    }

    #[pg_test]
    fn a_trigger_that_fails_for_one_account_charges_none() {
        application();
        add_trigger(
            "refuse_bob",
            "AFTER UPDATE",
            "IF NEW.id = 'bob' THEN RAISE SQLSTATE '23514'; END IF;",
        );
        add_usage("w", "ann", 10);
        add_usage("w", "bob", 10);
        assert_fails(&settle_sql("w"), "23514");
        assert_eq!((paid("ann"), paid("bob"), charged("w")), (0, 0, 0));
        assert_eq!(entries("ann"), [""; 0]);
    }

    #[pg_test]
    fn an_error_of_a_trigger_reaches_the_caller_as_it_was_raised() {
        application();
        add_trigger(
            "refuse",
            "BEFORE UPDATE",
            "RAISE 'account is frozen' USING ERRCODE = 'restrict_violation',
                 DETAIL = 'since today', HINT = 'call us';",
        );
        add_usage("w", "ann", 10);
        let failure = assert_fails(&settle_sql("w"), "23001");
        assert_eq!(
            [failure.message, failure.detail, failure.hint],
            ["account is frozen", "since today", "call us"]
        );
    }

    #[pg_test]
    fn an_error_with_a_code_of_the_application_keeps_it() {
        application();
        add_trigger("refuse", "BEFORE UPDATE", "RAISE SQLSTATE 'PT402';");
        add_usage("w", "ann", 10);
        assert_fails(&settle_sql("w"), "PT402");
        add_workflow("w", "ann", "running");
        assert_fails("UPDATE workflows SET status = 'done'", "PT402");
    }

    #[pg_test]
    fn a_completed_run_can_complete_another_one() {
        application();
        run(
            "CREATE FUNCTION complete_parent() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                 UPDATE workflows SET status = 'done' WHERE id = 'parent' AND status <> 'done';
                 RETURN NULL; END$$;
             CREATE TRIGGER complete_parent AFTER UPDATE ON workflows
                 FOR EACH ROW EXECUTE FUNCTION complete_parent()",
        );
        add_workflow("child", "ann", "running");
        add_workflow("parent", "ann", "running");
        add_usage("child", "ann", 10);
        add_usage("parent", "ann", 5);
        complete("child");
        assert_eq!(paid("ann"), 15);
        assert_eq!((charged("child"), charged("parent")), (10, 5));
        assert_ledger_is_whole();
    }
}
