//! Files that say of themselves what they are not, and what is said of them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;

use super::{
    super::{Format, Limits, Placed, Table},
    forged::{self, Column, Thrift, dictionary, field, page, run, varint},
};
use crate::bench::{Bench, fixture};

fn read(bench: &Bench, bytes: &[u8], limits: Limits) -> Result<Vec<Placed>> {
    let opened = bench.file("a.parquet", bytes);
    let table = Table { named: Path::new("a.parquet"), opened: &opened, format: Format::Auto, list: None, limits };
    let mut rows = Vec::new();
    table.each(&mut |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

fn complaint(bytes: &[u8]) -> String {
    let (bench, started) = (Bench::new(), Instant::now());
    let error = read(&bench, bytes, Limits::default()).map(|rows| rows.len()).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}: {error:#}", started.elapsed());
    format!("{error:#}")
}

fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// A text column of one page.
fn of_text(codec: i64, pages: Vec<(Thrift, Vec<u8>)>, has_dictionary: bool) -> Column {
    let schema = vec![field("a", Some(6), 0, &[(6, Thrift::I32(0))])];
    Column { schema, path: vec!["a"], kind: 6, codec, pages, has_dictionary }
}

#[test]
fn what_is_forged_is_read_where_it_is_right() {
    let bench = Bench::new();
    let rows = |bytes: &[u8]| -> Vec<_> {
        read(&bench, bytes, Limits::default()).unwrap().into_iter().map(|placed| placed.row).collect()
    };
    assert_eq!(json!(rows(&forged::nulls(3))), json!([{ "a": null }, { "a": null }, { "a": null }]));
    assert_eq!(json!(rows(&forged::list(4, 2))), json!([{ "a": ["xx", "xx", "xx", "xx"] }]));
    // More than are read at once, and lists that are counted run by run.
    assert_eq!(rows(&forged::list(200_000, 3))[0]["a"].as_array().unwrap().len(), 200_000);
    assert_eq!(rows(&forged::nulls(100_000)).len(), 100_000);
}

#[test]
fn a_few_bytes_are_not_a_billion_rows() {
    let bytes = forged::nulls(i32::MAX.into());
    assert!(bytes.len() < 300, "{}", bytes.len());
    has(&complaint(&bytes), &["a.parquet: its ", " bytes hold ", "which is its `max_ratio`", "raise `max_ratio`"]);
    // What a user allows is read.
    let bench = Bench::new();
    let limits = Limits { max_ratio: 1e9, max_file_gb: 0.001, ..Limits::default() };
    has(
        &format!("{:#}", read(&bench, &bytes, limits).unwrap_err()),
        &["more than 0.001 GB, which is its `max_file_gb`"],
    );
}

#[test]
fn a_row_is_not_a_billion_items() {
    has(&complaint(&forged::list(1 << 30, 2)), &["column `\"a\"`: a row of more than 16 MB", "raise `max_row_mb`"]);
    // Few items, of a text that a dictionary has once.
    has(&complaint(&forged::list(2000, 1_000_000)), &["column `\"a\"`: a row of more than 16 MB"]);
}

#[test]
fn a_page_is_as_large_as_its_bytes_can_be() {
    let body = vec![0; 20];
    let large = |header: Thrift, has_dictionary| {
        complaint(&forged::file(&[of_text(6, vec![(header, body.clone())], has_dictionary)], 3))
    };
    has(&large(page(i32::MAX as usize, 20, 3, 0), false), &["its 20 bytes hold 2147483647 bytes or more"]);
    has(&large(dictionary(400, 20, i32::MAX.into()), true), &["a dictionary of 2147483647 values in 400 bytes"]);
    has(&large(page(400, 9999, 3, 0), false), &["a page of 9999 bytes, where "]);
    has(&large(page(400, 20, -3, 0), false), &["a page with a number of values below zero"]);
    // Its smallest value is said to have a terabyte.
    let Thrift::Record(mut header) = page(20, 20, 3, 0) else { unreachable!() };
    let Thrift::Record(about) = &mut header[3].1 else { unreachable!() };
    about.push((5, Thrift::Record(vec![(1, Thrift::Claimed(1 << 40))])));
    has(&large(Thrift::Record(header), false), &["the header of a page is damaged: a text of 1099511627776 bytes"]);
    // Forty dictionaries of empty texts, 60 MB each when they are unpacked.
    let unpacked = vec![0; 60_000_000];
    let packed = zstd::encode_all(&unpacked[..], 1).unwrap();
    let header = dictionary(unpacked.len(), packed.len(), 15_000_000);
    let message = complaint(&forged::file(&[of_text(6, vec![(header, packed)], true)], 0));
    has(&message, &["its pages take ", "and at most 256000000 are read, 16 times `max_row_mb`"]);
}

#[test]
fn lengths_are_as_many_as_there_are_values() {
    // A block of 128 values in 4 parts, of which there are said to be 2^40.
    let lengths = [varint(128), varint(4), varint(1 << 40), vec![0; 40]].concat();
    for encoding in [6, 7] {
        let header = page(lengths.len(), lengths.len(), 3, encoding);
        let message = complaint(&forged::file(&[of_text(0, vec![(header, lengths.clone())], false)], 3));
        has(&message, &["1099511627776 lengths in a page of 3 values"]);
    }
}

#[test]
fn columns_do_not_share_their_bytes_and_lie_in_the_file() {
    let body = run(3, 0);
    let chunk = |start: i64, size: i64| {
        let about = Thrift::Record(vec![
            (1, Thrift::I32(1)),
            (2, Thrift::List(vec![Thrift::I32(0)])),
            (3, Thrift::List(vec![forged::text("a")])),
            (4, Thrift::I32(0)),
            (5, Thrift::I64(3)),
            (6, Thrift::I64(size)),
            (7, Thrift::I64(size)),
            (9, Thrift::I64(start)),
        ]);
        Thrift::Record(vec![(2, Thrift::I64(start)), (3, about)])
    };
    let of = |chunks: &[(i64, i64)]| {
        let mut bytes = b"PAR1".to_vec();
        bytes.extend(page(body.len(), body.len(), 3, 0).encode());
        bytes.extend(&body);
        let mut schema =
            vec![Thrift::Record(vec![(4, forged::text("s")), (5, Thrift::I32(i64::try_from(chunks.len()).unwrap()))])];
        schema.extend(chunks.iter().map(|_| field("a", Some(1), 1, &[])));
        let chunks = chunks.iter().map(|(start, size)| chunk(*start, *size)).collect();
        let group = Thrift::Record(vec![(1, Thrift::List(chunks)), (2, Thrift::I64(9)), (3, Thrift::I64(3))]);
        complaint(&forged::finish(bytes, &schema, 3, &[group]))
    };
    has(&of(&[(4, 20), (4, 20)]), &["two of its columns lie in the same bytes"]);
    has(&of(&[(4, 1 << 40)]), &["column `\"a\"` lies outside of the file"]);
    has(&of(&[(-4, 20)]), &["column `\"a\"` lies outside of the file"]);
}

#[test]
fn fields_in_fields_and_digits_without_end_are_refused() {
    let mut deep = vec![Thrift::Record(vec![(4, forged::text("s")), (5, Thrift::I32(1))])];
    deep.extend((0..100_000).map(|_| field("a", None, 0, &[(5, Thrift::I32(1))])));
    deep.push(field("a", Some(1), 0, &[]));
    let message = complaint(&forged::finish(b"PAR1".to_vec(), &deep, 0, &[]));
    has(&message, &["more than 64 fields in each other"]);
    let decimals = [(6, Thrift::I32(5)), (7, Thrift::I32(i32::MAX.into())), (8, Thrift::I32(i32::MAX.into()))];
    let column = Column { schema: vec![field("a", Some(6), 0, &decimals)], ..of_text(0, Vec::new(), false) };
    has(&complaint(&forged::file(&[column], 0)), &["a.parquet: "]);
    // Its schema is said to have a billion fields.
    let mut bytes = b"PAR1".to_vec();
    let footer = [vec![0x15, 2, 0x19, 0xfc], varint(1 << 30)].concat();
    bytes.extend(&footer);
    bytes.extend((footer.len() as u32).to_le_bytes());
    bytes.extend(b"PAR1");
    has(&complaint(&bytes), &["its description is damaged: a list of 1073741824 items in 0 bytes"]);
}

/// Random changes of files that are right: `MASHBILL_FUZZ_SECONDS=600` makes them for ten minutes.
#[test]
fn damaged_files_are_read_or_refused() {
    let tables = ["flat.parquet", "nested.parquet", "many.parquet"];
    let mut seeds: Vec<Vec<u8>> =
        tables.iter().map(|name| std::fs::read(fixture("tables").join(name)).unwrap()).collect();
    seeds.extend([forged::nulls(1000), forged::list(500, 40), forged::list(200_000, 2)]);
    let bench = Bench::new();
    // A node may take its time over what its limits allow: here they allow little.
    let limits = Limits { max_row_mb: 1.0, max_file_gb: 0.02, ..Limits::default() };
    crate::bench::fuzz("parquet", 300, |chance| {
        let mut bytes = seeds[chance.below(seeds.len())].clone();
        for _ in 0..=chance.below(6) {
            chance.change(&mut bytes);
        }
        let _ = read(&bench, &bytes, limits);
        bytes
    });
}
