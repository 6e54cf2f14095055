//! archive_ledger: what leaves the ledger is still answered for.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    fn application_with_archive() {
        application();
        run("CREATE TABLE archive (LIKE token_balance.ledger)");
    }

    /// Archives all there is; how many entries that was.
    fn archive() -> i64 {
        number("SELECT token_balance.archive_ledger(clock_timestamp(), 'archive') ->> 'entries'")
    }

    /// Archive and ledger together are one chain for each account, and nothing is missing.
    #[track_caller]
    fn assert_whole_with_archive(entries: i64) {
        run("CREATE TEMP VIEW whole AS TABLE archive UNION ALL
             SELECT * FROM token_balance.ledger WHERE kind <> 'opening'");
        let gaps = "SELECT w::text FROM (SELECT *, lag(new_balance) OVER
                        (PARTITION BY user_id ORDER BY entry_id) AS before FROM whole) AS w
                    WHERE before <> previous_balance";
        assert_eq!(list(gaps), [""; 0], "gaps");
        assert_eq!(number("SELECT count(*) FROM whole"), entries);
        run("DROP VIEW whole");
        assert_eq!(
            list("SELECT problem FROM token_balance.reconcile()"),
            [""; 0]
        );
        assert_ledger_is_whole();
    }

    /// (DESIGN V1, V3, V4)
    #[pg_test]
    fn each_account_keeps_one_opening_entry_with_its_last_balance_and_time() {
        application_with_archive();
        add_usage("w", "ann", 10);
        settle("w");
        run("UPDATE users SET token_balance = token_balance + 1");
        run(
            "CREATE TABLE before AS SELECT user_id, max(created_at) AS at, max(entry_id) AS id
             FROM token_balance.ledger GROUP BY 1",
        );
        assert_eq!(archive(), 3);
        assert_eq!(entries("ann"), ["opening 999991 -> 999991"]);
        assert_eq!(entries("bob"), ["opening 1000001 -> 1000001"]);
        assert!(is_true(
            "(SELECT bool_and((at, id) = (created_at, entry_id))
              FROM before JOIN token_balance.ledger USING (user_id))"
        ));
        assert_eq!(archive(), 0, "nothing is left");
        assert_whole_with_archive(3);
    }

    /// (DESIGN V2)
    #[pg_test]
    fn an_account_leaves_up_to_its_first_entry_that_is_young_enough() {
        application_with_archive();
        for amount in 1..=4 {
            run(&format!(
                "UPDATE users SET token_balance = {amount} WHERE id = 'ann'"
            ));
        }
        // The clock was put back between the second entry and the third.
        run("ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL;
             UPDATE token_balance.ledger SET created_at = CASE new_balance
                 WHEN 1 THEN '2020-01-01' WHEN 2 THEN '2020-03-01'
                 WHEN 3 THEN '2020-01-02' ELSE '2020-03-02' END::timestamptz;
             ALTER TABLE token_balance.ledger
                 ENABLE ALWAYS TRIGGER owner_only, ENABLE ALWAYS TRIGGER append_only_rows,
                 ENABLE ALWAYS TRIGGER append_only_truncate");
        run("SELECT token_balance.archive_ledger('2020-02-01', 'archive')");
        assert_eq!(
            entries("ann"),
            [
                "opening 1 -> 1",
                "adjustment 1 -> 2",
                "adjustment 2 -> 3",
                "adjustment 3 -> 4"
            ]
        );
        assert_whole_with_archive(4);
    }

    /// (DESIGN V8, V9)
    #[pg_test]
    fn what_is_archived_is_neither_charged_nor_credited_nor_refunded_again() {
        application_with_archive();
        add_usage("w", "ann", 10);
        settle("w");
        let credit = "SELECT token_balance.credit('ann', 5, 'pay')";
        let first = json(credit);
        let refund = "SELECT token_balance.refund_workflow('w', 4, 'back')";
        run(refund);
        archive();
        assert_eq!(charge_of("w"), 0);
        let replayed = json(credit);
        assert_eq!(replayed["replayed"], true);
        assert_eq!(replayed["new_balance"], first["new_balance"]);
        assert_eq!(json(refund)["replayed"], true);
        assert_fails("SELECT token_balance.credit('ann', 6, 'pay')", "23505");
        assert_fails("SELECT token_balance.refund_workflow('w', 7)", "22023");
        run("SELECT token_balance.refund_workflow('w')");
        assert_eq!(balance("ann"), INITIAL + 5);
        assert_whole_with_archive(4);
    }

    /// (DESIGN V5, V6)
    #[pg_test]
    fn the_archived_past_is_refused_and_not_guessed() {
        application_with_archive();
        run("UPDATE users SET token_balance = 7 WHERE id = 'ann'");
        archive();
        run("UPDATE users SET token_balance = 8 WHERE id = 'ann'");
        let at = |when: &str| format!("SELECT token_balance.balance_at('ann', {when})");
        assert_eq!(number(&at("clock_timestamp()")), 8);
        let opening = "(SELECT min(created_at) FROM token_balance.ledger)";
        assert_eq!(number(&at(opening)), 7);
        let failure = assert_fails(&at(&format!("{opening} - interval '1 us'")), "22023");
        assert!(failure.detail.contains("app.archive"), "{failure:?}");
        assert_fails(
            &format!("SELECT token_balance.statement('ann', until => {opening})"),
            "22023",
        );
        let statement = "SELECT kind FROM token_balance.statement('ann')";
        assert_eq!(list(statement), ["opening", "adjustment"]);
        assert_eq!(
            number("SELECT token_balance.balance_at('bob', '2000-01-01')"),
            INITIAL,
            "nothing of bob's is archived"
        );
    }

    /// (DESIGN V10)
    #[pg_test]
    fn since_when_an_account_is_overdrawn_is_not_guessed_from_what_is_left() {
        application_with_archive();
        run("UPDATE users SET token_balance = -5 WHERE id = 'ann'");
        let is_known = "SELECT since IS NOT NULL FROM token_balance.overdrawn";
        assert_eq!(text(is_known), "true");
        assert_eq!(archive(), 1);
        assert_eq!(text(is_known), "false");
    }

    /// (DESIGN V19)
    #[pg_test]
    fn an_archive_that_cannot_keep_entries_is_refused() {
        application();
        run("CREATE TEMP TABLE fleeting (LIKE token_balance.ledger)");
        assert_fails(
            "SELECT token_balance.archive_ledger(now(), 'fleeting')",
            "42809",
        );
    }

    /// (DESIGN V17)
    #[pg_test]
    fn a_failed_archiver_leaves_nothing_behind() {
        application_with_archive();
        run("UPDATE users SET token_balance = 7");
        run("ALTER TABLE archive ADD CHECK (user_id <> 'bob')");
        assert_fails(
            "SELECT token_balance.archive_ledger(clock_timestamp(), 'archive')",
            "23514",
        );
        assert_fails("DELETE FROM token_balance.ledger", "55000");
        assert_eq!(number("SELECT count(*) FROM archive"), 0);
        assert_eq!(entries("ann"), ["adjustment 1000000 -> 7"]);
    }

    /// (DESIGN V4, V7)
    #[pg_test]
    fn a_random_history_stays_whole_wherever_it_is_cut() {
        application_with_archive();
        run("INSERT INTO users VALUES ('eve'); CREATE TABLE cuts (at timestamptz)");
        let mut dice = Dice::new(20_261);
        let mut moved = 0;
        for step in 0..150 {
            let account = dice.pick(&["ann", "bob", "eve"]);
            let workflow = dice.pick(&["w1", "w2", "w3", "w4"]);
            match dice.roll(7) {
                0 | 1 => add_usage(workflow, account, dice.roll(50) as i64),
                2 => {
                    add_usage(workflow, account, 1);
                    settle(workflow);
                }
                3 => run(&format!(
                    "SELECT token_balance.credit('{account}', 3, 'c{}')",
                    dice.roll(20)
                )),
                4 => {
                    add_usage(workflow, account, 2);
                    settle(workflow);
                    run(&format!(
                        "SELECT token_balance.refund_workflow('{workflow}', 1, 'r{step}')"
                    ));
                }
                // More than all charges: what takes just these back is reported as a stale save.
                5 => run(&format!(
                    "UPDATE users SET token_balance = token_balance + {} WHERE id = '{account}'",
                    100_000 + dice.roll(9)
                )),
                _ => {
                    run("INSERT INTO cuts VALUES (clock_timestamp())");
                    moved += number(
                        "SELECT token_balance.archive_ledger(at, 'archive') ->> 'entries'
                         FROM cuts ORDER BY random() LIMIT 1",
                    );
                }
            }
        }
        assert!(moved > 20, "{moved} entries were moved");
        assert_eq!(number("SELECT count(*) FROM archive"), moved);
        settle("w1");
        settle("w2");
        settle("w3");
        settle("w4");
        let left = number("SELECT count(*) FROM token_balance.ledger WHERE kind <> 'opening'");
        assert_whole_with_archive(moved + left);
        assert!(is_true(
            "(SELECT sum(charged_tokens) = (SELECT sum(total_tokens) FROM token_usage)
              FROM token_balance.settlement)"
        ));
        assert!(is_true(
            "(SELECT sum(token_balance) FROM users) = 3000000 + (SELECT sum(amount) FROM (
                 SELECT amount FROM archive UNION ALL
                 SELECT amount FROM token_balance.ledger) AS a)"
        ));
    }
}
