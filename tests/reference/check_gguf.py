"""Opens GGUF files with llama.cpp and holds them against transformers on the folder that they were written from.

    python tests/reference/check_gguf.py FOLDER FILE.gguf [FILE.gguf ...]

Tensors: read by `gguf`, they are the folder's, rounded as the type says. Tokens: awkward texts give the ids that
transformers gives. Text: both go on alike, greedily. Prints one line a file and fails at the first difference.
"""

import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "the king and the queen said that it's 12 + 345 = 357; they'll see",
    "def main():\n    return 1\n\n\n  print( main() )\n\t\ttabs",
    "naïve café, 日本語, 한국어, русский, 🚀👍🏽",
    " leading and trailing spaces  ",
    "numbers 3.14159 and 1,000,000 and 2024-01-01",
]
STEPS = 64


def tensors(folder, file):
    """The largest difference, in units of what rounding allows."""
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    reader = gguf.GGUFReader(file)
    field = lambda key: reader.fields[f"{architecture}.{key}"].contents()  # noqa: E731
    architecture = reader.fields["general.architecture"].contents()
    worst = 0.0
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        *layer, module, end = tensor.name.split(".")
        prefix = f"model.layers.{layer[1]}." if layer else ""
        ours = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        theirs = weights[f"{prefix}{names[module]}.{end}"].numpy()
        if architecture in ("llama", "smollm3") and module in ("attn_q", "attn_k"):
            heads = field("attention.head_count" if module == "attn_q" else "attention.head_count_kv")
            theirs = theirs.reshape(heads, 2, -1, theirs.shape[-1]).swapaxes(1, 2).reshape(theirs.shape)
        match tensor.tensor_type.name:
            case "F32":
                allowed = numpy.zeros_like(theirs)
            case "F16":
                allowed = numpy.abs(theirs) * 2.0**-11 + 2.0**-25
            case "Q8_0":
                blocks = numpy.abs(theirs.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
                # Half a step, and the scale itself is rounded to f16.
                allowed = numpy.broadcast_to(blocks * (0.5 + 127 * 2.0**-11), (blocks.shape[0], 32)).reshape(theirs.shape)
        difference = numpy.abs(ours - theirs)
        assert (difference <= allowed * 1.0001).all(), f"{tensor.name}: {difference.max()}"
        worst = max(worst, float((difference / numpy.maximum(allowed, 1e-30)).max()))
    return worst


def main():
    # Such small models are not worth a second one.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    folder = Path(sys.argv[1])
    # By the file alone: transformers builds the tokenizers of some families anew, from less than it says.
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for file in sys.argv[2:]:
        worst = tensors(folder, file)
        model = llama_cpp.Llama(file, n_ctx=256, logits_all=True, verbose=False, n_threads=1, flash_attn=False, type_k=0, type_v=0)
        same_tokens = 0
        for text in TEXTS:
            theirs = tokenizer.encode(text).ids
            ours = model.tokenize(text.encode(), add_bos=True, special=True)
            assert ours == theirs, f"{text!r}: llama.cpp {ours}, transformers {theirs}"
            same_tokens += 1
        same, total, logits = 0, 0, 0.0
        for text in TEXTS[:3]:
            ids = tokenizer.encode(text).ids
            given = torch.tensor([ids])
            with torch.no_grad():
                on = reference.generate(
                    given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS, eos_token_id=None
                )[0, len(ids) :].tolist()
                expected = reference(torch.tensor([ids + on])).logits[0, len(ids) - 1 : -1].numpy()
            # What transformers went on with is given, so that one near tie does not decide all that follows.
            model.reset()
            model.eval(ids + on[:-1])
            found = numpy.array(model.scores[len(ids) - 1 : len(ids) - 1 + len(on)])
            logits = max(logits, float(numpy.abs(found - expected).max()))
            same += int((found.argmax(axis=1) == numpy.array(on)).sum())
            total += len(on)
        kind = {0: "f32", 1: "f16", 7: "q8_0"}[gguf.GGUFReader(file).fields["general.file_type"].contents()]
        print(
            f"{Path(file).name} ({kind}): tensors within {worst:.3f} of what rounding allows, {same_tokens} texts in the same tokens, "
            f"greedy {same} of {total} tokens alike, logits within {logits:.2e}"
        )
        # Products of f16 are rounded otherwise here than there: two logits nearer than that may change places.
        assert kind == "q8_0" or same >= total - {"f32": 0, "f16": 2}[kind]


main()
