"""Writes tests/fixtures/sampling.json: the distributions that transformers draws from, for fixed logits and a grid of
settings. The processors and their order are those of its `generate`. Run it again only when the grid has to change.

    python tests/reference/make_sampling.py
"""

import itertools
import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

OUTPUT = Path(__file__).resolve().parent.parent / "fixtures" / "sampling.json"
VOCABULARY = 24
# What was said before: the repetition penalty counts a token once, however often it stands here.
BEFORE = [3, 7, 7, 11, 3, 20]


def rows():
    torch.manual_seed(3)
    yield "normal", torch.randn(VOCABULARY) * 2
    yield "steep", torch.randn(VOCABULARY) * 30
    yield "flat and below zero", torch.randn(VOCABULARY) * 0.01 - 5
    # As many equal logits as two or four: top-k cuts inside of both.
    ties = torch.randn(VOCABULARY)
    ties[[2, 9]] = 2.5
    ties[[1, 5, 14, 21]] = 2.0
    yield "ties", ties


def settings():
    shapes = [{}, dict(repetition_penalty=1.3), dict(logit_bias={3: -1.5, 9: 2.0}),
              dict(repetition_penalty=0.7, logit_bias={7: 4.0, 0: -100.0})]
    filters = [{}, dict(top_k=1), dict(top_k=4), dict(top_k=100), dict(top_p=0.3), dict(top_p=0.9), dict(min_p=0.05),
               dict(min_p=0.5), dict(top_k=4, top_p=0.8), dict(top_k=6, top_p=0.95, min_p=0.1), dict(top_p=0.6, min_p=0.2)]
    for shape, kept in itertools.product(shapes, filters):
        yield dict(temperature=0.7, **shape, **kept)
    for temperature in (0.0, 0.1, 1.0, 2.0):
        yield dict(temperature=temperature, repetition_penalty=1.2, top_p=0.9)


def distribution(model, logits, temperature, logit_bias=None, repetition_penalty=1.0, **filters):
    """The probabilities, and how many tokens of equal score the edge of top-p left out: with them, the rule is one that
    does not depend on the order of a sort."""
    shape = dict(
        temperature=temperature or 1.0,
        repetition_penalty=repetition_penalty,
        sequence_bias=logit_bias and [[[token], value] for token, value in logit_bias.items()],
    )

    def scores(filters):
        config = GenerationConfig(do_sample=temperature > 0, **shape, **(dict(top_k=0) | filters))
        processors = model._get_logits_processor(generation_config=config, input_ids_seq_length=len(BEFORE))
        return processors(torch.tensor([BEFORE]), logits[None].clone())[0]

    if temperature == 0:
        return torch.nn.functional.one_hot(scores({}).argmax(), VOCABULARY).double(), 0
    everything, kept = scores({}), scores(filters).isfinite()
    with_equals = everything >= everything[kept].min()
    probabilities = everything.double().where(with_equals, -torch.inf).softmax(0)
    return probabilities, (with_equals & ~kept).sum().item()


def main():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1, bos_token_id=None, eos_token_id=None))
    made = []
    for name, logits in rows():
        cases = []
        for sampling in settings():
            probabilities, equals_left_out = distribution(model, logits, **sampling)
            assert equals_left_out == 0 or (name == "ties" and "top_p" in sampling)
            cases.append(dict(sampling=sampling, probabilities=[round(p, 9) for p in probabilities.tolist()],
                              equals_left_out=equals_left_out))
        made.append(dict(name=name, logits=logits.tolist(), cases=cases))
    lines = ",\n".join(
        f'{{"name":{json.dumps(row["name"])},"logits":{json.dumps(row["logits"])},"cases":[\n'
        + ",\n".join(json.dumps(case, separators=(",", ":")) for case in row["cases"]) + "]}"
        for row in made
    )
    OUTPUT.write_text(f'{{"before":{json.dumps(BEFORE)},"rows":[\n{lines}\n]}}\n')


main()
