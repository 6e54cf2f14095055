//! The trigger on the workflow table: which rows are completions, and what a bad charge does to
//! one.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    /// (DESIGN D5, T1)
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

    /// (DESIGN T1)
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

    /// (DESIGN D5)
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

    /// (DESIGN T1)
    #[pg_test]
    fn a_run_that_is_inserted_as_completed_is_settled() {
        application();
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "done");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN A6)
    #[pg_test]
    fn a_completion_without_usage_is_not_an_error() {
        application();
        let warnings = warnings_of(|| add_workflow("w", "ann", "done"));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(paid("ann"), 0);
    }

    /// (DESIGN E2, H7)
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

    /// (DESIGN E2)
    #[pg_test]
    fn completion_and_call_together_charge_once() {
        application();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        complete("w");
        assert_eq!(settle("w")["status"], "already_settled");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN T9)
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

    /// (DESIGN F10)
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

    /// (DESIGN F5, T1)
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

    /// (DESIGN F4, T1)
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

    /// What an UPDATE of the workflow table must name for the trigger to look at it.
    fn watched_columns() -> String {
        text(
            "SELECT substring(pg_get_triggerdef(oid) FROM ' UPDATE OF (.*?) ON ') FROM pg_trigger
             WHERE tgrelid = 'workflows'::regclass AND tgname = 'token_balance_completed_update'",
        )
    }

    /// A trigger function that completes a run without the UPDATE's saying so.
    fn with_finish() {
        run("ALTER TABLE workflows ADD steps_left integer DEFAULT 1;
             CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN IF NEW.steps_left = 0 THEN NEW.status := 'done'; END IF; RETURN NEW; END$$");
    }

    fn finish_before_update_of(table: &str) {
        run(&format!(
            "CREATE TRIGGER finish BEFORE UPDATE ON {table}
                 FOR EACH ROW EXECUTE FUNCTION finish()"
        ));
    }

    fn overlooked() -> Vec<String> {
        list(
            "SELECT detail FROM token_balance.verify()
             WHERE NOT ok AND name LIKE 'trigger %' ORDER BY name",
        )
    }

    fn attach_again() {
        run("SELECT token_balance.attach('users', 'token_usage', 'workflows')");
    }

    /// (DESIGN K2, T5)
    #[pg_test]
    fn only_updates_that_name_the_status_are_looked_at() {
        application();
        assert_eq!(watched_columns(), "status");
        run("ALTER TABLE workflows RENAME status TO \"State\"");
        assert_eq!(watched_columns(), "\"State\"");
        run("ALTER TABLE workflows RENAME \"State\" TO status");
        // A condition that fails wherever it is evaluated.
        run(
            "ALTER TABLE workflows DISABLE TRIGGER token_balance_completed_insert;
             CREATE OR REPLACE FUNCTION token_balance.note_usual_status(
                 old text, new text, \"table\" oid, \"row\" tid)
                 RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE 'PT999'; END$$",
        );
        add_workflow("w", "ann", "running");
        run("UPDATE workflows SET user_id = 'bob'");
        assert_fails("UPDATE workflows SET status = 'running'", "PT999");
        assert_fails(
            "INSERT INTO workflows (id) VALUES ('w') ON CONFLICT (id) DO UPDATE SET status = ''",
            "PT999",
        );
        run("INSERT INTO workflows (id) VALUES ('w') ON CONFLICT (id) DO UPDATE SET user_id = ''");
    }

    /// (DESIGN T5)
    #[pg_test]
    fn only_updates_that_name_the_timestamp_are_looked_at() {
        tables();
        run("ALTER TABLE workflows ADD ended timestamptz;
             SELECT token_balance.attach('users', 'token_usage', 'workflows',
                 workflow_completed_at => 'ended')");
        assert_eq!(watched_columns(), "ended");
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("UPDATE workflows SET ended = now()");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN T6)
    #[pg_test]
    fn a_before_trigger_can_complete_a_run() {
        tables();
        with_finish();
        finish_before_update_of("workflows");
        run("ALTER TABLE workflows DISABLE TRIGGER finish");
        attach_again();
        assert_eq!(watched_columns(), "", "one that is off may be switched on");
        run("ALTER TABLE workflows ENABLE TRIGGER finish");
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        run("UPDATE workflows SET steps_left = 0");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN T7, T8)
    #[pg_test]
    fn a_before_trigger_that_comes_later_is_told_and_mended() {
        application();
        with_finish();
        finish_before_update_of("workflows");
        assert_eq!(
            overlooked(),
            ["overlooks what BEFORE triggers set: finish on app.workflows"; 2],
            "it might change the id as well"
        );
        add_workflow("w1", "ann", "running");
        add_usage("w1", "ann", 10);
        run("UPDATE workflows SET steps_left = 0");
        assert_eq!(paid("ann"), 0);
        run("SELECT token_balance.settle_pending()");
        assert_eq!(paid("ann"), 10);

        run(
            "ALTER TABLE workflows ENABLE ALWAYS TRIGGER token_balance_completed_update;
             SET CONSTRAINTS ALL DEFERRED",
        );
        add_workflow("w0", "ann", "done");
        let attach = "SELECT token_balance.attach('users', 'token_usage', 'workflows')";
        assert_fails(attach, "55006");
        assert_fails("SELECT token_balance.detach()", "55006");
        run("SET CONSTRAINTS ALL IMMEDIATE");
        attach_again();
        assert_eq!(watched_columns(), "");
        assert_eq!(
            text(
                "SELECT tgenabled FROM pg_trigger WHERE tgname = 'token_balance_completed_update'"
            ),
            "A",
            "it was altered by hand"
        );
        run("ALTER TABLE workflows ENABLE TRIGGER token_balance_completed_update");
        assert_eq!(overlooked(), [""; 0]);
        add_workflow("w2", "ann", "running");
        add_usage("w2", "ann", 5);
        run("UPDATE workflows SET steps_left = 0");
        assert_eq!(paid("ann"), 15);

        run("DROP TRIGGER finish ON workflows");
        attach_again();
        assert_eq!(watched_columns(), "status", "it is gone again");
    }

    /// (DESIGN T6, T7)
    #[pg_test]
    fn a_before_trigger_of_a_partition_counts() {
        schema();
        run("CREATE TABLE users (id text PRIMARY KEY);
             INSERT INTO users VALUES ('ann');
             CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
             CREATE TABLE workflows (id text, user_id text, status text, part integer DEFAULT 1)
                 PARTITION BY LIST (part);
             CREATE TABLE workflows_1 PARTITION OF workflows FOR VALUES IN (1)
                 PARTITION BY LIST (part);
             CREATE TABLE workflows_1a PARTITION OF workflows_1 DEFAULT");
        attach_again();
        assert_eq!(watched_columns(), "status");
        with_finish();
        finish_before_update_of("workflows_1");
        let above = "overlooks what BEFORE triggers set: finish on app.workflows_1";
        assert_eq!(
            overlooked(),
            [above; 2],
            "and not the one it gave to its own partition"
        );
        run("DROP TRIGGER finish ON workflows_1;
             CREATE TABLE workflows_2 (LIKE workflows)");
        finish_before_update_of("workflows_2");
        assert_eq!(overlooked(), [""; 0]);
        run("ALTER TABLE workflows ATTACH PARTITION workflows_2 FOR VALUES IN (2)");
        assert_eq!(
            overlooked(),
            ["overlooks what BEFORE triggers set: finish on app.workflows_2"; 2]
        );
        attach_again();
        assert_eq!((watched_columns(), overlooked().len()), (String::new(), 0));
        for (workflow, part) in [("w1", 1), ("w2", 2)] {
            run(&format!(
                "INSERT INTO workflows (id, status, part) VALUES ('{workflow}', 'running', {part})"
            ));
            add_usage(workflow, "ann", 10);
        }
        run("UPDATE workflows SET steps_left = 0");
        assert_eq!(paid("ann"), 10, "of the partition that has the trigger");
        complete("w1");
        assert_eq!(paid("ann"), 20);
    }

    /// (DESIGN T6)
    #[pg_test]
    fn a_status_that_is_generated_completes_a_run() {
        tables();
        run(
            "ALTER TABLE workflows DROP status, ADD ended boolean, ADD status text
                 GENERATED ALWAYS AS (CASE WHEN ended THEN 'done' END) STORED",
        );
        attach_again();
        assert_eq!(watched_columns(), "");
        run("INSERT INTO workflows (id) VALUES ('w')");
        add_usage("w", "ann", 10);
        run("UPDATE workflows SET ended = true");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN T10)
    #[pg_test]
    fn note_status_holds_when_the_status_becomes_a_completed_one() {
        application();
        for (old, new, holds) in [
            ("'running'", "'done'", true),
            ("NULL", "'done'", true),
            ("'done'", "'done'", false),
            ("'done'", "'it''s, done'", false),
            ("'running'", "'Done'", false),
            ("'running'", "'don'", false),
            ("'running'", "NULL", false),
            ("NULL", "''", false),
        ] {
            let statuses = "ARRAY[NULL, 'done', 'it''s, done']";
            assert_eq!(
                is_true(&format!(
                    "token_balance.note_status({old}, {new}, {statuses}, 0, '(0,1)')"
                )),
                holds,
                "{old} to {new}"
            );
        }
        for statuses in ["NULL::text[]", "'{}'::text[]", "NULL::text", "''::text"] {
            assert!(is_true(&format!(
                "NOT token_balance.note_status(NULL, 'done', {statuses}, NULL, NULL)"
            )));
        }
    }

    /// (DESIGN T40)
    #[pg_test]
    fn note_status_holds_when_the_status_becomes_one_of_a_list() {
        application();
        for (list, old, new, holds) in [
            (",done,over", "'running'", "'done'", true),
            (",done,over", "NULL", "'over'", true),
            (",done,over", "'over'", "'done'", false),
            (",done,over", "'running'", "'done,over'", false),
            (",done,over", "'running'", "''", false),
            (",done,over", "'running'", "NULL", false),
            (",done,", "'running'", "''", true),
            (",", "NULL", "''", true),
            ("!a,b!c", "'c!'", "'a,b'", true),
            ("!a,b!c", "'a,b'", "'c'", false),
        ] {
            let note = format!("token_balance.note_status({old}, {new}, '{list}', 0, '(0,1)')");
            assert_eq!(is_true(&note), holds, "{old} to {new}, of {list}");
        }
    }

    /// (DESIGN T40)
    #[pg_test]
    fn note_usual_status_holds_when_the_status_becomes_a_usual_one() {
        application();
        for (old, new, holds) in [
            ("'running'", "'completed'", true),
            ("'running'", "'succeeded'", true),
            ("NULL", "'success'", true),
            ("'Done'", "'finished'", true),
            ("''", "'done'", true),
            ("'done'", "'completed'", false),
            ("'running'", "'Done'", false),
            ("'running'", "'done '", false),
            ("'running'", "'failed'", false),
            ("'running'", "NULL", false),
        ] {
            let note = format!("token_balance.note_usual_status({old}, {new}, 0, '(0,1)')");
            assert_eq!(is_true(&note), holds, "{old} to {new}");
        }
    }

    /// (DESIGN T2)
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

    /// (DESIGN E1)
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

    /// (DESIGN H1, H2)
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

    /// (DESIGN H1, H2)
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

    /// (DESIGN H1)
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

    /// (DESIGN H1, P14)
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

    /// (DESIGN H1)
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

    /// (DESIGN H4)
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

    /// (DESIGN P16)
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

    /// (DESIGN T4)
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

    /// (DESIGN O11)
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
