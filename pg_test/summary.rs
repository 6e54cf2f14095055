//! The answer of `summary`, field by field: an application's response model, which refuses other shapes, takes it as it
//! is. The shape is a JSON schema.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;
    use serde_json::{Value, json};

    use crate::tests::fixture::{self, *};

    /// `workflow` is the name of the bound workflow column; records have an `id` where the usage has a key.
    fn schema(workflow: &str, has_id: bool) -> Value {
        let object = |properties: Value| {
            let names: Vec<_> = properties.as_object().expect("an object").keys().collect();
            json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
        };
        let integer = json!({"type": "integer"});
        let text = json!({"type": "string"});
        let text_or_null = json!({"type": ["string", "null"]});
        let group = |name: &str, of: &Value| {
            object(json!({
                name: of, "prompt_tokens": integer, "completion_tokens": integer, "total_tokens": integer,
                "record_count": integer,
            }))
        };
        let mut record = json!({
            workflow: text_or_null, "prompt_tokens": integer, "completion_tokens": integer,
            "total_tokens": integer, "model": text_or_null, "stage": text_or_null, "created_at": text,
        });
        if has_id {
            record["id"] = text.clone();
        }
        object(json!({
            "summary": object(json!({
                "total_prompt_tokens": integer, "total_completion_tokens": integer, "total_tokens": integer,
                "record_count": integer,
            })),
            "by_stage": {"type": "array", "items": group("stage", &text)},
            "by_model": {"type": "array", "items": group("model", &text_or_null)},
            "recent_records": {"type": "array", "items": object(record)},
            "token_balance": integer,
            "is_overdraft": {"type": "boolean"},
        }))
    }

    /// What of a value is not as the schema has it, with its place. Of JSON schema it knows the words that are used above.
    fn faults(value: &Value, schema: &Value, place: &str) -> Vec<String> {
        let is_of = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            // As text, since a sum of tokens may have more digits than a number of Rust's.
            "integer" => {
                let text = value.to_string();
                let digits = text.trim_start_matches('-');
                value.is_number() && digits.bytes().all(|byte| byte.is_ascii_digit())
            }
            other => panic!("the schema has a type {other}"),
        };
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            one => vec![one.clone()],
        };
        if !types.iter().any(|one| is_of(one.as_str().expect("a type"))) {
            return vec![format!("{place} is {value}, not {}", schema["type"])];
        }
        let mut found = Vec::new();
        if let Some(items) = value.as_array() {
            for (at, item) in items.iter().enumerate() {
                found.extend(faults(item, &schema["items"], &format!("{place}[{at}]")));
            }
        }
        if let Some(fields) = value.as_object() {
            let properties = schema["properties"].as_object().expect("properties");
            for name in schema["required"].as_array().expect("required") {
                let name = name.as_str().expect("a name");
                if !fields.contains_key(name) {
                    found.push(format!("{place} has no {name}"));
                }
            }
            for (name, field) in fields {
                match properties.get(name) {
                    Some(of) => found.extend(faults(field, of, &format!("{place}.{name}"))),
                    None => found.push(format!("{place} has {name} besides")),
                }
            }
        }
        found
    }

    #[track_caller]
    fn assert_shape(answer: &Value, schema: &Value) {
        assert_eq!(faults(answer, schema, "answer"), [""; 0], "{answer:#}");
    }

    fn summary(arguments: &str) -> Value {
        json(&format!("SELECT token_balance.summary({arguments})"))
    }

    /// The application that it was made for: its usage names a session.
    fn sessions() {
        schema_of_app();
        run("SELECT token_balance.attach('users', 'token_usage', usage_workflow => 'session_id')");
    }

    fn schema_of_app() {
        fixture::schema();
        run("CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, username text);
             CREATE TABLE token_usage (
                 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint, session_id text,
                 prompt_tokens integer, completion_tokens integer, total_tokens integer, model text, stage text,
                 created_at timestamptz DEFAULT now());
             INSERT INTO users (username) VALUES ('ann'), ('bob'), ('cid')");
    }

    /// (DESIGN F18)
    #[pg_test]
    fn a_summary_has_the_shape_of_the_response_model() {
        sessions();
        let of_sessions = schema("session_id", true);
        assert_shape(&summary("1"), &of_sessions);
        run("INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens, model, stage)
             VALUES (1, 'folder-1', 90, 10, 100, 'large', 'draft'), (1, 'folder-1', 4, 1, 5, NULL, ''),
                 (1, NULL, 2, 1, 3, 'small', NULL), (2, 'folder-2', NULL, NULL, NULL, NULL, NULL)");
        let answer = summary("1");
        assert_shape(&answer, &of_sessions);
        assert_eq!(
            answer["summary"],
            json!({"total_prompt_tokens": 96, "total_completion_tokens": 12, "total_tokens": 108, "record_count": 3})
        );
        assert_eq!(
            answer["by_stage"],
            json!([
                {"stage": "draft", "prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100, "record_count": 1},
                {"stage": "unknown", "prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8, "record_count": 2},
            ])
        );
        assert_eq!(
            answer["by_model"],
            json!([
                {"model": "large", "prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100, "record_count": 1},
                {"model": null, "prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5, "record_count": 1},
                {"model": "small", "prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, "record_count": 1},
            ])
        );
        // The rows of one transaction have one time: which is first is not said.
        let records = answer["recent_records"].as_array().expect("records");
        let first = records.iter().find(|record| record["id"] == "1");
        let mut first = first.expect("the first row is there").clone();
        first["created_at"].take();
        assert_eq!(
            first,
            json!({"id": "1", "session_id": "folder-1", "prompt_tokens": 90, "completion_tokens": 10,
                "total_tokens": 100, "model": "large", "stage": "draft", "created_at": null})
        );
        // All tokens NULL: zeros.
        let answer = summary("2");
        assert_shape(&answer, &of_sessions);
        assert_eq!(answer["recent_records"][0]["total_tokens"], 0);
        assert_eq!(answer["by_model"][0]["model"], Value::Null);
        assert_eq!(answer["summary"]["record_count"], 1);
        // Overdrawn, past bigint, and of no days.
        run("UPDATE users SET token_balance = -1 WHERE id = 3;
             ALTER TABLE token_usage ALTER total_tokens TYPE bigint;
             INSERT INTO token_usage (user_id, session_id, total_tokens)
             SELECT 3, 'big', 9223372036854775807 FROM generate_series(1, 30)");
        let answer = summary("3");
        assert_shape(&answer, &of_sessions);
        assert_eq!(answer["is_overdraft"], true);
        assert_eq!(
            answer["by_stage"][0]["total_tokens"].to_string(),
            "276701161105643274210"
        );
        assert_eq!(answer["recent_records"].as_array().map(Vec::len), Some(20));
        assert_shape(&summary("3, 0"), &of_sessions);
    }

    /// (DESIGN F18, F19)
    #[pg_test]
    fn a_summary_has_its_shape_where_columns_are_missing() {
        application();
        add_usage("w1", "ann", 7);
        let bare = schema("workflow_id", true);
        assert_shape(&summary("'ann'"), &bare);
        run(
            "ALTER TABLE token_usage ADD created_at date DEFAULT current_date, DROP id;
             SELECT token_balance.detach();
             SELECT token_balance.attach('users', 'token_usage', 'workflows')",
        );
        let answer = summary("'ann'");
        assert_shape(&answer, &schema("workflow_id", false));
        assert_eq!(answer["recent_records"][0]["workflow_id"], "w1");
        // Of several bindings each record has the name that its own binding has for the workflow.
        run("CREATE TABLE images (owner text, run text, pixels integer, created_at timestamptz DEFAULT now());
             INSERT INTO images VALUES ('ann', 'r1', 5);
             SELECT token_balance.attach('users', 'images', usage_user => 'owner', usage_workflow => 'run',
                 usage_tokens => '{pixels}', name => 'images')");
        let answer = summary("'ann'");
        assert_eq!(answer["summary"]["total_tokens"], 12);
        let records = answer["recent_records"].as_array().expect("records");
        let of = |name: &str| records.iter().filter(|one| one.get(name).is_some()).count();
        assert_eq!((records.len(), of("workflow_id"), of("run")), (2, 1, 1));
        let images = summary("'ann', binding => 'images'");
        assert_shape(&images, &schema("run", false));
    }

    /// A checker that finds nothing would be none.
    #[pg_test]
    fn a_summary_of_another_shape_is_found() {
        let mut answer = json!({
            "summary": {"total_prompt_tokens": 0, "total_completion_tokens": 0, "total_tokens": 0, "record_count": 0},
            "by_stage": [{"stage": "s", "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "record_count": 1}],
            "by_model": [], "recent_records": [], "token_balance": 5, "is_overdraft": false
        });
        let schema = schema("workflow_id", true);
        assert_shape(&answer, &schema);
        answer["by_stage"][0]["stage"].take();
        answer["by_stage"][0]["total_prompt_tokens"] = json!(1);
        answer["summary"]
            .as_object_mut()
            .expect("an object")
            .remove("record_count");
        answer["token_balance"] = json!(1.5);
        assert_eq!(
            faults(&answer, &schema, "answer"),
            [
                "answer.by_stage[0].stage is null, not \"string\"",
                "answer.by_stage[0] has total_prompt_tokens besides",
                "answer.summary has no record_count",
                "answer.token_balance is 1.5, not \"integer\"",
            ]
        );
    }
}
