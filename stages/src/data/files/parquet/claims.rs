//! What a Parquet file says of its own sizes, held against its bytes before anything is made room for by it.
//!
//! A file of some hundred bytes can say that it has a page of 2 GB, a dictionary of 2^31 entries or a column of 2^31
//! nulls, and the library would take its word. Here headers are walked over, and levels and lengths counted run by run.
//! Knows nothing of JSON.

use std::{
    fs::File,
    io::{BufReader, Read as _, Seek as _, SeekFrom},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use parquet::{
    basic::{ConvertedType, Encoding, LogicalType, Type},
    column::page::Page,
    file::{metadata::RowGroupMetaData, reader::RowGroupReader},
    schema::types::ColumnDescriptor,
};

use super::{
    super::{delimited::MOST_COLUMNS, limits::Limits},
    hybrid,
    thrift::{Compact, Kind},
};

/// Bytes of the description at the end of a file at most. That of a file of a hundred thousand pages of text has 1 MB.
const LARGEST_FOOTER: u64 = 16 << 20;
/// Bytes of a page's header at most: it may hold the largest and the smallest value.
const LARGEST_HEADER: u64 = 16 << 20;
/// Fields in fields at most: the library reads them by recursion.
const DEEPEST: usize = 64;
/// Digits of a decimal at most. Arrow's widest have 76.
const MOST_DIGITS: i32 = 76;
/// Bytes of memory for a value that is read and not yet in a row: itself, its levels and its place in a list.
const VALUE: u64 = 128;
/// A list of so many values is read whatever it holds, so that the levels of usual files are not read twice.
const SHORT: u64 = 100_000;

/// Bytes that the pages and the batches of a row group may take at once, as a multiple of the longest row.
const GROUP_ROWS: u64 = 16;

/// The description at the end of a file: that its lists are as long as they say, and its fields not too deep.
///
/// # Errors
/// When they are not. A file that is no Parquet is passed on: the library says what is wrong with it.
pub(super) fn check_footer(file: &mut BufReader<File>, size: u64) -> Result<()> {
    const TAIL: u64 = 8;
    let Some(start) = size.checked_sub(TAIL) else { return Ok(()) };
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut tail)?;
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if &tail[4..] != b"PAR1" || length > start {
        return Ok(());
    }
    ensure!(length <= LARGEST_FOOTER, "its description has {length} bytes, and at most {LARGEST_FOOTER} are read");
    file.seek(SeekFrom::Start(start - length))?;
    let mut children = Vec::new();
    let walked = Compact::new(file, length).structure(|reader, id, kind| {
        if (id, kind) != (2, Kind::LIST) {
            return reader.skip(kind);
        }
        children.clear();
        let (of, count) = reader.list()?;
        ensure!(of == Kind::STRUCT, "its schema is no list of fields");
        for _ in 0..count {
            let mut below = 0;
            reader.structure(|reader, id, kind| {
                if id == 5 {
                    below = reader.integer(kind)?.unwrap_or_default();
                    return Ok(());
                }
                reader.skip(kind)
            })?;
            children.push(below);
        }
        Ok(())
    });
    walked.context("its description is damaged")?;
    ensure!(children.len() <= 2 * MOST_COLUMNS, "{} fields, and at most {} are read", children.len(), 2 * MOST_COLUMNS);
    let mut open: Vec<i64> = Vec::new();
    for below in children {
        ensure!(below >= 0, "a field with {below} others in it");
        while let Some(left) = open.last_mut() {
            *left -= 1;
            if *left >= 0 {
                break;
            }
            open.pop();
        }
        open.push(below);
        ensure!(open.len() <= DEEPEST, "more than {DEEPEST} fields in each other");
    }
    Ok(())
}

/// What a column holds is understood, and not written out without end.
///
/// # Errors
/// Names the column.
pub(super) fn check_column(column: &ColumnDescriptor, limits: &Limits) -> Result<()> {
    let path = column.path();
    let is_interval = column.converted_type() == ConvertedType::INTERVAL;
    ensure!(!is_interval, "column `{path}` holds intervals, which are not supported");
    let is_decimal = column.converted_type() == ConvertedType::DECIMAL
        || matches!(column.logical_type_ref(), Some(LogicalType::Decimal { .. }));
    let (scale, precision) = (column.type_scale(), column.type_precision());
    ensure!(
        !is_decimal || (0..=precision).contains(&scale) && precision <= MOST_DIGITS,
        "column `{path}` holds decimals of {precision} digits, {scale} of them behind the point; at most {MOST_DIGITS} are read"
    );
    if column.physical_type() == Type::FIXED_LEN_BYTE_ARRAY {
        let length = column.type_length();
        let most = limits.row_bytes();
        ensure!(length >= 0 && length as u64 <= most, "column `{path}` holds values of {length} bytes");
    }
    Ok(())
}

