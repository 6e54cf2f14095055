//! jsonb that is made in one go: byte for byte what the server makes of the text.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::ffi::CString;

    use pgrx::direct_function_call_as_datum;
    use pgrx::prelude::*;

    use crate::postgres::jsonb::Value;

    fn bytes(jsonb: pg_sys::Datum) -> Vec<u8> {
        let varlena: *const pg_sys::varlena = jsonb.cast_mut_ptr();
        // SAFETY: both come from functions that make a whole varlena.
        unsafe {
            std::slice::from_raw_parts(varlena.cast::<u8>(), pgrx::varsize_any(varlena)).to_vec()
        }
    }

    fn assert_is(value: &Value, text: &str) {
        let text = CString::new(text).expect("no NUL").into_raw();
        // SAFETY: jsonb_in takes a C string.
        let parsed = unsafe {
            let arguments = [Some(pg_sys::Datum::from(text))];
            direct_function_call_as_datum(pg_sys::jsonb_in, &arguments).expect("it is jsonb")
        };
        assert_eq!(bytes(value.to_jsonb().0), bytes(parsed));
    }

    fn number(number: impl Into<i128>) -> Value<'static> {
        Value::Number(number.into())
    }

    #[pg_test]
    fn jsonb_is_what_the_server_makes_of_the_text() {
        let object = Value::Object(vec![
            ("workflow_id", Value::Text("a \"quoted\" ü")),
            ("empty", Value::Text("")),
            ("b", Value::Boolean(true)),
            ("a", Value::Boolean(false)),
            ("nothing", Value::Null),
            ("none", Value::Array(Vec::new())),
            (
                "array",
                Value::Array(vec![Value::Object(vec![("x", number(-10_000))])]),
            ),
            ("after", number(5)),
        ]);
        assert_is(
            &object,
            r#"{"workflow_id": "a \"quoted\" ü", "empty": "", "b": true, "a": false, "nothing": null,
            "none": [], "array": [{"x": -10000}], "after": 5}"#,
        );
    }

    #[pg_test]
    fn jsonb_numbers() {
        let mut numbers = vec![0, 1, -1, 9_999, 10_000, 10_001, -100_000_001, 120_000];
        numbers.extend([i64::MIN.into(), i64::MAX.into(), i128::MIN, i128::MAX]);
        for n in numbers {
            assert_is(&Value::Array(vec![number(n)]), &format!("[{n}]"));
        }
    }

    #[pg_test]
    fn jsonb_of_more_values_than_have_lengths() {
        let numbers: Vec<i64> = (0..100).map(|n| n * n * 1_000_003).collect();
        let text = format!("{{\"n\": {numbers:?}}}");
        let numbers = numbers.iter().map(|n| number(*n)).collect();
        assert_is(&Value::Object(vec![("n", Value::Array(numbers))]), &text);
    }
}
