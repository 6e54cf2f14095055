//! CREATE EXTENSION where the tables have the usual names.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::attach::attach_by_convention;
    use crate::tests::fixture::*;

    const USERS: &str = "CREATE TABLE users (id text PRIMARY KEY)";
    const USAGE: &str =
        "CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer)";
    const WORKFLOWS: &str = "CREATE TABLE workflows (id text PRIMARY KEY, status text)";

    fn make(tables: &[&str]) {
        run("DROP SCHEMA IF EXISTS app CASCADE; DELETE FROM token_balance.binding");
        schema();
        for table in tables {
            run(table);
        }
    }

    /// Makes the tables, does what CREATE EXTENSION does beside them, and gives what it told. (While
    /// the script itself runs, the server logs no notices: nothing here would hear it.)
    fn attach_beside(tables: &[&str]) -> Told {
        wait_for_turn();
        make(tables);
        let mut notices = notices_of(|| {
            if let Err(error) = attach_by_convention("app") {
                panic!("{error:?} with {tables:?}");
            }
        });
        assert_eq!(notices.len(), 1, "{tables:?} {notices:?}");
        let told = notices.remove(0);
        assert_eq!(told.code, "00000");
        assert_ne!(told.hint, "", "what to do next");
        told
    }

    /// Makes the tables and creates the extension anew.
    fn install_beside(tables: &[&str]) {
        wait_for_turn();
        make(tables);
        run("DROP EXTENSION token_balance CASCADE; CREATE EXTENSION token_balance SCHEMA app");
    }

    fn is_attached() -> bool {
        is_true("EXISTS (SELECT FROM token_balance.binding)")
    }

    #[track_caller]
    fn assert_attached(told: &Told) {
        assert!(told.message.contains("is attached to"), "{told:?}");
        assert!(is_attached());
    }

    #[track_caller]
    fn assert_not_attached(tables: &[&str], because: &str) {
        let told = attach_beside(tables);
        assert!(told.message.contains("is not attached"), "{told:?}");
        assert!(
            told.detail.contains(because),
            "{told:?} does not say {because}"
        );
        assert!(told.hint.contains("token_balance.attach"), "{told:?}");
        assert!(!is_attached());
    }

    /// (DESIGN D1, D3)
    #[pg_test]
    fn the_usual_tables_are_attached_and_settle_at_once() {
        let told = attach_beside(&[USERS, USAGE, WORKFLOWS]);
        assert_attached(&told);
        for name in [
            "app.users.id",
            "app.token_usage",
            "user_id",
            "total_tokens",
            "app.workflows.id",
        ] {
            assert!(told.detail.contains(name), "{told:?} does not name {name}");
        }
    }

    #[pg_test]
    fn an_extension_that_is_created_beside_the_usual_tables_settles_at_once() {
        install_beside(&[USERS, USAGE, WORKFLOWS]);
        assert!(is_attached());
        run("INSERT INTO users VALUES ('ann'); INSERT INTO workflows VALUES ('w', 'running')");
        add_usage("w", "ann", 10);
        complete("w");
        assert_eq!(paid("ann"), 10);
        add_usage("w", "ann", 1);
        assert_eq!(charge_of("w"), 1);
        assert!(is_true(
            "'app.settle_workflow(text)'::regprocedure IS NOT NULL"
        ));
    }

    /// (DESIGN D1)
    #[pg_test]
    fn token_columns_are_found_in_their_order() {
        for (columns, bound) in [
            ("total_tokens integer", "{total_tokens}"),
            ("tokens bigint", "{tokens}"),
            ("tokens_used smallint", "{tokens_used}"),
            (
                "prompt_tokens integer, completion_tokens integer",
                "{prompt_tokens,completion_tokens}",
            ),
            (
                "input_tokens integer, output_tokens integer",
                "{input_tokens,output_tokens}",
            ),
            (
                "output_tokens integer, input_tokens integer, tokens integer, total_tokens integer",
                "{total_tokens}",
            ),
            (
                "input_tokens integer, output_tokens integer, prompt_tokens integer,
                 tokens_used integer",
                "{tokens_used}",
            ),
        ] {
            let usage =
                format!("CREATE TABLE token_usage (workflow_id text, user_id text, {columns})");
            let told = attach_beside(&[USERS, &usage, WORKFLOWS]);
            assert_attached(&told);
            assert_eq!(
                text("SELECT usage_tokens FROM token_balance.binding"),
                bound
            );
        }
    }

    /// (DESIGN D2)
    #[pg_test]
    fn each_usual_workflow_table_is_found_with_its_key() {
        for (table, key, status) in [
            ("workflows (id text, status text)", "id", "status"),
            (
                "workflow_runs (id text, workflow_id text, status text)",
                "id",
                "status",
            ),
            (
                "workflow_executions (workflow_id text, status text)",
                "workflow_id",
                "status",
            ),
            (
                "workflow_completions (id serial, workflow_id text)",
                "workflow_id",
                "",
            ),
            ("workflow_completions (id text, status text)", "id", ""),
        ] {
            let told = attach_beside(&[USERS, USAGE, &format!("CREATE TABLE {table}")]);
            assert_attached(&told);
            let bound = "SELECT concat_ws(' ', workflow_key, workflow_status)
                         FROM token_balance.binding";
            assert_eq!(text(bound), format!("{key} {status}").trim(), "{table}");
        }
    }

    /// (DESIGN D2, F4)
    #[pg_test]
    fn each_row_of_workflow_completions_is_a_completion() {
        install_beside(&[
            USERS,
            USAGE,
            "CREATE TABLE workflow_completions (id serial, workflow_id text, status text)",
        ]);
        run("INSERT INTO users VALUES ('ann')");
        add_usage("w", "ann", 10);
        run("INSERT INTO workflow_completions (workflow_id, status) VALUES ('w', 'failed')");
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN D4)
    #[pg_test]
    fn what_is_missing_is_told_and_is_no_error() {
        assert_not_attached(&[], "users");
        assert_not_attached(&[USERS, WORKFLOWS], "token_usage");
        assert_not_attached(&[USERS, USAGE], "workflow_runs");
        assert_not_attached(
            &[
                "CREATE TABLE users (uid text PRIMARY KEY)",
                USAGE,
                WORKFLOWS,
            ],
            "id",
        );
        assert_not_attached(
            &[
                USERS,
                "CREATE TABLE token_usage (workflow_id text, total_tokens integer)",
                WORKFLOWS,
            ],
            "user_id",
        );
        assert_not_attached(
            &[
                USERS,
                "CREATE TABLE token_usage (user_id text, total_tokens integer)",
                WORKFLOWS,
            ],
            "workflow_id",
        );
        assert_not_attached(
            &[
                USERS,
                "CREATE TABLE token_usage (workflow_id text, user_id text, prompt_tokens integer)",
                WORKFLOWS,
            ],
            "total_tokens",
        );
        assert_not_attached(
            &[USERS, USAGE, "CREATE TABLE workflows (id text)"],
            "status",
        );
        assert_not_attached(
            &[USERS, USAGE, "CREATE TABLE workflows (status text)"],
            "id",
        );
    }

    /// (DESIGN D2, D4)
    #[pg_test]
    fn two_workflow_tables_are_not_chosen_between() {
        assert_not_attached(
            &[
                USERS,
                USAGE,
                WORKFLOWS,
                "CREATE TABLE workflow_runs (id text, status text)",
            ],
            "app.workflow_runs",
        );
        assert_not_attached(
            &[
                USERS,
                USAGE,
                WORKFLOWS,
                "CREATE TABLE workflow_completions (workflow_id text)",
            ],
            "app.workflow_completions",
        );
    }

    /// (DESIGN D4)
    #[pg_test]
    fn tables_that_cannot_be_bound_are_told_and_are_no_error() {
        assert_not_attached(
            &["CREATE TABLE users (id text)", USAGE, WORKFLOWS],
            "unique",
        );
        assert_not_attached(
            &[
                "CREATE TABLE users (id numeric PRIMARY KEY)",
                USAGE,
                WORKFLOWS,
            ],
            "numeric",
        );
        assert_not_attached(
            &[
                "CREATE TABLE users (id uuid PRIMARY KEY, token_balance text)",
                USAGE,
                WORKFLOWS,
            ],
            "token_balance",
        );
        assert_not_attached(
            &[
                "CREATE TABLE people (id text PRIMARY KEY)",
                "CREATE VIEW users AS SELECT * FROM people",
                USAGE,
                WORKFLOWS,
            ],
            "users",
        );
        assert_not_attached(
            &[
                USERS,
                "CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens money)",
                WORKFLOWS,
            ],
            "total_tokens",
        );
        assert_not_attached(
            &[
                USERS,
                USAGE,
                "CREATE TABLE workflows (id text, status integer)",
            ],
            "status",
        );
    }

    /// (DESIGN D4)
    #[pg_test]
    fn an_extension_can_be_created_before_its_tables() {
        install_beside(&[]);
        assert!(!is_attached());
        for table in [USERS, USAGE, WORKFLOWS] {
            run(table);
        }
        run("SELECT token_balance.attach('users', 'token_usage', 'workflows')");
        assert!(is_attached());
    }

    /// (DESIGN D1)
    #[pg_test]
    fn tables_of_another_schema_are_not_taken() {
        wait_for_turn();
        make(&[]);
        run("CREATE SCHEMA other; SET LOCAL search_path = other, app");
        for table in [USERS, USAGE, WORKFLOWS] {
            run(table);
        }
        run("DROP EXTENSION token_balance CASCADE; CREATE EXTENSION token_balance SCHEMA app");
        assert!(!is_attached());
    }

    /// The script has a search_path of its own (DESIGN X3).
    #[pg_test]
    fn the_path_that_is_kept_is_the_one_from_before_the_script() {
        wait_for_turn();
        make(&[USERS, USAGE, WORKFLOWS]);
        run("CREATE SCHEMA audit; SET LOCAL search_path = audit, app;
             DROP EXTENSION token_balance CASCADE; CREATE EXTENSION token_balance SCHEMA app");
        assert_eq!(
            text("SELECT search_path FROM token_balance.binding"),
            "{app,audit}"
        );
    }

    /// (DESIGN D8, D9)
    #[pg_test]
    fn a_plain_drop_is_refused_while_attached_and_cascade_keeps_the_balances() {
        install_beside(&[USERS, USAGE, WORKFLOWS]);
        run("INSERT INTO users VALUES ('ann')");
        add_usage("w", "ann", 10);
        settle("w");
        let failure = assert_fails("DROP EXTENSION token_balance", "2BP01");
        assert!(failure.detail.contains("users"), "{failure:?}");
        run("DROP EXTENSION token_balance CASCADE");
        assert_eq!(paid("ann"), 10);
        run("INSERT INTO workflows VALUES ('v', 'completed'); UPDATE users SET token_balance = 1");
        assert!(is_true("to_regnamespace('token_balance') IS NULL"));
    }

    #[pg_test]
    fn after_detach_the_extension_can_be_dropped_and_created_again() {
        install_beside(&[USERS, USAGE, WORKFLOWS]);
        run("INSERT INTO users VALUES ('ann')");
        add_usage("w", "ann", 10);
        settle("w");
        run(
            "SELECT token_balance.detach(); DROP EXTENSION token_balance;
             CREATE EXTENSION token_balance SCHEMA app",
        );
        assert!(is_attached());
        assert_eq!(paid("ann"), 10, "the column is kept as it is");
        assert_eq!(charge_of("w"), 0, "old usage is exempt");
        add_usage("w", "ann", 1);
        assert_eq!(charge_of("w"), 1);
        assert_eq!(entries("ann"), ["settlement 999990 -> 999989 w"]);
    }
}
