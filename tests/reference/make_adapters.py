"""Writes tests/fixtures/lora: adapters that PEFT made beside the tiny models of make_fixtures.py, with what PEFT
computes of them: logits with the adapter and after merging, the loss and every gradient of a supervised batch, and
twenty steps of torch's AdamW. Run it again only when a fixture has to change; its output is committed.

    python tests/reference/make_adapters.py
"""

import json
import shutil
from pathlib import Path

import torch
from make_fixtures import BATCH, FIXTURES, logprobs, write
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
CASES = {
    # Tied; biases on query, key and value; norms on query and key.
    "all": ("llama", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP)),
    "rslora": ("llama", dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], use_rslora=True)),
    "attention": ("qwen2", dict(r=3, lora_alpha=5, target_modules=ATTENTION, lora_dropout=0.1)),
    "mlp": ("qwen3", dict(r=2, lora_alpha=3, target_modules=MLP, use_rslora=True)),
}
SEQUENCE = [5, 17, 40, 8, 8, 63, 2, 33, 21, 50, 11]
STEPS, LEARNING_RATE, WEIGHT_DECAY = 20, 1e-2, 0.01


def loss_of(model, rows):
    """The mean over all trained tokens of the batch."""
    losses = []
    for ids, prompt_tokens in rows:
        logits = model(torch.tensor([ids])).logits[0]
        losses.append(-logprobs(logits, torch.tensor(ids))[prompt_tokens - 1 :])
    return torch.cat(losses).mean()


def plain(name):
    return name.removeprefix("base_model.model.").replace(".default", "")


def made(family, settings, folder):
    base = AutoModelForCausalLM.from_pretrained(FIXTURES / family, dtype=torch.float32, attn_implementation="eager")
    fast = AutoTokenizer.from_pretrained(FIXTURES / family)
    rows = []
    for prompt, completion in BATCH:
        before = fast.encode(prompt, add_special_tokens=False)
        rows.append((before + fast.encode(completion, add_special_tokens=False) + [fast.eos_token_id], len(before)))
    torch.manual_seed(29)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    learned = {plain(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for weight in learned.values():
            # A zero `B` would hide the adapter.
            weight.copy_(0.2 * torch.randn_like(weight))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    # The path of the fixture on the machine that made it; the targets are a set, in any order.
    config["base_model_name_or_path"] = None
    config["target_modules"].sort()
    write(folder / "adapter_config.json", config)

    ids = torch.tensor([SEQUENCE])
    with torch.no_grad():
        with model.disable_adapter():
            off = model(ids).logits[0, -1].tolist()
        on = model(ids).logits[0, -1].tolist()
    loss = loss_of(model, rows)
    loss.backward()
    gradients = {name: weight.grad.double().norm().item() for name, weight in sorted(learned.items())}
    model.zero_grad()
    start = {name: weight.detach().clone() for name, weight in learned.items()}
    optimiser = torch.optim.AdamW(learned.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss_now = loss_of(model, rows)
        losses.append(loss_now.item())
        loss_now.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), 1.0)
        optimiser.step()
    after = {name: weight.double().norm().item() for name, weight in sorted(learned.items())}
    with torch.no_grad():
        for name, weight in learned.items():
            weight.copy_(start[name])
    merged = model.merge_and_unload()
    with torch.no_grad():
        logits = merged(ids).logits[0, -1].tolist()
    weights = {name: weight.double().norm().item() for name, weight in merged.named_parameters() if "proj.weight" in name}
    return {
        "made_by": "tests/reference/make_adapters.py",
        "family": family,
        "ids": SEQUENCE,
        "logits": on,
        "logits_without": off,
        "logits_merged": logits,
        "merged_norms": weights,
        "rows": [{"ids": ids, "prompt_tokens": prompt_tokens} for ids, prompt_tokens in rows],
        "loss": loss.item(),
        "gradient_norms": gradients,
        "adamw": {
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "losses": losses,
            "norms_after": after,
        },
    }


def main():
    for name, (family, settings) in CASES.items():
        folder = FIXTURES / "lora" / name
        reference = made(family, settings, folder)
        write(folder / "reference.json", reference)


if __name__ == "__main__":
    main()
