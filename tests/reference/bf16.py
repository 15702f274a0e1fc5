"""Writes tests/fixtures/bf16.json: how far transformers in bfloat16 is from itself in f32, by family. Of the last logits
of every scored text (root mean square), and of the gradient of the supervised batch (its norm, relative, over the
elements that gradients.py keeps).

    python tests/reference/bf16.py
"""

import json

import torch
from gradients import sample
from make_fixtures import FIXTURES, gradients, logprobs
from transformers import AutoModelForCausalLM


def computed(folder, reference, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = [model(torch.tensor([case["ids"]])).logits[0, -1].float() for case in reference["scored"]]
    losses = []
    for row in reference["sft"]["rows"]:
        ids = torch.tensor(row["ids"])
        losses.append(-logprobs(model(ids[None]).logits[0].float(), ids)[row["prompt_tokens"] - 1 :])
    torch.cat(losses).mean().backward()
    gradient = [sample(gradient.float()) for _, gradient in sorted(gradients(model).items())]
    return torch.cat(logits), torch.cat(gradient)


def main():
    found = {}
    for path in sorted(FIXTURES.glob("*/reference.json")):
        reference = json.loads(path.read_text())
        exact, rounded = (computed(path.parent, reference, dtype) for dtype in (torch.float32, torch.bfloat16))
        logits, gradient = (theirs - ours for ours, theirs in zip(exact, rounded))
        found[path.parent.name] = {
            "logits": logits.square().mean().sqrt().item(),
            "gradient": (gradient.norm() / exact[1].norm()).item(),
        }
        print(path.parent.name, found[path.parent.name])
    made = {"made_by": "tests/reference/bf16.py", "families": found}
    (FIXTURES / "bf16.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
