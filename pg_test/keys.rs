//! Types of user ids and workflow ids, in every pair (DESIGN F11).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    const TYPES: [&str; 6] = [
        "text",
        "varchar(40)",
        "uuid",
        "smallint",
        "integer",
        "bigint",
    ];

    #[derive(Clone, Copy, PartialEq)]
    enum Family {
        Text,
        Uuid,
        Integer,
    }

    fn family(key_type: &str) -> Family {
        match key_type {
            "uuid" => Family::Uuid,
            "smallint" | "integer" | "bigint" => Family::Integer,
            _ => Family::Text,
        }
    }

    /// Ids that both types can hold; None if they have none in common.
    fn ids(one: &str, other: &str) -> Option<[&'static str; 3]> {
        match (family(one), family(other)) {
            (Family::Uuid, Family::Integer) | (Family::Integer, Family::Uuid) => None,
            (Family::Uuid, _) | (_, Family::Uuid) => Some([
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ]),
            (Family::Integer, _) | (_, Family::Integer) => Some(["7", "-7", "0"]),
            _ => Some(["w 7", "ä/ö", ""]),
        }
    }

    fn make_tables(user: &str, usage_user: &str, workflow: &str, usage_workflow: &str) {
        run(&format!(
            "DROP TABLE IF EXISTS users, token_usage, workflows;
             CREATE TABLE users (id {user} PRIMARY KEY);
             CREATE TABLE token_usage (
                 workflow_id {usage_workflow}, user_id {usage_user}, total_tokens integer);
             CREATE TABLE workflows (id {workflow} PRIMARY KEY, user_id {user}, status text)"
        ));
    }

    const ATTACH: &str =
        "SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new')";

    /// One run by the function and one by the trigger.
    fn check_settling(account: &str, called: &str, completed: &str, what: &str) {
        run(&format!("INSERT INTO users VALUES ({})", quoted(account)));
        let before = balance(account);
        for workflow in [called, completed] {
            add_usage(workflow, account, 10);
            add_usage(workflow, account, 1);
            add_workflow(workflow, account, "running");
        }
        let answer = settle(called);
        assert_eq!(answer["workflow_id"], called, "{what}");
        assert_eq!(answer["tokens_used"], 11, "{what}");
        assert_eq!(answer["charges"][0]["user_id"], account, "{what}");
        complete(completed);
        assert_eq!(before - balance(account), 22, "{what}");
        run("UPDATE workflows SET status = 'running'; UPDATE workflows SET status = 'done'");
        assert_eq!(charge_of(called), 0, "{what}");
        assert_eq!(before - balance(account), 22, "charged once: {what}");
        assert_ledger_is_whole();
    }

    fn check_pairs(make: impl Fn(&str, &str), check: impl Fn([&str; 3], &str)) {
        schema();
        for one in TYPES {
            for other in TYPES {
                let what = format!("{one} and {other}");
                make(one, other);
                match ids(one, other) {
                    Some(ids) => {
                        run(ATTACH);
                        check(ids, &what);
                        run("SELECT token_balance.detach()");
                        run("DELETE FROM token_balance.settlement");
                    }
                    None => {
                        assert_fails(ATTACH, "42804");
                    }
                }
            }
        }
    }

    #[pg_test]
    fn a_user_id_of_any_type_matches_usage_of_any_type_that_can_hold_it() {
        check_pairs(
            |user, usage_user| make_tables(user, usage_user, "text", "text"),
            |[account, other, _], what| {
                // The ledger stays when the tables go; a second pair goes on with its chain.
                run(&format!("INSERT INTO users VALUES ({})", quoted(other)));
                check_settling(account, "w1", "w2", what);
            },
        );
    }

    #[pg_test]
    fn a_workflow_id_of_any_type_matches_usage_of_any_type_that_can_hold_it() {
        check_pairs(
            |workflow, usage_workflow| make_tables("text", "text", workflow, usage_workflow),
            |[called, completed, _], what| check_settling("ann", called, completed, what),
        );
    }

    /// (DESIGN F1)
    #[pg_test]
    fn the_function_takes_text_bigint_and_uuid() {
        schema();
        make_tables("text", "text", "bigint", "bigint");
        run(ATTACH);
        run("INSERT INTO users VALUES ('ann')");
        add_usage("42", "ann", 5);
        for (sql, tokens) in [
            ("SELECT settle_workflow(42)", 5),
            ("SELECT settle_workflow(42::bigint)", 0),
            ("SELECT settle_workflow('42')", 0),
            ("SELECT settle_workflow(' 042 ')", 0),
        ] {
            let answer = json(sql);
            assert_eq!(answer["tokens_used"], tokens, "{sql}");
            assert_eq!(answer["workflow_id"], "42", "{sql}");
        }
        run("SELECT token_balance.detach()");
        make_tables("text", "text", "uuid", "uuid");
        run(ATTACH);
        run("INSERT INTO users VALUES ('ann')");
        let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        add_usage(id, "ann", 5);
        for (sql, tokens) in [
            (
                "SELECT settle_workflow('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid)",
                5,
            ),
            (
                "SELECT settle_workflow('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')",
                0,
            ),
            (
                "SELECT settle_workflow('{a0eebc999c0b4ef8bb6d6bb9bd380a11}')",
                0,
            ),
        ] {
            let answer = json(sql);
            assert_eq!(answer["tokens_used"], tokens, "{sql}");
            assert_eq!(answer["workflow_id"], id, "{sql}");
        }
    }

    /// (DESIGN F11)
    #[pg_test]
    fn a_malformed_id_is_its_type_s_own_error() {
        schema();
        for (key_type, id, code) in [
            ("integer", "seven", "22P02"),
            ("integer", "", "22P02"),
            ("integer", "2147483648", "22003"),
            ("smallint", "32768", "22003"),
            ("bigint", "9223372036854775808", "22003"),
            ("uuid", "not-a-uuid", "22P02"),
            ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "22P02"),
            ("uuid", "a-0eebc999c0b4ef8bb6d6bb9bd380a11", "22P02"),
            ("uuid", "{a0eebc999c0b4ef8bb6d6bb9bd380a11", "22P02"),
        ] {
            make_tables(key_type, key_type, key_type, key_type);
            run(ATTACH);
            assert_fails(&settle_sql(id), code);
            assert_fails(
                &format!("SELECT token_balance.balance({})", quoted(id)),
                code,
            );
            run("SELECT token_balance.detach()");
        }
    }

    /// (DESIGN F11)
    #[pg_test]
    fn every_spelling_of_an_account_id_in_usage_is_one_account_charged_once() {
        schema();
        let mut wrong = Vec::new();
        for (key_type, account, spellings) in [
            (
                "uuid",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                vec![
                    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                    "a0eebc999c0b4ef8bb6d6bb9bd380a11",
                    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
                    "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
                ],
            ),
            (
                "integer",
                "7",
                vec!["07", "+7", " 7", "7 ", "0000000000000000000007"],
            ),
            ("bigint", "-7", vec!["-07", " -7 "]),
        ] {
            for spelling in spellings {
                let what = format!("{spelling:?} for {key_type} {account}");
                make_tables(key_type, "text", "text", "text");
                run(ATTACH);
                run(&format!("INSERT INTO users VALUES ({})", quoted(account)));
                let before = balance(account);
                add_usage("w", spelling, 10);
                add_usage("w", account, 1);
                settle("w");
                settle("w");
                let called = before - balance(account);
                add_workflow("w", account, "done");
                let completed = before - balance(account);
                if [called, completed] != [11, 11] {
                    wrong.push(format!("{what}: {called}, then {completed}"));
                }
                run("SELECT token_balance.detach(); DELETE FROM token_balance.settlement");
            }
        }
        assert_eq!(wrong, [""; 0], "11 tokens are to be paid");
    }

    /// (DESIGN H5)
    #[pg_test]
    fn existing_usage_is_exempt_however_its_account_is_spelled() {
        schema();
        make_tables("integer", "text", "text", "text");
        run("INSERT INTO users VALUES (7)");
        for spelling in ["7", "07", "+7", " 7 "] {
            add_usage("w", spelling, 10);
        }
        run(ATTACH);
        settle("w");
        assert_eq!(paid("7"), 0);
        for spelling in ["07", "+7", " 7 "] {
            add_usage("w", spelling, 1);
        }
        settle("w");
        settle("w");
        assert_eq!(paid("7"), 3);
    }

    /// (DESIGN H3)
    #[pg_test]
    fn usage_of_an_id_that_cannot_be_an_account_is_usage_of_an_unknown_one() {
        schema();
        make_tables("integer", "text", "text", "text");
        run(ATTACH);
        run("INSERT INTO users VALUES (7)");
        add_usage("w", "seven", 10);
        add_usage("w", "99999999999", 10);
        add_usage("w", "7", 1);
        assert_fails(&settle_sql("w"), "23503");
        let warnings = warnings_of(|| add_workflow("w", "7", "done"));
        let codes: Vec<_> = warnings.iter().map(|warning| &warning.code).collect();
        assert_eq!(codes, ["23503", "23503"]);
        assert_eq!(paid("7"), 1);
    }

    #[pg_test]
    fn a_completed_run_whose_id_usage_cannot_hold_has_no_usage() {
        schema();
        make_tables("text", "text", "text", "uuid");
        run(ATTACH);
        run("INSERT INTO users VALUES ('ann')");
        let warnings = warnings_of(|| add_workflow("not a uuid", "ann", "done"));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(paid("ann"), 0);
    }

    #[pg_test]
    fn ids_of_different_case_are_different_accounts() {
        application();
        run("INSERT INTO users VALUES ('Ann'), ('ann ')");
        add_usage("w", "ann", 1);
        add_usage("w", "Ann", 20);
        add_usage("w", "ann ", 300);
        settle("w");
        assert_eq!([paid("ann"), paid("Ann"), paid("ann ")], [1, 20, 300]);
    }
}
