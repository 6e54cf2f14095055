//! Exactly once, whatever happens in whatever order: long histories made of random steps, held
//! against a model that is a few sums (DESIGN E2).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::collections::BTreeMap;

    use pgrx::prelude::*;

    use crate::tests::fixture::*;

    const WORKFLOWS: [&str; 4] = ["w1", "w2", "w3", "w4"];
    const ACCOUNTS: [&str; 3] = ["ann", "bob", "eve"];

    /// What must have been charged: for each workflow and account the largest sum of usage that a
    /// settlement has seen.
    #[derive(Default)]
    struct Model {
        usage: BTreeMap<(String, String), i64>,
        charged: BTreeMap<(String, String), i64>,
        adjusted: BTreeMap<String, i64>,
    }

    impl Model {
        fn settle(&mut self, workflow: &str) {
            for (key, sum) in &self.usage {
                if key.0 == workflow {
                    let charged = self.charged.entry(key.clone()).or_default();
                    *charged = (*charged).max(*sum);
                }
            }
        }

        fn balance(&self, account: &str) -> i64 {
            let charged: i64 = self
                .charged
                .iter()
                .filter(|((_, payer), _)| payer == account)
                .map(|(_, tokens)| tokens)
                .sum();
            INITIAL + self.adjusted.get(account).copied().unwrap_or_default() - charged
        }
    }

    /// One step of the application, done and noted.
    fn step(dice: &mut Dice, model: &mut Model) -> String {
        let workflow = dice.pick(&WORKFLOWS);
        let account = dice.pick(&ACCOUNTS);
        match dice.roll(10) {
            0..=3 => {
                let tokens = dice.roll(50) as i64;
                add_usage(workflow, account, tokens);
                let key = (workflow.to_owned(), account.to_owned());
                *model.usage.entry(key).or_default() += tokens;
                format!("{account} uses {tokens} in {workflow}")
            }
            4 => {
                settle(workflow);
                model.settle(workflow);
                format!("settle {workflow}")
            }
            5 => {
                set_status(workflow, "running");
                complete(workflow);
                model.settle(workflow);
                format!("complete {workflow}")
            }
            6 => {
                run("UPDATE workflows SET status = 'running'");
                run("UPDATE workflows SET status = 'completed'");
                WORKFLOWS.iter().for_each(|workflow| model.settle(workflow));
                "complete all".into()
            }
            7 => {
                let other = dice.pick(&WORKFLOWS);
                run(&format!(
                    "SELECT * FROM token_balance.settle_workflows('{{{workflow},{other}}}')"
                ));
                model.settle(workflow);
                model.settle(other);
                format!("settle {workflow} and {other} in a batch")
            }
            8 => {
                run(&format!(
                    "DO $$ BEGIN PERFORM settle_workflow('{workflow}');
                     UPDATE users SET token_balance = 0 WHERE id = '{account}';
                     RAISE SQLSTATE 'UUUUU'; EXCEPTION WHEN SQLSTATE 'UUUUU' THEN NULL; END $$"
                ));
                format!("settle {workflow} and roll back")
            }
            _ => {
                let tokens = dice.roll(1000) as i64 - 500;
                run(&format!(
                    "UPDATE users SET token_balance = token_balance + {tokens} \
                     WHERE id = '{account}'"
                ));
                *model.adjusted.entry(account.to_owned()).or_default() += tokens;
                format!("{account} gets {tokens}")
            }
        }
    }

    #[pg_test]
    fn any_history_charges_each_usage_row_once() {
        application();
        run("INSERT INTO users VALUES ('eve')");
        for workflow in WORKFLOWS {
            add_workflow(workflow, "ann", "running");
        }
        let mut dice = Dice::new(3);
        let mut model = Model::default();
        let mut steps = Vec::new();
        for _ in 0..250 {
            steps.push(step(&mut dice, &mut model));
            for account in ACCOUNTS {
                let expected = model.balance(account);
                assert_eq!(balance(account), expected, "{account} after {steps:#?}");
            }
        }
        assert_ledger_is_whole();
        let settled = number("SELECT sum(charged_tokens) FROM token_balance.settlement");
        assert_eq!(settled, model.charged.values().sum::<i64>());
        let in_ledger =
            number("SELECT -sum(amount) FROM token_balance.ledger WHERE kind = 'settlement'");
        assert_eq!(in_ledger, settled);
    }

    #[pg_test]
    fn every_key_type_charges_each_usage_row_once_when_calls_are_repeated() {
        schema();
        run("CREATE TABLE users (id integer PRIMARY KEY);
             CREATE TABLE token_usage (workflow_id varchar(40), user_id bigint, total_tokens int);
             CREATE TABLE workflows (id uuid PRIMARY KEY, user_id integer, status text);
             INSERT INTO users SELECT generate_series(1, 20);
             INSERT INTO workflows SELECT md5(n::text)::uuid, n, 'running'
                 FROM generate_series(1, 20) AS n;
             SELECT token_balance.attach('users', 'token_usage', 'workflows')");
        for _ in 0..3 {
            run("INSERT INTO token_usage SELECT id, user_id, user_id FROM workflows");
            run("SELECT settle_workflow(id) FROM workflows WHERE user_id % 2 = 0");
            run("UPDATE workflows SET status = 'running';
                 UPDATE workflows SET status = 'completed'");
            run("SELECT count(*) FROM token_balance.settle_workflows(
                     (SELECT array_agg(id::text) FROM workflows))");
        }
        assert!(is_true(
            "(SELECT bool_and(token_balance = 1000000 - 3 * id) FROM users)"
        ));
        assert_ledger_is_whole();
    }
}
