//! When a run is completed: the rule in SQL, the rule for a row that is at hand, and the function in the
//! triggers' condition say the same (src/binding/completed.rs).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::binding::{bound, completed};
    use crate::tests::fixture::*;

    /// What a status is put together from: completed ones, parts of them, and what SQL quotes.
    const PIECES: [&str; 14] = [
        "done", "Done", "it's", "a\\b", "\"q\"", "x,y", "{}", "NULL", " ", "é", "fertig", "d",
        "one", "",
    ];

    const COMPLETED: &str =
        r#"ARRAY['done', 'it''s', 'a\b', '"q"', 'x,y', '{}', 'NULL', 'é fertig', ' ', '']"#;

    fn random_statuses() -> Vec<String> {
        let mut dice = Dice::new(20_261_127);
        let mut statuses: Vec<_> = PIECES.iter().map(|piece| (*piece).to_owned()).collect();
        statuses.extend((0..100).map(|_| format!("{}{}", dice.pick(&PIECES), dice.pick(&PIECES))));
        statuses
    }

    /// Rows of these statuses, which a column of this type has, and which of them complete: the rule in SQL, the rule
    /// for a row and that of the triggers' function are one. How many rows are completed.
    fn assert_one_rule(column_type: &str, statuses: &[String], completed: &str) -> usize {
        tables();
        let rows: Vec<_> = statuses
            .iter()
            .enumerate()
            .map(|(at, status)| format!("('w{at}', 'ann', {})", quoted(status)))
            .collect();
        run(&format!(
            "ALTER TABLE workflows ALTER status TYPE {column_type} USING NULL::text::{column_type};
             INSERT INTO workflows VALUES ('null', 'ann', NULL), {};
             SELECT token_balance.attach('users', 'token_usage', 'workflows',
                 completed_statuses => {completed})",
            rows.join(", ")
        ));
        let bound = bound(None).expect("attached");
        let binding = &bound.binding;
        let workflows = binding
            .workflows
            .as_ref()
            .expect("there is a workflow table");
        let statuses = completed::statuses_sql(binding);
        let list = completed::list(&binding.spec.completed_statuses).expect("a list");
        let list = quoted(&list);
        // format() gives the text of the type's output function, which a row at hand has.
        let rows = Spi::connect(|client| {
            let sql = format!(
                "SELECT CASE WHEN w.status IS NOT NULL THEN format('%s', w.status) END,
                     COALESCE({}, false),
                     token_balance.note_status(NULL, w.status::text, {statuses}, NULL, NULL),
                     token_balance.note_status(NULL, w.status::text, {list}::text, NULL, NULL)
                 FROM workflows AS w",
                completed::sql(binding, "w")
            );
            let table = client.select(&sql, None, &[]).expect("a query");
            table
                .map(|row| {
                    let status = row.get::<String>(1).expect("text");
                    let said = [2, 3, 4].map(|at| row.get::<bool>(at).expect("boolean"));
                    let [by_sql, by_note, by_list] = said.map(|it| it == Some(true));
                    (status, by_sql, by_note, by_list)
                })
                .collect::<Vec<_>>()
        });
        assert!(rows.len() > 100);
        let completed_rows = rows.iter().filter(|row| row.1).count();
        for (status, by_sql, by_note, by_list) in rows {
            let of_row = completed::of_row(binding, workflows, |_| status.clone());
            assert_eq!(of_row, by_sql, "{status:?} of {column_type}");
            assert_eq!(by_note, by_sql, "{status:?} of {column_type}");
            assert_eq!(by_list, by_sql, "{status:?} of {column_type}");
        }
        run("SELECT token_balance.detach(); DROP SCHEMA app CASCADE");
        completed_rows
    }

    /// (DESIGN T40)
    #[pg_test]
    fn a_list_has_statuses_whatever_they_are() {
        let list = |statuses: &[&str]| {
            let statuses: Vec<_> = statuses.iter().map(|it| (*it).to_owned()).collect();
            completed::list(&statuses)
        };
        assert_eq!(list(&["a", "b c"]).as_deref(), Some(",a,b c"));
        assert_eq!(list(&["a,", "b!", ""]).as_deref(), Some("\"a,\"b!\""));
        assert_eq!(list(&[]).as_deref(), Some(""));
        assert!(!completed::is_in_list("", ""));
        let visible: String = ('!'..='~').collect();
        assert_eq!(list(&[&visible]), None);
    }

    // (DESIGN T16)
    #[pg_test]
    fn numbers_and_booleans_complete_by_one_rule() {
        let mut dice = Dice::new(16);
        let statuses: Vec<_> = (0..200)
            .map(|_| (dice.roll(9) as i64 - 4).to_string())
            .collect();
        let wanted = statuses
            .iter()
            .filter(|it| ["2", "-4"].contains(&it.as_str()));
        let wanted = wanted.count();
        run("CREATE DOMAIN pg_temp.code AS bigint");
        for column_type in ["smallint", "integer", "bigint", "pg_temp.code"] {
            let completed = assert_one_rule(column_type, &statuses, "ARRAY['-4', ' +2', '7']");
            assert_eq!(completed, wanted, "{column_type}");
        }
        run("CREATE DOMAIN pg_temp.flag AS boolean");
        let words = ["yes", "no", "t", "off", "1", "false", "TRUE"];
        let statuses: Vec<_> = (0..200).map(|_| dice.pick(&words).to_owned()).collect();
        let is_true = |it: &&String| ["yes", "t", "1", "TRUE"].contains(&it.as_str());
        let are_true = statuses.iter().filter(is_true).count();
        for column_type in ["boolean", "pg_temp.flag"] {
            assert_eq!(assert_one_rule(column_type, &statuses, "'{on}'"), are_true);
            assert_eq!(
                assert_one_rule(column_type, &statuses, "'{0}'"),
                200 - are_true
            );
        }
    }

    #[pg_test]
    fn the_rule_in_sql_and_the_rule_for_a_row_are_one() {
        for column_type in ["text", "varchar(20)", "char(20)", "text COLLATE \"C\""] {
            let completed_rows = assert_one_rule(column_type, &random_statuses(), COMPLETED);
            assert!(completed_rows >= 9, "{completed_rows} of {column_type}");
        }
    }
}
