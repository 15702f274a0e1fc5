//! Turns a document into bytes that no other document has: typed, length-prefixed, maps sorted.
//! Knows nothing of what the document means.
//!
//! | value | bytes |
//! |---|---|
//! | null, false, true | `n`, `F`, `T` |
//! | integer | `i`, 16 bytes of its two's complement, little-endian |
//! | float | `f`, 8 bytes of its IEEE 754 bits, little-endian; `-0.0` as `0.0` |
//! | text | `s`, length in bytes as u64, UTF-8 |
//! | list | `l`, count as u64, the items |
//! | map | `m`, count as u64, key (as text) and value, by the order of the keys' bytes |
//!
//! An integer is never a float and neither is text: `1`, `1.0` and `"1"` differ. NaN and infinities have no
//! place in a [`Value`], so none can get here.

use serde_json::{Number, Value};

/// The bytes of `value`. Equal values (maps in any order) give equal bytes, different values different ones.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, value);
    bytes
}

fn append(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(b'n'),
        Value::Bool(false) => bytes.push(b'F'),
        Value::Bool(true) => bytes.push(b'T'),
        Value::Number(number) => append_number(bytes, number),
        Value::String(text) => append_text(bytes, text),
        Value::Array(items) => {
            bytes.push(b'l');
            append_count(bytes, items.len());
            for item in items {
                append(bytes, item);
            }
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            bytes.push(b'm');
            append_count(bytes, entries.len());
            for (key, value) in entries {
                append_text(bytes, key);
                append(bytes, value);
            }
        }
    }
}

fn append_number(bytes: &mut Vec<u8>, number: &Number) {
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    if let Some(integer) = integer {
        bytes.push(b'i');
        bytes.extend(integer.to_le_bytes());
    } else {
        let float = number.as_f64().expect("a JSON number is an i64, a u64 or a finite f64");
        // Adding zero turns -0.0 into 0.0 and leaves every other float as it is.
        bytes.push(b'f');
        bytes.extend((float + 0.0).to_bits().to_le_bytes());
    }
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(b's');
    append_count(bytes, text.len());
    bytes.extend(text.as_bytes());
}

fn append_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend((count as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn bytes_are_those_of_the_table() {
        assert_eq!(encode(&json!(null)), b"n");
        assert_eq!(encode(&json!(-2)), *b"i\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
        // 1.5 is 0x3FF8_0000_0000_0000.
        assert_eq!(encode(&json!(1.5)), *b"f\0\0\0\0\0\0\xf8\x3f");
        assert_eq!(encode(&json!("é")), *b"s\x02\0\0\0\0\0\0\0\xc3\xa9");
        assert_eq!(
            encode(&json!({"b": [true], "a": false})),
            *b"m\x02\0\0\0\0\0\0\0s\x01\0\0\0\0\0\0\0aFs\x01\0\0\0\0\0\0\0bl\x01\0\0\0\0\0\0\0T"
        );
    }

    #[test]
    fn values_that_look_alike_differ() {
        let alike = [
            json!(1),
            json!(1.0),
            json!("1"),
            json!(true),
            json!([1]),
            json!({"1": 1}),
            json!([[1], []]),
            json!([[], [1]]),
            json!(["ab", "c"]),
            json!(["a", "bc"]),
            json!(["abc"]),
            json!({"a": null}),
            json!({}),
            json!([]),
            json!(null),
            json!(""),
            json!(u64::MAX),
            json!(-1),
        ];
        for (i, a) in alike.iter().enumerate() {
            for b in &alike[i + 1..] {
                assert_ne!(encode(a), encode(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn order_of_keys_and_sign_of_zero_say_nothing() {
        assert_eq!(encode(&json!({"a": 1, "b": 2})), encode(&json!({"b": 2, "a": 1})));
        assert_eq!(encode(&json!(-0.0)), encode(&json!(0.0)));
    }

    proptest! {
        /// Two documents with the same bytes would decode to the same document.
        #[test]
        fn every_document_can_be_read_back_from_its_bytes(document in document()) {
            let bytes = encode(&document);
            let (read, rest) = decode(&bytes);
            prop_assert_eq!(read, document);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn two_documents_have_the_same_bytes_exactly_when_they_are_the_same(a in document(), b in document()) {
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }

        /// No document's bytes begin those of another, so that documents after each other stay apart.
        #[test]
        fn no_document_is_the_beginning_of_another(a in document(), b in document()) {
            prop_assert!(a == b || !encode(&a).starts_with(&encode(&b)));
        }
    }

    /// Documents with small alphabets, so that near misses are common. A float is never -0.0, which is 0.0.
    fn document() -> impl Strategy<Value = Value> {
        let text = "[absé\u{0}]{0,3}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2_i64..3).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no such number", |float| float.is_finite()).prop_map(|x| json!(x + 0.0)),
            (0_u8..9).prop_map(|quarter| json!(f64::from(quarter) / 4.0)),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    fn decode(bytes: &[u8]) -> (Value, &[u8]) {
        let (tag, rest) = (bytes[0], &bytes[1..]);
        match tag {
            b'n' => (Value::Null, rest),
            b'F' => (Value::Bool(false), rest),
            b'T' => (Value::Bool(true), rest),
            b'i' => {
                let integer = i128::from_le_bytes(rest[..16].try_into().unwrap());
                let number = i64::try_from(integer).map_or_else(|_| json!(integer as u64), |small| json!(small));
                (number, &rest[16..])
            }
            b'f' => (json!(f64::from_bits(u64::from_le_bytes(rest[..8].try_into().unwrap()))), &rest[8..]),
            b's' => {
                let (length, rest) = count(rest);
                (json!(std::str::from_utf8(&rest[..length]).unwrap()), &rest[length..])
            }
            b'l' => {
                let (length, mut rest) = count(rest);
                let mut items = Vec::new();
                for _ in 0..length {
                    let (item, after) = decode(rest);
                    items.push(item);
                    rest = after;
                }
                (Value::Array(items), rest)
            }
            b'm' => {
                let (length, mut rest) = count(rest);
                let mut map = Map::new();
                for _ in 0..length {
                    let (key, after) = decode(rest);
                    let (value, after) = decode(after);
                    map.insert(key.as_str().unwrap().into(), value);
                    rest = after;
                }
                (Value::Object(map), rest)
            }
            other => panic!("no value begins with {other}"),
        }
    }

    fn count(bytes: &[u8]) -> (usize, &[u8]) {
        (u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize, &bytes[8..])
    }
}
