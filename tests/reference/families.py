"""Runs families.yaml with the given binary for every fixture, computes the same with transformers and torch, and prints
how far they are apart, a family a line, as Markdown.

    python tests/reference/families.py target/release/mashbill [NAME ...]

Import, scoring, greedy decoding, one step of supervised fine-tuning and export are Mashbill's, by the binary; weights,
prompts and everything compared with are transformers'. Ends with 1 where a difference is larger than LIMITS allow.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
PIPELINE = FOLDER / "families.yaml"
FAMILIES = {
    "llama": "Llama",
    "llama3": "Llama 3.1: `llama3` rope scaling, bf16",
    "llama-linear": "Llama: `linear` rope scaling, biases, f16",
    "mistral": "Mistral: window, wide heads, bf16",
    "qwen2": "Qwen2",
    "qwen2.5": "Qwen2.5: tied, bf16 shards",
    "qwen3": "Qwen3",
    "smollm2": "SmolLM2: 3 heads, 1 of keys",
    "smollm3": "SmolLM3: a layer without positions, bf16",
    "gpt2": "GPT-2",
}
# What the columns say, and the most that each may be. All is computed in f32 on both sides, in different orders.
LIMITS = {
    # Of the log-probability of any token at any place.
    "logits": 1e-4,
    # Of the mean over the trained tokens.
    "SFT loss": 1e-5,
    # The worst tensor: the norm of the difference to the norm of torch's gradient, or to a hundredth of the largest norm
    # of any tensor where that is more. (The gradient of GPT-2's key bias is zero but for rounding.)
    "gradients": 1e-4,
    # The norm of the difference of all moves to that of the moves. Weights whose gradient is less than a millionth of the
    # largest are left out: AdamW divides it by itself, and of a zero with rounding it makes a whole learning rate.
    "AdamW step": 1e-4,
    # Mashbill's export, opened by transformers, beside torch's own model after torch's own step.
    "export": 1e-4,
    # The export opened by transformers, beside Mashbill's scores of it.
    "re-read": 1e-4,
}
LEARNING_RATE = 1e-3


class Run:
    """The results of a pipeline that was run."""

    def __init__(self, binary, store, model, rows):
        self.words = ["--store", str(store)]
        self.binary = binary
        self.overrides = ["--root", str(ROOT), "--set", f"vars.model={model}", "--set", f"vars.rows={rows}"]
        self.say("run")

    def say(self, verb, *more):
        command = [self.binary, *self.words, verb, str(PIPELINE), *self.overrides, *more]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def folder(self, node):
        return Path(self.say("show", node).splitlines()[1])

    def rows(self, node):
        return lines(self.folder(node) / "rows.jsonl")

    def metrics(self, node):
        return lines(self.folder(node).parent / "metrics.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def opened(folder):
    """With a report of what transformers misses or does not know, which is nothing."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[kind]}
    if wrong:
        sys.exit(f"{folder}: transformers reports {wrong}")
    return model.eval()


def distributions(model, sequences):
    """Log-probabilities behind every token but the last: `[tokens, vocab]` a sequence."""
    with torch.no_grad():
        return [torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].double(), -1) for ids in sequences]


def told(rows):
    """The same from the rows of a `logprobs` node."""
    for row in rows:
        table = torch.full((len(row["top_logprobs"]), len(row["top_logprobs"][0])), torch.nan, dtype=torch.double)
        for place, pairs in zip(table, row["top_logprobs"]):
            for token, logprob in pairs:
                place[token] = logprob
        yield table


