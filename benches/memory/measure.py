#!/usr/bin/env python3
"""What `mashbill plan` says that nodes will hold in memory beside what they held: prints the table of NOTES.md.

    benches/memory/measure.py                 # the small cases
    benches/memory/measure.py sft_lora        # some of them
    benches/memory/measure.py qwen            # the Qwen2.5-0.5B-shaped one: 10 GB of memory and of disk, some minutes
    benches/memory/measure.py qwen tuned      # some nodes of it

A node is run alone, in a process of its own, after all that it needs; held is the largest resident set of that process.
MASHBILL names the binary, WORK the folder that is worked in. `qwen` wants PyTorch and safetensors, for the weights, and the
tokenizer in ../shared/data/tokenizers/qwen2.5.
"""

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DATA = ROOT.parent / "shared/data"
MASHBILL = os.environ.get("MASHBILL", str(ROOT / "target/release/mashbill"))
WORK = pathlib.Path(os.environ.get("WORK", tempfile.gettempdir())) / "mashbill-memory"


def mashbill(*words):
    return subprocess.run([MASHBILL, *words, "--root", WORK], check=True, stdout=subprocess.PIPE, text=True).stdout


def run_alone(file, node):
    """The largest resident set in bytes, and the seconds, of a process that makes the node and nothing else."""
    began = time.monotonic()
    process = subprocess.Popen([MASHBILL, "run", file, "--select", node, "--quiet", "--root", WORK])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{file}: {node} failed")
    return usage.ru_maxrss * 1024, time.monotonic() - began


def parts(memory):
    return ", ".join(f"{name} {bytes / 1e6:,.0f}" for name, bytes in memory["parts"].items())


def measure(file, nodes):
    """Makes what the nodes need, then each of them alone, in this order."""
    print(f"\n{file.name}\n\n| node | foreseen, MB | held, MB | foreseen / held | seconds | of it, MB |\n|---|--:|--:|--:|--:|---|")
    mashbill("run", file, *[word for node in nodes for word in ("--until", node, "--exclude", node)], "--quiet")
    for node in nodes:
        plan = json.loads(mashbill("plan", file, "--json"))
        memory = next(each["memory"] for each in plan["nodes"] if each["node"] == node)
        held, seconds = run_alone(file, node)
        if memory:
            foreseen = memory["bytes"]
            row = [f"{foreseen / 1e6:,.0f}", f"{held / 1e6:,.0f}", f"{foreseen / held:.2f}", f"{seconds:.0f}", parts(memory)]
        else:
            row = ["", f"{held / 1e6:,.0f}", "", f"{seconds:.0f}", ""]
        print(f"| `{node}` | " + " | ".join(row) + " |", flush=True)


SMALL = [
    "sft_tiny", "sft_tiny_split", "grpo_tiny", "sample_tiny", "pretrain_small", "pretrain_large_vocabulary", "sft_lora",
    "sft_recompute", "sft_packed", "sft_muon", "grpo_lora", "sample_groups",
]  # fmt: skip


def small():
    file = WORK / "small.yaml"
    shutil.copy(HERE / "small.yaml", file)
    shutil.copytree(ROOT / "plugins", WORK / "plugins", dirs_exist_ok=True)
    shutil.copy(DATA / "tinyshakespeare/input.txt.gz", WORK)
    measure(file, sys.argv[1:] or SMALL)


def qwen():
    nodes = sys.argv[2:] or ["model_f32", "model_bf16", "tuned", "adapted", "adapted_recompute", "answers", "scores", "exported"]
    for dtype in ["float32", "bfloat16"]:
        # In a process of its own: a child's largest resident set begins with that of the process that started it.
        subprocess.run([sys.executable, __file__, "make", WORK / f"qwen-{dtype}", dtype], check=True)
    file = WORK / "qwen.yaml"
    shutil.copy(HERE / "qwen.yaml", file)
    shutil.copy(DATA / "gsm8k/train.jsonl.gz", WORK)
    measure(file, nodes)


def make_qwen(folder, dtype):
    """Qwen2.5-0.5B's config.json with random weights and its own tokenizer."""
    import torch
    from safetensors.torch import save_file

    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True,
        "vocab_size": 151936, "torch_dtype": dtype, "bos_token_id": 151643, "eos_token_id": 151643,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = DATA / "tokenizers/qwen2.5"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((tokenizer / "tokenizer.json.gz").read_bytes()))
    shutil.copy(tokenizer / "tokenizer_config.json", folder)
    torch.manual_seed(1)
    shapes = {"model.embed_tokens.weight": (151936, 896), "model.norm.weight": (896,)}
    for layer in range(24):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.{norm}.weight": (896,) for norm in ["input_layernorm", "post_attention_layernorm"]}
        for projection, size in {"q": 896, "k": 128, "v": 128}.items():
            shapes[f"{name}.self_attn.{projection}_proj.weight"] = (size, 896)
            shapes[f"{name}.self_attn.{projection}_proj.bias"] = (size,)
        shapes |= {f"{name}.self_attn.o_proj.weight": (896, 896), f"{name}.mlp.down_proj.weight": (896, 4864)}
        shapes |= {f"{name}.mlp.{projection}_proj.weight": (4864, 896) for projection in ["gate", "up"]}
    weights = {}
    for name, shape in shapes.items():
        weight = torch.ones(shape) if name.endswith("norm.weight") else 0.02 * torch.randn(shape)
        weights[name] = weight.to(getattr(torch, dtype))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


if sys.argv[1:2] == ["make"]:
    make_qwen(pathlib.Path(sys.argv[2]), sys.argv[3])
    sys.exit()
WORK.mkdir(parents=True, exist_ok=True)
shutil.rmtree(WORK / ".mashbill", ignore_errors=True)
print(f"{MASHBILL} in {WORK}")
qwen() if "qwen" in sys.argv[1:] else small()
