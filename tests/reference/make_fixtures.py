"""Writes tests/fixtures/FAMILY: tiny random models with what transformers computes of them. Run it again only when a
fixture has to change, and gradients.py behind it; its output is committed.

    python tests/reference/make_fixtures.py [NAME ...]

Without names all models are written. On another processor the last digits of a reference may differ.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
VOCABULARY = ["<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>"]
VOCABULARY += "\n !'()*+,-./0123456789:;<=>?abcdefghijklmnopqrstuvwxyz{|}~"
assert len(VOCABULARY) == 64

SHAPE = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
    attn_implementation="eager",
)
FAMILIES = {
    # One tied, one untied; Qwen3's heads are wider than hidden_size / heads.
    "llama": (LlamaConfig, dict(rope_theta=10000.0, tie_word_embeddings=True)),
    "qwen2": (Qwen2Config, dict(rope_theta=1000000.0, tie_word_embeddings=False)),
    "qwen3": (Qwen3Config, dict(rope_theta=1000000.0, tie_word_embeddings=True, head_dim=16)),
}
# As published models of each family are: what they scale, share, leave out, and how their files are cut. Their references
# reach positions far behind `original_max_position_embeddings`.
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    # Of the eight wavelengths, 6 to 19869 tokens, the first is left alone, the second blended, the others stretched.
    original_max_position_embeddings=32,
)
LIKE_PUBLISHED = {
    "llama3": (
        LlamaConfig,
        dict(num_attention_heads=2, num_key_value_heads=1, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False),
        dict(dtype=torch.bfloat16),
    ),
    "llama-linear": (
        LlamaConfig,
        dict(
            num_key_value_heads=4,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
            tie_word_embeddings=False,
            attention_bias=True,
            mlp_bias=True,
        ),
        dict(dtype=torch.float16, as_transformers_4=True),
    ),
    "mistral": (
        MistralConfig,
        dict(head_dim=16, sliding_window=128, rope_theta=10000.0, tie_word_embeddings=False),
        dict(dtype=torch.bfloat16),
    ),
    "qwen2.5": (
        Qwen2Config,
        dict(rope_theta=1000000.0, tie_word_embeddings=True),
        dict(
            dtype=torch.bfloat16,
            max_shard_size="20KB",
            generation=dict(
                eos_token_id=[1, 3], do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05
            ),
            chat_template="""{%- for turn in messages %}
{{- turn.role }}: {{ turn.content | trim }}{{ eos_token if turn.role == "assistant" else "" }}
{%- if not loop.last %}{{ "\\n" }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "\\nassistant: <think>" }}{% endif %}
""",
        ),
    ),
    "smollm2": (
        LlamaConfig,
        dict(
            hidden_size=24,
            num_attention_heads=3,
            num_key_value_heads=1,
            rope_theta=100000.0,
            tie_word_embeddings=True,
        ),
        dict(dtype=torch.float32),
    ),
    "smollm3": (
        SmolLM3Config,
        # The fourth layer has no positions, as by default.
        dict(num_hidden_layers=4, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, rope_theta=5000000.0),
        dict(dtype=torch.bfloat16),
    ),
}
LONG = dict(max_position_embeddings=256)
GPT2_SHAPE = dict(
    vocab_size=64,
    n_embd=32,
    n_inner=48,
    n_layer=2,
    n_head=4,
    n_positions=128,
    layer_norm_epsilon=1e-5,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
    attn_implementation="eager",
)
# What Mashbill calls GPT-2's parameters: query, key and value apart, the rest as in Llama.
GPT2_NAMES = {
    "transformer.wte": ["model.embed_tokens"],
    "transformer.wpe": ["model.embed_positions"],
    "transformer.ln_f": ["model.norm"],
    "ln_1": ["input_layernorm"],
    "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.c_proj": ["self_attn.o_proj"],
    "ln_2": ["post_attention_layernorm"],
    "mlp.c_fc": ["mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
}
# A batch of supervised examples: a prompt, of which nothing is learned, and a completion with its end.
BATCH = [
    ("12+7=", "<think>2+7=9</think><answer>19</answer>"),
    ("sort: cab", "<answer>abc</answer>"),
    ("5*8=", "<answer>40</answer>"),
]
# The same for models whose positions reach further: completions behind the 32nd token, and behind the 64th.
LONG_BATCH = [
    ("1+2+3+4+5+6+7+8+9+10+11+12+13+14+15+16+17+18+19+20=", "<think>20*21=420 420/2=210</think><answer>210</answer>"),
    ("sort these words: pear fig apple cherry", "<answer>apple cherry fig pear</answer>"),
    ("5*8=", "<answer>40</answer>"),
]
# Greedy decoding goes so far, and no two logits on its way are nearer than this: rounding cannot turn it.
GREEDY, MARGIN = 64, 1e-3
# Tokens that end a completion of any of these models.
ENDS = [1, 3]


def tokenizer():
    """As Mashbill's `characters`: one token a character."""
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token=""))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>")
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in VOCABULARY[2:6]])
    return fast


def untrained(config):
    torch.manual_seed(17)
    return AutoModelForCausalLM.from_config(config).float().eval()