/// What a column's pages say.
#[derive(Debug, Default)]
struct Column {
    /// Values and nulls.
    values: u64,
    /// Bytes of memory for its largest page and its dictionary.
    held: u64,
    has_dictionary: bool,
    has_differences: bool,
}

/// Looks at a row group, and says how many rows may be read at once.
///
/// # Errors
/// When it says of itself what cannot be, or would take more memory than the limits allow.
pub(super) fn rows_at_once(
    file: &mut BufReader<File>,
    size: u64,
    group: &dyn RowGroupReader,
    limits: &Limits,
) -> Result<usize> {
    let most = limits.row_bytes().saturating_mul(GROUP_ROWS);
    let about = group.metadata();
    ensure!(
        about.num_columns() <= MOST_COLUMNS,
        "{} columns, and at most {MOST_COLUMNS} are read",
        about.num_columns()
    );
    let rows = u64::try_from(about.num_rows()).context("a number of rows below zero")?;
    ensure!(rows == 0 || about.num_columns() > 0, "{rows} rows without a column");
    check_places(about, size)?;
    let (mut held, mut of_row, mut long) = (0_u64, 0_u64, 0_u64);
    for (index, chunk) in about.columns().iter().enumerate() {
        let descriptor = chunk.column_descr();
        let path = descriptor.path();
        let within = || format!("column `{path}`");
        let column = walk(file, about, index, limits).with_context(within)?;
        held = held.saturating_add(column.held);
        ensure!(
            held <= most,
            "its pages take {held} bytes at once up to {}, and at most {most} are read, {GROUP_ROWS} times `max_row_mb`",
            within()
        );
        let is_list = descriptor.max_rep_level() > 0;
        ensure!(
            if is_list { column.values >= rows } else { column.values == rows },
            "{}: {} values in {rows} rows",
            within(),
            column.values
        );
        let lists = if is_list { longest(group, index, column.values, limits).with_context(within)? } else { 1 };
        if is_list {
            long = long.saturating_add(lists);
            // Each takes two bytes of text at least.
            limits.check_row(long.saturating_mul(2)).with_context(within)?;
        }
        let longest_value =
            if column.has_differences { longest_of_differences(group, index).with_context(within)? } else { 0 };
        let of_value = VALUE + longest_value;
        of_row = of_row.saturating_add(lists.saturating_mul(of_value));
        if is_list && (column.has_dictionary || column.has_differences) {
            check_texts(group, index, lists, limits).with_context(within)?;
        }
    }
    let at_once = (most / 4).checked_div(of_row).unwrap_or(1);
    Ok(at_once.clamp(1, 1024) as usize)
}

/// Column chunks lie in the file, and no two share bytes: what is read of all is no more than the file.
fn check_places(about: &RowGroupMetaData, size: u64) -> Result<()> {
    let mut places = Vec::new();
    for chunk in about.columns() {
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let place = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
        let place = place.filter(|(start, length)| start.checked_add(*length).is_some_and(|end| end <= size));
        places.push(place.with_context(|| format!("column `{}` lies outside of the file", chunk.column_path()))?);
    }
    places.sort_unstable();
    let shared = places.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0 && pair[1].1 > 0);
    ensure!(!shared, "two of its columns lie in the same bytes");
    Ok(())
}

