#!/usr/bin/env python3
"""Runs a pipeline with several seeds and puts their report cards side by side, as the README shows them.

    benches/seeds.py pipelines/r1_tiny.yaml 1 2 3

What was run before is reused. Every cell holds one figure a seed: per cent of the held-out prompts.
"""

import json
import subprocess
import sys
from pathlib import Path

MASHBILL = ["cargo", "run", "--release", "--quiet", "--"]


def mashbill(*words):
    return subprocess.run([*MASHBILL, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def card(pipeline, seed):
    mashbill("run", pipeline, "--seed", seed)
    folder = mashbill("show", pipeline, "report", "--seed", seed).splitlines()[1]
    return json.loads((Path(folder) / "report.json").read_text())


def main(pipeline, seeds):
    cards = [card(pipeline, seed) for seed in seeds]
    policies = [policy["policy"] for policy in cards[0]["policies"]]
    columns = [(group, name) for group, found in cards[0]["policies"][0]["groups"].items() for name in found["scores"]]
    groups = list(cards[0]["policies"][0]["groups"])
    heads = [f"{group}, {name}" for group, name in columns] + [f"{group}, tokens" for group in groups]
    print("| policy | " + " | ".join(heads) + " |")
    print("|---|" + "--:|" * len(heads))
    for i, policy in enumerate(policies):
        cells = []
        for group, name in columns:
            scores = [card["policies"][i]["groups"][group]["scores"][name] for card in cards]
            cells.append(" · ".join(f"{100 * score['mean']:.1f}" for score in scores))
        for group in groups:
            cells.append(" · ".join(f"{card['policies'][i]['groups'][group]['length']:.0f}" for card in cards))
        print(f"| `{policy}` | " + " | ".join(cells) + " |")


main(sys.argv[1], sys.argv[2:])