def model(name):
    if name == "gpt2":
        config = GPT2Config(**GPT2_SHAPE)
    elif name in LIKE_PUBLISHED:
        config_class, own, _ = LIKE_PUBLISHED[name]
        config = config_class(**{**SHAPE, **LONG, **own})
    else:
        config_class, own = FAMILIES[name]
        config = config_class(**SHAPE, **own)
    made = untrained(config)
    with torch.no_grad():
        # Larger than an initialisation and nowhere zero or one, so that every weight shows in the logits.
        for parameter in made.parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter))
        for key, parameter in made.named_parameters():
            if "norm" in key or (".ln_" in key and key.endswith("weight")):
                parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
        if name in LIKE_PUBLISHED:
            # What is computed in f32 is computed of the numbers in the file. Parameters alone: `made.to(dtype)` would round
            # the frequencies of the rotary positions too, which no file holds.
            for parameter in made.parameters():
                parameter.copy_(parameter.to(LIKE_PUBLISHED[name][2]["dtype"]).float())
    return made


def logprobs(logits, ids):
    """Of every token but the first, given those before it."""
    return torch.log_softmax(logits[:-1].double(), -1).gather(-1, ids[1:, None]).squeeze(-1)


def gradients(made):
    """By the name that Mashbill has for each."""
    found = {}
    for key, parameter in made.named_parameters():
        name, kind = key.rsplit(".", 1)
        layer = ""
        if name.startswith("transformer.h."):
            _, _, number, name = name.split(".", 3)
            layer = f"model.layers.{number}."
        own = GPT2_NAMES[name] if made.config.model_type == "gpt2" else [name]
        for part, gradient in zip(own, parameter.grad.chunk(len(own), -1), strict=True):
            found[f"{layer}{part}.{kind}"] = gradient
    return found


def reference(made, fast, is_long):
    torch.manual_seed(3)
    sequences = [torch.randint(2, 64, (length,)) for length in ((1, 7, 40, 120) if is_long else (1, 7, 24))]
    scored = []
    for ids in sequences:
        with torch.no_grad():
            logits = made(ids[None]).logits[0]
        of_tokens = logprobs(logits, ids)
        scored.append(
            {
                "ids": ids.tolist(),
                "last_logits": logits[-1].tolist(),
                "logprobs": of_tokens.tolist(),
                "mean_nll": -of_tokens.mean().item() if len(of_tokens) else None,
            }
        )

    rows, losses = [], []
    made.zero_grad()
    for prompt, completion in LONG_BATCH if is_long else BATCH:
        before = fast.encode(prompt, add_special_tokens=False)
        after = fast.encode(completion, add_special_tokens=False) + [fast.eos_token_id]
        ids = torch.tensor(before + after)
        logits = made(ids[None]).logits[0]
        losses.append(-logprobs(logits, ids)[len(before) - 1 :])
        rows.append({"prompt": prompt, "completion": completion, "ids": ids.tolist(), "prompt_tokens": len(before)})
    # The mean over all trained tokens of the batch.
    loss = torch.cat(losses).mean()
    loss.backward()
    squares = {key: gradient.double().square().sum() for key, gradient in gradients(made).items()}
    sft = {
        "rows": rows,
        "trained_tokens": sum(len(part) for part in losses),
        "loss": loss.item(),
        "gradient_norm": torch.stack(list(squares.values())).sum().sqrt().item(),
        "gradient_norms": {key: value.sqrt().item() for key, value in sorted(squares.items())},
    }
    computed = {"made_by": "tests/reference/make_fixtures.py", "scored": scored, "sft": sft}
    if is_long:
        return {**computed, **long_greedy(made, fast)}
    with torch.no_grad():
        start = torch.tensor([fast.encode("12+7=", add_special_tokens=False)])
        greedy = made.generate(start, do_sample=False, max_new_tokens=16, pad_token_id=0)[0].tolist()
    return {**computed, "greedy": greedy}


def long_greedy(made, fast):
    """Of twenty random prompts the one whose continuation is richest, does not end, and is nowhere in doubt."""
    best = {}
    for seed in range(20):
        torch.manual_seed(seed)
        start = torch.randint(6, 64, (1, 40))
        prompt = fast.decode(start[0])
        assert fast.encode(prompt, add_special_tokens=False) == start[0].tolist()
        with torch.no_grad():
            greedy = made.generate(start, do_sample=False, max_new_tokens=GREEDY, eos_token_id=ENDS, pad_token_id=0)[0]
            first, second = made(greedy[None]).logits[0, 39:-1].topk(2).values.unbind(-1)
        is_whole = len(greedy) == 40 + GREEDY and greedy[-1] not in ENDS and (first - second).min() > MARGIN
        if is_whole and len(set(greedy.tolist()[40:])) > len(set(best.get("greedy", [])[40:])):
            best = {"prompt": prompt, "greedy": greedy.tolist()}
    return best


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def save(made, fast, folder, dtype, max_shard_size="5GB", generation=None, chat_template=None, as_transformers_4=False):
    for key, value in (generation or {}).items():
        setattr(made.generation_config, key, value)
    made.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    if as_transformers_4:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
        config["torch_dtype"] = config.pop("dtype")
        write(path, dict(sorted(config.items())))


def main(*names):
    # Such small models are not worth a second one.
    torch.set_num_threads(1)
    fast = tokenizer()
    for name in names or [*FAMILIES, "gpt2", *LIKE_PUBLISHED]:
        folder = FIXTURES / name
        made = model(name)
        computed = reference(made, fast, name in LIKE_PUBLISHED)
        save(made, fast, folder, **(LIKE_PUBLISHED[name][2] if name in LIKE_PUBLISHED else dict(dtype=torch.float32)))
        write(folder / "reference.json", computed)


if __name__ == "__main__":
    main(*sys.argv[1:])