def farthest(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def loss_of(model, lessons):
    parts = []
    for lesson in lessons:
        ids = torch.tensor(lesson["ids"])
        taken = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        parts.append(-taken[lesson["prompt_tokens"] - 1 :])
    return torch.cat(parts).mean()


def adamw_step(model):
    """As `sft` does it: clipped by the global norm, matrices decayed, vectors not."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    groups = [
        {"params": [one for one in model.parameters() if one.ndim > 1], "weight_decay": 0.01},
        {"params": [one for one in model.parameters() if one.ndim == 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-8).step()


def gradient_error(before, after, model):
    """Of the worst tensor, from what the weights moved by."""
    found, expected = {}, {}
    for name, parameter in model.named_parameters():
        moved = before[name].double() - after[name].double()
        # moved = g / (|g| + 1)
        found[name] = moved / (1.0 - moved.abs())
        expected[name] = parameter.grad.double()
    largest = max(gradient.norm().item() for gradient in expected.values())
    return max(
        ((found[name] - gradient).norm() / max(gradient.norm().item(), largest / 100)).item()
        for name, gradient in expected.items()
    )


def step_error(before, ours, theirs):
    largest = max(weight.grad.abs().max().item() for weight in theirs.values())
    apart, moved = 0.0, 0.0
    for name, weight in theirs.items():
        is_counted = weight.grad.abs() > 1e-6 * largest
        apart += (ours[name] - weight.detach())[is_counted].double().square().sum().item()
        moved += (weight.detach() - before[name])[is_counted].double().square().sum().item()
    return (apart / moved) ** 0.5


def weights_in(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def compare(binary, name):
    fixture = ROOT / "tests" / "fixtures" / name
    reference = json.loads((fixture / "reference.json").read_text(encoding="utf-8"))
    sequences = [case["ids"] for case in reference["scored"] if len(case["ids"]) > 1]
    lessons = reference["sft"]["rows"]
    prompt = reference.get("prompt", "12+7=")
    model = opened(fixture)
    tokenizer = AutoTokenizer.from_pretrained(fixture)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        rows = {
            "scored": [{"ids": ids} for ids in sequences],
            "prompts": [{"prompt": prompt}],
            "lessons": [{key: lesson[key] for key in ("prompt", "completion")} for lesson in lessons],
        }
        for file, content in rows.items():
            text = "".join(json.dumps(row) + "\n" for row in content)
            (scratch / f"{file}.jsonl").write_text(text, encoding="utf-8")
        run = Run(binary, scratch / "store", fixture, scratch)

        found = {"logits": farthest(told(run.rows("scores")), distributions(model, sequences))}

        start = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
        with torch.no_grad():
            theirs = model.generate(start, do_sample=False, repetition_penalty=1.0, max_new_tokens=64)[0].tolist()
        ours = start[0].tolist() + run.rows("continued")[0]["completion_ids"]
        if ours != theirs:
            sys.exit(f"{name}: greedy decoding gives\n{ours}\nnot\n{theirs}")
        greedy = len(theirs) - start.shape[1]

        loss = loss_of(model, lessons)
        loss.backward()
        said = next(line["loss"] for line in run.metrics("tuned") if "loss" in line)
        found["SFT loss"] = abs(said - loss.item())
        before = weights_in(run.folder("base"))
        found["gradients"] = gradient_error(before, weights_in(run.folder("moved")), model)
        adamw_step(model)
        after = weights_in(run.folder("exported"))
        found["AdamW step"] = step_error(before, after, dict(model.named_parameters()))

        exported = opened(run.folder("exported"))
        found["export"] = farthest(distributions(exported, sequences), distributions(model, sequences))
        found["re-read"] = farthest(told(run.rows("exported_scores")), distributions(exported, sequences))
        check_shards(run, fixture)
        check_texts(run, tokenizer, prompt)
    return greedy, found


def check_shards(run, fixture):
    """The untrained model in bf16 shards: to the bit what the file of the fixture rounds to."""
    folder = run.folder("sharded")
    if not (folder / "model.safetensors.index.json").exists():
        sys.exit(f"{folder} is not in shards")
    theirs = opened(fixture).bfloat16().state_dict()
    for key, value in opened(folder).bfloat16().state_dict().items():
        if not torch.equal(value, theirs[key]):
            sys.exit(f"{folder}: `{key}` is not as in {fixture}")


def check_texts(run, tokenizer, prompt):
    """The tokenizer and what ends a text travel along."""
    for node in ("exported", "sharded"):
        again = AutoTokenizer.from_pretrained(run.folder(node))
        if again.encode(prompt) != tokenizer.encode(prompt) or again.eos_token_id != tokenizer.eos_token_id:
            sys.exit(f"{run.folder(node)}: another tokenizer")
        if tokenizer.chat_template:
            turns = [{"role": role, "content": f"{role} "} for role in ("user", "assistant", "user")]
            ours, theirs = (
                one.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for one in (again, tokenizer)
            )
            if ours != theirs:
                sys.exit(f"{run.folder(node)}: another chat template, which makes\n{ours}\nnot\n{theirs}")
        elif again.chat_template:
            sys.exit(f"{run.folder(node)}: a chat template from nowhere")
        before, after = (GenerationConfig.from_pretrained(place) for place in (run.folder("base"), run.folder(node)))
        if before.to_diff_dict() != after.to_diff_dict():
            sys.exit(f"{run.folder(node)}: another generation_config.json")


def main(binary, *names):
    # Such small models are not worth a second one.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    columns = ["family", "logits", "greedy", *list(LIMITS)[1:]]
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * (len(columns) - 1))
    is_right = True
    for name in names or FAMILIES:
        greedy, found = compare(str(Path(binary).resolve()), name)
        cells = {key: f"{value:.1e}" for key, value in found.items()}
        for key, limit in LIMITS.items():
            if not found[key] <= limit:
                is_right = False
                cells[key] = f"**{cells[key]}**"
        first = [FAMILIES[name], cells.pop("logits"), f"{greedy} equal"]
        print("| " + " | ".join([*first, *(cells[key] for key in columns[3:])]) + " |", flush=True)
    if not is_right:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
