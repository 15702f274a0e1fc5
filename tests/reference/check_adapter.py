"""Loads a folder with a model and its adapter as PEFT users do, and compares log-probabilities with Mashbill's.

    python tests/reference/check_adapter.py FOLDER ROWS.jsonl

ROWS.jsonl is the result of a `logprobs` node. Three ways are tried: transformers alone, which finds the adapter beside
the model; PEFT's own loader beside a model without adapter; and PEFT's merging. TOLERANCE is the largest difference
allowed of any token: both sides compute in f32 and sum in different orders.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def compare(model, rows, way):
    model.eval()
    worst, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor(row["ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double()
        expected = torch.log_softmax(logits[:-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        for ours, theirs in zip(row["logprobs"], expected.tolist(), strict=True):
            if ours is not None:
                worst = max(worst, abs(ours - theirs))
                tokens += 1
    print(f"{way}: {tokens} tokens, largest difference {worst:.2e}, tolerance {TOLERANCE:.0e}")
    return tokens > 0 and worst <= TOLERANCE


def main(folder, rows_file):
    rows = [json.loads(line) for line in Path(rows_file).read_text(encoding="utf-8").splitlines()]
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not found.active_adapters():
        sys.exit(f"{folder}: transformers found no adapter")
    right = [compare(found, rows, "transformers")]
    with tempfile.TemporaryDirectory() as bare:
        for path in Path(folder).iterdir():
            if not path.name.startswith("adapter_"):
                shutil.copy(path, bare)
        base = AutoModelForCausalLM.from_pretrained(bare, dtype=torch.float32)
        if compare(base, rows, "without the adapter (must differ)"):
            sys.exit("the adapter changes nothing")
        model = PeftModel.from_pretrained(base, folder)
        right.append(compare(model, rows, "PEFT"))
        right.append(compare(model.merge_and_unload(), rows, "PEFT, merged"))
    if not all(right):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
