"""What the recipe of pipelines/pretrain_shakespeare.yaml gives in PyTorch, for the Llama it trains and for nanoGPT's GPT-2.

    target/reference/bin/python tests/reference/train_shakespeare.py ../shared/data/tinyshakespeare/input.txt.gz llama

nanoGPT's README promises 1.88 for its GPT-2. Prints the validation loss: the mean over all of the last tenth of the
text, in blocks of 64 characters that know nothing before them.
"""

import gzip
import math
import sys
import time

import torch
import transformers

BLOCK, BATCH, STEPS, WARMUP, PEAK = 64, 12, 2000, 100, 1e-3


def model(kind, vocabulary):
    shared = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        sizes = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": BLOCK}
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shared, **sizes, **none))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **shared, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=BLOCK, rms_norm_eps=1e-5, tie_word_embeddings=True,
    ))


def learning_rate(step):
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return PEAK * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def loss_of(policy, ids):
    logits = policy(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def main(path, kind):
    torch.manual_seed(1337)
    text = gzip.open(path, "rt").read()
    characters = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([characters[character] for character in text])
    training, held_out = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    policy = model(kind, len(characters))
    decayed = [weight for weight in policy.parameters() if weight.dim() > 1]
    others = [weight for weight in policy.parameters() if weight.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))
    started = time.perf_counter()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step)
        starts = torch.randint(len(training) - BLOCK, (BATCH,))
        loss = loss_of(policy, torch.stack([training[start : start + BLOCK + 1] for start in starts]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    seconds = time.perf_counter() - started
    blocks = (len(held_out) - 1) // BLOCK
    windows = torch.stack([held_out[i * BLOCK : (i + 1) * BLOCK + 1] for i in range(blocks)])
    with torch.inference_mode():
        validation = sum(loss_of(policy, part).item() * len(part) for part in windows.split(64)) / blocks
    size = sum(weight.numel() for weight in policy.parameters())
    print(f"{kind}: {size} parameters, validation loss {validation:.3f}, {seconds:.0f} s")


main(*sys.argv[1:])
