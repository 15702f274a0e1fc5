//! Rows out of Parquet files, columns of lists and structs included.
//! Knows nothing of what the columns mean.

mod claims;
#[cfg(test)]
mod forged;
mod hybrid;
#[cfg(test)]
mod tests;
mod thrift;

use std::{
    io::BufReader,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row as Record, reader::TreeBuilder},
};
use serde_json::Value;

use super::{Placed, Table};
use crate::data::{regular, rows::Row};

/// Bytes that a value takes at least, what stands around it counted.
const SHORTEST: u64 = 2;
/// Bytes of a decimal at most, which is written out digit by digit.
const LONGEST_DECIMAL: usize = 64;

/// Hands out every row.
///
/// # Errors
/// When the file is cut short, is no Parquet, says of itself what cannot be, or holds a column that has no counterpart
/// in JSON.
pub(super) fn each(table: &Table, take: &mut dyn FnMut(Placed) -> Result<()>) -> Result<()> {
    let shown = table.named.display().to_string();
    let open = || regular::open(table.opened).with_context(|| table.reading());
    let (file, mut beside) = (open()?, BufReader::new(open()?));
    let size = file.metadata().with_context(|| table.reading())?.len();
    table.limits.check_file(size).with_context(|| shown.clone())?;
    claims::check_footer(&mut beside, size).with_context(|| shown.clone())?;
    let reader = guarded(|| Ok(SerializedFileReader::new(file)?)).map_err(|error| anyhow!("{shown}: {error}"))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    for column in schema.columns() {
        claims::check_column(column, &table.limits).with_context(|| shown.clone())?;
    }
    // Before any is read: as many rows as it says, each of nothing but nulls.
    let of_row =
        schema.root_schema().get_fields().iter().map(|field| measured_name(field.name()) + SHORTEST).sum::<u64>();
    let said: u64 = (0..reader.num_row_groups())
        .fold(0, |sum, index| sum.saturating_add(reader.metadata().row_group(index).num_rows().max(0).cast_unsigned()));
    table.limits.check_packed(said.saturating_mul(of_row), size).with_context(|| shown.clone())?;
    let (mut number, mut held) = (0_u64, 0_u64);
    for index in 0..reader.num_row_groups() {
        let (group, mut records) = guarded(|| {
            let group = reader.get_row_group(index)?;
            let at_once = claims::rows_at_once(&mut beside, size, &*group, &table.limits)?;
            let records = TreeBuilder::new().with_batch_size(at_once).as_iter(schema.clone(), &*group)?;
            Ok((group, records))
        })
        .with_context(|| shown.clone())?;
        for _ in 0..group.metadata().num_rows() {
            number += 1;
            let place = format!("{shown}: row {number}");
            let row = guarded(|| {
                let Some(record) = records.next() else { bail!("there are fewer rows than it says") };
                let record = record?;
                let mut bytes = 0;
                measure_record(&record, &mut bytes)?;
                table.limits.check_row(bytes)?;
                held += bytes;
                table.limits.check_packed(held, size)?;
                Ok(as_row(&record))
            })
            .with_context(|| place.clone())?;
            take(Placed { place, row })?;
        }
    }
    Ok(())
}

/// What the library does with a file, which asserts that it is what it should be.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(anyhow!("the file is damaged: {}", text.unwrap_or("the library gave it up")))
    })
}

fn as_row(record: &Record) -> Row {
    match record.to_json_value() {
        Value::Object(row) => row,
        _ => unreachable!("a row of Parquet is a group of fields"),
    }
}

/// About how many bytes a record will have as JSON.
fn measure_record(record: &Record, bytes: &mut u64) -> Result<()> {
    for (name, field) in record.get_column_iter() {
        *bytes += measured_name(name);
        measure(field, bytes)?;
    }
    Ok(())
}

fn measure(field: &Field, bytes: &mut u64) -> Result<()> {
    *bytes += match field {
        Field::Group(record) => {
            measure_record(record, bytes)?;
            2
        }
        Field::ListInternal(list) => {
            list.elements().iter().try_for_each(|item| measure(item, bytes))?;
            2
        }
        Field::MapInternal(map) => {
            for (key, value) in map.entries() {
                measure(key, bytes)?;
                measure(value, bytes)?;
            }
            2
        }
        Field::Str(text) => text.len() as u64 + 3,
        Field::Bytes(all) => all.len() as u64 / 3 * 4 + 7,
        Field::Decimal(decimal) => {
            let length = decimal.data().len();
            ensure!(length <= LONGEST_DECIMAL, "a decimal of {length} bytes, and at most {LONGEST_DECIMAL} are read");
            80
        }
        _ => SHORTEST,
    };
    Ok(())
}

/// With its quotes, a colon and a comma.
fn measured_name(name: &str) -> u64 {
    name.len() as u64 + 4
}
