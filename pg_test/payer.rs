//! Usage without an account column: the workflow row's account pays (DESIGN F3).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    /// Users with integer ids 1 to 3; runs that many rows of one workflow may share.
    fn application_where_runs_pay() {
        schema();
        run("CREATE TABLE users (id integer PRIMARY KEY);
             CREATE TABLE calls (run text, tokens integer);
             CREATE TABLE runs (run text, owner text, status text);
             INSERT INTO users VALUES (1), (2), (3);
             SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL,
                 usage_workflow => 'run', usage_tokens => '{tokens}', workflow_key => 'run',
                 workflow_user => 'owner')");
    }

    fn call(workflow: &str, tokens: i64) {
        run(&format!(
            "INSERT INTO calls VALUES ({}, {tokens})",
            quoted(workflow)
        ));
    }

    fn start(workflow: &str, owner: &str) {
        run(&format!(
            "INSERT INTO runs VALUES ({}, {owner}, 'running')",
            quoted(workflow)
        ));
    }

    /// (DESIGN F3)
    #[pg_test]
    fn the_account_of_the_completed_row_pays() {
        application_where_runs_pay();
        start("w", "'2'");
        call("w", 10);
        run("UPDATE runs SET status = 'done'");
        assert_eq!([paid("1"), paid("2"), paid("3")], [0, 10, 0]);
        assert_eq!(entries("2"), ["settlement 1000000 -> 999990 w"]);
    }

    /// (DESIGN F3)
    #[pg_test]
    fn the_function_charges_the_only_account_that_can_pay() {
        application_where_runs_pay();
        start("w", "'2'");
        start("w", "'2'");
        start("w", "NULL");
        call("w", 10);
        let answer = settle("w");
        assert_eq!(answer["charges"][0]["user_id"], "2");
        assert_eq!(answer["new_balance"], 999_990);
        assert_eq!(settle("w")["status"], "already_settled");
    }

    /// (DESIGN H3)
    #[pg_test]
    fn the_function_does_not_choose_between_several_payers() {
        application_where_runs_pay();
        start("w", "'1'");
        start("w", "'2'");
        call("w", 10);
        let failure = assert_fails(&settle_sql("w"), "21000");
        assert!(failure.detail.contains("10"), "{:?}", failure);
        assert_ne!(failure.hint, "");
        assert_eq!([paid("1"), paid("2")], [0, 0]);

        run("UPDATE runs SET status = 'done' WHERE owner = '2'");
        assert_eq!([paid("1"), paid("2")], [0, 10], "a completion says who");
        assert_eq!(charge_of("w"), 0, "nothing is left to be argued about");
    }

    #[pg_test]
    fn each_completion_charges_its_own_account_for_what_is_new() {
        application_where_runs_pay();
        start("w", "'1'");
        start("w", "'2'");
        call("w", 10);
        run("UPDATE runs SET status = 'done' WHERE owner = '1'");
        call("w", 4);
        run("UPDATE runs SET status = 'done' WHERE owner = '2'");
        assert_eq!([paid("1"), paid("2")], [10, 4]);
        assert_eq!(charged("w"), 14);
        run("DELETE FROM calls WHERE tokens = 4; UPDATE runs SET status = 'running'");
        call("w", 3);
        run("UPDATE runs SET status = 'done'");
        assert_eq!(
            [paid("1"), paid("2")],
            [10, 4],
            "13 of the 14 that are paid"
        );
    }

    /// (DESIGN H1, H3)
    #[pg_test]
    fn nobody_s_run_is_an_error_in_the_function_and_a_warning_in_the_trigger() {
        application_where_runs_pay();
        start("w", "NULL");
        call("w", 10);
        assert_fails(&settle_sql("w"), "23503");
        let warnings = warnings_of(|| run("UPDATE runs SET status = 'done'"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code, "23503");
        assert_eq!(text("SELECT status FROM runs"), "done");
        assert_eq!(charged("w"), 0);

        run("UPDATE runs SET owner = '3'");
        assert_eq!(charge_of("w"), 10);
    }

    #[pg_test]
    fn usage_that_no_run_knows_waits_for_its_payer() {
        application_where_runs_pay();
        call("w", 10);
        assert_fails(&settle_sql("w"), "23503");
        run("INSERT INTO runs VALUES ('w', '1', 'done')");
        assert_eq!(paid("1"), 10);
    }

    #[pg_test]
    fn a_run_of_a_missing_account_completes_with_a_warning() {
        application_where_runs_pay();
        for owner in ["4", "not a number", ""] {
            call(owner, 10);
            let insert = format!("INSERT INTO runs VALUES ({0}, {0}, 'done')", quoted(owner));
            let warnings = warnings_of(|| run(&insert));
            assert_eq!(warnings.len(), 1, "{owner:?} {warnings:?}");
            assert_eq!(warnings[0].code, "23503", "{owner:?}");
            assert_eq!(charged(owner), 0, "{owner:?}");
            assert_fails(&settle_sql(owner), "23503");
        }
    }

    #[pg_test]
    fn an_owner_that_is_spelled_oddly_is_the_same_account() {
        application_where_runs_pay();
        start("w", "'2'");
        start("w", "'02'");
        call("w", 10);
        assert_eq!(charge_of("w"), 10);
        assert_eq!(paid("2"), 10);
        call("w", 1);
        run("UPDATE runs SET status = 'done' WHERE owner = '02'");
        assert_eq!(paid("2"), 11);
        assert_eq!(entries("02"), [""; 0]);
    }

    #[pg_test]
    fn a_workflow_without_usage_needs_no_payer() {
        application_where_runs_pay();
        start("w", "NULL");
        assert_eq!(settle("w")["status"], "no_usage");
        assert_fails(&settle_sql("nope"), "P0002");
    }

    /// (DESIGN H5)
    #[pg_test]
    fn existing_usage_of_runs_is_exempt_whoever_pays_later() {
        schema();
        run("CREATE TABLE users (id integer PRIMARY KEY);
             CREATE TABLE calls (run text, tokens integer);
             CREATE TABLE runs (run text, owner integer, status text);
             INSERT INTO users VALUES (1), (2);
             INSERT INTO runs VALUES ('w', 1, 'running'), ('w', 2, 'running'), ('v', NULL, 'done');
             INSERT INTO calls VALUES ('w', 10), ('w', NULL), ('v', 5), ('unknown', 3);
             SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL,
                 usage_workflow => 'run', usage_tokens => '{tokens}', workflow_key => 'run',
                 workflow_user => 'owner')");
        run("UPDATE runs SET status = 'done' WHERE owner = 2");
        assert_eq!([paid("1"), paid("2")], [0, 0]);
        call("w", 4);
        run("UPDATE runs SET status = 'running'; UPDATE runs SET status = 'done' WHERE owner = 2");
        assert_eq!([paid("1"), paid("2")], [0, 4]);
        run("UPDATE runs SET owner = 1 WHERE owner IS NULL");
        assert_eq!((charge_of("v"), charge_of("unknown")), (0, 0));
    }

    #[pg_test]
    fn without_an_account_column_a_workflow_table_is_needed() {
        schema();
        run("CREATE TABLE users (id integer PRIMARY KEY);
             CREATE TABLE calls (run text, tokens integer);
             CREATE TABLE runs (run text, owner integer, status text)");
        let arguments = "usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}'";
        let attach = |rest: &str| {
            format!("SELECT token_balance.attach('users', 'calls', {arguments}{rest})")
        };
        assert_fails(&attach(""), "22023");
        assert_fails(
            &attach(", workflows => 'runs', workflow_key => 'run'"),
            "42703",
        );
        run(&attach(
            ", workflows => 'runs', workflow_key => 'run', workflow_user => 'owner'",
        ));
    }
}
