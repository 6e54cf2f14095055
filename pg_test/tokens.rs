//! Tokens of any number type: what is charged is the exact total, rounded once (DESIGN A9, A10).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    /// A type, and in which numbers of it a text comes back as it was written: with so many decimals, below this.
    const TYPES: [(&str, u32, u64); 6] = [
        ("numeric(20,6)", 6, 1_000_000_000_000),
        ("numeric", 9, 1_000_000_000_000),
        ("double precision", 6, 1_000_000_000_000_000),
        ("double precision", 0, 9_007_199_254_740_992),
        ("real", 3, 1_000_000),
        ("real", 0, 16_777_216),
    ];

    /// `units`, of which 10^`decimals` are one.
    fn decimal(units: u64, decimals: u32) -> String {
        let one = 10_u64.pow(decimals);
        match decimals {
            0 => units.to_string(),
            _ => format!(
                "{}.{:0width$}",
                units / one,
                units % one,
                width = decimals as usize
            ),
        }
    }

    fn add(workflow: &str, account: &str, tokens: &str) {
        run(&format!(
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens) \
             VALUES ('{workflow}', '{account}', '{tokens}')"
        ));
    }

    fn rounded(units: u128, decimals: u32) -> i64 {
        let one = 10_u128.pow(decimals);
        i64::try_from((units * 2 + one) / (2 * one)).expect("not so many")
    }

    #[pg_test]
    fn settlements_in_parts_charge_what_one_settlement_does() {
        let mut dice = Dice::new(20_261_127);
        for (column_type, decimals, below) in TYPES {
            tables();
            run(&format!(
                "ALTER TABLE token_usage ALTER total_tokens TYPE {column_type};
                 SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint')"
            ));
            for life in 0..12 {
                let (whole, parts) = (format!("whole{life}"), format!("parts{life}"));
                let mut used = [0_u128; 2];
                let mut in_parts = 0;
                for _ in 0..10 {
                    // Small ones too: many of them are below a token.
                    let units = dice.roll(below)
                        / 10_u64.pow(dice.roll(6) as u32 * u32::from(decimals > 0));
                    let at = dice.roll(2) as usize;
                    used[at] += u128::from(units);
                    for workflow in [&whole, &parts] {
                        add(workflow, ["ann", "bob"][at], &decimal(units, decimals));
                    }
                    if dice.roll(3) == 0 {
                        in_parts += charge_of(&parts);
                    }
                }
                in_parts += charge_of(&parts);
                let total = used.map(|units| rounded(units, decimals));
                assert_eq!(
                    in_parts,
                    total.iter().sum::<i64>(),
                    "{column_type} {used:?}"
                );
                assert_eq!(charge_of(&whole), in_parts, "{column_type} {used:?}");
                for workflow in [whole, parts] {
                    let charges = ["ann", "bob"].map(|account| {
                        number(&format!(
                            "SELECT COALESCE((SELECT charged_tokens FROM token_balance.settlement \
                             WHERE workflow_id = '{workflow}' AND user_id = '{account}'), 0)"
                        ))
                    });
                    assert_eq!(charges, total, "{workflow} of {column_type}");
                }
            }
            assert_ledger_is_whole();
            run(
                "DELETE FROM token_usage; DELETE FROM users; SELECT token_balance.reset();
                 SELECT token_balance.detach(); DROP SCHEMA app CASCADE",
            );
        }
    }

    #[pg_test]
    fn a_half_is_rounded_away_from_zero_on_both_sides() {
        for column_type in ["numeric", "real", "double precision"] {
            tables();
            run(&format!(
                "ALTER TABLE token_usage ALTER total_tokens TYPE {column_type};
                 SELECT token_balance.attach('users', 'token_usage', 'workflows')"
            ));
            let state = |tokens: &str| {
                run("DELETE FROM token_usage");
                add("w", "ann", tokens);
                number("SELECT sum(tokens) FROM token_balance.usage_state()")
            };
            // Nothing is settled, so all of it waits; below zero it is as much less than what is accounted for.
            assert_eq!(["0.49", "0.5", "1.5", "2.5"].map(state), [0, 1, 2, 3]);
            assert_eq!(["-0.49", "-0.5", "-1.5", "-2.5"].map(state), [0, 1, 2, 3]);
            run("SELECT token_balance.detach(); DROP SCHEMA app CASCADE");
        }
    }

    /// What settles a statement at once, a batch and the sweep go by the same sum.
    #[pg_test]
    fn each_way_of_settling_adds_up_exactly() {
        tables();
        run("ALTER TABLE token_usage ALTER total_tokens TYPE real;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')");
        for workflow in ["function", "batch", "statement", "together", "swept"] {
            add(workflow, "ann", "1234567");
            add(workflow, "ann", "0.25");
            add(workflow, "ann", "0.25");
            add(workflow, "bob", "0.4");
        }
        run("UPDATE users SET token_balance = 1000000000");
        run("INSERT INTO workflows VALUES ('statement', 'ann', 'done')");
        run("INSERT INTO workflows VALUES ('together', 'ann', 'done'), ('other', 'ann', 'done')");
        run(
            "SELECT settle_workflow('function'); SELECT token_balance.settle_workflows('{batch,other}')",
        );
        run("ALTER TABLE workflows DISABLE TRIGGER USER;
             INSERT INTO workflows VALUES ('swept', 'ann', 'done');
             SELECT token_balance.settle_pending()");
        assert_eq!(
            list(
                "SELECT workflow_id || ' ' || user_id || ' ' || charged_tokens \
                  FROM token_balance.settlement ORDER BY 1"
            ),
            ["batch", "function", "statement", "swept", "together"]
                .map(|it| format!("{it} ann 1234568"))
        );
        assert_eq!(balance("ann"), 1_000_000_000 - 5 * 1_234_568);
    }
}
