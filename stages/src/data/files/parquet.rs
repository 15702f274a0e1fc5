//! Rows out of Parquet files, columns of lists and structs included.
//! Knows nothing of what the columns mean.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result, anyhow, ensure};
use parquet::{
    basic::ConvertedType,
    file::reader::{FileReader, SerializedFileReader},
};
use serde_json::Value;

use super::Placed;

/// Reads every row. `path` is what messages call the file, `opened` where it lies.
///
/// # Errors
/// When the file is cut short, is no Parquet, or holds a column that has no counterpart in JSON.
pub(super) fn read(path: &Path, opened: &Path) -> Result<Vec<Placed>> {
    let shown = path.display();
    let file = File::open(opened).with_context(|| format!("reading {shown}"))?;
    let reader = SerializedFileReader::new(file).map_err(|error| anyhow!("{shown}: {error}"))?;
    for column in reader.metadata().file_metadata().schema_descr().columns() {
        let is_interval = column.converted_type() == ConvertedType::INTERVAL;
        ensure!(!is_interval, "{shown}: column `{}` holds intervals, which are not supported", column.path());
    }
    let mut rows = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(|error| anyhow!("{shown}: {error}"))?.enumerate() {
        let place = format!("{shown}: row {}", index + 1);
        let row = row.map_err(|error| anyhow!("{place}: {error}"))?;
        let Value::Object(row) = row.to_json_value() else {
            unreachable!("a row of Parquet is a group of fields");
        };
        rows.push(Placed { place, row });
    }
    Ok(rows)
}
