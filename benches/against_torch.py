"""The cases of benches/training.rs in PyTorch with transformers' Llama, and the ratio of the two medians.

Reads what benches/training.rs prints; benches/against_torch runs both. Both use every core, float32, and the same
sizes; all sequences of a case are equally long, so that padding costs PyTorch nothing.
"""

import statistics
import sys
import time

import torch
import transformers

CASES = {
    # name: layers, hidden, heads, ffn, vocabulary, sequences, tokens
    "tiny": (4, 128, 4, 512, 53, 48, 24),
    "small": (6, 256, 8, 1024, 512, 16, 256),
}


def model(layers, hidden, heads, ffn, vocabulary, tokens):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config)


def median(work, rounds):
    work()
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step(layers, hidden, heads, ffn, vocabulary, sequences, tokens):
    policy = model(layers, hidden, heads, ffn, vocabulary, tokens)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(vocabulary, (sequences, tokens + 1))

    def work():
        logits = policy(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocabulary), ids[:, 1:].reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()

    return median(work, 20)


def sample(layers, hidden, heads, ffn, vocabulary, sequences, tokens):
    policy = model(layers, hidden, heads, ffn, vocabulary, tokens).eval()
    ids = torch.randint(vocabulary, (32, tokens // 2)).repeat_interleave(8, 0)
    settings = transformers.GenerationConfig(do_sample=True, top_k=0, max_new_tokens=tokens // 2, pad_token_id=0)

    def work():
        with torch.inference_mode():
            made = policy.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert made.shape == (256, tokens // 2 * 2)

    return median(work, 5)


def main():
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads\n")
    print("| case | Mashbill | PyTorch | PyTorch / Mashbill |\n|---|--:|--:|--:|")
    for line in sys.stdin:
        kind, name, ours = line.split()
        theirs = {"step": step, "sample": sample}[kind](*CASES[name]) * 1e3
        print(f"| {kind}, {name} | {float(ours):.1f} ms | {theirs:.1f} ms | {theirs / float(ours):.2f} |", flush=True)


main()
