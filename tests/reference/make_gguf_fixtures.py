"""Writes tests/fixtures/gguf: tiny random models with byte-level tokenizers, and what llama.cpp's own converter makes
of them. Run it again only when a fixture has to change; its output is committed.

    python tests/reference/make_gguf_fixtures.py LLAMA_CPP
    python tests/reference/make_gguf_fixtures.py --wide FOLDER

LLAMA_CPP is a checkout of llama.cpp, such as `vendor/llama.cpp` in the source archive of llama-cpp-python 0.3.36. With
`--wide`, the same models four times as wide are written to FOLDER, to be opened by llama.cpp: its products of q8_0 fail
for rows of 32 numbers, in the files of its own converter too.
"""

import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import blake3
import make_fixtures
import torch
from make_text_fixtures import LLAMA3, cut_by
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

FIXTURES = make_fixtures.FIXTURES / "gguf"
# Digits one by one.
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEXT = [
    "the king and the queen said that they would not go to the sea, and there they were in the end",
    "What is 12 + 345? It's 357, and that's all; we'll see. The other one is 1000 and then some.",
    "def main():\n    return 1\n\n\nprint(main())\n",
]
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
SHAPE = make_fixtures.SHAPE | dict(
    vocab_size=330,  # a few more than the tokenizer has, as published models do
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)
LLAMA3_POSITIONS = make_fixtures.LLAMA3_ROPE | dict(rope_theta=500000.0, original_max_position_embeddings=64)
# Name: the model, how text is cut, llama.cpp's name for that, whether whole words stay unmerged, whether bos is added.
FAMILIES = {
    "llama": (LlamaConfig, dict(tie_word_embeddings=True), LLAMA3, "llama-bpe", True, True),
    "llama3": (
        LlamaConfig,
        dict(tie_word_embeddings=True, rope_parameters=LLAMA3_POSITIONS),
        LLAMA3,
        "llama-bpe",
        True,
        True,
    ),
    "mistral": (
        MistralConfig,
        dict(tie_word_embeddings=False, sliding_window=None, head_dim=8),
        QWEN2,
        "qwen2",
        False,
        True,
    ),
    # Feed-forward rows that are no whole blocks of 32.
    "qwen2": (
        Qwen2Config,
        dict(tie_word_embeddings=True, rope_theta=1e6, intermediate_size=72),
        QWEN2,
        "qwen2",
        False,
        False,
    ),
    "qwen3": (
        Qwen3Config,
        dict(tie_word_embeddings=False, rope_theta=1e6, head_dim=16),
        QWEN2,
        "qwen2",
        False,
        False,
    ),
    # The fourth layer has no positions.
    "smollm3": (
        SmolLM3Config,
        dict(tie_word_embeddings=True, rope_theta=5e6, num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0]),
        LLAMA3,
        "llama-bpe",
        True,
        False,
    ),
}


def tokenizer(cut, ignore_merges, adds_bos):
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.normalizer = normalizers.NFC() if cut == QWEN2 else None
    made.pre_tokenizer = cut_by(cut)
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ["<|begin|>", "<|end|>", "<|endoftext|>", "<|turn|>"]]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if adds_bos:
        made.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def model(config_class, own):
    made = make_fixtures.untrained(config_class(**{**SHAPE, **own}))
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter))
            if "norm" in key:
                parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
    made.generation_config.eos_token_id = [1, 3]
    return made.to(torch.bfloat16)


def convert(llama_cpp, folder, kind, cut):
    """What the converter writes: metadata, and of each tensor its shape, type and the digest of its bytes."""
    import conversion.base
    import gguf

    # It knows tokenizers by a hash of some tokens, and none that was trained a moment ago.
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: cut
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model.gguf"
        sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", kind]
        try:
            runpy.run_path(str(llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")
        except SystemExit as end:
            assert not end.code, end
        reader = gguf.GGUFReader(out)
        metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        tensors = {
            tensor.name: {
                "shape": [int(n) for n in reversed(tensor.shape)],
                "type": tensor.tensor_type.name,
                "blake3": blake3.blake3(tensor.data.tobytes()).hexdigest(),
            }
            for tensor in reader.tensors
        }
    return {"metadata": metadata, "tensors": tensors}


def wide(folder):
    for name, (config_class, own, cut, _, ignore_merges, adds_bos) in FAMILIES.items():
        sizes = dict(hidden_size=128, intermediate_size=256) | ({"head_dim": 32} if "head_dim" in own else {})
        model(config_class, own | sizes).save_pretrained(folder / name)
        tokenizer(cut, ignore_merges, adds_bos).save_pretrained(folder / name)


def main():
    if sys.argv[1] == "--wide":
        return wide(Path(sys.argv[2]))
    llama_cpp = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(llama_cpp))
    for name, (config_class, own, cut, cut_name, ignore_merges, adds_bos) in FAMILIES.items():
        folder = FIXTURES / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model(config_class, own).save_pretrained(folder)
        tokenizer(cut, ignore_merges, adds_bos).save_pretrained(folder)
        expected = {kind: convert(llama_cpp, folder, kind, cut_name) for kind in ["f16", "q8_0"]}
        # Where the files agree, once.
        expected["q8_0"]["metadata"] = {
            key: value
            for key, value in expected["q8_0"]["metadata"].items()
            if expected["f16"]["metadata"].get(key) != value
        }
        (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


main()