/// The headers of a column's pages.
fn walk(file: &mut BufReader<File>, about: &RowGroupMetaData, index: usize, limits: &Limits) -> Result<Column> {
    let chunk = about.column(index);
    let (start, length) = chunk.byte_range();
    file.seek(SeekFrom::Start(start))?;
    let (mut left, mut column, mut largest) = (length, Column::default(), 0);
    while left > 0 {
        let mut header = Header::default();
        let most = left.min(LARGEST_HEADER);
        let mut reader = Compact::new(&mut *file, most);
        header.read(&mut reader).context("the header of a page is damaged")?;
        left -= most - reader.left();
        let sizes = u64::try_from(header.packed).ok().zip(u64::try_from(header.unpacked).ok());
        let (packed, unpacked) = sizes.context("a page of a size below zero")?;
        ensure!(packed <= left, "a page of {packed} bytes, where {left} are left");
        // One that is not compressed holds what it has.
        limits.check_packed(unpacked, packed)?;
        let values = u64::try_from(header.values).context("a page with a number of values below zero")?;
        match header.kind {
            // The library ends a column at these, or passes over an index.
            2 => {
                let width = match chunk.column_type() {
                    Type::FIXED_LEN_BYTE_ARRAY => chunk.column_descr().type_length().max(1) as u64,
                    _ => 4,
                };
                ensure!(
                    values.saturating_mul(width) <= unpacked,
                    "a dictionary of {values} values in {unpacked} bytes"
                );
                column.has_dictionary = true;
                column.held += unpacked + values * VALUE;
            }
            0 | 3 => {
                column.values = column.values.saturating_add(values);
                largest = largest.max(unpacked);
                let is_of_differences = matches!(header.encoding, 6 | 7);
                if is_of_differences {
                    ensure!(
                        chunk.column_type() == Type::BYTE_ARRAY || header.encoding == 7,
                        "values of one length by their lengths"
                    );
                    column.has_differences = true;
                    largest = largest.max(unpacked + values.saturating_mul(VALUE));
                }
            }
            _ => {}
        }
        file.seek_relative(packed.cast_signed())?;
        left -= packed;
    }
    column.held = column.held.saturating_add(largest);
    Ok(column)
}

/// What is looked at of a page's header.
#[derive(Debug, Default)]
struct Header {
    kind: i64,
    packed: i64,
    unpacked: i64,
    values: i64,
    encoding: i64,
}

impl Header {
    fn read<R: std::io::Read>(&mut self, reader: &mut Compact<R>) -> Result<()> {
        reader.structure(|reader, id, kind| {
            let number = match id {
                1 => &mut self.kind,
                2 => &mut self.unpacked,
                3 => &mut self.packed,
                // Of a data page, a dictionary, and a data page of the second version.
                5 | 7 | 8 if kind == Kind::STRUCT => {
                    let of_encoding = if id == 8 { 4 } else { 2 };
                    return reader.structure(|reader, field, kind| {
                        if field != 1 && field != of_encoding {
                            return reader.skip(kind);
                        }
                        let number = reader.integer(kind)?.unwrap_or(-1);
                        if field == 1 {
                            self.values = number;
                        } else {
                            self.encoding = number;
                        }
                        Ok(())
                    });
                }
                _ => return reader.skip(kind),
            };
            *number = reader.integer(kind)?.unwrap_or(-1);
            Ok(())
        })
    }
}

/// A data page: its values and what stands before them.
struct Levels<'a> {
    count: u64,
    encoding: Encoding,
    /// Repetition levels; none where they are in the old packing, which takes a bit for each at least.
    repetition: Option<&'a [u8]>,
    /// The values themselves.
    values: &'a [u8],
}

