"""The fingerprint that facts.rs tests against: the table of engine/src/encoding.rs once more, hashed by PyPI's blake3."""

import struct

from blake3 import blake3


def encode(value):
    match value:
        case None:
            return b"n"
        case bool():
            return b"T" if value else b"F"
        case int():
            return b"i" + value.to_bytes(16, "little", signed=True)
        case float():
            return b"f" + struct.pack("<d", value + 0.0)
        case str():
            return b"s" + struct.pack("<Q", len(value.encode())) + value.encode()
        case list():
            return b"l" + struct.pack("<Q", len(value)) + b"".join(map(encode, value))
        case dict():
            entries = sorted((key.encode(), key, item) for key, item in value.items())
            pairs = b"".join(encode(key) + encode(item) for _, key, item in entries)
            return b"m" + struct.pack("<Q", len(value)) + pairs


def digest(text):
    return blake3(text.encode()).hexdigest()


FACTS = {
    "engine": 1,
    "stage": "press",
    "version": 2,
    "with": {"rate": 1e-5, "steps": 150, "script": None, "shape": {"layers": 4}},
    "sources": {"script": [digest("script"), digest("import")]},
    "seed": 17,
    "inputs": {"paper": [{"name": None, "kind": "sheet", "content": digest("bytes")}]},
}

print(blake3(encode(FACTS), derive_key_context="mashbill 1 facts").hexdigest())
