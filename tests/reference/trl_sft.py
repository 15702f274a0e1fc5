"""Writes tests/fixtures/training/trl_sft.json: twenty optimiser steps of TRL's SFTTrainer on the fixture model `llama`,
plain and packed, with the loss, gradient norm and learning rate of every step and a sample of the final weights.

TRL is given the rows in the order in which Mashbill's `sft` takes them with the node seed SEED: `order` below is that
rule anew (stages/src/random.rs, train/fit.rs), so a change of either shows as another trajectory.

    python tests/reference/trl_sft.py
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from blake3 import blake3
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer, pack_dataset

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SEED = 7
STEPS = 20
# Where they differ from TRL's: no warm-up is TRL's default, the rest is said so that both sides say the same.
SETTINGS = dict(learning_rate=3e-3, weight_decay=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8, max_norm=1.0)
# Elements of every tensor that are kept, evenly spaced.
SAMPLED = 48


def rows():
    """Sixteen sums whose texts all have different lengths, so that there is one best-fit order."""
    made, lengths, index = [], set(), 0
    while len(made) < 16:
        terms = [(7 * index + 3 * at * at) % 90 + 10 for at in range(2 + 5 * index % 13)]
        prompt = "+".join(map(str, terms)) + "="
        thought = f"<think>{terms[0]}+{terms[1]}={terms[0] + terms[1]}</think>" if index % 2 else ""
        row = {"prompt": prompt, "completion": f"{thought}<answer>{sum(terms)}</answer>"}
        length = len(row["prompt"] + row["completion"])
        if length not in lengths:
            made.append(row)
        lengths.add(length)
        index += 1
    return made


MASK = 2**64 - 1


def mix(word):
    word = (word + 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def bits(key):
    state = mix(len(key))
    for word in key:
        state = mix(state ^ mix(word))
    return state


def order(count):
    """Endlessly: a Fisher-Yates shuffle of all, anew every epoch."""
    seed = blake3(SEED.to_bytes(8, "little") + b"order", derive_key_context="mashbill 1 seed").digest()
    seed = int.from_bytes(seed[:8], "little")
    epoch = 0
    while True:
        key, items = bits([seed, epoch]), list(range(count))
        for drawn, last in enumerate(range(count - 1, 0, -1), start=1):
            other = bits([key, drawn]) * (last + 1) >> 64
            items[last], items[other] = items[other], items[last]
        yield from items
        epoch += 1


def sample(tensor):
    flat = tensor.detach().flatten()
    count = min(SAMPLED, len(flat))
    return [flat[at * (len(flat) - 1) // max(count - 1, 1)].item() for at in range(count)]


def train(dataset, batch, accumulation, decay, **own):
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / "llama", dtype=torch.float32)
    fast = PreTrainedTokenizerFast.from_pretrained(FIXTURES / "llama")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=SETTINGS["learning_rate"],
            weight_decay=SETTINGS["weight_decay"],
            adam_beta1=SETTINGS["beta1"],
            adam_beta2=SETTINGS["beta2"],
            adam_epsilon=SETTINGS["epsilon"],
            max_grad_norm=SETTINGS["max_norm"],
            lr_scheduler_type=decay,
            warmup_steps=0,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            **own,
        )
        trainer = SFTTrainer(model=model, args=settings, train_dataset=dataset, processing_class=fast)
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(steps) == STEPS
    weights = {}
    for name, weight in sorted(model.named_parameters()):
        moved = (weight - before[name]).abs().max().item()
        weights[name] = {"moved": moved, "values": sample(weight)}
    return {
        "decay": decay,
        "losses": [step["loss"] for step in steps],
        "gradient_norms": [float(step["grad_norm"]) for step in steps],
        "learning_rates": [step["learning_rate"] for step in steps],
        "weights": weights,
    }


def tokenised(fast, row):
    prompt = fast.encode(row["prompt"], add_special_tokens=False)
    completion = fast.encode(row["completion"], add_special_tokens=False) + [fast.eos_token_id]
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def main():
    all_rows = rows()
    fast = PreTrainedTokenizerFast.from_pretrained(FIXTURES / "llama")
    batch = 4
    taken = order(len(all_rows))
    ordered = Dataset.from_list([all_rows[next(taken)] for _ in range(STEPS * batch)])
    # Two forward passes a step: TRL divides by the tokens of both.
    plain = train(ordered, batch // 2, 2, "cosine", max_length=None)

    block, blocks_a_step = 96, 2
    encoded = [tokenised(fast, row) for row in all_rows]
    lengths = [len(one["input_ids"]) for one in encoded]
    assert len(set(lengths)) == len(lengths), "rows of one length have more than one best-fit order"
    packed = pack_dataset(Dataset.from_list(encoded), block, "bfd")
    taken = order(len(packed))
    ordered = Dataset.from_list([packed[next(taken)] for _ in range(STEPS * blocks_a_step)])
    # Already packed, so that TRL takes the blocks in this order.
    of_blocks = train(
        ordered,
        blocks_a_step,
        1,
        "linear",
        packing=True,
        max_length=block,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    result = {
        "made_by": "tests/reference/trl_sft.py",
        "rows": all_rows,
        "settings": SETTINGS,
        "steps": STEPS,
        "plain": {"batch": batch, **plain},
        "packed": {
            "batch": blocks_a_step,
            "block": block,
            "row_lengths": lengths,
            "blocks": packed["seq_lengths"][:],
            **of_blocks,
        },
    }
    path = FIXTURES / "training" / "trl_sft.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('"weights"', '\n"weights"').replace('"model.', '\n"model.') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
