//! The trigger on the workflow table: which rows are completions, and what a bad charge does to one
//! (DESIGN section 4).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    #[pg_test]
    fn each_of_the_default_statuses_completes_a_run() {
        application();
        for status in ["completed", "succeeded", "success", "finished", "done"] {
            add_workflow(status, "ann", "running");
            add_usage(status, "ann", 10);
            let before = balance("ann");
            set_status(status, status);
            assert_eq!(before - balance("ann"), 10, "{status}");
        }
    }

    #[pg_test]
    fn no_other_status_completes_a_run() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        for status in [
            "failed",
            "Completed",
            "completed ",
            "complete",
            "cancelled",
            "",
        ] {
            set_status("w", status);
            assert_eq!(paid("ann"), 0, "{status:?}");
        }
        run("UPDATE workflows SET status = NULL");
        assert_eq!(paid("ann"), 0);
        complete("w");
        assert_eq!(paid("ann"), 10, "also from no status");
    }

    #[pg_test]
    fn statuses_that_attach_names_replace_the_default_ones() {
        tables();
        run(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows',
             completed_statuses => ARRAY['failed', 'it''s done', 'a,b'])",
        );
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        complete("w");
        assert_eq!(paid("ann"), 0);
        for (status, after) in [("failed", 10), ("it's done", 11), ("a,b", 12)] {
            set_status("w", "running");
            set_status("w", status);
            assert_eq!(paid("ann"), after, "{status}");
            add_usage("w", "ann", 1);
        }
    }

    #[pg_test]
    fn a_run_that_is_inserted_as_completed_is_settled() {
        application();
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "done");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn a_completion_without_usage_is_not_an_error() {
        application();
        let warnings = warnings_of(|| add_workflow("w", "ann", "done"));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(paid("ann"), 0);
    }

    #[pg_test]
    fn a_run_that_completes_again_charges_only_what_is_new() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        complete("w");
        set_status("w", "done");
        set_status("w", "running");
        complete("w");
        assert_eq!(paid("ann"), 10);
        add_usage("w", "ann", 5);
        complete("w");
        assert_eq!(paid("ann"), 10, "it was completed before");
        set_status("w", "running");
        complete("w");
        assert_eq!(paid("ann"), 15);
    }

    #[pg_test]
    fn completion_and_call_together_charge_once() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        complete("w");
        assert_eq!(settle("w")["status"], "already_settled");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn one_statement_completes_many_runs_of_many_accounts() {
        application();
        run(
            "INSERT INTO workflows SELECT 'w' || n, 'ann', 'running' FROM generate_series(1, 50) n;
             INSERT INTO token_usage (workflow_id, user_id, total_tokens)
                 SELECT 'w' || n, CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'bob' END, n
                 FROM generate_series(1, 50) n;
             UPDATE workflows SET status = 'completed'",
        );
        assert_eq!((paid("ann"), paid("bob")), (650, 625));
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn runs_of_one_session_share_its_usage() {
        schema();
        run("CREATE TABLE users (id varchar(50) PRIMARY KEY);
             CREATE TABLE token_usage (id serial, user_id varchar(50), session_id varchar(100),
                 total_tokens integer NOT NULL);
             CREATE TABLE tasks (id serial PRIMARY KEY, user_id varchar(50),
                 session_id varchar(100), status varchar(20));
             INSERT INTO users VALUES ('ann');
             SELECT token_balance.attach('users', 'token_usage', 'tasks',
                 usage_workflow => 'session_id', workflow_key => 'session_id');
             INSERT INTO tasks (user_id, session_id, status) VALUES
                 ('ann', 's', 'running'), ('ann', 's', 'running'), ('ann', NULL, 'running');
             INSERT INTO token_usage (user_id, session_id, total_tokens) VALUES
                 ('ann', 's', 10), ('ann', NULL, 5)");
        run("UPDATE tasks SET status = 'completed' WHERE id = 1");
        assert_eq!(paid("ann"), 10);
        run("INSERT INTO token_usage (user_id, session_id, total_tokens) VALUES ('ann', 's', 7)");
        run("UPDATE tasks SET status = 'completed' WHERE id = 2");
        assert_eq!(paid("ann"), 17);
        run("UPDATE tasks SET status = 'completed' WHERE id = 3");
        assert_eq!(paid("ann"), 17, "a run without a session has no usage");
    }

    #[pg_test]
    fn statuses_can_be_an_enum() {
        tables();
        run(
            "CREATE TYPE run_status AS ENUM ('queued', 'done', 'failed');
             ALTER TABLE workflows ALTER status TYPE run_status USING status::run_status;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')",
        );
        add_workflow("w", "ann", "queued");
        add_usage("w", "ann", 10);
        set_status("w", "failed");
        assert_eq!(paid("ann"), 0);
        set_status("w", "done");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn statuses_can_be_varchar_char_or_a_domain() {
        tables();
        run("CREATE DOMAIN run_status AS text CHECK (VALUE <> 'never')");
        for status_type in ["varchar(9)", "char(12)", "run_status"] {
            run(&format!(
                "ALTER TABLE workflows ALTER status TYPE {status_type}"
            ));
            run("SELECT token_balance.attach('users', 'token_usage', 'workflows')");
            let before = balance("ann");
            add_workflow(status_type, "ann", "running");
            add_usage(status_type, "ann", 10);
            assert_eq!(before - balance("ann"), 0, "{status_type}");
            complete(status_type);
            assert_eq!(before - balance("ann"), 10, "{status_type}");
            run("SELECT token_balance.detach()");
        }
    }

    #[pg_test]
    fn a_timestamp_that_is_set_can_mark_a_completion() {
        tables();
        run("ALTER TABLE workflows ADD finished_at timestamptz;
             SELECT token_balance.attach('users', 'token_usage', 'workflows',
                 workflow_completed_at => 'finished_at')");
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "completed");
        assert_eq!(paid("ann"), 0, "the status says nothing here");
        run("UPDATE workflows SET finished_at = now()");
        assert_eq!(paid("ann"), 10);
        add_usage("w", "ann", 1);
        run("UPDATE workflows SET finished_at = now() + interval '1 day'");
        assert_eq!(paid("ann"), 10, "it was completed before");
        run("UPDATE workflows SET finished_at = NULL; UPDATE workflows SET finished_at = now()");
        assert_eq!(paid("ann"), 11);
    }

    #[pg_test]
    fn each_inserted_row_can_be_a_completion() {
        tables();
        run(
            "CREATE TABLE completions (id serial PRIMARY KEY, workflow_id text);
             SELECT token_balance.attach('users', 'token_usage', 'completions',
                 workflow_key => 'workflow_id', workflow_status => NULL)",
        );
        add_usage("w", "ann", 10);
        run("INSERT INTO completions (workflow_id) VALUES ('w'), ('w'), (NULL)");
        assert_eq!(paid("ann"), 10);
        add_usage("w", "ann", 5);
        run("UPDATE completions SET workflow_id = workflow_id");
        assert_eq!(paid("ann"), 10, "an update is no completion");
        run("INSERT INTO completions (workflow_id) VALUES ('w')");
        assert_eq!(paid("ann"), 15);
    }

    #[pg_test]
    fn a_before_trigger_can_complete_a_run() {
        application();
        run("ALTER TABLE workflows ADD steps_left integer DEFAULT 1;
             CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN IF NEW.steps_left = 0 THEN NEW.status := 'done'; END IF; RETURN NEW; END$$;
             CREATE TRIGGER finish BEFORE UPDATE ON workflows
                 FOR EACH ROW EXECUTE FUNCTION finish()");
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("UPDATE workflows SET steps_left = 0");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn a_deferred_completion_is_settled_when_constraints_are_checked() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("SET CONSTRAINTS ALL DEFERRED");
        complete("w");
        assert_eq!(paid("ann"), 0);
        add_usage("w", "ann", 5);
        run("SET CONSTRAINTS ALL IMMEDIATE");
        assert_eq!(paid("ann"), 15, "usage that came meanwhile is included");
        assert_eq!(entries("ann").len(), 1);
    }

    #[pg_test]
    fn a_completion_that_is_rolled_back_to_a_savepoint_charges_nothing() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("DO $$ BEGIN
                 UPDATE workflows SET status = 'completed';
                 RAISE SQLSTATE 'UUUUU';
             EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$");
        assert_eq!((paid("ann"), charged("w")), (0, 0));
        complete("w");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn a_run_completes_with_a_warning_though_an_account_is_missing() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        add_usage("w", "ghost", 7);
        let warnings = warnings_of(|| complete("w"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code, "23503");
        assert!(warnings[0].message.contains("\"ghost\""), "{warnings:?}");
        assert!(warnings[0].detail.contains("7"), "{:?}", warnings[0]);
        assert_ne!(warnings[0].hint, "");
        assert_eq!(text("SELECT status FROM workflows"), "completed");
        assert_eq!(paid("ann"), 10, "who can pay pays");
        assert_eq!(charged("w"), 10);

        run("INSERT INTO users VALUES ('ghost')");
        assert_eq!(charge_of("w"), 7);
        assert_eq!((paid("ann"), paid("ghost")), (10, 7));
    }

    #[pg_test]
    fn a_run_completes_with_a_warning_though_the_charge_is_out_of_range() {
        application();
        run("UPDATE users SET token_balance = -2147483640 WHERE id = 'ann'");
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 9);
        add_usage("w", "bob", 1);
        let warnings = warnings_of(|| complete("w"));
        let codes: Vec<_> = warnings.iter().map(|warning| &warning.code).collect();
        assert_eq!(codes, ["22003"], "{warnings:?}");
        assert_eq!(text("SELECT status FROM workflows"), "completed");
        assert_eq!((balance("ann"), paid("bob")), (-2_147_483_640, 1));
        assert_eq!(charged("w"), 1);
        assert_fails(&settle_sql("w"), "22003");

        run("UPDATE users SET token_balance = 0 WHERE id = 'ann'");
        assert_eq!(charge_of("w"), 9);
        assert_eq!(balance("ann"), -9);
        assert_ledger_is_whole();
    }

    #[pg_test]
    fn a_run_completes_with_a_warning_though_the_sum_is_past_bigint() {
        tables();
        run("ALTER TABLE token_usage ALTER total_tokens TYPE bigint;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')");
        add_usage("w", "ann", i64::MAX);
        add_usage("w", "ann", i64::MAX);
        let warnings = warnings_of(|| add_workflow("w", "ann", "done"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code, "22003");
        assert!(
            warnings[0].detail.contains("18446744073709551614"),
            "{:?}",
            warnings[0]
        );
        assert_eq!(text("SELECT status FROM workflows"), "done");
        assert_eq!((paid("ann"), charged("w")), (0, 0));
    }

    #[pg_test]
    fn a_bad_charge_of_one_run_leaves_the_others_of_the_statement_alone() {
        application();
        for (workflow, account) in [("w1", "ann"), ("w2", "ghost"), ("w3", "bob")] {
            add_workflow(workflow, account, "running");
            add_usage(workflow, account, 10);
        }
        let warnings = warnings_of(|| run("UPDATE workflows SET status = 'completed'"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!((paid("ann"), paid("bob")), (10, 10));
        assert_eq!(
            number("SELECT count(*) FROM workflows WHERE status = 'completed'"),
            3
        );
    }

    #[pg_test]
    fn a_deferred_bad_charge_is_a_warning_too() {
        application();
        add_workflow("w", "ghost", "running");
        add_usage("w", "ghost", 7);
        run("SET CONSTRAINTS ALL DEFERRED");
        complete("w");
        let warnings = warnings_of(|| run("SET CONSTRAINTS ALL IMMEDIATE"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code, "23503");
    }

    #[pg_test]
    fn a_fault_that_is_no_bad_charge_refuses_the_completion() {
        application();
        run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE SQLSTATE '40001'; END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        assert_fails("UPDATE workflows SET status = 'completed'", "40001");
        assert_eq!(text("SELECT status FROM workflows"), "running");
        run("DROP TRIGGER refuse ON users");
        complete("w");
        assert_eq!(paid("ann"), 10);
    }

    #[pg_test]
    fn a_charge_that_the_application_suppresses_is_not_taken_for_made() {
        application();
        run(
            "CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RETURN NULL; END$$;
             CREATE TRIGGER suppress BEFORE UPDATE ON users
                 FOR EACH ROW EXECUTE FUNCTION suppress()",
        );
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        assert_fails(&settle_sql("w"), "27000");
        assert_fails("UPDATE workflows SET status = 'completed'", "27000");
        run("DROP TRIGGER suppress ON users");
        assert_eq!(charge_of("w"), 10);
    }

    #[pg_test]
    fn completion_triggers_do_not_fire_in_a_replica() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("SET LOCAL session_replication_role = replica");
        complete("w");
        assert_eq!(paid("ann"), 0);
        run("SET LOCAL session_replication_role = origin");
        assert_eq!(charge_of("w"), 10);
    }

    #[pg_test]
    fn the_trigger_function_refuses_every_other_table() {
        application();
        run("CREATE TABLE other (id text, status text)");
        for (timing, code) in [
            ("AFTER INSERT", "42809"),
            ("BEFORE INSERT", "39P01"),
            ("AFTER DELETE", "39P01"),
        ] {
            run(&format!(
                "CREATE TRIGGER t {timing} ON other FOR EACH ROW \
                 EXECUTE FUNCTION token_balance.settle_on_completion()"
            ));
            assert_fails(
                "INSERT INTO app.other VALUES ('w', 'done'); DELETE FROM app.other",
                code,
            );
            run("DROP TRIGGER t ON other");
        }
    }
}
