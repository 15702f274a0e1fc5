"""Loads an exported folder with transformers and compares log-probabilities with Mashbill's.

    python tests/reference/check_export.py FOLDER ROWS.jsonl

ROWS.jsonl is the result of a `logprobs` node: each row has `ids`, and `logprobs` with the log-probability of every
token but the first, given those before it, or null where it was not asked for. TOLERANCE is the largest difference allowed of any token: both sides
compute in f32 and sum in different orders.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4


def main(folder, rows_file):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.eval()
    wrong = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[kind]}
    if wrong:
        sys.exit(f"{folder}: transformers reports {wrong}")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    worst, tokens = 0.0, 0
    for number, line in enumerate(Path(rows_file).read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        ids = torch.tensor(row["ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double()
        expected = torch.log_softmax(logits[:-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        given = row["logprobs"]
        if len(given) != len(expected):
            sys.exit(f"row {number}: {len(given)} log-probabilities for {len(ids)} ids")
        for ours, theirs in zip(given, expected.tolist()):
            if ours is not None:
                worst = max(worst, abs(ours - theirs))
                tokens += 1
        if isinstance(row.get("text"), str):
            encoded = tokenizer.encode(row["text"])
            if encoded != row["ids"][: len(encoded)]:
                sys.exit(f"row {number}: transformers encodes its text as {encoded[:20]}, not {row['ids'][:20]}")
    print(f"{tokens} tokens, largest difference {worst:.2e}, tolerance {TOLERANCE:.0e}")
    if tokens == 0 or not worst <= TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
