//! `key`: the canonical text of an id, held against the server's own input and output
//! functions (DESIGN F11).

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::pg_sys;
    use pgrx::prelude::*;

    use crate::postgres::key::KeyType;
    use crate::tests::fixture::*;

    const UUID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

    const TYPES: [(KeyType, &str, pg_sys::Oid); 6] = [
        (KeyType::Text, "text", pg_sys::TEXTOID),
        (KeyType::Varchar, "varchar", pg_sys::VARCHAROID),
        (KeyType::Uuid, "uuid", pg_sys::UUIDOID),
        (KeyType::Int2, "int2", pg_sys::INT2OID),
        (KeyType::Int4, "int4", pg_sys::INT4OID),
        (KeyType::Int8, "int8", pg_sys::INT8OID),
    ];

    /// What the server makes of a text; None if the type has no such value.
    fn by_server(id: &str, type_name: &str) -> Option<String> {
        let cast = format!("SELECT {}::{type_name}", quoted(id));
        failure_of(&cast).is_none().then(|| text(&cast))
    }

    fn check(key_type: KeyType, type_name: &str, id: &str) {
        let server = by_server(id, type_name);
        if let Some(canonical) = key_type.canonical(id) {
            assert_eq!(Some(&canonical), server.as_ref(), "{id:?} as {type_name}");
            let again = key_type.canonical(&canonical);
            assert_eq!(again, Some(canonical), "{id:?} as {type_name}, again");
        }
        if let Some(server) = server {
            assert_eq!(
                key_type.canonical_or_raise(id),
                server,
                "{id:?} as {type_name}"
            );
        }
    }

    #[pg_test]
    fn each_type_is_found_by_its_oid_and_no_other_is() {
        for (key_type, _, oid) in TYPES {
            assert_eq!(KeyType::of(oid), Some(key_type));
        }
        for oid in [
            pg_sys::NUMERICOID,
            pg_sys::FLOAT8OID,
            pg_sys::NAMEOID,
            pg_sys::BPCHAROID,
        ] {
            assert_eq!(KeyType::of(oid), None);
        }
    }

    #[pg_test]
    fn canonical_ids_are_those_of_the_server() {
        schema();
        let ids = [
            "0",
            "-0",
            "+7",
            "07",
            " 7 ",
            "\t7\n",
            "7\u{a0}",
            "\u{2003}7",
            "7a",
            "",
            " ",
            "-",
            "+",
            "--7",
            "32767",
            "32768",
            "-32768",
            "-32769",
            "2147483647",
            "2147483648",
            "-2147483648",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "0x1F",
            "1_000",
            "7.0",
            "1e3",
            "٧",
            UUID,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ];
        for (key_type, type_name, _) in TYPES {
            for id in ids {
                check(key_type, type_name, id);
            }
        }
    }

    #[pg_test]
    fn numbers_at_random_are_canonical_as_in_the_server() {
        schema();
        let mut dice = Dice::new(1);
        let parts = [
            " ", "\t", "+", "-", "0", "00", "1", "9", "42", "32768", "7", "_", "x", "\u{a0}",
        ];
        for _ in 0..300 {
            let id: String = (0..dice.roll(6)).map(|_| dice.pick(&parts)).collect();
            for (key_type, type_name, _) in &TYPES[3..] {
                check(*key_type, type_name, &id);
            }
        }
    }

    #[pg_test]
    fn uuids_at_random_are_canonical_as_in_the_server() {
        schema();
        let mut dice = Dice::new(2);
        for _ in 0..300 {
            // A good one with a few things done to it.
            let mut id: Vec<char> = UUID.chars().collect();
            for _ in 0..dice.roll(4) {
                let place = dice.roll(id.len() as u64) as usize;
                match dice.roll(4) {
                    0 => id[place] = id[place].to_ascii_uppercase(),
                    1 if id[place] == '-' => drop(id.remove(place)),
                    2 => id.insert(place, *dice.pick(&[&'-', &'{', &' ', &'f'])),
                    _ => {
                        id.insert(0, '{');
                        id.push('}');
                    }
                }
            }
            let id: String = id.into_iter().collect();
            check(KeyType::Uuid, "uuid", &id);
        }
    }

    #[pg_test]
    fn the_canonical_text_in_sql_is_that_of_the_server_and_of_rust() {
        schema();
        let ids = [
            "7",
            "07",
            "+7",
            " 7",
            "-007",
            "0000000000000000000007",
            "9223372036854775807",
            "seven",
            "",
            UUID,
            "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
        ];
        for (key_type, type_name, _) in [TYPES[2], TYPES[4], TYPES[5]] {
            for id in ids {
                // Usage and settlements are matched by both: they must say the same.
                let sql = KeyType::Text.canonical_sql(&quoted(id), key_type);
                let in_sql = text(&format!("SELECT {sql}"));
                let server = by_server(id, type_name).unwrap_or_else(|| id.to_owned());
                assert_eq!(in_sql, server, "{id:?} as {type_name} in SQL");
            }
        }
    }

    #[pg_test]
    fn matching_is_symmetric_and_every_type_matches_itself_and_text() {
        for (one, name, _) in TYPES {
            assert!(one.matches(one) && one.matches(KeyType::Text), "{name}");
            for (other, other_name, _) in TYPES {
                assert_eq!(
                    one.matches(other),
                    other.matches(one),
                    "{name}, {other_name}"
                );
            }
        }
        assert!(!KeyType::Uuid.matches(KeyType::Int8));
        assert!(KeyType::Int2.matches(KeyType::Int8));
    }
}
