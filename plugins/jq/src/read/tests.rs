//! Tests of the reader, against jaq's own and `serde_json`.

use super::*;

const VALID: [&str; 16] = [
    "null",
    " true ",
    "false",
    "0",
    "-0",
    "-12",
    "2147483648",
    "123456789012345678901234567890",
    "1.50",
    "1e3",
    "-1.5E-3",
    r#""""#,
    r#""é \" \\ \/ \u00e9 \ud83d\ude00""#,
    "[]",
    "[1,[2,[]], {} ]",
    "{\"a\" : {\"b\":[true,\t\"x\"]},\r\n\"c\":null, \"a\":2}",
];

#[test]
fn reads_what_jaq_reads() {
    for text in VALID {
        let value = json(text.as_bytes()).unwrap();
        assert_eq!(value, jaq_json::read::parse_single(text.as_bytes()).unwrap(), "{text}");
        serde_json::from_str::<serde_json::Value>(text).unwrap();
    }
}

#[test]
fn refuses_what_is_not_json() {
    let table = [
        ("", "expected a value at byte 0"),
        ("nul", "expected a value at byte 0"),
        ("NaN", "expected a value at byte 0"),
        ("+1", "expected a value at byte 0"),
        ("01", "expected nothing more at byte 1"),
        ("1.", "expected a digit at byte 2"),
        ("-", "expected a digit at byte 1"),
        ("1e", "expected a digit at byte 2"),
        ("1 2", "expected nothing more at byte 2"),
        ("# comment\n1", "expected a value at byte 0"),
        ("b\"x\"", "expected a value at byte 0"),
        ("[1,]", "expected a value at byte 3"),
        ("[1 2]", "expected `,` or `]` at byte 3"),
        ("[1", "expected `,` or `]` at byte 2"),
        ("{1:2}", "expected a key in quotes at byte 1"),
        ("{\"a\" 1}", "expected `:` at byte 5"),
        ("{\"a\":1,}", "expected a key in quotes at byte 7"),
        ("\"a", "expected `\"` at byte 2"),
        ("\"a\\", "expected `\"` at byte 4"),
        ("\"a\\x\"", "a text with a bad escape or a control character at byte 0"),
        ("\"a\nb\"", "a text with a bad escape or a control character at byte 2"),
    ];
    for (text, message) in table {
        assert_eq!(json(text.as_bytes()).unwrap_err().to_string(), message, "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
    }
    assert_eq!(json(b"\"\xff\"").unwrap_err().to_string(), "not UTF-8 at byte 1");
}

#[test]
fn bounds_the_nesting() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    json(nested(DEPTH_MAX).as_bytes()).unwrap();
    let error = json(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "nested more than 128 deep at byte 128");
    json("[".repeat(1_000_000).as_bytes()).unwrap_err();
}

#[test]
fn the_inside_of_a_text_ends_where_a_look_at_each_byte_says() {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    for length in [0, 1, 7, 8, 9, 23] {
        for at in 0..length {
            for byte in 0..=u8::MAX {
                // With what could be mistaken beside it: the least plain bytes, and those above ASCII.
                for filler in [b'x', 0x20, b'!', b'#', b'[', b']', 0x80, 0xff] {
                    let mut data = vec![filler; length];
                    data[at] = byte;
                    let each = data.iter().position(|&byte| !is_plain(byte)).unwrap_or(length);
                    assert_eq!(plain_bytes(&data), each, "{data:?}");
                }
            }
        }
    }
}
