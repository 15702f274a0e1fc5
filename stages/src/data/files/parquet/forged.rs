//! Parquet files put together by hand, so that they can say what no library would write.
//! Knows nothing of who reads them.

/// A value of Thrift's compact protocol.
#[derive(Debug, Clone)]
pub enum Thrift {
    I32(i64),
    I64(i64),
    Bytes(Vec<u8>),
    /// A text that says it has so many bytes, and has none.
    Claimed(u64),
    List(Vec<Thrift>),
    Record(Vec<(i16, Thrift)>),
}

use Thrift::{Bytes, Claimed, I32, I64, List, Record};

/// `Bytes` of a text.
pub fn text(text: &str) -> Thrift {
    Bytes(text.as_bytes().to_vec())
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of tests are small")
}

fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)).cast_unsigned())
}

impl Thrift {
    fn kind(&self) -> u8 {
        match self {
            I32(_) => 5,
            I64(_) => 6,
            Bytes(_) | Claimed(_) => 8,
            List(_) => 9,
            Record(_) => 12,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            I32(value) | I64(value) => zigzag(*value),
            Bytes(bytes) => [varint(bytes.len() as u64), bytes.clone()].concat(),
            Claimed(length) => varint(*length),
            List(items) => {
                let kind = items.first().map_or(12, Self::kind);
                let mut bytes = vec![0xf0 | kind];
                bytes.extend(varint(items.len() as u64));
                for item in items {
                    bytes.extend(item.encode());
                }
                bytes
            }
            Record(fields) => {
                let mut bytes = Vec::new();
                for (id, value) in fields {
                    bytes.push(value.kind());
                    bytes.extend(zigzag((*id).into()));
                    bytes.extend(value.encode());
                }
                bytes.push(0);
                bytes
            }
        }
    }
}

/// A column of a file of one row group.
#[derive(Debug, Clone)]
pub struct Column {
    /// Of the schema below its root, of which the last is the column itself.
    pub schema: Vec<Thrift>,
    pub path: Vec<&'static str>,
    /// 1: int32, 6: text.
    pub kind: i64,
    /// 0: none, 6: zstd.
    pub codec: i64,
    /// Headers with what follows each.
    pub pages: Vec<(Thrift, Vec<u8>)>,
    pub has_dictionary: bool,
}

/// A field of a schema: `repetition` is 0 required, 1 optional, 2 repeated; and whatever else is said of it.
pub fn field(name: &str, kind: Option<i64>, repetition: i64, more: &[(i16, Thrift)]) -> Thrift {
    let mut fields: Vec<(i16, Thrift)> = kind.map(|kind| (1, I32(kind))).into_iter().collect();
    fields.extend([(3, I32(repetition)), (4, text(name))]);
    fields.extend(more.iter().cloned());
    Record(fields)
}

/// A data page of the first version: sizes as they are said, the number of values and their encoding.
pub fn page(unpacked: usize, packed: usize, values: i64, encoding: i64) -> Thrift {
    let about = Record(vec![(1, I32(values)), (2, I32(encoding)), (3, I32(3)), (4, I32(3))]);
    Record(vec![(1, I32(0)), (2, I32(signed(unpacked))), (3, I32(signed(packed))), (5, about)])
}

/// A dictionary page.
pub fn dictionary(unpacked: usize, packed: usize, values: i64) -> Thrift {
    let about = Record(vec![(1, I32(values)), (2, I32(0))]);
    Record(vec![(1, I32(2)), (2, I32(signed(unpacked))), (3, I32(signed(packed))), (7, about)])
}

/// Levels of a page: `count` times the same one.
pub fn run(count: u64, level: u8) -> Vec<u8> {
    let run = [varint(count << 1), vec![level]].concat();
    [(run.len() as u32).to_le_bytes().to_vec(), run].concat()
}

/// A file of these columns, of so many rows.
pub fn file(columns: &[Column], rows: i64) -> Vec<u8> {
    let mut bytes = b"PAR1".to_vec();
    let (mut chunks, mut schema) = (Vec::new(), Vec::new());
    for column in columns {
        let start = signed(bytes.len());
        let mut first_of_data = start;
        for (index, (header, body)) in column.pages.iter().enumerate() {
            bytes.extend(header.encode());
            bytes.extend(body);
            if index == 0 && column.has_dictionary {
                first_of_data = signed(bytes.len());
            }
        }
        let size = I64(signed(bytes.len()) - start);
        let mut about = vec![
            (1, I32(column.kind)),
            (2, List(vec![I32(0), I32(3)])),
            (3, List(column.path.iter().map(|name| text(name)).collect())),
            (4, I32(column.codec)),
            (5, I64(rows)),
            (6, size.clone()),
            (7, size),
            (9, I64(first_of_data)),
        ];
        if column.has_dictionary {
            about.push((11, I64(start)));
        }
        chunks.push(Record(vec![(2, I64(start)), (3, Record(about))]));
        schema.extend(column.schema.iter().cloned());
    }
    let root = Record(vec![(4, text("schema")), (5, I32(signed(columns.len())))]);
    let group = Record(vec![(1, List(chunks)), (2, I64(signed(bytes.len()))), (3, I64(rows))]);
    finish(bytes, &[&[root][..], &schema].concat(), rows, &[group])
}

/// The description at the end of a file.
pub fn finish(mut bytes: Vec<u8>, schema: &[Thrift], rows: i64, groups: &[Thrift]) -> Vec<u8> {
    let footer =
        Record(vec![(1, I32(1)), (2, List(schema.to_vec())), (3, I64(rows)), (4, List(groups.to_vec()))]).encode();
    bytes.extend(&footer);
    bytes.extend((footer.len() as u32).to_le_bytes());
    bytes.extend(b"PAR1");
    bytes
}

/// A file of some 200 bytes that says it has `rows` rows, each of a null.
pub fn nulls(rows: i64) -> Vec<u8> {
    let body = run(rows.cast_unsigned(), 0);
    let column = Column {
        schema: vec![field("a", Some(1), 1, &[])],
        path: vec!["a"],
        kind: 1,
        codec: 0,
        pages: vec![(page(body.len(), body.len(), rows, 0), body)],
        has_dictionary: false,
    };
    file(&[column], rows)
}

/// A file whose one row is a list of `items` times the same text of `length` bytes, which is there once.
pub fn list(items: u64, length: usize) -> Vec<u8> {
    let word = [(length as u32).to_le_bytes().to_vec(), vec![b'x'; length]].concat();
    // The first item begins the row, the others go on with it.
    let repeated = [vec![2, 0], varint((items - 1) << 1), vec![1]].concat();
    let repeated = [(repeated.len() as u32).to_le_bytes().to_vec(), repeated].concat();
    // Entries of one bit, all of the first.
    let entries = [vec![1], varint(items << 1), vec![0]].concat();
    let body = [repeated, run(items, 1), entries].concat();
    let column = Column {
        schema: vec![field("a", Some(6), 2, &[(6, I32(0))])],
        path: vec!["a"],
        kind: 6,
        codec: 0,
        pages: vec![
            (dictionary(word.len(), word.len(), 1), word),
            (page(body.len(), body.len(), items.cast_signed(), 8), body),
        ],
        has_dictionary: true,
    };
    file(&[column], 1)
}
