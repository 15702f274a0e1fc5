"""Writes tests/fixtures/FAMILY/gradients.safetensors for every family with a reference.json: elements of the gradient of
its supervised batch (`sft` in reference.json), by PyTorch in f64 of the weights in f32, evenly spaced in every tensor from
its first to its last.

    python tests/reference/gradients.py
"""

import json
from pathlib import Path

import torch
from make_fixtures import FIXTURES, gradients, logprobs
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

# Of a tensor's elements; all of a smaller one.
SAMPLED = 256


def sample(tensor):
    flat = tensor.detach().flatten()
    count = min(SAMPLED, len(flat))
    at = torch.arange(count) * (len(flat) - 1) // max(count - 1, 1)
    return flat[at].contiguous()


def main():
    for path in sorted(FIXTURES.glob("*/reference.json")):
        folder = path.parent
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        losses = []
        for row in json.loads(path.read_text())["sft"]["rows"]:
            ids = torch.tensor(row["ids"])
            losses.append(-logprobs(model(ids[None]).logits[0], ids)[row["prompt_tokens"] - 1 :])
        torch.cat(losses).mean().backward()
        # PyTorch keeps GPT-2's matrices as `[in, out]`; Mashbill's are `[out, in]`.
        is_turned = model.config.model_type == "gpt2"
        found = {}
        for name, gradient in gradients(model).items():
            turned = is_turned and gradient.dim() == 2 and ".embed_" not in name
            found[name] = sample((gradient.T if turned else gradient).float())
        save_file(found, folder / "gradients.safetensors", {"made_by": "tests/reference/gradients.py"})
        print(folder.name, sum(map(len, found.values())), "elements")


if __name__ == "__main__":
    main()
