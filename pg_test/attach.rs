//! `attach`: mistakes, existing usage, existing balance columns, calling it again.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::binding::Spec;
    use crate::binding::attach_arguments::{ARGUMENTS, Kind, Value};
    use crate::tests::fixture::*;

    /// Name, type and default of each argument, as SQL declares it.
    fn declared() -> Vec<(String, String, String)> {
        list(
            "SELECT concat_ws('|', a.name, format_type(a.type, NULL),
                 pg_get_function_arg_default(p.oid, a.at::integer))
             FROM pg_proc AS p,
                 unnest(p.proargnames, p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, at)
             WHERE p.oid = 'token_balance.attach'::regproc AND a.name <> ALL ('{create_index,usage_ids,accounts,dry_run}')",
        )
        .iter()
        .map(|line| {
            let mut parts = line.splitn(3, '|').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            (next(), next(), next())
        })
        .collect()
    }

    #[pg_test]
    fn the_declaration_of_attach_is_the_list_of_its_arguments() {
        let declared = declared();
        assert_eq!(declared.len(), ARGUMENTS.len());
        let usual = Spec::usual();
        for (name, type_name, default) in declared {
            let argument = ARGUMENTS.iter().find(|argument| argument.name == name);
            let argument = argument.unwrap_or_else(|| panic!("{name} is not in the list"));
            let wanted = match argument.kind {
                Kind::Relation => "regclass",
                Kind::Type => "regtype",
                Kind::Name | Kind::Label => "name",
                Kind::Names => "name[]",
                Kind::Text => "text",
                Kind::Texts => "text[]",
                Kind::Bigint => "bigint",
            };
            assert_eq!(type_name, wanted, "{name}");
            if ["users", "usage"].contains(&name.as_str()) {
                assert_eq!(default, "", "{name}");
                continue;
            }
            let usual = match (argument.get)(&usual) {
                Value::Null => "NULL".to_owned(),
                Value::Text(text) => quoted(&text),
                Value::Texts(texts) => quoted(&format!("{{{}}}", texts.join(","))),
                Value::Number(number) => number.to_string(),
                Value::Type(oid) => quoted(&oid.to_u32().to_string()),
                Value::Relation(relation) => panic!("{name} is usually {relation:?}"),
            };
            let same = format!("({default}) IS NOT DISTINCT FROM ({usual})::{type_name}");
            assert!(is_true(&same), "{name}: {same}");
        }
    }

    #[test]
    fn the_documentation_has_each_argument_of_attach() {
        for page in ["docs/binding.md", "docs/binding.zh-CN.md"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            let text = std::fs::read_to_string(path).expect("the page can be read");
            let rows: String = text
                .lines()
                .filter(|line| line.starts_with("| `"))
                .collect();
            for argument in ARGUMENTS {
                let name = format!("`{}`", argument.name);
                assert!(rows.contains(&name), "{page} has no row with {name}");
            }
        }
    }

    const ATTACH: &str = "SELECT token_balance.attach('users', 'token_usage', 'workflows')";

    fn attach_with(arguments: &str) -> String {
        format!("SELECT token_balance.attach({arguments})")
    }

    #[track_caller]
    fn assert_nothing_is_done() {
        assert_eq!(number("SELECT count(*) FROM token_balance.binding"), 0);
        assert_eq!(number("SELECT count(*) FROM token_balance.settlement"), 0);
        assert_eq!(
            list(
                "SELECT tgname FROM pg_trigger WHERE tgfoid IN (
                 'token_balance.settle_on_completion'::regproc,
                 'token_balance.record_balance_change'::regproc)"
            ),
            [""; 0]
        );
    }

    /// (DESIGN O7)
    #[pg_test]
    fn each_mistake_has_its_sqlstate_and_names_what_is_wrong() {
        tables();
        run("CREATE VIEW a_view AS SELECT * FROM users;
             CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM users;
             CREATE SEQUENCE a_sequence;
             CREATE TYPE a_type AS (id text);
             CREATE TEMP TABLE a_temp (id text PRIMARY KEY);
             CREATE TABLE no_key (id text);
             CREATE TABLE partial_key (id text);
             CREATE UNIQUE INDEX ON partial_key (id) WHERE id <> '';
             CREATE TABLE pair_key (id text, part int, PRIMARY KEY (id, part));
             CREATE TABLE late_key (id text UNIQUE DEFERRABLE);
             CREATE TABLE odd_key (id numeric PRIMARY KEY);
             CREATE TABLE int_key (id integer PRIMARY KEY);
             ALTER TABLE token_usage ADD by_uuid uuid, ADD cost money, ADD at timestamptz;
             ALTER TABLE workflows ADD number numeric;
             INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w', 'ann', 10)");
        for (arguments, code, named) in [
            ("'a_view', 'token_usage'", "42809", "a_view"),
            ("'a_matview', 'token_usage'", "42809", "a_matview"),
            ("'a_temp', 'token_usage'", "42809", "a_temp"),
            (
                "'a_sequence', 'token_usage', user_key => 'last_value'",
                "42809",
                "a_sequence",
            ),
            ("'a_type', 'token_usage'", "42809", "a_type"),
            (
                "'users', 'token_usage', 'a_sequence'",
                "42809",
                "a_sequence",
            ),
            (
                "'users', 'token_usage', usage_tokens => '{total_tokens,total_tokens}'",
                "22023",
                "total_tokens",
            ),
            (
                "'users', 'token_usage', usage_tokens => '{total_tokens,NULL}'",
                "22004",
                "usage_tokens",
            ),
            (
                "'users', 'token_usage', 'workflows', completed_statuses => '{done,NULL}'",
                "22004",
                "completed_statuses",
            ),
            (
                "'users', 'token_usage', 'workflows', workflow_completed_at => 'status'",
                "42804",
                "status",
            ),
            (
                "'users', 'token_usage', 'workflows', usage_user => NULL, workflow_user => NULL",
                "22004",
                "workflow_user",
            ),
            (
                "'users', 'token_usage', 'a_view', workflow_status => 'id'",
                "42809",
                "a_view",
            ),
            ("'no_key', 'token_usage'", "42830", "no_key"),
            ("'partial_key', 'token_usage'", "42830", "partial_key"),
            ("'pair_key', 'token_usage'", "42830", "pair_key"),
            ("'late_key', 'token_usage'", "42830", "late_key"),
            ("'odd_key', 'token_usage'", "42804", "numeric"),
            (
                "'int_key', 'token_usage', usage_user => 'by_uuid'",
                "42804",
                "by_uuid",
            ),
            (
                "'users', 'token_usage', user_key => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', usage_user => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', usage_user => 'at'",
                "42804",
                "\"at\"",
            ),
            (
                "'users', 'token_usage', usage_workflow => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', usage_tokens => '{nope}'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', usage_tokens => '{cost}'",
                "42804",
                "\"cost\"",
            ),
            (
                "'users', 'token_usage', 'workflows', workflow_key => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', 'workflows', workflow_status => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', 'workflows', workflow_status => 'number'",
                "42804",
                "\"number\"",
            ),
            (
                "'users', 'token_usage', 'workflows', workflow_completed_at => 'nope'",
                "42703",
                "\"nope\"",
            ),
            (
                "'users', 'token_usage', usage_tokens => '{}'",
                "22023",
                "usage_tokens",
            ),
            (
                "'users', 'token_usage', existing_usage => 'maybe'",
                "22023",
                "existing_usage",
            ),
            (
                "'users', 'token_usage', 'workflows', completed_statuses => '{}'",
                "22023",
                "completed_statuses",
            ),
            (
                "'users', 'token_usage', initial_balance => 2147483648",
                "22023",
                "initial_balance",
            ),
            (
                "'users', 'token_usage', balance_type => 'real'",
                "22023",
                "balance_type",
            ),
            ("NULL, 'token_usage'", "22004", "users"),
            ("'users', NULL", "22004", "usage"),
            (
                "'users', 'token_usage', user_key => NULL",
                "22004",
                "user_key",
            ),
            (
                "'users', 'token_usage', usage_tokens => NULL",
                "22004",
                "usage_tokens",
            ),
            (
                "'users', 'token_usage', accounts => 'others'",
                "22023",
                "accounts",
            ),
            ("4294967295, 'token_usage'", "42P01", "4294967295"),
            ("'no_such_table', 'token_usage'", "42P01", "no_such_table"),
        ] {
            let failure = assert_fails(&attach_with(arguments), code);
            assert!(failure.message.contains(named), "{arguments}: {failure:?}");
            assert!(!failure.message.ends_with('.'), "{arguments}: {failure:?}");
        }
        assert_nothing_is_done();
        assert!(!is_true(
            "EXISTS (SELECT FROM pg_attribute WHERE attname = 'token_balance'
             AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'app'::regnamespace))"
        ));
    }

    #[pg_test]
    fn each_mistake_that_can_be_mended_has_a_hint() {
        tables();
        for arguments in [
            "'users', 'token_usage', user_key => 'nope'",
            "'users', 'token_usage', existing_usage => 'maybe'",
            "'users', 'token_usage', usage_tokens => '{workflow_id}'",
            "'users', 'token_usage', balance_type => 'real'",
            "'workflows', 'token_usage', user_key => 'status'",
        ] {
            match failure_of(&attach_with(arguments)) {
                Some(failure) => assert_ne!(failure.hint, "", "{failure:?}"),
                None => panic!("{arguments} is accepted"),
            }
        }
    }

    /// (DESIGN O5)
    #[pg_test]
    fn a_caller_who_does_not_own_a_table_is_refused() {
        tables();
        run("CREATE ROLE tb_unit_owner; CREATE ROLE tb_unit_other;
             GRANT tb_unit_owner TO CURRENT_USER;
             GRANT USAGE, CREATE ON SCHEMA app TO tb_unit_owner, tb_unit_other;
             GRANT USAGE ON SCHEMA token_balance TO tb_unit_owner;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance TO tb_unit_owner;
             ALTER TABLE users OWNER TO tb_unit_owner;
             ALTER TABLE token_usage OWNER TO tb_unit_owner;
             ALTER TABLE workflows OWNER TO tb_unit_other;
             GRANT SELECT ON workflows TO tb_unit_owner");
        run("SET LOCAL ROLE tb_unit_owner");
        let failure = assert_fails(ATTACH, "42501");
        run("RESET ROLE");
        assert!(failure.message.contains("workflows"), "{failure:?}");
        assert_nothing_is_done();
        run("ALTER TABLE workflows OWNER TO tb_unit_owner; SET LOCAL ROLE tb_unit_owner");
        run(ATTACH);
        run("RESET ROLE");
        assert_eq!(
            text("SELECT attached_by FROM token_balance.binding"),
            "tb_unit_owner"
        );
    }

    /// (DESIGN O8)
    #[pg_test]
    fn the_owner_of_the_users_must_be_able_to_read_the_other_tables() {
        tables();
        run("CREATE ROLE tb_unit_owner;
             GRANT USAGE ON SCHEMA app TO tb_unit_owner;
             ALTER TABLE users OWNER TO tb_unit_owner");
        let failure = assert_fails(ATTACH, "42501");
        assert!(failure.message.contains("cannot read"), "{failure:?}");
        run("GRANT SELECT ON token_usage, workflows TO tb_unit_owner");
        run(ATTACH);
    }

    /// (DESIGN X4)
    #[pg_test]
    fn an_update_also_takes_the_path_that_an_owner_has_by_alter_role() {
        tables();
        run(
            "CREATE ROLE tb_unit_owner; CREATE SCHEMA audit AUTHORIZATION tb_unit_owner;
             GRANT USAGE ON SCHEMA app TO tb_unit_owner;
             ALTER ROLE tb_unit_owner SET search_path = audit;
             ALTER TABLE users OWNER TO tb_unit_owner;
             ALTER TABLE token_usage OWNER TO tb_unit_owner;
             ALTER TABLE workflows OWNER TO tb_unit_owner;
             SET LOCAL search_path = app",
        );
        run(ATTACH);
        let path = "SELECT search_path FROM token_balance.binding";
        assert_eq!(text(path), "{app}");
        // As the catalog of 0.2.0 has it.
        run("UPDATE token_balance.binding SET search_path = NULL");
        crate::attach::upgrade().expect("the tables are there");
        assert_eq!(text(path), "{app,audit}");
    }

    /// (DESIGN D6)
    #[pg_test]
    fn the_balance_is_not_null_and_starts_with_the_initial_one() {
        tables();
        run(ATTACH);
        run("INSERT INTO users VALUES ('eve')");
        assert_eq!([balance("ann"), balance("eve")], [1_000_000, 1_000_000]);
        assert_eq!(
            text(
                "SELECT format_type(atttypid, atttypmod) || attnotnull FROM pg_attribute
                 WHERE attrelid = 'users'::regclass AND attname = 'token_balance'"
            ),
            "integertrue"
        );
    }

    /// (DESIGN D6)
    #[pg_test]
    fn initial_balance_and_balance_type_are_options() {
        tables();
        run("SELECT token_balance.attach('users', 'token_usage',
             initial_balance => -5000000000, balance_type => 'bigint')");
        run("INSERT INTO users VALUES ('eve')");
        assert_eq!([balance("ann"), balance("eve")], [-5_000_000_000; 2]);
    }

    /// (DESIGN H5)
    #[pg_test]
    fn existing_usage_is_exempt_and_only_new_usage_is_charged() {
        tables();
        add_workflow("w", "ann", "running");
        add_usage("w", "ann", 10);
        add_usage("w", "bob", 20);
        add_usage("old", "ghost", 20);
        run(ATTACH);
        assert_eq!(settle("w")["status"], "already_settled");
        add_usage("w", "ann", 3);
        complete("w");
        assert_eq!((paid("ann"), paid("bob")), (3, 0));
        assert_eq!(
            settle("old")["tokens_used"],
            0,
            "not even of a missing account"
        );
        assert_eq!(
            list(
                "SELECT concat_ws(' ', user_id, usage_tokens, charged_tokens)
                 FROM token_balance.settlement WHERE workflow_id = 'w' ORDER BY 1"
            ),
            ["ann 13 3", "bob 20 0"]
        );
    }

    /// (DESIGN H5)
    #[pg_test]
    fn existing_usage_is_charged_where_attach_says_so() {
        tables();
        add_usage("w", "ann", 10);
        run(&attach_with(
            "'users', 'token_usage', existing_usage => 'charge'",
        ));
        assert_eq!(paid("ann"), 0, "attach itself charges nothing");
        assert_eq!(charge_of("w"), 10);
    }

    /// (DESIGN H5)
    #[pg_test]
    fn existing_usage_past_bigint_does_not_stop_attach() {
        tables();
        run("ALTER TABLE token_usage ALTER total_tokens TYPE bigint");
        add_usage("w", "ann", i64::MAX);
        add_usage("w", "ann", i64::MAX);
        add_usage("v", "ann", -5);
        run(ATTACH);
        add_usage("v", "ann", 6);
        assert_eq!(charge_of("v"), 1);
    }

    /// (DESIGN F7)
    #[pg_test]
    fn attaching_again_does_not_exempt_newer_usage() {
        tables();
        add_usage("w", "ann", 10);
        run(ATTACH);
        add_usage("w", "ann", 5);
        add_usage("v", "ann", 7);
        run(ATTACH);
        run(&attach_with(
            "'users', 'token_usage', 'workflows', create_index => true",
        ));
        assert_eq!((charge_of("w"), charge_of("v")), (5, 7));
        assert_eq!(number("SELECT count(*) FROM token_balance.binding"), 1);
    }

    /// (DESIGN F7)
    #[pg_test]
    fn attaching_again_mends_what_was_dropped() {
        tables();
        run(ATTACH);
        let triggers = "SELECT tgrelid::regclass || ' ' || tgname FROM pg_trigger
                        WHERE tgfoid::regproc::text LIKE 'token_balance.%'
                        AND tgrelid::regclass::text NOT LIKE 'token_balance.%' ORDER BY 1";
        let all = list(triggers);
        assert_eq!(all.len(), 6, "{all:?}");
        for trigger in &all {
            let (table, name) = trigger.split_once(' ').unwrap_or_default();
            run(&format!("DROP TRIGGER \"{name}\" ON {table}"));
        }
        run("ALTER TABLE users ALTER token_balance DROP NOT NULL,
             ALTER token_balance DROP DEFAULT;
             INSERT INTO users VALUES ('eve')");
        run(ATTACH);
        assert_eq!(list(triggers), all);
        assert_eq!(balance("eve"), INITIAL);
        assert_fails("INSERT INTO users VALUES ('dan', NULL)", "23502");
        run(ATTACH);
        assert_eq!(list(triggers), all);
    }

    /// (DESIGN F7)
    #[pg_test]
    fn attaching_again_adds_a_column_that_was_dropped() {
        application();
        run("ALTER TABLE users DROP token_balance");
        run(ATTACH);
        add_usage("w", "ann", 10);
        assert_eq!(charge_of("w"), 10);
        assert_eq!(paid("ann"), 10);
    }

    /// (DESIGN F9)
    #[pg_test]
    fn attaching_to_something_else_is_refused_until_detach() {
        application();
        run("CREATE TABLE customers (id text PRIMARY KEY);
             ALTER TABLE token_usage ADD other_tokens integer");
        for arguments in [
            "'customers', 'token_usage', 'workflows'",
            "'users', 'token_usage'",
            "'users', 'token_usage', 'workflows', usage_tokens => '{other_tokens}'",
            "'users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,other_tokens}'",
            "'users', 'token_usage', 'workflows', usage_user => 'workflow_id'",
            "'users', 'token_usage', 'workflows', completed_statuses => '{failed}'",
            "'users', 'token_usage', 'workflows', workflow_status => NULL",
        ] {
            let failure = assert_fails(&attach_with(arguments), "55000");
            assert!(failure.hint.contains("detach"), "{failure:?}");
            assert_ne!(failure.detail, "", "says what differs");
        }
        add_usage("w", "ann", 10);
        add_workflow("w", "ann", "done");
        assert_eq!(paid("ann"), 10, "the binding is as it was");
        run("SELECT token_balance.detach()");
        run(&attach_with(
            "'customers', 'token_usage', usage_user => 'user_id'",
        ));
    }

    /// (DESIGN F9)
    #[pg_test]
    fn arguments_that_mean_nothing_beside_the_others_make_no_difference() {
        tables();
        run(&attach_with("'users', 'token_usage'"));
        run(&attach_with(
            "'users', 'token_usage', workflow_user => 'x', workflow_status => 'y'",
        ));
        run("SELECT token_balance.detach(); ALTER TABLE workflows ADD done_at timestamptz");
        run(&attach_with(
            "'users', 'token_usage', 'workflows', workflow_completed_at => 'done_at'",
        ));
        run(&attach_with(
            "'users', 'token_usage', 'workflows', workflow_completed_at => 'done_at',
             workflow_status => NULL",
        ));
    }

    /// (DESIGN D7, L7)
    #[pg_test]
    fn a_balance_column_of_any_integer_type_or_numeric_is_kept() {
        tables();
        for (column_type, smallest) in [
            ("smallint", -32_768),
            ("integer", -2_147_483_648),
            ("bigint", i64::MIN),
            ("numeric", i64::MIN),
            ("numeric(6)", -999_999),
            ("numeric(18,0)", 1 - 10_i64.pow(18)),
        ] {
            run(&format!(
                "DELETE FROM users; DELETE FROM token_usage;
                 ALTER TABLE users ADD token_balance {column_type};
                 INSERT INTO users VALUES ('rich', 500), ('new', NULL)"
            ));
            let kept = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                        WHERE attrelid = 'users'::regclass AND attname = 'token_balance'";
            let type_before = text(kept);
            run(&attach_with(
                "'users', 'token_usage', initial_balance => 1000",
            ));
            assert_eq!(text(kept), type_before);
            run(&format!(
                "INSERT INTO users VALUES ('newer', DEFAULT), ('poor', {smallest})"
            ));
            assert_eq!(
                [balance("rich"), balance("new"), balance("newer")],
                [500, 1000, 1000],
                "{column_type}"
            );
            assert_fails("INSERT INTO users VALUES ('x', NULL)", "23502");
            let workflow = format!("w {column_type}");
            add_usage(&workflow, "rich", 600);
            assert_eq!(settle(&workflow)["new_balance"], -100, "{column_type}");
            let last = format!("v {column_type}");
            add_usage(&last, "poor", 1);
            assert_fails(&settle_sql(&last), "22003");
            let warnings = warnings_of(|| {
                run("SELECT token_balance.detach(); ALTER TABLE users DROP token_balance");
            });
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    /// (DESIGN L7)
    #[pg_test]
    fn a_balance_column_that_cannot_hold_whole_tokens_is_refused() {
        tables();
        for (column, code) in [
            ("real", "42804"),
            ("text", "42804"),
            ("numeric(10,2)", "42804"),
            ("integer GENERATED ALWAYS AS (1) STORED", "42611"),
        ] {
            run(&format!("ALTER TABLE users ADD token_balance {column}"));
            assert_fails(ATTACH, code);
            run("ALTER TABLE users DROP token_balance");
        }
        run("ALTER TABLE users ADD token_balance smallint");
        let failure = assert_fails(ATTACH, "22023");
        assert!(failure.message.contains("initial_balance"), "{failure:?}");
        assert_nothing_is_done();
    }

    /// (DESIGN K3)
    #[pg_test]
    fn an_index_is_made_only_when_asked_for_and_once() {
        tables();
        let indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'token_usage'";
        run(ATTACH);
        assert_eq!(list(indexes), [""; 0]);
        let with_index = attach_with("'users', 'token_usage', 'workflows', create_index => true");
        run(&with_index);
        run(&with_index);
        let made = list(indexes);
        assert_eq!(made.len(), 1, "{made:?}");
        assert!(
            made[0].ends_with("(workflow_id) INCLUDE (user_id, total_tokens)"),
            "{made:?}"
        );
    }

    /// (DESIGN O13)
    #[pg_test]
    fn names_that_need_quotes_are_fine() {
        schema();
        run("CREATE SCHEMA \"My App\";
             CREATE TABLE \"My App\".\"User's\" (\"Id\" text PRIMARY KEY, \"select\" integer);
             CREATE TABLE \"My App\".\"Usage\" (\"work,flow\" text, \"us\"\"er\" text,
                 \"in, out\" integer, \"{t}\" integer);
             CREATE TABLE \"My App\".\"Order\" (\"Key\" text, \"Status\" text);
             INSERT INTO \"My App\".\"User's\" VALUES ('ann');
             SELECT token_balance.attach('\"My App\".\"User''s\"', '\"My App\".\"Usage\"',
                 '\"My App\".\"Order\"', user_key => 'Id', usage_user => 'us\"er',
                 usage_workflow => 'work,flow', usage_tokens => ARRAY['in, out', '{t}']::name[],
                 workflow_key => 'Key', workflow_status => 'Status', create_index => true);
             INSERT INTO \"My App\".\"Usage\" VALUES ('w', 'ann', 10, 1), ('v', 'ann', 5, NULL)");
        assert_eq!(charge_of("w"), 11);
        run("INSERT INTO \"My App\".\"Order\" VALUES ('v', 'done')");
        assert_eq!(
            number("SELECT token_balance FROM \"My App\".\"User's\""),
            INITIAL - 16
        );
    }
}
