"""Writes tests/fixtures/tables: small tables by pandas and pyarrow, and beside each its rows as JSON by Python. Run it
again only when a fixture has to change; its output is committed.

    python tests/reference/make_tables.py
"""

import csv
import datetime
import decimal
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet

TABLES = Path(__file__).resolve().parent.parent / "fixtures" / "tables"


def expect(name, rows):
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    (TABLES / f"{name}.json").write_text(text)


def delimited(name, **options):
    rows = [
        {"prompt": "1, 2 and 3?", "answer": "6", "note": ""},
        {"prompt": 'a "word"\nof two lines', "answer": "007", "note": " kept "},
        {"prompt": "naïve 日本 🚀", "answer": "true", "note": "tab\there"},
    ]
    pandas.DataFrame(rows).to_csv(TABLES / name, index=False, **options)
    # Read again by another library, so that what is expected does not rest on what was meant.
    with open(TABLES / name, newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file, delimiter=options.get("sep", ",")))
    assert read == rows
    expect(name, read)


def parquet(name, columns, **options):
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, TABLES / name, **options)

    def plain(value):
        match value:
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list():
                return [plain(item) for item in value]
            case datetime.date() if not isinstance(value, datetime.datetime):
                return value.isoformat()
            case decimal.Decimal():
                return str(value)
            case _:
                return value

    expect(name, plain(pyarrow.parquet.read_table(TABLES / name).to_pylist()))


def main():
    TABLES.mkdir(exist_ok=True)
    delimited("quoted.csv")
    delimited("tabs.tsv", sep="\t")
    parquet(
        "flat.parquet",
        {
            "prompt": ["1+1=", "naïve 日本 🚀", None],
            "completion": pyarrow.array(["2", "", "x"], pyarrow.large_string()),
            "kind": pyarrow.array(["sum", "text", "sum"]).dictionary_encode(),
            "small": pyarrow.array([1, -2, None], pyarrow.int8()),
            "large": pyarrow.array([2**63 - 1, -(2**63), 0], pyarrow.int64()),
            "unsigned": pyarrow.array([2**64 - 1, 0, 1], pyarrow.uint64()),
            "single": pyarrow.array([0.5, -1.25, None], pyarrow.float32()),
            "double": [0.1, 1e300, -0.0],
            "flag": [True, False, None],
            "day": [datetime.date(2025, 1, 20), None, datetime.date(1969, 12, 31)],
            "price": pyarrow.array([decimal.Decimal("12.50"), decimal.Decimal("-0.07"), None], pyarrow.decimal128(6, 2)),
        },
        compression="snappy",
    )
    turns = lambda *texts: [  # noqa: E731
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, texts)
    ]
    parquet(
        "nested.parquet",
        {
            "messages": [turns("1+1?", "2"), turns("hi", "hello", "bye", "bye"), turns("日本?", "🚀")],
            "tags": [["a", "b"], [], None],
            "meta": [{"source": "x", "scores": [1, 2]}, {"source": None, "scores": []}, None],
            "grid": [[[1], [2, 3]], [[]], []],
        },
        compression="zstd",
    )
    # Several row groups and pages, gzip.
    parquet(
        "many.parquet",
        {"prompt": [f"{n}*{n}=" for n in range(300)], "answer": [n * n for n in range(300)]},
        compression="gzip",
        row_group_size=128,
        data_page_size=256,
    )


main()