/// Each page of a column with its parts.
fn each_page(group: &dyn RowGroupReader, index: usize, mut take: impl FnMut(Levels) -> Result<()>) -> Result<()> {
    let descriptor = group.metadata().column(index).column_descr_ptr();
    let (repeats, defines) = (descriptor.max_rep_level() > 0, descriptor.max_def_level() > 0);
    let mut pages = group.get_column_page_reader(index).map_err(|error| anyhow!("{error}"))?;
    while let Some(page) = pages.get_next_page().map_err(|error| anyhow!("{error}"))? {
        match &page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                let mut rest = &buf[..];
                let mut levels = |is_there: bool, encoding: Encoding, highest: i16| -> Result<Option<&[u8]>> {
                    if !is_there {
                        return Ok(Some(&[]));
                    }
                    let is_run = encoding == Encoding::RLE;
                    let (start, length): (usize, usize) = if is_run {
                        let prefix = rest.first_chunk::<4>().context("levels that end too early")?;
                        (4, u32::from_le_bytes(*prefix) as usize)
                    } else {
                        (0, (*num_values as usize * width(highest) as usize).div_ceil(8))
                    };
                    let end = start.checked_add(length).filter(|end| *end <= rest.len());
                    let (here, more) = rest.split_at(end.context("levels that end too early")?);
                    rest = more;
                    Ok(is_run.then_some(&here[start..]))
                };
                let repetition = levels(repeats, *rep_level_encoding, descriptor.max_rep_level())?;
                levels(defines, *def_level_encoding, descriptor.max_def_level())?;
                take(Levels { count: (*num_values).into(), encoding: *encoding, repetition, values: rest })?;
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let (of_repetition, of_definition) = (*rep_levels_byte_len as usize, *def_levels_byte_len as usize);
                ensure!(of_repetition + of_definition <= buf.len(), "levels that end too early");
                take(Levels {
                    count: (*num_values).into(),
                    encoding: *encoding,
                    repetition: Some(&buf[..of_repetition]),
                    values: &buf[of_repetition + of_definition..],
                })?;
            }
            Page::DictionaryPage { .. } => {}
        }
    }
    Ok(())
}

/// Bits of a level.
fn width(highest: i16) -> u32 {
    i16::BITS - highest.leading_zeros()
}

/// Values of the longest list of a column, all lists in it counted.
fn longest(group: &dyn RowGroupReader, index: usize, values: u64, limits: &Limits) -> Result<u64> {
    if values <= SHORT.min(limits.row_bytes() / 2) {
        return Ok(values);
    }
    let width = width(group.metadata().column(index).column_descr().max_rep_level());
    let (mut longest, mut open) = (0_u64, 0_u64);
    each_page(group, index, |page| {
        let Some(levels) = page.repetition else {
            open += page.count;
            longest = longest.max(open);
            return Ok(());
        };
        hybrid::runs(levels, width, page.count, |level, length| {
            open = if level == 0 { 1 } else { open + length };
            longest = longest.max(open);
        })
    })?;
    Ok(longest)
}

/// The longest of the texts that are stored by what they share with the one before them; of others zero.
fn longest_of_differences(group: &dyn RowGroupReader, index: usize) -> Result<u64> {
    let mut longest = 0_u64;
    each_page(group, index, |page| {
        let is_shared = page.encoding == Encoding::DELTA_BYTE_ARRAY;
        if !is_shared && page.encoding != Encoding::DELTA_LENGTH_BYTE_ARRAY {
            return Ok(());
        }
        let (first, end) = hybrid::deltas(page.values, page.count)?;
        if is_shared {
            let (rest, _) = hybrid::deltas(&page.values[end..], page.count)?;
            let lengths = first.iter().zip(&rest).map(|(shared, own)| shared.saturating_add(*own).max(0));
            longest = longest.max(lengths.max().unwrap_or_default().cast_unsigned());
        }
        Ok(())
    })?;
    Ok(longest)
}

/// The texts of one row's lists: a text that a dictionary holds once can stand there a million times.
fn check_texts(group: &dyn RowGroupReader, index: usize, longest: u64, limits: &Limits) -> Result<()> {
    use parquet::{column::reader::ColumnReader, data_type::ByteArray};
    let column = group.get_column_reader(index).map_err(|error| anyhow!("{error}"))?;
    let ColumnReader::ByteArrayColumnReader(mut column) = column else { return Ok(()) };
    let at_once = (limits.row_bytes() / VALUE / longest.max(1)).clamp(1, 1024) as usize;
    let (mut texts, mut defined, mut repeated) = (Vec::<ByteArray>::new(), Vec::new(), Vec::new());
    let highest = group.metadata().column(index).column_descr().max_def_level();
    loop {
        texts.clear();
        defined.clear();
        repeated.clear();
        let read = column.read_records(at_once, Some(&mut defined), Some(&mut repeated), &mut texts);
        if read.map_err(|error| anyhow!("{error}"))?.0 == 0 {
            return Ok(());
        }
        let (mut of_row, mut texts) = (0, texts.iter());
        for (level, repetition) in defined.iter().zip(&repeated) {
            if *repetition == 0 {
                of_row = 0;
            }
            if *level == highest {
                of_row += texts.next().map_or(0, |text| text.len() as u64);
            }
            limits.check_row(of_row)?;
        }
    }
}
